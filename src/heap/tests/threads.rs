//! The heap as used by several threads.
use super::*;
use crate::os::{map, records};

#[test]
fn threads_get_their_own_memory_back() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let turn = std::sync::Barrier::new(2);
    // Whoever frees second has put its memory aside last, but the other thread is not given that memory.
    let exchange = |second: bool| {
        let allocate = || heap.allocate(1 << 20, 0).unwrap();
        let in_turn = |act: &mut dyn FnMut()| {
            for now in [false, true] {
                if now == second {
                    act();
                }
                turn.wait();
            }
        };
        let (mut before, mut after) = (NonNull::dangling(), NonNull::dangling());
        in_turn(&mut || before = allocate());
        in_turn(&mut || heap.free(before.as_ptr()).unwrap());
        in_turn(&mut || after = allocate());
        assert_eq!(before, after);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(true));
        exchange(false);
    });
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
        turn.wait(); // both threads keep their caches until here
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
                    // SAFETY: the block is fresh and of that size.
                    unsafe { block.write_bytes(id, size) };
                    send.send((block.as_ptr() as usize, id)).unwrap();
                }
            })
        })
        .collect();
    drop(send);
    for (block, id) in receive {
        let size = heap.block(block as *const u8).unwrap().size;
        // SAFETY: the block is live, has that size, and was handed over through the channel.
        assert!(unsafe { core::slice::from_raw_parts(block as *const u8, size) }.iter().all(|&b| b == id));
        heap.free(block as *mut u8).unwrap();
    }
    producers.into_iter().for_each(|p| p.join().unwrap());
    assert_eq!(heap.destroy(), Leaks::default());
}

#[test]
fn owners_may_resize_and_let_go_at_the_same_time() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    for size in [1000, 3 << 20] {
        // Both threads go in step, so that the two calls overlap often.
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

/// A thread may fork when an old array is given back: a magazine that still had it could hand it out again in the child.
#[test]
fn a_growing_magazine_gives_its_old_array_back_when_it_has_the_new_one() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let cache = ThreadCache::make(heap, core::ptr::null()).unwrap();
    let given_back = std::rc::Rc::new(core::cell::Cell::new(0));
    let count = given_back.clone();
    let look = move |record: NonNull<u8>| {
        // SAFETY: the cache is released below, after the hook was removed.
        let magazine = unsafe { cache.as_ref() }.magazine(3);
        assert_ne!(magazine.array(), record.as_ptr());
        assert_eq!(
            (magazine.length(), magazine.capacity()),
            (0, magazine.capacity().next_power_of_two() - 1)
        );
        count.set(count.get() + 1);
    };
    records::ON_RELEASE.set(Some(Box::new(look)));
    // SAFETY: as above.
    (0..5).for_each(|_| _ = unsafe { cache.as_ref() }.magazine(3).room_to_fill(3, 256));
    records::ON_RELEASE.set(None);
    assert!(given_back.get() >= 2, "it grew {} times", given_back.get());
    // SAFETY: the cache is empty, and was never in a list.
    unsafe { ThreadCache::release(cache) };
    heap.destroy();
}

