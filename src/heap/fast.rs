//! The fast paths: a hit in the calling thread's cache, and nothing else.
//!
//! A fast path takes no lock and cannot fail; those of allocation and free make no call. Whatever is unusual makes it return
//! `None` or `false` with nothing changed, and the caller goes on to slow.rs. It needs only the heap's id, so the functions of
//! an instance's table reach the cache in two loads.
//!
//! A cache has one block in front of its magazines (front.rs). If that does not serve the call, the least cost is a chain of
//! loads, each of which waits for the one before:
//! - for an allocation: the thread's record, its cache, the magazine's top, the entry and the slot;
//! - for a free: the page map's root and leaf, the span and the slot.
use super::cache::{self, ThreadCache};
use super::front::Freed;
use super::magazine::{Entry, Labels, Magazine};
use super::size_class::{
    CLASS_SCALE, DEFAULT_ALIGNMENT, FIRST_SINGLE, SHAPES, SHARED, quick_class_of, quick_scaled_class_of,
    quick_scaled_class_of_lines,
};
use super::span::{ALL, Span};
use super::{page_map, resize, slot, span_of_block};
use crate::os::thread;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// An id that no heap has.
pub const NO_HEAP: usize = usize::MAX >> 1;
/// The alignment that malloc promises, which blocks have that need not begin with a cache line.
const PACKED_ALIGNMENT: usize = 16;

/// Whether [`allocate`] serves this alignment: 0 and 64 only, as the blocks it gives out begin with a cache line anyway.
#[inline(always)]
pub fn is_usual(alignment: usize) -> bool {
    alignment & !DEFAULT_ALIGNMENT == 0
}
/// Whether [`allocate_packed`] serves this alignment: those of C's types.
#[inline(always)]
pub fn is_packed(alignment: usize) -> bool {
    alignment <= PACKED_ALIGNMENT && alignment.is_power_of_two()
}

/// Allocates from the calling thread's cache of the heap with `id`, at the usual alignment. `prefix` is the number of bytes
/// before each of the heap's blocks, if the caller knows it.
#[inline(always)]
pub fn allocate(id: usize, prefix: Option<usize>, size: usize) -> Option<NonNull<u8>> {
    let cache = cache::near(thread::existing()?, id)?;
    let prefix_and_rounding = prefix.map_or(cache.prefix_and_rounding, cache::prefix_and_rounding);
    shared(cache, size, || quick_scaled_class_of_lines(size.wrapping_add(prefix_and_rounding)))
}
/// Allocates at malloc's alignment or a lower one, from a heap without a prefix.
#[inline(always)]
pub fn allocate_packed(id: usize, size: usize) -> Option<NonNull<u8>> {
    shared(cache::near(thread::existing()?, id)?, size, || quick_scaled_class_of(size))
}
#[inline(always)]
fn shared(cache: &ThreadCache, size: usize, scaled_class: impl FnOnce() -> usize) -> Option<NonNull<u8>> {
    // A size of 0 wraps around to the largest number, so it is left to the slow path.
    if size.wrapping_sub(1) >= cache.quick_size.load(Relaxed) {
        return None;
    }
    let scaled_class = scaled_class();
    if cache.front.holds(scaled_class) {
        return cache.front.give(&cache.tally, size);
    }
    let magazine = cache.magazine_at(scaled_class);
    let taken = take(cache, magazine, size)?;
    taken.slot.store(taken.labels.zero_size_value().wrapping_sub(size as u16), Relaxed);
    // SAFETY: taken just now, and no block is at address 0.
    Some(unsafe { NonNull::new_unchecked(taken.entry.as_ref().pointer) })
}

/// A block taken out of a magazine: its entry, which has not been overwritten yet, its slot, and the labels from which the
/// caller computes what the slot is to hold.
struct Taken {
    entry: NonNull<Entry>,
    slot: &'static AtomicU16,
    labels: Labels,
}

/// Takes a block out of a magazine and counts a hit of `size` bytes. The caller stores the live value into the slot; the two
/// steps together are [`slot::claim`].
#[inline(always)]
fn take(cache: &ThreadCache, magazine: &Magazine, size: usize) -> Option<Taken> {
    take_if(magazine, || cache.tally.hit(size))
}
/// Takes a block out of a magazine, if `counted`, which is asked only when there is one.
#[inline(always)]
fn take_if(magazine: &Magazine, counted: impl FnOnce() -> bool) -> Option<Taken> {
    // SAFETY: all entries below the top are initialised, down to the ground entry, whose slot never holds a magazine's tag.
    let entry = unsafe { NonNull::new_unchecked(magazine.top.get().sub(1)) };
    // SAFETY: the entry is initialised, as above. The caller reads its pointer later, when registers are free again.
    let slot = unsafe { entry.as_ref() }.slot();
    let labels = magazine.labels();
    if slot.load(Relaxed) != labels.tag() || !counted() {
        return None;
    }
    magazine.top.set(entry.as_ptr());
    Some(Taken { entry, slot, labels })
}

