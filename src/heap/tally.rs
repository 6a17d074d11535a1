//! What one thread has allocated and freed of one heap.
//!
//! A hit adds to one word: the bytes in its lower 42 bits, and one block in the bits above. There is one such word for
//! allocations and one for frees. Both count since the last *publication*. A publication adds the words to the totals of
//! earlier ones, adds the difference of their bytes to the heap's live bytes, and begins the words anew. It is due
//! - when a hit would bring the thread's live bytes more than [`UNPUBLISHED`] above what the heap knows. So the heap's peak
//!   is never low by more than that for each thread. Slow paths also publish when the bytes are that far below;
//! - with every [`FREES`]th free. The word of frees begins that many blocks below its sign bit, so a free need only look at
//!   the sign. Until then the heap may believe in more live bytes than there are, but not by more than what magazines hold;
//! - before the count of blocks overflows its word, or the bytes overflow into the count. Hits need not look for that. The
//!   blocks they take were freed since the last publication or lay in a magazine, and these are far too few to overflow it;
//!   or a slow path brought them, and slow paths look.
//!
//! Only the owning thread writes, so no instruction is locked; everyone may read. A publication changes several words. It
//! first writes down what the totals will be (`all`), and these count instead while `publications` is odd. So a reader finds
//! a publication either done or not begun, and so does a child that another thread has forked in the middle of one.
use super::Heap;
use super::sequence::Sequence;
use super::statistics::Counts;
use core::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};

/// Net bytes that a thread may allocate or free before it publishes.
pub(super) const UNPUBLISHED: isize = 64 << 10;

const COUNT_BITS: u32 = 22;
/// Number of frees with which a thread publishes.
const FREES: usize = 1024;
/// What the word of frees begins with: [`FREES`] blocks below its sign bit.
const NO_FREES: usize = (1 << (usize::BITS - 1)) - FREES * ONE_BLOCK;
/// What a block of 0 bytes adds to a word.
const ONE_BLOCK: usize = 1 << (usize::BITS - COUNT_BITS);
const BYTES: usize = ONE_BLOCK - 1;
/// [`UNPUBLISHED`] in the unit of [`difference`].
const MOST: isize = UNPUBLISHED << COUNT_BITS;

/// What a block of `size` bytes adds to a word.
#[inline(always)]
pub(super) fn counted(size: usize) -> usize {
    size + ONE_BLOCK
}
/// Bytes that `allocated` has more than `freed`, times 2^22: the shift drops the counts.
#[inline(always)]
fn difference(allocated: usize, freed: usize) -> isize {
    (allocated.wrapping_sub(freed) << COUNT_BITS) as isize
}
/// Whether a word counts so many blocks that a slow path has to publish. The bound is far below the sign bit, because hits
/// do not look.
fn is_full(word: usize) -> bool {
    word / ONE_BLOCK >= 1 << (COUNT_BITS - 3)
}
/// Reads a word that only the calling thread writes. The load is plain, so the compiler may make it part of another
/// instruction.
#[inline(always)]
fn own(word: &AtomicUsize) -> usize {
    // SAFETY: only the calling thread writes this word, so a plain load races with no store.
    unsafe { word.as_ptr().read() }
}
/// Keeps the code around the call out of the usual path, which then has no jump.
#[cold]
#[inline(always)]
fn rare() {}
fn add(counter: &AtomicUsize, amount: usize) {
    counter.store(own(counter).wrapping_add(amount), Relaxed);
}

