//! Defects of the library: panics are caught at its boundary, and told to the log instead of stderr.
//!
//! Rust's default panic hook prints. Ours replaces it for threads that are inside the library; panics of a Rust program
//! around it go to the hook that was there before.
//!
//! A C++ exception that leaves a callback cannot be caught here, and must not pass: [`caught`] ends the program, as
//! leaving a `noexcept` function does. For that every function of the program's that is called from here has a type of
//! ABI "C-unwind"; with "C" the compiler may leave out what stops an exception.
use crate::load;
use crate::log::log;
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
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
    if !READY.load(Relaxed) {
        get_ready();
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

/// Whether the first call's preparations are done.
static READY: AtomicBool = AtomicBool::new(false);
static INSTALLING: Mutex<()> = Mutex::new(());
/// See load.rs.
pub static HOOKS: &dyn AtFork = &INSTALLING;
#[cold]
fn get_ready() {
    let forks = load::ready();
    // Without waiting: installing allocates, and the library may be the program's malloc. A call that finds it under way
    // leaves it to the next.
    let Some(_installing) = INSTALLING.try_lock() else { return };
    static HOOK_IN_PLACE: AtomicBool = AtomicBool::new(false);
    if !HOOK_IN_PLACE.load(Relaxed) {
        install();
        HOOK_IN_PLACE.store(true, Relaxed);
    }
    READY.store(forks, Relaxed);
}
fn install() {
    let before = take_hook();
    set_hook(Box::new(move |panic| {
        if INSIDE.get() == 0 { before(panic) } else { log!(Error, "a defect of libunimem: {panic}") }
    }));
}
