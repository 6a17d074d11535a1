//! A claimed chunk: the right to move it, from claiming to settling.
use super::mapping::Span;
use super::region::Region;
use super::state::{Phase, Settle};
use super::table::{Chunk, Stored, Which};

/// The claim of one chunk. Must be settled; a claim that is dropped instead would leave all others waiting.
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
    /// Tries to claim a chunk in phase `from`, or in any phase if None. None if it is busy or pinned.
    pub fn claim(region: &'a Region, index: usize, from: Option<Phase>) -> Option<Transit<'a>> {
        let chunk = region.chunk(index);
        let word = chunk.state.load();
        if from.is_some_and(|phase| phase != word.phase()) || !word.is_claimable() {
            return None;
        }
        region.begin_transit();
        if !chunk.state.claim(word) {
            region.end_transit();
            return None;
        }
        Some(Transit { region, index, from: word.phase(), chunk, settled: false })
    }
    /// What is stored of the chunk.
    pub fn stored(&mut self) -> &mut Stored {
        // SAFETY: the claim is this object, and it is borrowed for as long as the reference.
        unsafe { self.chunk.stored() }
    }
    /// Where the chunk belongs in the region.
    pub fn span(&self) -> Span {
        self.region.span_of(self.index)
    }
    /// Ends the claim with the chunk in `phase`, in the list that belongs to it.
    pub fn settle(mut self, phase: Phase, how: Settle) {
        let warm = self.stored().warm != 0;
        {
            let mut lists = self.region.lists();
            lists.remove(self.region.table(), self.index);
            let list = match phase {
                Phase::Hot => Some(Which::Hot),
                Phase::Staged => Some(Which::Staged),
                Phase::Stored if warm => Some(Which::Warm),
                _ => None,
            };
            if let Some(list) = list {
                lists.append(self.region.table(), list, self.index, self.region.engine().tick());
            }
        }
        self.settled = true;
        self.chunk.state.settle(phase, how);
        self.region.end_transit();
    }
}
impl Drop for Transit<'_> {
    fn drop(&mut self) {
        debug_assert!(self.settled, "a claim was dropped");
    }
}
