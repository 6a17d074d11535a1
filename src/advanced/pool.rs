//! Pools of a memory system. Each has a heap of its own, and limits if the program wants them.
use super::{System, structure};
use crate::error::{Result, fail};
use crate::heap::{Heap, HeapParams, Leaks};
use crate::log::{QuietGuard, lock_quietly};
use crate::os::lock::Mutex;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

/// Limits of a pool; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Live bytes, as requested.
    pub bytes: usize,
    /// Live blocks.
    pub blocks: usize,
    /// Bytes of a single request.
    pub request: usize,
}

/// A pool of a system.
pub struct Pool {
    heap: &'static Heap,
    system: &'static System,
    /// Whether `bytes` or `blocks` is limited. Only then does an allocation take a lock.
    limited: AtomicBool,
    bytes: AtomicUsize,
    blocks: AtomicUsize,
    request: AtomicUsize,
}

/// Held by an allocation from a limited pool, from the check of the limits until it is counted. A pool finds its lock
/// by its address. A lock in each pool would be one more that fork has to find.
pub(super) static LIMITS: [Mutex<()>; 32] = [const { Mutex::new(()) }; 32];

impl Pool {
    /// Makes a pool of `system`, which does not have it among its pools yet.
    pub fn new(system: &'static System, limits: Limits) -> Result<Pool> {
        let heap = Heap::create(&HeapParams::default())?;
        heap.count_in(system.heap);
        let pool = Pool {
            heap,
            system,
            limited: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            blocks: AtomicUsize::new(0),
            request: AtomicUsize::new(0),
        };
        pool.set_limits(limits);
        Ok(pool)
    }
    /// Adds the pool to the pools of its system, where the system finds its blocks.
    pub fn join(&'static self) -> Result<()> {
        let _structure = structure();
        let mut pools = self.system.pools.lock();
        if pools.try_reserve(1).is_err() {
            return fail!(OutOfMemory, "no memory for another pool");
        }
        pools.push(self);
        self.heap.set_guarding(self.system.heap.is_guarding());
        Ok(())
    }
    /// Leaves the system and frees all blocks. Gives what was live, for [`report`](super::report).
    pub fn end(&'static self) -> Leaks {
        let lock = structure();
        self.system.pools.lock().retain(|pool| !core::ptr::eq(*pool, self));
        drop(lock);
        let hits = self.heap.statistics().cache_hits;
        let leaks = self.heap.destroy();
        // This fails only if there is no memory for this thread's counters. The system's figures then stay too high.
        let _ = self.system.heap.count_end_of_part(leaks, hits);
        leaks
    }
    /// The pool's heap.
    pub fn heap(&self) -> &'static Heap {
        self.heap
    }
    /// The pool's system.
    pub fn system(&self) -> &'static System {
        self.system
    }

    /// Messages wait until it is released, because the program's callback may allocate from this very pool.
    fn limits_lock(&self) -> QuietGuard<'static, ()> {
        lock_quietly(&LIMITS[core::ptr::from_ref(self) as usize / size_of::<Pool>() % LIMITS.len()])
    }
    /// Sets new limits. Live blocks stay, even beyond the limits.
    pub fn set_limits(&self, limits: Limits) {
        let _lock = self.limits_lock();
        self.bytes.store(limits.bytes, Relaxed);
        self.blocks.store(limits.blocks, Relaxed);
        self.request.store(limits.request, Relaxed);
        self.limited.store(limits.bytes != 0 || limits.blocks != 0, Release);
    }
    /// Allocates `size` zeroed bytes, aligned to 64.
    pub fn allocate(&self, size: usize) -> Result<NonNull<u8>> {
        let request = self.request.load(Relaxed);
        if request != 0 && size > request {
            return fail!(Limit, "{size} bytes from a pool of blocks of {request}");
        }
        if !self.limited.load(Acquire) {
            return self.allocate_unlimited(size);
        }
        let _lock = self.limits_lock();
        let exceeds = |limit: usize, value: usize| limit != 0 && value > limit;
        if exceeds(self.bytes.load(Relaxed), self.heap.statistics().live.saturating_add(size))
            || exceeds(self.blocks.load(Relaxed), self.heap.live_blocks() + 1)
        {
            return fail!(Limit, "{size} bytes are beyond the pool's limits: it may not grow");
        }
        self.allocate_unlimited(size)
    }
    fn allocate_unlimited(&self, size: usize) -> Result<NonNull<u8>> {
        let block = self.heap.allocate_as_guarding(size, 0, true)?;
        if let Err(error) = self.system.heap.count_block_of_part(size) {
            self.heap.free(block.as_ptr())?;
            return Err(error);
        }
        Ok(block)
    }
    /// Frees a block of this pool.
    pub fn free(&self, pointer: *mut u8) -> Result<()> {
        // Makes now what counting needs, because counting must not fail once the block is freed.
        self.system.heap.ready_to_count()?;
        let size = self.heap.block(pointer).map_or(0, |block| block.size);
        self.heap.end_guard(pointer);
        match self.heap.give_up(pointer)? {
            true => self.system.heap.uncount_block_of_part(size),
            false => Ok(()), // the block has other owners
        }
    }
}
