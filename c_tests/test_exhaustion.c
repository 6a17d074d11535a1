/* test_exhaustion.c - when the system has no more memory. Every call must fail with an error and lose nothing; when
 * there is memory again everything must work. Each test is a child, nearly all with little address space left. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"

#include "surfaces.h"
#include "tap.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

/* Lets this process map at most `bytes` more than it has mapped now. */
static void leave(size_t bytes) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%lu", &pages) != 1) exit(EXIT_FAILURE);
    fclose(file);
    struct rlimit limit = {0, 0};
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = pages * (size_t)sysconf(_SC_PAGESIZE) + bytes;
    setrlimit(RLIMIT_AS, &limit);
}

static void leave_no_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_AS, &limit);
}

static bool open_all(void) {
    memory = unimem_open(NULL);
    pool = create_memory_pool(&(PoolConfig){.enable_stats = true});
    memory_system = create_memory_system(&(memory_system_config_t){0});
    return memory && pool && memory_system;
}

/* Allocates until there is no more; the blocks, linked through their first words. */
static void **fill_up(const surface_t *surface, size_t size, size_t *count) {
    void **newest = NULL;
    for (*count = 0;; ++*count) {
        void **block = surface->allocate(size);
        if (!block) return newest;
        pattern_fill(block, sizeof *block, size < 256 ? size : 256, size);
        *block = newest;
        newest = block;
    }
}

static void free_chain(const surface_t *surface, size_t size, void **newest) {
    while (newest) {
        void **older = *newest;
        EXPECT(pattern_holds(newest, sizeof *newest, size < 256 ? size : 256, size), "%s: a block of %zu bytes changed",
               surface->name, size);
        surface->free(newest);
        newest = older;
    }
}

static int fill_and_free(void *argument) {
    const surface_t *surface = argument;
    if (!open_all()) return 2;
    leave(256 * MIB);
    size_t first_count = 0;
    static const size_t sizes[] = {MIB, 64, 100000, 3 * MIB, 5000, 300, MIB};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t size = sizes[s], count;
        (void)memory->allocate(1, 3);
        void **chain = fill_up(surface, size, &count);
        EXPECT(unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "%s, %zu bytes: error %d, expected out of memory",
               surface->name, size, (int)unimem_last_error());
        size_t header = surface == &surfaces[1] ? 128 : 0; /* before each block of a pool */
        EXPECT(count * (size + header) >= 100 * MIB, "%s, %zu bytes: only %zu KiB of 256 MiB could be had", surface->name, size,
               count * size / KIB);
        if (s == 0) first_count = count;
        void *kept = chain;
        if (surface == &surfaces[0] && chain)
            EXPECT(memory->realloc(chain, size * 100 + 300 * MIB) == NULL && unimem_owns(kept),
                   "realloc beyond what there is");
        free_chain(surface, size, chain);
        if (s + 1 == sizeof sizes / sizeof sizes[0])
            /* Side arrays of spans that were, and gaps between blocks, keep some of the address space. */
            EXPECT(count * 2 >= first_count, "%s: %zu blocks at first, %zu at the end", surface->name,
                   first_count, count);
    }
    EXPECT(stats_of(memory).total_allocated == 0 && get_total_allocated(pool) == 0, "something is live");
    leave_no_limit();
    void *big = surface->allocate(512 * MIB);
    EXPECT(big != NULL, "%s: 512 MiB when there is memory again: %s", surface->name, unimem_last_error_message());
    surface->free(big);
    return tap.misses != 0;
}

static int start_with_little(void *argument) {
    (void)argument;
    leave(64 * MIB); /* before the library is called for the first time */
    if (!open_all()) return 2;
    for (size_t s = 0; s < 3; s++) {
        void *block = surfaces[s].allocate(5 * MIB), *small = surfaces[s].allocate(100);
        EXPECT(block && small, "%s: no block with 64 MiB of address space: %s", surfaces[s].name,
               unimem_last_error_message());
        surfaces[s].free(block);
        surfaces[s].free(small);
    }
    return tap.misses != 0;
}

static int track_without_end(void *argument) {
    bool (*const track)(void *) = argument ? track_memory_block : NULL;
    bool (*const untrack)(void *) = argument ? untrack_memory_block : NULL;
    char *base = (char *)((uintptr_t)1 << 44);
    size_t count = 0, lost = 0;
    if (!open_all()) return 2;
    leave(64 * MIB);
    (void)memory->allocate(1, 3);
    while (count < 100000000 && (track ? track(base + count * 16) : memory->track_allocation(base + count * 16, 1)))
        count++;
    EXPECT(unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "error %d after %zu blocks, expected out of memory",
           (int)unimem_last_error(), count);
    EXPECT(count >= 100000, "only %zu blocks could be tracked", count);
    for (size_t i = 0; i < count; i++)
        lost += untrack ? !untrack(base + i * 16) : !memory->untrack_allocation(base + i * 16);
    EXPECT(lost == 0, "%zu of %zu blocks were lost", lost, count);
    EXPECT(track ? track(base) : memory->track_allocation(base, 1), "nothing can be tracked when there is room again");
    return tap.misses != 0;
}

