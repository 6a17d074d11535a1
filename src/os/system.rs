//! System calls: every one that can fail is made here, and asks [`injection`](super::injection) first.
//!
//! Thin: a call, its error as a value, nothing decided. What to do about an error is its caller's.
use super::injection::{Injected, Operation, check, injected};
use core::ffi::{CStr, c_int, c_ulong, c_void};
use core::marker::PhantomData;
use core::ptr::null_mut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub use super::errno::Errno;

fn done(result: c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(Errno::last()) }
}
fn mapped(address: *mut c_void) -> Result<usize, Errno> {
    if address == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(address as usize) }
}

/// Private anonymous memory without reserve, at an address of the system's choice.
pub fn map(length: usize, protection: c_int) -> Result<usize, Errno> {
    // SAFETY: without MAP_FIXED nothing that exists is touched.
    unsafe { map_with(0, length, protection, libc::MAP_NORESERVE) }
}
/// The same, except that a system which refuses what it could never provide (see proc(5), overcommit_memory) may do so.
pub fn map_accounted(length: usize, protection: c_int) -> Result<usize, Errno> {
    // SAFETY: without MAP_FIXED nothing that exists is touched.
    unsafe { map_with(0, length, protection, 0) }
}
/// Private anonymous memory without reserve at `address`, in place of what is there.
///
/// # Safety
/// The range is the caller's, who needs what it holds no more.
pub unsafe fn map_over(address: usize, length: usize, protection: c_int) -> Result<(), Errno> {
    // SAFETY: by the caller's promise.
    unsafe { map_with(address, length, protection, libc::MAP_NORESERVE | libc::MAP_FIXED) }.map(|_| ())
}
unsafe fn map_with(address: usize, length: usize, protection: c_int, more: c_int) -> Result<usize, Errno> {
    check(Operation::Map)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more;
    // SAFETY: by the promises of the callers.
    mapped(unsafe { libc::mmap(address as *mut c_void, length, protection, flags, -1, 0) })
}
/// munmap.
///
/// # Safety
/// The range is the caller's, and nothing uses it any more.
pub unsafe fn unmap(address: usize, length: usize) -> Result<(), Errno> {
    check(Operation::Unmap)?;
    // SAFETY: by the caller's promise.
    done(unsafe { libc::munmap(address as *mut c_void, length) })
}
/// mprotect.
///
/// # Safety
/// The range is the caller's, and no reference into it is used against the new protection.
pub unsafe fn protect(address: usize, length: usize, protection: c_int) -> Result<(), Errno> {
    check(Operation::Protect)?;
    // SAFETY: by the caller's promise.
    done(unsafe { libc::mprotect(address as *mut c_void, length, protection) })
}
/// mremap; `target` counts with MREMAP_FIXED only.
///
/// # Safety
/// Both ranges are the caller's; what the flags make the call replace or move is not in use.
pub unsafe fn remap(
    address: usize,
    old: usize,
    new: usize,
    flags: c_int,
    target: usize,
) -> Result<usize, Errno> {
    check(Operation::Remap)?;
    // SAFETY: by the caller's promise.
    mapped(unsafe { libc::mremap(address as *mut c_void, old, new, flags, target as *mut c_void) })
}
/// madvise.
///
/// # Safety
/// The range is the caller's, who needs its contents no more if the advice ends them.
pub unsafe fn advise(address: usize, length: usize, advice: c_int) -> Result<(), Errno> {
    check(match advice {
        libc::MADV_DONTNEED => Operation::Discard,
        libc::MADV_POPULATE_WRITE => Operation::Populate,
        _ => Operation::Advise,
    })?;
    // SAFETY: by the caller's promise.
    done(unsafe { libc::madvise(address as *mut c_void, length, advice) })
}
/// munlock. Memory that is not locked, or not there, is none of its business: nothing to report.
pub fn unlock(address: usize, length: usize) {
    // SAFETY: only lets the system page the range again.
    unsafe { libc::munlock(address as *const c_void, length) };
}
/// mbind with one node preferred; `mask` names it.
pub fn prefer_node(address: usize, length: usize, mask: &[usize]) -> Result<(), Errno> {
    check(Operation::Bind)?;
    let (preferred, bits): (c_int, usize) = (1, size_of_val(mask) * 8 + 1); // MPOL_PREFERRED
    // SAFETY: sets the policy of pages, never their contents; the mask outlives the call and holds the bits it says.
    done(unsafe { libc::syscall(libc::SYS_mbind, address, length, preferred, mask.as_ptr(), bits, 0) }
        as c_int)
}

