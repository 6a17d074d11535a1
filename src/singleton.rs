//! The program's one memory system, and the blocks the program keeps an eye on.
//!
//! The system is an address here, never followed: a legacy C file may have registered its own. All functions may be
//! called from any thread; the locks are held across fork.
use crate::error::{Result, fail};
use crate::heap;
use crate::instance::tracking::{Tracked, TrackingTable};
use crate::log::log;
use crate::os::{fork, lock::Mutex};
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// Leaks named one by one in the log.
const LEAKS_LOGGED: usize = 16;

/// Address of the program's system; 0: none. Written under the lock of [`REFERENCES`].
static SYSTEM: AtomicUsize = AtomicUsize::new(0);
static REFERENCES: Mutex<usize> = Mutex::new(0);
static TRACKED: TrackingTable = TrackingTable::new();

/// See load.rs.
pub(crate) static HOOKS: fork::Hooks = fork::Hooks {
    prepare: || {
        core::mem::forget(REFERENCES.lock());
        TRACKED.lock_all();
    },
    parent: unlock,
    child: unlock,
};
fn unlock() {
    // SAFETY: runs only after `prepare` has taken these locks and forgotten their guards.
    unsafe {
        TRACKED.unlock_all();
        REFERENCES.force_unlock();
    }
}

/// The program's system.
pub fn global() -> Option<NonZeroUsize> {
    NonZeroUsize::new(SYSTEM.load(Acquire))
}

/// Makes `system` the program's if there is none, and counts one more reference.
pub fn register(system: NonZeroUsize) {
    let mut references = REFERENCES.lock();
    if SYSTEM.load(Relaxed) == 0 {
        SYSTEM.store(system.get(), Release);
    }
    *references += 1;
}

/// Gives up one reference of the program's system; any other is ignored. With the last one, what is still tracked is
/// reported to the log, freed if it is a live block of libunimem, and tracked no more.
pub fn unregister(system: NonZeroUsize) -> Result<()> {
    let mut references = REFERENCES.lock();
    if SYSTEM.load(Relaxed) != system.get() {
        return fail!(InvalidArgument, "{system:#x} is not the program's memory system");
    }
    *references -= 1;
    if *references > 0 {
        return Ok(());
    }
    SYSTEM.store(0, Release);
    drop(references);
    give_up_tracked()
}

fn give_up_tracked() -> Result<()> {
    let mut addresses = Vec::new();
    if addresses.try_reserve_exact(TRACKED.count()).is_err() {
        return fail!(OutOfMemory, "no memory to report {} tracked blocks", TRACKED.count());
    }
    TRACKED.for_each(|address, _| addresses.push(address));
    let (mut leaks, mut freed) = (0, 0);
    for address in addresses {
        if TRACKED.untrack(address).is_none() {
            continue; // its owner was faster
        }
        leaks += 1;
        let pointer = address as *mut u8;
        let ours = heap::owner(pointer).is_some_and(|(heap, _)| heap.free(pointer).is_ok());
        freed += usize::from(ours);
        if leaks <= LEAKS_LOGGED {
            let fate = if ours { "freed" } else { "not libunimem's, left alone" };
            log!(Warning, "leak: tracked block at {address:#x}, {fate}");
        }
    }
    if leaks > 0 {
        log!(Warning, "leak: {leaks} blocks were tracked still, {freed} of them are freed");
    }
    Ok(())
}

/// Tracks an address, once.
pub fn track(address: NonZeroUsize) -> Result<()> {
    match TRACKED.track(address.get(), 0) {
        Tracked::New | Tracked::Again(_) => Ok(()),
        Tracked::NoMemory => fail!(OutOfMemory, "no memory to track {address:#x}"),
    }
}
/// Tracks an address no more; false when it was not tracked.
pub fn untrack(address: NonZeroUsize) -> bool {
    TRACKED.untrack(address.get()).is_some()
}
/// Whether an address is tracked.
pub fn is_tracked(address: NonZeroUsize) -> bool {
    TRACKED.get(address.get()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{Heap, HeapParams};

    fn address(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }

    /// One test: there is one singleton.
    #[test]
    fn references_are_counted_and_what_is_left_is_freed() {
        let (first, second) = (address(0x1000), address(0x2000));
        assert_eq!(global(), None);
        register(first);
        register(second);
        assert_eq!(global(), Some(first), "the first one stays");
        assert!(unregister(second).is_err());
        unregister(first).unwrap();
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
        unregister(first).unwrap();
        assert_eq!(global(), None);
        assert!(!tracked.into_iter().any(is_tracked));
        assert_eq!(heap.block(ours), None, "freed");
        assert_eq!(*foreign, 7);
        heap.destroy();

        assert!(unregister(first).is_err());
        register(second);
        assert_eq!(global(), Some(second), "a count below zero was not kept");
        unregister(second).unwrap();
        assert!(!untrack(tracked[0]));
    }
}
