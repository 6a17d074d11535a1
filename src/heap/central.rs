//! What all threads of a heap share: its spans. Everything here runs under the heap's lock.
//!
//! A span gives blocks from its bitmap first, and then *carves* further ones from memory that it has not used yet. Memory
//! counts as held from when blocks in it are carved. When every block of a span is back, its run is kept for the next span
//! (kept.rs).
use super::cache::ThreadCache;
use super::kept::Kept;
use super::magazine::Entry;
use super::runs::Needs;
use super::size_class::{CLASSES, Class, SHAPES, slices_to_grow};
use super::slot::{self, Slot};
use super::span::{BY_HEAP, BY_USE, Inner, List, Span};
use super::statistics::{AtReset, Counts};
use super::{Heap, page_map};
use crate::os::map;
use core::ptr::{NonNull, null_mut};

/// A thread passes over at most this many spans that belong to other threads before it takes one of them over.
const MOST_LEFT_TO_OTHERS: usize = 8;

/// A span made for a growing block may begin in memory that earlier blocks have touched. The block is left this many times
/// its size of it; what is beyond goes back to the system.
const MOST_DIRTY_TO_GROW: usize = 8;

/// Where a thread takes its next block.
pub enum Next {
    /// This span: one of its blocks is free, or one more can be carved. It is the thread's own span if it has one.
    Of(NonNull<Span>),
    /// A new span, which is to be made.
    OfNewSpan,
    /// A free block of another thread's span, because the budget has no room for anything else.
    OfAnother(NonNull<Span>),
}

/// The part of a heap that its lock guards.
pub struct Central {
    /// For each class, the spans with free or uncarved blocks.
    pub(super) partial: [List; CLASSES],
    /// Memory kept for reuse.
    pub kept: Kept,
    /// Every span that has blocks, and every mapped block.
    pub(super) all: List<BY_HEAP>,
    /// Whether a span was made of a kept run of which more is charged than its blocks take.
    pub(super) has_tails: bool,
    /// The threads' caches of this heap.
    pub caches: *mut ThreadCache,
    /// In a forked child: the caches of threads that it does not have (abandoned.rs).
    pub abandoned: *mut ThreadCache,
    /// Length of the list `caches`.
    pub number_of_caches: usize,
    /// Counts of caches that have ended.
    pub retired: Counts,
    /// The figures when statistics were last reset.
    pub at_reset: AtReset,
}
// SAFETY: the pointers are only followed under the lock.
unsafe impl Send for Central {}

impl Central {
    /// Without spans and caches.
    pub const fn new() -> Central {
        Central {
            partial: [const { List::new() }; CLASSES],
            kept: Kept::new(),
            all: List::new(),
            has_tails: false,
            caches: null_mut(),
            abandoned: null_mut(),
            number_of_caches: 0,
            retired: Counts::NONE,
            at_reset: AtReset { counts: Counts::NONE, live: 0 },
        }
    }

    /// The span of `class` that `cache` is to take blocks from. That is its own if it has one, because slots and small
    /// blocks that share a cache line should be used by one thread. One span is left for each other thread, which may still
    /// want it. If there are more spans than that, the next one is taken over.
    fn span_for(&self, cache: &ThreadCache, class: Class) -> Option<NonNull<Span>> {
        let mut next = NonNull::new(self.partial[class as usize].head);
        let mut others = self.number_of_caches.saturating_sub(1).min(MOST_LEFT_TO_OTHERS);
        while let Some(span) = next {
            // SAFETY: listed spans are live records; the lock is held, and the reference ends here.
            let (user, following) =
                unsafe { (span.as_ref().inner().user, span.as_ref().inner().links[BY_USE].next) };
            if others == 0 || user.is_null() || core::ptr::eq(user, cache) {
                break;
            }
            others -= 1;
            next = NonNull::new(following);
        }
        next
    }

