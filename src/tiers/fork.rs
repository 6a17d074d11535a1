//! What fork does to tiered memory: parent and child both go on with the data as they were.
//!
//! Before the fork the gate is closed, so nothing is on its way. Chunks in place and encoded chunks in RAM are the
//! child's by the system's copy-on-write. Staging slots are not inherited where the mechanism moves pages (shared
//! pages cannot be moved), the child gets new ones. The spill file is shared, so from then on neither writes to it:
//! both open another one for what they spill afterwards, without blocks made in advance. The child registers its
//! memory with a userfaultfd of its own. Where the child cannot be given what it needs, its chunks that are not in
//! place stay inaccessible: touching them is SIGBUS or SIGSEGV, acquiring them an error, never wrong bytes.
use super::engine::Engine;
use super::fault::Faults;
use super::mapping::Errno;
use super::{crew, gate};
use crate::log::log;
use crate::os::fork::{Hooks, Rank, register};
use crate::os::lock::Mutex;
use std::sync::{Arc, Weak};

static ENGINES: Mutex<Vec<Weak<Engine>>> = Mutex::new(Vec::new());
static HOOKS: Hooks = Hooks { prepare, parent, child };

/// Makes fork know the tiers.
pub fn install() {
    register(Rank::Tiers, &HOOKS);
}
/// Makes fork know an engine.
pub fn add(engine: &Arc<Engine>) {
    let _inside = gate::enter();
    let mut engines = ENGINES.lock();
    engines.retain(|engine| engine.strong_count() > 0);
    engines.push(Arc::downgrade(engine));
}

fn each(visit: impl Fn(&Engine)) {
    // Nobody else is inside the gate, so the lock is free and may be held.
    ENGINES.lock().iter().filter_map(Weak::upgrade).for_each(|engine| visit(&engine));
}
fn prepare() {
    gate::close();
    each(Engine::unstage_all);
}
fn parent() {
    each(Engine::leave_file);
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
    /// Writes to another spill file from now on, if this one holds anything.
    fn leave_file(&self) {
        if self.current_file() == 0 {
            return;
        }
        match self.new_file() {
            Ok((file, spill)) => self.regions().iter().for_each(|region| region.move_home(file, &spill)),
            // Nothing can be spilled then: the shared file must not be written.
            Err(Errno(error)) => {
                log!(Error, "no spill file after fork: error {error}");
                self.use_no_file();
            }
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
            if let Err(Errno(error)) = staging.renew(pages) {
                log!(Error, "a forked child has no staging memory: error {error}");
            }
        }
    }
}
