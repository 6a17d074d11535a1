//! The functions of `unimem.h` for streaming and hierarchical memory.
use super::types::{unimem_access_t, unimem_advice_t, unimem_residency_t};
use super::{guard, guard_uncancelled, store, succeeds, succeeds_uncancelled};
use crate::error::{Result, fail};
use crate::instance::tiered::expect_piece;
use crate::tiers::chunks::Advice;
use crate::tiers::fault::Faults;
use crate::tiers::fill::Access;
use core::ffi::{c_char, c_void};
use core::ptr::null_mut;

/// A `unimem_access_t` as C passes it, which may be any number.
#[allow(non_camel_case_types)] // C's own names
pub type unimem_access_code_t = u32;
/// A `unimem_advice_t` as C passes it, which may be any number.
#[allow(non_camel_case_types)] // C's own names
pub type unimem_advice_code_t = u32;

fn access_of(code: unimem_access_code_t) -> Result<Access> {
    match code {
        c if c == unimem_access_t::UNIMEM_READ as u32 => Ok(Access::Read),
        c if c == unimem_access_t::UNIMEM_WRITE as u32 => Ok(Access::Write),
        c if c == unimem_access_t::UNIMEM_OVERWRITE as u32 => Ok(Access::Overwrite),
        _ => fail!(InvalidArgument, "{code} is no unimem_access_t"),
    }
}
fn advice_of(code: unimem_advice_code_t) -> Result<Advice> {
    match code {
        c if c == unimem_advice_t::UNIMEM_SEQUENTIAL as u32 => Ok(Advice::Sequential),
        c if c == unimem_advice_t::UNIMEM_RANDOM as u32 => Ok(Advice::Random),
        c if c == unimem_advice_t::UNIMEM_WILL_NEED as u32 => Ok(Advice::WillNeed),
        c if c == unimem_advice_t::UNIMEM_DONT_NEED as u32 => Ok(Advice::DontNeed),
        _ => fail!(InvalidArgument, "{code} is no unimem_advice_t"),
    }
}

/// Returns the bytes of a chunk of the streaming or hierarchical memory that starts at `ptr`; the last chunk may be
/// shorter. 0 for any other pointer (`UNIMEM_ERROR_NOT_OWNED`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_size(ptr: *const c_void) -> usize {
    guard(0, || Ok(expect_piece(ptr.cast())?.chunk_size()))
}

/// Returns the number of chunks of the streaming or hierarchical memory that starts at `ptr`; 0 for any other pointer
/// (`UNIMEM_ERROR_NOT_OWNED`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_count(ptr: *const c_void) -> usize {
    guard(0, || Ok(expect_piece(ptr.cast())?.count()))
}

/// Acquires a chunk: brings it in, pins it in place, and returns its address, which is `ptr` plus `index` chunks.
///
/// The chunk stays in place until it has been released as often as it was acquired; any thread may release it. Until
/// then no access to it faults, and it may be given to system calls. In a forked child it is acquired as often as in
/// the parent. The calling thread does the work, so several threads that acquire chunks decode in parallel. With
/// `UNIMEM_OVERWRITE` the contents are unspecified until they are written.
///
/// NULL with
///
/// - `UNIMEM_ERROR_OUT_OF_MEMORY` if the budget has no room for this chunk and two more beside the chunks that are
///   acquired already, because one plain access may need two chunks at once. Where all chunks fit the budget, all can
///   be acquired.
///
/// - `UNIMEM_ERROR_IO` if the spill file fails.
///
/// - `UNIMEM_ERROR_CORRUPTION` if the stored bytes are not those that were written.
///
/// - `UNIMEM_ERROR_LIMIT` if the chunk is held by 65535 acquisitions already, or if the `signal` mechanism serves
///   faults and the process has no mapping left for the chunk.
///
/// - `UNIMEM_ERROR_INVALID_ARGUMENT` if there is no such chunk or `access`, and `UNIMEM_ERROR_NOT_OWNED` if no such
///   memory starts at `ptr`.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_acquire(
    ptr: *mut c_void,
    index: usize,
    access: unimem_access_code_t,
) -> *mut c_void {
    guard(null_mut(), || {
        let access = access_of(access)?;
        Ok(expect_piece(ptr.cast())?.acquire(index, access)?.cast())
    })
}

/// Gives up one acquisition of a chunk. False if the chunk is not acquired (`UNIMEM_ERROR_INVALID_ARGUMENT`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_release(ptr: *mut c_void, index: usize) -> bool {
    succeeds(|| expect_piece(ptr.cast())?.release(index))
}

/// Asks the library's own threads to bring in `count` chunks, from chunk `index` on. It returns at once; as many chunks
/// come in as there is room and time for. False if there are no such chunks (`UNIMEM_ERROR_INVALID_ARGUMENT`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_prefetch(ptr: *mut c_void, index: usize, count: usize) -> bool {
    succeeds(|| expect_piece(ptr.cast())?.prefetch(index, count))
}

/// Says how the program will use the memory that starts at `ptr`. Advice never changes or loses contents. False if
/// there is no such `advice` (`UNIMEM_ERROR_INVALID_ARGUMENT`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_advise(ptr: *mut c_void, advice: unimem_advice_code_t) -> bool {
    succeeds_uncancelled(|| {
        let advice = advice_of(advice)?;
        expect_piece(ptr.cast())?.advise(advice);
        Ok(())
    })
}

/// Tells where the bytes of the memory that starts at `ptr` are, and what moving them has cost. False for any other
/// pointer (`UNIMEM_ERROR_NOT_OWNED`).
///
/// # Safety
/// `out` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_residency(ptr: *const c_void, out: *mut unimem_residency_t) -> bool {
    succeeds(|| {
        let figures = expect_piece(ptr.cast())?.residency();
        let value = unimem_residency_t {
            hot_bytes: figures.hot_bytes,
            warm_bytes: figures.warm_bytes,
            cold_bytes: figures.cold_bytes,
            faults: figures.faults as usize,
            evictions: figures.evictions as usize,
            prefetches: figures.prefetches as usize,
            prefetch_hits: figures.prefetch_hits as usize,
            compression_ratio: figures.compression_ratio,
            compression_ns: figures.compression_ns as usize,
        };
        // SAFETY: by the caller's promise.
        unsafe { store(out, value, "out") }
    })
}

/// Names the mechanism that serves direct access to memory that is not in place: "userfaultfd", "userfaultfd-copy",
/// "signal" or "none". `UNIMEM_FAULTS` in the environment names the first of these to try; if it does not work here, the
/// next that does is used.
///
/// - System calls: under every mechanism they fail with `EFAULT` when they are given memory that is not in place.
///   Acquired chunks are safe.
///
/// - Signals: "userfaultfd" and "userfaultfd-copy" serve a touch in a handler of SIGBUS, "signal" in a handler of
///   SIGSEGV. Threads that touch tiered memory must not block that signal. The library's handler passes other faults on
///   to the handler that the program had installed before. A handler that the program installs later comes first, until
///   the next tiered allocation.
///
/// - "none": a program may touch acquired chunks only, and memory that fit the budget as a whole when it was allocated.
///   To reallocate such memory to a larger size may fail (`UNIMEM_ERROR_UNSUPPORTED`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_fault_mechanism() -> *const c_char {
    guard_uncancelled(c"none".as_ptr(), || match Faults::chosen() {
        Ok(faults) => Ok(faults.mechanism.name().as_ptr()),
        Err(errno) => fail!(Unsupported, "pages cannot be moved here: {errno}"),
    })
}
