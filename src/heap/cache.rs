//! Thread caches: each thread's blocks of each heap, and its share of the heap's statistics.
//!
//! A cache holds one *magazine* for each size class: a stack of free blocks with their slots, so that a hit touches neither
//! the block nor its span.
//!
//! - Only the owning thread pushes and pops. Everyone else may read the counters, so these are atomic, but no instruction on
//!   them is locked.
//! - A cache is found through the thread's record, by the heap's id. The table in the record, and the caches in it, are made
//!   and dissolved under the lock of [`super::registry`].
use super::central::Central;
use super::front::Front;
use super::magazine::{Entry, Magazine};
use super::size_class::{
    CLASS_SCALE, CLASSES, DEFAULT_ALIGNMENT, FIRST_SINGLE, MAX_QUICK, MAX_QUICK_SHARED, SHAPES,
};
use super::statistics::Counts;
use super::tally::{Seen, Tally};
use super::{Heap, page_map, slot};
use crate::os::records;
use crate::os::thread::{NEAR, Record, SENTINEL_BYTES, sentinel};
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicUsize, Ordering::Relaxed};

/// A size plus this, rounded down to whole cache lines, is the room that a block of that size needs behind that prefix.
pub(super) const fn prefix_and_rounding(prefix: usize) -> usize {
    prefix + DEFAULT_ALIGNMENT - 1
}

/// Two magazines share a cache line.
#[repr(C, align(64))]
struct Magazines([Magazine; CLASSES]);
const _: () = assert!(size_of::<Magazine>() == CLASS_SCALE);
// The sentinel's zero bytes are a cache that serves nothing.
const _: () = assert!(size_of::<ThreadCache>() <= SENTINEL_BYTES);

/// One thread's part of one heap.
///
/// What hits read and write lies within the first 128 bytes, where the processor's instructions reach it with a byte of
/// distance. But a cache lies at the start of a page, and programs often store to multiples of 64, because blocks begin there.
/// So a hit reads nothing at such a place: see [`Span`](super::span::Span) about 4 KiB aliasing.
#[repr(C, align(64))]
pub struct ThreadCache {
    /// The next cache in the heap's list; under the heap's lock.
    pub next: Cell<*mut ThreadCache>,
    /// Largest size that [`super::fast::allocate`] serves. It is never above the largest size asked for so far, so a hit
    /// need not note its size in `largest`.
    pub(super) quick_size: AtomicUsize,
    /// [`prefix_and_rounding`] for the heap's prefix.
    pub(super) prefix_and_rounding: usize,
    pub(super) front: Front,
    pub(super) tally: Tally,
    largest: AtomicUsize,
    /// Largest room that fast.rs may serve; 0 if the heap's alignment is unusual or the cache is not one thread's own.
    pub(super) quick_limit: usize,
    /// The thread's record; null for the cache that threads without a record share.
    pub record: *const Record,
    /// The heap.
    pub heap: *const Heap,
    /// How many of the bytes allocated are covered by samples of the recording with the number `sampled_in` (recorded.rs).
    pub(super) sampled: Cell<usize>,
    magazines: Magazines,
    /// Number of the recording that `sampled` belongs to.
    pub(super) sampled_in: Cell<u32>,
    /// The slot of `ground`, which stays free.
    no_block: AtomicU16,
    /// The ground entry of all magazines that have no array yet.
    ground: Cell<Entry>,
    /// Value of the heap's `caches_wanted` when the thread last looked at it (slow.rs).
    pub(super) wanted_seen: Cell<u32>,
    /// Slow calls of the thread so far (slow.rs).
    pub(super) slow_calls: Cell<u32>,
}

