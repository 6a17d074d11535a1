/* swap_main.c - one program for every mixture of legacy C files and libunimem. swap.sh builds and runs all mixtures.
 *
 *   swap_main RCRR     memory_pool from libunimem (R), advanced_memory_system from C, memory_singleton and
 *                      tree_tensor_network from libunimem
 *
 * The program must see the same results whoever answers. The counters of the stand-ins and unimem_owns() show who
 * did. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"
#include "legacy/legacy.h"
#include "support.h"

static bool pool_is_c, system_is_c, singleton_is_c, network_is_c;

static void check_pool(void) {
    struct PoolConfig config = {.num_size_classes = 32, .thread_cache_size = 64, .enable_stats = true};
    MemoryPool *pool = create_memory_pool(&config);
    unsigned char *block = pool_allocate(pool, 100);
    CHECK("the pool is the one the link chose", pool && block && unimem_owns(block) == !pool_is_c);
    if (pool_is_c)
        CHECK_EQ("the C pool served the call", legacy_pool_calls(), 1);
    CHECK_EQ("a pool's blocks are aligned to 64", (uintptr_t)block % 64, 0);
    const Block *header = (const Block *)(const void *)block - 1;
    CHECK("a header ends where the block begins", header->magic == 0xDEADBEEF && header->data == block &&
                                                      header->size >= 128 && !header->is_free);
    CHECK_EQ("live bytes are exact", get_total_allocated(pool), 100);
    CHECK("total_size is readable", pool->total_size >= 128);
    CHECK("the interface takes libunimem's pools alone", (unimem_pool_interface(pool) != NULL) == !pool_is_c);
    pool_free(pool, block);
    CHECK_EQ("nothing is live", get_total_allocated(pool), 0);
    CHECK_EQ("the peak stays", get_peak_allocated(pool), 100);
    CHECK_EQ("allocations are counted", get_num_allocations(pool), 1);
    CHECK("a NULL configuration is refused", !create_memory_pool(NULL));
    destroy_memory_pool(pool);
}

static void check_blocks(advanced_memory_system_t *system) {
    unsigned char *block = memory_allocate(system, 1000, 48);
    CHECK("the system is the one the link chose", block && unimem_owns(block) == !system_is_c);
    if (system_is_c)
        CHECK_EQ("the C system served the call", legacy_system_calls(), 1);
    CHECK("memory is zeroed, its alignment rounded up", all_zero(block, 1000) && (uintptr_t)block % 64 == 0);
    memset(block, 7, 1000);
    block = memory_reallocate(system, block, 5000);
    CHECK("reallocation keeps the contents", block && block[0] == 7 && block[999] == 7);
    CHECK_EQ("the size is exact", get_allocation_size(system, block), 5000);
    block_info_t info;
    CHECK("the block is known", get_block_info(system, block, &info) && info.size == 5000 && !info.pool);
    memory_metrics_t metrics;
    CHECK("metrics are history", get_memory_metrics(system, &metrics) && metrics.current_usage == 5000 &&
                                     metrics.total_freed == 1000 && metrics.allocation_count == 2);
    CHECK("a good block is sound", check_memory_corruption(system, block));
    void *foreign = malloc(64);
    memory_free(system, foreign);
    CHECK_EQ("a foreign pointer is ignored", get_allocation_size(system, block), 5000);
    free(foreign);
    CHECK("the interface takes libunimem's systems alone",
          (unimem_system_interface(system) != NULL) == !system_is_c);
    memory_free(system, block);
    CHECK("the block is gone", !validate_memory_block(system, block));
}

static void check_system_pool(advanced_memory_system_t *system) {
    pool_config_t config = {.pool_size = 1 << 20, .enable_growth = true};
    void *pool = ams_create_memory_pool(system, &config);
    unsigned char *block = ams_pool_allocate(system, pool, 300);
    CHECK("a system's pool gives zeroed memory", block && all_zero(block, 300));
    size_t dimensions[] = {4, 5, 6};
    MemoryLayout *layout = create_memory_layout(pool, dimensions, 3, GEOMETRIC_STATE_KAHLER);
    CHECK("the first dimension runs fastest", layout && layout->strides[0] == 1 && layout->strides[1] == 4 &&
                                                  layout->strides[2] == 20 && layout->total_size == 128);
    MemoryBuffer *buffer = create_memory_buffer(pool, 100, true, false, HARDWARE_TYPE_GPU);
    CHECK("a buffer has the mirrors asked for", buffer && buffer->gpu_ptr && !buffer->quantum_ptr);
    memset(buffer->cpu_ptr, 9, 100);
    memory_transfer(buffer, GEOMETRIC_STATE_EUCLIDEAN);
    CHECK("a transfer reaches the mirror", memcmp(buffer->cpu_ptr, buffer->gpu_ptr, 100) == 0);
    ams_pool_free(system, pool, block);
    CHECK("a freed block is not valid", !validate_memory_block(system, block));
    ams_destroy_memory_pool(system, pool);
}

static void check_tracking(advanced_memory_system_t *system) {
    void *block = safe_memory_allocate(system, 256, 64);
    CHECK("the singleton asks the program's system", block && unimem_owns(block) == !system_is_c);
    CHECK("its blocks are tracked", is_memory_block_tracked(block));
    static char addresses[3000];
    bool all = true;
    for (size_t i = 0; i < sizeof addresses; i++)
        all = track_memory_block(addresses + i) && all;
    for (size_t i = 0; i < sizeof addresses; i++)
        all = untrack_memory_block(addresses + i) && all;
    CHECK("3000 more can be", all && !is_memory_block_tracked(addresses));
    safe_memory_free(system, addresses);
    safe_memory_free(system, block);
    CHECK("a tracked block is freed", !is_memory_block_tracked(block) && !validate_memory_block(system, block));
}

/* A network takes libunimem's pools alone: one that legacy C made is refused, not read. */
static void check_pool_of_network(void) {
    MemoryPool *pool = create_memory_pool(&(struct PoolConfig){.enable_stats = true});
    tree_tensor_network_t *network = create_tree_tensor_network(2, 8, 0.0);
    CHECK("the network takes the pool if it is libunimem's", set_memory_pool(network, pool) == !pool_is_c);
    size_t vector[] = {3};
    CHECK("and goes on", add_tree_tensor_node(network, NULL, vector, 1, false) &&
                             (pool_is_c || get_total_allocated(pool) >= 24));
    destroy_tree_tensor_network(network);
    destroy_memory_pool(pool);
}

