//! The functions of `advanced_memory_system.h` for pools, layouts and buffers.
use super::advanced_system::system_at;
use super::legacy_types::*;
use super::{guard, guard_free, guard_uncancelled, reference, slice, succeeds};
use crate::advanced::pool::{Limits, Pool};
use crate::advanced::registry::Registry;
use crate::advanced::{Structure, System, report, structure};
use crate::error::{Result, fail};
use crate::os::lock::Mutex;
use crate::os::records::{self, Records};
use allocator_api2::vec::Vec;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// What a pointer to a system's pool points at.
#[repr(C)]
struct PoolRecord {
    /// The part that C reads.
    public: UnsafeCell<AdvancedMemoryPool>,
    pool: Pool,
    /// Whether a thread is already destroying the pool. Set under the structure lock ([`structure`]).
    ending: AtomicBool,
    /// Used only under the structure lock. So fork, which takes that lock, need not take this one.
    made: Mutex<Made>,
}
// SAFETY: the public part is written under the structure lock, except for its counters, which are atomic.
unsafe impl Sync for PoolRecord {}

/// The layouts and buffers of a pool. Each has a record of its own, because C holds their addresses.
struct Made {
    layouts: Vec<NonNull<MemoryLayout>, Records>,
    buffers: Vec<NonNull<MemoryBuffer>, Records>,
}
impl Default for Made {
    fn default() -> Made {
        Made { layouts: Vec::new_in(Records), buffers: Vec::new_in(Records) }
    }
}
static POOLS: Registry<PoolRecord> = Registry::new();

/// The pointer to a pool that C has.
pub(super) fn pointer_of(pool: &'static Pool) -> *mut c_void {
    core::ptr::from_ref(pool).cast_mut().wrapping_byte_sub(offset_of!(PoolRecord, pool)).cast()
}
#[inline]
fn record_at<T>(pool: *const T) -> Result<&'static PoolRecord> {
    match POOLS.get(pool.cast()) {
        Some(record) => Ok(record),
        None => fail!(InvalidArgument, "{pool:p} is not a pool of a memory system"),
    }
}
/// The system of the pool at an address, if there is such a pool.
pub(super) fn system_of_pool(pool: *const c_void) -> Option<&'static System> {
    POOLS.get(pool.cast()).map(|record| record.pool.system())
}
/// The pool at `pool`, if it belongs to the system at `system`. InvalidArgument if not.
#[inline]
fn record_of(system: *const AdvancedMemorySystem, pool: *const c_void) -> Result<&'static PoolRecord> {
    let (system, record) = (system_at(system)?, record_at(pool)?);
    if !core::ptr::eq(record.pool.system(), system) {
        return fail!(InvalidArgument, "the pool at {pool:p} is another system's");
    }
    Ok(record)
}

fn limits(config: &AdvancedPoolConfig) -> Result<Limits> {
    if config.fixed_size.is_set() && config.block_size == 0 {
        return fail!(InvalidArgument, "blocks of a fixed size, of 0 bytes");
    }
    let unless_growing = |limit| if config.enable_growth.is_set() { 0 } else { limit };
    Ok(Limits {
        bytes: unless_growing(config.pool_size),
        blocks: unless_growing(config.max_blocks),
        request: if config.fixed_size.is_set() { config.block_size } else { 0 },
    })
}

fn create_pool(system: *mut AdvancedMemorySystem, config: &AdvancedPoolConfig) -> Result<*mut c_void> {
    let pool = Pool::new(system_at(system)?, limits(config)?)?;
    let heap = pool.heap();
    let public = AdvancedMemoryPool {
        layouts: null_mut(),
        buffers: null_mut(),
        num_layouts: AtomicUsize::new(0),
        num_buffers: AtomicUsize::new(0),
        fast_path_cache: null_mut(),
        config: *config,
        use_neon: false.into(),
    };
    let record = PoolRecord {
        public: public.into(),
        pool,
        ending: AtomicBool::new(false),
        made: Mutex::sheltered(Default::default()),
    };
    let inserted = POOLS.insert(record, &structure());
    let record = inserted.inspect_err(|_| _ = heap.destroy())?;
    if let Err(error) = record.pool.join() {
        destroy_record(record);
        return Err(error);
    }
    Ok(pointer_of(&record.pool))
}