    /// A span of `class` with free blocks, which take no more of the budget.
    fn with_free_blocks(&self, class: Class) -> Option<NonNull<Span>> {
        let mut next = NonNull::new(self.partial[class as usize].head);
        while let Some(span) = next {
            // SAFETY: listed spans are live records; the lock is held, and the reference ends here.
            let (free, following) =
                unsafe { (span.as_ref().inner().free, span.as_ref().inner().links[BY_USE].next) };
            if free > 0 {
                break;
            }
            next = NonNull::new(following);
        }
        next
    }

    /// Where `cache` is to take its next block of `class`. None: the budget has no room for a block. `movable` is how many
    /// bytes chunks of tiered memory hold and would give up for the block; it is 0 when a block is really taken.
    pub fn next_block(&self, heap: &Heap, cache: &ThreadCache, class: Class, movable: usize) -> Option<Next> {
        let fits = |bytes| self.kept.fits(heap, bytes, movable);
        let preferred = match self.span_for(cache, class) {
            Some(span) => {
                // SAFETY: listed spans are live records; the lock is held, and the reference ends here.
                let inner = unsafe { span.as_ref().inner() };
                (inner.free > 0 || fits(to_charge(inner, class, 1))).then_some(Next::Of(span))
            }
            None => {
                let slices = SHAPES[class as usize].slices as usize;
                let needs = Needs::of(class, slices);
                let serves = self.kept.run_serves(heap, slices, cache, needs, movable);
                (serves || fits(needs.sum())).then_some(Next::OfNewSpan)
            }
        };
        preferred.or_else(|| self.with_free_blocks(class).map(Next::OfAnother))
    }

    /// Takes up to `count` blocks of `class` for `cache`, stores its magazine's tag into their slots and gives each to
    /// `accept`. Returns how many; 0 when the budget or the system has no memory.
    pub fn take(
        &mut self,
        heap: &Heap,
        cache: &ThreadCache,
        class: Class,
        count: usize,
        mut accept: impl FnMut(Entry),
    ) -> usize {
        heap.take_over_abandoned(self);
        let tag = cache.magazine(class as usize).tag();
        let mut taken = 0;
        while taken < count {
            let span = match self.next_block(heap, cache, class, 0) {
                Some(Next::Of(span)) => {
                    // SAFETY: listed spans are live records; the lock is held, and the reference ends here.
                    unsafe { span.as_ref().inner() }.user = cache;
                    Some(span)
                }
                // Only for the first block: the rest of a batch is not worth a new span or another thread's blocks.
                Some(Next::OfNewSpan) if taken == 0 => self.new_span(heap, cache, class),
                Some(Next::OfAnother(span)) if taken == 0 => Some(span),
                _ => None,
            };
            let Some(span) = span else { break };
            // SAFETY: listed spans are live records; the lock is held, and references to inner parts end at once.
            let (span_ref, had_free) = unsafe { (span.as_ref(), span.as_ref().inner().free > 0) };
            let got = self.take_from(heap, span_ref, tag, count - taken, &mut accept);
            taken += got;
            // SAFETY: as above.
            let exhausted = unsafe {
                let inner = span_ref.inner();
                inner.free == 0 && inner.carved == SHAPES[class as usize].capacity
            };
            if exhausted {
                // SAFETY: it is in this list.
                unsafe {
                    self.partial[class as usize].remove(span);
                    span_ref.inner().listed = false;
                }
            } else if got == 0 && !had_free {
                break; // chunks of tiered memory have taken the room meanwhile
            }
        }
        taken
    }

    /// Makes a span of `class` for `cache` and lists it. If the system has no memory for one, returns any listed span.
    fn new_span(&mut self, heap: &Heap, cache: &ThreadCache, class: Class) -> Option<NonNull<Span>> {
        match self.make_span(heap, cache, class, SHAPES[class as usize].slices as usize) {
            Some(span) => {
                // SAFETY: just made, in no list; the lock is held.
                unsafe { self.list(span, class as usize) };
                Some(span)
            }
            None => NonNull::new(self.partial[class as usize].head),
        }
    }

