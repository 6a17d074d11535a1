/* test_tree_failures.c - the tree tensor network on a table of the program's own C functions, which fails the n-th
 * allocation, for every n. Each call must then return false or NULL, leak nothing, and leave the network as it was. */
#define _GNU_SOURCE
#include "unimem/tree_tensor_network.h"

#include "trees.h"

static struct { size_t live, made, fail_at; } table_state = {0, 0, SIZE_MAX};

/* Stands before each block, so that a block of another table is noticed. */
typedef struct { size_t magic; char room[56]; } mark_t;

static void *own_allocate(size_t size, size_t alignment)
{
    if (table_state.made++ >= table_state.fail_at || alignment > 64) return NULL;
    mark_t *mark = aligned_alloc(64, (sizeof *mark + size + 63) / 64 * 64);
    if (!mark) return NULL;
    *mark = (mark_t){.magic = 0x600D};
    memset(mark + 1, 0xA5, size);
    table_state.live++;
    return mark + 1;
}
static void own_free(void *block)
{
    mark_t *mark = (mark_t *)block - 1;
    if (mark->magic != 0x600D) abort();
    mark->magic = 0xDEAD;
    table_state.live--;
    free(mark);
}
static void *own_hierarchical(size_t size, double tolerance) { return tolerance < 0 ? NULL : own_allocate(size, 64); }

static unified_memory_interface_t table = {.allocate = own_allocate, .free = own_free, .allocate_hierarchical = own_hierarchical};

/* What is failed: a call on a network that `prepare` made. */
typedef struct {
    const char *name;
    bool (*call)(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes);
} operation_t;

static tree_tensor_network_t *prepare(tree_tensor_node_t **nodes)
{
    static ComplexFloat elements[64];
    for (size_t i = 0; i < 64; i++) elements[i] = (ComplexFloat){(float)(i % 7) - 3, (float)(i % 5)};
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = &table;
    for (size_t i = 0; i < 8; i++) nodes[i] = add_tree_tensor_node(ttn, elements, (size_t[]){2, 4, 4}, 3, i % 2);
    nodes[8] = add_tree_tensor_node(ttn, NULL, (size_t[]){4, 4, 4, 4}, 4, false);
    for (size_t i = 1; i < 5; i++) connect_tree_tensor_nodes(ttn, nodes[(i - 1) / 2], nodes[i]);
    return ttn;
}

static bool add(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    return nodes[0] && add_tree_tensor_node(ttn, NULL, (size_t[]){5, 5}, 2, true);
}
static bool connect(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    return connect_tree_tensor_nodes(ttn, nodes[6], nodes[7]);
}
static bool pair(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    tree_tensor_node_t *result;
    return contract_tree_tensor_nodes(ttn, nodes[0], nodes[1], &result);
}
static bool whole(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    ComplexFloat *result = NULL;
    size_t count;
    bool done = nodes[0] && contract_full_tree_network(ttn, &result, NULL, &count);
    free(result);
    return done;
}
static bool stream(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    tensor_stream_t *made = create_tensor_stream(ttn, nodes[0], 7);
    bool done = made && stream_next_chunk(made);
    destroy_tensor_stream(made);
    return done;
}
static bool adapt(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    return nodes[0] && adapt_bond_dimensions(ttn, 0.01);
}
static bool join(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    return unimem_connect_axes(ttn, nodes[6], 1, nodes[7], 2);
}
static bool cost(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    double flops, peak;
    return nodes[0] && unimem_contraction_cost(ttn, &flops, &peak);
}
/* Into a node apart, whose elements are undefined after a failure. */
static bool streams(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    tensor_stream_t *left = create_tensor_stream(ttn, nodes[0], 7), *right = create_tensor_stream(ttn, nodes[1], 5), *out = create_tensor_stream(ttn, nodes[8], 3);
    bool done = left && right && out && contract_tensor_streams(left, right, out);
    destroy_tensor_stream(left);
    destroy_tensor_stream(right);
    destroy_tensor_stream(out);
    return done;
}
/* To a general network, whose blocks are malloc's, and back. */
static bool convert(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    tensor_network_t *general = NULL;
    tree_tensor_network_t *tree = NULL;
    bool done = nodes[0] && convert_tree_to_tensor_network(ttn, &general) && convert_tensor_network_to_tree(general, &tree);
    destroy_tree_tensor_network(tree);
    if (general) free_network(general);
    return done;
}
static bool optimise(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    return nodes[0] && optimize_tree_structure(ttn);
}

/* All that C can see of a network. */
static unsigned long fingerprint(tree_tensor_network_t *ttn, tree_tensor_node_t **nodes)
{
    unsigned long sum = 5381 + ttn->num_nodes + (uintptr_t)ttn->root;
    for (size_t i = 0; i < 8; i++) {
        tree_tensor_node_t *node = nodes[i];
        size_t count = 1;
        sum = sum * 33 + node->rank + node->num_children + (uintptr_t)node->parent + node->is_leaf;
        for (size_t k = 0; k < node->num_children; k++) sum = sum * 33 + (uintptr_t)node->children[k];
        for (size_t k = 0; k < node->num_dimensions; k++) sum = sum * 33 + node->dimensions[k], count *= node->dimensions[k];
        const unsigned char *bytes = (const unsigned char *)node->data;
        for (size_t k = 0; k < count * sizeof *node->data; k++) sum = sum * 33 + bytes[k];
    }
    return sum;
}

