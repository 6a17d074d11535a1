//! The heap against a simple model, with shrinking; and the cases that a model does not reach.
use super::*;
use crate::error::Error;
use crate::os::records;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What one call does; blocks are named by their position among the live ones.
#[derive(Clone, Debug)]
enum Step {
    Allocate { size: usize, alignment: usize },
    Free(usize),
    Reallocate(usize, usize),
    FreeInside(usize, usize),
    FreeAgain(usize),
    Trim,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 1usize..300, 4 => 300usize..40_000, 2 => 40_000usize..1_200_000, 1 => 1_200_000usize..9_000_000]
}
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (size(), 0u32..17).prop_map(|(size, log2)| Step::Allocate { size, alignment: if log2 == 0 { 0 } else { 1 << (log2 - 1) } }),
        1 => (1usize..5000, 17u32..22).prop_map(|(size, log2)| Step::Allocate { size, alignment: 1 << log2 }),
        5 => any::<usize>().prop_map(Step::Free),
        2 => (any::<usize>(), size()).prop_map(|(i, size)| Step::Reallocate(i, size)),
        1 => (any::<usize>(), 1usize..64).prop_map(|(i, offset)| Step::FreeInside(i, offset)),
        1 => any::<usize>().prop_map(Step::FreeAgain),
        1 => Just(Step::Trim),
    ]
}

struct Model {
    heap: &'static Heap,
    /// Address: size, alignment, fill byte.
    live: BTreeMap<usize, (usize, usize, u8)>,
    freed: Vec<usize>,
    peak: usize,
    fill: u8,
}
impl Model {
    fn nth(&self, n: usize) -> Option<usize> {
        self.live.keys().nth(n % self.live.len().max(1)).copied()
    }
    fn fill(&mut self, at: usize, size: usize) -> u8 {
        self.fill = self.fill.wrapping_add(1);
        // SAFETY: a live block of that size.
        unsafe { core::ptr::write_bytes(at as *mut u8, self.fill, size) };
        self.fill
    }
    fn check_contents(&self, at: usize, size: usize, fill: u8) {
        // SAFETY: a live block of at least that size.
        let bytes = unsafe { core::slice::from_raw_parts(at as *const u8, size) };
        assert!(bytes.iter().all(|&b| b == fill), "contents of a live block changed");
    }
    fn enter(&mut self, at: usize, size: usize, alignment: usize) {
        assert!(at.is_multiple_of(alignment.max(1)), "{at:#x} is not aligned to {alignment}");
        let before = self.live.range(..at).next_back();
        assert!(before.is_none_or(|(&a, &(s, ..))| a + s <= at), "overlaps the block before");
        let after = self.live.range(at..).next();
        assert!(after.is_none_or(|(&a, _)| at + size <= a), "overlaps the block after");
        let fill = self.fill(at, size);
        self.live.insert(at, (size, alignment, fill));
        self.freed.retain(|&f| f != at);
    }
    fn run(&mut self, step: &Step) {
        let heap = self.heap;
        match *step {
            Step::Allocate { size, alignment } => {
                let block = heap.allocate(size, alignment).unwrap().as_ptr() as usize;
                self.enter(block, size, if alignment == 0 { DEFAULT_ALIGNMENT } else { alignment });
            }
            Step::Free(n) => {
                let Some(at) = self.nth(n) else { return };
                let (size, _, fill) = self.live.remove(&at).unwrap();
                self.check_contents(at, size, fill);
                heap.free(at as *mut u8).unwrap();
                self.freed.push(at);
            }
            Step::Reallocate(n, size) => {
                let Some(at) = self.nth(n) else { return };
                let (old, alignment, fill) = self.live.remove(&at).unwrap();
                let now = heap.reallocate(at as *mut u8, size).unwrap().as_ptr() as usize;
                self.check_contents(now, old.min(size), fill);
                self.enter(now, size, alignment);
            }
            Step::FreeInside(n, offset) => {
                let Some(at) = self.nth(n) else { return };
                if offset < self.live[&at].0 {
                    assert_eq!(heap.free((at + offset) as *mut u8), Err(Error::NotOwned));
                }
            }
            Step::FreeAgain(n) => {
                let Some(&at) = self.freed.get(n % self.freed.len().max(1)) else { return };
                if !self.live.contains_key(&at) {
                    assert!(matches!(heap.free(at as *mut u8), Err(Error::DoubleFree | Error::NotOwned)));
                }
            }
            Step::Trim => {
                heap.trim();
            }
        }
        let live: usize = self.live.values().map(|b| b.0).sum();
        self.peak = self.peak.max(live);
        let figures = heap.statistics();
        assert_eq!(figures.live, live);
        // A moving reallocation has both blocks for a moment.
        assert!(figures.peak >= self.peak);
        assert_eq!(figures.allocations - figures.frees, self.live.len());
        assert!(figures.held >= live);
    }
}

