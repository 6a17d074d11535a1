//! The functions of `advanced_memory_system.h` for systems and their blocks. Those for pools, layouts and buffers are
//! in layouts.rs.
use super::legacy_types::*;
use super::tables::of_slot;
use super::types::unified_memory_interface_t;
use super::{
    guard, guard_free, guard_uncancelled, layouts, reference, seam, store, succeeds, succeeds_uncancelled,
};
use crate::advanced::registry::Registry;
use crate::advanced::{self, System, program, report, structure};
use crate::error::{Result, fail};
use crate::singleton;
use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// What a pointer to a memory system points at.
struct SystemRecord {
    system: System,
    /// References that `create_memory_system` has given and `destroy_memory_system` has not yet taken back.
    references: AtomicUsize,
    /// Whether a thread is already destroying the system. Set under the program lock ([`program`]).
    ending: AtomicBool,
}
static SYSTEMS: Registry<SystemRecord> = Registry::new();

fn record_at(system: *const AdvancedMemorySystem) -> Option<&'static SystemRecord> {
    SYSTEMS.get(system.cast())
}
/// The system at an address. InvalidArgument if it is not a system of libunimem.
#[inline]
pub(super) fn system_at(system: *const AdvancedMemorySystem) -> Result<&'static System> {
    match record_at(system) {
        Some(record) => Ok(&record.system),
        None => fail!(InvalidArgument, "{system:p} is not a memory system of libunimem"),
    }
}

/// Returns the program's memory system. If there is one it gets another reference; otherwise a new one is made.
///
/// # Safety
/// `config` is NULL or points at a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn create_memory_system(
    config: *const MemorySystemConfig,
) -> *mut AdvancedMemorySystem {
    guard_uncancelled(null_mut(), || {
        // Held from the look-up to the registration, so that nobody can end the system in between.
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
        // SAFETY: the system is live. It was just made, or it is the program's, which cannot end while the program lock
        // is held.
        unsafe { seam::register_memory_system(system) };
        Ok(system)
    })
}

/// Gives up one reference to a system. The last one frees the system, its pools and all their blocks. What was live is
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
            return Ok(()); // not the last reference, or a system of the legacy C file
        };
        if record.ending.swap(true, Relaxed) {
            return fail!(InvalidArgument, "the memory system at {system:p} is being destroyed already");
        }
        drop(program);
        layouts::destroy_pools_of(&record.system);
        let leaks = record.system.end();
        {
            // Both locks are held, so that a call that comes too late finds the whole record or none.
            let _program = advanced::program();
            // SAFETY: the last reference is gone, by the caller's promise.
            unsafe { SYSTEMS.remove(NonNull::from(record), &structure()) };
        }
        report(leaks, "a memory system");
        Ok(())
    })
}

/// Untracks the blocks of a system that is about to end, if the program's singleton is the legacy C file. That
/// singleton calls C's `free` on everything still tracked when it loses its last reference. Our own singleton frees
/// each block where it belongs.
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

/// Returns the interface of a memory system, whose functions work on the system's memory. It is the same table each
/// time, and it ends with the system. What it tells of the system, and what is trimmed through it, includes the system's
/// pools. Their blocks are freed through them. NULL with `UNIMEM_ERROR_INVALID_ARGUMENT` for anything but a live system of
/// libunimem.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_system_interface(
    system: *mut AdvancedMemorySystem,
) -> *mut unified_memory_interface_t {
    guard_uncancelled(null_mut(), || system_at(system)?.interface().map(of_slot))
}

/// Allocates `size` zeroed bytes. `alignment` is up to 1 GiB and is rounded up to a power of two; 0 means the
/// configuration's alignment.
#[unsafe(no_mangle)]
pub extern "C" fn memory_allocate(
    system: *mut AdvancedMemorySystem,
    size: usize,
    alignment: usize,
) -> *mut c_void {
    guard(null_mut(), || Ok(system_at(system)?.allocate(size, alignment)?.as_ptr().cast()))
}

/// Frees a block of `memory_allocate`, or memory that the system's `unimem_system_interface` allocated. NULL does
/// nothing. Any other pointer is ignored.
///
/// # Safety
/// Nobody uses the block afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_free(system: *mut AdvancedMemorySystem, ptr: *mut c_void) {
    guard_free(|| system_at(system)?.free(ptr.cast()))
}

/// Changes the size of a block. The contents up to the smaller size and the alignment stay. New bytes are zeroed. NULL
/// allocates; a `new_size` of 0 frees.
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

/// Returns unused memory to the operating system. False for a NULL system or an unknown level.
#[unsafe(no_mangle)]
pub extern "C" fn optimize_memory_usage(system: *mut AdvancedMemorySystem, level: OptimizationLevel) -> bool {
    succeeds_uncancelled(|| {
        let system = system_at(system)?;
        match level {
            OptimizationLevel::NONE => (),
            OptimizationLevel::BASIC => _ = system.trim(false),
            OptimizationLevel::ADVANCED | OptimizationLevel::AGGRESSIVE => _ = system.trim(true),
            unknown => return fail!(InvalidArgument, "{unknown:?}"),
        }
        Ok(())
    })
}

