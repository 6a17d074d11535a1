/* test_pool_threads.c - the memory pool with threads: totals, blocks freed by other threads, caches of threads that
 * have exited. */
#define _GNU_SOURCE
#include "unimem/memory_pool.h"

#include "support.h"

#include <stdatomic.h>

enum { THREADS = 4, SLOTS = 256 };

static MemoryPool *pool;

static MemoryPool *new_pool(size_t classes, size_t cache) {
    return create_memory_pool(&(PoolConfig){.num_size_classes = classes,
                                            .thread_cache_size = cache,
                                            .cache_local_free_lists = cache > 0,
                                            .enable_stats = true});
}

/* Random allocations and frees; each block is checked for the bytes its owner wrote. */
static void *churn(void *argument) {
    uint64_t thread = (uint64_t)(uintptr_t)argument;
    random_t random = {thread};
    unsigned char *blocks[SLOTS] = {0};
    size_t sizes[SLOTS] = {0};
    for (size_t i = 0; i < scaled(200000); i++) {
        size_t slot = random_below(&random, SLOTS);
        uint64_t tag = thread * SLOTS + slot;
        if (blocks[slot]) {
            EXPECT(pattern_holds(blocks[slot], 0, sizes[slot] < 64 ? sizes[slot] : 64, tag),
                   "thread %u: a block of %zu bytes was written by another", (unsigned)thread, sizes[slot]);
            pool_free(pool, blocks[slot]);
        }
        sizes[slot] = random_size(&random, 0, 12);
        blocks[slot] = pool_allocate(pool, sizes[slot]);
        if (EXPECT(blocks[slot] != NULL, "thread %u: %zu bytes: NULL", (unsigned)thread, sizes[slot]))
            pattern_fill(blocks[slot], 0, sizes[slot] < 64 ? sizes[slot] : 64, tag);
    }
    for (size_t slot = 0; slot < SLOTS; slot++) pool_free(pool, blocks[slot]);
    return NULL;
}

static void *hold_known_amount(void *argument) {
    void *blocks[1000];
    (void)argument;
    for (size_t i = 0; i < 1000; i++) blocks[i] = pool_allocate(pool, 100);
    for (size_t i = 0; i < 1000; i++) pool_free(pool, blocks[i]);
    return NULL;
}

static pthread_barrier_t all_hold;
static void *hold_with_others(void *argument) {
    static void *blocks[THREADS][1000];
    size_t me = (size_t)argument - 1;
    for (size_t i = 0; i < 1000; i++) blocks[me][i] = pool_allocate(pool, 1000 + i % 2);
    pthread_barrier_wait(&all_hold);
    for (size_t i = 0; i < 1000; i++) pool_free(pool, blocks[me][i]);
    return NULL;
}

static void test_totals(void) {
    static const size_t caches[] = {0, 32, 64, 256};
    for (size_t c = 0; c < 4; c++) {
        char name[100];
        pool = new_pool(c % 2 ? 64 : 0, caches[c]);
        snprintf(name, sizeof name, "four threads, cache of %zu: contents whole, totals exact at the end", caches[c]);
        TEST(name) {
            run_threads(THREADS, churn);
            EXPECT(get_total_allocated(pool) == 0, "%zu bytes live, expected 0", get_total_allocated(pool));
            EXPECT(get_num_allocations(pool) == THREADS * scaled(200000), "%zu allocations counted, expected %zu",
                   get_num_allocations(pool), THREADS * scaled(200000));
        }
        destroy_memory_pool(pool);
    }
    pool = new_pool(32, 64);
    run_threads(1, hold_known_amount);
    CHECK_EQ("one thread: the peak is exact", get_peak_allocated(pool), 100000);
    destroy_memory_pool(pool);
    pool = new_pool(32, 64);
    void *blocks[1000];
    for (size_t i = 0; i < 1000; i++) blocks[i] = pool_allocate(pool, 1000);
    run_threads(THREADS, hold_known_amount);
    size_t peak = get_peak_allocated(pool), slack = (THREADS + 1) * 64 * KIB;
    printf("# peak %zu: at least %zu, at most %u\n", peak, (size_t)1100000 - slack, 1400000);
    CHECK("four threads: the peak is not low by more than 64 KiB a thread, nor above what was ever live",
          peak + slack >= 1100000 && peak <= 1400000);
    for (size_t i = 0; i < 1000; i++) pool_free(pool, blocks[i]);
    CHECK_EQ("four threads: nothing is live at the end", get_total_allocated(pool), 0);
    destroy_memory_pool(pool);
    pthread_barrier_init(&all_hold, NULL, THREADS);
    for (size_t cache = 0; cache <= 256; cache += 256) {
        char name[100];
        snprintf(name, sizeof name, "nor is that of what all hold at once, with a cache of %zu", cache);
        pool = new_pool(32, cache);
        run_threads(THREADS, hold_with_others); /* fills the caches of those that come next */
        run_threads(THREADS, hold_with_others);
        peak = get_peak_allocated(pool), slack = THREADS * 64 * KIB;
        CHECK(name, peak + slack >= THREADS * 1000500 && peak <= THREADS * 1000500);
        destroy_memory_pool(pool);
    }
    pthread_barrier_destroy(&all_hold);
}

