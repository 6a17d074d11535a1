/* A tree tensor network larger than one machine. MPI ranks contract its subtrees, and the results are combined in
 * pairs. They are sent from the library's memory and received into it, without a copy in between.
 *
 *   mpicc -std=c11 mpi_trees.c $(pkg-config --cflags --libs unimem) -lm -o mpi_trees && mpirun -n 4 mpi_trees
 *   mpi_trees [BOND [SITES]]       default 512 and 16
 *
 * The network is one amplitude of a matrix product state with open ends. Site s is a tensor [BOND, STATES, BOND]
 * with a leaf [STATES] that chooses the state. A rank makes a run of sites, its subtree, and contracts it to a
 * matrix. Then there are log2(ranks) steps. In each of them half of the ranks that still have a matrix send it to a
 * neighbour, which multiplies the two. Rank 0 checks the result against products with a vector in double precision.
 *
 * MPI may be given any memory that stays in place: plain blocks, tensors, and node data that fits the budget. Chunks
 * of streaming and hierarchical memory may not be in place when MPI's system call or network card uses them: acquire
 * them first. */
#define _DEFAULT_SOURCE
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unimem.h>
#include <unimem/tree_tensor_network.h>
#include <unistd.h>

enum { STATES = 4 };

static size_t bond, sites;
static int rank, ranks;

static void stop(const char *what) {
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, unimem_last_error_message());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* Element i of a site: a hash, scaled so that products neither grow nor shrink. */
static ComplexFloat element(size_t site, size_t i) {
    uint64_t x = ((uint64_t)site << 40 | i) + 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    const float scale = 1.2247f / sqrtf((float)bond);
    return (ComplexFloat){((float)(x & 0xFFFFFF) / 8388608 - 1) * scale, ((float)(x >> 40) / 8388608 - 1) * scale};
}
static size_t state_of(size_t site) { return (site * 7 + 3) % STATES; }

/* Makes a site and its leaf. */
static tree_tensor_node_t *make_site(tree_tensor_network_t *network, size_t site) {
    tree_tensor_node_t *node = add_tree_tensor_node(network, NULL, (size_t[]){bond, STATES, bond}, 3, false);
    ComplexFloat chosen[STATES] = {{0, 0}};
    chosen[state_of(site)].real = 1;
    tree_tensor_node_t *leaf = add_tree_tensor_node(network, chosen, (size_t[]){STATES}, 1, false);
    if (!node || !leaf || !unimem_connect_axes(network, node, 1, leaf, 0)) stop("making a site");
    for (size_t i = 0; i < bond * STATES * bond; i++) node->data[i] = element(site, i);
    return node;
}

/* Contracts two nodes. For a site and its leaf the sum goes over their bond. For two matrices it goes over the last
 * axis of the left one and the first axis of the right one. */
static tree_tensor_node_t *contract(tree_tensor_network_t *network, tree_tensor_node_t *a, tree_tensor_node_t *b) {
    tree_tensor_node_t *result = NULL;
    if (!contract_tree_tensor_nodes(network, a, b, &result)) stop("contracting");
    return result;
}

/* Relative error of a matrix: its product with a vector is compared with the product of the sites, one by one, with
 * that vector. */
static double error_of(const ComplexFloat *matrix) {
    double *x = malloc(6 * bond * sizeof *x), *y = x + 2 * bond, *z = y + 2 * bond, error = 0, norm = 0;
    if (!x) stop("checking");
    for (size_t j = 0; j < 2 * bond; j++) x[j] = z[j] = cos((double)j);
    for (size_t step = 0; step <= sites; step++) { /* the sites from right to left, then the matrix */
        double *from = step < sites ? x : z;
        for (size_t i = 0; i < bond; i++) {
            y[2 * i] = y[2 * i + 1] = 0;
            for (size_t j = 0; j < bond; j++) {
                size_t site = sites - 1 - step;
                ComplexFloat e = step < sites ? element(site, (i * STATES + state_of(site)) * bond + j)
                                              : matrix[i * bond + j];
                y[2 * i] += (double)e.real * from[2 * j] - (double)e.imag * from[2 * j + 1];
                y[2 * i + 1] += (double)e.real * from[2 * j + 1] + (double)e.imag * from[2 * j];
            }
        }
        for (size_t j = 0; j < 2 * bond; j++) from[j] = y[j];
    }
    for (size_t j = 0; j < 2 * bond; j++) error += pow(x[j] - z[j], 2), norm += x[j] * x[j];
    free(x);
    return sqrt(error / norm);
}

