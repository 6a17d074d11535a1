//! Signal handlers: faults in tiered memory are served where they happen, all others go to the program's handler.
//!
//! A handler runs on whatever stack the thread has for signals, which may be small. So it only finds out whose fault
//! it is; the work is done on stacks of our own (workspace.rs).
//!
//! A program may install a handler after ours. Then the next allocation of tiered memory puts our handler in front
//! again, and keeps the program's to pass foreign faults on to it. If that handler passes a fault back to ours, ours
//! passes it to the handler kept before it.
use crate::os::lock::Mutex;
use crate::os::system::NotCancelled;
use crate::tiers::engine::{self, Served};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::OnceLock;

/// How many different handlers of the program are kept for each signal.
const PLACES: usize = 15;
/// The handlers that ours was put in front of.
struct Before {
    /// Each handler once, in no order. A place that holds one never changes.
    places: [OnceLock<libc::sigaction>; PLACES],
    /// The order of the handlers: four bits for each, the number of its place from 1 on. The lowest bits are for the
    /// handler that was in front last; 0 ends the chain. A handler that is installed again moves to the front, so a
    /// program that installs handlers in turn takes up one place for each.
    chain: AtomicU64,
}
impl Before {
    const fn none() -> Before {
        Before { places: [const { OnceLock::new() }; PLACES], chain: AtomicU64::new(0) }
    }
    /// Puts `action` first in the chain. Returns false if too many others are kept. Called by one thread at a time.
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
    /// Takes the first handler off a chain.
    fn take_first(&self, chain: &mut u64) -> Option<&libc::sigaction> {
        let number = (*chain & 15) as usize;
        *chain >>= 4;
        self.places.get(number.checked_sub(1)?)?.get()
    }
}
/// For SIGBUS and for SIGSEGV.
static BEFORE: [Before; 2] = [const { Before::none() }; 2];
fn before(signal: libc::c_int) -> &'static Before {
    &BEFORE[usize::from(signal == libc::SIGSEGV)]
}

/// Installs our handler for `signal`, in front of whatever is there.
pub fn install(signal: libc::c_int) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::sheltered(());
    let _one = ONE_AT_A_TIME.lock();
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zero bytes are a valid sigaction to fill in. Our handler stays valid for ever, as the library is never
    // unloaded. All signals are blocked while it runs (gate.rs says why).
    unsafe {
        libc::sigaction(signal, core::ptr::null(), current.as_mut_ptr());
        let current = current.assume_init();
        let ours = on_fault as *const () as usize;
        if current.sa_sigaction == ours {
            return;
        }
        // The current handler is kept before ours is installed, because a fault of another thread must find it at
        // once. If too many handlers are kept already, the current one stays in front, and has to pass our faults on.
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
        // Another thread, of the program or of another copy of the library, has installed a handler in between.
        if replaced.sa_sigaction != current.sa_sigaction && !before(signal).keep(replaced) {
            libc::sigaction(signal, &replaced, core::ptr::null_mut());
        }
        INSTALLING.store(false, SeqCst);
    }
}
/// Set while our handler may be in place but the handler that it replaced is not known yet. A foreign fault is then
/// left to happen again.
static INSTALLING: AtomicBool = AtomicBool::new(false);

/// Whether two handlers are the same: address, flags and mask.
fn is_same(one: &libc::sigaction, other: &libc::sigaction) -> bool {
    // SAFETY: the two sets are valid, and only read.
    let masks = (1..=64).all(|signal| unsafe {
        libc::sigismember(&one.sa_mask, signal) == libc::sigismember(&other.sa_mask, signal)
    });
    masks && one.sa_sigaction == other.sa_sigaction && one.sa_flags == other.sa_flags
}

