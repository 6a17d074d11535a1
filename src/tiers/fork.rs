//! What fork does to tiered memory: parent and child both go on with the data as they were.
//!
//! - Before the fork the gate is closed, so no operation is under way.
//! - Chunks in place, and encoded chunks in RAM, are the child's by the system's copy-on-write.
//! - The pages of staging slots are not inherited if the mechanism moves pages, because shared pages cannot be moved.
//!   The child's slots are empty then.
//! - A spill file that holds chunks is shared. From then on nobody changes anything in it, so nobody makes holes for
//!   what is freed either. Both processes open another file for what they spill afterwards, without making blocks in
//!   advance. Each closes the shared file when it has brought in or freed all of its chunks there; it checks this
//!   when it forks again, and when its last region is freed.
//! - The child registers its memory with a userfaultfd of its own. It closes the parent's first, because through that
//!   one it would act on the parent's memory.
//! - If the child cannot get what it needs, its chunks that are not in place stay inaccessible: touching them is
//!   SIGBUS or SIGSEGV, acquiring them is an error, and nobody sees wrong bytes.
//!
//! Failures are reported when fork has released all locks: the program's callback may allocate and free, which waits
//! at the gate.
use super::engine::Engine;
use super::fault::Faults;
use super::mapping::Errno;
use super::region::Region;
use super::state::{Phase, Settle};
use super::table::{Kept, ListKind};
use super::transit::Transit;
use super::{gate, workers};
use crate::log::log;
use crate::os::fork::Hooks;
use crate::os::lock::Mutex;
use crate::os::system;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

static ENGINES: Mutex<Vec<Weak<Engine>>> = Mutex::sheltered(Vec::new());
/// The hooks that load.rs registers.
pub static HOOKS: Hooks = Hooks { prepare, parent, child };

/// Something that may fail while a process forks, noted to be reported later.
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

/// Reports what failed in the last fork.
pub fn report() {
    for failure in FAILURES {
        match failure.first.swap(0, Relaxed) {
            0 => {}
            error => log!(Error, "{}: {}", failure.means, Errno(error)),
        }
    }
}

/// Makes an engine known to fork. To be called inside the gate.
pub fn add(engine: &Arc<Engine>) {
    let mut engines = ENGINES.lock();
    engines.retain(|engine| engine.strong_count() > 0);
    engines.push(Arc::downgrade(engine));
}

/// Visits all engines. To be called inside the gate, or while it is closed.
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
        if engine.stores_in(engine.files.current_number()) {
            engine.leave_file();
        }
    });
    gate::open();
}
fn child() {
    workers::forget();
    // What another thread of the parent was about to report is reported in the parent.
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
    /// Turns all chunks that were read ahead back into stored ones.
    fn unstage_all(&self) {
        for staging in self.stagings().iter() {
            while let Some(slot) = self.unstage(staging) {
                staging.put_full(slot);
            }
        }
    }
    /// Marks all spill files as shared, and opens another one to be written from now on, if there were any.
    fn leave_file(&self) {
        if self.files.current_number() == 0 {
            return;
        }
        self.files.share();
        match self.files.open_another() {
            Ok((file, spill)) => {
                self.regions().iter().for_each(|region| region.spill_space().move_to(file, &spill))
            }
            // The shared file must not be written. Opening another one is tried again when something has to be
            // spilled.
            Err(error) => {
                NO_FILE.note(error);
                self.files.use_none();
            }
        }
    }
    /// In a child without the parent's slots: a chunk whose only copy is in a slot (it could neither be stored nor go
    /// back in place) is lost. Bringing it in is an error from now on.
    fn lose_staged(&self, region: &Region) {
        while let Some(index) = { region.lists().oldest(ListKind::Staged) } {
            // The child has no other thread, so the claim succeeds.
            let Some(mut transit) = Transit::claim(region, index, Phase::Staged) else { return };
            if let Some(slot) = transit.take_slot() {
                region.staging().put_empty(slot.not_inherited());
            }
            transit.stored().kept = Kept::Lost;
            self.account().discharge_pages(region.chunk_size());
            transit.settle(Phase::Stored, Settle::default());
        }
    }
    /// In a child: registers the engine's memory anew.
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
            self.regions().iter().filter(|region| region.uses(staging)).for_each(|r| self.lose_staged(r));
            staging.renew(pages).unwrap_or_else(|error| NO_STAGING.note(error));
        }
    }
}
impl Region {
    /// For a forked child in which the faults of this region cannot be served: from now on every touch of a chunk
    /// that is not in place is SIGSEGV. Chunks in place are ordinary memory and stay where they are.
    pub(super) fn forbid(&self) {
        self.forbidden.store(true, Relaxed);
        let span = self.reserved();
        // SAFETY: the region's own memory; nobody else runs.
        unsafe {
            let closed = system::protect(span.start, span.length, libc::PROT_NONE);
            if closed.is_err() && system::map_over(span.start, span.length, libc::PROT_NONE).is_ok() {
                return; // what was in place is lost, but does not read as zeros
            }
        }
        let mut lists = self.lists();
        for _ in 0..self.table().count(ListKind::Hot) {
            let Some(index) = lists.oldest(ListKind::Hot) else { return };
            lists.rotate(index);
            // SAFETY: a chunk in the Hot list is in place, in this process too. If the system refuses, a touch of the
            // chunk is SIGSEGV as well.
            let _ = unsafe { self.engine().pages().open(self.span_of(index)) };
        }
    }
    /// Whether faults of this region are not served in this process. Its forked children cannot serve them either: an
    /// absent chunk stays absent.
    pub(super) fn is_forbidden(&self) -> bool {
        self.forbidden.load(Relaxed)
    }
}
