/* unimem/tree_tensor_network.h - drop-in for quantum_geometric/core/tree_tensor_network.h: dense complex tensors joined
 * to trees by bonds, and what contracts them.
 *
 * Elements are ComplexFloat; tensors are dense and row-major; axes are numbered from 0; sizes are in elements. A bond
 * joins one axis of a parent with one axis of a child of the same size; an axis in no bond is free.
 *
 * A network, with its nodes and streams, is used by one thread at a time; different networks by any number. A second
 * thread that comes meanwhile is refused. A failed call returns NULL or false, leaves the network as it was, and says
 * why through unimem_last_error() (unimem.h). Long products use all processors (unimem_set_threads). */
#ifndef UNIMEM_TREE_TENSOR_NETWORK_H
#define UNIMEM_TREE_TENSOR_NETWORK_H
#ifndef TREE_TENSOR_NETWORK_H /* the legacy header's own guard: it is not to come after this one */
#define TREE_TENSOR_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include "../unimem.h"
#include "advanced_memory_system.h" /* MemoryPool, advanced_memory_system_t */
#include "legacy_types.h"           /* ComplexFloat */

#ifdef UNIMEM_TYPES_OF_THE_TREE
#include "quantum_geometric/core/tensor_network_operations.h" /* the general networks of the tree */
#else

