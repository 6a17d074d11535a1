//! The heap as used by several threads.
use super::*;
use crate::os::{map, records};

#[test]
fn threads_get_their_own_memory_back() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    // Whoever frees second has put its memory aside last, but the other thread is not given that memory.
    let exchange = |second: bool, turn: Meeting| {
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
        let [one, other] = Meeting::sides();
        scope.spawn(|| exchange(true, one));
        exchange(false, other);
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
    let spans_of_a_thread = |turn: Meeting| {
        let mut spans = Vec::new();
        for _ in 0..50 {
            turn.wait();
            let block = heap.allocate(2000, 0).unwrap().as_ptr();
            spans.push(core::ptr::from_ref(span_of_block(block)) as usize);
        }
        turn.wait(); // both threads keep their caches until here
        spans
    };
    let (one, other) = std::thread::scope(|scope| {
        let turns = Meeting::sides();
        let [one, other] = turns.map(|turn| scope.spawn(|| spans_of_a_thread(turn)));
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
    // Within its room, into another class of spans, and as a mapping.
    for (size, other_size) in [(1000, 875), (40_000, 50_000), (3 << 20, 2 << 20)] {
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
                let resized = heap.reallocate(block, other_size);
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
                successor.central.lock().kept.keep_range(successor, span);
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

/// Waits for another thread that is about as far: not for long, unless that thread has no processor.
pub(super) fn until(reached: impl Fn() -> bool) {
    let mut looks = 0;
    while !reached() {
        looks += 1;
        match looks % 1000 {
            0 => std::thread::yield_now(),
            _ => core::hint::spin_loop(),
        }
    }
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
