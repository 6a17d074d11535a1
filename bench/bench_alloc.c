/* The pool and the interface, with all checks and statistics, beside the allocators that are installed, in one process:
 * time, counts, and resident memory of many workloads. `make bench-alloc` runs all of it, `make bench` a short selection.
 *
 *   bench_alloc [--only NAME,...] [--threads N,...] [--rounds N] [--quick] [--all]
 *
 * Every round runs all contenders one after the other, each time another first. What is compared is the median, over the
 * rounds, of the ratio within a round. Resident memory is each contender's own, in a child process that has opened no
 * other. Without arguments the program runs a short selection; otherwise the figures go to build/bench-alloc.csv, too. */
#define _GNU_SOURCE
#include "alloc_report.h"
#include "counters.h"
#include "workloads.h"

#include "../demo/replay.h"

static char built[4000]; /* the build directory, with a slash at the end */
enum { MOST_TRACES = 2 };
static trace_t traces[MOST_TRACES];
static job_t jobs[MOST_THREADS];
static ring_t rings[MOST_THREADS / 2];
static size_t rounds = 15, thread_counts[MOST_THREADS] = {1, 2, 4}, thread_count_kinds = 3;
static const char *only = "";
static bool quick, brief;

typedef struct {
    const char *name;
    run_t *run;
    size_t size, most_threads; /* runs with more threads are left out */
    double of_glibc;           /* the target: share of glibc's time */
    bool in_brief, in_floor;
    bool in_pairs;             /* needs an even number of threads */
    size_t trace;              /* which trace, from 1 on; 0: none */
} workload_t;

static const workload_t workloads[] = {
    {"pairs", pairs, 64, 8, 0.7, .in_brief = true, .in_floor = true},
    {"pairs", pairs, 1 << 10, 8, 0.7, .in_brief = true, .in_floor = true},
    {"pairs", pairs, 4 << 10, 8, 0.7, .in_brief = true, .in_floor = true},
    {"pairs", pairs, 64 << 10, 8, 0.7, .in_brief = true, .in_floor = true},
    {"LIFO", last_first, 64, 8, 1.0, .in_brief = true, .in_floor = true},
    {"LIFO", last_first, 1 << 10, 8, 1.0, .in_floor = true},
    {"LIFO", last_first, 16 << 10, 8, 1.0, .in_floor = true},
    {"FIFO", first_first, 64, 8, 1.0, .in_brief = true, .in_floor = true},
    {"FIFO", first_first, 1 << 10, 8, 1.0, .in_floor = true},
    {"FIFO", first_first, 16 << 10, 8, 1.0, .in_floor = true},
    {"random", at_random, 64, 8, 1.0, .in_brief = true, .in_floor = true},
    {"random", at_random, 1 << 10, 8, 1.0, .in_floor = true},
    {"random", at_random, 16 << 10, 8, 1.0, .in_floor = true},
    {"churn", churn, 0, 8, 1.0, .in_brief = true},
    {"pass", pass, 0, 8, 1.1, .in_brief = true, .in_pairs = true},
    {"threads", threads, 0, 8, 1.1, .in_brief = true},
    {"aligned", aligned, 64, 8, 1.1, .in_brief = true},
    {"aligned", aligned, 4 << 10, 8, 1.1, .in_brief = false},
    {"realloc", growth, 256 << 10, 8, 1.1, .in_brief = true},
    {"large", large, 1 << 20, 8, 1.1, .in_brief = false},
    {"large", large, 16 << 20, 2, 1.1, .in_brief = false},
    {"large", large, 64 << 20, 1, 1.0 / 3, .in_brief = true},
    {"large", large, (size_t)1 << 30, 1, 1.0 / 3, .in_brief = true},
    {"trace", trace, 0, 2, 1.1, .in_brief = true, .trace = 1},
    {"trace", trace, 0, 2, 1.1, .in_brief = true, .trace = 2},
};

typedef struct {
    const contender_t *contender;
    const workload_t *workload;
    job_t *job;
    size_t warm; /* operations before the run */
    pthread_barrier_t *ready, *go;
    double start, end;
} task_t;

