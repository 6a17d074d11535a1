//! The environment, read without allocating: the heap may be malloc's, and the standard library's lock of the environment
//! may be taken in a forked child.
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
    struct Path<'a>(&'a mut [u8], usize);
    impl Write for Path<'_> {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            self.add(text.as_bytes()).ok_or(core::fmt::Error)
        }
    }
    impl Path<'_> {
        fn add(&mut self, bytes: &[u8]) -> Option<()> {
            self.0.get_mut(self.1..self.1 + bytes.len())?.copy_from_slice(bytes);
            self.1 += bytes.len();
            Some(())
        }
    }
    let mut out = Path(&mut buffer[..], 0);
    let mut rest = path;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"%p") {
        out.add(&rest[..at])?;
        write!(out, "{}", std::process::id()).ok()?;
        rest = &rest[at + 2..];
    }
    out.add(rest)?;
    out.add(&[0])?;
    CStr::from_bytes_until_nul(buffer).ok()
}
