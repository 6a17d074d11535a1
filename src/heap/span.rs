//! Span records: what the heap knows about a run of slices, kept apart from the memory itself.
//!
//! Each block of a span has a 16-bit *slot* (slot.rs) in a side array. The slot says whether the block is free in the span,
//! cached by a thread, or live, and for a live block by how much the request was shorter than the room. So one load tells a
//! good free from a bad one and gives the exact size.
//!
//! The first cache line of a record is what a free reads. All fields but `inner` are atomic, because a wild pointer may be
//! looked up while another thread reuses the record. `inner` is only touched under the owning heap's lock.
use super::Heap;
use super::arena::{Run, SLOTS};
use super::cache::ThreadCache;
use super::sequence::Sequence;
use super::size_class::{Class, DEFAULT_ALIGNMENT, SHAPES};
use super::{slot, tally};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

/// `kind` of a span that has blocks of a size class.
pub const KIND_BLOCKS: u8 = 0;
/// `kind` of a span that is one mapped block.
pub const KIND_LARGE: u8 = 1;

/// Stands for "perhaps all": nothing is known about which bytes of a block were written to.
pub const ALL: usize = usize::MAX;

/// The value of the field `reciprocal` of [`Span`]. With a stride of 1 the only offset is 0, and any number serves.
const fn reciprocal_of(stride: u32) -> u64 {
    if stride == 1 { u64::MAX } else { u64::MAX / stride as u64 + 1 }
}

/// A run of slices, or one mapped block. Records are type-stable: memory that was once a span record stays one for ever.
///
/// The order of the fields is chosen for *4 KiB aliasing*: a processor that has just stored at some offset in a page
/// mistakes a load at the same offset in another page for a load of those bytes, and waits for the store. A free, and the
/// allocation before it, store to magazines, which begin at multiples of 32 bytes. So no field that a free reads lies at
/// such an offset here.
#[repr(C, align(64))]
pub struct Span {
    heap: AtomicPtr<Heap>,
    first: AtomicUsize,
    extent: AtomicUsize,
    /// 2^64 / stride, rounded up. An offset times this number has the quotient in its upper 64 bits, and its lower 64 bits
    /// are below this number exactly if the division leaves no remainder (Lemire, Kaser and Kurz, "Faster remainder by
    /// direct computation", 2019).
    reciprocal: AtomicU64,
    stride: AtomicU32,
    class: AtomicU8,
    kind: AtomicU8,
    /// log2 of the alignment that a block keeps when it is reallocated.
    pub alignment_log2: AtomicU8,
    /// What the slot of a live block of 0 bytes would hold, so this minus the slot is the size of a live block. In a span of
    /// a single class the slot of the live block is always `LIVE`, and this field changes with the block's size. It also
    /// includes the one block that a tally counts ([`tally::counted`]), so that a free need not add it.
    zero_size_value: AtomicUsize,
    slots: AtomicPtr<AtomicU16>,
    heap_id: AtomicU32,
    /// Its number grows whenever the record goes into service or out of it, and is odd while in service. It also grows, by two,
    /// when a span in service gets another class. See [`Span::whole`].
    changes: Sequence,
    /// Only for a span of one block: bytes at the start of the block that may have been written to; the rest of it reads as
    /// zero. [`ALL`] from when the block is handed out, and in spans of many blocks.
    written: AtomicUsize,
    /// For a mapped block: its slot, since it has no side array.
    pub large_slot: AtomicU16,
    /// For a mapped block: the size asked for.
    pub large_size: AtomicUsize,
    /// For a mapped block: its room.
    pub large_capacity: AtomicUsize,
    /// The part that the heap's lock guards.
    pub inner: UnsafeCell<Inner>,
}
// SAFETY: every field but `inner` is atomic, and `inner` is only reached under the heap's lock.
unsafe impl Sync for Span {}

