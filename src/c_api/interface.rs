//! The functions of `unimem.h`: instances, errors, questions about blocks.
use super::legacy_types::MemoryPool;
use super::tables::{allocate_tensor_at, of_slot, slot_of};
use super::types::*;
use super::{guard, guard_uncancelled, memory_pool, store};
use crate::error::{self, Error, Result, fail};
use crate::heap::{self, attributes};
use crate::instance::{self, Instance, config::Config, slots, tiered};
use crate::{log, os, recording};
use core::ffi::{CStr, c_char, c_void};
use core::ptr::null_mut;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn open_instance(memory: *const unified_memory_interface_t) -> Result<&'static Instance> {
    slots::open_at(slot_of(memory)?)
}

/// The global instance: made on first use, lives as long as the process. Its configuration comes from the
/// environment: `UNIMEM_INITIAL_SIZE`, `UNIMEM_MAX_SIZE`, `UNIMEM_CHUNK_SIZE` (bytes, or with a suffix K, M, G, T),
/// `UNIMEM_GEOMETRIC`, `UNIMEM_STREAMING` (0 or 1), `UNIMEM_TOLERANCE`. NULL only when memory is short.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_global() -> *mut unified_memory_interface_t {
    guard_uncancelled(null_mut(), || slots::global().map(|_| of_slot(slots::GLOBAL)))
}

/// Opens an instance; a NULL `config` means defaults: no cap, growth, streaming, chunks of 1 MiB, tolerance 0. At least 64 can be
/// open at once; one more is NULL with `UNIMEM_ERROR_LIMIT`.
///
/// # Safety
/// `config` is NULL or points at a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_open(
    config: *const unified_pool_config_t,
) -> *mut unified_memory_interface_t {
    guard_uncancelled(null_mut(), || {
        // SAFETY: by the caller's promise.
        let config = match unsafe { config.as_ref() } {
            None => Config::default(),
            Some(given) => Config {
                initial_size: given.initial_size,
                max_size: given.max_size,
                use_geometric_layout: given.use_geometric_layout.is_set(),
                enable_streaming: given.enable_streaming.is_set(),
                chunk_size: given.chunk_size,
                compression_tolerance: given.compression_tolerance,
            }
            .checked(given.enable_growth.is_set())?,
        };
        slots::open(config).map(of_slot)
    })
}

/// Closes an instance: frees all that is live. False when anything was, tracked foreign blocks included; 16 of them, how
/// many there are and their bytes are then reported to the log (`unimem_report_leaks` tells all). Also false, with
/// `UNIMEM_ERROR_INVALID_ARGUMENT`, for the global instance and the interfaces of pools and systems, which end otherwise,
/// and while another thread closes it. No other thread may be inside the instance.
///
/// # Safety
/// Nobody uses the instance or its blocks afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_close(memory: *mut unified_memory_interface_t) -> bool {
    guard_uncancelled(false, || Ok(slots::close(slot_of(memory)?)? == 0))
}

/// The interface of a memory pool: its functions work on the pool's memory. The same table each time; it ends with the
/// pool. NULL for anything but a live pool of libunimem, a pool that the program's own C code made included.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_pool_interface(pool: *mut MemoryPool) -> *mut unified_memory_interface_t {
    guard_uncancelled(null_mut(), || slots::adopt(memory_pool::known_heap_of(pool)?).map(of_slot))
}

/// The calling thread's last error; `UNIMEM_OK` when no call of it has failed. A success leaves it alone.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_last_error() -> unimem_error_t {
    error::last().map_or(unimem_error_t::UNIMEM_OK, to_c)
}

/// What the calling thread's last error was about; empty when no call has failed. Valid until the thread's next
/// failure.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_last_error_message() -> *const c_char {
    error::last_message()
}

/// A description of an error code. Static storage.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_error_string(error: unimem_error_code_t) -> *const c_char {
    match Error::ALL.into_iter().find(|e| *e as u32 == error) {
        Some(error) => error.text().as_ptr(),
        None if error == 0 => c"no error".as_ptr(),
        None => c"unknown error".as_ptr(),
    }
}

/// A `unimem_error_t` as C passes it: any number may come.
#[allow(non_camel_case_types)] // C's own names
pub type unimem_error_code_t = u32;

