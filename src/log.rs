//! Messages for people: to the program's callback, and to stderr where the environment asks.
//!
//! `UNIMEM_LOG` is `error`, `warning`, `info` or `debug` (or anything else, which means `warning`); unset or empty
//! means nothing goes to stderr. Messages are made on the stack: logging never allocates.
use crate::os::lock::{Mutex, MutexGuard};
use crate::os::system::NotCancelled;
use crate::os::{environment, fork, records, watch};
use crate::text::Text;
use core::cell::Cell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write as _;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// How grave a message is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Level {
    /// Something was lost or could not be done.
    Error = 0,
    /// Something the program probably did not mean: a leak, a refused free.
    Warning,
    /// What was chosen, once.
    Info,
    /// What happens.
    Debug,
}

/// Receives messages: level (0 error, 1 warning, 2 info, 3 debug), text, and the context given with it.
pub type Callback = unsafe extern "C-unwind" fn(level: c_int, message: *const c_char, context: *mut c_void);
struct Target {
    callback: Option<Callback>,
    context: *mut c_void,
}
// SAFETY: the context is only handed back to its callback.
unsafe impl Send for Target {}
static TARGET: Mutex<Target> = Mutex::new(Target { callback: None, context: core::ptr::null_mut() });

/// See load.rs.
pub(crate) static HOOKS: &dyn fork::AtFork = &TARGET;

/// Sends messages to `callback`, from whatever thread they arise on; None: to nobody.
pub fn set_callback(callback: Option<Callback>, context: *mut c_void) {
    *TARGET.lock() = Target { callback, context };
}

/// The least grave level that the environment wants on stderr. Read once, without a lock that a child could inherit taken:
/// threads that come at the same moment read the same.
fn asked() -> Option<Level> {
    const UNREAD: i32 = -2;
    static ASKED: AtomicI32 = AtomicI32::new(UNREAD);
    let mut asked = ASKED.load(Relaxed);
    if asked == UNREAD {
        asked = match environment::variable(c"UNIMEM_LOG") {
            None | Some(b"" | b"0" | b"none") => -1,
            Some(b"error") => Level::Error as i32,
            Some(b"info") => Level::Info as i32,
            Some(b"debug") => Level::Debug as i32,
            Some(_) => Level::Warning as i32,
        };
        ASKED.store(asked, Relaxed);
    }
    [Level::Error, Level::Warning, Level::Info, Level::Debug].into_iter().find(|&level| level as i32 == asked)
}

/// Bytes of a message at most, with the zero at its end.
const LENGTH: usize = 512;

/// Writes a line in one piece, past the standard library: its lock of stderr would stay taken in a forked child.
fn to_stderr(text: &[u8]) {
    let part = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr() as *mut c_void, iov_len: bytes.len() };
    let line = [part(b"unimem: "), part(text), part(b"\n")];
    // SAFETY: three readable parts. A closed stderr is not ours to report.
    unsafe { libc::writev(libc::STDERR_FILENO, line.as_ptr(), line.len() as c_int) };
}

/// Whether anybody hears messages of this level.
pub fn is_wanted(level: Level) -> bool {
    TARGET.lock().callback.is_some() || asked().is_some_and(|most| level <= most)
}

/// Sends a message. Through `log!`.
#[cold]
pub fn send(level: Level, message: core::fmt::Arguments) {
    if !is_wanted(level) {
        return;
    }
    let mut buffer = [0; LENGTH];
    let mut text = Text::new(&mut buffer);
    let _ = text.write_fmt(message); // cut when too long
    if LATER.get() > 0 {
        return keep(level, text.finish());
    }
    deliver(level, text.finish());
}
fn deliver(level: Level, text: &CStr) {
    watch::about_to_call_program();
    let (callback, context) = {
        let target = TARGET.lock();
        (target.callback, target.context)
    };
    let _uncancelled = NotCancelled::begin();
    if asked().is_some_and(|most| level <= most) {
        to_stderr(text.to_bytes());
    }
    if let Some(callback) = callback {
        // SAFETY: the program gave the callback for this; the text is zero-terminated.
        unsafe { callback(level as c_int, text.as_ptr(), context) };
    }
}

