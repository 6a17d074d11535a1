//! Calls that find no memory for the library's own records. A program of its own, because faults are injected into the
//! whole process.
use std::sync::Mutex;
use unimem::advanced::System;
use unimem::advanced::pool::{Limits, Pool};
use unimem::c_api::advanced_system::{create_memory_system, destroy_memory_system};
use unimem::c_api::legacy_types::MemorySystemConfig;
use unimem::heap::tracked::{INSTANCES, SINGLETON};
use unimem::heap::tracking_table::TrackingTable;
use unimem::heap::{Heap, HeapParams, RESERVED, attributes};
use unimem::instance::{config::Config, slots};
use unimem::os::injection::Operation::{Record, ThreadKey};
use unimem::os::injection::{arm, disarm};

static TURN: Mutex<()> = Mutex::new(());

/// Runs `body` in a thread that can make no records: not even its own.
fn without_records<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    with_records(0, body)
}
/// Runs `body` in a thread that can make so many.
fn with_records<R: Send>(count: usize, body: impl FnOnce() -> R + Send) -> R {
    let body = || {
        arm(&[Record], count, libc::ENOMEM);
        let result = body();
        disarm();
        result
    };
    std::thread::scope(|scope| scope.spawn(body).join().unwrap())
}

#[test]
fn what_is_tracked_no_more_needs_no_memory() {
    let _turn = TURN.lock();
    let table = TrackingTable::new();
    const COUNT: usize = 200_000;
    (1..=COUNT).for_each(|n| _ = table.track(n << 12, n));
    without_records(|| (1..=COUNT).for_each(|n| assert_eq!(table.untrack(n << 12), Some(n))));
    assert_eq!(table.count(), 0);
}

#[test]
fn tracking_once_more_loses_nothing() {
    let _turn = TURN.lock();
    let places: Vec<_> = (1..60).map(|n| (n << 16 | 8, n << 16)).collect();
    for (n, &(address, start)) in places.iter().enumerate() {
        SINGLETON.track(address, start).unwrap();
        let tracked = &places[..=n];
        without_records(|| tracked.iter().for_each(|&(address, start)| _ = SINGLETON.track(address, start)));
        assert!(tracked.iter().all(|&(address, _)| SINGLETON.is_tracked(address)), "of {}", n + 1);
    }
    places.iter().for_each(|&(address, _)| assert!(SINGLETON.untrack(address)));
}

#[test]
fn a_free_that_fails_changes_nothing() {
    let _turn = TURN.lock();
    let slot = slots::open(Config::default()).unwrap();
    let instance = slots::open_at(slot).unwrap();
    for side in [10, 300, 1000] {
        let tensor = instance.allocate_tensor(&[side, side], 8).unwrap().as_ptr();
        let inside = tensor.wrapping_add(8);
        instance.track(inside, 0).unwrap();
        let address = tensor as usize;
        assert!(without_records(|| instance.free(address as *mut u8)).is_err());
        assert_eq!(attributes::with_layout(tensor, |layout| layout.extents[0]), Some(side));
        assert!(INSTANCES.is_tracked(inside as usize));
        instance.free(tensor).unwrap();
    }
    assert_eq!(slots::close(slot), Ok(0));
}

#[test]
fn what_is_not_counted_is_not_tracked() {
    let _turn = TURN.lock();
    let slot = slots::open(Config::default()).unwrap();
    let instance = slots::open_at(slot).unwrap();
    // Neighbours, for which the table has room.
    let [first, second] = [0x7000usize, 0x7040];
    instance.track(first as *mut u8, 100).unwrap();
    assert!(without_records(|| instance.track(second as *mut u8, 50)).is_err());
    assert!(instance.untrack(second as *mut u8).is_err());
    assert!(without_records(|| instance.untrack(first as *mut u8)).is_err());
    assert_eq!(instance.statistics().live, 100);
    instance.untrack(first as *mut u8).unwrap();
    assert_eq!(instance.statistics().live, 0);
    assert_eq!(slots::close(slot), Ok(0));
}

/// Allocations and frees of a pool count in its system too: both, or neither.
#[test]
fn a_pool_and_its_system_count_the_same() {
    let _turn = TURN.lock();
    let system: &'static System = Box::leak(Box::new(System::new(0, false).unwrap()));
    let pool: &'static Pool = Box::leak(Box::new(Pool::new(system, Limits::default()).unwrap()));
    pool.join().unwrap();
    for records in 0..12 {
        let made = with_records(records, || pool.allocate(1000).map(|block| block.as_ptr() as usize));
        let (allocations, live) = (system.metrics().allocations, system.metrics().live);
        assert_eq!(
            (allocations, live),
            (usize::from(made.is_ok()), 1000 * usize::from(made.is_ok())),
            "{records} records"
        );
        if let Ok(block) = made {
            let freed = with_records(records, || pool.free(block as *mut u8));
            let live = if freed.is_ok() { 0 } else { 1000 };
            assert_eq!(
                (pool.heap().statistics().live, system.metrics().live),
                (live, live),
                "{records} records"
            );
            if freed.is_err() {
                pool.free(block as *mut u8).unwrap();
            }
        }
        system.reset_metrics();
    }
    pool.end();
    system.end();
}

/// A system that could not be entered among the others leaves no heap behind.
#[test]
fn a_system_that_is_not_made_leaves_no_heap() {
    let _turn = TURN.lock();
    let config = MemorySystemConfig::default();
    let next_heap = || {
        let heap = Heap::create(&HeapParams::default()).unwrap();
        heap.destroy();
        heap.id()
    };
    // SAFETY: a configuration; nobody else has the system.
    let make = || unsafe { create_memory_system(&config) as usize };
    for records in 0..12 {
        let next = next_heap();
        let system = with_records(records, make);
        // SAFETY: as above; NULL is fine.
        unsafe { destroy_memory_system(system as *mut _) };
        assert!(next_heap() == next || system != 0, "{records} records: another heap is in use");
    }
}

/// What was made so far of an instance is gone when the rest has no memory.
#[test]
fn an_instance_that_is_not_opened_leaves_nothing() {
    let _turn = TURN.lock();
    let opened = (0..8).map(|records| with_records(records, || slots::open(Config::default())));
    let opened: Vec<_> = opened.collect();
    assert!(opened.iter().any(|slot| slot.is_err()) && opened.iter().any(|slot| slot.is_ok()), "{opened:?}");
    opened.into_iter().flatten().for_each(|slot| assert_eq!(slots::close(slot), Ok(0)));
    let more: Vec<_> = std::iter::from_fn(|| slots::open(Config::default()).ok()).collect();
    assert_eq!(more.len(), RESERVED - 1, "all of them can be opened");
    more.into_iter().for_each(|slot| assert_eq!(slots::close(slot), Ok(0)));
}

/// Threads that have no record share a cache, which counts as any other.
#[test]
fn a_thread_without_a_record_counts_its_reallocations() {
    let _turn = TURN.lock();
    let system: &'static System = Box::leak(Box::new(System::new(0, false).unwrap()));
    let reallocate = || {
        arm(&[ThreadKey], 0, libc::ENOMEM);
        let block = system.allocate(100, 0).unwrap();
        let resized = system.reallocate(block.as_ptr(), 5000).map(|block| block.is_some());
        disarm();
        assert_eq!(resized, Ok(true));
    };
    std::thread::scope(|scope| scope.spawn(reallocate).join().unwrap());
    assert_eq!((system.metrics().allocations, system.metrics().live), (2, 5000));
    system.end();
}
