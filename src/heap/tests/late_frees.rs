//! Frees that race with another free of the same block, or come late: after the block, or its whole span, has changed.
use super::threads::until;
use super::*;

/// What a thread does that found the block live, and comes to store so when another has freed it and put it back (slot.rs).
pub(super) fn free_late(heap: &'static Heap, block: NonNull<u8>, size: usize) {
    let span = span_of_block(block.as_ptr());
    let index = span.index_of(block.as_ptr() as usize).unwrap();
    let cache = heap.existing_cache().unwrap();
    let magazine = cache.magazine(span.class() as usize);
    let live = magazine.labels().zero_size_value() - size as u16;
    assert!(magazine.push(magazine::Entry::new(block.as_ptr(), span.slot(index), live)));
    span.slot(index).store(magazine.tag(), Relaxed);
    cache.tally.free(heap, size);
}

#[test]
fn a_free_that_comes_late_is_refused() {
    const SIZE: usize = 100;
    for other_is_live in [true, false] {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let [block, other] = [(); 2].map(|()| heap.allocate(SIZE, 0).unwrap());
        let address = block.as_ptr() as usize;
        // The cache of this thread ends with the thread.
        std::thread::spawn(move || heap.free(address as *mut u8).unwrap()).join().unwrap();
        free_late(heap, block, SIZE);
        if !other_is_live {
            heap.free(other.as_ptr()).unwrap();
        }
        assert_eq!((heap.statistics().frees, heap.refused()), (2 + usize::from(!other_is_live), 0));
        heap.flush_caches();
        let figures = heap.statistics();
        assert_eq!((figures.frees, heap.refused()), (1 + usize::from(!other_is_live), 1));
        // If the span notices the late free before the late entry comes back, nobody knows the size of that free.
        assert_eq!(figures.live, if other_is_live { SIZE } else { 0 });
        if other_is_live {
            heap.free(other.as_ptr()).unwrap();
        }
        assert_eq!(heap.destroy(), Leaks::default());
    }
}

/// A pool's blocks are counted in its system too. A free that is refused later is taken back there as well.
#[test]
fn a_free_that_comes_late_is_refused_where_it_was_counted_too() {
    const SIZE: usize = 100;
    let (heap, whole) = (Heap::create(&HeapParams::default()), Heap::create(&HeapParams::default()));
    let (heap, whole) = (heap.unwrap(), whole.unwrap());
    heap.count_in(whole);
    let [block, other] = [(); 2].map(|()| heap.allocate(SIZE, 0).unwrap());
    (0..2).for_each(|_| whole.count_block_of_part(SIZE).unwrap());
    let address = block.as_ptr() as usize;
    std::thread::spawn(move || heap.free(address as *mut u8).unwrap()).join().unwrap();
    free_late(heap, block, SIZE);
    (0..2).for_each(|_| whole.uncount_block_of_part(SIZE).unwrap());
    assert_eq!((heap.statistics().frees, heap.live_blocks()), (2, 0));
    heap.flush_caches();
    let of = |figures: HeapStatistics| (figures.live, figures.allocations, figures.frees);
    assert_eq!([of(heap.statistics()), of(whole.statistics())], [(SIZE, 2, 1); 2]);
    whole.reset_statistics();
    assert_eq!((of(whole.statistics()), whole.live_blocks()), ((SIZE, 0, 0), 1));
    heap.free(other.as_ptr()).unwrap();
    [heap, whole].iter().for_each(|heap| assert_eq!(heap.destroy(), Leaks::default()));
}

#[test]
fn of_two_frees_of_a_mapped_block_one_counts() {
    const ROUNDS: usize = 20_000;
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let small = heap.allocate(20, 0).unwrap();
    let (shared, done) = (AtomicPtr::new(core::ptr::null_mut::<u8>()), AtomicUsize::new(0));
    let freed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..ROUNDS {
                until(|| !shared.load(Acquire).is_null());
                let block = shared.swap(core::ptr::null_mut(), AcqRel);
                freed.fetch_add(heap.free(block).is_ok().into(), Relaxed);
                done.store(n + 1, Release);
            }
        });
        for n in 0..ROUNDS {
            let block = heap.allocate(1100 << 10, 0).unwrap().as_ptr();
            shared.store(block, Release);
            until(|| shared.load(Acquire).is_null());
            freed.fetch_add(heap.free(block).is_ok().into(), Relaxed);
            until(|| done.load(Acquire) > n);
        }
    });
    assert_eq!((freed.load(Relaxed), heap.refused(), heap.statistics().live), (ROUNDS, ROUNDS, 20));
    heap.free(small.as_ptr()).unwrap();
    assert_eq!(heap.destroy(), Leaks::default());
}

