/* test_advanced_pools.c - pools of the advanced system, layouts, buffers, copies and transfers. */
#define _GNU_SOURCE
#include "unimem.h"

#include "systems.h"

static advanced_memory_system_t *memory_system;

static size_t live_bytes(void) { return usage_of(memory_system); }

/* The same functions go by two names, and by a third in the older generation of the header. */
typedef struct {
    const char *name;
    void *(*create)(advanced_memory_system_t *, const pool_config_t *);
    void (*destroy)(advanced_memory_system_t *, void *);
    void *(*allocate)(advanced_memory_system_t *, void *, size_t);
    void (*free)(advanced_memory_system_t *, void *, void *);
} names_t;

static const names_t all_names[] = {
    {"ams_", ams_create_memory_pool, ams_destroy_memory_pool, ams_pool_allocate, ams_pool_free},
    {"advanced_", advanced_create_memory_pool, advanced_destroy_memory_pool, advanced_pool_allocate,
     advanced_pool_free},
    {"the older generation's", create_memory_pool, destroy_memory_pool, pool_allocate, pool_free},
};

static void test_pool(const names_t *names) {
    char name[200];
    const pool_config_t config = {.pool_size = MIB,
                                  .block_size = 4096,
                                  .max_blocks = 16,
                                  .thread_safe = true,
                                  .enable_growth = true,
                                  .enable_stats = true},
                        zeros = {0};
    void *pool = names->create(memory_system, &config), *plain = names->create(memory_system, &zeros);
    snprintf(name, sizeof name, "%s functions: a pool, also from a config of zeros", names->name);
    if (!CHECK(name, pool && plain && pool != plain)) return;
    snprintf(name, sizeof name, "%s functions: NULL arguments give NULL and harm nothing", names->name);
    CHECK(name, names->create(NULL, &config) == NULL && names->create(memory_system, NULL) == NULL &&
                    names->allocate(NULL, pool, 8) == NULL && names->allocate(memory_system, NULL, 8) == NULL &&
                    names->allocate(memory_system, pool, 0) == NULL &&
                    names->allocate(memory_system, pool, SIZE_MAX) == NULL &&
                    names->allocate(memory_system, pool, SIZE_MAX - 63) == NULL);
    names->free(NULL, pool, NULL);
    names->free(memory_system, NULL, NULL);
    names->free(memory_system, pool, NULL);
    names->destroy(NULL, pool);
    names->destroy(memory_system, NULL);
    snprintf(name, sizeof name, "%s functions: 5,000 live blocks, zeroed, aligned, whole, counted by the system",
             names->name);
    TEST(name) {
        static unsigned char *blocks[5000];
        static size_t sizes[5000];
        random_t random = {5};
        for (int round = 0; round < 2; round++) {
            size_t total = 0, before = live_bytes();
            for (size_t i = 0; i < 5000; i++) {
                sizes[i] = random_size(&random, 0, i % 500 ? 12 : 22);
                blocks[i] = names->allocate(memory_system, pool, sizes[i]);
                if (!EXPECT(blocks[i] && is_aligned(blocks[i], 64), "block %zu of %zu bytes at %p", i, sizes[i],
                            (void *)blocks[i]))
                    continue;
                EXPECT(all_zero(blocks[i], sizes[i]), "round %d: block %zu of %zu bytes is not zeroed", round, i,
                       sizes[i]);
                pattern_fill(blocks[i], 0, sizes[i], i);
                total += sizes[i];
            }
            EXPECT(live_bytes() == before + total, "the system counts %zu bytes more, expected %zu",
                   live_bytes() - before, total);
            for (size_t i = 0; i < 5000; i++) {
                if (!blocks[i]) continue;
                EXPECT(pattern_holds(blocks[i], 0, sizes[i], i), "block %zu of %zu bytes was written by another", i,
                       sizes[i]);
                names->free(memory_system, pool, blocks[i]);
            }
            EXPECT(live_bytes() == before, "the system counts %zu bytes, expected %zu", live_bytes(), before);
        }
    }
    unsigned char *block = names->allocate(memory_system, pool, 300);
    char local[64], *foreign = malloc(64);
    void *of_plain = names->allocate(memory_system, plain, 300),
         *wrong[] = {local, foreign, block + 64, of_plain, (void *)0x1000, pool};
    snprintf(name, sizeof name, "%s functions: a free of what is not the pool's is ignored", names->name);
    TEST(name) {
        size_t before = live_bytes();
        for (size_t i = 0; i < 6; i++) {
            names->free(memory_system, pool, opaque(wrong[i]));
            EXPECT(live_bytes() == before, "pointer %zu: %zu bytes live, expected %zu", i, live_bytes(), before);
        }
    }
    free(foreign);
    size_t before = live_bytes();
    names->destroy(memory_system, pool);
    snprintf(name, sizeof name, "%s functions: destroying a pool frees its blocks, and only its", names->name);
    CHECK(name, !unimem_owns(block) && unimem_owns(of_plain) && live_bytes() == before - 300);
    names->free(memory_system, plain, of_plain);
    names->destroy(memory_system, plain);
    snprintf(name, sizeof name, "%s functions: nothing is left live", names->name);
    CHECK_EQ(name, live_bytes(), 0);
}

