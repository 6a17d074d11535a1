//! The regions that have chunks in a list, such as those in place, the one with the oldest chunk first.
//!
//! A heap, ordered by the stamps that the oldest chunks had when they were last looked at. Chunks come and go without
//! touching it: whoever asks for the oldest corrects the stamp at the top until it holds, which is the right one then, because
//! the oldest chunk of a region hardly ever gets older. So what an eviction costs does not grow with the number of regions.
//!
//! # Protocol
//! Every region with such a chunk is in the heap, if the engine knows the region. The heap's lock may be taken under a region's
//! lists' lock, never the other way.
//! - A thread that lists a region's first chunk adds the region (`note`), with the lists' lock held.
//! - A thread that finds a region without chunks at the top removes it, and then looks at the lists once more. Either it sees
//!   the chunk that another thread has listed meanwhile, and adds the region again. Or that thread comes later, and
//!   finds that the region is not in the heap.
//! - A region that becomes known is looked at in the same way. One that becomes unknown is removed and not added any more.
use super::engine::Engine;
use super::region::Region;
use super::staging::Staging;
use super::table::ListKind;
use crate::os::lock::Mutex;
use crate::os::records::Records;
use allocator_api2::vec::Vec as RecordVec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

/// How many times the region with the oldest chunk is tried before all are.
pub const FEW: usize = 8;

/// What has chunks: a region.
pub trait Ranked: Sized {
    /// Its places.
    fn ranks(&self) -> &Ranks<Self>;
    /// The stamp of its oldest chunk of this kind.
    fn oldest_stamp(&self, which: ListKind) -> Option<u32>;
}
/// Where a region is in each heap, under the heaps' locks.
pub struct Ranks<R> {
    region: OnceLock<Weak<R>>,
    places: [AtomicU32; 4],
}
impl<R> Default for Ranks<R> {
    fn default() -> Ranks<R> {
        Ranks { region: OnceLock::new(), places: Default::default() }
    }
}
/// The engine does not know the region.
const UNKNOWN: u32 = 0;
/// It is not in the heap.
const ABSENT: u32 = 1;
/// It is in the heap, at this index and more.
const FIRST: u32 = 2;

struct Entry<R> {
    stamp: u32,
    region: Arc<R>,
}
impl<R> Entry<R> {
    /// Stamps wrap around.
    fn is_older_than(&self, other: &Entry<R>) -> bool {
        (self.stamp.wrapping_sub(other.stamp) as i32) < 0
    }
}

