//! The scavenger: gives kept memory back once nobody has used it for a while.
//!
//! It is a thread that lives only while some heap keeps something. It counts ticks, so that heaps note an age
//! without reading a clock. If the thread cannot be started, what is kept goes back at once.
use super::registry;
use crate::os::{lock::sleep, system};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::time::Duration;

/// Enough for munmap and madvise, and for the thread-local memory of a program that has much of it.
const STACK: usize = 128 << 10;
const TICK: Duration = Duration::from_millis(500);
/// Memory is kept for at least this many ticks: four seconds.
pub const KEEP: u32 = 8;
/// The tick at which memory was kept that never ages.
pub const NEVER: u32 = u32::MAX;

static NOW: AtomicU32 = AtomicU32::new(1);
static RUNNING: AtomicBool = AtomicBool::new(false);
static WANTED: AtomicBool = AtomicBool::new(false);

/// The current tick.
pub fn now() -> u32 {
    NOW.load(Relaxed)
}
/// Notes that something was kept. [`start_if_wanted`] is called later, when no lock is held.
pub fn wanted() {
    WANTED.store(true, SeqCst);
}
/// Starts the thread if something is kept and it does not run. Called without any lock.
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
        sleep(TICK);
        let tick = NOW.fetch_add(1, Relaxed) + 1;
        if !look(tick) {
            RUNNING.store(false, SeqCst);
            // Something may have been kept since the look at its heap, by a thread that found this one still
            // running. Each side stores first and then loads, in one order for all (SeqCst), so at least one of them
            // sees the other's store.
            if !WANTED.load(SeqCst) || RUNNING.swap(true, AcqRel) {
                return;
            }
        }
    }
}
/// Gives back what is too old at `tick`. True if something is left that ages.
fn look(tick: u32) -> bool {
    let mut keeps = false;
    // The registry's lock is held all the time. Otherwise a child could be made in a moment in which memory is kept
    // and not wanted, and nobody would look again in the child.
    registry::begin_with_heaps(
        || WANTED.store(false, SeqCst),
        |heap| {
            if heap.release_kept(Some(tick.saturating_sub(KEEP))) {
                keeps = true;
                wanted();
            }
        },
    );
    keeps
}
/// In a forked child: the thread stayed with the parent.
pub fn forget_thread() {
    RUNNING.store(false, Release);
}

#[cfg(test)]
mod tests {
    use super::super::{Heap, HeapParams};
    use super::*;

    /// Runs the test in a process of its own, where nobody else keeps anything.
    fn alone(name: &str) -> bool {
        const ALONE: &str = "UNIMEM_TEST_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return true;
        }
        let name = format!("heap::scavenger::tests::{name}");
        let program = std::env::current_exe().unwrap();
        let child = std::process::Command::new(program).args(["--exact", &name]).env(ALONE, "1").output();
        let output = child.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        false
    }

    #[test]
    fn what_an_ended_thread_leaves_is_seen_to() {
        if !alone("what_an_ended_thread_leaves_is_seen_to") {
            return;
        }
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let use_cache = move || heap.free(heap.allocate(100, 0).unwrap().as_ptr()).unwrap();
        std::thread::spawn(use_cache).join().unwrap();
        assert!(heap.held() > 0 && RUNNING.load(SeqCst));
        heap.destroy();
    }

    /// A fork that comes while the thread looks takes the registry's lock. It has to find that what is kept is
    /// wanted.
    #[test]
    fn who_has_the_registrys_lock_sees_what_is_kept_wanted() {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let block = heap.allocate(2 << 20, 0).unwrap();
        heap.free(block.as_ptr()).unwrap();
        let looked = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..20_000).for_each(|_| _ = look(1));
                looked.store(true, Relaxed);
            });
            let (mut seen, mut missed) = (0, 0);
            while !looked.load(Relaxed) {
                registry::for_each_heap(|found| {
                    if core::ptr::eq(found, heap) && heap.central.lock().kept.ages() {
                        seen += 1;
                        missed += usize::from(!WANTED.load(SeqCst));
                    }
                });
            }
            assert_eq!(missed, 0, "of {seen} times");
        });
        heap.destroy();
    }
}
