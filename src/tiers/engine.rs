//! The residency engine of one instance: its regions, its share of the budget, its spill files.
//!
//! Bringing chunks in is in fill.rs, sending them out in evict.rs; why no write is lost is told in state.rs. Order in
//! which things are acquired: the gate, a workspace, a claim, a slot, then single locks, none of which is held while
//! another is waited for.
use super::budget::{Budget, BudgetAccount};
use super::chunk_error::ChunkError;
use super::fault::pages::Pages;
use super::fault::{Faults, Mechanism, handler};
use super::files::{Files, Numbered};
use super::mapping::Errno;
use super::region::{Params, Region};
use super::spill::Spill;
use super::staging::Staging;
use super::sync_points::{self, SyncPoint};
use super::waiting::{Outcome, Waiting};
use super::warm::Warm;
use super::{fork, gate, recorded, registry, workers, workspace};
use crate::error::{Error, Result, fail};
use crate::log::log;
use crate::os::lock::Mutex;
use crate::os::map;
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::Arc;

/// Sets of slots that are kept though no region uses them. Each takes about a hundred of the mappings that a process may have.
const KEPT_SETS: usize = 8;

/// A list that is replaced, never changed: readers take the current one and keep it.
pub type Snapshot<T> = Arc<Vec<Arc<T>>>;

/// The engine.
pub struct Engine {
    faults: &'static Faults,
    account: BudgetAccount,
    pub(super) warm: Warm,
    regions: Mutex<Snapshot<Region>>,
    stagings: Mutex<Snapshot<Staging>>,
    files: Files,
    /// Held while a region is made or moved, and while what a freed one leaves is cleared away.
    arrangement: Mutex<()>,
    /// Counts up with every chunk that is put into a list: the stamps that tell the age of chunks.
    clock: AtomicU32,
    /// The threads at work, and those of them that wait for room.
    pub(super) waiting: Waiting,
}

impl Engine {
    /// An engine on the mechanism this process uses.
    pub fn new(budget: Box<dyn Budget>) -> Result<Arc<Engine>> {
        match Faults::chosen() {
            Ok(faults) => Engine::on(faults, budget),
            Err(errno) => fail!(Unsupported, "no way to move pages here: {errno}"),
        }
    }
    /// An engine on the given mechanism.
    pub fn with_mechanism(mechanism: Mechanism, budget: Box<dyn Budget>) -> Result<Arc<Engine>> {
        match Faults::get(mechanism) {
            Ok(faults) => Engine::on(faults, budget),
            Err(errno) => fail!(Unsupported, "{mechanism:?} does not work here: {errno}"),
        }
    }
    fn on(faults: &'static Faults, budget: Box<dyn Budget>) -> Result<Arc<Engine>> {
        recorded::install();
        let _inside = gate::enter();
        let account = BudgetAccount::new(budget);
        let capacity = match account.limit() {
            0 => map::physical_memory(),
            limit => limit.min(map::physical_memory()).max(1 << 20),
        };
        let Some(warm) = Warm::new(capacity).filter(|_| workspace::prepare()) else {
            return fail!(OutOfMemory, "no address space for tiered memory");
        };
        let engine = Arc::new(Engine {
            faults,
            account,
            warm,
            regions: Mutex::sheltered(Default::default()),
            stagings: Mutex::sheltered(Default::default()),
            files: Files::default(),
            arrangement: Mutex::sheltered(()),
            clock: AtomicU32::new(0),
            waiting: Waiting::default(),
        });
        fork::add(&engine);
        Ok(engine)
    }

