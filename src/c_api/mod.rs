//! The C boundary. A function here checks its arguments, calls a safe function that returns `Result`, and translates
//! the outcome.
//!
//! - Each function runs inside [`guard`], so nothing unwinds into C.
//! - A failure becomes the calling thread's last error, and the function returns its "nothing" value (NULL, false or
//!   0).
//! - A panic would be a defect of the library. It is caught and becomes a failure too.
pub mod advanced_system;
pub mod chunks;
pub mod interface;
pub mod layouts;
pub mod legacy_types;
pub mod memory_pool;
pub mod program_malloc;
mod seam;
pub mod singleton;
pub mod tables;
pub mod tensor_conversion;
pub mod tensor_streams;
pub mod tensor_types;
pub mod tree_tensor_network;
pub mod types;

use crate::defect;
use crate::error::{Error, Result, fail};
use crate::os::injection::{Operation, injected};
use crate::os::system::NotCancelled;

/// Runs `f`. If it fails or panics, reports the error and returns `nothing`.
#[inline(always)]
pub(crate) fn guard<R>(nothing: R, f: impl FnOnce() -> Result<R>) -> R {
    let result = defect::caught(|| {
        if injected(Operation::Defect).is_some() {
            defect::planted();
        }
        f()
    });
    match result {
        Some(Ok(value)) => value,
        Some(Err(error)) => {
            error.report();
            nothing
        }
        None => {
            panicked().report();
            nothing
        }
    }
}
/// The same as [`guard`], but the thread cannot be cancelled meanwhile ([`NotCancelled`]). It is for calls that use
/// files, wait for threads or call the program. Other calls disable cancellation only where they need it, so that short
/// calls do not pay for it.
pub(crate) fn guard_uncancelled<R>(nothing: R, f: impl FnOnce() -> Result<R>) -> R {
    let _uncancelled = NotCancelled::begin();
    guard(nothing, f)
}
/// [`guard`] for a function that only tells whether it has succeeded.
pub(crate) fn succeeds(f: impl FnOnce() -> Result<()>) -> bool {
    guard(false, || f().map(|()| true))
}
/// [`guard_uncancelled`] for a function that only tells whether it has succeeded.
pub(crate) fn succeeds_uncancelled(f: impl FnOnce() -> Result<()>) -> bool {
    guard_uncancelled(false, || f().map(|()| true))
}
/// [`guard`] for a function that frees: errno stays as it was, as with free. Programs free what they have when a call has failed,
/// and then tell why it has.
pub(crate) fn guard_free(f: impl FnOnce() -> Result<()>) {
    let before = *errno();
    guard((), f);
    *errno() = before;
}
fn errno() -> &'static mut core::ffi::c_int {
    // SAFETY: the variable belongs to this thread, and the reference ends with the statement that takes it.
    unsafe { &mut *libc::__errno_location() }
}
#[cold]
fn panicked() -> Error {
    let failed: Result<()> = fail!(Internal, "a defect of libunimem was caught at its boundary");
    failed.unwrap_err()
}

/// The slice of `count` elements at `pointer`. InvalidArgument if the pointer is NULL or unaligned, or if more bytes
/// are asked for than the address space has.
///
/// # Safety
/// `pointer` is NULL or points at `count` elements that stay as they are while the slice is used.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, count: usize) -> Result<&'a [T]> {
    if pointer.is_null() || !pointer.is_aligned() || count > isize::MAX as usize / size_of::<T>().max(1) {
        return fail!(InvalidArgument, "an array of {count} elements at {pointer:p}");
    }
    // SAFETY: the caller promises that `count` elements are there and stay unchanged. The pointer is not NULL and is
    // aligned, and the size fits an isize, as checked above.
    Ok(unsafe { core::slice::from_raw_parts(pointer, count) })
}
/// What `pointer` points at. InvalidArgument for NULL.
///
/// # Safety
/// `pointer` is NULL or points at a `T` that nobody else writes while the reference is used.
pub(crate) unsafe fn reference<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: by the caller's promise.
    match unsafe { pointer.as_ref() } {
        Some(value) => Ok(value),
        None => fail!(InvalidArgument, "{name} is NULL"),
    }
}
/// Stores `value` where `pointer` points. InvalidArgument for NULL.
///
/// # Safety
/// `pointer` is NULL or may be written.
pub(crate) unsafe fn store<T>(pointer: *mut T, value: T, name: &str) -> Result<()> {
    if pointer.is_null() {
        return fail!(InvalidArgument, "{name} is NULL");
    }
    // SAFETY: by the caller's promise.
    unsafe { pointer.write(value) };
    Ok(())
}
