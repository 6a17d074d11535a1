//! Which region an address belongs to. Fault handlers read this.
use super::gate;
use super::region::Region;
use super::snapshot::Snapshot;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::Arc;

/// Where each region begins, and the region, by address. With the address a search touches no region but the one that it
/// finds.
static REGIONS: Snapshot<Vec<(usize, Arc<Region>)>> = Snapshot::new();
/// Number of regions. It spares a look at the list in most programs, which ask about plain blocks only.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Makes a region known.
pub fn add(region: &Arc<Region>) {
    COUNT.fetch_add(1, Release);
    REGIONS.change(|list| {
        let at = list.partition_point(|(start, _)| *start < region.start());
        list.insert(at, (region.start(), region.clone()));
    });
}
/// Makes it unknown.
pub fn remove(region: &Arc<Region>) {
    let removed = REGIONS.change(|list| {
        let at = list.iter().position(|(_, other)| Arc::ptr_eq(other, region));
        at.map(|at| list.remove(at)).is_some()
    });
    if removed {
        COUNT.fetch_sub(1, Release);
    }
}
/// The region with the greatest `figure` among the regions of all engines, unless that is zero.
pub fn greatest(figure: impl Fn(&Region) -> usize) -> Option<Arc<Region>> {
    let regions = REGIONS.get();
    let figures = regions.iter().map(|(_, region)| (figure(region), region));
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
    REGIONS.look(|list| {
        let at = list.partition_point(|(start, _)| *start <= address).checked_sub(1)?;
        let region = &list[at].1;
        region.reserved().contains(address).then(|| region.clone())
    })
}
