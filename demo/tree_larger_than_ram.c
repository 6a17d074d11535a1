/* A tree tensor network larger than its memory: a chain of square weights, by which an activation is multiplied one after
 * the other. It runs in two child processes: with all of it in RAM, and with `max_size` a fraction of it.
 *
 *   tree_larger_than_ram [WEIGHTS [ROWS [BUDGET_MIB]]]      default 4 64 64: 67 million parameters in 64 MiB
 *
 * Every weight is 4096 x 4096 ComplexFloat, 128 MiB. The result is checked against the same product of a few rows in
 * double precision. Exits with 1 if a row is off by more than 1e-5, or if a limit was broken. */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../bench/disk.h"
#include "measure.h"
#include "unimem.h"
#include "unimem/tree_tensor_network.h"

enum { BOND = 4096, CHECKED = 3, MIB = 1 << 20 };

typedef struct {
    bool ok;
    double seconds, gflop;      /* of the products alone */
    size_t peak_rss, idle_rss;  /* bytes */
    size_t hot, warm, cold;     /* bytes of the weights, at the end */
    uint64_t faults, evictions;
    double error;               /* largest relative error of a checked row */
} outcome_t;

/* Element `index` of tensor `tensor`: a hash, scaled so that products keep their size. */
static ComplexFloat element(uint64_t tensor, uint64_t index) {
    uint64_t x = (tensor << 40 | index) + 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    const float scale = 1.2247f / 64; /* variance 1 / BOND */
    return (ComplexFloat){((float)(x & 0xFFFFFF) / 8388608 - 1) * scale, ((float)(x >> 40) / 8388608 - 1) * scale};
}

static double began;
static size_t done_before;
static double each; /* operations of one product */
static size_t all_products;

static bool show(double done, double total, void *name) {
    (void)total;
    if (!isatty(STDERR_FILENO)) return true;
    double share = ((double)done_before * each + done) / ((double)all_products * each);
    double left = share > 0 ? (seconds_now() - began) * (1 - share) / share : 0;
    char bar[41];
    for (int i = 0; i < 40; i++) bar[i] = i < (int)(share * 40) ? '#' : '.';
    bar[40] = 0;
    fprintf(stderr, "\r  %-10s [%s] %3.0f %%, %.0f s left ", (const char *)name, bar, share * 100, left);
    return true;
}

static double checked_row(size_t weights, size_t row, const ComplexFloat *got) {
    double *x = calloc(4 * BOND, sizeof *x), *y = x + 2 * BOND, error = 0, norm = 0;
    if (!x) return INFINITY;
    for (size_t j = 0; j < BOND; j++) {
        ComplexFloat e = element(0, row * BOND + j);
        x[2 * j] = e.real, x[2 * j + 1] = e.imag;
    }
    for (size_t w = 1; w <= weights; w++) {
        memset(y, 0, 2 * BOND * sizeof *y);
        for (size_t k = 0; k < BOND; k++)
            for (size_t j = 0; j < BOND; j++) {
                ComplexFloat e = element(w, k * BOND + j);
                y[2 * j] += x[2 * k] * e.real - x[2 * k + 1] * e.imag;
                y[2 * j + 1] += x[2 * k] * e.imag + x[2 * k + 1] * e.real;
            }
        memcpy(x, y, 2 * BOND * sizeof *x);
    }
    for (size_t j = 0; j < BOND; j++) {
        double real = got[j].real - x[2 * j], imag = got[j].imag - x[2 * j + 1];
        error += real * real + imag * imag;
        norm += x[2 * j] * x[2 * j] + x[2 * j + 1] * x[2 * j + 1];
    }
    free(x);
    return sqrt(error / norm);
}

static tree_tensor_node_t *add(tree_tensor_network_t *network, size_t tensor, size_t rows) {
    size_t dimensions[] = {rows, BOND};
    tree_tensor_node_t *node = add_tree_tensor_node(network, NULL, dimensions, 2, false);
    for (size_t i = 0; node && i < rows * BOND; i++) node->data[i] = element(tensor, i);
    return node;
}

static bool contract(size_t weights, size_t rows, size_t budget, const char *name, outcome_t *out) {
    out->idle_rss = status_bytes("VmRSS:");
    unified_pool_config_t config = {.max_size = budget, .enable_growth = true, .enable_streaming = true};
    unified_memory_interface_t *memory = unimem_open(&config);
    tree_tensor_network_t *network = create_tree_tensor_network(0, 0, 0.0);
    if (!memory || !network) return false;
    network->memory = memory;
    tree_tensor_node_t *nodes[256], *activation = add(network, 0, rows);
    for (size_t w = 1; w <= weights; w++)
        if (!(nodes[w] = add(network, w, BOND))) return false;
    unimem_set_progress(network, show, (void *)(uintptr_t)name);
    each = 8.0 * (double)rows * BOND * BOND, all_products = weights, began = seconds_now();
    for (size_t w = 1; activation && w <= weights; w++) {
        done_before = w - 1;
        tree_tensor_node_t *next = NULL;
        if (!contract_tree_tensor_nodes(network, activation, nodes[w], &next)) return false;
        activation = next;
    }
    if (!activation) return false;
    out->seconds = seconds_now() - began, out->gflop = each * (double)weights * 1e-9;
    for (size_t w = 1; w <= weights; w++) {
        unimem_residency_t tiers;
        if (!unimem_residency(nodes[w]->data, &tiers)) { /* plain memory */
            out->hot += (size_t)BOND * BOND * sizeof(ComplexFloat);
            continue;
        }
        out->hot += tiers.hot_bytes, out->warm += tiers.warm_bytes, out->cold += tiers.cold_bytes;
        out->faults += tiers.faults, out->evictions += tiers.evictions;
    }
    for (size_t i = 0; i < CHECKED; i++) {
        size_t row = i * (rows - 1) / (CHECKED - 1);
        double error = checked_row(weights, row, activation->data + row * BOND);
        if (!(error <= out->error)) out->error = error;
    }
    out->peak_rss = status_bytes("VmHWM:");
    destroy_tree_tensor_network(network);
    return unimem_close(memory);
}

