//! The gate every operation of the tiers goes through, so that fork finds them all at rest.
//!
//! Inside, all signals of the thread are blocked: a handler of the program that touches tiered memory would otherwise
//! fault on top of an operation whose locks it needs. The fault handlers are inside with their signals blocked from
//! the start. `fork` closes the gate and waits until nobody is inside; so no lock of this module tree is ever held
//! across fork, and none needs fork handling of its own.
//!
//! # Protocol
//! The word counts the threads inside; its highest bit says that the gate is closed. Coming in is one compare-and-swap of
//! the whole word, so nobody comes in while that bit is set: a thread that finds it set sleeps until the word changes, and so
//! does the one that closes the gate, until the count is zero. The last thread to leave a closed gate wakes that one, opening
//! it wakes the others. Coming in acquires what was done before the gate was opened, closing it what was done inside. The
//! model at the end of this file tries all interleavings.
use super::word::AtomicWord;
use crate::log::{self, Later};
use crate::os::system;
use crate::os::watch::{Kind, Watch};
use core::sync::atomic::AtomicU32;

const CLOSED: u32 = 1 << 31;
static GATE: Gate = Gate(AtomicU32::new(0));
/// To those who watch locks it is one: who goes in twice waits for ever where a fork closes it in between.
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
    // Dropped once it is left.
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
    // What is told inside, as by a malloc that finds something, is told outside: the program's callback may come in.
    let _later = log::later();
    WATCH.about_to_take();
    GATE.pass();
    core::mem::forget(WATCH.hold());
    Inside { signals, _later }
}
impl Drop for Inside {
    fn drop(&mut self) {
        GATE.leave();
        // Before a handler of the program that has waited comes in.
        WATCH.leave();
        if let Some(signals) = &self.signals {
            system::set_signals(signals);
        }
    }
}

/// Lets nobody in any more and waits until all are out. Not while it is closed.
pub fn close() {
    WATCH.about_to_take();
    GATE.close();
    core::mem::forget(WATCH.hold());
}
/// Lets everybody in again. By whoever closed it, or in a child forked meanwhile.
pub fn open() {
    GATE.open();
    WATCH.leave();
}

#[cfg(test)]
mod model {
    //! Threads that work inside, and one that closes the gate: it must find what they work on at rest.
    use super::super::word::modelled::{ModelledWord, explore};
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// The gate, and what each thread works on inside. The checker complains where two threads touch one of these and
    /// nothing orders them, and where a thread sleeps for ever.
    struct Model {
        gate: Gate<ModelledWord>,
        work: [UnsafeCell<u32>; 2],
    }
    impl Model {
        fn work(&self, thread: usize) {
            self.gate.pass();
            self.work[thread].with_mut(|work| {
                // SAFETY: of this thread alone, while the gate is not closed; the checker verifies it.
                unsafe { *work += 1 }
            });
            self.gate.leave();
        }
        /// What fork does.
        fn stop_all(&self) {
            self.gate.close();
            for work in &self.work {
                work.with_mut(|work| {
                    // SAFETY: nobody is inside; the checker verifies it.
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
                // SAFETY: all others have ended; the checker verifies it.
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
