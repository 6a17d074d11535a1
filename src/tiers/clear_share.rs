//! The share of the budget in which chunks stay in the clear though encoded chunks want the room.
//!
//! Encoded chunks hold more in the same room, so chunks in the clear get little as long as that is enough. It is not
//! if the program goes to and fro between more chunks than the share holds. Such chunks come back soon after they have
//! left (Linux compares refault distances with the size of memory in the same way). While most do, each raises the
//! share. A chunk that comes back late, and from disk, lowers it: with less in the clear it might have been encoded in
//! RAM still.
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The least share of the budget: one part in this many.
const LEAST: usize = 8;
/// The greatest share.
const MOST: usize = 2;
/// By how many chunks one from disk lowers the share. It costs several times what one encoded in RAM does.
const DISK: usize = 8;

/// How many more chunks must have come back soon than late before the share is raised. Otherwise a program that touches
/// chunks at random would raise it, and have more of them on disk for nothing.
const SURE: usize = 16;

/// The share of one engine.
pub struct ClearShare {
    /// Bytes above the least share.
    raised: AtomicUsize,
    /// How many more chunks came back soon than late, lately: 0 to 2 * `SURE`.
    soon: AtomicUsize,
}
impl ClearShare {
    pub const fn new() -> ClearShare {
        ClearShare { raised: AtomicUsize::new(0), soon: AtomicUsize::new(0) }
    }
    /// Bytes that stay in the clear, of a budget of `limit`, in chunks of `chunk` bytes.
    pub fn bytes(&self, limit: usize, chunk: usize) -> usize {
        least(limit, chunk) + self.raised.load(Relaxed)
    }
    /// Whether more than the least share is to be in the clear.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Relaxed) > 0
    }
    /// Notes that a chunk of `chunk` bytes comes in, after `left` others have left since it did itself.
    pub fn note_return(&self, left: usize, from_disk: bool, limit: usize, chunk: usize) {
        // An update that another thread overwrites is one chunk more or less.
        let (raised, soon) = (self.raised.load(Relaxed), self.soon.load(Relaxed));
        if left <= limit / MOST / chunk {
            self.soon.store((soon + 1).min(2 * SURE), Relaxed);
            if soon >= SURE {
                let most = (limit / MOST).saturating_sub(least(limit, chunk));
                self.raised.store((raised + chunk).min(most), Relaxed);
            }
        } else {
            self.soon.store(soon.saturating_sub(1), Relaxed);
            if from_disk {
                self.raised.store(raised.saturating_sub(DISK * chunk), Relaxed);
            }
        }
    }
}

fn least(limit: usize, chunk: usize) -> usize {
    (limit / LEAST).max(4 * chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    const CHUNK: usize = 64 << 10;
    const LIMIT: usize = 128 * CHUNK;
    fn note(share: &ClearShare, times: usize, left: usize, from_disk: bool) -> usize {
        (0..times).for_each(|_| share.note_return(left, from_disk, LIMIT, CHUNK));
        share.bytes(LIMIT, CHUNK) / CHUNK
    }
    #[test]
    fn chunks_that_return_soon_raise_the_share_to_half() {
        let share = ClearShare::new();
        assert_eq!(note(&share, SURE, 64, false), 16, "not sure yet");
        assert!(!share.is_raised());
        assert_eq!(note(&share, 1, 64, false), 17);
        assert_eq!(note(&share, 100, 3, true), 64);
    }
    #[test]
    fn a_few_among_others_do_not() {
        let share = ClearShare::new();
        for _ in 0..1000 {
            note(&share, 1, 3, false);
            assert_eq!(note(&share, 1, 65, false), 16);
        }
    }
    #[test]
    fn late_returns_lower_it_if_they_are_from_disk() {
        let share = ClearShare::new();
        note(&share, SURE + 10, 3, false);
        assert_eq!(note(&share, 1, 65, false), 26, "from RAM they leave it");
        assert_eq!(note(&share, 1, 65, true), 18);
        assert_eq!(note(&share, 1, 65, true), 16, "never below the least");
    }
    #[test]
    fn a_budget_of_few_chunks_has_nothing_to_raise() {
        let share = ClearShare::new();
        (0..100).for_each(|_| share.note_return(1, false, 6 * CHUNK, CHUNK));
        assert_eq!(share.bytes(6 * CHUNK, CHUNK), 4 * CHUNK);
    }
}
