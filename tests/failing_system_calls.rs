//! Every mapping call of the heap fails once, at each place it can: an error, and nothing else; and those of a product out of core.
//! A program of its own, because the failures hit the whole process; its tests take turns.
use std::sync::Mutex;
use unimem::c_api::interface::{unimem_close, unimem_last_error, unimem_open};
use unimem::c_api::tensor_streams::{contract_tensor_streams, create_tensor_stream};
use unimem::c_api::tensor_types::*;
use unimem::c_api::tree_tensor_network::*;
use unimem::c_api::types::{unified_pool_config_t, unimem_error_t};
use unimem::error::Error;
use unimem::heap::{self, Heap, HeapParams};
use unimem::os::injection::{Operation::*, arm, disarm, unimem_end_faults};

static TURN: Mutex<()> = Mutex::new(());

#[test]
fn every_failing_system_call_is_an_error_and_nothing_else() {
    let _turn = TURN.lock();
    for n in 0..40 {
        arm(&[Map, Remap, Discard, Populate, Record], n, libc::ENOMEM);
        let heap = Heap::create(&HeapParams { ready: 1 << 20, ..HeapParams::default() });
        if let Ok(heap) = heap {
            let mut blocks = Vec::new();
            for size in [64, 5000, 100_000, 3 << 20] {
                blocks.extend(heap.allocate(size, 0));
            }
            if let Some(&last) = blocks.last() {
                let block = heap.block(last.as_ptr()).unwrap();
                match heap.reallocate(last.as_ptr(), 64 << 20) {
                    Ok(moved) => *blocks.last_mut().unwrap() = moved,
                    Err(error) => {
                        assert_eq!(error, Error::OutOfMemory);
                        assert_eq!(heap.block(last.as_ptr()), Some(block));
                    }
                }
            }
            for block in blocks {
                // SAFETY: live and at least 64 bytes long.
                unsafe { block.write_bytes(1, 64) };
                heap.free(block.as_ptr()).unwrap();
            }
            assert_eq!(heap.statistics().live, 0);
            heap.destroy();
        }
        disarm();
    }
}

#[test]
fn blocks_of_an_ended_heap_are_nobodys() {
    let _turn = TURN.lock();
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let blocks: Vec<_> =
        [40, 5000, 100_000, 3 << 20].map(|size| heap.allocate(size, 0).unwrap().as_ptr()).into();
    assert!(blocks.iter().all(|&block| heap::owner(block).is_some()));
    assert_eq!(heap.destroy().blocks, 4);
    assert!(blocks.iter().all(|&block| heap::owner(block).is_none()));
    assert!(blocks.iter().all(|&block| heap::owner_of_interior(block.wrapping_add(1)).is_none()));
}

/// Columns by rows, in half of the room for them: they are copied, if that can be.
#[test]
fn a_product_that_does_without_copies_leaves_the_last_error_alone() {
    const N: usize = 600;
    let _turn = TURN.lock();
    let mut config = unified_pool_config_t { max_size: 4 << 20, chunk_size: 64 << 10, ..Default::default() };
    (config.enable_growth, config.enable_streaming) = (true.into(), true.into());
    // SAFETY: used as the header says.
    unsafe {
        let memory = unimem_open(&config);
        let ttn = create_tree_tensor_network(0, 0, 0.0);
        (*ttn).memory = memory.cast();
        let ones = vec![ComplexFloat::new(1.0, 0.0); N * N];
        let nodes = [&ones, &ones, &ones].map(|elements| {
            let node = add_tree_tensor_node(ttn, elements.as_ptr(), [N, N].as_ptr(), 2, false);
            assert!(!node.is_null());
            node
        });
        assert!(unimem_connect_axes(ttn, nodes[0], 0, nodes[1], 1));
        let [left, right, out] = nodes.map(|node| create_tensor_stream(ttn, node, 1));
        arm(&[Map], 0, libc::ENOMEM);
        let done = contract_tensor_streams(left, right, out);
        assert!(unimem_end_faults() > 0, "no memory for copies was asked for");
        assert!(done);
        assert_eq!(unimem_last_error(), unimem_error_t::UNIMEM_OK);
        assert!(
            core::slice::from_raw_parts((*nodes[2]).data, N * N).iter().all(|z| *z == ones[0] * N as f32)
        );
        destroy_tree_tensor_network(ttn);
        assert!(unimem_close(memory));
    }
}
