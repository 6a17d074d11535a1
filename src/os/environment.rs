//! The environment, read without allocating: the heap may be malloc's, and the standard library's lock of the environment
//! may be taken in a forked child.
use core::ffi::CStr;
use core::ptr::NonNull;

/// A variable of the environment. Its text is good for as long as the program leaves the variable alone.
pub fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: a zero-terminated name, and a zero-terminated text or NULL.
    unsafe { NonNull::new(libc::getenv(name.as_ptr())).map(|text| CStr::from_ptr(text.as_ptr()).to_bytes()) }
}
