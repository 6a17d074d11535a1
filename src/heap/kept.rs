//! Memory that a heap keeps for reuse: runs of ended spans, and ranges of ended mappings.
//!
//! Kept memory is dirty and counts as held. It goes back to the system
//! - when it is too old (scavenger.rs);
//! - when the limit or the system needs it;
//! - on trim;
//! - when it would raise the heap's peak. What is kept and what is in use together never grow beyond the most that was in
//!   use lately (but for [`LEEWAY`]). Lately, because blocks that grow or shrink while they live leave ranges that do not
//!   serve the next ones. A program that goes on so would hold as much as at its peak, long after that.
//!
//! Ranges are kept like the free pages of a page heap: cut where a smaller block is wanted, joined with their neighbours
//! when they come back. All of it runs under the heap's lock.
use super::cache::ThreadCache;
use super::runs::Needs;
use super::size_class::{MAX_STRIDE, SLICE};
use super::span::{BY_USE, List, Span};
use super::{Heap, arena, records_of_spans, scavenger};
use crate::os::map::{self, HUGE_PAGE};
use core::ptr::NonNull;

const MOST_SLICES: usize = MAX_STRIDE / SLICE;
/// Where ranges stand among the lists of runs, of which none has 0 slices.
const RANGES: usize = 0;
/// Kept memory and memory in use may exceed the most in use by this much, so that small heaps are left alone.
const LEEWAY: usize = 1 << 20;
/// Once the most in use is history, one charge gives back at most so many times its own bytes: no thread has to wait for all
/// of it.
const AT_ONCE: usize = 4;
/// How many of the latest runs of a length are searched for one that the thread itself has used before.
const MOST_OF_OTHERS: usize = 8;
/// A heap keeps at most one part in so many of the machine's memory.
const SHARE: usize = 8;
/// A heap keeps at most so many ranges, all of which are looked at when a block comes or goes.
const MOST_RANGES: usize = 1024;

/// See the module's comment.
pub struct Kept {
    /// What ages, the latest first: runs by their number of slices, and the ranges of mappings at [`RANGES`].
    aging: [List; MOST_SLICES + 1],
    /// Runs that were made ready with the heap, by their number of slices, until they are used for the first time.
    ready: [List; MOST_SLICES + 1],
    /// Number of ranges.
    ranges: usize,
    /// Bytes of all runs and ranges that count as held.
    bytes: usize,
    most_in_use: MostInUse,
    /// How often something was put aside so far.
    occasions: u64,
}

/// The most bytes that were in use at once lately: in this time and in the one before, each as long as memory is kept. Time
/// passes while something is kept.
#[derive(Clone, Copy)]
pub struct MostInUse {
    now: usize,
    before: usize,
    /// The tick at which this time began.
    since: u32,
}
impl MostInUse {
    const NOTHING: MostInUse = MostInUse { now: 0, before: 0, since: 0 };
    /// Notes at `tick` that `in_use` bytes, of which `more` are new, are in use. Gives the most.
    fn note(&mut self, tick: u32, in_use: usize, more: usize) -> usize {
        let age = tick.saturating_sub(self.since);
        if age >= scavenger::KEEP {
            let old = in_use - more;
            self.before = if age < 2 * scavenger::KEEP { self.now } else { old };
            (self.now, self.since) = (old, tick);
        }
        self.now = self.now.max(in_use);
        self.now.max(self.before)
    }
}

/// What a range must be like to serve a block.
#[derive(Clone, Copy)]
pub struct RangeRequest {
    /// Bytes that it has to have.
    pub length: usize,
    /// The start plus `offset` is to be a multiple of this, which is at least a slice.
    pub alignment: usize,
    /// See `alignment`.
    pub offset: usize,
}
impl RangeRequest {
    /// The first suitable start at or after `base`.
    fn start_from(self, base: usize) -> usize {
        (base + self.offset).next_multiple_of(self.alignment) - self.offset
    }
}

fn most_kept() -> usize {
    use std::sync::OnceLock;
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| map::physical_memory() / SHARE)
}

impl Kept {
    /// Nothing is kept.
    pub const fn new() -> Kept {
        Kept {
            aging: [const { List::new() }; MOST_SLICES + 1],
            ready: [const { List::new() }; MOST_SLICES + 1],
            ranges: 0,
            bytes: 0,
            most_in_use: MostInUse::NOTHING,
            occasions: 0,
        }
    }

    /// The list for runs of `slices` that are kept since then.
    fn list(&mut self, slices: usize, since: u32) -> &mut List {
        if since == scavenger::NEVER { &mut self.ready[slices] } else { &mut self.aging[slices] }
    }
    fn occasion(&mut self) -> u64 {
        self.occasions += 1;
        self.occasions
    }

