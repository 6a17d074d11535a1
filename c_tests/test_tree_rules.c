/* test_tree_rules.c - the rules of tree tensor networks one by one (docs/tensor-rules.md), each in a case where
 * another rule would give something else: which axes are bonded if several fit, what takes part, what stays as it
 * was, what is refused. */
#define _GNU_SOURCE
#include "unimem/tree_tensor_network.h"

#include "trees.h"

static unified_memory_interface_t *memory;

static tree_tensor_network_t *network(void)
{
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    if (ttn) ttn->memory = memory;
    return ttn;
}

/* A node of small whole numbers, so that sums are exact in any order. */
static tree_tensor_node_t *counting(tree_tensor_network_t *ttn, const size_t *sizes, size_t axes, int seed)
{
    size_t count = 1;
    for (size_t i = 0; i < axes; i++) count *= sizes[i];
    tree_tensor_node_t *node = add_tree_tensor_node(ttn, NULL, sizes, axes, false);
    for (size_t i = 0; node && i < count; i++) {
        node->data[i].real = (float)((int)(i * 7 + (size_t)seed) % 9 - 4);
        node->data[i].imag = (float)((int)(i * 5 + (size_t)seed) % 7 - 3);
    }
    return node;
}
#define NODE(ttn, seed, ...) counting(ttn, (size_t[]){__VA_ARGS__}, sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t), seed)

static bool has_shape(const tree_tensor_node_t *node, const size_t *sizes, size_t axes)
{
    if (!node || node->num_dimensions != axes) return false;
    for (size_t i = 0; i < axes; i++)
        if (node->dimensions[i] != sizes[i]) return false;
    return true;
}
#define SHAPE(node, ...) has_shape(node, (size_t[]){__VA_ARGS__}, sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t))

static bool is_times(ComplexFloat got, double real, double imag) { return got.real == (float)real && got.imag == (float)imag; }

static void add_product(double sum[2], ComplexFloat x, ComplexFloat y)
{
    sum[0] += (double)x.real * y.real - (double)x.imag * y.imag;
    sum[1] += (double)x.real * y.imag + (double)x.imag * y.real;
}

static void which_axes(void)
{
    tree_tensor_network_t *ttn = network();
    tree_tensor_node_t *result = NULL;
    /* Every pair of axes would fit: only the rule tells which. */
    tree_tensor_node_t *a = NODE(ttn, 1, 4, 4), *b = NODE(ttn, 2, 4, 4);
    CHECK("joined", connect_tree_tensor_nodes(ttn, a, b) && contract_tree_tensor_nodes(ttn, a, b, &result));
    TEST("the parent's last free axis goes with the child's first") {
        for (size_t i = 0; i < 4; i++)
            for (size_t j = 0; j < 4; j++) {
                double sum[2] = {0, 0};
                for (size_t k = 0; k < 4; k++) add_product(sum, a->data[i * 4 + k], b->data[k * 4 + j]);
                EXPECT(is_times(result->data[i * 4 + j], sum[0], sum[1]), "element %zu, %zu", i, j);
            }
    }
    /* The parent's last (6) and the child's first (5) differ; the parent's first is tried before its second, and with
     * the child's axes in order. */
    tree_tensor_node_t *c = NODE(ttn, 3, 2, 3, 6), *d = NODE(ttn, 4, 5, 3, 2);
    CHECK("joined by the first pair that fits", connect_tree_tensor_nodes(ttn, c, d) && contract_tree_tensor_nodes(ttn, c, d, &result));
    CHECK("the parent's axes count first", SHAPE(result, 3, 6, 5, 3));
    tree_tensor_node_t *e = NODE(ttn, 5, 2, 3), *f = NODE(ttn, 6, 5, 7);
    CHECK("nothing fits: joined all the same", connect_tree_tensor_nodes(ttn, e, f) && f->parent == e);
    CHECK("by an outer product", contract_tree_tensor_nodes(ttn, e, f, &result) && SHAPE(result, 2, 3, 5, 7));
    double outer[2] = {0, 0};
    add_product(outer, e->data[5], f->data[34]);
    CHECK("with the value of one", is_times(result->data[6 * 35 - 1], outer[0], outer[1]));
    tree_tensor_node_t *g = NODE(ttn, 7, 5, 1), *h = NODE(ttn, 8, 1, 3);
    CHECK("axes of size 1 are bonded like any others", connect_tree_tensor_nodes(ttn, g, h) && !unimem_connect_axes(ttn, g, 1, h, 0));
    destroy_tree_tensor_network(ttn);
    /* The tree is contracted, grows by an outer product, and is contracted again. */
    ttn = network();
    e = NODE(ttn, 5, 2, 3), f = NODE(ttn, 6, 5, 7);
    ComplexFloat *before = NULL, *after = NULL;
    size_t sizes[16], count = 0;
    CHECK("a tree is contracted", contract_full_tree_network(ttn, &before, sizes, &count) && count == 2);
    CHECK("and once more when a node has come to it by an outer product", connect_tree_tensor_nodes(ttn, e, f) && contract_full_tree_network(ttn, &after, sizes, &count) &&
                                                                              count == 4 && sizes[3] == 7 && is_times(after[6 * 35 - 1], outer[0], outer[1]));
    free(before);
    free(after);
    destroy_tree_tensor_network(ttn);
}

