//! The functions of `unimem.h`: instances, errors, questions about blocks.
use super::legacy_types::MemoryPool;
use super::tables::{allocate_tensor_at, of_slot, slot_of};
use super::types::*;
use super::{guard, guard_uncancelled, memory_pool, store, succeeds, succeeds_uncancelled};
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

/// Returns the global instance, which is created on first use and lives as long as the process. The environment
/// configures it: `UNIMEM_INITIAL_SIZE`, `UNIMEM_MAX_SIZE` and `UNIMEM_CHUNK_SIZE` (bytes, or with a suffix K, M, G or
/// T), `UNIMEM_GEOMETRIC` and `UNIMEM_STREAMING` (0 or 1), and `UNIMEM_TOLERANCE`. NULL only if there is no memory for
/// it (`UNIMEM_ERROR_OUT_OF_MEMORY`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_global() -> *mut unified_memory_interface_t {
    guard_uncancelled(null_mut(), || slots::global().map(|_| of_slot(slots::GLOBAL)))
}

/// Opens an instance. A NULL `config` means the defaults: no limit, growth, streaming, chunks of 1 MiB, tolerance 0. At
/// least 64 instances can be open at once. NULL with `UNIMEM_ERROR_LIMIT` if no more can be opened, with
/// `UNIMEM_ERROR_INVALID_ARGUMENT` for an impossible configuration, and with `UNIMEM_ERROR_OUT_OF_MEMORY`.
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

/// Closes an instance and frees all that is live in it. No other thread may be inside the instance.
///
/// True if nothing was live or tracked. If anything was, the instance is closed all the same and the call is false: the
/// last error is `UNIMEM_ERROR_INVALID_ARGUMENT`, and its message says how many blocks there were. The log names up to 16
/// of them, and tells how many blocks and bytes there are in all (`unimem_report_leaks` names every block). Tracked foreign
/// blocks are reported but not freed.
///
/// False with `UNIMEM_ERROR_INVALID_ARGUMENT` too, and nothing is closed, for the global instance, for the interface of a
/// pool or system (which ends with it), and while another thread closes the instance.
///
/// # Safety
/// Nobody uses the instance or its blocks afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_close(memory: *mut unified_memory_interface_t) -> bool {
    succeeds_uncancelled(|| match slots::close(slot_of(memory)?)? {
        0 => Ok(()),
        leaks => fail!(
            InvalidArgument,
            "the instance is closed; {leaks} blocks were live or tracked (UNIMEM_LOG=warning names them)"
        ),
    })
}

/// Returns the interface of a memory pool, whose functions work on the pool's memory. It is the same table each time,
/// and it ends with the pool. NULL with `UNIMEM_ERROR_INVALID_ARGUMENT` for anything but a live pool of libunimem. A
/// pool that the legacy C file made is not one of them.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_pool_interface(pool: *mut MemoryPool) -> *mut unified_memory_interface_t {
    guard_uncancelled(null_mut(), || slots::adopt(memory_pool::known_heap_of(pool)?, None).map(of_slot))
}

/// Returns the calling thread's last error, or `UNIMEM_OK` if none of its calls has failed. A call that succeeds does
/// not change it.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_last_error() -> unimem_error_t {
    error::last().map_or(unimem_error_t::UNIMEM_OK, to_c)
}

/// Says what the calling thread's last error was about; empty if none of its calls has failed. The text is valid until
/// the thread's next failure.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_last_error_message() -> *const c_char {
    error::last_message()
}

/// Describes an error code. The text has static storage.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_error_string(error: unimem_error_code_t) -> *const c_char {
    match Error::ALL.into_iter().find(|e| *e as u32 == error) {
        Some(error) => error.text().as_ptr(),
        None if error == 0 => c"no error".as_ptr(),
        None => c"unknown error".as_ptr(),
    }
}

/// A `unimem_error_t` as C passes it, which may be any number.
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

/// Returns the library's version as "major.minor.patch". The text has static storage.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Returns the size in bytes of the live block that starts at `ptr`, exactly as it was asked for; 0 for any other
/// pointer.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_usable_size(ptr: *const c_void) -> usize {
    guard(0, || match heap::owner(ptr.cast()) {
        Some((_, block)) => Ok(block.size),
        None => Ok(tiered::piece_at(ptr.cast()).map_or(0, |piece| piece.size())),
    })
}

/// Tells whether `ptr` points to the start or the inside of a live block of libunimem.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_owns(ptr: *const c_void) -> bool {
    guard(false, || Ok(instance::owns(ptr.cast())))
}

/// Adds an owner to a live block. Each free gives up one owner, and the last one frees the block. `realloc` does not
/// move a block with several owners. False for anything but the start of a live block (`UNIMEM_ERROR_NOT_OWNED`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_retain(ptr: *mut c_void) -> bool {
    succeeds(|| match tiered::piece_at(ptr.cast()) {
        Some(_) => tiered::retain(ptr.cast()),
        None => attributes::retain(ptr.cast()),
    })
}

/// Returns the number of owners of the live block that starts at `ptr`; 0 for any other pointer.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_reference_count(ptr: *const c_void) -> usize {
    guard(0, || match attributes::references(ptr.cast()) {
        0 => Ok(tiered::references(ptr.cast())),
        owners => Ok(owners),
    })
}

/// Tells whether `allocate(size, 0)` in the calling thread would find room in the instance's budget now. That counts
///
/// - memory that is free,
///
/// - memory that the thread caches and that the instance keeps for reuse (the call may return it to the common stock),
///
/// - what chunks of tiered memory hold that could be sent out.
///
/// Without a limit it is true for every size from 1 to 2^46, the largest there is. It does not know whether the system
/// has the memory, whether the disk has room for those chunks, or what other threads do meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_can_allocate(memory: *mut unified_memory_interface_t, size: usize) -> bool {
    guard(false, || Ok(open_instance(memory)?.can_allocate(size)))
}

