//! Which region an address belongs to. Fault handlers read this.
use super::by_address::ByAddress;
use super::gate;
use super::region::Region;
use super::snapshot::Snapshot;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::Arc;

static REGIONS: Snapshot<ByAddress<Region>> = Snapshot::new();
/// Number of regions. It spares a look at the list in most programs, which ask about plain blocks only.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Makes a region known.
pub fn add(region: &Arc<Region>) {
    COUNT.fetch_add(1, Release);
    REGIONS.change(|list| list.insert(region.start(), region.clone()));
}
/// Makes it unknown.
pub fn remove(region: &Arc<Region>) {
    let removed = REGIONS.change(|list| list.remove(region.start(), region));
    if removed {
        COUNT.fetch_sub(1, Release);
    }
}
/// The region with the greatest `figure` among the regions of all engines, unless that is zero.
pub fn greatest(figure: impl Fn(&Region) -> usize) -> Option<Arc<Region>> {
    let regions = REGIONS.get();
    let figures = regions.iter().map(|region| (figure(region), region));
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
    REGIONS
        .look(|list| list.at_or_before(address).filter(|region| region.reserved().contains(address)).cloned())
}
