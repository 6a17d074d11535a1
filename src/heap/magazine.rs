//! Magazines: stacks of free blocks of one size class, in a thread's cache.
//!
//! Only the cache's thread pushes and pops. A magazine grows where it is used: a class that is hardly touched costs
//! hardly any memory, one that runs empty and full by turns holds a whole batch.
use super::size_class::{FIRST_SINGLE, SHAPES};
use crate::os::records;
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicU16, Ordering::SeqCst, compiler_fence};

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

/// A free block, in two words: a cache line holds four.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// Where it begins. In a word of its own: so a free of the block, right after it was allocated, need not wait for the other
    /// word to be taken apart.
    pub pointer: *mut u8,
    /// Its slot, and below the bits of an address what the slot was when the block was freed.
    slot_and_value: usize,
}
const VALUE_BITS: u32 = u16::BITS;
impl Entry {
    /// What lies below a magazine's first block: no block, with a slot that is [`slot::FREE`] for ever. An allocation compares
    /// an entry's slot with the magazine's tag in any case, and that alone tells it that the magazine is empty.
    pub fn ground(slot: &'static AtomicU16) -> Entry {
        Entry::new(null_mut(), slot, 0)
    }
    /// A block that was live with `value` in its slot; 0: one that comes from its span.
    #[inline(always)]
    pub fn new(pointer: *mut u8, slot: &'static AtomicU16, value: u16) -> Entry {
        // Addresses in user space have 48 bits, on all processors that this runs on.
        let slot = core::ptr::from_ref(slot).expose_provenance();
        Entry { pointer, slot_and_value: slot << VALUE_BITS | value as usize }
    }
    /// The block's slot.
    #[inline(always)]
    pub fn slot(&self) -> &'static AtomicU16 {
        // SAFETY: made from such a reference.
        unsafe { &*core::ptr::with_exposed_provenance(self.slot_and_value >> VALUE_BITS) }
    }
    /// Whether its slot is this one. Also of entries that a fork has cut in half.
    pub fn has_slot(self, slot: &AtomicU16) -> bool {
        self.slot_and_value >> VALUE_BITS == core::ptr::from_ref(slot).addr()
    }
    /// See `new`.
    pub fn value(self) -> u16 {
        self.slot_and_value as u16
    }
}

/// What the slots of a class's blocks hold, both in one word so that one load reads them.
#[derive(Clone, Copy)]
pub struct Labels(u32);
impl Labels {
    /// While a block is in the magazine.
    #[inline(always)]
    pub fn tag(self) -> u16 {
        self.0 as u16
    }
    /// While it is live with 0 bytes; while it is live with more, this less its size. For classes whose blocks share a span.
    #[inline(always)]
    pub fn zero_size_value(self) -> u16 {
        (self.0 >> u16::BITS) as u16
    }
}

/// A stack of free blocks of one size class.
#[repr(C)]
pub struct Magazine {
    /// One past the entry pushed last, or past a ground entry.
    pub(super) top: Cell<*mut Entry>,
    /// One past the ground entry of an array of its own; null without one.
    base: Cell<*mut Entry>,
    limit: Cell<*mut Entry>,
    labels: Cell<Labels>,
    /// What happened to it since it last grew.
    since_growth: Cell<SinceGrowth>,
}

/// What happened to a magazine since it last grew. Both in turn say that it is too small for its thread; memory that
/// only grows, or is only freed, gains nothing from a larger one.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum SinceGrowth {
    Nothing = 0,
    /// It ran empty.
    Empty,
    /// It ran full.
    Full,
}

