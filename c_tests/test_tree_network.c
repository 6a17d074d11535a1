/* test_tree_network.c - the tree tensor network through its drop-in header: what real callers do, and what they do
 * wrong. */
#define _GNU_SOURCE
#include "unimem/memory_pool.h"
#include "unimem/tree_tensor_network.h"

#include "trees.h"

_Static_assert(sizeof(tree_tensor_node_t) == 80 && offsetof(tree_tensor_node_t, use_hierarchical) == 73, "node");
_Static_assert(sizeof(tree_tensor_network_t) == 88 && offsetof(tree_tensor_network_t, metrics) == 48, "network");
_Static_assert(sizeof(tensor_stream_t) == 64 && offsetof(tensor_stream_t, memory_pool) == 56, "stream");
_Static_assert(sizeof(tensor_node_t) == 80 && offsetof(tensor_node_t, is_valid) == 72, "general node");
_Static_assert(sizeof(tensor_network_t) == 136 && offsetof(tensor_network_t, last_error) == 112, "general network");

static random_t numbers = {7};

static tree_tensor_node_t *random_matrix(tree_tensor_network_t *ttn, size_t rows, size_t columns, bool hierarchical)
{
    ComplexFloat *elements = random_elements(&numbers, rows * columns);
    tree_tensor_node_t *node = add_tree_tensor_node(ttn, elements, (size_t[]){rows, columns}, 2, hierarchical);
    free(elements);
    return node;
}

/* Largest difference between c and the product of a (m by k) and b (k by n), relative to the largest element. */
static double product_error(const ComplexFloat *a, const ComplexFloat *b, const ComplexFloat *c, size_t m, size_t n, size_t k)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double real = 0, imag = 0;
            for (size_t p = 0; p < k; p++) {
                ComplexFloat x = a[i * k + p], y = b[p * n + j];
                real += (double)x.real * y.real - (double)x.imag * y.imag;
                imag += (double)x.real * y.imag + (double)x.imag * y.real;
            }
            worst = fmax(worst, hypot(c[i * n + j].real - real, c[i * n + j].imag - imag));
            largest = fmax(largest, hypot(real, imag));
        }
    return worst / largest;
}

/* A network of weights, and an activation that runs through them. */
static void activations(unified_memory_interface_t *memory)
{
    enum { LAYERS = 4, WIDTH = 24, BATCH = 5 };
    tree_tensor_network_t *ttn = create_tree_tensor_network(8, 16, 1e-6);
    ttn->memory = memory;
    tree_tensor_node_t *weights[LAYERS];
    for (size_t i = 0; i < LAYERS; i++) {
        weights[i] = random_matrix(ttn, WIDTH, WIDTH, true);
        if (i > 0) CHECK("weights are connected", connect_tree_tensor_nodes(ttn, weights[i - 1], weights[i]));
    }
    CHECK("weights are hierarchical and readable", weights[0]->use_hierarchical && weights[0]->data && !weights[0]->h_matrix);
    tree_tensor_network_t *inputs = create_tree_tensor_network(0, 0, 0);
    inputs->memory = memory;
    tree_tensor_node_t *activation = random_matrix(inputs, BATCH, WIDTH, false);
    TEST("an activation runs through weights of another network") {
        for (size_t i = 0; i < LAYERS; i++) {
            tree_tensor_node_t *next = NULL;
            EXPECT(contract_tree_tensor_nodes(inputs, activation, weights[i], &next), "layer %zu", i);
            if (!next) break;
            EXPECT(next->num_dimensions == 2 && next->dimensions[0] == BATCH && next->dimensions[1] == WIDTH, "layer %zu: shape", i);
            double error = product_error(activation->data, weights[i]->data, next->data, BATCH, WIDTH, WIDTH);
            EXPECT(error < 1e-5, "layer %zu: error %g", i, error);
            for (size_t j = 0; j < BATCH * WIDTH; j++) {
                next->data[j].real *= 0.25f;
                next->data[j].imag *= 0.25f;
            }
            activation = next;
        }
    }
    CHECK_EQ("results belong to their network", inputs->num_nodes, 1 + LAYERS);
    CHECK_EQ("and not to the weights'", ttn->num_nodes, LAYERS);
    CHECK("the first node is the root", inputs->root && inputs->root->id == 0);
    destroy_tree_tensor_network(inputs);
    destroy_tree_tensor_network(ttn);
}

