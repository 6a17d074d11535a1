/* test_instances.c - instances of the interface: opening and closing, how many there can be, independence, budgets,
 * statistics. */
#define _GNU_SOURCE
#include "unimem.h"

#include "support.h"

#include <stdatomic.h>

enum { MOST_INSTANCES = 1 << 16 };

static void test_open_and_close(void) {
    unified_memory_interface_t *first = unimem_open(NULL), *second = unimem_open(NULL);
    if (!CHECK("unimem_open: NULL config gives an instance with defaults", first && second && first != second)) return;
    CHECK("every function of the table is there", first->allocate && first->free && first->realloc &&
                                                      first->allocate_geometric && first->allocate_hierarchical &&
                                                      first->allocate_streaming && first->track_allocation &&
                                                      first->untrack_allocation && first->get_stats);
    CHECK("two instances have functions of their own",
          first->allocate != second->allocate && first->get_stats != second->get_stats);
    char *of_first = first->allocate(777, 0), *of_second = second->allocate(888, 0);
    memory_stats_t one = stats_of(first), two = stats_of(second);
    CHECK("instances count apart", one.total_allocated == 777 && two.total_allocated == 888 &&
                                       one.num_allocations == 1 && two.num_allocations == 1);
    size_t refused = unimem_refused_frees(second);
    second->free(of_first);
    CHECK("a block of one instance is refused by another", unimem_last_error() == UNIMEM_ERROR_NOT_OWNED &&
                                                               unimem_refused_frees(second) == refused + 1 &&
                                                               unimem_owns(of_first));
    CHECK("so is its realloc", second->realloc(of_first, 5) == NULL && unimem_usable_size(of_first) >= 777);
    CHECK("refusals change neither instance's statistics", stats_of(first).total_allocated == 777 &&
                                                               stats_of(second).total_allocated == 888 &&
                                                               stats_of(second).num_frees == 0);
    first->free(of_first);
    CHECK("unimem_close: true when nothing is live", unimem_close(first));
    CHECK("unimem_close: false when something is, and the last error says so",
          !unimem_close(second) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT &&
              strstr(unimem_last_error_message(), "1 blocks were live"));
    CHECK("unimem_close: what was live is freed", !unimem_owns(of_second) && unimem_usable_size(of_second) == 0);
    CHECK("a closed instance's table refuses harmlessly", second->allocate(64, 0) == NULL &&
                                                              second->allocate_geometric((size_t[]){4}, 1) == NULL &&
                                                              second->realloc(NULL, 8) == NULL);
    CHECK("unimem_close: false for NULL, for a closed instance, for a copy of a table",
          !unimem_close(NULL) && !unimem_close(second) && !unimem_close(&(unified_memory_interface_t){0}));
    unified_memory_interface_t *global = unimem_global();
    CHECK("unimem_global: always the same", global && global == unimem_global());
    void *block = global->allocate(100, 0);
    CHECK("unimem_close: the global instance stays",
          !unimem_close(global) && unimem_owns(block) && global == unimem_global());
    global->free(block);
    CHECK("functions that take an interface refuse NULL",
          !unimem_can_allocate(NULL, 1) && unimem_trim(NULL) == 0 && unimem_held_bytes(NULL) == 0 &&
              unimem_refused_frees(NULL) == 0 && unimem_report_leaks(NULL, NULL, NULL) == 0);
    unimem_reset_stats(NULL);
}

