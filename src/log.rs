//! Messages for people. They go to the program's callback, and to stderr if the environment asks for it.
//!
//! `UNIMEM_LOG` is `error`, `warning`, `info` or `debug`; any other word means `warning`. If it is unset, empty, `0` or
//! `none`, nothing goes to stderr. Messages are made on the stack, so logging never allocates.
use crate::os::lock::{Mutex, MutexGuard};
use crate::os::system::NotCancelled;
use crate::os::{environment, floating_point, fork, records, watch};
use crate::text::Text;
use core::cell::Cell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write as _;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// How serious a message is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Level {
    /// Something was lost, or could not be done.
    Error = 0,
    /// Something that the program probably did not intend, such as a leak or a refused free.
    Warning,
    /// A choice of the library, reported once.
    Info,
    /// What the library does, step by step.
    Debug,
}

/// Receives messages: level (0 error, 1 warning, 2 info, 3 debug), text, and the context given with it.
pub type Callback = unsafe extern "C-unwind" fn(level: c_int, message: *const c_char, context: *mut c_void);
struct Target {
    callback: Option<Callback>,
    context: *mut c_void,
}
// SAFETY: the context is not used here. It is only passed to its callback.
unsafe impl Send for Target {}
static TARGET: Mutex<Target> = Mutex::new(Target { callback: None, context: core::ptr::null_mut() });

/// See load.rs.
pub(crate) static HOOKS: &dyn fork::AtFork = &TARGET;

/// Sends messages to `callback`, on whatever thread they arise. None sends them to nobody.
pub fn set_callback(callback: Option<Callback>, context: *mut c_void) {
    *TARGET.lock() = Target { callback, context };
}

/// The least serious level that the environment wants on stderr. It is read once, but without a lock, which a child
/// could inherit taken. Threads that come at the same moment read the same value.
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

/// Most bytes of a message, including the zero at its end.
const LENGTH: usize = 512;

/// Writes a line with one system call. The standard library is not used, because a forked child could inherit its lock
/// of stderr taken.
fn to_stderr(text: &[u8]) {
    let part = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr() as *mut c_void, iov_len: bytes.len() };
    let line = [part(b"unimem: "), part(text), part(b"\n")];
    // SAFETY: the three parts are readable for their lengths. A failure, such as a closed stderr, is not ours to
    // report.
    unsafe { libc::writev(libc::STDERR_FILENO, line.as_ptr(), line.len() as c_int) };
}

/// Whether messages of this level go anywhere.
pub fn is_wanted(level: Level) -> bool {
    TARGET.lock().callback.is_some() || asked().is_some_and(|most| level <= most)
}

/// Sends a message. Called through `log!`.
#[cold]
pub fn send(level: Level, message: core::fmt::Arguments) {
    if !is_wanted(level) {
        return;
    }
    let mut buffer = [0; LENGTH];
    let mut text = Text::new(&mut buffer);
    let _ = text.write_fmt(message); // a message that is too long is cut
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
        let _programs = floating_point::programs();
        // SAFETY: the program gave the callback for this purpose, and the text is zero-terminated.
        unsafe { callback(level as c_int, text.as_ptr(), context) };
    }
}

/// While it lives, messages of its thread wait. It is for work under locks that the program's callback may want. Make
/// it before taking such a lock, so that it is dropped after the lock is released.
pub struct Later(PhantomData<*mut ()>);
/// Makes messages of this thread wait.
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
/// A lock that is held. Messages of the thread wait until it is released.
pub struct QuietGuard<'a, T> {
    // Fields are dropped in this order: the lock first, then the messages go out.
    guard: MutexGuard<'a, T>,
    _later: Later,
}
/// Takes a lock under which messages must not go out: the program's callback may want the lock, or malloc is called
/// under it and may be one of our heaps, which reports what it finds. Messages of this thread wait until the lock is
/// released.
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
/// A message that waits. It is in a record of the library's own.
struct Kept {
    next: *mut Kept,
    level: Level,
    text: [u8; LENGTH],
}
std::thread_local! {
    /// How many [`Later`]s live in this thread, and the messages that wait for them, the newest first.
    static LATER: Cell<u32> = const { Cell::new(0) };
    static KEPT: Cell<*mut Kept> = const { Cell::new(null_mut()) };
}
/// Keeps a message until it can go out. If there is no memory for it, it is lost.
fn keep(level: Level, message: &CStr) {
    let Some(kept) = records::allocate(size_of::<Kept>()) else { return };
    let kept = kept.cast::<Kept>();
    let mut text = [0; LENGTH];
    text[..message.count_bytes()].copy_from_slice(message.to_bytes());
    // SAFETY: the record is fresh, and has the size of a `Kept`.
    unsafe { kept.write(Kept { next: KEPT.get(), level, text }) };
    KEPT.set(kept.as_ptr());
}
#[cold]
fn deliver_kept() {
    let (mut last, mut first) = (KEPT.take(), null_mut::<Kept>());
    // SAFETY: the records are those of this thread's list, made by `keep`. Each is read and released once.
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
            // SAFETY: messages are zero-terminated text.
            let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
            // Messages of other tests have other texts.
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