/* Walks a tree with a stack of the caller's own, sized by num_nodes. Returns how many nodes it sees, whose edges are the
 * same from both sides, and how many elements are numbers. */
static size_t walk(tree_tensor_network_t *ttn, size_t *elements)
{
    tree_tensor_node_t **stack = malloc(ttn->num_nodes * sizeof(*stack));
    size_t depth = 0, seen = 0;
    *elements = 0;
    if (ttn->root) stack[depth++] = ttn->root;
    while (depth > 0) {
        tree_tensor_node_t *node = stack[--depth];
        size_t count = 1;
        for (size_t i = 0; i < node->num_dimensions; i++) count *= node->dimensions[i];
        for (size_t i = 0; i < count; i++) *elements += !isnan(node->data[i].real);
        bool sound = node->is_leaf == (node->num_children == 0);
        for (size_t i = 0; i < node->num_children; i++) {
            sound &= node->children[i]->parent == node;
            stack[depth++] = node->children[i];
        }
        seen += sound;
    }
    free(stack);
    return seen;
}

static void structure(unified_memory_interface_t *memory)
{
    tree_tensor_network_t *ttn = create_tree_tensor_network(3, 0, 0);
    ttn->memory = memory;
    CHECK("a new network is empty", ttn && !ttn->root && ttn->num_nodes == 0);
    tree_tensor_node_t *nodes[40];
    for (size_t i = 0; i < 40; i++) nodes[i] = random_matrix(ttn, 2, 2, false);
    TEST("a tree is connected from the bottom up, and the root moves to its top") {
        for (size_t i = 39; i > 0; i--)
            EXPECT(connect_tree_tensor_nodes(ttn, nodes[i], nodes[i - 1]), "edge %zu", i);
        EXPECT(ttn->root == nodes[39], "the root is node %zu", ttn->root->id);
    }
    size_t elements, seen = walk(ttn, &elements);
    CHECK_EQ("a walk sees every node", seen, 40);
    CHECK_EQ("and every element", elements, 160);
    CHECK("a node is not its own parent", !connect_tree_tensor_nodes(ttn, ttn->root, ttn->root));
    CHECK_EQ("the error says so", unimem_last_error(), UNIMEM_ERROR_INVALID_ARGUMENT);
    CHECK("a cycle is refused", !connect_tree_tensor_nodes(ttn, nodes[0], ttn->root));
    CHECK("a second parent is refused", !connect_tree_tensor_nodes(ttn, nodes[39], nodes[5]));
    tree_tensor_node_t *above = random_matrix(ttn, 2, 2, false), *below = random_matrix(ttn, 2, 2, false);
    CHECK("also of a node in another tree", connect_tree_tensor_nodes(ttn, above, below) && !connect_tree_tensor_nodes(ttn, nodes[0], below) && below->parent == above && nodes[0]->num_children == 0);
    CHECK("NULL is refused", !connect_tree_tensor_nodes(NULL, nodes[0], nodes[1]) && !connect_tree_tensor_nodes(ttn, NULL, nodes[1]) && !connect_tree_tensor_nodes(ttn, nodes[0], NULL));
    tree_tensor_network_t *other = create_tree_tensor_network(0, 0, 0);
    other->memory = memory;
    tree_tensor_node_t *stranger = random_matrix(other, 2, 2, false);
    CHECK("a node of another network is refused", !connect_tree_tensor_nodes(ttn, nodes[0], stranger));
    seen = walk(ttn, &elements);
    CHECK_EQ("nothing has changed", seen, 40);
    tree_tensor_node_t *pair = NULL;
    CHECK("nodes of two other networks contract into a third", contract_tree_tensor_nodes(other, nodes[3], stranger, &pair) && pair);
    destroy_tree_tensor_network(other);
    CHECK("a node of a network that is gone is refused", !contract_tree_tensor_nodes(ttn, nodes[0], opaque(stranger), &pair));
    destroy_tree_tensor_network(opaque(other));
    CHECK_EQ("so is destroying it again", unimem_last_error(), UNIMEM_ERROR_INVALID_ARGUMENT);
    destroy_tree_tensor_network(NULL);
    destroy_tree_tensor_network(ttn);
    CHECK("a tolerance that is not a number is refused", !create_tree_tensor_network(1, 1, nan("")));
    CHECK("and a negative one", !create_tree_tensor_network(1, 1, -1));
}