static void test_number(void) {
    unified_memory_interface_t **open = table_new(MOST_INSTANCES * sizeof *open);
    size_t count = 0;
    while (count < MOST_INSTANCES && (open[count] = unimem_open(NULL))) count++;
    unimem_error_t error = unimem_last_error();
    printf("# %zu instances open at once\n", count);
    CHECK("at least 64 instances can be open at once", count >= 64);
    CHECK("one more is NULL with the limit error", count < MOST_INSTANCES && error == UNIMEM_ERROR_LIMIT);
    TEST("all open instances work, apart from each other") {
        unsigned char **blocks = table_new(count * sizeof *blocks);
        for (size_t i = 0; i < count; i++)
            if (EXPECT((blocks[i] = open[i]->allocate(100 + i, 0)) != NULL, "instance %zu gives no block", i))
                pattern_fill(blocks[i], 0, 100 + i, i);
        for (size_t i = 0; i < count; i++) {
            EXPECT(live_in(open[i]) == 100 + i, "instance %zu has %zu bytes live, expected %zu", i, live_in(open[i]), 100 + i);
            EXPECT(blocks[i] && pattern_holds(blocks[i], 0, 100 + i, i), "the block of instance %zu was written by another", i);
        }
        munmap(blocks, count * sizeof *blocks);
    }
    TEST("closing one makes room for another, with nothing of the old one") {
        for (size_t i = 0; i < count; i += 7) {
            EXPECT(!unimem_close(open[i]), "instance %zu had a live block, but closed as if it had none", i);
            open[i] = unimem_open(NULL);
            if (!EXPECT(open[i] != NULL, "no instance in the place of %zu", i)) continue;
            EXPECT(stats_of(open[i]).num_allocations == 0 && unimem_refused_frees(open[i]) == 0,
                   "the new instance %zu starts with old statistics", i);
            EXPECT(open[i]->allocate(64, 0) != NULL, "the new instance %zu cannot allocate", i);
        }
    }
    for (size_t i = 0; i < count; i++)
        if (open[i]) unimem_close(open[i]);
    munmap(open, MOST_INSTANCES * sizeof *open);
    TEST("opening and closing 1,000 times leaves no memory behind") {
        size_t before = 0;
        for (size_t i = 0; i < 10 + scaled(1000); i++) {
            if (i == 10) before = resident_bytes(); /* what the first of them make is made once */
            unified_memory_interface_t *instance = unimem_open(NULL);
            if (!EXPECT(instance != NULL, "round %zu: no instance", i)) continue;
            memset(instance->allocate(100 * KIB, 0), 1, 100 * KIB);
            memset(instance->allocate(100, 0), 1, 100);
            unimem_close(instance);
        }
        size_t after = resident_bytes();
        printf("# resident memory: %zu KiB after 10 instances, %zu KiB at the end\n", before / KIB, after / KIB);
        EXPECT(after < before + growth_allowed(), "resident memory grew from %zu to %zu KiB", before / KIB, after / KIB);
    }
}

/* Fills an instance with blocks of one size after another: the cap holds, and is an error where it is reached. */
static void test_budget(unified_pool_config_t config, size_t cap, const char *what) {
    char name[160];
    unified_memory_interface_t *memory = unimem_open(&config);
    snprintf(name, sizeof name, "budget of %zu MiB by %s: the instance opens", cap / MIB, what);
    if (!CHECK(name, memory != NULL)) return;
    snprintf(name, sizeof name, "budget of %zu MiB by %s: never exceeded, and all of it comes back for every size",
             cap / MIB, what);
    TEST(name) {
        const size_t sizes[] = {64, 1000, 4096, 40000, 300000, MIB, 3 * MIB, 64, 7 * MIB, 128 * KIB};
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            size_t size = sizes[s], count = 0;
            unimem_error_t last;
            memory->free(opaque(&count)); /* leaves another error than the one expected */
            void **chain = allocate_chain(memory, size, 0, cap / 16, &count);
            last = unimem_last_error();
            size_t live = live_in(memory), held = unimem_held_bytes(memory);
            EXPECT(count < cap / 16, "blocks of %zu bytes: no end", size);
            EXPECT(last == UNIMEM_ERROR_OUT_OF_MEMORY, "blocks of %zu bytes: error %d, expected out of memory", size,
                   (int)last);
            EXPECT(live == count * size && live <= cap, "blocks of %zu bytes: %zu live bytes, %zu blocks", size, live,
                   count);
            EXPECT(held <= cap, "blocks of %zu bytes: %zu bytes held, the cap is %zu", size, held, cap);
            /* A guard's 16 bytes, and what they round up to. */
            size_t taken = live + (debug_mode("guard") ? count * 64 : 0);
            EXPECT(live + size > cap || taken >= cap / 2, "blocks of %zu bytes: full with %zu of %zu bytes live", size,
                   live, cap);
            EXPECT(!unimem_can_allocate(memory, cap), "can_allocate(%zu) while full", cap);
            void *kept = chain;
            void *grown = chain ? memory->realloc(chain, cap + 1) : NULL;
            EXPECT(grown == NULL && (!kept || unimem_owns(kept)), "blocks of %zu bytes: realloc beyond the cap", size);
            free_chain(memory, chain);
            EXPECT(live_in(memory) == 0, "blocks of %zu bytes: %zu live after freeing all", size,
                   live_in(memory));
        }
        EXPECT(memory->allocate(cap + 1, 0) == NULL, "one block above the cap");
        EXPECT(!unimem_can_allocate(memory, cap + 1), "can_allocate one block above the cap");
        EXPECT(unimem_can_allocate(memory, cap / 2), "can_allocate half the cap when empty is false");
        void *half = memory->allocate(cap / 2, 0);
        EXPECT(half != NULL, "half the cap in one block after all that");
        memory->free(half);
    }
    snprintf(name, sizeof name, "budget of %zu MiB by %s: closes clean", cap / MIB, what);
    CHECK(name, unimem_close(memory));
}

