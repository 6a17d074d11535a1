//! The lock of everything that a forked child reaches.
//!
//! Futex words behind lock_api's guards: no allocation, no parking table that fork could leave half locked, and
//! `force_unlock` lets the fork handlers (os/fork.rs) release in parent and child what they took before the fork.
//!
//! There are two kinds. Those made by [`Mutex::new`] are taken by the fork handlers: load.rs lists them. Those made by
//! [`Mutex::sheltered`] are not, and are taken only by threads that fork waits for: inside the gate of the tiers, or under a
//! lock of the first kind. Checked builds find out where that is not so (watch.rs).
use super::watch::{Held, Kind, Watch};
use core::ops::{Deref, DerefMut};
use core::time::Duration;

/// A lock, and what it guards.
pub struct Mutex<T> {
    lock: rustix_futex_sync::Mutex<T>,
    watch: Watch,
}
impl<T> Mutex<T> {
    /// One that the fork handlers take.
    #[track_caller]
    pub const fn new(value: T) -> Mutex<T> {
        Mutex { lock: rustix_futex_sync::Mutex::new(value), watch: Watch::new(Kind::TakenByFork) }
    }
    /// One that is taken only where fork waits for who has it.
    #[track_caller]
    pub const fn sheltered(value: T) -> Mutex<T> {
        Mutex { lock: rustix_futex_sync::Mutex::new(value), watch: Watch::new(Kind::Sheltered) }
    }
    /// Takes it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.watch.about_to_take();
        let guard = self.lock.lock();
        MutexGuard { guard, held: self.watch.hold() }
    }
    /// Takes it unless somebody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.lock.try_lock()?;
        Some(MutexGuard { guard, held: self.watch.hold() })
    }
    /// Where what it guards is.
    pub fn data_ptr(&self) -> *mut T {
        self.lock.data_ptr()
    }
    /// What it guards, which nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut()
    }
    /// Releases it.
    ///
    /// # Safety
    /// This thread has taken it, and forgotten the guard.
    pub unsafe fn force_unlock(&self) {
        // SAFETY: by the caller's promise.
        unsafe { self.lock.force_unlock() };
        self.watch.leave();
    }
}

/// The right to what a lock guards, until it is dropped.
pub struct MutexGuard<'a, T> {
    // In this order, as they are dropped.
    guard: rustix_futex_sync::MutexGuard<'a, T>,
    held: Held<'a>,
}
impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}
impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// What threads sleep on that wait for something under a lock.
pub struct Condvar(rustix_futex_sync::Condvar);
impl Condvar {
    /// Nobody sleeps.
    pub const fn new() -> Condvar {
        Condvar(rustix_futex_sync::Condvar::new())
    }
    /// Gives the lock up until woken, or for no reason.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { guard, held } = guard;
        let watch = held.rest();
        let guard = self.0.wait(guard);
        MutexGuard { guard, held: watch.hold() }
    }
    /// Gives the lock up until woken, or for no reason, or for so long, and does not take it again.
    pub fn wait_awhile<T>(&self, guard: MutexGuard<'_, T>, most: Duration) {
        let MutexGuard { guard, held } = guard;
        held.rest();
        drop(self.0.wait_timeout(guard, most));
    }
    /// Wakes one.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }
    /// Wakes all.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

/// Waits for about this long. Not as the standard library does, which panics where the system forbids that (seccomp).
pub fn sleep(time: Duration) {
    let (nothing, never) = (rustix_futex_sync::Mutex::new(()), rustix_futex_sync::Condvar::new());
    drop(never.wait_timeout(nothing.lock(), time));
}
