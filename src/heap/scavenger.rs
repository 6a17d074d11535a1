//! The scavenger: gives kept memory back once nobody has used it for a while.
//!
//! A thread that lives only while some heap keeps something. It counts ticks, so that heaps note an age without
//! reading a clock. Where it cannot be started, nothing is kept: heaps ask [`is_running`] first.
use super::registry;
use crate::os::system;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::time::Duration;

/// Enough for munmap and madvise, and for a program with much thread-local memory.
const STACK: usize = 128 << 10;
const TICK: Duration = Duration::from_millis(500);
/// Memory is kept for this many ticks at least: four seconds.
const KEEP: u32 = 8;
/// Age of what never ages.
pub const NEVER: u32 = u32::MAX;

static NOW: AtomicU32 = AtomicU32::new(1);
static RUNNING: AtomicBool = AtomicBool::new(false);
static WANTED: AtomicBool = AtomicBool::new(false);

/// The current tick.
pub fn now() -> u32 {
    NOW.load(Relaxed)
}
/// Notes that something was kept; [`start_if_wanted`] follows when no lock is held.
pub fn wanted() {
    WANTED.store(true, SeqCst);
}
/// Starts the thread if something is kept and it does not run. Called without locks.
#[inline]
pub fn start_if_wanted() {
    if WANTED.load(SeqCst) && !RUNNING.load(SeqCst) {
        start();
    }
}
#[cold]
fn start() {
    if RUNNING.swap(true, AcqRel) {
        return;
    }
    if !start_thread() {
        RUNNING.store(false, Release);
        registry::for_each_heap(|heap| {
            heap.release_kept(None);
        });
    }
}
fn start_thread() -> bool {
    extern "C" fn main(_: *mut core::ffi::c_void) -> *mut core::ffi::c_void {
        run();
        core::ptr::null_mut()
    }
    system::start_thread(STACK, main).is_ok()
}
fn run() {
    loop {
        std::thread::sleep(TICK);
        let tick = NOW.fetch_add(1, Relaxed) + 1;
        WANTED.store(false, Release);
        let mut keeps = false;
        registry::for_each_heap(|heap| keeps |= heap.release_kept(Some(tick.saturating_sub(KEEP))));
        if keeps {
            WANTED.store(true, SeqCst);
        } else {
            RUNNING.store(false, SeqCst);
            // What was kept since the look at its heap found the thread still running. Each side stores first and
            // then looks, in one order for all (SeqCst), so that one of them sees the other.
            if !WANTED.load(SeqCst) || RUNNING.swap(true, AcqRel) {
                return;
            }
        }
    }
}
/// In a forked child: the thread stayed with the parent.
pub fn forget_thread() {
    RUNNING.store(false, Release);
}
