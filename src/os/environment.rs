//! The environment, read without allocating and without the standard library. The heap may be malloc's, and a forked
//! child may inherit the standard library's lock of the environment taken. Each variable is read where it is used;
//! docs/tuning.md lists them all.
use crate::text::Text;
use core::ffi::{CStr, c_char};
use core::fmt::Write;
use core::ptr::NonNull;

unsafe extern "C" {
    /// Not in the libc crate.
    fn secure_getenv(name: *const c_char) -> *mut c_char;
}

/// The text of a variable of the environment. It stays valid for as long as the program leaves the variable alone. None in a
/// program that has more rights than its user (set-user-ID), because variables name files that are written.
pub fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: the name ends with a zero, and the call returns NULL or a text that ends with one.
    unsafe { NonNull::new(secure_getenv(name.as_ptr())).map(|text| CStr::from_ptr(text.as_ptr()).to_bytes()) }
}

/// Whether the program has more rights than its user, who chose its environment.
pub fn is_another_users() -> bool {
    // SAFETY: the call only returns a number.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// `path` with each `%p` replaced by the number of this process, and a zero at its end. None if that is too long for the
/// system.
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
