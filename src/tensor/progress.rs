//! Telling the caller how far a long operation is, and stopping it when the caller says so.
use crate::error::{Result, fail};
use crate::os::floating_point;
use core::ffi::c_void;

/// `unimem_progress_t`. Its arguments are the work done so far and the work in all, both in floating-point operations or
/// steps, and the caller's context. It returns false to stop the operation.
pub type Callback = unsafe extern "C-unwind" fn(f64, f64, *mut c_void) -> bool;

/// The callback for long operations, if the program has set one.
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
    /// Reports to `callback` from now on.
    ///
    /// # Safety
    /// The callback can be called with this context until another one replaces it.
    pub unsafe fn new(callback: Option<Callback>, context: *mut c_void) -> Progress {
        Progress { callback, context }
    }
    /// Reports to the callback. Fails with `Limit` if the callback asks to stop.
    pub fn report(&self, done: f64, total: f64) -> Result<()> {
        let Some(callback) = self.callback else { return Ok(()) };
        let _programs = floating_point::programs();
        // SAFETY: the caller of `new` promised that the callback can be called with this context.
        if unsafe { callback(done, total, self.context) } {
            Ok(())
        } else {
            fail!(Limit, "stopped by the progress callback")
        }
    }
}
