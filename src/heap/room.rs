//! Whether a block would fit, found out without allocating it. The same functions are asked where the block would come from
//! as when it is allocated.
use super::*;

impl Heap {
    /// Whether this thread can allocate `size` bytes at `alignment` now, as far as the budget is concerned. Whether the
    /// system has the memory is not known. `movable` as in [`Central::next_block`].
    pub fn can_allocate(&'static self, size: usize, alignment: usize, movable: usize) -> bool {
        if size == 0 || size > MAX_SIZE {
            return false;
        }
        // An allocation does this too, before it gives up.
        let made_room = || debug::empty_quarantine(Some(self)) | self.make_room();
        self.limit() == 0
            || self.finds_room(size, alignment, movable)
            || made_room() && self.finds_room(size, alignment, movable)
    }
    fn finds_room(&'static self, size: usize, alignment: usize, movable: usize) -> bool {
        // If there is no memory for a cache there is none for a block.
        self.room(size, alignment, movable).unwrap_or(false)
    }
    /// Whether the limit is what refuses a block, and not the system.
    pub(super) fn limit_refuses(&'static self, size: usize, alignment: usize) -> bool {
        self.limit() != 0 && self.room(size, alignment, 0) == Some(false)
    }
    /// Whether the limit has room for a block. None if there is no memory for the thread's cache.
    fn room(&'static self, size: usize, alignment: usize, movable: usize) -> Option<bool> {
        let (alignment, slack) = (self.alignment_for(alignment), debug::slack());
        let room = self.with_cache(|cache| {
            self.empty_front(cache);
            let central = self.central.lock();
            match self.class_for(size + slack, alignment) {
                Some(class) => {
                    let cached = cache.magazine(class as usize).length() > 0;
                    cached || central.next_block(self, cache, class, movable).is_some()
                }
                None => self.has_room_for_large(&central, size, alignment, slack, movable),
            }
        });
        room.ok()
    }
}