/// Tries what [`allocate`] leaves over, at the cost of one more call and still without a lock. It serves:
/// - heaps with ids from [`thread::NEAR`] on;
/// - classes whose blocks have a span each;
/// - all alignments up to a cache line.
///
/// `zeroed` says that the span is to remember how much of its only block was written to, for
/// [`Span::take_written`](super::span::Span::take_written).
pub fn allocate_other(id: usize, size: usize, alignment: usize, zeroed: bool) -> Option<NonNull<u8>> {
    let cache = cache::anywhere(thread::existing()?, id);
    let room = if is_packed(alignment) && cache.is_plain() {
        size
    } else if alignment <= DEFAULT_ALIGNMENT && alignment & alignment.wrapping_sub(1) == 0 {
        size.wrapping_add(cache.prefix_and_rounding) & !(DEFAULT_ALIGNMENT - 1)
    } else {
        return None;
    };
    if room > cache.quick_limit || size.wrapping_sub(1) >= room || size > cache.largest() {
        return None;
    }
    let class = quick_class_of(room);
    if class < FIRST_SINGLE {
        return shared(cache, size, || class * CLASS_SCALE);
    }
    let (pointer, slot, span) = if cache.front.holds(class * CLASS_SCALE) {
        cache.front.give_only(&cache.tally, size)?
    } else {
        let taken = take(cache, cache.magazine(class), size)?;
        // SAFETY: the entry was taken just now and has not been overwritten.
        let pointer = unsafe { taken.entry.as_ref() }.pointer;
        (NonNull::new(pointer)?, taken.slot, span_of_block(pointer))
    };
    span.note_request(size);
    if !zeroed {
        span.set_written(ALL);
    }
    slot.store(slot::LIVE, Relaxed);
    Some(pointer)
}

/// A live block: its span, scaled class, index in the span, and its slot with the value that was there.
struct Live {
    span: &'static Span,
    scaled_class: usize,
    index: usize,
    slot: &'static AtomicU16,
    value: u16,
}
/// The plain live block of the heap with `id` that starts at `pointer`, if it is one of a class.
#[inline(always)]
fn plain_block(id: usize, pointer: *const u8) -> Option<Live> {
    let (span, scaled_class) = page_map::blocks_of(pointer as usize)?;
    if !span.is_of(id) {
        return None;
    }
    let index = span.index_of(pointer as usize)?;
    let slot = span.slot(index);
    let value = slot.load(Relaxed);
    slot::is_plainly_live(value).then_some(Live { span, scaled_class, index, slot, value })
}