fn against_model(params: HeapParams, steps: &[Step]) {
    let heap = Heap::create(&params).unwrap();
    let mut model = Model { heap, live: BTreeMap::new(), freed: Vec::new(), peak: 0, fill: 0 };
    for step in steps {
        model.run(step);
    }
    for (&at, &(size, alignment, fill)) in &model.live {
        model.check_contents(at, size, fill);
        let block = heap.block(at as *const u8).unwrap();
        assert_eq!((block.start, block.size), (at, size));
        assert!(block.capacity >= size && block.alignment >= alignment.min(DEFAULT_ALIGNMENT) / 4);
        assert_eq!(owner_of_interior((at + size - 1) as *const u8).unwrap().1, block);
    }
    let leaks = heap.destroy();
    assert_eq!(leaks.blocks, model.live.len());
    assert_eq!(leaks.bytes, model.live.values().map(|b| b.0).sum::<usize>());
    assert_eq!(heap.held(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_the_model(steps in prop::collection::vec(step(), 1..300)) {
        against_model(HeapParams::default(), &steps);
    }
    #[test]
    fn behaves_like_the_model_with_a_prefix_and_no_cache(
        steps in prop::collection::vec(step(), 1..150),
        alignment in prop_oneof![Just(0usize), Just(128), Just(1024)],
    ) {
        against_model(HeapParams { prefix: 128, alignment, cache_blocks: 0, ..HeapParams::default() }, &steps);
    }
}

#[test]
fn peak_is_exact_with_one_thread() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let blocks: Vec<_> = (1..2000).map(|i| (i, heap.allocate(i, 0).unwrap())).collect();
    let total: usize = blocks.iter().map(|b| b.0).sum();
    for (_, block) in &blocks {
        heap.free(block.as_ptr()).unwrap();
    }
    heap.free(heap.allocate(70_000, 0).unwrap().as_ptr()).unwrap();
    let figures = heap.statistics();
    assert_eq!((figures.live, figures.peak, figures.largest), (0, total, 70_000));
    heap.destroy();
}

#[test]
fn the_limit_holds_and_memory_comes_back() {
    let limit = 3 << 20;
    let heap = Heap::create(&HeapParams { limit, ..HeapParams::default() }).unwrap();
    for size in [40, 1000, 20_000, 300_000, 1_100_000] {
        let mut blocks = Vec::new();
        while let Ok(block) = heap.allocate(size, 16) {
            assert!(heap.held() <= limit);
            blocks.push(block);
        }
        assert!(blocks.len() * size > limit / 2, "{} blocks of {size}", blocks.len());
        assert_eq!(crate::error::Error::OutOfMemory, heap.allocate(size, 16).unwrap_err());
        for block in blocks {
            heap.free(block.as_ptr()).unwrap();
        }
    }
    heap.trim();
    assert_eq!(heap.held(), 0);
    heap.destroy();
}

#[test]
fn memory_made_ready_serves_every_size() {
    let heap = Heap::create(&HeapParams { limit: 8 << 20, ready: 8 << 20, ..HeapParams::default() }).unwrap();
    assert_eq!(heap.held(), 8 << 20);
    let small = heap.allocate(100, 0).unwrap();
    assert_eq!(heap.held(), 8 << 20);
    let large = heap.allocate(5 << 20, 0).unwrap();
    assert!(heap.held() <= 8 << 20);
    heap.free(small.as_ptr()).unwrap();
    heap.free(large.as_ptr()).unwrap();
    heap.destroy();
}

#[test]
fn blocks_of_ended_threads_come_back() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let held: Vec<usize> = (0..60)
        .map(|_| {
            std::thread::spawn(move || {
                let blocks: Vec<usize> =
                    (0..1000).map(|_| heap.allocate(200, 0).unwrap().as_ptr() as usize).collect();
                blocks.into_iter().for_each(|b| heap.free(b as *mut u8).unwrap());
            })
            .join()
            .unwrap();
            heap.held()
        })
        .collect();
    assert!(held.iter().all(|&h| h <= held[0] + (64 << 10)), "{held:?}");
    let figures = heap.statistics();
    assert_eq!((figures.live, figures.allocations, figures.frees), (0, 60_000, 60_000));
    assert_eq!(heap.destroy(), Leaks::default());
}

