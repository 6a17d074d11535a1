/* unimem/tree_tensor_network.hpp - tree tensor networks for C++17. Header only; failures throw as in unimem.hpp. */
#ifndef UNIMEM_TREE_TENSOR_NETWORK_HPP
#define UNIMEM_TREE_TENSOR_NETWORK_HPP

#include <cstdlib>
#include <memory>
#include <vector>

#include "../unimem.hpp"
#include "tree_tensor_network.h"

namespace unimem {

/** The tensor that results from a contraction. */
struct tensor_value {
    struct released {
        void operator()(ComplexFloat *block) const noexcept { std::free(block); }
    };
    std::unique_ptr<ComplexFloat[], released> elements; /**< row-major */
    std::vector<std::size_t> dimensions;
};

/** Owns a tree tensor network with its nodes. One thread at a time may use it. It must not outlive its instance. */
class tree_network {
public:
    /** Makes a network whose tensors are allocated in `memory`; NULL means the global interface. */
    explicit tree_network(unified_memory_interface_t *memory = nullptr, double tolerance = 0.0, std::size_t max_rank = 0)
        : network_(create_tree_tensor_network(0, max_rank, tolerance)) {
        if (!network_) throw_last_error();
        if (memory) network_->memory = memory;
    }
    tree_tensor_network_t *get() const noexcept { return network_.get(); }

    /** Adds a node with a copy of `elements` (NULL: zeros). It belongs to the network. */
    tree_tensor_node_t *add(const ComplexFloat *elements, const std::vector<std::size_t> &dimensions,
                            bool hierarchical = false) {
        return checked(add_tree_tensor_node(get(), elements, dimensions.data(), dimensions.size(), hierarchical));
    }
    /** Joins two free axes of the same size by a bond. */
    void connect(tree_tensor_node_t *parent, std::size_t parent_axis, tree_tensor_node_t *child, std::size_t child_axis) {
        check(unimem_connect_axes(get(), parent, parent_axis, child, child_axis));
    }
    /** Contracts two nodes into a new one, which belongs to the network. */
    tree_tensor_node_t *contract(tree_tensor_node_t *first, tree_tensor_node_t *second) {
        tree_tensor_node_t *result = nullptr;
        check(contract_tree_tensor_nodes(get(), first, second, &result));
        return result;
    }
    /** Contracts the whole tree of the root. */
    tensor_value contract() {
        std::size_t axes = 0;
        check(contract_full_tree_network(get(), nullptr, nullptr, &axes));
        tensor_value value{};
        value.dimensions.resize(axes);
        ComplexFloat *elements = nullptr;
        check(contract_full_tree_network(get(), &elements, value.dimensions.data(), &axes));
        value.elements.reset(elements);
        return value;
    }
    /** Truncates bonds within `target_error`, relative in the Frobenius norm; see adapt_bond_dimensions(). */
    void adapt(double target_error) { check(adapt_bond_dimensions(get(), target_error)); }

private:
    struct destroyed {
        void operator()(tree_tensor_network_t *network) const noexcept { destroy_tree_tensor_network(network); }
    };
    static void check(bool succeeded) {
        if (!succeeded) throw_last_error();
    }
    static tree_tensor_node_t *checked(tree_tensor_node_t *node) {
        check(node != nullptr);
        return node;
    }
    std::unique_ptr<tree_tensor_network_t, destroyed> network_;
};

} // namespace unimem

#endif // UNIMEM_TREE_TENSOR_NETWORK_HPP
