//! What fork does to tiered memory: parent and child both go on with the data as they were.
//!
//! Before the fork the gate is closed, so nothing is on its way. Chunks in place and encoded chunks in RAM are the
//! child's by the system's copy-on-write. Staging slots are not inherited where the mechanism moves pages (shared
//! pages cannot be moved), the child gets new ones. A spill file that holds chunks is shared, so from then on nobody
//! changes anything in it, holes for what is freed included: both open another one for what they spill afterwards,
//! without blocks made in advance, and close the shared one when they have brought in or freed all that is theirs in
//! it (looked at when they fork again, and when their last region goes). The child registers its memory with a
//! userfaultfd of its own. Where the child cannot be given what it needs, its chunks that are not in place stay
//! inaccessible: touching them is SIGBUS or SIGSEGV, acquiring them an error, never wrong bytes.
use super::engine::Engine;
use super::fault::Faults;
use super::mapping::Errno;
use super::region::Region;
use super::state::{Phase, Settle};
use super::table::{Stored, Which};
use super::transit::Transit;
use super::{crew, gate};
use crate::log::log;
use crate::os::fork::Hooks;
use crate::os::lock::Mutex;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

static ENGINES: Mutex<Vec<Weak<Engine>>> = Mutex::new(Vec::new());
/// See load.rs.
pub static HOOKS: Hooks = Hooks { prepare, parent, child };

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
    crew::forget();
    for faults in Faults::used() {
        if let Some(Err(Errno(error))) = faults.pages.userfaultfd().map(|fd| fd.reopen()) {
            log!(
                Error,
                "a forked child has no userfaultfd (error {error}): its tiered memory is inaccessible"
            );
        }
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
            Ok((file, spill)) => self.regions().iter().for_each(|region| region.move_home(file, &spill)),
            // The shared one must not be written; it is tried again when something has to be spilled.
            Err(Errno(error)) => {
                log!(Error, "no spill file after fork: error {error}");
                self.use_no_file();
            }
        }
    }
    /// In a child without the parent's slots: chunks whose only copy is in one (they could neither be stored nor go
    /// back in place) are lost, and bringing them in is an error.
    fn lose_staged(&self, region: &Region) {
        while let Some(index) = { region.lists().oldest(Which::Staged) } {
            // Nobody else is there.
            let Some(mut transit) = Transit::claim(region, index, Some(Phase::Staged)) else { return };
            transit.stored().file = Stored::LOST;
            region.counters.staged.fetch_sub(region.chunk_size(), Relaxed);
            self.purse().discharge_pages(region.chunk_size());
            transit.settle(Phase::Stored, Settle::default());
        }
    }
    /// In a child: registers its memory anew.
    fn renew(&self) {
        let pages = self.pages();
        for region in self.regions().iter().filter(|region| !region.is_resident()) {
            if let Err(Errno(error)) = pages.adopt_region(region.reserved()) {
                log!(
                    Error,
                    "a forked child cannot use tiered memory at {:#x}: error {error}",
                    region.start()
                );
                region.forbid();
            }
        }
        for staging in self.stagings().iter().filter(|_| pages.slots_are_private()) {
            let full = staging.forget_full();
            self.purse().discharge_pages(full * staging.chunk());
            self.regions()
                .iter()
                .filter(|r| Arc::ptr_eq(r.staging(), staging))
                .for_each(|r| self.lose_staged(r));
            if let Err(Errno(error)) = staging.renew(pages) {
                log!(Error, "a forked child has no staging memory: error {error}");
            }
        }
    }
}
