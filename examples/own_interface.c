/* A memory interface of the program's own, used by a tree tensor network. Here it is malloc with a count. A program
 * that has an allocator already (pinned memory of a GPU, a job's arena) fills in nine functions and keeps its
 * allocator. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unimem.h>
#include <unimem/tree_tensor_network.h>

static size_t live, most, calls;

/* Each block begins with its size. That takes 64 bytes, so that the block stays aligned to 64. */
enum { HEAD = 64 };

static void *own_allocate(size_t size, size_t alignment) {
    if (size == 0 || alignment > HEAD || size > SIZE_MAX - 2 * HEAD) return NULL;
    char *start = aligned_alloc(HEAD, (size + 2 * HEAD - 1) / HEAD * HEAD);
    if (!start) return NULL;
    memcpy(start, &size, sizeof size);
    live += size, calls++;
    if (live > most) most = live;
    return start + HEAD;
}
static size_t size_of(const void *block) {
    size_t size;
    memcpy(&size, (const char *)block - HEAD, sizeof size);
    return size;
}
static void own_free(void *block) {
    if (!block) return;
    live -= size_of(block);
    free((char *)block - HEAD);
}
static void *own_realloc(void *block, size_t size) {
    void *moved = own_allocate(size, 0);
    if (!block) return moved;
    if (moved) memcpy(moved, block, size < size_of(block) ? size : size_of(block));
    if (moved || size == 0) own_free(block);
    return moved;
}
static void *own_geometric(size_t *dimensions, size_t axes) {
    size_t size = 8;
    for (size_t axis = 0; axis < axes; axis++) {
        if (dimensions[axis] == 0 || size > SIZE_MAX / dimensions[axis]) return NULL;
        size *= dimensions[axis];
    }
    return axes ? own_allocate(size, 0) : NULL;
}
/* This memory is neither compressed nor larger than RAM, but it is zeroed, as callers expect. */
static void *zeroed(size_t size) {
    void *block = own_allocate(size, 0);
    return block ? memset(block, 0, size) : NULL;
}
static void *own_hierarchical(size_t size, double tolerance) { return tolerance >= 0 ? zeroed(size) : NULL; }
static void *own_streaming(size_t size, size_t chunk) { return (void)chunk, zeroed(size); }
static bool own_track(void *block, size_t size) { return (void)size, block != NULL; }
static bool own_untrack(void *block) { return block != NULL; }
static void own_stats(memory_stats_t *stats) {
    *stats = (memory_stats_t){.total_allocated = live, .peak_allocated = most, .num_allocations = calls};
}

int main(void) {
    unified_memory_interface_t own = {own_allocate,  own_free,  own_realloc, own_geometric, own_hierarchical,
                                      own_streaming, own_track, own_untrack, own_stats};
    tree_tensor_network_t *network = create_tree_tensor_network(2, 0, 0);
    if (!network) return 1;
    network->memory = &own; /* allocates all tensors from here on */
    const ComplexFloat first[] = {{1, 0}, {2, 0}, {3, 0}, {4, 0}}, second[] = {{0, 1}, {1, 0}, {1, 0}, {0, -1}};
    tree_tensor_node_t *a = add_tree_tensor_node(network, first, (size_t[]){2, 2}, 2, false);
    tree_tensor_node_t *b = add_tree_tensor_node(network, second, (size_t[]){2, 2}, 2, true), *product = NULL;
    if (!a || !b || !unimem_connect_axes(network, a, 1, b, 0) ||
        !contract_tree_tensor_nodes(network, a, b, &product)) {
        fprintf(stderr, "%s\n", unimem_last_error_message());
        return 1;
    }
    memory_stats_t stats;
    own.get_stats(&stats);
    for (size_t i = 0; i < 4; i++)
        printf("%4g%+gi%s", (double)product->data[i].real, (double)product->data[i].imag, i % 2 ? "\n" : "");
    printf("%zu blocks of the program's own memory, %zu bytes at most\n", stats.num_allocations, stats.peak_allocated);
    /* [1 2; 3 4] times [i 1; 1 -i] */
    const ComplexFloat expected[] = {{2, 1}, {1, -2}, {4, 3}, {3, -4}};
    bool right = memcmp(product->data, expected, sizeof expected) == 0 && stats.num_allocations >= 3;
    destroy_tree_tensor_network(network);
    printf("%zu bytes left after the network's end\n", live);
    return !(right && live == 0);
}