static void bonds(unified_memory_interface_t *memory)
{
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    tree_tensor_node_t *a = add_tree_tensor_node(ttn, NULL, (size_t[]){3, 4, 5}, 3, false);
    tree_tensor_node_t *b = add_tree_tensor_node(ttn, NULL, (size_t[]){5, 3, 7}, 3, false);
    tree_tensor_node_t *c = add_tree_tensor_node(ttn, NULL, (size_t[]){7, 4, 3}, 3, false);
    tree_tensor_node_t *d = add_tree_tensor_node(ttn, NULL, (size_t[]){11}, 1, false);
    CHECK("nodes without elements are zero", a && all_zero(a->data, 60 * sizeof *a->data));
    /* a's last with b's first; then a's first free pair with c: 3 of a with axis 2 of c. */
    CHECK("connected", connect_tree_tensor_nodes(ttn, a, b) && connect_tree_tensor_nodes(ttn, a, c) && connect_tree_tensor_nodes(ttn, a, d));
    size_t sizes[16], count = 0;
    CHECK("the sizes can be asked first", contract_full_tree_network(ttn, NULL, sizes, &count));
    TEST("free axes come in pre-order") {
        const size_t expected[] = {4, 3, 7, 7, 4, 11};
        EXPECT(count == 6, "%zu axes", count);
        for (size_t i = 0; i < 6 && i < count; i++) EXPECT(sizes[i] == expected[i], "axis %zu: %zu", i, sizes[i]);
    }
    CHECK("the sizes may be left out", contract_full_tree_network(ttn, NULL, NULL, &count) && count == 6);
    CHECK("axes of a parent and its child that differ in size are not joined", !unimem_connect_axes(ttn, a, 1, c, 0) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT);
    CHECK("nor one that is not there", !unimem_connect_axes(ttn, a, 3, c, 0) && !unimem_connect_axes(ttn, a, 1, c, 3));
    tree_tensor_node_t *apart = add_tree_tensor_node(ttn, NULL, (size_t[]){5}, 1, false);
    CHECK("where a bond is refused there is no edge either", !unimem_connect_axes(ttn, b, 1, apart, 0) && !unimem_connect_axes(ttn, b, 9, apart, 0) && !apart->parent && b->num_children == 0);
    double before = 0, after = 0, peak;
    CHECK("what it costs is known", unimem_contraction_cost(ttn, &before, &peak));
    CHECK("a further bond is joined by hand", unimem_connect_axes(ttn, a, 1, c, 1));
    CHECK("and it costs less", unimem_contraction_cost(ttn, &after, &peak) && after < before);
    CHECK("not twice", !unimem_connect_axes(ttn, a, 1, c, 1));
    CHECK("nor axes of different sizes", !unimem_connect_axes(ttn, b, 1, c, 0));
    CHECK("nor axes that are not there", !unimem_connect_axes(ttn, d, 1, c, 0));
    tree_tensor_node_t *result = NULL;
    CHECK("a pair is contracted over all its bonds", contract_tree_tensor_nodes(ttn, c, a, &result) && result->num_dimensions == 2 && result->dimensions[0] == 7 && result->dimensions[1] == 5);
    CHECK("an outer product", contract_tree_tensor_nodes(ttn, d, b, &result) && result->num_dimensions == 4 && result->dimensions[0] == 11);
    CHECK("a scalar has dimensions {1}", contract_tree_tensor_nodes(ttn, d, d, &result) && result->num_dimensions == 1 && result->dimensions[0] == 1);
    CHECK("a size of 0 is refused", !add_tree_tensor_node(ttn, NULL, (size_t[]){3, 0}, 2, false));
    CHECK("a size that overflows is refused", !add_tree_tensor_node(ttn, NULL, (size_t[]){SIZE_MAX / 2, 3}, 2, false));
    CHECK("a scalar needs no sizes", (result = add_tree_tensor_node(ttn, NULL, NULL, 0, false)) && result->num_dimensions == 1);
    destroy_tree_tensor_network(ttn);
}