/// The part of a span that the heap's lock guards.
pub struct Inner {
    /// The run; of a mapped block only its start is used.
    pub run: Run,
    /// Bytes of the run or of the mapping.
    pub length: usize,
    /// Bytes at the start of the run that count as held.
    pub charged: usize,
    /// Bytes of the run's slots, bitmap and record that count as held (runs.rs). 0 for a mapped block and for a spare record.
    pub bookkeeping: usize,
    /// Blocks that exist. The run beyond them was not touched for this span.
    pub carved: u16,
    /// Set bits of the bitmap: blocks free in the span.
    pub free: u16,
    /// Whether the span is in its class's list of spans with free blocks.
    pub listed: bool,
    /// The cache that took blocks last. It may be gone, so the pointer may be compared but not followed.
    pub user: *const ThreadCache,
    /// The scavenger's tick when the span was put aside.
    pub kept_since: u32,
    /// A number that grows with everything the heap puts aside, so it tells what was put aside first.
    pub kept_order: u64,
    /// Neighbours in the two lists, [`BY_USE`] and [`BY_HEAP`].
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
/// Index of the links for the list that the span is in at the moment: its class's, or that of kept spans.
pub const BY_USE: usize = 0;
/// Index of the links for the list of all spans of the heap.
pub const BY_HEAP: usize = 1;

impl Inner {
    /// Bytes that count as held.
    pub fn held(&self) -> usize {
        self.charged + self.bookkeeping
    }
}

impl Span {
    /// Sets the record up for blocks of `class`, with `usable` bytes each, the first of which begins at `first`.
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
        // The first block begins a prefix after the start of the run. (If the prefix is 0, it has 64 trailing zeroes.)
        let alignment_log2 = shape.alignment.trailing_zeros().min(heap.prefix().trailing_zeros());
        self.alignment_log2.store(alignment_log2 as u8, Relaxed);
        self.slots.store(slots, Relaxed);
        self.class.store(class, Relaxed);
        self.kind.store(KIND_BLOCKS, Relaxed);
        self.heap_id.store(heap.id() as u32, Relaxed);
        self.heap.store(core::ptr::from_ref(heap).cast_mut(), Release);
        self.begin_service(changes);
    }
    /// Sets the record up for one mapped block at `first`. The caller sets its slot.
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
    /// Runs `read` on the record as a reader of a sequence lock does, again if the record's service changed meanwhile. None: the
    /// record was out of service at some moment, and at that moment no pointer was a block of it. Without this, a look-up that
    /// is held up could combine a field of the old span with a field of the new one, perhaps of another class or another heap.
    pub fn whole<R>(&self, read: impl Fn() -> Option<R>) -> Option<R> {
        self.whole_in_service(read).map(|(found, _)| found)
    }
    /// Number of the service in which `holds` was true of the record; as [`Span::whole`].
    pub fn service_if(&self, holds: impl Fn() -> bool) -> Option<u32> {
        self.whole_in_service(|| holds().then_some(())).map(|((), service)| service)
    }
    #[inline(always)]
    fn whole_in_service<R>(&self, read: impl Fn() -> Option<R>) -> Option<(R, u32)> {
        loop {
            let (found, whole) = self.changes.read(|service| Some((read()?, service)));
            // A new service is an odd number: it follows on the one before, and the record is in service all the time.
            if whole || self.service().is_multiple_of(2) {
                return found.filter(|(_, service)| whole && service % 2 == 1);
            }
        }
    }
    /// Number of the record's service. Whoever reads the same number again knows that the record was in service all the
    /// time.
    #[inline(always)]
    pub fn service(&self) -> u32 {
        self.changes.number()
    }
    fn end_service(&self) -> u32 {
        let changes = self.changes.number();
        let out = changes.wrapping_add(changes % 2);
        self.changes.advance(out);
        out
    }
    fn begin_service(&self, changes: u32) {
        self.changes.advance(changes.wrapping_add(1));
    }
    /// Takes the record out of service: no pointer is a block of it any more.
    pub fn retire(&self) {
        self.end_service();
        self.extent.store(0, Relaxed);
        self.heap.store(null_mut(), Relaxed);
        self.kind.store(KIND_BLOCKS, Relaxed);
    }
    /// Gives a span of a single class another single class, and begins a new service, as fronts remember the class. Its block is
    /// live all the time, and other owners may look it up.
    pub fn change_class(&self, class: Class) {
        self.class.store(class, Relaxed);
        self.changes.advance(self.service().wrapping_add(2));
    }
    fn set_zero_size_value(&self, room: usize) {
        self.zero_size_value.store(zero_size_value(room), Relaxed);
    }
    /// Size of the live block with `value` in its slot, in the form that a tally adds: [`tally::counted`].
    #[inline(always)]
    pub fn counted_size(&self, value: u16) -> usize {
        self.zero_size_value.load(Relaxed).wrapping_sub(value as usize)
    }
    /// Notes the size of the block in a span of a single class.
    #[inline(always)]
    pub fn set_only_size(&self, size: usize) {
        self.set_zero_size_value(size);
    }
    /// Does what [`Span::set_only_size`] does where several owners may do it at the same moment. Returns the size noted
    /// before.
    pub fn replace_only_size(&self, size: usize) -> usize {
        let before = self.zero_size_value.swap(zero_size_value(size), Relaxed);
        before.wrapping_sub(slot::LIVE as usize) as u32 as usize
    }
    /// Notes that the block of a span of a single class was requested with `size` bytes at the usual alignment.
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
        // SAFETY: null, or a heap record. These are type-stable and never unmapped.
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
    /// How much of the only block may have been written to. Called when the block is handed out, and sets [`ALL`].
    pub fn take_written(&self) -> usize {
        self.written.swap(ALL, Relaxed)
    }
    /// Address of the first block.
    pub fn first(&self) -> usize {
        self.first.load(Relaxed)
    }
    /// The index of the block that starts at `address`. None: no block starts there.
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
    /// The slot of block `index`, which came from [`Span::index_of`].
    #[inline(always)]
    pub fn slot(&self, index: usize) -> &'static AtomicU16 {
        // SAFETY: the side array stays mapped for ever, and it covers every index below the capacity.
        unsafe { &*self.slots.load(Relaxed).add(index) }
    }
    /// The value of the slot of block `index`, also for a mapped block.
    pub fn value(&self, index: usize) -> u16 {
        if self.is_large() { self.large_slot.load(Relaxed) } else { self.slot(index).load(Relaxed) }
    }
    /// The slot of block `index`, to be changed, also for a mapped block.
    pub fn slot_to_change(&self, index: usize) -> &AtomicU16 {
        if self.is_large() { &self.large_slot } else { self.slot(index) }
    }
    /// Bytes from one block to the next; for a mapped block, its room.
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
    /// The part that the heap's lock guards.
    ///
    /// # Safety
    /// The caller holds the lock of the heap that owns the span, or nobody else knows the span. The caller keeps no other
    /// reference to the inner part meanwhile.
    #[allow(clippy::mut_from_ref)] // the lock makes it exclusive, not the borrow
    pub unsafe fn inner(&self) -> &mut Inner {
        // SAFETY: exclusive by the caller's promise.
        unsafe { &mut *self.inner.get() }
    }
}

