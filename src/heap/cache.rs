//! Thread caches: each thread's blocks of each heap, and its share of the heap's statistics.
//!
//! A cache holds one *magazine* a size class: a stack of free blocks with their slots, so that a hit touches neither
//! the block nor its span. Only the owning thread pushes and pops. Everyone else may read the counters, which are
//! therefore atomic, though never locked. Caches are found through the thread's record, by the heap's id; the table
//! of a record and the caches in it are made and dissolved under [`super::registry`]'s lock.
use super::size_class::{CLASSES, SHAPES};
use super::{Heap, span::slot};
use crate::os::{records, thread::Record};
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU16, AtomicUsize, Ordering::Relaxed};

/// Net bytes a thread may have allocated or freed before it tells the heap.
const UNPUBLISHED: isize = 64 << 10;
/// Bytes of blocks a magazine may hold, while it holds at least [`LEAST_BLOCKS`].
const MAGAZINE_BYTES: usize = 32 << 10;
const LEAST_BLOCKS: usize = 8;
/// Bytes of blocks a magazine of large blocks may hold.
const MOST_BYTES: usize = 512 << 10;
/// Blocks a magazine holds when nothing was configured, and at most.
pub const DEFAULT_BLOCKS: usize = 256;

/// A free block and its slot.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Where the block begins.
    pub pointer: *mut u8,
    /// Its slot.
    pub slot: *const AtomicU16,
}

/// A stack of free blocks of one size class.
pub struct Magazine {
    length: Cell<u32>,
    capacity: Cell<u32>,
    entries: Cell<*mut Entry>,
}

/// One thread's part of one heap.
#[repr(C)]
pub struct ThreadCache {
    /// Net bytes allocated since the last publication.
    delta: AtomicIsize,
    /// Highest `delta` since then.
    delta_peak: AtomicIsize,
    largest: AtomicUsize,
    hits: AtomicUsize,
    misses: AtomicUsize,
    frees: AtomicUsize,
    magazines: [Magazine; CLASSES],
    /// The heap's list of caches, under its lock.
    pub next: Cell<*mut ThreadCache>,
    /// The thread's record; null for the cache that threads without a record share.
    pub record: *const Record,
    /// The heap.
    pub heap: *const Heap,
}