static void whole_trees(unified_memory_interface_t *memory)
{
    /* A chain of two matrices through a temporary network. */
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    tree_tensor_node_t *a = random_matrix(ttn, 30, 40, false), *b = random_matrix(ttn, 40, 20, false);
    ComplexFloat *result = NULL;
    size_t sizes[16], count = 0;
    CHECK("connected", connect_tree_tensor_nodes(ttn, a, b));
    CHECK("contracted", contract_full_tree_network(ttn, &result, sizes, &count));
    CHECK("the shape", count == 2 && sizes[0] == 30 && sizes[1] == 20);
    CHECK("the value", result && product_error(a->data, b->data, result, 30, 20, 40) < 1e-5);
    free(result);
    double flops = 0, peak = 0;
    CHECK("the cost is known", unimem_contraction_cost(ttn, &flops, &peak));
    CHECK_EQ("floating-point operations", (size_t)flops, 8 * 30 * 40 * 20);
    CHECK_EQ("bytes", (size_t)peak, 30 * 20 * sizeof(ComplexFloat));
    CHECK("optimised", optimize_tree_structure(ttn));
    tensor_network_metrics_t metrics;
    CHECK("measured", get_tree_tensor_network_metrics(ttn, &metrics));
    CHECK_EQ("one product", metrics.num_contractions, 1);
    CHECK("times add up", metrics.total_time >= metrics.contraction_time && metrics.contraction_time > 0 && metrics.optimization_time > 0);
    CHECK("the peak counts tensors and result", metrics.peak_memory_usage >= (1200 + 800 + 600) * sizeof(ComplexFloat));
    tensor_network_metrics_t again;
    result = NULL;
    CHECK("what was handed over counts no more", reset_tree_tensor_network_metrics(ttn) && get_tree_tensor_network_metrics(ttn, &metrics) && contract_full_tree_network(ttn, &result, NULL, &count) &&
                                                     reset_tree_tensor_network_metrics(ttn) && get_tree_tensor_network_metrics(ttn, &again) && again.peak_memory_usage == metrics.peak_memory_usage);
    free(result);
    CHECK("reset", reset_tree_tensor_network_metrics(ttn) && get_tree_tensor_network_metrics(ttn, &metrics) && metrics.num_contractions == 0 && metrics.total_time == 0);
    destroy_tree_tensor_network(ttn);
    ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    CHECK("an empty network has no value", !contract_full_tree_network(ttn, &result, sizes, &count));
    destroy_tree_tensor_network(ttn);
}

