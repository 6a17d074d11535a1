//! The functions of `advanced_memory_system.h` on systems and their blocks. Pools, layouts and buffers: layouts.rs.
use super::legacy_types::*;
use super::tables::of_slot;
use super::types::unified_memory_interface_t;
use super::{guard, guard_uncancelled, layouts, reference, seam, store};
use crate::advanced::registry::Registry;
use crate::advanced::{self, System, program, report, structure};
use crate::error::{Result, fail};
use crate::instance::slots;
use crate::singleton;
use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// What a pointer to a system points at.
struct SystemRecord {
    system: System,
    /// References that `create_memory_system` gave and `destroy_memory_system` has not taken back.
    references: AtomicUsize,
    /// Somebody is destroying it. Set under the program's lock.
    ending: AtomicBool,
}
static SYSTEMS: Registry<SystemRecord> = Registry::new();

fn record_at(system: *const AdvancedMemorySystem) -> Option<&'static SystemRecord> {
    SYSTEMS.get(system.cast())
}
/// The system at an address. InvalidArgument when it is none of ours.
#[inline]
pub(super) fn system_at(system: *const AdvancedMemorySystem) -> Result<&'static System> {
    match record_at(system) {
        Some(record) => Ok(&record.system),
        None => fail!(InvalidArgument, "{system:p} is not a memory system of libunimem"),
    }
}

/// The program's memory system: the one there is, with one more reference, else a new one.
///
/// # Safety
/// `config` is NULL or points at a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn create_memory_system(
    config: *const MemorySystemConfig,
) -> *mut AdvancedMemorySystem {
    guard_uncancelled(null_mut(), || {
        // From the question to the registration: nobody may end the system in between.
        let _program = program();
        let existing = seam::get_global_memory_system();
        let system = if existing.is_null() {
            // SAFETY: by the caller's promise.
            let config = unsafe { reference(config, "config") }?;
            let system = System::new(config.alignment, config.enable_monitoring.is_set())?;
            let heap = system.heap();
            let record =
                SystemRecord { system, references: AtomicUsize::new(0), ending: AtomicBool::new(false) };
            let inserted = SYSTEMS.insert(record, &structure());
            let record = inserted.inspect_err(|_| _ = heap.destroy())?;
            core::ptr::from_ref(record).cast_mut().cast()
        } else {
            existing
        };
        if let Some(record) = record_at(system) {
            record.references.fetch_add(1, Relaxed);
        }
        // SAFETY: a live system: just made, or the program's, which cannot end while the lock is held.
        unsafe { seam::register_memory_system(system) };
        Ok(system)
    })
}

/// Gives up one reference. The last one frees the system, its pools and every block of theirs; what was live is
/// reported to the log.
///
/// # Safety
/// `system` is NULL or came from `create_memory_system`; with the last reference, nobody uses it or its blocks any
/// more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn destroy_memory_system(system: *mut AdvancedMemorySystem) {
    if system.is_null() {
        return;
    }
    guard_uncancelled((), || {
        let program = program();
        let record = record_at(system);
        if let Some(record) = record
            && record.references.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)) == Ok(1)
        {
            take_back(&record.system, system);
        }
        // SAFETY: by the caller's promise.
        unsafe { seam::unregister_memory_system(system) };
        let is_last = |record: &&SystemRecord| {
            record.references.load(Relaxed) == 0 && seam::get_global_memory_system() != system
        };
        let Some(record) = record.filter(is_last) else {
            return Ok(()); // not the last reference, or somebody else's system
        };
        if record.ending.swap(true, Relaxed) {
            return fail!(InvalidArgument, "the memory system at {system:p} is being destroyed already");
        }
        drop(program);
        layouts::destroy_pools_of(&record.system);
        let leaks = record.system.end();
        {
            // Under both locks, so that a call that comes too late finds the record whole or not at all.
            let _program = advanced::program();
            // SAFETY: the last reference is gone, by the caller's promise.
            unsafe { SYSTEMS.remove(NonNull::from(record), &structure()) };
        }
        report(leaks, "a memory system");
        Ok(())
    })
}

