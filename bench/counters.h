/* What the processor and the kernel count of this process's threads, through perf_event_open. A count that this machine
 * does not have is not a number, and is said to be missing; virtual machines often have none of the processor's counts. */
#ifndef UNIMEM_BENCH_COUNTERS_H
#define UNIMEM_BENCH_COUNTERS_H

#include <errno.h>
#include <linux/perf_event.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { INSTRUCTIONS, CACHE_MISSES, PAGE_FAULTS, COUNTERS };

static const struct {
    const char *name;
    uint32_t type;
    uint64_t config;
} counter_kinds[COUNTERS] = {
    {"instructions", PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS},
    {"cache misses", PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_MISSES},
    {"page faults", PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS},
};
static int counter_files[COUNTERS];

/* To be called before any other thread is started, because only threads that are started later are counted, too. */
static void counters_open(void) {
    for (size_t i = 0; i < COUNTERS; i++) {
        struct perf_event_attr event = {.type = counter_kinds[i].type,
                                        .size = sizeof event,
                                        .config = counter_kinds[i].config,
                                        .inherit = 1,
                                        .exclude_kernel = 1,
                                        .exclude_hv = 1};
        counter_files[i] = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
        if (counter_files[i] < 0) printf("SKIP %s: no such counter here (%s)\n", counter_kinds[i].name, strerror(errno));
    }
}

static void counters_read(double counts[COUNTERS]) {
    for (size_t i = 0; i < COUNTERS; i++) {
        uint64_t count;
        bool good = counter_files[i] >= 0 && read(counter_files[i], &count, sizeof count) == sizeof count;
        counts[i] = good ? (double)count : NAN;
    }
}

#endif
