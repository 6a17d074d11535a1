//! How many mappings of the process the chunks in place take, and how many they may take.
//!
//! If pages move by mremap (`Pages::splits_mappings`), each chunk in place is a mapping to the system. Such a mapping
//! keeps the offset and origin of the slot that its pages came from, and neighbours never agree on these, so they do
//! not merge. Each gap between such chunks is one mapping too. A process may have vm.max_map_count mappings, and when
//! they run out the program's own calls of mmap fail as well. So all engines of a process count together, and chunks
//! leave long before the limit (`Engine::free_mappings` in reclaim.rs).
//!
//! A chunk that leaves need not free a mapping: between two chunks that stay it only becomes a gap. So while mappings
//! are short, [`LEAVING`] chunks leave for one that comes in. That is enough:
//! - n chunks in place take 2 n mappings at most.
//! - Mappings become short when S of them are taken, by at most S chunks in place.
//! - Each chunk that comes in then adds two mappings at most, and leaves LEAVING - 1 fewer chunks in place.
//! - So there are never more mappings than where S + 2 i = 2 (S - (LEAVING - 1) i), which is S (1 + 1 / LEAVING). S
//!   is chosen so that this is the number they may be.
//!
//! Threads that bring in chunks at the same time, each of which has a workspace, add two mappings each.
use crate::os::system;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How many chunks leave for one that comes in while mappings are short.
pub const LEAVING: usize = 8;
/// The limit that Linux sets if nothing else was asked for.
const USUAL: usize = 65530;
/// The share of the limit (one part in ...) that is left free: for what the program maps from now on, and for the
/// slots of the engines, up to [`Staging::MOST_MAPPINGS`](super::staging::Staging::MOST_MAPPINGS) for each size of
/// chunks in each.
const FREE: usize = 16;
/// How many mappings are left free where the limit is the usual one.
pub const USUALLY_FREE: usize = USUAL / FREE;
/// The share of the limit that is taken to be the program's own as long as nobody has looked.
const ASSUMED: usize = 8;
/// Chunks may take this many mappings, however many others there are: if even these are too many, chunks are not the
/// cause.
const LEAST: usize = 256;
/// The least time between two looks. A look takes a millisecond for ten thousand mappings.
const PAUSE: Duration = Duration::from_secs(1);

/// Mappings that the chunks in place of all engines take.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// From how many taken mappings on they are short. Set before any chunk can be in place.
static SHORT_FROM: AtomicUsize = AtomicUsize::new(usize::MAX);
/// When a thread last looked, in milliseconds since the first look, plus one. 0: nobody has.
static LOOKED: AtomicUsize = AtomicUsize::new(0);

/// Whether the system has refused a mapping since the last look.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// The buffer that a file is read into, part by part.
type Buffer = [u8; 4096];

/// Reads a file of the system's, part by part. False if it cannot be read.
fn read(path: &CStr, mut take: impl FnMut(&[u8])) -> bool {
    let Ok(file) = system::open_to_read(path) else { return false };
    let (mut buffer, mut offset): (Buffer, u64) = ([0; _], 0);
    loop {
        match system::read_at(file.as_fd(), &mut buffer, offset) {
            Ok(0) => return true,
            Ok(length) => {
                take(&buffer[..length]);
                offset += length as u64;
            }
            Err(_) => return false,
        }
    }
}
/// How many mappings a process may have, as it was when first asked for. Later changes matter to few programs.
fn most() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| {
        let mut number = 0_usize;
        let digits = |text: &[u8]| {
            for digit in text.iter().filter(|byte| byte.is_ascii_digit()) {
                number = number.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
            }
        };
        if read(c"/proc/sys/vm/max_map_count", digits) && number > 0 { number } else { USUAL }
    })
}
/// How many mappings the process has. None if the system does not tell.
fn all() -> Option<usize> {
    let mut lines = 0;
    let told = read(c"/proc/self/maps", |text| lines += text.iter().filter(|&&byte| byte == b'\n').count());
    told.then_some(lines)
}
/// From how many mappings on chunks are short, if other mappings are `others` of `most`.
fn short_from(most: usize, others: usize) -> usize {
    let may_be = most.saturating_sub(others + most / FREE).max(LEAST);
    may_be / (LEAVING + 1) * LEAVING
}

