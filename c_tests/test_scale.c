/* test_scale.c - large numbers and sizes: 10 million tracked blocks, 1 million live blocks, 8 GiB of address space.
 * After everything is freed and trimmed, the process is within a few MiB of where it was. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h" /* after memory_pool.h, whose names come first */

#include "support.h"

static void test_tracking(void) {
    const size_t blocks = scaled(10000000);
    unified_memory_interface_t *memory = unimem_open(NULL);
    if (!CHECK("an instance to track with", memory != NULL)) return;
    char *base = (char *)((uintptr_t)1 << 45); /* never touched: these are addresses, not memory */
    size_t idle = resident_bytes();
    double start = seconds_now();
    TEST("10 million tracked blocks: counted, found, forgotten, each once") {
        size_t missed = 0, again = 0;
        for (size_t i = 0; i < blocks; i++) missed += !memory->track_allocation(base + i * 32, 32);
        EXPECT(missed == 0, "%zu blocks were refused", missed);
        EXPECT(stats_of(memory).total_allocated == blocks * 32, "%zu bytes counted, expected %zu",
               stats_of(memory).total_allocated, blocks * 32);
        printf("# %zu blocks tracked in %.2f s, %zu bytes of RAM each\n", blocks, seconds_now() - start,
               (resident_bytes() - idle) / blocks);
        EXPECT(!memory->untrack_allocation(base - 32) && !memory->untrack_allocation(base + blocks * 32),
               "a block beyond the ends was tracked");
        for (size_t i = 0; i < blocks; i++) missed += !memory->untrack_allocation(base + i * 32);
        EXPECT(missed == 0, "%zu blocks were lost", missed);
        for (size_t i = 0; i < blocks; i += 1001) again += memory->untrack_allocation(base + i * 32);
        EXPECT(again == 0 && stats_of(memory).total_allocated == 0, "%zu blocks were found twice, %zu bytes counted",
               again, stats_of(memory).total_allocated);
    }
    CHECK("the instance closes clean", unimem_close(memory));
    TEST("the singleton tracks 10 million blocks too") {
        size_t missed = 0;
        for (size_t i = 0; i < blocks; i++) missed += !track_memory_block(base + i * 32);
        for (size_t i = 0; i < blocks; i += 3) missed += !is_memory_block_tracked(base + i * 32);
        for (size_t i = 0; i < blocks; i++) missed += !untrack_memory_block(base + i * 32);
        EXPECT(missed == 0, "%zu blocks were refused or lost", missed);
    }
    size_t after = resident_bytes();
    printf("# resident memory: %zu KiB before, %zu KiB after\n", idle / KIB, after / KIB);
    /* Two tables of tens of millions of places each: what they keep when they are empty. */
    CHECK("the memory of 10 million entries goes back when they are gone", after <= idle + 10 * MIB);
}

