/* unimem/tree_tensor_network.h - drop-in for quantum_geometric/core/tree_tensor_network.h: trees of dense complex
 * tensors joined by bonds, and their contraction.
 *
 * Tensors are dense and row-major, with elements of type ComplexFloat. Axes are numbered from 0. Sizes of axes and
 * tensors are in elements. A bond joins one axis of a parent with an axis of the same size of a child. An axis
 * without a bond is free.
 *
 * A network, with its nodes and streams, is used by one thread at a time; a call from a second thread meanwhile is
 * refused. Different networks may be used by any number of threads. Long products use all processors
 * (unimem_set_threads). All is computed in the default floating-point environment (to nearest, with subnormals, no
 * exception is a signal), and that of the caller stays as it was. Unless the function says otherwise, a failed call
 * returns NULL or false, leaves the network as it was, and says why through unimem_last_error() (unimem.h). */
#ifndef UNIMEM_TREE_TENSOR_NETWORK_H
#define UNIMEM_TREE_TENSOR_NETWORK_H
#ifndef TREE_TENSOR_NETWORK_H /* the legacy header's own guard: it must not come after this one */
#define TREE_TENSOR_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include "../unimem.h"
#include "advanced_memory_system.h" /* MemoryPool, advanced_memory_system_t */
#include "legacy_types.h"           /* ComplexFloat */

#ifdef UNIMEM_MEMORY_POOL_NAMED
#define UNIMEM_POOL MemoryPool
#else /* UNIMEM_NO_OLD_NAMES: a memory_pool.h names it later, or none does */
#define UNIMEM_POOL struct MemoryPool
struct MemoryPool;
#endif

#ifdef UNIMEM_TYPES_OF_THE_TREE
#include "quantum_geometric/core/tensor_network_operations.h" /* the legacy tree's general networks */
#else

#ifdef __cplusplus
extern "C" {
#endif

/** A node of a general tensor network. */
typedef struct tensor_node {
    ComplexFloat *data;
    size_t *dimensions;
    size_t rank;           /**< the same as num_dimensions */
    size_t num_dimensions;
    size_t total_size;     /**< product of the dimensions */
    size_t *connected_nodes; /**< ids of the neighbours */
    size_t *connected_dims;  /**< own axis of each connection; a's m-th connection to b is b's m-th to a */
    size_t num_connections;
    size_t id;
    bool is_valid;
} tensor_node_t;

/** What a network has done so far. */
typedef struct tensor_network_metrics {
    size_t num_contractions;  /**< products of two tensors */
    size_t peak_memory_usage; /**< bytes, highest since creation or reset */
    double total_time;        /**< seconds in all operations */
    double optimization_time; /**< seconds in planning */
    double contraction_time;  /**< seconds in products */
} tensor_network_metrics_t;

/** Error codes of a general tensor network. */
typedef enum {
    TENSOR_NETWORK_SUCCESS = 0,
    TENSOR_NETWORK_ERROR_INVALID_ARGUMENT = -1,
    TENSOR_NETWORK_ERROR_MEMORY = -2,
    TENSOR_NETWORK_ERROR_INVALID_STATE = -3,
    TENSOR_NETWORK_ERROR_DIMENSION_MISMATCH = -4,
    TENSOR_NETWORK_ERROR_NODE_NOT_FOUND = -5,
    TENSOR_NETWORK_ERROR_CONNECTION_EXISTS = -6,
    TENSOR_NETWORK_ERROR_NO_CONNECTION = -7,
    TENSOR_NETWORK_ERROR_OPTIMIZATION_FAILED = -8,
    TENSOR_NETWORK_ERROR_COMPUTATION = -9,
    TENSOR_NETWORK_ERROR_NOT_IMPLEMENTED = -10
} tensor_network_error_t;

/** A general tensor network. The program's own functions make and destroy it. */
typedef struct tensor_network_t {
    tensor_node_t **nodes; /**< entries may be NULL */
    size_t num_nodes;
    size_t capacity;
    size_t next_id;
    size_t *connections;
    size_t num_connections;
    bool is_optimized;
    bool optimized;
    size_t *contraction_order;
    size_t max_memory;
    tensor_network_metrics_t metrics;
    tensor_network_error_t last_error;
    void *device;
    void *auxiliary_data;
} tensor_network_t;

#ifdef __cplusplus
}
#endif
#endif /* UNIMEM_TYPES_OF_THE_TREE */

