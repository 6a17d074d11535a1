//! Advanced memory systems: zeroed memory from heaps of their own, with pools, exact metrics, and guard bytes on
//! request.
//!
//! A [`System`] has one heap for its own blocks and one for each [`Pool`], which is a part of the system's: blocks of pools
//! are counted there too. So the system's figures are those of all heaps together. The singleton, not this module, decides which
//! system is the program's.
pub mod pool;
pub mod registry;

use crate::error::{Result, fail};
use crate::heap::{self, Block, Heap, HeapParams, HeapStatistics, Leaks, MAX_ALIGNMENT, guarded};
use crate::instance::{Memory, Whole, memory_at, slots, tiered};
use crate::log::{QuietGuard, lock_quietly, log};
use crate::os::records::Records;
use crate::os::{fork::AtFork, lock::Mutex};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering::*};
use pool::Pool;

/// A list in records. It grows under locks, under which malloc must not be called: malloc may be one of our heaps, and
/// may find damage to report.
type List<T> = allocator_api2::vec::Vec<T, Records>;

/// Smallest alignment of a block.
const LEAST_ALIGNMENT: usize = 64;
/// Fragmentation above which `is_fragmented` is true.
const TOO_FRAGMENTED: f64 = 0.2;

/// Held from asking which system is the program's until it is registered or ended.
static PROGRAM: Mutex<()> = Mutex::new(());
/// Held while the set of systems and pools changes.
static STRUCTURE: Mutex<()> = Mutex::new(());

/// Proof that the structure lock is held.
pub struct Structure {
    _lock: QuietGuard<'static, ()>,
}

/// Takes the program lock, under which a system becomes the program's or ceases to be. Messages wait until it is
/// released, because the program's callback may itself make and end systems and pools. The same is true of
/// [`structure`].
pub fn program() -> QuietGuard<'static, ()> {
    lock_quietly(&PROGRAM)
}
/// Takes the structure lock, under which the set of systems and pools changes.
pub fn structure() -> Structure {
    Structure { _lock: lock_quietly(&STRUCTURE) }
}
/// See load.rs.
pub(crate) static HOOKS: [&dyn AtFork; 3] = [&PROGRAM, &STRUCTURE, &pool::LIMITS];

/// A memory system.
pub struct System {
    heap: &'static Heap,
    /// Alignment for requests that name none.
    alignment: usize,
    /// Whether a defragmentation was started and not stopped.
    defragmenting: AtomicBool,
    /// The system's pools. Used only under the structure lock. So fork, which takes that lock, need not take this one.
    pools: Mutex<List<&'static Pool>>,
}

/// What a system and its pools have done, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Bytes allocated since creation or reset, including freed ones.
    pub allocated: usize,
    /// Bytes freed since then.
    pub freed: usize,
    /// Most bytes live at once since then.
    pub peak: usize,
    /// Bytes live now.
    pub live: usize,
    /// Share of the memory held that neither live blocks nor chunks use, 0 to 1.
    pub fragmentation: f64,
    /// Number of allocations since creation or reset.
    pub allocations: usize,
}

/// Rounds a caller's alignment up to a power of two; 0 stands for `default`.
fn rounded_alignment(alignment: usize, default: usize) -> Result<usize> {
    if alignment > MAX_ALIGNMENT {
        return fail!(InvalidArgument, "alignment {alignment} is over 1 GiB");
    }
    let alignment = if alignment == 0 { default } else { alignment };
    Ok(alignment.next_power_of_two().max(LEAST_ALIGNMENT))
}

