//! Errors as values: the stand-in of this branch until the foundations are merged.
#![allow(missing_docs, dead_code)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Error {
    InvalidArgument = 1,
    OutOfMemory,
    Limit,
    NotOwned,
    DoubleFree,
    Corruption,
    Io,
    Unsupported,
    Internal,
}
pub type Result<T> = core::result::Result<T, Error>;
thread_local! { static LAST: core::cell::Cell<Option<Error>> = const { core::cell::Cell::new(None) }; }
impl Error {
    pub fn report(self) {
        LAST.set(Some(self));
    }
}
pub fn last() -> Option<Error> {
    LAST.get()
}
pub fn pending(error: Error, message: core::fmt::Arguments) -> Error {
    let _ = message;
    error
}
macro_rules! fail {
    ($error:ident, $($message:tt)+) => {
        Err($crate::error::pending($crate::error::Error::$error, format_args!($($message)+)))
    };
}
pub(crate) use fail;
