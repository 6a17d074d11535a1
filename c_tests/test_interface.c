/* test_interface.c - allocate, free and realloc of the interface, and the questions about a block, with good input
 * and bad. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/advanced_memory_system.h"

#include "one_instance.h"

static void test_allocate(void) {
    TEST("allocate: every size from 1 to 4097, and around every power of two to 64 MiB") {
        for (size_t size = 1; size <= 64 * MIB; size += size < 4097 ? 1 : size / 7) {
            size_t before = live_bytes();
            unsigned char *block = memory->allocate(size, 0);
            EXPECT(block != NULL, "allocate(%zu, 0) is NULL", size);
            if (!block) continue;
            EXPECT(is_aligned(block, 64), "allocate(%zu, 0) gave %p, expected alignment 64", size, (void *)block);
            EXPECT(live_bytes() == before + size, "after allocate(%zu) %zu bytes more are live", size,
                   live_bytes() - before);
            EXPECT(unimem_usable_size(block) >= size, "usable size of %zu bytes is %zu", size,
                   unimem_usable_size(block));
            block[0] = 1, block[size - 1] = 2;
            memory->free(block);
            EXPECT(live_bytes() == before, "after free of %zu bytes %zu are live, expected %zu", size, live_bytes(),
                   before);
        }
    }
    TEST("allocate: every power of two to 1 GiB is an alignment") {
        for (size_t alignment = 1; alignment <= GIB; alignment *= 2) {
            for (size_t size = 1; size <= 4 * MIB; size = size * 5 + 3) {
                unsigned char *block = memory->allocate(size, alignment), *second = memory->allocate(size, alignment);
                EXPECT(block && is_aligned(block, alignment), "allocate(%zu, %zu) gave %p", size, alignment,
                       (void *)block);
                EXPECT(second && is_aligned(second, alignment), "second allocate(%zu, %zu) gave %p", size, alignment,
                       (void *)second);
                if (block) block[0] = block[size - 1] = 1;
                if (second) second[0] = second[size - 1] = 1;
                memory->free(block);
                memory->free(second);
            }
        }
    }
    memory_stats_t before = stats_of(memory);
    TEST("allocate: any other alignment is NULL, invalid argument, nothing changed") {
        const size_t far[] = {GIB + 1,  2 * GIB,       3 * GIB, 4 * GIB, (size_t)1 << 47, (size_t)1 << 63,
                              SIZE_MAX, SIZE_MAX - 63, 96,      1000,    GIB - 1};
        for (size_t i = 3; i < 4200 + sizeof far / sizeof far[0]; i++) {
            size_t alignment = i < 4200 ? i : far[i - 4200];
            if (alignment <= GIB && (alignment & (alignment - 1)) == 0) continue;
            set_other_error(UNIMEM_ERROR_INVALID_ARGUMENT);
            void *block = memory->allocate(64, alignment);
            EXPECT(block == NULL, "allocate(64, %zu) gave %p, expected NULL", alignment, block);
            EXPECT(unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT,
                   "allocate(64, %zu) left error %d, expected invalid argument", alignment, (int)unimem_last_error());
        }
    }
    CHECK("allocate: size 0 is NULL", memory->allocate(0, 0) == NULL && memory->allocate(0, 64) == NULL);
    TEST("allocate: sizes that overflow are NULL with an error") {
        const size_t sizes[] = {SIZE_MAX,        SIZE_MAX - 1,    SIZE_MAX - 63,
                                SIZE_MAX - 64,   SIZE_MAX - 4095, SIZE_MAX - 2 * MIB + 1,
                                SIZE_MAX - GIB,  SIZE_MAX / 2,    (size_t)PTRDIFF_MAX + 1,
                                (size_t)1 << 62, (size_t)1 << 48};
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            for (size_t alignment = 1; alignment <= GIB; alignment *= 8) {
                set_other_error(UNIMEM_ERROR_INVALID_ARGUMENT);
                void *block = memory->allocate(sizes[i], alignment);
                EXPECT(block == NULL, "allocate(%zu, %zu) gave %p", sizes[i], alignment, block);
                unimem_error_t error = unimem_last_error();
                EXPECT(error == UNIMEM_ERROR_OUT_OF_MEMORY || error == UNIMEM_ERROR_INVALID_ARGUMENT ||
                           error == UNIMEM_ERROR_LIMIT,
                       "allocate(%zu, %zu) left error %d", sizes[i], alignment, (int)error);
            }
    }
    CHECK("allocate: refused calls changed no total", same_totals(before, stats_of(memory)));
    TEST("allocate: live blocks do not overlap") {
        enum { BLOCKS = 4000 };
        static unsigned char *blocks[BLOCKS];
        static size_t sizes[BLOCKS];
        random_t random = {1};
        for (size_t i = 0; i < BLOCKS; i++) {
            sizes[i] = random_size(&random, 3, 15);
            blocks[i] = memory->allocate(sizes[i], (size_t)1 << random_below(&random, 13));
            EXPECT(blocks[i] != NULL, "allocation %zu of %zu bytes is NULL", i, sizes[i]);
            if (blocks[i]) pattern_fill(blocks[i], 0, sizes[i], i);
        }
        for (size_t i = 0; i < BLOCKS; i++) {
            if (!blocks[i]) continue;
            EXPECT(pattern_holds(blocks[i], 0, sizes[i], i), "block %zu of %zu bytes was written by another", i,
                   sizes[i]);
            memory->free(blocks[i]);
        }
    }
}

static void test_free(void) {
    memory_stats_t before = stats_of(memory);
    size_t refused = unimem_refused_frees(memory);
    memory->free(NULL);
    CHECK("free(NULL) does nothing and is not counted as refused",
          same_totals(before, stats_of(memory)) && unimem_refused_frees(memory) == refused);

    static char in_data[256] __attribute__((aligned(64)));
    char on_stack[256] __attribute__((aligned(64)));
    char *of_malloc = malloc(1000);
    unified_memory_interface_t *other = unimem_open(NULL);
    char *of_other = other ? other->allocate(500, 64) : NULL;
    char *live = memory->allocate(300, 64), *large = memory->allocate(3 * MIB, 64), *freed = memory->allocate(300, 64);
    if (!CHECK("blocks for the tests of free", of_malloc && of_other && live && large && freed)) return;
    memory->free(freed);
    pattern_fill(live, 0, 300, 1);
    pattern_fill(large, 0, 3 * MIB, 2);

    const struct {
        const char *what;
        void *pointer;
    } hostile[] = {
        {"data of the program", in_data},
        {"the stack", on_stack},
        {"malloc's", of_malloc},
        {"another instance's", of_other},
        {"inside a block", live + 64},
        {"one byte into a block", live + 1},
        {"the last byte of a block", live + 299},
        {"inside a large block", large + MIB},
        {"one page into a large block", large + 4096},
        {"unaligned", live + 7},
        {"address 1", (void *)1},
        {"address 64", (void *)64},
        {"a page never mapped", (void *)0x10000},
        {"beyond user space", (void *)0x0000800000000000u},
        {"not canonical", (void *)0x8000000000000040u},
        {"kernel space", (void *)0xFFFF800000000000u},
        {"the last address", (void *)UINTPTR_MAX},
        {"the table", memory},
        {"code", (void *)(uintptr_t)&test_free},
    };
    before = stats_of(memory);
    refused = unimem_refused_frees(memory);
    size_t wrong = 0;
    TEST("free: what is not the start of an own live block is refused with not owned") {
        for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++, wrong++) {
            set_other_error(UNIMEM_ERROR_NOT_OWNED);
            memory->free(opaque(hostile[i].pointer));
            EXPECT(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED,
                   "free of a pointer to %s left error %d, expected not owned", hostile[i].what,
                   (int)unimem_last_error());
            EXPECT(same_totals(before, stats_of(memory)), "free of a pointer to %s changed the statistics",
                   hostile[i].what);
        }
    }
    CHECK_EQ("free: each refused free is counted", unimem_refused_frees(memory) - refused, wrong);
    set_other_error(UNIMEM_ERROR_DOUBLE_FREE);
    memory->free(opaque(freed));
    CHECK("free: a block freed before is refused with double free", unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE);
    CHECK_EQ("free: a double free is counted", unimem_refused_frees(memory) - refused, wrong + 1);
    CHECK("free: a double free changes no total", same_totals(before, stats_of(memory)));
    CHECK("free: refused frees left every byte as it was",
          pattern_holds(live, 0, 300, 1) && pattern_holds(large, 0, 3 * MIB, 2));
    memory->free(live);
    memory->free(large);
    if (other) {
        other->free(of_other);
        CHECK("free: another instance's block was still live", unimem_close(other));
    }
    free(of_malloc);
}
static void test_double_frees(void) {
    TEST("free: a large block freed before is refused with double free too") {
        unified_memory_interface_t *own = unimem_open(NULL);
        void *blocks[] = {own->allocate(300000, 0), own->allocate(3 * MIB, 0), own->allocate(20 * MIB, 4096)};
        for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
            EXPECT(blocks[i], "block %zu could not be made", i);
            own->free(blocks[i]);
            unimem_trim(own);
            set_other_error(UNIMEM_ERROR_DOUBLE_FREE);
            own->free(opaque(blocks[i]));
            EXPECT(unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE, "block %zu: error %d", i, (int)unimem_last_error());
        }
        EXPECT(unimem_close(own), "something leaked");
    }
    TEST("free: a double free never makes one block out to two callers") {
        void *blocks[64];
        for (size_t i = 0; i < 64; i++) blocks[i] = memory->allocate(200, 0);
        for (size_t i = 0; i < 64; i++) memory->free(blocks[i]);
        for (size_t i = 0; i < 64; i++) memory->free(opaque(blocks[i]));
        for (size_t i = 0; i < 64; i++) blocks[i] = memory->allocate(200, 0);
        for (size_t i = 0; i < 64; i++)
            for (size_t j = 0; j < i; j++)
                EXPECT(blocks[i] != blocks[j], "blocks %zu and %zu are both %p", i, j, blocks[i]);
        for (size_t i = 0; i < 64; i++) memory->free(blocks[i]);
    }
    TEST("free: large blocks, freed twice, are refused") {
        for (size_t size = 512 * KIB; size <= 256 * MIB; size *= 4) {
            void *block = memory->allocate(size, 0);
            memory->free(block);
            memory_stats_t once = stats_of(memory);
            set_other_error(UNIMEM_ERROR_DOUBLE_FREE);
            memory->free(opaque(block));
            EXPECT(unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE, "second free of %zu bytes left error %d", size,
                   (int)unimem_last_error());
            EXPECT(same_totals(once, stats_of(memory)), "second free of %zu bytes changed the statistics", size);
        }
    }
}

static void test_realloc(void) {
    unsigned char *block = memory->realloc(NULL, 100);
    CHECK("realloc: NULL allocates", block && unimem_owns(block) && live_bytes() == 100);
    CHECK("realloc: size 0 frees", memory->realloc(block, 0) == NULL && !unimem_owns(block) && live_bytes() == 0);
    CHECK("realloc: NULL with size 0 is NULL", memory->realloc(NULL, 0) == NULL && live_bytes() == 0);
    TEST("realloc: contents up to the smaller size stay, through growing and shrinking") {
        random_t random = {2};
        size_t size = 1;
        block = memory->allocate(size, 0);
        pattern_fill(block, 0, size, 0);
        for (size_t round = 1; round <= 300; round++) {
            size_t next = random_size(&random, 1, round % 50 ? 17 : 24);
            unsigned char *moved = memory->realloc(block, next);
            if (!EXPECT(moved != NULL, "realloc from %zu to %zu is NULL", size, next)) continue;
            block = moved;
            EXPECT(pattern_holds(block, 0, next < size ? next : size, round - 1),
                   "realloc from %zu to %zu lost contents", size, next);
            EXPECT(live_bytes() == next, "after realloc to %zu bytes %zu are live", next, live_bytes());
            EXPECT(unimem_usable_size(block) >= next, "after realloc to %zu bytes %zu are usable", next,
                   unimem_usable_size(block));
            pattern_fill(block, 0, next, round);
            size = next;
        }
        memory->free(block);
    }
    TEST("realloc: the alignment stays") {
        for (size_t alignment = 1; alignment <= 16 * MIB; alignment *= 2) {
            block = memory->allocate(50, alignment);
            for (size_t size = 100; block && size <= 40 * MIB; size *= 5) {
                unsigned char *moved = memory->realloc(block, size);
                EXPECT(moved && is_aligned(moved, alignment), "realloc to %zu gave %p, expected alignment %zu", size,
                       (void *)moved, alignment);
                if (moved) block = moved;
            }
            memory->free(block);
        }
    }
    TEST("realloc: a big block keeps its contents as it grows from 2 MiB to 256 MiB") {
        size_t size = 2 * MIB;
        uint64_t *words = memory->allocate(size, 0);
        for (size_t i = 0; i < size / 8; i += 512) words[i] = i;
        for (; words && size < 256 * MIB; size *= 2) {
            uint64_t *moved = memory->realloc(words, size * 2);
            if (!EXPECT(moved != NULL, "realloc from %zu to %zu is NULL", size, size * 2)) continue;
            words = moved;
            size_t wrong = 0;
            for (size_t i = 0; i < size / 8; i += 512) wrong += words[i] != i;
            EXPECT(wrong == 0, "growing to %zu bytes changed %zu pages", size * 2, wrong);
            for (size_t i = size / 8; i < size / 4; i += 512) words[i] = i;
        }
        memory->free(words);
    }
    block = memory->allocate(5000, 256);
    pattern_fill(block, 0, 5000, 9);
    size_t refused_sizes[] = {SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX / 2, (size_t)1 << 62};
    TEST("realloc: a failure leaves the old block untouched") {
        for (size_t i = 0; i < 4; i++) {
            memory_stats_t before = stats_of(memory);
            EXPECT(memory->realloc(block, refused_sizes[i]) == NULL && unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY,
                   "realloc to %zu is not NULL, or for another reason than allocate", refused_sizes[i]);
            EXPECT(unimem_owns(block) && pattern_holds(block, 0, 5000, 9), "realloc to %zu changed the old block",
                   refused_sizes[i]);
            EXPECT(same_totals(before, stats_of(memory)), "realloc to %zu changed the statistics", refused_sizes[i]);
        }
    }
    char local[64] = {0};
    void *foreign = malloc(64), *wild[] = {local, foreign, block + 64, block + 1, (void *)0x10000, (void *)UINTPTR_MAX};
    TEST("realloc: of what is not the start of a live block is NULL, not owned, nothing changed") {
        memory_stats_t before = stats_of(memory);
        for (size_t i = 0; i < 6; i++) {
            for (size_t size = 0; size <= 200; size += 100) {
                set_other_error(UNIMEM_ERROR_NOT_OWNED);
                EXPECT(memory->realloc(opaque(wild[i]), size) == NULL,
                       "realloc of hostile pointer %zu to %zu is not NULL", i, size);
                EXPECT(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED, "realloc of hostile pointer %zu left error %d", i,
                       (int)unimem_last_error());
            }
        }
        EXPECT(same_totals(before, stats_of(memory)), "the statistics changed");
    }
    free(foreign);
    memory->free(block);
    set_other_error(UNIMEM_ERROR_DOUBLE_FREE);
    CHECK("realloc: of a freed block is NULL, double free",
          memory->realloc(opaque(block), 10) == NULL && unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE);
    CHECK_EQ("realloc: nothing is left behind", live_bytes(), 0);
}

static void test_questions(void) {
    char local[64] = {0};
    char *block = memory->allocate(1000, 64), *foreign = malloc(64);
    CHECK("unimem_owns: the start of a live block", unimem_owns(block));
    CHECK("unimem_owns: neither NULL, foreign memory, nor the stack",
          !unimem_owns(NULL) && !unimem_owns(foreign) && !unimem_owns(opaque(local)));
    CHECK("unimem_usable_size: at least the request, and all of it can be written",
          unimem_usable_size(block) >= 1000 && memset(block, 1, unimem_usable_size(block)));
    CHECK("unimem_usable_size: 0 for what is not the start of a live block",
          unimem_usable_size(NULL) == 0 && unimem_usable_size(foreign) == 0 && unimem_usable_size(block + 64) == 0 &&
              unimem_usable_size(opaque(local)) == 0);
    CHECK_EQ("unimem_reference_count: 1 for a new block", unimem_reference_count(block), 1);
    CHECK("unimem_retain: one more owner",
          unimem_retain(block) && unimem_retain(block) && unimem_reference_count(block) == 3);
    memory->free(block);
    CHECK("free: gives up one owner, the block stays",
          unimem_reference_count(block) == 2 && unimem_owns(block) && live_bytes() == 1000);
    memory->free(block);
    memory->free(block);
    CHECK("free: the last owner frees", unimem_reference_count(block) == 0 && !unimem_owns(block) && live_bytes() == 0);
    CHECK("unimem_usable_size: 0 for a freed block", unimem_usable_size(opaque(block)) == 0);
    set_other_error(UNIMEM_ERROR_NOT_OWNED);
    CHECK("unimem_retain: false, not owned, for a foreign pointer",
          !unimem_retain(foreign) && unimem_last_error() == UNIMEM_ERROR_NOT_OWNED && !unimem_retain(NULL) &&
              !unimem_retain(opaque(block)));
    CHECK("unimem_reference_count: 0 for NULL and foreign pointers",
          unimem_reference_count(NULL) == 0 && unimem_reference_count(foreign) == 0);
    free(foreign);
}

static void test_realloc_of_tensors(void) {
    TEST("realloc: a tensor keeps its contents and loses its layout") {
        for (size_t i = 0; i < 200; i++) {
            unimem_layout_t layout;
            unsigned char *tensor = memory->allocate_geometric((size_t[]){10, 10 + i}, 2);
            EXPECT(unimem_layout(tensor, &layout), "tensor %zu has no layout", i);
            pattern_fill(tensor, 0, 80 * (10 + i), i);
            unsigned char *moved = memory->realloc(tensor, 20000 + i * 64);
            EXPECT(moved && moved != tensor && pattern_holds(moved, 0, 80 * (10 + i), i), "tensor %zu lost contents", i);
            EXPECT(!unimem_layout(moved, &layout), "tensor %zu still has a layout", i);
            memory->free(moved);
        }
    }
}

/* A realloc counts as `each` allocations and frees, whether the block moves or not, and never to the peak with both
 * sizes. */
