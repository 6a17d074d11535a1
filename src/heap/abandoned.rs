//! Caches of threads that a forked child does not have.
//!
//! The child sets them aside, which touches next to none of their memory: most children run another program at once. One
//! that goes on takes them over when its own thread's cache runs empty, on trim, and before it gives up for want of memory:
//! it puts their blocks back into the spans and adds up their figures.
//!
//! A thread may have been in the middle of an operation when the process forked. Then its magazine may not be whole, but its
//! slots are the truth (slot.rs), and nobody changes these any more: an entry that is only half written, or whose slot has
//! not the magazine's tag, is dropped, and a block on its way between magazine and program stays where its slot says. At
//! worst one such block a thread is lost to the child, and the figures are off by one operation or publication (tally.rs).
//! A magazine that was growing has no base, and is left alone.
use super::cache::{self, ThreadCache};
use super::*;
use core::ptr::null_mut;

impl Heap {
    /// In a child, with all locks held: sets the caches of all other threads aside.
    ///
    /// # Safety
    /// The heap's lock is held, and `central` is all there is of it.
    pub(super) unsafe fn abandon_caches(&self, central: &mut Central) {
        let own = self.existing_cache();
        if let Some(own) = own {
            registry::unlink(central, own);
        }
        let mut end: *mut *mut ThreadCache = &mut central.abandoned;
        // SAFETY: listed caches are live under the heap's lock.
        unsafe {
            while !(*end).is_null() {
                end = (**end).next.as_ptr();
            }
            *end = central.caches;
        }
        central.caches = null_mut();
        central.number_of_caches = 0;
        if let Some(own) = own {
            registry::link(central, own);
        }
    }

    /// Puts back what abandoned caches hold, and ends them. False where there are none.
    pub(super) fn take_over_abandoned(&self, central: &mut Central) -> bool {
        let any = !central.abandoned.is_null();
        while let Some(cache) = NonNull::new(central.abandoned) {
            // SAFETY: listed caches are live under the heap's lock, and this one is nobody's.
            let abandoned = unsafe { cache.as_ref() };
            central.abandoned = abandoned.next.get();
            self.flush(central, abandoned);
            cache::retire(abandoned, self, central);
            // SAFETY: empty and unlisted; the table of its thread's record is nobody's either.
            unsafe { ThreadCache::release(cache) };
        }
        any
    }
}