static void streams(unified_memory_interface_t *memory)
{
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    tree_tensor_node_t *a = random_matrix(ttn, 17, 23, false), *b = random_matrix(ttn, 23, 9, true);
    tree_tensor_node_t *c = add_tree_tensor_node(ttn, NULL, (size_t[]){17, 9}, 2, false);
    tensor_stream_t *source = create_tensor_stream(ttn, a, 50), *second = create_tensor_stream(ttn, b, 64), *target = create_tensor_stream(ttn, c, 10);
    CHECK("streams begin at 0", source && source->current_offset == 0 && source->total_size == 391 && source->chunk_size == 50);
    TEST("pieces follow each other to the end") {
        size_t before = 0;
        while (stream_next_chunk(source)) {
            size_t length = source->current_offset - before;
            EXPECT(length == 50 || source->current_offset == 391, "a piece of %zu", length);
            EXPECT(memcmp(source->buffer, a->data + before, length * sizeof *a->data) == 0, "the piece at %zu", before);
            before = source->current_offset;
        }
        EXPECT(before == 391, "ended at %zu", before);
    }
    CHECK("streams are contracted", contract_tensor_streams(source, second, target));
    CHECK("into the third one's node", product_error(a->data, b->data, c->data, 17, 9, 23) < 1e-5);
    CHECK("and stay where they are", source->current_offset == 391 && second->current_offset == 0 && target->current_offset == 0);
    tensor_network_metrics_t one = {0}, two = {0};
    tree_tensor_node_t *pair = NULL;
    CHECK("that is one product, and takes time", get_tree_tensor_network_metrics(ttn, &one) && one.num_contractions == 1 && one.contraction_time > 0);
    CHECK("a pair of nodes is another", contract_tree_tensor_nodes(ttn, a, b, &pair) && get_tree_tensor_network_metrics(ttn, &two) && two.num_contractions == 2);
    CHECK("of which all is measured too", two.contraction_time > one.contraction_time && two.total_time >= two.contraction_time &&
                                              two.peak_memory_usage >= one.peak_memory_usage + 17 * 9 * sizeof(ComplexFloat));
    CHECK("the shape must agree", !contract_tensor_streams(second, source, target));
    CHECK("the result cannot be an operand", !contract_tensor_streams(source, target, target));
    destroy_tensor_stream(source);
    CHECK("an ended stream is refused", !stream_next_chunk(opaque(source)));
    destroy_tensor_stream(NULL);
    destroy_tree_tensor_network(ttn); /* ends the other two */
}

typedef struct { size_t calls, allowed; double last, total; bool ascending, complete; } watch_t;

static bool watch(double done, double total, void *context)
{
    watch_t *seen = context;
    seen->ascending = seen->ascending && done >= seen->last && done <= total * 1.0000001;
    seen->last = done;
    seen->total = total;
    seen->complete = done >= total * 0.9999999;
    return ++seen->calls <= seen->allowed;
}

static void progress(unified_memory_interface_t *memory)
{
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    tree_tensor_node_t *nodes[6];
    for (size_t i = 0; i < 6; i++) {
        nodes[i] = random_matrix(ttn, 8, 8, false);
        if (i) connect_tree_tensor_nodes(ttn, nodes[i - 1], nodes[i]);
    }
    watch_t seen = {0, SIZE_MAX, 0, 0, true, false};
    ComplexFloat *result = NULL;
    size_t count;
    CHECK("set", unimem_set_progress(ttn, watch, &seen));
    CHECK("a watched contraction", contract_full_tree_network(ttn, &result, NULL, &count));
    CHECK("is told in ascending order, up to the end", seen.calls >= 5 && seen.ascending && seen.complete);
    free(result);
    size_t calls = seen.calls, before = live_in(memory);
    TEST("stopped at any moment, nothing is leaked and the network works on") {
        for (size_t allowed = 0; allowed < calls; allowed++) {
            seen = (watch_t){0, allowed, 0, 0, true, false};
            result = NULL;
            EXPECT(!contract_full_tree_network(ttn, &result, NULL, &count), "stopped after %zu calls", allowed);
            EXPECT(!result && unimem_last_error() == UNIMEM_ERROR_LIMIT, "after %zu calls", allowed);
            EXPECT(live_in(memory) == before, "after %zu calls", allowed);
        }
    }
    tensor_network_metrics_t metrics;
    CHECK("what was done until then is counted", get_tree_tensor_network_metrics(ttn, &metrics) && metrics.num_contractions > 5);
    tree_tensor_network_t *small = create_tree_tensor_network(0, 0, 0);
    small->memory = memory;
    ComplexFloat *elements = malloc(600 * 600 * sizeof *elements);
    for (size_t i = 0; i < 600 * 600; i++) elements[i] = (ComplexFloat){1e-20f * (float)(1 + i % 7), 1e-20f * (float)(i % 5)};
    tree_tensor_node_t *last = NULL;
    for (int i = 0; i < 3; i++) {
        tree_tensor_node_t *node = add_tree_tensor_node(small, elements, (size_t[]){600, 600}, 2, true);
        if (last) connect_tree_tensor_nodes(small, last, node);
        last = node;
    }
    free(elements);
    seen = (watch_t){0, SIZE_MAX, 0, 0, true, false};
    result = NULL;
    CHECK("nor does it go back where a product is made again for its exponent",
          unimem_set_progress(small, watch, &seen) && contract_full_tree_network(small, &result, NULL, &count) && seen.ascending && seen.complete);
    free(result);
    destroy_tree_tensor_network(small);
    tree_tensor_network_t *zeros = create_tree_tensor_network(0, 0, 0);
    zeros->memory = memory;
    for (int i = 0; i < 6; i++) {
        tree_tensor_node_t *node = add_tree_tensor_node(zeros, NULL, (size_t[]){8, 8}, 2, false);
        if (i) connect_tree_tensor_nodes(zeros, last, node);
        last = node;
    }
    seen = (watch_t){0, SIZE_MAX, 0, 0, true, false};
    CHECK("zeros are not multiplied again, though no element is large",
          unimem_set_progress(zeros, watch, &seen) && contract_full_tree_network(zeros, &result, NULL, &count) && seen.calls == calls);
    free(result);
    destroy_tree_tensor_network(zeros);
    tree_tensor_node_t *pair;
    seen = (watch_t){0, SIZE_MAX, 0, 0, true, false};
    CHECK("a pair is told of in floating-point operations, as the whole tree",
          contract_tree_tensor_nodes(ttn, nodes[0], nodes[1], &pair) && seen.complete && seen.total == 8.0 * 8 * 8 * 8);
    for (int i = 0; i < 2; i++) {
        seen = (watch_t){0, SIZE_MAX, 0, 0, true, false};
        CHECK(i ? "and so is one that truncates bonds" : "adapting is told in ascending order, up to the end, where no bond is truncated",
              adapt_bond_dimensions(ttn, i ? 0.5 : 0) && seen.calls >= 5 && seen.ascending && seen.complete);
    }
    unimem_set_progress(ttn, NULL, NULL);
    CHECK("and is contracted once nobody stops it", contract_full_tree_network(ttn, &result, NULL, &count));
    free(result);
    destroy_tree_tensor_network(ttn);
}

