//! Caches of threads that a forked child does not have.
//!
//! The child sets these caches aside, which touches next to none of their memory: most children run another program at once.
//! A child that goes on takes the caches over when its own thread's cache runs empty, on trim, and before it gives up for
//! want of memory. It then puts their blocks back into the spans and adds up their figures.
//!
//! A thread may have been in the middle of an operation when the process forked. Its magazine may then not be whole, but the
//! slots decide (slot.rs), and nobody changes these any more:
//! - An entry that is only half written, or whose slot does not hold the magazine's tag, is dropped.
//! - A block on its way between magazine and program stays where its slot says. At worst the child loses one such block for
//!   each thread, or two of a thread that was reallocating.
//! - The figures are off by one operation or one publication at most (tally.rs).
//! - A magazine that was growing has no base, and is left alone.
use super::cache::{self, ThreadCache};
use super::*;
use core::ptr::null_mut;

impl Heap {
    /// Sets the caches of all other threads aside, in a child in which all locks are held.
    ///
    /// # Safety
    /// The heap's lock is held, and `central` is the only reference to what it guards.
    pub(super) unsafe fn abandon_caches(&self, central: &mut Central) {
        let own = self.existing_cache();
        if let Some(own) = own {
            registry::unlink(central, own);
        }
        let mut end: *mut *mut ThreadCache = &mut central.abandoned;
        // SAFETY: the heap's lock is held, and listed caches are live under it.
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

    /// Puts the blocks in abandoned caches back into their spans, and ends these caches. False if there were none.
    pub(super) fn take_over_abandoned(&self, central: &mut Central) -> bool {
        let any = !central.abandoned.is_null();
        while let Some(cache) = NonNull::new(central.abandoned) {
            // SAFETY: listed caches are live under the heap's lock, and this one has no thread.
            let abandoned = unsafe { cache.as_ref() };
            central.abandoned = abandoned.next.get();
            self.flush(central, abandoned);
            cache::retire(abandoned, self, central);
            // SAFETY: the cache is empty and in no list. The table of its thread's record refers to it still, but nobody
            // reads that.
            unsafe { ThreadCache::release(cache) };
        }
        any
    }
}
