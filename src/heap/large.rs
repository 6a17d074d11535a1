//! Large blocks: those above 1 MiB, and those aligned to more than spans can be. Each is a mapping of its own.
//!
//! From 2 MiB up they start on a huge page and ask for huge pages. A freed mapping is kept for the next blocks (kept.rs). A
//! block that grows is extended in place, or moved by its page tables without a copy.
use super::central::Central;
use super::kept::RangeRequest;
use super::size_class::SLICE;
use super::slot;
use super::span::{ALL, Span};
use super::*;
use crate::error::fail;
use crate::os::map::{self, HUGE_PAGE, Resized, round_to_page};
use crate::os::numa;

/// A kept range is made longer for a block if it has at least one part in so many of what the block needs. So no more is
/// asked of the system, which does not refuse here what it cannot have, than a few times what it has given already.
const LEAST_TO_LENGTHEN: usize = 4;

/// Where a block lies in its mapping, and how the mapping is aligned.
#[derive(Clone, Copy)]
struct Placement {
    /// Distance from the start of the mapping to the block.
    lead: usize,
    /// The start of the mapping plus `offset` is a multiple of this, which is at least a slice.
    alignment: usize,
    /// See `alignment`: 0, or a slice.
    offset: usize,
}
impl Placement {
    fn of(heap: &Heap, size: usize, alignment: usize) -> Placement {
        let page = if size >= HUGE_PAGE { HUGE_PAGE } else { SLICE };
        match heap.prefix() {
            0 => Placement { lead: 0, alignment: alignment.max(page), offset: 0 },
            // The prefix and the beginning of the block share a slice, or the prefix has a slice to itself.
            prefix if alignment < SLICE => {
                Placement { lead: prefix.next_multiple_of(alignment), alignment: page, offset: 0 }
            }
            _ => Placement { lead: SLICE, alignment, offset: SLICE },
        }
    }
    fn map(self, length: usize) -> Option<usize> {
        map::map_to_fill(length, self.alignment, self.offset)
    }
    /// Reserves address space to which a mapping can be moved.
    fn reserve(self, length: usize) -> Option<usize> {
        map::map(length, self.alignment, self.offset)
    }
    fn request(self, length: usize) -> RangeRequest {
        RangeRequest { length, alignment: self.alignment, offset: self.offset }
    }
}

impl Heap {
    pub(super) fn allocate_large(
        &'static self,
        size: usize,
        alignment: usize,
        slack: usize,
    ) -> Result<NonNull<u8>> {
        // Counting needs the thread's cache. A block that cannot be counted is not handed out, so the cache is made first.
        self.ready_to_count()?;
        let (place, length) = self.mapping_for(size, alignment, slack);
        let mut central = self.central.lock();
        let kept = central
            .kept
            .reuse_range(place.request(length))
            .or_else(|| self.lengthen_kept(&mut central, length, place));
        let fresh = kept.is_none();
        let span = match kept {
            Some(span) => span,
            None => match self.make_large(&mut central, length, place) {
                Some(span) => span,
                None => {
                    drop(central);
                    return self.out_of_memory(size);
                }
            },
        };
        // SAFETY: the span is in no list and known to nobody else, and the lock is held.
        let (span_ref, inner) = unsafe { (span.as_ref(), span.as_ref().inner()) };
        let (base, length) = (inner.run.base, inner.length);
        let first = base + place.lead;
        let kept_alignment = alignment.max(DEFAULT_ALIGNMENT).trailing_zeros() as u8;
        span_ref.describe_large(self, first, size, length - place.lead, kept_alignment);
        span_ref.set_written(if fresh { 0 } else { ALL });
        debug::write_guard(first as *mut u8, size);
        span_ref.large_slot.store(slot::LIVE, Relaxed);
        if !page_map::insert(base, base + length, span) {
            span_ref.retire();
            // SAFETY: the span is retired and in no list; the lock is held.
            unsafe { central.release_large(self, span) };
            drop(central);
            return self.out_of_memory(size);
        }
        // SAFETY: the span is in no list yet; the lock is held.
        unsafe { central.all.push(span) };
        drop(central);
        if fresh && self.placed.load(Relaxed) {
            // Only advice: a page that ends up on another node works as well.
            let _ = numa::bind_to_current_node(NonNull::new(base as *mut u8).expect("mapped"), length);
        }
        self.write_header(first, length - place.lead, u16::MAX);
        self.count(|cache| cache.count_allocation(self, size, false))?;
        Ok(NonNull::new(first as *mut u8).expect("mappings are not at address 0"))
    }