    /// Takes blocks from one span: first free ones, then uncarved ones as far as the budget goes.
    fn take_from(
        &mut self,
        heap: &Heap,
        span: &Span,
        tag: u16,
        count: usize,
        accept: &mut impl FnMut(Entry),
    ) -> usize {
        // SAFETY: the lock is held by whoever has `self`; no other reference to the inner part is alive.
        let inner = unsafe { span.inner() };
        let mut hand_out =
            |index: usize| accept(Entry::new(span.address_of(index) as *mut u8, span.slot(index), 0));
        let mut taken = 0;
        let mut word = 0;
        while taken < count && inner.free > 0 {
            // SAFETY: some bit is set below the carved count, so `word` stays within the bitmap.
            let bits = unsafe { &mut *inner.run.bitmap.add(word) };
            if *bits == 0 {
                word += 1;
                continue;
            }
            let index = word * 64 + bits.trailing_zeros() as usize;
            *bits &= *bits - 1;
            inner.free -= 1;
            if slot::take(span.slot(index), tag) {
                hand_out(index);
                taken += 1;
            } else {
                self.free_too_many(heap); // a late free (slot.rs) has taken the block
            }
        }
        let class = span.class();
        let shape = &SHAPES[class as usize];
        let stride = shape.stride as usize;
        let mut wanted = (count - taken).min((shape.capacity - inner.carved) as usize);
        while wanted > 0 {
            let extra = to_charge(inner, class, wanted);
            if extra == 0 || self.kept.charge(heap, extra) {
                inner.charged += extra;
                break;
            }
            // Perhaps one block fits where a batch does not.
            wanted = if wanted > 1 && taken == 0 { 1 } else { 0 };
        }
        for index in inner.carved as usize..inner.carved as usize + wanted {
            heap.write_header(span.address_of(index), stride - heap.prefix(), class as u16);
            span.slot(index).set(tag);
            hand_out(index);
        }
        inner.carved += wanted as u16;
        taken + wanted
    }

    /// Puts a block back into its span. False if its slot does not hold `tag`, or if the bitmap has the block already
    /// because of a late free (slot.rs).
    pub fn put(&mut self, heap: &Heap, span: &'static Span, index: usize, tag: u16) -> bool {
        if !slot::put(span.slot(index), tag) {
            return false;
        }
        let class = span.class() as usize;
        // SAFETY: the lock is held and the span is this heap's.
        let (is_new, all, listed) = unsafe {
            let inner = span.inner();
            let word = &mut *inner.run.bitmap.add(index / 64);
            let bit = 1 << (index % 64);
            let is_new = *word & bit == 0;
            *word |= bit;
            inner.free += u16::from(is_new);
            (is_new, inner.free == inner.carved, inner.listed)
        };
        let unused = all && self.is_unused(heap, span);
        let pointer = NonNull::from(span);
        // SAFETY: the lock is held; `listed` says whether the span is in its class's list.
        unsafe {
            if unused {
                if listed {
                    self.partial[class].remove(pointer);
                }
                self.keep(pointer);
            } else if !listed {
                self.list(pointer, class);
            }
        }
        is_new
    }

    /// Whether a span is really unused whose bitmap says so. A late free (slot.rs) may have given one of its blocks to a
    /// thread. Where the slots say otherwise the bitmap is corrected.
    fn is_unused(&mut self, heap: &Heap, span: &Span) -> bool {
        // SAFETY: the lock is held and the span is this heap's.
        let inner = unsafe { span.inner() };
        for index in (0..inner.carved as usize).filter(|&index| span.slot(index).value() != slot::FREE) {
            // SAFETY: the bitmap has a bit for every block.
            unsafe { *inner.run.bitmap.add(index / 64) &= !(1 << (index % 64)) };
            inner.free -= 1;
            self.free_too_many(heap);
        }
        inner.free == inner.carved
    }
    /// Takes back the count of a free that was one too many. Neither the thread that freed nor the size is known here, so
    /// the figure of live bytes stays too low by that size.
    #[cold]
    fn free_too_many(&mut self, heap: &Heap) {
        heap.count_refused();
        self.retired.frees = self.retired.frees.wrapping_sub(1);
    }

    /// Puts a span into the list of its class.
    pub(super) unsafe fn list(&mut self, span: NonNull<Span>, class: usize) {
        // SAFETY: the caller holds the lock and the span is in no list of its class.
        unsafe {
            self.partial[class].push(span);
            span.as_ref().inner().listed = true;
        }
    }

