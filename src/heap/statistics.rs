//! A heap's figures: what its threads have published, what a reader adds to that, and what counts against the limit.
use super::cache::ThreadCache;
use super::{Heap, Leaks, recorded};
use crate::error::Result;
use core::sync::atomic::{AtomicIsize, AtomicPtr, AtomicUsize, Ordering::*, fence};

/// Figures that all threads write.
pub struct Counters {
    /// Live bytes, as far as the threads have published them.
    pub live: AtomicIsize,
    peak: AtomicIsize,
    held: AtomicUsize,
    /// Where held bytes are counted instead, for a pool whose callers read the figure in its own memory.
    held_elsewhere: AtomicPtr<AtomicUsize>,
    /// Held bytes that chunks of tiered memory take, with all that belongs to them.
    held_by_chunks: AtomicUsize,
    /// Live bytes that are not among those held: tiered memory and foreign blocks.
    live_elsewhere: AtomicUsize,
    /// Frees refused: foreign, interior, double.
    pub refused: AtomicUsize,
    /// Frees in the heap's parts ([`Heap::count_in`]) that were counted here, and refused later.
    pub refused_in_parts: AtomicUsize,
}

impl Counters {
    /// All zero.
    pub const fn new() -> Counters {
        Counters {
            live: AtomicIsize::new(0),
            peak: AtomicIsize::new(0),
            held: AtomicUsize::new(0),
            held_elsewhere: AtomicPtr::new(core::ptr::null_mut()),
            held_by_chunks: AtomicUsize::new(0),
            live_elsewhere: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            refused_in_parts: AtomicUsize::new(0),
        }
    }
    /// Bytes that count against the limit.
    pub fn held(&self) -> &AtomicUsize {
        // SAFETY: only `count_held_in` stores here, and what it stores is null or a counter that lives as long as the heap.
        unsafe { self.held_elsewhere.load(Relaxed).as_ref() }.unwrap_or(&self.held)
    }
    /// Counts held bytes in `counter` from now on; None: in the heap's own counter.
    pub fn count_held_in(&self, counter: Option<&'static AtomicUsize>) {
        let held = self.held().load(Relaxed);
        counter.unwrap_or(&self.held).store(held, Relaxed);
        let counter =
            counter.map_or(core::ptr::null_mut(), |counter| core::ptr::from_ref(counter).cast_mut());
        self.held_elsewhere.store(counter, Relaxed);
    }
    /// Counts live bytes that are not among those held.
    fn count_live_elsewhere(&self, more: usize, fewer: usize) {
        self.live_elsewhere.fetch_add(more.wrapping_sub(fewer), Relaxed);
    }
    /// Sets all to zero, and counts held bytes here.
    pub fn begin_anew(&self) {
        self.count_held_in(None);
        self.live.store(0, Relaxed);
        self.forget_peak();
        let others = [&self.held_by_chunks, &self.live_elsewhere, &self.refused, &self.refused_in_parts];
        [&self.held].into_iter().chain(others).for_each(|figure| figure.store(0, Relaxed));
    }
    /// Raises the peak to `live` if it is lower.
    pub fn raise_peak(&self, live: isize) {
        if live > self.peak.load(Relaxed) {
            self.peak.fetch_max(live, Relaxed);
        }
    }
    /// The peak, as far as the threads have published.
    pub fn peak(&self) -> isize {
        self.peak.load(Relaxed)
    }
    /// Forgets the peak so far.
    pub fn forget_peak(&self) {
        self.peak.store(0, Relaxed);
    }
}

