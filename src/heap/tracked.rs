//! Tracked places of live memory of libunimem, blocks and tiered memory alike: at its start or inside.
//!
//! Tracking ends when the memory is freed, and goes along when it is reallocated. A block with tracked places is marked
//! (attributes.rs), so that all others are freed without a look here; tiered memory is looked up with every free. The
//! singleton's tracker has foreign addresses too, which only the program forgets.
use super::attributes;
use super::guard::GUARDED;
use super::tracking_table::{Tracked, TrackingTable};
use crate::error::{Result, fail};
use crate::os::{fork::AtFork, lock::Mutex, records::Records};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

/// Places tracked through instances, each in the instance's own memory.
pub static INSTANCES: Tracker = Tracker::new();
/// Places tracked through the singleton.
pub static SINGLETON: Tracker = Tracker::new();

/// cbindgen:ignore
type Places = HashSet<usize, FixedState, Records>;

/// A set of tracked places. All functions may be called from any thread.
pub struct Tracker {
    /// Addresses, each with its distance from the start of the memory it lies in.
    places: TrackingTable,
    /// The places that are not at the start of their memory, by that start.
    inside: Mutex<HashMap<usize, Places, FixedState, Records>>,
    /// How many starts are in `inside`, to be read without its lock: most programs have none.
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
    /// Tracks an address in tiered memory that begins at `start`; or a foreign one, which is a start of its own.
    pub fn track(&self, address: usize, start: usize) -> Result<()> {
        let tracked = match address - start {
            0 => self.places.track(address, 0) != Tracked::NoMemory,
            _ => self.track_inside(address, start),
        };
        if tracked { Ok(()) } else { fail!(OutOfMemory, "no memory to track {address:#x}") }
    }
    /// Tracks an address in the live block that begins at `start`. OutOfMemory, NotOwned.
    pub fn track_in_block(&self, address: usize, start: usize) -> Result<()> {
        self.track(address, start)?;
        attributes::mark(start as *const u8).inspect_err(|_| _ = self.untrack(address))
    }
    /// Tracks an address no more; false when it was not tracked.
    pub fn untrack(&self, address: usize) -> bool {
        match self.places.get(address) {
            None => return false,
            Some(0) => return self.places.untrack(address).is_some(),
            Some(_) => {}
        }
        // Both under one lock, as in `track_inside`: others may track the same place again meanwhile.
        let mut inside = self.inside.lock();
        let offset = self.places.untrack(address);
        if let Some(offset @ 1..) = offset {
            let start = address - offset;
            let last =
                inside.get_mut(&start).is_some_and(|places| places.remove(&address) && places.is_empty());
            if last {
                inside.remove(&start);
            }
            self.inside_count.store(inside.len(), Relaxed);
        }
        offset.is_some()
    }
    /// Whether an address is tracked.
    pub fn is_tracked(&self, address: usize) -> bool {
        self.places.get(address).is_some()
    }
    /// How many are tracked.
    pub fn count(&self) -> usize {
        self.places.count()
    }
    /// Calls `each` with every tracked address. The tracker must not be used from within.
    pub fn for_each(&self, mut each: impl FnMut(usize)) {
        self.places.for_each(|address, _| each(address));
    }

    /// False when memory is short: then nothing has changed.
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
        self.inside_count.store(inside.len(), Relaxed);
        noted
    }
    fn take_inside(&self, start: usize) -> Option<Places> {
        if self.inside_count.load(Relaxed) == 0 {
            return None;
        }
        let mut inside = self.inside.lock();
        let places = inside.remove(&start);
        self.inside_count.store(inside.len(), Relaxed);
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
    /// Takes out what is tracked of the memory that begins at `from`.
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
    /// Tracks it where that memory is now. Gives whether anything is.
    fn put(&self, taken: Taken, from: usize, to: usize, size: usize) -> bool {
        // Without memory for a place it is tracked no more.
        let mut any = taken.start && self.track(to, to).is_ok();
        for offset in taken.inside.iter().flatten().map(|address| address - from) {
            any |= offset < size && self.track(to + offset, to).is_ok();
        }
        any
    }
    /// Forgets what is tracked behind the first `size` bytes of the memory that begins at `start`.
    fn cut(&self, start: usize, size: usize) {
        if self.inside_count.load(Relaxed) > 0 {
            let taken = Taken { start: false, inside: self.untrack_inside(start) };
            self.put(taken, start, start, size);
        }
    }
}

/// What one tracker had of a piece of memory.
struct Taken {
    start: bool,
    inside: Option<Places>,
}
/// What is tracked of memory that is about to move, in hand: its old place may be another's before its new one is known.
pub struct Relocation {
    from: usize,
    taken: [Taken; 2],
    guard: Option<usize>,
}
const TRACKERS: [&Tracker; 2] = [&INSTANCES, &SINGLETON];
/// Takes it in hand.
pub fn begin_relocation(from: usize) -> Relocation {
    Relocation { from, taken: TRACKERS.map(|tracker| tracker.take(from)), guard: end_guard(from) }
}
impl Relocation {
    /// The memory has stayed, and its guard with it.
    pub fn cancel(self) {
        if let Some(size) = self.guard {
            GUARDED.track(self.from, size); // without memory for it the guard is not looked at any more
        }
        let from = self.from;
        self.finish(from, usize::MAX);
    }
    /// The memory begins at `to` now and has `size` bytes. Gives whether any of it is tracked.
    pub fn finish(self, to: usize, size: usize) -> bool {
        let put = |(tracker, taken): (&Tracker, Taken)| tracker.put(taken, self.from, to, size);
        TRACKERS.into_iter().zip(self.taken).fold(false, |any, both| any | put(both))
    }
}

/// The memory that begins at `start` is about to be freed.
pub fn ended(start: usize) {
    end_guard(start);
    INSTANCES.end(start);
    SINGLETON.end(start);
}
/// The memory at `from` was reallocated: it is at `to`, perhaps the same place, and has `size` bytes. Gives whether any of
/// it is tracked at a new place.
pub fn moved(from: usize, to: usize, size: usize) -> bool {
    if from != to {
        return begin_relocation(from).finish(to, size);
    }
    end_guard(from);
    TRACKERS.iter().for_each(|tracker| tracker.cut(from, size));
    false
}

/// Forgets the guard of the memory that begins at `start`, if it has one. Gives the size that it lay behind.
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
