/* test_advanced_blocks.c - what an advanced memory system tells of its blocks: sizes, alignments, padding, whose they are,
 * and whether one was written behind its end. */
#define _GNU_SOURCE
#include "unimem.h"

#include "systems.h"

static void test_questions(advanced_memory_system_t *system) {
    char local[64], *foreign = malloc(100);
    TEST("get_block_info: true address, size, alignment and padding of every block") {
        for (size_t size = 1; size < 5 * MIB; size = size * 3 + 5)
            for (size_t alignment = 8; alignment <= 65536; alignment *= 4) {
                unsigned char *block = memory_allocate(system, size, alignment);
                block_info_t info;
                memset(&info, 0xA5, sizeof info);
                if (!EXPECT(get_block_info(system, block, &info), "no info of %zu bytes", size)) continue;
                EXPECT(info.address == block && info.is_allocated && info.size == size,
                       "%zu bytes: address %p, size %zu", size, info.address, info.size);
                EXPECT(info.alignment >= alignment && (info.alignment & (info.alignment - 1)) == 0 &&
                           is_aligned(block, info.alignment),
                       "%zu bytes: alignment %zu, asked for %zu", size, info.alignment, alignment);
                EXPECT(info.size + info.padding <= 2 * size + info.alignment + 4096, "%zu bytes: padding %zu", size,
                       info.padding);
                EXPECT(get_allocation_size(system, block) == size, "get_allocation_size of %zu bytes is %zu", size,
                       get_allocation_size(system, block));
                EXPECT(validate_memory_block(system, block) && check_memory_corruption(system, block),
                       "%zu bytes: not valid", size);
                memory_free(system, block);
                EXPECT(!get_block_info(system, block, &info) && get_allocation_size(system, block) == 0 &&
                           !check_memory_corruption(system, block),
                       "%zu bytes: still known after the free", size);
            }
    }
    unsigned char *block = memory_allocate(system, 1000, 64);
    void *wrong[] = {NULL, local, foreign, (void *)0x1000, (void *)UINTPTR_MAX, system};
    TEST("questions about what is not the system's are answered with false and 0") {
        for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
            block_info_t info = {.size = 4711};
            void *pointer = opaque(wrong[i]);
            EXPECT(!get_block_info(system, pointer, &info) && info.size == 4711, "get_block_info of pointer %zu", i);
            EXPECT(!validate_memory_block(system, pointer) && !check_memory_corruption(system, pointer) &&
                       get_allocation_size(system, pointer) == 0,
                   "pointer %zu", i);
        }
        EXPECT(!get_block_info(system, block, NULL) && !get_block_info(NULL, block, &(block_info_t){0}) &&
                   !validate_memory_block(NULL, block) && !check_memory_corruption(NULL, block) &&
                   get_allocation_size(NULL, block) == 0,
               "NULL arguments");
    }
    CHECK("validate_memory_block: also within a block, not beyond its end",
          validate_memory_block(system, block + 500) && !get_block_info(system, block + 500, &(block_info_t){0}) &&
              get_allocation_size(system, block + 500) == 0);
    memory_free(system, block);
    free(foreign);
}

