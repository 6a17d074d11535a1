//! What recordings (crate::recording) learn from the tiers: figures, live regions, and the chunks that come and go.
use super::fault::Mechanism;
use super::piece::Piece;
use super::region::{Policy, Region};
use super::slab::Slab;
use super::state::Phase;
use super::transit::Transit;
use super::{fork, gate};
use crate::heap::debug;
use crate::recording::{self, Begun, Figures, Layer, Live, Memory, Movement, Source, Tier};

static SOURCE: Source = Source { figures, live, stack: |_| None };

/// Makes the tiers known to recordings.
pub fn install() {
    recording::register(Layer::Tiers, &SOURCE);
}
fn each_region(mut each: impl FnMut(&Region)) {
    let _inside = gate::enter();
    fork::each(|engine| engine.regions().iter().for_each(|region| each(region)));
}
fn figures(figures: &mut Figures) {
    each_region(|region| {
        let residency = region.residency();
        let kind = match region.memory_kind() {
            Memory::Hierarchical => &mut figures.hierarchical,
            _ => &mut figures.streaming,
        };
        kind.size += region.slab().map_or_else(|| region.size(), Slab::live_bytes);
        kind.hot += residency.hot_bytes;
        kind.warm += residency.warm_bytes;
        kind.cold += residency.cold_bytes;
        figures.faults += residency.faults;
        figures.evictions += residency.evictions;
        figures.prefetches += residency.prefetches;
    });
}
fn live(each: &mut dyn FnMut(Live)) {
    each_region(|region| {
        let memory = region.memory_kind();
        match region.slab() {
            None => each(Live { address: region.start(), size: region.size(), memory }),
            Some(slab) => slab.pieces().for_each(|index| {
                each(Live { address: region.span_of(index).start, size: slab.size(index), memory });
            }),
        }
    });
}

impl Transit<'_> {
    /// Where the chunk is stored.
    pub(super) fn stored_tier(&mut self) -> Tier {
        if self.stored().is_in_ram() { Tier::Warm } else { Tier::Cold }
    }
    /// Where the contents are of a chunk that is not in place.
    pub(super) fn tier(&mut self) -> Tier {
        match self.from {
            Phase::Zero => Tier::Zero,
            Phase::Staged => Tier::Staged,
            _ => self.stored_tier(),
        }
    }
}
impl Region {
    /// The kind of memory, as recordings call it.
    fn memory_kind(&self) -> Memory {
        memory_kind(self.policy())
    }
    /// Records that chunk `index` came or went.
    pub(super) fn record(&self, begun: Begun, movement: Movement, tier: Tier, index: usize) {
        let mechanism = match self.engine().mechanism() {
            Mechanism::Move => recording::Mechanism::Move,
            Mechanism::Copy => recording::Mechanism::Copy,
            Mechanism::Signal => recording::Mechanism::Signal,
            Mechanism::None => recording::Mechanism::None,
        };
        let what = (movement, self.memory_kind(), tier, mechanism);
        recording::moved(begun, what, self.chunk_size(), self.span_of(index).start);
    }
}
fn memory_kind(policy: Policy) -> Memory {
    match policy {
        Policy::Hierarchical { .. } => Memory::Hierarchical,
        Policy::Streaming => Memory::Streaming,
    }
}
impl Piece {
    /// Records that the piece was allocated, or has another size now.
    pub fn record_allocation(&self) {
        recording::start_if_asked();
        if recording::is_on()
            && let Some(stack) = debug::walk_stack()
        {
            recording::allocated(self.start(), self.size(), self.size(), memory_kind(self.policy()), stack);
        }
    }
}
