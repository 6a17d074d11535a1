/* soak_trees.h - chains of matrices as tree networks, in any memory, compared with their product in double
 * precision. */
#ifndef SOAK_TREES_H
#define SOAK_TREES_H
#include "soak.h"

#include <math.h>

enum { MOST_MATRICES = 5 };

static ComplexFloat element_of(uint64_t tag, size_t matrix, size_t i) {
    uint64_t z = (tag + matrix * 7919 + i) * 0x9E3779B97F4A7C15u;
    return (ComplexFloat){(float)(z >> 40) / (1 << 23) - 1, (float)(z >> 16 & 0xFFFFFF) / (1 << 23) - 1};
}
/* Multiplies a matrix of rows x inner by one of inner x columns. The result is pairs of doubles. */
static double *times(const double *left, uint64_t tag, size_t matrix, size_t rows, size_t inner, size_t columns) {
    double *product = calloc(rows * columns * 2, sizeof(double));
    for (size_t r = 0; product && r < rows; r++)
        for (size_t k = 0; k < inner; k++) {
            double re = left[2 * (r * inner + k)], im = left[2 * (r * inner + k) + 1];
            for (size_t c = 0; c < columns; c++) {
                ComplexFloat e = element_of(tag, matrix, k * columns + c);
                product[2 * (r * columns + c)] += re * (double)e.real - im * (double)e.imag;
                product[2 * (r * columns + c) + 1] += re * (double)e.imag + im * (double)e.real;
            }
        }
    return product;
}
static double *chain_product(uint64_t tag, const size_t *sizes, size_t matrices) {
    double *product = calloc(sizes[0] * sizes[1] * 2, sizeof(double));
    for (size_t i = 0; product && i < sizes[0] * sizes[1]; i++) {
        ComplexFloat e = element_of(tag, 0, i);
        product[2 * i] = (double)e.real, product[2 * i + 1] = (double)e.imag;
    }
    for (size_t m = 1; product && m < matrices; m++) {
        double *next = times(product, tag, m, sizes[0], sizes[m], sizes[m + 1]);
        free(product);
        product = next;
    }
    return product;
}
static void compare(const ComplexFloat *result, const double *expected, size_t elements) {
    double largest = 0, off = 0;
    for (size_t i = 0; i < elements; i++) {
        largest = fmax(largest, hypot(expected[2 * i], expected[2 * i + 1]));
        off = fmax(off, hypot((double)result[i].real - expected[2 * i], (double)result[i].imag - expected[2 * i + 1]));
    }
    EXPECT(off <= 1e-4 * largest, "a product is off by %g of %g", off, largest);
}

/* Builds a chain of nodes. False if the memory is full, which may happen on surfaces with a budget. */
static bool build_chain(worker_t *worker, tree_tensor_network_t *ttn, surface_t surface, uint64_t tag, const size_t *sizes, size_t matrices) {
    tree_tensor_node_t *last = NULL;
    for (size_t m = 0; m < matrices; m++) {
        size_t elements = sizes[m] * sizes[m + 1];
        ComplexFloat *data = malloc(elements * sizeof *data);
        for (size_t i = 0; i < elements; i++) data[i] = element_of(tag, m, i);
        tree_tensor_node_t *node = add_tree_tensor_node(ttn, data, &sizes[m], 2, one_in(worker, 3));
        free(data);
        if (!node) {
            may_be_full(surface, "add_tree_tensor_node");
            return false;
        }
        if (last && !unimem_connect_axes(ttn, last, 1, node, 0)) {
            may_be_full(surface, "unimem_connect_axes");
            return false;
        }
        last = node;
    }
    return true;
}
static void contract_tree(worker_t *worker) {
    surface_t surface = (surface_t)below(worker, SYSTEM + 1);
    size_t matrices = 2 + below(worker, MOST_MATRICES - 1), sizes[MOST_MATRICES + 1], shape[4], axes = 4;
    size_t largest = !budgets[surface] && one_in(worker, 20) ? 150 : 30; /* a budget needs room for chunks too */
    for (size_t m = 0; m <= matrices; m++) sizes[m] = 1 + below(worker, largest);
    uint64_t tag = random_next(&worker->random);
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    if (!EXPECT(ttn, "network: %s", unimem_last_error_message())) return;
    if (surface < TABLES) ttn->memory = tables[surface];
    else if (surface == POOL) EXPECT(set_memory_pool(ttn, pool), "pool: %s", unimem_last_error_message());
    else EXPECT(set_memory_system(ttn, memory_system), "system: %s", unimem_last_error_message());
    if (build_chain(worker, ttn, surface, tag, sizes, matrices)) {
        ComplexFloat *result = NULL;
        if (one_in(worker, 3)) EXPECT(optimize_tree_structure(ttn), "plan: %s", unimem_last_error_message());
        if (one_in(worker, 3) && !adapt_bond_dimensions(ttn, 0)) may_be_full(surface, "adapt_bond_dimensions");
        if (contract_full_tree_network(ttn, &result, shape, &axes)) {
            double *expected = chain_product(tag, sizes, matrices);
            bool same_shape = EXPECT(axes == 2 && shape[0] == sizes[0] && shape[1] == sizes[matrices], "%zu axes, %zu x %zu", axes, shape[0], shape[1]);
            if (same_shape && expected) compare(result, expected, sizes[0] * sizes[matrices]);
            free(expected);
            free(result);
            count(trees);
        } else {
            may_be_full(surface, "contraction");
        }
    }
    destroy_tree_tensor_network(ttn);
}

#endif
