/* test_tree_values.c - values of tree tensor networks compared with the plain sum over all indices: random trees, on
 * every kind of memory, by every way of contracting, before and after changes that must keep the value. */
#define _GNU_SOURCE
#include "trees.h"

/* The fewest multiply-adds of any order of contraction, by trying all. Each product removes an edge; `removed` has a bit for
 * each that is gone, and `known` what was found for such a set before (-1: nothing yet). */
static double fewest_terms(const plain_tree_t *tree, size_t removed, double *known) {
    if (known[removed] >= 0) return known[removed];
    double best = removed + 1 == (size_t)1 << (tree->nodes - 1) ? 0 : INFINITY;
    for (size_t edge = 1; edge < tree->nodes; edge++) {
        if (removed >> (edge - 1) & 1) continue;
        size_t after = removed | (size_t)1 << (edge - 1), top[MOST_NODES];
        double terms = 1;
        /* One for each element of the result, whose axes are free or bonds to others, and each term of the sums over bonds. */
        for (size_t v = 0; v < tree->nodes; v++) top[v] = v && after >> (v - 1) & 1 ? top[tree->node[v].parent] : v;
        for (size_t v = 0; v < tree->nodes; v++) {
            const plain_node_t *node = &tree->node[v];
            for (size_t i = 0; i < node->axes && top[v] == top[edge]; i++)
                if (!node->bonded[i]) terms *= (double)node->sizes[i];
            bool above = v && top[node->parent] == top[edge], below = top[v] == top[edge];
            for (size_t b = 0; b < node->bonds; b++)
                if (above != below || v == edge) terms *= (double)node->sizes[node->own[b]];
        }
        best = fmin(best, terms + fewest_terms(tree, after, known));
    }
    return known[removed] = best;
}

/* The random trees that are contracted, by seed, each with its value, which takes long to find and is found once. */
enum { TREES = 200 };
static const valued_tree_t *tree_of(uint64_t seed) {
    static valued_tree_t *made;
    static bool is_made[TREES];
    if (!made) made = table_new(TREES * sizeof *made);
    if (!is_made[seed]) make_valued_tree(&made[seed], seed);
    is_made[seed] = true;
    return &made[seed];
}

/* A program's own table: counts what is held, and looks behind the end of each block. */
static struct { size_t live, peak, overrun; } held;
static const char behind[8] = "untouch";

static void *own_allocate(size_t size, size_t alignment) {
    size_t *block = aligned_alloc(64, (64 + size + sizeof behind + 63) / 64 * 64);
    if (!block || alignment > 64) return NULL;
    *block = size;
    memcpy((char *)(block + 8) + size, behind, sizeof behind);
    held.live += size;
    if (held.live > held.peak) held.peak = held.live;
    return block + 8;
}
static void own_free(void *start) {
    size_t *block = (size_t *)start - 8;
    held.overrun += memcmp((char *)start + *block, behind, sizeof behind) != 0;
    held.live -= *block;
    free(block);
}
static unified_memory_interface_t own_table = {.allocate = own_allocate, .free = own_free};

/* Another: every tensor, however small, in tiers whose chunks are smaller than it. */
static unified_memory_interface_t *tiers;
static void *tiers_allocate(size_t size, size_t alignment) { return alignment > 64 ? NULL : tiers->allocate_streaming(size, 4 * KIB); }
static void tiers_free(void *block) { tiers->free(block); }
static unified_memory_interface_t tiers_table = {.allocate = tiers_allocate, .free = tiers_free};

typedef struct {
    const char *name;
    unified_memory_interface_t *memory;
    bool hierarchical;
    double error; /* at most, relative */
} way_t;

static tree_tensor_network_t *network_on(unified_memory_interface_t *memory) {
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 1e-7);
    if (ttn) ttn->memory = memory;
    return ttn;
}

/* Whether the whole tree has the value and sizes of this one. */
static bool has_value(tree_tensor_network_t *ttn, const valued_tree_t *wanted, double most, const char *what, uint64_t seed) {
    size_t got[MOST_LABELS], count = 0;
    ComplexFloat *result = NULL;
    bool done = contract_full_tree_network(ttn, &result, got, &count);
    bool right = EXPECT(done, "%s, seed %zu: %s", what, (size_t)seed, unimem_last_error_message()) &&
                 EXPECT(count == wanted->axes && memcmp(got, wanted->sizes, count * sizeof *got) == 0, "%s, seed %zu: other sizes", what, (size_t)seed);
    if (right) {
        double error = distance(result, wanted->value, volume_of(got, count));
        right = EXPECT(error <= most, "%s, seed %zu: error %g", what, (size_t)seed, error);
    }
    free(result);
    return right;
}