/// How many mappings others have, if chunks have as many as `ours` tells. This is the lower of the counts before and after
/// the look at all: mappings of chunks that came in or left meanwhile count as others', which is on the safe side.
fn others(most: usize, ours: impl Fn() -> usize, all: impl FnOnce() -> Option<usize>) -> usize {
    let before = ours();
    all().map_or(most / ASSUMED, |all| all.saturating_sub(before.min(ours())))
}

/// To be called before a region is made whose chunks may come to take `more` mappings, but never while a fault is
/// served: if it is worth it, this looks at all mappings of the process.
pub fn prepare(more: usize) {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let (most, taken) = (most(), TAKEN.load(Relaxed));
    let now = BEGAN.get_or_init(Instant::now).elapsed().as_millis() as usize + 1;
    let looked = LOOKED.load(Relaxed);
    let rested = looked == 0 || now - looked.min(now) >= PAUSE.as_millis() as usize;
    let worth = taken.saturating_add(more) > most / ASSUMED || REFUSED.load(Relaxed);
    if rested && worth {
        REFUSED.store(false, Relaxed);
        LOOKED.store(now, Relaxed);
        SHORT_FROM.store(short_from(most, others(most, || TAKEN.load(Relaxed), all)), Relaxed);
    } else if looked == 0 {
        SHORT_FROM.fetch_min(short_from(most, most / ASSUMED), Relaxed);
    }
}
/// Notes how many mappings a chunk that has come in has added. Negative for a chunk that has left.
pub fn note(more: isize) {
    TAKEN.fetch_add(more as usize, Relaxed);
}
/// Whether chunks are to leave for one that comes in.
pub fn are_short() -> bool {
    TAKEN.load(Relaxed) >= SHORT_FROM.load(Relaxed)
}
/// Notes that the system has refused a mapping: the program has more mappings of its own than were seen. Until
/// somebody looks again, the present number counts as the most there may be. Returns false if chunks take so few that
/// they cannot be the cause.
pub fn note_refused() -> bool {
    let taken = TAKEN.load(Relaxed);
    let may_be = taken - taken / FREE;
    REFUSED.store(true, Relaxed);
    SHORT_FROM.fetch_min(may_be.max(LEAST) / (LEAVING + 1) * LEAVING, Relaxed);
    are_short()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn what_the_system_tells_is_counted() {
        let before = all().unwrap();
        assert!(before > 10 && most() > before, "{before} of {}", most());
        let lines = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        assert!(lines.abs_diff(before) < 200, "{before}, {lines}");
    }
    #[test]
    fn mappings_of_chunks_that_move_during_the_look_count_as_others() {
        for (before, after) in [(300, 300), (300, 350), (350, 300)] {
            let taken = core::cell::Cell::new(before);
            let look = || {
                taken.set(after);
                Some(1000)
            };
            assert_eq!(others(USUAL, || taken.get(), look), 700, "{before}, then {after}");
        }
        assert_eq!(others(USUAL, || 300, || None), USUAL / ASSUMED);
    }
    #[test]
    fn chunks_leave_before_there_are_too_many() {
        for (most, others) in [(65530, 100), (65530, 8000), (1 << 20, 100), (4096, 100), (65530, 65000)] {
            let short = short_from(most, others);
            // The worst case: all chunks in place are neighbours, and those that leave are not.
            let (mut chunks, mut taken) = (short, short);
            let mut highest = taken;
            while taken >= short {
                chunks = (chunks - LEAVING) + 1;
                taken = (taken + 2).min(2 * chunks + 1);
                highest = highest.max(taken);
            }
            let may_be = most.saturating_sub(others + most / FREE).max(LEAST);
            assert!(highest <= may_be + 2, "{highest} of {may_be}");
            assert!(highest * 10 >= may_be * 9, "{highest} of {may_be}");
        }
    }
}
