//! What all threads of a heap share: its spans. Everything here runs under the heap's lock.
//!
//! A span gives blocks from its bitmap first and is then carved further: memory past `carved` was never touched and
//! does not count as held. When every block of a span is back, its run is kept for the next span (kept.rs).
use super::cache::ThreadCache;
use super::kept::Kept;
use super::magazine::Entry;
use super::size_class::{CLASSES, Class, FIRST_SINGLE, MAX_STRIDE, SHAPES, SLICE, slices_to_grow};
use super::slot::{self, Slot};
use super::span::{List, Span};
use super::statistics::Counts;
use super::{Heap, arena, freed, page_map, scavenger};
use crate::os::{lock::Mutex, map, records};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::Relaxed;

/// Spans with free blocks that are left to other threads, at most, before one of them is taken over.
const MOST_LEFT_TO_OTHERS: usize = 8;

/// A block that may grow has touched memory of an earlier one for this many times its size, at most.
const MOST_DIRTY_TO_GROW: usize = 8;

/// The part of a heap that its lock guards.
pub struct Central {
    /// Per class, spans with free or uncarved blocks.
    partial: [List; CLASSES],
    /// Memory kept for reuse.
    pub kept: Kept,
    /// Every span that has blocks, and every mapped block.
    all: *mut Span,
    /// The threads' caches of this heap.
    pub caches: *mut ThreadCache,
    /// In a forked child: those of threads that it does not have (abandoned.rs).
    pub abandoned: *mut ThreadCache,
    /// How many they are.
    pub number_of_caches: usize,
    /// Counts of caches that are gone.
    pub retired: Counts,
}
// SAFETY: the pointers are only followed under the lock.
unsafe impl Send for Central {}

impl Central {
    /// Nothing yet.
    pub const fn new() -> Central {
        Central {
            partial: [const { List::new() }; CLASSES],
            kept: Kept::new(),
            all: null_mut(),
            caches: null_mut(),
            abandoned: null_mut(),
            number_of_caches: 0,
            retired: Counts { hits: 0, misses: 0, frees: 0, largest: 0, allocated: 0 },
        }
    }

    /// The span of `class` with free blocks that `cache` is to take from. Its own, if there is one: slots, and small
    /// blocks, of one cache line should be used by one thread. Other threads have one each that they may still want;
    /// if there are more, the one looked at last is taken over.
    pub fn span_for(&self, cache: &ThreadCache, class: Class) -> Option<NonNull<Span>> {
        let mut next = NonNull::new(self.partial[class as usize].head);
        let mut others = self.number_of_caches.saturating_sub(1).min(MOST_LEFT_TO_OTHERS);
        while let Some(span) = next {
            // SAFETY: listed spans are live records; the lock is held, and the reference ends here.
            let (user, following) = unsafe { (span.as_ref().inner().user, span.as_ref().inner().next) };
            if others == 0 || user.is_null() || core::ptr::eq(user, cache) {
                break;
            }
            others -= 1;
            next = NonNull::new(following);
        }
        next
    }

    /// A span of `class` with blocks that need not be carved.
    pub fn with_free_blocks(&self, class: Class) -> Option<NonNull<Span>> {
        let mut next = NonNull::new(self.partial[class as usize].head);
        while let Some(span) = next {
            // SAFETY: listed spans are live records; the lock is held, and the reference ends here.
            let (free, following) = unsafe { (span.as_ref().inner().free, span.as_ref().inner().next) };
            if free > 0 {
                break;
            }
            next = NonNull::new(following);
        }
        next
    }

