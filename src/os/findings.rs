//! What happens in a checked build where a check fails: what and where is said, and the program ended. Nothing else is sure to
//! be noticed in signal handlers, fork handlers, children, and where panics are caught.
use super::environment;
use crate::text::Text;
use core::cell::Cell;
use core::ffi::{CStr, c_char, c_int};
use core::fmt::{self, Write};

unsafe extern "C" {
    /// glibc's.
    static program_invocation_short_name: *const c_char;
}
std::thread_local! {
    /// This thread is saying what it found.
    static SAYING: Cell<bool> = const { Cell::new(false) };
}

/// Says so on stderr, and in the file that UNIMEM_TEST_FINDINGS names: not every test hears what its children say, or sees
/// how they end. The stack comes last, as it allocates: the heap may be malloc's, and its locks this thread's.
#[cold]
pub fn found(what: fmt::Arguments) -> ! {
    if SAYING.replace(true) {
        std::process::abort();
    }
    // SAFETY: a name with a zero at its end, which glibc keeps.
    let program = unsafe { CStr::from_ptr(program_invocation_short_name) }.to_str().unwrap_or_default();
    let mut buffer = [0; 1024];
    let mut text = Text::new(&mut buffer);
    let _ = writeln!(text, "unimem: {program} ({}): {what}", std::process::id()); // cut when too long
    say(text.finish().to_bytes());
    say(format!("{:?}\n", backtrace::Backtrace::new()).as_bytes());
    std::process::abort()
}
fn file() -> Option<&'static [u8]> {
    environment::variable(c"UNIMEM_TEST_FINDINGS")
}
/// Whether there is such a file, as the tests in C have it.
pub fn are_kept() -> bool {
    file().is_some()
}
fn say(text: &[u8]) {
    // SAFETY: the text is readable, and the name of the file ends with a zero. What cannot be written is lost.
    let write = |file: c_int| unsafe { libc::write(file, text.as_ptr().cast(), text.len()) };
    write(libc::STDERR_FILENO);
    if let Some(path) = file() {
        // SAFETY: as above.
        write(unsafe { libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_APPEND) });
    }
}
