//! Defects of the library: panics are caught at its boundary, and told to the log instead of stderr.
//!
//! Rust's default panic hook prints. Ours replaces it for threads that are inside the library; panics of a Rust program
//! around it go to the hook that was there before.
use crate::log::log;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering::*};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

thread_local! {
    /// How deep this thread is inside.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Runs `f`. None if it panicked; the log knows why.
#[inline(always)]
pub fn caught<R>(f: impl FnOnce() -> R) -> Option<R> {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    // Not a Once: installing allocates, and the library may be the program's malloc.
    if !INSTALLED.load(Relaxed) && !INSTALLED.swap(true, AcqRel) {
        install();
    }
    INSIDE.set(INSIDE.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(f));
    INSIDE.set(INSIDE.get() - 1);
    result.ok()
}
/// Makes this thread one that never leaves the library.
pub fn stay_inside() {
    INSIDE.set(1);
}
#[cold]
fn install() {
    let before = take_hook();
    set_hook(Box::new(move |panic| {
        if INSIDE.get() == 0 { before(panic) } else { log!(Error, "a defect of libunimem: {panic}") }
    }));
}