/// Takes the blocks of a system that ends off the list of the program's own C singleton, which calls C's `free` on whatever is
/// still tracked when it loses its last reference. Our own singleton frees each block where it belongs.
fn take_back(system: &System, pointer: *mut AdvancedMemorySystem) {
    if singleton::global().is_some_and(|global| global.get() == pointer as usize) {
        return;
    }
    for block in system.live_blocks(&structure()) {
        let block = block.start as *mut c_void;
        if seam::is_memory_block_tracked(block) {
            seam::untrack_memory_block(block);
        }
    }
}

/// The interface of a memory system: its functions work on the system's memory. The same table each time; it ends with
/// the system. NULL for a system that is not libunimem's.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_system_interface(
    system: *mut AdvancedMemorySystem,
) -> *mut unified_memory_interface_t {
    guard_uncancelled(null_mut(), || slots::adopt(system_at(system)?.heap()).map(of_slot))
}

/// `size` zeroed bytes at `alignment`, up to 1 GiB, rounded up to a power of two; 0: the configuration's.
#[unsafe(no_mangle)]
pub extern "C" fn memory_allocate(
    system: *mut AdvancedMemorySystem,
    size: usize,
    alignment: usize,
) -> *mut c_void {
    guard(null_mut(), || Ok(system_at(system)?.allocate(size, alignment)?.as_ptr().cast()))
}

/// Frees a block of `memory_allocate`, or memory that the system's `unimem_system_interface` gave; NULL does nothing, and
/// anything else is ignored.
///
/// # Safety
/// Nobody uses the block afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_free(system: *mut AdvancedMemorySystem, ptr: *mut c_void) {
    guard((), || system_at(system)?.free(ptr.cast()))
}

/// Changes a block's size; contents up to the smaller size and the alignment stay, what is new is zeroed. NULL
/// allocates, 0 frees.
///
/// # Safety
/// Nobody uses the old block afterwards, unless the result is NULL and `new_size` is not 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_reallocate(
    system: *mut AdvancedMemorySystem,
    ptr: *mut c_void,
    new_size: usize,
) -> *mut c_void {
    guard(null_mut(), || {
        let block = system_at(system)?.reallocate(ptr.cast(), new_size)?;
        Ok(block.map_or(null_mut(), |block| block.as_ptr().cast()))
    })
}

/// Gives unused memory back to the operating system; false for NULL or an unknown level.
#[unsafe(no_mangle)]
pub extern "C" fn optimize_memory_usage(system: *mut AdvancedMemorySystem, level: OptimizationLevel) -> bool {
    guard_uncancelled(false, || {
        let system = system_at(system)?;
        match level {
            OptimizationLevel::NONE => (),
            OptimizationLevel::BASIC => _ = system.trim(false),
            OptimizationLevel::ADVANCED | OptimizationLevel::AGGRESSIVE => _ = system.trim(true),
            unknown => return fail!(InvalidArgument, "{unknown:?}"),
        }
        Ok(true)
    })
}

/// Accepts any strategy, to which the heap is indifferent; false for NULL or an unknown one.
#[unsafe(no_mangle)]
pub extern "C" fn optimize_allocation_strategy(
    system: *mut AdvancedMemorySystem,
    strategy: AllocationStrategy,
) -> bool {
    guard_uncancelled(false, || {
        system_at(system)?;
        if strategy.is_known() { Ok(true) } else { fail!(InvalidArgument, "{strategy:?}") }
    })
}

/// Gives memory back where fragmentation reaches the threshold; true unless an argument is bad, a threshold that is not
/// a number among them.
///
/// # Safety
/// `config` is NULL or points at a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn start_defragmentation(
    system: *mut AdvancedMemorySystem,
    config: *const DefragConfig,
) -> bool {
    guard_uncancelled(false, || {
        // SAFETY: by the caller's promise.
        let config = unsafe { reference(config, "config") }?;
        system_at(system)?
            .start_defragmentation(config.threshold, config.compact_pools.is_set())
            .map(|()| true)
    })
}

/// True where a defragmentation was started since the last call; it is over by then.
#[unsafe(no_mangle)]
pub extern "C" fn stop_defragmentation(system: *mut AdvancedMemorySystem) -> bool {
    guard(false, || Ok(system_at(system)?.stop_defragmentation()))
}

