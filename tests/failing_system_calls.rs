//! Every mapping call of the heap fails once, at each place it can: an error, and nothing else.
//! A program of its own, because the failures hit the whole process; its tests take turns.
use std::sync::Mutex;
use unimem::error::Error;
use unimem::heap::{self, Heap, HeapParams};
use unimem::os::injection::{Operation::*, arm, disarm};

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