static unified_memory_interface_t *contended;
static size_t contended_cap;
static atomic_bool contended_stop;
static atomic_size_t contended_refused;

static void *contend(void *argument) {
    random_t random = {(uint64_t)(uintptr_t)argument};
    void *blocks[32] = {0};
    for (size_t i = 0; i < scaled(40000); i++) {
        void **slot = &blocks[random_below(&random, 32)];
        contended->free(*slot);
        *slot = contended->allocate(random_size(&random, 6, 20), 0);
        if (*slot) *(char *)*slot = 1;
        else contended_refused++;
    }
    for (size_t i = 0; i < 32; i++) contended->free(blocks[i]);
    return NULL;
}

static void *watch_the_cap(void *argument) {
    do {
        size_t held = unimem_held_bytes(contended), live = live_in(contended);
        if (!EXPECT(held <= contended_cap, "%zu bytes held, the cap is %zu", held, contended_cap)) break;
        if (!EXPECT(live <= contended_cap, "%zu bytes live, the cap is %zu", live, contended_cap)) break;
    } while (!contended_stop);
    return argument;
}

static void test_budget_with_threads(void) {
    contended_cap = 16 * MIB;
    contended = unimem_open(&(unified_pool_config_t){.max_size = contended_cap, .enable_growth = true});
    if (!CHECK("an instance of 16 MiB for four threads", contended != NULL)) return;
    TEST("budget: never exceeded while four threads contend for it") {
        pthread_t watcher = start_thread(watch_the_cap, NULL);
        run_threads(4, contend);
        contended_stop = true;
        pthread_join(watcher, NULL);
        printf("# %zu of %zu blocks were refused\n", (size_t)contended_refused, 4 * scaled(40000));
        EXPECT(contended_refused > 0, "nothing was refused: nobody contended");
        EXPECT(live_in(contended) == 0, "%zu bytes live at the end", live_in(contended));
        void *half = contended->allocate(contended_cap / 2, 0);
        EXPECT(half != NULL, "half the budget is not available at the end");
        contended->free(half);
    }
    CHECK("the contended instance closes clean", unimem_close(contended));
}

static void test_config(void) {
    unified_memory_interface_t *memory =
        unimem_open(&(unified_pool_config_t){.enable_growth = true, .use_geometric_layout = true});
    char *tensor = memory ? memory->allocate(5 * MIB, 0) : NULL, *small = memory ? memory->allocate(100, 0) : NULL;
    CHECK("use_geometric_layout: allocate places big blocks at 2 MiB, small at 64",
          tensor && is_aligned(tensor, 2 * MIB) && small && is_aligned(small, 64));
    if (memory) CHECK("use_geometric_layout: blocks left live are told at close", !unimem_close(memory));
    memory = unimem_open(&(unified_pool_config_t){.max_size = MIB});
    CHECK("without growth from nothing max_size is the cap all the same",
          memory && memory->allocate(MIB / 2, 0) && !memory->allocate(MIB, 0) && !unimem_close(memory));
    memory = unimem_open(&(unified_pool_config_t){.initial_size = 32 * MIB, .enable_growth = true});
    CHECK("initial_size: bytes are ready, none is live",
          memory && unimem_held_bytes(memory) >= 32 * MIB && live_in(memory) == 0);
    if (memory) {
        char *beyond = memory->allocate(100 * MIB, 0);
        CHECK("enable_growth: an instance grows beyond its initial size", beyond != NULL);
        memory->free(beyond);
        CHECK("initial_size: the instance closes clean", unimem_close(memory));
    }
    TEST("compression_tolerance: not a number is refused by open, or where it would be used") {
        memory = unimem_open(&(unified_pool_config_t){
            .enable_growth = true, .enable_streaming = true, .compression_tolerance = (double)__builtin_nanf("")});
        if (memory) {
            EXPECT(memory->allocate_hierarchical(4096, -1.0) == NULL, "a tolerance that is not a number was used");
            EXPECT(unimem_close(memory), "something is live");
        }
        EXPECT(unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT, "error %d", (int)unimem_last_error());
    }
}