static void test_limits(void) {
    void *pool = ams_create_memory_pool(memory_system, &(pool_config_t){.max_blocks = 3});
    void *blocks[4];
    for (size_t i = 0; i < 4; i++) blocks[i] = ams_pool_allocate(memory_system, pool, 100);
    CHECK("max_blocks without growth: one more is NULL", blocks[0] && blocks[1] && blocks[2] && !blocks[3]);
    ams_pool_free(memory_system, pool, blocks[1]);
    blocks[1] = ams_pool_allocate(memory_system, pool, 100);
    CHECK("max_blocks without growth: a free makes room", blocks[1] != NULL);
    CHECK("optimize_pool_configuration: growth allowed, and there is room",
          optimize_pool_configuration(memory_system, pool, &(pool_config_t){.max_blocks = 3, .enable_growth = true}) &&
              ams_pool_allocate(memory_system, pool, 100));
    CHECK("optimize_pool_configuration: false for NULL",
          !optimize_pool_configuration(NULL, pool, &(pool_config_t){0}) &&
              !optimize_pool_configuration(memory_system, NULL, &(pool_config_t){0}) &&
              !optimize_pool_configuration(memory_system, pool, NULL));
    ams_destroy_memory_pool(memory_system, pool);
    pool = ams_create_memory_pool(memory_system, &(pool_config_t){.pool_size = 10000});
    void *first = ams_pool_allocate(memory_system, pool, 6000);
    CHECK("pool_size without growth: not exceeded",
          first && !ams_pool_allocate(memory_system, pool, 6000) && ams_pool_allocate(memory_system, pool, 4000));
    CHECK("which is a limit", unimem_last_error() == UNIMEM_ERROR_LIMIT);
    ams_destroy_memory_pool(memory_system, pool);
    pool_config_t fixed = {.block_size = 100, .fixed_size = true, .enable_growth = true};
    pool = ams_create_memory_pool(memory_system, &fixed);
    (void)memory_allocate(memory_system, 0, 0); /* another error */
    CHECK("fixed_size: no block is larger than block_size, which is a limit too",
          ams_pool_allocate(memory_system, pool, 100) && ams_pool_allocate(memory_system, pool, 1) &&
              !ams_pool_allocate(memory_system, pool, 101) && unimem_last_error() == UNIMEM_ERROR_LIMIT);
    fixed.block_size = 0;
    CHECK("fixed_size: block_size must not be 0",
          !ams_create_memory_pool(memory_system, &fixed) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT &&
              !optimize_pool_configuration(memory_system, pool, &fixed) && !ams_pool_allocate(memory_system, pool, 101));
    fixed.fixed_size = false;
    CHECK("optimize_pool_configuration: any size again",
          optimize_pool_configuration(memory_system, pool, &fixed) && ams_pool_allocate(memory_system, pool, 101));
    ams_destroy_memory_pool(memory_system, pool);
}

