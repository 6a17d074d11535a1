//! Thread caches: each thread's blocks of each heap, and its share of the heap's statistics.
//!
//! A cache holds one *magazine* a size class: a stack of free blocks with their slots, so that a hit touches neither
//! the block nor its span. Only the owning thread pushes and pops. Everyone else may read the counters, which are
//! therefore atomic, though never locked. Caches are found through the thread's record, by the heap's id; the table
//! of a record and the caches in it are made and dissolved under [`super::registry`]'s lock.
use super::size_class::{CLASSES, DEFAULT_ALIGNMENT, FIRST_SINGLE, MAX_QUICK, MAX_QUICK_SHARED, SHAPES};
use super::{Heap, page_map, slot};
use crate::os::records;
use crate::os::thread::{NEAR, Record};
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU16, AtomicU32, AtomicUsize, compiler_fence};

/// Turns sizes into whole cache lines, but for the last bits.
const BESIDE: usize = DEFAULT_ALIGNMENT - 1;
/// Net bytes a thread may have allocated or freed before it tells the heap.
pub(super) const UNPUBLISHED: isize = 64 << 10;
/// Bytes of blocks a magazine comes to hold by misses alone, while it holds at least [`LEAST_BLOCKS`].
const USUAL_BYTES: usize = 32 << 10;
const LEAST_BLOCKS: usize = 8;
/// Bytes of blocks a magazine may hold in any case; larger blocks are not cached.
const MOST_BYTES: usize = 256 << 10;
/// Bytes of blocks, and blocks, a magazine may hold when it runs empty and full by turns.
const GROWN_BYTES: usize = 2 << 20;
const GROWN_BLOCKS: usize = 2048;
/// Bytes of blocks the first miss of a class asks for: a page of them.
const FIRST_BYTES: usize = 4 << 10;
/// Blocks a magazine comes to hold by misses alone when nothing was configured, and at most.
pub const DEFAULT_BLOCKS: usize = 256;

/// A free block.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Where it begins.
    pub pointer: *mut u8,
    slot: *const AtomicU16,
    /// What the slot was when the block was freed; 0 where the block comes from its span.
    value: u16,
}
impl Entry {
    /// A block that was live with `value` in its slot; 0: one that comes from its span.
    #[inline(always)]
    pub fn new(pointer: *mut u8, slot: &'static AtomicU16, value: u16) -> Entry {
        Entry { pointer, slot, value }
    }
    /// The block's slot.
    #[inline(always)]
    pub fn slot(self) -> &'static AtomicU16 {
        // SAFETY: made from such a reference.
        unsafe { &*self.slot }
    }
}

/// A stack of free blocks of one size class.
#[repr(C)]
pub struct Magazine {
    /// One past the entry pushed last.
    pub(super) top: Cell<*mut Entry>,
    pub(super) base: Cell<*mut Entry>,
    pub(super) limit: Cell<*mut Entry>,
    /// What the slot of a live block of 0 bytes would hold; of another, that less its size.
    pub(super) of_nothing: Cell<u32>,
    /// What the slots of its blocks hold.
    pub(super) tag: Cell<u16>,
    /// What happened to it since it last grew.
    since_growth: Cell<Since>,
}

/// What happened to a magazine since it last grew. Both in turn say that it is too small for its thread; memory that
/// only grows, or is only freed, gains nothing from a larger one.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Since {
    Nothing = 0,
    /// It ran empty.
    Empty,
    /// It ran full.
    Full,
}

/// One thread's part of one heap.
#[repr(C, align(64))]
pub struct ThreadCache {
    /// Largest size that [`super::fast::allocate`] serves: none above the largest asked for so far, so that this is
    /// one comparison with the other limits.
    pub(super) quick_size: AtomicUsize,
    /// Of the heap, and 63: what turns a size into room for its blocks, but for the last six bits.
    pub(super) beside: usize,
    /// Bytes allocated, and freed, in all. Their difference is what this thread has made of the heap's live bytes.
    allocated: AtomicUsize,
    freed: AtomicUsize,
    /// Of that difference: the highest since the last publication, and what was published then.
    peak: AtomicIsize,
    published: AtomicIsize,
    /// And the least and the most that may come about without publishing: [`UNPUBLISHED`] from `published`.
    least: AtomicUsize,
    most: AtomicUsize,
    hits: AtomicUsize,
    frees: AtomicUsize,
    misses: AtomicUsize,
    largest: AtomicUsize,
    /// Largest room that fast.rs may serve; 0 where the heap's alignment is unusual.
    pub(super) quick_limit: usize,
    /// The heap's list of caches, under its lock.
    pub next: Cell<*mut ThreadCache>,
    /// The thread's record; null for the cache that threads without a record share.
    pub record: *const Record,
    /// The heap.
    pub heap: *const Heap,
    /// From here on two to a cache line.
    magazines: [Magazine; CLASSES],
    /// Of all bytes allocated, those that recorded allocations stand for, in the recording of this number (recorded.rs).
    pub(super) sampled: Cell<usize>,
    pub(super) sampled_in: Cell<u32>,
}