static void other_memory(void)
{
    MemoryPool *pool = create_memory_pool(&(struct PoolConfig){.enable_stats = true});
    memory_system_config_t config;
    memset(&config, 0, sizeof config);
    advanced_memory_system_t *system = create_memory_system(&config);
    size_t before = live_in(unimem_global());
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    random_matrix(ttn, 8, 8, false);
    size_t with_one = live_in(unimem_global());
    CHECK("a node is in the global interface", with_one > before);
    CHECK("a pool is set", set_memory_pool(ttn, (void *)pool));
    random_matrix(ttn, 8, 8, false);
    CHECK("the next node is in the pool", get_total_allocated(pool) >= 512);
    CHECK("a system is set", set_memory_system(ttn, system));
    size_t in_system = live_in(unimem_system_interface(system));
    tree_tensor_node_t *node = random_matrix(ttn, 8, 8, false);
    CHECK("the next one in the system", live_in(unimem_system_interface(system)) >= in_system + 512 && node);
    CHECK_EQ("the first is where it was", live_in(unimem_global()), with_one);
    CHECK("NULL is refused", !set_memory_pool(ttn, NULL) && !set_memory_system(ttn, NULL));
    simple_memory_pool_t copy = *(simple_memory_pool_t *)pool; /* as little libunimem's as a pool of legacy C */
    unified_memory_interface_t *set = ttn->memory;
    CHECK("what is no pool or system of libunimem's is refused",
          !set_memory_pool(ttn, (void *)&copy) && !set_memory_pool(ttn, (void *)64) && !set_memory_pool(ttn, (void *)ttn) &&
              !set_memory_system(ttn, (void *)pool) && !set_memory_system(ttn, (void *)64) && ttn->memory == set);
    destroy_tree_tensor_network(ttn);
    CHECK_EQ("each went back: global", live_in(unimem_global()), before);
    CHECK_EQ("each went back: pool", get_total_allocated(pool), 0);
    CHECK_EQ("each went back: system", live_in(unimem_system_interface(system)), in_system);
    destroy_memory_pool(pool);
    destroy_memory_system(system);
}