/// While it lives, messages of its thread wait: for what is done under locks that the program's callback may want. To be made
/// before these are taken, so that it is dropped after.
pub struct Later(PhantomData<*mut ()>);
/// Has messages of this thread wait.
#[inline]
pub fn later() -> Later {
    LATER.set(LATER.get() + 1);
    Later(PhantomData)
}
impl Drop for Later {
    #[inline]
    fn drop(&mut self) {
        LATER.set(LATER.get() - 1);
        if LATER.get() == 0 && !KEPT.get().is_null() {
            deliver_kept();
        }
    }
}
/// The right to what a lock guards; messages of the thread wait until it is dropped.
pub struct QuietGuard<'a, T> {
    // In this order, as they are dropped.
    guard: MutexGuard<'a, T>,
    _later: Later,
}
/// Takes a lock that the program's callback may want, or under which malloc, which may be a heap that finds something, is
/// called: messages of this thread wait until it is released.
pub fn lock_quietly<T>(lock: &Mutex<T>) -> QuietGuard<'_, T> {
    let _later = later();
    QuietGuard { guard: lock.lock(), _later }
}
impl<T> Deref for QuietGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}
impl<T> DerefMut for QuietGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
/// A message that waits, in a record of the library's own.
struct Kept {
    next: *mut Kept,
    level: Level,
    text: [u8; LENGTH],
}
std::thread_local! {
    /// How many [`Later`]s live in this thread, and what waits for them, the last one first.
    static LATER: Cell<u32> = const { Cell::new(0) };
    static KEPT: Cell<*mut Kept> = const { Cell::new(null_mut()) };
}
/// Without memory for it nobody hears it.
fn keep(level: Level, message: &CStr) {
    let Some(kept) = records::allocate(size_of::<Kept>()) else { return };
    let kept = kept.cast::<Kept>();
    let mut text = [0; LENGTH];
    text[..message.count_bytes()].copy_from_slice(message.to_bytes());
    // SAFETY: a fresh record of that size.
    unsafe { kept.write(Kept { next: KEPT.get(), level, text }) };
    KEPT.set(kept.as_ptr());
}
#[cold]
fn deliver_kept() {
    let (mut last, mut first) = (KEPT.take(), null_mut::<Kept>());
    // SAFETY: records of this thread's list, made by `keep`, each read and given back once.
    unsafe {
        while !last.is_null() {
            let kept = last;
            last = (*kept).next;
            (*kept).next = first;
            first = kept;
        }
        while let Some(record) = NonNull::new(first) {
            let Kept { next, level, text } = record.read();
            records::release(record.cast(), size_of::<Kept>());
            first = next;
            deliver(level, CStr::from_bytes_until_nul(&text).unwrap_or_default());
        }
    }
}

/// Sends a message of the named [`Level`].
macro_rules! log {
    ($level:ident, $($message:tt)+) => {
        $crate::log::send($crate::log::Level::$level, format_args!($($message)+))
    };
}
pub(crate) use log;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_wait_come_in_order_when_the_last_one_is_dropped() {
        static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        unsafe extern "C-unwind" fn hear(_: c_int, message: *const c_char, context: *mut c_void) {
            // SAFETY: a text, as messages are.
            let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
            // Those of other tests have other texts.
            if context.is_null() && text.starts_with("waits: ") {
                HEARD.lock().push(text.into_owned());
            }
        }
        set_callback(Some(hear), null_mut());
        let outer = later();
        {
            let _inner = later();
            log!(Warning, "waits: {}", 1);
        }
        (2..5).for_each(|number| log!(Error, "waits: {number}"));
        assert!(HEARD.lock().is_empty());
        drop(outer);
        log!(Error, "waits: 5");
        set_callback(None, null_mut());
        assert_eq!(HEARD.lock()[..], [1, 2, 3, 4, 5].map(|number| format!("waits: {number}")));
    }
}