fn bump(counter: &AtomicUsize) {
    add(counter, 1);
}
fn add(counter: &AtomicUsize, amount: usize) {
    // A plain add: only the owning thread writes.
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}
/// What a counter of the calling thread's own cache holds, which no other thread writes: a plain load, which the compiler
/// may make part of another instruction.
#[inline(always)]
fn own(counter: &AtomicUsize) -> usize {
    // SAFETY: no other thread writes, so there is no race.
    unsafe { counter.as_ptr().read() }
}

const _: () =
    assert!(core::mem::offset_of!(ThreadCache, magazines).is_multiple_of(64) && size_of::<Magazine>() == 32);

impl Magazine {
    /// The block freed last.
    pub fn top(&self) -> Option<Entry> {
        if self.top.get() == self.base.get() {
            return None;
        }
        // SAFETY: entries below the top are initialised, and there is one.
        Some(unsafe { *self.top.get().sub(1) })
    }
    /// Takes it.
    pub fn pop(&self) -> Option<Entry> {
        let entry = self.top()?;
        self.top.set(self.top.get().wrapping_sub(1));
        Some(entry)
    }
    /// Puts a block in; false when there is no room.
    #[inline(always)]
    pub fn push(&self, entry: Entry) -> bool {
        if self.is_full() {
            return false;
        }
        // SAFETY: it is not full.
        unsafe { self.push_unchecked(entry) };
        true
    }
    /// Whether there is no room.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.top.get() == self.limit.get()
    }
    /// Puts a block in.
    ///
    /// # Safety
    /// It is not full.
    #[inline(always)]
    pub unsafe fn push_unchecked(&self, entry: Entry) {
        // SAFETY: below the limit, by the caller's promise.
        unsafe {
            self.top.get().write(entry);
            self.top.set(self.top.get().add(1));
        }
    }
    /// Free blocks in it.
    pub fn length(&self) -> usize {
        (self.top.get() as usize - self.base.get() as usize) / size_of::<Entry>()
    }
    /// Blocks it may hold.
    pub fn capacity(&self) -> usize {
        (self.limit.get() as usize - self.base.get() as usize) / size_of::<Entry>()
    }
    /// Blocks to take from central now that it is empty, beside the one that is wanted. Grows it: at first with every
    /// miss, so that a class that is hardly used costs hardly any memory; later only when it ran full meanwhile.
    pub fn room_to_fill(&self, class: usize, blocks: usize) -> usize {
        let (usual, most) = limits(class, blocks);
        let most = if self.since_growth.get() == Since::Full { most } else { usual };
        let capacity = self.capacity();
        if capacity >= most || !self.grow(class, most) {
            self.since_growth.set(Since::Empty);
        }
        self.capacity().min(usual) / 2
    }
    /// Whether a block may be pushed, after growing it if it ran empty since it last grew. False when it is full, when
    /// blocks of the class are not cached, or when memory is short.
    pub fn has_room(&self, class: usize, blocks: usize) -> bool {
        if self.top.get() != self.limit.get() {
            return true;
        }
        let (usual, most) = limits(class, blocks);
        let most = match (self.capacity(), self.since_growth.get()) {
            (0, _) => usual,
            (_, Since::Empty) => most,
            _ => 0,
        };
        let grown = self.capacity() < most && self.grow(class, most);
        if !grown {
            self.since_growth.set(Since::Full);
        }
        grown
    }
    /// Doubles its capacity, up to `most`. False, with nothing changed, when memory is short.
    fn grow(&self, class: usize, most: usize) -> bool {
        let (length, capacity) = (self.length(), self.capacity());
        let first = (FIRST_BYTES / SHAPES[class].stride as usize * 2).clamp(2, 16);
        let grown = (capacity * 2).max(first).min(most);
        let Some(entries) = records::allocate(grown * size_of::<Entry>()) else { return false };
        let base = entries.as_ptr().cast::<Entry>();
        let old = self.base.get();
        if !old.is_null() {
            // SAFETY: `length` entries are initialised; the new array is larger.
            unsafe { core::ptr::copy_nonoverlapping(old, base, length) };
        }
        // Another thread may fork between any two of these. The child gives an array back when the heap ends, by base and
        // limit: without a base none, else the two belong together and nobody else has the array. At worst it leaks one.
        let fence = || compiler_fence(SeqCst);
        self.base.set(null_mut());
        fence();
        self.top.set(base.wrapping_add(length));
        self.limit.set(base.wrapping_add(grown));
        fence();
        self.base.set(base);
        fence();
        if let Some(old) = NonNull::new(old) {
            // SAFETY: nobody reaches it any more.
            unsafe { records::release(old.cast(), capacity * size_of::<Entry>()) };
        }
        self.since_growth.set(Since::Nothing);
        true
    }
    /// Turns the order around.
    pub fn reverse(&self) {
        if self.length() > 1 {
            // SAFETY: entries between base and top are initialised, and only this thread reaches them.
            unsafe { core::slice::from_raw_parts_mut(self.base.get(), self.length()) }.reverse();
        }
    }
    /// Takes out the `count` oldest blocks, and gives them to `each`.
    pub fn drain_oldest(&self, count: usize, mut each: impl FnMut(Entry)) {
        let length = self.length();
        let count = count.min(length);
        // SAFETY: entries below the top are initialised; the rest moves down to the bottom.
        unsafe {
            let entries = self.base.get();
            for i in 0..count {
                each(*entries.add(i));
            }
            if count < length {
                core::ptr::copy(entries.add(count), entries, length - count);
            }
        }
        self.top.set(self.base.get().wrapping_add(length - count));
    }
}

