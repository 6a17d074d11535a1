//! The door every operation of the tiers goes through, so that fork finds them all at rest.
//!
//! Inside, all signals of the thread are blocked: a handler of the program that touches tiered memory would otherwise
//! fault on top of an operation whose locks it needs. The fault handlers are inside with their signals blocked from
//! the start. `fork` closes the door and waits until nobody is inside; so no lock of this module tree is ever held
//! across fork, and none needs fork handling of its own.
use crate::os::system;
use core::sync::atomic::{AtomicU32, Ordering::*};

const CLOSED: u32 = 1 << 31;
static DOOR: AtomicU32 = AtomicU32::new(0);

/// Proof of being inside; leaving is dropping it.
pub struct Inside {
    signals: Option<libc::sigset_t>,
}

fn pass() {
    loop {
        let word = DOOR.load(Relaxed);
        if word & CLOSED != 0 {
            atomic_wait::wait(&DOOR, word);
        } else if DOOR.compare_exchange_weak(word, word + 1, Acquire, Relaxed).is_ok() {
            return;
        }
    }
}
/// Goes inside.
pub fn enter() -> Inside {
    let signals = system::block_signals();
    pass();
    Inside { signals: Some(signals) }
}
/// Goes inside from a fault handler or a thread of the crew, whose signals are blocked already.
pub fn enter_masked() -> Inside {
    pass();
    Inside { signals: None }
}
impl Drop for Inside {
    fn drop(&mut self) {
        if DOOR.fetch_sub(1, Release) == CLOSED | 1 {
            atomic_wait::wake_all(&DOOR);
        }
        if let Some(signals) = &self.signals {
            system::set_signals(signals);
        }
    }
}

/// Lets nobody in any more and waits until all are out.
pub fn close() {
    let mut word = DOOR.fetch_or(CLOSED, AcqRel) | CLOSED;
    while word != CLOSED {
        atomic_wait::wait(&DOOR, word);
        word = DOOR.load(Acquire);
    }
}
/// Lets everybody in again.
pub fn open() {
    DOOR.fetch_and(!CLOSED, Release);
    atomic_wait::wake_all(&DOOR);
}