#ifdef __cplusplus
extern "C" {
#endif

struct tensor_stream;
struct tree_tensor_node;
struct tree_tensor_network;
typedef struct tensor_stream tensor_stream_t;
typedef struct tree_tensor_node tree_tensor_node_t;
typedef struct tree_tensor_network tree_tensor_network_t;
#ifndef TREE_TENSOR_NETWORK_TYPEDEF_DEFINED
#define TREE_TENSOR_NETWORK_TYPEDEF_DEFINED
typedef struct tree_tensor_network TreeTensorNetwork;
#endif

/** A node. Programs may read it and may write its elements. A network makes it, and it is freed with the network. */
struct tree_tensor_node {
    size_t id;                     /**< number of the node in its network, from 0 */
    size_t rank;                   /**< after adapt_bond_dimensions(): size of the bond to the parent; else 0 */
    size_t num_children;
    tree_tensor_node_t **children; /**< in the order in which they were connected */
    tree_tensor_node_t *parent;    /**< NULL for the top of a tree */
    ComplexFloat *data;            /**< the elements, row-major, in whatever memory holds them */
    void *h_matrix;                /**< always NULL: hierarchical nodes have `data` like all others */
    size_t *dimensions;
    size_t num_dimensions;
    bool is_leaf;                  /**< whether it has no children */
    bool use_hierarchical;         /**< whether `data` is hierarchical memory */
};

/** A network. Only create_tree_tensor_network() makes one. */
struct tree_tensor_network {
    tree_tensor_node_t *root; /**< the top of the first node's tree; NULL without nodes */
    size_t num_nodes;         /**< nodes, including contraction results */
    size_t max_rank;          /**< what adapt_bond_dimensions() aims at; 0: no limit. May be changed. */
    size_t num_qubits;        /**< as given; the library does not use it */
    double tolerance;         /**< largest absolute error of hierarchical elements. May be changed, for later nodes. */
    unified_memory_interface_t *memory; /**< allocates later tensors. May be set to any table, even the program's own,
                                             if it outlives the network and throws no exception */
    tensor_network_metrics_t metrics;   /**< as of the last call */
};

/** A stream: a position in the elements of a node. Only create_tensor_stream() makes one. Programs may read it. */
struct tensor_stream {
    size_t chunk_size;     /**< elements of a piece */
    size_t current_offset; /**< elements read so far; the piece in `buffer` ends here */
    size_t total_size;     /**< elements of the node */
    ComplexFloat *buffer;  /**< the piece that was read last */
    void *source;          /**< the data of the node */
    tree_tensor_node_t *node;
    bool is_hierarchical;
    void *memory_pool;     /**< always NULL */
};

/** A function that is told how far a long operation is. It is called on the calling thread, in the floating-point
 * environment of the call; what it changes there lasts until it returns. `done` and `total` are in floating-point
 * operations, or in steps for adapt_bond_dimensions(). If it returns false the operation stops with
 * UNIMEM_ERROR_LIMIT. It must not use the network. It must return: a C++ exception that leaves it ends the program. */
typedef bool (*unimem_progress_t)(double done, double total, void *context);

/**
 * Makes a network without nodes. Its tensors are allocated through the global interface until `memory` is changed.
 *
 * @param num_qubits  stored for the caller; the library does not use it
 * @param max_rank    largest bond that adapt_bond_dimensions() aims at; 0: no limit
 * @param tolerance   largest absolute error of an element of a hierarchical node
 * @return the network, to be given to destroy_tree_tensor_network(). NULL without memory, and for a tolerance that is
 *         negative or not finite
 */
tree_tensor_network_t *create_tree_tensor_network(size_t num_qubits, size_t max_rank, double tolerance);
/** Frees a network with its nodes and streams. NULL does nothing. */
void destroy_tree_tensor_network(tree_tensor_network_t *ttn);

/**
 * Adds a node to a network.
 *
 * @param data            the elements, which are copied; NULL: zeros
 * @param dimensions      sizes of the axes, none of them 0; may be NULL for a scalar
 * @param num_dimensions  number of axes; 0: a scalar, which gets the dimensions {1}
 * @param use_hierarchical  whether to hold the elements in hierarchical memory
 * @return the node, which belongs to the network; NULL without memory or for impossible sizes
 */
tree_tensor_node_t *add_tree_tensor_node(tree_tensor_network_t *ttn, const ComplexFloat *data, const size_t *dimensions,
                                         size_t num_dimensions, bool use_hierarchical);
/**
 * Makes `child` a child of `parent`, and joins them by a bond if any of their free axes fit. The bond is the first of
 * these that exists:
 *
 * - the parent's last free axis and the child's first free axis, if their sizes agree;
 * - the first pair of free axes whose sizes agree; all axes of the child are tried for the parent's first free axis,
 *   then for the next;
 * - no bond: an outer product.
 *
 * @return false if the child has a parent already, or if the edge would close a cycle
 */
bool connect_tree_tensor_nodes(tree_tensor_network_t *ttn, tree_tensor_node_t *parent, tree_tensor_node_t *child);
/** Joins two free axes of the same size by a bond. The first bond makes `child` a child of `parent`; further calls
 * for the same two nodes add bonds. */
bool unimem_connect_axes(tree_tensor_network_t *ttn, tree_tensor_node_t *parent, size_t parent_axis,
                         tree_tensor_node_t *child, size_t child_axis);

/**
 * Contracts two nodes into a new one. If they have bonds with each other the sum goes over these; otherwise it goes
 * over the pair of axes that connect_tree_tensor_nodes() would choose if all their axes were free. The axes of the
 * result are those of `node1` that remain, then those of `node2`; {1} if none remain. The result is never held in
 * hierarchical memory, whatever holds the operands.
 *
 * A node is freed with its network and not before. So where results are many and soon done with, as in a sweep, let
 * `ttn` be a network of their own, and destroy that.
 *
 * @param node1,node2  nodes of this network or of others; they do not change
 * @param result       receives the new node, which belongs to `ttn` and has no parent and no bonds
 */
bool contract_tree_tensor_nodes(tree_tensor_network_t *ttn, tree_tensor_node_t *node1, tree_tensor_node_t *node2,
                                tree_tensor_node_t **result);
/**
 * Contracts the whole tree of the root, in a planned order. The axes of the result are the free axes of the nodes in
 * depth-first pre-order, those of each node in its own order; {1} if there are none. Intermediate values may exceed the
 * range of float.
 *
 * @param result       receives the elements, to be released with free(). NULL: nothing is contracted, and only the
 *                     sizes are returned
 * @param result_dims  room for *num_dims sizes; may be NULL
 * @param num_dims     receives the number of axes
 */
bool contract_full_tree_network(tree_tensor_network_t *ttn, ComplexFloat **result, size_t *result_dims,
                                size_t *num_dims);

/** Opens a stream over the elements of a node, in pieces of `chunk_size` elements (0: 1 MiB). NULL without memory. */
tensor_stream_t *create_tensor_stream(tree_tensor_network_t *ttn, tree_tensor_node_t *node, size_t chunk_size);
/** Ends a stream. NULL does nothing. Destroying a network ends its streams too. */
void destroy_tensor_stream(tensor_stream_t *stream);
/** Reads the next piece into the stream's buffer. At the end it returns false and sets no error. */
bool stream_next_chunk(tensor_stream_t *stream);
/**
 * Contracts the nodes of two streams, as contract_tree_tensor_nodes() does, into the elements of the third stream's
 * node, which must have the dimensions of the result. It copies blocks of the operands, never a whole tensor. The
 * positions of the streams do not change. If the progress callback stops the call, the elements of the result are
 * undefined.
 */
bool contract_tensor_streams(tensor_stream_t *stream1, tensor_stream_t *stream2, tensor_stream_t *result);

/**
 * Makes a tree of a general network. Its root is the valid node with the smallest id. Several connections between two
 * nodes become several bonds. Where the network is not a tree, neighbours on a cycle are contracted.
 *
 * @param ttn  receives a new network, whose tensors are allocated through the global interface
 * @return false, and nothing is made, if the network contradicts itself: unknown ids or ids used twice, connections
 *         that only one side has, different sizes of the joined axes
 */
bool convert_tensor_network_to_tree(tensor_network_t *network, tree_tensor_network_t **ttn);
/** Makes a general network of the root's tree, with the same tensors and bonds, and ids from 0 in pre-order. Each
 * structure and array in it is a block of its own from malloc(), so that the program's destroy_tensor_network() can
 * free it. */
bool convert_tree_to_tensor_network(tree_tensor_network_t *ttn, tensor_network_t **network);

/** Plans the order of contracting the tree thoroughly, and keeps the plan for later contractions. It changes nothing
 * else. */
bool optimize_tree_structure(tree_tensor_network_t *ttn);
/** Tells what contracting the tree will cost. `flops` receives the floating-point operations (8 for each
 * multiply-add). `peak_bytes` receives the most bytes that intermediate tensors and the result take at one time.
 * That is without the temporary copies on disk that a product of tensors larger than the budget may make. Either
 * pointer may be NULL. */
bool unimem_contraction_cost(tree_tensor_network_t *ttn, double *flops, double *peak_bytes);
/**
 * Brings the root's tree to canonical form and truncates its bonds, as far as `target_error` allows.
 *
 * It works in double precision on one tensor after another. For that it takes RAM outside the limit of `memory`, up to
 * about 250 bytes for each element of the largest tensor. The new tensors are allocated in `memory`, and the old ones
 * stay there until all is done.
 *
 * @param target_error  largest error of the whole network, relative in the Frobenius norm; 0 keeps everything above
 *                      rounding
 * @return true if no bond is larger than `max_rank`. False with UNIMEM_ERROR_LIMIT if a bond had to stay larger to keep
 *         the error: the tree is adapted all the same. False, and nothing changed, for every other error, and with
 *         UNIMEM_ERROR_LIMIT if the progress callback stopped the call
 */
bool adapt_bond_dimensions(tree_tensor_network_t *ttn, double target_error);

/** Allocates later tensors from a pool, or from its system if it is a pool of a memory system. The pool or system
 * must outlive the network. Existing tensors stay where they are and are freed there. */
bool set_memory_pool(tree_tensor_network_t *ttn, UNIMEM_POOL *pool);
#undef UNIMEM_POOL
/** Allocates later tensors from a memory system, as set_memory_pool() does from a pool. */
bool set_memory_system(tree_tensor_network_t *ttn, advanced_memory_system_t *system);

/** Writes what has been measured so far to `metrics`. */
bool get_tree_tensor_network_metrics(const tree_tensor_network_t *ttn, tensor_network_metrics_t *metrics);
/** Resets the metrics: counts and times to 0, the peak to what the network holds now. */
bool reset_tree_tensor_network_metrics(tree_tensor_network_t *ttn);
/** Sets the function that is told how far long operations of this network are; NULL: none. */
bool unimem_set_progress(tree_tensor_network_t *ttn, unimem_progress_t callback, void *context);
/** Limits the threads of one contraction, for the whole process; 0: as many as there are processors. */
void unimem_set_threads(size_t count);
/** Returns the number of threads that a large contraction uses. */
size_t unimem_threads(void);

#ifdef __cplusplus
}
#endif
#endif /* TREE_TENSOR_NETWORK_H */
#endif /* UNIMEM_TREE_TENSOR_NETWORK_H */