/// Whether the caller is the one to destroy the pool. If two threads try, the second one gets false.
fn begin_end(record: &PoolRecord, _structure: &Structure) -> bool {
    !record.ending.swap(true, Relaxed)
}
fn destroy_record(record: &'static PoolRecord) {
    // Layouts and buffers have no other end than their pool's, so they are not among what was left live.
    end_each(record, |made| &mut made.layouts, |layout| [layout.base_ptr, null_mut(), null_mut()]);
    end_each(record, |made| &mut made.buffers, |buffer| [buffer.cpu_ptr, buffer.gpu_ptr, buffer.quantum_ptr]);
    let leaks = record.pool.end();
    // SAFETY: by `begin_end` only one thread ends the pool, and nobody uses it any more.
    unsafe { POOLS.remove(NonNull::from(record), &structure()) };
    report(leaks, "a pool of a memory system");
}
/// Frees the layouts or buffers of a pool that ends, and the blocks that they consist of (`parts`).
fn end_each<T>(
    record: &PoolRecord,
    all: impl Fn(&mut Made) -> &mut Vec<NonNull<T>, Records>,
    parts: impl Fn(&T) -> [*mut c_void; 3],
) {
    let next = || {
        let _structure = structure();
        all(&mut record.made.lock()).pop()
    };
    for made in core::iter::from_fn(next) {
        // SAFETY: a record of this type, which nobody uses any more, because it ends with its pool.
        let parts = parts(unsafe { made.as_ref() });
        // SAFETY: as above; it is in no list any more.
        unsafe { records::release(made.cast(), size_of::<T>()) };
        // The program may have freed a part by itself, which is no reason to refuse anything here.
        let live = parts.iter().filter(|part| record.pool.heap().block(part.cast()).is_some());
        live.for_each(|part| _ = record.pool.free(part.cast()));
    }
}
/// Destroys a pool of the system.
fn destroy_pool(system: *mut AdvancedMemorySystem, pool: *mut c_void) -> Result<()> {
    let structure = structure();
    let record = record_of(system, pool)?;
    if !begin_end(record, &structure) {
        return fail!(InvalidArgument, "the pool at {pool:p} is being destroyed already");
    }
    drop(structure);
    destroy_record(record);
    Ok(())
}
/// Destroys all pools of a system that is about to end.
pub(super) fn destroy_pools_of(system: &System) {
    // Takes one pool after the other instead of a list of them: the program may be short of the memory that a list
    // needs.
    let next = || {
        let structure = structure();
        let of_pool = |pool: &'static Pool| record_at(pointer_of(pool)).ok();
        system
            .find_pool(&structure, |pool| of_pool(pool).is_some_and(|record| begin_end(record, &structure)))
            .and_then(of_pool)
    };
    core::iter::from_fn(next).for_each(destroy_record);
}
/// All pools of all systems, as far as there is memory for the list.
pub(super) fn pools() -> Vec<&'static Pool, Records> {
    let (structure, mut pools) = (structure(), Vec::new_in(Records));
    POOLS.all(&structure).iter().for_each(|record| records::push(&mut pools, &record.pool));
    pools
}

/// Makes a pool of a system. NULL if an argument is NULL, if the configuration is impossible, or without memory.
///
/// # Safety
/// `config` is NULL or points at a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn advanced_create_memory_pool(
    system: *mut AdvancedMemorySystem,
    config: *const AdvancedPoolConfig,
) -> *mut c_void {
    // SAFETY: by the caller's promise.
    guard_uncancelled(null_mut(), || create_pool(system, unsafe { reference(config, "config") }?))
}

