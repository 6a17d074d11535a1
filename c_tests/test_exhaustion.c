/* test_exhaustion.c - when the system has no more memory. Every call must fail with an error and lose nothing; when
 * there is memory again everything must work. Each test is a child, nearly all with little address space left. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"

#include "surfaces.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

/* Lets this process map at most `bytes` more than it has mapped now. */
static void leave(size_t bytes) {
    size_t pages = number_in("/proc/self/statm");
    struct rlimit limit = {0, 0};
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = pages * (size_t)sysconf(_SC_PAGESIZE) + bytes;
    if (pages == 0 || setrlimit(RLIMIT_AS, &limit) != 0) give_up("the address space cannot be limited");
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
static void **allocate_all(const surface_t *surface, size_t size, size_t *count) {
    void **newest = NULL;
    for (*count = 0;; ++*count) {
        void **block = surface->allocate(size);
        if (!block) return newest;
        pattern_fill(block, sizeof *block, size < 256 ? size : 256, size);
        *block = newest;
        newest = block;
    }
}

static void free_all(const surface_t *surface, size_t size, void **newest) {
    while (newest) {
        void **older = *newest;
        EXPECT(pattern_holds(newest, sizeof *newest, size < 256 ? size : 256, size), "%s: a block of %zu bytes changed",
               surface->name, size);
        surface->free(newest);
        newest = older;
    }
}

/* Fills up a surface with blocks of one size after another. Each time the end is an error, realloc leaves its block, and
 * what is freed can be had again. */
static int fill_and_free(void *argument) {
    const surface_t *surface = argument;
    if (!open_all()) return 2;
    leave(96 * MIB);
    size_t first_count = 0;
    static const size_t sizes[] = {MIB, 64, 100000, 3 * MIB, 5000, 300, MIB};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t size = sizes[s], count;
        (void)memory->allocate(1, 3);
        void **chain = allocate_all(surface, size, &count);
        EXPECT(unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "%s, %zu bytes: error %d, expected out of memory",
               surface->name, size, (int)unimem_last_error());
        size_t header = surface == &surfaces[1] ? 128 : 0; /* before each block of a pool */
        /* Beside these 96 MiB there is what was mapped before. Debug mode knows who allocated each block. */
        EXPECT(count * (size + header) >= (debug_mode("trace") ? 40 : 72) * MIB, "%s, %zu bytes: only %zu KiB of 96 MiB could be had",
               surface->name, size, count * size / KIB);
        if (s == 0) first_count = count;
        void *kept = chain;
        if (surface == &surfaces[0] && chain)
            EXPECT(memory->realloc(chain, size * 100 + 300 * MIB) == NULL && unimem_owns(kept),
                   "realloc beyond what there is");
        free_all(surface, size, chain);
        if (s + 1 == sizeof sizes / sizeof sizes[0])
            /* Side arrays of spans that were, and gaps between blocks, keep some of the address space. */
            EXPECT(count * 4 >= first_count * 3, "%s: %zu blocks at first, %zu at the end", surface->name, first_count, count);
    }
    EXPECT(stats_of(memory).total_allocated == 0 && get_total_allocated(pool) == 0, "something is live");
    leave_no_limit();
    void *big = surface->allocate(512 * MIB);
    EXPECT(big != NULL, "%s: 512 MiB when there is memory again: %s", surface->name, unimem_last_error_message());
    surface->free(big);
    return 0;
}

static int start_with_little(void *unused) {
    (void)unused;
    leave(64 * MIB); /* before the library is called for the first time */
    if (!open_all()) return 2;
    for (size_t s = 0; s < 3; s++) {
        void *block = surfaces[s].allocate(5 * MIB), *small = surfaces[s].allocate(100);
        EXPECT(block && small, "%s: no block with 64 MiB of address space: %s", surfaces[s].name,
               unimem_last_error_message());
        surfaces[s].free(block);
        surfaces[s].free(small);
    }
    return 0;
}

/* Two tables of tracked blocks: an instance's, and the program's system's. */
typedef struct {
    bool (*track)(void *block), (*untrack)(void *block);
} tracking_t;
static bool track_in_instance(void *block) { return memory->track_allocation(block, 1); }
static bool untrack_in_instance(void *block) { return memory->untrack_allocation(block); }
static const tracking_t in_instance = {track_in_instance, untrack_in_instance}, in_system = {track_memory_block, untrack_memory_block};

