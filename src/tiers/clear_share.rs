//! The share of the budget in which chunks stay in the clear though encoded chunks want the room.
//!
//! Encoded chunks hold more in the same room, so chunks in the clear get little as long as that is enough. It is not
//! if the program goes to and fro between more chunks than the share holds. Such chunks come back soon after they have
//! left, so each that does raises the share (as refaults within the memory's size activate a page in Linux's
//! mm/workingset.c). A chunk that comes back late, and from disk, lowers it: with less in the clear it might have been
//! encoded in RAM still.
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The least share of the budget: one part in this many.
const LEAST: usize = 8;
/// The greatest share.
const MOST: usize = 2;
/// By how many chunks one from disk lowers the share. It costs several times what one encoded in RAM does.
const DISK: usize = 8;

/// The share of one engine, in bytes.
pub struct ClearShare {
    raised: AtomicUsize,
}
impl ClearShare {
    pub const fn new() -> ClearShare {
        ClearShare { raised: AtomicUsize::new(0) }
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
        let most = (limit / MOST).saturating_sub(least(limit, chunk));
        // A lost update by another thread is one chunk more or less.
        let raised = self.raised.load(Relaxed);
        if left <= limit / MOST / chunk {
            self.raised.store((raised + chunk).min(most), Relaxed);
        } else if from_disk {
            self.raised.store(raised.saturating_sub(DISK * chunk), Relaxed);
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
    #[test]
    fn chunks_that_return_soon_raise_the_share_to_half() {
        let share = ClearShare::new();
        assert_eq!(share.bytes(LIMIT, CHUNK), 16 * CHUNK);
        assert!(!share.is_raised());
        share.note_return(64, false, LIMIT, CHUNK);
        assert_eq!(share.bytes(LIMIT, CHUNK), 17 * CHUNK);
        for _ in 0..100 {
            share.note_return(3, true, LIMIT, CHUNK);
        }
        assert_eq!(share.bytes(LIMIT, CHUNK), 64 * CHUNK);
    }
    #[test]
    fn late_returns_lower_it_if_they_are_from_disk() {
        let share = ClearShare::new();
        for _ in 0..10 {
            share.note_return(3, false, LIMIT, CHUNK);
        }
        share.note_return(65, false, LIMIT, CHUNK);
        assert_eq!(share.bytes(LIMIT, CHUNK), 26 * CHUNK, "from RAM they leave it");
        share.note_return(65, true, LIMIT, CHUNK);
        assert_eq!(share.bytes(LIMIT, CHUNK), 18 * CHUNK);
        share.note_return(65, true, LIMIT, CHUNK);
        assert_eq!(share.bytes(LIMIT, CHUNK), 16 * CHUNK, "never below the least");
    }
    #[test]
    fn a_budget_of_few_chunks_has_nothing_to_raise() {
        let share = ClearShare::new();
        share.note_return(1, false, 6 * CHUNK, CHUNK);
        assert_eq!(share.bytes(6 * CHUNK, CHUNK), 4 * CHUNK);
    }
}