/// Counts of a thread's cache, or of several together.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Allocations served from a magazine.
    pub hits: usize,
    /// All other allocations.
    pub misses: usize,
    /// Blocks freed.
    pub frees: usize,
    /// Largest request.
    pub largest: usize,
    /// Bytes allocated, freed ones included.
    pub allocated: usize,
}
impl Counts {
    /// No counts.
    pub const NONE: Counts = Counts { hits: 0, misses: 0, frees: 0, largest: 0, allocated: 0 };
    /// Adds the counts of another cache.
    pub fn add(&mut self, other: Counts) {
        self.hits += other.hits;
        self.misses = self.misses.wrapping_add(other.misses);
        self.frees = self.frees.wrapping_add(other.frees);
        self.largest = self.largest.max(other.largest);
        self.allocated = self.allocated.wrapping_add(other.allocated);
    }
    /// What was counted after `before`.
    fn since(self, before: Counts) -> Counts {
        // If a reset came between the steps of another thread's reallocation, it may have seen one more than there is now.
        let since = |count: usize, before: usize| match count.wrapping_sub(before) {
            negative if negative > isize::MAX as usize => 0,
            since => since,
        };
        Counts {
            hits: since(self.hits, before.hits),
            misses: since(self.misses, before.misses),
            frees: since(self.frees, before.frees),
            largest: self.largest,
            allocated: since(self.allocated, before.allocated),
        }
    }
}
/// A heap's figures when its statistics were last reset.
#[derive(Clone, Copy)]
pub struct AtReset {
    /// Counts, to be subtracted from later ones.
    pub counts: Counts,
    /// Live bytes.
    pub live: isize,
}

/// Figures of a heap. Exact while no thread is inside the heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStatistics {
    /// Live bytes, as requested.
    pub live: usize,
    /// Highest `live` since creation or reset. Exact with one thread; with several it is never low by more than 64 KiB for
    /// each thread.
    pub peak: usize,
    /// Allocations that succeeded. A reallocation counts neither as an allocation nor as a free, whether the block moves or
    /// not.
    pub allocations: usize,
    /// Blocks freed.
    pub frees: usize,
    /// Largest request.
    pub largest: usize,
    /// Bytes allocated, including those freed since. A reallocation frees the old size and allocates the new one.
    pub allocated_bytes: usize,
    /// Bytes freed.
    pub freed_bytes: usize,
    /// Bytes of RAM held: touched or made ready, whether live or not.
    pub held: usize,
    /// Bytes of these that chunks of tiered memory take, with all that belongs to them.
    pub held_by_chunks: usize,
    /// Bytes of `live` that are not among those held: tiered memory, which counts as large as it was asked for, and tracked
    /// foreign blocks.
    pub live_elsewhere: usize,
    /// Allocations served by the thread's own cache.
    pub cache_hits: usize,
    /// All other allocations.
    pub cache_misses: usize,
}
impl HeapStatistics {
    /// Held bytes that neither live blocks nor chunks use.
    fn unused(&self) -> usize {
        let by_blocks = self.live.saturating_sub(self.live_elsewhere);
        self.held.saturating_sub(self.held_by_chunks).saturating_sub(by_blocks)
    }
    /// Share of the memory held that neither live blocks nor chunks use, in percent, rounded down.
    pub fn fragmentation(&self) -> usize {
        self.unused() * 100 / self.held.max(1)
    }
    /// The same as a fraction, 0 to 1.
    pub fn unused_share(&self) -> f64 {
        self.unused() as f64 / self.held.max(1) as f64
    }
    /// Adds what a heap does not know of a part of it ([`Heap::count_in`]): the bytes held there, and which allocations were
    /// hits of the part's caches. All else of a part is in the heap's own figures.
    pub fn add_part(&mut self, part: HeapStatistics) {
        self.held += part.held;
        self.held_by_chunks += part.held_by_chunks;
        self.cache_hits += part.cache_hits;
        self.cache_misses = self.cache_misses.saturating_sub(part.cache_hits);
    }
}

/// What all caches of a heap have counted together.
struct Totals {
    counts: Counts,
    live: isize,
    peak: isize,
    /// Whether no cache published while they were read, so that nothing is counted twice.
    settled: bool,
}
/// Calls a function with every cache of a heap, and whether the cache has a thread.
type ForEachCache<'a> = &'a dyn Fn(&mut dyn FnMut(&ThreadCache, bool));
/// How often a reader tries to find totals without a publication among them.
const LOOKS: usize = 100;