    /// Runs `work`, once more if it finds no room and the instance then makes some. Outside the gate.
    pub(super) fn with_room<R>(&self, work: impl Fn() -> Result<R>) -> Result<R> {
        match work() {
            Err(Error::OutOfMemory) if self.account.make_room() => work(),
            result => result,
        }
    }
    /// A new region of zeroed memory.
    pub fn allocate(self: &Arc<Self>, params: &Params) -> Result<Arc<Region>> {
        self.with_room(|| self.try_allocate(params))
    }
    fn try_allocate(self: &Arc<Self>, params: &Params) -> Result<Arc<Region>> {
        let _inside = gate::enter();
        let _arrangement = self.arrangement.lock();
        let made = self.arrange(|| {
            let mut region = Region::reserve(self, params)?;
            region.settle_in()?;
            region.take_spill_space()?;
            Ok(region)
        });
        let region = Arc::new(made.inspect_err(|_| self.drop_sets())?);
        if let Some(signal) = self.faults.mechanism.signal() {
            handler::install(signal);
        }
        if self.account.limit() != 0 {
            workers::start();
        }
        self.publish(&region);
        Ok(region)
    }
    /// Makes a region known to faults and evictions.
    pub(super) fn publish(&self, region: &Arc<Region>) {
        change(&self.regions, |list| list.push(region.clone()));
        registry::add(region);
    }
    /// Makes it unknown again. False if it was not known.
    pub(super) fn conceal(&self, region: &Arc<Region>) -> bool {
        registry::remove(region);
        let found = Cell::new(false);
        change(&self.regions, |list| {
            let before = list.len();
            list.retain(|r| !Arc::ptr_eq(r, region));
            found.set(list.len() < before);
        });
        sync_points::pass(SyncPoint::Concealed);
        found.get()
    }
    /// Frees a region and everything stored for it. Waits for what is in flight. False if another thread was first.
    pub fn free(&self, region: &Arc<Region>) -> bool {
        let _inside = gate::enter();
        // Nobody finds its chunks any more, but their pages come free: a thread that waits for room must not give up.
        let pages = self.pages_in_hand();
        let first = self.conceal(region);
        if first {
            region.dissolve();
            drop(pages);
            let _arrangement = self.arrangement.lock();
            self.drop_sets();
            if !self.stagings().iter().any(|set| Arc::ptr_eq(set, region.staging())) {
                // It may have gone while chunks of this region were still on their way to its slots.
                let _pages = self.pages_in_hand();
                self.drop_full(region.staging(), usize::MAX);
            }
            let largest = self.regions().iter().map(|region| region.chunk_size()).max();
            self.account.reserve_at_most(largest.unwrap_or(0));
            if self.regions().is_empty() {
                // The worker threads may still have pages in hand; whoever comes next must not find them charged.
                self.waiting.wait_until(|| self.waiting.at_work() == 0);
                self.give_back();
                self.account.close();
                self.close_files_left();
            }
        }
        first
    }
    /// Changes a region's size, moving it if it has to grow beyond its address space. What is new is zeros. The old one
    /// is untouched on failure, and gone if the new one is another.
    pub fn resize(self: &Arc<Self>, region: &Arc<Region>, size: usize) -> Result<Arc<Region>> {
        if size == 0 {
            return fail!(InvalidArgument, "tiered memory of no bytes");
        }
        if size > region.size() {
            region.clear_tail()?;
        }
        self.with_room(|| self.try_resize(region, size))
    }
    fn try_resize(self: &Arc<Self>, region: &Arc<Region>, size: usize) -> Result<Arc<Region>> {
        let _inside = gate::enter();
        if region.resize(size)? {
            return Ok(region.clone());
        }
        let _arrangement = self.arrangement.lock();
        self.arrange(|| super::moving::grow(self, region, size))
    }
    /// Makes a region. If that fails the budget guarantees what it did before. While `arrangement` is held.
    fn arrange<R>(&self, make: impl FnOnce() -> Result<R>) -> Result<R> {
        let before = self.account.reservation();
        make().inspect_err(|_| self.account.restore_reservation(before))
    }
    /// Frees all regions. The engine can be used again.
    pub fn clear(&self) -> usize {
        let all = self.list();
        for region in &all {
            self.free(region);
        }
        all.len()
    }