/* A ring of blocks from a producer to a consumer, each carrying its own size. */
enum { RING = 1024 };
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t *blocks[RING];
    size_t made, taken;
    bool closed;
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *produce(void *argument) {
    random_t random = {99};
    (void)argument;
    for (size_t i = 0; i < scaled(300000); i++) {
        size_t size = sizeof(size_t) + random_size(&random, 0, 11);
        size_t *block = pool_allocate(pool, size);
        if (!EXPECT(block != NULL, "%zu bytes: NULL", size)) continue;
        *block = size;
        pattern_fill(block, sizeof *block, size, size);
        pthread_mutex_lock(&ring.lock);
        while (ring.made - ring.taken == RING) pthread_cond_wait(&ring.changed, &ring.lock);
        ring.blocks[ring.made++ % RING] = block;
        if (ring.made - ring.taken == RING / 2) pthread_cond_broadcast(&ring.changed);
        pthread_mutex_unlock(&ring.lock);
    }
    pthread_mutex_lock(&ring.lock);
    ring.closed = true;
    pthread_cond_broadcast(&ring.changed);
    pthread_mutex_unlock(&ring.lock);
    return NULL;
}

static void *consume(void *argument) {
    (void)argument;
    for (;;) {
        size_t *batch[RING], count = 0;
        pthread_mutex_lock(&ring.lock);
        while (ring.made - ring.taken < RING / 2 && !ring.closed) pthread_cond_wait(&ring.changed, &ring.lock);
        while (ring.taken != ring.made) batch[count++] = ring.blocks[ring.taken++ % RING];
        pthread_cond_broadcast(&ring.changed);
        bool last = ring.closed;
        pthread_mutex_unlock(&ring.lock);
        for (size_t i = 0; i < count; i++) {
            size_t size = *batch[i];
            EXPECT(size > sizeof size && size <= sizeof size + 2048 && pattern_holds(batch[i], sizeof size, size, size),
                   "a block that says it has %zu bytes was written by another", size);
            pool_free(pool, batch[i]);
        }
        if (last) return NULL;
    }
}

static void test_other_threads_free(void) {
    pool = new_pool(64, 256);
    TEST("one thread allocates, another frees: totals exact, blocks come back") {
        pthread_t consumer = start_thread(consume, NULL), producer = start_thread(produce, NULL);
        pthread_join(producer, NULL);
        pthread_join(consumer, NULL);
        EXPECT(get_total_allocated(pool) == 0, "%zu bytes live, expected 0", get_total_allocated(pool));
        EXPECT(get_num_allocations(pool) == scaled(300000), "%zu allocations counted", get_num_allocations(pool));
        printf("# the pool holds %zu KiB\n", pool->total_size / KIB);
        EXPECT(pool->total_size <= 8 * MIB + held_back(),
               "the pool holds %zu KiB, for %d blocks of 2 KiB at most that were live at once", pool->total_size / KIB,
               2 * RING);
    }
    destroy_memory_pool(pool);
}

enum { KEPT = 1000 };
static void *kept[KEPT];

static void *allocate_and_exit(void *argument) {
    (void)argument;
    for (size_t i = 0; i < KEPT; i++) kept[i] = memset(pool_allocate(pool, 64 + i % 8 * 64), 1, 64);
    return NULL;
}

static void *churn_and_exit(void *argument) {
    void *blocks[500];
    size_t seed = (size_t)(uintptr_t)argument;
    for (size_t round = 0; round < 4; round++) {
        for (size_t i = 0; i < 500; i++) blocks[i] = memset(pool_allocate(pool, 64 + (i + seed) % 16 * 128), 1, 64);
        for (size_t i = 0; i < 500; i++) pool_free(pool, blocks[i]);
    }
    return NULL;
}