impl System {
    /// Makes a system. `alignment` is for requests that name none; it is rounded up to a power of two, and 0 means 64.
    /// With `monitoring` there are guards from the beginning.
    pub fn new(alignment: usize, monitoring: bool) -> Result<System> {
        let alignment = rounded_alignment(alignment, LEAST_ALIGNMENT)?;
        let heap = Heap::create(&HeapParams::default())?;
        heap.set_guarding(monitoring);
        Ok(System {
            alignment,
            heap,
            defragmenting: AtomicBool::new(false),
            pools: Mutex::sheltered(List::new_in(Records)),
        })
    }
    /// The heap of the system's own blocks.
    pub fn heap(&self) -> &'static Heap {
        self.heap
    }
    /// The slot of the system's interface, which is the same each time.
    pub fn interface(&'static self) -> Result<usize> {
        slots::adopt(self.heap, Some(self))
    }
    /// Frees everything that is the system's own. Its pools must have ended before. Gives what was live, for
    /// [`report`].
    pub fn end(&self) -> Leaks {
        slots::disown(self.heap);
        self.heap.destroy()
    }

    /// Allocates `size` zeroed bytes. `alignment` is rounded up to a power of two; 0 means the system's.
    pub fn allocate(&self, size: usize, alignment: usize) -> Result<NonNull<u8>> {
        let alignment = rounded_alignment(alignment, self.alignment)?;
        self.heap.allocate_as_guarding(size, alignment, true)
    }

    /// Frees a block of the system's own, or tiered memory that its interface allocated.
    pub fn free(&self, pointer: *mut u8) -> Result<()> {
        if let Some((instance, piece)) = tiered::made_through(self.heap, pointer) {
            return instance.free_piece(&piece);
        }
        self.heap.free_guarded(pointer).map_err(|error| tiered::refused(pointer, error))
    }

    /// Changes the size of anything that [`System::free`] frees. NULL allocates; a size of 0 frees. New bytes are
    /// zeroed. For a block it counts as an allocation and a free, whether the block moves or not, because callers of
    /// the legacy functions expect that.
    pub fn reallocate(&self, pointer: *mut u8, size: usize) -> Result<Option<NonNull<u8>>> {
        if pointer.is_null() {
            return self.allocate(size, 0).map(Some);
        }
        if size == 0 {
            return self.free(pointer).map(|()| None);
        }
        if let Some((instance, piece)) = tiered::made_through(self.heap, pointer) {
            return instance.reallocate_piece(&piece, size).map(Some);
        }
        let Some(old) = self.heap.block(pointer) else {
            return fail!(NotOwned, "{pointer:p} is not a live block of the system's own");
        };
        let block = self.heap.reallocate_as_guarding(pointer, size)?;
        if size > old.size {
            // SAFETY: the block has `size` bytes, and nobody else knows of those beyond the old size yet.
            unsafe { block.add(old.size).write_bytes(0, size - old.size) };
        }
        self.heap.count_exchange();
        Ok(Some(block))
    }

    /// The live block that starts at `pointer`, if it belongs to the system or one of its pools, and the pool. Tiered
    /// memory that the system's interface allocated counts as a block of the system's own.
    pub fn block(&self, pointer: *const u8) -> Option<(Block, Option<&'static Pool>)> {
        if let Some((_, piece)) = tiered::made_through(self.heap, pointer) {
            return Some((tiered::as_block(&piece), None));
        }
        let (heap, block) = heap::owner(pointer)?;
        self.pool_of(heap).map(|pool| (block, pool))
    }
    /// The pool that a heap belongs to: `Some(None)` if it is the system's own heap, `None` if it belongs to somebody
    /// else.
    fn pool_of(&self, heap: &'static Heap) -> Option<Option<&'static Pool>> {
        if core::ptr::eq(heap, self.heap) {
            return Some(None);
        }
        let _structure = structure();
        self.pools.lock().iter().find(|pool| core::ptr::eq(pool.heap(), heap)).map(|&pool| Some(pool))
    }
    /// The newest pool for which `wanted` is true.
    pub fn find_pool(
        &self,
        _structure: &Structure,
        wanted: impl Fn(&'static Pool) -> bool,
    ) -> Option<&'static Pool> {
        self.pools.lock().iter().rev().copied().find(|pool| wanted(pool))
    }
    /// Whether `pointer` points into a live block of the system or of its pools, at its start or inside.
    pub fn is_inside_block(&self, pointer: *const u8) -> bool {
        match memory_at(pointer) {
            Some(Memory::Block { heap, .. }) => self.pool_of(heap).is_some(),
            Some(Memory::Tiered(piece)) => tiered::maker(self.heap, &piece).is_some(),
            None => false,
        }
    }
    /// Fails unless a live block starts at `pointer` (NotOwned) and its guard, if it has one, is intact (Corruption).
    pub fn check(&self, pointer: *const u8) -> Result<()> {
        if let Some((_, piece)) = tiered::made_through(self.heap, pointer) {
            return tiered::check(&piece);
        }
        if self.block(pointer).is_none() {
            return fail!(NotOwned, "{pointer:p} is not a live block of the system");
        }
        heap::debug::check(pointer)?;
        if guarded::is_damaged(pointer) {
            return fail!(Corruption, "bytes behind the block at {pointer:p} were overwritten");
        }
        Ok(())
    }

    /// Says whether new blocks get guards, those of pools and of the system's interface included.
    pub fn set_monitoring(&self, on: bool) {
        self.for_each_heap(&mut |heap| heap.set_guarding(on));
        slots::guarding_changed(self.heap);
    }

    fn for_each_pool(&self, _structure: &Structure, mut each: impl FnMut(&'static Heap)) {
        self.pools.lock().iter().for_each(|pool| each(pool.heap()));
    }
    /// What the system and its pools have done.
    pub fn metrics(&self) -> Metrics {
        let figures = self.statistics();
        Metrics {
            allocated: figures.allocated_bytes,
            freed: figures.freed_bytes,
            peak: figures.peak,
            live: figures.live,
            fragmentation: figures.unused_share(),
            allocations: figures.allocations,
        }
    }
    /// Begins a new history: counts start at 0, the peak at what is live.
    pub fn reset_metrics(&self) {
        self.for_each_heap(&mut Heap::reset_statistics);
    }
    /// Share of the memory held that neither live blocks nor chunks use, 0 to 1.
    pub fn fragmentation(&self) -> f64 {
        self.statistics().unused_share()
    }
    /// Whether so much memory is held unused that it is worth returning.
    pub fn is_fragmented(&self) -> bool {
        self.fragmentation() > TOO_FRAGMENTED
    }
    /// Returns unused memory to the operating system; with `pools`, that of the pools too. Gives the number of bytes.
    pub fn trim(&self, pools: bool) -> usize {
        if !pools {
            return self.heap.trim();
        }
        // Before the lock: damage that is found is reported to the program's callback, which may ask this very system.
        heap::debug::empty_quarantine(None);
        let mut bytes = 0;
        self.for_each_heap(&mut |heap| bytes += heap.trim_quietly());
        bytes
    }
    /// [`System::trim`], if fragmentation has reached `threshold`. InvalidArgument if the threshold is not a number.
    pub fn start_defragmentation(&self, threshold: f64, pools: bool) -> Result<()> {
        if threshold.is_nan() {
            return fail!(InvalidArgument, "the threshold is not a number");
        }
        if self.fragmentation() >= threshold {
            self.trim(pools);
        }
        self.defragmenting.store(true, Relaxed);
        Ok(())
    }
    /// Whether a defragmentation was started since the last call.
    pub fn stop_defragmentation(&self) -> bool {
        self.defragmenting.swap(false, Relaxed)
    }

    /// All live blocks, those of pools included, as far as there is memory for the list.
    pub fn live_blocks(&self, structure: &Structure) -> List<Block> {
        let mut live = List::new_in(Records);
        self.heap.list_live(&mut live);
        self.for_each_pool(structure, |heap| _ = heap.list_live(&mut live));
        live
    }
}

impl Whole for System {
    fn statistics(&self) -> HeapStatistics {
        let structure = structure();
        let mut figures = self.heap.statistics();
        self.for_each_pool(&structure, |heap| figures.add_part(heap.statistics()));
        figures
    }
    fn trim(&self) -> usize {
        System::trim(self, true)
    }
    fn for_each_heap(&self, each: &mut dyn FnMut(&'static Heap)) {
        let structure = structure();
        each(self.heap);
        self.for_each_pool(&structure, each);
    }
}

/// Reports what was live at the end of a system or pool. To be called when the system or pool can no longer be found,
/// because the program's callback may ask for it.
pub fn report(leaks: Leaks, whose: &str) {
    if leaks.blocks > 0 {
        log!(Warning, "leak: {whose} ended with {} live blocks, {} bytes", leaks.blocks, leaks.bytes);
    }
}

#[cfg(test)]
mod tests;