/// Destroys a pool of the system and frees all its blocks, layouts and buffers. Any other pointer is ignored.
///
/// # Safety
/// Nobody uses the pool or what it gave afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn advanced_destroy_memory_pool(system: *mut AdvancedMemorySystem, pool: *mut c_void) {
    guard_uncancelled((), || destroy_pool(system, pool))
}

/// Allocates `size` zeroed bytes from a pool, aligned to 64. NULL for a `size` of 0, beyond the pool's limits, or
/// without memory.
#[unsafe(no_mangle)]
pub extern "C" fn advanced_pool_allocate(
    system: *mut AdvancedMemorySystem,
    pool: *mut c_void,
    size: usize,
) -> *mut c_void {
    guard(null_mut(), || Ok(record_of(system, pool)?.pool.allocate(size)?.as_ptr().cast()))
}

/// Frees a block of the pool. NULL does nothing. Any other pointer is ignored.
///
/// # Safety
/// Nobody uses the block afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn advanced_pool_free(
    system: *mut AdvancedMemorySystem,
    pool: *mut c_void,
    ptr: *mut c_void,
) {
    guard_free(|| record_of(system, pool)?.pool.free(ptr.cast()))
}

/// The same as [`advanced_create_memory_pool`].
///
/// # Safety
/// As for that function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ams_create_memory_pool(
    system: *mut AdvancedMemorySystem,
    config: *const AdvancedPoolConfig,
) -> *mut c_void {
    // SAFETY: by the caller's promise.
    guard_uncancelled(null_mut(), || create_pool(system, unsafe { reference(config, "config") }?))
}

/// The same as [`advanced_destroy_memory_pool`].
///
/// # Safety
/// As for that function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ams_destroy_memory_pool(system: *mut AdvancedMemorySystem, pool: *mut c_void) {
    guard_uncancelled((), || destroy_pool(system, pool))
}

/// The same as [`advanced_pool_allocate`].
#[unsafe(no_mangle)]
pub extern "C" fn ams_pool_allocate(
    system: *mut AdvancedMemorySystem,
    pool: *mut c_void,
    size: usize,
) -> *mut c_void {
    guard(null_mut(), || Ok(record_of(system, pool)?.pool.allocate(size)?.as_ptr().cast()))
}

/// The same as [`advanced_pool_free`].
///
/// # Safety
/// As for that function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ams_pool_free(
    system: *mut AdvancedMemorySystem,
    pool: *mut c_void,
    ptr: *mut c_void,
) {
    guard_free(|| record_of(system, pool)?.pool.free(ptr.cast()))
}

/// Changes the configuration of a pool. Live blocks stay, even beyond the new limits. False if an argument is NULL or
/// the configuration is impossible.
///
/// # Safety
/// `config` is NULL or points at a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn optimize_pool_configuration(
    system: *mut AdvancedMemorySystem,
    pool: *mut c_void,
    config: *const AdvancedPoolConfig,
) -> bool {
    succeeds(|| {
        // SAFETY: by the caller's promise.
        let config = unsafe { reference(config, "config") }?;
        let record = record_of(system, pool)?;
        record.pool.set_limits(limits(config)?);
        let _structure = structure();
        // SAFETY: the configuration is read and written only under the structure lock, which is held.
        unsafe { (&raw mut (*record.public.get()).config).write(*config) };
        Ok(())
    })
}

/// Puts `value` into a new record of the library's own, and adds it to the list `all` of the pool.
fn keep<T>(
    all: impl FnOnce(&mut Made) -> &mut Vec<NonNull<T>, Records>,
    pool: &PoolRecord,
    value: T,
) -> Result<*mut T> {
    let _structure = structure();
    let mut made = pool.made.lock();
    let all = all(&mut made);
    // Reserves the place in the list first. A record without a place would never be released.
    let record = all.try_reserve(1).ok().and_then(|()| records::allocate(size_of::<T>()));
    let Some(record) = record.map(NonNull::cast::<T>) else {
        return fail!(OutOfMemory, "no memory for another layout or buffer");
    };
    // SAFETY: the record is fresh, has the size of a `T`, and is aligned to 64.
    unsafe { record.write(value) };
    all.push(record);
    Ok(record.as_ptr())
}