/// The regions with chunks of one kind.
pub struct ByAge<R> {
    which: ListKind,
    heap: Mutex<Heap<R>>,
}
struct Heap<R> {
    /// Has room for all known regions, as fault handlers add to it.
    entries: RecordVec<Entry<R>, Records>,
    known: usize,
}
impl<R: Ranked> ByAge<R> {
    /// No regions.
    #[track_caller]
    pub fn new(which: ListKind) -> ByAge<R> {
        ByAge { which, heap: Mutex::sheltered(Heap { entries: RecordVec::new_in(Records), known: 0 }) }
    }
    /// Makes room for one more region. Returns false when memory is short.
    pub fn reserve(&self) -> bool {
        let heap = &mut *self.heap.lock();
        let more = heap.known + 1 - heap.entries.len();
        heap.entries.try_reserve(more).is_ok()
    }
    fn place<'a>(&self, region: &'a R) -> &'a AtomicU32 {
        &region.ranks().places[self.which as usize - 1]
    }
    /// To be called when a region becomes known, for which there is room.
    pub fn add(&self, region: &Arc<R>) {
        region.ranks().region.get_or_init(|| Arc::downgrade(region));
        self.move_to(region, |place| (place == UNKNOWN).then_some(ABSENT));
        self.look_at(region);
    }
    /// To be called when a region becomes unknown.
    pub fn remove(&self, region: &R) {
        self.move_to(region, |place| (place != UNKNOWN).then_some(UNKNOWN));
    }
    /// Gives a region another place outside the heap, unless `edit` wants it to stay.
    fn move_to(&self, region: &R, edit: impl Fn(u32) -> Option<u32>) {
        let mut heap = self.heap.lock();
        let place = self.place(region);
        let before = place.load(Relaxed);
        let Some(after) = edit(before) else { return };
        place.store(after, Relaxed);
        heap.known = heap.known + usize::from(before == UNKNOWN) - usize::from(after == UNKNOWN);
        let gone = before.checked_sub(FIRST).map(|index| {
            let gone = heap.entries.swap_remove(index as usize);
            self.sift(&mut heap.entries, index as usize);
            gone
        });
        drop(heap);
        drop(gone);
    }
    fn look_at(&self, region: &R) {
        region.oldest_stamp(self.which).into_iter().for_each(|stamp| self.note(region, stamp));
    }
    /// To be called when the first chunk of a region is listed, with this stamp.
    pub fn note(&self, region: &R, stamp: u32) {
        let mut heap = self.heap.lock();
        let upgraded = region.ranks().region.get().and_then(Weak::upgrade);
        if self.place(region).load(Relaxed) == ABSENT
            && let Some(region) = upgraded
        {
            let last = heap.entries.len();
            heap.entries.push(Entry { stamp, region });
            self.sift(&mut heap.entries, last);
        }
    }
    /// The region with the oldest chunk.
    pub fn oldest(&self) -> Option<Arc<R>> {
        loop {
            let (stamp, region) = {
                let heap = self.heap.lock();
                let first = heap.entries.first()?;
                (first.stamp, first.region.clone())
            };
            match region.oldest_stamp(self.which) {
                Some(now) if now == stamp => return Some(region),
                Some(now) => {
                    let mut heap = self.heap.lock();
                    if let Some(index) = self.place(&region).load(Relaxed).checked_sub(FIRST) {
                        heap.entries[index as usize].stamp = now;
                        self.sift(&mut heap.entries, index as usize);
                    }
                }
                None => {
                    self.move_to(&region, |place| (place >= FIRST).then_some(ABSENT));
                    self.look_at(&region);
                }
            }
        }
    }
    /// The sum of a figure of all regions in the heap, or at least `enough`.
    pub fn sum(&self, enough: usize, figure: impl Fn(&R) -> usize) -> usize {
        let mut sum = 0;
        let heap = self.heap.lock();
        for entry in &heap.entries {
            sum += figure(&entry.region);
            if sum >= enough {
                break;
            }
        }
        sum
    }
    /// Puts the entry at `index`, if there is one, where it belongs.
    fn sift(&self, heap: &mut [Entry<R>], mut index: usize) {
        if index >= heap.len() {
            return;
        }
        while index > 0 && heap[index].is_older_than(&heap[(index - 1) / 2]) {
            heap.swap(index, (index - 1) / 2);
            self.note_place(heap, index);
            index = (index - 1) / 2;
        }
        loop {
            let children = 2 * index + 1..(2 * index + 3).min(heap.len());
            let Some(oldest) =
                children.reduce(|one, other| if heap[other].is_older_than(&heap[one]) { other } else { one })
            else {
                break;
            };
            if !heap[oldest].is_older_than(&heap[index]) {
                break;
            }
            heap.swap(index, oldest);
            self.note_place(heap, index);
            index = oldest;
        }
        self.note_place(heap, index);
    }
    fn note_place(&self, heap: &[Entry<R>], index: usize) {
        self.place(&heap[index].region).store(FIRST + index as u32, Relaxed);
    }
}

