//! Quarantine: freed blocks are filled with a pattern and held back, oldest out first, as soon as they are more than
//! [`MOST_BYTES`] together. A write after free is found when a block leaves; a read after free sees the pattern
//! (0xDD). Whole pages of blocks above 1 MiB cannot be touched at all meanwhile: that is SIGSEGV, at the instruction.
//!
//! A block in quarantine is not live, as its slot says, so that a second free is refused as everywhere. It
//! counts as held until it leaves.
use super::super::span::Span;
use super::super::tracking_table::give_room_back;
use super::super::{Block, Heap, page_map};
use super::trace;
use crate::error::{Result, fail};
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
use crate::os::map::PAGE;
use crate::os::records::{self, Records};
use crate::os::system;
use allocator_api2::vec::Vec;
use core::ptr::{NonNull, null_mut};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Bytes held back at most, records included: those of small blocks are longer than the blocks.
const MOST_BYTES: usize = 32 << 20;
/// What freed blocks are filled with.
const PATTERN: u8 = 0xDD;

struct Held {
    next: *mut Held,
    heap: &'static Heap,
    span: &'static Span,
    index: usize,
    start: usize,
    /// Size that was asked for.
    size: usize,
    capacity: usize,
    /// Bytes filled with the pattern.
    filled: usize,
    /// The pages at the end that have no access: where they begin, and how many bytes they are.
    closed: (usize, usize),
    allocated: u64,
    freed: u64,
}
impl Held {
    /// The record of a block whose slot was `value`.
    fn of(heap: &'static Heap, span: &'static Span, index: usize, value: u16, freed: u64) -> Held {
        let start = span.address_of(index);
        let Block { size, capacity, .. } = heap.describe(span, start, value);
        Held {
            next: null_mut(),
            heap,
            span,
            index,
            start,
            size,
            capacity,
            filled: capacity,
            closed: (0, 0),
            allocated: trace::freed(start),
            freed,
        }
    }
    /// What it takes of [`MOST_BYTES`].
    fn bytes(&self) -> usize {
        self.capacity + self.heap.prefix() + size_of::<Held>().next_power_of_two()
    }
    /// Fills the block with the pattern; the whole pages of a large one cannot be touched any more instead.
    ///
    /// # Safety
    /// Nobody owns the block.
    unsafe fn overwrite(&mut self) {
        if self.span.is_large() {
            let page = self.start.next_multiple_of(PAGE);
            let length = (self.start + self.capacity).saturating_sub(page) / PAGE * PAGE;
            // SAFETY: these are whole pages of a block that nobody owns. If the call fails, they are filled with the
            // pattern.
            if unsafe { system::protect(page, length, libc::PROT_NONE) }.is_ok() {
                self.closed = (page, length);
                self.filled = page - self.start;
            }
        }
        // SAFETY: this lies within the block, which nobody owns.
        unsafe { (self.start as *mut u8).write_bytes(PATTERN, self.filled) };
    }
}
/// The queue, and the bytes of its blocks and records.
struct Queue {
    first: *mut Held,
    last: *mut Held,
    bytes: usize,
    /// The records by the addresses of their blocks. Without memory for it one may be missing.
    places: HashMap<usize, NonNull<Held>, FixedState, Records>,
}
impl Queue {
    /// A record comes, at the end.
    ///
    /// # Safety
    /// It is live and in no queue, and nothing comes after it.
    unsafe fn enter(&mut self, record: NonNull<Held>) {
        // SAFETY: live, by the caller's promise.
        let held = unsafe { record.as_ref() };
        self.bytes += held.bytes();
        if self.places.try_reserve(1).is_ok() {
            self.places.insert(held.start, record);
        }
        // SAFETY: by the caller's promise.
        unsafe { self.append(record) };
    }
    /// One that is off the list goes.
    fn leave(&mut self, held: &Held) {
        self.bytes -= held.bytes();
        self.places.remove(&held.start);
        give_room_back(&mut self.places);
    }
    /// Puts a record at the end.
    ///
    /// # Safety
    /// It is live and in no queue, and nothing comes after it.
    unsafe fn append(&mut self, record: NonNull<Held>) {
        // SAFETY: records in the queue are live, and only reached under its lock.
        match unsafe { self.last.as_mut() } {
            Some(last) => last.next = record.as_ptr(),
            None => self.first = record.as_ptr(),
        }
        self.last = record.as_ptr();
    }
    /// Takes out the oldest record.
    fn pop(&mut self) -> Option<NonNull<Held>> {
        let oldest = NonNull::new(self.first)?;
        // SAFETY: records in the queue are live, and only reached under its lock.
        self.first = unsafe { oldest.as_ref() }.next;
        if self.first.is_null() {
            self.last = null_mut();
        }
        Some(oldest)
    }
}
// SAFETY: followed under the lock only.
unsafe impl Send for Queue {}
static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    first: null_mut(),
    last: null_mut(),
    bytes: 0,
    places: HashMap::with_hasher_in(FixedState::with_seed(0), Records),
});

