//! What recordings (crate::recording) learn from heaps: their figures, their live blocks, and sampled allocations.
use super::{Heap, attributes, debug, registry};
use crate::recording::{self, Figures, Layer, Live, Memory, Source};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static SOURCE: Source = Source { figures, live, stack: debug::stack_of };

/// Registers the heaps with the recordings.
pub(super) fn install() {
    recording::register(Layer::Heaps, &SOURCE);
}

/// Bytes of tiered memory in what heaps count as live.
static REGIONS: AtomicUsize = AtomicUsize::new(0);
/// Counts that a region of tiered memory has `new` bytes instead of `old`.
pub(super) fn regions_changed(old: usize, new: usize) {
    REGIONS.fetch_add(new.wrapping_sub(old), Relaxed);
}

fn figures(figures: &mut Figures) {
    registry::for_each_heap(|heap| {
        let statistics = heap.statistics();
        figures.held += statistics.held;
        if heap.is_part() {
            return; // all else was counted in the whole
        }
        figures.live += statistics.live;
        figures.allocations += statistics.allocations;
        figures.frees += statistics.frees;
    });
    figures.live = figures.live.saturating_sub(REGIONS.load(Relaxed));
    figures.tensors += attributes::tensor_bytes();
}
fn live(each: &mut dyn FnMut(Live)) {
    registry::for_each_heap(|heap| {
        heap.for_each_live(&mut |block| {
            let start = block.start as *const u8;
            let tensor = attributes::is_marked(start) && attributes::with_layout(start, |_| ()).is_some();
            let memory = if tensor { Memory::Geometric } else { Memory::Plain };
            each(Live { address: block.start, size: block.size, memory });
        });
    });
}

impl Heap {
    /// Called when a block was allocated or resized in place on the slow path. Samples the block if enough was
    /// allocated since this thread's last sample.
    #[inline]
    pub(super) fn sample(&'static self, block: NonNull<u8>, size: usize) {
        if recording::may_be_on() {
            self.sample_if_due(block, size);
        }
    }
    #[cold]
    fn sample_if_due(&'static self, block: NonNull<u8>, size: usize) {
        recording::start_if_asked();
        let Some(cache) = self.existing_cache().filter(|_| recording::is_on()) else { return };
        let allocated = cache.counts().allocated;
        if cache.sampled_in.replace(recording::number()) != recording::number() {
            // What was allocated before this recording counts for no sample.
            cache.sampled.set(allocated.wrapping_sub(size));
        }
        let since = allocated.wrapping_sub(cache.sampled.get());
        let interval = recording::interval();
        let weight = if size >= interval {
            size // the bytes allocated before it count for the next sample
        } else {
            // Between half the interval and one and a half, so that no rhythm in the program is missed every time.
            let varied = interval / 2 + (allocated.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % interval;
            if since < varied {
                return;
            }
            since
        };
        cache.sampled.set(cache.sampled.get().wrapping_add(weight));
        // If there is no memory for the mark, the free would not be recorded. Then it is better to have no sample.
        if let Some(stack) = debug::walk_stack()
            && attributes::set_sampled(block.as_ptr()).is_ok()
        {
            recording::allocated(block.as_ptr() as usize, size, weight, Memory::Plain, stack);
        }
    }
}