/// open, for reading and writing, mode 0600.
pub fn open(path: &CStr, flags: c_int) -> Result<OwnedFd, Errno> {
    open_as(path, flags | libc::O_RDWR)
}
/// open, for reading.
pub fn open_to_read(path: &CStr) -> Result<OwnedFd, Errno> {
    open_as(path, libc::O_RDONLY)
}
fn open_as(path: &CStr, flags: c_int) -> Result<OwnedFd, Errno> {
    check(Operation::Open)?;
    let _uncancelled = NotCancelled::begin();
    // SAFETY: a zero-terminated path; makes a descriptor that is ours alone.
    let file = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) };
    // SAFETY: just opened.
    if file < 0 { Err(Errno::last()) } else { Ok(unsafe { OwnedFd::from_raw_fd(file) }) }
}
/// The same file by another descriptor, the first free one from `least` on.
pub fn copy_descriptor(file: BorrowedFd, least: c_int) -> Result<OwnedFd, Errno> {
    check(Operation::Open)?;
    // SAFETY: makes a descriptor that is ours alone.
    let copy = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    // SAFETY: just made.
    if copy < 0 { Err(Errno::last()) } else { Ok(unsafe { OwnedFd::from_raw_fd(copy) }) }
}
/// flock, without waiting: whether nobody else has the file locked.
pub fn lock_file(file: BorrowedFd) -> Result<(), Errno> {
    check(Operation::Open)?;
    // SAFETY: a descriptor that stays open during the call.
    done(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })
}
/// ftruncate.
pub fn set_length(file: BorrowedFd, length: u64) -> Result<(), Errno> {
    check(Operation::Write)?;
    // SAFETY: changes the file only.
    done(unsafe { libc::ftruncate(file.as_raw_fd(), length as i64) })
}
/// What is known of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileState {
    /// Which it is: its device and its number there.
    pub identity: (u64, u64),
    /// Bytes.
    pub size: u64,
    /// When it was changed last, nanoseconds since 1970.
    pub modified: u64,
}
fn state_from(fill: impl FnOnce(*mut libc::stat) -> c_int) -> Result<FileState, Errno> {
    // SAFETY: plain numbers, for which zeros are a value.
    let mut state: libc::stat = unsafe { core::mem::zeroed() };
    done(fill(&mut state))?;
    let modified = state.st_mtime.wrapping_mul(1_000_000_000).wrapping_add(state.st_mtime_nsec);
    Ok(FileState {
        identity: (state.st_dev, state.st_ino),
        size: state.st_size as u64,
        modified: modified as u64,
    })
}
/// fstat.
pub fn state_of(file: BorrowedFd) -> Result<FileState, Errno> {
    // SAFETY: fills in the structure.
    state_from(|state| unsafe { libc::fstat(file.as_raw_fd(), state) })
}
/// stat.
pub fn file_state(path: &CStr) -> Result<FileState, Errno> {
    // SAFETY: a zero-terminated path; fills in the structure.
    state_from(|state| unsafe { libc::stat(path.as_ptr(), state) })
}
/// realpath, without allocating.
pub fn real_path<'a>(path: &CStr, buffer: &'a mut [u8; libc::PATH_MAX as usize]) -> Option<&'a CStr> {
    // SAFETY: a zero-terminated path, and a buffer of the length that the function wants.
    let found = unsafe { libc::realpath(path.as_ptr(), buffer.as_mut_ptr().cast()) };
    if found.is_null() { None } else { CStr::from_bytes_until_nul(buffer).ok() }
}
/// atexit: `function` runs when the program ends by itself.
pub fn at_exit(function: extern "C" fn()) -> Result<(), Errno> {
    // SAFETY: a function that lives as long as the process (the library is never unloaded).
    if unsafe { libc::atexit(function) } == 0 { Ok(()) } else { Err(Errno(libc::ENOMEM)) }
}
/// unlink.
pub fn remove_name(path: &CStr) -> Result<(), Errno> {
    check(Operation::RemoveName)?;
    // SAFETY: a zero-terminated path.
    done(unsafe { libc::unlink(path.as_ptr()) })
}
/// EFBIG for a file that would come to end beyond the process's limit: the system would end the program (SIGXFSZ).
pub fn within_limit(end: u64) -> Result<(), Errno> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: fills in the structure; where it fails there is no limit to know of.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    if limit.rlim_cur < end { Err(Errno(libc::EFBIG)) } else { Ok(()) }
}
/// fallocate: makes blocks for a part of a file.
pub fn make_blocks(file: BorrowedFd, start: u64, length: u64) -> Result<(), Errno> {
    check(Operation::MakeBlocks)?;
    let _uncancelled = NotCancelled::begin();
    within_limit(start + length)?;
    // SAFETY: changes the file only.
    done(unsafe { libc::fallocate(file.as_raw_fd(), 0, start as i64, length as i64) })
}
/// fallocate: gives the blocks of a part of a file back.
pub fn punch_hole(file: BorrowedFd, start: u64, length: u64) -> Result<(), Errno> {
    check(Operation::PunchHole)?;
    let _uncancelled = NotCancelled::begin();
    let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: changes the file only.
    done(unsafe { libc::fallocate(file.as_raw_fd(), flags, start as i64, length as i64) })
}
/// How much of a transfer is asked for.
fn piece(fault: Option<Injected>, length: usize) -> Result<usize, Errno> {
    match fault {
        Some(Injected::Fail(errno)) => Err(errno),
        Some(Injected::Short) => Ok(length.min(super::map::PAGE)),
        _ => Ok(length),
    }
}
/// pwrite: how many bytes went.
pub fn write_at(file: BorrowedFd, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    let length = piece(injected(Operation::Write), bytes.len())?;
    within_limit(offset + length as u64)?;
    let _uncancelled = NotCancelled::begin();
    // SAFETY: reads `bytes` only.
    let wrote = unsafe { libc::pwrite(file.as_raw_fd(), bytes.as_ptr().cast(), length, offset as i64) };
    usize::try_from(wrote).map_err(|_| Errno::last())
}
/// pread: how many bytes came.
pub fn read_at(file: BorrowedFd, bytes: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let fault = injected(Operation::Read);
    let length = piece(fault, bytes.len())?;
    let _uncancelled = NotCancelled::begin();
    // SAFETY: writes to `bytes` only.
    let got = unsafe { libc::pread(file.as_raw_fd(), bytes.as_mut_ptr().cast(), length, offset as i64) };
    let got = usize::try_from(got).map_err(|_| Errno::last())?;
    if fault == Some(Injected::Damage) && got > 0 {
        bytes[got / 3] ^= 0x10;
    }
    Ok(got)
}