/// See the module's comment.
#[repr(C)]
pub(super) struct Tally {
    /// Blocks and bytes of hits since the last publication.
    allocated: AtomicUsize,
    /// Blocks and bytes of quick frees since the last publication, on top of [`NO_FREES`].
    freed: AtomicUsize,
    /// The highest [`difference`] since the last publication. Resetting the heap's statistics stores here too, from any
    /// thread.
    peak: AtomicIsize,
    publications: Sequence,
    misses: AtomicUsize,
    /// What the two words do not have: earlier publications, and what slow paths counted.
    earlier: Totals,
    /// During a publication: the totals and the words together. `earlier` will be the same when the publication ends.
    all: Totals,
}
/// What a reader of a tally finds.
pub(super) struct Seen {
    /// Counts so far.
    pub counts: Counts,
    /// Unpublished net bytes.
    pub live: isize,
    /// Highest unpublished net bytes since the last publication.
    pub peak: isize,
    /// Twice the number of publications so far, and one more during a publication.
    pub publications: u32,
}
#[derive(Default)]
struct Totals {
    hits: AtomicUsize,
    frees: AtomicUsize,
    allocated: AtomicUsize,
}
impl Totals {
    /// The sums of these totals and two words: hits, frees, bytes allocated.
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
    /// Counts a hit of `size` bytes, which is small enough for the fast path. False, with nothing changed, when a slow path
    /// has to publish.
    #[inline(always)]
    pub fn hit(&self, size: usize) -> bool {
        let allocated = own(&self.allocated).wrapping_add(counted(size));
        let live = difference(allocated, own(&self.freed));
        if live > self.peak.load(Relaxed) {
            rare();
            if live > MOST {
                return false;
            }
            self.peak.store(live, Relaxed);
        }
        self.allocated.store(allocated, Relaxed);
        true
    }
    /// Counts a free; `counted` is what [`counted`] gave for its size. False, with nothing changed, when a slow path has to
    /// publish.
    #[inline(always)]
    pub fn quick_free(&self, counted: usize) -> bool {
        let freed = own(&self.freed).wrapping_add(counted);
        if (freed as isize) < 0 {
            return false;
        }
        self.freed.store(freed, Relaxed);
        true
    }
    /// Counts an allocation of `size` bytes, as a hit or as a miss.
    pub fn allocation(&self, heap: &Heap, size: usize, hit: bool) {
        add(if hit { &self.earlier.hits } else { &self.misses }, 1);
        self.change(heap, size, 0);
    }
    /// Counts a free of `size` bytes.
    pub fn free(&self, heap: &Heap, size: usize) {
        add(&self.earlier.frees, 1);
        self.change(heap, 0, size);
    }
    /// Takes back a free of `size` bytes.
    pub fn refuse(&self, heap: &Heap, size: usize) {
        add(&self.earlier.frees, 1usize.wrapping_neg());
        self.change(heap, 0, size.wrapping_neg());
    }
    /// Begins to count that another block replaces one of `old` bytes. The bytes are taken off first, so that the peak never
    /// has both blocks. Returns what [`Tally::end_replacement`] takes as `hits`.
    pub fn begin_replacement(&self, heap: &Heap, old: usize) -> usize {
        self.change(heap, 0, old);
        self.hits()
    }
    /// Ends what [`Tally::begin_replacement`] began. If the block was `replaced`, an allocation and a free were counted
    /// meanwhile; they are taken off again, so that only a change of size counts. Otherwise nothing counts.
    pub fn end_replacement(&self, heap: &Heap, old: usize, hits: usize, replaced: bool) {
        self.change(heap, 0, old.wrapping_neg());
        if replaced {
            let served_by = if self.hits() == hits { &self.misses } else { &self.earlier.hits };
            add(served_by, 1_usize.wrapping_neg());
            add(&self.earlier.frees, 1_usize.wrapping_neg());
        }
    }
    /// Counts `frees` of `bytes` in all, and that `hits` of the misses were hits after all.
    pub fn part_ended(&self, heap: &Heap, frees: usize, bytes: usize, hits: usize) {
        add(&self.earlier.hits, hits);
        add(&self.misses, hits.wrapping_neg());
        add(&self.earlier.frees, frees);
        self.change(heap, 0, bytes);
    }
    /// Counts an allocation and a free of no bytes.
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
        // Changes add bytes without a block, so the bytes alone may come near the end of their part of a word.
        let full = full || (words[0] | words[1]) & (ONE_BLOCK >> 1) != 0;
        if full || live.unsigned_abs() > UNPUBLISHED as usize {
            return self.publish_as(heap, live, peak);
        }
        // The net change goes into a word, so the totals must not have it as well.
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
        let publications = self.publications.number();
        if publications % 2 == 1 {
            return self.end_publication(publications); // begun by a thread that this child does not have
        }
        let (live, peak) = self.unpublished();
        self.publish_as(heap, live, peak);
    }
    #[cold]
    fn publish_as(&self, heap: &Heap, live: isize, peak: isize) {
        let all = self.earlier.with(own(&self.allocated), own(&self.freed));
        self.all.set(all);
        let publications = self.publications.number();
        // So a reader that sees the heap's new live bytes sees that a publication was begun: see `Heap::totals`.
        self.publications.advance(publications.wrapping_add(1));
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
        self.publications.advance(publications.wrapping_add(1));
    }
    /// Net bytes that are not published, and their peak: what [`Tally::look`] tells others, for the thread that writes. No
    /// publication begins meanwhile, but one may have been begun by a thread that this child does not have.
    fn unpublished(&self) -> (isize, isize) {
        match self.publications.number() % 2 == 1 {
            true => (0, 0),
            false => {
                let live = difference(own(&self.allocated), own(&self.freed));
                (live >> COUNT_BITS, self.peak.load(Relaxed) >> COUNT_BITS)
            }
        }
    }
    /// Forgets the peak so far.
    pub fn reset_peak(&self) {
        self.peak.store(self.look().live.min(UNPUBLISHED) << COUNT_BITS, Relaxed);
    }
    /// All figures, as they are at one moment.
    pub fn look(&self) -> Seen {
        self.whole(|publications| {
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
    /// Twice the number of publications so far, and one more during a publication.
    pub fn publications(&self) -> u32 {
        self.publications.number()
    }
    /// Runs `read` on the words until no publication has changed them meanwhile. `read` is told the number of
    /// [`Tally::publications`].
    fn whole<R>(&self, read: impl Fn(u32) -> R) -> R {
        // The limit has never been seen to be reached: another publication would have to come during each try.
        const TRIES: usize = 1000;
        let read = || self.publications.read(&read);
        let whole = (0..TRIES).map(|_| read()).find(|(_, whole)| *whole);
        whole.unwrap_or_else(read).0
    }
}

#[cfg(test)]
type Hook = Box<dyn FnOnce()>;
#[cfg(test)]
std::thread_local! {
    /// Called once in a publication of this thread, after the heap's live bytes have changed and before the words have.
    pub static ON_PUBLISHED: core::cell::Cell<Option<Hook>> = const { core::cell::Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::super::HeapParams;
    use super::*;

    /// Allocates as fast.rs and slow.rs do: the quick way if that may be.
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

    /// Slow calls add bytes without blocks to the words. These add 4 TiB, more than a word can hold.
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

    /// Pairs of an allocation and a free never raise the live bytes, so only the count of frees makes the heap publish.
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
        assert!(tally.publications.number() >= 2 * (5_000_000 / FREES as u32 - 1));
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

    /// A child may find the tally of a thread that was in a publication, after any of the stores.
    #[test]
    fn a_publication_cut_short_is_whole() {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        for stores in 0..5 {
            let tally = Tally::default();
            (0..10).for_each(|_| allocate(&tally, heap, 100));
            free(&tally, heap, 100);
            let all = tally.earlier.with(own(&tally.allocated), own(&tally.freed));
            tally.all.set(all);
            tally.publications.advance(1);
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

    /// A reader that looks in the middle of a publication gets the counts of before or of after it.
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
