//! An atomic word that threads wait on: the system's, and the model checker's.
use core::sync::atomic::{AtomicU32, Ordering::*};

/// An atomic word one can wait on.
pub trait AtomicWord {
    /// Reads.
    fn load(&self) -> u32;
    /// Replaces `current` by `new`; false if it was something else.
    fn replace(&self, current: u32, new: u32) -> bool;
    /// Stores `new`, gives the old.
    fn exchange(&self, new: u32) -> u32;
    /// Adds, modulo 2^32, and gives the old.
    fn add(&self, number: u32) -> u32;
    /// Sleeps while the word is `value` (or wakes for no reason).
    fn wait(&self, value: u32);
    /// Wakes all sleepers.
    fn wake(&self);
}

/// What is done to the word, with the same orders for the system's and the model checker's: those the models show to be
/// enough are those that are used.
macro_rules! operations {
    ($self:ident => $word:expr) => {
        fn load(&$self) -> u32 {
            $word.load(Acquire)
        }
        fn replace(&$self, current: u32, new: u32) -> bool {
            $word.compare_exchange(current, new, AcqRel, Acquire).is_ok()
        }
        fn exchange(&$self, new: u32) -> u32 {
            $word.swap(new, AcqRel)
        }
        fn add(&$self, number: u32) -> u32 {
            $word.fetch_add(number, AcqRel)
        }
    };
}

impl AtomicWord for AtomicU32 {
    operations!(self => self);
    fn wait(&self, value: u32) {
        atomic_wait::wait(self, value);
    }
    fn wake(&self) {
        atomic_wait::wake_all(self);
    }
}

/// For models.
#[cfg(test)]
pub(crate) mod modelled {
    use super::*;
    use loom::sync::{Condvar, Mutex};

    /// Sleeps and wakes as a futex does: a thread whom nobody wakes any more is found as a deadlock.
    pub struct ModelledWord {
        word: loom::sync::atomic::AtomicU32,
        /// Makes looking at the word and going to sleep one step, as the kernel does.
        asleep: Mutex<()>,
        woken: Condvar,
    }
    impl ModelledWord {
        pub fn new(value: u32) -> ModelledWord {
            ModelledWord {
                word: loom::sync::atomic::AtomicU32::new(value),
                asleep: Mutex::new(()),
                woken: Condvar::new(),
            }
        }
    }
    impl AtomicWord for ModelledWord {
        operations!(self => self.word);
        fn wait(&self, value: u32) {
            let asleep = self.asleep.lock().unwrap();
            if self.word.fetch_or(0, Relaxed) == value {
                drop(self.woken.wait(asleep).unwrap());
            }
        }
        fn wake(&self) {
            let _asleep = self.asleep.lock().unwrap();
            self.woken.notify_all();
        }
    }
    /// All interleavings with so many preemptions at most.
    pub fn explore(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_branches = 20_000;
        builder.check(run);
    }
}
