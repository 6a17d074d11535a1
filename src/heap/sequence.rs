//! Sequence locks: one thread at a time changes several words, and any thread may read them as they were at one moment.
//!
//! A number says which words are valid. The writer moves it on between one group of stores and the next. A reader looks at
//! the number, reads, and looks again. If the number is the same, then the reader has seen all that was stored before the
//! number became this one, and nothing that was stored after it became the next.
//!
//! The second half takes two fences, which are instructions on processors that let stores and loads overtake each other,
//! and none on x86-64. The model at the end of this file tries all that such a processor may do.
use crate::os::atomic::Atomic;
use core::sync::atomic::{AtomicU32, Ordering::*};

/// See the module's comment. Zero bytes are the number 0.
#[derive(Default)]
#[repr(transparent)]
pub struct Sequence<A = AtomicU32>(A);

impl<A: Atomic<Value = u32>> Sequence<A> {
    /// The number.
    #[inline(always)]
    pub fn number(&self) -> u32 {
        self.0.load(Relaxed)
    }
    /// Moves on to another number. Only the writer may call this.
    #[inline(always)]
    pub fn advance(&self, number: u32) {
        self.0.store(number, Release);
        // Else what is stored next could be seen before the number.
        A::fence(Release);
    }
    /// Runs `read`, which is told the number. Also returns whether the number stayed the same meanwhile.
    #[inline(always)]
    pub fn read<R>(&self, read: impl FnOnce(u32) -> R) -> (R, bool) {
        let number = self.0.load(Acquire);
        let found = read(number);
        // Else the second look could come before what was read.
        A::fence(Acquire);
        (found, self.number() == number)
    }
}

#[cfg(test)]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;

    /// Two words that belong together.
    struct Pair([AtomicU32; 2]);
    impl Pair {
        fn new() -> Pair {
            Pair([AtomicU32::new(0), AtomicU32::new(0)])
        }
        fn set(&self, value: u32) {
            self.0.iter().for_each(|word| word.store(value, Relaxed));
        }
        fn get(&self) -> [u32; 2] {
            [0, 1].map(|word: usize| self.0[word].load(Relaxed))
        }
    }
    fn explore(write: fn(&Sequence<AtomicU32>, &[Pair; 2]), right: fn(u32, &[Pair; 2]) -> bool) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let shared = Arc::new((Sequence(AtomicU32::new(0)), [Pair::new(), Pair::new()]));
            let writer = shared.clone();
            let writing = loom::thread::spawn(move || write(&writer.0, &writer.1));
            let (sequence, pairs) = &*shared;
            let (is_right, whole) = sequence.read(|number| right(number, pairs));
            assert!(!whole || is_right, "read while it changed");
            writing.join().unwrap();
        });
    }

    /// As a span's record does: what is read while the number is even does not count.
    #[test]
    fn a_record_that_changes_is_not_read() {
        let write = |sequence: &Sequence<AtomicU32>, pairs: &[Pair; 2]| {
            for step in 0..2 {
                pairs[0].set(step + 1);
                sequence.advance(2 * step + 1);
                sequence.advance(2 * step + 2);
            }
        };
        explore(write, |number, pairs| number % 2 == 0 || pairs[0].get() == [number.div_ceil(2); 2]);
    }
    /// As a tally does: while one pair is written, the other counts.
    #[test]
    fn one_of_two_pairs_is_always_whole() {
        let write = |sequence: &Sequence<AtomicU32>, pairs: &[Pair; 2]| {
            for step in 0..2 {
                pairs[1].set(step + 1);
                sequence.advance(2 * step + 1);
                pairs[0].set(step + 1);
                sequence.advance(2 * step + 2);
            }
        };
        explore(write, |number, pairs| pairs[number as usize % 2].get() == [number.div_ceil(2); 2]);
    }
}