static void count_leak(const unimem_leak_t *leak, void *context) {
    size_t *sums = context;
    sums[0]++;
    sums[1] += leak->size;
}
/* The figures of the system's interface, which have to agree with the system's own, and with each other. */
static memory_stats_t agreed_figures(unified_memory_interface_t *memory) {
    memory_stats_t stats;
    memory->get_stats(&stats);
    memory_metrics_t metrics = metrics_of(memory_system);
    size_t held = unimem_held_bytes(memory), sums[2] = {0, 0};
    EXPECT(stats.total_allocated == metrics.current_usage && stats.peak_allocated == metrics.peak_usage &&
               stats.num_allocations == metrics.allocation_count,
           "live %zu and %zu, peak %zu and %zu, allocations %zu and %zu", stats.total_allocated, metrics.current_usage,
           stats.peak_allocated, metrics.peak_usage, stats.num_allocations, metrics.allocation_count);
    EXPECT(stats.cache_hits + stats.cache_misses == stats.num_allocations, "%zu hits and %zu misses of %zu allocations",
           stats.cache_hits, stats.cache_misses, stats.num_allocations);
    EXPECT(held >= stats.total_allocated, "%zu bytes are held of %zu live ones", held, stats.total_allocated);
    EXPECT(stats.fragmentation == (held ? (held - stats.total_allocated) * 100 / held : 0) &&
               stats.fragmentation == (size_t)(metrics.fragmentation * 100 + 1e-9),
           "fragmentation %zu and %f, %zu bytes held, %zu live", stats.fragmentation, metrics.fragmentation, held,
           stats.total_allocated);
    EXPECT(unimem_report_leaks(memory, count_leak, sums) == sums[0] && sums[1] == stats.total_allocated,
           "%zu blocks of %zu bytes are live, of %zu bytes", sums[0], sums[1], stats.total_allocated);
    return stats;
}
static void test_figures(void) {
    enum { BLOCKS = 500, SIZE = 3000 };
    unified_memory_interface_t *memory = unimem_system_interface(memory_system);
    static void *blocks[2][BLOCKS];
    TEST("the figures of the system's interface are those of the system and its pools") {
        void *pools[2];
        unimem_trim(memory);
        for (size_t p = 0; p < 2; p++)
            pools[p] = ams_create_memory_pool(memory_system, &(pool_config_t){.max_blocks = BLOCKS});
        unimem_reset_stats(memory);
        memory_stats_t stats = agreed_figures(memory);
        EXPECT(stats.num_allocations == 0 && stats.num_frees == 0 && stats.largest_allocation == 0, "not reset");
        void *own = memory->allocate(1000, 0);
        for (size_t p = 0; p < 2; p++)
            for (size_t i = 0; i < BLOCKS; i++)
                if (!EXPECT(blocks[p][i] = ams_pool_allocate(memory_system, pools[p], SIZE + p), "no block %zu", i)) return;
        stats = agreed_figures(memory);
        EXPECT(stats.total_allocated == 1000 + BLOCKS * (2 * SIZE + 1) && stats.num_allocations == 1 + 2 * BLOCKS &&
                   stats.largest_allocation == SIZE + 1,
               "%zu bytes, %zu allocations, the largest of %zu", stats.total_allocated, stats.num_allocations,
               stats.largest_allocation);
        for (size_t i = 0; i < BLOCKS; i += 2) ams_pool_free(memory_system, pools[0], blocks[0][i]);
        for (size_t i = 0; i < BLOCKS; i += 2) blocks[0][i] = ams_pool_allocate(memory_system, pools[0], SIZE);
        for (size_t i = 0; i < BLOCKS; i++) ams_pool_free(memory_system, pools[1], blocks[1][i]);
        ams_pool_free(memory_system, pools[1], opaque(blocks[0][0]));
        stats = agreed_figures(memory);
        EXPECT(stats.num_allocations == 1 + 2 * BLOCKS + BLOCKS / 2 && stats.num_frees == BLOCKS + BLOCKS / 2,
               "%zu allocations, %zu frees", stats.num_allocations, stats.num_frees);
        EXPECT(stats.cache_hits > BLOCKS || debug_mode(NULL), "%zu hits", stats.cache_hits);
        EXPECT(unimem_refused_frees(memory) == 1, "%zu frees were refused", unimem_refused_frees(memory));
        size_t held = unimem_held_bytes(memory), given_back = unimem_trim(memory);
        EXPECT(given_back >= BLOCKS * SIZE / 2 && unimem_held_bytes(memory) + given_back == held,
               "%zu bytes of %zu went back, %zu are held", given_back, held, unimem_held_bytes(memory));
        size_t hits = agreed_figures(memory).cache_hits;
        ams_destroy_memory_pool(memory_system, pools[0]);
        stats = agreed_figures(memory);
        EXPECT(stats.num_allocations == stats.num_frees + 1 && stats.total_allocated == 1000 && stats.cache_hits == hits,
               "%zu allocations, %zu frees, %zu hits instead of %zu, %zu bytes live", stats.num_allocations, stats.num_frees,
               stats.cache_hits, hits, stats.total_allocated);
        for (size_t i = 0; i < BLOCKS; i++) blocks[1][i] = ams_pool_allocate(memory_system, pools[1], 1);
        unimem_reset_stats(memory);
        EXPECT(!ams_pool_allocate(memory_system, pools[1], 1), "a new history made room in a pool that is full");
        stats = agreed_figures(memory);
        EXPECT(stats.num_allocations == 0 && stats.num_frees == 0 && stats.cache_hits == 0 &&
                   stats.largest_allocation == 0 && stats.peak_allocated == 1000 + BLOCKS && unimem_refused_frees(memory) == 0,
               "not reset");
        memory->free(own);
        ams_destroy_memory_pool(memory_system, pools[1]);
        EXPECT(agreed_figures(memory).total_allocated == 0, "something is live");
    }
}

