//! The fast paths: a hit in the calling thread's cache, and nothing else.
//!
//! No locks, no calls, no failure: whatever is unusual gives `None` or `false` with nothing changed, and the caller
//! goes on to slow.rs. They need only the heap's id, so that a table's functions reach the cache in two loads.
//!
//! What an allocation costs at least: the thread's record, its cache, the magazine's top, the entry and the slot, each
//! load waiting for the one before; a free waits for the page map's root and leaf, the span and the slot.
use super::cache::{self, Entry, UNPUBLISHED};
use super::size_class::{FIRST_SINGLE, quick_class_of};
use super::{page_map, slot, span_of_block};
use crate::os::thread;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

/// Allocates from the calling thread's cache of the heap with `id`.
#[inline(always)]
pub fn allocate(id: usize, size: usize, alignment: usize) -> Option<NonNull<u8>> {
    let cache = cache::existing(thread::existing()?, id)?;
    // A cache line, or what malloc promises. A size of 0, or one so large that the sum wraps, gives room 0 or a
    // size above the room, and is left to the slow path.
    let room = if alignment & !64 == 0 {
        size.wrapping_add(cache.prefix + 63) & !63
    } else if alignment == 16 && cache.prefix == 0 {
        size
    } else {
        return None;
    };
    if room > cache.quick_limit || size.wrapping_sub(1) >= room {
        return None;
    }
    let class = quick_class_of(room);
    let delta = cache.delta.load(Relaxed) + size as isize;
    if class >= FIRST_SINGLE || delta > UNPUBLISHED {
        return None;
    }
    let magazine = cache.magazine(class);
    let top = magazine.top.get();
    if top == magazine.base.get() {
        return None;
    }
    // SAFETY: entries below the top are initialised.
    let entry = unsafe { *top.sub(1) };
    let live = (magazine.full_slack.get() as usize).wrapping_sub(size) as u16;
    if !slot::claim(entry.slot(), magazine.tag.get(), live) {
        return None;
    }
    magazine.top.set(top.wrapping_sub(1));
    cache.count_hit(size, delta);
    // SAFETY: no block is at address 0.
    Some(unsafe { NonNull::new_unchecked(entry.pointer) })
}

/// The same for the classes whose blocks have a span each, at the usual alignment. What [`allocate`] leaves over is
/// tried here next: one call more, still without a lock.
pub fn allocate_single(id: usize, size: usize, alignment: usize) -> Option<NonNull<u8>> {
    let cache = cache::existing(thread::existing()?, id)?;
    let room = size.wrapping_add(cache.prefix + 63) & !63;
    if alignment & !64 != 0 || room > cache.quick_limit || size.wrapping_sub(1) >= room {
        return None;
    }
    let class = quick_class_of(room);
    let delta = cache.delta.load(Relaxed) + size as isize;
    if class < FIRST_SINGLE || delta > UNPUBLISHED {
        return None;
    }
    let magazine = cache.magazine(class);
    let entry = magazine.top()?;
    if !slot::claim(entry.slot(), magazine.tag.get(), slot::LIVE) {
        return None;
    }
    magazine.pop();
    span_of_block(entry.pointer).note_request(size);
    cache.count_hit(size, delta);
    NonNull::new(entry.pointer)
}

/// Frees into the calling thread's cache of the heap with `id`. False: not done, for whatever reason.
#[inline(always)]
pub fn free(id: usize, pointer: *mut u8) -> bool {
    let Some(cache) = thread::existing().and_then(|record| cache::existing(record, id)) else { return false };
    let Some((span, class)) = page_map::blocks_of(pointer as usize) else { return false };
    let Some(index) = span.index_of(pointer as usize) else { return false };
    let block = span.slot(index);
    let value = block.load(Relaxed);
    if !slot::is_plainly_live(value) || span.heap_id() != id {
        return false;
    }
    let size = span.usable.load(Relaxed) as usize + slot::LIVE as usize - value as usize;
    let delta = cache.delta.load(Relaxed) - size as isize;
    if delta < -UNPUBLISHED {
        return false;
    }
    let magazine = cache.magazine(class);
    if !magazine.push(Entry::new(pointer, block, value)) {
        return false;
    }
    block.store(magazine.tag.get(), Relaxed);
    cache.count_quick_free(delta);
    true
}
