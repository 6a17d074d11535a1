/* soak.h - what the parts of the soak share: the counters, the memory of one epoch, and a model of what is live in
 * it. See soak.c. */
#ifndef SOAK_H
#define SOAK_H
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"

#include "support.h"

#include <stdatomic.h>

/* What has been done, in all processes of the run together. */
#define COUNTERS(X)                                                                                                       \
    X(allocated, "blocks allocated") X(freed, "freed") X(resized, "resized") X(passed_on, "passed between threads")       \
    X(full, "refused for want of room") X(wrong_frees, "wrong frees refused") X(retained, "further owners")               \
    X(tracked, "addresses tracked") X(regions, "tiered regions") X(segments_written, "chunks written")                    \
    X(segments_checked, "chunks checked") X(pins, "chunks pinned") X(additions, "additions to shared words")              \
    X(trees, "trees contracted") X(instances, "instances and pools come and gone") X(forks, "forks")                      \
    X(threads, "threads come and gone") X(signals_outside, "signals that touch chunks") \
    X(signals_inside, "signals in calls that touch pinned chunks") X(rounds, "rounds")                \
    X(quiet_checks, "totals checked") X(epochs, "processes")
#define COUNTER_NAME(name, text) name,
#define COUNTER_TEXT(name, text) text,
typedef enum { COUNTERS(COUNTER_NAME) NUMBER_OF_COUNTERS } counter_t;
static const char *const counter_texts[] = {COUNTERS(COUNTER_TEXT)};

static atomic_size_t *counters; /* shared with all children */
static void count(counter_t what) { atomic_fetch_add_explicit(&counters[what], 1, memory_order_relaxed); }

/* Where blocks come from. TIGHT and TIGHTER have tiers and a small budget. The surfaces before TABLES have an
 * interface. */
typedef enum { WIDE, TIGHT, TIGHTER, GLOBAL, TABLES, POOL = TABLES, SYSTEM, SYSTEM_POOL, TRACKED_SYSTEM, SURFACES } surface_t;
static const size_t budgets[SURFACES] = {[TIGHT] = 8 * MIB, [TIGHTER] = 3 * MIB}; /* 0: no budget */

static unified_memory_interface_t *tables[TABLES];
static MemoryPool *pool;
static advanced_memory_system_t *memory_system;
static void *system_pool;

/* The model: what the figures must be when no thread is inside the library. */
static struct {
    atomic_size_t bytes[SURFACES], blocks[SURFACES], plain_bytes[SURFACES], wrong_frees[TABLES], additions, signals;
} model;

/* Words that all threads add to. They take three times the budget of the surface they are on (TIGHT). */
enum { SHARED_WORDS = 24 * MIB / sizeof(uint64_t) };
static _Atomic uint64_t *shared_words, *signal_words;
enum { SIGNAL_WORDS = 512 * KIB / sizeof(uint64_t), PINNED_WORDS = 16 * KIB / sizeof(uint64_t) };

/* Whether this thread is outside the library, so that a signal handler may touch tiered memory that is not in place. */
static _Thread_local volatile sig_atomic_t outside;

/* The state of one thread. */
enum { HANDS = 24 };
struct item;
typedef struct {
    random_t random;
    struct item *items[HANDS];
    bool may_fork;
} worker_t;

static bool one_in(worker_t *worker, size_t n) { return random_below(&worker->random, n) == 0; }
static size_t below(worker_t *worker, size_t limit) { return random_below(&worker->random, limit); }

/* A call on `surface` returned NULL. That is right only if the surface has a budget and the error says that it is
 * used up. */
static bool may_be_full(surface_t surface, const char *what) {
    count(full);
    return EXPECT(budgets[surface] && unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY,
                  "surface %d: %s: error %d: %s", (int)surface, what, (int)unimem_last_error(), unimem_last_error_message());
}

#endif
