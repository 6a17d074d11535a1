//! Single blocks: their figures, owners and alignment, and how they grow.
use super::*;
use crate::heap::{central, span};

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

/// The alignments of C's types and of vectors are as quick as the usual one.
#[test]
fn no_lower_alignment_takes_the_slow_path() {
    for prefix in [0, 128] {
        let heap = Heap::create(&HeapParams { prefix, ..HeapParams::default() }).unwrap();
        for alignment in [0, 1, 2, 4, 8, 16, 32, 64] {
            for size in [1, 40, 96, 1000, 20_000, 40_000] {
                heap.free(heap.allocate(size, alignment).unwrap().as_ptr()).unwrap();
                let block = heap.allocate_quickly(size, alignment, false).expect("a hit");
                assert!((block.as_ptr() as usize).is_multiple_of(alignment.max(1)));
                heap.free(block.as_ptr()).unwrap();
            }
        }
        heap.destroy();
    }
}
/// Nothing is known of what was asked for but the class. A block of 96 bytes that lies at a multiple of 32 need not become
/// whole cache lines when it grows.
#[test]
fn blocks_that_grow_stay_packed() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    for (size, grown, capacity) in [(30, 48, 48), (96, 110, 112), (40, 80, 80)] {
        let block = heap.allocate(size, 16).unwrap();
        let moved = heap.reallocate(block.as_ptr(), grown).unwrap();
        assert_eq!(heap.block(moved.as_ptr()).unwrap().capacity, capacity);
        let aligned = heap.allocate(size, 32).unwrap();
        let moved = heap.reallocate(aligned.as_ptr(), grown).unwrap();
        assert!((moved.as_ptr() as usize).is_multiple_of(32));
    }
    heap.destroy();
}

/// As often as a program is likely to do it, and at what it then finds in its caches.
#[test]
fn small_blocks_are_resized_without_the_slow_path() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let sizes = [16, 17, 100, 90, 3000, 2900, 40, 28 << 10];
    let [mut block, other] = [(); 2].map(|()| heap.allocate(16, 16).unwrap());
    let round = |block: &mut NonNull<u8>, quickly: bool| {
        for (from, to) in sizes.iter().zip(sizes.iter().cycle().skip(1)) {
            // SAFETY: the block is live and has that size.
            unsafe { block.write_bytes(*from as u8, *from) };
            let before = heap.statistics();
            let resized = fast::reallocate(heap.id(), block.as_ptr(), *to);
            assert!(resized.is_some() || !quickly, "{from} to {to}");
            *block = resized.unwrap_or_else(|| heap.reallocate(block.as_ptr(), *to).unwrap());
            // SAFETY: as above.
            let kept = unsafe { core::slice::from_raw_parts(block.as_ptr(), *from.min(to)) };
            assert!(kept.iter().all(|&byte| byte == *from as u8), "{from} to {to}");
            let figures = heap.statistics();
            assert_eq!((figures.live, heap.block(block.as_ptr()).unwrap().size), (to + 16, *to));
            assert_eq!((figures.allocations, figures.frees), (before.allocations, before.frees));
        }
    };
    // The largest size makes whole cache lines of it, so the second round uses other classes.
    [false, false, true].iter().for_each(|&quickly| round(&mut block, quickly));
    assert_eq!(heap.statistics().peak, (28 << 10) + 16, "never both the old block and the new one");
    for wrong in [block.as_ptr().wrapping_add(1), core::ptr::null_mut(), (&raw const sizes).cast_mut().cast()]
    {
        assert_eq!(fast::reallocate(heap.id(), wrong, 50), None);
    }
    heap.free(other.as_ptr()).unwrap();
    assert_eq!(fast::reallocate(heap.id(), other.as_ptr(), 50), None);
    heap.free(block.as_ptr()).unwrap();
    assert_eq!((heap.statistics().live, heap.destroy()), (0, Leaks::default()));
}
/// A quick reallocation that finds no room for the old block puts the new one back.
#[test]
fn a_block_that_cannot_be_put_away_stays() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let blocks: Vec<_> = (0..5000).map(|_| heap.allocate(1000, 0).unwrap()).collect();
    heap.free(heap.allocate(3000, 0).unwrap().as_ptr()).unwrap();
    heap.free(heap.allocate(3000, 0).unwrap().as_ptr()).unwrap();
    let class = |size| heap.existing_cache().unwrap().magazine(size_class::class_of(size) as usize);
    let mut left = blocks.iter();
    while class(1000).place().is_some() {
        heap.free(left.next().expect("magazines are bounded").as_ptr()).unwrap();
    }
    let block = *left.next().unwrap();
    let (before, cached) = (heap.block(block.as_ptr()), class(3000).length());
    assert!(cached > 0);
    assert_eq!(fast::reallocate(heap.id(), block.as_ptr(), 3000), None);
    assert_eq!((heap.block(block.as_ptr()), class(3000).length()), (before, cached));
    let moved = heap.reallocate(block.as_ptr(), 3000).unwrap();
    assert_eq!((heap.block(moved.as_ptr()).unwrap().size, heap.block(block.as_ptr())), (3000, None));
    let mut live = vec![moved];
    live.extend(left);
    live.iter().for_each(|block| heap.free(block.as_ptr()).unwrap());
    assert_eq!((heap.statistics().live, heap.refused(), heap.destroy()), (0, 0, Leaks::default()));
}

