//! A region: one range of addresses, cut into chunks that come and go.
use super::budget::GUARANTEED;
use super::by_age::Ranks;
use super::chunk_error::ChunkError;
use super::claims::{Claimant, Claims};
use super::codec::Codec;
use super::engine::Engine;
use super::fault::Mechanism;
use super::mapping::{Mapping, Span, advise_region};
use super::mappings;
use super::residency::Counters;
use super::slab::{self, Slab};
use super::spill_space::SpillSpace;
use super::staging::{self, Staging};
use super::state::{Phase, Word};
use super::sweep::Sweep;
use super::table::{self, Chunk, ListKind, Lists, Table};
use super::transit::Transit;
use super::waiting::End;
use super::workspace;
use crate::error::{Result, fail};
use crate::os::lock::Mutex;
use crate::os::map::PAGE;
use crate::os::system;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::Arc;

/// Smallest and largest chunk.
pub const CHUNK_SIZES: core::ops::RangeInclusive<usize> = PAGE..=64 << 20;
/// A region's records are charged to the budget when the region is made, if the records of all its chunks take at
/// most this share of the budget (one part in ...).
const RECORDS_SHARE: usize = 16;
/// The most chunks a region can have.
const MOST_CHUNKS: usize = u32::MAX as usize / 2;
/// How many pieces of a slab can be resized at once. They may come in from disk meanwhile, for which the others should not wait.
const RESIZED_AT_ONCE: usize = 64;

/// One region.
pub struct Region {
    engine: Arc<Engine>,
    memory: Mapping,
    pub(super) size: AtomicUsize,
    /// Bytes of chunks that the budget's account counts in its extent.
    pub(super) extent: AtomicUsize,
    chunk: usize,
    codec: Codec,
    policy: Policy,
    table: Table,
    /// The pieces of memory that its chunks are, if it is a slab.
    slab: Option<Slab>,
    staging: Arc<Staging>,
    spill_space: SpillSpace,
    /// Whether the whole region is in place for good. It is if no faults are served and the data fit the budget.
    resident: bool,
    /// Whether the records of all chunks are charged to the budget from the start. Otherwise each page of records is
    /// charged when it is first used.
    pub(super) prepaid: bool,
    /// Bytes of records that are charged to the budget.
    pub(super) records: AtomicUsize,
    /// The number of claims, and whether the region is being freed or moved, so that nobody else may claim its
    /// chunks.
    claims: Claims,
    /// See [`Region::resizing`].
    resizing: [Mutex<()>; RESIZED_AT_ONCE],
    /// See `Region::forbid` in fork.rs.
    pub(super) forbidden: AtomicBool,
    /// Owners beyond the first, if it is no slab.
    pub(super) further_owners: AtomicUsize,
    /// Where it is among the regions with chunks that may leave.
    pub(super) ranks: Ranks<Region>,
    /// Figures.
    pub counters: Counters,
    /// The order in which the program uses its chunks.
    pub sweep: Mutex<Sweep>,
}

/// What a region is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// For speed out of core: lossless, and a block is stored as it is unless encoding saves much.
    Streaming,
    /// For space: float32 elements that may differ by `tolerance` (absolute) once they have left; with tolerance 0
    /// the policy is lossless. Small savings are taken too.
    Hierarchical {
        /// The greatest absolute error of an element.
        tolerance: f64,
    },
}
impl Policy {
    /// The coder for chunks of this policy.
    pub fn codec(self) -> Codec {
        match self {
            // Packing takes the processor as long as a disk takes to move an eighth of the block. For less than that
            // the processor's time is worth more.
            Policy::Streaming => Codec::lossless().saving_one_in(8),
            Policy::Hierarchical { tolerance } => Codec::bounded(tolerance),
        }
    }
}

/// The parameters of a new region.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Bytes.
    pub size: usize,
    /// Bytes of a chunk; a multiple of 4 KiB.
    pub chunk: usize,
    /// What it is for.
    pub policy: Policy,
}
impl Params {
    /// Bytes of all chunks, the last one counted whole. Fails with InvalidArgument.
    pub(super) fn length(&self) -> Result<usize> {
        let Params { size, chunk, policy } = *self;
        if size == 0 {
            return fail!(InvalidArgument, "tiered memory of no bytes");
        }
        if !CHUNK_SIZES.contains(&chunk) || !chunk.is_multiple_of(PAGE) {
            return fail!(
                InvalidArgument,
                "chunks of {chunk} bytes; they are multiples of 4 KiB up to 64 MiB"
            );
        }
        if let Policy::Hierarchical { tolerance } = policy
            && (!tolerance.is_finite() || tolerance < 0.0)
        {
            return fail!(InvalidArgument, "a tolerance of {tolerance}");
        }
        match size.checked_next_multiple_of(chunk) {
            Some(length) if length / chunk < MOST_CHUNKS => Ok(length),
            _ => fail!(InvalidArgument, "{size} bytes in chunks of {chunk} are too many"),
        }
    }
}

