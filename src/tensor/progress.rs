//! Telling the caller how far a long operation is, and stopping it when the caller says so.
use crate::error::{Result, fail};
use core::ffi::c_void;

/// `unimem_progress_t`: work done so far, work in all (floating-point operations, or steps), the caller's context. False stops
/// the operation.
pub type Callback = unsafe extern "C-unwind" fn(f64, f64, *mut c_void) -> bool;

/// Who is told.
#[derive(Clone, Copy)]
pub struct Progress {
    callback: Option<Callback>,
    context: *mut c_void,
}
impl Default for Progress {
    fn default() -> Progress {
        Progress { callback: None, context: core::ptr::null_mut() }
    }
}
impl Progress {
    /// Tells `callback` from now on.
    ///
    /// # Safety
    /// The callback can be called with this context until another takes its place.
    pub unsafe fn new(callback: Option<Callback>, context: *mut c_void) -> Progress {
        Progress { callback, context }
    }
    /// Reports, and fails if the caller wants to stop.
    pub fn report(&self, done: f64, total: f64) -> Result<()> {
        let Some(callback) = self.callback else { return Ok(()) };
        // SAFETY: the promise made to `new`.
        if unsafe { callback(done, total, self.context) } {
            Ok(())
        } else {
            fail!(Limit, "stopped by the progress callback")
        }
    }
}