fn to_c(error: Error) -> unimem_error_t {
    use unimem_error_t::*;
    match error {
        Error::InvalidArgument => UNIMEM_ERROR_INVALID_ARGUMENT,
        Error::OutOfMemory => UNIMEM_ERROR_OUT_OF_MEMORY,
        Error::Limit => UNIMEM_ERROR_LIMIT,
        Error::NotOwned => UNIMEM_ERROR_NOT_OWNED,
        Error::DoubleFree => UNIMEM_ERROR_DOUBLE_FREE,
        Error::Corruption => UNIMEM_ERROR_CORRUPTION,
        Error::Io => UNIMEM_ERROR_IO,
        Error::Unsupported => UNIMEM_ERROR_UNSUPPORTED,
        Error::Internal => UNIMEM_ERROR_INTERNAL,
    }
}

/// The library's version, "major.minor.patch". Static storage.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Bytes of the live block that starts at `ptr`, exactly as asked for; 0: not ours, or not live.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_usable_size(ptr: *const c_void) -> usize {
    guard(0, || match heap::owner(ptr.cast()) {
        Some((_, block)) => Ok(block.size),
        None => Ok(tiered::region_at(ptr.cast()).map_or(0, |region| region.size())),
    })
}

/// Whether `ptr` lies in a live block of libunimem, at its start or inside.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_owns(ptr: *const c_void) -> bool {
    guard(false, || Ok(instance::owns(ptr.cast())))
}

/// One more owner of a live block: each free gives one up, the last one frees. A block with several owners is not
/// moved by `realloc`. False for anything but the start of a live block.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_retain(ptr: *mut c_void) -> bool {
    guard(false, || match tiered::region_at(ptr.cast()) {
        Some(_) => tiered::retain(ptr.cast()).map(|()| true),
        None => attributes::retain(ptr.cast()).map(|()| true),
    })
}

/// Owners of the live block that starts at `ptr`; 0: not ours, or not live.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_reference_count(ptr: *const c_void) -> usize {
    guard(0, || match attributes::references(ptr.cast()) {
        0 => Ok(tiered::references(ptr.cast())),
        owners => Ok(owners),
    })
}

/// Whether `allocate(size, 0)` of the calling thread would find room in the instance's budget now: in what is free, in what
/// that thread caches and the instance keeps, which may go back into the common stock for it, and in what chunks of tiered
/// memory hold, which would leave. Without a cap true for every size from 1 to 2^46, the largest there is. What it cannot
/// know: whether the system has the memory, or the disk room for those chunks, and what other threads do meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_can_allocate(memory: *mut unified_memory_interface_t, size: usize) -> bool {
    guard(false, || Ok(open_instance(memory)?.can_allocate(size)))
}

/// Hands memory that nothing lives in back to the system: what the instance keeps for reuse and what the calling
/// thread caches. Gives the bytes handed back.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_trim(memory: *mut unified_memory_interface_t) -> usize {
    guard_uncancelled(0, || Ok(open_instance(memory)?.trim()))
}

/// Begins a new history: counts at 0, the peak at what is live. Exact while no other thread is inside the instance.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_reset_stats(memory: *mut unified_memory_interface_t) {
    guard((), || {
        open_instance(memory)?.heap().reset_statistics();
        Ok(())
    })
}

/// Sends the library's messages to `callback`; NULL: to nobody. Independent of it, `UNIMEM_LOG` (error, warning, info
/// or debug) in the environment sends them to stderr. The callback may allocate and free, but must not make or end
/// instances, pools or systems.
///
/// # Safety
/// `callback` may be called with `context` on any thread until another one is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_set_log(callback: unimem_log_t, context: *mut c_void) {
    guard((), || {
        log::set_callback(callback, context);
        Ok(())
    })
}

/// A dense row-major tensor of `num_dims` dimensions with elements of `element_size` bytes; otherwise as
/// `allocate_geometric`.
///
/// # Safety
/// `dimensions` is NULL or points at `num_dims` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_allocate_tensor(
    memory: *mut unified_memory_interface_t,
    dimensions: *const usize,
    num_dims: usize,
    element_size: usize,
) -> *mut c_void {
    let Some(slot) = guard(None, || slot_of(memory).map(Some)) else { return null_mut() };
    // SAFETY: by the caller's promise.
    unsafe { allocate_tensor_at(dimensions, num_dims, element_size, slot) }
}