static void test_layouts(void) {
    _Static_assert(sizeof(MemoryLayout) == 280 && offsetof(MemoryLayout, strides) == 136 &&
                       offsetof(MemoryLayout, total_size) == 264 && offsetof(MemoryLayout, geom_type) == 276,
                   "MemoryLayout");
    _Static_assert(sizeof(MemoryBuffer) == 40 && offsetof(MemoryBuffer, size) == 24 &&
                       offsetof(MemoryBuffer, hardware) == 36,
                   "MemoryBuffer");
    MemoryPool *pool =
        ams_create_memory_pool(memory_system, &(pool_config_t){.enable_stats = true, .enable_growth = true});
    if (!CHECK("a pool for layouts", pool != NULL)) return;
    TEST("create_memory_layout: 1 to 16 dimensions, the first fastest, zeroed, aligned to 64") {
        for (size_t count = 1; count <= 16; count++) {
            size_t dimensions[16], stride = 1;
            for (size_t i = 0; i < count; i++) dimensions[i] = 1 + (i * 7 + count) % 3;
            MemoryLayout *layout = create_memory_layout(pool, dimensions, count, GEOMETRIC_STATE_KAHLER);
            if (!EXPECT(layout != NULL, "%zu dimensions: NULL", count)) continue;
            for (size_t i = 0; i < count; i++) {
                EXPECT(layout->dimensions[i] == dimensions[i] && layout->strides[i] == stride,
                       "%zu dimensions: stride %zu is %zu, expected %zu", count, i, layout->strides[i], stride);
                stride *= dimensions[i];
            }
            EXPECT(layout->total_size == (stride + 63) / 64 * 64, "%zu dimensions: total_size %zu of %zu bytes", count,
                   layout->total_size, stride);
            EXPECT(layout->is_geometric && layout->geom_type == GEOMETRIC_STATE_KAHLER, "%zu dimensions: kind", count);
            EXPECT(layout->base_ptr && is_aligned(layout->base_ptr, 64) &&
                       all_zero(layout->base_ptr, layout->total_size),
                   "%zu dimensions: base %p", count, layout->base_ptr);
            memset(layout->base_ptr, 0xFF, layout->total_size);
        }
    }
    size_t seventeen[17], zero[] = {4, 0}, huge[] = {SIZE_MAX / 2, 3}, one[] = {100},
                          wraps[] = {(size_t)1 << 32, (size_t)1 << 32};
    for (size_t i = 0; i < 17; i++) seventeen[i] = 1;
    CHECK("create_memory_layout: NULL for 17, no, zero, missing and overflowing dimensions",
          !create_memory_layout(pool, seventeen, 17, GEOMETRIC_STATE_EUCLIDEAN) &&
              !create_memory_layout(pool, one, 0, GEOMETRIC_STATE_EUCLIDEAN) &&
              !create_memory_layout(pool, zero, 2, GEOMETRIC_STATE_EUCLIDEAN) &&
              !create_memory_layout(pool, NULL, 1, GEOMETRIC_STATE_EUCLIDEAN) &&
              !create_memory_layout(pool, huge, 2, GEOMETRIC_STATE_EUCLIDEAN) &&
              !create_memory_layout(pool, wraps, 2, GEOMETRIC_STATE_EUCLIDEAN) &&
              !create_memory_layout(NULL, one, 1, GEOMETRIC_STATE_EUCLIDEAN));
    TEST("update_memory_access: tags layouts as Euclidean, and takes NULL") {
        MemoryLayout *layout = create_memory_layout(pool, one, 1, GEOMETRIC_STATE_SPHERICAL);
        update_memory_access(pool);
        EXPECT(layout && layout->geom_type == GEOMETRIC_STATE_EUCLIDEAN, "not tagged");
        update_memory_access(NULL);
        MemoryPool *other = ams_create_memory_pool(memory_system, &(pool_config_t){.enable_growth = true});
        layout = create_memory_layout(other, one, 1, GEOMETRIC_STATE_SPHERICAL);
        update_memory_access(other);
        EXPECT(layout && layout->geom_type == GEOMETRIC_STATE_SPHERICAL, "tagged, though the pool has no enable_stats");
        ams_destroy_memory_pool(memory_system, other);
    }
    TEST("layouts and buffers stay where they are while 10,000 more are made") {
        enum { COUNT = 10000 };
        MemoryLayout **layouts = table_new(COUNT * sizeof *layouts);
        MemoryBuffer **buffers = table_new(COUNT * sizeof *buffers);
        for (size_t i = 0; i < COUNT; i++) {
            size_t dimensions[] = {10, 10 + i % 7};
            layouts[i] = create_memory_layout(pool, dimensions, 2, GEOMETRIC_STATE_CUSTOM);
            buffers[i] = create_memory_buffer(pool, 64 + i % 5, false, false, HARDWARE_TYPE_CPU);
            if (!EXPECT(layouts[i] && buffers[i], "layout or buffer %zu is NULL", i)) continue;
            pattern_fill(layouts[i]->base_ptr, 0, 100, i);
            pattern_fill(buffers[i]->cpu_ptr, 0, 64, i + 1);
        }
        for (size_t i = 0; i < COUNT; i++) {
            if (!layouts[i] || !buffers[i]) continue;
            EXPECT(layouts[i]->dimensions[1] == 10 + i % 7 && pattern_holds(layouts[i]->base_ptr, 0, 100, i),
                   "layout %zu changed", i);
            EXPECT(buffers[i]->size == 64 + i % 5 && pattern_holds(buffers[i]->cpu_ptr, 0, 64, i + 1),
                   "buffer %zu changed", i);
        }
        EXPECT(pool->num_layouts >= COUNT && pool->num_buffers >= COUNT, "the pool counts %zu layouts and %zu buffers",
               pool->num_layouts, pool->num_buffers);
        munmap(layouts, COUNT * sizeof *layouts);
        munmap(buffers, COUNT * sizeof *buffers);
    }
    ams_destroy_memory_pool(memory_system, pool);
    CHECK_EQ("layouts and buffers are freed with their pool", live_bytes(), 0);
}