static void conversion(unified_memory_interface_t *memory)
{
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0), *again = NULL;
    ttn->memory = memory;
    tree_tensor_node_t *a = random_matrix(ttn, 3, 4, false), *b = random_matrix(ttn, 4, 5, false), *c = random_matrix(ttn, 3, 6, false);
    connect_tree_tensor_nodes(ttn, a, b);
    unimem_connect_axes(ttn, a, 0, c, 0);
    tensor_network_t *network = NULL;
    CHECK("a tree becomes a network", convert_tree_to_tensor_network(ttn, &network) && network->num_nodes == 3);
    CHECK("and a tree again", convert_tensor_network_to_tree(network, &again) && again->num_nodes == 3);
    ComplexFloat *first = NULL, *second = NULL;
    size_t sizes[2][16], counts[2];
    CHECK("both have a value", contract_full_tree_network(ttn, &first, sizes[0], &counts[0]) && contract_full_tree_network(again, &second, sizes[1], &counts[1]));
    CHECK("the same one", counts[0] == 2 && counts[1] == 2 && memcmp(sizes[0], sizes[1], 2 * sizeof(size_t)) == 0 && memcmp(first, second, 30 * sizeof *first) == 0);
    free(first);
    free(second);
    destroy_tree_tensor_network(again);
    network->nodes[1]->connected_nodes[0] = 77;
    again = NULL;
    CHECK("an unknown id is refused", !convert_tensor_network_to_tree(network, &again) && !again);
    free_network(network);
    CHECK("NULL is refused", !convert_tensor_network_to_tree(NULL, &again) && !convert_tree_to_tensor_network(ttn, NULL));
    destroy_tree_tensor_network(ttn);
}

static void adapting(unified_memory_interface_t *memory)
{
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 3, 0);
    ttn->memory = memory;
    tree_tensor_node_t *a = random_matrix(ttn, 10, 12, false), *b = random_matrix(ttn, 12, 10, false);
    connect_tree_tensor_nodes(ttn, a, b);
    CHECK("a target that is negative or no number is refused", !adapt_bond_dimensions(ttn, -1) && !adapt_bond_dimensions(ttn, nan("")));
    CHECK("a bond that must stay too large", !adapt_bond_dimensions(ttn, 1e-6));
    CHECK_EQ("is told", unimem_last_error(), UNIMEM_ERROR_LIMIT);
    CHECK("what is beyond the tensors' rank goes all the same", b->dimensions[0] == 10 && b->rank == 10 && a->dimensions[1] == 10);
    double before = 0, after = 0, peak;
    CHECK("what it costs to contract is known", unimem_contraction_cost(ttn, &before, &peak) && before == 8.0 * 10 * 10 * 10);
    CHECK("with a large error the rank is kept", adapt_bond_dimensions(ttn, 0.99) && b->rank <= 3 && b->dimensions[0] == b->rank);
    CHECK("then it costs less", unimem_contraction_cost(ttn, &after, &peak) && after == 8.0 * 10 * (double)b->rank * 10);
    tree_tensor_node_t *c = random_matrix(ttn, 10, 12, true);
    CHECK("a hierarchical node", connect_tree_tensor_nodes(ttn, b, c) && unimem_chunk_count(c->data) > 0);
    CHECK("stays one when it becomes smaller", adapt_bond_dimensions(ttn, 0.9) && c->use_hierarchical && c->dimensions[0] < 10 && unimem_chunk_count(c->data) > 0);
    destroy_tree_tensor_network(ttn);
}

int main(void)
{
    unified_memory_interface_t *memory = unimem_open(NULL);
    activations(memory);
    CHECK_EQ("nothing is left of the networks", live_in(memory), 0);
    structure(memory);
    bonds(memory);
    whole_trees(memory);
    streams(memory);
    progress(memory);
    conversion(memory);
    adapting(memory);
    other_memory();
    CHECK_EQ("nothing is left of any network", live_in(memory), 0);
    CHECK("the instance closes clean", unimem_close(memory));
    return tap_done();
}