/// The userfaultfd call.
pub fn userfaultfd(flags: c_int) -> Result<OwnedFd, Errno> {
    check(Operation::Userfaultfd)?;
    // SAFETY: makes a descriptor; touches no memory.
    let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::c_long::from(flags)) } as c_int;
    // SAFETY: just opened.
    if descriptor < 0 { Err(Errno::last()) } else { Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }) }
}
/// ioctl.
///
/// # Safety
/// `T` is the structure of the request, and what that does to memory is the caller's to do.
pub unsafe fn control<T>(
    operation: Operation,
    descriptor: c_int,
    request: c_ulong,
    argument: &mut T,
) -> Result<(), Errno> {
    check(operation)?;
    // SAFETY: by the caller's promise.
    done(unsafe { libc::ioctl(descriptor, request, core::ptr::from_mut(argument)) })
}

/// Blocks all signals of the calling thread. Gives what it had blocked before.
pub fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are local, and filled in by the calls; a thread may change its own mask.
    unsafe {
        let (mut all, mut before) = (core::mem::zeroed(), core::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    }
}
/// Blocks these signals of the calling thread and no others.
pub fn set_signals(signals: &libc::sigset_t) {
    // SAFETY: a set that is read; a thread may change its own mask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, signals, null_mut()) };
}

unsafe extern "C" {
    // Not in the libc crate.
    safe fn pthread_setcancelstate(state: c_int, before: Option<&mut c_int>) -> c_int;
}
/// While one of these lives, pthread_cancel does not end its thread: a cancellation waits for the thread's next cancellation
/// point after that. One in the middle of a call would unwind through the library and leave locks held. So it is needed around
/// whatever may be a cancellation point: opening, reading, writing and closing files, sleeping, waiting for threads, functions
/// of the program. Costs two calls of about 5 ns.
pub struct NotCancelled {
    before: c_int,
    of_this_thread: PhantomData<*mut ()>,
}
impl NotCancelled {
    /// The calling thread is not cancelled from now on.
    pub fn begin() -> NotCancelled {
        const DISABLE: c_int = 1;
        let mut before = 0;
        pthread_setcancelstate(DISABLE, Some(&mut before));
        NotCancelled { before, of_this_thread: PhantomData }
    }
}
impl Drop for NotCancelled {
    fn drop(&mut self) {
        pthread_setcancelstate(self.before, None);
    }
}