static void run(const contender_t *contender, const workload_t *workload, job_t *job, size_t count) {
    job->size = workload->size;
    job->count = count;
    job->trace = workload->trace ? &traces[workload->trace - 1] : NULL;
    job->seed = 88172645463325252u + job->index * 977;
    workload->run(contender, job);
}

static void *run_task(void *argument) {
    task_t *task = argument;
    size_t count = task->job->count;
    if (task->warm) run(task->contender, task->workload, task->job, task->warm);
    pthread_barrier_wait(task->ready);
    pthread_barrier_wait(task->go);
    task->start = seconds_now();
    run(task->contender, task->workload, task->job, count);
    task->end = seconds_now();
    return NULL;
}

/* Measures a run on `threads` threads: nanoseconds of an operation as each thread sees it, and counts of an operation.
 * The time of one thread is processor time. The time of several is that of the wall clock, because waiting for each other
 * counts: from the first start to the last end, each taken by the thread itself. */
static sample_t measure(const contender_t *contender, const workload_t *workload, size_t threads, size_t count,
                        size_t warm) {
    sample_t sample;
    double before[COUNTERS], after[COUNTERS], start, seconds;
    size_t at_work = threads; /* each does `count` operations */
    if (threads == 1) {
        if (warm) run(contender, workload, &jobs[0], warm);
        counters_read(before);
        start = processor_seconds();
        run(contender, workload, &jobs[0], count);
        seconds = processor_seconds() - start;
    } else {
        pthread_barrier_t ready, go;
        pthread_t handles[MOST_THREADS];
        task_t tasks[MOST_THREADS];
        pthread_barrier_init(&ready, NULL, (unsigned)threads + 1);
        pthread_barrier_init(&go, NULL, (unsigned)threads + 1);
        for (size_t i = 0; i < threads; i++) {
            jobs[i].count = count;
            tasks[i] = (task_t){contender, workload, &jobs[i], warm, &ready, &go, 0, 0};
            if (pthread_create(&handles[i], NULL, run_task, &tasks[i])) failed("a thread cannot be started");
        }
        pthread_barrier_wait(&ready);
        counters_read(before);
        pthread_barrier_wait(&go);
        double end = start = 0;
        for (size_t i = 0; i < threads; i++) {
            pthread_join(handles[i], NULL);
            if (i == 0 || tasks[i].start < start) start = tasks[i].start;
            if (i == 0 || tasks[i].end > end) end = tasks[i].end;
        }
        seconds = end - start;
        pthread_barrier_destroy(&ready);
        pthread_barrier_destroy(&go);
        if (workload->in_pairs) at_work = threads / 2;
    }
    counters_read(after);
    sample.ns = seconds * 1e9 / (double)count;
    for (size_t i = 0; i < COUNTERS; i++) sample.counts[i] = (after[i] - before[i]) / (double)(count * at_work);
    return sample;
}

/* Whether the contender can run the workload at all. */
static bool able(size_t which, const workload_t *workload) {
    if (which == FLOOR) return workload->in_floor;
    return which != POOL || workload->run != aligned || workload->size <= QG_POOL_ALIGNMENT;
}

/* Operations of a run in the child whose memory is watched. Their number is always the same. */
static size_t operations_for_memory(const workload_t *workload) {
    if (workload->trace) return traces[workload->trace - 1].count;
    if (workload->run == churn) return 100000;
    if (workload->run == pass) return 50000;
    if (workload->run == threads) return 50;
    return workload->run == growth ? 5 : workload->run == large ? 1 : 2000;
}

/* Operations of a run that is timed: as many as take glibc about 5 ms. Workloads that need many to settle have the same
 * number as above. */
static size_t operations_for_time(const workload_t *workload, size_t with) {
    size_t count = operations_for_memory(workload);
    if (workload->trace || workload->run == churn || workload->run == pass) return count;
    if (workload->size >= 64 << 20) return workload->size > 64 << 20 ? 2 : 4;
    double ns = measure(&contenders[GLIBC], workload, with, count, count).ns;
    return (size_t)((quick ? 2e6 : 5e6) / (ns > 1 ? ns : 1)) + 1;
}

