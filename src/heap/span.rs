//! Span records: what the heap knows about a run of slices, kept apart from the memory itself.
//!
//! Each block of a span has a 16-bit *slot* (slot.rs) in a side array. It says whether the block is free in the span,
//! cached by a thread, or live, and for a live block how much shorter the request was than the room; so one load
//! tells a good free from a bad one and gives the exact size back.
//!
//! The first cache line of a record is what a free reads; all of it is atomic because a wild pointer may be looked up
//! while another thread reuses the record. The rest is only touched under the owning heap's lock.
use super::Heap;
use super::arena::{Run, SLOTS};
use super::cache::ThreadCache;
use super::size_class::{Class, DEFAULT_ALIGNMENT, SHAPES};
use super::{slot, tally};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::*, fence,
};

/// `kind` of a span that is a class's.
pub const KIND_BLOCKS: u8 = 0;
/// `kind` of a span that is one mapped block.
pub const KIND_LARGE: u8 = 1;

/// Bytes that may have been written to where nothing is known of them.
pub const ALL: usize = usize::MAX;

/// See the field of [`Span`]. For a stride of 1, with which 0 is the only offset, any number will do.
const fn reciprocal_of(stride: u32) -> u64 {
    if stride == 1 { u64::MAX } else { u64::MAX / stride as u64 + 1 }
}

/// A run of slices, or one mapped block. Records are type-stable: once a span, for ever a span.
///
/// The order of the fields is about *4 KiB aliasing*: a processor takes a load for one of what was just stored at the same
/// offset in another page, and waits for that store. A free, and the allocation before it, store to magazines, which begin
/// at multiples of 32 bytes; so no field that a free reads begins at one here.
#[repr(C, align(64))]
pub struct Span {
    heap: AtomicPtr<Heap>,
    first: AtomicUsize,
    extent: AtomicUsize,
    /// 2^64 / stride, rounded up. The product of an offset with it has the quotient in its upper 64 bits, and its lower 64
    /// bits are below this number just where the division leaves no remainder (Lemire, Kaser and Kurz, "Faster remainder
    /// by direct computation", 2019).
    reciprocal: AtomicU64,
    stride: AtomicU32,
    class: AtomicU8,
    kind: AtomicU8,
    /// log2 of the alignment that a block keeps when it is reallocated.
    pub alignment_log2: AtomicU8,
    /// What the slot of a live block of 0 bytes would hold: this less the slot is the size of a live block. In a span of
    /// a single class, whose block's slot is always `LIVE`, it changes with the block's size. It also has the one block in
    /// it that a tally counts (tally.rs), so that a free need not add that.
    zero_size_value: AtomicUsize,
    slots: AtomicPtr<AtomicU16>,
    heap_id: AtomicU32,
    /// Sequence number: grows whenever the record goes into or out of service; odd while in service. See [`Span::whole`].
    changes: AtomicU32,
    /// Bytes at the start of the only block that may have been written to; the rest of it reads as zero. [`ALL`] where there
    /// are many blocks, and once the only one is handed out.
    written: AtomicUsize,
    /// The mapped block: its slot, since it has no side array.
    pub large_slot: AtomicU16,
    /// The mapped block: size asked for.
    pub large_size: AtomicUsize,
    /// The mapped block: room.
    pub large_capacity: AtomicUsize,
    /// Under the heap's lock.
    pub inner: UnsafeCell<Inner>,
}
// SAFETY: the hot part is atomic, `inner` is only reached under the heap's lock.
unsafe impl Sync for Span {}

/// The part of a span that the heap's lock guards.
pub struct Inner {
    /// The run; of a mapped block only its start counts.
    pub run: Run,
    /// Bytes mapped, or of a class's run.
    pub length: usize,
    /// Bytes at the start of the run that count as held.
    pub charged: usize,
    /// Bytes of the run's slots, bitmap and record that count as held: see runs.rs. 0 for a mapped block, and out of service.
    pub bookkeeping: usize,
    /// Blocks that exist; the rest of the run was never touched.
    pub carved: u16,
    /// Set bits of the bitmap: blocks free in the span.
    pub free: u16,
    /// Whether the span is in its class's list of spans with free blocks.
    pub listed: bool,
    /// The cache that took blocks last; perhaps gone, so only to be compared.
    pub user: *const ThreadCache,
    /// Scavenger tick at which the span was put aside.
    pub kept_since: u32,
    /// Number of that occasion, among all of the heap.
    pub kept_order: u64,
    /// Its neighbours in the lists it is in: [`BY_USE`] and [`BY_HEAP`].
    pub links: [Links; 2],
}
/// Neighbours in a list, or null.
#[derive(Clone, Copy)]
pub struct Links {
    /// The span behind.
    pub next: *mut Span,
    /// The span in front.
    pub previous: *mut Span,
}
/// Number of the links of the list the span is in: its class's, or that of kept spans.
pub const BY_USE: usize = 0;
/// Number of the links of the list of all spans of the heap.
pub const BY_HEAP: usize = 1;