impl Ranked for Region {
    fn ranks(&self) -> &Ranks<Region> {
        &self.ranks
    }
    fn oldest_stamp(&self, which: ListKind) -> Option<u32> {
        // Most often there is none, and the lock need not be taken.
        (self.table().count(which) > 0).then(|| self.lists().oldest_stamp(which)).flatten()
    }
}
impl ByAge<Region> {
    /// How many chunks of this kind there are.
    pub fn chunks(&self) -> usize {
        self.sum(usize::MAX, |region| region.table().count(self.which))
    }
}
impl Region {
    /// The heap that it is in for its chunks of this kind.
    fn by_age(&self, which: ListKind) -> &ByAge<Region> {
        match which {
            ListKind::Warm => &self.engine().encoded,
            ListKind::Copied => &self.engine().copied,
            ListKind::Staged => &self.staging().read_ahead,
            ListKind::Hot | ListKind::Nowhere => &self.staging().in_place,
        }
    }
    /// To be called when a chunk was listed with this stamp, while the lists' lock is held.
    pub(super) fn note_listed(&self, which: ListKind, stamp: u32) {
        for list in which.lists() {
            if self.table().count(list) == 1 {
                self.by_age(list).note(self, stamp);
            }
        }
    }
    /// To be called when the engine knows the region, or no longer knows it. Chunks that are in place for good do not leave.
    pub(super) fn set_known(self: &Arc<Self>, known: bool) {
        if self.is_resident() {
            return;
        }
        for list in [ListKind::Hot, ListKind::Copied, ListKind::Warm, ListKind::Staged] {
            match known {
                true => self.by_age(list).add(self),
                false => self.by_age(list).remove(self),
            }
        }
    }
}