/* Whether a contender can be opened. This is tried in a child, so that this process stays as it is. */
static bool found(size_t which) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        const char *problem = "";
        bool good = contender_open(which, built, &problem);
        if (!good)
            printf("SKIP %s: %s%s%s%s\n", contenders[which].name, problem, contenders[which].package ? " (" : "",
                   contenders[which].package ? contenders[which].package : "", contenders[which].package ? ")" : "");
        fflush(stdout);
        _exit(good ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) failed("a child process failed");
    return WEXITSTATUS(status) == EXIT_SUCCESS;
}

/* Resident memory in a child that has opened this contender only: the peak, and what is left after everything was freed
 * and trimmed. */
static memory_t resident(size_t which, const workload_t *workload, size_t threads, size_t count) {
    static memory_t *shared;
    if (!shared) shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *shared = (memory_t){NAN, NAN};
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        const char *problem = "";
        if (!contender_open(which, built, &problem)) _exit(EXIT_FAILURE);
        forget_peak_resident();
        double idle = (double)status_bytes("VmRSS:");
        measure(&contenders[which], workload, threads, count, 0);
        shared->peak = fmax((double)status_bytes("VmHWM:") - idle, 0);
        contenders[which].trim();
        shared->final = fmax((double)status_bytes("VmRSS:") - idle, 0);
        _exit(EXIT_SUCCESS);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) failed("a child process failed");
    return *shared;
}

/* Whether a comma-separated list has `name`. An empty list has all names. */
static bool listed(const char *list, const char *name) {
    size_t length = strlen(name);
    if (!*list) return true;
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == 0)) return true;
    return false;
}

static bool chosen(const workload_t *workload, size_t with) {
    return with <= workload->most_threads && (!workload->in_pairs || with % 2 == 0) &&
           (!workload->trace || traces[workload->trace - 1].count) && (!brief || workload->in_brief) &&
           listed(only, workload->name);
}

static void time_line(line_t *line, const workload_t *workload) {
    static sample_t samples[CONTENDERS][MOST_ROUNDS];
    size_t count = operations_for_time(workload, line->threads), times = rounds;
    /* One thread is the program's first, which is warm from the rounds before. Several threads are new in every round.
     * They run to a steady state first, because starting is a workload of its own. */
    size_t warm = line->threads == 1 ? count / 10 + 1 : count;
    if (workload->trace) times = (rounds + 2) / 3;
    if (workload->size >= 64 << 20) times = (rounds + 4) / 5;
    for (size_t round = 0; round < times; round++)
        for (size_t i = 0; i < CONTENDERS; i++) {
            size_t c = (round + i) % CONTENDERS;
            if (line->measured[c])
                samples[c][round] = measure(&contenders[c], workload, line->threads, count, warm);
        }
    line_settle(line, samples, times);
}

/* Touches memory once. A virtual machine's memory is made when it is first touched, at the expense of the contender that
 * comes first. */
static void touch_memory(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    touch_pages(memory, bytes);
    munmap(memory, bytes);
}

static void read_traces(void) {
    glob_t found = {0};
    size_t count = built_traces(&found);
    if (count == 0) printf("SKIP traces: none in the build directory; `make bench` unpacks them\n");
    for (size_t i = 0; i < count && i < MOST_TRACES; i++) {
        if (!trace_read(found.gl_pathv[i], &traces[i])) exit(EXIT_FAILURE);
        if (traces[i].slots * 16 > SCRATCH) failed("a trace has too many slots");
        size_t length = strcspn(traces[i].name, ".");
        char *name = malloc(length + 1);
        if (!name) failed("no memory");
        memcpy(name, traces[i].name, length);
        name[length] = 0;
        traces[i].name = name;
    }
    globfree(&found);
}

/* Starts the program again with more room for thread-local memory. jemalloc needs more than glibc keeps for libraries
 * that are opened late, and glibc has to be told before the program starts. */
