/* Reports what bench_alloc has measured: a table of times and ratios, one of resident memory, how the targets stand,
 * and a CSV file, from which tools/bench draws a chart. */
#ifndef UNIMEM_BENCH_ALLOC_REPORT_H
#define UNIMEM_BENCH_ALLOC_REPORT_H

#include "bench.h"
#include "contenders.h"
#include "counters.h"

enum { MOST_LINES = 128, SURFACES_MEASURED = 2 /* POOL and INTERFACE */ };

/* Figures of one operation. */
typedef struct {
    double ns, counts[COUNTERS];
} sample_t;

/* Resident bytes above those that the process had when it had only opened the allocator. */
typedef struct {
    double peak, final;
} memory_t;

typedef struct {
    char name[40];
    size_t size, threads;
    double of_glibc; /* the target: share of glibc's time */
    bool measured[CONTENDERS], trace;
    sample_t median[CONTENDERS];
    double ratio[SURFACES_MEASURED][CONTENDERS]; /* medians of the ratios within a round */
    memory_t memory[CONTENDERS];
} line_t;

static line_t lines[MOST_LINES];
static size_t line_count;

/* Sets medians and ratios of a line from the samples of its rounds. */
static void line_settle(line_t *line, sample_t (*samples)[MOST_ROUNDS], size_t rounds) {
    double values[CONTENDERS][MOST_ROUNDS];
    for (size_t c = 0; c < CONTENDERS; c++) {
        for (size_t round = 0; round < rounds; round++) values[c][round] = samples[c][round].ns;
        line->median[c].ns = median(values[c], rounds);
        for (size_t i = 0; i < COUNTERS; i++) {
            double counts[MOST_ROUNDS];
            for (size_t round = 0; round < rounds; round++) counts[round] = samples[c][round].counts[i];
            line->median[c].counts[i] = median(counts, rounds);
        }
    }
    for (size_t s = 0; s < SURFACES_MEASURED; s++)
        for (size_t c = 0; c < CONTENDERS; c++)
            line->ratio[s][c] = line->measured[s] && line->measured[c] ? median_ratio(values[s], values[c], rounds) : NAN;
}

static void label(const line_t *line) {
    char text[24];
    printf("%-16.16s %7s %zu", line->name, line->size ? size_text(line->size, text) : "", line->threads);
}

static size_t targets, targets_met;

/* Counts a target. Returns '+' if it is met, '-' if not, and ' ' without a figure. */
static char mark(double value, double target) {
    if (isnan(value)) return ' ';
    targets++;
    targets_met += value <= target;
    return value <= target ? '+' : '-';
}

static void print_ratio(double ratio, double target) {
    if (isnan(ratio))
        printf(" %7s", "");
    else
        printf(" %6.2f%c", ratio, mark(ratio, target));
}

static void print_head(void) {
    printf("\nns of an operation, medians; of mimalloc (target 1.3), of glibc (0.7 pairs, 1/3 from 64 MiB on, else 1.1 or\n"
           "1.0), of jemalloc (1.1): medians of the ratios within a round.\n%-26s", "");
    for (size_t c = 0; c < CONTENDERS; c++) printf(" %9s", contenders[c].name);
    printf("  pool of: mi, gl, je      interface of: mi, gl, je\n");
}

static void print_line(const line_t *line) {
    label(line);
    for (size_t c = 0; c < CONTENDERS; c++) {
        double ns = line->median[c].ns;
        if (line->measured[c])
            printf(" %9.*f", ns < 1000 ? 1 : 0, ns);
        else
            printf(" %9s", "-");
    }
    for (size_t s = 0; s < SURFACES_MEASURED; s++) {
        print_ratio(line->ratio[s][MIMALLOC], 1.3);
        print_ratio(line->ratio[s][GLIBC], line->of_glibc);
        print_ratio(line->ratio[s][JEMALLOC], 1.1);
    }
    printf("\n");
    fflush(stdout);
}

static void print_counts(void) {
    for (size_t i = 0; i < COUNTERS; i++) {
        if (counter_files[i] < 0) continue;
        printf("\n%s of an operation, medians\n%-26s", counter_kinds[i].name, "");
        for (size_t c = 0; c < CONTENDERS; c++) printf(" %9s", contenders[c].name);
        printf("\n");
        for (const line_t *line = lines; line < lines + line_count; line++) {
            label(line);
            for (size_t c = 0; c < CONTENDERS; c++)
                if (line->measured[c])
                    printf(" %9.3g", line->median[c].counts[i]);
                else
                    printf(" %9s", "-");
            printf("\n");
        }
    }
}

