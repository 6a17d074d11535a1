//! Sending chunks out: choosing a chunk and taking its pages. store.rs says what happens to the pages then.
use super::budget::BudgetAccount;
use super::chunk_error::ChunkError;
use super::claims::Claimant;
use super::codec;
use super::engine::Engine;
use super::fault::pages::is_busy;
use super::region::Region;
use super::staging::{EmptySlot, FullSlot, Staging};
use super::state::{Phase, Settle};
use super::sweep::YOUNGEST;
use super::sync_points::{self, SyncPoint};
use super::table::ListKind;
use super::transit::Transit;
use super::waiting::End;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

/// The share of the budget (one part in ...) in which chunks stay in the clear; only beyond it room for encoded
/// chunks comes first.
const CLEAR_SHARE: usize = 8;
/// How many full slots the worker threads keep in stock.
const SPARE: usize = 2;
/// Bytes of pages that may stay in stock when chunks are sent out on advice or to free mappings.
const MOST_KEPT: usize = 4 << 20;
/// How many victims are tried before a failing eviction is an error.
const ATTEMPTS: usize = 4;

/// Why nothing leaves for a claimed chunk of the region. If the region is leaving, the thread that frees or moves it
/// waits for this claim.
fn no_room_for(region: &Region) -> ChunkError {
    if region.is_leaving() { ChunkError::Leaving } else { ChunkError::NoRoom }
}

