//! Watches the order in which chunks are wanted, and says what to read ahead.
//!
//! Up to four sweeps are followed at a time, upwards or downwards. So two threads that sweep their halves, or a copy
//! from one end to the other, are each seen. A sweep is believed after three chunks in a row.

use super::regret::{Left, Regret};

/// What the program said about its order of access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Nothing: sweeps are detected.
    #[default]
    Unknown,
    /// One after the other: a sweep is believed at its first chunk.
    Sequential,
    /// In no order: nothing is read ahead.
    Random,
}

#[derive(Clone, Copy, Default)]
struct Track {
    next: usize,
    down: bool,
    length: u64,
    /// How far chunks have been read ahead: the index of the last one downwards, and the one behind it upwards.
    ahead: usize,
    used: u64,
}

impl Track {
    /// What to read ahead now that `index` is wanted: see [`Sweep::note`].
    fn look_ahead(&mut self, index: usize, count: usize, window: usize) -> Option<Ahead> {
        // The window opens with the length of the sweep.
        let window = window.min(self.length as usize * 2);
        if self.down {
            let first = self.ahead.min(index).checked_sub(1)?;
            let target = index.saturating_sub(window);
            let many = (first + 1).checked_sub(target).filter(|n| *n > 0)?;
            self.ahead = target;
            return Some(Ahead { first, count: many, down: true });
        }
        let first = self.ahead.max(index + 1);
        let target = (index + 1 + window).min(count);
        let many = target.checked_sub(first).filter(|n| *n > 0)?;
        self.ahead = target;
        Some(Ahead { first, count: many, down: false })
    }
}

/// The sweeps of one region.
#[derive(Default)]
pub struct Sweep {
    order: Order,
    tracks: [Track; 4],
    clock: u64,
    /// The clock when the program last prefetched chunks itself.
    asked: Option<u64>,
    /// The chunks that last left while they were among the youngest.
    left: [Option<usize>; 4],
    /// The clock when the youngest chunks last turned out to be in use.
    in_use: Option<u64>,
    /// What became of the chunks that left.
    pub regret: Regret,
}

/// A program that prefetches chunks itself is left alone. If it uses this many chunks without prefetching again, we
/// read ahead for it again.
const ASKS: u64 = 64;

/// How many of the youngest chunks may still be in use though nobody has acquired them.
pub const YOUNGEST: usize = 2;
/// For how many uses of chunks the youngest are spared, once they have turned out to be in use.
const SPARING: u64 = 64;

/// Chunks to read ahead: `count` from `first` on, upwards or downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    first: usize,
    count: usize,
    down: bool,
}
impl Ahead {
    /// Their indices, nearest first.
    pub fn indices(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |i| if self.down { self.first - i } else { self.first + i })
    }
}

