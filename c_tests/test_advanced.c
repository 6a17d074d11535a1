/* test_advanced.c - the advanced memory system: one for the whole program, zeroed memory, metrics, fragmentation. What it
 * tells of its blocks is in test_advanced_blocks.c. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_singleton.h"

#include "systems.h"

#include <math.h>

static const memory_system_config_t config = {
    .type = MEM_SYSTEM_POOLED, .total_size = 64 * MIB, .block_size = 4096, .alignment = 64};

/* Creating, registering and destroying: how many references there are, and what the last one takes with it. */
static void test_one_system(void) {
    CHECK("create_memory_system: NULL config without a system is NULL", create_memory_system(NULL) == NULL);
    CHECK("get_global_memory_system: NULL before the first", get_global_memory_system() == NULL);
    advanced_memory_system_t *system = create_memory_system(&config);
    if (!CHECK("create_memory_system: a system", system != NULL)) return;
    CHECK("create_memory_system: it is the program's", get_global_memory_system() == system);
    const memory_system_config_t other = {.type = MEM_SYSTEM_QUANTUM, .alignment = 4096};
    CHECK("create_memory_system: a second creator gets the same one", create_memory_system(&other) == system);
    CHECK("create_memory_system: also with a NULL config", create_memory_system(NULL) == system);
    unsigned char *block = memory_allocate(system, 1000, 64);
    destroy_memory_system(system);
    destroy_memory_system(system);
    CHECK("destroy_memory_system: gives up one reference, the system stays",
          get_global_memory_system() == system && get_allocation_size(system, block) >= 1000);
    destroy_memory_system(system);
    CHECK("destroy_memory_system: the last one ends it and frees what is live",
          get_global_memory_system() == NULL && !unimem_owns(block));
    system = create_memory_system(&config);
    block = create_memory_system(NULL) == system ? memory_allocate(system, 1000, 64) : NULL;
    unregister_memory_system(system);
    destroy_memory_system(system);
    CHECK("destroy_memory_system: not before its last reference, though it is the program's no more",
          block && get_global_memory_system() == NULL && get_allocation_size(system, block) == 1000);
    destroy_memory_system(system);
    CHECK("destroy_memory_system: with the last one all is freed", !unimem_owns(block));
    destroy_memory_system(NULL);
    const memory_system_config_t zeros = {0};
    system = create_memory_system(&zeros);
    block = system ? memory_allocate(system, 100, 0) : NULL;
    CHECK("create_memory_system: a config of zeros is valid", block && is_aligned(block, 64));
    if (system) destroy_memory_system(system);
    TEST("1,000 systems in turn, each with live blocks, leave no memory behind") {
        size_t before = 0;
        for (size_t i = 0; i < 10 + scaled(1000); i++) {
            if (i == 10) before = resident_bytes(); /* what the first of them make is made once */
            system = create_memory_system(&config);
            if (!EXPECT(system != NULL, "system %zu is NULL", i)) continue;
            for (size_t size = 64; size < MIB; size *= 4) memset(memory_allocate(system, size, 0), 1, size);
            destroy_memory_system(system);
        }
        size_t after = resident_bytes();
        printf("# resident memory: %zu KiB after 10 systems, %zu KiB at the end\n", before / KIB, after / KIB);
        EXPECT(after < before + growth_allowed(), "resident memory grew from %zu to %zu KiB", before / KIB, after / KIB);
    }
}

