/* test_page_size.c - a system whose pages are not of 4 KiB, as aarch64 kernels may be built: whatever makes a heap fails
 * with one clear error, and nothing else goes wrong. The pages are those of the machine; only what the library is told of
 * them differs, by a sysconf of this program. */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "support.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"

long sysconf(int name) {
    if (name == _SC_PAGESIZE) return 16384;
    long (*real)(int);
    *(void **)&real = dlsym(RTLD_NEXT, "sysconf");
    return real(name);
}

/* Whether the calling thread's last error is the one that such a system gets. */
static bool told(void) {
    return unimem_last_error() == UNIMEM_ERROR_UNSUPPORTED && strstr(unimem_last_error_message(), "4 KiB");
}
/* Puts another error in the place of the last one. */
static void forget(void) {
    unimem_open(&(unified_pool_config_t){.compression_tolerance = -1});
    unimem_close(NULL);
}

static void refused(void) {
    forget();
    CHECK("unimem_open", unimem_open(NULL) == NULL && told());
    forget();
    unified_memory_interface_t *memory = unimem_global();
    CHECK("the global instance, or its first block", (!memory || !memory->allocate(100, 0)) && told());
    forget();
    CHECK("tiered memory of it", !memory || (!memory->allocate_streaming(1 << 20, 0) && told()));
    forget();
    CHECK("a tensor", !memory || (!memory->allocate_geometric((size_t[]){3, 4}, 2) && told()));
    PoolConfig config;
    memset(&config, 0, sizeof config);
    forget();
    CHECK("create_memory_pool", create_memory_pool(&config) == NULL && told());
    forget();
    CHECK("create_memory_system", create_memory_system(&(memory_system_config_t){0}) == NULL && told());
    CHECK("there is no global system", get_global_memory_system() == NULL);
    size_t sizes[] = {2, 2};
    ComplexFloat elements[4] = {{0, 0}};
    forget();
    tree_tensor_network_t *network = create_tree_tensor_network(0, 0, 0);
    tree_tensor_node_t *node = network ? add_tree_tensor_node(network, elements, sizes, 2, false) : NULL;
    CHECK("a tree tensor network, or its first node", node == NULL && told());
    destroy_tree_tensor_network(network);
}

static void *in_thread(void *unused) {
    (void)unused;
    EXPECT(unimem_open(NULL) == NULL && told(), "another thread: %s", unimem_last_error_message());
    return NULL;
}
static int in_child(void *unused) {
    (void)unused;
    return unimem_open(NULL) == NULL && told() ? 0 : 1;
}

int main(void) {
    refused();
    TEST("what needs no heap goes on") {
        int local = 0;
        void *block = malloc(100);
        unified_memory_interface_t *memory = unimem_global();
        EXPECT(!unimem_owns(&local) && !unimem_owns(block) && unimem_usable_size(block) == 0, "a foreign block is owned");
        if (memory) {
            memory_stats_t stats;
            memory->get_stats(&stats);
            memory->free(block);
            EXPECT(!memory->realloc(NULL, 10) && !unimem_can_allocate(memory, 10), "memory after all");
            unimem_trim(memory);
        }
        track_memory_block(block);
        EXPECT(is_memory_block_tracked(block) && untrack_memory_block(block), "the singleton does not track");
        EXPECT(unimem_fault_mechanism() && unimem_version(), "no text");
        free(block);
    }
    TEST("in other threads and forked children too") {
        run_threads(2, in_thread);
        int result = run_in_child(in_child, NULL, 60);
        EXPECT(result == 0, "the child returned %d", result);
    }
    return tap_done();
}
