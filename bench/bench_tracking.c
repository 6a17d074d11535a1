/* What it costs to track a block, to look it up and to untrack it, with 10 blocks tracked and with 10 million.
 *
 *   bench_tracking [-q]      -q: 1 million
 *
 * Blocks are taken in three orders, since with 10 million of them the tables no longer fit a cache:
 *   same 10    the same few blocks come and go among the many: the cost of the table itself
 *   in order   blocks of rising addresses, as an allocator hands them out
 *   at random  any of the many: a cache miss or two for each, whatever the table; shown beside one plain read at random
 * The target for the first two is at most 2 times the cost with 10 blocks. */
#define _GNU_SOURCE
#include "../demo/trace.h"
#include "bench.h"

#include "unimem.h"
#include "unimem/memory_singleton.h"

#include <sys/mman.h>
#include <time.h>

enum { FEW = 10, STEPS = 200000 };

static unified_memory_interface_t *memory;
static char *const base = (char *)((uintptr_t)1 << 45); /* the addresses are never touched */

static bool interface_track(void *block) { return memory->track_allocation(block, 64); }
static bool interface_untrack(void *block) { return memory->untrack_allocation(block); }

typedef struct {
    const char *name;
    bool (*track)(void *block);
    bool (*untrack)(void *block);
    bool (*look_up)(void *block); /* NULL: the tracker has none */
} tracker_t;

static const tracker_t trackers[] = {
    {"interface", interface_track, interface_untrack, NULL},
    {"singleton", track_memory_block, untrack_memory_block, is_memory_block_tracked},
};

typedef enum { SAME, IN_ORDER, AT_RANDOM, ORDERS } order_t;
static const char *const order_names[ORDERS] = {"same 10", "in order", "at random"};

static double processor_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static uint64_t random_next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *block_at(size_t index) { return base + index * 64; }

static size_t chosen(order_t order, size_t step, size_t blocks, uint64_t *state) {
    switch (order) {
    case SAME: return blocks / 2 + step % FEW;
    case IN_ORDER: return step % blocks;
    default: return random_next(state) % blocks;
    }
}

static void must(bool held) {
    if (held) return;
    fprintf(stderr, "bench_tracking: a tracker gave a wrong answer: %s\n", unimem_last_error_message());
    exit(EXIT_FAILURE);
}

/* Nanoseconds to untrack and track again a block that is tracked. */
static double time_untrack_track(const tracker_t *tracker, order_t order, size_t blocks) {
    uint64_t state = 88172645463325252u;
    bool good = true;
    double start = processor_seconds();
    for (size_t step = 0; step < STEPS; step++) {
        void *block = block_at(chosen(order, step, blocks, &state) % blocks);
        good &= tracker->untrack(block);
        good &= tracker->track(block);
    }
    double time = processor_seconds() - start;
    must(good);
    return time / STEPS * 1e9;
}

static double time_look_up(const tracker_t *tracker, order_t order, size_t blocks) {
    uint64_t state = 88172645463325252u;
    bool good = true;
    double start = processor_seconds();
    for (size_t step = 0; step < STEPS; step++)
        good &= tracker->look_up(block_at(chosen(order, step, blocks, &state) % blocks));
    double time = processor_seconds() - start;
    must(good);
    return time / STEPS * 1e9;
}

/* Nanoseconds of one read at random from a table with 16 bytes for each block. No table of that size can be quicker. */
static double time_plain_read(size_t blocks) {
    size_t bytes = blocks * 16;
    volatile char *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (table == MAP_FAILED) return 0;
    uint64_t state = 88172645463325252u;
    double start = processor_seconds();
    for (size_t step = 0; step < STEPS; step++) (void)table[random_next(&state) % blocks * 16];
    double time = processor_seconds() - start;
    munmap((void *)table, bytes);
    return time / STEPS * 1e9;
}

static void compare(report_t *report, const tracker_t *tracker, const char *what, order_t order, const double *few,
                    const double *many, size_t rounds, size_t blocks) {
    char workload[64];
    double ratio = median_ratio(many, few, rounds);
    snprintf(workload, sizeof workload, "%s %s", what, order_names[order]);
    char mark = report_add(report, workload, blocks, 1, tracker->name, median(many, rounds), "ns", "10 blocks", ratio,
                           order == AT_RANDOM ? 0 : 2.0);
    printf("%-10s %-16s %-10s %9.1f %12.1f %8.2f%c\n", tracker->name, what, order_names[order], median(few, rounds),
           median(many, rounds), ratio, mark);
}

int main(int count, char **arguments) {
    bool quick = count == 2 && strcmp(arguments[1], "-q") == 0;
    size_t blocks = quick ? 1000000 : 10000000, rounds = 7;
    if (count != 1 + quick) {
        fprintf(stderr, "usage: %s [-q]\n", arguments[0]);
        return EXIT_FAILURE;
    }
    report_t report = report_open("bench_tracking.csv");
    memory = unimem_open(NULL);
    must(memory != NULL);
    printf("\nTracking: ns with 10 and with %zu blocks tracked, medians of %zu rounds\n", blocks, rounds);
    printf("%-10s %-16s %-10s %9s %12zu %8s\n", "", "", "", "10", blocks, "ratio");
    for (size_t t = 0; t < sizeof trackers / sizeof trackers[0]; t++) {
        const tracker_t *tracker = &trackers[t];
        static double few[2][ORDERS][MOST_ROUNDS], many[2][ORDERS][MOST_ROUNDS];
        for (size_t pass = 0; pass < 2; pass++) {
            size_t tracked = pass ? blocks : FEW;
            bool good = true;
            double start = processor_seconds();
            for (size_t i = pass ? FEW : 0; i < tracked; i++) good &= tracker->track(block_at(i));
            must(good);
            if (pass)
                printf("%-10s %-16s %-10s %9s %12.1f\n", tracker->name, "track", "in order", "",
                       (processor_seconds() - start) / (double)(tracked - FEW) * 1e9);
            for (size_t round = 0; round < rounds; round++)
                for (int order = SAME; order < ORDERS; order++) {
                    double(*into)[ORDERS][MOST_ROUNDS] = pass ? many : few;
                    into[0][order][round] = time_untrack_track(tracker, (order_t)order, tracked);
                    into[1][order][round] = tracker->look_up ? time_look_up(tracker, (order_t)order, tracked) : 0;
                }
        }
        for (int order = SAME; order < ORDERS; order++) {
            compare(&report, tracker, "untrack + track", (order_t)order, few[0][order], many[0][order], rounds, blocks);
            if (tracker->look_up)
                compare(&report, tracker, "look-up", (order_t)order, few[1][order], many[1][order], rounds, blocks);
        }
        bool good = true;
        for (size_t i = 0; i < blocks; i++) good &= tracker->untrack(block_at(i));
        must(good);
    }
    printf("%-10s %-16s %-10s %9.1f %12.1f\n", "", "a plain read", "at random", time_plain_read(FEW),
           time_plain_read(blocks));
    must(unimem_close(memory));
    report_close(&report);
    return EXIT_SUCCESS;
}
