//! Reallocation: in place where that can be done, otherwise into a new block by a copy.
//!
//! A block that has a span of its own grows by taking a larger class, as far as the span's address space goes. If a block
//! comes to have such a span by growing, the span gets address space for eight times the block's size, because the block
//! is likely to grow further.
use super::size_class::{Class, FIRST_SINGLE, SHAPES};
use super::span::Span;
use super::*;
use crate::error::{Error, fail};

/// Whether a block with room for `capacity` bytes stays where it is when it comes to have `size`: not if half of it would be
/// wasted.
pub(super) fn stays_in_room(size: usize, capacity: usize) -> bool {
    size <= capacity && (size > capacity / 2 || capacity <= 64)
}

impl Heap {
    /// Changes the size of the block at `pointer`. Its contents up to the smaller of both sizes stay, and so does its
    /// alignment. An error leaves the block as it was.
    pub fn reallocate(&'static self, pointer: *mut u8, size: usize) -> Result<NonNull<u8>> {
        match fast::reallocate(self.id, pointer, size) {
            Some(block) => Ok(block),
            None => self.reallocate_slow(pointer, size),
        }
    }
    fn reallocate_slow(&'static self, pointer: *mut u8, size: usize) -> Result<NonNull<u8>> {
        let (span, index, value) = self.find(pointer).inspect_err(|&error| debug::refused(pointer, error))?;
        if size == 0 {
            return fail!(InvalidArgument, "a block of 0 bytes");
        }
        if size > MAX_SIZE {
            return fail!(OutOfMemory, "{size} bytes are more than any address space holds");
        }
        let block = self.describe(span, pointer as usize, value);
        // Counting needs the thread's cache. It is made before anything is changed, because that may fail.
        self.ready_to_count()?;
        let pinned = slot::is_marked(value) && attributes::references(pointer) > 1;
        debug::check(pointer)?;
        let stays = if debug::moves_blocks(&block, size, pinned) {
            None
        } else if span.is_large() {
            let resize = || self.resize_large(span, pointer, size, pinned, slot::is_marked(value));
            let mut resized = resize();
            // An allocation that finds no room does the same.
            if resized == Err(Error::OutOfMemory) && self.make_room() {
                resized = resize();
            }
            if resized == Err(Error::OutOfMemory) {
                self.want_caches();
            }
            resized?
        } else if stays_in_room(size, block.capacity) || pinned && size <= block.capacity {
            let Some(before) = self.resize_in_room(span, index, value, &block, size) else {
                return self.reallocate_slow(pointer, size); // it changed meanwhile: freed by another thread, or marked
            };
            Some((pointer, before))
        } else if size > block.capacity {
            self.grow_in_span(span, &block, size).map(|before| (pointer, before))
        } else {
            None
        };
        if let Some((moved, before)) = stays {
            // `before` is not the size that was found above: several owners may resize at the same moment, and each
            // counts the change that it made.
            self.with_cache(|cache| cache.resize(self, before, size))?;
            // Where it moved, that was seen to before its old place could be another's.
            if slot::is_marked(value) && moved == pointer {
                attributes::rename(pointer, moved, size);
            }
            let moved = NonNull::new(moved).expect("a block's address");
            self.sample(moved, size);
            return Ok(moved);
        }
        if pinned {
            return fail!(InvalidArgument, "{pointer:p} has several owners and cannot move");
        }
        // Neither the quick allocation nor the quick free below would ever see that others want what this thread caches.
        self.with_cache(|cache| self.tidy(cache))?;
        self.count_as_resize(block.size, || self.replace(&block, size, slot::is_marked(value)))
    }