/* A contraction holds as many bytes at once, intermediates and result together, as unimem_contraction_cost() foretells. */
static void expect_foretold_peak(tree_tensor_network_t *ttn, uint64_t seed) {
    double flops = 0, peak = 0;
    tensor_network_metrics_t before, after;
    ComplexFloat *result = NULL;
    size_t count;
    bool done = unimem_contraction_cost(ttn, &flops, &peak) && reset_tree_tensor_network_metrics(ttn) &&
                get_tree_tensor_network_metrics(ttn, &before) && contract_full_tree_network(ttn, &result, NULL, &count) &&
                get_tree_tensor_network_metrics(ttn, &after);
    free(result);
    EXPECT(done && after.peak_memory_usage - before.peak_memory_usage == (size_t)peak, "seed %zu: %zu bytes more, foretold %zu",
           (size_t)seed, after.peak_memory_usage - before.peak_memory_usage, (size_t)peak);
}

static void every_way(const way_t *way) {
    char name[100];
    for (size_t threads = 1; threads <= 2; threads++) {
        unimem_set_threads(threads);
        snprintf(name, sizeof name, "random trees, %s, %zu thread%s", way->name, threads, threads > 1 ? "s" : "");
        TEST(name) {
            for (uint64_t seed = 0; seed < scaled(TREES); seed++) {
                const valued_tree_t *plain = tree_of(seed);
                tree_tensor_network_t *ttn = network_on(way->memory);
                tree_tensor_node_t *nodes[MOST_NODES];
                if (EXPECT(build_tree(&plain->tree, ttn, way->hierarchical, nodes), "seed %zu: %s", (size_t)seed, unimem_last_error_message())) {
                    has_value(ttn, plain, way->error, "contracted", seed);
                    if (!way->hierarchical) expect_foretold_peak(ttn, seed);
                    EXPECT(optimize_tree_structure(ttn), "seed %zu: not optimised", (size_t)seed);
                    has_value(ttn, plain, way->error, "optimised", seed);
                }
                destroy_tree_tensor_network(ttn);
            }
        }
    }
    unimem_set_threads(0);
    size_t left = way->memory == &own_table ? held.live : stats_of(way->memory == &tiers_table ? tiers : way->memory).total_allocated;
    CHECK_EQ("all bytes went back", left, 0);
}

/* Orders of contraction: of small trees the cheapest there is; of large ones, none that is dearer once they are optimised, and
 * some that are cheaper. */
