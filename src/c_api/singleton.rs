//! The functions of `memory_singleton.h`.
use super::legacy_types::AdvancedMemorySystem;
use super::{guard, guard_free, guard_uncancelled, layouts, seam, succeeds};
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

/// Returns the program's memory system, or NULL if there is none. The reference count does not change.
#[unsafe(no_mangle)]
pub extern "C" fn get_global_memory_system() -> *mut AdvancedMemorySystem {
    guard(null_mut(), || Ok(singleton::global().map_or(null_mut(), |system| system.get() as *mut _)))
}

/// Makes `system` the program's memory system if there is none yet, and adds a reference in either case. NULL does
/// nothing.
#[unsafe(no_mangle)]
pub extern "C" fn register_memory_system(system: *mut AdvancedMemorySystem) {
    guard_uncancelled((), || {
        singleton::register(address(system)?);
        Ok(())
    })
}

/// Gives up one reference to the program's memory system. Any other system is ignored. With the last reference the
/// program has no memory system any more. The blocks that are still tracked are then reported to the log; those of
/// libunimem are freed; and all of them are forgotten.
#[unsafe(no_mangle)]
pub extern "C" fn unregister_memory_system(system: *mut AdvancedMemorySystem) {
    guard_uncancelled((), || {
        if singleton::unregister(address(system)?)? {
            // A block of a pool is freed through the pool, because the pool's system counts it too.
            let pools = layouts::pools();
            return singleton::give_up_tracked(|heap, block| {
                let pool = pools.iter().find(|pool| core::ptr::eq(pool.heap(), heap));
                pool.map_or_else(|| heap.free(block), |pool| pool.free(block))
            });
        }
        Ok(())
    })
}

/// Tracks an address; tracking it again changes nothing. False for NULL or without memory. If the address is in a live
/// block of libunimem, its tracking follows the block when that is reallocated, and ends when the block is freed by
/// whatever function.
#[unsafe(no_mangle)]
pub extern "C" fn track_memory_block(ptr: *mut c_void) -> bool {
    succeeds(|| singleton::track(address(ptr)?))
}

/// Stops tracking an address. False if it was not tracked.
#[unsafe(no_mangle)]
pub extern "C" fn untrack_memory_block(ptr: *mut c_void) -> bool {
    guard(false, || match singleton::untrack(address(ptr)?) {
        true => Ok(true),
        false => fail!(InvalidArgument, "{ptr:p} is not tracked"),
    })
}

/// Tells whether an address is tracked.
#[unsafe(no_mangle)]
pub extern "C" fn is_memory_block_tracked(ptr: *mut c_void) -> bool {
    guard(false, || Ok(NonZeroUsize::new(ptr as usize).is_some_and(singleton::is_tracked)))
}

/// Allocates a block as `memory_allocate` does, and tracks it.
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
            // SAFETY: the block was allocated above, and nobody else has seen it.
            unsafe { seam::memory_free(system, block) };
            return Err(error);
        }
        Ok(block)
    })
}

/// Frees a tracked block as `memory_free` does, and stops tracking it. A pointer that is not tracked is ignored.
///
/// # Safety
/// `system` is NULL or the program's memory system; nobody uses the block afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safe_memory_free(system: *mut AdvancedMemorySystem, ptr: *mut c_void) {
    if ptr.is_null() {
        return;
    }
    guard_free(|| {
        address(system)?;
        if !singleton::untrack(address(ptr)?) {
            log!(Warning, "safe_memory_free of {ptr:p}, which is not tracked, is ignored");
            return fail!(NotOwned, "{ptr:p} is not tracked");
        }
        // SAFETY: by the caller's promise.
        unsafe { seam::memory_free(system, ptr) };
        Ok(())
    })
}