/// Accepts any strategy and changes nothing, because the heap serves them all. False for a NULL system or an unknown
/// strategy.
#[unsafe(no_mangle)]
pub extern "C" fn optimize_allocation_strategy(
    system: *mut AdvancedMemorySystem,
    strategy: AllocationStrategy,
) -> bool {
    succeeds_uncancelled(|| {
        system_at(system)?;
        if strategy.is_known() { Ok(()) } else { fail!(InvalidArgument, "{strategy:?}") }
    })
}

/// Returns unused memory to the operating system if fragmentation has reached the threshold. False only for bad
/// arguments, such as a threshold that is not a number.
///
/// # Safety
/// `config` is NULL or points at a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn start_defragmentation(
    system: *mut AdvancedMemorySystem,
    config: *const DefragConfig,
) -> bool {
    succeeds_uncancelled(|| {
        // SAFETY: by the caller's promise.
        let config = unsafe { reference(config, "config") }?;
        system_at(system)?.start_defragmentation(config.threshold, config.compact_pools.is_set())
    })
}

/// Tells whether a defragmentation was started since the last call. It is always finished by then.
#[unsafe(no_mangle)]
pub extern "C" fn stop_defragmentation(system: *mut AdvancedMemorySystem) -> bool {
    guard(false, || Ok(system_at(system)?.stop_defragmentation()))
}

/// Tells whether fragmentation is above 0.2, and writes it (0 to 1) to `fragmentation_level`, which may be NULL.
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

/// Writes what is known about the live block that starts at `ptr`. False, and nothing is written, if there is none.
///
/// # Safety
/// `info` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_block_info(
    system: *const AdvancedMemorySystem,
    ptr: *mut c_void,
    info: *mut BlockInfo,
) -> bool {
    succeeds(|| {
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
        unsafe { store(info, known, "info") }
    })
}

/// Writes what the system and its pools have done. False if an argument is NULL.
///
/// # Safety
/// `metrics` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_memory_metrics(
    system: *const AdvancedMemorySystem,
    metrics: *mut MemoryMetrics,
) -> bool {
    succeeds(|| {
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
        unsafe { store(metrics, done, "metrics") }
    })
}

/// Writes the share of the memory held that neither live blocks nor chunks of tiered memory use, 0 to 1. False if an
/// argument is NULL.
///
/// # Safety
/// `fragmentation_level` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn analyze_fragmentation(
    system: *const AdvancedMemorySystem,
    fragmentation_level: *mut f64,
) -> bool {
    succeeds(|| {
        let level = system_at(system)?.fragmentation();
        // SAFETY: by the caller's promise.
        unsafe { store(fragmentation_level, level, "fragmentation_level") }
    })
}

/// Puts guard bytes behind each block that is allocated from now on, by the system, its pools or its
/// `unimem_system_interface`, but for streaming and hierarchical memory. False for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn start_memory_monitoring(system: *mut AdvancedMemorySystem) -> bool {
    set_monitoring(system, true)
}

/// Puts no guard bytes behind blocks that are allocated from now on. False for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn stop_memory_monitoring(system: *mut AdvancedMemorySystem) -> bool {
    set_monitoring(system, false)
}
fn set_monitoring(system: *const AdvancedMemorySystem, on: bool) -> bool {
    succeeds(|| {
        system_at(system)?.set_monitoring(on);
        Ok(())
    })
}

/// Resets the metrics: the peak to what is live now, the counts to 0. False for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn reset_memory_metrics(system: *mut AdvancedMemorySystem) -> bool {
    succeeds(|| {
        system_at(system)?.reset_metrics();
        Ok(())
    })
}

/// Tells whether `ptr` points into a live block of the system or of its pools, at its start or inside.
#[unsafe(no_mangle)]
pub extern "C" fn validate_memory_block(system: *const AdvancedMemorySystem, ptr: *mut c_void) -> bool {
    guard(false, || Ok(system_at(system)?.is_inside_block(ptr.cast())))
}

/// Tells whether a live block starts at `ptr` and its guard bytes, if it has any, are intact. As in the legacy
/// function, true means that the block is good.
#[unsafe(no_mangle)]
pub extern "C" fn check_memory_corruption(system: *const AdvancedMemorySystem, ptr: *mut c_void) -> bool {
    succeeds(|| system_at(system)?.check(ptr.cast()))
}

/// Returns the bytes that the live block at `ptr` was requested with; 0 if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn get_allocation_size(system: *const AdvancedMemorySystem, ptr: *mut c_void) -> usize {
    guard(0, || Ok(system_at(system)?.block(ptr.cast()).map_or(0, |(block, _)| block.size)))
}