static int track_without_end(void *argument) {
    const tracking_t *table = argument;
    char *base = (char *)((uintptr_t)1 << 44);
    size_t count = 0, lost = 0;
    if (!open_all()) return 2;
    leave(64 * MIB);
    (void)memory->allocate(1, 3); /* leaves another error than the one expected */
    while (count < 100000000 && table->track(base + count * 16)) count++;
    EXPECT(unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "error %d after %zu blocks, expected out of memory",
           (int)unimem_last_error(), count);
    EXPECT(count >= 100000, "only %zu blocks could be tracked", count);
    for (size_t i = 0; i < count; i++) lost += !table->untrack(base + i * 16);
    EXPECT(lost == 0, "%zu of %zu blocks were lost", lost, count);
    EXPECT(table->track(base), "nothing can be tracked when there is room again");
    return 0;
}

/* Sets the variable to what the call gives. If that is nothing, the call has to say why: before it the last error is set to
 * one that none of these calls can have. */
static void set_no_such_error(void) { (void)memory->allocate(1, 3); }
static void has_reason(const char *call) {
    unimem_error_t error = unimem_last_error();
    EXPECT(error == UNIMEM_ERROR_OUT_OF_MEMORY || error == UNIMEM_ERROR_IO, "%s: error %d: %s", call, (int)error,
                  unimem_last_error_message());
}
#define ASK(variable, call) \
    do { \
        set_no_such_error(); \
        if (!(variable = (call))) has_reason(#call); \
    } while (0)

/* Every kind of call, whether there is memory for it or not: what fails, fails with an error. */
static void *call_everything(void *argument) {
    size_t dimensions[] = {64, 64};
    unimem_layout_t layout;
    block_info_t info;
    double level;
    for (int round = 0; round < 3; round++) {
        void *blocks[6] = {NULL}, *of_pools[4] = {NULL};
        ASK(blocks[0], memory->allocate(40 * MIB, 0));
        ASK(blocks[1], memory->allocate(70000, 0));
        ASK(blocks[2], memory->allocate(64, 1 << 20));
        ASK(blocks[3], memory->allocate_geometric(dimensions, 2));
        ASK(blocks[4], memory->allocate_hierarchical(3 * MIB, 0.0));
        ASK(blocks[5], memory->allocate_streaming(3 * MIB, 0));
        for (size_t i = 0; i < 6; i++) {
            EXPECT(unimem_layout(blocks[i], &layout) == (blocks[i] && i == 3), "block %zu: layout", i);
            bool retained = false;
            if (blocks[i]) ASK(retained, unimem_retain(blocks[i]));
            memory->free(blocks[i]);
            EXPECT(unimem_owns(blocks[i]) == retained, "block %zu: one of its owners is gone", i);
            if (retained) memory->free(blocks[i]);
        }
        ASK(of_pools[0], pool_allocate(pool, 64));
        ASK(of_pools[1], pool_allocate(pool, 5 * MIB));
        ASK(of_pools[2], memory_allocate(memory_system, 100000, 64));
        ASK(of_pools[3], safe_memory_allocate(memory_system, 5000, 64));
        pool_free(pool, of_pools[0]), pool_free(pool, of_pools[1]);
        memory_free(memory_system, of_pools[2]), safe_memory_free(memory_system, of_pools[3]);
        unified_memory_interface_t *own = NULL;
        ASK(own, unimem_open(NULL));
        if (own) EXPECT(unimem_close(own), "an instance that was not used");
        MemoryPool *own_pool = NULL;
        ASK(own_pool, create_memory_pool(&(PoolConfig){.enable_stats = true}));
        if (own_pool) pool_free(own_pool, pool_allocate(own_pool, 64));
        destroy_memory_pool(own_pool);
        void *system_pool = NULL;
        ASK(system_pool, ams_create_memory_pool(memory_system, &(pool_config_t){.enable_growth = true}));
        if (system_pool) {
            MemoryLayout *made = NULL;
            MemoryBuffer *buffer = NULL;
            ASK(made, create_memory_layout(system_pool, dimensions, 2, GEOMETRIC_STATE_CUSTOM));
            ASK(buffer, create_memory_buffer(system_pool, 5000, true, true, HARDWARE_TYPE_CPU));
            ams_destroy_memory_pool(memory_system, system_pool);
        }
        EXPECT(analyze_fragmentation(memory_system, &level), "no fragmentation");
        EXPECT(!get_block_info(memory_system, &info, &info), "a block of the system on the stack");
        EXPECT(start_defragmentation(memory_system, &(defrag_config_t){.compact_pools = true}), "no defragmentation");
        EXPECT(stats_of(memory).total_allocated == 1000 && usage_of(memory_system) == 0 && unimem_report_leaks(memory, NULL, NULL) == 1,
               "%zu bytes live, in the system %zu", live_in(memory), usage_of(memory_system));
        unimem_can_allocate(memory, MIB);
        unimem_trim(memory);
    }
    return argument;
}

static int go_on_with_nothing(void *unused) {
    (void)unused;
    if (!open_all()) return 2;
    void *kept = memory->allocate(1000, 0);
    pattern_fill(kept, 0, 1000, 1);
    leave(12 * MIB); /* for the thread's stack */
    pthread_join(start_thread(call_everything, NULL), NULL);
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
    return 0;
}

/* Four times the memory of the machine, where the system refuses so much at once; 0 where it grants that, and ends the program
 * when it writes. */
static size_t more_than_there_is(void) {
    struct sysinfo machine;
    FILE *file = fopen("/proc/sys/vm/overcommit_memory", "r");
    bool asks = file && fgetc(file) == '0'; /* and not 1: memory that nobody has is granted */
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
    return 0;
}
/* What the system refuses costs nothing: no chunk leaves for it, and no more is kept afterwards. */
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
    /* So large a tensor, a seventh of the machine's memory, is tiered whatever the limit. The disk may have no room for it. */
    tree_tensor_node_t *node = add_tree_tensor_node(ttn, NULL, (size_t[]){size / 28 / 8}, 1, false);
    EXPECT(node ? unimem_chunk_count(node->data) > 1 : unimem_last_error() == UNIMEM_ERROR_IO, "a large tensor: %s", unimem_last_error_message());
    destroy_tree_tensor_network(ttn);
    EXPECT(unimem_close(memory), "something is live");
    return 0;
}