impl Engine {
    /// A full slot for chunks of the region: a free one, one with fresh pages, or one with the pages of a chunk that
    /// has to leave for it.
    pub(super) fn full_slot(
        &self,
        region: &Region,
        workspace: &mut codec::Workspace,
    ) -> Result<FullSlot, ChunkError> {
        let staging = region.staging();
        let mut failures = 0;
        let mut failed = |error| {
            failures += 1;
            if failures < ATTEMPTS { Ok(()) } else { Err(error) }
        };
        loop {
            // Read before looking, so that whatever becomes free from here on counts as progress.
            let seen = self.waiting.progress();
            if let Some(slot) = staging.take_full() {
                return Ok(slot);
            }
            let Some(mut slot) = staging.take_empty() else {
                match self.slot_in_use(region, seen)? {
                    Some(slot) => return Ok(slot),
                    None => continue,
                }
            };
            slot = match self.fresh_pages(staging, slot)? {
                Ok(slot) => return Ok(slot),
                Err(slot) => slot,
            };
            if self.chunks_to_spare(staging) <= 1 {
                // The last chunk to spare may be the other half of an access that spans two chunks. Such an access
                // would fault for ever if each chunk left for the other. So anything else leaves first.
                if let Some(ahead) = self.unstage(staging) {
                    staging.put_empty(slot);
                    return Ok(ahead);
                }
                // The thread that this one waits for may need a slot for its pages.
                staging.put_empty(slot);
                let room = match self.make_room(staging, workspace) {
                    Ok(made) => made || self.starve(region, seen),
                    // The chunk that could not leave has settled again. That is progress for other threads, but not
                    // for this one, so it waits for progress from here on. If it gives up waiting, it meets the same
                    // error again below.
                    Err(error) => failed(error).is_ok() && self.starve(region, self.waiting.progress()),
                };
                if room {
                    continue;
                }
                slot = match staging.take_empty() {
                    Some(slot) => slot,
                    None => continue,
                };
            }
            match self.evict_into(staging, slot, workspace) {
                Ok(Some(slot)) => {
                    if self.reserve_comes_first(staging) {
                        self.drop_pages(staging, slot);
                        continue;
                    }
                    return Ok(slot);
                }
                Ok(None) => {
                    if let Some(slot) = self.unstage(staging) {
                        return Ok(slot);
                    }
                    match self.make_room(staging, workspace) {
                        Ok(true) => {}
                        Ok(false) if self.starve(region, seen) => {}
                        Ok(false) => return Err(no_room_for(region)),
                        Err(error) => failed(error)?,
                    }
                }
                Err(error) => failed(error)?,
            }
        }
    }
    /// Waits for a slot while none is in stock. Returns the full slot of a chunk that was read ahead, or None once a
    /// slot may have been returned or a chunk has settled since the caller looked (`seen`).
    fn slot_in_use(&self, region: &Region, seen: u32) -> Result<Option<FullSlot>, ChunkError> {
        let staging = region.staging();
        // The slots are held by other threads, which return them, or by chunks read ahead, which can give them up.
        if let Some(slot) = self.unstage(staging) {
            return Ok(Some(slot));
        }
        // Or they are held by chunks of this very region. If it is leaving, nobody else finds those chunks, and the
        // thread that frees or moves it waits for this claim.
        if region.is_leaving() {
            return Err(ChunkError::Leaving);
        }
        // Or they hold the only copies of chunks (`put_back`). Such a slot comes free only when its chunk is touched.
        if self.staged_chunks(staging) < staging.count() {
            staging.wait();
        } else if !self.starve(region, seen) {
            return Err(no_room_for(region));
        }
        Ok(None)
    }
    /// Gives back to the budget what can be had without taking pages from chunks of this size: the reserve, chunks of
    /// other sizes, encoded chunks. Returns false if there is nothing, and an error if there is something that cannot
    /// be stored.
    fn make_room(&self, staging: &Staging, workspace: &mut codec::Workspace) -> Result<bool, ChunkError> {
        let before = self.account().held();
        // Chunks of this size are not evicted here: the last one may be the other half of an access that spans two
        // chunks, which would then fault for ever.
        let mut found = self.account().drop_reserve() > 0
            || self.warm.trim(self.account()) > 0
            || self.evict_elsewhere(staging, workspace)? > 0;
        while !found && self.free_encoded()? {
            // The pages of a large extent went back to the budget at once.
            found = self.warm.trim(self.account()) > 0 || self.account().held() < before;
        }
        Ok(found)
    }
    /// Asks the account for a guarantee. As long as there is no room for it, encoded chunks go to disk, and then
    /// encoded copies of chunks in place are dropped.
    pub(super) fn guarantee(&self, ask: impl Fn(&BudgetAccount) -> bool) -> Result<bool, ChunkError> {
        while !ask(self.account()) {
            if self.warm.trim(self.account()) == 0 && !self.free_encoded()? {
                return Ok(false);
            }
        }
        Ok(true)
    }
    /// The number of chunks of one size that are in place and not acquired. There is always room for two: see
    /// budget.rs.
    pub(super) fn chunks_to_spare(&self, staging: &Staging) -> usize {
        self.sum_over(staging, Region::chunks_to_spare)
    }
    /// The number of chunks of one size that are in slots.
    pub(super) fn staged_chunks(&self, staging: &Staging) -> usize {
        self.sum_over(staging, |region| region.lists().count(ListKind::Staged))
    }
    fn sum_over(&self, staging: &Staging, of: impl Fn(&Region) -> usize) -> usize {
        self.regions().iter().filter(|region| region.uses(staging)).map(|region| of(region)).sum()
    }
    /// Gives an empty slot fresh pages if the budget has room for them. Otherwise returns the slot, still empty, as
    /// the inner error.
    fn fresh_pages(
        &self,
        staging: &Staging,
        slot: EmptySlot,
    ) -> Result<Result<FullSlot, EmptySlot>, ChunkError> {
        if !self.account().charge_pages(staging.chunk()) {
            return Ok(Err(slot));
        }
        match staging.fill(self.pages(), slot) {
            Ok(slot) => Ok(Ok(slot)),
            Err((slot, errno)) => {
                self.account().discharge_pages(staging.chunk());
                staging.put_empty(slot);
                Err(ChunkError::Pages(errno))
            }
        }
    }
    /// Makes a slot full ahead of need.
    pub(super) fn stock(&self, region: &Region) {
        if region.staging().full() < SPARE {
            super::workspace::with(false, |workspace| self.stock_one(region, workspace));
        }
    }
    fn stock_one(&self, region: &Region, workspace: &mut codec::Workspace) {
        let staging = region.staging();
        // Two chunks stay in place, whichever they are, because an access may span two. It would fault for ever if
        // one of the two always left, or if the room for it always went into stock.
        if self.chunks_to_spare(staging) <= 2 {
            return;
        }
        // A thread that frees or moves the region waits until this is dropped.
        let Some(_pages) = region.pages_in_hand() else { return };
        let Some(slot) = staging.take_empty() else { return };
        // A thread that needs a slot will meet the same failure, and reports it.
        let slot = match self.fresh_pages(staging, slot) {
            Ok(Ok(slot)) => Some(slot),
            Ok(Err(slot)) => self.evict_into(staging, slot, workspace).ok().flatten(),
            Err(_) => None,
        };
        let Some(slot) = slot else { return };
        if self.reserve_comes_first(staging) {
            self.drop_pages(staging, slot);
            super::workers::stock(region);
        } else {
            staging.put_full(slot);
        }
    }
    /// Whether room for encoded chunks comes before more pages for chunks in the clear.
    fn reserve_comes_first(&self, staging: &Staging) -> bool {
        self.account().wants_reserve() && self.account().pages() > self.clear_floor(staging.chunk())
    }
    /// Bytes that stay in the clear, however much could be kept encoded instead.
    fn clear_floor(&self, chunk: usize) -> usize {
        (self.account().limit() / CLEAR_SHARE).max(4 * chunk)
    }
    pub(super) fn drop_pages(&self, staging: &Staging, slot: FullSlot) {
        staging.put_empty(staging.empty(slot));
        self.account().discharge_pages(staging.chunk());
    }
    /// Gives back pages of free slots until `most` bytes are reached or none is left. Returns how many bytes.
    pub(super) fn drop_full(&self, staging: &Staging, most: usize) -> usize {
        let mut bytes = 0;
        while bytes < most
            && let Some(slot) = staging.take_full()
        {
            self.drop_pages(staging, slot);
            bytes += staging.chunk();
        }
        bytes
    }