impl ThreadCache {
    /// A cache of `heap` for the thread of `record`. None when memory is short.
    pub fn make(heap: &Heap, record: *const Record) -> Option<NonNull<ThreadCache>> {
        let cache = records::allocate(size_of::<ThreadCache>())?.cast::<ThreadCache>();
        let usual = heap.alignment.load(Relaxed) == DEFAULT_ALIGNMENT;
        // SAFETY: fresh and ours; zero bytes are a valid empty cache but for these.
        unsafe {
            let made = &mut *cache.as_ptr();
            made.record = record;
            made.heap = heap;
            made.set_published(0);
            made.beside = heap.prefix() + BESIDE;
            made.quick_limit = if usual && !record.is_null() { MAX_QUICK } else { 0 };
            static MADE: AtomicU32 = AtomicU32::new(0);
            let number = MADE.fetch_add(1, Relaxed) as usize * CLASSES;
            for (class, (magazine, shape)) in made.magazines.iter().zip(&SHAPES).enumerate() {
                magazine.tag.set(slot::tag(number + class));
                magazine
                    .of_nothing
                    .set(shape.stride.wrapping_sub(heap.prefix() as u32).wrapping_add(slot::LIVE as u32));
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
            for magazine in &cache.as_ref().magazines {
                if let Some(entries) = NonNull::new(magazine.base.get()) {
                    records::release(entries.cast(), magazine.capacity() * size_of::<Entry>());
                }
            }
            records::release(cache.cast(), size_of::<ThreadCache>());
        }
    }
    /// The magazine of `class`.
    #[inline(always)]
    pub fn magazine(&self, class: usize) -> &Magazine {
        debug_assert!(class < CLASSES);
        // SAFETY: classes come from the tables of size_class.rs, by way of a span's record.
        unsafe { self.magazines.get_unchecked(class) }
    }
    /// All magazines, in the order of their classes.
    pub fn magazines(&self) -> &[Magazine] {
        &self.magazines
    }
    /// Whether prefix and size make up the room: the heap has no prefix.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.beside == BESIDE
    }
    /// Counts a hit of `size` bytes, at most `quick_size`. False, with nothing changed, when more would have to be
    /// published than this does.
    #[inline(always)]
    pub(super) fn count_hit(&self, size: usize) -> bool {
        let live = own(&self.allocated).wrapping_add(size).wrapping_sub(own(&self.freed)) as isize;
        if live > self.peak.load(Relaxed) {
            if live > own(&self.most) as isize {
                return false;
            }
            self.peak.store(live, Relaxed);
        }
        add(&self.allocated, size);
        bump(&self.hits);
        true
    }
    /// Counts a free of `size` bytes. False, with nothing changed, when it is to be published.
    #[inline(always)]
    pub(super) fn count_quick_free(&self, size: usize) -> bool {
        let freed = own(&self.freed).wrapping_add(size);
        if (own(&self.allocated).wrapping_sub(freed) as isize) < own(&self.least) as isize {
            return false;
        }
        self.freed.store(freed, Relaxed);
        bump(&self.frees);
        true
    }
    /// Counts an allocation of `size` bytes.
    pub fn count_allocation(&self, heap: &Heap, size: usize, hit: bool) {
        bump(if hit { &self.hits } else { &self.misses });
        self.change(heap, size, 0);
        self.note_largest(size);
    }
    /// Counts a free of a block of `size` bytes.
    pub fn count_free(&self, heap: &Heap, size: usize) {
        bump(&self.frees);
        self.change(heap, 0, size);
    }
    /// Drops an entry of `class` whose block is another's: two threads freed it at the same moment, and the free that
    /// made this entry is refused after all.
    #[cold]
    pub fn refuse(&self, heap: &Heap, class: usize, entry: Entry) {
        let size = match (entry.value, class < FIRST_SINGLE) {
            // It came from its span: the free that was one too many told nobody its size.
            (0, _) => 0,
            (value, true) => self.magazine(class).of_nothing.get() as usize - value as usize,
            (value, false) => page_map::span_of(entry.pointer as usize)
                .map_or(0, |span| super::central::requested_size(span, value)),
        };
        self.frees.store(self.frees.load(Relaxed).wrapping_sub(1), Relaxed);
        self.change(heap, 0, size.wrapping_neg());
        heap.count_refused();
    }
    /// Counts that a block of `old` bytes now has `new`.
    pub fn resize(&self, heap: &Heap, old: usize, new: usize) {
        self.change(heap, new, old);
        self.note_largest(new);
    }
    /// Counts that live bytes which are not the heap's changed by `bytes`.
    pub fn grow_foreign(&self, heap: &Heap, bytes: isize) {
        self.change(heap, bytes.max(0) as usize, bytes.min(0).unsigned_abs());
    }
    /// Largest size asked for since creation or reset.
    pub(super) fn largest(&self) -> usize {
        self.largest.load(Relaxed)
    }
    fn note_largest(&self, size: usize) {
        if size > self.largest.load(Relaxed) {
            self.largest.store(size, Relaxed);
            if self.quick_limit > 0 {
                let most = MAX_QUICK_SHARED - (self.beside - BESIDE);
                self.quick_size.store(size.min(most), Relaxed);
            }
        }
    }
    fn change(&self, heap: &Heap, allocated: usize, freed: usize) {
        add(&self.allocated, allocated);
        add(&self.freed, freed);
        let (delta, peak) = self.unpublished();
        if delta > peak {
            self.peak.store(self.published.load(Relaxed) + delta, Relaxed);
        }
        if delta.unsigned_abs() > UNPUBLISHED as usize {
            self.publish(heap);
        }
    }
    /// Adds what is unpublished to the heap's live bytes and raises its peak.
    #[cold]
    pub fn publish(&self, heap: &Heap) {
        let (delta, peak) = self.unpublished();
        let before = heap.counters.live.fetch_add(delta, Relaxed);
        heap.counters.raise_peak(before + peak);
        self.set_published(self.published.load(Relaxed) + delta);
    }
    fn set_published(&self, published: isize) {
        self.published.store(published, Relaxed);
        self.least.store((published - UNPUBLISHED) as usize, Relaxed);
        self.most.store((published + UNPUBLISHED) as usize, Relaxed);
        self.peak.store(published, Relaxed);
    }
    /// Unpublished net bytes and their peak.
    pub fn unpublished(&self) -> (isize, isize) {
        let live = self.allocated.load(Relaxed).wrapping_sub(self.freed.load(Relaxed)) as isize;
        let published = self.published.load(Relaxed);
        (live - published, self.peak.load(Relaxed) - published)
    }
    /// Forgets the peak so far.
    pub fn reset_peak(&self) {
        let (delta, _) = self.unpublished();
        self.peak.store(self.published.load(Relaxed) + delta, Relaxed);
        self.largest.store(0, Relaxed);
        self.quick_size.store(0, Relaxed);
    }
    /// Counts so far.
    pub fn counts(&self) -> Counts {
        Counts {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            frees: self.frees.load(Relaxed),
            largest: self.largest.load(Relaxed),
            allocated: self.allocated.load(Relaxed),
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
    /// Bytes allocated, freed ones included.
    pub allocated: usize,
}
impl Counts {
    /// Adds another's.
    pub fn add(&mut self, other: Counts) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.frees = self.frees.wrapping_add(other.frees);
        self.largest = self.largest.max(other.largest);
        self.allocated = self.allocated.wrapping_add(other.allocated);
    }
}

/// Blocks of `class` that a magazine configured for `blocks` comes to hold by misses alone; and at most. Both are 0 when
/// `blocks` is.
fn limits(class: usize, blocks: usize) -> (usize, usize) {
    let stride = SHAPES[class].stride as usize;
    let usual = (USUAL_BYTES / stride).max(LEAST_BLOCKS.min(MOST_BYTES / stride)).min(blocks);
    match blocks > 0 && class < FIRST_SINGLE {
        true => (usual, (GROWN_BYTES / stride).min(GROWN_BLOCKS).max(usual)),
        false => (usual, usual),
    }
}

/// Where `record` holds its cache of the heap with `id`.
fn entry(record: &Record, id: usize) -> Option<&AtomicPtr<u8>> {
    if let Some(near) = record.near.get(id) {
        return Some(near);
    }
    if id - NEAR >= record.far_capacity.load(Relaxed) as usize {
        return None;
    }
    // SAFETY: the table has `far_capacity` entries.
    Some(unsafe { &*record.far.load(Relaxed).add(id - NEAR) })
}

/// This thread's cache of the heap with `id`, if it has one.
#[inline(always)]
pub fn existing(record: &Record, id: usize) -> Option<&'static ThreadCache> {
    let cache = match record.near.get(id) {
        Some(near) => near.load(Relaxed),
        None => entry(record, id)?.load(Relaxed),
    };
    // SAFETY: entries are null or a cache that lives until its heap or this thread ends.
    unsafe { cache.cast::<ThreadCache>().as_ref() }
}

