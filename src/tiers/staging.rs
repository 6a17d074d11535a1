//! Staging slots: where chunks are decoded before they go into a region, and encoded after they have come out.
//!
//! All regions of an engine with the same chunk size share one set of slots. A slot is *empty* (it has no pages) or
//! *full* (its pages are charged to the budget, their contents are unspecified). A [`Slot`] is the right to use one, and
//! its type says which of the two it is. It is passed on by value, it cannot be copied, and its holder must return it.
use super::by_age::ByAge;
use super::fault::pages::{NotTaken, Pages};
use super::mapping::{Advice, Errno, Mapping, Protection, Span, advise, advise_pages, discard};
use super::region::Region;
use super::table::ListKind;
use crate::os::lock::{Condvar, Mutex};
use crate::os::map::{HUGE_PAGE, PAGE};
use crate::tiers::codec::directory_size;
use core::num::NonZeroU8;
use core::sync::atomic::AtomicUsize;

/// The most slots of a set. Sets for large chunks have fewer.
const MOST: usize = 24;
const _: () = assert!(MOST <= u8::MAX as usize, "a slot's number is a byte");
/// A set should not take much more address space than this.
const MOST_BYTES: usize = 1 << 30;

/// The right to use one slot, which is empty or full.
#[derive(Debug)]
pub struct Slot<const FULL: bool>(u8);
/// A slot without pages.
pub type EmptySlot = Slot<false>;
/// A slot with pages.
pub type FullSlot = Slot<true>;
impl FullSlot {
    /// The slot as a number, to be kept in a chunk's record.
    pub fn into_number(self) -> NonZeroU8 {
        NonZeroU8::MIN.saturating_add(self.0)
    }
    /// The slot with a number from `into_number`.
    ///
    /// # Safety
    /// `number` came from `into_number` of a slot of the same set, and comes back only once.
    pub unsafe fn from_number(number: NonZeroU8) -> FullSlot {
        Slot(number.get() - 1)
    }
    /// In a forked child that did not inherit the slot's pages: the slot is empty.
    pub fn not_inherited(self) -> EmptySlot {
        Slot(self.0)
    }
}

#[derive(Default)]
struct Stock {
    empty: Stack<false>,
    full: Stack<true>,
}
#[derive(Default)]
struct Stack<const FULL: bool> {
    slots: [u8; MOST],
    count: usize,
}
impl<const FULL: bool> Stack<FULL> {
    fn push(&mut self, slot: Slot<FULL>) {
        self.slots[self.count] = slot.0;
        self.count += 1;
    }
    fn pop(&mut self) -> Option<Slot<FULL>> {
        self.count = self.count.checked_sub(1)?;
        Some(Slot(self.slots[self.count]))
    }
}

/// The slots of one chunk size.
pub struct Staging {
    chunk: usize,
    stride: usize,
    count: usize,
    slots: Mapping,
    nursery: Mapping,
    stock: Mutex<Stock>,
    returned: Condvar,
    /// Number of regions that use it and that the engine knows.
    pub regions: AtomicUsize,
    /// The regions with chunks in place, and with chunks in slots, which were read ahead.
    pub in_place: ByAge<Region>,
    /// See `in_place`.
    pub read_ahead: ByAge<Region>,
}

/// The alignment of regions and slots: chunks that are multiples of a huge page can then be huge pages.
pub fn alignment(chunk: usize) -> usize {
    if chunk.is_multiple_of(HUGE_PAGE) { HUGE_PAGE } else { PAGE }
}
/// Bytes from one slot to the next.
pub fn stride(chunk: usize) -> usize {
    (chunk + directory_size(chunk)).next_multiple_of(alignment(chunk))
}
impl Staging {
    /// How many of the mappings that a process may have a set takes at most. Each slot and each nursery is one, and so
    /// is what lies behind it (`adopt` says why).
    pub const MOST_MAPPINGS: usize = 4 * MOST;
    /// A set for chunks of `chunk` bytes.
    pub fn new(pages: &Pages, chunk: usize) -> Result<Staging, Errno> {
        let (alignment, stride) = (alignment(chunk), stride(chunk));
        let count = (MOST_BYTES / stride).clamp(4, MOST);
        let reserve =
            |length| Mapping::reserve(length, alignment, Protection::ReadWrite).ok_or(Errno(libc::ENOMEM));
        let (slots, nursery) = (reserve(count * stride)?, reserve(count * stride)?);
        let staging = Staging {
            chunk,
            stride,
            count,
            slots,
            nursery,
            stock: Mutex::sheltered(Stock::default()),
            returned: Condvar::new(),
            regions: AtomicUsize::new(0),
            in_place: ByAge::new(ListKind::Hot),
            read_ahead: ByAge::new(ListKind::Staged),
        };
        staging.adopt(pages)?;
        let mut stock = staging.stock.lock();
        (0..count as u8).rev().for_each(|i| stock.empty.push(Slot(i)));
        drop(stock);
        Ok(staging)
    }
    fn adopt(&self, pages: &Pages) -> Result<(), Errno> {
        for mapping in [&self.slots, &self.nursery] {
            advise(mapping.span(), Advice::NotDumped);
            // What lies between slots must have other advice than slots: then each slot is a mapping of its own when
            // its pages are made. Linux gives neighbours with the same advice one anon_vma; where pages move by
            // mremap all chunks in place would share it, and each move would wait for its lock while the system
            // looks through all of them for one page (reclaim, DAMON).
            if self.chunk.is_multiple_of(HUGE_PAGE) {
                advise(mapping.span(), Advice::SmallPages);
            }
            if pages.slots_are_private() {
                advise(mapping.span(), Advice::NotInherited);
            }
        }
        for index in 0..self.count {
            let slot = self.part(&self.slots, index);
            advise_pages(slot, self.chunk);
            advise_pages(self.part(&self.nursery, index), self.chunk);
            pages.adopt_slot(slot)?;
        }
        Ok(())
    }
    /// In a forked child: prepares the set anew if the parent's pages were not inherited. All slots are empty then.
    /// The address range itself is inherited, so that a handler of the program that runs before ours finds no hole to
    /// map into.
    pub fn renew(&self, pages: &Pages) -> Result<(), Errno> {
        for mapping in [&self.slots, &self.nursery] {
            // SAFETY: the ranges belong to this set alone, and no slot is in use while a process forks (fork.rs), so
            // nobody needs what the parent had in them. There is something in them only if the advice not to inherit
            // was refused.
            unsafe { discard(mapping.span())? };
        }
        self.adopt(pages)
    }
    /// Bytes of a chunk.
    pub fn chunk(&self) -> usize {
        self.chunk
    }
    /// How many slots there are.
    pub fn count(&self) -> usize {
        self.count
    }
    fn part(&self, mapping: &Mapping, index: usize) -> Span {
        mapping.part(index * self.stride, self.chunk)
    }
    /// The memory of a slot's chunk.
    pub fn span<const FULL: bool>(&self, slot: &Slot<FULL>) -> Span {
        self.part(&self.slots, usize::from(slot.0))
    }
    /// The nursery of a slot: see [`Pages::fill_slot`].
    pub fn nursery(&self, slot: &EmptySlot) -> Span {
        self.part(&self.nursery, usize::from(slot.0))
    }
    /// The bytes of a full slot: the chunk, and behind it room for what the codec adds.
    pub fn bytes<'a>(&'a self, slot: &'a mut FullSlot) -> &'a mut [u8] {
        let span = self.span(slot);
        // SAFETY: the borrow of the slot is the only right to its memory. The slot is full, so every page of it is
        // present.
        unsafe {
            core::slice::from_raw_parts_mut(
                span.start as *mut u8,
                self.stride.min(self.chunk + directory_size(self.chunk)),
            )
        }
    }