/// Fills in the layout of the tensor at `ptr`. False for a block that was not allocated as a tensor, or was
/// reallocated since.
///
/// # Safety
/// `layout` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_layout(ptr: *const c_void, layout: *mut unimem_layout_t) -> bool {
    guard_uncancelled(false, || {
        let found = attributes::with_layout(ptr.cast(), |found| unimem_layout_t {
            num_dims: found.rank,
            element_size: found.element_size,
            size: found.extents[..found.rank].iter().product::<usize>() * found.element_size,
            dimensions: found.extents.as_ptr(),
            strides: found.extents[found.rank..].as_ptr(),
        });
        match found {
            // SAFETY: by the caller's promise.
            Some(value) => unsafe { store(layout, value, "layout") }.map(|()| true),
            None => fail!(NotOwned, "{ptr:p} is not a tensor of libunimem"),
        }
    })
}

/// Writes what is live in the whole process to the file `path`, as JSON: blocks and bytes by the stack that allocated
/// them, most bytes first. The stacks are known where the environment says `UNIMEM_DEBUG=trace`; blocks whose bytes
/// behind were overwritten are counted where it says `guard`, freed ones that were written to where it says
/// `quarantine` (several: with commas). `UNIMEM_DEBUG_REPORT=path` writes the same when the program ends, and which
/// blocks nothing points to any more; `%p` in that path is the process's number. False when the file cannot be written.
///
/// # Safety
/// `path` is zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_write_leaks(path: *const c_char) -> bool {
    guard_uncancelled(false, || {
        if path.is_null() {
            return fail!(InvalidArgument, "the path is NULL");
        }
        // SAFETY: by the caller's promise.
        let path = unsafe { CStr::from_ptr(path) };
        heap::debug::write_report(Path::new(OsStr::from_bytes(path.to_bytes()))).map(|()| true)
    })
}

/// Begins a recording of the whole process into the file `path`, which is made or replaced: memory over time by kind
/// and tier, faults and evictions, contractions, allocation sites, and what is live at the end. `%p` in the name
/// becomes the number of the process. `unimem report` makes a page of it. `UNIMEM_TRACE=path` in the environment does
/// the same from the first allocation on; `UNIMEM_TRACE_INTERVAL` is how many bytes are allocated between two
/// allocations whose stacks are recorded (524288). It goes on until `unimem_trace_stop()` or the end of the program.
/// A forked child is no part of it and may begin one of its own. False while a recording is under way, and when the
/// file cannot be written or another process records into it.
///
/// # Safety
/// `path` is zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_trace_start(path: *const c_char) -> bool {
    guard_uncancelled(false, || {
        if path.is_null() {
            return fail!(InvalidArgument, "the path is NULL");
        }
        // SAFETY: by the caller's promise.
        recording::start(unsafe { CStr::from_ptr(path) }.to_bytes()).map(|()| true)
    })
}

/// Ends the recording. False when there is none, also because it has ended before: the disk was full; and when the rest
/// of it cannot be written.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_trace_stop() -> bool {
    guard_uncancelled(false, || recording::stop().map(|()| true))
}

/// Calls `callback`, which may be NULL, with every live block and every tracked foreign one. Gives how many there are.
///
/// # Safety
/// `callback` may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_report_leaks(
    memory: *mut unified_memory_interface_t,
    callback: unimem_leak_callback_t,
    context: *mut c_void,
) -> usize {
    guard_uncancelled(0, || {
        Ok(open_instance(memory)?.for_each_leak(|leak| {
            let Some(callback) = callback else { return };
            let leak = unimem_leak_t {
                address: leak.address as *mut c_void,
                size: leak.size,
                foreign: leak.foreign,
                references: leak.references,
            };
            // SAFETY: by the caller's promise.
            unsafe { callback(&leak, context) }
        }))
    })
}

/// Frees refused since the instance was opened or its statistics reset: foreign, interior, wild and double ones.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_refused_frees(memory: *mut unified_memory_interface_t) -> usize {
    guard(0, || Ok(open_instance(memory)?.heap().refused()))
}

/// Bytes of RAM the instance holds now, everything counted; what `max_size` caps.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_held_bytes(memory: *mut unified_memory_interface_t) -> usize {
    guard(0, || Ok(open_instance(memory)?.heap().held()))
}

/// NUMA nodes of the machine, at least 1.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_numa_nodes() -> usize {
    guard_uncancelled(1, || Ok(os::numa::nodes()))
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use core::ptr::null;
    #[test]
    fn every_code_has_a_text_and_the_numbers_agree() {
        for error in Error::ALL {
            assert_eq!(to_c(error) as u32, error as u32);
            assert_ne!(unimem_error_string(error as u32), null());
        }
    }
    #[test]
    fn references_of_null_are_refused() {
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { reference::<u8>(null(), "x") }, Err(Error::InvalidArgument));
    }
}