/// Strides and size of an array of bytes whose first dimension runs fastest. The size is rounded up to 64.
fn shape(extents: &[usize]) -> Result<([usize; MAX_DIMENSIONS], usize)> {
    let mut strides = [0; MAX_DIMENSIONS];
    let mut size = 1usize;
    for (stride, &extent) in strides.iter_mut().zip(extents) {
        *stride = size;
        match size.checked_mul(extent) {
            Some(product) if product != 0 => size = product,
            _ => return fail!(InvalidArgument, "the extents {extents:?} are no size"),
        }
    }
    match size.checked_next_multiple_of(64) {
        Some(total) => Ok((strides, total)),
        None => fail!(InvalidArgument, "the extents {extents:?} are no size"),
    }
}

/// Makes an array that belongs to a pool: bytes in `num_dims` (1 to 16) dimensions, none of them 0, the fastest first.
/// It is valid until the pool is destroyed.
///
/// # Safety
/// `dimensions` is NULL or points at `num_dims` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn create_memory_layout(
    pool: *mut AdvancedMemoryPool,
    dimensions: *const usize,
    num_dims: usize,
    geom_type: GeometricStateType,
) -> *mut MemoryLayout {
    guard(null_mut(), || {
        let record = record_at(pool)?;
        if num_dims == 0 || num_dims > MAX_DIMENSIONS {
            return fail!(InvalidArgument, "{num_dims} dimensions: from 1 to {MAX_DIMENSIONS} are possible");
        }
        // SAFETY: by the caller's promise.
        let extents = unsafe { slice(dimensions, num_dims) }?;
        let (strides, total_size) = shape(extents)?;
        let mut dimensions = [0; MAX_DIMENSIONS];
        dimensions[..num_dims].copy_from_slice(extents);
        let block = record.pool.allocate(total_size)?;
        let layout = MemoryLayout {
            base_ptr: block.as_ptr().cast(),
            dimensions,
            strides,
            total_size,
            is_geometric: true.into(),
            geom_type,
        };
        let kept = keep(|made| &mut made.layouts, record, layout);
        let layout = kept.inspect_err(|_| _ = record.pool.free(block.as_ptr()))?;
        // SAFETY: the record is live, and the counter is atomic.
        unsafe { (*record.public.get()).num_layouts.fetch_add(1, Relaxed) };
        Ok(layout)
    })
}

/// Makes a buffer that belongs to a pool, with the mirrors that are asked for. It is valid until the pool is destroyed.
/// NULL for a NULL pool, a `size` of 0, or without memory.
#[unsafe(no_mangle)]
pub extern "C" fn create_memory_buffer(
    pool: *mut AdvancedMemoryPool,
    size: usize,
    gpu_accessible: bool,
    quantum_accessible: bool,
    hardware: HardwareType,
) -> *mut MemoryBuffer {
    guard(null_mut(), || {
        let record = record_at(pool)?;
        let mut parts = [null_mut::<c_void>(); 3];
        let made = fill_parts(&record.pool, size, [true, gpu_accessible, quantum_accessible], &mut parts)
            .and_then(|()| {
                let [cpu_ptr, gpu_ptr, quantum_ptr] = parts;
                let is_unified = gpu_accessible.into();
                let is_pinned = true.into();
                let buffer =
                    MemoryBuffer { gpu_ptr, cpu_ptr, quantum_ptr, size, is_pinned, is_unified, hardware };
                keep(|made| &mut made.buffers, record, buffer)
            });
        let buffer = made.inspect_err(|_| {
            // To free what was just allocated cannot fail. Parts that were not allocated are NULL, which does nothing.
            parts.iter().for_each(|part| _ = record.pool.free(part.cast()));
        })?;
        // SAFETY: the record is live, and the counter is atomic.
        unsafe { (*record.public.get()).num_buffers.fetch_add(1, Relaxed) };
        Ok(buffer)
    })
}
fn fill_parts(pool: &Pool, size: usize, wanted: [bool; 3], parts: &mut [*mut c_void; 3]) -> Result<()> {
    for (part, wanted) in parts.iter_mut().zip(wanted) {
        if wanted {
            *part = pool.allocate(size)?.as_ptr().cast();
        }
    }
    Ok(())
}