static void print_memory(void) {
    printf("\nResident MiB above start: at the peak / after freeing everything and a trim (target: 2; of the interface's\n"
           "peak in the traces: mimalloc's, and 1.1 of glibc's; each block of the pool has a header of 128 bytes)\n%-26s", "");
    for (size_t c = 0; c < FLOOR; c++) printf(" %13s", contenders[c].name);
    printf("\n");
    for (const line_t *line = lines; line < lines + line_count; line++) {
        label(line);
        for (size_t c = 0; c < FLOOR; c++) {
            const memory_t *memory = &line->memory[c];
            if (!line->measured[c]) {
                printf(" %13s", "-");
                continue;
            }
            printf(" %6.1f", memory->peak / (1 << 20));
            if (c == INTERFACE && line->trace)
                printf("%c", mark(memory->peak, fmin(line->measured[MIMALLOC] ? line->memory[MIMALLOC].peak : INFINITY,
                                                     1.1 * line->memory[GLIBC].peak)));
            else
                printf(" ");
            printf("/%4.1f", memory->final / (1 << 20));
            printf("%c", c < SURFACES_MEASURED ? mark(memory->final, 2 << 20) : ' ');
        }
        printf("\n");
    }
}

/* The geometric mean of the ratios of all lines where both were measured; NAN if there is none. */
static double geometric_mean(size_t surface, size_t reference, size_t *count) {
    double sum = 0;
    *count = 0;
    for (const line_t *line = lines; line < lines + line_count; line++) {
        if (isnan(line->ratio[surface][reference])) continue;
        sum += log(line->ratio[surface][reference]);
        ++*count;
    }
    return *count ? exp(sum / (double)*count) : NAN;
}

/* Prints the throughput of two threads, relative to that of one. */
static void print_scaling(size_t surface, const char *name) {
    for (const line_t *one = lines; one < lines + line_count; one++)
        for (const line_t *two = lines; two < lines + line_count; two++) {
            if (one->threads != 1 || two->threads != 2 || strcmp(one->name, name) || strcmp(two->name, name) ||
                one->size != two->size)
                continue;
            double gain = 2 * one->median[surface].ns / two->median[surface].ns;
            char text[24];
            printf("  %s %s %.2f%c", name, one->size ? size_text(one->size, text) : "", gain, mark(-gain, -1.9));
        }
}

static void print_summary(void) {
    static const struct {
        size_t reference;
        double target;
    } means[] = {{MIMALLOC, 1.0}, {MIMALLOC_SECURE, 0.8}, {GLIBC, 0}, {JEMALLOC, 0}, {TCMALLOC, 0}, {FLOOR, 0}};
    printf("\nGeometric means of the ratios over all lines above\n");
    for (size_t s = 0; s < SURFACES_MEASURED; s++) {
        printf("%-10s", contenders[s].name);
        for (size_t i = 0; i < sizeof means / sizeof means[0]; i++) {
            size_t count;
            double mean = geometric_mean(s, means[i].reference, &count);
            if (count == 0) continue;
            printf("  of %s %.2f", contenders[means[i].reference].name, mean);
            if (means[i].target > 0) printf("%c (target %.1f)", mark(mean, means[i].target), means[i].target);
        }
        printf("\n");
    }
    printf("Throughput of 2 threads in that of 1 (target 1.9)\n");
    for (size_t s = 0; s < SURFACES_MEASURED; s++) {
        printf("%-10s", contenders[s].name);
        print_scaling(s, "pairs");
        print_scaling(s, "churn");
        printf("\n");
    }
    printf("\n%zu of %zu targets met (+ met, - not met)\n", targets_met, targets);
}

static void put_figure(FILE *csv, double value) {
    if (isnan(value))
        fprintf(csv, ",");
    else
        fprintf(csv, ",%.6g", value);
}

/* Writes a row for each line and contender. A figure that was not measured is empty. */
static bool write_csv(const char *path) {
    FILE *csv = fopen(path, "w");
    if (!csv) return false;
    fprintf(csv, "workload,size,threads,contender,ns,instructions,cache_misses,page_faults,peak_bytes,final_bytes,"
                 "pool_ratio,interface_ratio\n");
    for (const line_t *line = lines; line < lines + line_count; line++)
        for (size_t c = 0; c < CONTENDERS; c++) {
            if (!line->measured[c]) continue;
            fprintf(csv, "%s,%zu,%zu,%s", line->name, line->size, line->threads, contenders[c].name);
            put_figure(csv, line->median[c].ns);
            for (size_t i = 0; i < COUNTERS; i++) put_figure(csv, line->median[c].counts[i]);
            put_figure(csv, line->memory[c].peak);
            put_figure(csv, line->memory[c].final);
            for (size_t s = 0; s < SURFACES_MEASURED; s++) put_figure(csv, line->ratio[s][c]);
            fprintf(csv, "\n");
        }
    bool good = !ferror(csv);
    return fclose(csv) == 0 && good;
}

#endif
