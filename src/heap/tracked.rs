//! Tracked places in live memory of libunimem, in blocks and tiered memory alike, at the start of the memory or inside.
//!
//! Tracking ends when the memory is freed, and moves along when it is reallocated. A block with tracked places is marked
//! (attributes.rs), so frees of all other blocks do not look here. Every free of tiered memory does. The singleton's
//! tracker also has foreign addresses, which only the program itself can remove.
use super::attributes;
use super::guard::GUARDED;
use super::tracking_table::{Tracked, TrackingTable, give_room_back};
use crate::error::{Result, fail};
use crate::os::{fork::AtFork, lock::Mutex, records::Records};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

/// Places tracked through instances. Each lies in the instance's own memory.
pub static INSTANCES: Tracker = Tracker::new();
/// Places tracked through the singleton.
pub static SINGLETON: Tracker = Tracker::new();

/// cbindgen:ignore
type Places = HashSet<usize, FixedState, Records>;
/// cbindgen:ignore
type Inside = HashMap<usize, Places, FixedState, Records>;

/// A set of tracked places. All functions may be called from any thread.
pub struct Tracker {
    /// Addresses, each with its distance from the start of its memory.
    places: TrackingTable,
    /// Those places that are not at the start of their memory, by that start.
    inside: Mutex<Inside>,
    /// Number of starts in `inside`. It can be read without the lock, and most programs have none.
    inside_count: AtomicUsize,
}

impl Tracker {
    const fn new() -> Tracker {
        Tracker {
            places: TrackingTable::new(),
            inside: Mutex::new(HashMap::with_hasher_in(FixedState::with_seed(0), Records)),
            inside_count: AtomicUsize::new(0),
        }
    }
    /// Tracks an address in tiered memory that begins at `start`, or a foreign address, which counts as a start.
    pub fn track(&self, address: usize, start: usize) -> Result<()> {
        let tracked = match address - start {
            0 => self.places.track(address, 0) != Tracked::NoMemory,
            _ => self.track_inside(address, start),
        };
        if tracked { Ok(()) } else { fail!(OutOfMemory, "no memory to track {address:#x}") }
    }
    /// Tracks an address in the live block that begins at `start`. Errors: OutOfMemory, NotOwned.
    pub fn track_in_block(&self, address: usize, start: usize) -> Result<()> {
        self.track(address, start)?;
        attributes::mark(start as *const u8).inspect_err(|_| _ = self.untrack(address))
    }
    /// Stops tracking an address. False if it was not tracked.
    pub fn untrack(&self, address: usize) -> bool {
        match self.places.get(address) {
            None => return false,
            Some(0) => return self.places.untrack(address).is_some(),
            Some(_) => {}
        }
        // Both tables change under one lock, as in `track_inside`, because other threads may track the same place again
        // meanwhile.
        let mut inside = self.inside.lock();
        let offset = self.places.untrack(address);
        if let Some(offset @ 1..) = offset {
            let start = address - offset;
            let last =
                inside.get_mut(&start).is_some_and(|places| places.remove(&address) && places.is_empty());
            if last {
                inside.remove(&start);
            }
            self.changed(&mut inside);
        }
        offset.is_some()
    }
    /// Whether an address is tracked.
    pub fn is_tracked(&self, address: usize) -> bool {
        self.places.get(address).is_some()
    }
    /// How many addresses are tracked.
    pub fn count(&self) -> usize {
        self.places.count()
    }
    /// Calls `each` with every tracked address. `each` must not use the tracker.
    pub fn for_each(&self, mut each: impl FnMut(usize)) {
        self.places.for_each(|address, _| each(address));
    }

    /// Tracks an address that is not at the start of its memory. False, with nothing changed, when memory is short.
    fn track_inside(&self, address: usize, start: usize) -> bool {
        let mut inside = self.inside.lock();
        let is_tracked = self.places.get(address) == Some(address - start);
        if is_tracked && inside.get(&start).is_some_and(|places| places.contains(&address)) {
            return true;
        }
        if inside.try_reserve(1).is_err() {
            return false;
        }
        let none = || HashSet::with_hasher_in(FixedState::with_seed(0), Records);
        let places = inside.entry(start).or_insert_with(none);
        let noted =
            places.try_reserve(1).is_ok() && self.places.track(address, address - start) != Tracked::NoMemory;
        if noted {
            places.insert(address);
        } else if places.is_empty() {
            inside.remove(&start);
        }
        self.changed(&mut inside);
        noted
    }
    fn changed(&self, inside: &mut Inside) {
        give_room_back(inside);
        self.inside_count.store(inside.len(), Relaxed);
    }
    fn take_inside(&self, start: usize) -> Option<Places> {
        if self.inside_count.load(Relaxed) == 0 {
            return None;
        }
        let mut inside = self.inside.lock();
        let places = inside.remove(&start);
        self.changed(&mut inside);
        places
    }
    fn end(&self, start: usize) {
        if self.places.count() == 0 {
            return;
        }
        self.places.untrack(start);
        let Some(inside) = self.take_inside(start) else { return };
        inside.into_iter().for_each(|address| _ = self.places.untrack(address));
    }
    /// Takes out what is tracked in the memory that begins at `from`.
    fn take(&self, from: usize) -> Taken {
        if self.places.count() == 0 {
            return Taken { start: false, inside: None };
        }
        Taken { start: self.places.untrack(from).is_some(), inside: self.untrack_inside(from) }
    }
    fn untrack_inside(&self, start: usize) -> Option<Places> {
        let inside = self.take_inside(start);
        inside.iter().flatten().for_each(|address| _ = self.places.untrack(*address));
        inside
    }
    /// Tracks what was taken where that memory is now. True if anything is tracked there.
    fn put(&self, taken: Taken, from: usize, to: usize, size: usize) -> bool {
        // A place for which there is no memory is not tracked any more.
        let mut any = taken.start && self.track(to, to).is_ok();
        for offset in taken.inside.iter().flatten().map(|address| address - from) {
            any |= offset < size && self.track(to + offset, to).is_ok();
        }
        any
    }
    /// Stops tracking what lies behind the first `size` bytes of the memory that begins at `start`.
    fn cut(&self, start: usize, size: usize) {
        if self.inside_count.load(Relaxed) > 0 {
            let taken = Taken { start: false, inside: self.untrack_inside(start) };
            self.put(taken, start, start, size);
        }
    }
}

