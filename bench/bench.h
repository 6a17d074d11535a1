/* Paired measurements: every round runs all contenders one after the other. What counts is the median, over the
 * rounds, of the ratio within a round, because noise of the machine then falls on both sides of a ratio. */
#ifndef UNIMEM_BENCH_H
#define UNIMEM_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../demo/measure.h"

enum { MOST_ROUNDS = 101, MOST_CONTENDERS = 8 };

static inline int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median. It sorts a copy, because the caller pairs values by their order. */
static inline double median(const double *values, size_t count) {
    double sorted[MOST_ROUNDS];
    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *sorted, by_value);
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

static inline double median_ratio(const double *values, const double *reference, size_t count) {
    double ratios[MOST_ROUNDS];
    for (size_t i = 0; i < count; i++) ratios[i] = values[i] / reference[i];
    return median(ratios, count);
}

/* Writes a line of a CSV file for each figure, and counts the targets. */
typedef struct {
    FILE *csv;
    size_t targets, met;
} report_t;

/* Opens the report. `name` is the file's, in the build directory. */
static inline report_t report_open(const char *name) {
    char path[4000];
    report_t report = {.csv = fopen(built_path(name, path, sizeof path), "w")};
    if (!report.csv) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    fprintf(report.csv, "workload,size,threads,surface,value,unit,reference,ratio,target,met\n");
    return report;
}

/* Adds a figure; a target of 0 means none. Returns what to print after the ratio: blank without a target, '+' met,
 * '-' not met. */
static inline char report_add(report_t *report, const char *workload, size_t size, size_t threads, const char *surface,
                              double value, const char *unit, const char *reference, double ratio, double target) {
    bool met = ratio <= target;
    fprintf(report->csv, "%s,%zu,%zu,%s,%.3f,%s,%s,%.3f,%.3f,%s\n", workload, size, threads, surface, value, unit,
            reference, ratio, target,
            target == 0 ? ""
            : met       ? "yes"
                        : "no");
    if (target == 0) return ' ';
    report->targets++;
    report->met += met;
    return met ? '+' : '-';
}

static inline void report_close(report_t *report) {
    printf("\n%zu of %zu targets met (+ met, - not met)\n", report->met, report->targets);
    fclose(report->csv);
}

static inline const char *size_text(size_t size, char text[24]) {
    if (size >= (size_t)1 << 30)
        snprintf(text, 24, "%zu GiB", size >> 30);
    else if (size >= 1 << 20)
        snprintf(text, 24, "%zu MiB", size >> 20);
    else if (size >= 1 << 10)
        snprintf(text, 24, "%zu KiB", size >> 10);
    else
        snprintf(text, 24, "%zu B", size);
    return text;
}

#endif