static void what_takes_part(void)
{
    tree_tensor_network_t *ttn = network();
    ComplexFloat *scalar = NULL;
    size_t one[16], number = 0;
    CHECK("a tree whose axes are all in bonds", connect_tree_tensor_nodes(ttn, NODE(ttn, 1, 4), NODE(ttn, 2, 4)) && contract_full_tree_network(ttn, &scalar, one, &number));
    CHECK("has one size, of 1", number == 1 && one[0] == 1);
    free(scalar);
    destroy_tree_tensor_network(ttn);
    ttn = network();
    tree_tensor_node_t *root = NODE(ttn, 1, 3, 4), *child = NODE(ttn, 2, 4, 2), *apart = NODE(ttn, 3, 9, 9), *pair = NULL;
    CHECK("a tree, and a node apart", connect_tree_tensor_nodes(ttn, root, child) && ttn->root == root && apart);
    ComplexFloat before[12], *result = NULL;
    memcpy(before, root->data, sizeof before);
    size_t sizes[16], count = 0, nodes = ttn->num_nodes;
    CHECK("contracted", contract_full_tree_network(ttn, &result, sizes, &count));
    CHECK("nodes outside the root's tree take no part", count == 2 && sizes[0] == 3 && sizes[1] == 2);
    CHECK("the network is as it was", memcmp(before, root->data, sizeof before) == 0 && ttn->num_nodes == nodes && child->parent == root && root->num_children == 1);
    CHECK("a pair gives the same value", contract_tree_tensor_nodes(ttn, root, child, &pair) && memcmp(pair->data, result, 6 * sizeof *result) == 0);
    CHECK("as a node of the network, not connected", ttn->num_nodes == nodes + 1 && !pair->parent && pair->num_children == 0 && ttn->root == root);
    free(result);
    CHECK("optimising", optimize_tree_structure(ttn) && contract_full_tree_network(ttn, &result, sizes, &count));
    CHECK("changes neither edges nor value", child->parent == root && memcmp(pair->data, result, 6 * sizeof *result) == 0);
    free(result);
    child->data[0].real = NAN;
    CHECK("a NaN is in what it is summed into", contract_full_tree_network(ttn, &result, sizes, &count) && isnan(result[0].real));
    CHECK("and nowhere else", !isnan(result[1].real));
    free(result);
    child->data[0].real = INFINITY;
    CHECK("an infinity too", contract_full_tree_network(ttn, &result, sizes, &count) && !isfinite(result[0].real));
    free(result);
    destroy_tree_tensor_network(ttn);
}

/* 10,000 nodes below each other, connected from the bottom up. */
static void depth(void)
{
    enum { NODES = 10000 };
    tree_tensor_network_t *ttn = network();
    const ComplexFloat turn[4] = {{0, 0}, {1, 0}, {1, 0}, {0, 0}}; /* exchanges two elements */
    tree_tensor_node_t *below = NULL;
    bool joined = true;
    for (size_t i = 0; i < NODES; i++) {
        tree_tensor_node_t *node = add_tree_tensor_node(ttn, turn, (size_t[]){2, 2}, 2, false);
        joined &= node && (!below || connect_tree_tensor_nodes(ttn, node, below));
        below = node;
    }
    ComplexFloat *result = NULL;
    size_t sizes[16], count = 0;
    CHECK("a chain of 10,000, from the bottom up", joined && ttn->root == below);
    CHECK("has the value of an even number of exchanges", contract_full_tree_network(ttn, &result, sizes, &count) && count == 2 && result[0].real == 1 && result[1].real == 0 && result[3].real == 1);
    free(result);
    destroy_tree_tensor_network(ttn);
    /* The root moves with each edge. If each call looked for it from the first node on, this would take many minutes. */
    ttn = network();
    below = NULL;
    for (size_t i = 0; i < scaled(100000) && joined; i++) {
        tree_tensor_node_t *node = add_tree_tensor_node(ttn, NULL, NULL, 0, false);
        joined = node && (!below || connect_tree_tensor_nodes(ttn, node, below)) && ttn->root == node;
        below = node;
    }
    tensor_network_metrics_t metrics;
    for (size_t i = 0; i < scaled(3000000) && joined; i++) joined = get_tree_tensor_network_metrics(ttn, &metrics);
    CHECK("a far longer one, and calls on it", joined);
    destroy_tree_tensor_network(ttn);
}

