/* Reads a gunzipped allocation trace (format: demo/traces/README.md), and checks it before anybody relies on it. */
#ifndef UNIMEM_DEMO_TRACE_H
#define UNIMEM_DEMO_TRACE_H

#include <glob.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "measure.h"

enum { TRACE_ALLOCATE, TRACE_FREE, TRACE_REALLOC };

typedef struct {
    uint8_t kind, thread, alignment_log2, zero;
    uint32_t slot, size;
} trace_operation_t;

_Static_assert(sizeof(trace_operation_t) == 12, "an operation is 12 bytes in the file");

typedef struct {
    const char *name; /* the file's name, without its directory */
    trace_operation_t *operations;
    size_t count, slots;
    size_t peak_live;    /* most bytes live at once */
    size_t largest;      /* largest block, bytes */
    size_t live_at_end;  /* blocks that the traced program never freed */
    size_t bytes_at_end; /* and their size */
} trace_t;

/* Anonymous memory, so that reading a trace leaves the C allocator as it was. Ends the program on failure. */
static inline void *trace_memory(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(EXIT_FAILURE);
    }
    return memory;
}

/* Follows every operation. Returns false if the trace contradicts itself or its header. */
static inline bool trace_check(trace_t *trace) {
    uint32_t *sizes = trace_memory(trace->slots * sizeof *sizes);
    bool *live = trace_memory(trace->slots), good = true;
    size_t bytes = 0, peak = 0;
    for (size_t i = 0; i < trace->count && good; i++) {
        const trace_operation_t *operation = &trace->operations[i];
        uint32_t slot = operation->slot;
        if (slot >= trace->slots || operation->kind > TRACE_REALLOC || operation->alignment_log2 > 30 ||
            live[slot] == (operation->kind == TRACE_ALLOCATE)) {
            good = false;
            break;
        }
        bytes -= live[slot] ? sizes[slot] : 0;
        live[slot] = operation->kind != TRACE_FREE;
        sizes[slot] = operation->size;
        bytes += live[slot] ? operation->size : 0;
        if (bytes > peak) peak = bytes;
        if (live[slot] && operation->size > trace->largest) trace->largest = operation->size;
        good = operation->kind == TRACE_FREE || operation->size > 0;
    }
    for (size_t slot = 0; slot < trace->slots; slot++) trace->live_at_end += live[slot];
    trace->bytes_at_end = bytes;
    munmap(sizes, trace->slots * sizeof *sizes);
    munmap(live, trace->slots);
    return good && peak == trace->peak_live;
}

static inline bool trace_read(const char *path, trace_t *trace) {
    struct {
        char magic[8];
        uint64_t count, slots, peak_live;
    } header;
    const char *slash = strrchr(path, '/');
    *trace = (trace_t){.name = slash ? slash + 1 : path};
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return false;
    }
    bool good = fread(&header, sizeof header, 1, file) == 1 && memcmp(header.magic, "UMTRACE1", 8) == 0 &&
                header.count > 0 && header.count < UINT32_MAX && header.slots > 0 && header.slots < UINT32_MAX;
    if (good) {
        trace->count = (size_t)header.count;
        trace->slots = (size_t)header.slots;
        trace->peak_live = (size_t)header.peak_live;
        trace->operations = trace_memory(trace->count * sizeof *trace->operations);
        good = fread(trace->operations, sizeof *trace->operations, trace->count, file) == trace->count &&
               fgetc(file) == EOF && trace_check(trace);
    }
    fclose(file);
    if (!good) fprintf(stderr, "%s: not a whole allocation trace\n", path);
    return good;
}

/* Finds the traces that the Makefile has unpacked, and returns their number. `found` is to be released with
 * globfree. */
static inline size_t built_traces(glob_t *found) {
    char pattern[4000];
    return glob(built_path("traces/*.trace", pattern, sizeof pattern), 0, NULL, found) == 0 ? found->gl_pathc : 0;
}

#endif
