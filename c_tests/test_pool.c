/* test_pool.c - the memory pool as its callers use it: configurations, exact totals at every step, the header before
 * each block, wrong frees. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h" /* after memory_pool.h, whose names come first */

#include "support.h"

static PoolConfig plain_config(void) { return (PoolConfig){.enable_stats = true}; }

static PoolConfig full_config(size_t classes, size_t cache) {
    return (PoolConfig){.min_block_size = 64,
                        .alignment = 64,
                        .num_size_classes = classes,
                        .growth_factor = 2.0f,
                        .prefetch_distance = 4,
                        .use_huge_pages = false,
                        .cache_local_free_lists = true,
                        .max_blocks_per_class = 1024,
                        .thread_cache_size = cache,
                        .enable_stats = true};
}

static void test_layouts(void) {
    /* Offsets that callers compiled against the legacy headers have built in. */
    _Static_assert(sizeof(Block) == 128 && offsetof(Block, size) == 0 && offsetof(Block, magic) == 8 &&
                       offsetof(Block, is_free) == 12 && offsetof(Block, data) == 72,
                   "Block");
    _Static_assert(sizeof(PoolConfig) == 72 && offsetof(PoolConfig, alignment) == 8 &&
                       offsetof(PoolConfig, thread_cache_size) == 56 && offsetof(PoolConfig, enable_stats) == 64,
                   "PoolConfig");
    _Static_assert(sizeof(MemoryPool) == 136 + sizeof(pthread_mutex_t) && offsetof(MemoryPool, total_size) == 8 &&
                       offsetof(MemoryPool, num_classes) == 24 && offsetof(MemoryPool, total_allocated) == 40 &&
                       offsetof(MemoryPool, config) == 64 + sizeof(pthread_mutex_t),
                   "MemoryPool");
    CHECK("the layouts are those of the legacy headers (asserted at compile time)",
          sizeof(SizeClass) == 48 + sizeof(pthread_mutex_t));
}

static void test_create(void) {
    CHECK("create_memory_pool: NULL config is NULL", create_memory_pool(NULL) == NULL);
    PoolConfig zeros;
    memset(&zeros, 0, sizeof zeros);
    MemoryPool *pool = create_memory_pool(&zeros);
    void *block = pool ? pool_allocate(pool, 100) : NULL;
    CHECK("create_memory_pool: a config of zeros is valid", pool && block);
    if (pool) {
        pool_free(pool, block);
        destroy_memory_pool(pool);
    }
    TEST("create_memory_pool: every real config gives a pool that works") {
        const size_t classes[] = {0, 8, 32, 64}, caches[] = {0, 32, 64, 256};
        for (size_t c = 0; c < 4; c++)
            for (size_t t = 0; t < 4; t++) {
                PoolConfig config = full_config(classes[c], caches[t]);
                pool = create_memory_pool(&config);
                if (!EXPECT(pool != NULL, "%zu classes, cache of %zu: NULL", classes[c], caches[t])) continue;
                EXPECT(pool->config.num_size_classes == classes[c] && pool->config.thread_cache_size == caches[t] &&
                           pool->config.enable_stats && pool->config.growth_factor == 2.0f &&
                           pool->config.max_blocks_per_class == 1024,
                       "%zu classes, cache of %zu: the pool's config is not what was given", classes[c], caches[t]);
                EXPECT(pool->num_classes > 0, "num_classes is 0");
                size_t total = 0;
                static unsigned char *blocks[600];
                for (size_t i = 0; i < 600; i++) {
                    size_t size = 1 + i * i * 3;
                    blocks[i] = pool_allocate(pool, size);
                    if (!EXPECT(blocks[i] != NULL, "%zu bytes: NULL", size)) continue;
                    pattern_fill(blocks[i], 0, size < 5000 ? size : 5000, i);
                    total += size;
                    EXPECT(get_total_allocated(pool) == total, "total is %zu, expected %zu", get_total_allocated(pool),
                           total);
                    EXPECT(pool->total_size >= total, "total_size is %zu with %zu live", pool->total_size, total);
                }
                for (size_t i = 0; i < 600; i++) {
                    size_t size = 1 + i * i * 3;
                    EXPECT(pattern_holds(blocks[i], 0, size < 5000 ? size : 5000, i), "contents of block %zu", i);
                    pool_free(pool, blocks[i]);
                    total -= size;
                    EXPECT(get_total_allocated(pool) == total, "total is %zu after a free, expected %zu",
                           get_total_allocated(pool), total);
                }
                EXPECT(get_num_allocations(pool) == 600, "%zu allocations counted", get_num_allocations(pool));
                destroy_memory_pool(pool);
            }
    }
}