static void orders(void) {
    double flops[2], peak, known[1 << (MOST_NODES - 1)];
    TEST("random trees are contracted in the cheapest order") {
        for (uint64_t seed = 0; seed < scaled(300); seed++) {
            plain_tree_t plain;
            make_plain_tree(&plain, &(random_t){seed});
            tree_tensor_network_t *ttn = network_on(&own_table);
            tree_tensor_node_t *nodes[MOST_NODES];
            for (size_t i = 0; i < sizeof known / sizeof *known; i++) known[i] = -1;
            double best = 8 * fewest_terms(&plain, 0, known);
            bool done = build_tree(&plain, ttn, false, nodes) && unimem_contraction_cost(ttn, &flops[0], &peak);
            EXPECT(done && fabs(flops[0] - best) <= 1e-9 * best, "seed %zu: %g operations, %g are enough", (size_t)seed, flops[0], best);
            destroy_tree_tensor_network(ttn);
            free_plain_tree(&plain);
        }
    }
    size_t cheaper = 0;
    TEST("optimising makes no tree dearer") {
        enum { TREES = 20, NODES = 150 };
        /* One in four becomes cheaper. Less work is no fewer trees than it takes to find one. */
        for (uint64_t seed = 0; seed < scaled(TREES) || (cheaper == 0 && seed < TREES); seed++) {
            random_t random = {seed};
            tree_tensor_network_t *ttn = network_on(&own_table);
            tree_tensor_node_t *nodes[NODES];
            size_t parents[NODES], sizes[NODES][NODES], axes[NODES] = {0}, taken[NODES] = {0};
            for (size_t v = 1; v < NODES; v++) {
                do parents[v] = v - 1 - random_below(&random, v < 8 ? v : 8);
                while (axes[parents[v]] > 3);
                sizes[v][axes[v]++] = sizes[parents[v]][axes[parents[v]]++] = 2 + random_below(&random, 6);
            }
            for (size_t v = 0; v < NODES; v++) {
                if (random_below(&random, 16) == 0) sizes[v][axes[v]++] = 2;
                nodes[v] = add_tree_tensor_node(ttn, NULL, sizes[v], axes[v], false);
                taken[v] = v > 0;
                if (v) EXPECT(unimem_connect_axes(ttn, nodes[parents[v]], taken[parents[v]]++, nodes[v], 0), "seed %zu, node %zu: not joined", (size_t)seed, v);
            }
            /* The plan stays where a node is added that no edge joins to the tree. */
            bool done = unimem_contraction_cost(ttn, &flops[0], &peak) && optimize_tree_structure(ttn) &&
                        contract_tree_tensor_nodes(ttn, nodes[0], nodes[1], &(tree_tensor_node_t *){NULL}) && unimem_contraction_cost(ttn, &flops[1], &peak);
            EXPECT(done && flops[1] <= flops[0] * (1 + 1e-9), "seed %zu: %g operations, %g before", (size_t)seed, flops[1], flops[0]);
            expect_foretold_peak(ttn, seed);
            cheaper += flops[1] < flops[0] * (1 - 1e-9);
            destroy_tree_tensor_network(ttn);
        }
    }
    CHECK("and some cheaper", cheaper > 0);
    TEST("a vector goes through a chain of matrices, whichever end of it is the root, and whatever else hangs there") {
        enum { CHAIN = 3000, SIZE = 8, SCALARS = 5 };
        for (size_t last = 0; last < 2; last++) {
            tree_tensor_network_t *ttn = network_on(&own_table);
            tree_tensor_node_t *above = NULL;
            for (size_t v = 0; v < CHAIN; v++) {
                bool vector = v == (last ? CHAIN - 1 : 0);
                tree_tensor_node_t *node = add_tree_tensor_node(ttn, NULL, (size_t[]){SIZE, SIZE}, vector ? 1 : 2, false);
                if (above) unimem_connect_axes(ttn, above, above->num_dimensions - 1, node, 0);
                above = node;
            }
            for (size_t i = 0; i < SCALARS; i++) connect_tree_tensor_nodes(ttn, ttn->root, add_tree_tensor_node(ttn, NULL, NULL, 0, false));
            EXPECT(unimem_contraction_cost(ttn, &flops[0], &peak) && flops[0] == 8.0 * SIZE * (SIZE * (CHAIN - 1) + SCALARS), "%zu: %g operations", last, flops[0]);
            destroy_tree_tensor_network(ttn);
        }
    }
}

/* Two nodes contracted as a pair give the value of the tree that has these two alone. */
static void pairs(void) {
    TEST("a leaf into its parent is what a tree of these two is") {
        for (uint64_t seed = 0; seed < scaled(300); seed++) {
            random_t random = {seed};
            plain_tree_t tree;
            make_plain_tree(&tree, &random);
            /* The first two nodes as a tree of their own. */
            for (size_t v = 2; v < tree.nodes; v++) free(tree.node[v].elements);
            tree.nodes = tree.nodes > 2 ? 2 : tree.nodes;
            if (tree.nodes == 2) {
                for (size_t v = 0; v < 2; v++) memset(tree.node[v].bonded, 0, sizeof tree.node[v].bonded);
                for (size_t b = 0; b < tree.node[1].bonds; b++)
                    tree.node[0].bonded[tree.node[1].parents[b]] = tree.node[1].bonded[tree.node[1].own[b]] = true;
                size_t sizes[MOST_LABELS], axes;
                double *value = value_of(&tree, sizes, &axes);
                tree_tensor_network_t *ttn = network_on(&own_table), *third = network_on(&tiers_table);
                tree_tensor_node_t *nodes[MOST_NODES], *result = NULL;
                EXPECT(build_tree(&tree, ttn, false, nodes), "seed %zu: not built", (size_t)seed);
                /* Where no bond joins them, the rule is tried on the pair, and finds none either. */
                EXPECT(contract_tree_tensor_nodes(third, nodes[0], nodes[1], &result), "seed %zu: %s", (size_t)seed, unimem_last_error_message());
                if (result) {
                    EXPECT(result->num_dimensions == axes && memcmp(result->dimensions, sizes, axes * sizeof *sizes) == 0, "seed %zu: other sizes", (size_t)seed);
                    EXPECT(distance(result->data, value, volume_of(sizes, axes)) <= 1e-5, "seed %zu: error %g", (size_t)seed, distance(result->data, value, volume_of(sizes, axes)));
                }
                destroy_tree_tensor_network(ttn);
                destroy_tree_tensor_network(third);
                free(value);
            }
            free_plain_tree(&tree);
        }
    }
    CHECK("all bytes went back", held.live == 0 && stats_of(tiers).total_allocated == 0);
}