impl Region {
    /// Reserves a region. The caller, the engine, then makes it known to faults and evictions.
    pub(super) fn reserve(engine: &Arc<Engine>, params: &Params) -> Result<Region> {
        let least = params.length()? / params.chunk;
        // Twice the address space, so that the region can grow in place; if there is not so much, only what it needs.
        Region::reserve_as(engine, params, [(2 * least).min(MOST_CHUNKS), least].into_iter(), false)
    }
    /// Reserves a slab for pieces with these parameters. `slabs`: how many there are already.
    pub(super) fn reserve_slab(engine: &Arc<Engine>, params: &Params, slabs: usize) -> Result<Region> {
        Region::reserve_as(engine, params, slab::capacities(slabs, params.chunk), true)
    }
    /// Reserves a region for the first of these numbers of chunks for which there is address space.
    fn reserve_as(
        engine: &Arc<Engine>,
        params: &Params,
        mut capacities: impl Iterator<Item = usize>,
        is_slab: bool,
    ) -> Result<Region> {
        let Params { size, chunk, policy } = *params;
        let length = size.next_multiple_of(chunk);
        let limit = engine.account().limit();
        if limit != 0 && limit < chunk.saturating_mul(2) && limit < length + chunk {
            return fail!(Limit, "a budget of {limit} bytes cannot hold two chunks of {chunk}");
        }
        let pages = engine.pages();
        let reserve = |chunks: usize| {
            Mapping::reserve(chunks.checked_mul(chunk)?, staging::alignment(chunk), pages.empty_protection())
        };
        let found = capacities.find_map(|chunks| Some((reserve(chunks)?, chunks)));
        let Some((memory, capacity)) = found else {
            return fail!(OutOfMemory, "no address space for memory of {size} bytes");
        };
        let Some(table) = Table::new(capacity) else {
            return fail!(OutOfMemory, "no address space for the records of {capacity} chunks");
        };
        let slab = if is_slab { Slab::new(capacity) } else { None };
        if is_slab && slab.is_none() {
            return fail!(OutOfMemory, "no address space for the records of {capacity} pieces");
        }
        // The pieces of a slab count when they begin.
        let (size, length) = if is_slab { (capacity * chunk, 0) } else { (size, length) };
        let staging = engine.staging_for(chunk)?;
        if !engine.reserve_places(&staging) {
            return fail!(OutOfMemory, "no memory for a place among the regions");
        }
        if pages.splits_mappings() {
            let in_place = if limit == 0 { capacity } else { capacity.min(limit / chunk) };
            mappings::prepare(2 * in_place);
        }
        if let Err(errno) = pages.adopt_region(memory.span(), chunk) {
            return Err(ChunkError::Pages(errno).error());
        }
        let prepaid = !is_slab && table::bytes(length / chunk) <= limit / RECORDS_SHARE;
        let records = if prepaid { table::bytes(length / chunk) } else { 0 };
        // Two chunks, even for a region of one chunk: an instruction that copies memory touches a chunk of another
        // region as well.
        let guaranteed = engine.guarantee(|account| account.guarantee(length, GUARANTEED * chunk, chunk));
        if !guaranteed.map_err(ChunkError::error)? {
            return fail!(OutOfMemory, "the budget has no room for two chunks of {chunk} bytes");
        }
        if !workspace::with(false, |workspace| engine.charge_records(records, workspace)) {
            engine.account().shorten(length);
            return fail!(OutOfMemory, "the budget has no room for {records} bytes of records of chunks");
        }
        let spill_space = SpillSpace::new(engine, chunk, is_slab);
        Ok(Region {
            engine: engine.clone(),
            memory,
            size: AtomicUsize::new(size),
            extent: AtomicUsize::new(length),
            chunk,
            codec: policy.codec(),
            policy,
            table,
            slab,
            staging,
            spill_space,
            resident: false,
            claims: Claims::default(),
            resizing: [const { Mutex::sheltered(()) }; RESIZED_AT_ONCE],
            forbidden: AtomicBool::new(false),
            further_owners: AtomicUsize::new(0),
            prepaid,
            records: AtomicUsize::new(records),
            ranks: Ranks::default(),
            counters: Counters::default(),
            sweep: Mutex::sheltered(Default::default()),
        })
    }
    /// Whether each of its chunks in place is a mapping of its own (mappings.rs).
    pub(super) fn splits_mappings(&self) -> bool {
        self.engine.pages().splits_mappings() && !self.resident
    }
    /// Takes room on disk for all chunks if there is a limit, since then any chunk may have to be spilled.
    pub(super) fn take_spill_space(&self) -> Result<()> {
        if self.resident || self.engine.account().limit() == 0 {
            return Ok(());
        }
        self.spill_space.take(0, self.count())
    }
    /// Brings the whole region in place for good if no faults are served and the data fit the budget. Only for a
    /// fresh region: a region that moves to grow may have stored chunks, so its chunks go on being acquired.
    pub(super) fn settle_in(&mut self) -> Result<()> {
        let length = self.count() * self.chunk;
        let account = self.engine.account();
        if self.engine.mechanism() != Mechanism::None || !account.charge_resident(length) {
            return Ok(());
        }
        if !self.prepay(self.count()) {
            account.discharge_resident(length);
            return Ok(());
        }
        let span = self.memory.part(0, length);
        // SAFETY: our own fresh mapping.
        let result = unsafe { system::protect(span.start, span.length, libc::PROT_READ | libc::PROT_WRITE) };
        if let Err(error) = result {
            account.discharge_resident(length);
            return fail!(OutOfMemory, "{length} bytes cannot be made accessible: {error}");
        }
        advise_region(span, self.chunk);
        self.resident = true;
        self.counters.hot.fetch_add(length, Relaxed);
        Ok(())
    }
    /// Charges the records of `count` chunks, less those that are charged already. Returns false if there is no room
    /// for them.
    pub(super) fn prepay(&self, count: usize) -> bool {
        let more = table::bytes(count).saturating_sub(self.records.load(Relaxed));
        self.charge_more_records(more)
    }
    /// Notes that the page with a chunk's record was charged. Returns false if another thread noted it first.
    pub(super) fn note_record_charged(&self, index: usize) -> bool {
        let first = self.table.note_charged(index);
        if first {
            self.records.fetch_add(PAGE, Relaxed);
        }
        first
    }
    /// Whether the record of a chunk is charged to the budget.
    pub(super) fn is_record_charged(&self, index: usize) -> bool {
        self.prepaid || self.table.is_charged(index)
    }
    /// Its room on disk.
    pub(super) fn spill_space(&self) -> &SpillSpace {
        &self.spill_space
    }
    /// Marks the region as leaving: from now on its chunks are the caller's alone, who claims them with
    /// [`Claimant::Leaver`]. Waits for the claims that other threads have begun.
    pub(super) fn leave(&self) {
        self.mark_leaving();
        self.engine.waiting.wake();
        self.engine.waiting.wait_until(|| self.claims.is_zero());
    }
    /// Like `leave`, without waiting.
    pub(super) fn mark_leaving(&self) {
        self.claims.leave();
    }
    /// Ends what `leave` began: other threads may claim its chunks again.
    pub(super) fn stay(&self) {
        self.claims.stay();
    }
    /// Begins to work on a chunk (waiting.rs). Returns false if the region is leaving, except to the leaver.
    pub(super) fn begin_transit(&self, who: Claimant) -> bool {
        let begun = self.claims.begin(who);
        if begun {
            self.engine.waiting.begin();
        }
        begun
    }
    pub(super) fn end_transit(&self, how: End) {
        self.claims.end();
        self.engine.waiting.end(how);
    }
    /// Like [`Engine::pages_in_hand`], and a thread that frees or moves the region waits for this one too. Returns
    /// None if the region is leaving.
    pub(super) fn pages_in_hand(&self) -> Option<impl Drop + '_> {
        struct InHand<'a>(&'a Region);
        impl Drop for InHand<'_> {
            fn drop(&mut self) {
                self.0.end_transit(End::Progress);
            }
        }
        self.begin_transit(Claimant::Anybody).then(|| InHand(self))
    }
    /// Whether the region is being freed or moved.
    pub(super) fn is_leaving(&self) -> bool {
        self.claims.is_leaving()
    }
    #[cfg(test)]
    pub(super) fn is_listed(&self, index: usize) -> ListKind {
        self.lists().which(index)
    }
    pub(super) fn is_warm(&self, index: usize) -> bool {
        self.lists().which(index) == ListKind::Warm
    }
    /// The engine it belongs to.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
    /// Bytes asked for.
    pub fn size(&self) -> usize {
        self.size.load(Relaxed)
    }
    /// Bytes of a chunk.
    pub fn chunk_size(&self) -> usize {
        self.chunk
    }
    /// What it is for.
    pub fn policy(&self) -> Policy {
        self.policy
    }
    /// Number of chunks; in a slab, of those that there may be.
    pub fn count(&self) -> usize {
        self.size().div_ceil(self.chunk)
    }
    /// Where it begins.
    pub fn start(&self) -> usize {
        self.memory.span().start
    }
    /// The address space of the region, including its room to grow.
    pub(super) fn reserved(&self) -> Span {
        self.memory.span()
    }
    /// The chunk that holds `address`, if the program may use it.
    pub fn index_of(&self, address: usize) -> Option<usize> {
        let index = address.checked_sub(self.start())? / self.chunk;
        self.is_used(index).then_some(index)
    }
    /// Held while the size of the region is changed, or while it is made unknown to be freed. In a slab: while the size of
    /// the piece in this chunk is changed, or while that is ended. If a program does both at once, one comes first, and the
    /// other fails.
    pub(super) fn resizing(&self, index: usize) -> &Mutex<()> {
        &self.resizing[if self.slab.is_some() { index % RESIZED_AT_ONCE } else { 0 }]
    }
    pub(super) fn slab(&self) -> Option<&Slab> {
        self.slab.as_ref()
    }
    /// Bytes of a chunk that are the program's. The others are in the last chunk, or in any chunk of a slab.
    pub(super) fn used_in(&self, index: usize) -> usize {
        match &self.slab {
            Some(slab) => slab.size(index),
            None => self.size().saturating_sub(index * self.chunk).min(self.chunk),
        }
    }
    /// Counts something that happened to a chunk: in the figures of the region, and of the piece if it is a slab.
    pub(super) fn tally(&self, index: usize, count: impl Fn(&Counters)) {
        count(&self.counters);
        self.slab.iter().for_each(|slab| count(slab.counters(index)));
    }
    pub(super) fn chunk(&self, index: usize) -> &Chunk {
        self.table.get(index)
    }
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
    pub(super) fn lists(&self) -> Lists<'_> {
        self.table.lists()
    }
    pub(super) fn staging(&self) -> &Arc<Staging> {
        &self.staging
    }
    /// Whether its chunks move through this set of slots.
    pub(super) fn uses(&self, staging: &Staging) -> bool {
        core::ptr::eq(&*self.staging, staging)
    }
    pub(super) fn codec(&self) -> &Codec {
        &self.codec
    }
    /// The coder for a chunk that leaves. If what is used of it is not a multiple of four bytes, it is coded losslessly,
    /// because the last element is not a whole float32.
    pub(super) fn encoder(&self, index: usize) -> Codec {
        let cut = !self.used_in(index).is_multiple_of(size_of::<f32>());
        if cut { Policy::Hierarchical { tolerance: 0.0 }.codec() } else { self.codec }
    }
    pub(super) fn span_of(&self, index: usize) -> Span {
        self.memory.part(index * self.chunk, self.chunk)
    }
    /// Whether elements may differ, within a tolerance, once they have left.
    pub fn is_lossy(&self) -> bool {
        self.codec.is_lossy()
    }
    /// Whether the whole region is in place for good.
    pub fn is_resident(&self) -> bool {
        self.resident
    }
    pub(super) fn word(&self, index: usize) -> Word {
        self.chunk(index).state.load()
    }

    /// Drops a chunk's contents, wherever they are. Waits for a thread that is moving the chunk. Gives up all
    /// acquisitions of it. The region is not leaving, or the thread that it is leaving by is the claimant.
    pub(super) fn forget(&self, who: Claimant, index: usize) {
        let chunk = self.chunk(index);
        loop {
            let word = chunk.state.load();
            match word.phase() {
                Phase::Zero => return,
                Phase::Busy => chunk.state.wait(),
                Phase::Hot if word.acquisitions() > 0 => _ = self.give_up_acquisition(index),
                _ => {
                    if let Some(transit) = Transit::claim_by(who, self, index, None) {
                        self.engine.drop_contents(transit);
                        return;
                    }
                }
            }
        }
    }
    /// Drops all contents, charges and room on disk. Only for a region that is in no list any more.
    pub(super) fn dissolve(&self) {
        if self.resident {
            self.engine.account().discharge_resident(self.counters.hot.swap(0, Relaxed));
            self.give_up_extent();
            return;
        }
        // After this every chunk has settled: it is in a list again, or it is zero or only on disk, and will stay so.
        self.leave();
        for which in [ListKind::Hot, ListKind::Warm, ListKind::Staged] {
            while let Some(index) = { self.lists().oldest(which) } {
                self.forget(Claimant::Leaver, index);
            }
        }
        self.spill_space.shorten(0);
        self.give_up_extent();
    }
    /// Gives back what the region has charged to the budget; does nothing the second time. That matters because the
    /// last reference to a freed region may be dropped outside the gate: a lock taken there could stay taken for ever
    /// in a forked child.
    fn give_up_extent(&self) {
        let (extent, records) = (self.extent.swap(0, Relaxed), self.records.swap(0, Relaxed));
        if extent > 0 {
            self.engine.account().shorten(extent);
        }
        if records > 0 {
            self.engine.account().discharge_records(records);
        }
    }
}
impl Drop for Region {
    fn drop(&mut self) {
        self.give_up_extent();
    }
}