static void test_totals(void) {
    PoolConfig config = full_config(32, 64);
    MemoryPool *pool = create_memory_pool(&config);
    if (!CHECK("a pool", pool != NULL)) return;
    CHECK("a new pool has allocated nothing",
          get_total_allocated(pool) == 0 && get_peak_allocated(pool) == 0 && get_num_allocations(pool) == 0);
    void *a = pool_allocate(pool, 64);
    CHECK_EQ("allocate 64, and 64 is reported", get_total_allocated(pool), 64);
    void *b = pool_allocate(pool, 100);
    CHECK_EQ("allocate 100 more, and 164 is reported", get_total_allocated(pool), 164);
    CHECK_EQ("the peak is 164", get_peak_allocated(pool), 164);
    pool_free(pool, a);
    CHECK_EQ("free the 64, and 100 is reported", get_total_allocated(pool), 100);
    CHECK_EQ("the peak stays", get_peak_allocated(pool), 164);
    a = pool_allocate(pool, 63);
    CHECK_EQ("allocate 63, and 163 is reported", get_total_allocated(pool), 163);
    CHECK_EQ("still the same peak", get_peak_allocated(pool), 164);
    pool_free(pool, a);
    pool_free(pool, b);
    CHECK_EQ("free all, and 0 is reported", get_total_allocated(pool), 0);
    CHECK_EQ("three allocations succeeded", get_num_allocations(pool), 3);
    TEST("single size class: 1,000 blocks of 256, totals exact at every step") {
        void *blocks[1000];
        for (size_t i = 0; i < 1000; i++) {
            blocks[i] = pool_allocate(pool, 256);
            EXPECT(get_total_allocated(pool) == (i + 1) * 256, "%zu after %zu blocks", get_total_allocated(pool),
                   i + 1);
            EXPECT(get_peak_allocated(pool) == (i + 1) * 256, "peak %zu after %zu blocks", get_peak_allocated(pool),
                   i + 1);
        }
        for (size_t i = 1000; i-- > 0;) {
            pool_free(pool, blocks[i]);
            EXPECT(get_total_allocated(pool) == i * 256, "%zu with %zu blocks left", get_total_allocated(pool), i);
        }
        EXPECT(get_peak_allocated(pool) == 256000, "peak %zu at the end", get_peak_allocated(pool));
    }
    TEST("thread cache: the same block over and over, totals exact at every step") {
        for (size_t i = 0; i < 5000; i++) {
            size_t size = 64 + i % 3 * 512;
            void *block = pool_allocate(pool, size);
            EXPECT(get_total_allocated(pool) == size, "%zu after allocating %zu", get_total_allocated(pool), size);
            pool_free(pool, block);
            EXPECT(get_total_allocated(pool) == 0, "%zu after freeing", get_total_allocated(pool));
        }
    }
    TEST("thread cache: the same block over and over while others stay, totals exact at every step") {
        enum { KEPT = 512, AGAIN = 5000 };
        static void *blocks[1000];
        for (size_t i = 0; i < 1000; i++) {
            blocks[i] = pool_allocate(pool, KEPT);
            void *block = pool_allocate(pool, AGAIN);
            EXPECT(get_total_allocated(pool) == (i + 1) * KEPT + AGAIN, "%zu beside %zu", get_total_allocated(pool), i + 1);
            pool_free(pool, block);
        }
        for (size_t i = 0; i < 1000; i++) pool_free(pool, blocks[i]);
        EXPECT(get_total_allocated(pool) == 0, "%zu after freeing", get_total_allocated(pool));
    }
    TEST("large blocks: 5 MB and more, totals exact, contents whole") {
        for (size_t size = 5000000; size <= 200000000; size *= 3) {
            unsigned char *block = pool_allocate(pool, size);
            if (!EXPECT(block != NULL, "%zu bytes: NULL", size)) continue;
            EXPECT(get_total_allocated(pool) == size, "%zu reported, expected %zu", get_total_allocated(pool), size);
            EXPECT(get_peak_allocated(pool) >= size && pool->total_size >= size,
                   "peak %zu, total_size %zu for %zu bytes", get_peak_allocated(pool), pool->total_size, size);
            const size_t places[] = {0, size / 2, size - 100};
            for (size_t i = 0; i < 3; i++) pattern_fill(block, places[i], places[i] + 100, i);
            for (size_t i = 0; i < 3; i++) EXPECT(pattern_holds(block, places[i], places[i] + 100, i), "contents of %zu bytes", size);
            pool_free(pool, block);
            EXPECT(get_total_allocated(pool) == 0, "%zu reported after freeing %zu", get_total_allocated(pool), size);
        }
    }
    CHECK("base_address is set once blocks were made", pool->base_address != NULL);
    size_t peak = get_peak_allocated(pool), count = get_num_allocations(pool);
    CHECK("pool_allocate: size 0 is NULL and counted nowhere",
          pool_allocate(pool, 0) == NULL && get_num_allocations(pool) == count && get_peak_allocated(pool) == peak);
    CHECK("pool_allocate: sizes that overflow are NULL and counted nowhere",
          pool_allocate(pool, SIZE_MAX) == NULL && pool_allocate(pool, SIZE_MAX - 127) == NULL &&
              pool_allocate(pool, SIZE_MAX - 200) == NULL && pool_allocate(pool, SIZE_MAX / 2) == NULL &&
              get_num_allocations(pool) == count && get_total_allocated(pool) == 0 && get_peak_allocated(pool) == peak);
    MemoryPool *alias = opaque(pool);
    void *block = pool_allocate(pool, 500);
    pool_free(alias, block);
    CHECK("a block may be freed through another pointer to the same pool",
          get_total_allocated(alias) == 0 && get_total_allocated(pool) == 0);
    destroy_memory_pool(pool);
    CHECK("NULL pools are harmless", pool_allocate(NULL, 64) == NULL && get_total_allocated(NULL) == 0 &&
                                         get_peak_allocated(NULL) == 0 && get_num_allocations(NULL) == 0);
    pool_free(NULL, NULL);
    destroy_memory_pool(NULL);

    config.enable_stats = false;
    pool = create_memory_pool(&config);
    block = pool ? pool_allocate(pool, 1000) : NULL;
    CHECK("enable_stats false: blocks come, all three figures are 0",
          block && get_total_allocated(pool) == 0 && get_peak_allocated(pool) == 0 && get_num_allocations(pool) == 0);
    if (pool) {
        pool_free(pool, block);
        CHECK("enable_stats false: still 0 after a free",
              get_total_allocated(pool) == 0 && get_peak_allocated(pool) == 0);
        pool_free(pool, opaque(block));
        CHECK("enable_stats false: a double free is still refused", unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE);
        destroy_memory_pool(pool);
    }
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static void store_32(void *block) { _mm256_store_si256(block, _mm256_set1_epi32(7)); }

__attribute__((target("avx512f"))) static void store_64(void *block) {
    _mm512_store_si512(block, _mm512_set1_epi32(9));
}

/* What a caller does that was built for wide vectors: an aligned store faults on a block that is not aligned. */
static void vector_stores(void *block) {
    if (__builtin_cpu_supports("avx2")) store_32(block);
    if (__builtin_cpu_supports("avx512f")) store_64(block);
}
#else
static void vector_stores(void *block) { memset(block, 7, 64); }
#endif

static const Block *header_of(const void *data) { return (const Block *)((const char *)data - sizeof(Block)); }

static void test_blocks(void) {
    PoolConfig config = full_config(64, 64);
    MemoryPool *pool = create_memory_pool(&config);
    if (!CHECK("a pool of 64 classes", pool != NULL)) return;
    TEST("pool_allocate: each block is aligned to 64 and carries its header before it, also when used again") {
        random_t random = {7};
        static void *blocks[512];
        static size_t sizes[512];
        for (size_t i = 0; i < 40000; i++) {
            size_t slot = random_below(&random, 512);
            if (blocks[slot]) pool_free(pool, blocks[slot]);
            size_t size = sizes[slot] = random_size(&random, 0, i % 500 ? 14 : 23);
            unsigned char *data = blocks[slot] = pool_allocate(pool, size);
            if (!EXPECT(data != NULL, "%zu bytes: NULL", size)) continue;
            EXPECT(is_aligned(data, 64), "%zu bytes at %p", size, (void *)data);
            const Block *header = header_of(data);
            EXPECT(header->magic == 0xDEADBEEF, "magic of %zu bytes is %#x", size, header->magic);
            EXPECT(!header->is_free, "is_free of a live block of %zu bytes", size);
            EXPECT(header->size >= (size + 63) / 64 * 64, "header size %zu of %zu bytes", header->size, size);
            EXPECT(header->data == data, "header data %p of the block at %p", header->data, (void *)data);
            if (size >= 64) vector_stores(data);
            data[0] = data[size - 1] = 0xEE;
        }
        for (size_t i = 0; i < 512; i++) {
            if (!blocks[i]) continue;
            EXPECT(header_of(blocks[i])->magic == 0xDEADBEEF && header_of(blocks[i])->data == blocks[i],
                   "the header of block %zu was written over", i);
            pool_free(pool, blocks[i]);
        }
    }
    CHECK_EQ("all of them freed: nothing is live", get_total_allocated(pool), 0);
    TEST("the library does not trust the header: a block is freed whatever its caller wrote there") {
        unsigned char *data = pool_allocate(pool, 300), *next = pool_allocate(pool, 300);
        memset(data - sizeof(Block), 0xFF, sizeof(Block));
        pool_free(pool, data);
        EXPECT(get_total_allocated(pool) == 300, "%zu live, expected 300", get_total_allocated(pool));
        pool_free(pool, next);
        EXPECT(get_total_allocated(pool) == 0, "%zu live, expected 0", get_total_allocated(pool));
    }
    destroy_memory_pool(pool);
    TEST("config.alignment above 64 is honoured, header and all") {
        for (size_t alignment = 128; alignment <= GIB; alignment *= 2) {
            config.alignment = alignment;
            pool = create_memory_pool(&config);
            if (!EXPECT(pool != NULL, "alignment %zu: no pool", alignment)) continue;
            for (size_t size = 1; size < 5000000; size = size * 3 + 1) {
                unsigned char *data = pool_allocate(pool, size);
                if (!EXPECT(data && is_aligned(data, alignment), "%zu bytes at %p, expected alignment %zu", size,
                            (void *)data, alignment))
                    continue;
                EXPECT(header_of(data)->magic == 0xDEADBEEF && header_of(data)->data == data,
                       "header of %zu bytes, alignment %zu", size, alignment);
                data[0] = data[size - 1] = 1;
                if (size % 2) pool_free(pool, data);
            }
            destroy_memory_pool(pool);
        }
    }
}

static void test_wrong_frees(void) {
    PoolConfig config = full_config(8, 32);
    MemoryPool *pool = create_memory_pool(&config), *other = create_memory_pool(&config);
    if (!CHECK("two pools", pool && other)) return;
    char local[256] __attribute__((aligned(64))) = {0}, *foreign = malloc(4096);
    char *mine = pool_allocate(pool, 200), *theirs = pool_allocate(other, 300), *large = pool_allocate(other, 6 * MIB),
         *freed = pool_allocate(pool, 200);
    pool_free(pool, freed);
    pattern_fill(mine, 0, 200, 1);
    pattern_fill(theirs, 0, 300, 2);
    /* Memory that looks like a block of a pool: only metadata out of band can tell that it is none. */
    char forged[512] __attribute__((aligned(64)));
    memcpy(forged, mine - sizeof(Block), sizeof(Block));
    ((Block *)(void *)forged)->data = forged + sizeof(Block);
    const struct {
        const char *what;
        void *pointer;
    } hostile[] = {{"NULL", NULL},
                   {"the stack", local},
                   {"malloc's block", foreign + 64},
                   {"inside a block", mine + 64},
                   {"one byte in", mine + 1},
                   {"the header", mine - 128},
                   {"another pool's block", theirs},
                   {"another pool's large block", large},
                   {"a block freed before", freed},
                   {"a forged block", forged + 128},
                   {"the pool", pool},
                   {"address 64", (void *)64},
                   {"a page never mapped", (void *)0x7000000000},
                   {"kernel space", (void *)0xFFFF880000000000u}};
    TEST("pool_free: what is not an own live block changes nothing") {
        for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
            pool_free(pool, opaque(hostile[i].pointer));
            EXPECT(get_total_allocated(pool) == 200 && get_total_allocated(other) == 300 + 6 * MIB,
                   "free of %s: totals are %zu and %zu", hostile[i].what, get_total_allocated(pool),
                   get_total_allocated(other));
            EXPECT(get_num_allocations(pool) == 2 && get_peak_allocated(pool) == 400,
                   "free of %s changed the pool's history", hostile[i].what);
        }
        EXPECT(pattern_holds(mine, 0, 200, 1) && pattern_holds(theirs, 0, 300, 2), "contents changed");
    }
    pool_free(pool, theirs);
    CHECK("pool_free: another pool's block is refused with not owned", unimem_last_error() == UNIMEM_ERROR_NOT_OWNED);
    pool_free(pool, opaque(freed));
    CHECK("pool_free: a second free is refused with double free", unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE);
    pool_free(other, theirs);
    CHECK_EQ("pool_free: its own pool frees it", get_total_allocated(other), 6 * MIB);
    TEST("caches belong to a pool: a block freed in one is never handed out by another") {
        for (size_t i = 0; i < 2000; i++) {
            void *a = pool_allocate(pool, 128);
            pool_free(pool, a);
            void *b = pool_allocate(other, 128);
            EXPECT(a != b, "round %zu: both pools handed out %p", i, a);
            pool_free(other, b);
        }
    }
    size_t resident = resident_bytes();
    memset(large, 1, 6 * MIB);
    destroy_memory_pool(other);
    CHECK("destroy_memory_pool: frees live blocks", !unimem_owns(large));
    CHECK("destroy_memory_pool: the other pool goes on",
          pattern_holds(mine, 0, 200, 1) && get_total_allocated(pool) == 200);
    pool_free(pool, mine);
    destroy_memory_pool(pool);
    unimem_trim(unimem_global());
    CHECK("destroy_memory_pool: its memory goes back", resident_bytes() < resident + 4 * MIB);
    free(foreign);
}