static char told[400];
static void note(int level, const char *message, void *context) {
    (void)level, (void)context;
    snprintf(told + strlen(told), sizeof told - strlen(told), "%s\n", message);
}
static void test_leaks(void) {
    TEST("destroy: of what was live it reports blocks, but no layouts and buffers, which have no other end") {
        size_t one[] = {100};
        unimem_set_log(note, NULL);
        for (int leak = 0; leak <= 1; leak++) {
            MemoryPool *pool = ams_create_memory_pool(memory_system, &(pool_config_t){.enable_growth = true});
            MemoryLayout *layout = create_memory_layout(pool, one, 1, GEOMETRIC_STATE_CUSTOM),
                         *freed = create_memory_layout(pool, one, 1, GEOMETRIC_STATE_CUSTOM);
            EXPECT(layout && freed && create_memory_buffer(pool, 200, true, true, HARDWARE_TYPE_GPU), "not made");
            ams_pool_free(memory_system, pool, freed->base_ptr);
            EXPECT(!leak || ams_pool_allocate(memory_system, pool, 5000), "no block");
            told[0] = 0;
            size_t refused = unimem_refused_frees(unimem_system_interface(memory_system));
            ams_destroy_memory_pool(memory_system, pool);
            EXPECT(unimem_refused_frees(unimem_system_interface(memory_system)) == refused, "frees are refused");
            EXPECT(leak ? strstr(told, "ended with 1 live blocks, 5000 bytes") != NULL : !strstr(told, "leak"),
                   "it says: %s", told);
        }
        unimem_set_log(NULL, NULL);
    }
    CHECK_EQ("all is freed", live_bytes(), 0);
}