#[test]
fn threads_take_from_spans_of_their_own() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let spans_of_a_thread = |turn: &std::sync::Barrier| {
        let mut spans = Vec::new();
        for _ in 0..50 {
            turn.wait();
            let block = heap.allocate(2000, 0).unwrap().as_ptr();
            spans.push(core::ptr::from_ref(span_of_block(block)) as usize);
        }
        turn.wait(); // both have their caches until here
        spans
    };
    let turn = std::sync::Barrier::new(2);
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| spans_of_a_thread(&turn));
        let other = scope.spawn(|| spans_of_a_thread(&turn));
        (one.join().unwrap(), other.join().unwrap())
    });
    assert!(one.iter().all(|span| !other.contains(span)), "two threads' blocks lie in one span");
    heap.destroy();
}

#[test]
fn blocks_in_other_threads_spans_are_used_before_the_limit_refuses() {
    let limit = 2 << 20;
    let heap = Heap::create(&HeapParams { limit, ..HeapParams::default() }).unwrap();
    let (freed, done) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        // Fills the limit, frees all but one block a page, and stays alive: its spans are still its own.
        scope.spawn(|| {
            let blocks: Vec<_> = std::iter::from_fn(|| heap.allocate(1000, 0).ok()).collect();
            let sparse = blocks.iter().enumerate().filter(|(i, _)| i % 4 != 0);
            sparse.for_each(|(_, block)| heap.free(block.as_ptr()).unwrap());
            heap.flush_caches();
            freed.wait();
            done.wait();
            assert!(blocks.len() > 1900);
        });
        freed.wait();
        let taken = std::iter::from_fn(|| heap.allocate(1000, 0).ok()).count();
        done.wait();
        assert!(taken > 1400, "only {taken} of the blocks that the other thread freed could be had");
    });
    heap.destroy();
}

#[test]
fn attributes_follow_the_block() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    for size in [100, 70_000, 4 << 20] {
        let block = heap.allocate(size, 0).unwrap().as_ptr();
        attributes::retain(block).unwrap();
        attributes::retain(block).unwrap();
        assert_eq!(attributes::references(block), 3);
        heap.free(block).unwrap();
        heap.free(block).unwrap();
        assert_eq!((attributes::references(block), heap.statistics().live), (1, size));
        heap.free(block).unwrap();
        assert_eq!((attributes::references(block), heap.statistics().live), (0, 0));
        assert!(heap.free(block).is_err());
    }
    heap.destroy();
}

#[test]
fn threads_pass_blocks_around() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let (send, receive) = std::sync::mpsc::channel::<(usize, u8)>();
    let producers: Vec<_> = (0..3u8)
        .map(|id| {
            let send = send.clone();
            std::thread::spawn(move || {
                for i in 0..20_000usize {
                    let size = 1 + i * 7 % 3000;
                    let block = heap.allocate(size, 0).unwrap();
                    // SAFETY: a fresh block of that size.
                    unsafe { block.write_bytes(id, size) };
                    send.send((block.as_ptr() as usize, id)).unwrap();
                }
            })
        })
        .collect();
    drop(send);
    for (block, id) in receive {
        let size = heap.block(block as *const u8).unwrap().size;
        // SAFETY: live, that long, and handed over by the channel.
        assert!(unsafe { core::slice::from_raw_parts(block as *const u8, size) }.iter().all(|&b| b == id));
        heap.free(block as *mut u8).unwrap();
    }
    producers.into_iter().for_each(|p| p.join().unwrap());
    assert_eq!(heap.destroy(), Leaks::default());
}

#[test]
fn a_limit_need_not_be_whole_slices() {
    for limit in [100_000, 1_000_000, 5 << 20] {
        let heap = Heap::create(&HeapParams { limit, ready: limit, ..HeapParams::default() }).unwrap();
        assert!(heap.held() <= limit && heap.held() > limit - 4096);
        let block = heap.allocate(90_000, 0).unwrap();
        heap.free(block.as_ptr()).unwrap();
        heap.destroy();
    }
}