impl Sweep {
    /// Sets the order that the program announces.
    pub fn set_order(&mut self, order: Order) {
        self.order = order;
        self.tracks = Default::default();
    }
    /// The order that the program announced.
    pub fn order(&self) -> Order {
        self.order
    }
    /// Notes that `index` of `count` chunks is wanted. Returns which chunks to read ahead now, at most `window`
    /// beyond it.
    pub fn note(&mut self, index: usize, count: usize, window: usize) -> Option<Ahead> {
        if self.order == Order::Random {
            return None;
        }
        self.clock += 1;
        let clock = self.clock;
        // Up to three chunks of a sweep may be missed, because they were in place already.
        let near = |t: &Track| {
            t.length > 0
                && if t.down { t.next.wrapping_sub(index) <= 3 } else { index.wrapping_sub(t.next) <= 3 }
        };
        let found = self.tracks.iter().position(near);
        // A track of one chunk has no direction yet.
        let found = found.or_else(|| self.tracks.iter().position(|t| t.length == 1 && t.next == index + 2));
        let at = match found {
            Some(at) => at,
            None => {
                let at = (0..self.tracks.len()).min_by_key(|at| self.tracks[*at].used)?;
                self.tracks[at] = Track { ahead: index + 1, ..Track::default() };
                at
            }
        };
        let track = &mut self.tracks[at];
        if track.length == 1 && track.next == index + 2 {
            *track = Track { down: true, ahead: index, ..*track };
        }
        track.next = if track.down { index.wrapping_sub(1) } else { index + 1 };
        track.length += 1;
        track.used = clock;
        let believed = if self.order == Order::Sequential { 1 } else { 3 };
        if track.length < believed { None } else { track.look_ahead(index, count, window) }
    }
    /// Notes that the program prefetches chunks itself.
    pub fn note_asked(&mut self) {
        self.asked = Some(self.clock);
    }
    /// Whether the program prefetches chunks itself. Then its requests tell better what it will want than its
    /// acquisitions.
    pub fn is_asked(&self) -> bool {
        self.asked.is_some_and(|asked| self.clock - asked < ASKS)
    }
    /// Notes that `index` is used, and whether it was acquired. The youngest chunks count as in use in two cases: the
    /// program touches chunks by pointers, whose further uses are not seen; or it wants back a chunk that has just
    /// left.
    pub fn note_use(&mut self, index: usize, acquired: bool) {
        if !acquired || self.left.contains(&Some(index)) {
            self.in_use = Some(self.clock);
        }
    }
    /// Notes that one of the very youngest chunks leaves.
    pub fn note_left(&mut self, index: usize) {
        self.left.rotate_right(1);
        self.left[0] = Some(index);
    }
    /// How many of the youngest chunks must not leave. It is none while chunks are acquired and released: then the
    /// chunk just released is the best to leave, because the chunk that takes its place finds the pages in the
    /// processor's cache.
    pub fn spared(&self) -> usize {
        match self.in_use {
            Some(noted) if self.clock - noted < SPARING => YOUNGEST,
            _ => 0,
        }
    }
    /// In which order the next chunk leaves.
    pub fn leaves(&mut self) -> Left {
        if self.is_swept() { self.regret.choose() } else { Left::Oldest }
    }
    /// Whether the region is being swept.
    pub fn is_swept(&self) -> bool {
        self.order == Order::Sequential
            || self.order == Order::Unknown
                && self.tracks.iter().any(|t| t.length >= 8 && self.clock - t.used < 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn list(ahead: Option<Ahead>) -> Vec<usize> {
        ahead.map_or(vec![], |a| a.indices().collect())
    }
    #[test]
    fn a_sweep_upwards_is_read_ahead_once_each() {
        let mut sweep = Sweep::default();
        let mut all = vec![];
        for i in 0..20 {
            let ahead = list(sweep.note(i, 20, 4));
            assert!(ahead.iter().all(|a| *a > i && *a <= i + 4));
            all.extend(ahead);
        }
        assert_eq!(all, (3..20).collect::<Vec<_>>());
        assert!(sweep.is_swept());
    }
    #[test]
    fn a_sweep_downwards_too() {
        let mut sweep = Sweep::default();
        let mut all = vec![];
        for i in (0..20).rev() {
            all.extend(list(sweep.note(i, 20, 4)));
        }
        assert_eq!(all, (0..17).rev().collect::<Vec<_>>());
    }
    #[test]
    fn two_at_a_time_are_told_apart() {
        let mut sweep = Sweep::default();
        let mut all = vec![];
        for i in 0..10 {
            all.extend(list(sweep.note(i, 1000, 2)));
            all.extend(list(sweep.note(500 + i, 1000, 2)));
        }
        all.sort();
        assert_eq!(all, (3..12).chain(503..512).collect::<Vec<_>>());
    }
    #[test]
    fn who_asks_for_chunks_ahead_is_left_alone_until_he_stops() {
        let mut sweep = Sweep::default();
        assert!(!sweep.is_asked());
        sweep.note_asked();
        for i in 0..ASKS as usize {
            assert!(sweep.is_asked());
            sweep.note(i, 1000, 4);
        }
        assert!(!sweep.is_asked());
    }
    #[test]
    fn random_access_is_left_alone() {
        let mut sweep = Sweep::default();
        assert!((0..1000).all(|i| sweep.note(i * 7919 % 1000, 1000, 8).is_none()));
        sweep.set_order(Order::Random);
        assert!((0..100).all(|i| sweep.note(i, 1000, 8).is_none()));
        sweep.set_order(Order::Sequential);
        assert_eq!(list(sweep.note(5, 1000, 4)), [6, 7]);
    }
}
