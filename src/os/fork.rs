//! What must be locked across fork, so that a child never inherits a lock that nobody will release.
//!
//! Each module that owns a lock registers one [`Hooks`] under its [`Rank`], which is also the order in which locks
//! are taken everywhere in the library. `prepare` takes them in that order, parent and child release in reverse. All
//! signals of the forking thread are blocked meanwhile: a handler of the program that touches tiered memory would wait
//! for the thread it interrupted. Messages would call the program with all that held: what hooks have to tell is kept
//! until the end ([`Rank::Reports`]).
use super::system;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering::*};

/// Order in which locks are taken, outermost first.
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Rank {
    /// What the others' hooks have to tell the program. No lock: when all are released, and the signals are the
    /// program's again.
    Reports,
    /// What the first product makes. No lock: it is made before any is taken.
    Products,
    /// The recording under way. Held while all others are asked for their figures.
    Recording,
    /// Memory systems and their pools. Held while a system asks the singleton.
    Systems,
    /// The global system of the singleton, and the blocks it tracks.
    Singleton,
    /// The table of open instances.
    Instances,
    /// The residency engines.
    Tiers,
    /// Looking up the names of a stack. Held while that allocates, from whichever heap is malloc's.
    Symbols,
    /// What was found, blocks in quarantine, and the stacks that allocated.
    Debug,
    /// The list of threads and the heaps.
    Heaps,
    /// Retain counts and layouts.
    Attributes,
    /// Tracked blocks.
    Tracking,
    /// Free slices of the arena.
    Arena,
    /// Mappings for the library's own records.
    Records,
    /// Where messages go.
    Log,
}
const RANKS: usize = Rank::Log as usize + 1;

/// What one module does around fork.
pub struct Hooks {
    /// Takes the module's locks.
    pub prepare: fn(),
    /// Releases them in the parent.
    pub parent: fn(),
    /// Releases them in the child and drops what only the parent has, threads above all.
    pub child: fn(),
}
static HOOKS: [AtomicPtr<Hooks>; RANKS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; RANKS];

/// Registers `hooks`; the first call installs the handlers for the life of the process. Where the system has no memory
/// for that, the next one tries again. Once that is done it costs two loads: to be called wherever it could be the first
/// time, and never through a `Once`, which a child could inherit half done.
pub fn register(rank: Rank, hooks: &'static Hooks) {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    let hooks = core::ptr::from_ref(hooks).cast_mut();
    if HOOKS[rank as usize].load(Acquire) == hooks && INSTALLED.load(Acquire) {
        return;
    }
    HOOKS[rank as usize].store(hooks, Release);
    if !INSTALLED.swap(true, AcqRel) {
        // SAFETY: three functions without arguments that live as long as the process (the library is never unloaded).
        if unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) } != 0 {
            INSTALLED.store(false, Release);
        }
    }
}
fn hooks(rank: usize) -> Option<&'static Hooks> {
    // SAFETY: only `register` stores here, and only 'static references.
    unsafe { HOOKS[rank].load(Acquire).as_ref() }
}
std::thread_local! {
    /// The ranks whose hooks `prepare` ran, a bit each: what is registered while this thread forks must not be released.
    static TAKEN: Cell<u32> = const { Cell::new(0) };
    /// What the forking thread had blocked before.
    static SIGNALS: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
}
fn unblock_signals() {
    if let Some(signals) = SIGNALS.take() {
        system::set_signals(&signals);
    }
}
/// Innermost first.
fn finish(run: fn(&Hooks)) {
    let taken = TAKEN.get();
    for rank in (0..RANKS).rev() {
        if rank == Rank::Reports as usize {
            unblock_signals();
        }
        if taken >> rank & 1 == 1 {
            hooks(rank).into_iter().for_each(run);
        }
    }
}
const _: () = assert!(Rank::Reports as usize == 0);
extern "C" fn prepare() {
    SIGNALS.set(Some(system::block_signals()));
    TAKEN.set(0);
    for rank in 0..RANKS {
        if let Some(hooks) = hooks(rank) {
            (hooks.prepare)();
            TAKEN.set(TAKEN.get() | 1 << rank);
        }
    }
}
extern "C" fn parent() {
    finish(|hooks| (hooks.parent)());
}
extern "C" fn child() {
    finish(|hooks| (hooks.child)());
}
