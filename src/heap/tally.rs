//! What one thread has allocated and freed of one heap.
//!
//! A hit adds to one word: bytes in its lower 42 bits, one block in the bits above. There is such a word for allocations and
//! one for frees. Both count since the last *publication*, which adds their contents to the totals of earlier ones and the
//! difference of their bytes to the heap's live bytes, and begins the words anew. A publication is due
//! - when a hit would bring live bytes more than [`UNPUBLISHED`] above what the heap knows, so that the heap's peak is never
//!   low by more than that per thread; on slow paths also when they are as far below;
//! - with every [`FREES`]th free. The word of frees begins that many blocks below its sign bit, so a free need only look at
//!   the sign. Until then the heap may believe in more live bytes than there are, by no more than magazines hold;
//! - before the count of blocks overflows its word, or the bytes overflow into the count. Hits need not look: the blocks they
//!   take were freed since the last publication, or lay in a magazine, and neither are that many; or a slow path brought
//!   them, which looks.
//!
//! Only the owning thread writes, so nothing is locked; everyone may read. A publication changes several words: it first
//! writes down what the totals will be (`all`), and while `publications` is odd these count instead. So a reader finds a
//! publication done or not begun, and so does a child that another thread has forked in the middle of one.
use super::Heap;
use super::statistics::Counts;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicIsize, AtomicU32, AtomicUsize, fence};

/// Net bytes a thread may have allocated or freed before it tells the heap.
pub(super) const UNPUBLISHED: isize = 64 << 10;

const COUNT_BITS: u32 = 22;
/// Frees before a thread tells the heap.
const FREES: usize = 1024;
/// What the word of frees begins with: so many blocks below its sign bit.
const NO_FREES: usize = (1 << (usize::BITS - 1)) - FREES * ONE_BLOCK;
/// A block without bytes.
const ONE_BLOCK: usize = 1 << (usize::BITS - COUNT_BITS);
const BYTES: usize = ONE_BLOCK - 1;
/// [`UNPUBLISHED`], in the unit of [`difference`].
const MOST: isize = UNPUBLISHED << COUNT_BITS;

/// What a block of `size` bytes adds to a word.
#[inline(always)]
pub(super) fn counted(size: usize) -> usize {
    size + ONE_BLOCK
}
/// Bytes that `allocated` has more than `freed`, times 2^22: the counts are shifted out.
#[inline(always)]
fn difference(allocated: usize, freed: usize) -> isize {
    (allocated.wrapping_sub(freed) << COUNT_BITS) as isize
}
/// Whether a word has so many blocks that a slow path is to publish. Far below the sign bit, as hits do not look.
fn is_full(word: usize) -> bool {
    word / ONE_BLOCK >= 1 << (COUNT_BITS - 3)
}
/// A word that only the calling thread writes, read by a plain load, which the compiler may make part of another instruction.
#[inline(always)]
fn own(word: &AtomicUsize) -> usize {
    // SAFETY: no other thread writes, so there is no race.
    unsafe { word.as_ptr().read() }
}
fn add(counter: &AtomicUsize, amount: usize) {
    counter.store(own(counter).wrapping_add(amount), Relaxed);
}

/// See the module's comment.
#[repr(C)]
pub(super) struct Tally {
    /// Hits and their bytes.
    allocated: AtomicUsize,
    /// Quick frees and their bytes.
    freed: AtomicUsize,
    /// The highest [`difference`] since the last publication. A reset of the heap's statistics stores here too.
    peak: AtomicIsize,
    publications: AtomicU32,
    misses: AtomicUsize,
    /// What is not in the two words: earlier publications, and what slow paths counted past the words.
    earlier: Totals,
    /// During a publication: the totals with the words, which will be `earlier` when it ends.
    all: Totals,
}
/// What a reader finds.
pub(super) struct Seen {
    /// Counts so far.
    pub counts: Counts,
    /// Unpublished net bytes.
    pub live: isize,
    /// Their peak.
    pub peak: isize,
    /// Publications so far; odd in one.
    pub publications: u32,
}
#[derive(Default)]
struct Totals {
    hits: AtomicUsize,
    frees: AtomicUsize,
    allocated: AtomicUsize,
}
impl Totals {
    /// These and what is in two words: hits, frees, bytes allocated.
    fn with(&self, allocated: usize, freed: usize) -> [usize; 3] {
        [
            self.hits.load(Relaxed).wrapping_add(allocated / ONE_BLOCK),
            self.frees.load(Relaxed).wrapping_add(freed.wrapping_sub(NO_FREES) / ONE_BLOCK),
            self.allocated.load(Relaxed).wrapping_add(allocated & BYTES),
        ]
    }
    fn set(&self, [hits, frees, allocated]: [usize; 3]) {
        self.hits.store(hits, Relaxed);
        self.frees.store(frees, Relaxed);
        self.allocated.store(allocated, Relaxed);
    }
}