static void test_statistics(void) {
    CHECK_EQ("memory_stats_t is 8 words", sizeof(memory_stats_t), 64);
    CHECK_EQ("the table is 9 functions", sizeof(unified_memory_interface_t), 9 * sizeof(void *));
    unified_memory_interface_t *fresh = unimem_open(NULL);
    if (!CHECK("a fresh instance", fresh != NULL)) return;
    memory_stats_t stats = stats_of(fresh);
    CHECK("get_stats: all totals of a fresh instance are 0", stats.total_allocated == 0 && stats.peak_allocated == 0 &&
                                                                 stats.num_allocations == 0 && stats.num_frees == 0 &&
                                                                 stats.largest_allocation == 0);
    void *a = fresh->allocate(1000, 0), *b = fresh->allocate(5000, 0), *c = fresh->allocate(300, 0);
    fresh->free(b);
    stats = stats_of(fresh);
    CHECK_EQ("get_stats: total_allocated is the live bytes as requested", stats.total_allocated, 1300);
    CHECK_EQ("get_stats: peak_allocated", stats.peak_allocated, 6300);
    CHECK_EQ("get_stats: num_allocations", stats.num_allocations, 3);
    CHECK_EQ("get_stats: num_frees", stats.num_frees, 1);
    CHECK_EQ("get_stats: largest_allocation", stats.largest_allocation, 5000);
    CHECK("get_stats: fragmentation is a percentage", stats.fragmentation <= 100);
    fresh->get_stats(NULL);
    unimem_reset_stats(fresh);
    stats = stats_of(fresh);
    CHECK("unimem_reset_stats: what is live stays, the peak starts from it",
          stats.total_allocated == 1300 && stats.peak_allocated == 1300);
    CHECK("unimem_reset_stats: counts start again", stats.num_allocations == 0 && stats.num_frees == 0);
    fresh->free(a);
    fresh->free(c);
    for (int i = 0; i < 10000; i++) fresh->free(fresh->allocate(64, 0));
    stats = stats_of(fresh);
    if (debug_mode(NULL))
        SKIP("get_stats: a block freed and asked for again comes from the thread cache", "in debug mode nothing does");
    else
        CHECK("get_stats: a block freed and asked for again comes from the thread cache",
              stats.cache_hits >= 9000 && stats.cache_hits + stats.cache_misses >= 10000);
    CHECK_EQ("get_stats: one block at a time is a peak of one block", stats.peak_allocated, 1300);
    enum { BATCH = 1000, BATCHES = 20 };
    for (int i = 0; i < BATCHES; i++) {
        void *batch[BATCH];
        if (i == BATCHES / 2) unimem_reset_stats(fresh);
        for (size_t j = 0; j < BATCH; j++) batch[j] = fresh->allocate(64, 0);
        for (size_t j = 0; j < BATCH; j++) fresh->free(batch[j]);
    }
    if (debug_mode(NULL))
        SKIP("get_stats: a thread that uses a thousand blocks by turns comes to have them all in its cache",
             "in debug mode it has none");
    else
        CHECK_EQ("get_stats: a thread that uses a thousand blocks by turns comes to have them all in its cache",
                 stats_of(fresh).cache_misses, 0);
    enum { BLOCKS = 20000 };
    void **blocks = table_new(BLOCKS * sizeof *blocks);
    for (size_t i = 0; i < BLOCKS; i++) memset(blocks[i] = fresh->allocate(1000, 0), 1, 1000);
    size_t dense = stats_of(fresh).fragmentation;
    for (size_t i = 0; i < BLOCKS; i++)
        if (i % 10) fresh->free(blocks[i]);
    size_t sparse = stats_of(fresh).fragmentation;
    CHECK("get_stats: fragmentation is low when full, high when nine in ten are free",
          dense <= 20 && sparse >= 60 && sparse <= 100);
    printf("# fragmentation: %zu %% full, %zu %% with one block in ten live\n", dense, sparse);
    for (size_t i = 0; i < BLOCKS; i += 10) fresh->free(blocks[i]);
    munmap(blocks, BLOCKS * sizeof *blocks);
    char *large = fresh->allocate(64 * MIB, 0);
    if (large) memset(large, 1, 64 * MIB);
    size_t held = unimem_held_bytes(fresh);
    CHECK("unimem_held_bytes: at least what is live", held >= 64 * MIB);
    fresh->free(large);
    size_t handed_back = unimem_trim(fresh);
    CHECK("unimem_trim: what is free goes back to the system",
          unimem_held_bytes(fresh) <= 4 * MIB && unimem_held_bytes(fresh) < held);
    printf("# trim handed back %zu KiB, still held %zu KiB\n", handed_back / KIB, unimem_held_bytes(fresh) / KIB);
    CHECK("an instance with nothing live closes clean", unimem_close(fresh));
}

