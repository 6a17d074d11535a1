//! Where large blocks and tiered memory that were freed lately began, so that a second free is told from that of foreign
//! memory. Smaller blocks need none of it: their slots remember.
//!
//! A table with one place for several addresses, the latest wins: what is forgotten is told as foreign, which is refused
//! all the same. The places are single words, so any thread may read and write at any time.
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const PLACES: usize = 4096;
static STARTS: [AtomicUsize; PLACES] = [const { AtomicUsize::new(0) }; PLACES];

fn place(start: usize) -> &'static AtomicUsize {
    // Fibonacci hashing (Knuth 6.4).
    &STARTS[(start as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) as usize >> (usize::BITS - PLACES.ilog2())]
}
/// Remembers that what began at `start` was freed.
pub fn note(start: usize) {
    place(start).store(start, Relaxed);
}
/// Forgets it, since tiered memory begins at `start` now: another instance does not find that, and is not to call it freed.
pub fn forget(start: usize) {
    // Whatever else stands there is somebody else's.
    let _ = place(start).compare_exchange(start, 0, Relaxed, Relaxed);
}
/// Whether something that began at `start` is remembered. Whoever asks has found that nothing is there now.
pub fn lately(start: usize) -> bool {
    start != 0 && place(start).load(Relaxed) == start
}