/* Conversion to a general network and back keeps the value; adapting changes it by no more than the target. */
static void what_keeps_the_value(void) {
    size_t before = stats_of(unimem_global()).total_allocated, dropped = 0;
    const double targets[] = {0, 0.01, 0.1, 0.5};
    TEST("conversion there and back, then adapting within a target") {
        for (uint64_t seed = 0; seed < scaled(TREES); seed++) {
            const valued_tree_t *plain = tree_of(seed);
            const plain_tree_t *tree = &plain->tree;
            double target = targets[seed % 4];
            tree_tensor_network_t *ttn = network_on(&own_table), *again = NULL;
            tree_tensor_node_t *nodes[MOST_NODES];
            tensor_network_t *general = NULL;
            EXPECT(build_tree(tree, ttn, false, nodes), "seed %zu: not built", (size_t)seed);
            /* A child that is joined by no bond is none of the root's in a general network. */
            bool bonded = true;
            for (size_t v = 1; v < tree->nodes; v++) bonded &= tree->node[v].bonds > 0;
            if (bonded && EXPECT(convert_tree_to_tensor_network(ttn, &general) && convert_tensor_network_to_tree(general, &again), "seed %zu: %s", (size_t)seed, unimem_last_error_message()))
                has_value(again, plain, 1e-5, "converted", seed);
            destroy_tree_tensor_network(again);
            if (general) free_network(general);
            EXPECT(adapt_bond_dimensions(ttn, target), "seed %zu: %s", (size_t)seed, unimem_last_error_message());
            has_value(ttn, plain, target + 1e-5, "adapted", seed);
            for (size_t v = 1; v < tree->nodes; v++)
                for (size_t b = 0; b < tree->node[v].bonds && b < 1; b++)
                    dropped += nodes[v]->dimensions[tree->node[v].own[b]] < tree->node[v].sizes[tree->node[v].own[b]];
            destroy_tree_tensor_network(ttn);
        }
    }
    CHECK("bonds did become smaller", dropped > 0);
    CHECK("all bytes went back", held.live == 0 && stats_of(unimem_global()).total_allocated == before);
}