    /// Moves a block into a new one of `size` bytes.
    fn replace(&'static self, block: &Block, size: usize, marked: bool) -> Result<NonNull<u8>> {
        let pointer = block.start as *mut u8;
        let moved = if size > block.capacity && self.single_class_for(size, block.alignment).is_some() {
            // Not with huge pages: each page that the block touches would fill a large part of that address space with
            // memory.
            let growth = !self.huge_pages();
            self.allocate_slow(size, block.alignment, Extras { growth, ..Extras::default() })?
        } else {
            self.allocate(size, block.alignment)?
        };
        // SAFETY: both blocks are live and at least that long. The new block overlaps nothing.
        unsafe { core::ptr::copy_nonoverlapping(pointer, moved.as_ptr(), size.min(block.size)) };
        if marked {
            attributes::rename(pointer, moved.as_ptr(), size);
        }
        if let Err(error) = self.free(pointer) {
            self.free(moved.as_ptr())?; // another thread freed it first
            return Err(error);
        }
        Ok(moved)
    }

    /// The class for `size` bytes if its blocks have a span each.
    fn single_class_for(&self, size: usize, alignment: usize) -> Option<Class> {
        self.class_for(size, alignment).filter(|&class| class as usize >= FIRST_SINGLE)
    }

    /// Gives a block another size within its room. Returns the size it had; None if it is not as it was found any more.
    pub(super) fn resize_in_room(
        &self,
        span: &'static Span,
        index: usize,
        value: u16,
        block: &Block,
        size: usize,
    ) -> Option<usize> {
        let guard = || debug::resized(block.start as *mut u8, size, block.capacity);
        if block.capacity + self.prefix() >= SHAPES[FIRST_SINGLE].stride as usize {
            let _central = self.central.lock();
            return self.has_only_block(span, block).then(|| {
                let before = span.replace_only_size(size);
                guard();
                before
            });
        }
        // For the guard, which has to be where the size says it is.
        let central = debug::guards_are_on().then(|| self.central.lock());
        let done =
            self.set_size_in_room(span, index, block.start as *mut u8, value, (block.capacity - size) as u16);
        if done && central.is_some() {
            guard();
        }
        done.then_some(block.size)
    }
    /// Gives a block that shares its span a size that leaves `unused` bytes of its room. False if it is not as it was found any
    /// more. It takes no lock, which would cost as much as all the rest: if the span has ended meanwhile the slot is another
    /// block's by now, and gets its value back at once.
    pub(super) fn set_size_in_room(
        &self,
        span: &'static Span,
        index: usize,
        pointer: *mut u8,
        value: u16,
        unused: u16,
    ) -> bool {
        let is_still_there = || self.has_block_of_class(span, index, pointer);
        let plain = slot::LIVE + unused;
        let resized = if slot::is_marked(value) { slot::marked(plain) } else { plain };
        if !is_still_there() || !slot::surrender(span.slot(index), value, resized) {
            return false;
        }
        let stayed = is_still_there();
        if !stayed {
            slot::surrender(span.slot(index), resized, value);
        }
        stayed
    }
    /// Whether `block` is the live block of a span of a single class. The heap's lock is held.
    fn has_only_block(&self, span: &'static Span, block: &Block) -> bool {
        self.has_block_of_class(span, 0, block.start as *const u8)
            && span.class() as usize >= FIRST_SINGLE
            && slot::is_live(span.value(0))
    }

    /// Grows the only block of `span` in place if possible. Returns the size it had; None if it cannot grow there.
    fn grow_in_span(&'static self, span: &'static Span, block: &Block, size: usize) -> Option<usize> {
        let class = self.single_class_for(size, block.alignment)?;
        let mut central = self.central.lock();
        // Checked again under the lock: the span lasts until its block is back in it.
        if !self.has_only_block(span, block) {
            return None;
        }
        // SAFETY: the lock is held, the span is this heap's, and its block is live.
        if !unsafe { central.change_class(self, span, class) } {
            return None;
        }
        let before = span.replace_only_size(size);
        drop(central);
        self.write_header(span.first(), SHAPES[class as usize].stride as usize - self.prefix(), class as u16);
        Some(before)
    }
}