/// The value of the field `zero_size_value` of [`Span`] for blocks of `room` bytes.
#[inline(always)]
fn zero_size_value(room: usize) -> usize {
    tally::counted(room) + slot::LIVE as usize
}

/// The slots of a mapped block's span. None is live, so the fast path leaves the block to the slow one. There are as many as
/// in the longest side array, because a look-up may come with an index that it computed from the previous span.
static UNUSED_SLOTS: [AtomicU16; SLOTS] = [const { AtomicU16::new(slot::FREE) }; SLOTS];

/// A doubly linked list of spans, through the links with that index.
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
    /// The last span: the one that was pushed first.
    pub fn last(&self) -> Option<NonNull<Span>> {
        NonNull::new(self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    /// A look-up may have computed its index from what the record was before, and read the rest when the record is a mapped
    /// block's or retired.
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
    /// Processors that reorder stores may let a look-up find the kind of the new span together with the room of the old one.
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
    /// A block that grows in its span is live all the time, which others may ask who own it too.
    #[test]
    fn a_look_up_finds_a_block_whose_class_changes_meanwhile() {
        let heap = Heap::create(&super::super::HeapParams::default()).unwrap();
        let block = heap.allocate(40_000, 0).unwrap();
        let span = super::super::span_of_block(block.as_ptr());
        let (class, service) = (span.class(), span.service());
        let looks = core::cell::Cell::new(0);
        let found = span.whole(|| {
            if looks.replace(looks.get() + 1) == 0 {
                span.change_class(class + 1);
            }
            Some(span.class())
        });
        assert_eq!((found, looks.get()), (Some(class + 1), 2));
        assert_ne!(span.service(), service, "so that fronts forget the block");
        span.change_class(class);
        heap.free(block.as_ptr()).unwrap();
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