static void test_what_realloc_counts(const char *name, unified_memory_interface_t *table,
                                     void *(*resize)(void *block, size_t size), size_t each) {
    static const size_t sizes[] = {10,      17,      60,      1000,    1001,    100,     5000,    40000, 50,
                                   40000,   300000,  290000,  900000,  100,     3000000, 9000000, 9000001,
                                   2500000, 1500000, 1000000, 5000000, 64,      2};
    TEST(name) {
        for (size_t alignment = 0; alignment <= 256 * KIB; alignment = alignment ? alignment * 16 : 64) {
            size_t size = sizes[0], most = size + 5000, largest = 0;
            char *other = table->allocate(5000, 0), *block = table->allocate(size, alignment);
            unimem_reset_stats(table);
            for (size_t i = 1; block && i < sizeof sizes / sizeof *sizes; i++, size = sizes[i - 1]) {
                char *moved = resize(block, sizes[i]);
                if (!EXPECT(moved, "%zu to %zu: %s", size, sizes[i], unimem_last_error_message())) break;
                block = moved;
                if (sizes[i] + 5000 > most) most = sizes[i] + 5000;
                memory_stats_t stats = stats_of(table);
                EXPECT(stats.num_allocations == each * i && stats.num_frees == each * i && stats.cache_hits + stats.cache_misses == each * i,
                       "%zu to %zu, aligned to %zu: %zu allocations and %zu frees", size, sizes[i], alignment,
                       stats.num_allocations, stats.num_frees);
                EXPECT(stats.total_allocated == sizes[i] + 5000, "%zu to %zu: %zu are live", size, sizes[i],
                       stats.total_allocated);
                EXPECT(stats.peak_allocated == most, "%zu to %zu: the peak is %zu, expected %zu", size, sizes[i],
                       stats.peak_allocated, most);
                if (sizes[i] > largest) largest = sizes[i];
                EXPECT(stats.largest_allocation == largest, "%zu to %zu: the largest is %zu, expected %zu", size,
                       sizes[i], stats.largest_allocation, largest);
            }
            table->free(block);
            table->free(other);
            EXPECT(stats_of(table).num_frees == 2 + each * (sizeof sizes / sizeof *sizes - 1) && stats_of(table).total_allocated == 0, "%zu frees, %zu bytes",
                   stats_of(table).num_frees, stats_of(table).total_allocated);
        }
    }
}