static void check_network(void) {
    tree_tensor_network_t *network = create_tree_tensor_network(2, 8, 0.0);
    ComplexFloat weights[6] = {{1, 0}, {2, 0}, {3, 0}, {0, 1}, {0, 2}, {0, 3}}, inputs[3] = {{1, 0}, {10, 0}, {0, 100}};
    size_t matrix[] = {2, 3}, vector[] = {3}, dims[16], rank = 0;
    tree_tensor_node_t *parent = add_tree_tensor_node(network, weights, matrix, 2, false);
    tree_tensor_node_t *child = add_tree_tensor_node(network, inputs, vector, 1, false), *product = NULL;
    CHECK("the network is the one the link chose", parent && child && unimem_owns(parent->data) == !network_is_c);
    CHECK("its nodes can be walked", network->root == parent && network->num_nodes == 2);
    CHECK("two nodes are joined", connect_tree_tensor_nodes(network, parent, child) &&
                                      !connect_tree_tensor_nodes(network, parent, parent));
    CHECK("a product of two nodes is right",
          contract_tree_tensor_nodes(network, parent, child, &product) && product->num_dimensions == 1 &&
              product->data[0].real == 21 && product->data[0].imag == 300 && product->data[1].real == -300 &&
              product->data[1].imag == 21);
    ComplexFloat *whole = NULL;
    CHECK("so is the product of the tree", contract_full_tree_network(network, &whole, dims, &rank) && rank == 1 &&
                                               dims[0] == 2 && whole[0].imag == 300 && whole[1].real == -300);
    free(whole);
    tensor_stream_t *stream = create_tensor_stream(network, parent, 4);
    CHECK("a stream reads a node piece by piece", stream && stream_next_chunk(stream) && stream->buffer[3].imag == 1 &&
                                                      stream_next_chunk(stream) && stream->current_offset == 6 &&
                                                      !stream_next_chunk(stream));
    destroy_tensor_stream(stream);
    if (network_is_c)
        CHECK("the C network served the calls", legacy_network_calls() >= 3);
    destroy_tree_tensor_network(network);
}

int main(int count, char **arguments) {
    const char *mixture = count > 1 ? arguments[1] : "RRRR";
    pool_is_c = mixture[0] == 'C', system_is_c = mixture[1] == 'C', singleton_is_c = mixture[2] == 'C';
    network_is_c = mixture[3] == 'C';
    CHECK("the program holds the mixture", (legacy_pool_calls != NULL) == pool_is_c &&
                                               (legacy_system_calls != NULL) == system_is_c &&
                                               (legacy_singleton_calls != NULL) == singleton_is_c &&
                                               (legacy_network_calls != NULL) == network_is_c);
    check_pool();

    check_network();
    if (!network_is_c) check_pool_of_network();

    CHECK("there is no system yet", !get_global_memory_system() && !create_memory_system(NULL));
    memory_system_config_t config = {.total_size = 1 << 20, .alignment = 64};
    advanced_memory_system_t *system = create_memory_system(&config);
    CHECK("a system registers with the program's singleton", system && get_global_memory_system() == system);
    CHECK("the second one is the first", create_memory_system(NULL) == system);
    if (singleton_is_c)
        CHECK_EQ("the C singleton served both calls", legacy_singleton_calls(), 2);
    check_blocks(system);
    check_system_pool(system);
    check_tracking(system);

    CHECK("a block is left behind", safe_memory_allocate(system, 64, 0) != NULL);
    destroy_memory_system(system);
    CHECK("one reference keeps it", get_global_memory_system() == system);
    destroy_memory_system(system);
    CHECK("the last one ends it", !get_global_memory_system());
    if (singleton_is_c) /* libunimem's system takes its blocks with it, rather than have C call free() on them */
        CHECK_EQ("C is left with what C allocated", legacy_singleton_leaks(), system_is_c);
    else
        CHECK("nothing is tracked any more", !is_memory_block_tracked(system));
    return tap_done();
}