/* A thread that had blocks of 50,000 bytes for a moment, which nobody but it has counted yet, and waits. */
static pthread_barrier_t moment;
static void *had_a_moment(void *instance) {
    unified_memory_interface_t *memory = instance;
    void *blocks[50];
    for (size_t i = 0; i < 50; i++) blocks[i] = memory->allocate(1000, 0);
    for (size_t i = 0; i < 50; i++) memory->free(blocks[i]);
    pthread_barrier_wait(&moment);
    pthread_barrier_wait(&moment);
    return NULL;
}
/* A peak that was told never becomes less, although what threads count comes in late. */
static void test_peak_is_not_taken_back(void) {
    unified_memory_interface_t *memory = unimem_open(NULL);
    void *blocks[1000];
    for (size_t i = 0; i < 1000; i++) blocks[i] = memory->allocate(1000, 0);
    pthread_barrier_init(&moment, NULL, 2);
    pthread_t thread = start_thread(had_a_moment, memory);
    pthread_barrier_wait(&moment);
    for (size_t i = 0; i < 40; i++) memory->free(blocks[i]);
    size_t told = stats_of(memory).peak_allocated;
    for (size_t i = 0; i < 3000; i++) memory->free(memory->allocate(1, 0));
    CHECK("get_stats: a peak that was told is not taken back", told >= 1000000 && stats_of(memory).peak_allocated >= told);
    pthread_barrier_wait(&moment);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&moment);
    for (size_t i = 40; i < 1000; i++) memory->free(blocks[i]);
    CHECK("nothing is left of it", unimem_close(memory));
}

/* Two owners reallocate one block at the same moment: what is counted is the size that it has in the end. Neither waits
 * for the other, which would take long where other programs run: both go on until both have done enough. */
static struct {
    unified_memory_interface_t *memory;
    void *block;
    size_t sizes[2], enough;
    atomic_size_t done[2];
} shared;
static void *resize(void *number) {
    size_t own = (size_t)number;
    while (shared.done[own] < shared.enough || shared.done[1 - own] < shared.enough)
        shared.memory->realloc(shared.block, shared.sizes[own] - shared.done[own]++ % 50);
    return NULL;
}
static void test_owners_resize_at_once(void) {
    TEST("two owners that reallocate one block at the same moment: its size is counted once") {
        static const size_t sizes[] = {1000, 50000, 3 * MIB, 2 * MIB};
        shared.memory = unimem_open(NULL);
        for (size_t kind = 0; kind < 4; kind++) {
            size_t size = sizes[kind];
            shared.block = kind < 3 ? shared.memory->allocate(size, 0) : shared.memory->allocate_streaming(size, 64 * KIB);
            shared.sizes[0] = size - size / 8, shared.sizes[1] = size - size / 10;
            shared.enough = kind < 3 ? 100000 : 30000;
            shared.done[0] = shared.done[1] = 0;
            EXPECT(shared.block && unimem_retain(shared.block), "no block of %zu bytes", size);
            pthread_t thread = start_thread(resize, (void *)1);
            resize((void *)0);
            pthread_join(thread, NULL);
            size_t counted = stats_of(shared.memory).total_allocated, usable = unimem_usable_size(shared.block);
            EXPECT(counted == usable, "%zu bytes: %zu are counted, it has %zu", size, counted, usable);
            shared.memory->free(shared.block);
            shared.memory->free(shared.block);
            EXPECT(stats_of(shared.memory).total_allocated == 0, "%zu bytes: some are left", size);
        }
        EXPECT(unimem_close(shared.memory), "something is left");
    }
}

static unimem_error_t second_close;

static void *close_too(void *instance) {
    second_close = unimem_close(instance) ? UNIMEM_OK : unimem_last_error();
    return NULL;
}

static void close_in_another_thread(int level, const char *text, void *instance) {
    (void)level, (void)text;
    unimem_set_log(NULL, NULL);
    pthread_join(start_thread(close_too, instance), NULL);
}

