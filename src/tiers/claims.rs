//! How many chunks of a region are claimed, and whether the region is leaving: being freed, or moved to a larger one.
//!
//! # Protocol
//! One word holds both: the number of claims, and a mark that the region is leaving.
//! - A claim of a chunk begins by adding one (`begin`), which fails for anybody once the region is leaving. It ends by
//!   subtracting one.
//! - A thread that frees or moves a region first sets the mark (`leave`), then waits until the count is zero. So it
//!   waits for every claim that began before the mark, and every later one fails.
//! - From then on the chunks belong to that thread alone, even if other threads still have an older list of regions
//!   or an older job of the workers. Its own claims are those of the [`Claimant::Leaver`].
//!
//! The model test at the end tries all interleavings.
use super::word::AtomicWord;
use core::sync::atomic::AtomicU32;

const LEAVING: u32 = 1 << 31;

/// Who claims a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimant {
    /// Any thread. The claim fails if the region is leaving.
    Anybody,
    /// The thread that frees, moves or shrinks the region.
    Leaver,
}

/// The word that holds the count and the mark.
#[derive(Default)]
pub struct Claims<A = AtomicU32>(A);

impl<A: AtomicWord> Claims<A> {
    fn change(&self, edit: impl Fn(u32) -> Option<u32>) -> bool {
        loop {
            let word = self.0.load();
            let Some(new) = edit(word) else { return false };
            if self.0.replace(word, new) {
                return true;
            }
        }
    }
    /// Begins a claim. False if the region is leaving, and the claim is not the leaver's.
    pub fn begin(&self, who: Claimant) -> bool {
        self.change(|word| (who == Claimant::Leaver || word & LEAVING == 0).then_some(word + 1))
    }
    /// Ends a claim.
    pub fn end(&self) {
        self.change(|word| Some(word - 1));
    }
    /// Marks the region as leaving: from now on `begin` fails.
    pub fn leave(&self) {
        self.change(|word| Some(word | LEAVING));
    }
    /// Removes the mark.
    pub fn stay(&self) {
        self.change(|word| Some(word & !LEAVING));
    }
    /// Whether the region is leaving.
    pub fn is_leaving(&self) -> bool {
        self.0.load() & LEAVING != 0
    }
    /// Whether there are no claims.
    pub fn is_zero(&self) -> bool {
        self.0.load() & !LEAVING == 0
    }
}

#[cfg(test)]
mod model {
    use super::*;
    use crate::tiers::state::{Phase, Settle, State};
    use crate::tiers::word::modelled::{ModelledWord, explore};
    use loom::sync::Arc;

    /// A region of one chunk, which is in place, and the room on disk that moves with the region.
    struct Model {
        claims: Claims<ModelledWord>,
        state: State<ModelledWord>,
        /// How often the chunk was written to the room on disk. The checker complains if two threads use it at once.
        home: loom::cell::UnsafeCell<u32>,
    }
    impl Model {
        /// An eviction by a thread that knows the region from an older list.
        fn evict(&self) {
            let word = self.state.load();
            if word.phase() != Phase::Hot || !self.claims.begin(Claimant::Anybody) {
                return;
            }
            if self.state.claim(word) {
                self.home.with_mut(|home| {
                    // SAFETY: a claim, and the region is not leaving; the checker verifies it.
                    unsafe { *home += 1 }
                });
                self.state.settle(Phase::Stored, Settle::default());
            }
            self.claims.end();
        }
        /// What the thread that moves the region does: it takes the room, then the chunk.
        fn leave(&self) {
            self.claims.leave();
            while !self.claims.is_zero() {
                loom::thread::yield_now();
            }
            let taken = self.home.with_mut(|home| {
                // SAFETY: nobody else has a claim, nor begins one; the checker verifies it.
                unsafe { core::mem::replace(&mut *home, 0) }
            });
            let word = self.state.load();
            assert!(self.claims.begin(Claimant::Leaver) && self.state.claim(word), "his alone");
            assert_eq!(
                taken == 1,
                word.phase() == Phase::Stored,
                "the chunk lies elsewhere than its region's room"
            );
            self.state.settle(Phase::Zero, Settle::default());
            self.claims.end();
        }
    }

    #[test]
    fn who_knows_a_region_from_an_older_list_does_not_touch_it_once_it_leaves() {
        explore(2, || {
            let model = Arc::new(Model {
                claims: Claims(ModelledWord::new(0)),
                state: State::new(Phase::Hot),
                home: loom::cell::UnsafeCell::new(0),
            });
            let (a, b) = (model.clone(), model.clone());
            let first = loom::thread::spawn(move || a.evict());
            let second = loom::thread::spawn(move || b.evict());
            model.leave();
            first.join().unwrap();
            second.join().unwrap();
            assert!(model.claims.is_leaving() && model.claims.is_zero());
            assert_eq!(model.state.load().phase(), Phase::Zero);
        });
    }
}
