//! Defects of the library. Panics are caught at its boundary, and go to the log instead of stderr.
//!
//! - Rust's default panic hook prints. Our hook replaces it for threads that are inside the library. Panics of a Rust
//!   program around it go to the hook that was there before.
//! - A C++ exception that leaves a callback cannot be caught here, and must not pass. [`caught`] ends the program, as
//!   leaving a `noexcept` function does. For this to work, every function of the program that is called from here has a
//!   type with the ABI "C-unwind". With "C" the compiler may leave out what stops an exception.
use crate::load;
use crate::log::log;
#[cfg(debug_assertions)]
use crate::os::findings;
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering::*};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, set_hook, take_hook};

thread_local! {
    /// How many calls of the library this thread is inside of.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Runs `f`. None if it panicked; the reason is then in the log.
#[inline(always)]
pub fn caught<R>(f: impl FnOnce() -> R) -> Option<R> {
    if !READY.load(Relaxed) {
        get_ready();
    }
    INSIDE.set(INSIDE.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(f));
    INSIDE.set(INSIDE.get() - 1);
    result.ok()
}
/// Panics, because a test asked for it. Checked builds catch only this panic; any other one ends the program there.
#[cold]
pub fn planted() -> ! {
    panic_any(PLANTED)
}
const PLANTED: &str = "a test asked for it";

/// Marks this thread as one that never leaves the library.
pub fn stay_inside() {
    INSIDE.set(1);
}

/// Whether everything that the first call has to prepare is done.
static READY: AtomicBool = AtomicBool::new(false);
static INSTALLING: Mutex<()> = Mutex::new(());
/// See load.rs.
pub static HOOKS: &dyn AtFork = &INSTALLING;
#[cold]
fn get_ready() {
    let forks = load::ready();
    // Does not wait for the lock: installing allocates, and the library may be the program's malloc. If another call is
    // installing, this one leaves it to the next.
    let Some(_installing) = INSTALLING.try_lock() else { return };
    static HOOK_IN_PLACE: AtomicBool = AtomicBool::new(false);
    if !HOOK_IN_PLACE.load(Relaxed) {
        install();
        HOOK_IN_PLACE.store(true, Relaxed);
    }
    READY.store(forks, Relaxed);
}
fn install() {
    let before = take_hook();
    set_hook(Box::new(move |panic| {
        let inside = INSIDE.get() > 0;
        // A panic in a handler or a thread of the library is not inside a call. It counts as the library's all the same
        // where tests in C keep findings: no other Rust code is in those programs.
        #[cfg(debug_assertions)]
        if (inside || findings::are_kept()) && panic.payload().downcast_ref() != Some(&PLANTED) {
            findings::found(format_args!("a defect of libunimem: {panic}"));
        }
        if inside { log!(Error, "a defect of libunimem: {panic}") } else { before(panic) }
    }));
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use std::process::Command;

    const NAME: &str = "defect::tests::a_panic_ends_a_checked_build_unless_a_test_asked_for_it";
    #[test]
    fn a_panic_ends_a_checked_build_unless_a_test_asked_for_it() {
        const CASE: &str = "UNIMEM_TEST_CASE";
        if std::env::var_os(CASE).is_some() {
            assert_eq!(caught(|| planted()), None::<()>);
            assert_eq!(caught(|| panic!("something is wrong")), None::<()>);
            return;
        }
        let program = std::env::current_exe().unwrap();
        let findings = std::env::temp_dir().join(format!("unimem-findings-{}", std::process::id()));
        std::fs::write(&findings, "").unwrap();
        let mut program = Command::new(program);
        program.args(["--exact", NAME]).env(CASE, "1").env("UNIMEM_TEST_FINDINGS", &findings);
        let output = program.output().unwrap();
        let told = std::fs::read_to_string(&findings).unwrap();
        std::fs::remove_file(&findings).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGABRT));
        for said in ["src/defect.rs:", "something is wrong", "a_panic_ends_a_checked_build"] {
            assert!(told.contains(said), "{told}");
            assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
        }
        assert!(!told.contains(PLANTED), "{told}");
    }

    const OUTSIDE: &str = "defect::tests::a_panic_outside_of_calls_is_a_finding_where_these_are_kept";
    #[test]
    fn a_panic_outside_of_calls_is_a_finding_where_these_are_kept() {
        const CASE: &str = "UNIMEM_TEST_CASE_OUTSIDE";
        if std::env::var_os(CASE).is_some() {
            assert_eq!(caught(|| ()), Some(()));
            assert!(std::thread::spawn(|| panic!("of the program")).join().is_err());
            return;
        }
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", OUTSIDE]).env(CASE, "1").env_remove("UNIMEM_TEST_FINDINGS");
        assert!(program.output().unwrap().status.success(), "it goes to the program's own hook");
        let status = program.env("UNIMEM_TEST_FINDINGS", "/dev/null").output().unwrap().status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGABRT));
    }
}
