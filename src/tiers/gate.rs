//! The gate that every operation of the tiers goes through, so that fork finds them all at rest.
//!
//! Inside the gate all signals of the thread are blocked. Otherwise a signal handler of the program that touches
//! tiered memory could fault on top of an operation whose locks the fault handler needs. Fault handlers are inside
//! with their signals blocked from the start. `fork` closes the gate and waits until nobody is inside. So no lock of
//! this module tree is ever held across fork, and none needs fork handling of its own.
//!
//! # Protocol
//! The word counts the threads inside; its highest bit says that the gate is closed.
//! - Coming in is one compare-and-swap of the whole word, so nobody comes in while that bit is set. A thread that
//!   finds it set sleeps until the word changes.
//! - The thread that closes the gate sets the bit, and sleeps until the count is zero. The last thread to leave a
//!   closed gate wakes it.
//! - Opening the gate wakes the threads that wait to come in.
//! - Coming in acquires what was done before the gate was opened. Closing acquires what was done inside.
//!
//! The model at the end of this file tries all interleavings.
use super::word::AtomicWord;
use crate::log::{self, Later};
use crate::os::system;
use crate::os::watch::{Kind, Watch};
use core::sync::atomic::AtomicU32;

const CLOSED: u32 = 1 << 31;
static GATE: Gate = Gate(AtomicU32::new(0));
/// The lock checker sees the gate as a lock, because a thread that goes in twice waits for ever if a fork closes the
/// gate in between.
static WATCH: Watch = Watch::new(Kind::TakenByFork);

struct Gate<A = AtomicU32>(A);
impl<A: AtomicWord> Gate<A> {
    fn pass(&self) {
        loop {
            let word = self.0.load();
            if word & CLOSED != 0 {
                self.0.wait(word);
            } else if self.0.replace(word, word + 1) {
                return;
            }
        }
    }
    fn leave(&self) {
        if self.0.add(1_u32.wrapping_neg()) == CLOSED | 1 {
            self.0.wake();
        }
    }
    fn close(&self) {
        let mut word = self.0.add(CLOSED) | CLOSED;
        while word != CLOSED {
            self.0.wait(word);
            word = self.0.load();
        }
    }
    fn open(&self) {
        self.0.exchange(0);
        self.0.wake();
    }
}

/// Proof of being inside; leaving is dropping it.
pub struct Inside {
    signals: Option<libc::sigset_t>,
    // Dropped after the gate is left.
    _later: Later,
}
/// Goes inside.
pub fn enter() -> Inside {
    enter_with(Some(system::block_signals()))
}
/// Goes inside from a fault handler or a worker thread, whose signals are blocked already.
pub fn enter_masked() -> Inside {
    enter_with(None)
}
fn enter_with(signals: Option<libc::sigset_t>) -> Inside {
    // A message logged inside, for instance by a malloc that finds damage, is delivered outside: the program's
    // callback may come in.
    let _later = log::later();
    WATCH.about_to_take();
    GATE.pass();
    core::mem::forget(WATCH.hold());
    Inside { signals, _later }
}
impl Drop for Inside {
    fn drop(&mut self) {
        GATE.leave();
        // Before the signals are unblocked, since a pending handler of the program may come in.
        WATCH.leave();
        if let Some(signals) = &self.signals {
            system::set_signals(signals);
        }
    }
}

/// Closes the gate: nobody comes in any more. Waits until all threads are out. Must not be called while the gate is
/// closed.
pub fn close() {
    WATCH.about_to_take();
    GATE.close();
    core::mem::forget(WATCH.hold());
}
/// Opens the gate again. Called by the thread that closed it, or in a child forked meanwhile.
pub fn open() {
    GATE.open();
    WATCH.leave();
}

#[cfg(test)]
mod model {
    //! Threads that work inside, and one that closes the gate. That one must find what they work on at rest.
    use super::super::word::modelled::{ModelledWord, explore};
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// The gate, and what each thread works on inside. The checker complains if two threads touch one of these
    /// without an order between them, and if a thread sleeps for ever.
    struct Model {
        gate: Gate<ModelledWord>,
        work: [UnsafeCell<u32>; 2],
    }
    impl Model {
        fn work(&self, thread: usize) {
            self.gate.pass();
            self.work[thread].with_mut(|work| {
                // SAFETY: only this thread touches it while the gate is open; the checker verifies that.
                unsafe { *work += 1 }
            });
            self.gate.leave();
        }
        /// What fork does: closes the gate, touches everything, and opens it again.
        fn stop_all(&self) {
            self.gate.close();
            for work in &self.work {
                work.with_mut(|work| {
                    // SAFETY: nobody is inside; the checker verifies that.
                    unsafe { *work += 10 }
                });
            }
            self.gate.open();
        }
    }
    fn closing_meanwhile(threads: usize, passes: usize, closings: u32) {
        explore(3, move || {
            let model = Arc::new(Model {
                gate: Gate(ModelledWord::new(0)),
                work: [UnsafeCell::new(0), UnsafeCell::new(0)],
            });
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let model = model.clone();
                    loom::thread::spawn(move || (0..passes).for_each(|_| model.work(thread)))
                })
                .collect();
            (0..closings).for_each(|_| model.stop_all());
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            for work in &model.work[..threads] {
                // SAFETY: all other threads have ended; the checker verifies that.
                let done = work.with(|work| unsafe { *work });
                assert_eq!(done, passes as u32 + 10 * closings);
            }
        });
    }

    #[test]
    fn nobody_is_inside_a_closed_gate_and_nobody_waits_for_ever() {
        closing_meanwhile(2, 1, 1);
    }
    #[test]
    fn it_may_close_again_at_once() {
        closing_meanwhile(1, 2, 2);
    }
}
