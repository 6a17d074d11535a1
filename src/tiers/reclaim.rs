//! Room for what is not chunks: plain blocks, and records of chunks.
use super::chunk_error::ChunkError;
use super::codec;
use super::engine::Engine;
use super::region::Region;
use super::{gate, workspace};
use crate::os::map::PAGE;

/// How often who wants room for a plain block waits for others to let go of chunks.
const ROUNDS: usize = 100;

impl Engine {
    /// Makes room for plain blocks: gives back at least `wanted` bytes if that can be done by evicting. Gives what
    /// was given back. Where others hold all that could leave it waits until they let go: a touch or an acquisition does.
    pub fn reclaim(&self, wanted: usize) -> usize {
        let _inside = gate::enter();
        workspace::with(false, |workspace| {
            let _pages = self.pages_in_hand();
            // Not for ever: others may go on to take it all.
            for _ in 0..ROUNDS {
                // Before looking: whatever settles from here on changes it.
                let seen = self.waiting.progress();
                match self.reclaim_in_hand(wanted, workspace) {
                    Ok(0) if self.waiting.starve(seen, || false) => {}
                    freed => return freed.unwrap_or(0),
                }
            }
            0
        })
    }
    fn reclaim_with(&self, wanted: usize, workspace: &mut codec::Workspace) -> usize {
        let _pages = self.pages_in_hand();
        self.reclaim_in_hand(wanted, workspace).unwrap_or(0)
    }
    /// By one who is at work (waiting.rs). The error of one that cannot be stored, where nothing else could be had either.
    fn reclaim_in_hand(&self, wanted: usize, workspace: &mut codec::Workspace) -> Result<usize, ChunkError> {
        let before = self.account().held();
        let freed = || before.saturating_sub(self.account().held());
        let mut failed = Ok(0);
        self.warm.trim(self.account());
        for staging in self.stagings().iter() {
            while freed() < wanted {
                match self.evict_bytes(staging, wanted - freed(), workspace) {
                    Ok(0) => break,
                    Ok(_) => {}
                    error => {
                        failed = error;
                        break;
                    }
                }
            }
        }
        while freed() < wanted {
            match self.free_encoded() {
                Ok(true) => _ = self.warm.trim(self.account()),
                Ok(false) => break,
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        if freed() < wanted {
            self.account().drop_reserve();
        }
        if freed() > 0 { Ok(freed()) } else { failed }
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
}
