//! Errors as values, and each thread's last one as C sees it.
//!
//! A function that can fail returns [`Result`]; `fail!` makes the error and writes its message into the thread's
//! pending buffer. Only the C boundary makes a failure the thread's last error ([`Error::report`]), so an inner
//! failure that is recovered from is never seen.
use crate::os::thread::{self, MESSAGE};
use crate::text::Text;
use core::ffi::{CStr, c_char};
use core::fmt::{self, Write};

/// Why a call failed. The numbers are those of `unimem_error_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Error {
    /// An argument is out of its range, or does not fit the others.
    InvalidArgument = 1,
    /// The system, or the instance's budget, has no memory left.
    OutOfMemory,
    /// A fixed number of things is used up.
    Limit,
    /// The address is not a live block of the one it was given to.
    NotOwned,
    /// The block was freed before.
    DoubleFree,
    /// Bytes that must not change have changed.
    Corruption,
    /// A file could not be read or written.
    Io,
    /// This machine or this build cannot do it.
    Unsupported,
    /// A defect of the library.
    Internal,
}
/// What a fallible function gives.
pub type Result<T> = core::result::Result<T, Error>;

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.text().to_string_lossy())
    }
}
impl core::error::Error for Error {}

impl Error {
    /// All errors, in the order of their numbers.
    pub const ALL: [Error; 9] = [
        Error::InvalidArgument,
        Error::OutOfMemory,
        Error::Limit,
        Error::NotOwned,
        Error::DoubleFree,
        Error::Corruption,
        Error::Io,
        Error::Unsupported,
        Error::Internal,
    ];
    /// A fixed description.
    pub fn text(self) -> &'static CStr {
        match self {
            Error::InvalidArgument => c"invalid argument",
            Error::OutOfMemory => c"out of memory",
            Error::Limit => c"limit reached",
            Error::NotOwned => c"not a live block of this memory",
            Error::DoubleFree => c"block was already freed",
            Error::Corruption => c"corrupted memory",
            Error::Io => c"input/output error",
            Error::Unsupported => c"not supported here",
            Error::Internal => c"internal error",
        }
    }
    /// Makes the failure this thread's last error.
    #[cold]
    pub fn report(self) {
        if let Some(record) = thread::current() {
            // SAFETY: only this thread touches its messages, and no reference to them outlives a statement.
            unsafe {
                let messages = &mut *record.messages.get();
                messages[LAST] = messages[PENDING];
                if messages[PENDING][0] == 0 {
                    copy_text(&mut messages[LAST], self.text());
                }
                messages[PENDING][0] = 0;
            }
        }
        thread::set_last_error(self as u32);
    }
    /// The failure's message, for the log: the thread's last error stays what it was.
    #[cold]
    pub fn message(self) -> Message {
        let mut message = [0; MESSAGE];
        if let Some(record) = thread::existing() {
            // SAFETY: only this thread touches its messages, and no reference to them outlives a statement.
            core::mem::swap(&mut message, unsafe { &mut (*record.messages.get())[PENDING] });
        }
        if message[0] == 0 {
            copy_text(&mut message, self.text());
        }
        Message(message)
    }
}
/// The message of a failure that is told to the log instead of the caller.
pub struct Message([u8; MESSAGE]);
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = CStr::from_bytes_until_nul(&self.0).unwrap_or_default();
        f.write_str(text.to_str().unwrap_or_default())
    }
}
const LAST: usize = 0;
const PENDING: usize = 1;

fn copy_text(buffer: &mut [u8; MESSAGE], text: &CStr) {
    let bytes = text.to_bytes_with_nul();
    buffer[..bytes.len()].copy_from_slice(bytes);
}

/// The calling thread's last error, if any call of it has failed.
pub fn last() -> Option<Error> {
    let code = thread::last_error();
    Error::ALL.into_iter().find(|e| *e as u32 == code)
}
/// Its message; valid until the thread's next failure. The fixed text where there was no memory for another.
pub fn last_message() -> *const c_char {
    if let Some(record) = thread::existing() {
        // SAFETY: the thread's own, zero-terminated by construction.
        let message = unsafe { &(*record.messages.get())[LAST] };
        if message[0] != 0 {
            return message.as_ptr().cast();
        }
    }
    last().map_or(c"", Error::text).as_ptr()
}
/// The thread's last error once more, with its message: why a call failed that came back through a C function.
pub fn again() -> Option<Error> {
    let record = thread::existing()?;
    // SAFETY: only this thread touches its messages, and no reference to them outlives a statement.
    unsafe {
        let messages = &mut *record.messages.get();
        messages[PENDING] = messages[LAST];
    }
    last()
}

/// Writes the message of a failure and gives the error. Use through `fail!`.
#[cold]
#[inline(never)]
pub fn pending(error: Error, message: core::fmt::Arguments) -> Error {
    if let Some(record) = thread::current() {
        // SAFETY: only this thread touches its messages.
        let buffer = unsafe { &mut (*record.messages.get())[PENDING] };
        let _ = Text::new(buffer).write_fmt(message); // cut when too long
    }
    error
}

/// `Err` of the named [`Error`] with a message.
macro_rules! fail {
    ($error:ident, $($message:tt)+) => {
        Err($crate::error::pending($crate::error::Error::$error, format_args!($($message)+)))
    };
}
pub(crate) use fail;

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn only_a_reported_failure_is_seen() {
        std::thread::spawn(|| {
            let failed: Result<()> = fail!(Limit, "no room for {} more", 7);
            assert_eq!(last(), None);
            failed.unwrap_err().report();
            assert_eq!(last(), Some(Error::Limit));
            // SAFETY: zero-terminated, see `last_message`.
            assert_eq!(unsafe { CStr::from_ptr(last_message()) }, c"no room for 7 more");
            let long = "ü".repeat(400);
            let failed: Result<()> = fail!(Io, "{long}");
            failed.unwrap_err().report();
            // SAFETY: zero-terminated, see `last_message`.
            let text = unsafe { CStr::from_ptr(last_message()) }.to_str().unwrap().to_owned();
            assert!(text.len() < MESSAGE && text.chars().all(|c| c == 'ü'));
            let failed: Result<()> = fail!(Limit, "no room for {} more", 8);
            let failed = failed.unwrap_err();
            assert_eq!(failed.message().to_string(), "no room for 8 more");
            assert_eq!(failed.message().to_string(), "limit reached", "it was taken");
            assert_eq!(last(), Some(Error::Io), "nothing was reported");
        })
        .join()
        .unwrap();
    }
}
