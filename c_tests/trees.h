/* trees.h - random trees of small tensors: how the library makes them, and their value as the plain sum over all
 * indices in double precision. */
#ifndef UNIMEM_TEST_TREES_H
#define UNIMEM_TEST_TREES_H
#include <math.h>

#include "support.h"
#include "unimem/tree_tensor_network.h"

enum { MOST_NODES = 7, MOST_AXES = 6, MOST_SIZE = 7, MOST_LABELS = MOST_NODES * MOST_AXES, MOST_TERMS = 1 << 13 };

/* A node as the test knows it. Every axis has a label. Both ends of a bond have the same label. */
typedef struct {
    size_t axes, rank, sizes[MOST_AXES], labels[MOST_AXES]; /* a scalar has rank 0 and one axis of size 1 */
    bool bonded[MOST_AXES];
    size_t parent, bonds, own[MOST_AXES], parents[MOST_AXES]; /* axes of its bonds to its parent */
    bool by_rule;                                             /* connected by connect_tree_tensor_nodes() */
    ComplexFloat *elements;
} plain_node_t;

/* A tree. Each node comes after its parent. */
typedef struct {
    size_t nodes, labels, size_of[MOST_LABELS];
    plain_node_t node[MOST_NODES];
} plain_tree_t;

static inline size_t volume_of(const size_t *sizes, size_t axes) {
    size_t count = 1;
    for (size_t i = 0; i < axes; i++) count *= sizes[i];
    return count;
}
static inline float random_real(random_t *random) { return (float)random_below(random, 20001) / 10000.0f - 1.0f; }
static inline ComplexFloat *random_elements(random_t *random, size_t count) {
    ComplexFloat *elements = malloc(count * sizeof *elements);
    for (size_t i = 0; elements && i < count; i++) elements[i] = (ComplexFloat){random_real(random), random_real(random)};
    return elements;
}

static inline void bond(plain_node_t *parent, size_t i, plain_node_t *child, size_t j) {
    child->labels[j] = parent->labels[i];
    parent->bonded[i] = child->bonded[j] = true;
    child->parents[child->bonds] = i, child->own[child->bonds++] = j;
}
/* The rule of connect_tree_tensor_nodes(): the parent's last free axis and the child's first, if their sizes agree;
 * else the first pair that fits; else no bond. */
static inline void bond_by_rule(plain_node_t *parent, plain_node_t *child) {
    size_t last = parent->axes, first = 0;
    while (last > 0 && parent->bonded[last - 1]) last--;
    while (first < child->axes && child->bonded[first]) first++;
    if (last > 0 && first < child->axes && parent->sizes[last - 1] == child->sizes[first]) {
        bond(parent, last - 1, child, first);
        return;
    }
    for (size_t i = 0; i < parent->axes; i++)
        for (size_t j = 0; j < child->axes; j++)
            if (!parent->bonded[i] && !child->bonded[j] && parent->sizes[i] == child->sizes[j]) {
                bond(parent, i, child, j);
                return;
            }
}

/* Makes a tree with ranks 0 to 6, sizes 1 to 7, and up to three bonds between two nodes. Some bonds come from the
 * rule, and some edges have none. The sum over all indices has at most MOST_TERMS terms. */
static inline void make_plain_tree(plain_tree_t *tree, random_t *random) {
    size_t terms = 1;
    memset(tree, 0, sizeof *tree);
    tree->nodes = 1 + random_below(random, MOST_NODES);
    for (size_t v = 0; v < tree->nodes; v++) {
        plain_node_t *node = &tree->node[v], *parent = &tree->node[node->parent = v ? random_below(random, v) : 0];
        node->rank = random_below(random, MOST_AXES + 1);
        node->axes = node->rank ? node->rank : 1;
        for (size_t i = 0; i < node->axes; i++) {
            /* Random sizes seldom agree, so most are copied from the parent. */
            size_t size = v && random_below(random, 3) ? parent->sizes[random_below(random, parent->axes)]
                                                       : 1 + random_below(random, MOST_SIZE);
            node->sizes[i] = node->rank && terms * size <= MOST_TERMS ? size : 1;
            terms *= node->sizes[i];
            node->labels[i] = tree->labels++;
            tree->size_of[node->labels[i]] = node->sizes[i];
        }
        node->elements = random_elements(random, volume_of(node->sizes, node->axes));
        if (v == 0) continue;
        size_t wanted = random_below(random, 4);
        for (size_t tries = 20; wanted && tries; tries--) {
            size_t i = random_below(random, parent->axes), j = random_below(random, node->axes);
            if (parent->bonded[i] || node->bonded[j] || parent->sizes[i] != node->sizes[j]) continue;
            bond(parent, i, node, j);
            terms /= node->sizes[j];
            wanted--;
        }
        if (node->bonds) continue;
        node->by_rule = true;
        bond_by_rule(parent, node);
        if (node->bonds) terms /= node->sizes[node->own[0]];
    }
}
static inline void free_plain_tree(plain_tree_t *tree) {
    for (size_t v = 0; v < tree->nodes; v++) free(tree->node[v].elements);
}

/* Makes the tree as nodes of a network. With `hierarchical` every second node is hierarchical. False if a call
 * fails. */
