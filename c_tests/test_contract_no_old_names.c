/* test_contract_no_old_names.c - UNIMEM_NO_OLD_NAMES with tree_tensor_network.h, before a memory_pool.h and without one. */
#define UNIMEM_NO_OLD_NAMES
#include "unimem/tree_tensor_network.h"

#include "unimem/memory_pool.h"

#include "tap.h"

int main(void) {
    PoolConfig config = {.enable_stats = true};
    MemoryPool *pool = create_memory_pool(&config);
    tree_tensor_network_t *network = create_tree_tensor_network(0, 0, 0);
    CHECK("set_memory_pool takes memory_pool.h's MemoryPool", set_memory_pool(network, pool));
    CHECK("a node is in the pool",
          add_tree_tensor_node(network, NULL, (size_t[]){8}, 1, false) && get_total_allocated(pool) >= 64);
    destroy_tree_tensor_network(network);
    CHECK_EQ("and leaves it with the network", get_total_allocated(pool), 0);
    destroy_memory_pool(pool);
    return tap_done();
}
