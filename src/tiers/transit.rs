//! A claimed chunk: the right to move it, from claiming to settling.
use super::mapping::Span;
use super::mappings;
use super::region::Region;
use super::state::{Phase, Settle};
use super::table::{Chunk, ListKind, Stored};

/// The claim of one chunk. It must be settled: after a claim that is merely dropped, all other threads would wait for
/// ever.
pub struct Transit<'a> {
    /// The chunk's region.
    pub region: &'a Region,
    /// Its index.
    pub index: usize,
    /// The phase it was claimed from.
    pub from: Phase,
    chunk: &'a Chunk,
    settled: bool,
}

impl<'a> Transit<'a> {
    /// Tries to claim a chunk in phase `from`, or in any phase if `from` is None. Returns None if the chunk is Busy,
    /// acquired or pinned, or if the region is leaving.
    pub fn claim(region: &'a Region, index: usize, from: Option<Phase>) -> Option<Transit<'a>> {
        Transit::claim_after(region, index, from, || region.begin_transit())
    }
    /// Like `claim`, for the thread that frees, moves or shrinks the region: does not fail because the region is
    /// leaving.
    pub fn claim_leaving(region: &'a Region, index: usize, from: Option<Phase>) -> Option<Transit<'a>> {
        Transit::claim_after(region, index, from, || {
            region.begin_transit_leaving();
            true
        })
    }
    fn claim_after(
        region: &'a Region,
        index: usize,
        from: Option<Phase>,
        begin: impl FnOnce() -> bool,
    ) -> Option<Transit<'a>> {
        let chunk = region.chunk(index);
        let word = chunk.state.load();
        if from.is_some_and(|phase| phase != word.phase()) || !word.is_claimable() || !begin() {
            return None;
        }
        if !chunk.state.claim(word) {
            region.end_transit_unnoted();
            return None;
        }
        Some(Transit { region, index, from: word.phase(), chunk, settled: false })
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
    /// Ends the claim with the chunk in `phase`, and puts the chunk in the list that belongs to the phase.
    pub fn settle(mut self, phase: Phase, how: Settle) {
        self.put(phase, how);
        self.region.end_transit();
    }
    /// Ends the claim with the chunk where it was and as it was. This counts as progress too (waiting.rs), because
    /// the chunk may be what other threads looked for.
    pub fn settle_unchanged(self) {
        let from = self.from;
        self.settle(from, Settle::default());
    }
    /// Like `settle_unchanged`, by a thread that lets go of the chunk for others and is about to stand aside.
    pub fn settle_called(mut self) {
        self.put(self.from, Settle::default());
        self.region.end_transit_called();
    }
    /// Like `settle_unchanged`, for a chunk that no other thread could have used: this is no progress.
    pub fn settle_unnoted(mut self) {
        self.put(self.from, Settle::default());
        self.region.end_transit_unnoted();
    }
    fn put(&mut self, phase: Phase, how: Settle) {
        let warm = self.stored().warm != 0;
        {
            let mut lists = self.region.lists();
            let was_in_place = lists.remove(self.index).is_in_place();
            if self.region.splits_mappings() && was_in_place != (phase == Phase::Hot) {
                let mappings = lists.mappings_of(self.index);
                mappings::note(if was_in_place { -mappings } else { mappings });
            }
            let list = match phase {
                Phase::Hot if warm => Some(ListKind::Copied),
                Phase::Hot => Some(ListKind::Hot),
                Phase::Staged => Some(ListKind::Staged),
                Phase::Stored if warm => Some(ListKind::Warm),
                _ => None,
            };
            if let Some(list) = list {
                lists.append(list, self.index, self.region.engine().tick());
            }
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
