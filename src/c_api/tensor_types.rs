//! The tensor types of the legacy headers under their C names. Assertions at the end check their layouts.
use super::legacy_types::Flag;
use crate::tensor::Complex;
use crate::tensor::records;
use core::ffi::c_void;
use core::mem::offset_of;

/// An element.
pub type ComplexFloat = Complex;
pub use records::{
    Metrics as tensor_network_metrics_t, TensorStream as tensor_stream_t,
    TreeTensorNetwork as tree_tensor_network_t, TreeTensorNode as tree_tensor_node_t,
};

/// A function that is told how far a long operation is. If it returns false the operation stops.
#[allow(non_camel_case_types)] // C's own names
pub type unimem_progress_t =
    Option<unsafe extern "C-unwind" fn(done: f64, total: f64, context: *mut c_void) -> bool>;

/// A node of a general tensor network.
#[repr(C)]
#[allow(missing_docs, non_camel_case_types)] // the legacy header's own names
pub struct tensor_node_t {
    pub data: *mut ComplexFloat,
    pub dimensions: *mut usize,
    pub rank: usize,
    pub num_dimensions: usize,
    pub total_size: usize,
    pub connected_nodes: *mut usize,
    pub connected_dims: *mut usize,
    pub num_connections: usize,
    pub id: usize,
    pub is_valid: Flag,
}

/// A general tensor network.
#[repr(C)]
#[allow(missing_docs, non_camel_case_types)] // the legacy header's own names
pub struct tensor_network_t {
    pub nodes: *mut *mut tensor_node_t,
    pub num_nodes: usize,
    pub capacity: usize,
    pub next_id: usize,
    pub connections: *mut c_void,
    pub num_connections: usize,
    pub is_optimized: Flag,
    pub optimized: Flag,
    pub contraction_order: *mut usize,
    pub max_memory: usize,
    pub metrics: tensor_network_metrics_t,
    pub last_error: i32,
    pub device: *mut c_void,
    pub auxiliary_data: *mut c_void,
}

/// Asserts the size of a structure and the offsets of its fields.
macro_rules! layout {
    ($type:ty, $size:literal, $($field:ident $offset:literal),+) => {
        const _: () = assert!(size_of::<$type>() == $size);
        const _: () = { $(assert!(offset_of!($type, $field) == $offset);)+ };
    };
}
layout!(ComplexFloat, 8, re 0, im 4);
layout!(tensor_network_metrics_t, 40, num_contractions 0, peak_memory_usage 8, total_time 16, optimization_time 24,
    contraction_time 32);
layout!(tree_tensor_node_t, 80, id 0, rank 8, num_children 16, children 24, parent 32, data 40, h_matrix 48,
    dimensions 56, num_dimensions 64, is_leaf 72, use_hierarchical 73);
layout!(tree_tensor_network_t, 88, root 0, num_nodes 8, max_rank 16, num_qubits 24, tolerance 32, memory 40,
    metrics 48);
layout!(tensor_stream_t, 64, chunk_size 0, current_offset 8, total_size 16, buffer 24, source 32, node 40,
    is_hierarchical 48, memory_pool 56);
layout!(tensor_node_t, 80, data 0, dimensions 8, rank 16, num_dimensions 24, total_size 32, connected_nodes 40,
    connected_dims 48, num_connections 56, id 64, is_valid 72);
layout!(tensor_network_t, 136, nodes 0, num_nodes 8, capacity 16, next_id 24, connections 32, num_connections 40,
    is_optimized 48, optimized 49, contraction_order 56, max_memory 64, metrics 72, last_error 112, device 120,
    auxiliary_data 128);
const _: () = assert!(align_of::<ComplexFloat>() == 4 && align_of::<tree_tensor_network_t>() == 8);