/// Ids that `record` may hold caches for.
pub fn ids(record: &Record) -> core::ops::Range<usize> {
    0..NEAR + record.far_capacity.load(Relaxed) as usize
}

/// Makes an entry for `id` in `record`. False when memory is short. The registry's lock is held, by the thread of the
/// record.
pub fn make_entry(record: &Record, id: usize) -> bool {
    if entry(record, id).is_some() {
        return true;
    }
    let capacity = record.far_capacity.load(Relaxed) as usize;
    let grown = (id - NEAR + 1).next_power_of_two().max(64);
    let Some(table) = records::allocate(grown * size_of::<AtomicPtr<u8>>()) else { return false };
    let table = table.cast::<AtomicPtr<u8>>();
    let old = record.far.load(Relaxed);
    // SAFETY: the new table is larger and zeroed (null entries); the old one has `capacity` entries and is read by
    // nobody else while the lock is held, nor by this thread while it is here.
    unsafe {
        if let Some(old) = NonNull::new(old) {
            core::ptr::copy_nonoverlapping(old.as_ptr(), table.as_ptr(), capacity);
            records::release(old.cast(), capacity * size_of::<AtomicPtr<u8>>());
        }
    }
    record.far.store(table.as_ptr(), Relaxed);
    record.far_capacity.store(grown as u32, Relaxed);
    true
}

/// Sets the cache of the heap with `id`, whose entry exists; the registry's lock is held.
pub fn set(record: &Record, id: usize, cache: *mut ThreadCache) {
    if let Some(entry) = entry(record, id) {
        entry.store(cache.cast(), Relaxed);
    }
}

/// Gives the table of a record back; the registry's lock is held and all entries are null.
pub fn release_table(record: &Record) {
    let capacity = record.far_capacity.swap(0, Relaxed) as usize;
    if let Some(table) = NonNull::new(record.far.swap(null_mut(), Relaxed)) {
        // SAFETY: made by `make_entry` with that capacity; the thread is at its end.
        unsafe { records::release(table.cast(), capacity * size_of::<AtomicPtr<u8>>()) };
    }
}
