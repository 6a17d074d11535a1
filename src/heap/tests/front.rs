//! The front: the place for one block before a thread's magazines.
use super::super::cache::ThreadCache;
use super::super::magazine::Entry;
use super::late_frees::free_late;
use super::*;
use core::sync::atomic::AtomicU16;

fn heap() -> &'static Heap {
    Heap::create(&HeapParams::default()).unwrap()
}
fn allocate(heap: &'static Heap, size: usize) -> *mut u8 {
    heap.allocate(size, 0).unwrap().as_ptr()
}
fn free(heap: &'static Heap, block: *mut u8) {
    heap.free(block).unwrap();
}
fn cache(heap: &'static Heap) -> &'static ThreadCache {
    heap.existing_cache().unwrap()
}
/// A block that the front has given out, and remembers.
fn remembered(heap: &'static Heap, size: usize) -> *mut u8 {
    let block = allocate(heap, size);
    free(heap, block);
    assert_eq!(allocate(heap, size), block);
    block
}
/// The stride of the block in the front, which it moves into its magazine.
fn held_stride(heap: &'static Heap) -> Option<usize> {
    let (class, entry) = cache(heap).front.remove(0)?;
    assert!(cache(heap).magazine(class).push(entry));
    Some(size_class::SHAPES[class].stride as usize)
}
fn end(heap: &'static Heap) {
    assert_eq!(heap.destroy(), Leaks::default());
}

#[test]
fn a_block_freed_and_wanted_again_stays_out_of_the_magazines() {
    let heap = heap();
    let block = remembered(heap, 1000);
    for size in [1000, 900, 1024] {
        free(heap, block);
        assert_eq!(held_stride(heap), Some(1024));
        assert_eq!(allocate(heap, size), block);
        assert_eq!(heap.block(block).map(|block| block.size), Some(size));
        assert_eq!(heap.statistics().live, size);
    }
    free(heap, block);
    assert_eq!((heap.statistics().live, heap.refused()), (0, 0));
    end(heap);
}

/// The size of a block that has a span of its own stands in the span, where a reallocation may have changed it.
#[test]
fn blocks_with_spans_of_their_own_are_served_too() {
    let heap = heap();
    let block = remembered(heap, 64 << 10);
    for size in [64 << 10, 60_000, 57_400] {
        free(heap, block);
        assert_eq!(held_stride(heap), Some(64 << 10));
        free(heap, allocate(heap, 64 << 10)); // from the magazine, into the front
        assert_eq!(allocate(heap, size), block);
        assert_eq!(heap.block(block).map(|block| block.size), Some(size));
        assert_eq!(heap.reallocate(block, size - 10).map(NonNull::as_ptr), Ok(block));
        assert_eq!(heap.statistics().live, size - 10);
    }
    free(heap, block);
    assert_eq!((heap.statistics().live, heap.refused()), (0, 0));
    end(heap);
}
#[test]
fn a_block_that_has_grown_is_kept_as_what_it_is_now() {
    let heap = heap();
    let block = remembered(heap, 40_000);
    assert_eq!(heap.reallocate(block, 50_000).map(NonNull::as_ptr), Ok(block));
    free(heap, block);
    assert_eq!(
        (allocate(heap, 50_000), heap.block(block).map(|block| block.capacity)),
        (block, Some(56 << 10))
    );
    free(heap, block);
    end(heap);
}
#[test]
fn what_is_written_to_a_block_in_the_front_is_cleared_again() {
    let heap = heap();
    let block = remembered(heap, 40_000);
    // SAFETY: the block is live and has that size.
    unsafe { block.write_bytes(7, 40_000) };
    free(heap, block);
    let zeroed = heap.allocate_zeroed(40_000, 0).unwrap();
    // SAFETY: as above.
    assert!(unsafe { core::slice::from_raw_parts(zeroed.as_ptr(), 40_000) }.iter().all(|&byte| byte == 0));
    assert_eq!(zeroed.as_ptr(), block);
    free(heap, block);
    end(heap);
}

#[test]
fn a_class_that_is_no_longer_used_makes_room() {
    let heap = heap();
    let other = allocate(heap, 3000);
    free(heap, other);
    for _ in 0..1100 {
        free(heap, allocate(heap, 100));
    }
    free(heap, allocate(heap, 100));
    assert_eq!(held_stride(heap), Some(128));
    assert_eq!(allocate(heap, 3000), other, "the block that made room");
    free(heap, other);
    end(heap);
}

#[test]
fn a_block_in_the_front_is_not_live() {
    let heap = heap();
    let block = remembered(heap, 100);
    free(heap, block);
    assert_eq!(heap.free(block), Err(Error::DoubleFree));
    assert_eq!((heap.statistics().frees, heap.refused(), heap.block(block)), (2, 1, None));
    end(heap);
}

#[test]
fn memory_in_the_front_is_given_back() {
    let heap = heap();
    std::thread::spawn(move || free(heap, remembered(heap, 100))).join().unwrap();
    free(heap, remembered(heap, 5000));
    heap.trim();
    assert_eq!(heap.held(), 0);
    end(heap);
}

#[test]
fn memory_that_is_in_the_front_alone_is_given_back() {
    let heap = heap();
    let block = remembered(heap, 100);
    heap.flush_caches(); // the others that came with it
    free(heap, block);
    heap.trim();
    assert_eq!(heap.held(), 0);
    end(heap);
}

/// Two threads free one block, and its span ends before the one that was late has come to keep it.
#[test]
fn a_block_whose_span_has_ended_is_not_kept() {
    static SLOT: AtomicU16 = AtomicU16::new(slot::FREE);
    let heap = heap();
    let block = allocate(heap, 100);
    let (cache, class) = (cache(heap), span_of_block(block).class() as usize);
    let value = cache.magazine(class).labels().zero_size_value() - 100;
    let elsewhere = core::ptr::from_ref(&SLOT).cast_mut().cast();
    cache.tally.free(heap, 100);
    fast::keep_in_front(cache, Entry::new(elsewhere, &SLOT, value), class * size_class::CLASS_SCALE);
    assert_eq!((heap.statistics().live, heap.refused()), (0, 0));
    heap.trim();
    assert_eq!((heap.statistics().live, heap.statistics().frees, heap.refused()), (100, 0, 1));
    free(heap, block);
    end(heap);
}

/// The same, and the memory of the span is one of another class by then. Its slot says nothing: it is the same one, as this is
/// the first block of both.
#[test]
fn a_block_whose_span_was_replaced_is_not_remembered() {
    let heap = heap();
    let block = allocate(heap, 100);
    heap.flush_caches(); // the others that came with it
    let (span, index, value) = heap.find(block).unwrap();
    let entry = Entry::new(block, span.slot(index), value);
    let scaled_class = span.class() as usize * size_class::CLASS_SCALE;
    free(heap, block);
    heap.flush_caches();
    let next = allocate(heap, 190);
    heap.flush_caches();
    assert_eq!(next, block);
    let cache = cache(heap);
    cache.tally.free(heap, 100);
    fast::keep_in_front(cache, entry, scaled_class);
    assert_eq!(held_stride(heap), None);
    // This thread is given a part of the other block. When it frees that, the block goes where it belongs.
    assert_eq!(allocate(heap, 100), block);
    free(heap, block);
    assert_eq!(held_stride(heap), Some(192));
    assert_eq!(allocate(heap, 190), block);
    free(heap, block);
    heap.destroy();
}

#[test]
fn the_front_is_room_for_one_more() {
    // Room for one span of blocks and its bookkeeping.
    let heap = Heap::create(&HeapParams { limit: 640 << 10, ..HeapParams::default() }).unwrap();
    let mut blocks = vec![];
    while let Ok(block) = heap.allocate(20_000, 0) {
        blocks.push(block.as_ptr());
    }
    assert!(!heap.can_allocate(20_000, 0, 0));
    free(heap, blocks[0]);
    assert!(heap.can_allocate(20_000, 0, 0));
    assert_eq!(allocate(heap, 20_000), blocks[0]);
    blocks.iter().for_each(|&block| free(heap, block));
    end(heap);
}

/// Blocks pass from thread to thread. When the first thread frees the address that it remembers, this has become
/// a block of another class.
#[test]
fn what_is_remembered_ends_with_the_span() {
    let heap = heap();
    let block = remembered(heap, 100);
    heap.flush_caches(); // also the other blocks that came with it
    let address = block as usize;
    let successor = move || {
        free(heap, address as *mut u8);
        heap.flush_caches();
        // A span of this class has as many slices, so it gets the same range, from its start.
        let next = allocate(heap, 190);
        heap.flush_caches();
        assert_eq!(next as usize, address);
        190
    };
    let size = std::thread::spawn(successor).join().unwrap();
    assert_eq!(heap.statistics().live, size);
    free(heap, block);
    assert_eq!((heap.statistics().live, heap.refused()), (0, 0));
    assert_eq!(allocate(heap, size), block, "it is in the magazine of its class");
    free(heap, block);
    end(heap);
}

#[test]
fn what_another_thread_did_to_the_block_counts() {
    let heap = heap();
    let block = remembered(heap, 100);
    let address = block as usize;
    let other = move || {
        let block = address as *mut u8;
        free(heap, block);
        assert_eq!(allocate(heap, 77), block);
        heap.reallocate(block, 120).unwrap();
    };
    std::thread::spawn(other).join().unwrap();
    assert_eq!(heap.statistics().live, 120);
    free(heap, block);
    assert_eq!(heap.statistics().live, 0);
    let other = move || heap.free(address as *mut u8);
    assert_eq!(std::thread::spawn(other).join().unwrap(), Err(Error::DoubleFree));
    end(heap);
}

#[test]
fn a_block_that_carries_something_is_freed_slowly() {
    let heap = heap();
    let block = remembered(heap, 100);
    let place = block as usize + 8;
    tracked::INSTANCES.track_in_block(place, block as usize).unwrap();
    assert!(tracked::INSTANCES.is_tracked(place));
    free(heap, block);
    assert!(!tracked::INSTANCES.is_tracked(place));
    assert_eq!((heap.statistics().live, heap.refused()), (0, 0));
    end(heap);
}

/// Two threads free one block. The one that was late is given it and passes it on, and the other frees it once more.
#[test]
fn a_free_that_lost_is_refused_though_its_block_is_freed_again() {
    let heap = heap();
    let (one, block) = (allocate(heap, 100), remembered(heap, 100));
    free(heap, block);
    assert_eq!(allocate(heap, 120), block);
    free(heap, block);
    let address = block as usize;
    let other = move || {
        free(heap, allocate(heap, 100)); // so that it has a magazine
        heap.flush_caches();
        let block = NonNull::new(address as *mut u8).unwrap();
        free_late(heap, block, 120);
        assert_eq!(heap.allocate(100, 0), Ok(block));
    };
    std::thread::spawn(other).join().unwrap();
    free(heap, block);
    heap.trim();
    let figures = heap.statistics();
    assert_eq!((figures.live, figures.allocations - figures.frees, heap.refused()), (100, 1, 1));
    free(heap, one);
    end(heap);
}
