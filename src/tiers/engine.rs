//! The residency engine of one instance: its regions, its share of the budget, its spill files.
//!
//! fill.rs brings chunks in, evict.rs sends them out; state.rs says why no write is lost. A thread takes things in
//! this order: the gate, `resizing`, `arrangement`, a workspace, a claim, a slot, then other locks. It holds one of these while
//! it takes another in few places: a spill space holds its lists while it asks for files, the warm arena its lock
//! while it charges the account, the account its own while it charges the instance, a region's lists theirs while a heap of
//! by_age.rs is told of a chunk, and fork the list of engines while it visits them.
use super::budget::{Budget, BudgetAccount};
use super::by_address::ByAddress;
use super::by_age::ByAge;
use super::chunk_error::ChunkError;
use super::clear_share::ClearShare;
use super::fault::pages::Pages;
use super::fault::{Faults, Mechanism, handler};
use super::files::Files;
use super::region::{Params, Region};
use super::slab::{self, Slab};
use super::snapshot::Snapshot;
use super::staging::Staging;
use super::sync_points::{self, SyncPoint};
use super::table::ListKind;
use super::waiting::{End, Waiting};
use super::warm::Warm;
use super::{fork, gate, mappings, moving, recorded, registry, workers, workspace};
use crate::error::{Error, Result, fail};
use crate::log::log;
use crate::os::lock::Mutex;
use crate::os::map;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::Arc;

/// How many sets of slots are kept although no region uses them. Each takes up to [`Staging::MOST_MAPPINGS`] of the
/// mappings that a process may have.
const KEPT_SETS: usize = 8;
const _: () =
    assert!(KEPT_SETS * Staging::MOST_MAPPINGS < mappings::USUALLY_FREE, "chunks count on these being few");

