//! Magazines: stacks of free blocks of one size class, in a thread's cache.
//!
//! Only the cache's thread pushes and pops. A magazine grows where it is used, so a class that is hardly touched costs
//! hardly any memory, and a magazine that runs empty and full by turns comes to hold a whole batch.
use super::size_class::{FIRST_SINGLE, SHAPES};
use crate::os::records;
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicU16, Ordering::SeqCst, compiler_fence};

/// Misses alone let a magazine grow to this many bytes of blocks, or to [`LEAST_BLOCKS`] if these are more.
const USUAL_BYTES: usize = 32 << 10;
const LEAST_BLOCKS: usize = 8;
/// Most bytes of blocks that a magazine may hold through [`LEAST_BLOCKS`]. Classes with larger blocks are not cached.
const MOST_BYTES: usize = 256 << 10;
/// Most bytes of blocks, and most blocks, of a magazine that runs empty and full by turns.
const GROWN_BYTES: usize = 2 << 20;
const GROWN_BLOCKS: usize = 2048;
/// The first miss of a class asks for this many bytes of blocks: a page of them.
const FIRST_BYTES: usize = 4 << 10;
/// Misses alone let a magazine grow to at most this many blocks, unless the heap was configured otherwise.
pub const DEFAULT_BLOCKS: usize = 256;

/// A free block, in two words, so that a cache line holds four entries.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// Where the block begins. It has a word of its own: so a free of the block right after its allocation need not wait
    /// until the other word is taken apart.
    pub pointer: *mut u8,
    /// Address of the block's slot, shifted left by [`VALUE_BITS`], and below it the slot's value before the block was
    /// freed.
    slot_and_value: usize,
}
const VALUE_BITS: u32 = u16::BITS;
impl Entry {
    /// The entry below a magazine's first one. It stands for no block, and its slot is [`slot::FREE`] for ever. An
    /// allocation compares an entry's slot with the magazine's tag in any case, and that comparison alone tells it that the
    /// magazine is empty.
    pub fn ground(slot: &'static AtomicU16) -> Entry {
        Entry::new(null_mut(), slot, 0)
    }
    /// The entry of a block that was live with `value` in its slot; 0: the block comes from its span.
    #[inline(always)]
    pub fn new(pointer: *mut u8, slot: &'static AtomicU16, value: u16) -> Entry {
        // Addresses in user space have 48 bits, on all processors that this runs on.
        let slot = core::ptr::from_ref(slot).expose_provenance();
        Entry { pointer, slot_and_value: slot << VALUE_BITS | value as usize }
    }
    /// The block's slot.
    #[inline(always)]
    pub fn slot(&self) -> &'static AtomicU16 {
        // SAFETY: `new` made the number from a `&'static` reference.
        unsafe { &*core::ptr::with_exposed_provenance(self.slot_and_value >> VALUE_BITS) }
    }
    /// Whether this is the entry's slot. Safe to ask of an entry that a fork has caught half written.
    pub fn has_slot(self, slot: &AtomicU16) -> bool {
        self.slot_and_value >> VALUE_BITS == core::ptr::from_ref(slot).addr()
    }
    /// The slot's value before the block was freed; 0: the block came from its span.
    pub fn value(self) -> u16 {
        self.slot_and_value as u16
    }
}

/// What the slots of a class's blocks hold: two values in one word, so that one load reads both.
#[derive(Clone, Copy)]
pub struct Labels(u32);
impl Labels {
    /// The slot's value while the block is in the magazine.
    #[inline(always)]
    pub fn tag(self) -> u16 {
        self.0 as u16
    }
    /// The slot's value while the block is live with 0 bytes. For a live block of more bytes the slot holds this minus its
    /// size. Only for classes whose blocks share a span.
    #[inline(always)]
    pub fn zero_size_value(self) -> u16 {
        (self.0 >> u16::BITS) as u16
    }
}