/// Returns unused memory to the system: what the instance keeps for reuse, and what the calling thread caches. Returns
/// the number of bytes.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_trim(memory: *mut unified_memory_interface_t) -> usize {
    guard_uncancelled(0, || Ok(open_instance(memory)?.trim()))
}

/// Begins a new history of the statistics: counts start at 0, the peak at what is live. The counts are exact while no
/// other thread is inside the instance. The peak is exact if no other thread has used it lately; else it may start above
/// what is live (`peak_allocated`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_reset_stats(memory: *mut unified_memory_interface_t) {
    guard((), || {
        open_instance(memory)?.reset_statistics();
        Ok(())
    })
}

/// Sends the library's messages to `callback`; NULL sends them to nobody. Independent of it, `UNIMEM_LOG` (error,
/// warning, info or debug) in the environment sends them to stderr. The callback may allocate and free, but must not
/// create or end instances, pools or systems.
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

/// Allocates a dense row-major tensor of `num_dims` dimensions, with elements of `element_size` bytes. The rest is as
/// for `allocate_geometric`.
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

/// Writes the layout of the tensor at `ptr` to `layout`. False with `UNIMEM_ERROR_NOT_OWNED` for a block that was not
/// allocated as a tensor, or that was reallocated since.
///
/// # Safety
/// `layout` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_layout(ptr: *const c_void, layout: *mut unimem_layout_t) -> bool {
    succeeds_uncancelled(|| {
        let found = attributes::with_layout(ptr.cast(), |found| unimem_layout_t {
            num_dims: found.rank,
            element_size: found.element_size,
            size: found.extents[..found.rank].iter().product::<usize>() * found.element_size,
            dimensions: found.extents.as_ptr(),
            strides: found.extents[found.rank..].as_ptr(),
        });
        match found {
            // SAFETY: by the caller's promise.
            Some(value) => unsafe { store(layout, value, "layout") },
            None => fail!(NotOwned, "{ptr:p} is not a tensor of libunimem"),
        }
    })
}

/// The bytes of a path. InvalidArgument for NULL.
///
/// # Safety
/// `path` is NULL or zero-terminated.
unsafe fn bytes_of<'a>(path: *const c_char) -> Result<&'a [u8]> {
    if path.is_null() {
        return fail!(InvalidArgument, "the path is NULL");
    }
    // SAFETY: by the caller's promise.
    Ok(unsafe { CStr::from_ptr(path) }.to_bytes())
}

/// Writes a report of what is live in the whole process to the file `path`, as JSON: blocks and bytes by the stack that
/// allocated them, most bytes first, and beside them what was live when pools, systems and instances ended.
/// False with `UNIMEM_ERROR_IO` if the file cannot be written.
///
/// `UNIMEM_DEBUG` in the environment says what the report can know; it takes several words, separated by commas. With
/// `trace` the stacks are known, with `guard` the number of blocks behind which bytes were overwritten, with
/// `quarantine` the number of freed blocks that were written to. `UNIMEM_DEBUG_REPORT=path` writes the same report when
/// the program ends, and adds the blocks that nothing points to any more. `%p` in that path is replaced by the number
/// of the process.
///
/// # Safety
/// `path` is zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_write_leaks(path: *const c_char) -> bool {
    succeeds_uncancelled(|| {
        // SAFETY: by the caller's promise.
        let path = unsafe { bytes_of(path) }?;
        heap::debug::write_report(Path::new(OsStr::from_bytes(path)))
    })
}

/// Begins a recording of the whole process into the file `path`, which is created or replaced. The recording has memory
/// over time by kind and tier, faults and evictions, contractions, allocation sites, and what is live at the end.
/// `unimem report` turns it into a page. `%p` in `path` is replaced by the number of the process.
///
/// The recording goes on until `unimem_trace_stop()` or the end of the program. A forked child is not part of it, and
/// may begin its own. `UNIMEM_TRACE=path` in the environment begins a recording with the first allocation.
/// `UNIMEM_TRACE_INTERVAL` is how many bytes are allocated between two allocations whose stacks are recorded (524288).
///
/// False with `UNIMEM_ERROR_INVALID_ARGUMENT` while a recording is under way, and with `UNIMEM_ERROR_IO` if the file
/// cannot be written or another process records into it.
///
/// # Safety
/// `path` is zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_trace_start(path: *const c_char) -> bool {
    succeeds_uncancelled(|| {
        // SAFETY: by the caller's promise.
        recording::start(unsafe { bytes_of(path) }?)
    })
}

/// Ends the recording. False with `UNIMEM_ERROR_INVALID_ARGUMENT` if there is none, which may be because it ended by
/// itself when the disk was full; false with `UNIMEM_ERROR_IO` if its last part cannot be written.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_trace_stop() -> bool {
    succeeds_uncancelled(recording::stop)
}

/// Calls `callback` with every live block and every tracked foreign block, and returns how many there are. `callback`
/// may be NULL.
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

/// Returns how many frees were refused since the instance was opened or its statistics were reset: of foreign, interior
/// and wild pointers, and of blocks freed before.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_refused_frees(memory: *mut unified_memory_interface_t) -> usize {
    guard(0, || Ok(open_instance(memory)?.refused()))
}

/// Returns how many bytes of RAM the instance holds now, everything included. This is what `max_size` limits.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_held_bytes(memory: *mut unified_memory_interface_t) -> usize {
    guard(0, || Ok(open_instance(memory)?.held()))
}

/// Returns the number of NUMA nodes of the machine, at least 1.
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
