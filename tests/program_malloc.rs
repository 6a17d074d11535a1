//! What the library takes from malloc under its own locks: nothing where malloc may be a heap of its, whose locks come first.
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::num::NonZeroUsize;
use unimem::heap::{Heap, HeapParams};
use unimem::instance::{config::Config, slots};
use unimem::singleton;

thread_local! {
    /// Blocks that this thread has allocated while they are counted.
    static ALLOCATED: Cell<Option<usize>> = const { Cell::new(None) };
}
struct Counting;
#[global_allocator]
static COUNTING: Counting = Counting;
fn track_more(count: usize) {
    for n in 0..count {
        singleton::track(NonZeroUsize::new(0x7000_0000_0000 + n * 64).unwrap()).unwrap();
    }
}
// SAFETY: the system's allocator, with a look at who calls.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(allocated) = ALLOCATED.take() {
            if allocated == 0 {
                track_more(1000); // as another thread might, now that it is known how many there are
            }
            ALLOCATED.set(Some(allocated + 1));
        }
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: forwarded.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Where malloc has nothing left, opening one is an error: Rust's own boxes would end the program.
#[test]
fn an_instance_is_opened_without_malloc() {
    ALLOCATED.set(Some(1));
    let slot = slots::open(Config::default());
    assert_eq!(ALLOCATED.take(), Some(1));
    assert_eq!(slots::close(slot.unwrap()), Ok(0));
}

#[test]
fn what_is_tracked_at_the_end_is_collected_without_malloc() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let system = NonZeroUsize::new(0x1000).unwrap();
    singleton::register(system);
    let block = heap.allocate(100, 0).unwrap().as_ptr();
    singleton::track(NonZeroUsize::new(block as usize).unwrap()).unwrap();
    track_more(100);
    assert_eq!(singleton::unregister(system), Ok(true));
    ALLOCATED.set(Some(0));
    let done = singleton::give_up_tracked(|owner, block| owner.free(block));
    assert_eq!(
        (done, ALLOCATED.take()),
        (Ok(()), Some(0)),
        "blocks taken from malloc, the second of them under a lock"
    );
    assert_eq!(heap.statistics().live, 0);
    heap.destroy();
}