static void make_room_for_libraries(char **arguments) {
    if (getenv("GLIBC_TUNABLES")) return;
    setenv("GLIBC_TUNABLES", "glibc.rtld.optional_static_tls=16384", 1);
    execv("/proc/self/exe", arguments);
}

static bool read_arguments(int count, char **arguments) {
    if (count == 1) {
        brief = true;
        rounds = 7;
        thread_count_kinds = 2;
    }
    for (int i = 1; i < count; i++) {
        const char *argument = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;
        if (strcmp(argument, "--quick") == 0) {
            quick = true;
            rounds = 5;
        } else if (strcmp(argument, "--all") == 0) {
        } else if (strcmp(argument, "--only") == 0 && value) {
            only = value;
            i++;
        } else if (strcmp(argument, "--rounds") == 0 && value) {
            rounds = strtoul(value, NULL, 10);
            if (rounds == 0 || rounds > MOST_ROUNDS) return false;
            i++;
        } else if (strcmp(argument, "--threads") == 0 && value) {
            thread_count_kinds = 0;
            char *end = arguments[++i];
            do {
                size_t with = strtoul(end, &end, 10);
                if (with == 0 || with > MOST_THREADS || thread_count_kinds == MOST_THREADS) return false;
                thread_counts[thread_count_kinds++] = with;
            } while (*end++ == ',');
            if (end[-1]) return false;
        } else {
            return false;
        }
    }
    return true;
}

int main(int count, char **arguments) {
    if (!read_arguments(count, arguments)) {
        fprintf(stderr, "usage: %s [--only NAME,...] [--threads N,...] [--rounds N] [--quick] [--all]\n", arguments[0]);
        return EXIT_FAILURE;
    }
    make_room_for_libraries(arguments);
    built_path("", built, sizeof built);
    read_traces();
    for (size_t i = 0; i < MOST_THREADS; i++) {
        jobs[i] = (job_t){.index = i, .scratch = trace_memory(SCRATCH), .ring = &rings[i / 2]};
        memset(jobs[i].scratch, 1, SCRATCH);
    }

    /* Memory is measured first: the children start from this process, which has opened no allocator yet. */
    bool there[CONTENDERS];
    for (size_t c = 0; c < CONTENDERS; c++) there[c] = found(c);
    const workload_t *of_line[MOST_LINES];
    for (size_t t = 0; t < thread_count_kinds; t++)
        for (const workload_t *workload = workloads; workload < workloads + sizeof workloads / sizeof *workloads;
             workload++) {
            if (!chosen(workload, thread_counts[t])) continue;
            if (line_count == MOST_LINES) failed("too many lines");
            line_t *line = &lines[line_count];
            of_line[line_count++] = workload;
            *line = (line_t){.size = workload->size,
                             .threads = thread_counts[t],
                             .of_glibc = workload->of_glibc,
                             .trace = workload->trace != 0};
            snprintf(line->name, sizeof line->name, "%s",
                     workload->trace ? traces[workload->trace - 1].name : workload->name);
            for (size_t c = 0; c < CONTENDERS; c++) {
                line->measured[c] = there[c] && able(c, workload);
                line->memory[c] = (memory_t){NAN, NAN};
                if (line->measured[c] && c != FLOOR)
                    line->memory[c] = resident(c, workload, thread_counts[t], operations_for_memory(workload));
            }
        }

    counters_open();
    for (size_t c = 0; c < CONTENDERS; c++) {
        const char *problem = "";
        if (there[c] && !contender_open(c, built, &problem)) {
            fprintf(stderr, "bench_alloc: %s: %s\n", contenders[c].name, problem);
            return EXIT_FAILURE;
        }
    }
    touch_memory((size_t)3 << 30);
    print_head();
    for (size_t i = 0; i < line_count; i++) {
        time_line(&lines[i], of_line[i]);
        print_line(&lines[i]);
    }
    print_counts();
    print_memory();
    print_summary();
    if (!brief) {
        char path[4200];
        snprintf(path, sizeof path, "%sbench-alloc.csv", built);
        if (!write_csv(path)) {
            perror(path);
            return EXIT_FAILURE;
        }
    }
    interface_close();
    pool_close();
    return EXIT_SUCCESS;
}