static inline bool build_tree(const plain_tree_t *tree, tree_tensor_network_t *ttn, bool hierarchical, tree_tensor_node_t **made) {
    for (size_t v = 0; v < tree->nodes; v++) {
        const plain_node_t *node = &tree->node[v];
        made[v] = add_tree_tensor_node(ttn, node->elements, node->sizes, node->rank, hierarchical && v % 2);
        if (!made[v]) return false;
        if (node->by_rule && !connect_tree_tensor_nodes(ttn, made[node->parent], made[v])) return false;
        for (size_t b = node->by_rule; b < node->bonds; b++)
            if (!unimem_connect_axes(ttn, made[node->parent], node->parents[b], made[v], node->own[b])) return false;
    }
    return true;
}

/* Nodes in depth-first pre-order, children in the order in which they were connected. */
static inline void preorder(const plain_tree_t *tree, size_t *order) {
    size_t stack[MOST_NODES], depth = 0, count = 0;
    stack[depth++] = 0;
    while (depth > 0) {
        size_t at = order[count++] = stack[--depth];
        for (size_t v = tree->nodes; v-- > 1;)
            if (tree->node[v].parent == at) stack[depth++] = v;
    }
}

/* The sum over all indices, element by element, as pairs of doubles. The caller frees it. `sizes` and `axes` are
 * those of the contracted tree. */
static inline double *value_of(const plain_tree_t *tree, size_t *sizes, size_t *axes) {
    size_t order[MOST_NODES], strides[MOST_NODES + 1][MOST_LABELS], at[MOST_LABELS], stride = 1;
    memset(strides, 0, sizeof strides);
    memset(at, 0, sizeof at);
    preorder(tree, order);
    *axes = 0;
    for (size_t n = 0; n < tree->nodes; n++)
        for (size_t i = 0; i < tree->node[order[n]].axes; i++)
            if (!tree->node[order[n]].bonded[i]) sizes[(*axes)++] = tree->node[order[n]].sizes[i];
    for (size_t n = tree->nodes; n-- > 0;)
        for (size_t i = tree->node[order[n]].axes; i-- > 0;)
            if (!tree->node[order[n]].bonded[i]) {
                strides[MOST_NODES][tree->node[order[n]].labels[i]] = stride;
                stride *= tree->node[order[n]].sizes[i];
            }
    if (*axes == 0) sizes[(*axes)++] = 1;
    for (size_t v = 0; v < tree->nodes; v++)
        for (size_t i = tree->node[v].axes, own = 1; i-- > 0; own *= tree->node[v].sizes[i])
            strides[v][tree->node[v].labels[i]] = own;
    double *sum = calloc(stride, 2 * sizeof *sum);
    for (bool more = sum; more;) {
        double real = 1, imag = 0;
        size_t out = 0;
        for (size_t v = 0; v < tree->nodes; v++) {
            size_t place = 0;
            for (size_t l = 0; l < tree->labels; l++) place += at[l] * strides[v][l];
            ComplexFloat z = tree->node[v].elements[place];
            double next = real * (double)z.real - imag * (double)z.imag;
            imag = real * (double)z.imag + imag * (double)z.real, real = next;
        }
        for (size_t l = 0; l < tree->labels; l++) out += at[l] * strides[MOST_NODES][l];
        sum[2 * out] += real, sum[2 * out + 1] += imag;
        /* The next place: counts up like an odometer, over the labels that some axis still has. */
        more = false;
        for (size_t l = 0; l < tree->labels && !more; l++) {
            bool used = false;
            for (size_t v = 0; v <= MOST_NODES; v++) used |= strides[v][l] != 0;
            if (!used) continue;
            more = ++at[l] < tree->size_of[l];
            if (!more) at[l] = 0;
        }
    }
    return sum;
}

/* The distance in the Frobenius norm; relative to the expected value unless that is 0. */
static inline double distance(const ComplexFloat *got, const double *expected, size_t count) {
    double far = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        far += pow((double)got[i].real - expected[2 * i], 2) + pow((double)got[i].imag - expected[2 * i + 1], 2);
        norm += pow(expected[2 * i], 2) + pow(expected[2 * i + 1], 2);
    }
    return norm > 0 ? sqrt(far / norm) : sqrt(far);
}

/* What a program's own destroy_tensor_network() does. */
static inline void free_network(tensor_network_t *network) {
    for (size_t i = 0; i < network->num_nodes; i++) {
        free(network->nodes[i]->data);
        free(network->nodes[i]->dimensions);
        free(network->nodes[i]->connected_nodes);
        free(network->nodes[i]->connected_dims);
        free(network->nodes[i]);
    }
    free(network->nodes);
    free(network);
}
/* A random tree with its value and the value's sizes. */
typedef struct {
    plain_tree_t tree;
    double *value;
    size_t sizes[MOST_LABELS], axes;
} valued_tree_t;

static inline void make_valued_tree(valued_tree_t *made, uint64_t seed) {
    random_t random = {seed};
    make_plain_tree(&made->tree, &random);
    made->value = value_of(&made->tree, made->sizes, &made->axes);
}

#endif
