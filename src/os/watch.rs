//! Checked builds watch how locks are taken. They end the program where that could leave a thread waiting for ever, not
//! only in the one run of thousands in which it does.
//!
//! Locks made at the same place in the source are of one *class*; the gate of the tiers is one, too. These end the program:
//! - A lock is taken under another one that is elsewhere taken under it, directly or through further locks. Fork takes all
//!   locks in load.rs, in the order there. So any lock taken in another order is found once the process has forked.
//! - A lock is taken by a thread that has it, or another one of its class: nothing says which of the two comes first.
//! - A sheltered lock is taken where fork does not wait for its holder: a child could inherit it taken, for ever.
//! - A message is sent under a lock: the program's callback may call anything.
//!
//! Other builds have none of this.
#[cfg(debug_assertions)]
use super::findings::found;
#[cfg(debug_assertions)]
use core::panic::Location;
#[cfg(debug_assertions)]
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// What fork does about a lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Fork takes the lock.
    TakenByFork,
    /// Fork waits until the lock's holder has left what shelters it.
    Sheltered,
}

/// What is known of one lock.
pub struct Watch {
    #[cfg(debug_assertions)]
    kind: Kind,
    #[cfg(debug_assertions)]
    made: &'static Location<'static>,
    /// Number of the lock's class, plus one; 0 if it was not looked up yet.
    #[cfg(debug_assertions)]
    class: AtomicUsize,
}
/// The lock is held until this is dropped.
pub struct Held<'a>(&'a Watch);

impl Watch {
    /// For a lock that the caller makes.
    #[track_caller]
    #[cfg_attr(not(debug_assertions), expect(unused_variables))]
    pub const fn new(kind: Kind) -> Watch {
        Watch {
            #[cfg(debug_assertions)]
            kind,
            #[cfg(debug_assertions)]
            made: Location::caller(),
            #[cfg(debug_assertions)]
            class: AtomicUsize::new(0),
        }
    }
    /// Called when the calling thread is about to take the lock, or to wait for it.
    #[inline]
    pub fn about_to_take(&self) {
        #[cfg(debug_assertions)]
        self.look();
    }
    /// Called when the calling thread has taken the lock.
    #[inline]
    pub fn hold(&self) -> Held<'_> {
        #[cfg(debug_assertions)]
        self.note_held();
        Held(self)
    }
    /// Called when the calling thread has released the lock.
    #[inline]
    pub fn leave(&self) {
        #[cfg(debug_assertions)]
        HELD.with(|held| held[self.class()].update(|count| count - 1));
    }
}
impl<'a> Held<'a> {
    /// The lock is not held for a while.
    pub fn rest(self) -> &'a Watch {
        self.0 // and drops `self`
    }
}
impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Says that the calling thread is about to take all locks for a fork, or that it has released them.
pub fn set_forking(forking: bool) {
    #[cfg(debug_assertions)]
    FORKING.set(forking);
    #[cfg(not(debug_assertions))]
    let _ = forking;
}
/// Lets the calling thread of a test take sheltered locks anywhere from now on, to look at what they guard.
pub fn look_on() {
    #[cfg(debug_assertions)]
    LOOKING_ON.set(true);
}
/// Called when the calling thread is about to call the program.
#[inline]
pub fn about_to_call_program() {
    #[cfg(debug_assertions)]
    if let Some(class) = classes(held_now()).next() {
        found(format_args!("the program is called under the lock of {}", name(class)));
    }
}