impl ThreadCache {
    /// Makes a cache of `heap` for the thread of `record`. None when memory is short.
    pub fn make(heap: &Heap, record: *const Record) -> Option<NonNull<ThreadCache>> {
        let cache = records::allocate(size_of::<ThreadCache>())?.cast::<ThreadCache>();
        let usual = heap.alignment.load(Relaxed) == DEFAULT_ALIGNMENT;
        // SAFETY: the record is fresh and ours alone. Zero bytes are a valid empty cache, but for the fields that are set
        // here.
        unsafe {
            let made = &mut *cache.as_ptr();
            made.tally = Tally::default();
            made.record = record;
            made.heap = heap;
            made.wanted_seen.set(heap.caches_wanted.load(Relaxed));
            made.prefix_and_rounding = prefix_and_rounding(heap.prefix());
            made.quick_limit = if usual && !record.is_null() { MAX_QUICK } else { 0 };
            static MADE: AtomicU32 = AtomicU32::new(0);
            let number = MADE.fetch_add(1, Relaxed) as usize * CLASSES;
            let no_block: *const AtomicU16 = &made.no_block;
            made.ground.set(Entry::ground(&*no_block));
            made.front.begin(&*no_block);
            for (class, (magazine, shape)) in made.magazines.0.iter().zip(&SHAPES).enumerate() {
                let usable = shape.stride.wrapping_sub(heap.prefix() as u32);
                let zero_size_value = slot::LIVE.wrapping_add(usable as u16);
                magazine.begin(made.ground.as_ptr(), slot::tag(number + class), zero_size_value);
            }
        }
        Some(cache)
    }
    /// Gives its memory back.
    ///
    /// # Safety
    /// `cache` came from [`ThreadCache::make`], its magazines are empty or their blocks are gone with their heap, and
    /// nothing refers to it any more.
    pub unsafe fn release(cache: NonNull<ThreadCache>) {
        // SAFETY: exclusive by the caller's promise.
        unsafe {
            for magazine in &cache.as_ref().magazines.0 {
                magazine.end();
            }
            records::release(cache.cast(), size_of::<ThreadCache>());
        }
    }
    /// The magazine of `class`.
    #[inline(always)]
    pub fn magazine(&self, class: usize) -> &Magazine {
        debug_assert!(class < CLASSES);
        // SAFETY: `class` comes from the tables of size_class.rs, directly or through a span's record, so it is below
        // `CLASSES`.
        unsafe { self.magazines.0.get_unchecked(class) }
    }
    /// The magazine of a scaled class (see [`CLASS_SCALE`]).
    #[inline(always)]
    pub fn magazine_at(&self, scaled_class: usize) -> &Magazine {
        debug_assert!(scaled_class < CLASSES * CLASS_SCALE);
        // SAFETY: as in `magazine`. A scaled class is the magazine's distance in bytes, as the scale is the size of a
        // magazine.
        unsafe { &*self.magazines.0.as_ptr().byte_add(scaled_class) }
    }
    /// All magazines, in the order of their classes.
    pub fn magazines(&self) -> &[Magazine] {
        &self.magazines.0
    }
    /// Bytes of the blocks in all magazines.
    pub fn bytes(&self) -> usize {
        self.magazines()
            .iter()
            .zip(&SHAPES)
            .map(|(magazine, shape)| magazine.length() * shape.stride as usize)
            .sum()
    }
    /// Whether the heap has no prefix, so that a block's room is just its size, rounded up.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.prefix_and_rounding == prefix_and_rounding(0)
    }
    /// Counts an allocation of `size` bytes.
    pub fn count_allocation(&self, heap: &Heap, size: usize, hit: bool) {
        self.tally.allocation(heap, size, hit);
        self.note_largest(size);
    }
    /// Drops an entry of `class`. Two threads freed its block at the same moment, and the free that made this entry is now
    /// refused after all.
    #[cold]
    pub fn refuse(&self, heap: &Heap, class: usize, entry: Entry) {
        let size = match (entry.value(), class < FIRST_SINGLE) {
            // The entry came from the span. The free that was one too many was another one, of a size that nobody knows.
            (0, _) => 0,
            (value, true) => (self.magazine(class).labels().zero_size_value() - value) as usize,
            (value, false) => page_map::span_of(entry.pointer as usize)
                .map_or(0, |span| super::central::requested_size(span, value)),
        };
        self.tally.refuse(heap, size);
        // SAFETY: null, or a heap record, which is never unmapped.
        if let Some(whole) = unsafe { heap.counted_in.load(Relaxed).as_ref() } {
            // Not through this thread's tally of that heap: finding its cache there may take the registry's lock, which has
            // to be taken before the heap's lock that is held here.
            whole.counters.live.fetch_add(size as isize, Relaxed);
            whole.counters.refused_in_parts.fetch_add(1, Relaxed);
        }
        heap.count_refused();
    }
    /// Says that `size` bytes that were counted as allocated are no block of the heap, so that they count for no sample.
    pub fn pass_over(&self, size: usize) {
        self.sampled.set(self.sampled.get().wrapping_add(size));
    }
    /// Counts that a block of `old` bytes now has `new`.
    pub fn resize(&self, heap: &Heap, old: usize, new: usize) {
        self.tally.change(heap, new, old);
        self.note_largest(new);
    }
    /// Largest size asked for since creation or reset.
    pub(super) fn largest(&self) -> usize {
        self.largest.load(Relaxed)
    }
    fn note_largest(&self, size: usize) {
        if size > self.largest.load(Relaxed) {
            self.largest.store(size, Relaxed);
            if self.quick_limit > 0 {
                let most = MAX_QUICK_SHARED - (self.prefix_and_rounding - prefix_and_rounding(0));
                self.quick_size.store(size.min(most), Relaxed);
            }
        }
    }
    /// Forgets peak and largest size so far.
    pub fn reset(&self) {
        self.tally.reset_peak();
        self.largest.store(0, Relaxed);
        self.quick_size.store(0, Relaxed);
    }
    /// Counts so far.
    pub fn counts(&self) -> Counts {
        self.look().counts
    }
    /// Counts so far, and what is not published yet.
    pub(super) fn look(&self) -> Seen {
        let mut seen = self.tally.look();
        seen.counts.largest = self.largest.load(Relaxed);
        seen
    }
}