impl Inner {
    /// Bytes that count as held.
    pub fn held(&self) -> usize {
        self.charged + self.bookkeeping
    }
}

impl Span {
    /// Sets the record up for blocks of `class` whose first pointer is `first`.
    pub fn describe_blocks(
        &self,
        heap: &Heap,
        class: Class,
        first: usize,
        usable: usize,
        slots: *mut AtomicU16,
    ) {
        let changes = self.end_service();
        let shape = &SHAPES[class as usize];
        let (stride, extent) = match shape.capacity {
            1 => (1, 1), // only the block's own address divides evenly
            n => (shape.stride, shape.stride as usize * n as usize),
        };
        self.first.store(first, Relaxed);
        self.extent.store(extent, Relaxed);
        self.stride.store(stride, Relaxed);
        self.reciprocal.store(reciprocal_of(stride), Relaxed);
        self.set_zero_size_value(usable);
        // The first block lies a prefix behind the start of the run. (Without one the distance has 64 zeroes.)
        let alignment_log2 = shape.alignment.trailing_zeros().min(heap.prefix().trailing_zeros());
        self.alignment_log2.store(alignment_log2 as u8, Relaxed);
        self.slots.store(slots, Relaxed);
        self.class.store(class, Relaxed);
        self.kind.store(KIND_BLOCKS, Relaxed);
        self.heap_id.store(heap.id() as u32, Relaxed);
        self.heap.store(core::ptr::from_ref(heap).cast_mut(), Release);
        self.begin_service(changes);
    }
    /// Sets the record up for one mapped block at `first`. Its slot is the caller's to set.
    pub fn describe_large(
        &self,
        heap: &Heap,
        first: usize,
        size: usize,
        capacity: usize,
        alignment_log2: u8,
    ) {
        let changes = self.end_service();
        self.first.store(first, Relaxed);
        self.extent.store(1, Relaxed);
        self.stride.store(1, Relaxed);
        self.reciprocal.store(reciprocal_of(1), Relaxed);
        self.zero_size_value.store(0, Relaxed);
        self.alignment_log2.store(alignment_log2, Relaxed);
        self.large_size.store(size, Relaxed);
        self.large_capacity.store(capacity, Relaxed);
        self.slots.store(UNUSED_SLOTS.as_ptr().cast_mut(), Relaxed);
        self.class.store(0, Relaxed);
        self.kind.store(KIND_LARGE, Relaxed);
        self.heap_id.store(heap.id() as u32, Relaxed);
        self.heap.store(core::ptr::from_ref(heap).cast_mut(), Release);
        self.begin_service(changes);
    }
    /// Runs `read` on the record as a reader of a sequence lock does. None: the record was out of service at some moment
    /// meanwhile, when no pointer was a block of it. Without this a look-up that is held up could combine a field of what the
    /// record was with one of what it has become, perhaps of another class or another heap.
    pub fn whole<R>(&self, read: impl FnOnce() -> Option<R>) -> Option<R> {
        let changes = self.changes.load(Acquire);
        let found = read().filter(|_| changes % 2 == 1);
        fence(Acquire);
        found.filter(|_| self.changes.load(Relaxed) == changes)
    }
    /// Number of the record's service. Whoever finds the same one again knows that the record has not been out of it.
    #[inline(always)]
    pub fn service(&self) -> u32 {
        self.changes.load(Relaxed)
    }
    fn end_service(&self) -> u32 {
        let changes = self.changes.load(Relaxed);
        let out = changes.wrapping_add(changes % 2);
        self.changes.store(out, Relaxed);
        fence(Release);
        out
    }
    fn begin_service(&self, changes: u32) {
        self.changes.store(changes.wrapping_add(1), Release);
    }
    /// Takes the record out of service: no pointer is a block of it any more.
    pub fn retire(&self) {
        self.end_service();
        self.extent.store(0, Relaxed);
        self.heap.store(null_mut(), Relaxed);
        self.kind.store(KIND_BLOCKS, Relaxed);
    }
    /// Gives the span of a single class another single class.
    pub fn change_class(&self, class: Class) {
        self.class.store(class, Relaxed);
    }
    fn set_zero_size_value(&self, room: usize) {
        self.zero_size_value.store(zero_size_value(room), Relaxed);
    }
    /// Size of a block that is live with `value` in its slot, as a tally counts it: [`tally::counted`].
    #[inline(always)]
    pub fn counted_size(&self, value: u16) -> usize {
        self.zero_size_value.load(Relaxed).wrapping_sub(value as usize)
    }
    /// Notes the size of the block of a single class.
    #[inline(always)]
    pub fn set_only_size(&self, size: usize) {
        self.set_zero_size_value(size);
    }
    /// The same, for one of several owners who may do so at the same moment. Gives the size noted before.
    pub fn replace_only_size(&self, size: usize) -> usize {
        let before = self.zero_size_value.swap(zero_size_value(size), Relaxed);
        before.wrapping_sub(slot::LIVE as usize) as u32 as usize
    }
    /// Notes, in a span of a single class, that its block is asked for with `size` bytes at the usual alignment.
    #[inline(always)]
    pub fn note_request(&self, size: usize) {
        self.set_only_size(size);
        self.alignment_log2.store(DEFAULT_ALIGNMENT.trailing_zeros() as u8, Relaxed);
    }
    /// Whether the heap with number `id` owns the span.
    #[inline(always)]
    pub fn is_of(&self, id: usize) -> bool {
        self.heap_id.load(Relaxed) == id as u32
    }
    /// The heap that owns the span.
    pub fn heap(&self) -> Option<&'static Heap> {
        // SAFETY: heaps are type-stable.
        unsafe { self.heap.load(Acquire).as_ref() }
    }
    /// Size class of its blocks.
    #[inline(always)]
    pub fn class(&self) -> Class {
        self.class.load(Relaxed)
    }
    /// Whether the span is one mapped block.
    pub fn is_large(&self) -> bool {
        self.kind.load(Relaxed) == KIND_LARGE
    }
    /// Notes how much of the only block may have been written to.
    #[inline(always)]
    pub fn set_written(&self, bytes: usize) {
        self.written.store(bytes, Relaxed);
    }
    /// How much of the block may have been written to, which is handed out now.
    pub fn take_written(&self) -> usize {
        self.written.swap(ALL, Relaxed)
    }
    /// Address of the first block.
    pub fn first(&self) -> usize {
        self.first.load(Relaxed)
    }
    /// Which block starts at `address`.
    #[inline(always)]
    pub fn index_of(&self, address: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.first.load(Relaxed));
        if offset >= self.extent.load(Relaxed) {
            return None;
        }
        let reciprocal = self.reciprocal.load(Relaxed);
        let product = offset as u128 * reciprocal as u128;
        ((product as u64) < reciprocal).then_some((product >> 64) as usize)
    }
    /// Slot of block `index`, which [`Span::index_of`] gave.
    #[inline(always)]
    pub fn slot(&self, index: usize) -> &'static AtomicU16 {
        // SAFETY: the side array stays mapped for ever and covers every index below the capacity.
        unsafe { &*self.slots.load(Relaxed).add(index) }
    }
    /// What the slot of block `index` holds.
    pub fn value(&self, index: usize) -> u16 {
        if self.is_large() { self.large_slot.load(Relaxed) } else { self.slot(index).load(Relaxed) }
    }
    /// The slot to change, of block `index`.
    pub fn slot_to_change(&self, index: usize) -> &AtomicU16 {
        if self.is_large() { &self.large_slot } else { self.slot(index) }
    }
    /// Bytes from one block to the next; all of the block where there is only one.
    pub fn pitch(&self) -> usize {
        match (self.is_large(), &SHAPES[self.class() as usize]) {
            (true, _) => self.large_capacity.load(Relaxed),
            (false, shape) => shape.stride as usize,
        }
    }
    /// Address of block `index`.
    pub fn address_of(&self, index: usize) -> usize {
        self.first.load(Relaxed) + index * self.stride.load(Relaxed) as usize
    }
    /// The part under the heap's lock.
    ///
    /// # Safety
    /// The caller holds the lock of the heap that owns the span, or nobody else knows the span, and keeps no other
    /// reference to its inner part.
    #[allow(clippy::mut_from_ref)] // the lock makes it exclusive, not the borrow
    pub unsafe fn inner(&self) -> &mut Inner {
        // SAFETY: exclusive by the caller's promise.
        unsafe { &mut *self.inner.get() }
    }
}