static void conversion(void)
{
    tree_tensor_network_t *ttn = network(), *tree = NULL;
    tree_tensor_node_t *a = NODE(ttn, 1, 3, 4, 5), *b = NODE(ttn, 2, 5, 4);
    tensor_network_t *general = NULL;
    CHECK("two bonds between two nodes", connect_tree_tensor_nodes(ttn, a, b) && unimem_connect_axes(ttn, a, 1, b, 1));
    CHECK("become two connections", convert_tree_to_tensor_network(ttn, &general) && general->num_nodes == 2 && general->nodes[0]->num_connections == 2);
    ComplexFloat *first = NULL, *second = NULL;
    size_t sizes[16], count = 0;
    CHECK("and two bonds again", convert_tensor_network_to_tree(general, &tree) && contract_full_tree_network(ttn, &first, sizes, &count) && contract_full_tree_network(tree, &second, sizes, &count));
    CHECK("with the same value", count == 1 && sizes[0] == 3 && memcmp(first, second, 3 * sizeof *first) == 0);
    free(first);
    free(second);
    destroy_tree_tensor_network(tree);

    /* Nodes are found by id, never by position; the smallest id is the root. */
    tensor_node_t *swap = general->nodes[0];
    general->nodes[0] = general->nodes[1], general->nodes[1] = swap;
    tree = NULL;
    CHECK("positions do not matter", convert_tensor_network_to_tree(general, &tree) && tree->root && tree->root->num_dimensions == 3);
    destroy_tree_tensor_network(tree);
    tree = NULL;
    size_t axis = general->nodes[0]->connected_dims[0];
    general->nodes[0]->connected_dims[0] = 99;
    CHECK("an axis out of range is refused", !convert_tensor_network_to_tree(general, &tree) && !tree);
    general->nodes[0]->connected_dims[0] = general->nodes[0]->connected_dims[1];
    CHECK("so is an axis connected twice, or to one of another size", !convert_tensor_network_to_tree(general, &tree) && !tree);
    general->nodes[0]->connected_dims[0] = axis;
    general->nodes[0]->num_connections = 1;
    CHECK("and a connection that only one side has", !convert_tensor_network_to_tree(general, &tree) && !tree);
    general->nodes[0]->num_connections = 2;
    CHECK("as it was, it converts", convert_tensor_network_to_tree(general, &tree) && tree);
    destroy_tree_tensor_network(tree);
    free_network(general);
    destroy_tree_tensor_network(ttn);
}

/* The public structures are to be read. What a program writes into them is never followed, nor taken for the tree. */
static void what_is_written(void)
{
    tree_tensor_network_t *ttn = network();
    tree_tensor_node_t *a = NODE(ttn, 1, 2, 3), *b = NODE(ttn, 2, 3, 2), *c = NODE(ttn, 3, 2), *result = NULL;
    ComplexFloat *before = NULL, *after = NULL;
    size_t sizes[16], count = 0;
    connect_tree_tensor_nodes(ttn, a, b);
    bool done = contract_full_tree_network(ttn, &before, sizes, &count);
    a->use_hierarchical = true;
    a->children = NULL, a->num_children = SIZE_MAX, b->parent = c, a->is_leaf = true, a->id = 9, ttn->num_nodes = 7, ttn->root = c;
    ComplexFloat *elements = b->data;
    a->dimensions[0] = 1000, a->dimensions = NULL, a->num_dimensions = SIZE_MAX, b->data = NULL, b->dimensions = (size_t *)64;
    done = done && contract_full_tree_network(ttn, &after, sizes, &count);
    CHECK("the tree is what it was", done && count == 2 && sizes[0] == 2 && sizes[1] == 2 && !memcmp(before, after, 4 * sizeof *after));
    free(before);
    free(after);
    CHECK("and a pair", contract_tree_tensor_nodes(ttn, a, b, &result) && SHAPE(result, 2, 2));
    CHECK("and can grow", connect_tree_tensor_nodes(ttn, a, c) && a->num_children == 2 && a->children && a->children[1] == c);
    tensor_stream_t *stream = create_tensor_stream(ttn, b, 1);
    CHECK("a stream is over the elements there are", stream && stream->source == elements && !stream->is_hierarchical);
    stream = create_tensor_stream(ttn, c, 1);
    stream->chunk_size = stream->current_offset = SIZE_MAX, stream->total_size = 0, stream->buffer = NULL, stream->node = NULL;
    CHECK("a stream goes on", stream_next_chunk(stream) && stream_next_chunk(stream) && !stream_next_chunk(stream) &&
                                  stream->current_offset == 2);
    CHECK("and the tree can be adapted", adapt_bond_dimensions(ttn, 0) && a->dimensions && a->dimensions[0] == 1 &&
                                             a->dimensions[1] == 1 && b->data && b->dimensions && b->dimensions[1] == 2);
    CHECK("each tensor in the kind of memory it was in", unimem_chunk_count(a->data) == 0);
    destroy_tree_tensor_network(ttn);
}

