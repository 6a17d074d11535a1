//! Signal handlers: faults in tiered memory are served where they happen, all others go to the program's handler.
//!
//! A handler runs on whatever stack the thread has for signals, which may be small: it only finds out whose fault it
//! is. The work is done on stacks of our own (workspace.rs).
//!
//! A program may install a handler after ours. The next allocation puts ours in front again, and keeps that one to pass
//! foreign faults on to. Should it in turn pass them on to ours, they go to the one before it.
use crate::os::lock::Mutex;
use crate::os::system::NotCancelled;
use crate::tiers::engine::{self, Served};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::OnceLock;

/// How many different handlers of the program are kept for a signal.
const PLACES: usize = 15;
/// Handlers that ours was put in front of.
struct Before {
    /// Each handler once, in no order. What a place holds never changes.
    places: [OnceLock<libc::sigaction>; PLACES],
    /// Their order, four bits each: numbers of places from 1 on, in the lowest bits the one that was in front last; 0 ends it.
    /// One that is installed again moves to the front, so handlers that a program installs in turn take up a place each.
    chain: AtomicU64,
}
impl Before {
    const fn none() -> Before {
        Before { places: [const { OnceLock::new() }; PLACES], chain: AtomicU64::new(0) }
    }
    /// Puts `action` first. False if too many others are kept. By one thread at a time.
    fn keep(&self, action: libc::sigaction) -> bool {
        let at = self.places.iter().position(|place| place.get().is_none_or(|kept| is_same(kept, &action)));
        let Some(at) = at else { return false };
        let _ = self.places[at].set(action);
        let (number, old) = (at as u64 + 1, self.chain.load(SeqCst));
        let others = (0..16).map(|i| old >> (4 * i) & 15).filter(|other| ![0, number].contains(other));
        let new = others.zip(1..).fold(number, |chain, (other, i)| chain | other << (4 * i));
        self.chain.store(new, SeqCst);
        true
    }
    /// Takes the first off a chain.
    fn take_first(&self, chain: &mut u64) -> Option<&libc::sigaction> {
        let number = (*chain & 15) as usize;
        *chain >>= 4;
        self.places.get(number.checked_sub(1)?)?.get()
    }
}
/// By signal.
static BEFORE: [Before; 2] = [const { Before::none() }; 2];
fn before(signal: libc::c_int) -> &'static Before {
    &BEFORE[usize::from(signal == libc::SIGSEGV)]
}

/// Puts the handler for `signal` in place, in front of whatever is there.
pub fn install(signal: libc::c_int) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::sheltered(());
    let _one = ONE_AT_A_TIME.lock();
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zero bytes are a valid sigaction to fill in; ours stays valid for ever, as the library is never unloaded.
    // All signals are blocked while it runs: see gate.rs.
    unsafe {
        libc::sigaction(signal, core::ptr::null(), current.as_mut_ptr());
        let current = current.assume_init();
        let ours = on_fault as *const () as usize;
        if current.sa_sigaction == ours {
            return;
        }
        // Kept before ours is installed: a fault of another thread must find it at once. Where too many are kept already, the
        // new one stays in front, and has to pass our faults on.
        if !before(signal).keep(current) {
            return;
        }
        let mut new: libc::sigaction = core::mem::zeroed();
        new.sa_sigaction = ours;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigfillset(&mut new.sa_mask);
        let mut replaced = MaybeUninit::<libc::sigaction>::zeroed();
        INSTALLING.store(true, SeqCst);
        libc::sigaction(signal, &new, replaced.as_mut_ptr());
        let replaced = replaced.assume_init();
        // Another thread, of the program or of another copy of the library, has installed one meanwhile.
        if replaced.sa_sigaction != current.sa_sigaction && !before(signal).keep(replaced) {
            libc::sigaction(signal, &replaced, core::ptr::null_mut());
        }
        INSTALLING.store(false, SeqCst);
    }
}
/// Ours may be in place while what it replaced is not known yet. A foreign fault then simply happens again.
static INSTALLING: AtomicBool = AtomicBool::new(false);

/// Whether a program has installed what it had installed before.
fn is_same(one: &libc::sigaction, other: &libc::sigaction) -> bool {
    // SAFETY: two sets that are read.
    let masks = (1..=64).all(|signal| unsafe {
        libc::sigismember(&one.sa_mask, signal) == libc::sigismember(&other.sa_mask, signal)
    });
    masks && one.sa_sigaction == other.sa_sigaction && one.sa_flags == other.sa_flags
}