static void note_warning(int level, const char *message, void *context) {
    if (level <= 1 && message && *message) ++*(size_t *)context;
}

static void test_destroy(void) {
    size_t warnings = 0;
    PoolConfig config = plain_config();
    MemoryPool *pool = create_memory_pool(&config);
    if (!CHECK("a pool to destroy", pool != NULL)) return;
    unimem_set_log(note_warning, &warnings);
    for (size_t i = 0; i < 3000; i++) (void)pool_allocate(pool, 1 + i * 10);
    destroy_memory_pool(pool);
    CHECK("destroy_memory_pool: live blocks are reported", warnings >= 1);
    warnings = 0;
    pool = create_memory_pool(&config);
    pool_free(pool, pool_allocate(pool, 100));
    destroy_memory_pool(pool);
    CHECK("destroy_memory_pool: nothing is reported when all was freed", warnings == 0);
    unimem_set_log(NULL, NULL);
    TEST("creating and destroying 500 pools with live blocks leaves no memory behind") {
        size_t before = 0;
        for (size_t i = 0; i < 10 + scaled(500); i++) {
            if (i == 10) before = resident_bytes(); /* what the first of them make is made once */
            pool = create_memory_pool(&config);
            if (!EXPECT(pool != NULL, "pool %zu: NULL", i)) continue;
            for (size_t size = 64; size < 200000; size *= 2) {
                char *block = pool_allocate(pool, size);
                if (EXPECT(block != NULL, "pool %zu, %zu bytes: NULL", i, size)) memset(block, 1, size);
            }
            destroy_memory_pool(pool);
        }
        size_t after = resident_bytes();
        printf("# resident memory: %zu KiB after 10 pools, %zu KiB at the end\n", before / KIB, after / KIB);
        EXPECT(after < before + growth_allowed(), "resident memory grew from %zu to %zu KiB", before / KIB, after / KIB);
    }
}