#ifdef __cplusplus
extern "C" {
#endif

/** A node of a general tensor network. */
typedef struct tensor_node {
    ComplexFloat *data;
    size_t *dimensions;
    size_t rank;           /**< num_dimensions */
    size_t num_dimensions;
    size_t total_size;     /**< product of the dimensions */
    size_t *connected_nodes; /**< ids of neighbours */
    size_t *connected_dims;  /**< own axis of each connection; the m-th of a towards b goes with the m-th of b towards a */
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

/** Error codes of general networks. */
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

/** A general tensor network; the program's own functions make and destroy it. */
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

/** A node, to be read; its elements may be written. Made by a network, and freed with it. */
struct tree_tensor_node {
    size_t id;                     /**< number in its network, from 0 */
    size_t rank;                   /**< size of the bond to the parent after adapt_bond_dimensions(); else 0 */
    size_t num_children;
    tree_tensor_node_t **children; /**< in the order they were connected */
    tree_tensor_node_t *parent;    /**< or NULL */
    ComplexFloat *data;            /**< the elements, row-major, wherever they are held */
    void *h_matrix;                /**< NULL: hierarchical nodes have `data` like all others */
    size_t *dimensions;
    size_t num_dimensions;
    bool is_leaf;                  /**< no children */
    bool use_hierarchical;         /**< `data` is hierarchical memory at the network's tolerance */
};

/** A network. Made by create_tree_tensor_network() alone. */
struct tree_tensor_network {
    tree_tensor_node_t *root; /**< the top of the first node's tree, or NULL */
    size_t num_nodes;         /**< contraction results included */
    size_t max_rank;          /**< largest bond that adapt_bond_dimensions() aims at; 0: no limit. May be changed. */
    size_t num_qubits;        /**< as given; not used */
    double tolerance;         /**< of hierarchical nodes, absolute. May be changed; holds for later nodes. */
    unified_memory_interface_t *memory; /**< where later tensors go: may be changed to any table, also a program's own,
                                             that lives until the network is destroyed and does not throw */
    tensor_network_metrics_t metrics;   /**< as of the last call */
};

/** A position in a node's elements. Made by create_tensor_stream() alone; to be read. */
struct tensor_stream {
    size_t chunk_size;     /**< elements a piece */
    size_t current_offset; /**< elements read so far: the piece in `buffer` ends here */
    size_t total_size;     /**< elements of the node */
    ComplexFloat *buffer;  /**< the latest piece */
    void *source;          /**< the node's data */
    tree_tensor_node_t *node;
    bool is_hierarchical;
    void *memory_pool;     /**< NULL */
};

/** Told how far a long operation is, on the calling thread: floating-point operations (steps for
 * adapt_bond_dimensions()) done and in all. False stops it, with UNIMEM_ERROR_LIMIT. It must not use the network, and
 * must return: a C++ exception that leaves it ends the program. */
typedef bool (*unimem_progress_t)(double done, double total, void *context);

/**
 * Makes a network without nodes, on the global interface.
 *
 * @param num_qubits  kept for the caller
 * @param max_rank    what adapt_bond_dimensions() aims at; 0: no limit
 * @param tolerance   largest error of an element of hierarchical nodes, absolute
 * @return the network, to be given to destroy_tree_tensor_network(); NULL for a tolerance that is negative or not finite
 */
tree_tensor_network_t *create_tree_tensor_network(size_t num_qubits, size_t max_rank, double tolerance);
/** Frees the network, its nodes and its streams. NULL does nothing. */
void destroy_tree_tensor_network(tree_tensor_network_t *ttn);

/**
 * Adds a node.
 *
 * @param data            elements, copied; NULL: zeros
 * @param dimensions      sizes, none of them 0; may be NULL for a scalar
 * @param num_dimensions  0: a scalar, of dimensions {1}
 * @param use_hierarchical  hold it in hierarchical memory
 * @return the node, which belongs to the network; NULL without memory or for impossible sizes
 */
tree_tensor_node_t *add_tree_tensor_node(tree_tensor_network_t *ttn, const ComplexFloat *data, const size_t *dimensions,
                                         size_t num_dimensions, bool use_hierarchical);
/**
 * Makes `child` a child of `parent`. Their bond: the parent's last free axis with the child's first free axis if the
 * sizes agree; else the first pair of free axes that do, parent's axes first; else none, an outer product.
 *
 * @return false for a child that has a parent already, and for an edge that would close a cycle
 */
bool connect_tree_tensor_nodes(tree_tensor_network_t *ttn, tree_tensor_node_t *parent, tree_tensor_node_t *child);
/** Joins two free axes of the same size; makes `child` a child of `parent` unless it is one, else adds a bond. */
bool unimem_connect_axes(tree_tensor_network_t *ttn, tree_tensor_node_t *parent, size_t parent_axis,
                         tree_tensor_node_t *child, size_t child_axis);

/**
 * Contracts two nodes into a new one, over their bonds if they have any, else over the pair of axes that
 * connect_tree_tensor_nodes() would find among all of theirs. Axes of the result: those of `node1` that remain, then
 * those of `node2`; {1} if none does.
 *
 * @param node1,node2  nodes of this network or of others; they stay as they are
 * @param result       the new node, which belongs to `ttn` and is not connected
 */
bool contract_tree_tensor_nodes(tree_tensor_network_t *ttn, tree_tensor_node_t *node1, tree_tensor_node_t *node2,
                                tree_tensor_node_t **result);
/**
 * Contracts the root's whole tree, in a planned order. Axes of the result: the nodes in depth-first pre-order, each
 * one's free axes in its own order; {1} if there are none. Intermediate values may leave the range of float.
 *
 * @param result       the elements, to be released with free(). NULL: nothing is contracted, only the sizes are told
 * @param result_dims  room for *num_dims sizes; may be NULL
 * @param num_dims     number of axes
 */
bool contract_full_tree_network(tree_tensor_network_t *ttn, ComplexFloat **result, size_t *result_dims,
                                size_t *num_dims);

/** A stream over a node's elements in pieces of `chunk_size` (0: 1 MiB); NULL without memory. */
tensor_stream_t *create_tensor_stream(tree_tensor_network_t *ttn, tree_tensor_node_t *node, size_t chunk_size);
/** Ends a stream. NULL does nothing. Destroying the network ends its streams, too. */
void destroy_tensor_stream(tensor_stream_t *stream);
/** Reads the next piece into the buffer. False at the end, without an error. */
bool stream_next_chunk(tensor_stream_t *stream);
/**
 * Contracts the nodes of two streams, as contract_tree_tensor_nodes() does, into the elements of the third one's node,
 * which must have the dimensions of the result. Copies blocks of the operands, never a whole tensor. The streams stay
 * where they are. After a stopped call the result's elements are undefined.
 */
bool contract_tensor_streams(tensor_stream_t *stream1, tensor_stream_t *stream2, tensor_stream_t *result);

/**
 * Makes a tree of a general network: its root is the valid node with the smallest id; several connections of two nodes
 * become several bonds; where the network is no tree, neighbours on a cycle are contracted.
 *
 * @param ttn  a new network on the global interface
 * @return false, and nothing made, for a network that contradicts itself: unknown or double ids, connections that one
 *         side does not have, different sizes
 */
bool convert_tensor_network_to_tree(tensor_network_t *network, tree_tensor_network_t **ttn);
/** Makes a general network of the root's tree: same tensors, same bonds; ids from 0 in pre-order. Every structure and
 * array in it is a block of its own from malloc(), for the program's destroy_tensor_network(). */
bool convert_tree_to_tensor_network(tree_tensor_network_t *ttn, tensor_network_t **network);

/** Plans the order of contracting the tree thoroughly, for later contractions. Changes nothing else. */
bool optimize_tree_structure(tree_tensor_network_t *ttn);
/** What contracting the tree will cost: floating-point operations, and most bytes of intermediate tensors and result at
 * one time, without the copies on disk that a product of tensors beyond the budget may make meanwhile. Either may be NULL. */
bool unimem_contraction_cost(tree_tensor_network_t *ttn, double *flops, double *peak_bytes);
/**
 * Brings the root's tree to canonical form and truncates its bonds. Works in double precision on one tensor after another,
 * in RAM beside the cap of `memory`: up to about 250 bytes for each element of the largest. The new tensors are made
 * in `memory`, where the old ones stay until all is done.
 *
 * @param target_error  error of the whole network at most, relative in the Frobenius norm; 0 keeps all above rounding
 * @return false where a bond stays larger than `max_rank` to keep the error: the tree is adapted all the same, and the
 *         error is UNIMEM_ERROR_LIMIT. False and nothing changed where the progress callback stopped it, which is
 *         UNIMEM_ERROR_LIMIT too, and for any other error.
 */
bool adapt_bond_dimensions(tree_tensor_network_t *ttn, double target_error);

/** Later tensors go to this pool (for a pool of a memory system: to its system), which must outlive the network. What
 * there is stays where it is, and goes back where it came from. */
bool set_memory_pool(tree_tensor_network_t *ttn, MemoryPool *pool);
/** The same with a memory system. */
bool set_memory_system(tree_tensor_network_t *ttn, advanced_memory_system_t *system);

/** Copies what has been measured. */
bool get_tree_tensor_network_metrics(const tree_tensor_network_t *ttn, tensor_network_metrics_t *metrics);
/** Sets counts and times to 0; the peak begins anew at what the network holds. */
bool reset_tree_tensor_network_metrics(tree_tensor_network_t *ttn);
/** Tells `callback` about long operations of this network; NULL: nobody. */
bool unimem_set_progress(tree_tensor_network_t *ttn, unimem_progress_t callback, void *context);
/** Most threads for one contraction, for the whole process; 0: as many as there are processors. */
void unimem_set_threads(size_t count);
/** Threads that a large contraction uses. */
size_t unimem_threads(void);

#ifdef __cplusplus
}
#endif
#endif /* TREE_TENSOR_NETWORK_H */
#endif /* UNIMEM_TREE_TENSOR_NETWORK_H */
