//! Notes where large blocks and tiered memory began that were freed lately, so that a second free of one is not mistaken
//! for a free of foreign memory. Smaller blocks need no such note, because their slots remember.
//!
//! The notes are a table in which several addresses share a place and the latest one wins. An address that was forgotten is
//! reported as foreign, which is refused just as well. Each place is a single word, so any thread may read and write it at
//! any time.
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const PLACES: usize = 4096;
static STARTS: [AtomicUsize; PLACES] = [const { AtomicUsize::new(0) }; PLACES];

fn place(start: usize) -> &'static AtomicUsize {
    // Fibonacci hashing (Knuth 6.4).
    &STARTS[(start as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) as usize >> (usize::BITS - PLACES.ilog2())]
}
/// Notes that what began at `start` was freed.
pub fn note(start: usize) {
    place(start).store(start, Relaxed);
}
/// Forgets that, because tiered memory begins at `start` now. An instance that does not own this memory must not call it
/// freed.
pub fn forget(start: usize) {
    // If another address stands there it stays.
    let _ = place(start).compare_exchange(start, 0, Relaxed, Relaxed);
}
/// Whether a note says that something that began at `start` was freed. The caller has found that nothing is there now.
pub fn lately(start: usize) -> bool {
    start != 0 && place(start).load(Relaxed) == start
}