static void test_interface_of_pool(void) {
    CHECK("unimem_pool_interface: NULL pool is NULL", unimem_pool_interface(NULL) == NULL);
    PoolConfig config = full_config(32, 64);
    MemoryPool *pool = create_memory_pool(&config);
    unified_memory_interface_t *memory = pool ? unimem_pool_interface(pool) : NULL;
    if (!CHECK("unimem_pool_interface: a pool implements the interface", memory != NULL)) return;
    CHECK("unimem_pool_interface: the same one when asked again", unimem_pool_interface(pool) == memory);
    memory_stats_t stats;
    void *a = memory->allocate(1000, 0), *b = pool_allocate(pool, 500);
    memory->get_stats(&stats);
    CHECK("pool and interface are one: each counts what the other allocates",
          a && b && get_total_allocated(pool) == 1500 && stats.total_allocated == 1500 && stats.num_allocations == 2 &&
              get_num_allocations(pool) == 2);
    pool_free(pool, a);
    memory->free(b);
    memory->get_stats(&stats);
    CHECK("pool and interface are one: each frees what the other allocated",
          get_total_allocated(pool) == 0 && stats.total_allocated == 0 && stats.num_frees == 2);
    char *block = memory->allocate(100, 4096);
    CHECK("a pool's interface honours alignments", block && is_aligned(block, 4096));
    memset(block, 5, 100);
    block = memory->realloc(block, 10000);
    CHECK("a pool's interface reallocates",
          block && block[99] == 5 && is_aligned(block, 4096) && get_total_allocated(pool) == 10000);
    memory->free(block);
    destroy_memory_pool(pool);
    TEST("destroying a pool gives its interface's place back: 1,000 in turn") {
        for (size_t i = 0; i < scaled(1000); i++) {
            pool = create_memory_pool(&config);
            memory = unimem_pool_interface(pool);
            if (EXPECT(memory != NULL, "pool %zu has no interface: %s", i, unimem_last_error_message()))
                (void)memory->allocate(100, 0);
            destroy_memory_pool(pool);
        }
    }
}