/// A note in the part of a siginfo_t that the kernel does not use: which handlers a copy of the library has yet to
/// pass the signal to. It is read when a handler of the program passes the signal back to that copy.
///
/// Since Linux 4.20 the kernel writes zeros there for each signal, so nothing is left of a signal whose handler was
/// left by longjmp. Older kernels never get here: before Linux 5.7 no rung of the ladder works that serves faults
/// (fault/mod.rs), and `install` is called only for such a rung.
#[repr(C)]
struct Mark {
    /// Which copy of the library wrote the note (the address of its `BEFORE`); 0: none.
    copy: u64,
    /// What is left of that copy's chain.
    rest: u64,
}
const USED_BY_KERNEL: usize = 48;
const MARKS: usize = (size_of::<libc::siginfo_t>() - USED_BY_KERNEL) / size_of::<Mark>();
/// The handler to which this signal is passed next.
fn next_of(before: &Before, info: *mut libc::siginfo_t) -> Option<&libc::sigaction> {
    let copy = (&raw const BEFORE).addr() as u64;
    let mut all = before.chain.load(SeqCst);
    // SAFETY: the marks are inside the siginfo_t that the kernel made for this handler on this thread's stack, and
    // are aligned as it is.
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

/// Whether the fault was a store; None if the processor's context does not tell. It only tells whether a copy of the
/// chunk is worth keeping: nothing is lost where an atomic instruction counts as a load, as on aarch64.
fn was_store(context: *const libc::c_void) -> Option<bool> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the kernel passes a ucontext_t to handlers installed with SA_SIGINFO.
        let error =
            unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize] };
        Some(error & 2 != 0)
    }
    #[cfg(target_arch = "aarch64")]
    {
        use esr::RECORDS;
        // SAFETY: as above. The kernel's records are in the part of the context that libc keeps to itself.
        let records =
            unsafe { &*context.byte_add(RECORDS.start).cast::<[u8; RECORDS.end - RECORDS.start]>() };
        esr::of_fault(records).and_then(esr::was_store)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = context;
        None
    }
}
/// What an aarch64 kernel tells of a fault: the processor's ESR register, in a record of the signal's context.
#[cfg(any(target_arch = "aarch64", test))]
mod esr {
    /// Where the records are in a `ucontext_t`.
    #[cfg(target_arch = "aarch64")]
    pub const RECORDS: core::ops::Range<usize> = {
        use core::mem::offset_of;
        let before = offset_of!(libc::ucontext_t, uc_mcontext) + offset_of!(libc::mcontext_t, pstate) + 8;
        let start = before.next_multiple_of(16);
        let end = start + 4096;
        assert!(end <= size_of::<libc::ucontext_t>());
        start..end
    };
    const MAGIC: u32 = 0x4553_5201;