/* A chain of 2 by 2 matrices, each `scale` times the identity. */
static tree_tensor_network_t *chain_of_scales(size_t nodes, const float *scales, size_t kinds)
{
    tree_tensor_network_t *ttn = network();
    tree_tensor_node_t *last = NULL;
    for (size_t i = 0; i < nodes; i++) {
        ComplexFloat elements[4] = {{scales[i % kinds], 0}, {0, 0}, {0, 0}, {scales[i % kinds], 0}};
        tree_tensor_node_t *node = add_tree_tensor_node(ttn, elements, (size_t[]){2, 2}, 2, false);
        if (last) unimem_connect_axes(ttn, last, 1, node, 0);
        last = node;
    }
    return ttn;
}
/* The binary logarithm of such a chain's upper left element, from its nodes; not a number where one of them is lost. */
static double logarithm(const tree_tensor_network_t *ttn)
{
    double row[4] = {1, 0, 0, 0}, power = 0; /* two complex numbers */
    for (const tree_tensor_node_t *node = ttn->root; node; node = node->num_children ? node->children[0] : NULL) {
        double next[4] = {0, 0, 0, 0};
        for (size_t i = 0; i < 4; i++) {
            const double *from = row + i / 2 * 2;
            ComplexFloat z = node->data[i];
            next[i % 2 * 2] += from[0] * (double)z.real - from[1] * (double)z.imag;
            next[i % 2 * 2 + 1] += from[0] * (double)z.imag + from[1] * (double)z.real;
        }
        double largest = fmax(fmax(fabs(next[0]), fabs(next[1])), fmax(fabs(next[2]), fabs(next[3])));
        for (size_t i = 0; i < 4; i++) row[i] = next[i] / largest;
        power += log2(largest);
    }
    return power + log2(hypot(row[0], row[1]));
}

