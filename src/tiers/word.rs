//! An atomic word that threads can wait on: the system's futex, and one for the model checker.
use core::sync::atomic::{AtomicU32, Ordering::*};

/// An atomic word that threads can wait on.
pub trait AtomicWord {
    /// Reads.
    fn load(&self) -> u32;
    /// Replaces `current` by `new`. Returns false if the word was something else.
    fn replace(&self, current: u32, new: u32) -> bool;
    /// Stores `new`. Returns the old value.
    fn exchange(&self, new: u32) -> u32;
    /// Adds, modulo 2^32. Returns the old value.
    fn add(&self, number: u32) -> u32;
    /// Sleeps while the word is `value`. May wake for no reason.
    fn wait(&self, value: u32);
    /// Wakes all sleepers.
    fn wake(&self);
}

/// The operations, with the same memory orders for the system's word and the model checker's. So the orders that the
/// models prove to be enough are the orders in use.
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

/// The word for models.
#[cfg(test)]
pub(crate) mod modelled {
    use super::*;
    use loom::sync::{Condvar, Mutex};

    /// Sleeps and wakes as a futex does. The checker reports a thread that nobody wakes any more as a deadlock.
    pub struct ModelledWord {
        word: loom::sync::atomic::AtomicU32,
        /// Makes the look at the word and going to sleep one step, as the kernel does.
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
    /// Tries all interleavings with at most this many preemptions.
    pub fn explore(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_branches = 20_000;
        builder.check(run);
    }
}
