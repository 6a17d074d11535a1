//! The functions of `unimem.h` for streaming and hierarchical memory.
use super::types::{unimem_access_t, unimem_advice_t, unimem_residency_t};
use super::{guard, guard_uncancelled, store};
use crate::error::{Result, fail};
use crate::instance::tiered::expect_region;
use crate::tiers::chunks::Advice;
use crate::tiers::fault::Faults;
use crate::tiers::fill::Access;
use core::ffi::{c_char, c_void};
use core::ptr::null_mut;

/// A `unimem_access_t` as C passes it: any number may come.
#[allow(non_camel_case_types)] // C's own names
pub type unimem_access_code_t = u32;
/// A `unimem_advice_t` as C passes it: any number may come.
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

/// Bytes of a chunk of the streaming or hierarchical memory that starts at `ptr`; the last chunk may be shorter. 0
/// for any other pointer.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_size(ptr: *const c_void) -> usize {
    guard(0, || Ok(expect_region(ptr.cast())?.chunk_size()))
}

/// Number of its chunks; 0 for any other pointer.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_count(ptr: *const c_void) -> usize {
    guard(0, || Ok(expect_region(ptr.cast())?.count()))
}

/// Brings chunk `index` in, pins it, and gives its address, which is `ptr` plus `index` chunks: until it is released,
/// as often as it was acquired, by whatever thread, no access to it faults, and system calls may be given its memory; in a
/// forked child too it stays acquired as often as it was. The calling thread does the work, so several threads that acquire
/// chunks decode in parallel. With `UNIMEM_OVERWRITE` the contents are unspecified until written.
///
/// NULL if beside the chunks that are acquired the budget has no room for this one and two more, which plain access may
/// need at once (`UNIMEM_ERROR_OUT_OF_MEMORY`; where all chunks fit, all can be acquired), or the spill file fails
/// (`UNIMEM_ERROR_IO`), or its bytes are not what was written (`UNIMEM_ERROR_CORRUPTION`), or the chunk is acquired 65535
/// times already, or, where faults are served by a signal, no mapping of the process is left for it (`UNIMEM_ERROR_LIMIT`).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_acquire(
    ptr: *mut c_void,
    index: usize,
    access: unimem_access_code_t,
) -> *mut c_void {
    guard(null_mut(), || {
        let access = access_of(access)?;
        Ok(expect_region(ptr.cast())?.acquire(index, access)?.cast())
    })
}

/// Gives up one acquisition. False if the chunk is not acquired.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_release(ptr: *mut c_void, index: usize) -> bool {
    guard(false, || expect_region(ptr.cast())?.release(index).map(|()| true))
}

/// Asks for `count` chunks from `index` on to be brought in by the library's own threads. Returns at once; as many
/// come as there is room and time for. False if there are no such chunks.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_chunk_prefetch(ptr: *mut c_void, index: usize, count: usize) -> bool {
    guard(false, || expect_region(ptr.cast())?.prefetch(index, count).map(|()| true))
}

/// Says how the memory will be used. `UNIMEM_DONT_NEED` sends out what is in place; it never loses anything.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_advise(ptr: *mut c_void, advice: unimem_advice_code_t) -> bool {
    guard_uncancelled(false, || {
        let advice = advice_of(advice)?;
        expect_region(ptr.cast())?.advise(advice).map(|()| true)
    })
}

/// Fills in where the bytes of the memory at `ptr` are and what moving them has cost.
///
/// # Safety
/// `out` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_residency(ptr: *const c_void, out: *mut unimem_residency_t) -> bool {
    guard(false, || {
        let figures = expect_region(ptr.cast())?.residency();
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
        unsafe { store(out, value, "out") }.map(|()| true)
    })
}

/// How direct access to memory that is not in place is served: "userfaultfd", "userfaultfd-copy", "signal" or "none".
/// `UNIMEM_FAULTS` in the environment forces one. Under each, system calls given such memory fail with `EFAULT`;
/// acquired chunks are safe. Under "none" only acquired chunks, and memory that fit the budget as a whole when it was
/// allocated, may be touched; to make the latter larger may fail (`UNIMEM_ERROR_UNSUPPORTED`). The first two serve a touch in
/// a handler of SIGBUS, "signal" in one of SIGSEGV, which chain to the program's own: threads that touch tiered memory must
/// not block that signal, and a handler installed later comes first until the next tiered allocation.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_fault_mechanism() -> *const c_char {
    guard_uncancelled(c"none".as_ptr(), || match Faults::chosen() {
        Ok(faults) => Ok(faults.mechanism.name().as_ptr()),
        Err(errno) => fail!(Unsupported, "pages cannot be moved here: {errno}"),
    })
}