    /// Whether [`Kept::charge`] would charge `bytes` now. `movable` as in [`Central::next_block`](super::central::Central).
    pub fn fits(&self, heap: &Heap, bytes: usize, movable: usize) -> bool {
        let in_use = heap.held().saturating_sub(self.bytes + movable);
        heap.limit() == 0 || bytes == 0 || in_use.saturating_add(bytes) <= heap.limit()
    }

    /// Charges `bytes` for memory that is about to be used. Gives kept memory back as far as that is needed to stay below
    /// the limit and below the heap's peak. False, with nothing charged, when the bytes do not fit.
    pub fn charge(&mut self, heap: &Heap, bytes: usize) -> bool {
        let in_use = heap.held() - self.bytes + bytes;
        let before = self.most_in_use;
        let most_in_use = self.most_in_use.note(scavenger::now(), in_use, bytes);
        let most = (most_in_use + LEEWAY).min(in_use + most_kept());
        let enough = self.bytes.saturating_sub(bytes.saturating_mul(AT_ONCE));
        let too_much = |most: usize| (heap.held() + bytes).saturating_sub(most);
        while self.bytes > enough && too_much(most) > 0 && self.release_oldest(heap, too_much(most), false) {}
        loop {
            if heap.charge(bytes) {
                return true;
            }
            if !self.release_oldest(heap, too_much(heap.limit()), true) {
                self.most_in_use = before;
                return false;
            }
        }
    }

    /// The most bytes that were in use at once lately, including those charged last.
    pub fn most_in_use(&self) -> MostInUse {
        self.most_in_use
    }
    /// Takes back a charge of `bytes` for which there was no memory. `most_in_use` is what [`Kept::most_in_use`] was before
    /// the charge.
    pub fn take_back(&mut self, heap: &Heap, bytes: usize, most_in_use: MostInUse) {
        heap.discharge(bytes);
        self.most_in_use = most_in_use;
    }

    /// Keeps the run of a retired span.
    ///
    /// # Safety
    /// The heap's lock is held and the span is in no list.
    pub unsafe fn keep_run(&mut self, span: NonNull<Span>, slices: usize, since: u32) {
        // SAFETY: by the caller's promise.
        unsafe {
            let inner = span.as_ref().inner();
            inner.kept_since = since;
            inner.kept_order = self.occasion();
            self.bytes += inner.held();
            self.list(slices, since).push(span);
        }
        if since != scavenger::NEVER {
            scavenger::wanted();
        }
    }

    /// The kept run that [`Kept::reuse_run`] takes, and its length. It is the shortest that is long enough. Among the latest
    /// of that length it is preferably one that `user` had before, because that thread's processor may still have it cached.
    fn run_for(&self, slices: usize, user: *const ThreadCache) -> Option<(NonNull<Span>, usize)> {
        let lists = (slices..=MOST_SLICES).flat_map(|n| [(&self.aging[n], n), (&self.ready[n], n)]);
        let (first, length) = lists.filter_map(|(list, n)| Some((NonNull::new(list.head)?, n))).next()?;
        let mut next = Some(first);
        for _ in 0..MOST_OF_OTHERS {
            let Some(span) = next else { break };
            // SAFETY: the lock is held, and kept spans are known to nobody but their list.
            let inner = unsafe { span.as_ref().inner() };
            if core::ptr::eq(inner.user, user) {
                return Some((span, length));
            }
            next = NonNull::new(inner.links[BY_USE].next);
        }
        Some((first, length))
    }
    /// Whether [`Kept::reuse_run`] has a run, and the budget has room for it: for what was touched of it already and for
    /// what the new span `needs`. `movable` as in [`Central::next_block`](super::central::Central).
    pub fn run_serves(
        &self,
        heap: &Heap,
        slices: usize,
        user: *const ThreadCache,
        needs: Needs,
        movable: usize,
    ) -> bool {
        self.run_for(slices, user).is_some_and(|(span, _)| {
            // SAFETY: the lock is held; kept spans are known to nobody else.
            let inner = unsafe { span.as_ref().inner() };
            let (touched, bookkeeping) = (inner.charged.min(slices * SLICE), inner.bookkeeping);
            touched >= needs.run && bookkeeping >= needs.bookkeeping
                || self.fits(heap, touched.max(needs.run) + bookkeeping.max(needs.bookkeeping), movable)
        })
    }
    /// Takes out a kept run of `slices` for `user`, cut from a longer one if need be.
    ///
    /// The rest of a cut run keeps its age and becomes the first of its list, where all others may be younger.
    /// - [`Kept::release`] looks at every run, so the rest leaves when it is too old, no sooner and no later.
    /// - [`Kept::release_oldest`] looks at the last of each list only, so it finds the rest when all behind it have left. These
    ///   are runs of that length that nobody wants, as the rest is reused first. So no memory in use leaves too early, and of
    ///   what is not in use some leaves in another order. To keep the lists sorted, each cut would have to walk one under the
    ///   lock.
    pub fn reuse_run(&mut self, slices: usize, user: *const ThreadCache) -> Option<NonNull<Span>> {
        let (span, length) = self.run_for(slices, user)?;
        let rest = if length > slices { Some(records_of_spans::take()?) } else { None };
        // SAFETY: the lock is held. Kept spans are known to nobody but their list, and `rest` is fresh.
        unsafe {
            let since = span.as_ref().inner().kept_since;
            self.list(length, since).remove(span);
            let inner = span.as_ref().inner();
            if let Some(rest) = rest {
                let rest_inner = rest.as_ref().inner();
                rest_inner.run = inner.run.skip(slices);
                rest_inner.user = inner.user;
                rest_inner.charged = inner.charged.saturating_sub(slices * SLICE);
                rest_inner.kept_since = since;
                rest_inner.kept_order = inner.kept_order;
                inner.charged -= rest_inner.charged;
                let most = arena::side_bytes(slices, slices * arena::SLOTS) + size_of::<Span>();
                rest_inner.bookkeeping = inner.bookkeeping.saturating_sub(most);
                inner.bookkeeping -= rest_inner.bookkeeping;
                self.list(length - slices, since).push(rest);
            }
            self.bytes -= inner.held();
        }
        Some(span)
    }