/* Everything there is, with no memory at all: nothing may crash; what fails, fails with an error. */
static void *call_everything(void *argument) {
    size_t dimensions[] = {64, 64};
    unimem_layout_t layout;
    memory_metrics_t metrics;
    block_info_t info;
    double level;
    for (int round = 0; round < 3; round++) {
        void *blocks[] = {memory->allocate(40 * MIB, 0),
                          memory->allocate(70000, 0),
                          memory->allocate(64, 1 << 20),
                          memory->allocate_geometric(dimensions, 2),
                          memory->allocate_hierarchical(3 * MIB, 0.0),
                          memory->allocate_streaming(3 * MIB, 0)};
        for (size_t i = 0; i < 6; i++) {
            (void)unimem_layout(blocks[i], &layout);
            if (blocks[i]) unimem_retain(blocks[i]);
            memory->free(blocks[i]);
            if (blocks[i] && unimem_owns(blocks[i])) memory->free(blocks[i]);
        }
        void *of_pools[] = {pool_allocate(pool, 64), pool_allocate(pool, 5 * MIB),
                            memory_allocate(memory_system, 100000, 64), safe_memory_allocate(memory_system, 5000, 64)};
        pool_free(pool, of_pools[0]), pool_free(pool, of_pools[1]);
        memory_free(memory_system, of_pools[2]), safe_memory_free(memory_system, of_pools[3]);
        unified_memory_interface_t *own = unimem_open(NULL);
        if (own) unimem_close(own);
        MemoryPool *own_pool = create_memory_pool(&(PoolConfig){.enable_stats = true});
        if (own_pool) pool_free(own_pool, pool_allocate(own_pool, 64));
        destroy_memory_pool(own_pool);
        void *system_pool = ams_create_memory_pool(memory_system, &(pool_config_t){.enable_growth = true});
        if (system_pool) {
            (void)create_memory_layout(system_pool, dimensions, 2, GEOMETRIC_STATE_CUSTOM);
            (void)create_memory_buffer(system_pool, 5000, true, true, HARDWARE_TYPE_CPU);
            ams_destroy_memory_pool(memory_system, system_pool);
        }
        (void)stats_of(memory);
        get_memory_metrics(memory_system, &metrics);
        analyze_fragmentation(memory_system, &level);
        get_block_info(memory_system, &info, &info);
        start_defragmentation(memory_system, &(defrag_config_t){.compact_pools = true});
        unimem_report_leaks(memory, NULL, NULL);
        unimem_can_allocate(memory, MIB);
        unimem_trim(memory);
        (void)unimem_last_error_message();
    }
    return argument;
}

static int go_on_with_nothing(void *argument) {
    if (!open_all()) return 2;
    pthread_t thread;
    (void)argument;
    void *kept = memory->allocate(1000, 0);
    pattern_fill(kept, 0, 1000, 1);
    leave(12 * MIB); /* for the thread's stack */
    if (pthread_create(&thread, NULL, call_everything, NULL) == 0) pthread_join(thread, NULL);
    leave(0);
    call_everything(NULL);
    EXPECT(pattern_holds(kept, 0, 1000, 1), "a live block changed");
    leave_no_limit();
    call_everything(NULL);
    for (size_t s = 0; s < 3; s++) {
        void *block = surfaces[s].allocate(10 * MIB);
        EXPECT(block != NULL, "%s: no block when there is memory again: %s", surfaces[s].name,
               unimem_last_error_message());
        surfaces[s].free(block);
    }
    memory->free(kept);
    EXPECT(stats_of(memory).total_allocated == 0 && get_total_allocated(pool) == 0,
           "live at the end: interface %zu, pool %zu", stats_of(memory).total_allocated, get_total_allocated(pool));
    EXPECT(unimem_close(memory), "the instance does not close clean");
    destroy_memory_pool(pool);
    destroy_memory_system(memory_system);
    return tap.misses != 0;
}

/* Four times what the machine has, where the system refuses such a malloc: NULL, and not a program killed later, when
 * it writes. 0: no such machine. */