/* Finite elements whose product leaves the range of float, on the way or at the end. */
static void far_from_one(void)
{
    for (size_t i = 0; i < 2; i++) {
        float scale = i ? 0.17f : 2.8f;
        tree_tensor_network_t *ttn = chain_of_scales(300, &scale, 1);
        CHECK("a long chain is adapted", adapt_bond_dimensions(ttn, 1e-3));
        CHECK("and its value stays, though no float could hold it", fabs(logarithm(ttn) - 300 * log2((double)scale)) < 0.01);
        destroy_tree_tensor_network(ttn);
    }
    /* In the middle of the chain below the root there is more than its elements can take. */
    tree_tensor_network_t *ttn = chain_of_scales(6, (const float[]){1e-38f, 3e38f, 3e38f}, 3);
    double before = logarithm(ttn);
    CHECK("so is one that goes beyond the range on the way", adapt_bond_dimensions(ttn, 0) && fabs(logarithm(ttn) - before) < 0.01);
    destroy_tree_tensor_network(ttn);
    ttn = network();
    tree_tensor_node_t *top = add_tree_tensor_node(ttn, (ComplexFloat[]){{1e38f, 0}, {0, 0}}, (size_t[]){2}, 1, false);
    for (size_t i = 0; i < 2; i++)
        connect_tree_tensor_nodes(ttn, top, add_tree_tensor_node(ttn, (ComplexFloat[]){{1e38f, 0}}, NULL, 0, false));
    ComplexFloat *result = NULL;
    size_t sizes[16], count = 0;
    CHECK("a zero stays one beside an element beyond the range", contract_full_tree_network(ttn, &result, sizes, &count) && result &&
                                                                     isinf(result[0].real) && result[1].real == 0 && result[1].imag == 0);
    free(result);
    destroy_tree_tensor_network(ttn);
    /* No term of a sum is beyond the range, but the sum is, until the next product. */
    ttn = network();
    static ComplexFloat left[2048], right[1024];
    for (size_t i = 0; i < 2048; i++) left[i].real = 0x1p60f, right[i / 2].real = 0x1p58f;
    tree_tensor_node_t *long_sum = add_tree_tensor_node(ttn, left, (size_t[]){1024, 2}, 2, false),
                       *partner = add_tree_tensor_node(ttn, right, (size_t[]){1024}, 1, false),
                       *small = add_tree_tensor_node(ttn, (ComplexFloat[]){{0x1p-20f, 0}, {0x1p-20f, 0}}, (size_t[]){2}, 1, false);
    CHECK("joined", unimem_connect_axes(ttn, long_sum, 0, partner, 0) && unimem_connect_axes(ttn, long_sum, 1, small, 0));
    CHECK("a sum may go beyond the range on the way", contract_full_tree_network(ttn, &result, sizes, &count) && result[0].real == 0x1p109f);
    free(result);
    destroy_tree_tensor_network(ttn);
    /* One half of a chain leaves the range, and the other brings the value back to 1: the second is the first's inverse. */
    const ComplexFloat turns[][2] = {{{0.99f, 0.99f}, {0.5050505f, -0.5050505f}}, {{0.2f, 0}, {5, 0}}, {{2.5f, 0}, {0.4f, 0}}, {{0, 0.125f}, {0, -8}}};
    for (size_t t = 0; t < 4 * sizeof turns / sizeof *turns; t++) {
        tree_tensor_node_t *last = NULL;
        size_t side = 1 + t % 2, first = t / 2 % 2;
        ttn = network();
        for (size_t i = 0; i < 600; i++) {
            ComplexFloat z = turns[t / 4][i / 300 ^ first], elements[4] = {z, {0, 0}, {0, 0}, z};
            tree_tensor_node_t *node = add_tree_tensor_node(ttn, elements, (size_t[]){side, side}, 2, false);
            if (last) unimem_connect_axes(ttn, last, 1, node, 0);
            last = node;
        }
        CHECK("half a chain may be beyond the range", contract_full_tree_network(ttn, &result, sizes, &count) && fabsf(result[0].real - 1) < 1e-3f && fabsf(result[0].imag) < 1e-3f);
        free(result);
        destroy_tree_tensor_network(ttn);
    }
    /* Tensors in chunks are not looked at beforehand. The first product is far cheaper than the other, and beyond the range. */
    enum { LONG = 64, SHORT = 4 };
    const float scales[][3] = {{1e-23f, 1e-23f, 1e30f}, {1e23f, 1e23f, 1e-30f}};
    for (size_t s = 0; s < 2; s++) {
        ttn = network();
        tree_tensor_node_t *above = NULL;
        for (size_t i = 0; i < 3; i++) {
            ComplexFloat elements[LONG * SHORT];
            for (size_t k = 0; k < LONG * SHORT; k++) elements[k] = (ComplexFloat){i == 0 && k < LONG ? 0x1p-40f * scales[s][i] : scales[s][i], 0};
            tree_tensor_node_t *node = add_tree_tensor_node(ttn, elements, (size_t[]){i % 2 ? LONG : SHORT, i % 2 ? SHORT : LONG}, 2, true);
            if (above) unimem_connect_axes(ttn, above, 1, node, 0);
            above = node;
        }
        CHECK(s ? "or above it" : "nor is a product of tensors in chunks lost that is below the range on the way",
              contract_full_tree_network(ttn, &result, sizes, &count) && fabsf(result[0].real / (0x1p-40f * LONG * SHORT * (s ? 1e16f : 1e-16f)) - 1) < 1e-4f &&
                  fabsf(result[LONG].real / (LONG * SHORT * (s ? 1e16f : 1e-16f)) - 1) < 1e-4f);
        free(result);
        destroy_tree_tensor_network(ttn);
    }
    /* The large elements of each tensor meet the small ones of the next, so products are far smaller than their operands tell:
     * the two to the left are 2e and 4e, as are the two to the right. Two scalars bring that back. */
    for (size_t hierarchical = 0; hierarchical < 2; hierarchical++) {
        const ComplexFloat falling[] = {{1, 0}, {0x1p-100f, 0}}, rising[] = {{0x1p-100f, 0}, {0x1p-100f, 0}, {1, 0}, {3, 0}},
                           other[] = {{0x1p-100f, 0}, {1, 0}, {0x1p-100f, 0}, {3, 0}}, large = {0x1p100f, 0};
        ttn = network();
        tree_tensor_node_t *line[] = {add_tree_tensor_node(ttn, falling, (size_t[]){2}, 1, hierarchical), add_tree_tensor_node(ttn, rising, (size_t[]){2, 2}, 2, hierarchical),
                                      add_tree_tensor_node(ttn, other, (size_t[]){2, 2}, 2, hierarchical), add_tree_tensor_node(ttn, falling, (size_t[]){2}, 1, hierarchical)};
        bool joined = unimem_connect_axes(ttn, line[0], 0, line[1], 0) && unimem_connect_axes(ttn, line[1], 1, line[2], 0) && unimem_connect_axes(ttn, line[2], 1, line[3], 0);
        for (size_t k = 0; k < 2; k++) joined &= connect_tree_tensor_nodes(ttn, line[0], add_tree_tensor_node(ttn, &large, NULL, 0, false));
        CHECK(hierarchical ? "nor if tensors are in chunks" : "nothing is lost where large elements meet small ones",
              joined && contract_full_tree_network(ttn, &result, sizes, &count) && result[0].real == 20 && result[0].imag == 0);
        free(result);
        destroy_tree_tensor_network(ttn);
    }
    /* So is the product of the first two of these, which is made first. As it is it has few bits. */
    ttn = network();
    ComplexFloat upper[2] = {{0x1.2345p-40f, 0}, {0x1.6789p-100f, 0}}, middle[8] = {{0, 0}}, lower[16] = {{0, 0}};
    for (size_t k = 0; k < 8; k++) middle[k].real = k < 4 ? 0x1.abcdp-100f : 0x1.dcbap-40f;
    for (size_t k = 0; k < 16; k++) lower[k].real = 0x1p60f;
    tree_tensor_node_t *first = add_tree_tensor_node(ttn, upper, (size_t[]){2}, 1, false), *second = add_tree_tensor_node(ttn, middle, (size_t[]){2, 4}, 2, false),
                       *third = add_tree_tensor_node(ttn, lower, (size_t[]){4, 4}, 2, false);
    CHECK("joined", unimem_connect_axes(ttn, first, 0, second, 0) && unimem_connect_axes(ttn, second, 1, third, 0));
    double expected = 0x1p62 * (0x1.2345p-40 * 0x1.abcdp-100 + 0x1.6789p-100 * 0x1.dcbap-40);
    CHECK("nor are the last bits", contract_full_tree_network(ttn, &result, sizes, &count) && fabs((double)result[3].real / expected - 1) < 1e-6);
    free(result);
    destroy_tree_tensor_network(ttn);
    /* 1e30 three times, and 1e-30 twice: their product is 1e30, whatever stands beside them. */
    const float beside[] = {INFINITY, NAN};
    for (size_t b = 0; b < 2; b++) {
        tree_tensor_node_t *last = NULL;
        ttn = network();
        for (size_t i = 0; i < 5; i++) {
            float scale = i < 2 ? 1e-30f : 1e30f;
            ComplexFloat elements[4] = {{scale, 0}, {0, 0}, {0, 0}, {scale, 0}};
            if (i == 4) elements[0].real = beside[b];
            tree_tensor_node_t *node = add_tree_tensor_node(ttn, elements, (size_t[]){2, 2}, 2, false);
            if (last) unimem_connect_axes(ttn, last, 1, node, 0);
            last = node;
        }
        CHECK(b ? "nor because there is a NaN" : "no column overflows because there is an infinity in another",
              contract_full_tree_network(ttn, &result, sizes, &count) && !isfinite(result[0].real) && fabsf(result[3].real - 1e30f) < 1e25f &&
                  result[3].imag == 0 && result[1].real == 0);
        free(result);
        destroy_tree_tensor_network(ttn);
    }
}

int main(void)
{
    memory = unimem_open(NULL);
    far_from_one();
    what_is_written();
    which_axes();
    what_takes_part();
    depth();
    conversion();
    CHECK_EQ("nothing is left", live_in(memory), 0);
    CHECK("the instance closes clean", unimem_close(memory));
    return tap_done();
}