    /// Keeps the range of a retired mapping, joined with kept ranges that border on it. If there are too many then, the oldest
    /// goes back to the system.
    ///
    /// # Safety
    /// The heap's lock is held and the span is in no list.
    pub unsafe fn keep_range(&mut self, heap: &Heap, span: NonNull<Span>) {
        // SAFETY: by the caller's promise; kept spans are known to nobody but their list.
        unsafe {
            let inner = span.as_ref().inner();
            // The joined range is as old as its longest part, so a part that is used time and again does not keep one that
            // is not.
            let (mut longest, mut since) = (inner.length, scavenger::now());
            let mut next = NonNull::new(self.aging[RANGES].head);
            while let Some(other) = next {
                let neighbour = other.as_ref().inner();
                next = NonNull::new(neighbour.links[BY_USE].next);
                let (start, end) = (neighbour.run.base, neighbour.run.base + neighbour.length);
                if end != inner.run.base && start != inner.run.base + inner.length {
                    continue;
                }
                if neighbour.length > longest {
                    (longest, since) = (neighbour.length, neighbour.kept_since);
                }
                self.take_range(other);
                inner.run.base = inner.run.base.min(start);
                inner.length += neighbour.length;
                records_of_spans::give(other);
            }
            self.push_range(span, since);
        }
        if self.ranges > MOST_RANGES {
            let oldest = self.aging[RANGES].last();
            oldest.into_iter().for_each(|oldest| self.release_one(heap, oldest, RANGES));
        }
        scavenger::wanted();
    }
    unsafe fn push_range(&mut self, span: NonNull<Span>, since: u32) {
        // SAFETY: by the caller's promise; kept spans are known to nobody but their list.
        unsafe {
            let inner = span.as_ref().inner();
            inner.kept_since = since;
            inner.kept_order = self.occasion();
            inner.charged = inner.length;
            self.bytes += inner.length;
            self.aging[RANGES].push(span);
        }
        self.ranges += 1;
    }
    /// Takes a range out of the list.
    unsafe fn take_range(&mut self, span: NonNull<Span>) {
        // SAFETY: by the caller's promise, the lock is held and the range is in the list.
        unsafe {
            self.aging[RANGES].remove(span);
            self.bytes -= span.as_ref().inner().charged;
        }
        self.ranges -= 1;
    }