/// A block that moves to grow gives up its range before its new place is known. If another heap gets the range and marks a
/// block there, that block keeps what is noted of it, and the moved block keeps what it carried.
#[test]
fn what_a_moving_block_carries_is_not_taken_for_its_successors() {
    assert!(
        (0..20).any(|_| a_block_moves_and_has_a_successor()),
        "the range was always taken by another test"
    );
}
fn a_block_moves_and_has_a_successor() -> bool {
    const SIZE: usize = 3 << 20;
    let (mover, successor) = (Heap::create(&HeapParams::default()), Heap::create(&HeapParams::default()));
    let (mover, successor) = (mover.unwrap(), successor.unwrap());
    let layout = |extent: usize| {
        let mut extents = allocator_api2::vec::Vec::new_in(records::Records);
        extents.extend([extent, 1]);
        attributes::Layout { element_size: 8, rank: 1, extents: extents.into_boxed_slice() }
    };
    let block = mover.allocate(SIZE, 0).unwrap();
    // So that the block cannot grow in place.
    let behind = block.as_ptr() as usize + SIZE;
    // SAFETY: the call maps where nothing is, or fails.
    let fence = unsafe { libc::mmap(behind as *mut _, 4096, 0, FIXED, -1, 0) };
    attributes::set_layout(block.as_ptr(), layout(1)).unwrap();
    tracked::INSTANCES.track_in_block(block.as_ptr() as usize + 8, block.as_ptr() as usize).unwrap();
    let (told, tells) = std::sync::mpsc::channel();
    let other = std::rc::Rc::new(core::cell::Cell::new(None));
    let (start, joined) = (block.as_ptr() as usize, other.clone());
    map::ON_RELOCATED.set(Some(Box::new(move |from| {
        assert_eq!(from, start);
        // SAFETY: the call maps where nothing is, or fails.
        if unsafe { libc::mmap(from as *mut _, SIZE, 3, FIXED, -1, 0) } as usize != from {
            return;
        }
        joined.set(Some(std::thread::spawn(move || {
            let span = records_of_spans::take().unwrap();
            assert!(successor.charge(SIZE));
            // SAFETY: the record is fresh, and its mapping is known to nobody else.
            unsafe {
                (span.as_ref().inner().run.base, span.as_ref().inner().length) = (from, SIZE);
                successor.central.lock().kept.keep_range(span);
            }
            let block = successor.allocate(SIZE, 0).unwrap().as_ptr();
            assert_eq!(block as usize, from);
            attributes::set_layout(block, layout(5)).unwrap();
            tracked::INSTANCES.track_in_block(from + 16, from).unwrap();
            let _ = told.send(()); // if this had to wait, nobody listens any more
        })));
        // The thread ends, or waits until the move is over.
        let _ = tells.recv_timeout(std::time::Duration::from_millis(100));
    })));
    let moved = mover.reallocate(block.as_ptr(), 4 * SIZE).unwrap().as_ptr();
    map::ON_RELOCATED.set(None);
    let had_successor = other.take().map(|other| other.join().unwrap()).is_some();
    if had_successor {
        let extent = |block: *const u8| attributes::with_layout(block, |layout| layout.extents[0]);
        assert_eq!((extent(block.as_ptr()), extent(moved)), (Some(5), None));
        let is_tracked = |address: usize| tracked::INSTANCES.is_tracked(address);
        assert!(is_tracked(start + 16) && !is_tracked(start + 8) && !is_tracked(moved as usize + 16));
        assert!(is_tracked(moved as usize + 8));
        successor.free(block.as_ptr()).unwrap();
        assert!(!is_tracked(start + 16));
    }
    mover.free(moved).unwrap();
    if fence as usize == behind {
        // SAFETY: the page was mapped above.
        unsafe { libc::munmap(fence, 4096) };
    }
    assert!(!tracked::INSTANCES.is_tracked(moved as usize + 8));
    [mover, successor].iter().for_each(|heap| assert_eq!(heap.destroy(), Leaks::default()));
    had_successor
}
const FIXED: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;

/// A free may lose a race: between its look at the block and the lock, the block's record and address may become another
/// heap's.
#[test]
fn a_large_block_is_freed_by_its_own_heap_only() {
    let heaps: [&Heap; 2] = core::array::from_fn(|_| Heap::create(&HeapParams::default()).unwrap());
    let block = heaps[0].allocate(3 << 20, 0).unwrap().as_ptr();
    let span = span_of_block(block);
    assert_eq!(heaps[1].free_large(span, block), Err(Error::DoubleFree));
    assert_eq!(heaps[1].resize_large(span, block, 4 << 20, false, false), Err(Error::DoubleFree));
    assert_eq!((heaps[0].statistics().live, heaps[1].statistics().frees), (3 << 20, 0));
    assert_eq!(heaps[0].free_large(span, block), Ok(()));
    heaps.iter().for_each(|heap| assert_eq!(heap.destroy(), Leaks::default()));
}