    /// A full slot, if there is one.
    pub fn take_full(&self) -> Option<FullSlot> {
        self.stock.lock().full.pop()
    }
    /// An empty slot, if there is one.
    pub fn take_empty(&self) -> Option<EmptySlot> {
        self.stock.lock().empty.pop()
    }
    /// How many full slots are in stock.
    pub fn full(&self) -> usize {
        self.stock.lock().full.count
    }
    /// Returns a slot that has pages.
    pub fn put_full(&self, slot: FullSlot) {
        self.stock.lock().full.push(slot);
        self.returned.notify_one();
    }
    /// Returns a slot that has none.
    pub fn put_empty(&self, slot: EmptySlot) {
        self.stock.lock().empty.push(slot);
        self.returned.notify_one();
    }
    /// Waits for a slot to be returned, for 20 ms at most, unless one is in stock.
    pub fn wait(&self) {
        let stock = self.stock.lock();
        if stock.empty.count + stock.full.count == 0 {
            self.returned.wait_awhile(stock, core::time::Duration::from_millis(20));
        }
    }
    /// Gives a slot pages of unspecified contents. The caller has charged them. On failure returns the slot.
    pub fn fill(&self, pages: &Pages, slot: EmptySlot) -> Result<FullSlot, (EmptySlot, Errno)> {
        match pages.fill_slot(self.span(&slot), self.nursery(&slot)) {
            Ok(()) => Ok(Slot(slot.0)),
            Err(errno) => Err((slot, errno)),
        }
    }
    /// Drops the pages of a slot. The caller gives back their charge.
    pub fn empty(&self, slot: FullSlot) -> EmptySlot {
        let span = self.span(&slot);
        // SAFETY: the span is memory of this set, and the caller holds its slot.
        let _ = unsafe { discard(span) };
        Slot(slot.0)
    }
    /// Moves a chunk's pages into a slot ([`Pages::take`]). On failure returns the slot, which is empty.
    ///
    /// # Safety
    /// The caller owns the chunk, which is present and as large as the slot.
    pub unsafe fn take(
        &self,
        pages: &Pages,
        chunk: Span,
        slot: EmptySlot,
    ) -> Result<FullSlot, (EmptySlot, NotTaken)> {
        // SAFETY: the chunk by the caller's promise. The slot is empty, and the caller's.
        match unsafe { pages.take(chunk, self.span(&slot), self.nursery(&slot)) } {
            Ok(()) => Ok(Slot(slot.0)),
            Err(failed) if failed.lost => Err((self.empty(Slot(slot.0)), failed)),
            Err(failed) => Err((slot, failed)),
        }
    }
    /// Makes the contents of a slot appear as a chunk ([`Pages::place`]). On failure returns the slot, and the chunk is
    /// absent.
    ///
    /// # Safety
    /// The caller owns the chunk, which is absent and as large as the slot.
    pub unsafe fn place(
        &self,
        pages: &Pages,
        slot: FullSlot,
        chunk: Span,
    ) -> Result<EmptySlot, (FullSlot, Errno)> {
        // SAFETY: the chunk by the caller's promise. The slot is full, and the caller's.
        match unsafe { pages.place(self.span(&slot), chunk) } {
            Ok(()) => Ok(Slot(slot.0)),
            Err(errno) => Err((slot, errno)),
        }
    }
    /// In a forked child that did not inherit the slots: marks all of them as empty. Returns how many were full.
    pub fn forget_full(&self) -> usize {
        let mut stock = self.stock.lock();
        let count = stock.full.count;
        while let Some(slot) = stock.full.pop() {
            stock.empty.push(slot.not_inherited());
        }
        count
    }
}