/// The field of [`Span`] for blocks of `room` bytes.
#[inline(always)]
fn zero_size_value(room: usize) -> usize {
    tally::counted(room) + slot::LIVE as usize
}

/// The slots of a mapped block's span. None is live, so the fast path leaves the block to the slow one. There are as many as
/// in the longest side array: a look-up may have its index from what the record was before.
static UNUSED_SLOTS: [AtomicU16; SLOTS] = [const { AtomicU16::new(slot::FREE) }; SLOTS];

/// A doubly linked list of spans through their links of that number.
pub struct List<const LINKS: usize = BY_USE> {
    /// First span, or null.
    pub head: *mut Span,
    tail: *mut Span,
}
impl<const LINKS: usize> List<LINKS> {
    /// No spans.
    pub const fn new() -> Self {
        List { head: null_mut(), tail: null_mut() }
    }
    /// Puts `span` first.
    ///
    /// # Safety
    /// The owning heap's lock is held and the span is in no list of these links.
    pub unsafe fn push(&mut self, span: NonNull<Span>) {
        // SAFETY: the lock makes the inner parts exclusive; each reference ends with its statement.
        unsafe {
            span.as_ref().inner().links[LINKS] = Links { next: self.head, previous: null_mut() };
            match self.head.as_ref() {
                Some(head) => head.inner().links[LINKS].previous = span.as_ptr(),
                None => self.tail = span.as_ptr(),
            }
        }
        self.head = span.as_ptr();
    }
    /// Takes `span` out.
    ///
    /// # Safety
    /// The owning heap's lock is held and the span is in this list.
    pub unsafe fn remove(&mut self, span: NonNull<Span>) {
        // SAFETY: the lock makes the inner parts exclusive; each reference ends with its statement.
        unsafe {
            let Links { next, previous } = span.as_ref().inner().links[LINKS];
            match previous.as_ref() {
                Some(previous) => previous.inner().links[LINKS].next = next,
                None => self.head = next,
            }
            match next.as_ref() {
                Some(next) => next.inner().links[LINKS].previous = previous,
                None => self.tail = previous,
            }
        }
    }
    /// The span put in first.
    pub fn last(&self) -> Option<NonNull<Span>> {
        NonNull::new(self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    /// A look-up may have an index of what the record was, and read the rest of it when that is a mapped block, or none.
    #[test]
    fn a_record_that_changes_meanwhile_has_no_live_block() {
        let heap = Heap::create(&super::super::HeapParams::default()).unwrap();
        // SAFETY: zero bytes are a retired span.
        let span: Span = unsafe { core::mem::zeroed() };
        span.describe_large(heap, 4 << 20, 3 << 20, 3 << 20, 6);
        span.large_slot.store(slot::LIVE, Relaxed);
        for index in 0..SHAPES.iter().map(|shape| shape.capacity as usize).max().unwrap() {
            assert!(!slot::is_live(span.slot(index).load(Relaxed)), "block {index}");
        }
        span.retire();
        assert!(!slot::is_live(span.value(0)));
        heap.destroy();
    }
    /// What a look-up may find on processors that reorder stores: the kind of what the record is now, the room of what it was.
    #[test]
    fn a_mapped_block_without_room_holds_no_address() {
        use super::super::{owner_of_interior, page_map, size_class::SLICE};
        let heap = Heap::create(&super::super::HeapParams::default()).unwrap();
        let base = crate::os::map::map(SLICE, SLICE, 0).unwrap();
        // SAFETY: zero bytes are a retired span.
        let span: &'static Span = Box::leak(Box::new(unsafe { core::mem::zeroed() }));
        span.describe_large(heap, base, 0, 0, 6);
        span.large_slot.store(slot::LIVE, Relaxed);
        assert!(page_map::insert(base, base + SLICE, NonNull::from(span)));
        assert_eq!(owner_of_interior((base + 5) as *const u8).map(|found| found.1), None);
        page_map::remove(base, base + SLICE);
        span.retire();
        // SAFETY: mapped above.
        unsafe { crate::os::map::unmap(base, SLICE) };
        heap.destroy();
    }
    #[test]
    fn a_product_tells_starts_of_blocks() {
        for shape in SHAPES.iter().filter(|shape| shape.capacity > 1) {
            let reciprocal = reciprocal_of(shape.stride);
            for offset in 0..shape.stride * shape.capacity as u32 {
                let product = offset as u128 * reciprocal as u128;
                let start = offset % shape.stride == 0;
                assert_eq!((product as u64) < reciprocal, start, "{offset} of {}", shape.stride);
                assert!(!start || (product >> 64) as u32 == offset / shape.stride);
            }
        }
    }
}
