//! The fast paths: a hit in the calling thread's cache, and nothing else.
//!
//! No locks, no calls, no failure: whatever is unusual gives `None` or `false` with nothing changed, and the caller
//! goes on to slow.rs. They need only the heap's id, so that a table's functions reach the cache in two loads.
//!
//! What an allocation costs at least: the thread's record, its cache, the magazine's top, the entry and the slot, each
//! load waiting for the one before; a free waits for the page map's root and leaf, the span and the slot.
use super::cache::{self, ThreadCache};
use super::magazine::{Entry, Magazine};
use super::size_class::{FIRST_SINGLE, quick_class_of, quick_scaled_class_of};
use super::span::ALL;
use super::{page_map, slot, span_of_block};
use crate::os::thread;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// What malloc promises.
const MALLOC_ALIGNMENT: usize = 16;

/// Allocates from the calling thread's cache of the heap with `id`.
#[inline(always)]
pub fn allocate(id: usize, size: usize, alignment: usize) -> Option<NonNull<u8>> {
    let cache = cache::existing(thread::existing()?, id)?;
    // A size of 0 wraps, and is left to the slow path.
    if size.wrapping_sub(1) >= cache.quick_size.load(Relaxed) {
        return None;
    }
    let room = room_for(cache, size, alignment)?;
    let magazine = cache.magazine_at(quick_scaled_class_of(room));
    let (entry, slot) = take(cache, magazine, size)?;
    slot.store((magazine.of_nothing.get() as usize).wrapping_sub(size) as u16, Relaxed);
    // SAFETY: taken just now, and no block is at address 0.
    Some(unsafe { NonNull::new_unchecked(entry.as_ref().pointer) })
}

/// Takes a block out of a magazine, counted as a hit of `size` bytes: its entry, which nobody has written to yet, and its
/// slot. The caller makes it live: [`slot::claim`] in two parts.
#[inline(always)]
fn take(
    cache: &ThreadCache,
    magazine: &Magazine,
    size: usize,
) -> Option<(NonNull<Entry>, &'static AtomicU16)> {
    let top = magazine.top.get();
    if top == magazine.base.get() {
        return None;
    }
    // SAFETY: entries below the top are initialised.
    let entry = unsafe { NonNull::new_unchecked(top.sub(1)) };
    // SAFETY: as above. Its pointer is for later, when there are registers again.
    let slot = unsafe { entry.as_ref() }.slot();
    if slot.load(Relaxed) != magazine.tag.get() || !cache.tally.hit(size) {
        return None;
    }
    magazine.top.set(entry.as_ptr());
    Some((entry, slot))
}

/// Bytes of a block with its prefix: whole cache lines, or granules of malloc's where there is no prefix. None: the
/// alignment is neither's.
#[inline(always)]
fn room_for(cache: &ThreadCache, size: usize, alignment: usize) -> Option<usize> {
    if alignment & !64 == 0 {
        Some(size.wrapping_add(cache.beside) & !63)
    } else if alignment == MALLOC_ALIGNMENT && cache.is_plain() {
        Some(size)
    } else {
        None
    }
}

/// The same for the classes whose blocks have a span each. What [`allocate`] leaves over is tried here next: one call
/// more, still without a lock.
pub fn allocate_single(id: usize, size: usize, alignment: usize) -> Option<NonNull<u8>> {
    let cache = cache::existing(thread::existing()?, id)?;
    let room = room_for(cache, size, alignment)?;
    if room > cache.quick_limit || size.wrapping_sub(1) >= room || size > cache.largest() {
        return None;
    }
    let class = quick_class_of(room);
    if class < FIRST_SINGLE {
        return None;
    }
    let (entry, slot) = take(cache, cache.magazine(class), size)?;
    // SAFETY: taken just now.
    let pointer = unsafe { entry.as_ref() }.pointer;
    let span = span_of_block(pointer);
    span.note_request(size);
    span.set_written(ALL);
    slot.store(slot::LIVE, Relaxed);
    NonNull::new(pointer)
}

/// Frees into the calling thread's cache of the heap with `id`. False: not done, for whatever reason.
#[inline(always)]
pub fn free(id: usize, pointer: *mut u8) -> bool {
    let Some(cache) = thread::existing().and_then(|record| cache::existing(record, id)) else { return false };
    let Some((span, scaled_class)) = page_map::blocks_of(pointer as usize) else { return false };
    if !span.is_of(id) {
        return false;
    }
    let Some(index) = span.index_of(pointer as usize) else { return false };
    let block = span.slot(index);
    let value = block.load(Relaxed);
    if !slot::is_plainly_live(value) {
        return false;
    }
    let once = span.once_sized(value);
    let magazine = cache.magazine_at(scaled_class);
    let Some(place) = magazine.place() else { return false };
    if !cache.tally.quick_free(once) {
        return false;
    }
    magazine.fill(place, Entry::new(pointer, block, value));
    block.store(magazine.tag.get(), Relaxed);
    true
}