/// Adds the figures of a cache that is about to end to its heap's.
pub fn retire(cache: &ThreadCache, heap: &Heap, central: &mut Central) {
    cache.tally.publish(heap);
    central.retired.add(cache.counts());
}

/// The entry of `record` for its cache of the heap with `id`. None: the record has no entry for that id.
fn entry(record: &Record, id: usize) -> Option<&AtomicPtr<u8>> {
    if let Some(near) = record.near.get(id) {
        return Some(near);
    }
    if id - NEAR >= record.far_capacity.load(Relaxed) as usize {
        return None;
    }
    // SAFETY: the table has `far_capacity` entries, and the index is below that.
    Some(unsafe { &*record.far.load(Relaxed).add(id - NEAR) })
}

/// This thread's cache of the heap with `id`. None if the id is not below [`NEAR`]. If the thread has no such cache this is
/// the sentinel, whose zero bytes are a cache without blocks or room.
#[inline(always)]
pub fn near(record: &Record, id: usize) -> Option<&'static ThreadCache> {
    let cache = record.near.get(id)?.load(Relaxed);
    // SAFETY: an entry points at the sentinel, or at a cache that lives until its heap or this thread ends.
    Some(unsafe { &*cache.cast::<ThreadCache>() })
}
/// This thread's cache of the heap with `id`, whatever the id; the sentinel if there is none.
pub fn anywhere(record: &Record, id: usize) -> &'static ThreadCache {
    let cache = entry(record, id).map_or(sentinel(), |entry| entry.load(Relaxed));
    // SAFETY: as in `near`.
    unsafe { &*cache.cast::<ThreadCache>() }
}
/// This thread's cache of the heap with `id`, if it has one.
pub fn existing(record: &Record, id: usize) -> Option<&'static ThreadCache> {
    Some(anywhere(record, id)).filter(|cache| !core::ptr::eq(*cache, sentinel().cast()))
}

/// Ids that `record` may hold caches for.
pub fn ids(record: &Record) -> core::ops::Range<usize> {
    0..NEAR + record.far_capacity.load(Relaxed) as usize
}

/// Makes an entry for `id` in `record`. False when memory is short. The caller is the record's own thread and holds the
/// registry's lock.
pub fn make_entry(record: &Record, id: usize) -> bool {
    if entry(record, id).is_some() {
        return true;
    }
    let capacity = record.far_capacity.load(Relaxed) as usize;
    let grown = (id - NEAR + 1).next_power_of_two().max(64);
    let Some(table) = records::allocate(grown * size_of::<AtomicPtr<u8>>()) else { return false };
    let table = table.cast::<AtomicPtr<u8>>();
    let old = record.far.load(Relaxed);
    // SAFETY: the new table is larger than the old one, and its zero bytes are valid entries. The old one has `capacity`
    // entries. Nobody else reads it while the lock is held, and its own thread is here.
    unsafe {
        let entries = core::slice::from_raw_parts(table.as_ptr(), grown);
        entries.iter().for_each(|entry| entry.store(sentinel(), Relaxed));
        if let Some(old) = NonNull::new(old) {
            core::ptr::copy_nonoverlapping(old.as_ptr(), table.as_ptr(), capacity);
            records::release(old.cast(), capacity * size_of::<AtomicPtr<u8>>());
        }
    }
    record.far.store(table.as_ptr(), Relaxed);
    record.far_capacity.store(grown as u32, Relaxed);
    true
}

/// Sets the cache of the heap with `id`, or that there is none. The entry exists, and the registry's lock is held.
pub fn set(record: &Record, id: usize, cache: Option<NonNull<ThreadCache>>) {
    if let Some(entry) = entry(record, id) {
        entry.store(cache.map_or(sentinel(), |cache| cache.as_ptr().cast()), Relaxed);
    }
}

/// Gives back the table of a record. The registry's lock is held, and all entries are empty.
pub fn release_table(record: &Record) {
    let capacity = record.far_capacity.swap(0, Relaxed) as usize;
    if let Some(table) = NonNull::new(record.far.swap(null_mut(), Relaxed)) {
        // SAFETY: `make_entry` made the table with that capacity. The thread is ending, so nobody reads it any more.
        unsafe { records::release(table.cast(), capacity * size_of::<AtomicPtr<u8>>()) };
    }
}
