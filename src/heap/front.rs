//! The front: a place for one block before all magazines of a thread's cache.
//!
//! Programs often free the block they were given last and then ask for another like it. The front serves such pairs faster
//! than a magazine can. It remembers the block that it gave out last, with its span, slot and class, so freeing that block
//! looks nothing up. And an allocation need not wait for what the free before it has stored, as it must when both go through
//! a magazine.
//!
//! It serves the classes that quick calls ask for: the shared ones, and the smaller ones with a span for each block. A block in
//! the front counts as in its class's magazine: its slot has the magazine's tag (slot.rs).
//! - A free that finds the front empty puts its block there with all it has found out.
//! - An allocation of its class takes it. The front is empty then, and remembers the block.
//! - A free of the block that it remembers puts it back. What is remembered holds if the slot says that a block is live and the
//!   span was in the same service ever since ([`Span::service`]), whoever allocated and freed it meanwhile. While the block
//!   is in the front, its span stays in service.
//! - A late free by another thread (slot.rs) can take a block from the front, and the program may then get it from that thread
//!   and free it here once more. That free goes to the magazine: what the front holds is the free that lost, to be refused.
//! - A block of another class would stay for ever: slow paths put it into its magazine, and every thread passes one with each
//!   1024th free at the latest (tally.rs).
use super::magazine::{Entry, Labels};
use super::size_class::{CLASS_SCALE, CLASSES, FIRST_SINGLE, LAST_QUICK, SHARED};
use super::slot;
use super::span::Span;
use super::tally::Tally;
use core::cell::Cell;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Scaled classes are below this, addresses of blocks are not.
const CLASSES_END: usize = CLASSES * CLASS_SCALE;
/// Whether the front serves a class.
#[inline(always)]
fn serves(scaled_class: usize) -> bool {
    scaled_class < SHARED * CLASS_SCALE
        || (FIRST_SINGLE * CLASS_SCALE..=LAST_QUICK * CLASS_SCALE).contains(&scaled_class)
}
/// The key of a front that has never had a block. No block has this address.
const NO_BLOCK: usize = usize::MAX;

/// See the module's comment. The sentinel has a front of zero bytes, which is not empty and so knows no block: a free may ask
/// it, nothing else may be done with it.
#[repr(C)]
pub struct Front {
    /// While a block is in it, that block's scaled class; else the address of the block that it remembers, or [`NO_BLOCK`].
    /// So an allocation and a free have one comparison each. What is stored here is never computed from what was here: else
    /// each pair of calls would wait for the pair before.
    key: Cell<usize>,
    /// The block in it, or the one it remembers.
    address: Cell<usize>,
    /// Its slot; none in the sentinel.
    slot: Cell<Option<&'static AtomicU16>>,
    span: Cell<*const Span>,
    scaled_class: Cell<u32>,
    /// See [`Span::service`].
    service: Cell<u32>,
    /// Value of the block's slot before the block was freed. It comes here because hits do not read it, see
    /// [`ThreadCache`](super::cache::ThreadCache).
    value: Cell<u16>,
    unused: u16,
    labels: Cell<Labels>,
}

/// What a free came to.
pub enum Freed {
    /// The block is free now.
    Yes,
    /// A slow path has to free the block; nothing was changed.
    Slowly,
    /// The front does not know the block.
    Unknown,
}