static void test_live_blocks(void) {
    const size_t count = scaled(1000000);
    unified_memory_interface_t *memory = unimem_open(NULL);
    unsigned char **blocks = table_new(count * sizeof *blocks);
    uint16_t *sizes = table_new(count * sizeof *sizes);
    if (!CHECK("an instance for a million blocks", memory != NULL)) return;
    memset(blocks, 0, count * sizeof *blocks); /* touched before the idle level is taken */
    memset(sizes, 0, count * sizeof *sizes);
    size_t idle = resident_bytes(), total = 0;
    TEST("a million live blocks: whole, exact, in little more memory than they ask for") {
        random_t random = {21};
        for (size_t i = 0; i < count; i++) {
            sizes[i] = (uint16_t)random_size(&random, 4, 9);
            blocks[i] = memory->allocate(sizes[i], 16);
            if (!EXPECT(blocks[i] != NULL, "block %zu of %u bytes is NULL", i, sizes[i])) continue;
            pattern_fill(blocks[i], 0, sizes[i], i);
            total += sizes[i];
        }
        memory_stats_t stats = stats_of(memory);
        EXPECT(stats.total_allocated == total && stats.num_allocations == count && stats.peak_allocated == total,
               "%zu bytes and %zu blocks counted, expected %zu and %zu", stats.total_allocated, stats.num_allocations,
               total, count);
        size_t resident = resident_bytes() - idle;
        printf("# %zu MiB asked for, %zu MiB resident, fragmentation %zu %%\n", total / MIB, resident / MIB,
               stats.fragmentation);
        /* Debug mode's guards, and who allocated each block. */
        size_t more = (debug_mode("guard") ? 16 * count : 0) + (debug_mode("trace") ? 40 * count : 0);
        EXPECT(resident < total + total / 5 + 4 * MIB + more, "%zu MiB resident for %zu MiB", resident / MIB, total / MIB);
        size_t wrong = 0;
        for (size_t i = 0; i < count; i++) wrong += !pattern_holds(blocks[i], 0, sizes[i], i);
        EXPECT(wrong == 0, "%zu blocks were written by another", wrong);
        /* Every second, then the rest from the end, so that spans empty late. */
        for (size_t i = 0; i < count; i += 2) memory->free(blocks[i]);
        for (size_t i = count; i-- > 0;)
            if (i % 2) memory->free(blocks[i]);
        stats = stats_of(memory);
        EXPECT(stats.total_allocated == 0 && stats.num_frees == count, "%zu bytes live, %zu frees",
               stats.total_allocated, stats.num_frees);
    }
    size_t handed_back = unimem_trim(memory), after = resident_bytes();
    printf("# idle %zu KiB, after freeing and trim (%zu MiB handed back) %zu KiB\n", idle / KIB, handed_back / MIB,
           after / KIB);
    CHECK("all freed and trimmed: within 4 MiB of idle", after <= idle + 4 * MIB + held_back());
    CHECK("the instance closes clean", unimem_close(memory));
    munmap(blocks, count * sizeof *blocks);
    munmap(sizes, count * sizeof *sizes);
}

/* Only such blocks have entries in a table beside the heap. */
static void test_owners(void) {
    const size_t count = scaled(1000000);
    unified_memory_interface_t *memory = unimem_open(NULL);
    void **blocks = table_new(count * sizeof *blocks);
    if (!CHECK("an instance for blocks with two owners", memory != NULL)) return;
    memset(blocks, 0, count * sizeof *blocks);
    size_t idle = resident_bytes();
    TEST("a million blocks with two owners: all freed and trimmed, within 4 MiB of idle") {
        size_t missed = 0;
        for (size_t i = 0; i < count; i++) missed += !(blocks[i] = memory->allocate(64, 0)) || !unimem_retain(blocks[i]);
        for (size_t i = 0; i < 2 * count; i++) memory->free(blocks[i % count]);
        EXPECT(missed == 0 && stats_of(memory).total_allocated == 0, "%zu were refused, %zu bytes are live", missed,
               stats_of(memory).total_allocated);
        unimem_trim(memory);
        size_t after = resident_bytes();
        EXPECT(after <= idle + 4 * MIB + held_back(), "idle %zu KiB, after %zu KiB", idle / KIB, after / KIB);
    }
    CHECK("the instance for blocks with two owners closes clean", unimem_close(memory));
    munmap(blocks, count * sizeof *blocks);
}

static unified_memory_interface_t *used; /* by all threads */

/* Allocates through every surface in a thread of its own, which exits with full caches. */
static void *use_all_surfaces(void *number) {
    unified_memory_interface_t *memory = used;
    MemoryPool *pool = create_memory_pool(&(PoolConfig){.enable_stats = true, .thread_cache_size = 256});
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
    enum { COUNT = 2000 };
    void *blocks[3][COUNT];
    random_t random = {(uintptr_t)number};
    for (size_t i = 0; i < COUNT; i++) {
        size_t size = random_size(&random, 4, i % 200 ? 14 : 23);
        blocks[0][i] = memory->allocate(size, 0), blocks[1][i] = pool_allocate(pool, size),
        blocks[2][i] = memory_allocate(system, size, 8);
        for (size_t s = 0; s < 3; s++)
            if (EXPECT(blocks[s][i] != NULL, "surface %zu, %zu bytes: NULL", s, size)) memset(blocks[s][i], 1, size);
    }
    for (size_t i = 0; i < COUNT; i++)
        memory->free(blocks[0][i]), pool_free(pool, blocks[1][i]), memory_free(system, blocks[2][i]);
    destroy_memory_pool(pool);
    destroy_memory_system(system);
    return NULL;
}