/// A note in the part of a siginfo_t that the kernel does not use: the handlers to which a copy of the library has yet to pass
/// the signal, for when a handler of the program passes it back to that copy. The kernel writes zeros there for each signal
/// since Linux 4.20, so nothing is left of a signal whose handler was left by longjmp. Older kernels never get here: without
/// Linux 5.7 no rung of the ladder works (fault/mod.rs), so there are no regions, for which alone `install` is called.
#[repr(C)]
struct Mark {
    /// Which copy of the library wrote it (the address of its `BEFORE`); 0: none has.
    copy: u64,
    /// The rest of that copy's chain.
    rest: u64,
}
const USED_BY_KERNEL: usize = 48;
const MARKS: usize = (size_of::<libc::siginfo_t>() - USED_BY_KERNEL) / size_of::<Mark>();
/// The handler that this signal goes to now.
fn next_of(before: &Before, info: *mut libc::siginfo_t) -> Option<&libc::sigaction> {
    let copy = (&raw const BEFORE).addr() as u64;
    let mut all = before.chain.load(SeqCst);
    // SAFETY: inside the siginfo_t that the kernel made for this handler, on this thread's stack, and aligned as it is.
    let marks: &mut [Mark; MARKS] = unsafe { &mut *info.byte_add(USED_BY_KERNEL).cast() };
    match marks.iter_mut().find(|mark| mark.copy == copy || mark.copy == 0) {
        Some(mark) => {
            if mark.copy == 0 {
                *mark = Mark { copy, rest: all };
            }
            before.take_first(&mut mark.rest)
        }
        None => before.take_first(&mut all),
    }
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
    // SAFETY: the kernel passes a valid siginfo_t.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let served = match is_fault(signal, code) && !is_broken(signal, code) {
        true => {
            let _uncancelled = NotCancelled::begin();
            engine::serve_fault(address, was_store(context))
        }
        false => Served::NotOurs,
    };
    match served {
        Served::Yes => {}
        Served::NotOurs if is_fault(signal, code) && INSTALLING.load(SeqCst) => {}
        Served::NotOurs => pass_on(signal, info, context),
        Served::Failed if signal == libc::SIGBUS => pass_on(signal, info, context),
        Served::Failed => raise_bus_error(address, context),
    }
    // SAFETY: errno of this thread.
    unsafe { *libc::__errno_location() = errno };
}

/// Whether an instruction caused the signal, and will again when it is run again. Otherwise somebody sent it, or it tells
/// of memory found broken that nobody waits for.
fn is_fault(signal: libc::c_int, code: libc::c_int) -> bool {
    code > 0 && (signal, code) != (libc::SIGBUS, libc::BUS_MCEERR_AO)
}

/// Whether the instruction touched memory that the machine found broken: bringing its chunk in does not help.
fn is_broken(signal: libc::c_int, code: libc::c_int) -> bool {
    (signal, code) == (libc::SIGBUS, libc::BUS_MCEERR_AR)
}

/// Passes the signal on to whoever handled it before.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(old) = next_of(before(signal), info) else { return end_by(signal, info) };
    match old.sa_sigaction {
        // SAFETY: valid, see `on_fault`.
        libc::SIG_IGN if !is_fault(signal, unsafe { (*info).si_code }) => {}
        // Ignoring a fault would only repeat it for ever: the kernel kills then, and so do we.
        libc::SIG_DFL | libc::SIG_IGN => end_by(signal, info),
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

/// Ends the program as without a handler. A fault happens again when its instruction is run again, and leaves a true core
/// dump. What does not happen again is sent again, to this thread, where it is pending until the handler returns.
fn end_by(signal: libc::c_int, info: *const libc::siginfo_t) {
    reset(signal);
    // SAFETY: valid, see `on_fault`.
    if !is_fault(signal, unsafe { (*info).si_code }) && !queue(signal, info) {
        // SAFETY: a plain call. It has no limit as queues have.
        unsafe { libc::raise(signal) };
    }
}
/// Back to the default.
fn reset(signal: libc::c_int) {
    // SAFETY: zero bytes and SIG_DFL are a valid action.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &action, core::ptr::null_mut());
    }
}

/// SIGBUS at `address` for this thread, pending until the handler returns. Where the program blocks or ignores it, it ends
/// the program, as when the system raises it for a fault: else the instruction would be run again for ever.
fn raise_bus_error(address: usize, context: *mut libc::c_void) {
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
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zero bytes are a valid sigaction to fill in; the kernel passes a ucontext_t, whose mask is the thread's again
    // when the handler returns.
    unsafe {
        libc::sigaction(libc::SIGBUS, core::ptr::null(), action.as_mut_ptr());
        let mask = &raw mut (*context.cast::<libc::ucontext_t>()).uc_sigmask;
        let blocked = libc::sigismember(mask, libc::SIGBUS) == 1;
        if blocked || action.assume_init().sa_sigaction == libc::SIG_IGN {
            reset(libc::SIGBUS);
            libc::sigdelset(mask, libc::SIGBUS);
        }
    }
    if !queue(libc::SIGBUS, (&raw const info).cast()) {
        reset(libc::SIGSEGV);
    }
}
/// Sends a signal to this thread. False where the system refuses.
fn queue(signal: libc::c_int, info: *const libc::siginfo_t) -> bool {
    // SAFETY: as large and laid out as a siginfo_t; a thread may queue a signal of any code to itself.
    unsafe {
        let (process, thread) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signal, info) == 0
    }
}
