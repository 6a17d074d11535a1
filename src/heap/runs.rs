//! How spans begin and end. A span is made from a kept run or from one of the arena; it is listed while it has blocks; and
//! it is put aside when it has none. All of this runs under the heap's lock, like central.rs.
//!
//! What a span takes beside its blocks (slots, bitmap, record) counts as held from when the span is made. It stays with the
//! run while the run is kept, as the touched memory does.
use super::arena;
use super::cache::ThreadCache;
use super::central::{Central, end_of};
use super::size_class::{Class, FIRST_SINGLE, MAX_STRIDE, SHAPES, SLICE};
use super::slot;
use super::span::{ALL, BY_HEAP, BY_USE, Span};
use super::{Heap, freed, page_map, records_of_spans, scavenger};
use crate::os::map;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

impl Central {
    /// Puts a span aside that has neither live nor cached blocks.
    pub(super) unsafe fn keep(&mut self, span: NonNull<Span>) {
        // SAFETY: the caller holds the lock and the span is in no class's list.
        unsafe {
            self.all.remove(span);
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

    /// Makes a span of `slices` for blocks of `class` that `cache` takes, from a kept run if there is one, else from the
    /// arena. It is not in the class's list yet.
    pub(super) fn make_span(
        &mut self,
        heap: &Heap,
        cache: &ThreadCache,
        class: Class,
        slices: usize,
    ) -> Option<NonNull<Span>> {
        let needs = Needs::of(class, slices);
        let mut serves = self.kept.run_serves(heap, slices, cache, needs, 0);
        if !serves && (class as usize) < FIRST_SINGLE && heap.put_back_singles(self, cache) {
            serves = self.kept.run_serves(heap, slices, cache, needs, 0);
        }
        let kept = if serves { self.kept.reuse_run(slices, cache) } else { None };
        let span = kept.or_else(|| self.make_run(heap, slices))?;
        // SAFETY: the span is in no list and known to nobody else.
        let span_ref = unsafe { span.as_ref() };
        // SAFETY: as above.
        let inner = unsafe { span_ref.inner() };
        inner.length = slices * SLICE;
        let extra = needs.bookkeeping.saturating_sub(inner.bookkeeping);
        if extra > 0 && !self.kept.charge(heap, extra) {
            // SAFETY: in no list; the lock is held.
            unsafe { self.kept.keep_run(span, slices, scavenger::now()) };
            return None;
        }
        inner.bookkeeping += extra;
        self.has_tails |= inner.charged > end_of(class, 1);
        inner.carved = 0;
        inner.free = 0;
        inner.user = cache;
        let capacity = SHAPES[class as usize].capacity as usize;
        // Beyond what is charged nothing was touched, so it reads as zero.
        span_ref.set_written(if capacity == 1 { inner.charged.saturating_sub(heap.prefix()) } else { ALL });
        let words = capacity.div_ceil(64);
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
            self.all.push(span);
            span_ref.inner().listed = false;
        }
        Some(span)
    }
    /// Makes free blocks at the ends of spans a tail, as if they had never been carved: few blocks that live long would keep
    /// whole spans.
    fn uncarve(&mut self) {
        for list in &self.partial[..FIRST_SINGLE] {
            let mut next = list.head;
            // SAFETY: listed spans are live records; the lock is held.
            while let Some(span) = unsafe { next.as_ref() } {
                // SAFETY: as above; the reference ends with this round.
                let inner = unsafe { span.inner() };
                next = inner.links[BY_USE].next;
                while let Some(last) = (inner.carved as usize).checked_sub(1) {
                    // SAFETY: the bitmap has a bit for every block.
                    let word = unsafe { &mut *inner.run.bitmap.add(last / 64) };
                    let bit = 1 << (last % 64);
                    // By the slot as well: a late free (slot.rs) may have taken the block.
                    if *word & bit == 0 || span.value(last) != slot::FREE {
                        break;
                    }
                    *word &= !bit;
                    inner.free -= 1;
                    inner.carved -= 1;
                    self.has_tails = true;
                }
            }
        }
    }

    /// Gives back what is charged for spans beyond the last block in use. Kept runs bring such memory along, above all those that
    /// were made ready with the heap. False if there is none.
    pub fn give_back_tails(&mut self, heap: &Heap) -> bool {
        self.uncarve();
        if !core::mem::take(&mut self.has_tails) {
            return false;
        }
        let (mut given, mut next) = (0, self.all.head);
        // SAFETY: listed spans are live records; the lock is held.
        while let Some(span) = unsafe { next.as_ref() } {
            // SAFETY: as above; the reference ends with this round.
            let inner = unsafe { span.inner() };
            next = inner.links[BY_HEAP].next;
            if span.is_large() {
                continue;
            }
            let needed = end_of(span.class(), inner.carved as usize);
            let tail = inner.charged.saturating_sub(needed);
            // SAFETY: all blocks of the span end before this range, and none comes to it while the lock is held.
            if tail > 0 && unsafe { map::decommit(inner.run.base + needed, tail) } {
                inner.charged = needed;
                heap.discharge(tail);
                given += tail;
            }
        }
        given > 0
    }

    fn make_run(&mut self, heap: &Heap, slices: usize) -> Option<NonNull<Span>> {
        let span = records_of_spans::take()?;
        let Some(run) = arena::take(slices, heap.huge_pages()) else {
            records_of_spans::give(span);
            return None;
        };
        // SAFETY: fresh and ours alone.
        let inner = unsafe { span.as_ref().inner() };
        (inner.run, inner.charged, inner.bookkeeping) = (run, 0, 0);
        Some(span)
    }

    /// Makes `bytes` ready, as far as the limit goes: populates runs and all their slots, whatever blocks they will be for,
    /// and keeps the runs until they are used or the heap is trimmed.
    pub fn make_ready(&mut self, heap: &Heap, bytes: usize) -> bool {
        let mut left = map::round_to_page(bytes);
        while left > 0 {
            let wanted = left.min(MAX_STRIDE);
            let slices = wanted.div_ceil(SLICE);
            let slots = slices * arena::SLOTS;
            let bookkeeping = arena::side_bytes(slices, slots) + slices * size_of::<Span>();
            let room = match heap.limit() {
                0 => usize::MAX,
                limit => {
                    limit.saturating_sub(heap.held()).saturating_sub(bookkeeping) / map::PAGE * map::PAGE
                }
            };
            let piece = wanted.min(room);
            if piece == 0 {
                break;
            }
            if !heap.charge(piece + bookkeeping) {
                return false;
            }
            let Some(span) = self.make_run(heap, slices) else {
                heap.discharge(piece + bookkeeping);
                return false;
            };
            // SAFETY: fresh and ours alone; then kept under the lock.
            let run = unsafe {
                let inner = span.as_ref().inner();
                (inner.charged, inner.bookkeeping) = (piece, bookkeeping);
                let run = inner.run;
                self.kept.keep_run(span, slices, scavenger::NEVER);
                run
            };
            if !map::populate(run.base, piece) || !map::populate(run.slots as usize, slots * size_of::<u16>())
            {
                return false;
            }
            left -= piece;
        }
        true
    }

    /// Releases everything. The heap is at its end, and its caches are gone.
    pub fn release_all(&mut self, heap: &Heap) {
        while let Some(span) = NonNull::new(self.all.head) {
            // SAFETY: listed spans are live records, and the lock is held. Nobody uses the blocks any more.
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
}

/// What a span takes before it gives its first block.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    /// Bytes of its run.
    pub run: usize,
    /// Bytes of its bookkeeping.
    pub bookkeeping: usize,
}
impl Needs {
    /// Of a span of `slices` for blocks of `class`.
    pub fn of(class: Class, slices: usize) -> Needs {
        let slots = skew(class as usize) + SHAPES[class as usize].capacity as usize;
        Needs { run: end_of(class, 1), bookkeeping: arena::side_bytes(slices, slots) + size_of::<Span>() }
    }
    /// Both.
    pub fn sum(self) -> usize {
        self.run + self.bookkeeping
    }
}

/// Where a span's slots begin among those of its run, if the run has more than the span needs. They do not begin at the
/// start of a page, because the first block does, and programs that use one block at a time use the first: see [`Span`]
/// about 4 KiB aliasing.
const fn skew(class: usize) -> usize {
    const SKEW: usize = 17 * 64 / 2;
    let shape = &SHAPES[class];
    if shape.capacity as usize + SKEW <= shape.slices as usize * arena::SLOTS { SKEW } else { 0 }
}
