//! The tables of functions that C calls. The functions of a table take no instance as an argument. So each slot has
//! functions of its own: the same code, compiled once for each slot number.
use super::types::{memory_stats_t, unified_memory_interface_t};
use super::{guard, guard_free, guard_uncancelled, slice, store, succeeds};
use crate::error::{Result, fail};
use crate::heap::{DEFAULT_ALIGNMENT, fast};
use crate::instance::slots::{self, SLOTS};
use crate::tensor::memory::Table;
use core::ffi::c_void;
use core::ptr::null_mut;

/// Bytes of a `ComplexFloat`.
const COMPLEX_FLOAT: usize = 8;

/// A network takes its table as a [`Table`], because the table may be one of the program's own (tensor/memory.rs). So
/// the same layout is declared twice; this asserts that the two agree.
macro_rules! same_places {
    ($($function:ident)*) => {
        const _: () = assert!(size_of::<Table>() == size_of::<unified_memory_interface_t>());
        $(const _: () = assert!(
            core::mem::offset_of!(Table, $function)
                == core::mem::offset_of!(unified_memory_interface_t, $function)
        );)*
    };
}
same_places!(allocate free realloc allocate_geometric allocate_hierarchical allocate_streaming track_allocation
    untrack_allocation get_stats);

// A hit in the thread's cache is served in the slot's own function. Everything else goes to one function for all slots.
// That is an `extern "C"` function, which does not unwind, so the fast path ends in a jump and needs no stack frame.
unsafe extern "C" fn allocate<const SLOT: usize>(size: usize, alignment: usize) -> *mut c_void {
    if !fast::is_usual(alignment) {
        return allocate_packed::<SLOT>(size, alignment);
    }
    match fast::allocate(slots::heap_id(SLOT), slots::prefix(SLOT), size) {
        Some(block) => block.as_ptr().cast(),
        // Passes the default alignment, which means the same as the one given. So no register has to keep the latter.
        None => allocate_at(size, DEFAULT_ALIGNMENT, SLOT),
    }
}
// A function of its own, so that the usual alignment needs fewer registers.
#[inline(never)]
extern "C" fn allocate_packed<const SLOT: usize>(size: usize, alignment: usize) -> *mut c_void {
    let serves = slots::prefix(SLOT) == Some(0) && fast::is_packed(alignment);
    match serves.then(|| fast::allocate_packed(slots::heap_id(SLOT), size)).flatten() {
        Some(block) => block.as_ptr().cast(),
        None => allocate_at(size, alignment, SLOT),
    }
}
#[cold]
extern "C" fn allocate_at(size: usize, alignment: usize, slot: usize) -> *mut c_void {
    if let Some(block) = fast::allocate_other(slots::heap_id(slot), size, alignment, false) {
        return block.as_ptr().cast();
    }
    guard(null_mut(), || Ok(slots::open_at(slot)?.allocate(size, alignment)?.as_ptr().cast()))
}
unsafe extern "C" fn free<const SLOT: usize>(ptr: *mut c_void) {
    if !fast::free(slots::heap_id(SLOT), ptr.cast()) {
        free_at(ptr, SLOT);
    }
}
#[cold]
extern "C" fn free_at(ptr: *mut c_void, slot: usize) {
    guard_free(|| slots::open_at(slot)?.free(ptr.cast()))
}
unsafe extern "C" fn realloc<const SLOT: usize>(ptr: *mut c_void, size: usize) -> *mut c_void {
    match fast::reallocate(slots::heap_id(SLOT), ptr.cast(), size) {
        Some(block) => block.as_ptr().cast(),
        None => realloc_at(ptr, size, SLOT),
    }
}
#[cold]
fn realloc_at(ptr: *mut c_void, size: usize, slot: usize) -> *mut c_void {
    guard(null_mut(), || {
        let block = slots::open_at(slot)?.reallocate(ptr.cast(), size)?;
        Ok(block.map_or(null_mut(), |block| block.as_ptr().cast()))
    })
}
unsafe extern "C" fn allocate_geometric<const SLOT: usize>(
    dimensions: *mut usize,
    num_dims: usize,
) -> *mut c_void {
    // SAFETY: the caller passes an array of `num_dims` numbers or NULL, as the table's documentation asks.
    unsafe { allocate_tensor_at(dimensions, num_dims, COMPLEX_FLOAT, SLOT) }
}
/// A tensor from the instance in `slot`.
///
/// # Safety
/// `dimensions` is NULL or points at `num_dims` numbers.
pub(super) unsafe fn allocate_tensor_at(
    dimensions: *const usize,
    num_dims: usize,
    element_size: usize,
    slot: usize,
) -> *mut c_void {
    guard(null_mut(), || {
        // SAFETY: by the caller's promise.
        let extents = unsafe { slice(dimensions, num_dims) }?;
        Ok(slots::open_at(slot)?.allocate_tensor(extents, element_size)?.as_ptr().cast())
    })
}
unsafe extern "C" fn allocate_hierarchical<const SLOT: usize>(size: usize, tolerance: f64) -> *mut c_void {
    guard_uncancelled(null_mut(), || {
        Ok(slots::open_at(SLOT)?.allocate_hierarchical(size, tolerance)?.as_ptr().cast())
    })
}
unsafe extern "C" fn allocate_streaming<const SLOT: usize>(
    total_size: usize,
    chunk_size: usize,
) -> *mut c_void {
    guard_uncancelled(null_mut(), || {
        Ok(slots::open_at(SLOT)?.allocate_streaming(total_size, chunk_size)?.as_ptr().cast())
    })
}
unsafe extern "C" fn track_allocation<const SLOT: usize>(ptr: *mut c_void, size: usize) -> bool {
    succeeds(|| slots::open_at(SLOT)?.track(ptr.cast(), size))
}
unsafe extern "C" fn untrack_allocation<const SLOT: usize>(ptr: *mut c_void) -> bool {
    succeeds(|| slots::open_at(SLOT)?.untrack(ptr.cast()))
}
unsafe extern "C" fn get_stats<const SLOT: usize>(stats: *mut memory_stats_t) {
    // SAFETY: the caller passes NULL or a structure that may be written, as the table's documentation asks.
    unsafe { get_stats_at(stats, SLOT) }
}
unsafe fn get_stats_at(stats: *mut memory_stats_t, slot: usize) {
    guard((), || {
        let figures = slots::open_at(slot)?.statistics();
        let value = memory_stats_t {
            total_allocated: figures.live,
            peak_allocated: figures.peak,
            num_allocations: figures.allocations,
            num_frees: figures.frees,
            largest_allocation: figures.largest,
            fragmentation: figures.fragmentation(),
            cache_hits: figures.cache_hits,
            cache_misses: figures.cache_misses,
        };
        // SAFETY: by the caller's promise.
        unsafe { store(stats, value, "stats") }
    })
}

