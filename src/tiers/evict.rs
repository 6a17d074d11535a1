//! Sending chunks out: choosing a chunk and taking its pages. store.rs says what happens to the pages then.
use super::chunk_error::ChunkError;
use super::claims::Claimant;
use super::codec;
use super::engine::Engine;
use super::fault::pages::is_busy;
use super::mapping::Errno;
use super::region::Region;
use super::regret::Left;
use super::staging::{EmptySlot, FullSlot, Staging};
use super::state::{Phase, Settle};
use super::sweep::YOUNGEST;
use super::sync_points::{self, SyncPoint};
use super::table::{Kept, ListKind};
use super::transit::Transit;
use super::waiting::End;
use core::sync::atomic::Ordering::Relaxed;

/// How many victims are tried before a failing eviction is an error.
pub const ATTEMPTS: usize = 4;

/// Claims one of the youngest chunks, if possible one that did not come back soon after it had left before.
fn young_victim(region: &Region) -> Option<Transit<'_>> {
    // If chunks are on disk, the very youngest are spared always: bringing one back from disk takes longer than the
    // processor's cache can save.
    let cold = region.counters.cold.load(Relaxed) > 0;
    let spared = if cold { YOUNGEST } else { region.sweep.lock().spared() };
    for returned in [false, true] {
        for back in spared..8 {
            let index = region.lists().youngest(ListKind::Hot, back);
            let Some(index) = index else { break };
            let word = region.word(index);
            // Some were prefetched and are still to be used.
            if word.prefetched() || word.returned() != returned {
                continue;
            }
            if let Some(transit) = Transit::claim(region, index, Phase::Hot) {
                if back < YOUNGEST {
                    region.sweep.lock().note_left(index);
                }
                return Some(transit);
            }
        }
    }
    None
}
/// Takes the slot of a chunk that was read ahead, which is Stored then. None if the slot has its only copy: see `put_back`.
fn unstage_claimed(mut transit: Transit) -> Option<FullSlot> {
    if transit.stored().kept == Kept::Nowhere {
        transit.settle_as(End::Unnoted);
        return None;
    }
    let slot = transit.take_slot();
    transit.settle(Phase::Stored, Settle::default());
    slot
}

impl Engine {
    /// Evicts a chunk into `slot`, and returns the slot. In all other cases the slot goes back to the stock. Returns
    /// None if nothing of this chunk size can leave now, and an error if a chunk could not be taken or stored (it stays
    /// in RAM).
    pub(super) fn evict_into(
        &self,
        staging: &Staging,
        slot: EmptySlot,
        workspace: &mut codec::Workspace,
    ) -> Result<Option<FullSlot>, ChunkError> {
        let (mut empty, mut failed, mut failures) = (Some(slot), None, 0);
        let nothing = |failed: Option<Errno>| failed.map_or(Ok(None), |errno| Err(ChunkError::Pages(errno)));
        let evicted = self.find_among(&staging.in_place, |region| {
            sync_points::pass(SyncPoint::RegionChosen);
            let mut transit = self.victim_in(region)?;
            // `take` waits for nobody who might wait for this claim: pages that the system holds on to are tried
            // again for 20 µs, or 1000 times, and then copied (`move_patiently`).
            match transit.take(empty.take()?) {
                Ok(full) => Some(self.store(transit, full, workspace).map(Some)),
                Err((slot, errno)) => {
                    // The system may hold its pages, for direct I/O for instance. The chunk goes to the young end of
                    // the list.
                    transit.settle_unchanged();
                    empty = Some(slot);
                    failures += 1;
                    failed = (!is_busy(Some(errno))).then_some(errno).or(failed);
                    (failures == ATTEMPTS).then(|| nothing(failed))
                }
            }
        });
        empty.into_iter().for_each(|slot| staging.put_empty(slot));
        evicted.unwrap_or_else(|| nothing(failed))
    }
    /// Evicts a chunk of a size other than that of `not`, and gives its pages back. Returns how many bytes.
    pub(super) fn evict_elsewhere(
        &self,
        not: &Staging,
        workspace: &mut codec::Workspace,
    ) -> Result<usize, ChunkError> {
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
        self.find_among(&staging.read_ahead, |region| self.unstage_from(region, Claimant::Anybody))
    }
    /// Like `unstage`, for one region.
    fn unstage_from(&self, region: &Region, who: Claimant) -> Option<FullSlot> {
        let mut left = region.table().count(ListKind::Staged);
        while left > 0
            && let Some(index) = { region.lists().oldest(ListKind::Staged) }
        {
            left -= 1;
            let Some(transit) = Transit::claim_by(who, region, index, Some(Phase::Staged)) else {
                // Another thread has claimed it. It goes behind the others, which may be free.
                let mut lists = region.lists();
                if lists.oldest(ListKind::Staged) == Some(index) {
                    lists.rotate(index);
                }
                continue;
            };
            if let Some(slot) = unstage_claimed(transit) {
                return Some(slot);
            }
        }
        None
    }
    /// Gives back the slots, and their pages, of all chunks of a region that were read ahead.
    pub(super) fn drop_staged(&self, region: &Region, who: Claimant) {
        while let Some(slot) = self.unstage_from(region, who) {
            self.drop_pages(region.staging(), slot);
        }
    }
    /// The same for one chunk.
    pub(super) fn drop_staged_one(&self, region: &Region, index: usize) {
        let slot = Transit::claim(region, index, Phase::Staged).and_then(unstage_claimed);
        slot.into_iter().for_each(|slot| self.drop_pages(region.staging(), slot));
    }
    /// Claims the chunk of a region that should leave first: the oldest, or if the region is being swept perhaps one that
    /// the sweep has just left behind (regret.rs).
    fn victim_in<'a>(&self, region: &'a Region) -> Option<Transit<'a>> {
        let wanted = region.sweep.lock().leaves();
        let young = if wanted == Left::Youngest { young_victim(region) } else { None };
        let (mut transit, left) = match young {
            Some(transit) => (transit, Left::Youngest),
            None => (self.oldest_victim(region)?, Left::Oldest),
        };
        region.sweep.lock().regret.note_left(left);
        transit.left = left;
        Some(transit)
    }
    /// Claims the oldest chunk that was not acquired lately.
    fn oldest_victim<'a>(&self, region: &'a Region) -> Option<Transit<'a>> {
        let mut left = 2 * region.table().count(ListKind::Hot);
        while left > 0 {
            left -= 1;
            let index = region.lists().oldest(ListKind::Hot)?;
            let referenced = region.chunk(index).state.forget_reference();
            if !referenced && let Some(transit) = Transit::claim(region, index, Phase::Hot) {
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
        let Some(mut transit) = Transit::claim(region, index, Phase::Hot) else {
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
}