/* A network says why its memory gave none, and uses what there is. */
static void reasons(void)
{
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = 32 * MIB, .enable_growth = true});
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    tree_tensor_node_t *a = add_tree_tensor_node(ttn, NULL, (size_t[]){8, 1 << 16}, 2, false), *result = NULL; /* 4 MiB */
    tree_tensor_node_t *b = add_tree_tensor_node(ttn, NULL, (size_t[]){1 << 16, 16}, 2, false);                /* 8 MiB */
    CHECK("where streaming is not enabled large tensors are plain", a && b && contract_tree_tensor_nodes(ttn, a, b, &result));
    CHECK("what does not fit is out of memory", !add_tree_tensor_node(ttn, NULL, (size_t[]){1 << 23}, 1, false) &&
                                                    unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY);
    const double bad[] = {NAN, INFINITY, -1};
    TEST("a tolerance that was set to no number of at least 0 is an invalid argument")
        for (size_t i = 0; i < 3; i++) {
            ttn->tolerance = bad[i];
            size_t nodes = ttn->num_nodes;
            EXPECT(!add_tree_tensor_node(ttn, NULL, (size_t[]){5}, 1, true), "a node at tolerance %g", bad[i]);
            EXPECT(unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT && ttn->num_nodes == nodes, "%g: error %d", bad[i],
                   (int)unimem_last_error());
            EXPECT(add_tree_tensor_node(ttn, NULL, (size_t[]){5}, 1, false), "no plain node at tolerance %g", bad[i]);
        }
    destroy_tree_tensor_network(ttn);
    CHECK("closed", unimem_close(memory));

    const char *before = getenv("UNIMEM_SPILL_DIR");
    setenv("UNIMEM_SPILL_DIR", "/nonexistent/directory", 1);
    memory = unimem_open(&(unified_pool_config_t){.max_size = 4 * MIB, .enable_growth = true, .enable_streaming = true});
    ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    CHECK("a disk that fails is an input/output error", !add_tree_tensor_node(ttn, NULL, (size_t[]){1 << 21}, 1, false) &&
                                                            unimem_last_error() == UNIMEM_ERROR_IO);
    CHECK("and its message says what it was", strstr(unimem_last_error_message(), "spill"));
    destroy_tree_tensor_network(ttn);
    CHECK("closed", unimem_close(memory));
    if (before) setenv("UNIMEM_SPILL_DIR", before, 1); else unsetenv("UNIMEM_SPILL_DIR");
}

int main(void)
{
    reasons();
    const operation_t operations[] = {{"add a node", add}, {"connect", connect}, {"contract a pair", pair}, {"contract the tree", whole}, {"stream", stream}, {"adapt", adapt}, {"connect axes", join}, {"streams", streams}, {"optimise", optimise}, {"cost", cost}, {"convert", convert}};
    for (size_t o = 0; o < sizeof operations / sizeof *operations; o++) {
        char name[80];
        snprintf(name, sizeof name, "%s: every failing allocation", operations[o].name);
        tree_tensor_node_t *nodes[9];
        tree_tensor_network_t *ttn = prepare(nodes);
        CHECK("a node without elements is zero, whatever was in its memory", all_zero(nodes[8]->data, 256 * sizeof *nodes[8]->data));
        size_t failures = 0;
        TEST(name) {
            bool failed = true;
            for (size_t n = 0; failed && EXPECT(n < 1000, "there is no end to its allocations"); n++) {
                size_t live = table_state.live, made = table_state.made;
                unsigned long before = fingerprint(ttn, nodes);
                table_state.fail_at = made + n;
                bool done = operations[o].call(ttn, nodes);
                failed = table_state.made > table_state.fail_at;
                table_state.fail_at = SIZE_MAX;
                EXPECT(done != failed, "allocation %zu failed: %d, the call: %d", n, failed, done);
                if (!failed) break;
                failures++;
                EXPECT(unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "allocation %zu: error %d", n, unimem_last_error());
                EXPECT(table_state.live == live, "allocation %zu: %zu blocks, were %zu", n, table_state.live, live);
                EXPECT(fingerprint(ttn, nodes) == before, "allocation %zu changed the network", n);
            }
        }
        printf("# %zu allocations failed\n", failures);
        bool in_table = operations[o].call != optimise && operations[o].call != cost && operations[o].call != convert;
        CHECK(in_table ? "there was something to fail" : "nothing of it is in the table", (failures > 0) == in_table);
        destroy_tree_tensor_network(ttn);
        CHECK_EQ("all blocks went back", table_state.live, 0);
    }
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    unified_memory_interface_t empty;
    memset(&empty, 0, sizeof empty);
    ttn->memory = &empty;
    CHECK("a table without functions is refused", !add_tree_tensor_node(ttn, NULL, (size_t[]){2}, 1, false));
    ttn->memory = NULL;
    CHECK("so is none", !add_tree_tensor_node(ttn, NULL, (size_t[]){2}, 1, false));
    destroy_tree_tensor_network(ttn);
    return tap_done();
}