const fn table<const SLOT: usize>() -> unified_memory_interface_t {
    unified_memory_interface_t {
        allocate: Some(allocate::<SLOT>),
        free: Some(free::<SLOT>),
        realloc: Some(realloc::<SLOT>),
        allocate_geometric: Some(allocate_geometric::<SLOT>),
        allocate_hierarchical: Some(allocate_hierarchical::<SLOT>),
        allocate_streaming: Some(allocate_streaming::<SLOT>),
        track_allocation: Some(track_allocation::<SLOT>),
        untrack_allocation: Some(untrack_allocation::<SLOT>),
        get_stats: Some(get_stats::<SLOT>),
    }
}
macro_rules! tables {
    ($($row:literal)*) => { tables!(@all [$($row)*] [] ) };
    (@all [] [$($table:expr,)*]) => { [$($table,)*] };
    (@all [$row:literal $($rest:literal)*] [$($done:expr,)*]) => {
        tables!(@all [$($rest)*] [$($done,)*
            table::<{ $row * 8 }>(), table::<{ $row * 8 + 1 }>(), table::<{ $row * 8 + 2 }>(),
            table::<{ $row * 8 + 3 }>(), table::<{ $row * 8 + 4 }>(), table::<{ $row * 8 + 5 }>(),
            table::<{ $row * 8 + 6 }>(), table::<{ $row * 8 + 7 }>(),])
    };
}
/// The tables of all slots. C holds their addresses as pointers that are not `const`, but must not write there: the
/// tables are a constant, in read-only memory.
static TABLES: [unified_memory_interface_t; SLOTS] =
    tables!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);

/// The table of a slot.
pub(crate) fn of_slot(slot: usize) -> *mut unified_memory_interface_t {
    core::ptr::from_ref(&TABLES[slot]).cast_mut()
}
/// The slot of a table. InvalidArgument if the table is not one of the library's.
pub(super) fn slot_of(memory: *const unified_memory_interface_t) -> Result<usize> {
    let offset = (memory as usize).wrapping_sub(TABLES.as_ptr() as usize);
    let slot = offset / size_of::<unified_memory_interface_t>();
    if slot >= SLOTS || !offset.is_multiple_of(size_of::<unified_memory_interface_t>()) {
        return fail!(InvalidArgument, "{memory:p} is not an interface of libunimem");
    }
    Ok(slot)
}