impl Default for Tally {
    fn default() -> Tally {
        let (allocated, misses, publications) = Default::default();
        let (freed, peak) = (AtomicUsize::new(NO_FREES), AtomicIsize::default());
        Tally {
            allocated,
            freed,
            peak,
            publications,
            misses,
            earlier: Totals::default(),
            all: Totals::default(),
        }
    }
}
impl Tally {
    /// Counts a hit of `size` bytes, few enough for the fast path. False, with nothing changed, when it is to be
    /// published.
    #[inline(always)]
    pub fn hit(&self, size: usize) -> bool {
        let allocated = own(&self.allocated).wrapping_add(counted(size));
        let live = difference(allocated, own(&self.freed));
        if live > self.peak.load(Relaxed) {
            if live > MOST {
                return false;
            }
            self.peak.store(live, Relaxed);
        }
        self.allocated.store(allocated, Relaxed);
        true
    }
    /// Counts a free: adds what [`counted`] gave for its size. False, with nothing changed, when it is to be published.
    #[inline(always)]
    pub fn quick_free(&self, counted: usize) -> bool {
        let freed = own(&self.freed).wrapping_add(counted);
        if (freed as isize) < 0 {
            return false;
        }
        self.freed.store(freed, Relaxed);
        true
    }
    /// Counts an allocation of `size` bytes, or a miss.
    pub fn allocation(&self, heap: &Heap, size: usize, hit: bool) {
        add(if hit { &self.earlier.hits } else { &self.misses }, 1);
        self.change(heap, size, 0);
    }
    /// Counts a free of `size` bytes.
    pub fn free(&self, heap: &Heap, size: usize) {
        add(&self.earlier.frees, 1);
        self.change(heap, 0, size);
    }
    /// Takes a free of `size` bytes back.
    pub fn refuse(&self, heap: &Heap, size: usize) {
        add(&self.earlier.frees, 1usize.wrapping_neg());
        self.change(heap, 0, size.wrapping_neg());
    }
    /// A block of `old` bytes is about to be replaced by another: its bytes are off first, so that the peak never has both.
    /// Gives what [`Tally::end_replacement`] wants to know.
    pub fn begin_replacement(&self, heap: &Heap, old: usize) -> usize {
        self.change(heap, 0, old);
        self.hits()
    }
    /// The other one was allocated and the block freed, each counted as what it is, or, if not `replaced`, nothing was
    /// done: what counts is that a block was resized, or nothing.
    pub fn end_replacement(&self, heap: &Heap, old: usize, hits: usize, replaced: bool) {
        self.change(heap, 0, old.wrapping_neg());
        if replaced {
            let served_by = if self.hits() == hits { &self.misses } else { &self.earlier.hits };
            add(served_by, 1_usize.wrapping_neg());
            add(&self.earlier.frees, 1_usize.wrapping_neg());
        }
    }
    /// Counts an allocation and a free.
    pub fn exchange(&self) {
        add(&self.misses, 1);
        add(&self.earlier.frees, 1);
    }
    fn hits(&self) -> usize {
        own(&self.earlier.hits).wrapping_add(own(&self.allocated) / ONE_BLOCK)
    }
    /// Counts bytes allocated and bytes freed.
    pub fn change(&self, heap: &Heap, allocated: usize, freed: usize) {
        let change = allocated.wrapping_sub(freed) as isize;
        let (mut live, mut peak) = self.unpublished();
        live = live.wrapping_add(change);
        peak = peak.max(live);
        add(&self.earlier.allocated, allocated);
        let words = [own(&self.allocated), own(&self.freed)];
        let full = is_full(words[0]) || (words[1].wrapping_add(ONE_BLOCK) as isize) < 0;
        // Changes add bytes without a block: the bytes alone may fill their part of a word, too.
        let full = full || (words[0] | words[1]) & (ONE_BLOCK >> 1) != 0;
        if full || live.unsigned_abs() > UNPUBLISHED as usize {
            return self.publish_as(heap, live, peak);
        }
        // The net change goes into a word, so it is no earlier one.
        if change >= 0 {
            add(&self.earlier.allocated, change.wrapping_neg() as usize);
            add(&self.allocated, change as usize);
        } else {
            add(&self.freed, change.unsigned_abs());
        }
        self.peak.store(peak << COUNT_BITS, Relaxed);
    }
    /// Adds what is unpublished to the heap's live bytes and raises its peak.
    pub fn publish(&self, heap: &Heap) {
        let publications = self.publications.load(Relaxed);
        if publications % 2 == 1 {
            return self.end_publication(publications); // of a thread that this child does not have
        }
        let (live, peak) = self.unpublished();
        self.publish_as(heap, live, peak);
    }
    #[cold]
    fn publish_as(&self, heap: &Heap, live: isize, peak: isize) {
        let all = self.earlier.with(own(&self.allocated), own(&self.freed));
        self.all.set(all);
        let publications = self.publications.load(Relaxed);
        self.publications.store(publications.wrapping_add(1), Release);
        // A reader that sees the heap's new figures has to see that a publication was begun: see `Heap::totals`.
        fence(Release);
        let before = heap.counters.live.fetch_add(live, Relaxed);
        heap.counters.raise_peak(before + peak);
        #[cfg(test)]
        let _ = ON_PUBLISHED.try_with(|hook| hook.take().into_iter().for_each(|hook| hook()));
        self.end_publication(publications.wrapping_add(1));
    }
    fn end_publication(&self, publications: u32) {
        self.earlier.set(self.all.with(0, NO_FREES));
        self.allocated.store(0, Relaxed);
        self.freed.store(NO_FREES, Relaxed);
        self.peak.store(0, Relaxed);
        self.publications.store(publications.wrapping_add(1), Release);
    }
    /// Unpublished net bytes and their peak.
    pub fn unpublished(&self) -> (isize, isize) {
        self.whole(|published| match published {
            true => (0, 0),
            false => (self.difference() >> COUNT_BITS, self.peak.load(Relaxed) >> COUNT_BITS),
        })
    }
    fn difference(&self) -> isize {
        difference(self.allocated.load(Relaxed), self.freed.load(Relaxed))
    }
    /// Forgets the peak so far.
    pub fn reset_peak(&self) {
        let live = self.whole(|published| if published { 0 } else { self.difference() });
        self.peak.store(live.min(MOST), Relaxed);
    }
    /// All of it, as it is at one moment.
    pub fn look(&self) -> Seen {
        self.whole_of(|publications| {
            let words = [self.allocated.load(Relaxed), self.freed.load(Relaxed)];
            let ([hits, frees, allocated], live, peak) = match publications % 2 == 1 {
                true => (self.all.with(0, NO_FREES), 0, 0),
                false => (
                    self.earlier.with(words[0], words[1]),
                    difference(words[0], words[1]) >> COUNT_BITS,
                    self.peak.load(Relaxed) >> COUNT_BITS,
                ),
            };
            let counts = Counts { hits, misses: self.misses.load(Relaxed), frees, largest: 0, allocated };
            Seen { counts, live, peak, publications }
        })
    }
    /// Publications so far; odd in one.
    pub fn publications(&self) -> u32 {
        self.publications.load(Relaxed)
    }
    /// Runs `read` on the words while no publication changes them, as a reader of a sequence lock does. It is told whether one
    /// was begun.
    fn whole<R>(&self, read: impl Fn(bool) -> R) -> R {
        self.whole_of(|publications| read(publications % 2 == 1))
    }
    fn whole_of<R>(&self, read: impl Fn(u32) -> R) -> R {
        // Never seen to be needed: each time another publication would have to come while this looks.
        const TRIES: usize = 1000;
        let read = || {
            let before = self.publications.load(Acquire);
            let found = read(before);
            fence(Acquire);
            (found, self.publications.load(Relaxed) == before)
        };
        let whole = (0..TRIES).map(|_| read()).find(|(_, whole)| *whole);
        whole.unwrap_or_else(read).0
    }
}

