/* Tensors of eight times the memory, swept through plain pointers: written, read, and scaled in place.
 *
 *   tiered_sweep [BUDGET_MIB]      default 64
 *
 * This is done in streaming memory, where every byte comes back, and in hierarchical memory, where each float32 comes
 * back within 1e-3. The elements are like trained weights: a bell curve around 0. Exits with 1 if an element is wrong,
 * or if it took too much memory. */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "measure.h"
#include "unimem.h"

enum { MIB = 1 << 20, TIMES = 8, SWEEPS = 3 };

/* An element: the sum of four uniform numbers, with a standard deviation of 0.02. */
static float weight(uint64_t index) {
    uint64_t x = index * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x ^= x >> 27;
    float sum = (float)(x & 0xFFFF) + (float)(x >> 16 & 0xFFFF) + (float)(x >> 32 & 0xFFFF) + (float)(x >> 48);
    return (sum / 65536 - 2) * 0.0346f;
}

static void show(const char *name, int sweep, size_t done, size_t all) {
    if (!isatty(STDERR_FILENO)) return;
    char bar[41];
    size_t filled = 40 * ((size_t)sweep * all + done) / (SWEEPS * all);
    for (size_t i = 0; i < 40; i++) bar[i] = i < filled ? '#' : '.';
    bar[40] = 0;
    fprintf(stderr, "\r  %-12s [%s] ", name, bar);
}

static bool sweep(const char *name, size_t budget, double tolerance) {
    unified_pool_config_t config = {.max_size = budget, .enable_growth = true, .enable_streaming = true};
    unified_memory_interface_t *memory = unimem_open(&config);
    size_t bytes = TIMES * budget, count = bytes / sizeof(float), step = MIB, wrong = 0;
    float *tensor = !memory         ? NULL
                    : tolerance > 0 ? memory->allocate_hierarchical(bytes, tolerance)
                                    : memory->allocate_streaming(bytes, 0);
    if (!tensor) {
        printf("%s: %s\n", name, unimem_last_error_message());
        return false;
    }
    unimem_advise(tensor, UNIMEM_SEQUENTIAL);
    double seconds[SWEEPS];
    float allowed = (float)(tolerance * 1.00001);
    for (int s = 0; s < SWEEPS; s++) {
        double start = seconds_now();
        for (size_t i = 0; i < count; i++) {
            if (i % step == 0) show(name, s, i, count);
            if (s == 0)
                tensor[i] = weight(i);
            else if (s == 1)
                wrong += !(fabsf(tensor[i] - weight(i)) <= allowed);
            else
                tensor[i] *= 0.5f;
        }
        seconds[s] = seconds_now() - start;
    }
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%60s\r", "");
    unimem_residency_t tiers = {0};
    unimem_residency(tensor, &tiers);
    double gb = (double)bytes * 1e-9;
    printf("%-12s %7.2f %7.2f %7.2f %9zu %9zu %9zu %9llu %7.2f %7zu\n", name, gb / seconds[0], gb / seconds[1],
           gb / seconds[2], tiers.hot_bytes / MIB, tiers.warm_bytes / MIB, tiers.cold_bytes / MIB,
           (unsigned long long)tiers.evictions, tiers.compression_ratio, wrong);
    memory->free(tensor);
    return unimem_close(memory) && wrong == 0;
}

int main(int count, char **arguments) {
    size_t budget = (count > 1 ? strtoul(arguments[1], NULL, 10) : 64) * MIB, idle = status_bytes("VmRSS:");
    if (budget < 8 * (size_t)MIB) {
        fprintf(stderr, "usage: %s [BUDGET_MIB from 8]\n", arguments[0]);
        return 2;
    }
    printf("\nA tensor of %zu MiB in %zu MiB of memory, through plain pointers (faults through %s)\n",
           TIMES * budget / MIB, budget / MIB, unimem_fault_mechanism());
    printf("%-12s %7s %7s %7s %9s %9s %9s %9s %7s %7s\n", "GB/s", "write", "read", "scale", "hot MiB", "warm MiB",
           "cold MiB", "evicted", "ratio", "wrong");
    bool right = sweep("streaming", budget, 0) & sweep("within 1e-3", budget, 1e-3);
    size_t peak = status_bytes("VmHWM:") - idle;
    bool within = peak <= budget + 24 * (size_t)MIB;
    printf("peak of %zu MiB above the idle program: %s\n", peak / MIB, within ? "within its limit" : "TOO MUCH");
    return !(right && within);
}
