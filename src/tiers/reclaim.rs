//! Room for what is not chunks: plain blocks, records of chunks, mappings of the process.
use super::codec;
use super::engine::Engine;
use super::mappings;
use super::region::Region;
use super::staging::Staging;
use super::sync_points::{self, SyncPoint};
use super::table::ListKind;
use super::{gate, registry, workspace};
use crate::os::map::PAGE;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

/// How often who wants room for a plain block looks again.
const ROUNDS: usize = 64;

impl Engine {
    /// Makes room for plain blocks: gives back at least `wanted` bytes if that can be done by evicting. Gives what
    /// was given back. Where there is nothing, but others are at work, waits for them to let go of what could leave, as a touch
    /// does: a chunk that is being moved is no reason to be out of memory. Acquired chunks are no work.
    pub fn reclaim(&self, wanted: usize) -> usize {
        let _inside = gate::enter();
        // Not for ever: others may take each time what comes free.
        for _ in 0..ROUNDS {
            // Before looking: whatever is let go of from here on changes it.
            let seen = self.waiting.progress();
            let freed = self.reclaim_now(wanted);
            if freed > 0 {
                return freed;
            }
            sync_points::pass(SyncPoint::ReclaimedNothing);
            // Nothing is held here but the gate, so nobody at work waits for this thread: each ends, or waits for one that does.
            if !self.waiting.progress_since(seen) {
                return 0;
            }
        }
        0
    }
    /// The same without waiting.
    pub(super) fn reclaim_now(&self, wanted: usize) -> usize {
        workspace::with(false, |workspace| self.reclaim_with(wanted, workspace))
    }
    fn reclaim_with(&self, wanted: usize, workspace: &mut codec::Workspace) -> usize {
        self.waiting.begin();
        let before = self.account().held();
        let freed = || before.saturating_sub(self.account().held());
        let mut found = self.warm.trim(self.account()) > 0;
        for staging in self.stagings().iter() {
            while freed() < wanted {
                match self.evict_bytes(staging, wanted - freed(), workspace) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => found = true,
                }
            }
        }
        while freed() < wanted && self.free_encoded() == Ok(true) {
            found = true;
            self.warm.trim(self.account());
        }
        if freed() < wanted {
            found |= self.account().drop_reserve() > 0;
        }
        // Others may have taken it meanwhile, so this is not told by what is left.
        if found {
            self.waiting.end()
        } else {
            self.waiting.end_unnoted()
        }
        freed()
    }
    /// Charges records of chunks; chunks leave for them. False if there is no room even so.
    pub(super) fn charge_records(&self, bytes: usize, workspace: &mut codec::Workspace) -> bool {
        while !self.account().charge_records(bytes) {
            if self.reclaim_with(bytes, workspace) == 0 {
                return self.account().charge_records(bytes);
            }
        }
        true
    }
    /// Charges the page of the record of a chunk that is about to be used for the first time, where that is not done yet.
    /// Where nothing can leave for it, the page is charged beyond the limit: to refuse it would end the program at a plain
    /// access.
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

    /// For one chunk that is about to come in while mappings are short: some leave, of those that take most, whosever they are.
    /// Gives how many have left. To be called without a claim.
    pub(super) fn free_mappings(handler: bool) -> usize {
        workspace::with(handler, |workspace| {
            // Of all engines, as the process has one number for all; of those in place alone, as others take none.
            let Some(region) = registry::greatest(|region| match region.splits_mappings() {
                true => {
                    let acquired = region.counters.acquired.load(Relaxed);
                    region.lists().count(ListKind::Hot).saturating_sub(acquired)
                }
                false => 0,
            }) else {
                return 0;
            };
            region.engine().evict_some(region.staging(), mappings::LEAVING, workspace)
        })
    }
    /// Evicts up to `most` chunks of one size, while enough stay in place for one access. Gives how many have left.
    fn evict_some(&self, staging: &Arc<Staging>, most: usize, workspace: &mut codec::Workspace) -> usize {
        let _pages = self.pages_in_hand();
        let mut evicted = 0;
        // As in `stock_one`.
        while evicted < most && self.chunks_to_spare(staging) > 2 {
            let Some(slot) = self.empty_slot(staging) else { break };
            let Ok(Some(slot)) = self.evict_into(staging, slot, workspace) else { break };
            self.keep_pages(staging, slot);
            evicted += 1;
        }
        evicted
    }
}
