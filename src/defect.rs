//! Defects of the library: panics are caught at its boundary, and told to the log instead of stderr.
//!
//! Rust's default panic hook prints. Ours replaces it for threads that are inside the library; panics of a Rust program
//! around it go to the hook that was there before.
//!
//! A C++ exception that leaves a callback cannot be caught here, and must not pass: [`caught`] ends the program, as
//! leaving a `noexcept` function does. For that every function of the program's that is called from here has a type of
//! ABI "C-unwind"; with "C" the compiler may leave out what stops an exception.
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
    /// How deep this thread is inside.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Runs `f`. None if it panicked; the log knows why.
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
/// What tests ask for: a panic. Checked builds catch this one only, and end the program where there is another.
#[cold]
pub fn planted() -> ! {
    panic_any(PLANTED)
}
const PLANTED: &str = "a test asked for it";

/// Makes this thread one that never leaves the library.
pub fn stay_inside() {
    INSIDE.set(1);
}

/// Whether the first call's preparations are done.
static READY: AtomicBool = AtomicBool::new(false);
static INSTALLING: Mutex<()> = Mutex::new(());
/// See load.rs.
pub static HOOKS: &dyn AtFork = &INSTALLING;
#[cold]
fn get_ready() {
    let forks = load::ready();
    // Without waiting: installing allocates, and the library may be the program's malloc. A call that finds it under way
    // leaves it to the next.
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
        // In handlers and in threads of the library, which are not inside, where only C is around it.
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
}