static void test_allocate(advanced_memory_system_t *system) {
    TEST("memory_allocate: any alignment, rounded up to a power of two, and zeroed memory") {
        for (size_t alignment = 1; alignment <= 5000; alignment += alignment < 200 ? 1 : 61) {
            for (size_t size = 1; size < 200000; size = size * 7 + 2) {
                unsigned char *block = memory_allocate(system, size, alignment);
                size_t rounded = next_power_of_two(alignment);
                if (!EXPECT(block && is_aligned(block, rounded),
                            "memory_allocate(%zu, %zu) gave %p, expected alignment %zu", size, alignment, (void *)block,
                            rounded))
                    continue;
                EXPECT(all_zero(block, size), "memory_allocate(%zu, %zu) is not zeroed", size, alignment);
                memset(block, 0xFF, size);
                memory_free(system, block);
            }
        }
    }
    TEST("memory_allocate: great alignments, up to 1 GiB, and those that round up to it") {
        const size_t alignments[] = {100000,  65537,    MIB, MIB + 1, 2 * MIB,
                                     3000000, 64 * MIB, GIB, GIB - 1, GIB / 2 + 1};
        for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
            char *block = memory_allocate(system, 100, alignments[i]);
            EXPECT(block && is_aligned(block, next_power_of_two(alignments[i])), "alignment %zu gave %p", alignments[i],
                   (void *)block);
            memory_free(system, block);
        }
    }
    memory_metrics_t before = metrics_of(system);
    CHECK("memory_allocate: NULL for size 0, no system, too large an alignment, sizes that overflow",
          memory_allocate(system, 0, 64) == NULL && memory_allocate(NULL, 64, 64) == NULL &&
              memory_allocate(system, 64, GIB + 1) == NULL && memory_allocate(system, 64, SIZE_MAX) == NULL &&
              memory_allocate(system, SIZE_MAX, 64) == NULL && memory_allocate(system, SIZE_MAX - 64, 4096) == NULL &&
              memory_allocate(system, SIZE_MAX / 2, 1) == NULL);
    CHECK("memory_allocate: refused calls changed nothing",
          metrics_of(system).current_usage == before.current_usage &&
              metrics_of(system).allocation_count == before.allocation_count);
    TEST("memory_allocate: 20,000 live blocks, each whole, each zeroed when the memory is used again") {
        enum { BLOCKS = 20000 };
        unsigned char **blocks = table_new(BLOCKS * sizeof *blocks);
        size_t *sizes = table_new(BLOCKS * sizeof *sizes), total = 0;
        random_t random = {3};
        for (int round = 0; round < 2; round++) {
            for (size_t i = 0; i < BLOCKS; i++) {
                sizes[i] = random_size(&random, 0, i % 1000 ? 12 : 22);
                blocks[i] = memory_allocate(system, sizes[i], 1 + random_below(&random, 128));
                if (!EXPECT(blocks[i] != NULL, "block %zu of %zu bytes is NULL", i, sizes[i])) continue;
                EXPECT(all_zero(blocks[i], sizes[i]), "round %d: block %zu of %zu bytes is not zeroed", round, i,
                       sizes[i]);
                pattern_fill(blocks[i], 0, sizes[i], i);
                total += sizes[i];
            }
            EXPECT(usage_of(system) == before.current_usage + total, "%zu bytes live, expected %zu",
                   usage_of(system), before.current_usage + total);
            for (size_t i = 0; i < BLOCKS; i++) {
                EXPECT(blocks[i] && pattern_holds(blocks[i], 0, sizes[i], i),
                       "block %zu of %zu bytes was written by another", i, sizes[i]);
                memory_free(system, blocks[i]);
            }
            total = 0;
            EXPECT(usage_of(system) == before.current_usage, "%zu bytes live at the end", usage_of(system));
        }
        munmap(blocks, BLOCKS * sizeof *blocks);
        munmap(sizes, BLOCKS * sizeof *sizes);
    }
}

