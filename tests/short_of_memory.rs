//! Calls that find no memory for the library's own records. A program of its own, because faults are injected into the
//! whole process.
use std::sync::Mutex;
use unimem::heap::attributes;
use unimem::heap::tracked::{INSTANCES, SINGLETON};
use unimem::heap::tracking_table::TrackingTable;
use unimem::instance::{config::Config, slots};
use unimem::os::injection::{Operation::Record, arm, disarm};

static TURN: Mutex<()> = Mutex::new(());

/// Runs `body` in a thread that can make no records: not even its own.
fn without_records<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    let body = || {
        arm(&[Record], 0, libc::ENOMEM);
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
