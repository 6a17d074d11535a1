/* Stand-in for the legacy tree_tensor_network.c: every function of its header, as small as it goes.
 *
 * Trees are chains of plain tensors here, each joined to its parent by the parent's last and its own first axis; that is
 * enough for swap_main.c. What the legacy file declared and never wrote is false here too. */
#include "unimem/tree_tensor_network.h"
#include "legacy.h"
#include <stdlib.h>
#include <string.h>

enum { MOST_NODES = 64 };
typedef struct {
    tree_tensor_network_t public;
    tree_tensor_node_t *nodes[MOST_NODES];
} network_t;

static size_t calls;
size_t legacy_network_calls(void) { return calls; }

tree_tensor_network_t *create_tree_tensor_network(size_t num_qubits, size_t max_rank, double tolerance) {
    network_t *network = calloc(1, sizeof *network);
    if (!network) return NULL;
    network->public.num_qubits = num_qubits;
    network->public.max_rank = max_rank;
    network->public.tolerance = tolerance;
    return &network->public;
}

void destroy_tree_tensor_network(tree_tensor_network_t *ttn) {
    network_t *network = (network_t *)ttn;
    for (size_t i = 0; network && i < ttn->num_nodes; i++) {
        free(network->nodes[i]->data);
        free(network->nodes[i]->dimensions);
        free(network->nodes[i]->children);
        free(network->nodes[i]);
    }
    free(network);
}

tree_tensor_node_t *add_tree_tensor_node(tree_tensor_network_t *ttn, const ComplexFloat *data, const size_t *dimensions,
                                         size_t num_dimensions, bool use_hierarchical) {
    calls++;
    if (!ttn || !dimensions || !num_dimensions || ttn->num_nodes == MOST_NODES) return NULL;
    size_t size = 1;
    for (size_t i = 0; i < num_dimensions; i++) size *= dimensions[i];
    tree_tensor_node_t *node = calloc(1, sizeof *node);
    if (!node) return NULL;
    node->data = calloc(size, sizeof *node->data);
    node->dimensions = malloc(num_dimensions * sizeof *dimensions);
    node->children = calloc(MOST_NODES, sizeof *node->children);
    if (!node->data || !node->dimensions || !node->children) {
        free(node->data), free(node->dimensions), free(node->children), free(node);
        return NULL;
    }
    if (data) memcpy(node->data, data, size * sizeof *data);
    memcpy(node->dimensions, dimensions, num_dimensions * sizeof *dimensions);
    node->num_dimensions = num_dimensions;
    node->is_leaf = true;
    node->use_hierarchical = use_hierarchical;
    node->id = ttn->num_nodes;
    ((network_t *)ttn)->nodes[ttn->num_nodes++] = node;
    if (!ttn->root) ttn->root = node;
    return node;
}

bool connect_tree_tensor_nodes(tree_tensor_network_t *ttn, tree_tensor_node_t *parent, tree_tensor_node_t *child) {
    if (!ttn || !parent || !child || parent == child || child->parent) return false;
    parent->children[parent->num_children++] = child;
    parent->is_leaf = false;
    child->parent = parent;
    if (ttn->root == child) ttn->root = parent;
    return true;
}

static size_t elements(const tree_tensor_node_t *node, size_t from, size_t to) {
    size_t product = 1;
    for (size_t i = from; i < to; i++) product *= node->dimensions[i];
    return product;
}