impl Heap {
    /// What all caches have counted together, and what they had at the last reset.
    fn totals(&self) -> (Totals, AtReset) {
        let orphans = self.orphans.lock();
        let central = self.central.lock();
        let for_each_cache = |each: &mut dyn FnMut(&ThreadCache, bool)| {
            central.for_each_cache(each);
            if let Some(cache) = *orphans {
                // SAFETY: the orphans' cache ends only when the heap does, and only under this lock.
                each(unsafe { cache.as_ref() }, true);
            }
        };
        let look = || self.look_at(central.retired, &for_each_cache);
        let mut totals = (1..LOOKS).map(|_| look()).find(|totals| totals.settled).unwrap_or_else(look);
        if totals.settled {
            // A figure that was reported must not fall back when one of these threads publishes.
            self.counters.raise_peak(totals.peak.max(totals.live));
            totals.peak = self.counters.peak();
        } else {
            // Some bytes may be counted twice here, so they do not go into the peak. Threads that publish this often raise
            // it themselves.
            totals.peak = self.counters.peak();
            totals.live = totals.live.min(totals.peak);
        }
        let refused = self.counters.refused_in_parts.load(Relaxed);
        totals.counts.frees = totals.counts.frees.wrapping_sub(refused);
        (totals, central.at_reset)
    }
    /// How many blocks are live, whatever was reset.
    pub fn live_blocks(&self) -> usize {
        let counts = self.totals().0.counts;
        let live = counts.hits.wrapping_add(counts.misses).wrapping_sub(counts.frees);
        if live > isize::MAX as usize { 0 } else { live } // more frees are counted until a late one is refused
    }
    fn look_at(&self, mut counts: Counts, for_each_cache: ForEachCache) -> Totals {
        let (mut live, mut peak) = (0, None);
        let (mut publications, mut afterwards, mut settled) = (0u64, 0u64, true);
        for_each_cache(&mut |cache, is_used| {
            let seen = cache.look();
            counts.add(seen.counts);
            live += seen.live;
            peak = peak.max(Some(seen.peak)); // the peaks of all caches may be below zero
            publications += u64::from(seen.publications);
            settled &= seen.publications % 2 == 0 || !is_used;
        });
        // A publication begins before the heap's live bytes change and ends after that. If this load sees one that the
        // caches did not show, the second look at the caches shows it.
        let published = self.counters.live.load(Relaxed);
        fence(Acquire);
        for_each_cache(&mut |cache, _| afterwards += u64::from(cache.tally.publications()));
        settled &= afterwards == publications;
        Totals { counts, live: published + live, peak: published + peak.unwrap_or(0), settled }
    }
    /// The heap's figures.
    pub fn statistics(&self) -> HeapStatistics {
        let (Totals { counts, live, peak, .. }, at_reset) = self.totals();
        let counts = counts.since(at_reset.counts);
        let freed = counts.allocated as isize + at_reset.live - live;
        HeapStatistics {
            live: live.max(0) as usize,
            peak: peak.max(0) as usize,
            allocations: counts.hits + counts.misses,
            frees: counts.frees,
            largest: counts.largest,
            allocated_bytes: counts.allocated,
            freed_bytes: freed.max(0) as usize,
            held: self.held(),
            held_by_chunks: self.counters.held_by_chunks.load(Relaxed),
            live_elsewhere: self.live_elsewhere(),
            cache_hits: counts.hits,
            cache_misses: counts.misses,
        }
    }
    /// Begins a new history: the counts begin at 0, the peak at what is live as far as the threads have published, which
    /// may be more.
    pub fn reset_statistics(&self) {
        self.forget_peaks();
        // The peaks were forgotten first, so that the new peak is at least what is live now and what others count meanwhile.
        let (Totals { counts, live, .. }, _) = self.totals();
        self.central.lock().at_reset = AtReset { counts, live };
        self.counters.refused.store(0, Relaxed);
    }
    fn forget_peaks(&self) {
        let orphans = self.orphans.lock();
        let mut central = self.central.lock();
        self.counters.forget_peak();
        central.retired.largest = 0;
        central.for_each_cache(&mut |cache, _| cache.reset());
        if let Some(cache) = *orphans {
            // SAFETY: the orphans' cache ends only when the heap does, and only under this lock.
            unsafe { cache.as_ref() }.reset();
        }
    }

