//! A claimed chunk: the right to move it, from claiming to settling.
use super::claims::Claimant;
use super::mapping::{Errno, Span};
use super::mappings;
use super::region::Region;
use super::regret::Left;
use super::staging::{EmptySlot, FullSlot};
use super::state::{Phase, Settle};
use super::table::{Chunk, Kept, ListKind, Stored};
use super::waiting::End;
use core::sync::atomic::Ordering::Relaxed;

/// The claim of one chunk. It must be settled: after a claim that is merely dropped, all other threads would wait for
/// ever.
pub struct Transit<'a> {
    /// The chunk's region.
    pub region: &'a Region,
    /// Its index.
    pub index: usize,
    /// The phase it was claimed from.
    pub from: Phase,
    /// In which order it leaves, if it does.
    pub left: Left,
    chunk: &'a Chunk,
    /// Whether the chunk's pages are in the region.
    in_place: bool,
    settled: bool,
}

impl<'a> Transit<'a> {
    /// Tries to claim a chunk in phase `from`. Returns None if the chunk is in another, acquired or pinned, or if the
    /// region is leaving.
    pub fn claim(region: &'a Region, index: usize, from: Phase) -> Option<Transit<'a>> {
        Transit::claim_by(Claimant::Anybody, region, index, Some(from))
    }
    /// Like `claim`, in any phase but Busy if `from` is None. The leaver's claim does not fail because the region is
    /// leaving.
    pub fn claim_by(
        who: Claimant,
        region: &'a Region,
        index: usize,
        from: Option<Phase>,
    ) -> Option<Transit<'a>> {
        let chunk = region.chunk(index);
        let word = chunk.state.load();
        let wanted = from.is_none_or(|phase| phase == word.phase()) && word.is_claimable();
        if !wanted || !region.begin_transit(who) {
            return None;
        }
        if !chunk.state.claim(word) {
            region.end_transit(End::Unnoted);
            return None;
        }
        let from = word.phase();
        let in_place = from == Phase::Hot;
        Some(Transit { region, index, from, left: Left::default(), chunk, in_place, settled: false })
    }
    /// How the chunk is stored.
    pub fn stored(&mut self) -> &mut Stored {
        // SAFETY: the claim is this object, and it is borrowed for as long as the reference.
        unsafe { self.chunk.stored() }
    }
    /// Where the chunk belongs in the region.
    pub fn span(&self) -> Span {
        self.region.span_of(self.index)
    }
    /// Takes the pages of a chunk that is in place into a slot. On failure returns the slot, and the chunk is as it was, or
    /// lost if the system refused even to leave it as it was.
    pub fn take(&mut self, slot: EmptySlot) -> Result<FullSlot, (EmptySlot, Errno)> {
        assert!(self.in_place);
        let pages = self.region.engine().pages();
        // SAFETY: the claim owns the chunk, and the chunk is in place and so present. Slots of the region's set are as
        // large.
        let taken = unsafe { self.region.staging().take(pages, self.span(), slot) };
        let slot = taken.map_err(|(slot, failed)| {
            if failed.lost {
                self.lose_pages();
            }
            (slot, failed.errno)
        })?;
        self.leaves();
        Ok(slot)
    }
    /// Marks the chunk, whose pages are gone, as lost: from now on using it is an error, and it does not read as zeros.
    fn lose_pages(&mut self) {
        let engine = self.region.engine();
        self.vacate();
        engine.account().discharge_pages(self.region.chunk_size());
        engine.drop_stored(self);
        self.stored().kept = Kept::Lost;
        self.from = Phase::Stored;
    }
    /// Places the contents of a slot as the chunk. On failure returns the slot, and the chunk is absent as before.
    pub fn place(&mut self, slot: FullSlot) -> Result<EmptySlot, (FullSlot, Errno)> {
        assert!(!self.in_place && !self.region.is_resident());
        let pages = self.region.engine().pages();
        // SAFETY: the claim owns the chunk, and the chunk is not in place and so absent. Slots of the region's set are
        // as large.
        let slot = unsafe { self.region.staging().place(pages, slot, self.span()) }?;
        self.in_place = true;
        let bytes = self.region.chunk_size();
        self.region.tally(self.index, |counters| _ = counters.hot.fetch_add(bytes, Relaxed));
        Ok(slot)
    }
    /// Drops the pages of a chunk that is in place. The caller gives back their charge.
    pub fn vacate(&mut self) {
        assert!(self.in_place);
        // SAFETY: the claim owns the chunk, and its contents are given up.
        unsafe { self.region.engine().pages().vacate(self.span()) };
        self.leaves();
    }
    fn leaves(&mut self) {
        self.in_place = false;
        let bytes = self.region.chunk_size();
        self.region.tally(self.index, |counters| _ = counters.hot.fetch_sub(bytes, Relaxed));
    }
    /// Keeps a slot with the chunk's contents, of a chunk that is to be settled as Staged.
    pub fn keep_slot(&mut self, slot: FullSlot) {
        debug_assert!({ self.stored().slot }.is_none());
        self.stored().slot = Some(slot.into_number());
        let bytes = self.region.chunk_size();
        self.region.tally(self.index, |counters| _ = counters.staged.fetch_add(bytes, Relaxed));
    }
    /// Takes the slot out that a Staged chunk has; None for a chunk in another phase.
    pub fn take_slot(&mut self) -> Option<FullSlot> {
        let number = self.stored().slot.take()?;
        let bytes = self.region.chunk_size();
        self.region.tally(self.index, |counters| _ = counters.staged.fetch_sub(bytes, Relaxed));
        // SAFETY: `keep_slot` made the number of a slot of the region's set, and it has just been taken out.
        Some(unsafe { FullSlot::from_number(number) })
    }
    /// Ends the claim with the chunk in `phase`, and puts the chunk in the list that belongs to the phase.
    pub fn settle(mut self, phase: Phase, how: Settle) {
        self.put(phase, how);
        self.region.end_transit(End::Progress);
    }
    /// Ends the claim with the chunk where it was and as it was. This counts as progress too (waiting.rs), because
    /// the chunk may be what other threads looked for.
    pub fn settle_unchanged(self) {
        self.settle_as(End::Progress);
    }
    /// Like `settle_unchanged`, with another meaning for threads that wait.
    pub fn settle_as(mut self, end: End) {
        self.put(self.from, Settle::default());
        self.region.end_transit(end);
    }
    fn put(&mut self, phase: Phase, how: Settle) {
        debug_assert!(self.region.is_resident() || self.in_place == (phase == Phase::Hot));
        let warm = self.stored().is_in_ram();
        {
            let mut lists = self.region.lists();
            let was_in_place = lists.which(self.index).is_in_place();
            if self.region.splits_mappings() && was_in_place != (phase == Phase::Hot) {
                let mappings = lists.mappings_of(self.index);
                mappings::note(if was_in_place { -mappings } else { mappings });
            }
            let list = match phase {
                Phase::Hot if warm => ListKind::Copied,
                Phase::Hot => ListKind::Hot,
                Phase::Staged => ListKind::Staged,
                Phase::Stored if warm => ListKind::Warm,
                _ => ListKind::Nowhere,
            };
            let stamp = match (phase, was_in_place) {
                (Phase::Hot, _) => self.region.engine().tick(),
                (_, true) => self.region.engine().note_departure(),
                _ => lists.stamp(self.index),
            };
            lists.put(self.index, list, stamp);
            self.region.note_listed(list, stamp);
        }
        self.settled = true;
        self.chunk.state.settle(phase, how);
    }
}
impl Drop for Transit<'_> {
    fn drop(&mut self) {
        debug_assert!(self.settled, "a claim was dropped");
    }
}