/* A heap's record serves again. */
static void test_successor(void) {
    advanced_memory_system_t *system = NULL;
    TEST("a destroyed pool gives nothing and frees nothing, also where its heap is a memory system's by now") {
        MemoryPool *pool = create_memory_pool(&(PoolConfig){.thread_cache_size = 32});
        pool_free(pool, pool_allocate(pool, 100));
        destroy_memory_pool(pool);
        system = create_memory_system(&(memory_system_config_t){.type = MEM_SYSTEM_POOLED});
        for (int round = 0; round < 2; round++) {
            void *blocks[64];
            for (size_t i = 0; i < 64; i++) blocks[i] = memory_allocate(system, 16 + i * 8, 0);
            for (size_t i = 0; i < 64; i++) {
                if (round == 0) pool_free(pool, blocks[i]);
                EXPECT(unimem_owns(blocks[i]), "round %d: block %zu is freed", round, i);
                memory_free(system, blocks[i]);
            }
            for (size_t size = 16; size < 400; size += 8)
                EXPECT(!pool_allocate(pool, size) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT, "a block of %zu bytes", size);
        }
    }
    destroy_memory_system(system);
}

int main(void) {
    test_layouts();
    test_create();
    test_totals();
    test_blocks();
    test_wrong_frees();
    test_destroy();
    test_successor();
    test_interface_of_pool();
    return tap_done();
}
