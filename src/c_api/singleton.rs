//! The functions of `memory_singleton.h`.
use super::legacy_types::AdvancedMemorySystem;
use super::{guard, guard_uncancelled, layouts, seam};
use crate::error::{Result, fail};
use crate::log::log;
use crate::singleton;
use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::null_mut;

fn address<T>(pointer: *mut T) -> Result<NonZeroUsize> {
    match NonZeroUsize::new(pointer as usize) {
        Some(address) => Ok(address),
        None => fail!(InvalidArgument, "the pointer is NULL"),
    }
}

/// The program's memory system; NULL: there is none. No reference is taken.
#[unsafe(no_mangle)]
pub extern "C" fn get_global_memory_system() -> *mut AdvancedMemorySystem {
    guard(null_mut(), || Ok(singleton::global().map_or(null_mut(), |system| system.get() as *mut _)))
}

/// Makes `system` the program's if there is none yet, and counts one more reference. NULL does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn register_memory_system(system: *mut AdvancedMemorySystem) {
    guard_uncancelled((), || {
        singleton::register(address(system)?);
        Ok(())
    })
}

/// Gives up one reference of the program's system; any other is ignored. With the last one there is none any more:
/// blocks that are tracked still are reported to the log, those of libunimem freed, and all of them forgotten.
#[unsafe(no_mangle)]
pub extern "C" fn unregister_memory_system(system: *mut AdvancedMemorySystem) {
    guard_uncancelled((), || {
        if singleton::unregister(address(system)?)? {
            // A pool counts its blocks in its system.
            let pools = layouts::pools();
            return singleton::give_up_tracked(|heap, block| {
                let pool = pools.iter().find(|pool| core::ptr::eq(pool.heap(), heap));
                pool.map_or_else(|| heap.free(block), |pool| pool.free(block))
            });
        }
        Ok(())
    })
}

/// Tracks any address, once; false for NULL or without memory. One in a live block of libunimem goes along when the block
/// is reallocated, and is tracked no more when it is freed, by whatever function.
#[unsafe(no_mangle)]
pub extern "C" fn track_memory_block(ptr: *mut c_void) -> bool {
    guard(false, || singleton::track(address(ptr)?).map(|()| true))
}

/// Tracks an address no more; false where it was not tracked.
#[unsafe(no_mangle)]
pub extern "C" fn untrack_memory_block(ptr: *mut c_void) -> bool {
    guard(false, || Ok(singleton::untrack(address(ptr)?)))
}

/// Whether an address is tracked.
#[unsafe(no_mangle)]
pub extern "C" fn is_memory_block_tracked(ptr: *mut c_void) -> bool {
    guard(false, || Ok(NonZeroUsize::new(ptr as usize).is_some_and(singleton::is_tracked)))
}

/// `memory_allocate`, tracked.
///
/// # Safety
/// `system` is NULL or the program's memory system.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safe_memory_allocate(
    system: *mut AdvancedMemorySystem,
    size: usize,
    alignment: usize,
) -> *mut c_void {
    guard(null_mut(), || {
        address(system)?;
        // SAFETY: by the caller's promise.
        let block = unsafe { seam::memory_allocate(system, size, alignment) };
        if let Some(address) = NonZeroUsize::new(block as usize)
            && let Err(error) = singleton::track(address)
        {
            // SAFETY: allocated above, and nobody has seen it.
            unsafe { seam::memory_free(system, block) };
            return Err(error);
        }
        Ok(block)
    })
}

/// `memory_free` of a tracked block, which is tracked no more; anything else is ignored.
///
/// # Safety
/// `system` is NULL or the program's memory system; nobody uses the block afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safe_memory_free(system: *mut AdvancedMemorySystem, ptr: *mut c_void) {
    if system.is_null() || ptr.is_null() {
        return;
    }
    guard((), || {
        if !singleton::untrack(address(ptr)?) {
            log!(Warning, "safe_memory_free of {ptr:p}, which is not tracked, is ignored");
            return fail!(NotOwned, "{ptr:p} is not tracked");
        }
        // SAFETY: by the caller's promise.
        unsafe { seam::memory_free(system, ptr) };
        Ok(())
    })
}
