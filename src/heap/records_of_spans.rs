//! Span records that are out of service. They are type-stable, so they have a list of their own.
use super::span::{BY_USE, Span};
use crate::os::{lock::Mutex, records};
use core::ptr::{NonNull, null_mut};

struct Spare(*mut Span);
// SAFETY: only followed under the lock.
unsafe impl Send for Spare {}
static SPARE: Mutex<Spare> = Mutex::new(Spare(null_mut()));

/// A record in no list and out of service. None when memory is short.
pub fn take() -> Option<NonNull<Span>> {
    let mut spare = SPARE.lock();
    let Some(span) = NonNull::new(spare.0) else {
        drop(spare);
        // Zero bytes are a valid retired span.
        return Some(records::allocate(size_of::<Span>())?.cast());
    };
    // SAFETY: spare records are known to nobody else.
    spare.0 = unsafe { span.as_ref().inner() }.links[BY_USE].next;
    Some(span)
}
/// Puts a retired record back.
pub fn give(span: NonNull<Span>) {
    let mut spare = SPARE.lock();
    // SAFETY: retired and in no list, so known to nobody else.
    unsafe { span.as_ref().inner() }.links[BY_USE].next = spare.0;
    spare.0 = span.as_ptr();
}
/// Around fork.
pub fn lock() {
    core::mem::forget(SPARE.lock());
}
/// Around fork.
///
/// # Safety
/// `lock` was called before, by this thread.
pub unsafe fn unlock() {
    // SAFETY: taken by `lock`, whose guard was forgotten.
    unsafe { SPARE.force_unlock() }
}