#[test]
fn a_block_with_several_owners_stays_where_it_is() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    for size in [100, 70_000, 3 << 20] {
        let block = heap.allocate(size, 0).unwrap();
        attributes::retain(block.as_ptr()).unwrap();
        let before = heap.block(block.as_ptr());
        assert_eq!(heap.reallocate(block.as_ptr(), 40 * size), Err(Error::InvalidArgument));
        assert_eq!((heap.block(block.as_ptr()), attributes::references(block.as_ptr())), (before, 2));
        // Less is fine as long as nothing moves.
        assert_eq!(heap.reallocate(block.as_ptr(), size - size / 4), Ok(block));
        assert_eq!(heap.block(block.as_ptr()).unwrap().size, size - size / 4);
        heap.free(block.as_ptr()).unwrap();
        heap.free(block.as_ptr()).unwrap();
    }
    heap.destroy();
}

#[test]
fn owners_may_resize_and_let_go_at_the_same_time() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    for size in [1000, 3 << 20] {
        // The other owner follows in step, so that both calls overlap often.
        let (shared, step) = (AtomicPtr::new(core::ptr::null_mut::<u8>()), AtomicUsize::new(0));
        let wrong = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000 {
                    while step.load(Acquire) <= 2 * n {
                        std::thread::yield_now();
                    }
                    let freed = heap.free(shared.load(Relaxed));
                    wrong.fetch_add(freed.is_err().into(), Relaxed);
                    step.fetch_add(1, Release);
                }
            });
            for n in 0..20_000 {
                let block = heap.allocate(size, 0).unwrap().as_ptr();
                attributes::retain(block).unwrap();
                shared.store(block, Relaxed);
                step.store(2 * n + 1, Release);
                let resized = heap.reallocate(block, size - size / 8);
                while step.load(Acquire) <= 2 * n + 1 {
                    std::thread::yield_now();
                }
                let good = resized.is_ok_and(|at| at.as_ptr() == block) && attributes::references(block) == 1;
                wrong.fetch_add((!good || heap.free(block).is_err()).into(), Relaxed);
            }
        });
        assert_eq!(wrong.load(Relaxed), 0);
    }
    assert_eq!(heap.destroy(), Leaks::default());
}

#[test]
fn heaps_that_resize_at_the_same_time_keep_their_places() {
    std::thread::scope(|scope| {
        for n in 0..3 {
            scope.spawn(move || {
                let heap = Heap::create(&HeapParams::default()).unwrap();
                for round in 0..2000 {
                    let mut block = heap.allocate((2 << 20) + n * (64 << 10), 0).unwrap();
                    for size in [9 << 20, 3 << 20, 20 << 20, 1200 << 10] {
                        block = heap.reallocate(block.as_ptr(), size).unwrap();
                        assert_eq!(heap.block(block.as_ptr()).map(|b| b.size), Some(size), "round {round}");
                    }
                    heap.free(block.as_ptr()).unwrap();
                    heap.trim();
                }
                heap.destroy();
            });
        }
    });
}

#[test]
fn a_reset_forgets_threads_without_caches_too() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let orphans = ThreadCache::make(heap, core::ptr::null()).unwrap();
    // SAFETY: fresh, and this thread's until it is stored.
    unsafe { orphans.as_ref() }.count_allocation(heap, 5000, false);
    *heap.orphans.lock() = Some(orphans);
    heap.reset_statistics();
    assert_eq!(heap.statistics().largest, 0);
    heap.destroy();
}

#[test]
fn a_prefix_bounds_the_alignment_that_is_kept() {
    let params = HeapParams { prefix: 128, alignment: 128, ..HeapParams::default() };
    let heap = Heap::create(&params).unwrap();
    let block = heap.allocate(3000, 0).unwrap();
    assert_eq!(heap.block(block.as_ptr()).unwrap().alignment, 128);
    let moved = heap.reallocate(block.as_ptr(), 6000).unwrap();
    assert!(!span_of_block(moved.as_ptr()).is_large(), "6000 bytes need no mapping of their own");
    assert_eq!(heap.allocate(100, 3), Err(Error::InvalidArgument));
    heap.destroy();
}

