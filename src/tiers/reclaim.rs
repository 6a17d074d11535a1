//! Room for what is not chunks: plain blocks, records of chunks, mappings of the process.
use super::codec;
use super::engine::Engine;
use super::mappings;
use super::region::Region;
use super::staging::Staging;
use super::table::ListKind;
use super::{registry, workspace};
use crate::os::map::PAGE;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

impl Engine {
    /// Makes room for plain blocks: gives back at least `wanted` bytes if that can be done by evicting. Gives what
    /// was given back.
    pub fn reclaim(&self, wanted: usize) -> usize {
        let _inside = super::gate::enter();
        super::workspace::with(false, |workspace| self.reclaim_with(wanted, workspace))
    }
    fn reclaim_with(&self, wanted: usize, workspace: &mut codec::Workspace) -> usize {
        let _pages = self.pages_in_hand();
        let before = self.account().held();
        let freed = || before.saturating_sub(self.account().held());
        self.warm.trim(self.account());
        for staging in self.stagings().iter() {
            while freed() < wanted {
                match self.evict_bytes(staging, wanted - freed(), workspace) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
        while freed() < wanted && self.free_encoded() == Ok(true) {
            self.warm.trim(self.account());
        }
        if freed() < wanted {
            self.account().drop_reserve();
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