#[test]
fn who_only_reallocates_puts_back_what_others_want() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    let block = heap.allocate(100, 0).unwrap();
    let cached = || heap.existing_cache().unwrap().magazine(size_class::class_of(500) as usize).length();
    let mut block = heap.reallocate(block.as_ptr(), 3000).unwrap();
    for wanted in [false, true] {
        let others: Vec<_> = (0..10).map(|_| heap.allocate(500, 0).unwrap()).collect();
        others.iter().for_each(|block| heap.free(block.as_ptr()).unwrap());
        assert!(cached() > 0);
        if wanted {
            heap.want_caches();
        }
        for size in [100, 3000].into_iter().cycle().take(3000) {
            block = heap.reallocate(block.as_ptr(), size).unwrap();
        }
        assert_eq!(cached() == 0, wanted);
    }
    heap.free(block.as_ptr()).unwrap();
    assert_eq!(heap.destroy(), Leaks::default());
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
fn a_block_with_several_owners_stays_where_it_is() {
    let heap = Heap::create(&HeapParams::default()).unwrap();
    for size in [100, 70_000, 3 << 20] {
        let block = heap.allocate(size, 0).unwrap();
        attributes::retain(block.as_ptr()).unwrap();
        let before = heap.block(block.as_ptr());
        assert_eq!(heap.reallocate(block.as_ptr(), 40 * size), Err(Error::InvalidArgument));
        assert_eq!((heap.block(block.as_ptr()), attributes::references(block.as_ptr())), (before, 2));
        // A smaller size is fine, because nothing moves.
        assert_eq!(heap.reallocate(block.as_ptr(), size - size / 4), Ok(block));
        assert_eq!(heap.block(block.as_ptr()).unwrap().size, size - size / 4);
        assert_eq!(heap.reallocate(block.as_ptr(), size / 10), Ok(block));
        assert_eq!(
            (heap.block(block.as_ptr()).unwrap().size, heap.statistics().live),
            (size / 10, size / 10)
        );
        heap.free(block.as_ptr()).unwrap();
        heap.free(block.as_ptr()).unwrap();
    }
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
        // A neighbour, into which a block without address space of its own would run.
        let other = heap.allocate(30_000, 0).unwrap();
        for size in (40_000..400_000).step_by(10_000) {
            let room = heap.block(block.as_ptr()).unwrap().capacity;
            // SAFETY: the block is live and has that room.
            unsafe { block.write_bytes(7, room) };
            assert_eq!(heap.reallocate(block.as_ptr(), size), Ok(block));
            assert_eq!(owner(block.as_ptr()).unwrap().1, heap.block(block.as_ptr()).unwrap());
            assert_eq!(heap.block(block.as_ptr()).unwrap().size, size);
            assert!(heap.statistics().live == size + 30_000 && heap.held() < size * 5 / 4 + (200 << 10));
        }
        // When it becomes small again it moves, and its memory is kept for the next block that
        // grows.
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

/// A few blocks live on among many that were freed. Trimming leaves no more of a span than up to its last block, and what it
/// gave back serves again, headers and all.
#[test]
fn trimming_cuts_spans_behind_their_last_block() {
    fn write_header(block: *mut u8, _: usize, class: u16) {
        // SAFETY: the heaps of this test keep 128 bytes free before each block.
        unsafe { block.sub(128).cast::<u16>().write(class ^ 0x5555) };
    }
    for prefix in [0, 128] {
        let write_header = (prefix > 0).then_some(write_header as WriteHeader);
        let heap = Heap::create(&HeapParams { prefix, write_header, ..HeapParams::default() }).unwrap();
        for size in [40, 500, 3000, 20_000] {
            let allocate = || heap.allocate(size, 0).unwrap().as_ptr();
            let (stays, goes): (Vec<_>, Vec<_>) =
                (0..4000).map(|number| (number % 97 == 5, allocate())).partition(|(stays, _)| *stays);
            goes.iter().for_each(|(_, block)| heap.free(*block).unwrap());
            let before = heap.held();
            let given = heap.trim();
            assert!(given > 0 && heap.held() == before - given, "{size} bytes");
            let (mut needed, mut charged) = (0, 0);
            {
                let central = heap.central.lock();
                let mut next = central.all.head;
                // SAFETY: listed spans are live records; the lock is held.
                while let Some(span) = unsafe { next.as_ref() } {
                    // SAFETY: as above.
                    let inner = unsafe { span.inner() };
                    next = inner.links[span::BY_HEAP].next;
                    let last =
                        (0..inner.carved as usize).rev().find(|index| slot::is_live(span.value(*index)));
                    needed += central::end_of(span.class(), last.unwrap() + 1);
                    charged += inner.charged;
                }
            }
            assert_eq!(charged, needed, "{size} bytes");
            let again: Vec<_> = (0..4000).map(|_| allocate()).collect();
            assert_eq!(again.iter().collect::<std::collections::HashSet<_>>().len(), again.len());
            let lives = |block: &*mut u8| stays.iter().any(|(_, other)| other == block);
            assert!(!again.iter().any(lives));
            if prefix > 0 {
                // SAFETY: the header is before the block.
                let headers: Vec<u16> =
                    again.iter().map(|b| unsafe { b.sub(128).cast::<u16>().read() }).collect();
                assert!(headers.iter().all(|header| *header == headers[0] && *header != 0), "{size} bytes");
            }
            again.iter().chain(stays.iter().map(|(_, block)| block)).for_each(|b| heap.free(*b).unwrap());
        }
        heap.trim();
        assert_eq!(heap.statistics().live, 0);
        heap.destroy();
    }
}