/// What one tracker had in a piece of memory.
struct Taken {
    start: bool,
    inside: Option<Places>,
}
/// What is tracked in memory that is about to move. It is taken out first, because the old place may become another's
/// before the new one is known.
pub struct Relocation {
    from: usize,
    taken: [Taken; 2],
    guard: Option<usize>,
}
static TRACKERS: [&Tracker; 2] = [&INSTANCES, &SINGLETON];
/// Takes out what is tracked in the memory that begins at `from`, and its guard.
pub fn begin_relocation(from: usize) -> Relocation {
    Relocation { from, taken: TRACKERS.map(|tracker| tracker.take(from)), guard: end_guard(from) }
}
impl Relocation {
    /// Puts everything back, the guard as well: the memory has stayed where it was.
    pub fn cancel(self) {
        if let Some(size) = self.guard {
            GUARDED.track(self.from, size); // if there is no memory for it the guard is not checked any more
        }
        let from = self.from;
        self.finish(from, usize::MAX);
    }
    /// Tracks everything at the new place: the memory begins at `to` now and has `size` bytes. True if any of it is
    /// tracked. The guard is not put back.
    pub fn finish(self, to: usize, size: usize) -> bool {
        let put = |(tracker, taken): (&Tracker, Taken)| tracker.put(taken, self.from, to, size);
        TRACKERS.into_iter().zip(self.taken).fold(false, |any, both| any | put(both))
    }
}

/// Stops tracking: the memory that begins at `start` is about to be freed.
pub fn ended(start: usize) {
    end_guard(start);
    INSTANCES.end(start);
    SINGLETON.end(start);
}
/// Follows a reallocation: the memory at `from` is now at `to`, perhaps the same place, and has `size` bytes. True if any
/// of it is tracked at a new place.
pub fn moved(from: usize, to: usize, size: usize) -> bool {
    if from != to {
        return begin_relocation(from).finish(to, size);
    }
    end_guard(from);
    TRACKERS.iter().for_each(|tracker| tracker.cut(from, size));
    false
}

/// Forgets the guard of the memory that begins at `start`. Returns the size that the guard lay behind; None if it had
/// none.
fn end_guard(start: usize) -> Option<usize> {
    if GUARDED.count() > 0 { GUARDED.untrack(start) } else { None }
}

/// See load.rs.
pub(crate) static HOOKS: [&dyn AtFork; 5] =
    [&INSTANCES.inside, &SINGLETON.inside, &INSTANCES.places, &SINGLETON.places, &GUARDED];

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering::{Acquire, Release};
    #[test]
    fn threads_that_track_one_place_leave_none_behind() {
        static TRACKER: Tracker = Tracker::new();
        let step = AtomicUsize::new(0);
        let reached = |wanted| {
            while step.load(Acquire) < wanted {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000 {
                    reached(2 * n + 1);
                    TRACKER.track(0x1008, 0x1000).unwrap();
                    step.store(2 * n + 2, Release);
                }
            });
            let mut left = 0;
            for n in 0..20_000 {
                TRACKER.track(0x1008, 0x1000).unwrap();
                step.store(2 * n + 1, Release);
                TRACKER.untrack(0x1008);
                reached(2 * n + 2);
                TRACKER.end(0x1000);
                left += TRACKER.count();
                TRACKER.untrack(0x1008);
            }
            assert_eq!((left, TRACKER.inside.lock().len()), (0, 0));
        });
    }
    #[test]
    fn room_is_given_back() {
        let tracker = Tracker::new();
        let starts = || (1..=20_000).map(|n| n << 12);
        starts().for_each(|start| tracker.track(start + 8, start).unwrap());
        let room = || tracker.inside.lock().allocation_size();
        let most = room();
        starts().for_each(|start| tracker.end(start));
        assert!(room() < most / 8, "{} of {most}", room());
    }
    #[test]
    fn places_end_and_move_with_their_memory() {
        let tracker = Tracker::new();
        for (address, start) in [(0x1000, 0x1000), (0x1008, 0x1000), (0x1100, 0x1000), (0x2008, 0x2000)] {
            tracker.track(address, start).unwrap();
            tracker.track(address, start).unwrap();
        }
        assert_eq!(tracker.count(), 4);
        assert!(tracker.untrack(0x1100) && !tracker.untrack(0x1100));
        tracker.track(0x1100, 0x1000).unwrap();
        let taken = tracker.take(0x1000);
        assert_eq!(tracker.count(), 1, "in hand");
        assert!(tracker.put(taken, 0x1000, 0x8000, 0x100), "what is beyond the new size is left behind");
        assert!(tracker.is_tracked(0x8000) && tracker.is_tracked(0x8008) && tracker.count() == 3);
        tracker.end(0x8000);
        assert_eq!(tracker.count(), 1);
        tracker.cut(0x2000, 8);
        assert_eq!((tracker.count(), tracker.inside.lock().len()), (0, 0));
    }
}