/// The engine.
pub struct Engine {
    faults: &'static Faults,
    account: BudgetAccount,
    pub(super) warm: Warm,
    regions: Snapshot<ByAddress<Region>>,
    /// Those of the regions that are slabs, the oldest first.
    slabs: Snapshot<Vec<Arc<Region>>>,
    stagings: Snapshot<Vec<Arc<Staging>>>,
    /// The regions with chunks that are encoded in RAM, and with chunks in place that have encoded copies.
    pub(super) encoded: ByAge<Region>,
    /// See `encoded`.
    pub(super) copied: ByAge<Region>,
    pub(super) files: Files,
    /// Held while a region is made or moved, and while the sets of slots and the account are adjusted after one was
    /// freed.
    arrangement: Mutex<()>,
    /// Counts up with every chunk that comes in or is acquired, and gives the stamp that tells its age in place.
    clock: AtomicU32,
    /// Counts up with every chunk that leaves, and gives the stamp that tells how long it has been out.
    departures: AtomicU32,
    pub(super) clear_share: ClearShare,
    /// The threads at work, and which of them wait for room.
    pub(super) waiting: Waiting,
    /// How many threads have released, or are about to release, a chunk for the last time, and have not given its room
    /// back.
    pub(super) releasing: AtomicU32,
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
            regions: Snapshot::default(),
            slabs: Snapshot::default(),
            stagings: Snapshot::default(),
            encoded: ByAge::new(ListKind::Warm),
            copied: ByAge::new(ListKind::Copied),
            files: Files::default(),
            arrangement: Mutex::sheltered(()),
            clock: AtomicU32::new(0),
            departures: AtomicU32::new(0),
            clear_share: ClearShare::new(),
            waiting: Waiting::default(),
            releasing: AtomicU32::new(0),
        });
        fork::add(&engine);
        Ok(engine)
    }

    /// Runs `work`. If it finds no room, and the instance can then make some, runs `work` once more. To be called
    /// outside the gate.
    pub(super) fn with_room<R>(&self, work: impl Fn() -> Result<R>) -> Result<R> {
        match work() {
            Err(Error::OutOfMemory) if self.account.make_room() => work(),
            result => result,
        }
    }
    /// A new region of zeroed memory. To be called inside the gate.
    pub(super) fn make_region(self: &Arc<Self>, params: &Params) -> Result<Arc<Region>> {
        let _arrangement = self.arrangement.lock();
        self.make(|| {
            let mut region = Region::reserve(self, params)?;
            region.settle_in()?;
            region.take_spill_space()?;
            Ok(region)
        })
    }
    /// Begins a piece of a slab (slab.rs), in a new slab if it needs one. To be called inside the gate.
    pub(super) fn begin_part(self: &Arc<Self>, params: &Params) -> Result<(Arc<Region>, usize)> {
        params.length()?;
        let mut closed = Vec::new();
        let begun = self.begin_in_slabs(params, &mut closed);
        let begun = begun.unwrap_or_else(|| self.begin_in_new_slab(params, &mut closed));
        // Not while `arrangement` is held.
        closed.iter().for_each(|region| _ = self.free_inside(region));
        begun
    }
    fn begin_in_new_slab(
        self: &Arc<Self>,
        params: &Params,
        closed: &mut Vec<Arc<Region>>,
    ) -> Result<(Arc<Region>, usize)> {
        sync_points::pass(SyncPoint::NoChunkFree);
        let _arrangement = self.arrangement.lock();
        if let Some(begun) = self.begin_in_slabs(params, closed) {
            return begun; // another thread has made a slab
        }
        let mut first = None;
        let region = self.make(|| {
            let slabs = self.slabs.get().iter().filter(|slab| is_slab_for(slab, params)).count();
            let region = Region::reserve_slab(self, params, slabs)?;
            let begun = region.take_spill_space().and_then(|()| region.begin_part(params.size));
            first = begun.inspect_err(|_| region.dissolve())?;
            Ok(region)
        })?;
        first.map(|index| (region, index)).ok_or(Error::Internal)
    }
    /// Begins a piece in one of the slabs. None if they have no free chunk, and an error if there is no room for any that they
    /// have. Adds to `closed` the slabs that have no piece any more, which the caller frees.
    fn begin_in_slabs(
        &self,
        params: &Params,
        closed: &mut Vec<Arc<Region>>,
    ) -> Option<Result<(Arc<Region>, usize)>> {
        let mut failed = None;
        for region in self.slabs.get().iter().rev().filter(|slab| is_slab_for(slab, params)) {
            match region.begin_part(params.size) {
                Ok(Some(index)) => return Some(Ok((region.clone(), index))),
                Ok(None) => continue,
                Err(error) => failed = Some(Err(error)), // another may have room
            }
            // The other pieces may have been ended while this one had its chunk.
            if region.slab().is_some_and(Slab::is_closed) {
                closed.push(region.clone());
            }
        }
        failed
    }
    /// Makes a region known. If `reserve` fails, all is as before. Only while `arrangement` is held.
    fn make(self: &Arc<Self>, reserve: impl FnOnce() -> Result<Region>) -> Result<Arc<Region>> {
        let made = self.arrange(reserve);
        let region = Arc::new(made.inspect_err(|_| self.drop_sets())?);
        self.publish(&region);
        Ok(region)
    }
    /// To be called when a piece was made: the program may have installed a handler since the last one, or forked.
    pub(super) fn be_ready(&self) {
        if let Some(signal) = self.faults.mechanism.signal() {
            handler::install(signal);
        }
        if self.account.limit() != 0 {
            workers::start();
        }
    }
    /// Makes a region known to faults and evictions.
    pub(super) fn publish(&self, region: &Arc<Region>) {
        // First by its addresses: another thread may begin a piece in a slab as soon as it is in the list, and touch it.
        registry::add(region);
        sync_points::pass(SyncPoint::HalfPublished);
        self.regions.change(|list| list.insert(region.start(), region.clone()));
        region.staging().regions.fetch_add(1, Relaxed);
        region.set_known(true);
        if region.slab().is_some() {
            self.slabs.change(|list| list.push(region.clone()));
        }
    }
    /// Makes a region unknown again. Returns false if it was not known.
    pub(super) fn conceal(&self, region: &Arc<Region>) -> bool {
        registry::remove(region);
        let found = self.regions.change(|list| list.remove(region.start(), region));
        if found {
            region.staging().regions.fetch_sub(1, Relaxed);
            region.set_known(false);
            if region.slab().is_some() {
                self.slabs.change(|list| list.retain(|other| !Arc::ptr_eq(other, region)));
            }
        }
        sync_points::pass(SyncPoint::Concealed);
        found
    }
    /// Frees a region and everything stored for it. Waits for operations on it that other threads have begun. Returns
    /// false if another thread freed it first. To be called inside the gate.
    pub(super) fn free_inside(&self, region: &Arc<Region>) -> bool {
        let pages = {
            // Behind a thread that changes the size. One that comes later finds that the region is leaving.
            let _alone = region.resizing(0).lock();
            // From here on no thread finds the region's chunks, but their pages will come free: so this thread counts
            // as at work, and no thread that waits for room gives up.
            let pages = self.pages_in_hand();
            if !self.conceal(region) {
                return false;
            }
            region.mark_leaving();
            pages
        };
        region.dissolve();
        drop(pages);
        let _arrangement = self.arrangement.lock();
        self.drop_sets();
        if !self.has_set(region.staging()) {
            // `drop_sets` may have removed this region's set while chunks were still on their way to its slots.
            let _pages = self.pages_in_hand();
            self.drop_full(region.staging(), usize::MAX);
        }
        let stagings = self.stagings();
        let used = stagings.iter().filter(|set| set.regions.load(Relaxed) > 0);
        self.account.reserve_at_most(used.map(|set| set.chunk()).max().unwrap_or(0));
        if self.regions().is_empty() {
            // A worker thread may still have pages in hand; the next user of the budget must not find them charged.
            self.waiting.wait_until(|| self.waiting.at_work() == 0);
            self.give_back();
            self.account.close();
            self.close_files_left();
        }
        true
    }
    /// Changes a region's size. Moves the region if it has to grow beyond its address space; then the result is
    /// another region, and the old one is gone. Returns the size before, too. The bytes it grows by are zeros. On failure the
    /// region is as it was. To be called inside the gate.
    pub(super) fn resize_region(
        self: &Arc<Self>,
        region: &Arc<Region>,
        size: usize,
    ) -> Result<(Arc<Region>, usize)> {
        let _alone = region.resizing(0).lock();
        if region.is_leaving() {
            return Err(ChunkError::Leaving.error());
        }
        let before = region.size();
        if size > before {
            region.clear_tail_to_grow(region.count() - 1)?;
        }
        if region.resize(size)? {
            return Ok((region.clone(), before));
        }
        let _arrangement = self.arrangement.lock();
        self.arrange(|| moving::grow(self, region, size)).map(|grown| (grown, before))
    }
    /// Changes the size of a piece of a slab, as [`Engine::resize_region`].
    pub(super) fn resize_part(
        self: &Arc<Self>,
        region: &Arc<Region>,
        index: usize,
        size: usize,
    ) -> Result<Resized> {
        let _alone = region.resizing(index).lock();
        if size > region.used_in(index) {
            region.clear_tail_to_grow(index)?;
        }
        if slab::fits(size, region.chunk_size()) {
            let before = region.slab().and_then(|slab| slab.resize(index, size));
            return before.map(Resized::InPlace).ok_or_else(|| ChunkError::Leaving.error());
        }
        // Before `arrangement`, for which others wait, because it may come from disk.
        moving::bring_part_in(region, index).map_err(ChunkError::error)?;
        let _arrangement = self.arrangement.lock();
        self.arrange(|| moving::grow_part(self, region, index, size)).map(Resized::Moved)
    }
    /// Ends a piece of a slab. Returns its size, or None if another thread ended it first. To be called inside the gate.
    pub(super) fn free_part(&self, region: &Arc<Region>, index: usize) -> Option<usize> {
        // Behind a thread that changes the size.
        let ended = {
            let _alone = region.resizing(index).lock();
            region.end_part(index)?
        };
        if region.give_back_part(index) {
            self.free_inside(region);
        }
        Some(ended)
    }
    /// Runs `make`, which makes a region. If it fails, the budget's guarantee is restored to what it was before. Only
    /// while `arrangement` is held.
    fn arrange<R>(&self, make: impl FnOnce() -> Result<R>) -> Result<R> {
        let before = self.account.reservation();
        make().inspect_err(|_| self.account.restore_reservation(before))
    }
    /// Frees all pieces. The engine can be used again.
    pub fn clear(&self) {
        self.pieces().iter().for_each(|piece| _ = self.free(piece));
    }

    /// Gives back the pages that are held for chunks to come. Returns how many bytes.
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
    /// All regions now. To be called inside the gate.
    pub(super) fn regions(&self) -> Arc<ByAddress<Region>> {
        self.regions.get()
    }
    /// Bytes that chunks hold and could give back to the budget.
    pub fn movable(&self) -> usize {
        self.account.held().saturating_sub(self.account.guaranteed())
    }
    pub(super) fn stagings(&self) -> Arc<Vec<Arc<Staging>>> {
        self.stagings.get()
    }
    /// Whether the engine still has this set of slots.
    pub(super) fn has_set(&self, staging: &Staging) -> bool {
        self.stagings().iter().any(|set| core::ptr::eq(&**set, staging))
    }
    pub(super) fn staging_for(&self, chunk: usize) -> Result<Arc<Staging>> {
        if let Some(staging) = self.stagings().iter().find(|s| s.chunk() == chunk) {
            return Ok(staging.clone());
        }
        let staging = match Staging::new(self.pages(), chunk) {
            Ok(staging) => Arc::new(staging),
            Err(errno) => return fail!(OutOfMemory, "no staging memory: {errno}"),
        };
        self.stagings.change(|list| list.push(staging.clone()));
        Ok(staging)
    }
    /// Gives up the sets of slots that no region uses, except a few that the next region may want. Only while
    /// `arrangement` is held, so that no region is being made. The slots of such a set are empty or about to become
    /// so, because pages go into slots only for a region.
    fn drop_sets(&self) {
        let before = self.stagings();
        if before.len() <= KEPT_SETS {
            return;
        }
        self.stagings.change(|list| {
            let mut over = list.len().saturating_sub(KEPT_SETS);
            list.retain(|set| {
                let goes = over > 0 && set.regions.load(Relaxed) == 0;
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
    /// The mechanism that serves faults.
    pub fn mechanism(&self) -> Mechanism {
        self.faults.mechanism
    }
    /// Bytes charged to the budget.
    pub fn held(&self) -> usize {
        self.account.held()
    }

    /// Whether any chunk is stored in the spill file with this number.
    pub(super) fn stores_in(&self, file: u16) -> bool {
        self.regions().iter().any(|region| region.spill_space().stores_in(file))
    }
    /// Closes the spill files that were left at a fork and hold nothing any more. Only while nobody moves a region.
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
    pub(super) fn tick(&self) -> u32 {
        self.clock.fetch_add(1, Relaxed)
    }
    /// The stamp of a chunk that leaves.
    pub(super) fn note_departure(&self) -> u32 {
        self.departures.fetch_add(1, Relaxed)
    }
    /// The stamp that the next chunk that leaves will get.
    pub(super) fn departures(&self) -> u32 {
        self.departures.load(Relaxed)
    }
    /// For threads that handle slots, or pin chunks, without a claim: while the returned value lives, the thread
    /// counts as at work (waiting.rs), because what could leave may be with this thread.
    pub(super) fn pages_in_hand(&self) -> impl Drop + '_ {
        struct InHand<'a>(&'a Engine);
        impl Drop for InHand<'_> {
            fn drop(&mut self) {
                self.0.waiting.end(End::Progress);
            }
        }
        self.waiting.begin();
        InHand(self)
    }
    /// For a thread with a claim in `region` that found nothing that could leave. Waits for progress since the thread
    /// began to look (`seen`). Returns false if there is nothing to hope for: all other threads wait too, or the
    /// region is leaving, and the thread that frees or moves it waits for this claim.
    pub(super) fn starve(&self, region: &Region, seen: u32) -> bool {
        self.waiting.starve(seen, || region.is_leaving())
    }
}
/// Whether a region is a slab in which pieces with these parameters may begin.
fn is_slab_for(region: &Region, params: &Params) -> bool {
    let fits = region.chunk_size() == params.chunk && region.policy() == params.policy;
    region.slab().is_some() && fits && !region.is_forbidden()
}
impl Drop for Engine {
    fn drop(&mut self) {
        self.account.end();
    }
}

/// What became of a piece of a slab whose size was changed.
pub(super) enum Resized {
    /// It is where it was, and had so many bytes before.
    InPlace(usize),
    /// It grew beyond its chunk: its contents are those of this region. The old piece is still to be ended.
    Moved(Arc<Region>),
}

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Run the instruction again.
    Yes,
    /// Not in tiered memory.
    NotOurs,
    /// In tiered memory, but the chunk could not be brought in. The log says why.
    Failed,
}

/// Serves a fault at `address`. `store`: whether the fault was a store, if known. Called from signal handlers, with
/// all signals blocked.
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
        // Logged outside the gate: the program's callback may go through the gate, and would wait there for ever if a
        // fork has closed the gate meanwhile.
        Err(error) => {
            log!(Error, "tiered memory at {address:#x} cannot be brought in: {error}");
            Served::Failed
        }
    }
}