static void test_free_and_reallocate(advanced_memory_system_t *system) {
    char local[128] = {0}, *foreign = malloc(100);
    unsigned char *block = memory_allocate(system, 500, 64), *of_global = unimem_global()->allocate(100, 0);
    pattern_fill(block, 0, 500, 5);
    size_t live = usage_of(system);
    void *wrong[] = {NULL,  local, foreign, block + 64, block + 1, of_global, (void *)0x1000, (void *)UINTPTR_MAX,
                     system};
    TEST("memory_free: what is not the system's is ignored") {
        for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
            memory_free(system, opaque(wrong[i]));
            EXPECT(usage_of(system) == live, "pointer %zu: %zu bytes live, expected %zu", i, usage_of(system),
                   live);
        }
        memory_free(NULL, block);
        EXPECT(usage_of(system) == live && pattern_holds(block, 0, 500, 5), "the live block changed");
    }
    memset(foreign, 1, 100);
    free(foreign);
    CHECK("memory_free: another owner's block is still theirs", unimem_owns(of_global));
    unimem_global()->free(of_global);

    block = memory_reallocate(system, block, 100000);
    CHECK("memory_reallocate: contents stay when growing, what is new is zeroed",
          block && pattern_holds(block, 0, 500, 5) && all_zero(block + 500, 100000 - 500));
    pattern_fill(block, 0, 100000, 6);
    block = memory_reallocate(system, block, 300);
    CHECK("memory_reallocate: contents stay when shrinking", block && pattern_holds(block, 0, 300, 6));
    block = memory_reallocate(system, block, 2000);
    CHECK("memory_reallocate: what comes back after shrinking is zeroed",
          block && pattern_holds(block, 0, 300, 6) && all_zero(block + 300, 1700));
    TEST("memory_reallocate: sizes at random, contents and zeroed tail") {
        random_t random = {8};
        size_t size = 2000;
        memory_metrics_t before = metrics_of(system);
        for (size_t i = 0; i < 400; i++) {
            pattern_fill(block, 0, size, i);
            size_t next = random_size(&random, 0, i % 40 ? 14 : 23), common = next < size ? next : size;
            unsigned char *moved = memory_reallocate(system, block, next);
            if (!EXPECT(moved != NULL, "from %zu to %zu is NULL", size, next)) continue;
            block = moved;
            EXPECT(pattern_holds(block, 0, common, i), "from %zu to %zu lost contents", size, next);
            EXPECT(all_zero(block + common, next - common), "from %zu to %zu: the new part is not zeroed", size, next);
            size = next;
        }
        size_t counted = metrics_of(system).allocation_count - before.allocation_count;
        EXPECT(counted == 400, "400 reallocations, moved or not, count as %zu allocations", counted);
        EXPECT(memory_reallocate(system, block, SIZE_MAX - 10) == NULL && get_allocation_size(system, block) >= size,
               "a failure must leave the old block");
    }
    CHECK("memory_reallocate: size 0 frees",
          memory_reallocate(system, block, 0) == NULL && get_allocation_size(system, block) == 0);
    block = memory_reallocate(system, NULL, 640);
    CHECK("memory_reallocate: NULL allocates, zeroed", block && all_zero(block, 640));
    unsigned char *aligned = memory_allocate(system, 100, 3000);
    aligned = memory_reallocate(system, aligned, 50000);
    CHECK("memory_reallocate: the alignment stays", aligned && is_aligned(aligned, 4096));
    CHECK("memory_reallocate: NULL for what is not the system's",
          memory_reallocate(system, opaque(local), 10) == NULL && memory_reallocate(system, block + 64, 10) == NULL &&
              memory_reallocate(NULL, NULL, 10) == NULL);
    memory_free(system, aligned);
    memory_free(system, block);
    memory_free(system, opaque(block));
    CHECK_EQ("a double free changes nothing", usage_of(system), 0);
}

static void test_metrics(advanced_memory_system_t *system) {
    CHECK("reset_memory_metrics: the history begins anew", reset_memory_metrics(system));
    memory_metrics_t metrics = metrics_of(system);
    CHECK("metrics after a reset with nothing live are all 0",
          metrics.total_allocated == 0 && metrics.total_freed == 0 && metrics.peak_usage == 0 &&
              metrics.current_usage == 0 && metrics.allocation_count == 0);
    void *blocks[4];
    for (size_t i = 0; i < 4; i++) blocks[i] = memory_allocate(system, 1000 * (i + 1), 64);
    memory_free(system, blocks[0]);
    memory_free(system, blocks[3]);
    blocks[0] = memory_allocate(system, 50, 64);
    metrics = metrics_of(system);
    CHECK_EQ("metrics: total_allocated counts what was freed since", metrics.total_allocated, 10050);
    CHECK_EQ("metrics: total_freed", metrics.total_freed, 5000);
    CHECK_EQ("metrics: current_usage", metrics.current_usage, 5050);
    CHECK_EQ("metrics: peak_usage", metrics.peak_usage, 10000);
    CHECK_EQ("metrics: allocation_count", metrics.allocation_count, 5);
    CHECK("metrics: fragmentation is a part of the whole",
          metrics.fragmentation >= 0.0 && metrics.fragmentation <= 1.0);
    reset_memory_metrics(system);
    metrics = metrics_of(system);
    CHECK("reset_memory_metrics: the peak is what is live now, the history 0",
          metrics.peak_usage == 5050 && metrics.current_usage == 5050 && metrics.total_freed == 0 &&
              metrics.allocation_count == 0);
    for (size_t i = 0; i < 3; i++) memory_free(system, blocks[i]);
    CHECK("metrics: NULL arguments are false",
          !get_memory_metrics(NULL, &metrics) && !get_memory_metrics(system, NULL) && !reset_memory_metrics(NULL));
}

