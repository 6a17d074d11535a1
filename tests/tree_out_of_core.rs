//! Networks larger than their instance's budget: the value of the same network without one.
use core::ptr::null_mut;
use unimem::c_api::interface::{unimem_close, unimem_held_bytes, unimem_open};
use unimem::c_api::tensor_types::*;
use unimem::c_api::tree_tensor_network::*;
use unimem::c_api::types::{memory_stats_t, unified_memory_interface_t, unified_pool_config_t};

const N: usize = 768;
/// A matrix takes 4.5 MiB.
const MATRIX: usize = N * N * 8;

fn elements(seed: u32, scale: f32) -> Vec<ComplexFloat> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale / (N as f32).sqrt()
    };
    (0..N * N).map(|_| ComplexFloat::new(next(), next())).collect()
}
fn config(max_size: usize) -> unified_pool_config_t {
    let mut config = unified_pool_config_t { max_size, chunk_size: 64 << 10, ..Default::default() };
    (config.enable_growth, config.enable_streaming) = (true.into(), true.into());
    config
}
/// A chain of matrices of these scales contracted under a budget; `hierarchical` for every second one.
fn chain(max_size: usize, scales: &[f32], hierarchical: bool) -> (Vec<ComplexFloat>, usize) {
    // SAFETY: used as the header says.
    unsafe {
        let memory: *mut unified_memory_interface_t = unimem_open(&config(max_size));
        assert!(!memory.is_null());
        let ttn = create_tree_tensor_network(0, 0, 1e-7);
        (*ttn).memory = memory.cast();
        let mut before: *mut tree_tensor_node_t = null_mut();
        let mut most = 0;
        for (i, scale) in scales.iter().enumerate() {
            let data = elements(i as u32 + 1, *scale);
            let node =
                add_tree_tensor_node(ttn, data.as_ptr(), [N, N].as_ptr(), 2, hierarchical && i % 2 == 1);
            assert!(!node.is_null(), "node {i}");
            assert!(before.is_null() || connect_tree_tensor_nodes(ttn, before, node));
            before = node;
            most = most.max(unimem_held_bytes(memory));
        }
        let (mut result, mut sizes, mut rank) = (null_mut(), [0; 16], 0);
        assert!(contract_full_tree_network(ttn, &mut result, sizes.as_mut_ptr(), &mut rank));
        assert_eq!((rank, &sizes[..2]), (2, &[N, N][..]));
        most = most.max(unimem_held_bytes(memory));
        let copy = core::slice::from_raw_parts(result, N * N).to_vec();
        libc::free(result.cast());
        // A pair, whose result stays in the network.
        let mut pair: *mut tree_tensor_node_t = null_mut();
        let children = *(*(*ttn).root).children;
        assert!(contract_tree_tensor_nodes(ttn, (*ttn).root, children, &mut pair));
        destroy_tree_tensor_network(ttn);
        let mut stats = memory_stats_t::default();
        ((*memory).get_stats.unwrap())(&mut stats);
        assert_eq!(stats.total_allocated, 0);
        assert!(unimem_close(memory));
        (copy, most)
    }
}
fn difference(a: &[ComplexFloat], b: &[ComplexFloat]) -> f64 {
    let square = |z: ComplexFloat| f64::from(z.re).powi(2) + f64::from(z.im).powi(2);
    let far: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (far / b.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

#[test]
fn a_chain_under_a_small_budget() {
    let (expected, _) = chain(0, &[1.0; 6], false);
    // Six matrices and the intermediates in the room of five.
    let (streamed, held) = chain(5 * MATRIX, &[1.0; 6], false);
    assert!(held <= 5 * MATRIX, "{held} bytes held");
    assert!(difference(&streamed, &expected) < 1e-5, "{}", difference(&streamed, &expected));
}
#[test]
fn hierarchical_nodes_under_a_small_budget() {
    let (expected, _) = chain(0, &[1.0; 4], false);
    let (compressed, _) = chain(5 * MATRIX, &[1.0; 4], true);
    // Elements are about 1 / sqrt(768) large and 1e-7 off at most: 3e-6 in each of two matrices.
    assert!(difference(&compressed, &expected) < 2e-5, "{}", difference(&compressed, &expected));
}
#[test]
fn scales_beyond_the_range_of_floats() {
    let (plain, _) = chain(0, &[1.0; 6], false);
    // Powers of two change nothing else; their product is 1.
    let (up, down) = (2f32.powi(90), 2f32.powi(-90));
    let (scaled, _) = chain(5 * MATRIX, &[up, up, down, down, down, up], false);
    assert!(difference(&scaled, &plain) < 1e-5, "{}", difference(&scaled, &plain));
}