/// Frees into the calling thread's cache of the heap with `id`. False: nothing was done, and a slow path has to find out
/// why.
#[inline(always)]
pub fn free(id: usize, pointer: *mut u8) -> bool {
    let near = thread::existing().and_then(|record| cache::near(record, id));
    let Some(cache) = near else { return false };
    free_into(cache, id, pointer)
}
/// Tries what [`free`] leaves over, for heaps with ids from [`thread::NEAR`] on, which have no other quick path.
pub fn free_other(id: usize, pointer: *mut u8) -> bool {
    let record = thread::existing().filter(|_| id >= thread::NEAR);
    record.is_some_and(|record| free_into(cache::anywhere(record, id), id, pointer))
}
#[inline(always)]
fn free_into(cache: &ThreadCache, id: usize, pointer: *mut u8) -> bool {
    match cache.front.free(&cache.tally, pointer) {
        Freed::Yes => return true,
        Freed::Slowly => return false,
        Freed::Unknown => {}
    }
    let Some(Live { span, scaled_class, slot: block, value, .. }) = plain_block(id, pointer) else {
        return false;
    };
    let counted = span.counted_size(value);
    let magazine = cache.magazine_at(scaled_class);
    let Some(place) = magazine.place() else { return false };
    if !cache.tally.quick_free(counted) {
        return false;
    }
    let entry = Entry::new(pointer, block, value);
    if cache.front.has_room(scaled_class) {
        keep_in_front(cache, entry, scaled_class);
        return true;
    }
    magazine.fill(place, entry);
    block.store(magazine.tag(), Relaxed);
    true
}
/// The end of a free into an empty front. It is a function of its own so that the usual free needs fewer registers. It is
/// `extern "C"` because such a function does not unwind, which lets the compiler turn the call into a jump.
///
/// It looks the span up again, and that may be another one by now: if a second thread freed the block too, the span that the
/// free found may have ended. The rule is that the front remembers a block only together with a span that has this block, with
/// this slot, in this class and heap, all the time from before that was read until now, and it is in the same service as long
/// as the front counts on it. Any other entry goes to the magazine, where it is good for one allocation at most (slot.rs).
#[inline(never)]
pub(super) extern "C" fn keep_in_front(cache: &ThreadCache, entry: Entry, scaled_class: usize) {
    let magazine = cache.magazine_at(scaled_class);
    let address = entry.pointer as usize;
    let span = page_map::span_of(address);
    let service = span.and_then(|span| {
        span.service_if(|| {
            span.heap().is_some_and(|heap| core::ptr::eq(heap, cache.heap))
                && span.class() as usize * CLASS_SCALE == scaled_class
                && span.index_of(address).is_some_and(|index| entry.has_slot(span.slot(index)))
        })
    });
    match span.zip(service) {
        Some((span, service)) => cache.front.keep(span, service, entry, scaled_class, magazine.labels()),
        None => _ = magazine.push(entry),
    }
    entry.slot().store(magazine.tag(), Relaxed);
}

/// Changes the size of a plain block of a shared class, in a heap without a prefix: within its room, or by a copy into a block
/// that the calling thread has cached. It comes to what [`Heap::reallocate`](super::Heap::reallocate) would do.
pub fn reallocate(id: usize, pointer: *mut u8, size: usize) -> Option<NonNull<u8>> {
    let cache = cache::near(thread::existing()?, id).filter(|cache| cache.is_plain())?;
    let Live { span, scaled_class, index, slot: block, value } = plain_block(id, pointer)?;
    let class = scaled_class / CLASS_SCALE;
    if size.wrapping_sub(1) >= cache.quick_size.load(Relaxed) || class >= SHARED {
        return None;
    }
    // SAFETY: a heap's record is never unmapped.
    let heap = unsafe { &*cache.heap };
    // As in debug mode, where blocks have guards.
    if heap.cache_blocks.load(Relaxed) == 0 {
        return None;
    }
    let capacity = SHAPES[class].stride as usize;
    let before = capacity.checked_sub((value - slot::LIVE) as usize)?;
    let resized = if resize::stays_in_room(size, capacity) {
        heap.set_size_in_room(span, index, pointer, value, (capacity - size) as u16).then_some(pointer)
    } else if heap.caches_wanted.load(Relaxed) != cache.wanted_seen.get() {
        return None; // the slow path puts back what this thread caches
    } else {
        replace(cache, Entry::new(pointer, block, value), class, before, size)
    }?;
    cache.resize(heap, before, size);
    NonNull::new(resized)
}
/// Copies a live block of `before` bytes into a cached one of `size`, and puts it into its magazine. Counts nothing.
fn replace(cache: &ThreadCache, old: Entry, class: usize, before: usize, size: usize) -> Option<*mut u8> {
    let new_class = match SHAPES[class].alignment as usize {
        DEFAULT_ALIGNMENT => quick_scaled_class_of_lines(size + DEFAULT_ALIGNMENT - 1),
        _ => quick_scaled_class_of(size),
    };
    let (magazine, old_magazine) = (cache.magazine_at(new_class), cache.magazine(class));
    let taken = take_if(magazine, || true)?;
    // SAFETY: the entry was taken just now and has not been overwritten.
    let entry = unsafe { *taken.entry.as_ref() };
    taken.slot.store(taken.labels.zero_size_value().wrapping_sub(size as u16), Relaxed);
    let put_away = old_magazine.place().is_some_and(|place| {
        // SAFETY: both blocks are live, different, and at least that long.
        unsafe { core::ptr::copy_nonoverlapping(old.pointer, entry.pointer, size.min(before)) };
        let surrendered = slot::surrender(old.slot(), old.value(), old_magazine.tag());
        if surrendered {
            old_magazine.fill(place, old);
        }
        surrendered
    });
    if !put_away {
        taken.slot.store(taken.labels.tag(), Relaxed);
        magazine.fill(taken.entry, entry);
        return None;
    }
    Some(entry.pointer)
}
