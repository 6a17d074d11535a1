//! Starting a program with libunimem as its malloc, and waiting for it.
use crate::output::{CANNOT_RUN, Failure, NOT_FOUND, OWN_FAILURE};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::{Duration, Instant};

const LIBRARY: &str = "libunimem-malloc.so";

/// Where the library to preload is: beside the command, or else where it is installed with the command.
pub fn library() -> Option<PathBuf> {
    let command = std::env::current_exe().ok()?;
    let beside = command.parent()?;
    let prefix = beside.parent()?;
    let mut places = vec![beside.to_owned(), prefix.join("lib"), prefix.join("lib64")];
    // Debian's directory of this machine's libraries.
    places.push(prefix.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH)));
    places.into_iter().map(|place| place.join(LIBRARY)).find(|path| path.is_file())
}

/// A program that is ready to be started on the library. `words` are its name and arguments.
pub fn preloaded(words: &[OsString]) -> Result<Command, Failure> {
    // There the library has no block for the program, which would hardly say why it ends.
    if !unimem::os::map::pages_are_supported() {
        return Err(Failure::new(OWN_FAILURE, "this system's pages are not of 4 KiB, which libunimem needs"));
    }
    let library = library().ok_or_else(|| {
        Failure::new(OWN_FAILURE, format!("{LIBRARY} is neither beside this command nor in its prefix's lib"))
    })?;
    if library.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, b' ' | b':')) {
        let message = format!("{}: the dynamic loader splits such a path", library.display());
        return Err(Failure::new(OWN_FAILURE, message));
    }
    let mut program = Command::new(&words[0]);
    program.args(&words[1..]);
    program.env("LD_PRELOAD", preload(&library, std::env::var_os("LD_PRELOAD")));
    Ok(program)
}

/// The value of LD_PRELOAD: the library, then what it names already.
fn preload(library: &Path, others: Option<OsString>) -> OsString {
    let mut list = library.as_os_str().to_owned();
    if let Some(others) = others.filter(|others| !others.is_empty()) {
        list.push(OsStr::new(":"));
        list.push(others);
    }
    list
}

/// Becomes the program. Returns only if that fails.
pub fn become_program(mut program: Command) -> Failure {
    let error = program.exec();
    cannot_start(&program, &error)
}

fn cannot_start(program: &Command, error: &std::io::Error) -> Failure {
    let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN };
    Failure::new(code, format!("{}: {error}", program.get_program().to_string_lossy()))
}

/// How a program ended, and what it took.
pub struct Ended {
    /// Its process number.
    pub process: u32,
    /// Its exit code; 128 + N after signal N.
    pub code: u8,
    pub elapsed: Duration,
    pub user: Duration,
    pub system: Duration,
    /// Highest resident memory, bytes.
    pub peak_resident: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
}

/// The program that this process waits for; 0: none.
static PROGRAM: AtomicI32 = AtomicI32::new(0);
extern "C" fn pass_on(signal: libc::c_int) {
    match PROGRAM.load(Relaxed) {
        0 => {}
        // SAFETY: the call only sends a signal.
        program => _ = unsafe { libc::kill(program, signal) },
    }
}

/// Starts the program and waits for its end. Interrupts from the terminal are left to the program; a signal to end is passed on to
/// it.
pub fn wait_for(mut program: Command) -> Result<Ended, Failure> {
    let began = Instant::now();
    let child = program.spawn().map_err(|error| cannot_start(&program, &error))?;
    PROGRAM.store(child.id() as libc::pid_t, Relaxed);
    // SAFETY: only the dispositions of this process change, which has one thread. The handler may interrupt anything.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGQUIT, libc::SIG_IGN);
        for signal in [libc::SIGTERM, libc::SIGHUP] {
            if libc::signal(signal, pass_on as *const () as libc::sighandler_t) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN); // as under nohup
            }
        }
    }
    let mut status = 0;
    // SAFETY: the structure has numbers only, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: both structures are this function's own, and the child has not been waited for.
    while unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage) } < 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(Failure::new(OWN_FAILURE, error));
        }
    }
    PROGRAM.store(0, Relaxed);
    let code =
        if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    let time = |value: libc::timeval| Duration::new(value.tv_sec as u64, value.tv_usec as u32 * 1000);
    Ok(Ended {
        process: child.id(),
        code: code as u8,
        elapsed: began.elapsed(),
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        peak_resident: usage.ru_maxrss as u64 * 1024,
        minor_faults: usage.ru_minflt as u64,
        major_faults: usage.ru_majflt as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_preloaded_libraries_stay() {
        let library = Path::new("/x/libunimem-malloc.so");
        assert_eq!(preload(library, None), "/x/libunimem-malloc.so");
        assert_eq!(preload(library, Some("".into())), "/x/libunimem-malloc.so");
        assert_eq!(preload(library, Some("/a.so:/b.so".into())), "/x/libunimem-malloc.so:/a.so:/b.so");
    }
}
