//! Every mapping call of the heap fails once, at each place it can: an error, and nothing else.
//! A program of its own, because the failures hit the whole process.
use unimem::error::Error;
use unimem::heap::{Heap, HeapParams};
use unimem::os::map::fault;

#[test]
fn every_failing_system_call_is_an_error_and_nothing_else() {
    for n in 0..12 {
        fault::arm(n);
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
        fault::disarm();
    }
}