static void test_fragmentation(advanced_memory_system_t *system) {
    enum { BLOCKS = 16000 };
    void **blocks = table_new(BLOCKS * sizeof *blocks);
    double full = -1, sparse = -1, empty = -1, level = -1;
    optimize_memory_usage(system, MEM_OPT_AGGRESSIVE); /* what earlier tests left unused goes back first */
    for (size_t i = 0; i < BLOCKS; i++) memset(blocks[i] = memory_allocate(system, 4000, 64), 1, 4000);
    CHECK("analyze_fragmentation: true with blocks live", analyze_fragmentation(system, &full));
    CHECK("is_defragmentation_needed: false when full, with the same measure",
          !is_defragmentation_needed(system, &level) && level == full);
    for (size_t i = 0; i < BLOCKS; i++)
        if (i % 20) memory_free(system, blocks[i]);
    CHECK("analyze_fragmentation: true with few blocks live", analyze_fragmentation(system, &sparse));
    printf("# fragmentation: %.3f full, %.3f with one block in twenty live\n", full, sparse);
    CHECK("fragmentation is measured: low when full, high when sparse",
          full >= 0 && full < 0.2 && sparse > 0.5 && sparse <= 1.0);
    CHECK("is_defragmentation_needed: true when sparse, with the same measure",
          is_defragmentation_needed(system, &level) && level == sparse);
    for (size_t i = 0; i < BLOCKS; i += 20) memory_free(system, blocks[i]);
    size_t before = resident_bytes();
    CHECK("start_defragmentation: below its threshold, nothing goes back to the system",
          start_defragmentation(system, &(defrag_config_t){.threshold = 2}) && resident_bytes() + 4 * MIB > before);
    const defrag_config_t defrag = {.threshold = 0.1, .max_moves = 1000, .compact_pools = true};
    CHECK("start_defragmentation: true", start_defragmentation(system, &defrag));
    size_t after = resident_bytes();
    printf("# resident memory: %zu KiB before, %zu KiB after\n", before / KIB, after / KIB);
    CHECK("start_defragmentation: unused memory goes back to the system", after + 40 * MIB < before);
    CHECK("stop_defragmentation: true once after a start", stop_defragmentation(system));
    CHECK("start_defragmentation: a threshold that is not a number is an error, and nothing starts",
          !start_defragmentation(system, &(defrag_config_t){.threshold = NAN}) &&
              unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT && !stop_defragmentation(system));
    CHECK("fragmentation with nothing live is in range",
          analyze_fragmentation(system, &empty) && empty >= 0 && empty <= 1.0);
    CHECK("defragmentation: NULL arguments are false",
          !start_defragmentation(NULL, &defrag) && !start_defragmentation(system, NULL) &&
              !stop_defragmentation(NULL) && !is_defragmentation_needed(NULL, &level) &&
              !analyze_fragmentation(NULL, &level) && !analyze_fragmentation(system, NULL));
    munmap(blocks, BLOCKS * sizeof *blocks);
    TEST("optimize_memory_usage: true for every level, false for others; live blocks stay whole") {
        unsigned char *block = memory_allocate(system, 10000, 64);
        pattern_fill(block, 0, 10000, 3);
        for (int i = MEM_OPT_NONE; i <= MEM_OPT_AGGRESSIVE; i++)
            EXPECT(optimize_memory_usage(system, (optimization_level_t)i), "level %d is false", i);
        EXPECT(!optimize_memory_usage(system, (optimization_level_t)17) && !optimize_memory_usage(NULL, MEM_OPT_BASIC),
               "an unknown level or NULL is true");
        EXPECT(pattern_holds(block, 0, 10000, 3), "contents changed");
        memory_free(system, block);
    }
    TEST("optimize_memory_usage: unused memory goes back to the system, but at level NONE") {
        for (int i = MEM_OPT_NONE; i <= MEM_OPT_AGGRESSIVE; i++) {
            unsigned char *many[20];
            for (size_t b = 0; b < 20; b++) memset(many[b] = memory_allocate(system, MIB, 64), 1, MIB);
            for (size_t b = 0; b < 20; b++) memory_free(system, many[b]);
            size_t kept = resident_bytes();
            optimize_memory_usage(system, (optimization_level_t)i);
            size_t left = resident_bytes();
            EXPECT((left + 16 * MIB < kept) == (i != MEM_OPT_NONE), "level %d: %zu KiB resident, before %zu KiB", i, left / KIB, kept / KIB);
        }
    }
    CHECK("optimize_allocation_strategy: true for every strategy, false for NULL and unknown ones",
          optimize_allocation_strategy(system, ALLOC_STRATEGY_SLAB) &&
              optimize_allocation_strategy(system, ALLOC_STRATEGY_BEST_FIT) &&
              !optimize_allocation_strategy(NULL, ALLOC_STRATEGY_SLAB) &&
              !optimize_allocation_strategy(system, (allocation_strategy_t)44));
}