/* All functions work on 10,000 nodes, children of one node or in a chain, on a thread with a small stack. */
enum { MANY = 10000 };
static void *everything(void *wide) {
    const ComplexFloat turn[4] = {{0, 0}, {1, 0}, {1, 0}, {0, 0}}, one[2] = {{1, 0}, {1, 0}};
    tree_tensor_network_t *ttn = network_on(&own_table), *again = NULL;
    tree_tensor_node_t *root = add_tree_tensor_node(ttn, turn, (size_t[]){2, 2}, 2, false), *above = root;
    bool joined = true;
    for (size_t i = 1; i < MANY; i++) {
        tree_tensor_node_t *node = wide ? add_tree_tensor_node(ttn, one, NULL, 0, false) : add_tree_tensor_node(ttn, turn, (size_t[]){2, 2}, 2, false);
        joined &= connect_tree_tensor_nodes(ttn, above, node);
        if (!wide) above = node;
    }
    CHECK("joined", joined && ttn->num_nodes == MANY && root->num_children == (wide ? MANY - 1 : 1));
    for (size_t i = 0; i < root->num_children; i++) joined &= root->children[i]->id == i + 1 && root->children[i]->parent == root;
    CHECK("each child is where it was joined", joined);
    tensor_network_t *general = NULL;
    ComplexFloat *result = NULL;
    size_t sizes[16], count = 0;
    CHECK("optimised", optimize_tree_structure(ttn));
    if (!wide) {
        CHECK("converted there and back", convert_tree_to_tensor_network(ttn, &general) && convert_tensor_network_to_tree(general, &again) && again->num_nodes == MANY);
        CHECK("contracted", contract_full_tree_network(again, &result, sizes, &count) && count == 2 && result[0].real == 1 && result[1].real == 0);
        free(result);
        CHECK("adapted", adapt_bond_dimensions(ttn, 1e-3) && contract_full_tree_network(ttn, &result, sizes, &count) && fabsf(result[0].real - 1) < 1e-2f);
        free(result);
        destroy_tree_tensor_network(again);
        if (general) free_network(general);
    } else {
        size_t *asked = malloc((MANY + 2) * sizeof *asked);
        CHECK("contracted, with an axis for every scalar", contract_full_tree_network(ttn, &result, asked, &count) && count == MANY + 1 && asked[0] == 2 && result[1].real == 1);
        free(asked);
        free(result);
        CHECK("adapted", adapt_bond_dimensions(ttn, 1e-3));
    }
    destroy_tree_tensor_network(ttn);
    return NULL;
}
static void many(void) {
    for (size_t wide = 0; wide < 2; wide++) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 256 * KIB);
        CHECK(wide ? "10,000 nodes wide" : "10,000 nodes deep", pthread_create(&thread, &attributes, everything, wide ? &own_table : NULL) == 0 && pthread_join(thread, NULL) == 0);
        pthread_attr_destroy(&attributes);
    }
    CHECK_EQ("all bytes went back", held.live, 0);
}

/* Tensors of 33 MB, whose bonds are several axes in another order on each side: their value is the same without a limit and in
 * 8 MiB. */
static tree_tensor_network_t *large(unified_memory_interface_t *memory, bool hierarchical, tree_tensor_node_t **nodes) {
    const size_t shapes[3][4] = {{96, 64, 40, 1}, {40, 50, 64, 30}, {30, 70, 50, 1}};
    const size_t axes[3] = {3, 4, 3};
    random_t random = {5};
    tree_tensor_network_t *ttn = network_on(memory);
    for (size_t v = 0; v < 3; v++) {
        ComplexFloat *elements = random_elements(&random, volume_of(shapes[v], axes[v]));
        nodes[v] = add_tree_tensor_node(ttn, elements, shapes[v], axes[v], hierarchical);
        free(elements);
        if (!nodes[v]) return ttn;
    }
    bool joined = unimem_connect_axes(ttn, nodes[0], 1, nodes[1], 2) && unimem_connect_axes(ttn, nodes[0], 2, nodes[1], 0) &&
                  unimem_connect_axes(ttn, nodes[1], 1, nodes[2], 2) && unimem_connect_axes(ttn, nodes[1], 3, nodes[2], 0);
    CHECK("joined", joined);
    return ttn;
}
static void larger_than_the_budget(unified_memory_interface_t *plain) {
    enum { ROWS = 96, COLUMNS = 70, SAMPLES = 6 };
    unified_memory_interface_t *small = unimem_open(&(unified_pool_config_t){.max_size = 8 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = 64 * KIB});
    const struct { const char *name; unified_memory_interface_t *memory; bool hierarchical; size_t threads; double error; } runs[] = {
        {"in RAM, one thread", plain, false, 1, 1e-5}, {"in RAM, two threads", plain, false, 2, 1e-5},
        {"in 8 MiB, one thread", small, false, 1, 1e-5}, {"in 8 MiB, two threads", small, false, 2, 1e-5},
        {"hierarchical in RAM", plain, true, 2, 1e-5}, {"hierarchical in 8 MiB", small, true, 2, 1e-5},
    };
    double expected[2 * SAMPLES];
    memset(expected, 0, sizeof expected);
    for (size_t r = 0; r < sizeof runs / sizeof *runs; r++) {
        unimem_set_threads(runs[r].threads);
        tree_tensor_node_t *nodes[3];
        tree_tensor_network_t *ttn = large(runs[r].memory, runs[r].hierarchical, nodes);
        if (r == 0)
            for (size_t s = 0; s < SAMPLES; s++) {
                size_t i = s * 37 % ROWS, j = s * 29 % COLUMNS;
                for (size_t b = 0; b < 64; b++)
                    for (size_t c = 0; c < 40; c++)
                        for (size_t d = 0; d < 50; d++)
                            for (size_t e = 0; e < 30; e++) {
                                ComplexFloat x = nodes[0]->data[(i * 64 + b) * 40 + c], y = nodes[1]->data[((c * 50 + d) * 64 + b) * 30 + e], z = nodes[2]->data[(e * 70 + j) * 50 + d];
                                double real = (double)x.real * y.real - (double)x.imag * y.imag, imag = (double)x.real * y.imag + (double)x.imag * y.real;
                                expected[2 * s] += real * z.real - imag * z.imag, expected[2 * s + 1] += real * z.imag + imag * z.real;
                            }
            }
        ComplexFloat *result = NULL, sample[SAMPLES];
        size_t sizes[16], count = 0;
        bool done = contract_full_tree_network(ttn, &result, sizes, &count) && count == 2 && sizes[0] == ROWS && sizes[1] == COLUMNS;
        for (size_t s = 0; done && s < SAMPLES; s++) sample[s] = result[s * 37 % ROWS * COLUMNS + s * 29 % COLUMNS];
        CHECK(runs[r].name, done && distance(sample, expected, SAMPLES) <= runs[r].error);
        if (runs[r].memory == small) CHECK("within the limit", unimem_held_bytes(small) <= 8 * MIB);
        free(result);
        destroy_tree_tensor_network(ttn);
        CHECK_EQ("all bytes went back", stats_of(runs[r].memory).total_allocated, 0);
    }
    unimem_set_threads(0);
    CHECK("closed", unimem_close(small));
}