/// Starts a detached thread with a stack of `stack` bytes and all signals blocked: they are for the program's own.
/// Without the standard library, whose threads use malloc: that would cost 64 MiB of address space for glibc's arena.
pub fn start_thread(stack: usize, main: extern "C" fn(*mut c_void) -> *mut c_void) -> Result<(), Errno> {
    check(Operation::StartThread)?;
    let before = block_signals();
    // SAFETY: plain calls on local objects that each is made to fill in; what the thread runs lives for ever.
    let error = unsafe {
        let mut attributes = core::mem::zeroed();
        let mut thread = core::mem::zeroed();
        let mut error = libc::pthread_attr_init(&mut attributes);
        if error == 0 {
            libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
            libc::pthread_attr_setstacksize(&mut attributes, stack);
            error = libc::pthread_create(&mut thread, &attributes, main, null_mut());
            libc::pthread_attr_destroy(&mut attributes);
        }
        error
    };
    set_signals(&before);
    if error == 0 { Ok(()) } else { Err(Errno(error)) }
}
/// Some of the first 1024 processors.
#[derive(Clone, Copy)]
pub struct Processors(libc::cpu_set_t);
impl Processors {
    /// None of them.
    pub fn none() -> Processors {
        // SAFETY: all-zero bytes are the empty set.
        Processors(unsafe { core::mem::zeroed() })
    }
    /// All of these but one.
    pub fn without(mut self, processor: usize) -> Processors {
        if processor < libc::CPU_SETSIZE as usize {
            // SAFETY: inside the set.
            unsafe { libc::CPU_CLR(processor, &mut self.0) };
        }
        self
    }
}
impl PartialEq for Processors {
    fn eq(&self, other: &Processors) -> bool {
        // SAFETY: reads two sets.
        unsafe { libc::CPU_EQUAL(&self.0, &other.0) }
    }
}

/// A thread that never ends.
#[derive(Clone, Copy)]
pub struct LastingThread(libc::pthread_t);
impl LastingThread {
    /// Gives up joining it.
    ///
    /// # Safety
    /// As long as it is asked about, the thread runs, and this is the process it runs in.
    pub unsafe fn new(thread: std::thread::JoinHandle<()>) -> LastingThread {
        LastingThread(std::os::unix::thread::JoinHandleExt::into_pthread_t(thread))
    }
    /// The processors it may run on. pthread_getaffinity_np.
    pub fn affinity(self) -> Result<Processors, Errno> {
        check(Operation::Affinity)?;
        let mut set = Processors::none();
        // SAFETY: fills in the set; the thread runs, by the rule of `new`.
        let error = unsafe { libc::pthread_getaffinity_np(self.0, size_of::<libc::cpu_set_t>(), &mut set.0) };
        if error == 0 { Ok(set) } else { Err(Errno(error)) }
    }
    /// Lets it run on these only. pthread_setaffinity_np.
    pub fn set_affinity(self, processors: Processors) -> Result<(), Errno> {
        check(Operation::Affinity)?;
        // SAFETY: reads the set; the thread runs, by the rule of `new`.
        let error =
            unsafe { libc::pthread_setaffinity_np(self.0, size_of::<libc::cpu_set_t>(), &processors.0) };
        if error == 0 { Ok(()) } else { Err(Errno(error)) }
    }
}
/// The processor that the calling thread is on; it may be on another one right after. sched_getcpu.
pub fn processor() -> Option<usize> {
    // SAFETY: takes nothing and touches nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// pthread_key_create.
pub fn make_thread_key(destructor: unsafe extern "C" fn(*mut c_void)) -> Result<libc::pthread_key_t, Errno> {
    check(Operation::ThreadKey)?;
    let mut key = 0;
    // SAFETY: fills in `key`; the destructor lives as long as the process (the library is never unloaded).
    let error = unsafe { libc::pthread_key_create(&mut key, Some(destructor)) };
    if error == 0 { Ok(key) } else { Err(Errno(error)) }
}
/// pthread_key_delete, of a key that no thread has a value for.
pub fn drop_thread_key(key: libc::pthread_key_t) {
    // SAFETY: a key that is none is an error value, and then there is nothing to drop.
    unsafe { libc::pthread_key_delete(key) };
}
/// pthread_setspecific.
///
/// # Safety
/// The key's destructor may have the value.
pub unsafe fn set_thread_value(key: libc::pthread_key_t, value: *const c_void) -> Result<(), Errno> {
    check(Operation::ThreadKey)?;
    // SAFETY: by the caller's promise. A key that is none is an error value.
    let error = unsafe { libc::pthread_setspecific(key, value) };
    if error == 0 { Ok(()) } else { Err(Errno(error)) }
}
