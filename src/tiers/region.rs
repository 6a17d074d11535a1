//! A region: one piece of address space, cut into chunks that come and go.
use super::budget::GUARANTEED;
use super::chunk_error::ChunkError;
use super::claims::Claims;
use super::codec::Codec;
use super::engine::Engine;
use super::fault::Mechanism;
use super::mapping::{Mapping, Span, advise_region};
use super::mappings;
use super::residency::Counters;
use super::spill_space::SpillSpace;
use super::staging::{self, Staging};
use super::state::{Phase, Word};
use super::sweep::Sweep;
use super::table::{self, Chunk, ListKind, Lists, Table};
use super::transit::Transit;
use super::workspace;
use crate::error::{Result, fail};
use crate::os::lock::{Mutex, MutexGuard};
use crate::os::map::PAGE;
use crate::os::system;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::Arc;

/// Smallest and largest chunk.
pub const CHUNK_SIZES: core::ops::RangeInclusive<usize> = PAGE..=64 << 20;
/// The records of all chunks of a region are charged to the budget when it is made if they take at most this share of it
/// (one part in ...).
const RECORDS_SHARE: usize = 16;
/// Chunks of a region at most.
const MOST_CHUNKS: usize = u32::MAX as usize / 2;

/// One region.
pub struct Region {
    engine: Arc<Engine>,
    memory: Mapping,
    pub(super) size: AtomicUsize,
    /// Bytes of chunks that the budget's account knows of.
    pub(super) extent: AtomicUsize,
    chunk: usize,
    codec: Codec,
    policy: Policy,
    table: Table,
    lists: Mutex<Lists>,
    staging: Arc<Staging>,
    spill_space: SpillSpace,
    /// Whether all of it is in place for good, because nothing serves faults and the data fit.
    resident: bool,
    /// Whether the records of all chunks are charged to the budget; else each page of them is when it is first used.
    pub(super) prepaid: bool,
    /// Bytes of records that are charged to the budget.
    pub(super) records: AtomicUsize,
    /// Claims held, and whether it is being freed or moved: nobody else claims a chunk any more.
    claims: Claims,
    /// See [`Region::forbid`].
    forbidden: AtomicBool,
    /// Owners beyond the first.
    pub further_owners: AtomicUsize,
    /// Figures.
    pub counters: Counters,
    /// How it is swept.
    pub sweep: Mutex<Sweep>,
}

/// What a region is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// Speed out of core: every byte comes back, and what saves little is stored as it is.
    Streaming,
    /// Space: float32 elements that may differ by `tolerance` (absolute) once they have left; with 0 every byte comes
    /// back. Small gains are taken too.
    Hierarchical {
        /// Greatest error.
        tolerance: f64,
    },
}
impl Policy {
    /// The coder of its chunks.
    pub fn codec(self) -> Codec {
        match self {
            // A processor packs an eighth away in the time in which a disk moves it; then the processor is worth more.
            Policy::Streaming => Codec::lossless().saving_one_in(8),
            Policy::Hierarchical { tolerance } => Codec::bounded(tolerance),
        }
    }
}

