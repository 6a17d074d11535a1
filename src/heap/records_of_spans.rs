//! Span records out of service. Records are type-stable, so these have a list of their own.
use super::span::{BY_USE, Span};
use crate::os::{lock::Mutex, records};
use core::ptr::{NonNull, null_mut};

struct Spare(*mut Span);
// SAFETY: the pointer is only followed under the lock.
unsafe impl Send for Spare {}
static SPARE: Mutex<Spare> = Mutex::new(Spare(null_mut()));

/// Takes a record that is in no list and out of service. None when memory is short.
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
    // SAFETY: the record is retired and in no list, so nobody else uses its inner part.
    unsafe { span.as_ref().inner() }.links[BY_USE].next = spare.0;
    spare.0 = span.as_ptr();
}
/// Takes the lock before a fork.
pub fn lock() {
    core::mem::forget(SPARE.lock());
}
/// Releases the lock after a fork.
///
/// # Safety
/// This thread has called `lock`.
pub unsafe fn unlock() {
    // SAFETY: taken by `lock`, whose guard was forgotten.
    unsafe { SPARE.force_unlock() }
}