    /// Finds the register among the records. Each begins with four bytes that tell its kind and four with its length.
    /// One of zeros ends them.
    pub fn of_fault(mut records: &[u8]) -> Option<u64> {
        loop {
            let (kind, rest) = records.split_first_chunk()?;
            let (length, rest) = rest.split_first_chunk()?;
            if u32::from_le_bytes(*kind) == MAGIC {
                return rest.first_chunk().map(|esr| u64::from_le_bytes(*esr));
            }
            let length = u32::from_le_bytes(*length) as usize;
            records = records.get(length..).filter(|_| length > 0)?;
        }
    }
    /// Whether the register tells of a store; None if it does not tell of an access to data.
    pub fn was_store(esr: u64) -> Option<bool> {
        const DATA_ABORT: u64 = 0b10_0100;
        const WRITE: u64 = 1 << 6;
        (esr >> 26 & 0x3F == DATA_ABORT).then_some(esr & WRITE != 0)
    }
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: reads errno of this thread. It is restored below, because the interrupted code must not see it change.
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

/// Whether an instruction caused the signal, and will cause it again when it is run again. Otherwise another thread
/// or process sent the signal, or the signal reports broken memory that no instruction has touched.
fn is_fault(signal: libc::c_int, code: libc::c_int) -> bool {
    code > 0 && (signal, code) != (libc::SIGBUS, libc::BUS_MCEERR_AO)
}

/// Whether the instruction touched memory that the machine found broken. Bringing its chunk in does not help then.
fn is_broken(signal: libc::c_int, code: libc::c_int) -> bool {
    (signal, code) == (libc::SIGBUS, libc::BUS_MCEERR_AR)
}

/// Passes the signal on to the handler before ours.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(old) = next_of(before(signal), info) else { return end_by(signal, info) };
    match old.sa_sigaction {
        // SAFETY: valid, see `on_fault`.
        libc::SIG_IGN if !is_fault(signal, unsafe { (*info).si_code }) => {}
        // An ignored fault would only happen again for ever. The kernel ends the program in this case, and so does
        // this.
        libc::SIG_DFL | libc::SIG_IGN => end_by(signal, info),
        handler => {
            // SAFETY: this is the program's own handler, called as the kernel would call it: with its mask and its
            // arguments.
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

/// Ends the program as if there were no handler. A fault happens again when its instruction is run again, and then
/// leaves a true core dump. Any other signal is sent again to this thread, where it is pending until the handler
/// returns.
fn end_by(signal: libc::c_int, info: *const libc::siginfo_t) {
    reset(signal);
    // SAFETY: valid, see `on_fault`.
    if !is_fault(signal, unsafe { (*info).si_code }) && !queue(signal, info) {
        // SAFETY: `raise` takes no memory. Unlike queued signals it has no limit.
        unsafe { libc::raise(signal) };
    }
}
/// Sets the signal's action to the default.
fn reset(signal: libc::c_int) {
    // SAFETY: zero bytes and SIG_DFL are a valid action.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &action, core::ptr::null_mut());
    }
}

/// Sends SIGBUS at `address` to this thread, where it is pending until the handler returns. If the program blocks or
/// ignores SIGBUS, it ends the program, as when the system raises it for a fault. Otherwise the instruction would be
/// run again for ever.
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
    // SAFETY: zero bytes are a valid sigaction to fill in. The kernel passes a ucontext_t, whose mask becomes the
    // thread's again when the handler returns.
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
/// Queues a signal to this thread. Returns false if the system refuses.
fn queue(signal: libc::c_int, info: *const libc::siginfo_t) -> bool {
    // SAFETY: `info` points to memory of the size and layout of a siginfo_t. A thread may queue a signal of any code
    // to itself.
    unsafe {
        let (process, thread) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signal, info) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::esr;

    /// A kernel's records: floating-point registers (of 528 bytes), then ESR, then the end.
    fn records(register: u64) -> Vec<u8> {
        let mut bytes = [0x4650_8001_u32, 528].map(u32::to_le_bytes).as_flattened().to_vec();
        bytes.resize(528, 0xA5);
        bytes.extend_from_slice([0x4553_5201_u32, 16].map(u32::to_le_bytes).as_flattened());
        bytes.extend_from_slice(&register.to_le_bytes());
        bytes.resize(4096, 0);
        bytes
    }
    #[test]
    fn the_records_of_aarch64_tell_loads_from_stores() {
        // As Linux 6.12 gives them for a load and a store where no page is.
        for (register, store) in [(0x9200_0006, Some(false)), (0x9200_0046, Some(true)), (0x8200_0006, None)]
        {
            assert_eq!(esr::of_fault(&records(register)).map(esr::was_store), Some(store));
        }
    }
    #[test]
    fn records_without_the_register_tell_nothing() {
        let whole = records(0x9200_0046);
        for length in 0..=528 + 15 {
            assert_eq!(esr::of_fault(&whole[..length]), None, "{length}");
        }
        assert_eq!(esr::of_fault(&[0; 4096]), None);
    }
    /// The kernel's own records, where it is one that writes them.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn a_fault_of_this_thread_tells_whether_it_was_a_store() {
        use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn note(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
            let store = super::was_store(context);
            SEEN.store(1 + store.map_or(2, usize::from), SeqCst);
            // SAFETY: the fault was in the page that the test mapped.
            unsafe {
                let page = ((*info).si_addr() as usize & !4095) as *mut libc::c_void;
                libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_WRITE);
            }
        }
        // In a process of its own: the handler is the process's.
        // SAFETY: the child only makes system calls, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: the page is the child's own, and the handler makes it accessible.
            unsafe {
                let mut action: libc::sigaction = core::mem::zeroed();
                action.sa_sigaction = note as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGSEGV, &action, core::ptr::null_mut());
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let map =
                    || libc::mmap(core::ptr::null_mut(), 4096, libc::PROT_NONE, flags, -1, 0).cast::<u8>();
                map().read_volatile();
                let load = SEEN.swap(0, SeqCst);
                map().write_volatile(1);
                let store = SEEN.load(SeqCst);
                libc::_exit((load * 10 + store) as i32);
            }
        }
        let mut status = 0;
        // SAFETY: waits for the child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        let seen = libc::WEXITSTATUS(status);
        // 1: a load, 2: a store, 3: the emulator does not tell.
        assert!(libc::WIFEXITED(status) && (seen == 12 || seen == 33), "{status:#x}");
        assert!(cfg!(target_arch = "aarch64") || seen == 12);
    }
}
