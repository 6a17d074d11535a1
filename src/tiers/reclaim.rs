//! Makes room for what is not a chunk: plain blocks, what the account guarantees, records of chunks, mappings of the
//! process.
use super::budget::BudgetAccount;
use super::chunk_error::ChunkError;
use super::codec;
use super::engine::Engine;
use super::mappings;
use super::region::Region;
use super::staging::Staging;
use super::sync_points::{self, SyncPoint};
use super::waiting::End;
use super::{gate, registry, workspace};
use crate::error::{self, Error};
use crate::os::map::PAGE;

/// How often a thread that wants room for a plain block looks for it.
const ROUNDS: usize = 64;
/// How often an allocation or a change of size that finds no room is tried again.
const ATTEMPTS: usize = 8;

impl Engine {
    /// Whether there would be `enough` room for a plain block if chunks gave back all they can. `enough` is told how many
    /// bytes that is, and knows what other room there is.
    pub fn could_make_room(&self, enough: impl Fn(usize) -> bool) -> bool {
        let movable = || {
            let _inside = gate::enter();
            self.account().movable()
        };
        for _ in 0..ROUNDS {
            let (bytes, changes) = movable();
            if enough(bytes) {
                return true;
            }
            if movable().1 == changes {
                return false;
            }
            // What a chunk took or gave back meanwhile may be missing in both figures.
        }
        true
    }
    /// Makes room for plain blocks: gives back at least `wanted` bytes if evicting can do that. Returns the bytes
    /// given back. If there is nothing to give back but other threads are at work, waits for them to let go of what
    /// could leave, as a touch does: a chunk that is being moved is no reason to be out of memory. Acquired chunks do
    /// not count as work.
    pub fn reclaim(&self, wanted: usize) -> usize {
        let _inside = gate::enter();
        let _first = self.account().let_others_first();
        // Not for ever: other threads may each time hold what could leave.
        for _ in 0..ROUNDS {
            // Read before looking, so that whatever is let go of from here on counts as progress.
            let seen = self.waiting.progress();
            let freed = self.reclaim_now(wanted);
            if freed > 0 {
                return freed;
            }
            sync_points::pass(SyncPoint::ReclaimedNothing);
            // This thread holds nothing but the gate, so no thread at work waits for it: each of them ends, or waits
            // for another that does.
            if !self.waiting.progress_since(seen) {
                return 0;
            }
        }
        0
    }
    /// Runs `work` like [`Engine::with_room`]. If it finds no room, because chunks or other threads have it for a moment, it is
    /// tried some times more.
    pub(super) fn with_reclaimed<R>(&self, work: impl Fn() -> error::Result<R>) -> error::Result<R> {
        let mut result = self.with_room(&work);
        for _ in 0..ATTEMPTS {
            let no_room = self.account().limit() != 0 && matches!(result, Err(Error::OutOfMemory));
            if !no_room || self.reclaim(PAGE) == 0 {
                break;
            }
            result = self.with_room(&work);
        }
        result
    }
    /// Like `reclaim`, without waiting.
    pub(super) fn reclaim_now(&self, wanted: usize) -> usize {
        workspace::with(false, |workspace| self.reclaim_with(wanted, workspace))
    }
    fn reclaim_with(&self, wanted: usize, workspace: &mut codec::Workspace) -> usize {
        self.waiting.begin();
        let before = self.account().held();
        let freed = || before.saturating_sub(self.account().held());
        let mut found = self.warm.trim(self.account()) > 0;
        // No more than was in place, or encoded, to begin with: meanwhile other threads may bring in the next chunk for each
        // that leaves.
        let mut pages = self.account().pages();
        for staging in self.stagings().iter() {
            while freed() < wanted && pages > 0 {
                match self.evict_bytes(staging, pages.min(wanted - freed()), workspace) {
                    Ok(0) | Err(_) => break,
                    Ok(bytes) => (found, pages) = (true, pages.saturating_sub(bytes)),
                }
            }
        }
        for _ in 0..self.encoded_chunks() {
            if freed() >= wanted || self.free_encoded() != Ok(true) {
                break;
            }
            found = true;
            self.warm.trim(self.account());
        }
        if freed() < wanted {
            found |= self.account().drop_reserve() > 0;
        }
        // Other threads may have taken it meanwhile, so what `freed` says does not tell whether there was progress.
        self.waiting.end(if found { End::Progress } else { End::Unnoted });
        freed()
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
    /// Charges records of chunks; chunks leave to make room. Returns false if there is no room even so.
    pub(super) fn charge_records(&self, bytes: usize, workspace: &mut codec::Workspace) -> bool {
        while !self.account().charge_records(bytes) {
            if self.reclaim_with(bytes, workspace) == 0 {
                return self.account().charge_records(bytes);
            }
        }
        true
    }
    /// Charges the page of the record of a chunk that is about to be used for the first time, unless that is done
    /// already. If nothing can leave for it, the page is charged beyond the limit, because a refusal would end the
    /// program at a plain access.
    pub(super) fn charge_record(&self, region: &Region, index: usize, workspace: &mut codec::Workspace) {
        if region.is_record_charged(index) {
            return;
        }
        if !self.charge_records(PAGE, workspace) {
            self.account().charge_records_anyway(PAGE);
        }
        if !region.note_record_charged(index) {
            self.account().discharge_records(PAGE);
        }
    }

    /// Frees mappings for one chunk that is about to come in while mappings are short: chunks leave, from the region
    /// that takes most, in whichever engine. Returns how many have left. To be called without a claim.
    pub(super) fn free_mappings(handler: bool) -> usize {
        workspace::with(handler, |workspace| {
            // All engines count, because the process has one limit for all. Only chunks in place count, because
            // others take no mapping.
            let chunks =
                |region: &Region| if region.splits_mappings() { region.chunks_to_spare() } else { 0 };
            let Some(region) = registry::greatest(chunks) else { return 0 };
            region.engine().evict_some(region.staging(), mappings::LEAVING, workspace)
        })
    }
    /// Evicts up to `most` chunks of one size, while enough stay in place for one access. Returns how many have left.
    fn evict_some(&self, staging: &Staging, most: usize, workspace: &mut codec::Workspace) -> usize {
        let _pages = self.pages_in_hand();
        let mut evicted = 0;
        // Two chunks stay in place, as in `stock_one`.
        while evicted < most && self.chunks_to_spare(staging, 3) > 2 {
            let Some(slot) = self.empty_slot(staging) else { break };
            let Ok(Some(slot)) = self.evict_into(staging, slot, workspace) else { break };
            self.keep_pages(staging, slot);
            evicted += 1;
        }
        evicted
    }
}