static void test_threads_exit(void) {
    pool = new_pool(32, 256);
    run_threads(1, allocate_and_exit);
    CHECK("blocks of a thread that has exited stay live", get_total_allocated(pool) == KEPT / 8 * 36 * 64);
    TEST("blocks of a thread that has exited can be freed and used again") {
        for (size_t i = 0; i < KEPT; i++) pool_free(pool, kept[i]);
        EXPECT(get_total_allocated(pool) == 0, "%zu bytes live", get_total_allocated(pool));
        size_t held = pool->total_size;
        for (size_t i = 0; i < KEPT; i++) kept[i] = pool_allocate(pool, 64 + i % 8 * 64);
        EXPECT(pool->total_size <= held + MIB, "the pool grew from %zu to %zu KiB instead of using freed blocks",
               held / KIB, pool->total_size / KIB);
        for (size_t i = 0; i < KEPT; i++) pool_free(pool, kept[i]);
    }
    TEST("200 generations of threads: caches come back, memory does not grow") {
        size_t held = 0, resident = 0;
        for (size_t generation = 0; generation < scaled(200); generation++) {
            run_threads(2, churn_and_exit);
            if (generation == 5) held = pool->total_size, resident = resident_bytes();
        }
        if (held) {
            EXPECT(pool->total_size <= held + 2 * MIB + held_back(), "the pool grew from %zu to %zu KiB", held / KIB,
                   pool->total_size / KIB);
            EXPECT(resident_bytes() <= resident + 4 * MIB + held_back(), "resident memory grew from %zu to %zu KiB", resident / KIB,
                   resident_bytes() / KIB);
        }
        EXPECT(get_total_allocated(pool) == 0, "%zu bytes live", get_total_allocated(pool));
    }
    destroy_memory_pool(pool);
}

static pthread_key_t last_words;
static atomic_size_t last_rounds;

/* Runs while the thread ends, after the library has taken the thread's caches back, and again for the keys it sets. */
static void use_while_ending(void *block) {
    static _Thread_local int rounds;
    last_rounds++;
    EXPECT(pattern_holds(block, 0, 300, 1), "a block held to the thread's end has changed");
    pool_free(pool, block);
    void *more[50];
    for (size_t i = 0; i < 50; i++)
        EXPECT((more[i] = pool_allocate(pool, 64 + i * 40)) != NULL, "no block while ending");
    for (size_t i = 0; i < 50; i++) pool_free(pool, more[i]);
    if (rounds++ < 2) {
        block = pool_allocate(pool, 300);
        if (block) pattern_fill(block, 0, 300, 1);
        pthread_setspecific(last_words, block);
    }
}

static void *leave_last_words(void *argument) {
    void *block = pool_allocate(pool, 300);
    if (block) pattern_fill(block, 0, 300, 1);
    pthread_setspecific(last_words, block);
    return argument;
}

static void test_thread_ends(void) {
    pool = new_pool(32, 64);
    pthread_key_create(&last_words, use_while_ending);
    TEST("200 threads allocate and free while they end, in destructors of their keys") {
        size_t early = 0;
        for (size_t i = 0; i < 50; i++) {
            run_threads(4, leave_last_words);
            if (i == 5) early = pool->total_size;
        }
        EXPECT(last_rounds == 600, "%zu destructors ran, expected three of each thread", (size_t)last_rounds);
        EXPECT(get_total_allocated(pool) == 0, "%zu bytes live, expected 0", get_total_allocated(pool));
        EXPECT(pool->total_size <= early + MIB + held_back(), "the pool grew from %zu to %zu KiB", early / KIB,
               pool->total_size / KIB);
    }
    pthread_key_delete(last_words);
    destroy_memory_pool(pool);
}

static pthread_barrier_t barrier;
static void *of_thread;

static void *outlive_the_pool(void *argument) {
    (void)argument;
    for (size_t i = 0; i < 1000; i++) pool_free(pool, pool_allocate(pool, 200));
    of_thread = pool_allocate(pool, 200);
    pthread_barrier_wait(&barrier); /* the pool is destroyed while this thread holds a cache of it */
    pthread_barrier_wait(&barrier);
    MemoryPool *next = new_pool(32, 64);
    for (size_t i = 0; i < 1000; i++) {
        void *block = pool_allocate(next, 200);
        EXPECT(block && get_total_allocated(next) == 200, "a new pool after one was destroyed: %zu bytes live",
               get_total_allocated(next));
        pool_free(next, block);
    }
    destroy_memory_pool(next);
    return NULL;
}

static void test_destroy_with_caches(void) {
    TEST("a pool is destroyed while other threads hold blocks of it cached") {
        for (size_t round = 0; round < 20; round++) {
            pool = new_pool(32, 256);
            pthread_barrier_init(&barrier, NULL, 2);
            pthread_t thread = start_thread(outlive_the_pool, NULL);
            pthread_barrier_wait(&barrier);
            EXPECT(get_total_allocated(pool) == 200, "%zu bytes live, expected the thread's 200",
                   get_total_allocated(pool));
            destroy_memory_pool(pool);
            pthread_barrier_wait(&barrier);
            pthread_join(thread, NULL);
            pthread_barrier_destroy(&barrier);
        }
    }
}

int main(void) {
    test_totals();
    test_other_threads_free();
    test_threads_exit();
    test_thread_ends();
    test_destroy_with_caches();
    return tap_done();
}
