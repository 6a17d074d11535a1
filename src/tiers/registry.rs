//! Which region an address belongs to. Fault handlers read this.
use super::gate;
use super::region::Region;
use crate::os::lock::Mutex;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::Arc;

struct Entry {
    start: usize,
    end: usize,
    region: Arc<Region>,
}
/// Number of regions. It spares a look at the list in most programs, which ask about plain blocks only.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static REGIONS: Mutex<Option<Arc<Vec<Entry>>>> = Mutex::sheltered(None);

/// Replaces the list by an edited copy. As in engine.rs, the lock is held for the exchange only.
fn change(edit: impl Fn(&mut Vec<Entry>)) {
    loop {
        let old = REGIONS.lock().clone();
        let copy = |e: &Entry| Entry { start: e.start, end: e.end, region: e.region.clone() };
        let mut list: Vec<Entry> = old.as_deref().into_iter().flatten().map(copy).collect();
        edit(&mut list);
        let count = list.len();
        let new = Some(Arc::new(list));
        let mut current = REGIONS.lock();
        if current.as_ref().map(Arc::as_ptr) == old.as_ref().map(Arc::as_ptr) {
            let replaced = core::mem::replace(&mut *current, new);
            COUNT.store(count, Release);
            drop(current);
            drop(replaced);
            return;
        }
    }
}
/// Makes a region known.
pub fn add(region: &Arc<Region>) {
    let span = region.reserved();
    change(|list| {
        let at = list.partition_point(|e| e.start < span.start);
        list.insert(at, Entry { start: span.start, end: span.start + span.length, region: region.clone() });
    });
}
/// Makes it unknown.
pub fn remove(region: &Arc<Region>) {
    change(|list| list.retain(|e| !Arc::ptr_eq(&e.region, region)));
}
/// The region with the greatest `figure` among the regions of all engines, unless that is zero.
pub fn greatest(figure: impl Fn(&Region) -> usize) -> Option<Arc<Region>> {
    let regions = REGIONS.lock().clone()?;
    let figures = regions.iter().map(|entry| (figure(&entry.region), &entry.region));
    let (most, region) = figures.max_by_key(|&(figure, _)| figure)?;
    (most > 0).then(|| region.clone())
}
/// The region whose address space holds `address`. To be called outside the gate.
pub fn lookup(address: usize) -> Option<Arc<Region>> {
    if COUNT.load(Acquire) == 0 {
        return None;
    }
    let _inside = gate::enter();
    find(address)
}
/// The region whose address space holds `address`. To be called inside the gate.
pub fn find(address: usize) -> Option<Arc<Region>> {
    let regions = REGIONS.lock();
    let list = regions.as_deref()?;
    let at = list.partition_point(|e| e.start <= address).checked_sub(1)?;
    (address < list[at].end).then(|| list[at].region.clone())
}
