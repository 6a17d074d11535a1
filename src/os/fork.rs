//! What is locked across fork, so that a child never inherits a lock that nobody will release.
//!
//! Each module that owns locks has one [`AtFork`]; load.rs lists them all, in the order in which locks are taken everywhere
//! in the library. Before a fork they are taken in that order, and released in reverse in parent and child. All signals of
//! the forking thread are blocked meanwhile: a handler of the program that touches tiered memory would wait for the thread
//! it interrupted. Messages would call the program with all that held: what hooks have to tell is kept for
//! [`Order::report`].
//!
//! The handlers are installed when the library is loaded, before any thread can hold a lock: they are in place, all of
//! them, whenever a fork begins. So they run for modules that were never used too, and have to be harmless then: they take
//! and release locks, and allocate nothing.
use super::lock::Mutex;
use super::system::{self, NotCancelled};
use super::watch;
use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering::*};

/// What happens to one module's locks around fork. A lock that needs nothing else is one itself.
pub trait AtFork: Sync {
    /// Takes them.
    fn prepare(&self);
    /// Releases them in the parent.
    ///
    /// # Safety
    /// This thread has called `prepare`, and has not released them since.
    unsafe fn parent(&self);
    /// Releases them in the child and drops what only the parent has, threads above all.
    ///
    /// # Safety
    /// As for `parent`; the thread is the child's only one.
    unsafe fn child(&self);
}
impl<T: Send> AtFork for Mutex<T> {
    fn prepare(&self) {
        core::mem::forget(self.lock());
    }
    unsafe fn parent(&self) {
        // SAFETY: held, by the caller's promise, and its guard forgotten.
        unsafe { self.force_unlock() }
    }
    unsafe fn child(&self) {
        // SAFETY: held, by the caller's promise, and its guard forgotten.
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
/// Several, outermost first.
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
/// For those that need more. The functions are called as [`AtFork`] says.
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
/// All there is to do.
pub struct Order {
    /// Outermost lock first.
    pub hooks: &'static [&'static dyn AtFork],
    /// Tells the program what the hooks had to tell, in parent and child: all locks are released then, and the signals
    /// are the program's again.
    pub report: fn(),
}
static ORDER: AtomicPtr<Order> = AtomicPtr::new(null_mut());

std::thread_local! {
    /// This thread forks, and has taken all locks.
    static FORKING: Cell<bool> = const { Cell::new(false) };
    /// This thread installs the handlers.
    static INSTALLING: Cell<bool> = const { Cell::new(false) };
    /// What the forking thread had blocked before.
    static SIGNALS: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
    /// The forking thread is not cancelled from the first hook to the last.
    static UNCANCELLED: Cell<ManuallyDrop<Option<NotCancelled>>> = const { Cell::new(ManuallyDrop::new(None)) };
}

/// Installs the handlers for the life of the process, always with the same `order`. False when the system has no memory
/// for that (or this very thread is about to, and the C library allocates meanwhile): then the next call tries again.
///
/// Never through a lock or a `Once`, which a child could inherit half done: threads that come first at the same moment,
/// before the library's constructor has run, each install them, and all but one of a thread's do nothing.
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
    // SAFETY: only `install` stores here, and only 'static references.
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
    // SAFETY: only where `prepare` has run in this thread.
    release(|hooks| unsafe { hooks.parent() });
}
extern "C" fn child() {
    // SAFETY: only where `prepare` has run in this thread, the only one of a child.
    release(|hooks| unsafe { hooks.child() });
}