/// See load.rs.
pub(super) static HOOKS: &dyn AtFork = &QUEUE;

/// A block that was written to after it was freed.
pub(super) struct Written {
    pub start: usize,
    pub size: usize,
    /// Offset of the first byte that differs from the pattern.
    pub offset: usize,
    pub allocated: u64,
    pub freed: u64,
}

/// Takes a live block in, and lets out the oldest blocks if there are too many bytes. Returns whether the block was
/// taken, which needs memory for its record, and the damaged ones among those that left. DoubleFree: another thread
/// freed the block at the same moment.
pub(super) fn take(
    heap: &'static Heap,
    span: &'static Span,
    index: usize,
    start: usize,
    freed_by: u64,
) -> Result<(bool, Vec<Written, Records>)> {
    let none = || Vec::new_in(Records);
    heap.ready_to_count()?; // so that counting below cannot fail
    let Some(record) = records::allocate(size_of::<Held>()) else { return Ok((false, none())) };
    let record = record.cast::<Held>();
    let Some(value) = heap.set_aside(span, index, start) else {
        // SAFETY: made above, and nobody has seen it.
        unsafe { records::release(record.cast(), size_of::<Held>()) };
        heap.count_refused();
        return fail!(DoubleFree, "the block was freed by another thread at the same moment");
    };
    let mut held = Held::of(heap, span, index, value, freed_by);
    // SAFETY: `set_aside` has just made the block not live, so nobody owns it.
    unsafe { held.overwrite() };
    heap.count_quarantined(held.size)?;

    let mut queue = QUEUE.lock();
    // SAFETY: a fresh record of that size, which nothing comes after.
    unsafe {
        record.write(held);
        queue.enter(record);
    }
    let mut damaged = none();
    while queue.bytes > MOST_BYTES
        && let Some(oldest) = queue.pop()
    {
        let_out(&mut queue, oldest, &mut damaged);
    }
    Ok((true, damaged))
}

/// Size of the block in quarantine at `start`, and the stacks that allocated and freed it.
pub(super) fn stacks_of(start: usize) -> Option<(usize, u64, u64)> {
    let queue = QUEUE.lock();
    // SAFETY: records in the queue are live, and only reached under its lock.
    let held = unsafe { queue.places.get(&start)?.as_ref() };
    Some((held.size, held.allocated, held.freed))
}

/// Lets out the blocks of all heaps that are `wanted`. Returns whether there were any, and the damaged ones.
pub(super) fn release(wanted: impl Fn(&Heap) -> bool) -> (bool, Vec<Written, Records>) {
    let mut damaged = Vec::new_in(Records);
    let mut any = false;
    let mut queue = QUEUE.lock();
    let mut next = queue.first;
    (queue.first, queue.last) = (null_mut(), null_mut());
    while let Some(record) = NonNull::new(next) {
        // SAFETY: records in the queue are live, and only reached under its lock.
        let held = unsafe { &mut *record.as_ptr() };
        next = core::mem::replace(&mut held.next, null_mut());
        if wanted(held.heap) {
            any = true;
            let_out(&mut queue, record, &mut damaged);
        } else {
            // SAFETY: the record was taken out of the queue above, and its `next` is null.
            unsafe { queue.append(record) };
        }
    }
    (any, damaged)
}

/// Position of the first byte that is not the pattern. It compares a cache line at a time, because the queue's lock
/// is held, for which fork waits.
fn first_difference(bytes: &[u8]) -> Option<usize> {
    let differs = |line: &[u8]| line.iter().fold(0, |seen, byte| seen | (byte ^ PATTERN)) != 0;
    let line = bytes.chunks(64).position(differs)? * 64;
    Some(line + bytes[line..].iter().position(|&byte| byte != PATTERN)?)
}

/// Gives a block that was taken out of the queue back to its heap. The queue's lock is held, so the heap cannot end
/// meanwhile.
fn let_out(queue: &mut Queue, record: NonNull<Held>, damaged: &mut Vec<Written, Records>) {
    // SAFETY: the record was taken out of the queue, so it is ours alone.
    let held = unsafe { record.read() };
    let (page, length) = held.closed;
    queue.leave(&held);
    // SAFETY: the block is nobody's, and readable that far.
    let bytes = unsafe { core::slice::from_raw_parts(held.start as *const u8, held.filled) };
    if let Some(offset) = first_difference(bytes)
        && damaged.try_reserve(1).is_ok()
    {
        damaged.push(Written {
            start: held.start,
            size: held.size,
            offset,
            allocated: held.allocated,
            freed: held.freed,
        });
    }
    // SAFETY: these are the pages that `overwrite` has closed.
    if length > 0 && unsafe { system::protect(page, length, libc::PROT_READ | libc::PROT_WRITE) }.is_err() {
        // The system has no room to join the mappings. The block stays out of use until its heap ends.
    } else {
        debug_assert!(page_map::span_of(held.start).is_some());
        held.heap.take_back(held.span, held.index);
    }
    // SAFETY: `take` made the record, and it was read above.
    unsafe { records::release(record.cast(), size_of::<Held>()) };
}