impl Engine {
    /// Makes room in the heaps for one more region. Only while `arrangement` is held. Returns false when memory is short.
    pub(super) fn reserve_places(&self, staging: &Staging) -> bool {
        [&self.encoded, &self.copied, &staging.in_place, &staging.read_ahead]
            .iter()
            .all(|regions| regions.reserve())
    }
    /// What `work` finds in one of the regions in a heap. The one with the oldest chunk is tried first, and again if it then
    /// is another. If the oldest chunks are all in other threads' hands, all regions are tried.
    pub(super) fn find_among<R>(
        &self,
        by_age: &ByAge<Region>,
        mut work: impl FnMut(&Region) -> Option<R>,
    ) -> Option<R> {
        for _ in 0..FEW {
            let found = work(&*by_age.oldest()?);
            if found.is_some() {
                return found;
            }
        }
        let in_heap = |region: &&Arc<Region>| {
            !region.is_resident() && core::ptr::eq(region.by_age(by_age.which), by_age)
        };
        self.regions().iter().filter(in_heap).find_map(|region| work(region))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate;
    use super::*;
    use std::collections::VecDeque;
    use std::sync::Mutex as Lock;

    /// Stamps of chunks, the oldest first.
    #[derive(Default)]
    struct Chunks {
        stamps: Lock<VecDeque<u32>>,
        ranks: Ranks<Chunks>,
        /// A chunk that another thread lists just after there was found to be none.
        meanwhile: Lock<Option<(&'static ByAge<Chunks>, u32)>>,
    }
    impl Ranked for Chunks {
        fn ranks(&self) -> &Ranks<Chunks> {
            &self.ranks
        }
        fn oldest_stamp(&self, _: ListKind) -> Option<u32> {
            let oldest = self.stamps.lock().unwrap().front().copied();
            if oldest.is_none()
                && let Some((by_age, stamp)) = self.meanwhile.lock().unwrap().take()
            {
                self.list(by_age, stamp);
            }
            oldest
        }
    }
    impl Chunks {
        fn list(&self, by_age: &ByAge<Chunks>, stamp: u32) {
            let mut stamps = self.stamps.lock().unwrap();
            stamps.push_back(stamp);
            if stamps.len() == 1 {
                by_age.note(self, stamp);
            }
        }
        fn count(&self) -> usize {
            self.stamps.lock().unwrap().len()
        }
    }
    fn random(state: &mut u64, below: usize) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % below
    }

    #[test]
    fn the_oldest_chunk_is_always_found() {
        let _inside = gate::enter();
        let by_age: ByAge<Chunks> = ByAge::new(ListKind::Warm);
        let regions: Vec<Arc<Chunks>> = (0..50).map(|_| Arc::default()).collect();
        let mut known = [false; 50];
        let (mut state, mut stamp) = (1, u32::MAX - 30_000); // wraps around on the way
        for step in 0..100_000 {
            let number = random(&mut state, 50);
            let region = &regions[number];
            match random(&mut state, 20) {
                0 if known[number] => {
                    by_age.remove(region);
                    known[number] = false;
                }
                0..4 => {
                    assert!(by_age.reserve());
                    by_age.add(region);
                    known[number] = true;
                }
                4..12 => {
                    stamp = stamp.wrapping_add(1);
                    region.list(&by_age, stamp);
                }
                12..17 => _ = region.stamps.lock().unwrap().pop_front(),
                _ => _ = region.stamps.lock().unwrap().pop_back(),
            }
            let listed = || regions.iter().zip(known).filter(|(_, known)| *known).map(|(region, _)| region);
            let oldest = listed()
                .filter_map(|region| Some((region.oldest_stamp(ListKind::Warm)?, region)))
                .max_by_key(|(oldest, _)| stamp.wrapping_sub(*oldest));
            let found = by_age.oldest();
            assert_eq!(
                found.map(|region| Arc::as_ptr(&region)),
                oldest.map(|(_, region)| Arc::as_ptr(region)),
                "step {step}"
            );
            let all: usize = listed().map(|region| region.count()).sum();
            assert_eq!(by_age.sum(usize::MAX, |region| region.count()), all, "step {step}");
            assert!(by_age.sum(3, |region| region.count()) >= all.min(3));
        }
        regions.iter().for_each(|region| by_age.remove(region));
        assert!(by_age.oldest().is_none());
        assert!(regions.iter().all(|region| Arc::strong_count(region) == 1));
    }

    #[test]
    fn a_chunk_that_is_listed_while_its_region_is_removed_is_found() {
        let _inside = gate::enter();
        let by_age: &ByAge<Chunks> = Box::leak(Box::new(ByAge::new(ListKind::Hot)));
        let region: Arc<Chunks> = Arc::default();
        assert!(by_age.reserve());
        by_age.add(&region);
        region.list(by_age, 1);
        region.stamps.lock().unwrap().clear();
        *region.meanwhile.lock().unwrap() = Some((by_age, 2));
        assert!(by_age.oldest().is_some_and(|found| Arc::ptr_eq(&found, &region)));
        assert!(region.meanwhile.lock().unwrap().is_none());
    }

    /// Threads list chunks, and take the oldest away, until all are gone: none is overlooked.
    #[test]
    fn no_region_is_overlooked_by_several_threads() {
        const CHUNKS: u32 = 20_000;
        let by_age: ByAge<Chunks> = ByAge::new(ListKind::Staged);
        let regions: Vec<Arc<Chunks>> = (0..8).map(|_| Arc::default()).collect();
        {
            let _inside = gate::enter();
            for region in &regions {
                assert!(by_age.reserve());
                by_age.add(region);
            }
        }
        let taken = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (by_age, regions) = (&by_age, &regions);
                scope.spawn(move || {
                    let _inside = gate::enter();
                    let mut state = thread;
                    (0..CHUNKS).for_each(|stamp| regions[random(&mut state, 8)].list(by_age, stamp));
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let _inside = gate::enter();
                    while taken.load(Relaxed) < 2 * CHUNKS {
                        if let Some(region) = by_age.oldest()
                            && region.stamps.lock().unwrap().pop_front().is_some()
                        {
                            taken.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        let _inside = gate::enter();
        assert!(by_age.oldest().is_none());
    }
}
