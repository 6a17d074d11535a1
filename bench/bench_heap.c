/* The pool and the interface beside glibc's malloc and, where it is installed, mimalloc: pairs, batches, churn, large
 * blocks, and the peak of resident memory of real traces.
 *
 *   bench_heap [-q]      -q: fewer rounds
 *
 * The figures go to build/bench.csv too. Run before bench_tracking, which adds to it.
 * mimalloc is opened privately and called by its own names; malloc stays glibc's. Statistics and all checks of
 * libunimem are on. */
#define _GNU_SOURCE
#include "bench.h"
#include "../demo/replay.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>

enum { POOL, INTERFACE, GLIBC, MIMALLOC, CONTENDERS };
enum { MOST_THREADS = 2, BATCH = 1000, CHURN = 100000 };

typedef struct {
    const char *name;
    void *(*allocate)(size_t size);
    void (*free)(void *block);
} contender_t;

static void *interface_default(size_t size) { return surface_memory->allocate(size, 0); }
static void *pool_default(size_t size) { return pool_allocate(surface_pool, size); }
static void *glibc_allocate(size_t size) { return malloc(size); }
static void glibc_free(void *block) { free(block); }

static contender_t contenders[CONTENDERS] = {
    {"pool", pool_default, pool_give},
    {"interface", interface_default, interface_free},
    {"glibc", glibc_allocate, glibc_free},
    {"mimalloc", NULL, NULL},
};
static size_t present = MIMALLOC; /* contenders before this one are there */
static size_t rounds = 25;
static report_t report;

static bool open_mimalloc(void) {
    void *library = dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_LOCAL);
    void *allocate = library ? dlsym(library, "mi_malloc") : NULL,
         *release = library ? dlsym(library, "mi_free") : NULL;
    if (!allocate || !release) return false;
    /* POSIX promises that the pointers convert; ISO C has no cast for it. */
    memcpy(&contenders[MIMALLOC].allocate, &allocate, sizeof allocate);
    memcpy(&contenders[MIMALLOC].free, &release, sizeof release);
    present = CONTENDERS;
    return true;
}

static uint64_t random_next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

typedef struct workload {
    const char *name;
    void (*run)(const contender_t *, const struct workload *, size_t count, uint64_t seed);
    size_t size;
} workload_t;

static void *checked(void *block) {
    if (!block) {
        fprintf(stderr, "bench_heap: an allocation failed\n");
        exit(EXIT_FAILURE);
    }
    *(volatile char *)block = 1;
    return block;
}

static void run_pairs(const contender_t *contender, const workload_t *workload, size_t count, uint64_t seed) {
    (void)seed;
    for (size_t i = 0; i < count; i++) contender->free(checked(contender->allocate(workload->size)));
}

/* Batches: some blocks are made, then freed last first, first first, or in a random order. */
static void run_batches(const contender_t *contender, const workload_t *workload, size_t count, uint64_t seed) {
    void *blocks[BATCH];
    size_t many = workload->size > 4096 ? BATCH / 10 : BATCH;
    for (size_t done = 0; done < count; done += many) {
        for (size_t i = 0; i < many; i++) blocks[i] = checked(contender->allocate(workload->size));
        switch (workload->name[0]) {
        case 'L':
            for (size_t i = many; i-- > 0;) contender->free(blocks[i]);
            break;
        case 'F':
            for (size_t i = 0; i < many; i++) contender->free(blocks[i]);
            break;
        default:
            for (size_t left = many; left > 0; left--) {
                size_t chosen = (size_t)((random_next(&seed) >> 32) * left >> 32);
                contender->free(blocks[chosen]);
                blocks[chosen] = blocks[left - 1];
            }
        }
    }
}

/* Churn: of a hundred thousand live blocks of 16 bytes to 1 KiB one after another is replaced, at random. */
static void run_churn(const contender_t *contender, const workload_t *workload, size_t count, uint64_t seed) {
    void **blocks = calloc(CHURN, sizeof *blocks);
    (void)workload;
    if (!blocks) exit(EXIT_FAILURE);
    for (size_t i = 0; i < count + CHURN; i++) {
        uint64_t random = random_next(&seed);
        void **slot = &blocks[i < CHURN ? i : (random >> 32) % CHURN];
        if (*slot) contender->free(*slot);
        *slot = checked(contender->allocate((size_t)16 << (random & 3) * 2));
    }
    for (size_t i = 0; i < CHURN; i++) contender->free(blocks[i]);
    free(blocks);
}