    /// Whether [`Heap::allocate_large`] would find room. `movable` as in [`Central::next_block`].
    pub(super) fn has_room_for_large(
        &self,
        central: &Central,
        size: usize,
        alignment: usize,
        slack: usize,
        movable: usize,
    ) -> bool {
        let (place, length) = self.mapping_for(size, alignment, slack);
        central.kept.range_for(place.request(length)).is_some() || central.kept.fits(self, length, movable)
    }

    /// Where a block lies in its mapping, and how long the mapping has to be.
    fn mapping_for(&self, size: usize, alignment: usize, slack: usize) -> (Placement, usize) {
        let place = Placement::of(self, size, alignment);
        (place, round_to_page(place.lead + size + slack))
    }

    /// Has the system make the longest kept range as long as a block needs it. Its pages move along, so only what it lacked
    /// costs page faults, and no other range has to go for the block.
    fn lengthen_kept(&self, central: &mut Central, length: usize, place: Placement) -> Option<NonNull<Span>> {
        let request = place.request(length);
        let longest = central.kept.longest_for(request);
        if longest < length / LEAST_TO_LENGTHEN {
            return None;
        }
        let span = central.kept.reuse_range(RangeRequest { length: longest, ..request })?;
        // SAFETY: the span is in no list and known to nobody else, and the lock is held.
        let inner = unsafe { span.as_ref().inner() };
        let (base, old) = (inner.run.base, inner.length);
        let most_in_use = central.kept.most_in_use();
        if central.kept.charge(self, length - old) {
            if let Some(now) = self.move_or_stay(base, old, length, place, || ()) {
                if length >= HUGE_PAGE {
                    map::advise_huge(now, length);
                }
                (inner.run.base, inner.length, inner.charged) = (now, length, length);
                return Some(span);
            }
            // It was joined from several mappings, or the system is short of addresses.
            central.kept.take_back(self, length - old, most_in_use);
        }
        // SAFETY: as above.
        unsafe { central.kept.keep_range(self, span) };
        None
    }

    fn make_large(&self, central: &mut Central, length: usize, place: Placement) -> Option<NonNull<Span>> {
        let most_in_use = central.kept.most_in_use();
        if !central.kept.charge(self, length) {
            return None;
        }
        let span = records_of_spans::take();
        let base = span.and_then(|_| {
            place.map(length).or_else(|| {
                // Perhaps the system lacks just what is kept here.
                (central.kept.release(self, None) > 0).then(|| place.map(length))?
            })
        });
        let (Some(span), Some(base)) = (span, base) else {
            span.inspect(|&span| records_of_spans::give(span));
            central.kept.take_back(self, length, most_in_use);
            return None;
        };
        if length >= HUGE_PAGE {
            map::advise_huge(base, length);
        }
        // SAFETY: the record is fresh and known to nobody else.
        let inner = unsafe { span.as_ref().inner() };
        (inner.run.base, inner.length, inner.charged) = (base, length, length);
        (inner.bookkeeping, inner.kept_since) = (0, 0);
        Some(span)
    }

    pub(super) fn free_large(&'static self, span: &'static Span, pointer: *mut u8) -> Result<()> {
        self.ready_to_count()?;
        let mut central = self.central.lock();
        if !self.has_live_mapping(span, pointer) {
            drop(central);
            self.counters.refused.fetch_add(1, Relaxed);
            return fail!(DoubleFree, "the block was freed by another thread at the same moment");
        }
        span.large_slot.store(slot::FREE, Release);
        let size = span.large_size.load(Relaxed);
        // SAFETY: the block was live until now, so its span is in the list; the lock is held.
        unsafe {
            central.remove_large(NonNull::from(span));
            central.kept.keep_range(self, NonNull::from(span));
        }
        // Noted while the lock is held. Once others can get the range, tiered memory may begin here and have the note
        // forgotten; a note made after that would stay.
        freed::note(pointer as usize);
        drop(central);
        self.count(|cache| cache.tally.free(self, size))
    }

