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
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;
use rustix::thread::futex;
use rustix::time::Timespec;

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

/// What threads sleep on that wait for something under a lock: a number that changes when they are woken. The crate's own asks
/// the time to sleep for a while, for which it reads what the kernel maps (vDSO) even where valgrind has unmapped it.
#[derive(Default)]
pub struct Condvar(AtomicU32);
impl Condvar {
    /// Nobody sleeps.
    pub const fn new() -> Condvar {
        Condvar(AtomicU32::new(0))
    }
    /// Gives the lock up until woken, or for no reason.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { mut guard, held } = guard;
        let watch = held.rest();
        // Under the lock: who changes what is waited for later changes the number later, too.
        let seen = self.0.load(Relaxed);
        rustix_futex_sync::MutexGuard::unlocked(&mut guard, || block(&self.0, seen, None));
        MutexGuard { guard, held: watch.hold() }
    }
    /// Gives the lock up until woken, or for no reason, or for so long, and does not take it again.
    pub fn wait_awhile<T>(&self, guard: MutexGuard<'_, T>, most: Duration) {
        let seen = self.0.load(Relaxed);
        drop(guard);
        block(&self.0, seen, Some(most));
    }
    /// Wakes one.
    pub fn notify_one(&self) {
        self.wake(1);
    }
    /// Wakes all.
    pub fn notify_all(&self) {
        self.wake(i32::MAX as u32);
    }
    fn wake(&self, most: u32) {
        self.0.fetch_add(1, Relaxed);
        // Fails only for arguments that are no futex.
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, most);
    }
}

/// Waits for about this long. Not as the standard library does, which panics where the system forbids that (seccomp).
pub fn sleep(time: Duration) {
    block(&AtomicU32::new(0), 0, Some(time));
}

/// Sleeps while the number is as it was seen, until it is woken or a signal comes, or for so long.
fn block(number: &AtomicU32, seen: u32, most: Option<Duration>) {
    let most =
        most.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
    // Whatever it returns for, the caller looks again.
    let _ = futex::wait(number, futex::Flags::PRIVATE, seen, most.as_ref());
}