#[cfg(debug_assertions)]
const MOST: usize = 64;
/// Where the locks of each class are made.
#[cfg(debug_assertions)]
static MADE: [AtomicPtr<Location<'static>>; MOST] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MOST];
/// For each class, the classes that were taken under it, one bit each.
#[cfg(debug_assertions)]
static UNDER: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// The classes of locks that are not sheltered; below, the classes that fork has taken.
#[cfg(debug_assertions)]
static NOT_SHELTERED: AtomicU64 = AtomicU64::new(0);
#[cfg(debug_assertions)]
static TAKEN_BY_FORK: AtomicU64 = AtomicU64::new(0);

#[cfg(debug_assertions)]
std::thread_local! {
    /// How many locks of each class this thread has.
    static HELD: [core::cell::Cell<u32>; MOST] = const { [const { core::cell::Cell::new(0) }; MOST] };
    static FORKING: core::cell::Cell<bool> = const { core::cell::Cell::new(false) };
    static LOOKING_ON: core::cell::Cell<bool> = const { core::cell::Cell::new(false) };
}
#[cfg(debug_assertions)]
fn held_now() -> u64 {
    HELD.with(|held| {
        held.iter().enumerate().fold(0, |set, (class, count)| set | u64::from(count.get() > 0) << class)
    })
}
#[cfg(debug_assertions)]
fn classes(set: u64) -> impl Iterator<Item = usize> {
    (0..MOST).filter(move |class| set >> class & 1 == 1)
}
#[cfg(debug_assertions)]
fn name(class: usize) -> &'static Location<'static> {
    // SAFETY: `Watch::class` has stored a 'static reference in the place of that number.
    unsafe { &*MADE[class].load(SeqCst) }
}

#[cfg(debug_assertions)]
impl Watch {
    fn class(&self) -> usize {
        if let Some(class) = self.class.load(SeqCst).checked_sub(1) {
            return class;
        }
        let made = core::ptr::from_ref(self.made).cast_mut();
        for (class, place) in MADE.iter().enumerate() {
            let first = place.compare_exchange(core::ptr::null_mut(), made, SeqCst, SeqCst);
            // SAFETY: only 'static references are stored here.
            if first.is_ok() || first.is_err_and(|other| unsafe { *other } == *self.made) {
                if self.kind != Kind::Sheltered {
                    NOT_SHELTERED.fetch_or(1 << class, SeqCst);
                }
                self.class.store(class + 1, SeqCst);
                return class;
            }
        }
        found(format_args!("there are more classes of locks than are watched"));
    }
    fn look(&self) {
        let (class, held, forking) = (self.class(), held_now(), FORKING.get());
        if held >> class & 1 == 1 && !forking {
            found(format_args!("the lock of {} is taken by a thread that has one of these", name(class)));
        }
        for outer in classes(held & !(1 << class)) {
            let before = UNDER[outer].fetch_or(1 << class, SeqCst);
            if before >> class & 1 == 0 && comes_under(outer, class) {
                found(format_args!(
                    "the lock of {} is taken under that of {}, and elsewhere the other way round",
                    name(class),
                    name(outer)
                ));
            }
        }
        self.look_for_shelter(class, held, forking);
    }
    fn look_for_shelter(&self, class: usize, held: u64, forking: bool) {
        let sheltered = held & NOT_SHELTERED.load(SeqCst) != 0 || LOOKING_ON.get();
        if self.kind == Kind::Sheltered && !sheltered {
            found(format_args!("the lock of {} is taken where fork does not wait for it", name(class)));
        }
        if self.kind == Kind::TakenByFork && forking {
            TAKEN_BY_FORK.fetch_or(1 << class, SeqCst);
        }
    }
    fn note_held(&self) {
        let class = self.class();
        // Done here again, for locks that were only tried.
        self.look_for_shelter(class, held_now(), FORKING.get());
        HELD.with(|held| held[class].update(|count| count + 1));
    }
}
/// Whether locks of class `inner` were taken under those of class `outer`, directly or through others.
#[cfg(debug_assertions)]
fn comes_under(inner: usize, outer: usize) -> bool {
    let (mut seen, mut next) = (0, 1 << outer);
    while next & !seen != 0 {
        let found = classes(next & !seen).fold(0, |set, class| set | UNDER[class].load(SeqCst));
        seen |= next;
        next |= found;
    }
    seen >> inner & 1 == 1
}
/// Where those locks were made that some thread has taken, but fork has not, though they are not sheltered.
#[cfg(all(test, debug_assertions))]
pub fn missed_by_fork() -> Vec<String> {
    classes(NOT_SHELTERED.load(SeqCst) & !TAKEN_BY_FORK.load(SeqCst))
        .map(|class| name(class).to_string())
        .collect()
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use crate::log::log;
    use crate::os::lock::Mutex;
    use std::process::Command;

    /// What the finding says, and what causes it.
    const CASES: [(&str, fn()); 4] = [
        ("and elsewhere the other way round", || {
            static LOCKS: [Mutex<()>; 3] = [Mutex::new(()), Mutex::new(()), Mutex::new(())];
            for (outer, inner) in [(0, 1), (1, 2), (2, 0)] {
                let _outer = LOCKS[outer].lock();
                drop(LOCKS[inner].lock());
            }
        }),
        ("is taken by a thread that has one of these", || {
            static LOCKS: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
            let _first = LOCKS[0].lock();
            drop(LOCKS[1].lock());
        }),
        ("is taken where fork does not wait for it", || {
            static LOCKS: (Mutex<()>, Mutex<()>) = (Mutex::new(()), Mutex::sheltered(()));
            let shelter = LOCKS.0.lock();
            drop(LOCKS.1.lock());
            drop(shelter);
            drop(LOCKS.1.try_lock());
        }),
        ("the program is called under the lock of", || {
            static LOCK: Mutex<()> = Mutex::new(());
            let _held = LOCK.lock();
            log!(Warning, "whatever");
        }),
    ];
    #[test]
    fn what_could_wait_for_ever_ends_the_program() {
        const CASE: &str = "UNIMEM_TEST_CASE";
        if let Ok(case) = std::env::var(CASE) {
            return CASES[case.parse::<usize>().unwrap()].1();
        }
        for (case, (said, _)) in CASES.iter().enumerate() {
            let mut program = Command::new(std::env::current_exe().unwrap());
            let name = "os::watch::tests::what_could_wait_for_ever_ends_the_program";
            program
                .args(["--exact", name, "--nocapture"])
                .env(CASE, case.to_string())
                .env("UNIMEM_LOG", "warning");
            let output = program.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && text.contains(said), "{text}");
        }
    }
}
