/* test_own_environment.c - code of the program that a network calls: its own memory, its log. It runs in the program's own
 * floating-point environment. */
#define _GNU_SOURCE

#include <fenv.h>

#include "tap.h"
#include "trees.h"

static size_t calls, in_another;
/* Not fegetround(), which on x86-64 asks another register than the one with which the library computes. */
static void look(void) {
    volatile float one = 1, little = 1e-20f;
    calls++;
    in_another += !(one + little > one);
}
static void *allocate(size_t size, size_t alignment) {
    look();
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}
static void *allocate_hierarchical(size_t size, double tolerance) {
    (void)tolerance;
    return allocate(size, 64);
}
static void release(void *block) {
    look();
    free(block);
}
static void *allocate_for_stream(size_t size, size_t chunk) {
    (void)chunk;
    return allocate(size, 64);
}

int main(void) {
    static unified_memory_interface_t table = {.allocate = allocate,
                                               .free = release,
                                               .allocate_hierarchical = allocate_hierarchical,
                                               .allocate_streaming = allocate_for_stream};
    enum { SIDE = 40 };
    random_t random = {3};
    ComplexFloat *elements = random_elements(&random, SIDE * SIDE);
    if (fesetround(FE_UPWARD) != 0) {
        SKIP("a network's own memory", "this processor does not round upwards");
        return tap_done();
    }
    TEST("a network's own memory is called in the program's floating-point environment") {
        tree_tensor_network_t *network = create_tree_tensor_network(0, 0, 0);
        network->memory = &table;
        tree_tensor_node_t *nodes[4] = {NULL}, *result = NULL;
        for (size_t i = 0; i < 4; i++) {
            nodes[i] = add_tree_tensor_node(network, elements, (size_t[]){SIDE, SIDE}, 2, i == 3);
            EXPECT(nodes[i] && (!i || unimem_connect_axes(network, nodes[i - 1], 1, nodes[i], 0)), "node %zu: %s", i,
                   unimem_last_error_message());
        }
        EXPECT(contract_tree_tensor_nodes(network, nodes[0], nodes[1], &result), "%s", unimem_last_error_message());
        EXPECT(adapt_bond_dimensions(network, 0.5), "%s", unimem_last_error_message());
        destroy_tree_tensor_network(network);
        EXPECT(calls > 8 && in_another == 0, "%zu of %zu calls were in another one", in_another, calls);
        EXPECT(fegetround() == FE_UPWARD, "it has changed");
    }
    free(elements);
    return tap_done();
}