/// Copies `size` bytes from one layout to another, which may be the same. Copies nothing if either is smaller than
/// `size`.
///
/// # Safety
/// Both are NULL or layouts whose memory is live, and nobody else writes the destination meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_copy(dst: *mut MemoryLayout, src: *const MemoryLayout, size: usize) {
    guard((), || {
        // SAFETY: by the caller's promise.
        let (dst, src) = unsafe { (reference(dst.cast_const(), "dst")?, reference(src, "src")?) };
        if dst.base_ptr.is_null() || src.base_ptr.is_null() {
            return fail!(InvalidArgument, "a layout has no memory");
        }
        if size > dst.total_size || size > src.total_size {
            return fail!(
                InvalidArgument,
                "{size} bytes to copy from a layout of {} to one of {}",
                src.total_size,
                dst.total_size
            );
        }
        // SAFETY: both arrays have at least `size` bytes, as checked above. `copy_from` allows them to be the same.
        unsafe { dst.base_ptr.cast::<u8>().copy_from(src.base_ptr.cast(), size) };
        Ok(())
    })
}

/// Copies a buffer between the processor's memory and a mirror. EUCLIDEAN copies from the CPU to the GPU and HYPERBOLIC
/// back; SPHERICAL copies from the CPU to the quantum mirror and SYMPLECTIC back. Copies nothing for other directions,
/// and if the buffer does not have that mirror.
///
/// # Safety
/// `buffer` is NULL or a buffer of a live pool, and nobody else uses its memory meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_transfer(buffer: *mut MemoryBuffer, direction: GeometricStateType) {
    guard((), || {
        // SAFETY: by the caller's promise.
        let buffer = unsafe { reference(buffer.cast_const(), "buffer") }?;
        let (from, to) = match direction {
            GeometricStateType::EUCLIDEAN => (buffer.cpu_ptr, buffer.gpu_ptr),
            GeometricStateType::HYPERBOLIC => (buffer.gpu_ptr, buffer.cpu_ptr),
            GeometricStateType::SPHERICAL => (buffer.cpu_ptr, buffer.quantum_ptr),
            GeometricStateType::SYMPLECTIC => (buffer.quantum_ptr, buffer.cpu_ptr),
            other => return fail!(InvalidArgument, "{other:?} is no direction"),
        };
        if from.is_null() || to.is_null() {
            return fail!(InvalidArgument, "the buffer has no such mirror");
        }
        // SAFETY: both places have `buffer.size` bytes. `copy_from` allows them to be the same.
        unsafe { to.cast::<u8>().copy_from(from.cast(), buffer.size) };
        Ok(())
    })
}

/// Tags all layouts of a pool as `GEOMETRIC_STATE_EUCLIDEAN` if its configuration has `enable_stats`, as the legacy
/// function does.
///
/// # Safety
/// Nobody else writes the layouts meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn update_memory_access(pool: *mut AdvancedMemoryPool) {
    guard((), || {
        let record = record_at(pool)?;
        let _structure = structure();
        // SAFETY: the configuration is read and written only under the structure lock, which is held.
        if unsafe { (*record.public.get()).config }.enable_stats.is_set() {
            for layout in &record.made.lock().layouts {
                // SAFETY: the record belongs to the pool and lives as long as it. Nobody else writes it, by the
                // caller's promise.
                unsafe { (*layout.as_ptr()).geom_type = GeometricStateType::EUCLIDEAN };
            }
        }
        Ok(())
    })
}
