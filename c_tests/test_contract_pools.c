/* test_contract_pools.c - what a caller may read of a memory pool and of the pools of a system. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"

#include "support.h"
#include "tap.h"

static void test_total_size(void) {
    PoolConfig config = {.alignment = 64};
    MemoryPool *pool = create_memory_pool(&config);
    unified_memory_interface_t *memory = unimem_pool_interface(pool);
    TEST("MemoryPool.total_size is what the pool holds now, also after memory went back") {
        size_t empty = pool->total_size;
        for (size_t round = 0; round < 3; round++) {
            char *blocks[40];
            for (size_t i = 0; i < 40; i++) {
                blocks[i] = pool_allocate(pool, i % 2 ? 100 * KIB : 3 * MIB);
                EXPECT(pool->total_size == unimem_held_bytes(memory), "%zu, held are %zu", pool->total_size,
                       unimem_held_bytes(memory));
            }
            EXPECT(pool->total_size >= 20 * (3 * MIB + 100 * KIB), "%zu with 62 MB live", pool->total_size);
            for (size_t i = 0; i < 40; i++) pool_free(pool, blocks[i]);
            unimem_trim(memory);
            EXPECT(pool->total_size == unimem_held_bytes(memory) && pool->total_size < empty + MIB + held_back(),
                   "%zu with nothing live, %zu at first, held are %zu", pool->total_size, empty, unimem_held_bytes(memory));
        }
    }
    CHECK("statistics off: 0, but the interface's are exact",
          pool_allocate(pool, 100) && get_total_allocated(pool) == 0 && stats_of(memory).total_allocated == 100);
    TEST("MemoryPool's size classes have sizes") {
        EXPECT(pool->num_classes > 0 && pool->size_classes, "%zu classes", pool->num_classes);
        for (size_t i = 0; pool->size_classes && i < pool->num_classes; i++)
            EXPECT(pool->size_classes[i].block_size > 0 && pool->size_classes[i].block_size % 16 == 0, "class %zu: %zu", i,
                   pool->size_classes[i].block_size);
    }
    destroy_memory_pool(pool);
}

static void test_alignments(void) {
    TEST("any alignment up to 64 means 64; a larger one has to be a power of two up to 1 GiB") {
        for (size_t alignment = 0; alignment <= 300; alignment++) {
            PoolConfig config = {.alignment = alignment};
            MemoryPool *pool = create_memory_pool(&config);
            bool valid = alignment <= 64 || (alignment & (alignment - 1)) == 0;
            EXPECT((pool != NULL) == valid, "alignment %zu: %p", alignment, (void *)pool);
            if (pool) EXPECT(is_aligned(pool_allocate(pool, 1), alignment > 64 ? alignment : 64), "alignment %zu", alignment);
            destroy_memory_pool(pool);
        }
        EXPECT(!create_memory_pool(&(PoolConfig){.alignment = 2 * GIB}), "2 GiB");
        EXPECT(!create_memory_pool(&(PoolConfig){.alignment = SIZE_MAX}), "SIZE_MAX");
    }
}

static bool header_fits(const void *block, size_t size) {
    const Block *header = (const Block *)block - 1;
    return header->magic == 0xDEADBEEF && !header->is_free && header->size >= (size + 63) / 64 * 64 && header->data == block;
}

static void test_headers_after_realloc(void) {
    static const size_t sizes[] = {100,     4000,    200000,   230000,  280000,  330000, 500000, 1000000, 3000000,
                                   9000000, 9100000, 30000000, 5000000, 1500000, 900000, 70,     128};
    static const size_t alignments[] = {64, 256, 4096, 65536};
    TEST("a pool's block has its size and its header wherever its interface's realloc leaves it") {
        for (size_t a = 0; a < sizeof alignments / sizeof *alignments; a++) {
            PoolConfig config = {.alignment = alignments[a]};
            MemoryPool *pool = create_memory_pool(&config);
            unified_memory_interface_t *memory = unimem_pool_interface(pool);
            char *block = pool_allocate(pool, 10);
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                char *moved = memory->realloc(block, sizes[i]);
                if (!EXPECT(moved && is_aligned(moved, alignments[a]), "%zu bytes at %p", sizes[i], (void *)moved)) continue;
                block = moved;
                EXPECT(unimem_usable_size(block) == sizes[i] && stats_of(memory).total_allocated == sizes[i],
                       "%zu bytes, alignment %zu: %zu are usable, %zu live", sizes[i], alignments[a], unimem_usable_size(block),
                       stats_of(memory).total_allocated);
                EXPECT(header_fits(block, sizes[i]), "%zu bytes, alignment %zu: the header says %zu at %p", sizes[i],
                       alignments[a], ((Block *)(void *)block - 1)->size, ((Block *)(void *)block - 1)->data);
            }
            destroy_memory_pool(pool);
        }
    }
}

static void test_pools_of_systems(void) {
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.alignment = 64});
    pool_config_t config = {.pool_size = 4096, .max_blocks = 7, .enable_stats = true};
    advanced_memory_pool_t *pool = advanced_create_memory_pool(system, &config);
    CHECK("a system's pool tells what it was made from",
          memcmp(&pool->config, &config, sizeof config) == 0 && !pool->layouts && !pool->buffers && !pool->fast_path_cache &&
              !pool->use_neon && pool->num_layouts == 0 && pool->num_buffers == 0);
    block_info_t info;
    void *block = advanced_pool_allocate(system, pool, 100);
    CHECK("get_block_info: the pool of a pool's block", get_block_info(system, block, &info) && info.pool == pool);
    config = (pool_config_t){.enable_growth = true};
    CHECK("optimize_pool_configuration changes what the pool tells",
          optimize_pool_configuration(system, pool, &config) && memcmp(&pool->config, &config, sizeof config) == 0);
    size_t eight = 8;
    MemoryLayout *layout = create_memory_layout(pool, &eight, 1, GEOMETRIC_STATE_KAHLER);
    update_memory_access(pool);
    CHECK("update_memory_access: tags nothing without enable_stats", layout && layout->geom_type == GEOMETRIC_STATE_KAHLER);
    config.enable_stats = true;
    optimize_pool_configuration(system, pool, &config);
    update_memory_access(pool);
    CHECK("and all with it", layout && layout->geom_type == GEOMETRIC_STATE_EUCLIDEAN);
    memory_metrics_t metrics;
    get_memory_metrics(system, &metrics);
    CHECK("metrics count what pools allocate", metrics.allocation_count > 0 && metrics.current_usage >= 100);
    size_t live = metrics.current_usage;
    unimem_reset_stats(unimem_system_interface(system));
    get_memory_metrics(system, &metrics);
    CHECK("unimem_reset_stats of a system's interface: of pools too",
          metrics.allocation_count == 0 && metrics.total_allocated == 0 && metrics.total_freed == 0 &&
              metrics.peak_usage == live && metrics.current_usage == live);
    MemoryBuffer *buffer = create_memory_buffer(pool, 100, false, true, HARDWARE_TYPE_QPU);
    CHECK("a buffer is pinned, and unified only with a GPU mirror",
          buffer && buffer->is_pinned && !buffer->is_unified && !buffer->gpu_ptr && buffer->quantum_ptr);
    destroy_memory_system(system);
}

/* Allocates and frees 16 MiB of the pool and of the system. */
static void leave_unused(advanced_memory_system_t *system, void *pool) {
    void *blocks[320];
    for (size_t i = 0; i < 320; i++)
        blocks[i] = i % 2 ? memory_allocate(system, 100 * KIB, 0) : advanced_pool_allocate(system, pool, 100 * KIB);
    for (size_t i = 0; i < 320; i++) i % 2 ? memory_free(system, blocks[i]) : advanced_pool_free(system, pool, blocks[i]);
}

