/* test_contract_trees.c - the fields of streams and of converted networks that programs read, and where tensors are. */
#define _GNU_SOURCE
#include "trees.h"

#include "tap.h"

static void test_streams(void) {
    tree_tensor_network_t *network = create_tree_tensor_network(0, 0, 0);
    size_t count = 3 * MIB / sizeof(ComplexFloat) + 5;
    tree_tensor_node_t *node = add_tree_tensor_node(network, NULL, &count, 1, false);
    for (size_t i = 0; i < count; i++) node->data[i].real = (float)(i % 1000);
    tensor_stream_t *stream = create_tensor_stream(network, node, 0);
    CHECK("a stream tells its node and its size, and begins before the first piece",
          stream && stream->node == node && stream->source == node->data && stream->total_size == count &&
              stream->current_offset == 0 && !stream->is_hierarchical && !stream->memory_pool);
    CHECK_EQ("without a size its pieces have 1 MiB", stream->chunk_size, MIB / sizeof(ComplexFloat));
    TEST("current_offset is where the piece in the buffer ends") {
        for (size_t piece = 0; piece < 4; piece++) {
            bool read = stream_next_chunk(stream);
            size_t first = piece * stream->chunk_size, end = piece < 3 ? first + stream->chunk_size : count;
            if (EXPECT(read && stream->current_offset == end, "piece %zu ends at %zu", piece, stream->current_offset))
                EXPECT(memcmp(stream->buffer, node->data + first, (end - first) * sizeof(ComplexFloat)) == 0, "piece %zu", piece);
        }
        EXPECT(!stream_next_chunk(stream) && stream->current_offset == count, "a piece more");
    }
    destroy_tree_tensor_network(network);
}

static void release(tensor_network_t *network) {
    for (size_t i = 0; i < network->num_nodes; i++) {
        tensor_node_t *node = network->nodes[i];
        free(node->data), free(node->dimensions), free(node->connected_nodes), free(node->connected_dims), free(node);
    }
    free(network->nodes);
    free(network);
}

static void test_converted(void) {
    tree_tensor_network_t *tree = create_tree_tensor_network(0, 0, 0);
    tree_tensor_node_t *outside = NULL, *nodes[3];
    for (size_t i = 0; i < 3; i++) nodes[i] = add_tree_tensor_node(tree, NULL, (size_t[]){2, 3, 4}, 3, false);
    outside = add_tree_tensor_node(tree, NULL, NULL, 0, false);
    CHECK("a tree of three nodes, and one outside",
          unimem_connect_axes(tree, nodes[2], 1, nodes[0], 1) && unimem_connect_axes(tree, nodes[0], 0, nodes[1], 0) && outside &&
              tree->root == nodes[2]);
    for (size_t i = 0; i < 3; i++) nodes[i]->data[23].imag = (float)(i + 1);
    tensor_network_t *network = NULL;
    if (!CHECK("is converted", convert_tree_to_tensor_network(tree, &network))) return;
    CHECK("the network has room for its nodes, and ids for further ones",
          network->num_nodes == 3 && network->capacity >= 3 && network->next_id >= 3);
    CHECK("nothing else is set in it", !network->connections && network->num_connections == 0 && !network->contraction_order &&
                                           !network->device && !network->auxiliary_data &&
                                           network->last_error == TENSOR_NETWORK_SUCCESS);
    TEST("each node is valid, with its rank, size and elements, and ids in pre-order") {
        for (size_t i = 0; i < 3; i++) {
            const tensor_node_t *node = network->nodes[i];
            EXPECT(node->is_valid && node->id == i && node->rank == 3 && node->num_dimensions == 3 && node->total_size == 24,
                   "node %zu: id %zu, rank %zu, %zu elements", i, node->id, node->rank, node->total_size);
            EXPECT(node->data[23].imag == (float)((i + 2) % 3 + 1), "node %zu has the elements of another", i);
            EXPECT(node->num_connections == (i == 1 ? 2 : 1), "node %zu has %zu connections", i, node->num_connections);
        }
    }
    release(network);
    destroy_tree_tensor_network(tree);
}

/* Many tensors, each small beside the budget, together five times as large. */
static void test_many_beyond_the_budget(void) {
    const size_t limit = 4 * MIB, bytes[] = {64 * KIB, 200 * KIB, 500 * KIB, MIB, 3 * MIB};
    for (size_t size = 0; size < sizeof bytes / sizeof *bytes; size++) {
        char name[100];
        snprintf(name, sizeof name, "tensors of %zu KiB each, together beyond the budget", bytes[size] / KIB);
        TEST(name) {
            unified_pool_config_t config = {.max_size = limit, .enable_growth = true, .enable_streaming = true};
            unified_memory_interface_t *memory = unimem_open(&config);
            tree_tensor_network_t *network = create_tree_tensor_network(0, 0, 0);
            tree_tensor_node_t *nodes[400], *sum = NULL;
            size_t elements = bytes[size] / sizeof(ComplexFloat), count = 5 * limit / bytes[size], tiered = 0;
            network->memory = memory;
            for (size_t i = 0; i < count; i++) {
                nodes[i] = add_tree_tensor_node(network, NULL, &elements, 1, false);
                if (!EXPECT(nodes[i], "node %zu: %s", i, unimem_last_error_message())) {
                    count = i;
                    break;
                }
                nodes[i]->data[i % elements] = (ComplexFloat){(float)i, 1};
                nodes[i]->data[(i + 1) % elements] = (ComplexFloat){0, 1};
                tiered += unimem_chunk_count(nodes[i]->data) > 0;
                EXPECT(unimem_held_bytes(memory) <= limit, "%zu bytes held", unimem_held_bytes(memory));
            }
            EXPECT(tiered * bytes[size] > 4 * limit - MIB, "%zu of %zu are in tiered memory", tiered, count);
            /* Node k is k + i at place k and i at place k + 1, so nodes k and k + 1 meet in place k + 1: i times (k + 1 + i). */
            for (size_t i = 0; i + 1 < count; i++) {
                if (!EXPECT(contract_tree_tensor_nodes(network, nodes[i], nodes[i + 1], &sum), "product %zu: %s", i,
                            unimem_last_error_message()))
                    break;
                EXPECT(sum->data[0].real == -1 && sum->data[0].imag == (float)(i + 1), "product %zu: %g + %gi", i,
                       (double)sum->data[0].real, (double)sum->data[0].imag);
            }
            destroy_tree_tensor_network(network);
            EXPECT(unimem_close(memory), "something is left");
        }
    }
}

int main(void) {
    test_streams();
    test_many_beyond_the_budget();
    test_converted();
    CHECK_EQ("nothing is live", stats_of(unimem_global()).total_allocated, 0);
    return tap_done();
}