static void test_idle(void) {
    unified_memory_interface_t *memory = used = unimem_open(NULL);
    if (!CHECK("an instance to come back to idle with", memory != NULL)) return;
    size_t idle = 0;
    TEST("four threads use every surface, over and over: freed and trimmed, within 4 MiB of idle") {
        for (size_t round = 0; round < 1 + scaled(5); round++) {
            run_threads(4, use_all_surfaces);
            unimem_trim(memory);
            if (round == 0) idle = resident_bytes(); /* stacks, glibc's own arenas and tables are made by then */
        }
        size_t after = resident_bytes();
        printf("# idle %zu KiB, after %zu KiB\n", idle / KIB, after / KIB);
        EXPECT(after <= idle + 4 * MIB, "resident memory grew from %zu to %zu KiB", idle / KIB, after / KIB);
        EXPECT(unimem_held_bytes(memory) <= 4 * MIB, "the empty instance holds %zu KiB",
               unimem_held_bytes(memory) / KIB);
    }
    CHECK("the instance closes clean", unimem_close(memory));
}

/* Replaces blocks of 16 B to 4 MiB at random, touches them, and exits with full caches. */
static void *use_every_size(void *number) {
    unified_memory_interface_t *memory = used;
    enum { LIVE = 200, COUNT = 10000 };
    void *blocks[LIVE] = {NULL};
    random_t random = {(uintptr_t)number};
    for (size_t i = 0; i < COUNT; i++) {
        void **block = &blocks[random_below(&random, LIVE)];
        size_t size = random_size(&random, 5, 22);
        memory->free(*block);
        *block = memory->allocate(size, 0);
        if (!EXPECT(*block != NULL, "%zu bytes: NULL", size)) continue;
        for (size_t at = 0; at < size; at += 4096) ((char *)*block)[at] = 1;
    }
    for (size_t i = 0; i < LIVE; i++) memory->free(blocks[i]);
    return NULL;
}

/* Before any other test: what the library loads or makes once for the process counts too. */
static void test_first_use(void) {
    unified_memory_interface_t *memory = used = unimem_open(NULL);
    if (!CHECK("an instance in a fresh process", memory != NULL)) return;
    size_t idle = resident_bytes();
    TEST("two threads use blocks of every size for the first time: freed and trimmed, within 1.5 MiB of before") {
        run_threads(2, use_every_size);
        unimem_trim(memory);
        size_t after = resident_bytes();
        printf("# idle %zu KiB, after %zu KiB\n", idle / KIB, after / KIB);
        EXPECT(after <= idle + 3 * MIB / 2 + recording_queue(), "resident memory grew from %zu to %zu KiB", idle / KIB, after / KIB);
    }
    TEST("4 GiB of address space in small blocks, never touched: freed and trimmed, within 4 MiB of before") {
        enum { BLOCKS = 4096 };
        void **blocks = table_new(BLOCKS * sizeof *blocks);
        for (size_t i = 0; i < BLOCKS; i++) blocks[i] = memory->allocate(MIB, 0);
        for (size_t i = 0; i < BLOCKS; i++) {
            EXPECT(blocks[i] != NULL, "block %zu is NULL", i);
            memory->free(blocks[i]);
        }
        munmap(blocks, BLOCKS * sizeof *blocks);
        unimem_trim(memory);
        size_t after = resident_bytes();
        printf("# idle %zu KiB, after %zu KiB\n", idle / KIB, after / KIB);
        EXPECT(after <= idle + 4 * MIB + recording_queue(), "resident memory grew from %zu to %zu KiB", idle / KIB, after / KIB);
    }
    CHECK("the instance of a fresh process closes clean", unimem_close(memory));
}

/* A mapping is made longer than the block, so that a part of it is aligned; what is too much goes back. */
static void test_address_space(void) {
    unified_memory_interface_t *memory = unimem_open(NULL);
    if (!CHECK("an instance for blocks that come and go", memory != NULL)) return;
    TEST("500 blocks of 2 MiB and more come and go: no address space stays") {
        size_t before = 0, after = 0;
        for (size_t i = 0; i < 510; i++) {
            void *block = memory->allocate(2 * MIB + i * 4096, i % 5 ? 0 : 4 * MIB);
            EXPECT(block, "block %zu: %s", i, unimem_last_error_message());
            memory->free(block);
            unimem_trim(memory);
            if (i == 9) before = number_in("/proc/self/statm") * 4096;
        }
        after = number_in("/proc/self/statm") * 4096;
        EXPECT(after <= before + 64 * MIB, "%zu MiB are mapped, and were %zu", after / MIB, before / MIB);
    }
    CHECK("the instance for blocks that come and go closes clean", unimem_close(memory));
}

