//! Chunks that stayed behind when their region moved to a larger one, because the system would not move their pages.
//!
//! The new region keeps the old one, which nobody else knows any more, until it is freed itself. What is stored of such a chunk
//! says `Stored::BEHIND`, and whoever claims the chunk in the new region has the sole right to it in the old. It stays charged
//! to the budget, and counts as in the clear in RAM. When it is wanted its pages are moved, or, where the system refuses again,
//! copied.
use super::engine::Engine;
use super::region::Region;
use super::staging::Slot;
use super::state::{Phase, Settle};
use super::table::Stored;
use super::transit::Transit;
use super::trouble::Trouble;
use crate::os::lock::Mutex;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

/// The regions that one region keeps.
#[derive(Default)]
pub struct Behind(Mutex<Vec<Arc<Region>>>);

impl Behind {
    /// Takes over those that another has kept, and from now on keeps that one too if anything has stayed in it. Whether so.
    pub fn keep(&self, old: &Arc<Region>) -> bool {
        let mut kept = old.behind().take();
        let stayed = old.counters.hot.load(Relaxed) > 0;
        if stayed {
            kept.push(old.clone());
        }
        self.0.lock().append(&mut kept);
        stayed
    }
    /// Keeps none any more. They are the caller's.
    pub fn take(&self) -> Vec<Arc<Region>> {
        core::mem::take(&mut *self.0.lock())
    }
    /// Bytes of chunks that have stayed.
    pub fn bytes(&self) -> usize {
        self.0.lock().iter().map(|region| region.counters.hot.load(Relaxed)).sum()
    }
    /// Where chunk `index` has stayed.
    fn holder(&self, index: usize) -> Option<Arc<Region>> {
        let holds =
            |region: &&Arc<Region>| index < region.count() && region.word(index).phase() == Phase::Hot;
        self.0.lock().iter().find(holds).cloned()
    }
}

impl Engine {
    /// Tries to move the pages of a claimed chunk that has stayed behind into a slot, as if it had been read ahead. Where that
    /// fails nothing has changed.
    pub(super) fn fetch_from_behind(&self, transit: &mut Transit) {
        let (region, index) = (transit.region, transit.index);
        let Some(holder) = region.behind().holder(index) else { return };
        let staging = region.staging();
        let Some(slot) = self.empty_slot(staging) else { return };
        let Some(there) = Transit::claim_leaving(&holder, index, Some(Phase::Hot)) else {
            return staging.put_empty(slot);
        };
        // SAFETY: both claims are ours, the chunk is present there; the slot is empty and ours.
        let taken = unsafe { self.pages().take(there.span(), staging.span(&slot), staging.nursery(&slot)) };
        if taken.is_err() {
            there.settle_unchanged();
            return staging.put_empty(slot);
        }
        holder.counters.hot.fetch_sub(region.chunk_size(), Relaxed);
        there.settle(Phase::Zero, Settle::default());
        region.counters.staged.fetch_add(region.chunk_size(), Relaxed);
        *transit.stored() = Stored::default();
        transit.stored().slot = slot.into_number();
        transit.from = Phase::Staged;
    }
    /// Copies a claimed chunk that has stayed behind.
    pub(super) fn copy_from_behind(&self, transit: &mut Transit, slot: &mut Slot) -> Result<(), Trouble> {
        let (region, index) = (transit.region, transit.index);
        let holder = region.behind().holder(index).ok_or(Trouble::Damaged)?;
        let span = holder.span_of(index);
        // SAFETY: present there, and stays so while the claim is held.
        unsafe { self.pages().open(span) }.map_err(Trouble::Pages)?;
        // SAFETY: the same; nobody writes there, as nobody knows the region any more.
        let bytes = unsafe { core::slice::from_raw_parts(span.start as *const u8, span.length) };
        region.staging().bytes(slot)[..span.length].copy_from_slice(bytes);
        Ok(())
    }
    /// Gives up what has stayed behind of a claimed chunk.
    pub(super) fn drop_from_behind(&self, transit: &Transit) {
        if let Some(holder) = transit.region.behind().holder(transit.index)
            && let Some(there) = Transit::claim_leaving(&holder, transit.index, Some(Phase::Hot))
        {
            self.drop_contents(there);
        }
    }
}
