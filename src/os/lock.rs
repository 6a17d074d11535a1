//! The lock of everything that a forked child reaches.
//!
//! It is a futex word behind lock_api's guards. It allocates nothing, and there is no parking table that fork could leave
//! half locked. The fork handlers (os/fork.rs) use `force_unlock` to release in parent and child what they took before the
//! fork.
//!
//! There are two kinds:
//! - Locks made by [`Mutex::new`] are taken by the fork handlers; load.rs lists them.
//! - Locks made by [`Mutex::sheltered`] are not. Only threads that fork waits for may take them: inside the gate of the
//!   tiers, or under a lock of the first kind.
//!
//! Checked builds find a lock that is taken elsewhere (watch.rs).
use super::watch::{Held, Kind, Watch};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;
use rustix::thread::futex;
use rustix::time::Timespec;

/// A lock, together with what it guards.
pub struct Mutex<T> {
    lock: rustix_futex_sync::Mutex<T>,
    watch: Watch,
}
impl<T> Mutex<T> {
    /// Makes a lock that the fork handlers take.
    #[track_caller]
    pub const fn new(value: T) -> Mutex<T> {
        Mutex { lock: rustix_futex_sync::Mutex::new(value), watch: Watch::new(Kind::TakenByFork) }
    }
    /// Makes a lock that is taken only where fork waits for its holder.
    #[track_caller]
    pub const fn sheltered(value: T) -> Mutex<T> {
        Mutex { lock: rustix_futex_sync::Mutex::new(value), watch: Watch::new(Kind::Sheltered) }
    }
    /// Takes the lock.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.watch.about_to_take();
        let guard = self.lock.lock();
        MutexGuard { guard, held: self.watch.hold() }
    }
    /// Takes the lock unless somebody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.lock.try_lock()?;
        Some(MutexGuard { guard, held: self.watch.hold() })
    }
    /// The address of what the lock guards.
    pub fn data_ptr(&self) -> *mut T {
        self.lock.data_ptr()
    }
    /// What the lock guards, which nobody else can reach meanwhile.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut()
    }
    /// Releases the lock.
    ///
    /// # Safety
    /// This thread has taken the lock, and forgotten the guard.
    pub unsafe fn force_unlock(&self) {
        // SAFETY: by the caller's promise this thread holds the lock.
        unsafe { self.lock.force_unlock() };
        self.watch.leave();
    }
}

/// The right to use what a lock guards. Dropping it releases the lock.
pub struct MutexGuard<'a, T> {
    // The order of the fields is the order in which they are dropped.
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

/// Lets threads that hold a lock sleep until another thread wakes them. It is a number that changes with each waking. It
/// stands in for the Condvar of the same crate, which asks for the time when it sleeps for a while: that reads memory that
/// the kernel maps (vDSO), even where valgrind has unmapped it.
#[derive(Default)]
pub struct Condvar(AtomicU32);
impl Condvar {
    /// Nobody sleeps.
    pub const fn new() -> Condvar {
        Condvar(AtomicU32::new(0))
    }
    /// Releases the lock and sleeps until woken, then takes the lock again. It may also wake for no reason.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { mut guard, held } = guard;
        let watch = held.rest();
        // Read under the lock. Whoever changes what this thread waits for takes the lock after that, and so changes the
        // number after that.
        let seen = self.0.load(Relaxed);
        rustix_futex_sync::MutexGuard::unlocked(&mut guard, || block(&self.0, seen, None));
        MutexGuard { guard, held: watch.hold() }
    }
    /// Releases the lock and sleeps until woken, or for `most`, or less for no reason. It does not take the lock again.
    pub fn wait_awhile<T>(&self, guard: MutexGuard<'_, T>, most: Duration) {
        let seen = self.0.load(Relaxed);
        drop(guard);
        block(&self.0, seen, Some(most));
    }
    /// Wakes one thread.
    pub fn notify_one(&self) {
        self.wake(1);
    }
    /// Wakes all threads.
    pub fn notify_all(&self) {
        self.wake(i32::MAX as u32);
    }
    fn wake(&self, most: u32) {
        self.0.fetch_add(1, Relaxed);
        // Fails only if the address is no futex.
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, most);
    }
}

/// Sleeps for about this long. The standard library's function would panic where the system forbids its call (seccomp).
pub fn sleep(time: Duration) {
    block(&AtomicU32::new(0), 0, Some(time));
}

/// Sleeps while the number is what was `seen`: until it is woken, until a signal comes, or for `most`.
fn block(number: &AtomicU32, seen: u32, most: Option<Duration>) {
    let most =
        most.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
    // Whatever the reason for which this returns, the caller looks again.
    let _ = futex::wait(number, futex::Flags::PRIVATE, seen, most.as_ref());
}