/// Whether fragmentation is over 0.2; its measure, 0 to 1, goes to `fragmentation_level`, which may be NULL.
///
/// # Safety
/// `fragmentation_level` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn is_defragmentation_needed(
    system: *const AdvancedMemorySystem,
    fragmentation_level: *mut f64,
) -> bool {
    guard(false, || {
        let system = system_at(system)?;
        if !fragmentation_level.is_null() {
            // SAFETY: by the caller's promise.
            unsafe { fragmentation_level.write(system.fragmentation()) };
        }
        Ok(system.is_fragmented())
    })
}

/// What is known of the live block that begins at `ptr`; false, and nothing written, where there is none.
///
/// # Safety
/// `info` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_block_info(
    system: *const AdvancedMemorySystem,
    ptr: *mut c_void,
    info: *mut BlockInfo,
) -> bool {
    guard(false, || {
        let Some((block, pool)) = system_at(system)?.block(ptr.cast()) else {
            return fail!(NotOwned, "{ptr:p} is not a live block of the system");
        };
        let known = BlockInfo {
            address: ptr,
            size: block.size,
            is_allocated: true.into(),
            alignment: block.alignment,
            padding: block.capacity - block.size,
            pool: pool.map_or(null_mut(), layouts::pointer_of),
        };
        // SAFETY: by the caller's promise.
        unsafe { store(info, known, "info") }.map(|()| true)
    })
}

/// What the system and its pools have done; false for NULL.
///
/// # Safety
/// `metrics` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_memory_metrics(
    system: *const AdvancedMemorySystem,
    metrics: *mut MemoryMetrics,
) -> bool {
    guard(false, || {
        let done = system_at(system)?.metrics();
        let done = MemoryMetrics {
            total_allocated: done.allocated,
            total_freed: done.freed,
            peak_usage: done.peak,
            current_usage: done.live,
            fragmentation: done.fragmentation,
            allocation_count: done.allocations,
        };
        // SAFETY: by the caller's promise.
        unsafe { store(metrics, done, "metrics") }.map(|()| true)
    })
}

/// Part of the memory held that no live block uses, 0 to 1; false for NULL.
///
/// # Safety
/// `fragmentation_level` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn analyze_fragmentation(
    system: *const AdvancedMemorySystem,
    fragmentation_level: *mut f64,
) -> bool {
    guard(false, || {
        let level = system_at(system)?.fragmentation();
        // SAFETY: by the caller's promise.
        unsafe { store(fragmentation_level, level, "fragmentation_level") }.map(|()| true)
    })
}

/// From now on each new block has guard bytes behind it; false for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn start_memory_monitoring(system: *mut AdvancedMemorySystem) -> bool {
    set_monitoring(system, true)
}

/// No more guard bytes for new blocks; false for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn stop_memory_monitoring(system: *mut AdvancedMemorySystem) -> bool {
    set_monitoring(system, false)
}
fn set_monitoring(system: *const AdvancedMemorySystem, on: bool) -> bool {
    guard(false, || {
        system_at(system)?.set_monitoring(on);
        Ok(true)
    })
}

/// The metrics begin anew: the peak at what is live now, the history at 0. False for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn reset_memory_metrics(system: *mut AdvancedMemorySystem) -> bool {
    guard(false, || {
        system_at(system)?.reset_metrics();
        Ok(true)
    })
}

/// Whether `ptr` lies in a live block of the system or its pools.
#[unsafe(no_mangle)]
pub extern "C" fn validate_memory_block(system: *const AdvancedMemorySystem, ptr: *mut c_void) -> bool {
    guard(false, || Ok(system_at(system)?.is_inside_block(ptr.cast())))
}

/// True where `ptr` begins a live block whose guard bytes, if it has any, are whole: true is good, as ever.
#[unsafe(no_mangle)]
pub extern "C" fn check_memory_corruption(system: *const AdvancedMemorySystem, ptr: *mut c_void) -> bool {
    guard(false, || system_at(system)?.check(ptr.cast()).map(|()| true))
}

/// Bytes that the live block at `ptr` was asked for with; 0 where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn get_allocation_size(system: *const AdvancedMemorySystem, ptr: *mut c_void) -> usize {
    guard(0, || Ok(system_at(system)?.block(ptr.cast()).map_or(0, |(block, _)| block.size)))
}