fn bump(counter: &AtomicUsize) {
    // A plain add: only the owning thread writes.
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

impl Magazine {
    /// Takes the block freed last.
    #[inline(always)]
    pub fn pop(&self) -> Option<Entry> {
        let length = self.length.get().checked_sub(1)?;
        self.length.set(length);
        // SAFETY: below the length entries are initialised.
        Some(unsafe { *self.entries.get().add(length as usize) })
    }
    /// Puts a block in; false when there is no room.
    #[inline(always)]
    pub fn push(&self, entry: Entry) -> bool {
        let length = self.length.get();
        if length == self.capacity.get() {
            return false;
        }
        // SAFETY: below the capacity.
        unsafe { self.entries.get().add(length as usize).write(entry) };
        self.length.set(length + 1);
        true
    }
    /// Free blocks in it.
    pub fn length(&self) -> usize {
        self.length.get() as usize
    }
    /// Blocks it may hold.
    pub fn capacity(&self) -> usize {
        self.capacity.get() as usize
    }
    /// Whether it has room, after making room for the first time if need be. False when it is full, when blocks of
    /// the class are not cached, or when memory is short.
    pub fn has_room(&self, class: usize, blocks: usize) -> bool {
        if self.capacity.get() == 0 {
            let stride = SHAPES[class].stride as usize;
            let capacity =
                (MAGAZINE_BYTES / stride).max(LEAST_BLOCKS.min(MOST_BYTES / stride).max(1)).min(blocks);
            let Some(entries) = records::allocate(capacity * size_of::<Entry>()).filter(|_| capacity > 0)
            else {
                return false;
            };
            self.entries.set(entries.as_ptr().cast());
            self.capacity.set(capacity as u32);
        }
        self.length.get() < self.capacity.get()
    }
    /// Turns the order around.
    pub fn reverse(&self) {
        // SAFETY: below the length entries are initialised, and only this thread reaches them. A magazine without
        // entries has length 0 and no memory.
        if self.length.get() > 1 {
            unsafe { core::slice::from_raw_parts_mut(self.entries.get(), self.length()) }.reverse();
        }
    }
    /// Takes out the `count` oldest blocks, and gives them to `each`.
    pub fn drain_oldest(&self, count: usize, mut each: impl FnMut(Entry)) {
        let length = self.length();
        let count = count.min(length);
        // SAFETY: below the length entries are initialised; the rest moves down to the bottom.
        unsafe {
            let entries = self.entries.get();
            for i in 0..count {
                each(*entries.add(i));
            }
            if count < length {
                core::ptr::copy(entries.add(count), entries, length - count);
            }
        }
        self.length.set((length - count) as u32);
    }
}

impl ThreadCache {
    /// A cache of `heap` for the thread of `record`. None when memory is short.
    pub fn make(heap: *const Heap, record: *const Record) -> Option<NonNull<ThreadCache>> {
        let cache = records::allocate(size_of::<ThreadCache>())?.cast::<ThreadCache>();
        // SAFETY: fresh and ours; zero bytes are a valid empty cache but for these two.
        unsafe {
            (&raw mut (*cache.as_ptr()).record).write(record);
            (&raw mut (*cache.as_ptr()).heap).write(heap);
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
            for magazine in &cache.as_ref().magazines {
                if let Some(entries) = NonNull::new(magazine.entries.get()) {
                    records::release(entries.cast(), magazine.capacity() * size_of::<Entry>());
                }
            }
            records::release(cache.cast(), size_of::<ThreadCache>());
        }
    }
    /// The magazine of `class`.
    #[inline(always)]
    pub fn magazine(&self, class: usize) -> &Magazine {
        &self.magazines[class]
    }
    /// All magazines, in the order of their classes.
    pub fn magazines(&self) -> &[Magazine] {
        &self.magazines
    }
    /// Counts an allocation of `size` bytes.
    #[inline(always)]
    pub fn count_allocation(&self, heap: &Heap, size: usize, hit: bool) {
        bump(if hit { &self.hits } else { &self.misses });
        if size > self.largest.load(Relaxed) {
            self.largest.store(size, Relaxed);
        }
        self.grow(heap, size as isize);
    }
    /// Counts a free of a block of `size` bytes.
    #[inline(always)]
    pub fn count_free(&self, heap: &Heap, size: usize) {
        bump(&self.frees);
        self.grow(heap, -(size as isize));
    }
    /// Counts that a block of `old` bytes now has `new`.
    pub fn resize(&self, heap: &Heap, old: usize, new: usize) {
        if new > self.largest.load(Relaxed) {
            self.largest.store(new, Relaxed);
        }
        self.grow(heap, new as isize - old as isize);
    }
    /// Counts that live bytes changed by `bytes`.
    #[inline(always)]
    pub fn grow(&self, heap: &Heap, bytes: isize) {
        let delta = self.delta.load(Relaxed) + bytes;
        self.delta.store(delta, Relaxed);
        if delta > self.delta_peak.load(Relaxed) {
            self.delta_peak.store(delta, Relaxed);
        }
        if delta.unsigned_abs() > UNPUBLISHED as usize {
            self.publish(heap);
        }
    }
    /// Adds what is unpublished to the heap's live bytes and raises its peak.
    #[cold]
    pub fn publish(&self, heap: &Heap) {
        let delta = self.delta.load(Relaxed);
        let before = heap.counters.live.fetch_add(delta, Relaxed);
        heap.counters.raise_peak(before + self.delta_peak.load(Relaxed));
        self.delta.store(0, Relaxed);
        self.delta_peak.store(0, Relaxed);
    }
    /// Unpublished net bytes and their peak.
    pub fn unpublished(&self) -> (isize, isize) {
        (self.delta.load(Relaxed), self.delta_peak.load(Relaxed))
    }
    /// Forgets the peak so far.
    pub fn reset_peak(&self) {
        self.delta_peak.store(self.delta.load(Relaxed), Relaxed);
        self.largest.store(0, Relaxed);
    }
    /// Counts so far.
    pub fn counts(&self) -> Counts {
        Counts {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            frees: self.frees.load(Relaxed),
            largest: self.largest.load(Relaxed),
        }
    }
}

/// Counts of a cache, or of several together.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Allocations served from a magazine.
    pub hits: usize,
    /// All other allocations.
    pub misses: usize,
    /// Blocks freed.
    pub frees: usize,
    /// Largest request.
    pub largest: usize,
}
impl Counts {
    /// Adds another's.
    pub fn add(&mut self, other: Counts) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.frees += other.frees;
        self.largest = self.largest.max(other.largest);
    }
}

