//! Tables of tracked blocks: any pointer, without a limit, at a cost that does not depend on how many there are.
use crate::os::lock::Mutex;
use crate::os::records::Records;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

const SHARDS: usize = 64;
/// cbindgen:ignore
type Shard = HashMap<usize, usize, FixedState, Records>;

/// Tracked pointers with a size each. All functions may be called from any thread.
pub struct TrackingTable {
    shards: [Mutex<Shard>; SHARDS],
    count: AtomicUsize,
}

/// What [`TrackingTable::track`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// The pointer is new.
    New,
    /// It was tracked already, with this size, which is now replaced.
    Again(usize),
    /// There is no memory to remember it.
    NoMemory,
}

impl Default for TrackingTable {
    fn default() -> TrackingTable {
        TrackingTable::new()
    }
}
impl TrackingTable {
    /// Nothing tracked.
    pub const fn new() -> TrackingTable {
        TrackingTable {
            shards: [const { Mutex::new(HashMap::with_hasher_in(FixedState::with_seed(0), Records)) };
                SHARDS],
            count: AtomicUsize::new(0),
        }
    }
    fn shard(&self, address: usize) -> &Mutex<Shard> {
        // Neighbours share a shard, so that a program that tracks block after block stays in the same few lines.
        &self.shards[(address >> 12 ^ address >> 20) % SHARDS]
    }
    /// Tracks `address`; tracking again replaces the size.
    pub fn track(&self, address: usize, size: usize) -> Tracked {
        let mut shard = self.shard(address).lock();
        if let Some(old) = shard.get_mut(&address) {
            return Tracked::Again(core::mem::replace(old, size));
        }
        if shard.try_reserve(1).is_err() {
            return Tracked::NoMemory;
        }
        shard.insert(address, size);
        drop(shard);
        self.count.fetch_add(1, Relaxed);
        Tracked::New
    }
    /// Forgets `address`; gives its size if it was tracked.
    pub fn untrack(&self, address: usize) -> Option<usize> {
        let size = self.shard(address).lock().remove(&address)?;
        self.count.fetch_sub(1, Relaxed);
        Some(size)
    }
    /// The size `address` is tracked with.
    pub fn get(&self, address: usize) -> Option<usize> {
        self.shard(address).lock().get(&address).copied()
    }
    /// How many are tracked.
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }
    /// Calls `each` with every address and its size. The table must not be used from within.
    pub fn for_each(&self, mut each: impl FnMut(usize, usize)) {
        for shard in &self.shards {
            shard.lock().iter().for_each(|(&address, &size)| each(address, size));
        }
    }
    /// Forgets everything and gives the memory back. Gives how many were tracked.
    pub fn clear(&self) -> usize {
        for shard in &self.shards {
            *shard.lock() = HashMap::with_hasher_in(FixedState::with_seed(0), Records);
        }
        self.count.swap(0, Relaxed)
    }
    /// Takes all locks, for fork.
    pub fn lock_all(&self) {
        self.shards.iter().for_each(|shard| core::mem::forget(shard.lock()));
    }
    /// Releases them.
    ///
    /// # Safety
    /// [`TrackingTable::lock_all`] was called before.
    pub unsafe fn unlock_all(&self) {
        // SAFETY: taken by `lock_all`, whose guards were forgotten.
        self.shards.iter().for_each(|shard| unsafe { shard.force_unlock() });
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
}
