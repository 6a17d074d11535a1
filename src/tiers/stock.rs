//! The stock of slots: where a chunk that comes in gets its pages from, and what becomes of the pages of one that has
//! left.
use super::chunk_error::ChunkError;
use super::codec;
use super::engine::Engine;
use super::evict::ATTEMPTS;
use super::region::Region;
use super::staging::{EmptySlot, FullSlot, Staging};
use super::sync_points::{self, SyncPoint};
use super::table::ListKind;
use core::sync::atomic::Ordering::Relaxed;

/// How many full slots the worker threads keep in stock.
const SPARE: usize = 2;
/// Bytes of pages that may stay in stock when chunks are sent out on advice or to free mappings.
const MOST_KEPT: usize = 4 << 20;

/// Why nothing leaves for a claimed chunk of the region. If the region is leaving, the thread that frees or moves it
/// waits for this claim.
fn no_room_for(region: &Region) -> ChunkError {
    if region.is_leaving() { ChunkError::Leaving } else { ChunkError::NoRoom }
}

impl Region {
    /// How many chunks are in place and not acquired.
    pub(super) fn chunks_to_spare(&self) -> usize {
        self.table().count(ListKind::Hot).saturating_sub(self.counters.acquired.load(Relaxed))
    }
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
            // An encoded chunk that cannot be written to disk is no reason to fail: another chunk leaves instead.
            if self.encoded_have_too_much(staging) && self.room_from_encoded().unwrap_or(false) {
                staging.put_empty(slot);
                continue;
            }
            if self.chunks_to_spare(staging, 2) < 2 {
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
        // Chunks of this size are not evicted here: the last one may be the other half of an access that spans two
        // chunks, which would then fault for ever.
        Ok(self.account().drop_reserve() > 0
            || self.warm.trim(self.account()) > 0
            || self.evict_elsewhere(staging, workspace)? > 0
            || self.room_from_encoded()?)
    }
    /// Frees encoded chunks in RAM until that gives memory back. Returns false if nothing does.
    fn room_from_encoded(&self) -> Result<bool, ChunkError> {
        let before = self.account().encoded();
        while self.free_encoded()? {
            // The pages of a large extent went back at once.
            if self.warm.trim(self.account()) > 0 || self.account().encoded() < before {
                return Ok(true);
            }
        }
        Ok(false)
    }
    /// The number of chunks of one size that are in place and not acquired, or at least `enough`. There is always room for two:
    /// see budget.rs.
    pub(super) fn chunks_to_spare(&self, staging: &Staging, enough: usize) -> usize {
        staging.in_place.sum(enough, Region::chunks_to_spare)
    }
    /// The number of chunks of one size that are in slots.
    pub(super) fn staged_chunks(&self, staging: &Staging) -> usize {
        staging.read_ahead.chunks()
    }
    /// The number of chunks with encoded bytes in RAM.
    pub(super) fn encoded_chunks(&self) -> usize {
        self.encoded.chunks() + self.copied.chunks()
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
        if self.chunks_to_spare(staging, 3) < 3 {
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
        self.account().wants_reserve() && self.account().pages() > self.clear_bytes(staging)
    }
    /// Whether encoded chunks leave less than their share to those in the clear, which have turned out to need it.
    fn encoded_have_too_much(&self, staging: &Staging) -> bool {
        let (pages, encoded) = (self.account().pages(), self.account().encoded());
        self.clear_share.is_raised()
            && pages < encoded
            && pages + staging.chunk() <= self.clear_bytes(staging)
    }
    fn clear_bytes(&self, staging: &Staging) -> usize {
        self.clear_share.bytes(self.account().limit(), staging.chunk())
    }
    /// An empty slot. If there is none, gives back the pages of a full one.
    pub(super) fn empty_slot(&self, staging: &Staging) -> Option<EmptySlot> {
        staging.take_empty().or_else(|| {
            let slot = staging.empty(staging.take_full()?);
            self.account().discharge_pages(staging.chunk());
            Some(slot)
        })
    }
    /// Returns a slot that an eviction has filled, with its pages if few are in stock. Then the next chunk that comes
    /// in finds pages, and a thread that sends out many chunks waits less for the system.
    pub(super) fn keep_pages(&self, staging: &Staging, slot: FullSlot) {
        if (staging.full() + 1) * staging.chunk() <= MOST_KEPT && !self.reserve_comes_first(staging) {
            sync_points::pass(SyncPoint::KeepingPages);
            staging.put_full(slot);
            // Whoever has freed the last region with these slots meanwhile may have looked for pages in them before.
            if !self.has_set(staging) {
                self.drop_full(staging, usize::MAX);
            }
        } else {
            self.drop_pages(staging, slot);
        }
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
}
