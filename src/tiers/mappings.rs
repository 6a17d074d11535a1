//! How many mappings of the process the chunks in place take, and how many they may.
//!
//! Where pages move by mremap (`Pages::splits_mappings`) each chunk in place is a mapping to the system, for it keeps the
//! offset and the origin of the slot that its pages came from, and neighbours never agree on these; so is what is between two
//! chunks in place that are no neighbours, as it is alike. A process may have vm.max_map_count of them, and its own calls of
//! mmap fail with the rest. So all engines of a process count together, and chunks leave long before there are as many
//! (`Engine::free_mappings` in reclaim.rs).
//!
//! One that leaves need not free a mapping: between two that stay it only becomes a gap. So [`LEAVING`] leave for one that
//! comes in, as long as mappings are short. That is enough: n chunks in place take 2 n at most. They become short, S of them, with at
//! most S chunks in place; each that comes in then adds two at most, and leaves LEAVING - 1 fewer in place. So they are never
//! more than where S + 2 i = 2 (S - (LEAVING - 1) i), which is S (1 + 1 / LEAVING): the number they may be. (Threads that
//! bring in at once, of which each has a workspace, add two each.)
use crate::os::system;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Chunks that leave for one that comes in, where mappings are short.
pub const LEAVING: usize = 8;
/// What Linux gives a process where nothing else was asked for.
const USUAL: usize = 65530;
/// Of those a process may have, the part that is left free (one in ...): for what the program maps from now on, and for the slots
/// of the engines, some fifty for each size of chunks.
const FREE: usize = 16;
/// The part taken for the program's own as long as nobody has looked.
const ASSUMED: usize = 8;
/// The chunks of a process may have so many however many others there are: below them something else is short.
const LEAST: usize = 256;
/// Between two looks, which take a millisecond for ten thousand mappings.
const PAUSE: Duration = Duration::from_secs(1);

/// Mappings that chunks in place take, those of all engines.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// From how many on they are short. Set before anything can be in place.
static SHORT_FROM: AtomicUsize = AtomicUsize::new(usize::MAX);
/// When somebody looked last, in milliseconds since the first look, plus one.
static LOOKED: AtomicUsize = AtomicUsize::new(0);

/// Whether the system has refused one since.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// What is read into, a part at a time.
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
/// How many a process may have. As it was when first asked for: what is changed later matters to few.
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
/// How many the process has. None where the system does not tell.
fn all() -> Option<usize> {
    let mut lines = 0;
    let told = read(c"/proc/self/maps", |text| lines += text.iter().filter(|&&byte| byte == b'\n').count());
    told.then_some(lines)
}
/// What is left to chunks beside `others`, and from how many on they are short.
fn short_from(most: usize, others: usize) -> usize {
    let may_be = most.saturating_sub(others + most / FREE).max(LEAST);
    may_be / (LEAVING + 1) * LEAVING
}

/// Before a region is made whose chunks may come to take `more`. Not where a fault is served: it may look at all mappings there
/// are, where that is worth it.
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
        // The less of before and after: what comes in or leaves meanwhile counts among the others, on the safe side.
        let ours = || taken.min(TAKEN.load(Relaxed));
        let others = all().map_or(most / ASSUMED, |all| all.saturating_sub(ours()));
        SHORT_FROM.store(short_from(most, others), Relaxed);
    } else if looked == 0 {
        SHORT_FROM.fetch_min(short_from(most, most / ASSUMED), Relaxed);
    }
}
/// Notes what a chunk that has come in, or left, makes of them.
pub fn note(more: isize) {
    TAKEN.fetch_add(more as usize, Relaxed);
}
/// Whether chunks are to leave for one that comes in.
pub fn are_short() -> bool {
    TAKEN.load(Relaxed) >= SHORT_FROM.load(Relaxed)
}
/// The system has refused one: the program has more of its own than was seen. From now on what there is counts as the most there
/// may be, until somebody looks. False if chunks take so few that it is not for these.
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
    fn chunks_leave_before_there_are_too_many() {
        for (most, others) in [(65530, 100), (65530, 8000), (1 << 20, 100), (4096, 100), (65530, 65000)] {
            let short = short_from(most, others);
            // Of the worst there is: all are neighbours, and those that leave are not.
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