impl Magazine {
    /// Without room for blocks, on a ground entry that outlives it.
    pub fn begin(&self, ground: *mut Entry, tag: u16, zero_size_value: u16) {
        self.labels.set(Labels(u32::from(zero_size_value) << u16::BITS | u32::from(tag)));
        self.top.set(ground.wrapping_add(1));
        self.limit.set(ground.wrapping_add(1));
    }
    /// What its blocks' slots hold.
    #[inline(always)]
    pub fn labels(&self) -> Labels {
        self.labels.get()
    }
    /// The same of those in it.
    #[inline(always)]
    pub fn tag(&self) -> u16 {
        self.labels.get().tag()
    }
    /// The block freed last.
    pub fn top(&self) -> Option<Entry> {
        if self.length() == 0 {
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
        let Some(place) = self.place() else { return false };
        self.fill(place, entry);
        true
    }
    /// Where the next block goes; None when there is no room.
    #[inline(always)]
    pub fn place(&self) -> Option<NonNull<Entry>> {
        let top = self.top.get();
        // SAFETY: only a record of zero bytes has a null top, and then the limit is too.
        (top != self.limit.get()).then(|| unsafe { NonNull::new_unchecked(top) })
    }
    /// Puts a block into the place that [`Magazine::place`] gave just now.
    #[inline(always)]
    pub fn fill(&self, place: NonNull<Entry>, entry: Entry) {
        // SAFETY: below the limit.
        unsafe {
            place.write(entry);
            self.top.set(place.as_ptr().add(1));
        }
    }
    /// Free blocks in it.
    pub fn length(&self) -> usize {
        self.entries_below(self.top.get())
    }
    /// Blocks it may hold.
    pub fn capacity(&self) -> usize {
        self.entries_below(self.limit.get())
    }
    fn entries_below(&self, end: *mut Entry) -> usize {
        match self.base.get() {
            base if base.is_null() => 0,
            base => (end as usize - base as usize) / size_of::<Entry>(),
        }
    }
    /// Blocks to take from central now that it is empty, beside the one that is wanted. Grows it: at first with every
    /// miss, so that a class that is hardly used costs hardly any memory; later only when it ran full meanwhile.
    pub fn room_to_fill(&self, class: usize, blocks: usize) -> usize {
        let (usual, most) = limits(class, blocks);
        let most = if self.since_growth.get() == SinceGrowth::Full { most } else { usual };
        let capacity = self.capacity();
        if capacity >= most || !self.grow(class, most) {
            self.since_growth.set(SinceGrowth::Empty);
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
            (_, SinceGrowth::Empty) => most,
            _ => 0,
        };
        let grown = self.capacity() < most && self.grow(class, most);
        if !grown {
            self.since_growth.set(SinceGrowth::Full);
        }
        grown
    }
    /// Doubles its capacity, up to `most`. False, with nothing changed, when memory is short.
    fn grow(&self, class: usize, most: usize) -> bool {
        let (length, capacity) = (self.length(), self.capacity());
        let first = with_ground((FIRST_BYTES / SHAPES[class].stride as usize * 2).clamp(2, 16));
        let grown = (capacity * 2 + 1).max(first).min(most);
        let Some(array) = records::allocate(bytes_for(grown)) else { return false };
        let ground = array.as_ptr().cast::<Entry>();
        // SAFETY: the array has the ground and `grown` entries.
        let base = unsafe { ground.add(1) };
        let old = self.base.get();
        // SAFETY: the ground and `length` entries are initialised, or the ground alone that `begin` was given; the new
        // array is larger.
        unsafe { core::ptr::copy_nonoverlapping(self.top.get().sub(length + 1), ground, length + 1) };
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
        // SAFETY: nobody reaches it any more.
        unsafe { release(old, capacity) };
        self.since_growth.set(SinceGrowth::Nothing);
        true
    }
    /// Where its array lies.
    #[cfg(test)]
    pub fn array(&self) -> *mut u8 {
        self.base.get().wrapping_sub(1).cast()
    }
    /// Gives its memory back.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub unsafe fn end(&self) {
        // SAFETY: by the caller's promise.
        unsafe { release(self.base.get(), self.capacity()) };
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
        if self.base.get().is_null() {
            return; // it has none, or a fork came while it grew
        }
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

/// So many entries, or one less where the ground entry would double the array: records have sizes of powers of two.
fn with_ground(entries: usize) -> usize {
    entries - usize::from(entries.is_power_of_two() && entries >= 16)
}
/// Bytes of an array of so many entries above its ground.
fn bytes_for(entries: usize) -> usize {
    (entries + 1) * size_of::<Entry>()
}
/// Gives an array back, if there is one.
///
/// # Safety
/// `base` is one past the ground of an array for `capacity` entries that nobody reaches any more, or null.
unsafe fn release(base: *mut Entry, capacity: usize) {
    if !base.is_null() {
        // SAFETY: by the caller's promise; the ground is no null pointer.
        unsafe { records::release(NonNull::new_unchecked(base.sub(1)).cast(), bytes_for(capacity)) };
    }
}

/// Blocks of `class` that a magazine configured for `blocks` comes to hold by misses alone; and at most. Both are 0 when
/// `blocks` is.
fn limits(class: usize, blocks: usize) -> (usize, usize) {
    let stride = SHAPES[class].stride as usize;
    let usual = (USUAL_BYTES / stride).max(LEAST_BLOCKS.min(MOST_BYTES / stride)).min(blocks);
    let usual = with_ground(usual);
    match blocks > 0 && class < FIRST_SINGLE {
        true => (usual, with_ground((GROWN_BYTES / stride).min(GROWN_BLOCKS)).max(usual)),
        false => (usual, usual),
    }
}
