//! Signal handlers: faults in tiered memory are served where they happen, all others go to the program's handler.
//!
//! A handler runs on whatever stack the thread has for signals, which may be small: it only finds out whose fault it
//! is. The work is done on stacks of our own (workspace.rs).
use crate::tiers::engine::{self, Served};
use core::mem::MaybeUninit;
use std::sync::OnceLock;

/// What was installed before ours, by signal.
static BEFORE: [OnceLock<libc::sigaction>; 2] = [const { OnceLock::new() }; 2];
fn before(signal: libc::c_int) -> &'static OnceLock<libc::sigaction> {
    &BEFORE[usize::from(signal == libc::SIGSEGV)]
}

/// Installs the handler for `signal`, once.
pub fn install(signal: libc::c_int) {
    before(signal).get_or_init(|| {
        let mut old = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: zero bytes are a valid sigaction to fill in; ours stays valid for ever, as the library is never
        // unloaded. All signals are blocked while it runs: see gate.rs.
        unsafe {
            let mut new: libc::sigaction = core::mem::zeroed();
            new.sa_sigaction = on_fault as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigfillset(&mut new.sa_mask);
            // Read first: a fault of another thread must find it the moment ours is in place.
            libc::sigaction(signal, core::ptr::null(), old.as_mut_ptr());
            libc::sigaction(signal, &new, core::ptr::null_mut());
            old.assume_init()
        }
    });
}

/// Whether the fault was a store; None where the processor's context does not tell.
fn was_store(context: *const libc::c_void) -> Option<bool> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the kernel passes a ucontext_t to handlers installed with SA_SIGINFO.
        let error =
            unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize] };
        Some(error & 2 != 0)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = context;
        None
    }
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno of this thread; the code between must not change what the program sees.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid siginfo_t. Positive codes are faults; others were sent by somebody.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let served = if code > 0 { engine::serve_fault(address, was_store(context)) } else { Served::NotOurs };
    match served {
        Served::Yes => {}
        Served::NotOurs => pass_on(signal, info, context),
        Served::Failed if signal == libc::SIGBUS => pass_on(signal, info, context),
        Served::Failed => raise_bus_error(address),
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// To whoever handled the signal before.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(old) = before(signal).get() else { return reset(signal) };
    match old.sa_sigaction {
        // Ignoring a fault would only repeat it for ever: the kernel kills then, and so does returning to the
        // default here.
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: valid, see `on_fault`. Signals that were sent, not caused, may be ignored.
            if old.sa_sigaction == libc::SIG_IGN && unsafe { (*info).si_code } <= 0 {
                return;
            }
            reset(signal);
        }
        handler => {
            // SAFETY: the program's own handler, called as the kernel would: with its mask, and its arguments.
            unsafe {
                let mut mask = (*context.cast::<libc::ucontext_t>()).uc_sigmask;
                for other in 1..=64 {
                    if libc::sigismember(&old.sa_mask, other) == 1 {
                        libc::sigaddset(&mut mask, other);
                    }
                }
                if old.sa_flags & libc::SA_NODEFER == 0 {
                    libc::sigaddset(&mut mask, signal);
                }
                libc::pthread_sigmask(libc::SIG_SETMASK, &mask, core::ptr::null_mut());
                if old.sa_flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        core::mem::transmute(handler);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(libc::c_int) = core::mem::transmute(handler);
                    handler(signal);
                }
            }
        }
    }
}

/// Back to the default: the instruction is run again, faults again, and the program ends with a true core dump.
fn reset(signal: libc::c_int) {
    // SAFETY: zero bytes and SIG_DFL are a valid action.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &action, core::ptr::null_mut());
    }
}

/// SIGBUS at `address` for this thread, pending until the handler returns.
fn raise_bus_error(address: usize) {
    #[repr(C)]
    struct Info {
        signal: i32,
        errno: i32,
        code: i32,
        _padding: i32,
        address: usize,
        _rest: [u64; 13],
    }
    const { assert!(size_of::<Info>() == size_of::<libc::siginfo_t>()) };
    let info =
        Info { signal: libc::SIGBUS, errno: 0, code: libc::BUS_ADRERR, _padding: 0, address, _rest: [0; 13] };
    // SAFETY: the layout of a fault's siginfo_t; a thread may queue such a signal to itself.
    unsafe {
        let (process, thread) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
        if libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, libc::SIGBUS, &info) != 0 {
            reset(libc::SIGSEGV);
        }
    }
}
