//! Trees where nothing brings in what is touched: only chunks that are acquired may be.
use core::ptr::null_mut;
use unimem::c_api::interface::{unimem_close, unimem_open};
use unimem::c_api::tensor_conversion::convert_tree_to_tensor_network;
use unimem::c_api::tensor_types::*;
use unimem::c_api::tree_tensor_network::*;
use unimem::c_api::types::unified_pool_config_t;

/// A matrix of 8 MiB, in an instance of 4.
const N: usize = 1024;

#[test]
fn a_tensor_larger_than_the_budget_is_exported() {
    // SAFETY: the only test of this process, before the library is used; that as the header says.
    unsafe {
        std::env::set_var("UNIMEM_FAULTS", "none");
        let mut config = unified_pool_config_t { max_size: 4 << 20, ..Default::default() };
        (config.enable_growth, config.enable_streaming) = (true.into(), true.into());
        let memory = unimem_open(&config);
        let ttn = create_tree_tensor_network(0, 0, 0.0);
        (*ttn).memory = memory.cast();
        let elements: Vec<_> = (0..N * N).map(|i| ComplexFloat::new(i as f32, -1.0)).collect();
        let node = add_tree_tensor_node(ttn, elements.as_ptr(), [N, N].as_ptr(), 2, false);
        assert!(!node.is_null());
        let mut network: *mut tensor_network_t = null_mut();
        assert!(convert_tree_to_tensor_network(ttn, &mut network));
        let exported = *(*network).nodes;
        assert!(core::slice::from_raw_parts((*exported).data, N * N) == elements);
        for block in [
            (*exported).data.cast(),
            (*exported).dimensions,
            (*exported).connected_nodes,
            (*exported).connected_dims,
        ] {
            libc::free(block.cast());
        }
        for block in [exported.cast(), (*network).nodes.cast(), network] {
            libc::free(block.cast());
        }
        destroy_tree_tensor_network(ttn);
        assert!(unimem_close(memory));
    }
}