    /// Gives back what is held for the next chunk. Gives the bytes.
    pub fn trim(&self) -> usize {
        let _inside = gate::enter();
        let before = self.account.held();
        self.give_back();
        before.saturating_sub(self.account.held())
    }
    fn give_back(&self) {
        let _pages = self.pages_in_hand();
        for staging in self.stagings().iter() {
            self.drop_full(staging, usize::MAX);
        }
        self.warm.trim(&self.account);
    }
    /// All regions now.
    pub fn list(&self) -> Vec<Arc<Region>> {
        let _inside = gate::enter();
        self.regions().to_vec()
    }
    /// All regions now, for those who are inside the gate.
    pub(super) fn regions(&self) -> Snapshot<Region> {
        self.regions.lock().clone()
    }
    /// Bytes that could be given back to the budget if need be.
    pub fn movable(&self) -> usize {
        self.account.held().saturating_sub(self.account.guaranteed())
    }
    pub(super) fn stagings(&self) -> Snapshot<Staging> {
        self.stagings.lock().clone()
    }
    pub(super) fn staging_for(&self, chunk: usize) -> Result<Arc<Staging>> {
        if let Some(staging) = self.stagings().iter().find(|s| s.chunk() == chunk) {
            return Ok(staging.clone());
        }
        let staging = match Staging::new(self.pages(), chunk) {
            Ok(staging) => Arc::new(staging),
            Err(errno) => return fail!(OutOfMemory, "no staging memory: {errno}"),
        };
        change(&self.stagings, |list| list.push(staging.clone()));
        Ok(staging)
    }
    /// Gives up sets of slots that no region uses, but for a few that the next one may want. While `arrangement` is held: no
    /// region is being made. Their slots are empty then, or on their way to it: pages go into slots for a region only.
    fn drop_sets(&self) {
        let before = self.stagings();
        if before.len() <= KEPT_SETS {
            return;
        }
        let regions = self.regions();
        let is_used = |set: &Arc<Staging>| regions.iter().any(|region| Arc::ptr_eq(region.staging(), set));
        change(&self.stagings, |list| {
            let mut over = list.len().saturating_sub(KEPT_SETS);
            list.retain(|set| {
                let goes = over > 0 && !is_used(set);
                over -= usize::from(goes);
                !goes
            });
        });
        let _pages = self.pages_in_hand();
        let after = self.stagings();
        for set in before.iter().filter(|set| !after.iter().any(|other| Arc::ptr_eq(other, set))) {
            self.drop_full(set, usize::MAX);
        }
    }
    pub(super) fn account(&self) -> &BudgetAccount {
        &self.account
    }
    pub(super) fn pages(&self) -> &'static Pages {
        &self.faults.pages
    }
    /// How faults are served.
    pub fn mechanism(&self) -> Mechanism {
        self.faults.mechanism
    }
    /// Bytes charged to the budget.
    pub fn held(&self) -> usize {
        self.account.held()
    }

    /// The current spill file and its number, opened on first use.
    pub(super) fn spill(&self) -> core::result::Result<Numbered, Errno> {
        self.files.current()
    }
    /// Opens another spill file; from now on it is the current one. While nobody spills.
    pub(super) fn new_file(&self) -> core::result::Result<Numbered, Errno> {
        self.files.open_instead_of(self.current_file())
    }
    /// Until another is opened nothing can be spilled.
    pub(super) fn use_no_file(&self) {
        self.files.use_none();
    }
    /// Whether chunks are stored in a file.
    pub(super) fn stores_in(&self, file: u16) -> bool {
        self.regions().iter().any(|region| region.spill_space().stores_in(file))
    }
    /// Closes the files that were left at a fork and hold nothing any more. While nobody moves a region.
    pub(super) fn close_files_left(&self) {
        let regions = self.regions();
        self.files.close(|number| {
            let unused = !regions.iter().any(|region| region.spill_space().stores_in(number));
            if unused {
                regions.iter().for_each(|region| region.spill_space().leave(number));
            }
            unused
        });
    }
    /// The number of the current file. 0 if there is none.
    pub(super) fn current_file(&self) -> u16 {
        self.files.current_number()
    }
    /// All spill files, closed ones among them.
    pub(super) fn files(&self) -> Snapshot<Spill> {
        self.files.all()
    }
    /// A file by its number, from 1 on.
    pub fn file(&self, number: u16) -> Option<Arc<Spill>> {
        self.files.get(number)
    }

    pub(super) fn tick(&self) -> u32 {
        self.clock.fetch_add(1, Relaxed)
    }
    /// For threads that handle slots, or pin chunks, without a claim: while this lives they count as at work (waiting.rs), since
    /// what could leave may be with them.
    pub(super) fn pages_in_hand(&self) -> impl Drop + '_ {
        struct InHand<'a>(&'a Engine);
        impl Drop for InHand<'_> {
            fn drop(&mut self) {
                self.0.waiting.end();
            }
        }
        self.waiting.begin();
        InHand(self)
    }
    /// For a thread with a claim in `region` that found nothing that could leave. Waits for progress since it looked (`seen`);
    /// false if there is nothing to hope for, because all others wait too, or because the region is leaving and the thread
    /// that frees or moves it waits for this claim.
    pub(super) fn starve(&self, region: &Region, seen: u32) -> bool {
        self.waiting.starve(seen, || region.is_leaving())
    }
    /// The same for room to acquire the claimed chunk. False if others want the chunk's place: then the claim is to be given up,
    /// and made again later.
    pub(super) fn starve_to_acquire(
        &self,
        region: &Region,
        seen: u32,
    ) -> core::result::Result<bool, ChunkError> {
        match self.waiting.starve_for_more(seen, || region.is_leaving()) {
            Outcome::Progress => Ok(true),
            Outcome::Called => Ok(false),
            Outcome::Hopeless if region.is_leaving() => Err(ChunkError::Leaving),
            Outcome::Hopeless => Err(ChunkError::NoRoomBeside),
        }
    }
}
impl Drop for Engine {
    fn drop(&mut self) {
        self.account.end();
    }
}

/// Replaces a list by a changed copy. Nothing is allocated or freed while the lock is held: see gate.rs.
fn change<T>(list: &Mutex<Snapshot<T>>, edit: impl Fn(&mut Vec<Arc<T>>)) {
    loop {
        let old = list.lock().clone();
        let mut new = (*old).clone();
        edit(&mut new);
        let new = Arc::new(new);
        let mut current = list.lock();
        if Arc::ptr_eq(&current, &old) {
            let replaced = core::mem::replace(&mut *current, new);
            drop(current);
            drop(replaced);
            return;
        }
    }
}

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Run the instruction again.
    Yes,
    /// Not in tiered memory.
    NotOurs,
    /// In tiered memory, and it could not be brought in. The log knows why.
    Failed,
}

/// Serves a fault at `address`. From signal handlers, with all signals blocked.
pub fn serve_fault(address: usize, store: Option<bool>) -> Served {
    let inside = gate::enter_masked();
    let Some((region, index)) = registry::find(address).and_then(|r| r.index_of(address).map(|i| (r, i)))
    else {
        return Served::NotOurs;
    };
    let touched = region.touch(index, store != Some(false));
    drop(region);
    drop(inside);
    match touched {
        Ok(()) => Served::Yes,
        // Outside, because the program's callback may go inside, which waits where a fork has closed the gate meanwhile.
        Err(error) => {
            log!(Error, "tiered memory at {address:#x} cannot be brought in: {error}");
            Served::Failed
        }
    }
}