static size_t more_than_there_is(void) {
    struct sysinfo machine;
    FILE *file = fopen("/proc/sys/vm/overcommit_memory", "r");
    bool asks = file && fgetc(file) == '0';
    if (file) fclose(file);
    if (!asks || sysinfo(&machine) != 0) return 0;
    return ((size_t)machine.totalram + machine.totalswap) * machine.mem_unit * 4;
}
static int more_than_the_machine(void *argument) {
    size_t size = *(size_t *)argument;
    if (!open_all()) return 2;
    for (size_t s = 0; s < 3; s++) {
        (void)memory->allocate(1, 3);
        EXPECT(!surfaces[s].allocate(size) && unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "%s: %zu bytes: error %d",
               surfaces[s].name, size, (int)unimem_last_error());
    }
    char *block = memory->allocate(5 * MIB, 0);
    pattern_fill(block, 0, 5 * MIB, 7);
    EXPECT(!memory->realloc(block, size) && unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "a block grows to %zu bytes", size);
    EXPECT(unimem_usable_size(block) == 5 * MIB && pattern_holds(block, 0, 5 * MIB, 7), "the block changed");
    memory->free(block);
    if (tap.misses) return 1; /* the next call would write it all */
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    EXPECT(!add_tree_tensor_node(ttn, NULL, (size_t[]){size / 8}, 1, false) && ttn->num_nodes == 0, "a tensor of %zu bytes", size);
    destroy_tree_tensor_network(ttn);
    EXPECT(unimem_close(memory), "something is live");
    return tap.misses != 0;
}
/* What is refused so costs nothing: no chunk leaves for it, and no more is kept afterwards. */
static int refused_for_nothing(void *argument) {
    enum { BLOCKS = 32 };
    size_t size = *(size_t *)argument;
    unified_pool_config_t config = {.max_size = 4 * size, .enable_growth = true, .enable_streaming = true};
    memory = unimem_open(&config);
    char *tiered = memory->allocate_streaming(64 * MIB, MIB);
    unimem_residency_t before, after;
    for (size_t i = 0; i < 64; i++) tiered[i * MIB] = 1;
    EXPECT(unimem_residency(tiered, &before), "no residency");
    EXPECT(!memory->allocate(size, 0) && strstr(unimem_last_error_message(), "the system"), "%s", unimem_last_error_message());
    EXPECT(unimem_residency(tiered, &after) && after.hot_bytes == before.hot_bytes, "%zu of %zu bytes stayed", (size_t)after.hot_bytes, (size_t)before.hot_bytes);
    void *blocks[BLOCKS], *between[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = memory->allocate(8 * MIB, 0);
        between[i] = memory->allocate(2 * MIB, 0);
    }
    size_t most = unimem_held_bytes(memory);
    for (size_t i = 0; i < BLOCKS; i++) memory->free(blocks[i]);
    void *large = memory->allocate(8 * MIB * BLOCKS, 0);
    EXPECT(large && unimem_held_bytes(memory) <= most + 16 * MIB + held_back(), "%zu bytes held, %zu before", unimem_held_bytes(memory), most);
    memory->free(large);
    for (size_t i = 0; i < BLOCKS; i++) memory->free(between[i]);
    memory->free(tiered);
    void *aligned = memory->allocate(size / 4 - 512 * MIB, 1024 * MIB);
    EXPECT(aligned, "what fits does not where it is aligned: %s", unimem_last_error_message());
    memory->free(aligned);
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    /* A seventh of the machine is much, whatever the limit. A disk may have no room for it. */
    tree_tensor_node_t *node = add_tree_tensor_node(ttn, NULL, (size_t[]){size / 28 / 8}, 1, false);
    EXPECT(node ? unimem_chunk_count(node->data) > 1 : unimem_last_error() == UNIMEM_ERROR_IO, "a large tensor: %s", unimem_last_error_message());
    destroy_tree_tensor_network(ttn);
    EXPECT(unimem_close(memory), "something is live");
    return tap.misses != 0;
}

int main(void) {
    char name[120];
    if (UNDER_SANITIZER) {
        SKIP("no more memory", "a sanitizer needs the address space itself");
        return tap_done();
    }
    for (size_t s = 0; s < 3; s++) {
        snprintf(name, sizeof name, "%s: filled up, freed, filled up again, with blocks of every size",
                 surfaces[s].name);
        CHECK_EQ(name, (size_t)run_in_child(fill_and_free, (void *)(uintptr_t)&surfaces[s], 60), 0);
    }
    CHECK_EQ("a program with 64 MiB of address space can use every surface",
             (size_t)run_in_child(start_with_little, NULL, 60), 0);
    CHECK_EQ("track_allocation: false when there is no memory, nothing lost",
             (size_t)run_in_child(track_without_end, NULL, 60), 0);
    CHECK_EQ("track_memory_block: false when there is no memory, nothing lost",
             (size_t)run_in_child(track_without_end, name, 60), 0);
    CHECK_EQ("with no memory at all nothing crashes, and all works again after",
             (size_t)run_in_child(go_on_with_nothing, NULL, 60), 0);
    size_t size = more_than_there_is();
    if (size)
        CHECK_EQ("more than the machine has is NULL at once, with every surface",
                 (size_t)run_in_child(more_than_the_machine, &size, 60), 0);
    if (size)
        CHECK_EQ("nothing leaves for it and no more is kept afterwards; where it is tiered, it fits",
                 (size_t)run_in_child(refused_for_nothing, &size, 60), 0);
    else
        SKIP("more than the machine has is NULL at once", "this system grants memory that it does not have");
    return tap_done();
}
