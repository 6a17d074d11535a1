//! The state word of a chunk: who may touch the chunk, and who has to wait.
//!
//! # Protocol
//! A chunk is in one phase at a time:
//!
//! | phase | where the bytes are | who may change the phase |
//! | --- | --- | --- |
//! | Zero | nowhere: all are zero | a thread that claims the chunk |
//! | Stored | encoded, in RAM or in the spill file | a thread that claims the chunk |
//! | Staged | decoded, in a staging slot (read ahead of a sweep) | a thread that claims the chunk |
//! | Hot | in the region, where the program reads and writes them | a thread that claims the chunk while nobody has acquired or pinned it |
//! | Busy | with the one thread that claimed the chunk | that thread, by settling |
//!
//! - *Claiming* is one compare-and-swap of the whole word to Busy. It fails if anything changed since the word was
//!   read. An acquisition is such a change, so an acquired chunk never leaves.
//! - While a region is leaving, only the thread that frees or moves it may claim its chunks (claims.rs).
//! - The claimer owns the chunk's record and staging slot until it *settles* the new phase. Settling releases
//!   everything that the claimer wrote, and a thread that reads the phase acquires it.
//!
//! Why no write is lost: a chunk leaves Hot only when its pages are moved out of the region ("take"). The system
//! makes this move atomic for every page: a store either lands before the move and goes along, or faults. The thread
//! that faults finds the chunk Busy and waits until it is settled. The bytes are encoded after the move, from memory
//! that no other thread can reach.
//!
//! Why no reader sees a half-filled chunk: pages come into the region ("place") only when all of them hold their
//! final bytes.
//!
//! The model test at the end of this file tries all interleavings.
use super::word::AtomicWord;
use core::sync::atomic::AtomicU32;

/// Phase of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Never written, or written with zeroes: nothing is stored.
    Zero,
    /// Encoded in RAM or in the spill file.
    Stored,
    /// Decoded in a staging slot, waiting to be touched.
    Staged,
    /// In place.
    Hot,
    /// Claimed by one thread, which is moving or changing the chunk.
    Busy,
}

const PHASE: u32 = 7;
const WAITED: u32 = 1 << 3;
const REFERENCED: u32 = 1 << 4;
const PREFETCHED: u32 = 1 << 5;
const RETURNED: u32 = 1 << 6;
/// One engine pin. Acquisitions are counted apart from pins, because they count against the budget.
const PIN: u32 = 1 << 8;
const ACQUIRED: u32 = 1 << 16;

/// The most acquisitions a chunk can have at one time.
pub const MOST_ACQUIRED: u32 = u32::MAX / ACQUIRED;
const MOST_PINS: u32 = ACQUIRED / PIN - 1;

/// A state word as it was when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(u32);
impl Word {
    /// The phase.
    pub fn phase(self) -> Phase {
        match self.0 & PHASE {
            0 => Phase::Zero,
            1 => Phase::Stored,
            2 => Phase::Staged,
            3 => Phase::Hot,
            _ => Phase::Busy,
        }
    }
    fn pins(self) -> u32 {
        self.0 % ACQUIRED / PIN
    }
    /// Number of acquisitions that the program has not released yet.
    pub fn acquisitions(self) -> u32 {
        self.0 / ACQUIRED
    }
    /// Whether the chunk can be claimed: it is not Busy, and nobody has pinned or acquired it.
    pub fn is_claimable(self) -> bool {
        self.phase() != Phase::Busy && self.0 < PIN
    }
    /// Whether the chunk was acquired since the last `forget_reference`.
    pub fn referenced(self) -> bool {
        self.0 & REFERENCED != 0
    }
    /// Whether the chunk was brought in ahead of need and not acquired since.
    pub fn prefetched(self) -> bool {
        self.0 & PREFETCHED != 0
    }
    /// Whether the chunk came back soon after it had left (regret.rs).
    pub fn returned(self) -> bool {
        self.0 & RETURNED != 0
    }
}

/// What a settled chunk is marked with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settle {
    /// The claimer has acquired the chunk once.
    pub acquired: bool,
    /// The chunk was brought in ahead of need.
    pub prefetched: bool,
    /// The chunk came back soon after it had left.
    pub returned: bool,
}

