//! The program's one memory system, and the blocks that the program tracks.
//!
//! - The system is only an address here and is never followed, because a legacy C file may have registered its own.
//! - All functions may be called from any thread.
//! - Fork takes the locks, so a child finds them free.
use crate::error::{Result, fail};
use crate::heap::tracked::SINGLETON as TRACKED;
use crate::heap::{self, Heap};
use crate::instance::{self, tiered};
use crate::log::log;
use crate::os::{fork::AtFork, lock::Mutex, records::Records};
use allocator_api2::vec::Vec;
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// How many leaks the log names.
const LEAKS_LOGGED: usize = 16;

/// Address of the program's system; 0: none. Written under the lock of [`REFERENCES`].
static SYSTEM: AtomicUsize = AtomicUsize::new(0);
static REFERENCES: Mutex<usize> = Mutex::new(0);

/// See load.rs.
pub(crate) static HOOKS: &dyn AtFork = &REFERENCES;

/// The program's system.
pub fn global() -> Option<NonZeroUsize> {
    NonZeroUsize::new(SYSTEM.load(Acquire))
}

/// Makes `system` the program's if there is none, and adds a reference in either case.
pub fn register(system: NonZeroUsize) {
    let mut references = REFERENCES.lock();
    if SYSTEM.load(Relaxed) == 0 {
        SYSTEM.store(system.get(), Release);
    }
    *references += 1;
}

/// Gives up one reference to the program's system. InvalidArgument for any other system. True if it was the last
/// reference: then the caller has to [give up](give_up_tracked) what is still tracked.
pub fn unregister(system: NonZeroUsize) -> Result<bool> {
    let mut references = REFERENCES.lock();
    if SYSTEM.load(Relaxed) != system.get() {
        return fail!(InvalidArgument, "{system:#x} is not the program's memory system");
    }
    *references -= 1;
    if *references == 0 {
        SYSTEM.store(0, Release);
    }
    Ok(*references == 0)
}

/// Reports the blocks that are still tracked to the log, frees those of libunimem, and forgets all of them. `free`
/// frees a block of a heap in the way of the heap's owner.
pub fn give_up_tracked(free: impl Fn(&'static Heap, *mut u8) -> Result<()>) -> Result<()> {
    // Collects the addresses first, because more may be tracked meanwhile. The list is in records: malloc's heap may be
    // one of ours, and the locks of heaps are taken before the tracker's.
    let mut addresses = Vec::new_in(Records);
    let mut missing = 0;
    TRACKED.for_each(|address| match addresses.try_reserve(1) {
        Ok(()) => addresses.push(address),
        Err(_) => missing += 1,
    });
    if missing > 0 {
        return fail!(OutOfMemory, "no memory to report {} tracked blocks", addresses.len() + missing);
    }
    let (mut leaks, mut freed) = (0, 0);
    for address in addresses {
        if !TRACKED.untrack(address) {
            continue; // another thread untracked it first, or its block is gone
        }
        leaks += 1;
        let pointer = address as *mut u8;
        let ours = heap::owner(pointer).is_some_and(|(heap, _)| free(heap, pointer).is_ok())
            || tiered::free_anywhere(pointer);
        freed += usize::from(ours);
        if leaks <= LEAKS_LOGGED {
            let fate = if ours { "freed" } else { "no block of libunimem, left alone" };
            log!(Warning, "leak: tracked block at {address:#x}, {fate}");
        }
    }
    if leaks > 0 {
        log!(Warning, "leak: {leaks} blocks were tracked still, {freed} of them are freed");
    }
    Ok(())
}

/// Tracks an address; tracking it again changes nothing. In memory of libunimem it is tracked as long as that memory
/// lives.
pub fn track(address: NonZeroUsize) -> Result<()> {
    let address = address.get();
    match instance::memory_at(address as *const u8) {
        Some(memory) => memory.track(&TRACKED, address),
        None => TRACKED.track(address, address),
    }
}
/// Stops tracking an address. False if it was not tracked.
pub fn untrack(address: NonZeroUsize) -> bool {
    TRACKED.untrack(address.get())
}
/// Whether an address is tracked.
pub fn is_tracked(address: NonZeroUsize) -> bool {
    TRACKED.is_tracked(address.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::HeapParams;

    fn address(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }

    /// A single test, because there is one singleton.
    #[test]
    fn references_are_counted_and_what_is_left_is_freed() {
        let (first, second) = (address(0x1000), address(0x2000));
        assert_eq!(global(), None);
        register(first);
        register(second);
        assert_eq!(global(), Some(first), "the first one stays");
        assert!(unregister(second).is_err());
        assert_eq!(unregister(first), Ok(false));
        assert_eq!(global(), Some(first));

        let heap = Heap::create(&HeapParams::default()).unwrap();
        let ours = heap.allocate(100, 0).unwrap().as_ptr();
        let foreign = Box::new(7);
        let tracked = [ours as usize, core::ptr::from_ref(&*foreign) as usize].map(address);
        for block in tracked {
            track(block).unwrap();
            track(block).unwrap();
            assert!(is_tracked(block));
        }
        assert_eq!(unregister(first), Ok(true));
        assert_eq!(global(), None);
        give_up_tracked(|owner, block| {
            assert!(core::ptr::eq(owner, heap));
            owner.free(block)
        })
        .unwrap();
        assert!(!tracked.into_iter().any(is_tracked));
        assert_eq!(heap.block(ours), None, "freed");
        assert_eq!(*foreign, 7);
        heap.destroy();

        assert!(unregister(first).is_err());
        register(second);
        assert_eq!(global(), Some(second), "a count below zero was not kept");
        assert_eq!(unregister(second), Ok(true));
        assert!(!untrack(tracked[0]));
    }
}
