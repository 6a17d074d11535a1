//! What is kept of ended spans and mappings, what of it serves which blocks, and what leaves first.
use super::*;
use crate::heap::HeapParams;
use crate::heap::size_class::FIRST_SINGLE;

/// Makes all kept ranges as old as the process.
fn age(heap: &Heap) {
    let central = heap.central.lock();
    let mut next = NonNull::new(central.kept.aging[RANGES].head);
    while let Some(span) = next {
        // SAFETY: kept spans are known to nobody but their list, under the lock.
        let inner = unsafe { span.as_ref().inner() };
        inner.kept_since = 0;
        next = NonNull::new(inner.links[BY_USE].next);
    }
}

/// The kept runs of so many slices, the latest first: when each was put aside.
fn ages(heap: &Heap, slices: usize) -> Vec<u32> {
    let central = heap.central.lock();
    let first = NonNull::new(central.kept.aging[slices].head);
    core::iter::successors(first, |span| {
        // SAFETY: kept spans are known to nobody but their list, under the lock.
        NonNull::new(unsafe { span.as_ref().inner() }.links[BY_USE].next)
    })
    // SAFETY: as above.
    .map(|span| unsafe { span.as_ref().inner() }.kept_since)
    .collect()
}
/// Sets when the latest kept run of so many slices was put aside.
fn set_age(heap: &Heap, slices: usize, since: u32) {
    let central = heap.central.lock();
    // SAFETY: kept spans are known to nobody but their list, under the lock.
    unsafe { (*central.kept.aging[slices].head).inner() }.kept_since = since;
}
#[test]
fn the_most_in_use_is_forgotten_after_two_times() {
    const KEEP: u32 = scavenger::KEEP;
    let mut most = MostInUse::NOTHING;
    assert_eq!(most.note(1, 100, 10), 100);
    assert_eq!(most.note(KEEP, 50, 10), 100); // the time before was that of the heap's beginning
    assert_eq!(most.note(2 * KEEP - 1, 60, 10), 100);
    assert_eq!(most.note(2 * KEEP, 30, 10), 60);
    assert_eq!(most.note(3 * KEEP, 20, 5), 30);
    assert_eq!(most.note(9 * KEEP, 20, 5), 20); // nothing for a long time
}
#[test]
fn the_rest_of_a_run_leaves_at_its_age() {
    const SLICES: [usize; 3] = [16, 10, 6];
    let heap = Heap::create(&HeapParams { cache_blocks: 0, ..HeapParams::default() }).unwrap();
    let allocate = |slices: usize| heap.allocate(slices * SLICE, 0).unwrap().as_ptr();
    let [whole, behind] = [allocate(SLICES[0]), allocate(SLICES[2])];
    for (block, slices, since) in [(whole, SLICES[0], 3), (behind, SLICES[2], 5)] {
        heap.free(block).unwrap();
        set_age(heap, slices, since);
    }
    let part = allocate(SLICES[1]);
    assert_eq!((ages(heap, SLICES[0]), ages(heap, SLICES[2])), (vec![], vec![3, 5]));
    heap.release_kept(Some(3));
    assert_eq!(ages(heap, SLICES[2]), [3, 5]);
    heap.release_kept(Some(4));
    assert_eq!(ages(heap, SLICES[2]), [5]);
    heap.free(part).unwrap();
    heap.destroy();
}