    /// All kept ranges, the latest first: the length of each, and how much of it could serve `request`.
    fn ranges(&self, request: RangeRequest) -> impl Iterator<Item = (NonNull<Span>, usize, usize)> {
        let mut next = NonNull::new(self.aging[RANGES].head);
        core::iter::from_fn(move || {
            let span = next?;
            // SAFETY: kept spans are known to nobody but their list, under the lock.
            let inner = unsafe { span.as_ref().inner() };
            next = NonNull::new(inner.links[BY_USE].next);
            let end = inner.run.base + inner.length;
            Some((span, inner.length, end.saturating_sub(request.start_from(inner.run.base))))
        })
    }
    /// The kept range for `request`: the shortest that serves.
    pub fn range_for(&self, request: RangeRequest) -> Option<NonNull<Span>> {
        let serve = self.ranges(request).filter(|&(_, _, serves)| serves >= request.length);
        serve.min_by_key(|&(_, length, _)| length).map(|(span, ..)| span)
    }
    /// How much of a kept range could at most serve `request`, if none is long enough for all of it.
    pub fn longest_for(&self, request: RangeRequest) -> usize {
        self.ranges(request).map(|(_, _, serves)| serves).max().unwrap_or(0)
    }
    /// Takes the range of [`Kept::range_for`] out and cuts it at both ends. What remains is a whole number of slices, or
    /// reaches to the range's end.
    pub fn reuse_range(&mut self, request: RangeRequest) -> Option<NonNull<Span>> {
        let span = self.range_for(request)?;
        // SAFETY: kept spans are known to nobody but their list, under the lock; the references end with the block.
        let (base, end, start) = unsafe {
            let inner = span.as_ref().inner();
            (inner.run.base, inner.run.base + inner.length, request.start_from(inner.run.base))
        };
        let stop = (start + request.length.next_multiple_of(SLICE)).min(end);
        let head = if start > base { Some(records_of_spans::take()?) } else { None };
        let tail = if stop < end { records_of_spans::take() } else { None };
        let stop = if tail.is_some() { stop } else { end };
        // SAFETY: as above; the new records are known to nobody else.
        unsafe {
            self.take_range(span);
            let since = span.as_ref().inner().kept_since;
            for (record, from, to) in [(head, base, start), (tail, stop, end)] {
                if let Some(record) = record {
                    let inner = record.as_ref().inner();
                    (inner.run.base, inner.length) = (from, to - from);
                    self.push_range(record, since);
                }
            }
            let inner = span.as_ref().inner();
            (inner.run.base, inner.length, inner.charged) = (start, stop - start, stop - start);
        }
        Some(span)
    }

    /// Gives back what was kept before the tick `before`, or everything. Returns the number of bytes.
    pub fn release(&mut self, heap: &Heap, before: Option<u32>) -> usize {
        // Not counted by what is held: chunks of tiered memory come and go meanwhile.
        let kept = self.bytes;
        for slices in RANGES..=MOST_SLICES {
            for mut next in [self.aging[slices].last(), self.ready[slices].last()] {
                while let Some(span) = next {
                    // SAFETY: kept spans are known to nobody but their list, under the lock.
                    let inner = unsafe { span.as_ref().inner() };
                    next = NonNull::new(inner.links[BY_USE].previous);
                    if before.is_none_or(|before| inner.kept_since < before) {
                        self.release_one(heap, span, slices);
                    }
                }
            }
        }
        kept - self.bytes
    }

    /// Gives back what was kept longest: a run, or as many huge pages of a range as hold `wanted` bytes. So a program in a
    /// steady state loses what it no longer uses, and keeps what it uses again and again. Memory that was made ready with the
    /// heap goes last, and only if `ready` is set. False when nothing is left that may go.
    fn release_oldest(&mut self, heap: &Heap, wanted: usize, ready: bool) -> bool {
        let last_of = |lists: &[List]| {
            let lasts = lists.iter().enumerate().filter_map(|(slices, list)| Some((list.last()?, slices)));
            // SAFETY: kept spans are known to nobody but their list, under the lock.
            lasts.min_by_key(|(span, _)| unsafe { span.as_ref().inner() }.kept_order)
        };
        let oldest = last_of(&self.aging).or_else(|| last_of(&self.ready).filter(|_| ready));
        let Some((span, slices)) = oldest else { return false };
        // SAFETY: kept spans are known to nobody but their list, under the lock.
        let inner = unsafe { span.as_ref().inner() };
        let part = wanted.next_multiple_of(HUGE_PAGE);
        if slices != RANGES || inner.length <= part {
            self.release_one(heap, span, slices);
            return true;
        }
        inner.length -= part;
        inner.charged = inner.length;
        self.bytes -= part;
        heap.discharge(part);
        // SAFETY: nobody uses the memory of a kept range.
        unsafe { map::unmap(inner.run.base + inner.length, part) };
        true
    }

    fn release_one(&mut self, heap: &Heap, span: NonNull<Span>, slices: usize) {
        // SAFETY: kept spans are known to nobody but their list, under the lock; nobody uses their memory.
        unsafe {
            let inner = span.as_ref().inner();
            self.bytes -= inner.held();
            heap.discharge(inner.held());
            inner.bookkeeping = 0;
            let since = inner.kept_since;
            self.list(slices, since).remove(span);
            self.ranges -= usize::from(slices == RANGES);
            if slices == RANGES {
                map::unmap(inner.run.base, inner.length);
            } else {
                arena::give(inner.run.base, slices, inner.charged);
            }
        }
        records_of_spans::give(span);
    }

    /// Whether anything is kept that ages. Memory made ready with the heap does not.
    pub fn ages(&self) -> bool {
        self.aging.iter().any(|list| !list.head.is_null())
    }
}

#[cfg(test)]
mod tests;
