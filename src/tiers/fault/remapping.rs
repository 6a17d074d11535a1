//! Pages that change hands by mremap: the mechanism `signal`, and `none` where that works. The region is inaccessible where no
//! chunk is in place.
use super::pages::{NotTaken, copy, fill};
use crate::os::system;
use crate::tiers::mapping::{Errno, Span, discard};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What the pages leave stays mapped, and is empty.
const REMAP: libc::c_int = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;

/// Whether the system has ever refused to give back the access to a chunk that stays in place.
static IN_DOUBT: AtomicBool = AtomicBool::new(false);
/// Whether a chunk in place may have no access.
pub fn is_in_doubt() -> bool {
    IN_DOUBT.load(Relaxed)
}

/// Gives access to a present chunk or slot.
///
/// # Safety
/// It is present, and stays so until this returns.
pub unsafe fn open(chunk: Span) -> Result<(), Errno> {
    // SAFETY: this only adds access to what stays present.
    unsafe { system::protect(chunk.start, chunk.length, libc::PROT_READ | libc::PROT_WRITE) }
}
/// The same for a chunk that could not be taken.
///
/// # Safety
/// As for `open`.
unsafe fn open_again(chunk: Span) {
    // SAFETY: by the caller's promise.
    if unsafe { open(chunk) }.is_err() {
        IN_DOUBT.store(true, Relaxed);
    }
}

/// [`Pages::place`](super::pages::Pages::place): all pages at once.
///
/// # Safety
/// As for `Pages::place`.
pub unsafe fn place(slot: Span, chunk: Span) -> Result<(), Errno> {
    // SAFETY: replaces the caller's inaccessible chunk in one step. The slot stays mapped and empty.
    unsafe { system::remap(slot.start, slot.length, slot.length, REMAP, chunk.start) }.map(|_| ())
}
/// [`Pages::take`](super::pages::Pages::take): all pages at once.
///
/// # Safety
/// As for `Pages::take`.
pub unsafe fn take(chunk: Span, slot: Span) -> Result<(), NotTaken> {
    // SAFETY: this only takes away access to the caller's chunk: from here on stores fault.
    unsafe { system::protect(chunk.start, chunk.length, libc::PROT_NONE) }?;
    // SAFETY: the slot that is replaced is empty and the caller's. The chunk stays mapped, inaccessible.
    let moved = unsafe { system::remap(chunk.start, chunk.length, chunk.length, REMAP, slot.start) };
    if let Err(error) = moved {
        // SAFETY: the chunk did not move, so it is present and the caller's. The slot is still empty.
        unsafe {
            // If the process has as many mappings as it may have, chunks have to leave without a new one.
            if error == Errno(libc::ENOMEM) && take_by_reading(chunk, slot).is_ok() {
                return Ok(());
            }
            open_again(chunk);
        }
        return Err(error.into());
    }
    // SAFETY: this only adds access to the slot's new pages, which are the caller's alone.
    if let Err(errno) = unsafe { open(slot) } {
        // SAFETY: the pages go back to the chunk's range, which is the caller's and empty.
        let back = unsafe { system::remap(slot.start, slot.length, slot.length, REMAP, chunk.start) };
        if back.is_ok() {
            // SAFETY: the chunk is present again.
            unsafe { open_again(chunk) };
        }
        return Err(NotTaken { errno, lost: back.is_err() });
    }
    // SAFETY: the chunk is the caller's, and its pages have moved out.
    unsafe { close(chunk) };
    Ok(())
}
/// The same by copying, for a chunk that nobody can store into. On failure the chunk is still inaccessible.
///
/// # Safety
/// The caller owns the chunk and the slot. The chunk is present and inaccessible, the slot is empty.
unsafe fn take_by_reading(chunk: Span, slot: Span) -> Result<(), Errno> {
    fill(slot)?;
    // SAFETY: both are the caller's, equally long, apart, and present. Others may read the chunk, but nobody stores.
    unsafe {
        system::protect(chunk.start, chunk.length, libc::PROT_READ).inspect_err(|_| _ = discard(slot))?;
        copy(chunk, slot);
        close(chunk);
    }
    Ok(())
}
/// Puts a fresh inaccessible mapping in the chunk's place. The kernel can merge it with its neighbours as long as
/// nothing is advised for any of them. That matters because the number of mappings of a process is limited.
///
/// # Safety
/// The caller owns the chunk, and nobody wants its contents any more.
pub unsafe fn close(chunk: Span) {
    // SAFETY: by the caller's promise.
    if unsafe { system::map_over(chunk.start, chunk.length, libc::PROT_NONE) }.is_err() {
        // There is no room for another mapping, so drop the pages and forbid access instead.
        // SAFETY: by the caller's promise.
        unsafe {
            let _ = system::protect(chunk.start, chunk.length, libc::PROT_NONE);
            let _ = discard(chunk);
        }
    }
}