    /// Takes up to `count` blocks of `class` for `cache` and gives each to `accept`, marked as cached. Gives how many;
    /// 0 when the budget or the system has no memory.
    pub fn take(
        &mut self,
        heap: &Heap,
        cache: &ThreadCache,
        class: Class,
        count: usize,
        mut accept: impl FnMut(Entry),
    ) -> usize {
        heap.take_over_abandoned(self);
        let tag = cache.magazine(class as usize).tag.get();
        let mut taken = 0;
        while taken < count {
            let Some(mut span) = self.span_for(cache, class).or_else(|| {
                // A new span only for the first block: a batch need not cost more memory.
                if taken > 0 {
                    return None;
                }
                let slices = SHAPES[class as usize].slices as usize;
                let made = self.make_span(heap, cache, class, slices);
                // SAFETY: just made, in no list; the lock is held.
                made.inspect(|&span| unsafe { self.list(span, class as usize) })
                    .or(NonNull::new(self.partial[class as usize].head))
            }) else {
                break;
            };
            // SAFETY: the lock is held; the span is in a list of this heap, and the reference ends here.
            unsafe { span.as_ref().inner() }.user = cache;
            // SAFETY: as above.
            let mut got = self.take_from(heap, unsafe { span.as_ref() }, tag, count - taken, &mut accept);
            if got == 0
                && taken == 0
                && let Some(other) = self.with_free_blocks(class)
            {
                // The budget does not let the first be carved; another thread's has blocks.
                span = other;
                // SAFETY: as above.
                got = self.take_from(heap, unsafe { span.as_ref() }, tag, count, &mut accept);
            }
            // SAFETY: as above.
            let span_ref = unsafe { span.as_ref() };
            taken += got;
            // SAFETY: as above; the reference ends here.
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
            } else if got == 0 {
                break; // the budget does not let the span be carved
            }
        }
        taken
    }

    /// Takes blocks from one span: free ones, then uncarved ones as far as the budget goes.
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
                self.free_too_many(); // a thread was late with a free, and has the block
            }
        }
        let class = span.class();
        let shape = &SHAPES[class as usize];
        let stride = shape.stride as usize;
        let end_of = |blocks: usize| map::round_to_page(blocks * stride);
        let mut wanted = (count - taken).min((shape.capacity - inner.carved) as usize);
        while wanted > 0 {
            let extra = end_of(inner.carved as usize + wanted).saturating_sub(inner.charged);
            if extra == 0 || self.kept.charge(heap, extra) {
                inner.charged += extra;
                break;
            }
            // One block may still fit where a batch does not.
            wanted = if wanted > 1 && taken == 0 { 1 } else { 0 };
        }
        for index in inner.carved as usize..inner.carved as usize + wanted {
            heap.dress(span.address_of(index), stride - heap.prefix(), class as u16);
            span.slot(index).set(tag);
            hand_out(index);
        }
        inner.carved += wanted as u16;
        taken + wanted
    }

    /// Puts a block back into its span. False, with nothing changed, when its slot does not hold `tag`.
    pub fn put(&mut self, span: &'static Span, index: usize, tag: u16) -> bool {
        if !slot::put(span.slot(index), tag) {
            return false;
        }
        let class = span.class() as usize;
        // SAFETY: the lock is held and the span is this heap's.
        let (all, listed) = unsafe {
            let inner = span.inner();
            let word = &mut *inner.run.bitmap.add(index / 64);
            let bit = 1 << (index % 64);
            if *word & bit == 0 {
                inner.free += 1;
            } else {
                self.free_too_many(); // a thread was late with a free, and its block came here a second time
            }
            *word |= bit;
            (inner.free == inner.carved, inner.listed)
        };
        let unused = all && self.is_unused(span);
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
        true
    }

    /// Whether no block of a span whose blocks are all marked free is a thread's all the same: one that was late with
    /// a free. What is, is marked so.
    fn is_unused(&mut self, span: &Span) -> bool {
        // SAFETY: the lock is held and the span is this heap's.
        let inner = unsafe { span.inner() };
        for index in (0..inner.carved as usize).filter(|&index| span.slot(index).value() != slot::FREE) {
            // SAFETY: the bitmap has a bit for every block.
            unsafe { *inner.run.bitmap.add(index / 64) &= !(1 << (index % 64)) };
            inner.free -= 1;
            self.free_too_many();
        }
        inner.free == inner.carved
    }
    /// One free more was counted than there was, and nobody knows by whom.
    #[cold]
    fn free_too_many(&mut self) {
        self.retired.frees = self.retired.frees.wrapping_sub(1);
    }

    /// Enters a span into the list of those that have blocks of `class`.
    unsafe fn list(&mut self, span: NonNull<Span>, class: usize) {
        // SAFETY: the caller holds the lock and the span is in no list of its class.
        unsafe {
            self.partial[class].push(span);
            span.as_ref().inner().listed = true;
        }
    }

    /// Takes a block of a single class, marked as cached, whose span has address space to grow into. None where there
    /// is none to be had, or no budget.
    pub fn take_to_grow(&mut self, heap: &Heap, cache: &ThreadCache, class: Class) -> Option<Entry> {
        let span = self.make_span(heap, cache, class, slices_to_grow(class))?;
        let tag = cache.magazine(class as usize).tag.get();
        // SAFETY: just made, in no list and known to nobody else.
        let inner = unsafe { span.as_ref().inner() };
        let needed = map::round_to_page(SHAPES[class as usize].stride as usize);
        if inner.charged > needed * MOST_DIRTY_TO_GROW {
            let extra = inner.charged - needed;
            // SAFETY: no block lies there.
            if unsafe { map::decommit(inner.run.base + needed, extra) } {
                inner.charged = needed;
                heap.discharge(extra);
            }
        }
        let mut taken = None;
        // SAFETY: just made; records are never unmapped.
        self.take_from(heap, unsafe { span.as_ref() }, tag, 1, &mut |entry| taken = Some(entry));
        if taken.is_none() {
            // SAFETY: the lock is held, and the span has no blocks.
            unsafe { self.keep(span) };
        }
        taken
    }

    /// Gives the block of a single class another one, if the address space of its span and the budget allow it.
    ///
    /// # Safety
    /// The lock is held, the span is this heap's and its block live.
    pub unsafe fn change_class(&mut self, heap: &Heap, span: &'static Span, class: Class) -> bool {
        let stride = SHAPES[class as usize].stride as usize;
        // SAFETY: by the caller's promise.
        let inner = unsafe { span.inner() };
        let extra = map::round_to_page(stride).saturating_sub(inner.charged);
        if stride > inner.length || extra > 0 && !self.kept.charge(heap, extra) {
            return false;
        }
        inner.charged += extra;
        span.change_class(class);
        // The same entries once more, but for the class: leaves are there.
        page_map::insert(inner.run.base, inner.run.base + inner.length, NonNull::from(span))
    }

    /// Puts a span without live or cached blocks aside.
    unsafe fn keep(&mut self, span: NonNull<Span>) {
        // SAFETY: the caller holds the lock and the span is in no class's list.
        unsafe {
            self.unlink(span);
            let span_ref = span.as_ref();
            let (base, length) = (span_ref.inner().run.base, span_ref.inner().length);
            page_map::remove(base, base + length);
            if span_ref.class() as usize >= FIRST_SINGLE {
                freed::note(span_ref.first());
            }
            span_ref.retire();
            span_ref.inner().listed = false;
            self.kept.keep_run(span, length / SLICE, scavenger::now());
        }
    }

    /// A span of `slices` for blocks of `class` that `cache` takes, in no list of the class: from a kept run if there is one, else from the arena.
    fn make_span(
        &mut self,
        heap: &Heap,
        cache: &ThreadCache,
        class: Class,
        slices: usize,
    ) -> Option<NonNull<Span>> {
        let span = self.kept.reuse_run(slices, cache).or_else(|| self.make_run(heap, slices))?;
        // SAFETY: the span is in no list and known to nobody else.
        let span_ref = unsafe { span.as_ref() };
        // SAFETY: as above.
        let inner = unsafe { span_ref.inner() };
        inner.length = slices * SLICE;
        inner.carved = 0;
        inner.free = 0;
        inner.user = cache;
        let words = (SHAPES[class as usize].capacity as usize).div_ceil(64);
        // SAFETY: the run's side arrays have room for the capacity of every class.
        unsafe { inner.run.bitmap.write_bytes(0, words) };
        let (base, slots) = (inner.run.base, inner.run.slots);
        let usable = SHAPES[class as usize].stride as usize - heap.prefix();
        let slots = slots.wrapping_add(skew(class as usize));
        span_ref.describe_blocks(heap, class, base + heap.prefix(), usable, slots);
        if !page_map::insert(base, base + slices * SLICE, span) {
            span_ref.retire();
            // SAFETY: in no list.
            unsafe { self.kept.keep_run(span, slices, scavenger::now()) };
            return None;
        }
        // SAFETY: in no list until here; the lock is held.
        unsafe {
            self.link(span);
            span_ref.inner().listed = false;
        }
        Some(span)
    }

    fn make_run(&mut self, heap: &Heap, slices: usize) -> Option<NonNull<Span>> {
        let span = records_of_spans::take()?;
        let Some(run) = arena::take(slices, heap.huge_pages()) else {
            records_of_spans::give(span);
            return None;
        };
        // SAFETY: fresh and ours alone.
        let inner = unsafe { span.as_ref().inner() };
        (inner.run, inner.charged) = (run, 0);
        Some(span)
    }

    /// Makes `bytes` ready: populated runs that are kept until they are used or the heap is trimmed.
    pub fn make_ready(&mut self, heap: &Heap, bytes: usize) -> bool {
        // Whole pages, as far as the limit goes: it need not be a number of pages itself.
        let mut left = match heap.limit() {
            0 => map::round_to_page(bytes),
            limit => map::round_to_page(bytes).min(limit / map::PAGE * map::PAGE),
        };
        while left > 0 {
            let piece = left.min(MAX_STRIDE);
            let slices = piece.div_ceil(SLICE);
            if !heap.charge(piece) {
                return false;
            }
            let Some(span) = self.make_run(heap, slices) else {
                heap.discharge(piece);
                return false;
            };
            // SAFETY: fresh and ours alone; then kept under the lock.
            let base = unsafe {
                let inner = span.as_ref().inner();
                inner.charged = piece;
                let base = inner.run.base;
                self.kept.keep_run(span, slices, scavenger::NEVER);
                base
            };
            if !map::populate(base, piece) {
                return false;
            }
            left -= piece;
        }
        true
    }

    /// Calls `each` with every live block: its span, address and slot value.
    pub fn for_each_live(&self, each: &mut dyn FnMut(&Span, usize, u16)) {
        let mut span = self.all;
        // SAFETY: listed spans are live records; the lock is held.
        while let Some(current) = unsafe { span.as_ref() } {
            // SAFETY: as above; the reference ends here.
            let (carved, next) = unsafe { (current.inner().carved, current.inner().next_all) };
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

    /// Calls `each` with every thread's cache, abandoned ones among them.
    pub fn for_each_cache(&self, each: &mut dyn FnMut(&ThreadCache)) {
        for list in [self.caches, self.abandoned] {
            let mut cache = list;
            // SAFETY: listed caches are live under the lock.
            while let Some(current) = unsafe { cache.as_ref() } {
                each(current);
                cache = current.next.get();
            }
        }
    }

    /// Releases everything; the heap is at its end and its caches are gone.
    pub fn release_all(&mut self, heap: &Heap) {
        while let Some(span) = NonNull::new(self.all) {
            // SAFETY: live records under the lock; nobody uses the blocks any more.
            unsafe {
                if span.as_ref().is_large() {
                    self.remove_large(span);
                    self.release_large(heap, span);
                } else {
                    let carved = span.as_ref().inner().carved as usize;
                    (0..carved).for_each(|i| span.as_ref().slot(i).store(slot::FREE, Relaxed));
                    self.keep(span);
                }
            }
        }
        self.kept.release(heap, None);
    }

    /// Enters the span into the list of all.
    ///
    /// # Safety
    /// The lock is held and the span is not in that list.
    pub unsafe fn link(&mut self, span: NonNull<Span>) {
        // SAFETY: the lock makes inner parts exclusive; each reference ends with its statement.
        unsafe {
            span.as_ref().inner().next_all = self.all;
            span.as_ref().inner().previous_all = null_mut();
            if let Some(head) = self.all.as_ref() {
                head.inner().previous_all = span.as_ptr();
            }
        }
        self.all = span.as_ptr();
    }
    /// Removes the span from the list of all.
    ///
    /// # Safety
    /// The lock is held and the span is in that list.
    pub unsafe fn unlink(&mut self, span: NonNull<Span>) {
        // SAFETY: as in `link`.
        unsafe {
            let (next, previous) = (span.as_ref().inner().next_all, span.as_ref().inner().previous_all);
            match previous.as_ref() {
                Some(previous) => previous.inner().next_all = next,
                None => self.all = next,
            }
            if let Some(next) = next.as_ref() {
                next.inner().previous_all = previous;
            }
        }
    }
}

/// Where a span's slots begin in its run's: not at the start of a page, as the first block does. A processor takes a
/// store and a load at the same offset of two pages for the same place and makes the load wait; programs that use
/// one block at a time use the first.
const fn skew(class: usize) -> usize {
    const SKEW: usize = 17 * 64 / 2;
    let shape = &SHAPES[class];
    if shape.capacity as usize + SKEW <= shape.slices as usize * arena::SLOTS { SKEW } else { 0 }
}

/// Size asked for, of a live block whose slot holds `value`.
#[inline(always)]
pub fn requested_size(span: &Span, value: u16) -> usize {
    span.once_sized(value & !slot::MARKED) as u32 as usize
}

/// Span records: type-stable, so they have a free list of their own.
pub mod records_of_spans {
    use super::*;
    struct Spare(*mut Span);
    // SAFETY: only followed under the lock.
    unsafe impl Send for Spare {}
    static SPARE: Mutex<Spare> = Mutex::new(Spare(null_mut()));

    /// A record in no list and out of service. None when memory is short.
    pub fn take() -> Option<NonNull<Span>> {
        let mut spare = SPARE.lock();
        let Some(span) = NonNull::new(spare.0) else {
            drop(spare);
            // Zero bytes are a valid retired span.
            return Some(records::allocate(size_of::<Span>())?.cast());
        };
        // SAFETY: spare records are known to nobody else.
        spare.0 = unsafe { span.as_ref().inner() }.next;
        Some(span)
    }
    /// Puts a retired record back.
    pub fn give(span: NonNull<Span>) {
        let mut spare = SPARE.lock();
        // SAFETY: retired and in no list, so known to nobody else.
        unsafe { span.as_ref().inner() }.next = spare.0;
        spare.0 = span.as_ptr();
    }
    /// Around fork.
    pub fn lock() {
        core::mem::forget(SPARE.lock());
    }
    /// Around fork.
    ///
    /// # Safety
    /// `lock` was called before, by this thread.
    pub unsafe fn unlock() {
        // SAFETY: taken by `lock`, whose guard was forgotten.
        unsafe { SPARE.force_unlock() }
    }
}