static void test_interface_of_system(advanced_memory_system_t *system) {
    CHECK("unimem_system_interface: NULL system is NULL", unimem_system_interface(NULL) == NULL);
    unified_memory_interface_t *memory = unimem_system_interface(system);
    if (!CHECK("unimem_system_interface: a system implements the interface",
               memory && unimem_system_interface(system) == memory))
        return;
    memory_stats_t stats;
    reset_memory_metrics(system);
    unsigned char *a = memory->allocate(3000, 256), *b = memory_allocate(system, 500, 64);
    memory->get_stats(&stats);
    CHECK("system and interface are one: each counts what the other allocates",
          a && b && stats.total_allocated == 3500 && usage_of(system) == 3500);
    CHECK("blocks of the interface are known to the system; the system's own are zeroed",
          get_allocation_size(system, a) == 3000 && is_aligned(a, 256) && all_zero(b, 500));
    memory_free(system, a);
    memory->free(b);
    memory->get_stats(&stats);
    CHECK("system and interface are one: each frees what the other allocated",
          stats.total_allocated == 0 && usage_of(system) == 0);
    CHECK("the interface keeps its own rule for alignments",
          memory->allocate(64, 3) == NULL && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT);
}

/* Two owners that both clean up: the second does so while the first one's call tells the program's log of something. */
static struct ending {
    advanced_memory_system_t *system;
    void *pool;
    size_t told, answers, blocks;
} ending;
static void *destroy_too(void *unused) {
    advanced_destroy_memory_pool(ending.system, ending.pool);
    destroy_memory_system(ending.system);
    return unused;
}
static void while_it_ends(int level, const char *text, void *context) {
    (void)level, (void)text, (void)context;
    memory_metrics_t metrics;
    ending.told++;
    ending.answers += get_memory_metrics(ending.system, &metrics);
    unimem_set_log(NULL, NULL);
    pthread_join(start_thread(destroy_too, NULL), NULL);
}
static void when_it_has_ended(int level, const char *text, void *context) {
    (void)level, (void)context;
    memory_metrics_t metrics;
    bool of_pool = strstr(text, "a pool of"), of_system = !of_pool && strstr(text, "a memory system ended");
    ending.told += of_pool || of_system;
    ending.answers += of_system && get_memory_metrics(ending.system, &metrics);
    ending.blocks += of_system && memory_allocate(ending.system, 100, 0);
    ending.blocks += of_pool && advanced_pool_allocate(ending.system, ending.pool, 100);
}
static void new_ending(void) {
    ending = (struct ending){.system = create_memory_system(&config)};
    ending.pool = advanced_create_memory_pool(ending.system, &(pool_config_t){.enable_growth = true});
    EXPECT(ending.system && ending.pool, "no system, or no pool");
}
static void test_ending(void) {
    TEST("destroy_memory_system: one too many while the system is ending is refused") {
        new_ending();
        int foreign;
        unimem_system_interface(ending.system)->track_allocation(&foreign, sizeof foreign);
        unimem_set_log(while_it_ends, NULL);
        destroy_memory_system(ending.system);
        unimem_set_log(NULL, NULL);
        EXPECT(ending.told == 1, "told %zu times of what was tracked", ending.told);
        EXPECT(ending.answers == 1, "the system is there while it ends");
        advanced_memory_system_t *next = create_memory_system(&config);
        void *pool = advanced_create_memory_pool(next, &(pool_config_t){.enable_growth = true});
        void *block = memory_allocate(next, 100, 0);
        EXPECT(next && pool && block, "no next system");
        advanced_pool_free(next, pool, block);
        EXPECT(get_allocation_size(next, block) == 100, "a system and a pool share a heap");
        destroy_memory_system(next);
    }
    TEST("who is told of what was live finds neither the pool nor the system any more") {
        new_ending();
        EXPECT(memory_allocate(ending.system, 500, 0) && advanced_pool_allocate(ending.system, ending.pool, 500), "no block");
        unimem_set_log(when_it_has_ended, NULL);
        destroy_memory_system(ending.system);
        unimem_set_log(NULL, NULL);
        EXPECT(ending.told == 2, "told %zu times", ending.told);
        EXPECT(ending.answers == 0 && ending.blocks == 0, "%zu answers, %zu blocks", ending.answers, ending.blocks);
    }
}

int main(void) {
    test_one_system();
    test_ending();
    advanced_memory_system_t *system = create_memory_system(&config);
    if (CHECK("a system for the tests", system != NULL)) {
        test_allocate(system);
        test_free_and_reallocate(system);
        test_metrics(system);
        test_fragmentation(system);
        test_interface_of_system(system);
        destroy_memory_system(system);
    }
    CHECK("no system is left", get_global_memory_system() == NULL);
    return tap_done();
}