#[test]
fn a_growing_block_stays_where_it_is() {
    for prefix in [0, 128] {
        let heap = Heap::create(&HeapParams { prefix, ..HeapParams::default() }).unwrap();
        let first = heap.allocate(20_000, 0).unwrap();
        let block = heap.reallocate(first.as_ptr(), 30_000).unwrap();
        // A neighbour, which a block without room of its own would run into.
        let other = heap.allocate(30_000, 0).unwrap();
        for size in (40_000..400_000).step_by(10_000) {
            let room = heap.block(block.as_ptr()).unwrap().capacity;
            // SAFETY: a live block with that room.
            unsafe { block.write_bytes(7, room) };
            assert_eq!(heap.reallocate(block.as_ptr(), size), Ok(block));
            assert_eq!(owner(block.as_ptr()).unwrap().1, heap.block(block.as_ptr()).unwrap());
            assert_eq!(heap.block(block.as_ptr()).unwrap().size, size);
            assert!(heap.statistics().live == size + 30_000 && heap.held() < size * 5 / 4 + (200 << 10));
        }
        // Smaller again: it moves, and its memory is kept for the next one.
        let small = heap.reallocate(block.as_ptr(), 20_000).unwrap();
        assert!(small != block && heap.block(block.as_ptr()).is_none());
        let next = heap.reallocate(small.as_ptr(), 33_000).unwrap();
        assert_eq!(heap.reallocate(next.as_ptr(), 200_000), Ok(next));
        heap.free(next.as_ptr()).unwrap();
        heap.free(other.as_ptr()).unwrap();
        assert_eq!(heap.statistics().live, 0);
        heap.trim();
        assert_eq!(heap.held(), 0);
        assert_eq!(heap.destroy(), Leaks::default());
    }
}

#[test]
fn a_growing_block_gives_back_what_a_larger_one_touched() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let small = heap.allocate(20_000, 0).unwrap();
    let large = heap.allocate(20_000, 0).unwrap();
    let large = heap.reallocate(large.as_ptr(), 1_000_000).unwrap();
    heap.free(large.as_ptr()).unwrap();
    let before = heap.held();
    let small = heap.reallocate(small.as_ptr(), 35_000).unwrap();
    assert!(heap.held() < before - 480_000, "{} of {before} held", heap.held());
    heap.free(small.as_ptr()).unwrap();
    heap.destroy();
}

/// A thread that forks at this moment leaves the child no way to it: it could be handed out again there.
#[test]
fn a_growing_magazine_gives_its_old_array_back_when_it_has_the_new_one() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let cache = ThreadCache::make(heap, core::ptr::null()).unwrap();
    let given_back = std::rc::Rc::new(core::cell::Cell::new(0));
    let count = given_back.clone();
    let look = move |record: NonNull<u8>| {
        // SAFETY: released below, when nobody looks any more.
        let magazine = unsafe { cache.as_ref() }.magazine(3);
        assert_ne!(magazine.base.get().cast(), record.as_ptr());
        assert_eq!((magazine.length(), magazine.capacity()), (0, magazine.capacity().next_power_of_two()));
        count.set(count.get() + 1);
    };
    records::ON_RELEASE.set(Some(Box::new(look)));
    // SAFETY: as above.
    (0..5).for_each(|_| _ = unsafe { cache.as_ref() }.magazine(3).room_to_fill(3, 256));
    records::ON_RELEASE.set(None);
    assert!(given_back.get() >= 2, "it grew {} times", given_back.get());
    // SAFETY: empty, and never listed.
    unsafe { ThreadCache::release(cache) };
    heap.destroy();
}

/// What a free finds that was raced: between its look at the block and the lock, the record of it and the address have
/// become another heap's.
#[test]
fn a_large_block_is_freed_by_its_own_heap_only() {
    let heaps: [&Heap; 2] = core::array::from_fn(|_| Heap::create(&HeapParams::default()).unwrap());
    let block = heaps[0].allocate(3 << 20, 0).unwrap().as_ptr();
    let span = span_of_block(block);
    assert_eq!(heaps[1].free_large(span, block), Err(Error::DoubleFree));
    assert_eq!((heaps[0].statistics().live, heaps[1].statistics().frees), (3 << 20, 0));
    assert_eq!(heaps[0].free_large(span, block), Ok(()));
    heaps.iter().for_each(|heap| assert_eq!(heap.destroy(), Leaks::default()));
}

#[test]
fn growth_ends_at_the_limit_and_leaves_the_block() {
    let limit = 300_000;
    let heap = Heap::create(&HeapParams { limit, ..HeapParams::default() }).unwrap();
    let first = heap.allocate(20_000, 0).unwrap();
    let block = heap.reallocate(first.as_ptr(), 30_000).unwrap();
    assert_eq!(heap.reallocate(block.as_ptr(), 150_000), Ok(block));
    assert_eq!(heap.reallocate(block.as_ptr(), 400_000), Err(Error::OutOfMemory));
    assert_eq!(heap.block(block.as_ptr()).unwrap().size, 150_000);
    assert!(heap.held() <= limit);
    heap.free(block.as_ptr()).unwrap();
    assert_eq!(heap.destroy(), Leaks::default());
}