/* Products of matrices of 14 MB in 8 MiB, over each pair of their axes. Where every chunk holds some of each row or column
 * that is wanted, both matrices are copied into blocks first. In the last round the network has another memory, with room
 * for all, while the matrices are still where they were. */
static void every_layout_beyond_the_budget(unified_memory_interface_t *plain) {
    enum { SIDE = 1311, SAMPLES = 40 };
    unified_memory_interface_t *small = unimem_open(&(unified_pool_config_t){.max_size = 8 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = 64 * KIB});
    random_t random = {11};
    size_t sizes[2] = {SIDE, SIDE}, count = SIDE * SIDE;
    ComplexFloat *a = random_elements(&random, count), *b = random_elements(&random, count);
    for (size_t layout = 0; layout < 5; layout++) {
        size_t of_a = layout / 2 % 2, of_b = layout % 2;
        tree_tensor_network_t *ttn = network_on(small);
        tree_tensor_node_t *left = add_tree_tensor_node(ttn, a, sizes, 2, false), *right = add_tree_tensor_node(ttn, b, sizes, 2, false), *result = NULL;
        CHECK("joined", left && right && unimem_connect_axes(ttn, left, of_a, right, of_b));
        if (layout == 4) ttn->memory = plain;
        if (CHECK("contracted", contract_tree_tensor_nodes(ttn, left, right, &result))) {
            ComplexFloat sample[SAMPLES];
            double expected[2 * SAMPLES];
            memset(expected, 0, sizeof expected);
            for (size_t s = 0; s < SAMPLES; s++) {
                size_t i = s * 397 % SIDE, j = s * 733 % SIDE;
                for (size_t k = 0; k < SIDE; k++) {
                    ComplexFloat x = a[of_a ? i * SIDE + k : k * SIDE + i], y = b[of_b ? j * SIDE + k : k * SIDE + j];
                    expected[2 * s] += (double)x.real * y.real - (double)x.imag * y.imag;
                    expected[2 * s + 1] += (double)x.real * y.imag + (double)x.imag * y.real;
                }
                sample[s] = result->data[i * SIDE + j];
            }
            CHECK("values", distance(sample, expected, SAMPLES) <= 1e-5);
            CHECK("within the limit", unimem_held_bytes(small) <= 8 * MIB);
            CHECK("copies are freed", stats_of(small).total_allocated < 3 * count * sizeof *a + MIB);
        }
        destroy_tree_tensor_network(ttn);
        CHECK_EQ("all bytes went back", stats_of(small).total_allocated, 0);
    }
    free(a);
    free(b);
    CHECK("closed", unimem_close(small));
}