    /// Bytes that count against the limit.
    pub fn held(&self) -> usize {
        self.counters.held().load(Relaxed)
    }
    /// Live bytes that are not among those held: tiered memory and foreign blocks.
    pub fn live_elsewhere(&self) -> usize {
        self.counters.live_elsewhere.load(Relaxed)
    }
    /// The limit; 0: none.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }
    /// Frees refused since creation or reset.
    pub fn refused(&self) -> usize {
        self.counters.refused.load(Relaxed)
    }
    /// Counts a refused free, for a caller that had to refuse it itself.
    pub fn count_refused(&self) {
        self.counters.refused.fetch_add(1, Relaxed);
    }
    /// Charges `bytes` against the limit. False, with nothing charged, when they do not fit.
    pub fn charge(&self, bytes: usize) -> bool {
        let limit = match self.limit.load(Relaxed) {
            0 => usize::MAX,
            limit => limit,
        };
        let fits = |held: usize| held.checked_add(bytes).filter(|&sum| sum <= limit);
        self.counters.held().fetch_update(Relaxed, Relaxed, fits).is_ok()
    }
    /// Charges `bytes`, beyond the limit if need be. Until held bytes fall below the limit again nothing more can be
    /// charged.
    pub fn charge_anyway(&self, bytes: usize) {
        self.counters.held().fetch_add(bytes, Relaxed);
    }
    /// Takes `bytes` off what is charged.
    pub fn discharge(&self, bytes: usize) {
        self.counters.held().fetch_sub(bytes, Relaxed);
    }
    /// Notes how many of the charged bytes are those of chunks: `more`, less `fewer`.
    pub fn count_chunks(&self, more: usize, fewer: usize) {
        self.counters.held_by_chunks.fetch_add(more.wrapping_sub(fewer), Relaxed);
    }
    /// Runs `replace`, which allocates a block in place of one of `old` bytes and frees that one. Together they count as a
    /// reallocation, as if the block had been resized in place.
    pub fn count_as_resize<R>(&'static self, old: usize, replace: impl FnOnce() -> Result<R>) -> Result<R> {
        let hits = self.with_cache(|cache| cache.tally.begin_replacement(self, old))?;
        let result = replace();
        // This thread's cache was made above, so this does not fail.
        self.with_cache(|cache| cache.tally.end_replacement(self, old, hits, result.is_ok()))?;
        result
    }
    /// Counts an allocation and a free of no bytes. For memory systems, whose callers are told that a reallocation is both.
    pub fn count_exchange(&'static self) {
        // The caller has used this thread's cache, or that of the orphans, already, so this does not fail.
        let _ = self.with_cache(|cache| cache.tally.exchange());
    }
    /// Counts live bytes outside the heap: tracked foreign blocks. `bytes` is negative when they go.
    pub fn count_foreign(&'static self, bytes: isize) -> Result<()> {
        let (more, fewer) = (bytes.max(0) as usize, bytes.min(0).unsigned_abs());
        self.count(|cache| {
            cache.tally.change(self, more, fewer);
            cache.pass_over(more);
        })?;
        self.counters.count_live_elsewhere(more, fewer);
        Ok(())
    }
    /// Counts a block that a part of the heap ([`Heap::count_in`]) has allocated, as a miss.
    pub fn count_block_of_part(&'static self, size: usize) -> Result<()> {
        self.count(|cache| {
            cache.count_allocation(self, size, false);
            cache.pass_over(size);
        })
    }
    /// Counts that a part has freed a block of `size` bytes.
    pub fn uncount_block_of_part(&'static self, size: usize) -> Result<()> {
        self.count(|cache| cache.tally.free(self, size))
    }
    /// Counts what was live in a part that has ended, and what its caches had served.
    pub fn count_end_of_part(&'static self, live: Leaks, hits: usize) -> Result<()> {
        self.count(|cache| cache.tally.part_ended(self, live.blocks, live.bytes, hits))
    }
    /// Counts a region of tiered memory of `size` bytes as if it were a live block of the heap.
    pub fn count_region(&'static self, size: usize) -> Result<()> {
        self.count(|cache| {
            cache.count_allocation(self, size, false);
            cache.pass_over(size);
        })?;
        self.regions_changed(0, size);
        Ok(())
    }
    /// Counts that a region of `size` bytes was freed.
    pub fn uncount_region(&'static self, size: usize) -> Result<()> {
        self.count(|cache| cache.tally.free(self, size))?;
        self.regions_changed(size, 0);
        Ok(())
    }
    /// Counts that a region of `old` bytes was resized to `new`.
    pub fn recount_region(&'static self, old: usize, new: usize) -> Result<()> {
        self.count(|cache| {
            cache.resize(self, old, new);
            cache.pass_over(new);
        })?;
        self.regions_changed(old, new);
        Ok(())
    }
    fn regions_changed(&self, old: usize, new: usize) {
        self.counters.count_live_elsewhere(new, old);
        recorded::regions_changed(old, new);
    }
}