/* What a system with `live` bytes and its pools hold, as the fragmentation says. */
static double held_by_all(advanced_memory_system_t *system, double live) {
    double level = 0;
    return analyze_fragmentation(system, &level) ? live / (1 - level) : 0;
}

static void test_what_gives_back(void) {
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.alignment = 64});
    unified_memory_interface_t *memory = unimem_system_interface(system);
    void *pool = advanced_create_memory_pool(system, &(pool_config_t){.enable_growth = true});
    void *kept = advanced_pool_allocate(system, pool, 1000);
    const double much = 8 * (double)MIB;
    leave_unused(system, pool);
    size_t held = unimem_held_bytes(memory);
    CHECK("optimize_memory_usage: nothing at MEM_OPT_NONE",
          optimize_memory_usage(system, MEM_OPT_NONE) && unimem_held_bytes(memory) == held);
    if (debug_mode("quarantine")) {
        SKIP("what else gives back", "freed blocks are held back in debug mode");
    } else {
        optimize_memory_usage(system, MEM_OPT_BASIC);
        CHECK("at MEM_OPT_BASIC the system's own", unimem_held_bytes(memory) + 8 * MIB < held);
        CHECK("and not its pools'", held_by_all(system, 1000) > much);
        optimize_memory_usage(system, MEM_OPT_ADVANCED);
        CHECK("at MEM_OPT_ADVANCED its pools' too", held_by_all(system, 1000) < much);
        leave_unused(system, pool);
        held = unimem_held_bytes(memory);
        start_defragmentation(system, &(defrag_config_t){.threshold = 1.0, .compact_pools = true});
        CHECK("start_defragmentation: nothing below the threshold", unimem_held_bytes(memory) == held);
        start_defragmentation(system, &(defrag_config_t){.threshold = 0.1, .compact_pools = false});
        CHECK("without compact_pools the system's own",
              unimem_held_bytes(memory) + 8 * MIB < held && held_by_all(system, 1000) > much);
        start_defragmentation(system, &(defrag_config_t){.threshold = 0.1, .compact_pools = true});
        CHECK("with it its pools' too", held_by_all(system, 1000) < much);
    }
    CHECK("the pool's block is live", get_allocation_size(system, kept) == 1000);
    destroy_memory_system(system);
}

int main(void) {
    test_alignments();
    test_total_size();
    test_headers_after_realloc();
    test_pools_of_systems();
    test_what_gives_back();
    return tap_done();
}