static outcome_t in_child(size_t weights, size_t rows, size_t budget, const char *name) {
    outcome_t *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) exit(1);
    pid_t child = fork();
    if (child == 0) {
        shared->ok = contract(weights, rows, budget, name, shared);
        if (!shared->ok) fprintf(stderr, "\n%s: %s\n", name, unimem_last_error_message());
        _exit(0);
    }
    if (child > 0) waitpid(child, NULL, 0);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%100s\r", "");
    outcome_t out = *shared;
    munmap(shared, sizeof *shared);
    return out;
}

int main(int count, char **arguments) {
    size_t weights = count > 1 ? strtoul(arguments[1], NULL, 10) : 4;
    size_t rows = count > 2 ? strtoul(arguments[2], NULL, 10) : 64;
    size_t budget = (count > 3 ? strtoul(arguments[3], NULL, 10) : 64) * MIB;
    if (weights < 1 || weights > 255 || rows < CHECKED || budget < 8 * (size_t)MIB) {
        fprintf(stderr, "usage: %s [WEIGHTS 1-255 [ROWS from 3 [BUDGET_MIB from 8]]]\n", arguments[0]);
        return 2;
    }
    size_t bytes = weights * BOND * BOND * sizeof(ComplexFloat);
    size_t disk = bytes + (weights + 1) * rows * BOND * sizeof(ComplexFloat);
    printf("\nA tree tensor network of %.0f million parameters, %zu MiB, contracted with %zu MiB of memory\n"
           "(beside all of it in RAM; needs up to %zu MiB of disk; faults through %s)\n",
           (double)(weights * BOND * BOND) * 1e-6, bytes / MIB, budget / MIB, disk / MIB, unimem_fault_mechanism());
    outcome_t in_core = in_child(weights, rows, 0, "in RAM"), tiered = in_child(weights, rows, budget, "tiered");
    printf("%-10s %9s %9s %9s %9s %9s %9s %9s %9s\n", "", "GFLOP/s", "seconds", "peak MiB", "hot MiB", "warm MiB",
           "cold MiB", "evicted", "error");
    const outcome_t *rows_of_table[] = {&in_core, &tiered};
    for (int i = 0; i < 2; i++) {
        const outcome_t *o = rows_of_table[i];
        printf("%-10s %9.1f %9.2f %9zu %9zu %9zu %9zu %9llu %9.1e\n", i ? "tiered" : "in RAM", o->gflop / o->seconds,
               o->seconds, o->peak_rss / MIB, o->hot / MIB, o->warm / MIB, o->cold / MIB,
               (unsigned long long)o->evictions, o->error);
    }
    /* The weights that do not fit the budget come from disk at every product. So it can be no faster than the disk reads
     * them (by two threads at once, as in the library), and no faster than the products take in RAM. */
    double rates[2] = {0, 0}, from_disk = (double)(bytes > budget ? bytes - budget : 0) * 1e-9;
    bool measured = disk_rates((size_t)256 << 20, 2, rates) && rates[1] > 0;
    double reading = measured ? from_disk / rates[1] : 0, floor = reading > in_core.seconds ? reading : in_core.seconds;
    if (measured) {
        printf("%-10s %9.1f %9.2f   bound by the %s: %.2f GB of weights at the %.2f GB/s that it reads now take %.2f s\n", "no faster",
               tiered.gflop / floor, floor, reading > in_core.seconds ? "disk" : "products", from_disk, rates[1], reading);
        printf("tiered at %.0f %% of that speed%s\n", 100 * floor / tiered.seconds,
               reading > in_core.seconds ? "; more rows make the products the longer part" : "");
    }
    bool right = in_core.ok && tiered.ok && in_core.error <= 1e-5 && tiered.error <= 1e-5;
    bool within = tiered.peak_rss - tiered.idle_rss <= budget + 88 * (size_t)MIB;
    printf("tiered at %.0f %% of the speed in RAM; results %s; memory %s\n",
           100 * in_core.seconds / tiered.seconds, right ? "right" : "WRONG", within ? "within its limit" : "TOO MUCH");
    return !(right && within);
}