#[test]
fn a_reset_forgets_threads_without_caches_too() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let orphans = ThreadCache::make(heap, core::ptr::null()).unwrap();
    // SAFETY: the cache is fresh, and this thread's alone until it is stored.
    unsafe { orphans.as_ref() }.count_allocation(heap, 5000, false);
    *heap.orphans.lock() = Some(orphans);
    heap.reset_statistics();
    assert_eq!(heap.statistics().largest, 0);
    heap.destroy();
}

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
    whole.count_foreign(2 * SIZE as isize).unwrap();
    let address = block.as_ptr() as usize;
    std::thread::spawn(move || heap.free(address as *mut u8).unwrap()).join().unwrap();
    free_late(heap, block, SIZE);
    whole.count_foreign(-2 * SIZE as isize).unwrap();
    heap.flush_caches();
    assert_eq!((heap.statistics().live, whole.statistics().live), (SIZE, SIZE));
    heap.free(other.as_ptr()).unwrap();
    [heap, whole].iter().for_each(|heap| assert_eq!(heap.destroy(), Leaks::default()));
}

/// Waits for another thread that is about as far: not for long, unless that thread has no processor.
fn until(reached: impl Fn() -> bool) {
    let mut looks = 0;
    while !reached() {
        looks += 1;
        match looks % 1000 {
            0 => std::thread::yield_now(),
            _ => core::hint::spin_loop(),
        }
    }
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

/// With one thread that allocates the peak is exact, whoever asks for it meanwhile.
#[test]
fn who_looks_on_raises_no_peak() {
    const SIZE: usize = 40_000;
    let heap = Heap::create(&HeapParams::default()).unwrap();
    // This is the worst moment: the heap has counted what is published, and this thread's tally still has it as well.
    tally::ON_PUBLISHED.set(Some(Box::new(|| {
        let figures = heap.statistics();
        assert!(figures.peak <= 2 * SIZE && figures.live <= figures.peak, "{figures:?}");
    })));
    let blocks = [(); 2].map(|()| heap.allocate(SIZE, 0).unwrap().as_ptr());
    assert!(tally::ON_PUBLISHED.take().is_none(), "nothing was published");
    assert_eq!((heap.statistics().live, heap.statistics().peak), (2 * SIZE, 2 * SIZE));
    blocks.iter().for_each(|&block| heap.free(block).unwrap());
    assert_eq!(heap.destroy(), Leaks::default());
}

/// What is counted after a reset is in the new peak.
#[test]
fn a_reset_forgets_no_peak_that_comes_meanwhile() {
    const ROUNDS: usize = 50_000;
    const SIZE: usize = 1 << 40;
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let step = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..ROUNDS {
                until(|| step.load(Acquire) > 2 * n);
                heap.count_region(SIZE).unwrap();
                heap.uncount_region(SIZE).unwrap();
                step.fetch_add(1, Release);
            }
        });
        for n in 0..ROUNDS {
            step.store(2 * n + 1, Release);
            heap.reset_statistics();
            until(|| step.load(Acquire) > 2 * n + 1);
            let figures = heap.statistics();
            assert!(figures.allocations == 0 || figures.peak >= SIZE, "round {n}: {figures:?}");
        }
    });
    heap.destroy();
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
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Gives this thread a cache.
            heap.free(heap.allocate(SIZE, 0).unwrap().as_ptr()).unwrap();
            barrier.wait();
            barrier.wait();
            free_late(heap, NonNull::new(address as *mut u8).unwrap(), SIZE);
            barrier.wait();
            barrier.wait();
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