    /// Takes a block of a single class whose span has address space to grow into, and marks it as cached. None if there is
    /// no memory for such a span, or no budget.
    pub fn take_to_grow(&mut self, heap: &Heap, cache: &ThreadCache, class: Class) -> Option<Entry> {
        let span = self.make_span(heap, cache, class, slices_to_grow(class))?;
        let tag = cache.magazine(class as usize).tag();
        // SAFETY: just made, in no list and known to nobody else.
        let inner = unsafe { span.as_ref().inner() };
        let needed = end_of(class, 1);
        if inner.charged > needed * MOST_DIRTY_TO_GROW {
            let extra = inner.charged - needed;
            // SAFETY: the span has no block yet, and its only one will end before this range.
            if unsafe { map::decommit(inner.run.base + needed, extra) } {
                inner.charged = needed;
                heap.discharge(extra);
            }
        }
        let mut taken = None;
        // SAFETY: the span was just made, and span records are never unmapped.
        self.take_from(heap, unsafe { span.as_ref() }, tag, 1, &mut |entry| taken = Some(entry));
        if taken.is_none() {
            // SAFETY: the lock is held, and the span has no blocks.
            unsafe { self.keep(span) };
        }
        taken
    }

    /// Gives the block of a single class another class, if the address space of its span and the budget allow it.
    ///
    /// # Safety
    /// The lock is held, the span is this heap's and its block live.
    pub unsafe fn change_class(&mut self, heap: &Heap, span: &'static Span, class: Class) -> bool {
        let stride = SHAPES[class as usize].stride as usize;
        // SAFETY: by the caller's promise.
        let inner = unsafe { span.inner() };
        let extra = end_of(class, 1).saturating_sub(inner.charged);
        if stride > inner.length || extra > 0 && !self.kept.charge(heap, extra) {
            return false;
        }
        inner.charged += extra;
        span.change_class(class);
        // The page map has this span already; this updates the class in its entries. It cannot fail, because their leaves
        // exist.
        page_map::insert(inner.run.base, inner.run.base + inner.length, NonNull::from(span))
    }

    /// Calls `each` with every live block: its span, address and slot value.
    pub fn for_each_live(&self, each: &mut dyn FnMut(&Span, usize, u16)) {
        let mut span = self.all.head;
        // SAFETY: listed spans are live records; the lock is held.
        while let Some(current) = unsafe { span.as_ref() } {
            // SAFETY: as above; the reference ends here.
            let (carved, next) = unsafe { (current.inner().carved, current.inner().links[BY_HEAP].next) };
            let blocks = if current.is_large() { 1 } else { carved as usize };
            for index in 0..blocks {
                let value = current.value(index);
                if slot::is_live(value) {
                    each(current, current.address_of(index), value);
                }
            }
            span = next;
        }
    }

    /// Calls `each` with every cache, and whether it has a thread: false for abandoned ones.
    pub fn for_each_cache(&self, each: &mut dyn FnMut(&ThreadCache, bool)) {
        for (list, is_used) in [(self.caches, true), (self.abandoned, false)] {
            let mut cache = list;
            // SAFETY: listed caches are live under the lock.
            while let Some(current) = unsafe { cache.as_ref() } {
                each(current, is_used);
                cache = current.next.get();
            }
        }
    }
}

/// Bytes of a span of `class` up to the end of its first `blocks`, in whole pages.
pub(super) fn end_of(class: Class, blocks: usize) -> usize {
    map::round_to_page(blocks * SHAPES[class as usize].stride as usize)
}
/// Bytes to charge before `blocks` more of a span are carved.
fn to_charge(span: &Inner, class: Class, blocks: usize) -> usize {
    end_of(class, span.carved as usize + blocks).saturating_sub(span.charged)
}

/// Size that was asked for, of a live block with `value` in its slot.
#[inline(always)]
pub fn requested_size(span: &Span, value: u16) -> usize {
    span.counted_size(slot::plain(value)) as u32 as usize
}
