//! The environment, read without allocating: the heap may be malloc's, and the standard library's lock of the environment
//! may be taken in a forked child. Each variable is read where it is used; the documents have them all.
use crate::text::Text;
use core::ffi::CStr;
use core::fmt::Write;
use core::ptr::NonNull;

/// A variable of the environment. Its text is good for as long as the program leaves the variable alone.
pub fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: a zero-terminated name, and a zero-terminated text or NULL.
    unsafe { NonNull::new(libc::getenv(name.as_ptr())).map(|text| CStr::from_ptr(text.as_ptr()).to_bytes()) }
}

/// `path` with a zero at its end, and the number of this process for each `%p`. None: too long for the system.
pub fn with_process_number<'a>(
    path: &[u8],
    buffer: &'a mut [u8; libc::PATH_MAX as usize],
) -> Option<&'a CStr> {
    let mut out = Text::new(buffer);
    let mut rest = path;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"%p") {
        out.add(&rest[..at]).ok()?;
        write!(out, "{}", std::process::id()).ok()?;
        rest = &rest[at + 2..];
    }
    out.add(rest).ok()?;
    Some(out.finish())
}