/// The state of one chunk. All-zero bytes are a chunk in phase Zero.
#[repr(transparent)]
pub struct State<A = AtomicU32>(A);

impl<A: AtomicWord> State<A> {
    /// Reads the word.
    pub fn load(&self) -> Word {
        Word(self.0.load())
    }
    /// Acquires a Hot chunk. Fails if the word has changed since `word` was read, or if the count of acquisitions is
    /// full.
    pub fn acquire(&self, word: Word) -> bool {
        word.phase() == Phase::Hot
            && word.acquisitions() < MOST_ACQUIRED
            && self.0.replace(word.0, ((word.0 + ACQUIRED) | REFERENCED) & !PREFETCHED)
    }
    /// Gives up one acquisition. Returns how many are left, or None if there was none.
    pub fn release(&self) -> Option<u32> {
        self.subtract(ACQUIRED, |word| word.acquisitions() > 0).map(|word| word.acquisitions() - 1)
    }
    /// Pins a Hot chunk for the engine: until `unpin` the chunk stays in place and nobody can claim it. Returns false
    /// if the chunk is not Hot.
    pub fn pin(&self) -> bool {
        loop {
            let word = self.load();
            if word.phase() != Phase::Hot || word.pins() == MOST_PINS {
                return false;
            }
            if self.0.replace(word.0, word.0 + PIN) {
                return true;
            }
        }
    }
    /// Ends one pin.
    pub fn unpin(&self) {
        let unpinned = self.subtract(PIN, |word| word.pins() > 0);
        debug_assert!(unpinned.is_some());
    }
    /// Wakes the threads in `wait` after a claim that ended without `settle`: the record was given back to the
    /// system, so it reads as zeros, which is phase Zero without the mark of a waiter
    /// ([`Table::forget_page`](super::table::Table::forget_page)).
    pub fn wake(&self) {
        self.0.wake();
    }
    fn subtract(&self, one: u32, is_there: impl Fn(Word) -> bool) -> Option<Word> {
        loop {
            let word = self.load();
            if word.phase() != Phase::Hot || !is_there(word) {
                return None;
            }
            if self.0.replace(word.0, word.0 - one) {
                return Some(word);
            }
        }
    }
    /// Removes the reference mark. Returns whether this call removed it.
    pub fn forget_reference(&self) -> bool {
        // Whoever changes the word meanwhile leaves the mark, as a release does, or has claimed the chunk.
        loop {
            let word = self.load();
            if !word.referenced() {
                return false;
            }
            if self.0.replace(word.0, word.0 & !REFERENCED) {
                return true;
            }
        }
    }
    /// Claims a chunk. Fails if it is Busy, pinned or acquired, or if the word has changed since `word` was read.
    pub fn claim(&self, word: Word) -> bool {
        word.is_claimable() && self.0.replace(word.0, Phase::Busy as u32)
    }
    /// Ends a claim. Only the claimer may call this.
    pub fn settle(&self, phase: Phase, how: Settle) {
        let mut word = phase as u32;
        if how.acquired {
            word |= ACQUIRED | REFERENCED;
        }
        if how.prefetched {
            word |= PREFETCHED;
        }
        if how.returned {
            word |= RETURNED;
        }
        if self.0.exchange(word) & WAITED != 0 {
            self.0.wake();
        }
    }
    /// Waits while the chunk is Busy.
    pub fn wait(&self) {
        loop {
            let word = self.load();
            if word.phase() != Phase::Busy {
                return;
            }
            if word.0 & WAITED != 0 || self.0.replace(word.0, word.0 | WAITED) {
                self.0.wait(word.0 | WAITED);
            }
        }
    }
}