/// A stack of free blocks of one size class.
#[repr(C)]
pub struct Magazine {
    /// One past the entry pushed last, or past the ground entry if the magazine is empty.
    pub(super) top: Cell<*mut Entry>,
    /// One past the ground entry of the magazine's own array; null if it has none yet.
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
    /// Makes an empty magazine without room for blocks. Its ground entry outlives it.
    pub fn begin(&self, ground: *mut Entry, tag: u16, zero_size_value: u16) {
        self.labels.set(Labels(u32::from(zero_size_value) << u16::BITS | u32::from(tag)));
        self.top.set(ground.wrapping_add(1));
        self.limit.set(ground.wrapping_add(1));
    }
    /// The values that the slots of its blocks hold.
    #[inline(always)]
    pub fn labels(&self) -> Labels {
        self.labels.get()
    }
    /// The value that the slots of blocks in the magazine hold.
    #[inline(always)]
    pub fn tag(&self) -> u16 {
        self.labels.get().tag()
    }
    /// The entry of the block freed last.
    pub fn top(&self) -> Option<Entry> {
        if self.length() == 0 {
            return None;
        }
        // SAFETY: entries below the top are initialised, and there is one.
        Some(unsafe { *self.top.get().sub(1) })
    }
    /// Takes out the entry of the block freed last.
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
        // SAFETY: only a magazine of zero bytes has a null top. It has a null limit as well, so the two are equal.
        (top != self.limit.get()).then(|| unsafe { NonNull::new_unchecked(top) })
    }
    /// Puts a block into the place that [`Magazine::place`] gave just now.
    #[inline(always)]
    pub fn fill(&self, place: NonNull<Entry>, entry: Entry) {
        // SAFETY: `place` lies below the limit, so within the array.
        unsafe {
            place.write(entry);
            self.top.set(place.as_ptr().add(1));
        }
    }
    /// Number of blocks in it.
    pub fn length(&self) -> usize {
        self.entries_below(self.top.get())
    }
    /// Number of blocks it may hold now.
    pub fn capacity(&self) -> usize {
        self.entries_below(self.limit.get())
    }
    fn entries_below(&self, end: *mut Entry) -> usize {
        match self.base.get() {
            base if base.is_null() => 0,
            base => (end as usize - base as usize) / size_of::<Entry>(),
        }
    }
    /// How many blocks to take from central now that the magazine is empty, beside the one that is wanted. This may grow it:
    /// at first with every miss, so that a class that is hardly used costs hardly any memory; later only if the magazine has
    /// run full meanwhile.
    pub fn room_to_fill(&self, class: usize, blocks: usize) -> usize {
        let (usual, most) = limits(class, blocks);
        let most = if self.since_growth.get() == SinceGrowth::Full { most } else { usual };
        let capacity = self.capacity();
        if capacity >= most || !self.grow(class, most) {
            self.since_growth.set(SinceGrowth::Empty);
        }
        self.capacity().min(usual) / 2
    }
    /// Whether a block may be pushed. This may grow the magazine if it ran empty since it last grew. False when it stays
    /// full, when blocks of the class are not cached, or when memory is short.
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
        // SAFETY: `length + 1` entries are initialised, the ground among them (in the array, or the ground that `begin` was
        // given). The new array has room for more.
        unsafe { core::ptr::copy_nonoverlapping(self.top.get().sub(length + 1), ground, length + 1) };
        // Another thread may fork between any two of these stores. A child gives the array back when the heap ends, and
        // finds it by base and limit. Where there is no base it gives back nothing; otherwise base and limit belong together
        // and nobody else has the array. At worst the child loses one array.
        let fence = || compiler_fence(SeqCst);
        self.base.set(null_mut());
        fence();
        self.top.set(base.wrapping_add(length));
        self.limit.set(base.wrapping_add(grown));
        fence();
        self.base.set(base);
        fence();
        // SAFETY: the magazine has the new array, and nobody else reaches the old one.
        unsafe { release(old, capacity) };
        self.since_growth.set(SinceGrowth::Nothing);
        true
    }
    /// Where its array lies.
    #[cfg(test)]
    pub fn array(&self) -> *mut u8 {
        self.base.get().wrapping_sub(1).cast()
    }
    /// Gives its array back.
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
    /// Takes out the `count` oldest blocks, or all there are, and gives them to `each`.
    pub fn drain_oldest(&self, count: usize, mut each: impl FnMut(Entry)) {
        if self.base.get().is_null() {
            return; // it has no array, or a fork came while it grew
        }
        let length = self.length();
        let count = count.min(length);
        // SAFETY: entries below the top are initialised. Those that stay move down to the bottom of the same array.
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

/// `entries`, or one less if the ground entry would double the array: records have sizes of powers of two.
fn with_ground(entries: usize) -> usize {
    entries - usize::from(entries.is_power_of_two() && entries >= 16)
}
/// Bytes of an array for `entries` above its ground.
fn bytes_for(entries: usize) -> usize {
    (entries + 1) * size_of::<Entry>()
}
/// Gives an array back if there is one.
///
/// # Safety
/// `base` is one past the ground of an array for `capacity` entries that nobody reaches any more, or null.
unsafe fn release(base: *mut Entry, capacity: usize) {
    if !base.is_null() {
        // SAFETY: by the caller's promise. The ground lies within the array, so its address is not null.
        unsafe { records::release(NonNull::new_unchecked(base.sub(1)).cast(), bytes_for(capacity)) };
    }
}

/// How many blocks of `class` a magazine configured for `blocks` comes to hold by misses alone, and how many at most. Both
/// are 0 when `blocks` is.
fn limits(class: usize, blocks: usize) -> (usize, usize) {
    let stride = SHAPES[class].stride as usize;
    let usual = (USUAL_BYTES / stride).max(LEAST_BLOCKS.min(MOST_BYTES / stride)).min(blocks);
    let usual = with_ground(usual);
    match blocks > 0 && class < FIRST_SINGLE {
        true => (usual, with_ground((GROWN_BYTES / stride).min(GROWN_BLOCKS)).max(usual)),
        false => (usual, usual),
    }
}
