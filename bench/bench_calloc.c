/* calloc and free of 1 KiB, 1 MiB and 64 MiB, whose pages are left alone or touched one by one, in one process: libunimem
 * as the program's malloc, glibc, and mimalloc if it is installed. Each round runs all of them in turn. Figures are medians
 * over the rounds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CONTENDERS = 3, ROUNDS = 9 };

typedef struct {
    const char *name, *library;
    void *(*calloc)(size_t count, size_t size);
    void (*free)(void *block);
} contender_t;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static double nanoseconds(const contender_t *contender, size_t size, size_t count, bool touch) {
    double start = now();
    for (size_t i = 0; i < count; i++) {
        volatile char *block = contender->calloc(1, size);
        if (!block) exit(EXIT_FAILURE);
        for (size_t at = 0; touch && at < size; at += 4096) {
            if (block[at]) exit(EXIT_FAILURE);
            block[at] = 1;
        }
        contender->free((void *)block);
    }
    return (now() - start) / (double)count;
}

static bool opened(contender_t *contender) {
    if (!contender->library) return true;
    void *library = dlopen(contender->library, RTLD_NOW | RTLD_LOCAL);
    const char *prefix = strstr(contender->library, "mimalloc") ? "mi_" : "";
    char name[32];
    void *found;
    if (!library) return printf("SKIP %s: %s\n", contender->name, dlerror()), false;
    snprintf(name, sizeof name, "%scalloc", prefix);
    memcpy(&contender->calloc, (found = dlsym(library, name), &found), sizeof found);
    snprintf(name, sizeof name, "%sfree", prefix);
    memcpy(&contender->free, (found = dlsym(library, name), &found), sizeof found);
    return contender->calloc && contender->free;
}

static int ascending(const void *a, const void *b) {
    double first = *(const double *)a, second = *(const double *)b;
    return (first > second) - (first < second);
}

int main(int count, char **arguments) {
    if (count != 1) return EXIT_FAILURE;
    char ours[4200];
    const char *slash = strrchr(arguments[0], '/');
    snprintf(ours, sizeof ours, "%.*s/../libunimem-malloc.so", slash ? (int)(slash - arguments[0]) : 1,
             slash ? arguments[0] : ".");
    contender_t contenders[CONTENDERS] = {
        {"unimem", ours, NULL, NULL}, {"glibc", NULL, calloc, free}, {"mimalloc", "libmimalloc.so.2", NULL, NULL}};
    bool there[CONTENDERS];
    printf("calloc and free, ns a pair   ");
    for (size_t c = 0; c < CONTENDERS; c++)
        if ((there[c] = opened(&contenders[c]))) printf("%12s", contenders[c].name);
    printf("\n");
    const size_t sizes[] = {(size_t)1 << 10, (size_t)1 << 20, (size_t)64 << 20}, pairs[] = {200000, 200, 4};
    for (size_t s = 0; s < 3; s++)
        for (int touch = 0; touch < 2; touch++) {
            double samples[CONTENDERS][ROUNDS];
            for (size_t round = 0; round < ROUNDS; round++)
                for (size_t i = 0; i < CONTENDERS; i++) {
                    size_t c = (i + round) % CONTENDERS;
                    if (there[c]) samples[c][round] = nanoseconds(&contenders[c], sizes[s], pairs[s], touch);
                }
            printf("%8zu KiB, %-16s", sizes[s] >> 10, touch ? "touched" : "left alone");
            for (size_t c = 0; c < CONTENDERS; c++) {
                if (!there[c]) continue;
                qsort(samples[c], ROUNDS, sizeof(double), ascending);
                printf("%12.0f", samples[c][ROUNDS / 2]);
            }
            printf("\n");
        }
    return EXIT_SUCCESS;
}