static void set_threads(size_t cores, size_t processes, size_t most) {
    size_t share = cores > processes ? cores / processes : 1;
    unimem_set_threads(share < most ? share : most);
}

int main(int count, char **arguments) {
    MPI_Init(&count, &arguments);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    bond = count > 1 ? strtoul(arguments[1], NULL, 10) : 512;
    sites = count > 2 ? strtoul(arguments[2], NULL, 10) : 16;
    if (bond < 1 || bond > 16384 || sites < (size_t)ranks || sites > 1 << 20) {
        if (rank == 0) fprintf(stderr, "usage: %s [BOND 1-16384 [SITES, no fewer than ranks]]\n", arguments[0]);
        MPI_Finalize();
        return 2;
    }
    /* The ranks of one machine share its processors. */
    MPI_Comm neighbours;
    int sharing = 1;
    size_t cores = (size_t)sysconf(_SC_NPROCESSORS_ONLN);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &neighbours);
    MPI_Comm_size(neighbours, &sharing);
    MPI_Comm_free(&neighbours);
    size_t allowed = unimem_threads(); /* processors that mpirun has bound this rank to */
    set_threads(cores, (size_t)sharing, allowed);

    tree_tensor_network_t *network = create_tree_tensor_network(0, 0, 0);
    size_t first = sites * (size_t)rank / (size_t)ranks, end = sites * ((size_t)rank + 1) / (size_t)ranks;
    tree_tensor_node_t **own = calloc(end - first, sizeof(tree_tensor_node_t *)), *product = NULL;
    if (!network || !own) stop("beginning");
    for (size_t site = first; site < end; site++) own[site - first] = make_site(network, site);

    enum { CONTRACTING, RECEIVING, COMBINING, WHOLE, PHASES };
    double seconds[PHASES] = {0}, slowest[PHASES];
    MPI_Barrier(MPI_COMM_WORLD);
    double began = MPI_Wtime();
    for (size_t i = 0; i < end - first; i++) {
        tree_tensor_node_t *matrix = contract(network, own[i], own[i]->children[0]);
        product = product ? contract(network, product, matrix) : matrix;
    }
    seconds[CONTRACTING] = MPI_Wtime() - began;

    const int elements = (int)(2 * bond * bond); /* floats */
    for (int step = 1; step < ranks; step *= 2) {
        if (rank % (2 * step) == step) {
            MPI_Send(product->data, elements, MPI_FLOAT, rank - step, 0, MPI_COMM_WORLD);
            break;
        }
        if (rank + step >= ranks) continue;
        double before = MPI_Wtime();
        tree_tensor_node_t *other = add_tree_tensor_node(network, NULL, (size_t[]){bond, bond}, 2, false);
        if (!other) stop("receiving");
        MPI_Recv(other->data, elements, MPI_FLOAT, rank + step, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        double received = MPI_Wtime();
        size_t working = (size_t)(sharing + 2 * step - 1) / (size_t)(2 * step); /* the others have sent theirs */
        set_threads(cores, working, allowed);
        product = contract(network, product, other);
        seconds[RECEIVING] += received - before, seconds[COMBINING] += MPI_Wtime() - received;
    }
    seconds[WHOLE] = MPI_Wtime() - began;
    MPI_Reduce(seconds, slowest, PHASES, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);

    int right = 1;
    if (rank == 0) {
        double error = error_of(product->data), gflop = 8e-9 * (double)(sites - 1) * pow((double)bond, 3);
        right = error < 1e-4;
        printf("%zu sites of bond %zu on %d ranks, %d to a machine of %zu processors: relative error %.1e\n", sites, bond,
               ranks, sharing, cores, error);
        printf("%.1f GFLOP/s: %.3f s, of them %.3f contracting subtrees, %.3f receiving (waiting for others included), "
               "%.3f combining\n", gflop / seconds[WHOLE], seconds[WHOLE], slowest[CONTRACTING], seconds[RECEIVING],
               seconds[COMBINING]);
        printf("what limits it: %s\n",
               seconds[COMBINING] > slowest[CONTRACTING]   ? "the combination, one product after another: more sites a rank"
               : seconds[RECEIVING] > slowest[CONTRACTING] ? "waiting for the results of others: sending, or uneven ranks"
               : (size_t)sharing > cores                   ? "the processors, fewer than ranks: more machines"
                                                           : "contracting the subtrees: more ranks");
    }
    MPI_Bcast(&right, 1, MPI_INT, 0, MPI_COMM_WORLD);
    free(own);
    destroy_tree_tensor_network(network);
    MPI_Finalize();
    return !right;
}