/* Zeroed memory is not touched where it reads as zero already, and is zero where it does not. */
static void test_zeroed(void) {
    enum { BLOCKS = 256 };
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
    unsigned char *blocks[BLOCKS];
    if (!CHECK("a system to get zeroed memory from", system != NULL)) return;
    TEST("256 zeroed blocks of 1 MiB, written to at one place: in memory for what was touched only; used again: zero") {
        for (size_t round = 0; round < 3; round++) {
            size_t before = resident_bytes(), wrong = 0;
            for (size_t i = 0; i < BLOCKS; i++) {
                blocks[i] = memory_allocate(system, MIB, 64);
                if (!EXPECT(blocks[i] != NULL, "block %zu is NULL", i)) continue;
                wrong += blocks[i][i * 4096] != 0 || blocks[i][MIB - 1 - i] != 0;
                blocks[i][i * 4096] = 1, blocks[i][MIB - 1 - i] = 2;
            }
            EXPECT(wrong == 0, "round %zu: %zu blocks are not zero", round, wrong);
            size_t grown = resident_bytes() - before;
            if (round == 0) EXPECT(grown < 32 * MIB, "%zu MiB resident", grown / MIB);
            for (size_t i = 0; i < BLOCKS; i++) memory_free(system, blocks[i]);
        }
    }
    destroy_memory_system(system);
}

static void test_great_sizes(void) {
    unified_memory_interface_t *memory = unimem_open(NULL);
    if (!CHECK("an instance for great sizes", memory != NULL)) return;
    size_t idle = resident_bytes();
    TEST("sizes from 1 to 8 GiB: touched at both ends, counted, in memory for what was touched only") {
        for (size_t size = GIB; size <= 8 * GIB; size *= 2) {
            unsigned char *block = memory->allocate(size, 0);
            if (!EXPECT(block != NULL, "%zu GiB: NULL: %s", size / GIB, unimem_last_error_message())) continue;
            block[0] = 1, block[size - 1] = 2;
            EXPECT(block[0] == 1 && block[size - 1] == 2, "%zu GiB: contents", size / GIB);
            EXPECT(stats_of(memory).total_allocated == size && unimem_usable_size(block) >= size, "%zu GiB: counts %zu",
                   size / GIB, stats_of(memory).total_allocated);
            EXPECT(resident_bytes() <= idle + 64 * MIB, "%zu GiB, touched at two places: %zu MiB resident", size / GIB,
                   (resident_bytes() - idle) / MIB);
            memory->free(block);
            EXPECT(stats_of(memory).total_allocated == 0, "%zu GiB: %zu live after the free", size / GIB,
                   stats_of(memory).total_allocated);
        }
    }
    const char *grows = "a block grows from 1 GiB to 8 GiB and keeps both of its old ends";
    if (debug_mode(NULL)) SKIP(grows, "in debug mode blocks that are reallocated are copied");
    else TEST(grows) {
        unsigned char *block = memory->allocate(GIB, 0);
        size_t size = GIB;
        for (; block && size < 8 * GIB; size *= 2) {
            block[0] = 3, block[size - 1] = 4;
            unsigned char *grown = memory->realloc(block, size * 2);
            if (!EXPECT(grown != NULL, "to %zu GiB: NULL: %s", size * 2 / GIB, unimem_last_error_message())) continue;
            block = grown;
            EXPECT(block[0] == 3 && block[size - 1] == 4, "to %zu GiB: contents", size * 2 / GIB);
        }
        EXPECT(resident_bytes() <= idle + 128 * MIB, "%zu MiB resident", (resident_bytes() - idle) / MIB);
        memory->free(block);
    }
    unimem_trim(memory);
    CHECK("after great sizes: within 4 MiB of idle", resident_bytes() <= idle + 4 * MIB);
    CHECK("the instance for great sizes closes clean", unimem_close(memory));
}

int main(void) {
    test_first_use();
    test_address_space();
    test_zeroed();
    test_great_sizes();
    test_live_blocks();
    test_owners();
    test_idle();
    test_tracking();
    return tap_done();
}
