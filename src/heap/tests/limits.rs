//! The heap and its limit.
use super::*;

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
        assert_eq!(Error::OutOfMemory, heap.allocate(size, 16).unwrap_err());
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
fn what_was_used_makes_room_before_what_was_made_ready() {
    const MIB: usize = 1 << 20;
    let heap = Heap::create(&HeapParams { ready: 8 * MIB, ..HeapParams::default() }).unwrap();
    let blocks = [0; 4].map(|_| heap.allocate(MIB - 4096, 0).unwrap());
    blocks.iter().for_each(|block| heap.free(block.as_ptr()).unwrap());
    heap.flush_caches();
    let held = heap.held();
    assert!((8 * MIB..9 * MIB).contains(&held), "{held}");
    let large = heap.allocate(64 * MIB, 0).unwrap();
    // What is kept of the four would raise the peak; what was made ready stays all the same.
    assert!((68 * MIB..70 * MIB).contains(&heap.held()), "{}", heap.held());
    heap.free(large.as_ptr()).unwrap();
    heap.trim();
    assert_eq!(heap.held(), 0);
    heap.destroy();
}

#[test]
fn a_heap_at_its_limit_takes_nothing_from_others() {
    let ready = 4 << 20;
    let other = Heap::create(&HeapParams { ready, ..HeapParams::default() }).unwrap();
    let held = other.held();
    for size in [40, 1000, 20_000, 300_000, 1_100_000] {
        let heap = Heap::create(&HeapParams { limit: 3 << 20, ..HeapParams::default() }).unwrap();
        while heap.allocate(size, 16).is_ok() {}
        assert_eq!(heap.allocate(size, 16), Err(Error::OutOfMemory));
        assert!(held > ready && other.held() == held, "{size}: {} of {held}", other.held());
        heap.destroy();
    }
    other.destroy();
}

#[test]
fn blocks_in_other_threads_spans_are_used_before_the_limit_refuses() {
    let limit = 2 << 20;
    let heap = Heap::create(&HeapParams { limit, ..HeapParams::default() }).unwrap();
    std::thread::scope(|scope| {
        let [one, other] = Meeting::sides();
        // Fills the heap up to its limit, frees all but one block in each page, and stays alive, so that
        // its spans remain its own.
        scope.spawn(move || {
            let blocks: Vec<_> = std::iter::from_fn(|| heap.allocate(1000, 0).ok()).collect();
            let sparse = blocks.iter().enumerate().filter(|(i, _)| i % 4 != 0);
            sparse.for_each(|(_, block)| heap.free(block.as_ptr()).unwrap());
            heap.flush_caches();
            other.wait(); // freed
            other.wait(); // done
            assert!(blocks.len() > 1900);
        });
        one.wait();
        let taken = std::iter::from_fn(|| heap.allocate(1000, 0).ok()).count();
        one.wait();
        assert!(taken > 1400, "only {taken} of the blocks that the other thread freed could be had");
    });
    heap.destroy();
}

#[test]
fn a_limit_need_not_be_whole_slices() {
    for limit in [100_000, 1_000_000, 5 << 20] {
        let heap = Heap::create(&HeapParams { limit, ready: limit, ..HeapParams::default() }).unwrap();
        assert!(heap.held() <= limit && heap.held() > limit - 4096);
        let block = heap.allocate(80_000, 0).unwrap();
        heap.free(block.as_ptr()).unwrap();
        heap.destroy();
    }
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

#[test]
fn growth_has_the_room_of_what_the_thread_caches() {
    let limit = 16 << 20;
    let heap = Heap::create(&HeapParams { limit, ..HeapParams::default() }).unwrap();
    let large = heap.allocate(8 << 20, 0).unwrap();
    let blocks: Vec<_> = (0..600).map(|_| heap.allocate(1000, 0).unwrap()).collect();
    blocks.iter().for_each(|block| heap.free(block.as_ptr()).unwrap());
    heap.release_kept(None);
    let cached = heap.held() - (8 << 20);
    assert!(cached > 64 << 10);
    let large = heap.reallocate(large.as_ptr(), limit - (cached & !4095) + 4096).unwrap();
    heap.free(large.as_ptr()).unwrap();
    assert_eq!(heap.destroy(), Leaks::default());
}

/// Few small blocks that live on in every span leave room for others.
#[test]
fn few_blocks_do_not_keep_whole_spans_from_others() {
    let heap = Heap::create(&HeapParams { limit: 4 << 20, ..HeapParams::default() }).unwrap();
    let mut blocks: Vec<_> = core::iter::from_fn(|| heap.allocate(40, 0).ok()).collect();
    assert!(blocks.len() > 50_000);
    let stay: Vec<_> = (0..blocks.len()).step_by(1000).rev().map(|index| blocks.swap_remove(index)).collect();
    blocks.iter().for_each(|block| heap.free(block.as_ptr()).unwrap());
    assert!(heap.can_allocate(1000, 0, 0));
    let others: Vec<_> = (0..500).map(|_| heap.allocate(1000, 0).unwrap()).collect();
    stay.iter().chain(&others).for_each(|block| heap.free(block.as_ptr()).unwrap());
    heap.destroy();
}
