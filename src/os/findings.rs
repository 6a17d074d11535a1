//! What a checked build does when a check fails: it says what and where, and ends the program. Anything less might go
//! unnoticed in signal handlers, fork handlers and children, and where panics are caught.
use super::environment;
use crate::text::Text;
use core::cell::Cell;
use core::ffi::{CStr, c_char, c_int};
use core::fmt::{self, Write};

unsafe extern "C" {
    /// Defined by glibc.
    static program_invocation_short_name: *const c_char;
}
std::thread_local! {
    /// Whether this thread is reporting a finding already.
    static SAYING: Cell<bool> = const { Cell::new(false) };
}

/// Reports on stderr and in the file that UNIMEM_TEST_FINDINGS names, because not every test hears what its children say or
/// sees how they end. The stack comes last, because it allocates: the heap may be malloc's, and this thread may hold the
/// heap's locks.
#[cold]
pub fn found(what: fmt::Arguments) -> ! {
    if SAYING.replace(true) {
        std::process::abort();
    }
    // SAFETY: the name ends with a zero, and glibc keeps it.
    let program = unsafe { CStr::from_ptr(program_invocation_short_name) }.to_str().unwrap_or_default();
    let mut buffer = [0; 1024];
    let mut text = Text::new(&mut buffer);
    let _ = writeln!(text, "unimem: {program} ({}): {what}", std::process::id()); // cut if it is too long
    say(text.finish().to_bytes());
    say(format!("{:?}\n", backtrace::Backtrace::new()).as_bytes());
    std::process::abort()
}
fn file() -> Option<&'static [u8]> {
    environment::variable(c"UNIMEM_TEST_FINDINGS")
}
/// Whether there is a file for findings, as in the tests in C.
pub fn are_kept() -> bool {
    file().is_some()
}
fn say(text: &[u8]) {
    // SAFETY: the text is readable. What cannot be written is lost.
    let write = |file: c_int| unsafe { libc::write(file, text.as_ptr().cast(), text.len()) };
    write(libc::STDERR_FILENO);
    if let Some(path) = file() {
        // SAFETY: the text of a variable of the environment ends with a zero.
        write(unsafe { libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_APPEND) });
    }
}