#[test]
fn what_is_used_of_a_range_does_not_keep_the_rest() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    for (used, stays) in [(2 << 20, false), (40 << 20, true)] {
        heap.free(heap.allocate(64 << 20, 0).unwrap().as_ptr()).unwrap();
        age(heap);
        heap.free(heap.allocate(used, 0).unwrap().as_ptr()).unwrap();
        heap.release_kept(Some(1));
        assert_eq!(heap.held() > 0, stays, "{used} of it were used");
    }
    heap.destroy();
}
#[test]
fn so_many_ranges_are_kept_and_the_oldest_leave() {
    const LENGTH: usize = (1 << 20) + SLICE;
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let blocks: Vec<_> =
        (0..2 * MOST_RANGES + 200).map(|_| heap.allocate(LENGTH, 0).unwrap().as_ptr()).collect();
    let (freed, live): (Vec<_>, Vec<_>) = blocks.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
    freed.iter().for_each(|block| heap.free(*block).unwrap());
    {
        let central = heap.central.lock();
        let count = core::iter::successors(NonNull::new(central.kept.aging[RANGES].head), |span| {
            // SAFETY: kept spans are known to nobody but their list, under the lock.
            NonNull::new(unsafe { span.as_ref().inner() }.links[BY_USE].next)
        });
        assert_eq!((count.count(), central.kept.ranges), (MOST_RANGES, MOST_RANGES));
    }
    assert_eq!(heap.held(), (live.len() + MOST_RANGES) * LENGTH);
    // The latest are there.
    let mut again: Vec<_> = (0..MOST_RANGES).map(|_| heap.allocate(LENGTH, 0).unwrap().as_ptr()).collect();
    again.sort();
    let mut latest = freed[freed.len() - MOST_RANGES..].to_vec();
    latest.sort();
    assert!(again == latest);
    live.iter().chain(&again).for_each(|block| heap.free(*block).unwrap());
    heap.release_kept(None);
    assert_eq!((heap.held(), heap.central.lock().kept.ranges), (0, 0));
    heap.destroy();
}
#[test]
fn large_blocks_in_magazines_make_way_for_small_ones() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let large = [(); 16].map(|()| heap.allocate(128 << 10, 0).unwrap().as_ptr());
    large.iter().for_each(|&block| heap.free(block).unwrap());
    let cached = || heap.existing_cache().unwrap().magazines()[FIRST_SINGLE..].iter().any(|m| m.length() > 0);
    assert!(cached());
    let small: Vec<_> = (0..1 << 15).map(|_| heap.allocate(64, 0).unwrap().as_ptr()).collect();
    assert!(!cached());
    small.iter().for_each(|&block| heap.free(block).unwrap());
    heap.destroy();
}
#[test]
fn a_range_leaves_no_further_than_room_is_wanted() {
    const MIB: usize = 1 << 20;
    let heap = Heap::create(&HeapParams::default()).unwrap();
    heap.free(heap.allocate(64 * MIB, 0).unwrap().as_ptr()).unwrap();
    let blocks = [(); 8].map(|()| heap.allocate(MIB / 2, 0).unwrap().as_ptr());
    assert!((62 * MIB..66 * MIB).contains(&heap.held()), "{} are held", heap.held());
    blocks.iter().for_each(|&block| heap.free(block).unwrap());
    heap.destroy();
}
#[test]
fn a_range_that_is_too_short_is_lengthened_with_its_pages() {
    const MIB: usize = 1 << 20;
    let heap = Heap::create(&HeapParams::default()).unwrap();
    for (kept, wanted, is_lengthened) in [(12, 13, true), (12, 48, true), (12, 49, false)] {
        let block = heap.allocate(kept * MIB, 0).unwrap();
        // SAFETY: the block has these bytes.
        unsafe { block.write_bytes(7, kept * MIB) };
        heap.free(block.as_ptr()).unwrap();
        let block = heap.allocate(wanted * MIB, 0).unwrap();
        assert_eq!(block.as_ptr() as usize % HUGE_PAGE, 0);
        // SAFETY: the block has these bytes, which the system has made zeroes or a block before has written.
        let bytes = unsafe { core::slice::from_raw_parts(block.as_ptr(), wanted * MIB) };
        let (old, new) = bytes.split_at(if is_lengthened { kept * MIB } else { 0 });
        assert!(old.iter().all(|&byte| byte == 7) && new.iter().all(|&byte| byte == 0), "{wanted} MiB");
        assert_eq!(heap.held(), wanted * MIB);
        heap.free(block.as_ptr()).unwrap();
        heap.trim();
    }
    heap.destroy();
}
#[test]
fn the_shortest_range_that_serves_is_taken() {
    for shortest_last in [false, true] {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        let allocate = |length: usize| heap.allocate(length, 0).unwrap().as_ptr();
        // The two in between keep the ranges apart.
        let blocks = [3 << 20, 5 << 20, 40 << 20, 5 << 20, 2 << 20].map(allocate);
        let order = if shortest_last { [4, 2, 0] } else { [0, 2, 4] };
        order.iter().for_each(|&number| heap.free(blocks[number]).unwrap());
        let block = allocate(5 << 19);
        let range = blocks[0] as usize..blocks[0] as usize + (3 << 20);
        assert!(range.contains(&(block as usize)), "{block:?} of {blocks:?}");
        heap.destroy();
    }
}
