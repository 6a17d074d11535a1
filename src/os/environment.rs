//! The environment, read without allocating: whoever asks may be malloc.
use core::ffi::CStr;
use core::ptr::NonNull;

/// A variable of the environment, if it is set and not empty.
pub fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: a zero-terminated name; the text stays unless the program changes the variable meanwhile.
    let text = unsafe { NonNull::new(libc::getenv(name.as_ptr())).map(|text| CStr::from_ptr(text.as_ptr())) };
    text.map(CStr::to_bytes).filter(|text| !text.is_empty())
}
