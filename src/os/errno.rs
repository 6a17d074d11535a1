//! Error numbers of the system, and their texts. Texts need no memory and no lock, because they are also used in signal
//! handlers, where strerror must not be called.
use core::fmt;

/// The error number of a failed system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);
impl Errno {
    /// The number of the call that just failed in this thread.
    pub fn last() -> Errno {
        Errno::of(&std::io::Error::last_os_error())
    }
    /// The number of a call that the standard library made; 0 if the error comes from no call.
    pub fn of(error: &std::io::Error) -> Errno {
        Errno(error.raw_os_error().unwrap_or(0))
    }
}

macro_rules! texts {
    ($($name:ident $text:literal),* $(,)?) => {
        /// What an error number means, and its name.
        const fn text(number: i32) -> Option<&'static str> {
            match number {
                $(libc::$name => Some(concat!($text, " (", stringify!($name), ")")),)*
                _ => None,
            }
        }
        #[cfg(test)]
        const ALL: &[i32] = &[$(libc::$name),*];
    };
}
// The numbers that calls in `system` can fail with. The texts are the C library's.
texts! {
    EPERM "Operation not permitted", ENOENT "No such file or directory", ESRCH "No such process",
    EINTR "Interrupted system call", EIO "Input/output error", ENXIO "No such device or address",
    EBADF "Bad file descriptor", EAGAIN "Resource temporarily unavailable", ENOMEM "Cannot allocate memory",
    EACCES "Permission denied", EFAULT "Bad address", EBUSY "Device or resource busy", EEXIST "File exists",
    ENODEV "No such device", ENOTDIR "Not a directory", EISDIR "Is a directory", EINVAL "Invalid argument",
    ENFILE "Too many open files in system", EMFILE "Too many open files", ENOTTY "Inappropriate ioctl for device",
    ETXTBSY "Text file busy", EFBIG "File too large", ENOSPC "No space left on device", ESPIPE "Illegal seek",
    EROFS "Read-only file system", EMLINK "Too many links", EPIPE "Broken pipe", ENAMETOOLONG "File name too long",
    ENOLCK "No locks available", ENOSYS "Function not implemented", ELOOP "Too many levels of symbolic links",
    EOVERFLOW "Value too large for defined data type", EOPNOTSUPP "Operation not supported",
    ETIMEDOUT "Connection timed out", ESTALE "Stale file handle", EDQUOT "Disk quota exceeded",
}
impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match text(self.0) {
            Some(text) => f.write_str(text),
            None => write!(f, "error {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    #[test]
    fn texts_are_the_c_librarys() {
        for &number in ALL {
            // SAFETY: no other thread's text is asked for while this one is read; it is a constant for known numbers.
            let expected = unsafe { CStr::from_ptr(libc::strerror(number)) }.to_str().unwrap();
            let found = Errno(number).to_string();
            assert!(found.starts_with(&format!("{expected} (E")), "{found}, not {expected}");
        }
        assert_eq!(Errno(9999).to_string(), "error 9999");
    }
}