/* A program that frees what it has before it tells why a call has failed. The thread that gives memory back in time cannot
 * be started here. */
static int free_keeps_errno(void *unused) {
    (void)unused;
    if (!open_all()) return 1;
    for (size_t s = 0; s < 3; s++) {
        void *large = surfaces[s].allocate(3 * MIB), *small = surfaces[s].allocate(40000), *freed = surfaces[s].allocate(100);
        if (!large || !small || !freed) return 2;
        surfaces[s].free(freed);
        leave(0);
        errno = 77;
        surfaces[s].free(large);
        surfaces[s].free(small);
        EXPECT(errno == 77, "%s: free has set errno to %d", surfaces[s].name, errno);
        errno = 77;
        surfaces[s].free(freed);
        EXPECT(errno == 77 && unimem_last_error() != UNIMEM_OK, "%s: a free that is refused has set errno to %d", surfaces[s].name, errno);
        leave_no_limit();
    }
    return 0;
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
        check_in_child(name, fill_and_free, (void *)(uintptr_t)&surfaces[s], 60);
    }
    check_in_child("a program with 64 MiB of address space can use every surface", start_with_little, NULL, 60);
    check_in_child("track_allocation: false when there is no memory, nothing lost", track_without_end, (void *)(uintptr_t)&in_instance, 60);
    check_in_child("track_memory_block: false when there is no memory, nothing lost", track_without_end, (void *)(uintptr_t)&in_system, 60);
    check_in_child("with no memory at all nothing crashes, and all works again after", go_on_with_nothing, NULL, 60);
    check_in_child("free keeps errno, with every surface", free_keeps_errno, NULL, 60);
    const char *refused = "more than the machine has is NULL at once, with every surface",
               *costs_nothing = "nothing leaves for it and no more is kept afterwards; where it is tiered, it fits";
    size_t size = more_than_there_is();
    if (size) {
        check_in_child(refused, more_than_the_machine, &size, 60);
        check_in_child(costs_nothing, refused_for_nothing, &size, 60);
    } else {
        SKIP(refused, "this system grants memory that it does not have");
        SKIP(costs_nothing, "this system grants memory that it does not have");
    }
    return tap_done();
}
