//! The lock of everything that a forked child reaches.
//!
//! Futex words behind lock_api's guards: no allocation, no parking table that fork could leave half locked, and
//! `force_unlock` lets the fork handlers (os/fork.rs) release in parent and child what they took before the fork.
pub use rustix_futex_sync::{Condvar, Mutex, MutexGuard};

/// Waits for about this long. Not as the standard library does, which panics where the system forbids that (seccomp).
pub fn sleep(time: core::time::Duration) {
    let (nothing, never) = (Mutex::new(()), Condvar::new());
    drop(never.wait_timeout(nothing.lock(), time));
}