bool contract_tree_tensor_nodes(tree_tensor_network_t *ttn, tree_tensor_node_t *node1, tree_tensor_node_t *node2,
                                tree_tensor_node_t **result) {
    calls++;
    if (!ttn || !node1 || !node2 || !result) return false;
    size_t left = node1->num_dimensions - 1, right = node2->num_dimensions - 1, inner = node1->dimensions[left];
    if (inner != node2->dimensions[0] || left + right == 0 || left + right > 16) return false;
    size_t dimensions[16], rows = elements(node1, 0, left), columns = elements(node2, 1, right + 1);
    memcpy(dimensions, node1->dimensions, left * sizeof *dimensions);
    memcpy(dimensions + left, node2->dimensions + 1, right * sizeof *dimensions);
    tree_tensor_node_t *made = add_tree_tensor_node(ttn, NULL, dimensions, left + right, false);
    for (size_t i = 0; made && i < rows; i++)
        for (size_t k = 0; k < inner; k++)
            for (size_t j = 0; j < columns; j++) {
                ComplexFloat a = node1->data[i * inner + k], b = node2->data[k * columns + j];
                made->data[i * columns + j].real += a.real * b.real - a.imag * b.imag;
                made->data[i * columns + j].imag += a.real * b.imag + a.imag * b.real;
            }
    *result = made;
    return made != NULL;
}

bool contract_full_tree_network(tree_tensor_network_t *ttn, ComplexFloat **result, size_t *result_dims,
                                size_t *num_dims) {
    if (!ttn || !ttn->root || !result || !result_dims || !num_dims) return false;
    tree_tensor_node_t *whole = ttn->root;
    for (tree_tensor_node_t *node = ttn->root; node->num_children; node = node->children[0])
        if (!contract_tree_tensor_nodes(ttn, whole, node->children[0], &whole)) return false;
    size_t size = elements(whole, 0, whole->num_dimensions);
    *result = malloc(size * sizeof **result);
    if (!*result) return false;
    memcpy(*result, whole->data, size * sizeof **result);
    memcpy(result_dims, whole->dimensions, whole->num_dimensions * sizeof *result_dims);
    *num_dims = whole->num_dimensions;
    return true;
}

tensor_stream_t *create_tensor_stream(tree_tensor_network_t *ttn, tree_tensor_node_t *node, size_t chunk_size) {
    if (!ttn || !node || !chunk_size) return NULL;
    tensor_stream_t *stream = calloc(1, sizeof *stream);
    if (!stream) return NULL;
    stream->chunk_size = chunk_size;
    stream->total_size = elements(node, 0, node->num_dimensions);
    stream->node = node;
    stream->source = node->data;
    return stream;
}
void destroy_tensor_stream(tensor_stream_t *stream) { free(stream); }
bool stream_next_chunk(tensor_stream_t *stream) {
    if (!stream || stream->current_offset >= stream->total_size) return false;
    size_t left = stream->total_size - stream->current_offset;
    stream->buffer = stream->node->data + stream->current_offset;
    stream->current_offset += left < stream->chunk_size ? left : stream->chunk_size;
    return true;
}

bool contract_tensor_streams(tensor_stream_t *a, tensor_stream_t *b, tensor_stream_t *result) {
    return a && b && result && false;
}
bool convert_tensor_network_to_tree(tensor_network_t *network, tree_tensor_network_t **ttn) {
    return network && ttn && false;
}
bool convert_tree_to_tensor_network(tree_tensor_network_t *ttn, tensor_network_t **network) {
    return network && ttn && false;
}
bool optimize_tree_structure(tree_tensor_network_t *ttn) { return ttn != NULL; }
bool adapt_bond_dimensions(tree_tensor_network_t *ttn, double target_error) { return ttn && target_error < 0 && false; }
bool set_memory_pool(tree_tensor_network_t *ttn, MemoryPool *pool) { return ttn && pool && false; }
bool set_memory_system(tree_tensor_network_t *ttn, advanced_memory_system_t *system) { return ttn && system && false; }
bool get_tree_tensor_network_metrics(const tree_tensor_network_t *ttn, tensor_network_metrics_t *metrics) {
    if (!ttn || !metrics) return false;
    *metrics = ttn->metrics;
    return true;
}
bool reset_tree_tensor_network_metrics(tree_tensor_network_t *ttn) {
    if (!ttn) return false;
    memset(&ttn->metrics, 0, sizeof ttn->metrics);
    return true;
}
