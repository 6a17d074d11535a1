/* Replays allocation traces of real programs through the surfaces of libunimem and through the C library's malloc, and
 * shows what each of them costs in time and memory.
 *
 *   trace_replay [-r ROUNDS] [TRACE...]      TRACE: gunzipped, as demo/traces/README.md says;
 *                                            without any, those of the build directory
 *
 * Each replay runs in a process of its own, so that its peak of resident memory is its own. The time is the median of
 * ROUNDS replays (default 5), which do what the program did and touch each page. Contents are checked in another
 * replay, which writes every byte of every block and reads it again. Ends with 1 if a block, a count or a replay was
 * wrong. */
#define _GNU_SOURCE
#include "replay.h"

enum { MOST_ROUNDS = 99 };

static const trace_t *watched_trace;
static const surface_t *watched_surface;

static void draw_bar(size_t done, size_t all, const char *what) {
    enum { WIDTH = 30 };
    char bar[WIDTH + 1] = "";
    size_t filled = all ? done * WIDTH / all : WIDTH;
    for (size_t i = 0; i < WIDTH; i++) bar[i] = i < filled ? '#' : '.';
    fprintf(stderr, "\r  %-16s %-9s [%s] %3zu %%", watched_surface->name, what, bar, all ? done * 100 / all : 100);
    fflush(stderr);
}

static void watch(const replay_t *result) { draw_bar(result->progress, watched_trace->count, "contents"); }

static void clear_bar(void) { fprintf(stderr, "\r%70s\r", ""); }

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, by_value);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static double mebibytes(size_t bytes) { return (double)bytes / (1 << 20); }

static bool replay_trace(const trace_t *trace, size_t rounds, replay_t *shared) {
    static double seconds[SURFACES][MOST_ROUNDS];
    replay_t results[SURFACES];
    bool terminal = isatty(STDERR_FILENO), good = true;
    printf("\n%s: %zu operations, %.1f MiB live at the peak, %zu blocks live at the end\n", trace->name, trace->count,
           mebibytes(trace->peak_live), trace->live_at_end);
    watched_trace = trace;
    for (size_t s = 0; s < SURFACES; s++) {
        watched_surface = &surfaces[s];
        bool held = replay_in_child(trace, &surfaces[s], false, shared, terminal ? watch : NULL);
        results[s] = *shared;
        if (terminal) clear_bar();
        printf("  %-16s contents of every block %s%s\n", surfaces[s].name,
               held ? "checked" : "WRONG: ", held ? "" : shared->failure);
        good &= held;
    }
    for (size_t round = 0; round < rounds && good; round++) /* in turn, so that noise affects all alike */
        for (size_t s = 0; s < SURFACES; s++) {
            watched_surface = &surfaces[s];
            if (terminal) draw_bar(round * SURFACES + s, rounds * SURFACES, "time");
            bool held = replay_in_child(trace, &surfaces[s], true, shared, NULL);
            if (!held) printf("  %-16s replay for the time WRONG: %s\n", surfaces[s].name, shared->failure);
            seconds[s][round] = shared->seconds;
            good &= held;
        }
    if (terminal) clear_bar();
    if (!good) return false;
    printf("  %-16s %10s %9s %10s %9s %9s %10s %9s %7s %6s\n", "", "operations", "ns/op", "of glibc", "live MiB",
           "RSS MiB", "of glibc", "fragm. %", "hits %", "leaks");
    double of_malloc = 0;
    for (size_t s = 0; s < SURFACES; s++) {
        const replay_t *result = &results[s];
        double time = median(seconds[s], rounds) / (double)trace->count * 1e9;
        size_t asked = result->cache_hits + result->cache_misses;
        if (s == SURFACE_MALLOC) of_malloc = time;
        printf("  %-16s %10zu %9.1f %10.2f %9.1f %9.1f %10.2f %9zu ", surfaces[s].name, trace->count, time,
               time / of_malloc, mebibytes(result->peak_live), mebibytes(result->peak_resident),
               (double)result->peak_resident / (double)results[SURFACE_MALLOC].peak_resident, result->fragmentation);
        if (surfaces[s].interface)
            printf("%7.1f %6zu\n", asked ? 100.0 * (double)result->cache_hits / (double)asked : 0.0, result->leaks);
        else
            printf("%7s %6s\n", "-", "-");
    }
    return true;
}

int main(int count, char **arguments) {
    size_t rounds = 5;
    int option;
    while ((option = getopt(count, arguments, "r:")) != -1) {
        if (option == 'r') rounds = strtoul(optarg, NULL, 10);
        if (option != 'r' || rounds < 1 || rounds > MOST_ROUNDS) {
            fprintf(stderr, "usage: %s [-r ROUNDS (1 to %d)] [TRACE...]\n", arguments[0], MOST_ROUNDS);
            return EXIT_FAILURE;
        }
    }
    glob_t found = {0};
    size_t traces = (size_t)(count - optind);
    char **paths = arguments + optind;
    if (traces == 0) traces = built_traces(&found), paths = found.gl_pathv;
    replay_t *shared = shared_replay();
    bool good = traces > 0;
    if (!good) fprintf(stderr, "%s: no traces; `make demo` unpacks those of demo/traces\n", arguments[0]);
    printf("libunimem %s\n", unimem_version());
    for (size_t i = 0; i < traces; i++) {
        trace_t trace;
        if (!trace_read(paths[i], &trace)) {
            good = false;
            continue;
        }
        good &= replay_trace(&trace, rounds, shared);
        munmap(trace.operations, trace.count * sizeof *trace.operations);
    }
    globfree(&found);
    printf(
        "\nns/op: processor time, median of %zu replays that touch each page of every block.\n"
        "RSS: peak above the idle process, every byte written. fragm.: (held - live) / held at the peak.\n"
        "The memory pool aligns to 64 and keeps a header of 128 bytes before each block; the advanced system zeroes.\n",
        rounds);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
