//! Tiered memory in debug mode: which regions of a heap's instance are live, so that leaks of them are reported with
//! the stacks that allocated them. Regions have no guard behind them and are not held back when they are freed.
use super::super::{Block, Heap};
use super::trace;
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
use crate::os::map::PAGE;
use crate::os::records::{self, Records};
use allocator_api2::vec::Vec;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// A live region.
#[derive(Clone, Copy)]
pub struct Region {
    size: usize,
    heap: &'static Heap,
    stack: u64,
}
static REGIONS: Mutex<HashMap<usize, Region, FixedState, Records>> =
    Mutex::new(HashMap::with_hasher_in(FixedState::with_seed(0), Records));

/// See load.rs.
pub(super) static HOOKS: &dyn AtFork = &REGIONS;

/// Notes that the calling stack made a region. If there is no memory for the note the region stays unknown.
pub fn made(heap: &'static Heap, start: usize, size: usize) {
    if super::traces_are_on() {
        enter(start, Region { size, heap, stack: trace::here() });
    }
}
/// Takes out what is noted of the region at `start`, which is about to end or to be resized.
pub fn ends(start: usize) -> Option<Region> {
    if super::traces_are_on() { REGIONS.lock().remove(&start) } else { None }
}
/// Puts back what [`ends`] took out, because the region did not end.
pub fn stays(start: usize, region: Option<Region>) {
    if let Some(region) = region {
        enter(start, region);
    }
}
fn enter(start: usize, region: Region) {
    let mut regions = REGIONS.lock();
    if regions.try_reserve(1).is_ok() {
        regions.insert(start, region);
    }
}

/// The stack that allocated the region at `start`.
pub(super) fn stack_of(start: usize) -> Option<u64> {
    REGIONS.lock().get(&start).map(|region| region.stack)
}
/// Where the region around `address` starts, its size, and the stack that allocated it.
pub(super) fn around(address: usize) -> Option<(usize, usize, u64)> {
    let regions = REGIONS.lock();
    let found = regions
        .iter()
        .find(|&(&start, region)| address.checked_sub(start).is_some_and(|at| at < region.size));
    found.map(|(&start, region)| (start, region.size, region.stack))
}
/// Adds the regions of `heap`, or of all heaps, to the list, as if they were blocks. Not to be called under a heap's
/// lock.
pub(super) fn add_to(live: &mut Vec<Block, Records>, heap: Option<&Heap>) {
    for (&start, region) in REGIONS.lock().iter() {
        let wanted = heap.is_none_or(|heap| core::ptr::eq(region.heap, heap));
        if wanted {
            records::push(live, Block { start, size: region.size, capacity: region.size, alignment: PAGE });
        }
    }
}
/// Forgets the regions of a heap that is about to end.
pub(super) fn forget_of(heap: &Heap) {
    REGIONS.lock().retain(|_, region| !core::ptr::eq(region.heap, heap));
}
