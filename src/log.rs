//! Messages for people: to the program's callback, and to stderr where the environment asks.
//!
//! `UNIMEM_LOG` is `error`, `warning`, `info` or `debug` (or anything else, which means `warning`); unset or empty
//! means nothing goes to stderr. Messages are made on the stack: logging never allocates.
use crate::os::lock::Mutex;
use crate::os::system::NotCancelled;
use crate::os::{environment, fork};
use crate::text::Text;
use core::ffi::{c_char, c_int, c_void};
use core::fmt::Write as _;
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
    let (callback, context) = {
        let target = TARGET.lock();
        (target.callback, target.context)
    };
    let stderr = asked().is_some_and(|most| level <= most);
    if callback.is_none() && !stderr {
        return;
    }
    let _uncancelled = NotCancelled::begin();
    let mut buffer = [0; LENGTH];
    let mut text = Text::new(&mut buffer);
    let _ = text.write_fmt(message); // cut when too long
    if stderr {
        to_stderr(text.as_bytes());
    }
    if let Some(callback) = callback {
        // SAFETY: the program gave the callback for this; the text is zero-terminated.
        unsafe { callback(level as c_int, text.finish().as_ptr(), context) };
    }
}

/// Sends a message of the named [`Level`].
macro_rules! log {
    ($level:ident, $($message:tt)+) => {
        $crate::log::send($crate::log::Level::$level, format_args!($($message)+))
    };
}
pub(crate) use log;