#[cfg(test)]
mod model {
    //! All interleavings of threads that write through faults, and threads that evict, on one page of memory.
    use super::super::word::modelled::{ModelledWord, explore};
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU32, Ordering};

    impl State<ModelledWord> {
        /// A chunk in a phase.
        pub fn new(phase: Phase) -> Self {
            State(ModelledWord::new(phase as u32))
        }
    }

    /// Every known error of the protocol shows with fewer preemptions.
    const PREEMPTIONS: usize = 2;
    const ABSENT: u32 = u32::MAX;
    /// A chunk of one page that holds a counter. `page` is what the processor sees: a number, or no page.
    struct Model {
        state: State<ModelledWord>,
        page: AtomicU32,
        /// The encoded bytes, which only the claimer may touch. The checker complains if two threads ever touch them
        /// at once.
        stored: loom::cell::UnsafeCell<u32>,
    }
    impl Model {
        fn new() -> Arc<Model> {
            Arc::new(Model {
                state: State::new(Phase::Zero),
                page: AtomicU32::new(ABSENT),
                stored: loom::cell::UnsafeCell::new(0),
            })
        }
        fn bring_in(&self, acquired: bool) {
            loop {
                let word = self.state.load();
                match word.phase() {
                    Phase::Hot if !acquired => return,
                    Phase::Hot => {
                        if self.state.acquire(word) {
                            return;
                        }
                        loom::thread::yield_now();
                    }
                    Phase::Busy => self.state.wait(),
                    _ if self.state.claim(word) => {
                        let bytes = self.stored.with(|stored| {
                            // SAFETY: the claim; the checker verifies it.
                            unsafe { *stored }
                        });
                        let before = self.page.swap(bytes, Ordering::AcqRel);
                        assert_eq!(before, ABSENT, "placed over a page that was there");
                        self.state.settle(Phase::Hot, Settle { acquired, ..Settle::default() });
                        if acquired {
                            return;
                        }
                    }
                    _ => loom::thread::yield_now(),
                }
            }
        }
        /// A store of the program: an atomic increment where the page is, a fault where it is not.
        fn increment(&self) {
            let mut seen = self.page.load(Ordering::Acquire);
            loop {
                if seen == ABSENT {
                    self.bring_in(false);
                    seen = self.page.load(Ordering::Acquire);
                    continue;
                }
                match self.page.compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return,
                    Err(now) => seen = now,
                }
            }
        }
        fn evict(&self) {
            let word = self.state.load();
            if word.phase() == Phase::Hot && self.state.claim(word) {
                let bytes = self.page.swap(ABSENT, Ordering::AcqRel); // take: atomic
                assert_ne!(bytes, ABSENT);
                self.stored.with_mut(|stored| {
                    // SAFETY: the claim; the checker verifies it.
                    unsafe { *stored = bytes }
                });
                self.state.settle(Phase::Stored, Settle::default());
            }
        }
    }

    #[test]
    fn no_increment_is_lost_between_two_writers_and_an_evictor() {
        explore(PREEMPTIONS, || {
            let model = Model::new();
            let (a, b) = (model.clone(), model.clone());
            let writer = loom::thread::spawn(move || a.increment());
            let evictor = loom::thread::spawn(move || b.evict());
            model.increment();
            writer.join().unwrap();
            evictor.join().unwrap();
            model.bring_in(false);
            assert_eq!(model.page.load(Ordering::Acquire), 2);
        });
    }
    #[test]
    fn a_reference_is_forgotten_while_its_acquisition_ends() {
        explore(PREEMPTIONS, || {
            let model = Model::new();
            model.bring_in(true);
            let other = model.clone();
            let releasing = loom::thread::spawn(move || other.state.release());
            assert!(model.state.forget_reference());
            assert_eq!(releasing.join().unwrap(), Some(0));
            assert!(!model.state.load().referenced() && !model.state.forget_reference());
        });
    }
    #[test]
    fn an_acquired_chunk_stays() {
        explore(PREEMPTIONS, || {
            let model = Model::new();
            let (a, b) = (model.clone(), model.clone());
            let first = loom::thread::spawn(move || a.evict());
            let second = loom::thread::spawn(move || b.evict());
            model.bring_in(true);
            // No fault can happen here: an acquired chunk is always in place.
            let seen = model.page.load(Ordering::Acquire);
            assert_ne!(seen, ABSENT);
            model.page.store(seen + 1, Ordering::Release);
            assert_eq!(model.state.release(), Some(0));
            assert_eq!(model.state.release(), None, "acquired once, released once");
            first.join().unwrap();
            second.join().unwrap();
            model.bring_in(false);
            assert_eq!(model.page.load(Ordering::Acquire), 1);
        });
    }
}
