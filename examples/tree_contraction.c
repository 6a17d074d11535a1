/* A matrix product state of 16 sites as a tree: planned contraction, and compression to smaller bonds. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unimem.h>
#include <unimem/tree_tensor_network.h>

enum { SITES = 16, STATES = 2, BOND = 32 };

static float next(uint32_t *random) {
    *random = *random * 1664525 + 1013904223;
    return (float)(*random >> 8) / (1 << 23) - 1;
}

/* A chain of sites, each a tensor [left bond, states, right bond]. The sites at the ends have only one bond. The
 * first site is the root. */
static tree_tensor_network_t *make(size_t max_bond) {
    uint32_t random = 1;
    tree_tensor_network_t *network = create_tree_tensor_network(SITES, max_bond, 0);
    tree_tensor_node_t *before = NULL;
    for (size_t site = 0; network && site < SITES; site++) {
        size_t dimensions[3], axes = 0, elements = STATES;
        if (site > 0) dimensions[axes++] = BOND, elements *= BOND;
        dimensions[axes++] = STATES;
        if (site + 1 < SITES) dimensions[axes++] = BOND, elements *= BOND;
        tree_tensor_node_t *node = add_tree_tensor_node(network, NULL, dimensions, axes, false);
        if (!node) return NULL;
        /* Elements fall off along the bond, as in a state near a ground state. So a part of the bond is enough. */
        for (size_t i = 0; i < elements; i++) {
            float scale = 0.5f * powf(0.7f, (float)(i % BOND));
            node->data[i] = (ComplexFloat){scale * next(&random), scale * next(&random)};
        }
        /* The bond joins the last axis of the site before with the first axis of this one. */
        if (before && !unimem_connect_axes(network, before, before->num_dimensions - 1, node, 0)) return NULL;
        before = node;
    }
    return network;
}

/* One amplitude, in double precision, as a product of matrices. */
static void amplitude(const tree_tensor_network_t *network, size_t states, double out[2]) {
    double row[2 * BOND] = {1, 0}, product[2 * BOND];
    size_t length = 1;
    for (const tree_tensor_node_t *node = network->root; node; node = node->num_children ? node->children[0] : NULL) {
        size_t site = node->id, right = site + 1 < SITES ? BOND : 1, state = states >> (SITES - 1 - site) & 1;
        for (size_t r = 0; r < right; r++) {
            product[2 * r] = product[2 * r + 1] = 0;
            for (size_t l = 0; l < length; l++) {
                ComplexFloat e = node->data[(l * STATES + state) * right + r];
                product[2 * r] += row[2 * l] * (double)e.real - row[2 * l + 1] * (double)e.imag;
                product[2 * r + 1] += row[2 * l] * (double)e.imag + row[2 * l + 1] * (double)e.real;
            }
        }
        for (size_t i = 0; i < 2 * right; i++) row[i] = product[i];
        length = right;
    }
    out[0] = row[0], out[1] = row[1];
}

int main(void) {
    tree_tensor_network_t *network = make(0), *small = make(12);
    size_t dimensions[SITES], axes = 0;
    ComplexFloat *state = NULL, *compressed = NULL;
    double flops = 0, bytes = 0;
    if (!network || !small || !optimize_tree_structure(network) || !unimem_contraction_cost(network, &flops, &bytes) ||
        !contract_full_tree_network(network, &state, dimensions, &axes)) {
        fprintf(stderr, "%s\n", unimem_last_error_message());
        return 1;
    }
    double error = 0, norm = 0, sample = 0;
    for (size_t i = 0; i < 1 << SITES; i++) norm += pow((double)state[i].real, 2) + pow((double)state[i].imag, 2);
    for (size_t i = 0; i < 1 << SITES; i += 97) {
        double expected[2];
        amplitude(network, i, expected);
        error += pow((double)state[i].real - expected[0], 2) + pow((double)state[i].imag - expected[1], 2);
        sample += pow(expected[0], 2) + pow(expected[1], 2);
    }
    error = sqrt(error / sample);
    printf("%d sites, bond %d: %zu axes, %.1f MFLOP, %.1f MiB at most; relative error %.1e\n", SITES, BOND, axes,
           flops * 1e-6, bytes / (1 << 20), error);

    /* Bonds of at most 12, with a relative error of at most 1e-3 in the Frobenius norm. */
    bool adapted = adapt_bond_dimensions(small, 1e-3);
    if (!adapted || !contract_full_tree_network(small, &compressed, dimensions, &axes)) {
        fprintf(stderr, "%s\n", unimem_last_error_message());
        return 1;
    }
    double difference = 0;
    for (size_t i = 0; i < 1 << SITES; i++)
        difference += pow((double)compressed[i].real - (double)state[i].real, 2) +
                      pow((double)compressed[i].imag - (double)state[i].imag, 2);
    difference = sqrt(difference / norm);
    printf("bonds of at most 12: relative error %.1e\n", difference);
    free(state), free(compressed);
    destroy_tree_tensor_network(network), destroy_tree_tensor_network(small);
    return !(axes == SITES && error < 1e-5 && difference <= 1e-3);
}
