//! Whether a block would fit: what an allocation would ask of the budget, found out without allocating. Follows slow.rs,
//! central.rs and large.rs, step by step.
use super::cache::ThreadCache;
use super::size_class::{Class, SHAPES};
use super::*;
use crate::os::map::round_to_page;

impl Heap {
    /// Whether this thread can allocate `size` bytes at `alignment` now, if `movable` of the bytes that count as held would
    /// go. Whether the system has the memory is not known.
    pub fn can_allocate(&'static self, size: usize, alignment: usize, movable: usize) -> bool {
        if size == 0 || size > MAX_SIZE {
            return false;
        }
        // What an allocation does too before it gives up; who is refused elsewhere loses nothing by it.
        let made_room = || debug::empty_quarantine(Some(self)) | self.flush_caches();
        self.limit() == 0
            || self.finds_room(size, alignment, movable)
            || made_room() && self.finds_room(size, alignment, movable)
    }
    fn finds_room(&'static self, size: usize, alignment: usize, movable: usize) -> bool {
        let (alignment, slack) = (self.alignment_for(alignment), debug::slack());
        let fits = self.with_cache(|cache| {
            let central = self.central.lock();
            let needed = match self.class_for(size + slack, alignment) {
                Some(class) => central.needed_for_block(cache, class),
                None => self.needed_for_large(&central, size, alignment, slack),
            };
            let in_use = self.held().saturating_sub(central.kept.bytes() + movable);
            needed == 0 || in_use.saturating_add(needed) <= self.limit()
        });
        // Without memory for a cache there is none for blocks.
        fits.unwrap_or(false)
    }
}

impl Central {
    /// Bytes of the budget that a block of `class` would need; 0 where one is free, or has its pages.
    fn needed_for_block(&self, cache: &ThreadCache, class: Class) -> usize {
        let shape = &SHAPES[class as usize];
        let end_of = |blocks: usize| round_to_page(blocks * shape.stride as usize);
        if cache.magazine(class as usize).length() > 0 || self.with_free_blocks(class).is_some() {
            return 0;
        }
        match self.span_for(cache, class) {
            Some(span) => {
                // SAFETY: listed spans are live records; the lock is held, and the reference ends here.
                let inner = unsafe { span.as_ref().inner() };
                end_of(inner.carved as usize + 1).saturating_sub(inner.charged)
            }
            None => match self.kept.held_of_run(shape.slices as usize, cache) {
                Some(held) if held >= end_of(1) => 0,
                _ => end_of(1),
            },
        }
    }
}