#[cfg(test)]
type Hook = Box<dyn FnOnce()>;
#[cfg(test)]
std::thread_local! {
    /// Called once in a publication of this thread, when the heap knows what is published.
    pub static ON_PUBLISHED: core::cell::Cell<Option<Hook>> = const { core::cell::Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::super::HeapParams;
    use super::*;

    /// What goes the fast way where it may, as fast.rs and slow.rs do.
    fn allocate(tally: &Tally, heap: &Heap, size: usize) {
        if !tally.hit(size) {
            tally.allocation(heap, size, true);
        }
    }
    fn free(tally: &Tally, heap: &Heap, size: usize) {
        if !tally.quick_free(counted(size)) {
            tally.free(heap, size);
        }
    }

    #[test]
    fn counts_are_exact_over_many_publications() {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let tally = Tally::default();
        let mut bytes = 0;
        for i in 0..100_000 {
            allocate(&tally, heap, 1 + i % 3000);
            allocate(&tally, heap, 7);
            free(&tally, heap, 1 + i % 3000);
            bytes += 8 + i % 3000;
        }
        let (counts, (live, peak)) = (tally.look().counts, tally.unpublished());
        assert_eq!((counts.hits, counts.misses, counts.frees), (200_000, 0, 100_000));
        assert_eq!(counts.allocated, bytes);
        assert_eq!(heap.counters.live.load(Relaxed) + live, 700_000);
        assert!(live.abs() <= UNPUBLISHED && (live..=UNPUBLISHED).contains(&peak));
        heap.destroy();
    }

    /// Slow calls bring bytes and no counts into the words: 4 TiB, more than they hold.
    #[test]
    fn bytes_alone_never_come_to_count() {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let tally = Tally::default();
        const TIMES: usize = (1 << 26) + 1024;
        for _ in 0..TIMES {
            tally.allocation(heap, 1 << 16, false);
            tally.free(heap, 1 << 16);
        }
        let counts = tally.look().counts;
        assert_eq!((counts.hits, counts.misses, counts.frees), (0, TIMES, TIMES));
        assert_eq!((counts.allocated, tally.unpublished().0), (TIMES << 16, 0));
        heap.destroy();
    }

    /// Pairs alone never raise the live bytes: what makes the heap publish is the count of frees.
    #[test]
    fn counts_are_exact_over_many_pairs() {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let tally = Tally::default();
        for _ in 0..5_000_000 {
            allocate(&tally, heap, 28 << 10);
            free(&tally, heap, 28 << 10);
        }
        let counts = tally.look().counts;
        assert_eq!((counts.hits, counts.misses, counts.frees), (5_000_000, 0, 5_000_000));
        assert_eq!((counts.allocated, tally.unpublished().0), (5_000_000 * (28 << 10), 0));
        assert!(tally.publications.load(Relaxed) >= 2 * (5_000_000 / FREES as u32 - 1));
        heap.destroy();
    }

    #[test]
    fn frees_alone_and_changes_of_any_size_are_counted() {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let tally = Tally::default();
        tally.allocation(heap, 1 << 46, false);
        assert_eq!(tally.unpublished(), (0, 0));
        (0..1 << 18).for_each(|_| free(&tally, heap, 3));
        tally.change(heap, 1 << 45, (1 << 45) + 1000);
        tally.refuse(heap, 3);
        let counts = tally.look().counts;
        assert_eq!((counts.hits, counts.misses, counts.frees), (0, 1, (1 << 18) - 1));
        assert_eq!(counts.allocated, (1 << 46) + (1 << 45));
        tally.publish(heap);
        assert_eq!(heap.counters.live.load(Relaxed), (1 << 46) - 3 * ((1 << 18) - 1) - 1000);
        assert_eq!(heap.counters.peak(), 1 << 46);
        heap.destroy();
    }

    #[test]
    fn the_peak_is_exact_between_publications() {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let tally = Tally::default();
        [5000, 6000].iter().for_each(|&size| allocate(&tally, heap, size));
        free(&tally, heap, 6000);
        allocate(&tally, heap, 5999);
        assert_eq!(tally.unpublished(), (10_999, 11_000));
        tally.reset_peak();
        assert_eq!(tally.unpublished(), (10_999, 10_999));
        heap.destroy();
    }

    /// What a child finds of a thread that its parent had in a publication, after any of the stores.
    #[test]
    fn a_publication_cut_short_is_whole() {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        for stores in 0..5 {
            let tally = Tally::default();
            (0..10).for_each(|_| allocate(&tally, heap, 100));
            free(&tally, heap, 100);
            let all = tally.earlier.with(own(&tally.allocated), own(&tally.freed));
            tally.all.set(all);
            tally.publications.store(1, Relaxed);
            [&tally.earlier.hits, &tally.earlier.frees, &tally.earlier.allocated]
                .iter()
                .zip(all)
                .take(stores)
                .for_each(|(word, value)| word.store(value, Relaxed));
            if stores > 3 {
                tally.allocated.store(0, Relaxed);
            }
            for _ in 0..2 {
                let counts = tally.look().counts;
                assert_eq!((counts.hits, counts.frees, counts.allocated), (10, 1, 1000), "{stores}");
                assert_eq!(tally.unpublished(), (0, 0));
                tally.publish(heap);
            }
        }
        assert_eq!(heap.counters.live.load(Relaxed), 0);
        heap.destroy();
    }

    /// A reader that looks in the middle of a publication gets counts of before or after it.
    #[test]
    fn counts_only_grow_for_who_looks_on() {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let tally = Tally::default();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..150_000 {
                    (0..2).for_each(|_| allocate(&tally, heap, 40_000));
                    (0..2).for_each(|_| free(&tally, heap, 40_000));
                }
            });
            let mut last = tally.look().counts;
            while !writer.is_finished() {
                let next = tally.look().counts;
                assert!(
                    next.hits >= last.hits && next.allocated >= last.allocated && next.frees >= last.frees
                );
                last = next;
            }
        });
        assert_eq!(tally.look().counts.hits, 300_000);
        heap.destroy();
    }
}
