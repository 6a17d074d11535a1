//! Errors as values, and each thread's last error as C sees it.
//!
//! A function that can fail returns [`Result`]. `fail!` makes the error and writes its message into the thread's
//! pending buffer. Only the C and Rust boundaries make a failure the thread's last error ([`Error::report`]). So nobody
//! sees an inner failure from which the library recovers.
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
    /// The system has no memory left, or the instance's budget has no room.
    OutOfMemory,
    /// A fixed number of things is used up, a limit that the caller set is reached, or a progress callback stopped the
    /// call.
    Limit,
    /// The address is not that of a live block of this instance, pool or system.
    NotOwned,
    /// The block was freed before.
    DoubleFree,
    /// Bytes that nobody should have changed have changed.
    Corruption,
    /// A file could not be read or written.
    Io,
    /// This machine, this build or this instance's configuration does not allow it.
    Unsupported,
    /// An error inside the library.
    Internal,
}
/// What a function that can fail returns.
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
            // SAFETY: only this thread uses its messages, and no reference to them outlives the statement that takes
            // it.
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
    /// Takes the failure's message, for the log. The thread's last error stays what it was.
    #[cold]
    pub fn message(self) -> Message {
        let mut message = [0; MESSAGE];
        if let Some(record) = thread::existing() {
            // SAFETY: only this thread uses its messages, and no reference to them outlives the statement that takes
            // it.
            core::mem::swap(&mut message, unsafe { &mut (*record.messages.get())[PENDING] });
        }
        if message[0] == 0 {
            copy_text(&mut message, self.text());
        }
        Message(message)
    }
}
/// The message of a failure that goes to the log instead of the caller.
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
/// The message of the last error; valid until the thread's next failure. If there was no memory for a message, it is
/// the fixed text.
pub fn last_message() -> *const c_char {
    if let Some(record) = thread::existing() {
        // SAFETY: the message belongs to this thread. It is zero-terminated, as everything that is written there.
        let message = unsafe { &(*record.messages.get())[LAST] };
        if message[0] != 0 {
            return message.as_ptr().cast();
        }
    }
    last().map_or(c"", Error::text).as_ptr()
}
/// Makes the thread's last error pending again, with its message, and gives it. It tells why a call failed that came
/// back through a C function.
pub fn again() -> Option<Error> {
    let record = thread::existing()?;
    // SAFETY: only this thread uses its messages, and no reference to them outlives the statement that takes it.
    unsafe {
        let messages = &mut *record.messages.get();
        messages[PENDING] = messages[LAST];
    }
    last()
}

/// Writes the message of a failure, and gives the error. Called through `fail!`.
#[cold]
#[inline(never)]
pub fn pending(error: Error, message: core::fmt::Arguments) -> Error {
    if let Some(record) = thread::current() {
        // SAFETY: only this thread uses its messages.
        let buffer = unsafe { &mut (*record.messages.get())[PENDING] };
        let _ = Text::new(buffer).write_fmt(message); // a message that is too long is cut
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
            // SAFETY: `last_message` gives zero-terminated text.
            assert_eq!(unsafe { CStr::from_ptr(last_message()) }, c"no room for 7 more");
            let long = "ü".repeat(400);
            let failed: Result<()> = fail!(Io, "{long}");
            failed.unwrap_err().report();
            // SAFETY: `last_message` gives zero-terminated text.
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