    /// Resizes the block to `size` bytes, in place or by moving its pages. Returns where the block is then and the size it
    /// had before. None: it has to be copied into a new block.
    ///
    /// - A `pinned` block has other owners, who may look it up meanwhile, so it keeps its mapping.
    /// - What a `marked` block carries moves along.
    /// - OutOfMemory leaves the block as it was. DoubleFree: another thread has freed it.
    pub(super) fn resize_large(
        &'static self,
        span: &'static Span,
        pointer: *mut u8,
        size: usize,
        pinned: bool,
        marked: bool,
    ) -> Result<Option<(*mut u8, usize)>> {
        let alignment = 1 << span.alignment_log2.load(Relaxed);
        if !pinned && self.class_for(size, alignment).is_some() {
            return Ok(None);
        }
        let first = pointer as usize;
        let mut central = self.central.lock();
        if !self.has_live_mapping(span, pointer) {
            drop(central);
            return fail!(DoubleFree, "the block was freed by another thread at the same moment");
        }
        // Read under the lock: another owner may have given the block another size since it was looked up.
        let size_before = span.large_size.load(Relaxed);
        if pinned {
            let capacity = span.large_capacity.load(Relaxed);
            let fits = size <= capacity;
            if fits {
                span.large_size.store(size, Relaxed);
                debug::resized(pointer, size, capacity);
            }
            return Ok(fits.then_some((pointer, size_before)));
        }
        // SAFETY: the lock is held.
        let inner = unsafe { span.inner() };
        let (base, old) = (inner.run.base, inner.length);
        let lead = first - base;
        let new = round_to_page(lead + size);
        let most_in_use = central.kept.most_in_use();
        if new > old && !central.kept.charge(self, new - old) {
            drop(central);
            return self.out_of_memory(size);
        }
        // Removed before the range changes: what the range gives up may become another heap's at once.
        page_map::remove(base, base + old);
        let mut relocation = None;
        let before_moving = || relocation = marked.then(|| attributes::begin_relocation(first as *const u8));
        let Some(now) =
            self.move_or_stay(base, old, new, Placement::of(self, size, alignment), before_moving)
        else {
            // The system does not move a range that was joined from several mappings. It has to be copied.
            page_map::insert(base, base + old, NonNull::from(span));
            relocation.into_iter().for_each(attributes::Relocation::cancel);
            central.kept.take_back(self, new.saturating_sub(old), most_in_use);
            return Ok(None);
        };
        page_map::insert(now, now + new, NonNull::from(span));
        if new < old {
            self.discharge(old - new);
        }
        if new >= HUGE_PAGE && new > old {
            map::advise_huge(now, new);
        }
        (inner.run.base, inner.length, inner.charged) = (now, new, new);
        span.describe_large(self, now + lead, size, new - lead, alignment.trailing_zeros() as u8);
        drop(central);
        let arrived = (now + lead) as *const u8;
        relocation.into_iter().for_each(|relocation| relocation.finish(arrived, size));
        self.write_header(now + lead, new - lead, u16::MAX);
        Ok(Some(((now + lead) as *mut u8, size_before)))
    }

    /// Resizes a mapping in place, or else moves it to where `place` wants it. `moving` runs before anybody else can get the
    /// old range. Returns the mapping's address, for which the page map is ready.
    fn move_or_stay(
        &self,
        base: usize,
        old: usize,
        new: usize,
        place: Placement,
        moving: impl FnOnce(),
    ) -> Option<usize> {
        if new == old {
            return Some(base);
        }
        if page_map::make_ready(base, base + new) {
            // SAFETY: this is the whole mapping of a block, and the block's owner does not use it while it is reallocated.
            match unsafe { map::resize(base, old, new) } {
                Resized::Done => return Some(base),
                Resized::Several => return None,
                Resized::NoRoom => {}
            }
        }
        let target = place.reserve(new)?;
        // SAFETY: the old range is the owner's, as above. The target was mapped for this, and nobody has seen it.
        unsafe {
            if !page_map::make_ready(target, target + new) {
                map::unmap(target, new);
                return None;
            }
            moving();
            map::relocate(base, old, target, new).then_some(target)
        }
    }
}

impl Central {
    /// Takes a mapped block out of the page map and out of the list of all spans, and retires its span.
    ///
    /// # Safety
    /// The lock is held, and the span is in both.
    pub unsafe fn remove_large(&mut self, span: NonNull<Span>) {
        // SAFETY: by the caller's promise.
        unsafe {
            self.all.remove(span);
            let inner = span.as_ref().inner();
            page_map::remove(inner.run.base, inner.run.base + inner.length);
            span.as_ref().retire();
        }
    }

    /// Unmaps a retired mapping, and gives its record back.
    ///
    /// # Safety
    /// The lock is held, and the span is retired and in no list.
    pub unsafe fn release_large(&mut self, heap: &Heap, span: NonNull<Span>) {
        // SAFETY: by the caller's promise nobody uses the mapping.
        unsafe {
            let inner = span.as_ref().inner();
            heap.discharge(inner.charged);
            map::unmap(inner.run.base, inner.length);
        }
        records_of_spans::give(span);
    }
}