/* A tensor of more than an eighth of the limit goes to memory that can leave RAM, though there would be room for it. */
static void large_for_the_limit(void) {
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = 16 * MIB, .enable_growth = true, .enable_streaming = true});
    tree_tensor_network_t *ttn = network_on(memory);
    tree_tensor_node_t *small = add_tree_tensor_node(ttn, NULL, (size_t[]){MIB / sizeof(ComplexFloat)}, 1, false),
                       *large = add_tree_tensor_node(ttn, NULL, (size_t[]){3 * MIB / sizeof(ComplexFloat)}, 1, false);
    CHECK("large tensors are in chunks, small ones are not", small && large && unimem_chunk_count(small->data) == 0 && unimem_chunk_count(large->data) > 0);
    destroy_tree_tensor_network(ttn);
    CHECK("closed", unimem_close(memory));
}

/* Under a limit an order is taken that keeps it, though it is slower: of this tree the fastest order makes a tensor of
 * 1000 x 600, and a slower one none larger than 10 x 600 x 10. Where that keeps the limit neither, it is not worth its time.
 * The network already has a plan when it gets the limit. */
static void order_under_a_limit(unified_memory_interface_t *plain) {
    unified_memory_interface_t *limited[2];
    for (size_t i = 0; i < 2; i++)
        limited[i] = unimem_open(&(unified_pool_config_t){.max_size = i ? 256 * KIB : 4 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = 64 * KIB});
    double flops[3], peak[3];
    tree_tensor_network_t *ttn = network_on(plain);
    tree_tensor_node_t *a = add_tree_tensor_node(ttn, NULL, (size_t[]){10}, 1, false), *b = add_tree_tensor_node(ttn, NULL, (size_t[]){10, 1000, 600}, 3, false),
                       *c = add_tree_tensor_node(ttn, NULL, (size_t[]){1000, 10}, 2, false);
    CHECK("joined", unimem_connect_axes(ttn, b, 0, a, 0) && unimem_connect_axes(ttn, b, 1, c, 0));
    for (size_t i = 0; i < 3; i++) {
        ttn->memory = i ? limited[i - 1] : plain;
        CHECK("planned", unimem_contraction_cost(ttn, &flops[i], &peak[i]));
    }
    destroy_tree_tensor_network(ttn);
    CHECK("without a limit the fastest order is taken", flops[0] < flops[1] && peak[0] > 4 * MIB);
    CHECK("under a limit, one that keeps it", peak[1] <= 4 * MIB && peak[1] > 256 * KIB);
    CHECK("or the fastest, if none does", flops[2] == flops[0]);
    for (size_t i = 0; i < 2; i++) CHECK("closed", unimem_close(limited[i]));
}

int main(void) {
    spill_to_memory();
    unified_memory_interface_t *plain = unimem_open(NULL);
    unified_memory_interface_t *small = unimem_open(&(unified_pool_config_t){.max_size = 4 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = 64 * KIB});
    tiers = unimem_open(&(unified_pool_config_t){.enable_growth = true, .enable_streaming = true});
    const way_t ways[] = {{"in RAM", plain, false, 1e-5}, {"in a table of the program's own", &own_table, false, 1e-5}, {"under a small limit", small, false, 1e-5},
                          {"all of it in streaming memory", &tiers_table, false, 1e-5}, {"half of it hierarchical", plain, true, 1e-5}};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) every_way(&ways[w]);
    orders();
    pairs();
    what_keeps_the_value();
    many();
    larger_than_the_budget(plain);
    if (without_faults()) SKIP("tensors of every layout beyond the budget", "without a fault mechanism they cannot be looked at");
    else every_layout_beyond_the_budget(plain);
    order_under_a_limit(plain);
    large_for_the_limit();
    CHECK_EQ("no block was overrun", held.overrun, 0);
    CHECK("the instances close clean", unimem_close(plain) && unimem_close(small) && unimem_close(tiers));
    return tap_done();
}