static void test_copy(void) {
    MemoryPool *pool = ams_create_memory_pool(memory_system, &(pool_config_t){.enable_growth = true});
    size_t dimensions[] = {5000};
    MemoryLayout *from = pool ? create_memory_layout(pool, dimensions, 1, GEOMETRIC_STATE_EUCLIDEAN) : NULL;
    MemoryLayout *to = pool ? create_memory_layout(pool, dimensions, 1, GEOMETRIC_STATE_EUCLIDEAN) : NULL;
    if (!CHECK("layouts to copy", from && to)) return;
    unsigned char *source = from->base_ptr, *target = to->base_ptr;
    TEST("memory_copy: exactly the bytes asked for, whatever the size modulo 64") {
        pattern_fill(source, 0, 5000, 11);
        for (size_t size = 0; size <= 5000; size += size < 400 ? 1 : 37) {
            memset(target, 0xCC, 5000);
            memory_copy(to, from, size);
            EXPECT(memcmp(target, source, size) == 0, "%zu bytes: not all were copied", size);
            for (size_t i = size; i < size + 64 && i < 5000; i++)
                EXPECT(target[i] == 0xCC, "%zu bytes: byte %zu was written", size, i);
        }
        memset(target, 0xCC, 5000);
        memory_copy(to, from, 1000000);
        memory_copy(to, from, SIZE_MAX);
        EXPECT(target[0] == 0xCC && target[4999] == 0xCC, "a copy beyond the layouts was begun");
        memory_copy(NULL, from, 10);
        memory_copy(to, NULL, 10);
        memory_copy(from, from, 5000);
        EXPECT(pattern_holds(source, 0, 5000, 11), "the source changed");
    }
    TEST("create_memory_buffer: mirrors where asked for, of every kind; transfers go where they should") {
        for (int kind = 0; kind < 4; kind++) {
            bool gpu = kind & 1, quantum = kind & 2;
            size_t size = 1000 + (size_t)kind;
            MemoryBuffer *buffer = create_memory_buffer(pool, size, gpu, quantum, HARDWARE_TYPE_SIMULATOR);
            if (!EXPECT(buffer && buffer->cpu_ptr, "kind %d: NULL", kind)) continue;
            EXPECT((buffer->gpu_ptr != NULL) == gpu && (buffer->quantum_ptr != NULL) == quantum,
                   "kind %d: mirrors %p and %p", kind, buffer->gpu_ptr, buffer->quantum_ptr);
            EXPECT(buffer->size == size && buffer->hardware == HARDWARE_TYPE_SIMULATOR && buffer->is_unified == gpu,
                   "kind %d: fields", kind);
            EXPECT(is_aligned(buffer->cpu_ptr, 64) && all_zero(buffer->cpu_ptr, size), "kind %d: memory at %p", kind,
                   buffer->cpu_ptr);
            pattern_fill(buffer->cpu_ptr, 0, size, 1);
            memory_transfer(buffer, GEOMETRIC_STATE_EUCLIDEAN);
            memory_transfer(buffer, GEOMETRIC_STATE_SPHERICAL);
            EXPECT(!gpu || pattern_holds(buffer->gpu_ptr, 0, size, 1), "kind %d: CPU to GPU", kind);
            EXPECT(!quantum || pattern_holds(buffer->quantum_ptr, 0, size, 1), "kind %d: CPU to quantum", kind);
            if (gpu) pattern_fill(buffer->gpu_ptr, 0, size, 2);
            memory_transfer(buffer, GEOMETRIC_STATE_HYPERBOLIC);
            EXPECT(pattern_holds(buffer->cpu_ptr, 0, size, gpu ? 2 : 1), "kind %d: GPU to CPU", kind);
            if (quantum) pattern_fill(buffer->quantum_ptr, 0, size, 3);
            memory_transfer(buffer, GEOMETRIC_STATE_SYMPLECTIC);
            EXPECT(pattern_holds(buffer->cpu_ptr, 0, size, quantum ? 3 : gpu ? 2 : 1), "kind %d: quantum to CPU", kind);
            memory_transfer(buffer, GEOMETRIC_STATE_CUSTOM);
            memory_transfer(NULL, GEOMETRIC_STATE_EUCLIDEAN);
        }
    }
    CHECK("create_memory_buffer: NULL for no pool, size 0, sizes that overflow",
          !create_memory_buffer(NULL, 10, false, false, HARDWARE_TYPE_CPU) &&
              !create_memory_buffer(pool, 0, false, false, HARDWARE_TYPE_CPU) &&
              !create_memory_buffer(pool, SIZE_MAX, true, true, HARDWARE_TYPE_CPU));
    ams_destroy_memory_pool(memory_system, pool);
}