/// What a region is made with.
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
    /// Bytes of its chunks, the last one whole. InvalidArgument.
    fn length(&self) -> Result<usize> {
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
    /// Reserves a region. The engine makes it known.
    pub(super) fn reserve(engine: &Arc<Engine>, params: &Params) -> Result<Region> {
        let Params { size, chunk, policy } = *params;
        let length = params.length()?;
        let limit = engine.account().limit();
        if limit != 0 && limit < chunk.saturating_mul(2) && limit < length + chunk {
            return fail!(Limit, "a budget of {limit} bytes cannot hold two chunks of {chunk}");
        }
        let pages = engine.pages();
        let reserve = |chunks: usize| {
            Mapping::reserve(chunks.checked_mul(chunk)?, staging::alignment(chunk), pages.empty_access())
        };
        // With room to grow in place, where there is address space for it.
        let (least, roomy) = (length / chunk, (2 * (length / chunk)).min(MOST_CHUNKS));
        let found = [roomy, least].into_iter().find_map(|chunks| Some((reserve(chunks)?, chunks)));
        let Some((memory, capacity)) = found else {
            return fail!(OutOfMemory, "no address space for memory of {size} bytes");
        };
        let Some(table) = Table::new(capacity) else {
            return fail!(OutOfMemory, "no address space for the records of {capacity} chunks");
        };
        let staging = engine.staging_for(chunk)?;
        if pages.splits_mappings() {
            let in_place = if limit == 0 { capacity } else { capacity.min(limit / chunk) };
            mappings::prepare(2 * in_place);
        }
        if let Err(errno) = pages.adopt_region(memory.span(), chunk) {
            return Err(ChunkError::Pages(errno).error());
        }
        let prepaid = table::bytes(length / chunk) <= limit / RECORDS_SHARE;
        let records = if prepaid { table::bytes(length / chunk) } else { 0 };
        // Two chunks, even for a region of one: an instruction that copies is at one of another region, too.
        let guaranteed = engine.guarantee(|account| account.guarantee(length, GUARANTEED * chunk, chunk));
        if !guaranteed.map_err(ChunkError::error)? {
            return fail!(OutOfMemory, "the budget has no room for two chunks of {chunk} bytes");
        }
        if !workspace::with(false, |workspace| engine.charge_records(records, workspace)) {
            engine.account().shorten(length);
            return fail!(OutOfMemory, "the budget has no room for {records} bytes of records of chunks");
        }
        let spill_space = SpillSpace::new(engine, chunk, capacity);
        Ok(Region {
            engine: engine.clone(),
            memory,
            size: AtomicUsize::new(size),
            extent: AtomicUsize::new(length),
            chunk,
            codec: policy.codec(),
            policy,
            table,
            lists: Mutex::sheltered(Default::default()),
            staging,
            spill_space,
            resident: false,
            claims: Claims::default(),
            forbidden: AtomicBool::new(false),
            further_owners: AtomicUsize::new(0),
            prepaid,
            records: AtomicUsize::new(records),
            counters: Counters::default(),
            sweep: Mutex::sheltered(Default::default()),
        })
    }
    /// Whether its chunks in place are mappings of their own (mappings.rs).
    pub(super) fn splits_mappings(&self) -> bool {
        self.engine.pages().splits_mappings() && !self.resident
    }
    /// Takes the room on disk that a budget may make necessary.
    pub(super) fn take_spill_space(&self) -> Result<()> {
        if self.resident || self.engine.account().limit() == 0 {
            return Ok(());
        }
        self.spill_space.take(0, self.count())
    }
    /// Where nothing serves faults and the data fit, has all of it in place for good. While it is fresh: one that has
    /// stored chunks stays one whose chunks are acquired.
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
    /// Charges the records of `count` chunks, as far as that is not done. False if there is no room for them.
    pub(super) fn prepay(&self, count: usize) -> bool {
        let more = table::bytes(count).saturating_sub(self.records.load(Relaxed));
        let paid = workspace::with(false, |workspace| self.engine.charge_records(more, workspace));
        if paid {
            self.records.fetch_add(more, Relaxed);
        }
        paid
    }
    /// Notes that the page of the record of a chunk was charged. False if another thread was first.
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
    /// From now on its chunks are the caller's alone, to be claimed with [`Transit::claim_leaving`]. Waits for the claims that
    /// others have begun.
    pub(super) fn leave(&self) {
        self.claims.leave();
        self.engine.waiting.wake();
        self.engine.waiting.wait_until(|| self.claims.is_zero());
    }
    /// The reverse.
    pub(super) fn stay(&self) {
        self.claims.stay();
    }
    /// In a child where its faults are not served: from now on every touch of a chunk that is not in place is SIGSEGV.
    /// Those in place are memory as any other, and stay where they are.
    pub(super) fn forbid(&self) {
        self.forbidden.store(true, Relaxed);
        let span = self.reserved();
        // SAFETY: the region's own memory; nobody else runs.
        unsafe {
            let closed = system::protect(span.start, span.length, libc::PROT_NONE);
            if closed.is_err() && system::map_over(span.start, span.length, libc::PROT_NONE).is_ok() {
                return; // what was in place is lost, but not taken for zeros
            }
        }
        let mut lists = self.lists();
        for _ in 0..lists.count(ListKind::Hot) {
            let Some(index) = lists.oldest(ListKind::Hot) else { return };
            lists.rotate(&self.table, index);
            // SAFETY: in place in this process too. Where the system refuses, touching it is SIGSEGV as well.
            let _ = unsafe { self.engine.pages().open(self.span_of(index)) };
        }
    }
    /// Whether its faults are not served in this process. Its children cannot either: what is absent stays so.
    pub(super) fn is_forbidden(&self) -> bool {
        self.forbidden.load(Relaxed)
    }
    /// Begins to work at a chunk (waiting.rs). False if the region is leaving.
    pub(super) fn begin_transit(&self) -> bool {
        let begun = self.claims.begin();
        if begun {
            self.engine.waiting.begin();
        }
        begun
    }
    pub(super) fn begin_transit_leaving(&self) {
        self.claims.begin_leaving();
        self.engine.waiting.begin();
    }
    pub(super) fn end_transit(&self) {
        self.claims.end();
        self.engine.waiting.end();
    }
    /// The same by one who was called to let go.
    pub(super) fn end_transit_called(&self) {
        self.claims.end();
        self.engine.waiting.end_called();
    }
    /// The same where nothing was held that others could have used.
    pub(super) fn end_transit_unnoted(&self) {
        self.claims.end();
        self.engine.waiting.end_unnoted();
    }
    /// As [`Engine::pages_in_hand`], and a thread that frees or moves the region waits for it too. None if it is leaving.
    pub(super) fn pages_in_hand(&self) -> Option<impl Drop + '_> {
        struct InHand<'a>(&'a Region);
        impl Drop for InHand<'_> {
            fn drop(&mut self) {
                self.0.end_transit();
            }
        }
        self.begin_transit().then(|| InHand(self))
    }
    /// Whether it is being freed or moved.
    pub(super) fn is_leaving(&self) -> bool {
        self.claims.is_leaving()
    }
    #[cfg(test)]
    pub(super) fn is_listed(&self, index: usize) -> ListKind {
        self.lists().which(&self.table, index)
    }
    pub(super) fn is_warm(&self, index: usize) -> bool {
        self.lists().which(&self.table, index) == ListKind::Warm
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
    /// Number of chunks.
    pub fn count(&self) -> usize {
        self.size().div_ceil(self.chunk)
    }
    /// Where it begins.
    pub fn start(&self) -> usize {
        self.memory.span().start
    }
    /// The address space that is its own, room to grow included.
    pub(super) fn reserved(&self) -> Span {
        self.memory.span()
    }
    /// The chunk that holds `address`.
    pub fn index_of(&self, address: usize) -> Option<usize> {
        let index = address.checked_sub(self.start())? / self.chunk;
        (index < self.count()).then_some(index)
    }
    pub(super) fn chunk(&self, index: usize) -> &Chunk {
        self.table.get(index)
    }
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
    pub(super) fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock()
    }
    pub(super) fn staging(&self) -> &Arc<Staging> {
        &self.staging
    }
    pub(super) fn codec(&self) -> &Codec {
        &self.codec
    }
    /// The coder of a chunk that leaves: lossless where its last bytes are no whole float32.
    pub(super) fn encoder(&self, index: usize) -> Codec {
        let size = self.size();
        let cut = !size.is_multiple_of(size_of::<f32>()) && index == size / self.chunk;
        if cut { Policy::Hierarchical { tolerance: 0.0 }.codec() } else { self.codec }
    }
    pub(super) fn span_of(&self, index: usize) -> Span {
        self.memory.part(index * self.chunk, self.chunk)
    }
    /// Whether its elements may differ, within a tolerance, once they have left.
    pub fn is_lossy(&self) -> bool {
        self.codec.is_lossy()
    }
    /// Whether all of it is in place for good.
    pub fn is_resident(&self) -> bool {
        self.resident
    }
    pub(super) fn word(&self, index: usize) -> Word {
        self.chunk(index).state.load()
    }

    /// Drops a chunk's contents, wherever they are. Waits for whoever is moving it; an acquisition does not hold it.
    pub(super) fn forget(&self, index: usize) {
        let chunk = self.chunk(index);
        loop {
            let word = chunk.state.load();
            match word.phase() {
                Phase::Zero => return,
                Phase::Busy => chunk.state.wait(),
                Phase::Hot if word.acquisitions() > 0 => _ = self.give_up_acquisition(index),
                _ => {
                    if let Some(transit) = Transit::claim_leaving(self, index, None) {
                        self.engine.drop_contents(transit);
                        return;
                    }
                }
            }
        }
    }
    /// Drops all contents, charges and room on disk. The region is known to nobody any more.
    pub(super) fn dissolve(&self) {
        if self.resident {
            self.engine.account().discharge_resident(self.counters.hot.swap(0, Relaxed));
            self.give_up_extent();
            return;
        }
        // Chunks that others hold are in lists again, or in none for good, when they have settled.
        self.leave();
        for which in [ListKind::Hot, ListKind::Warm, ListKind::Staged] {
            while let Some(index) = { self.lists().oldest(which) } {
                self.forget(index);
            }
        }
        self.spill_space.shorten(0);
        self.give_up_extent();
    }
    /// Does nothing the second time. The last reference to a region that was freed may be dropped outside the gate, and a lock
    /// taken there could stay taken in a forked child for ever.
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
