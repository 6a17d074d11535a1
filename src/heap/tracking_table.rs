//! Tables of addresses, each with a number. They have no limit, and the cost of a call does not depend on how many
//! addresses there are.
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
use crate::os::records::Records;
use core::hash::{BuildHasher, Hasher};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

const SHARDS: usize = 64;
/// A table with room for more entries than this gives room back when less than one part in [`SPARSE`] is used.
const SMALL: usize = 1024;
/// See [`SMALL`].
const SPARSE: usize = 8;
/// cbindgen:ignore
type Shard = HashMap<usize, usize, ByPage, Records>;

/// Hashes addresses so that neighbours stay neighbours. Those of one page land side by side in the table, at a place that
/// depends on the page. So a program that goes through its blocks in order finds several entries in each cache line,
/// however many blocks there are. The upper bits, by which hashbrown tells entries apart, depend on the whole address.
#[derive(Clone)]
struct ByPage;
struct PageHasher(u64);
impl BuildHasher for ByPage {
    type Hasher = PageHasher;
    fn build_hasher(&self) -> PageHasher {
        PageHasher(0)
    }
}
impl Hasher for PageHasher {
    fn write_usize(&mut self, address: usize) {
        const STATE: FixedState = FixedState::with_seed(0);
        const TAG: u64 = 0x7F << 57;
        let place = STATE.hash_one(address >> 12).wrapping_add((address >> 6) as u64 & 63);
        // Fibonacci hashing (Knuth 6.4) is enough for the tag.
        let tag = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = (tag & TAG) | (place & !TAG);
    }
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("keys are addresses")
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Tracked addresses, each with a size. All functions may be called from any thread.
pub struct TrackingTable {
    shards: [Mutex<Shard>; SHARDS],
    count: AtomicUsize,
}

/// What [`TrackingTable::track`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// The address was not tracked before.
    New,
    /// The address was tracked already, with this size. The new size replaces it.
    Again(usize),
    /// There is no memory to track the address.
    NoMemory,
}

impl Default for TrackingTable {
    fn default() -> TrackingTable {
        TrackingTable::new()
    }
}
impl TrackingTable {
    /// Nothing is tracked.
    pub const fn new() -> TrackingTable {
        TrackingTable {
            shards: [const { Mutex::new(HashMap::with_hasher_in(ByPage, Records)) }; SHARDS],
            count: AtomicUsize::new(0),
        }
    }
    fn shard(&self, address: usize) -> &Mutex<Shard> {
        // Neighbours share a shard, so a program that tracks block after block stays in the same few cache lines.
        &self.shards[(address >> 12 ^ address >> 20) % SHARDS]
    }
    /// Tracks `address`. If it is tracked already, replaces its size.
    pub fn track(&self, address: usize, size: usize) -> Tracked {
        let mut shard = self.shard(address).lock();
        if let Some(old) = shard.get_mut(&address) {
            return Tracked::Again(core::mem::replace(old, size));
        }
        if shard.try_reserve(1).is_err() {
            return Tracked::NoMemory;
        }
        shard.insert(address, size);
        // Under the shard's lock, here and below, so that the count is never less than what the shards hold.
        self.count.fetch_add(1, Relaxed);
        Tracked::New
    }
    /// Stops tracking `address`. Returns its size if it was tracked.
    pub fn untrack(&self, address: usize) -> Option<usize> {
        let mut shard = self.shard(address).lock();
        let size = shard.remove(&address)?;
        give_room_back(&mut shard);
        self.count.fetch_sub(1, Relaxed);
        Some(size)
    }
    /// The size that `address` is tracked with; None if it is not tracked.
    pub fn get(&self, address: usize) -> Option<usize> {
        self.shard(address).lock().get(&address).copied()
    }
    /// How many addresses are tracked.
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }
    /// Calls `each` with every address and its size. `each` must not use the table.
    pub fn for_each(&self, mut each: impl FnMut(usize, usize)) {
        for shard in &self.shards {
            shard.lock().iter().for_each(|(&address, &size)| each(address, size));
        }
    }
    /// Stops tracking everything, and gives the memory back. Returns how many addresses were tracked.
    pub fn clear(&self) -> usize {
        let clear = |shard: &Mutex<Shard>| {
            let mut shard = shard.lock();
            let tracked = shard.len();
            *shard = HashMap::with_hasher_in(ByPage, Records);
            self.count.fetch_sub(tracked, Relaxed);
            tracked
        };
        // Not the whole count at once: others may track what comes into a shard that is already empty.
        self.shards.iter().map(clear).sum()
    }
}
/// Gives room of a table back: see [`SMALL`]. If there is no memory for the smaller table it stays as it is; hashbrown's own
/// shrinking would end the program then.
pub(super) fn give_room_back<T, S: BuildHasher + Clone>(table: &mut HashMap<usize, T, S, Records>) {
    // Not by hashbrown's capacity: it counts removed entries until their places are free again.
    let room = table.allocation_size() / size_of::<(usize, T)>();
    if room > SMALL && table.len() < room / SPARSE {
        let mut smaller = HashMap::with_hasher_in(table.hasher().clone(), Records);
        if smaller.try_reserve(table.len() * 2).is_ok() {
            smaller.extend(table.drain());
            *table = smaller;
        }
    }
}
impl AtFork for TrackingTable {
    fn prepare(&self) {
        self.shards.prepare();
    }
    unsafe fn parent(&self) {
        // SAFETY: forwarded.
        unsafe { self.shards.parent() }
    }
    unsafe fn child(&self) {
        // SAFETY: forwarded.
        unsafe { self.shards.child() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn tracks_updates_and_forgets() {
        let table = TrackingTable::new();
        assert_eq!(table.track(0x1000, 10), Tracked::New);
        assert_eq!(table.track(0x1000, 20), Tracked::Again(10));
        assert_eq!((table.get(0x1000), table.get(0x1010), table.count()), (Some(20), None, 1));
        assert_eq!(table.untrack(0x1000), Some(20));
        assert_eq!(table.untrack(0x1000), None);
        for i in 0..100_000 {
            assert_eq!(table.track(i * 48, i), Tracked::New);
        }
        let mut sum = 0;
        table.for_each(|address, size| sum += address / 48 - size);
        assert_eq!((sum, table.clear(), table.count()), (0, 100_000, 0));
    }
    #[test]
    fn what_is_tracked_while_the_table_is_cleared_is_counted() {
        let table = TrackingTable::new();
        std::thread::scope(|scope| {
            let tracker = scope.spawn(|| {
                for i in 0..200_000 {
                    table.track(i << 12, 1);
                    table.untrack((i - i % 7) << 12);
                }
            });
            while !tracker.is_finished() {
                table.clear();
            }
        });
        let mut held = 0;
        table.for_each(|_, _| held += 1);
        assert_eq!((table.count(), table.clear(), table.count()), (held, held, 0));
    }
    #[test]
    fn room_is_given_back() {
        for distance in [64, 4096] {
            let table = TrackingTable::new();
            let room = || table.shards.iter().map(|shard| shard.lock().allocation_size()).sum::<usize>();
            (1..=300_000).for_each(|n| _ = table.track(n * distance, n));
            let most = room();
            (1..=300_000).for_each(|n| assert_eq!(table.untrack(n * distance), Some(n)));
            assert!(
                most > 4 << 20 && room() <= SHARDS * SMALL * size_of::<(usize, usize)>(),
                "{} of {most}",
                room()
            );
        }
    }
}