static void run_large(const contender_t *contender, const workload_t *workload, size_t count, uint64_t seed) {
    (void)seed;
    for (size_t i = 0; i < count; i++) {
        volatile char *block = contender->allocate(workload->size);
        checked((void *)block);
        for (size_t at = 0; at < workload->size; at += 4096) block[at] = 1;
        contender->free((void *)block);
    }
}

/* Threads start together; the time is from the first start to the last end, each taken by the thread itself, since the
 * thread that waits for them may be late to see either. */
typedef struct {
    const contender_t *contender;
    const workload_t *workload;
    size_t count;
    uint64_t seed;
    pthread_barrier_t *ready;
    double start, end;
} task_t;

static void *run_task(void *argument) {
    task_t *task = argument;
    task->workload->run(task->contender, task->workload, task->count / 50 + 1, task->seed); /* warm */
    pthread_barrier_wait(task->ready);
    task->start = seconds_now();
    task->workload->run(task->contender, task->workload, task->count, task->seed);
    task->end = seconds_now();
    return NULL;
}

/* Nanoseconds of one allocation and its free, as each thread sees them. */
static double measure(const contender_t *contender, const workload_t *workload, size_t threads, size_t count,
                      bool warm) {
    if (threads == 1) {
        if (warm) workload->run(contender, workload, count / 50 + 1, 88172645463325252u);
        double start = seconds_now();
        workload->run(contender, workload, count, 88172645463325252u);
        return (seconds_now() - start) / (double)count * 1e9;
    }
    pthread_barrier_t ready;
    pthread_t handles[MOST_THREADS];
    task_t tasks[MOST_THREADS];
    pthread_barrier_init(&ready, NULL, (unsigned)threads);
    for (size_t i = 0; i < threads; i++) {
        tasks[i] = (task_t){contender, workload, count, 88172645463325252u + i * 977, &ready, 0, 0};
        if (pthread_create(&handles[i], NULL, run_task, &tasks[i])) exit(EXIT_FAILURE);
    }
    double first = 0, last = 0;
    for (size_t i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
        if (i == 0 || tasks[i].start < first) first = tasks[i].start;
        if (i == 0 || tasks[i].end > last) last = tasks[i].end;
    }
    pthread_barrier_destroy(&ready);
    return (last - first) / (double)count * 1e9;
}

/* All contenders in turn, round after round; targets of 0 are none. */
static void compare(const workload_t *workload, size_t threads, size_t count, size_t times, double target_glibc,
                    double target_mimalloc) {
    static double results[CONTENDERS][MOST_ROUNDS];
    char text[24];
    if (count == 0) { /* as many as take glibc about 4 ms */
        count = 1000;
        double time = measure(&contenders[GLIBC], workload, threads, count, true);
        count = (size_t)(4e6 / (time > 1 ? time : 1)) + 1;
    }
    for (size_t round = 0; round < times; round++)
        for (size_t c = 0; c < present; c++)
            results[c][round] = measure(&contenders[c], workload, threads, count, times > 5);
    printf("%-8s %8s %zu ", workload->name, workload->size ? size_text(workload->size, text) : "mixed", threads);
    for (size_t c = 0; c < CONTENDERS; c++) {
        double time = c < present ? median(results[c], times) : 0;
        if (c >= present)
            printf(" %11s", "-");
        else
            printf(" %11.*f", time < 1e5 ? 1 : 0, time);
        if (c < present && c >= GLIBC)
            report_add(&report, workload->name, workload->size, threads, contenders[c].name, time, "ns", "", 0, 0);
    }
    for (size_t c = POOL; c <= INTERFACE; c++)
        for (size_t reference = GLIBC; reference < CONTENDERS; reference++) {
            if (reference >= present) {
                printf(" %8s ", "-");
                continue;
            }
            double ratio = median_ratio(results[c], results[reference], times);
            char mark = report_add(&report, workload->name, workload->size, threads, contenders[c].name,
                                   median(results[c], times), "ns", contenders[reference].name, ratio,
                                   reference == GLIBC ? target_glibc : target_mimalloc);
            printf(" %8.2f%c", ratio, mark);
        }
    printf("\n");
    fflush(stdout);
}