static void *shared_pool, *pool_of_layouts;

static void *churn(void *argument) {
    random_t random = {(uint64_t)(uintptr_t)argument};
    void *blocks[64] = {0};
    for (size_t i = 0; i < scaled(50000); i++) {
        size_t slot = random_below(&random, 64), size = random_size(&random, 0, 11);
        ams_pool_free(memory_system, shared_pool, blocks[slot]);
        blocks[slot] = ams_pool_allocate(memory_system, shared_pool, size);
        if (!EXPECT(blocks[slot] && all_zero(blocks[slot], size), "%zu bytes: NULL or not zeroed", size)) continue;
        memset(blocks[slot], 0xFF, size);
        if (i % 1000 == 0)
            EXPECT(create_memory_layout(pool_of_layouts, &size, 1, GEOMETRIC_STATE_CUSTOM) != NULL, "layout of %zu bytes",
                   size);
    }
    for (size_t slot = 0; slot < 64; slot++) ams_pool_free(memory_system, shared_pool, blocks[slot]);
    return NULL;
}

static void test_threads(void) {
    const pool_config_t config = {.thread_safe = true, .enable_growth = true};
    shared_pool = ams_create_memory_pool(memory_system, &config);
    pool_of_layouts = ams_create_memory_pool(memory_system, &config);
    TEST("four threads on two pools: memory zeroed, counts exact") {
        run_threads(4, churn);
        ams_destroy_memory_pool(memory_system, pool_of_layouts);
        EXPECT(live_bytes() == 0, "%zu bytes live when all blocks are freed", live_bytes());
        ams_destroy_memory_pool(memory_system, shared_pool);
    }
}

int main(void) {
    memory_system = create_memory_system(&(memory_system_config_t){.type = MEM_SYSTEM_HYBRID});
    if (!CHECK("a system", memory_system != NULL)) return tap_done();
    for (size_t i = 0; i < sizeof all_names / sizeof all_names[0]; i++) test_pool(&all_names[i]);
    test_limits();
    test_figures();
    test_layouts();
    test_leaks();
    test_copy();
    test_threads();
    destroy_memory_system(memory_system);
    return tap_done();
}