/// Size and stride of two classes with spans of the same length: a span of one can become one of the other in place.
const CLASSES: [(usize, usize); 2] = [(300, 320), (1772, 1792)];
fn uncached() -> &'static Heap {
    Heap::create(&HeapParams { cache_blocks: 0, ..HeapParams::default() }).unwrap()
}

#[test]
fn who_looks_up_a_stale_address_finds_one_class_or_none() {
    let heap = uncached();
    let start = heap.allocate(CLASSES[0].0, 0).unwrap().as_ptr() as usize;
    heap.free(start as *mut u8).unwrap();
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for n in 0..200_000 {
                let block = heap.allocate(CLASSES[n % 2].0, 0).unwrap();
                assert_eq!(block.as_ptr() as usize, start);
                heap.free(block.as_ptr()).unwrap();
            }
        });
        while !changes.is_finished() {
            for offset in [0, 290] {
                let Some((_, found)) = owner_of_interior((start + offset) as *const u8) else { continue };
                assert!(CLASSES.contains(&(found.size, found.capacity)), "{found:?}");
            }
        }
    });
    assert_eq!(heap.destroy(), Leaks::default());
}

/// A call may stand still after it has found a block, until that block and all others of its span were freed. The block's
/// slot then belongs to a block of another class, and holds the same value.
#[test]
fn who_comes_late_changes_no_block_of_another_class() {
    let heap = uncached();
    let two_of = |class: usize| [(); 2].map(|()| heap.allocate(CLASSES[class].0, 0).unwrap().as_ptr());
    let old = two_of(0);
    let (span, index, value) = heap.find(old[1]).unwrap();
    let known = heap.describe(span, old[1] as usize, value);
    old.iter().for_each(|&block| heap.free(block).unwrap());
    let new = two_of(1);
    let now = heap.find(new[1]).unwrap();
    assert!(core::ptr::eq(now.0, span) && (now.1, now.2) == (index, value), "not the same span");
    let freed = heap.with_cache(|cache| heap.free_to_class(cache, span, index, value, old[1]));
    assert_eq!(freed, Ok(false));
    assert_eq!(heap.resize_in_room(span, index, value, &known, 310), None);
    assert_eq!(heap.set_aside(span, index, old[1] as usize), None);
    assert_eq!(heap.block(new[1]).map(|block| block.size), Some(CLASSES[1].0));
    assert_eq!(heap.statistics().live, 2 * CLASSES[1].0);
    new.iter().for_each(|&block| heap.free(block).unwrap());
    assert_eq!(heap.destroy(), Leaks::default());
}

/// A thread found the block without further owners, and frees it when it has one.
#[test]
fn attributes_end_with_a_block_that_is_freed_at_the_same_moment() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let block = heap.allocate(100, 0).unwrap();
    attributes::retain(block.as_ptr()).unwrap();
    free_late(heap, block, 100);
    assert_eq!(heap.allocate(100, 0), Ok(block));
    attributes::retain(block.as_ptr()).unwrap();
    assert_eq!(attributes::references(block.as_ptr()), 2);
    (0..2).for_each(|_| heap.free(block.as_ptr()).unwrap());
    assert_eq!(heap.block(block.as_ptr()), None);
    assert_eq!(heap.destroy(), Leaks::default());
}

/// The same, but the thread that freed in time has the block in its front.
#[test]
fn a_block_that_a_late_free_took_is_not_given_out_from_the_front() {
    const SIZE: usize = 100;
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let [block, other] = [(); 2].map(|()| heap.allocate(SIZE, 0).unwrap());
    let address = block.as_ptr() as usize;
    std::thread::scope(|scope| {
        let [barrier, others] = Meeting::sides();
        scope.spawn(move || {
            // Gives this thread a cache.
            heap.free(heap.allocate(SIZE, 0).unwrap().as_ptr()).unwrap();
            others.wait();
            others.wait();
            free_late(heap, NonNull::new(address as *mut u8).unwrap(), SIZE);
            others.wait();
            others.wait();
        });
        barrier.wait();
        heap.free(block.as_ptr()).unwrap();
        assert_eq!(heap.statistics().live, SIZE);
        barrier.wait();
        barrier.wait();
        // The late free has taken the block, and has counted it as freed for the second time.
        let next = heap.allocate(SIZE, 0).unwrap();
        assert_ne!(next, block);
        assert_eq!((heap.statistics().live, heap.refused()), (2 * SIZE, 1));
        heap.free(next.as_ptr()).unwrap();
        barrier.wait();
    });
    heap.free(other.as_ptr()).unwrap();
    assert_eq!(heap.destroy(), Leaks::default());
}