/// Marks the block of `entry` live with `slack` unused bytes. False when it is not a cached block any more: two
/// threads that freed it at the same moment both put it into their caches, and the other one was first.
#[inline(always)]
pub fn claim(entry: Entry, slack: usize) -> bool {
    // SAFETY: slots stay mapped for ever.
    let block = unsafe { &*entry.slot };
    let cached = block.load(Relaxed) == slot::CACHED;
    if cached {
        block.store(slot::LIVE + slack as u16, Relaxed);
    }
    cached
}

/// This thread's cache of the heap with `id`, if it has one.
#[inline(always)]
pub fn existing(record: &Record, id: usize) -> Option<&'static ThreadCache> {
    if id >= record.capacity.load(Relaxed) as usize {
        return None;
    }
    // SAFETY: the table has `capacity` entries, each null or a cache that lives until its heap or this thread ends.
    unsafe { (*record.caches.load(Relaxed).add(id)).load(Relaxed).cast::<ThreadCache>().as_ref() }
}

/// Grows the table of `record` to hold `id`. False when memory is short. The registry's lock is held, by the thread
/// of the record.
pub fn make_entry(record: &Record, id: usize) -> bool {
    let capacity = record.capacity.load(Relaxed) as usize;
    if id < capacity {
        return true;
    }
    let grown = (id + 1).next_power_of_two().max(64);
    let Some(table) = records::allocate(grown * size_of::<AtomicPtr<u8>>()) else { return false };
    let table = table.cast::<AtomicPtr<u8>>();
    let old = record.caches.load(Relaxed);
    // SAFETY: the new table is larger and zeroed (null entries); the old one has `capacity` entries and is read by
    // nobody else while the lock is held, nor by this thread while it is here.
    unsafe {
        core::ptr::copy_nonoverlapping(old, table.as_ptr(), capacity);
        record.caches.store(table.as_ptr(), Relaxed);
        record.capacity.store(grown as u32, Relaxed);
        if let Some(old) = NonNull::new(old) {
            records::release(old.cast(), capacity * size_of::<AtomicPtr<u8>>());
        }
    }
    true
}

/// Sets the cache of the heap with `id`; the registry's lock is held.
pub fn set(record: &Record, id: usize, cache: *mut ThreadCache) {
    // SAFETY: callers have made the entry.
    unsafe { (*record.caches.load(Relaxed).add(id)).store(cache.cast(), Relaxed) };
}

/// Gives the table of a record back; the registry's lock is held and all entries are null.
pub fn release_table(record: &Record) {
    let capacity = record.capacity.swap(0, Relaxed) as usize;
    if let Some(table) = NonNull::new(record.caches.swap(null_mut(), Relaxed)) {
        // SAFETY: made by `make_entry` with that capacity; the thread is at its end.
        unsafe { records::release(table.cast(), capacity * size_of::<AtomicPtr<u8>>()) };
    }
}