/* While a system is monitored, its blocks have guards behind them. */
static void test_monitoring(advanced_memory_system_t *system) {
    CHECK("start_memory_monitoring: true; false for NULL",
          start_memory_monitoring(system) && !start_memory_monitoring(NULL));
    TEST("check_memory_corruption: one byte written behind a block is told, whatever the size") {
        for (size_t size = 1; size < 3 * MIB; size = size < 300 ? size + 1 : size * 2 + 64) {
            unsigned char *damaged = memory_allocate(system, size, 64), *good = memory_allocate(system, size, 64);
            if (!EXPECT(damaged && good, "%zu bytes: NULL", size)) continue;
            EXPECT(get_allocation_size(system, good) == size, "%zu bytes: size %zu with guard bytes", size,
                   get_allocation_size(system, good));
            memset(damaged, 0xFF, size);
            memset(good, 0xFF, size);
            EXPECT(check_memory_corruption(system, damaged) && check_memory_corruption(system, good),
                   "%zu bytes: told as damaged before it was", size);
            unsigned char was = damaged[size];
            damaged[size] = (unsigned char)~was;
            EXPECT(!check_memory_corruption(system, damaged), "%zu bytes: the damage is not told", size);
            EXPECT(check_memory_corruption(system, good), "%zu bytes: the good block is told as damaged", size);
            damaged[size] = was;
            EXPECT(check_memory_corruption(system, damaged), "%zu bytes: told as damaged after it was repaired", size);
            unsigned char *grown = memory_reallocate(system, good, size + 100);
            EXPECT(grown && check_memory_corruption(system, grown), "%zu bytes: told as damaged after growing", size);
            memory_free(system, damaged);
            memory_free(system, grown);
        }
    }
    TEST("a guarded block with two owners stays where it is, and has its guard until the second gives it up") {
        unsigned char *block = memory_allocate(system, 100, 64);
        if (EXPECT(block && unimem_retain(block), "no block with two owners")) {
            memset(block, 7, 100);
            EXPECT(!memory_reallocate(system, block, 200) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT &&
                       get_allocation_size(system, block) == 100 && unimem_reference_count(block) == 2 && block[99] == 7,
                   "it has moved: %s", unimem_last_error_message());
            memory_free(system, block);
            block[100] = (unsigned char)~block[100];
            EXPECT(unimem_owns(block) && !check_memory_corruption(system, block), "the damage is not told");
            block[100] = (unsigned char)~block[100];
            memory_free(system, block);
            EXPECT(!unimem_owns(block), "it is live");
        }
    }
    TEST("check_memory_corruption: the same for a pool that is made while the system is monitored") {
        void *pool = advanced_create_memory_pool(system, &(pool_config_t){.enable_growth = true});
        unsigned char *block = advanced_pool_allocate(system, pool, 100);
        if (EXPECT(block, "no block of a pool: %s", unimem_last_error_message())) {
            block[100] = (unsigned char)~block[100];
            EXPECT(!check_memory_corruption(system, block), "the damage is not told");
            block[100] = (unsigned char)~block[100];
        }
        advanced_pool_free(system, pool, block);
        advanced_destroy_memory_pool(system, pool);
    }
    TEST("check_memory_corruption: the same for blocks of the system's interface") {
        unified_memory_interface_t *memory = unimem_system_interface(system);
        for (size_t size = 1; size < 3 * MIB; size = size * 3 + 1) {
            unsigned char *block = memory->allocate(size, 0), *tensor = memory->allocate_geometric(&size, 1);
            if (!EXPECT(block && tensor, "%zu bytes: NULL", size)) continue;
            unsigned char *grown = memory->realloc(block, size + 100);
            if (!EXPECT(grown, "%zu bytes: realloc gave NULL", size)) continue;
            struct {
                unsigned char *start;
                size_t size;
            } blocks[] = {{grown, size + 100}, {tensor, size * 8}};
            for (size_t i = 0; i < 2; i++) {
                unsigned char *end = blocks[i].start + blocks[i].size, was = *end;
                EXPECT(get_allocation_size(system, blocks[i].start) == blocks[i].size, "%zu bytes: another size", size);
                memset(blocks[i].start, 0xFF, blocks[i].size);
                EXPECT(check_memory_corruption(system, blocks[i].start), "%zu bytes: told as damaged before it was", size);
                *end = (unsigned char)~was;
                EXPECT(!check_memory_corruption(system, blocks[i].start), "%zu bytes: the damage is not told", size);
                *end = was;
                memory->free(blocks[i].start);
            }
        }
        for (int i = 0; i < 100; i++) { /* as fast paths would serve it */
            unsigned char *block = memory->allocate(100, 0);
            if (!EXPECT(block, "block %d is NULL", i)) break;
            block[100] = (unsigned char)~block[100];
            EXPECT(!check_memory_corruption(system, block), "block %d: the damage is not told", i);
            block[100] = (unsigned char)~block[100];
            memory->free(block);
        }
    }
    TEST("check_memory_corruption: a block without a guard, where one with a guard was, is good") {
        unified_memory_interface_t *memory = unimem_system_interface(system);
        for (size_t size = 1; size < 3 * MIB; size = size * 3 + 1) {
            unsigned char *guarded = memory_allocate(system, size, 64);
            memory->free(guarded);
            stop_memory_monitoring(system);
            unsigned char *plain = memory->allocate(size, 64);
            start_memory_monitoring(system);
            block_info_t info;
            if (!EXPECT(plain && get_block_info(system, plain, &info), "no block of %zu bytes", size)) continue;
            /* Its padding is the heap's and nobody's contents, except where debug mode has its own guard there. */
            if (info.padding >= 16 && !debug_mode("guard")) memset(plain + size, 0xEE, 16);
            EXPECT(check_memory_corruption(system, plain), "%zu bytes: told as damaged", size);
            memory->free(plain);
        }
    }
    CHECK("stop_memory_monitoring: true; false for NULL",
          stop_memory_monitoring(system) && !stop_memory_monitoring(NULL));
    CHECK_EQ("nothing is left live", usage_of(system), 0);
}

int main(void) {
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.type = MEM_SYSTEM_POOLED});
    if (!CHECK("a system for the tests", system != NULL)) return tap_done();
    test_questions(system);
    test_monitoring(system);
    destroy_memory_system(system);
    return tap_done();
}