static void test_closing_twice(void) {
    TEST("two threads that close one instance: the second is refused, also while the first tells of leaks") {
        unified_memory_interface_t *twice = unimem_open(NULL);
        void *leak = twice->allocate(100, 0);
        unimem_set_log(close_in_another_thread, twice);
        second_close = UNIMEM_OK;
        EXPECT(!unimem_close(twice), "closed clean with a block live");
        unimem_set_log(NULL, NULL);
        EXPECT(second_close == UNIMEM_ERROR_INVALID_ARGUMENT, "the second thread got %d", (int)second_close);
        EXPECT(!unimem_owns(leak), "the block is still owned");
        unified_memory_interface_t *next = unimem_open(NULL);
        EXPECT(next && unimem_close(next), "the next instance does not close clean");
    }
}

/* Many threads open and close instances, each in the place that another has just left. */
static atomic_size_t not_closed;
static void *open_and_close(void *argument) {
    for (int i = 0; i < 500; i++) {
        unified_memory_interface_t *mine = unimem_open(NULL);
        if (!mine || !unimem_close(mine)) not_closed++;
    }
    return argument;
}
static void test_slots_change_hands(void) {
    run_threads(32, open_and_close);
    CHECK_EQ("threads that open and close at once do not disturb each other", not_closed, 0);
}

/* Blocks of all sizes come and go below a cap, and before each allocation unimem_can_allocate says whether it works. */
static void test_can_allocate(void) {
    enum { BLOCKS = 400 };
    TEST("unimem_can_allocate: true exactly where allocate then gives a block") {
        for (uint64_t seed = 1; seed <= 6; seed++) {
            size_t cap = (size_t[]){3 * MIB + 12345, 8 * MIB, 20 * MIB, MIB, MIB, MIB + 777}[seed - 1], refused = 0;
            unified_pool_config_t config = {.max_size = cap, .enable_growth = true, .use_geometric_layout = seed % 2};
            unified_memory_interface_t *memory = unimem_open(&config);
            random_t random = {seed};
            void *blocks[BLOCKS] = {0};
            for (size_t step = 0; step < scaled(20000); step++) {
                size_t at = random_below(&random, BLOCKS), size = random_size(&random, 3, seed < 4 ? 22 : 17);
                if (blocks[at] && random_below(&random, 8) == 0) {
                    void *moved = memory->realloc(blocks[at], size);
                    blocks[at] = moved ? moved : blocks[at];
                    continue;
                }
                if (blocks[at]) {
                    memory->free(blocks[at]);
                    blocks[at] = NULL;
                    if (random_below(&random, 3) == 0) continue;
                }
                bool can = unimem_can_allocate(memory, size);
                blocks[at] = memory->allocate(size, 0);
                refused += blocks[at] == NULL;
                EXPECT(can == (blocks[at] != NULL), "seed %d, step %zu: can_allocate(%zu) is %d, %zu of %zu are held", (int)seed,
                       step, size, can, unimem_held_bytes(memory), cap);
                if (step % 1000 == 999) unimem_trim(memory);
            }
            EXPECT(refused > 100, "only %zu were refused", refused);
            for (size_t at = 0; at < BLOCKS; at++) memory->free(blocks[at]);
            EXPECT(unimem_close(memory), "something is left");
        }
    }
    unified_memory_interface_t *memory = unimem_open(NULL);
    CHECK("unimem_can_allocate: without a cap all but 0 and what no block can be",
          unimem_can_allocate(memory, 1) && unimem_can_allocate(memory, (size_t)1 << 46) && !unimem_can_allocate(memory, 0) &&
              !unimem_can_allocate(memory, ((size_t)1 << 46) + 1) && !unimem_can_allocate(memory, SIZE_MAX));
    unimem_close(memory);
}

int main(void) {
    test_open_and_close();
    test_closing_twice();
    test_owners_resize_at_once();
    test_slots_change_hands();
    test_number();
    test_budget((unified_pool_config_t){.max_size = 16 * MIB, .enable_growth = true}, 16 * MIB, "max_size");
    test_budget((unified_pool_config_t){.max_size = 64 * MIB, .enable_growth = true}, 64 * MIB, "max_size");
    test_budget((unified_pool_config_t){.initial_size = 32 * MIB, .enable_growth = false}, 32 * MIB,
                "initial_size without growth");
    test_budget((unified_pool_config_t){.initial_size = 16 * MIB, .max_size = 256 * MIB, .enable_growth = false},
                16 * MIB, "initial_size below max_size");
    test_budget_with_threads();
    test_can_allocate();
    test_config();
    test_statistics();
    test_peak_is_not_taken_back();
    return tap_done();
}