static unified_memory_interface_t *resized;
static advanced_memory_system_t *resized_in;
static void *with_table(void *block, size_t size) { return resized->realloc(block, size); }
static void *with_system(void *block, size_t size) { return memory_reallocate(resized_in, block, size); }

static void test_what_reallocs_count(void) {
    MemoryPool *pool = create_memory_pool(&(PoolConfig){0});
    resized_in = create_memory_system(&(memory_system_config_t){0});
    unified_memory_interface_t *of_system = unimem_system_interface(resized_in);
    test_what_realloc_counts("realloc of an instance counts as neither an allocation nor a free", resized = memory, with_table, 0);
    test_what_realloc_counts("nor of a pool", resized = unimem_pool_interface(pool), with_table, 0);
    test_what_realloc_counts("nor of a memory system", resized = of_system, with_table, 0);
    test_what_realloc_counts("memory_reallocate counts as both, as in legacy C", of_system, with_system, 1);
    start_memory_monitoring(resized_in);
    test_what_realloc_counts("of blocks with guards too", of_system, with_system, 1);
    destroy_memory_system(resized_in);
    destroy_memory_pool(pool);
}

int main(void) {
    unified_pool_config_t config = {.enable_growth = true};
    memory = unimem_open(&config);
    if (!CHECK("an instance", memory != NULL)) return tap_done();
    test_allocate();
    test_free();
    test_double_frees();
    test_realloc();
    test_realloc_of_tensors();
    test_what_reallocs_count();
    test_questions();
    CHECK_EQ("nothing is left live", live_bytes(), 0);
    CHECK("the instance closes clean", unimem_close(memory));
    return tap_done();
}
