//! The structures C programs see. Layouts are part of the ABI; `c_api::tensor_types` asserts them.
//!
//! The library writes these structures. It never follows their links between networks, nodes and streams,
//! because C may have changed them; the state in `network` decides. What it reads is what C may set: a
//! network's `memory`, `tolerance` and `max_rank`.
use super::Complex;
use super::memory::Table;
use core::ffi::c_void;

/// `tree_tensor_node_t`
#[repr(C)]
pub struct TreeTensorNode {
    /// Number of the node in its network, from 0.
    pub id: usize,
    /// Size of the bond to the parent, once bonds were adapted; else 0.
    pub rank: usize,
    /// Number of children.
    pub num_children: usize,
    /// The children, in the order they were connected.
    pub children: *mut *mut TreeTensorNode,
    /// The parent, or NULL.
    pub parent: *mut TreeTensorNode,
    /// The elements, row-major.
    pub data: *mut Complex,
    /// Always NULL.
    pub h_matrix: *mut c_void,
    /// Sizes of the axes.
    pub dimensions: *mut usize,
    /// Number of axes.
    pub num_dimensions: usize,
    /// No children.
    pub is_leaf: bool,
    /// The data are in hierarchical memory.
    pub use_hierarchical: bool,
}

/// `tensor_network_metrics_t`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Products of two tensors so far.
    pub num_contractions: usize,
    /// Most bytes the network has held.
    pub peak_memory_usage: usize,
    /// Seconds in operations of the network.
    pub total_time: f64,
    /// Seconds in planning.
    pub optimization_time: f64,
    /// Seconds in products.
    pub contraction_time: f64,
}

/// `tree_tensor_network_t`
#[repr(C)]
pub struct TreeTensorNetwork {
    /// The top of the first node's tree, or NULL.
    pub root: *mut TreeTensorNode,
    /// Number of nodes, contraction results included.
    pub num_nodes: usize,
    /// Largest bond that `adapt_bond_dimensions` aims at; 0: no limit.
    pub max_rank: usize,
    /// As given; the library does not use it.
    pub num_qubits: usize,
    /// Largest error of an element in hierarchical memory.
    pub tolerance: f64,
    /// Where new tensors are put.
    pub memory: *mut Table,
    /// What has been done so far.
    pub metrics: Metrics,
}

/// `tensor_stream_t`
#[repr(C)]
pub struct TensorStream {
    /// Elements per piece.
    pub chunk_size: usize,
    /// Elements read so far: the piece in `buffer` ends here.
    pub current_offset: usize,
    /// Elements of the node.
    pub total_size: usize,
    /// The piece.
    pub buffer: *mut Complex,
    /// The node's data.
    pub source: *mut c_void,
    /// The node.
    pub node: *mut TreeTensorNode,
    /// The node's data are in hierarchical memory.
    pub is_hierarchical: bool,
    /// Always NULL.
    pub memory_pool: *mut c_void,
}
