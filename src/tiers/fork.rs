//! What fork does to tiered memory: parent and child both go on with the data as they were.
//!
//! Before the fork the gate is closed, so nothing is on its way. Chunks in place and encoded chunks in RAM are the
//! child's by the system's copy-on-write. The pages of staging slots are not inherited where the mechanism moves
//! pages (shared ones cannot be moved), the child's slots are empty. A spill file that holds chunks is shared, so from then on nobody
//! changes anything in it, holes for what is freed included: both open another one for what they spill afterwards,
//! without blocks made in advance, and close the shared one when they have brought in or freed all that is theirs in
//! it (looked at when they fork again, and when their last region goes). The child registers its memory with a
//! userfaultfd of its own, and closes the parent's first, with which it could only do harm there. Where the child cannot
//! be given what it needs, its chunks that are not in place stay inaccessible: touching them is SIGBUS or SIGSEGV,
//! acquiring them an error, never wrong bytes.
//!
//! What went wrong is told when fork has released all locks: the program's callback may allocate and free, which waits at
//! the gate.
use super::engine::Engine;
use super::fault::Faults;
use super::mapping::Errno;
use super::region::Region;
use super::staging::Slot;
use super::state::{Phase, Settle};
use super::table::{ListKind, Stored};
use super::transit::Transit;
use super::{gate, workers};
use crate::log::log;
use crate::os::fork::Hooks;
use crate::os::lock::Mutex;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

static ENGINES: Mutex<Vec<Weak<Engine>>> = Mutex::sheltered(Vec::new());
/// See load.rs.
pub static HOOKS: Hooks = Hooks { prepare, parent, child };

/// What may go wrong while a process forks.
struct Failure {
    /// The first error number of this fork; 0: none.
    first: AtomicI32,
    means: &'static str,
}
impl Failure {
    const fn that(means: &'static str) -> Failure {
        Failure { first: AtomicI32::new(0), means }
    }
    fn note(&self, Errno(error): Errno) {
        let _ = self.first.compare_exchange(0, error, Relaxed, Relaxed);
    }
}
static NO_FILE: Failure =
    Failure::that("no spill file after fork, the one before must not be written any more");
static NO_USERFAULTFD: Failure = Failure::that("a forked child has no userfaultfd");
static FORBIDDEN: Failure =
    Failure::that("a forked child has no access to what is not in place of its tiered memory");
static NO_STAGING: Failure = Failure::that("a forked child has no staging memory");
static FAILURES: [&Failure; 4] = [&NO_FILE, &NO_USERFAULTFD, &FORBIDDEN, &NO_STAGING];

/// Tells what went wrong in the last fork.
pub fn report() {
    for failure in FAILURES {
        match failure.first.swap(0, Relaxed) {
            0 => {}
            error => log!(Error, "{}: {}", failure.means, Errno(error)),
        }
    }
}

/// Makes fork know an engine. Inside the gate.
pub fn add(engine: &Arc<Engine>) {
    let mut engines = ENGINES.lock();
    engines.retain(|engine| engine.strong_count() > 0);
    engines.push(Arc::downgrade(engine));
}

/// Visits all engines. Inside the gate, or with it closed.
pub(super) fn each(mut visit: impl FnMut(&Engine)) {
    ENGINES.lock().iter().filter_map(Weak::upgrade).for_each(|engine| visit(&engine));
}
fn prepare() {
    gate::close();
    each(Engine::unstage_all);
}
fn parent() {
    each(|engine| {
        engine.close_files_left();
        if engine.stores_in(engine.current_file()) {
            engine.leave_file();
        }
    });
    gate::open();
}
fn child() {
    workers::forget();
    // What another thread of the parent was about to tell is told there.
    FAILURES.iter().for_each(|failure| failure.first.store(0, Relaxed));
    for userfaultfd in Faults::used().filter_map(|faults| faults.pages.userfaultfd()) {
        userfaultfd.reopen().unwrap_or_else(|error| NO_USERFAULTFD.note(error));
    }
    each(|engine| {
        engine.leave_file();
        engine.close_files_left();
        engine.renew();
    });
    gate::open();
}

impl Engine {
    /// Puts all chunks that were read ahead back to where they are stored.
    fn unstage_all(&self) {
        for staging in self.stagings().iter() {
            while let Some(slot) = self.unstage(staging) {
                staging.put_full(slot);
            }
        }
    }
    /// Changes nothing any more in the files there are, and writes to another one from now on, if there are any.
    fn leave_file(&self) {
        if self.current_file() == 0 {
            return;
        }
        self.files().iter().for_each(|spill| spill.share());
        match self.new_file() {
            Ok((file, spill)) => {
                self.regions().iter().for_each(|region| region.spill_space().move_to(file, &spill))
            }
            // The shared one must not be written; it is tried again when something has to be spilled.
            Err(error) => {
                NO_FILE.note(error);
                self.use_no_file();
            }
        }
    }
    /// In a child without the parent's slots: chunks whose only copy is in one (they could neither be stored nor go
    /// back in place) are lost, and bringing them in is an error.
    fn lose_staged(&self, region: &Region) {
        while let Some(index) = { region.lists().oldest(ListKind::Staged) } {
            // Nobody else is there.
            let Some(mut transit) = Transit::claim(region, index, Some(Phase::Staged)) else { return };
            // SAFETY: put there when the chunk became Staged; the phase changes with this claim, so it is taken out once.
            region.staging().put_empty(unsafe { Slot::from_number(transit.stored().slot) });
            transit.stored().file = Stored::LOST;
            region.counters.staged.fetch_sub(region.chunk_size(), Relaxed);
            self.account().discharge_pages(region.chunk_size());
            transit.settle(Phase::Stored, Settle::default());
        }
    }
    /// In a child: registers its memory anew.
    fn renew(&self) {
        let pages = self.pages();
        for region in self.regions().iter().filter(|r| !r.is_resident() && !r.is_forbidden()) {
            if let Err(error) = pages.adopt_region(region.reserved(), region.chunk_size()) {
                FORBIDDEN.note(error);
                region.forbid();
            }
        }
        for staging in self.stagings().iter().filter(|_| pages.slots_are_private()) {
            let full = staging.forget_full();
            self.account().discharge_pages(full * staging.chunk());
            self.regions()
                .iter()
                .filter(|r| Arc::ptr_eq(r.staging(), staging))
                .for_each(|r| self.lose_staged(r));
            staging.renew(pages).unwrap_or_else(|error| NO_STAGING.note(error));
        }
    }
}