impl Front {
    /// Empty: what it remembers is no block, with a slot that is [`slot::FREE`] for ever.
    pub fn begin(&self, no_block: &'static AtomicU16) {
        self.slot.set(Some(no_block));
        self.key.set(NO_BLOCK);
    }
    /// Whether the front has a block of this scaled class.
    #[inline(always)]
    pub fn holds(&self, scaled_class: usize) -> bool {
        self.key.get() == scaled_class
    }
    /// Gives out the block in the front, which shares its span, and counts a hit of `size` bytes. None: a slow path has to
    /// serve the call; nothing was changed.
    #[inline(always)]
    pub fn give(&self, tally: &Tally, size: usize) -> Option<NonNull<u8>> {
        let (pointer, slot) = self.take(tally, size)?;
        slot.store(self.labels.get().zero_size_value().wrapping_sub(size as u16), Relaxed);
        Some(pointer)
    }
    /// The same for a block that has a span of its own, which the caller tells what the block is for before it stores the live
    /// value into the slot.
    #[inline(always)]
    pub fn give_only(
        &self,
        tally: &Tally,
        size: usize,
    ) -> Option<(NonNull<u8>, &'static AtomicU16, &'static Span)> {
        let (pointer, slot) = self.take(tally, size)?;
        // SAFETY: it held a block until now, whose span is in service; and span records stay mapped for ever.
        Some((pointer, slot, unsafe { &*self.span.get() }))
    }
    #[inline(always)]
    fn take(&self, tally: &Tally, size: usize) -> Option<(NonNull<u8>, &'static AtomicU16)> {
        // SAFETY: it holds a block.
        let slot = unsafe { self.slot.get().unwrap_unchecked() };
        if slot.load(Relaxed) != self.labels.get().tag() || !tally.hit(size) {
            return None;
        }
        let address = self.address.get();
        self.key.set(address);
        // SAFETY: no block is at address 0.
        Some((unsafe { NonNull::new_unchecked(with_exposed_provenance_mut(address)) }, slot))
    }
    /// Frees `pointer` into the front, if that is the block it remembers.
    #[inline(always)]
    pub fn free(&self, tally: &Tally, pointer: *mut u8) -> Freed {
        // A pointer to nothing may be equal to a class, but then the block is in the front, and so not live.
        if self.key.get() != pointer.expose_provenance() {
            return Freed::Unknown;
        }
        let Some(slot) = self.slot.get() else { return Freed::Unknown };
        let value = slot.load(Relaxed);
        if !slot::is_plainly_live(value) {
            return Freed::Unknown;
        }
        // SAFETY: it remembers a block, as no other slot is live, and span records stay mapped for ever.
        let span = unsafe { &*self.span.get() };
        if span.service() != self.service.get() {
            return Freed::Unknown;
        }
        if !tally.quick_free(span.counted_size(value)) {
            return Freed::Slowly;
        }
        self.value.set(value);
        self.key.set(self.scaled_class.get() as usize);
        slot.store(self.labels.get().tag(), Relaxed);
        Freed::Yes
    }
    /// Whether a block of this scaled class may be put into the front.
    #[inline(always)]
    pub fn has_room(&self, scaled_class: usize) -> bool {
        self.key.get() >= CLASSES_END && serves(scaled_class)
    }
    /// Puts a block into the front. The caller has checked that there is room, and that the block is one of the span's in this
    /// service; it sets the block's slot afterwards.
    pub fn keep(&self, span: &Span, service: u32, entry: Entry, scaled_class: usize, labels: Labels) {
        self.address.set(entry.pointer.expose_provenance());
        self.slot.set(Some(entry.slot()));
        self.value.set(entry.value());
        self.span.set(span);
        self.scaled_class.set(scaled_class as u32);
        self.service.set(service);
        self.labels.set(labels);
        self.key.set(scaled_class);
    }
    /// Takes the block out of the front, if its class is `first` or a later one: its class and its entry.
    pub fn remove(&self, first: usize) -> Option<(usize, Entry)> {
        let scaled_class = self.key.get();
        let wanted = (first * CLASS_SCALE..CLASSES_END).contains(&scaled_class);
        let slot = self.slot.get().filter(|_| wanted)?;
        self.key.set(self.address.get());
        let pointer = with_exposed_provenance_mut(self.address.get());
        Some((scaled_class / CLASS_SCALE, Entry::new(pointer, slot, self.value.get())))
    }
}
