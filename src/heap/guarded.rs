//! Heaps whose new blocks have guards behind them, as a memory system asks for where it is monitored, and what such blocks
//! need when they are allocated, resized, checked and freed. Debug mode has guards of its own (debug/).
//!
//! A heap that is *guarding* is not served by fast paths: whoever gives these its number takes it from them meanwhile
//! (instance/slots.rs).
use super::guard::{self, GUARD, GUARDED};
use super::tracking_table::Tracked;
use super::{Block, Heap, attributes, owner};
use crate::error::{Result, fail};
use crate::log::log;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

impl Heap {
    /// Says whether blocks allocated from now on are to have guards.
    pub fn set_guarding(&self, on: bool) {
        self.guarding.store(on, Relaxed);
    }
    /// Whether new blocks are to have guards.
    pub fn is_guarding(&self) -> bool {
        self.guarding.load(Relaxed)
    }

    /// Allocates a block with a guard if the heap is guarding. With a guard it is zeroed, without one if `zeroed` says so.
    pub fn allocate_as_guarding(
        &'static self,
        size: usize,
        alignment: usize,
        zeroed: bool,
    ) -> Result<NonNull<u8>> {
        match (self.is_guarding(), zeroed) {
            (true, _) => self.allocate_guarded(size, alignment),
            (false, true) => self.allocate_zeroed(size, alignment),
            (false, false) => self.allocate(size, alignment),
        }
    }
    /// Changes the size of a block, which gets a guard if the heap is guarding, and is zeroed then beyond its old size.
    pub fn reallocate_as_guarding(&'static self, pointer: *mut u8, size: usize) -> Result<NonNull<u8>> {
        let old = if self.is_guarding() { self.block(pointer) } else { None };
        old.map_or_else(|| self.reallocate(pointer, size), |old| self.reallocate_guarded(&old, size))
    }

    /// Allocates a zeroed block with a guard.
    fn allocate_guarded(&'static self, size: usize, alignment: usize) -> Result<NonNull<u8>> {
        let block = self.allocate_with_slack(size, alignment, GUARD)?;
        // SAFETY: the block is fresh, and has `size + GUARD` bytes.
        unsafe { guard::prepare(block, size) };
        if GUARDED.track(block.as_ptr() as usize, size) == Tracked::NoMemory {
            self.free(block.as_ptr())?;
            return fail!(OutOfMemory, "no memory to remember the guard of {size} bytes");
        }
        attributes::mark(block.as_ptr())?;
        Ok(block)
    }
    /// Moves a live block of this heap into a new one of `size` bytes with a guard, zeroed beyond the old size.
    fn reallocate_guarded(&'static self, old: &Block, size: usize) -> Result<NonNull<u8>> {
        let pointer = old.start as *mut u8;
        if has_several_owners(pointer) {
            return fail!(InvalidArgument, "{pointer:p} has several owners and cannot move");
        }
        self.count_as_resize(old.size, || {
            let block = self.allocate_guarded(size, old.alignment)?;
            // SAFETY: both blocks are live and different, and each has at least as many bytes as are copied.
            unsafe { block.copy_from_nonoverlapping(NonNull::new_unchecked(pointer), size.min(old.size)) };
            attributes::rename(pointer, block.as_ptr(), size);
            if let Err(error) = self.free_guarded(pointer) {
                self.free_guarded(block.as_ptr())?; // another thread freed it first
                return Err(error);
            }
            Ok(block)
        })
    }
    /// Frees a block, and tells the log if its guard, if it has one, was overwritten.
    pub fn free_guarded(&'static self, pointer: *mut u8) -> Result<()> {
        self.end_guard(pointer);
        self.free(pointer)
    }
    /// Checks the guard of a block of this heap that is about to be freed, and forgets the guard.
    pub fn end_guard(&self, pointer: *mut u8) {
        // A block with several owners keeps its guard until the last owner frees it.
        if GUARDED.count() == 0 || self.block(pointer).is_none() || has_several_owners(pointer) {
            return;
        }
        let damaged = is_damaged(pointer);
        if GUARDED.untrack(pointer as usize).is_some() && damaged {
            log!(Error, "bytes behind the block at {pointer:p} were overwritten");
        }
    }
}

/// Whether the live block at `pointer` has a guard that was overwritten.
pub fn is_damaged(pointer: *const u8) -> bool {
    let guarded = owner(pointer)
        .filter(|(_, block)| GUARDED.get(block.start) == Some(block.size))
        .filter(|(_, block)| block.capacity - block.size >= GUARD);
    // SAFETY: when a block is entered in this table with its size, a guard is written behind that size.
    guarded.is_some_and(|(_, block)| !unsafe { guard::is_whole(&block) })
}
fn has_several_owners(pointer: *const u8) -> bool {
    attributes::is_marked(pointer) && attributes::references(pointer) > 1
}