    /// Evicts a chunk into `slot`, and returns the slot. In all other cases the slot goes back to the stock. Returns
    /// None if nothing of this chunk size can leave now, and an error if a chunk could not be taken or
    /// stored (it stays in RAM).
    pub(super) fn evict_into(
        &self,
        staging: &Staging,
        mut slot: EmptySlot,
        workspace: &mut codec::Workspace,
    ) -> Result<Option<FullSlot>, ChunkError> {
        let regions = self.regions();
        sync_points::pass(SyncPoint::RegionsListed);
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            let Some(mut transit) =
                self.victim(regions.iter().filter(|r| !r.is_resident() && r.uses(staging)))
            else {
                break;
            };
            // `take` waits for nobody who might wait for this claim: pages that the system holds on to are tried
            // again for 20 µs, or 1000 times, and then copied (`move_patiently`).
            match transit.take(slot) {
                Ok(full) => return self.store(transit, full, workspace).map(Some),
                Err((empty, errno)) => {
                    // The system may hold its pages, for direct I/O for instance. The chunk goes to the young end of
                    // the list.
                    transit.settle_unchanged();
                    slot = empty;
                    if !is_busy(Some(errno)) {
                        failed = Some(errno);
                    }
                }
            }
        }
        staging.put_empty(slot);
        failed.map_or(Ok(None), |errno| Err(ChunkError::Pages(errno)))
    }
    /// Evicts a chunk of a size other than that of `not`, and gives its pages back. Returns how many bytes.
    fn evict_elsewhere(&self, not: &Staging, workspace: &mut codec::Workspace) -> Result<usize, ChunkError> {
        for staging in self.stagings().iter().filter(|s| !core::ptr::eq(&***s, not)) {
            let bytes = self.evict_bytes(staging, 1, workspace)?;
            if bytes > 0 {
                return Ok(bytes);
            }
        }
        Ok(0)
    }
    /// Evicts chunks of one size until `wanted` bytes of pages are given back, or nothing more can leave.
    pub(super) fn evict_bytes(
        &self,
        staging: &Staging,
        wanted: usize,
        workspace: &mut codec::Workspace,
    ) -> Result<usize, ChunkError> {
        let mut bytes = self.drop_full(staging, wanted);
        while bytes < wanted {
            let slot = match staging.take_empty() {
                Some(slot) => self.evict_into(staging, slot, workspace)?,
                None => self.unstage(staging),
            };
            let Some(slot) = slot.or_else(|| self.unstage(staging)) else { break };
            self.drop_pages(staging, slot);
            bytes += staging.chunk();
        }
        Ok(bytes)
    }
    /// Takes the full slot of a chunk that was read ahead and not touched yet. The chunk is Stored then.
    pub(super) fn unstage(&self, staging: &Staging) -> Option<FullSlot> {
        let regions = self.regions();
        regions
            .iter()
            .filter(|region| region.uses(staging))
            .find_map(|region| self.unstage_from(region, Claimant::Anybody))
    }
    /// Like `unstage`, for one region.
    fn unstage_from(&self, region: &Region, who: Claimant) -> Option<FullSlot> {
        let mut left = region.lists().count(ListKind::Staged);
        while left > 0
            && let Some(index) = { region.lists().oldest(ListKind::Staged) }
        {
            left -= 1;
            let Some(mut transit) = Transit::claim_by(who, region, index, Some(Phase::Staged)) else {
                // Another thread has claimed it. It goes behind the others, which may be free.
                let mut lists = region.lists();
                if lists.oldest(ListKind::Staged) == Some(index) {
                    lists.rotate(index);
                }
                continue;
            };
            if !transit.stored().is_kept() {
                transit.settle_as(End::Unnoted); // the only copy, see `put_back`
                continue;
            }
            let slot = transit.take_slot();
            transit.settle(Phase::Stored, Settle::default());
            return slot;
        }
        None
    }
    /// Gives back the slots, and their pages, of all chunks of a region that were read ahead.
    pub(super) fn drop_staged(&self, region: &Region, who: Claimant) {
        while let Some(slot) = self.unstage_from(region, who) {
            self.drop_pages(region.staging(), slot);
        }
    }
    /// An empty slot. If there is none, gives back the pages of a full one.
    pub(super) fn empty_slot(&self, staging: &Staging) -> Option<EmptySlot> {
        staging.take_empty().or_else(|| {
            let slot = staging.empty(staging.take_full()?);
            self.account().discharge_pages(staging.chunk());
            Some(slot)
        })
    }

    /// Claims the chunk that should leave first. In a region that is being swept, that is a chunk that the sweep has
    /// just left behind; otherwise the oldest chunk that was not acquired lately.
    fn victim<'a>(&self, regions: impl Iterator<Item = &'a Arc<Region>> + Clone) -> Option<Transit<'a>> {
        let now = self.tick();
        let age = |region: &&Arc<Region>| {
            let stamp = region.lists().oldest_stamp(ListKind::Hot);
            stamp.map_or(0, |stamp| now.wrapping_sub(stamp).max(1))
        };
        let oldest = regions.clone().max_by_key(age)?;
        self.victim_in(oldest).or_else(|| regions.clone().find_map(|region| self.victim_in(region)))
    }
    fn victim_in<'a>(&self, region: &'a Region) -> Option<Transit<'a>> {
        let spared = {
            let sweep = region.sweep.lock();
            // If chunks are on disk, the youngest are spared always: bringing one back from disk takes longer than
            // the processor's cache can save.
            let cold = region.counters.cold.load(Relaxed) > 0;
            sweep.is_swept().then(|| if cold { YOUNGEST } else { sweep.spared() })
        };
        if let Some(spared) = spared {
            // Some of the youngest chunks were prefetched and are still to be used.
            for back in spared..8 {
                let index = region.lists().youngest(ListKind::Hot, back);
                let Some(index) = index else { break };
                if region.word(index).prefetched() {
                    continue;
                }
                if let Some(transit) = Transit::claim(region, index, Some(Phase::Hot)) {
                    if back < YOUNGEST {
                        region.sweep.lock().note_left(index);
                    }
                    return Some(transit);
                }
            }
        }
        let mut left = 2 * region.lists().count(ListKind::Hot);
        while left > 0 {
            left -= 1;
            let index = region.lists().oldest(ListKind::Hot)?;
            let referenced = region.chunk(index).state.forget_reference();
            if !referenced && let Some(transit) = Transit::claim(region, index, Some(Phase::Hot)) {
                return Some(transit);
            }
            let mut lists = region.lists();
            // Pinned, acquired lately, or claimed by another thread. The chunk goes to the young end, unless it has
            // left the list.
            if lists.oldest(ListKind::Hot) == Some(index) {
                lists.renew(index, self.tick());
            }
        }
        None
    }

    /// Sends a chunk out if nobody uses it. This is only for advice, so failure is no error.
    pub(super) fn evict_one(&self, region: &Region, index: usize) {
        super::workspace::with(false, |workspace| self.evict_one_with(region, index, workspace));
    }
    fn evict_one_with(&self, region: &Region, index: usize, workspace: &mut codec::Workspace) {
        let staging = region.staging();
        let _pages = self.pages_in_hand();
        let Some(slot) = self.empty_slot(staging) else { return };
        let Some(mut transit) = Transit::claim(region, index, Some(Phase::Hot)) else {
            return staging.put_empty(slot);
        };
        match transit.take(slot) {
            Ok(slot) => {
                if let Ok(slot) = self.store(transit, slot, workspace) {
                    self.keep_pages(staging, slot);
                }
            }
            Err((slot, _)) => {
                transit.settle_unchanged();
                staging.put_empty(slot);
            }
        }
    }
    /// Returns a slot that an eviction has filled, with its pages if few are in stock. Then the next chunk that comes
    /// in finds pages, and a thread that sends out many chunks waits less for the system.
    pub(super) fn keep_pages(&self, staging: &Staging, slot: FullSlot) {
        if (staging.full() + 1) * staging.chunk() <= MOST_KEPT && !self.reserve_comes_first(staging) {
            staging.put_full(slot);
        } else {
            self.drop_pages(staging, slot);
        }
    }
}
