//! What is locked across fork, so that a child never inherits a lock that nobody will release.
//!
//! - Each module that owns locks has one [`AtFork`]. load.rs lists them all, in the order in which locks are taken
//!   everywhere in the library. Before a fork they are taken in that order; in parent and child they are released in
//!   reverse.
//! - All signals of the forking thread are blocked meanwhile. A handler of the program that touches tiered memory would
//!   wait for the very thread that it interrupted.
//! - No message is sent meanwhile, because a message calls the program. What hooks have to tell is kept for
//!   [`Order::report`].
//!
//! The handlers are installed when the library is loaded, before any thread can hold a lock, so all of them are in place
//! whenever a fork begins. So they also run for modules that were never used, and have to be harmless then: they take and
//! release locks, and allocate nothing.
use super::lock::Mutex;
use super::system::{self, NotCancelled};
use super::watch;
use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering::*};

/// What one module does about its locks around fork. A lock that needs nothing else is an `AtFork` itself.
pub trait AtFork: Sync {
    /// Takes the module's locks.
    fn prepare(&self);
    /// Releases the locks in the parent.
    ///
    /// # Safety
    /// This thread has called `prepare`, and has not released the locks since.
    unsafe fn parent(&self);
    /// Releases the locks in the child, and drops what only the parent has, threads above all.
    ///
    /// # Safety
    /// As for `parent`; and the thread is the only one of the child.
    unsafe fn child(&self);
}
impl<T: Send> AtFork for Mutex<T> {
    fn prepare(&self) {
        core::mem::forget(self.lock());
    }
    unsafe fn parent(&self) {
        // SAFETY: by the caller's promise this thread holds the lock, whose guard `prepare` has forgotten.
        unsafe { self.force_unlock() }
    }
    unsafe fn child(&self) {
        // SAFETY: by the caller's promise this thread holds the lock, whose guard `prepare` has forgotten.
        unsafe { self.force_unlock() }
    }
}
impl<T: AtFork + ?Sized> AtFork for &T {
    fn prepare(&self) {
        (**self).prepare();
    }
    unsafe fn parent(&self) {
        // SAFETY: forwarded.
        unsafe { (**self).parent() }
    }
    unsafe fn child(&self) {
        // SAFETY: forwarded.
        unsafe { (**self).child() }
    }
}
/// Several locks or modules, outermost first.
impl<T: AtFork, const N: usize> AtFork for [T; N] {
    fn prepare(&self) {
        self.iter().for_each(|hooks| hooks.prepare());
    }
    unsafe fn parent(&self) {
        // SAFETY: the caller's promise holds for each.
        self.iter().rev().for_each(|hooks| unsafe { hooks.parent() });
    }
    unsafe fn child(&self) {
        // SAFETY: the caller's promise holds for each.
        self.iter().rev().for_each(|hooks| unsafe { hooks.child() });
    }
}
/// For modules that need more than locks taken and released. The functions are called as [`AtFork`] says.
pub struct Hooks {
    /// See [`AtFork::prepare`].
    pub prepare: fn(),
    /// See [`AtFork::parent`].
    pub parent: fn(),
    /// See [`AtFork::child`].
    pub child: fn(),
}
impl AtFork for Hooks {
    fn prepare(&self) {
        (self.prepare)();
    }
    unsafe fn parent(&self) {
        (self.parent)();
    }
    unsafe fn child(&self) {
        (self.child)();
    }
}
/// Everything that is done around fork.
pub struct Order {
    /// Outermost lock first.
    pub hooks: &'static [&'static dyn AtFork],
    /// Sends the messages that the hooks have kept, in parent and child. All locks are released then, and the signals are
    /// the program's again.
    pub report: fn(),
}
static ORDER: AtomicPtr<Order> = AtomicPtr::new(null_mut());

std::thread_local! {
    /// Whether this thread is forking, and has taken all locks.
    static FORKING: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is installing the handlers.
    static INSTALLING: Cell<bool> = const { Cell::new(false) };
    /// The signals that the forking thread had blocked before the fork.
    static SIGNALS: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
    /// Keeps the forking thread from being cancelled from the first hook to the last.
    static UNCANCELLED: Cell<ManuallyDrop<Option<NotCancelled>>> = const { Cell::new(ManuallyDrop::new(None)) };
}

/// Installs the handlers for the life of the process; every call gives the same `order`. False if the system has no memory
/// for that; then the next call tries again. Also false in a call that the C library causes by allocating while this very
/// thread installs the handlers.
///
/// This uses no lock and no `Once`, which a child could inherit half done. Threads that come first at the same moment,
/// before the library's constructor has run, each install the handlers. All but the first to run in a fork do nothing.
pub fn install(order: &'static Order) -> bool {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.load(Acquire) {
        return true;
    }
    if INSTALLING.replace(true) {
        return false;
    }
    ORDER.store(core::ptr::from_ref(order).cast_mut(), Release);
    // SAFETY: three functions without arguments that live as long as the process (the library is never unloaded).
    let installed = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) } == 0;
    INSTALLING.set(false);
    if installed {
        INSTALLED.store(true, Release);
    }
    installed
}
fn order() -> Option<&'static Order> {
    // SAFETY: only `install` stores here, and it stores only 'static references.
    unsafe { ORDER.load(Acquire).as_ref() }
}
extern "C" fn prepare() {
    let Some(order) = order() else { return };
    if !FORKING.replace(true) {
        UNCANCELLED.set(ManuallyDrop::new(Some(NotCancelled::begin())));
        SIGNALS.set(Some(system::block_signals()));
        watch::set_forking(true);
        order.hooks.iter().for_each(|hooks| hooks.prepare());
    }
}
fn release(one: fn(&dyn AtFork)) {
    let Some(order) = order() else { return };
    if FORKING.replace(false) {
        order.hooks.iter().rev().for_each(|hooks| one(*hooks));
        watch::set_forking(false);
        if let Some(signals) = SIGNALS.take() {
            system::set_signals(&signals);
        }
        (order.report)();
        drop(ManuallyDrop::into_inner(UNCANCELLED.replace(ManuallyDrop::new(None))));
    }
}
extern "C" fn parent() {
    // SAFETY: `release` calls this only if `prepare` has run in this thread.
    release(|hooks| unsafe { hooks.parent() });
}
extern "C" fn child() {
    // SAFETY: `release` calls this only if `prepare` has run in this thread, which is the only one of the child.
    release(|hooks| unsafe { hooks.child() });
}
