/* Weights that are held compressed in RAM, each within a tolerance of what was written. The program shows how much
 * room they take and how large the error is, and checks that nothing drifts. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <unimem.h>

enum { COUNT = 8 << 20, BUDGET = 16 << 20 }; /* 32 MiB of float in 16 MiB */

/* The sum of twelve uniform numbers is nearly a normal one. It is scaled to the size of trained weights. */
static float weight(uint64_t i) {
    double sum = -6;
    uint64_t x = i * 0x9E3779B97F4A7C15u + 1;
    for (int k = 0; k < 3; k++) {
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u, x ^= x >> 27;
        for (int part = 0; part < 4; part++) sum += (double)(x >> 16 * part & 0xFFFF) / 65536;
    }
    return (float)(0.02 * sum);
}

/* Reads all weights. Returns the largest error, and the sum, which shows whether anything has changed. */
static double read_all(const float *weights, double *sum) {
    double error = 0;
    *sum = 0;
    for (size_t i = 0; i < COUNT; i++) {
        error = fmax(error, fabs((double)weights[i] - (double)weight(i)));
        *sum += (double)weights[i];
    }
    return error;
}

int main(void) {
    const double tolerances[] = {0, 1e-4, 1e-3};
    bool right = true;
    printf("%9s %9s %9s %9s %9s %11s\n", "tolerance", "ratio", "hot MiB", "warm MiB", "cold MiB", "error");
    for (size_t t = 0; t < sizeof tolerances / sizeof *tolerances; t++) {
        unified_pool_config_t config = {.max_size = BUDGET, .enable_growth = true, .enable_streaming = true};
        unified_memory_interface_t *memory = unimem_open(&config);
        float *weights = memory ? memory->allocate_hierarchical(COUNT * sizeof(float), tolerances[t]) : NULL;
        if (!weights) {
            fprintf(stderr, "%s\n", unimem_last_error_message());
            return 1;
        }
        for (size_t i = 0; i < COUNT; i++) weights[i] = weight(i);
        unimem_advise(weights, UNIMEM_DONT_NEED); /* send everything out: what is read from here on was compressed */
        double first, second, error = read_all(weights, &first);
        unimem_advise(weights, UNIMEM_DONT_NEED);
        error = fmax(error, read_all(weights, &second));
        unimem_residency_t tiers;
        unimem_residency(weights, &tiers);
        printf("%9.0e %9.2f %9.1f %9.1f %9.1f %11.3e\n", tolerances[t], tiers.compression_ratio,
               (double)tiers.hot_bytes / (1 << 20), (double)tiers.warm_bytes / (1 << 20),
               (double)tiers.cold_bytes / (1 << 20), error);
        right = right && error <= tolerances[t] && first == second && unimem_held_bytes(memory) <= BUDGET &&
                (tolerances[t] < 1e-3 || tiers.compression_ratio > 3);
        memory->free(weights);
        right = unimem_close(memory) && right;
    }
    return !right;
}