static void print_head(void) {
    printf("%-8s %8s T  %11s %11s %11s %11s %18s  %18s\n%-8s %8s    %11s %11s %11s %11s  %8s %8s   %8s  %8s\n", "", "",
           "pool", "interface", "glibc", "mimalloc", "pool, of", "interface, of", "", "", "ns", "ns", "ns", "ns",
           "glibc", "mimalloc", "glibc", "mimalloc");
}

static void bench_traces(void) {
    replay_t *shared = shared_replay();
    glob_t found = {0};
    size_t count = built_traces(&found);
    char **paths = found.gl_pathv;
    if (count == 0) printf("SKIP traces: none in the build directory; `make bench` unpacks them\n");
    for (size_t i = 0; i < count; i++) {
        trace_t trace;
        double resident[SURFACES];
        if (!trace_read(paths[i], &trace)) exit(EXIT_FAILURE);
        for (size_t s = 0; s < SURFACES; s++) {
            if (!replay_in_child(&trace, &surfaces[s], false, shared, NULL)) {
                fprintf(stderr, "%s through the %s: %s\n", trace.name, surfaces[s].name, shared->failure);
                exit(EXIT_FAILURE);
            }
            resident[s] = (double)shared->peak_resident;
        }
        printf("%s: peak RSS", trace.name);
        for (size_t s = 0; s < SURFACES; s++) {
            double ratio = resident[s] / resident[SURFACE_MALLOC];
            char mark = report_add(&report, trace.name, 0, 1, surfaces[s].name, resident[s], "bytes", "glibc", ratio,
                                   s == SURFACE_INTERFACE ? 1.15 : 0);
            printf("%s %s %.1f MiB (%.2f%c)", s ? "," : "", surfaces[s].name, resident[s] / (1 << 20), ratio, mark);
        }
        printf("\n");
        munmap(trace.operations, trace.count * sizeof *trace.operations);
    }
    globfree(&found);
}

int main(int count, char **arguments) {
    bool quick = count == 2 && strcmp(arguments[1], "-q") == 0;
    char path[4000];
    if (count != 1 + quick) {
        fprintf(stderr, "usage: %s [-q]\n", arguments[0]);
        return EXIT_FAILURE;
    }
    if (quick) rounds = 5;
    report = report_open(built_path("bench.csv", path, sizeof path), "w");
    /* The traces first: their processes start from this one, which has allocated nothing yet. */
    bench_traces();
    if (!interface_open() || !pool_open()) {
        fprintf(stderr, "bench_heap: %s\n", unimem_last_error_message());
        return EXIT_FAILURE;
    }
    if (!open_mimalloc()) printf("SKIP mimalloc: libmimalloc.so.2 is not installed (Debian: libmimalloc2.0)\n");
    printf("\nMedians of %zu rounds; ratios are medians of the ratios within each round. T: threads.\n", rounds);
    print_head();
    for (size_t threads = 1; threads <= MOST_THREADS; threads++)
        for (size_t size = 64; size <= 65536; size *= 2)
            compare(&(workload_t){"pairs", run_pairs, size}, threads, 0, rounds, 0.7, 1.3);
    static const char *const orders[] = {"LIFO", "FIFO", "random"};
    static const size_t sizes[] = {64, 1024, 16384};
    for (size_t threads = 1; threads <= MOST_THREADS; threads++)
        for (size_t o = 0; o < 3; o++)
            for (size_t s = 0; s < 3; s++)
                compare(&(workload_t){orders[o], run_batches, sizes[s]}, threads, 0, rounds, 1.0, 0);
    for (size_t threads = 1; threads <= MOST_THREADS; threads++)
        compare(&(workload_t){"churn", run_churn, 0}, threads, 400000, 5, 1.0, 0);
    compare(&(workload_t){"large", run_large, (size_t)64 << 20}, 1, 6, quick ? 3 : 5, 1.0 / 3, 0);
    compare(&(workload_t){"large", run_large, (size_t)1 << 30}, 1, 3, 3, 1.0 / 3, 0);
    interface_close();
    pool_close();
    report_close(&report);
    return EXIT_SUCCESS;
}
