//! System calls. Every call that can fail is made here, and asks [`injection`](super::injection) first.
//!
//! Each function makes one call, returns its error as a value, and decides nothing. What to do about an error is up to the
//! caller.
use super::floating_point::Environment;
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

/// Maps private anonymous memory, without reserving swap for it, at an address that the system chooses.
pub fn map(length: usize, protection: c_int) -> Result<usize, Errno> {
    // SAFETY: without MAP_FIXED nothing that exists is touched.
    unsafe { map_with(0, length, protection, libc::MAP_NORESERVE) }
}
/// Maps memory as [`map`] does, but accounted for: a system that refuses what it could never provide may do so (see proc(5),
/// overcommit_memory).
pub fn map_accounted(length: usize, protection: c_int) -> Result<usize, Errno> {
    // SAFETY: without MAP_FIXED nothing that exists is touched.
    unsafe { map_with(0, length, protection, 0) }
}
/// Maps private anonymous memory, without reserving swap for it, at `address`, in place of what is there.
///
/// # Safety
/// The range is the caller's, who does not need its contents any more.
pub unsafe fn map_over(address: usize, length: usize, protection: c_int) -> Result<(), Errno> {
    // SAFETY: by the caller's promise.
    unsafe { map_with(address, length, protection, libc::MAP_NORESERVE | libc::MAP_FIXED) }.map(|_| ())
}
unsafe fn map_with(address: usize, length: usize, protection: c_int, more: c_int) -> Result<usize, Errno> {
    check(Operation::Map)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more;
    // SAFETY: by the promises of the callers, only `map_over` replaces anything.
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
/// mremap. `target` is used only with MREMAP_FIXED.
///
/// # Safety
/// Both ranges are the caller's. Nothing uses what the flags make the call replace or move.
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
/// The range is the caller's, who does not need its contents any more if the advice ends them.
pub unsafe fn advise(address: usize, length: usize, advice: c_int) -> Result<(), Errno> {
    check(match advice {
        libc::MADV_DONTNEED => Operation::Discard,
        libc::MADV_POPULATE_WRITE => Operation::Populate,
        _ => Operation::Advise,
    })?;
    // SAFETY: by the caller's promise.
    done(unsafe { libc::madvise(address as *mut c_void, length, advice) })
}
/// munlock. It fails for memory that is not locked or not there, which is nothing to report.
pub fn unlock(address: usize, length: usize) {
    // SAFETY: only lets the system page the range again.
    unsafe { libc::munlock(address as *const c_void, length) };
}
/// mbind, with one node preferred: the one in `mask`.
pub fn prefer_node(address: usize, length: usize, mask: &[usize]) -> Result<(), Errno> {
    check(Operation::Bind)?;
    let (preferred, bits): (c_int, usize) = (1, size_of_val(mask) * 8 + 1); // MPOL_PREFERRED
    // SAFETY: this sets the policy of pages, never their contents. The mask outlives the call and has as many bits as it
    // says.
    done(unsafe { libc::syscall(libc::SYS_mbind, address, length, preferred, mask.as_ptr(), bits, 0) }
        as c_int)
}

/// open for reading and writing, with mode 0600.
pub fn open(path: &CStr, flags: c_int) -> Result<OwnedFd, Errno> {
    open_as(path, flags | libc::O_RDWR)
}
/// open for reading.
pub fn open_to_read(path: &CStr) -> Result<OwnedFd, Errno> {
    open_as(path, libc::O_RDONLY)
}
fn open_as(path: &CStr, flags: c_int) -> Result<OwnedFd, Errno> {
    check(Operation::Open)?;
    let _uncancelled = NotCancelled::begin();
    // SAFETY: the path ends with a zero. The call makes a descriptor that is ours alone.
    let file = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) };
    // SAFETY: the descriptor was just opened, and nobody else owns it.
    if file < 0 { Err(Errno::last()) } else { Ok(unsafe { OwnedFd::from_raw_fd(file) }) }
}
/// Another descriptor of the same file: the first free number from `least` on.
pub fn copy_descriptor(file: BorrowedFd, least: c_int) -> Result<OwnedFd, Errno> {
    check(Operation::Open)?;
    // SAFETY: the call makes a descriptor that is ours alone.
    let copy = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    // SAFETY: the descriptor was just made, and nobody else owns it.
    if copy < 0 { Err(Errno::last()) } else { Ok(unsafe { OwnedFd::from_raw_fd(copy) }) }
}
/// flock, without waiting. An error if somebody else has the file locked.
pub fn lock_file(file: BorrowedFd) -> Result<(), Errno> {
    check(Operation::Open)?;
    // SAFETY: the descriptor stays open during the call.
    done(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })
}
/// ftruncate.
pub fn set_length(file: BorrowedFd, length: u64) -> Result<(), Errno> {
    check(Operation::Write)?;
    // SAFETY: the call changes the file only.
    done(unsafe { libc::ftruncate(file.as_raw_fd(), length as i64) })
}
/// What is known of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileState {
    /// Which file it is: its device, and its number there.
    pub identity: (u64, u64),
    /// Length in bytes.
    pub size: u64,
    /// When the file was last changed, in nanoseconds since 1970.
    pub modified: u64,
}
fn state_from(fill: impl FnOnce(*mut libc::stat) -> c_int) -> Result<FileState, Errno> {
    // SAFETY: the structure consists of numbers, for which zero is a valid value.
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
    // SAFETY: the call fills in the structure.
    state_from(|state| unsafe { libc::fstat(file.as_raw_fd(), state) })
}
/// stat.
pub fn file_state(path: &CStr) -> Result<FileState, Errno> {
    // SAFETY: the path ends with a zero, and the call fills in the structure.
    state_from(|state| unsafe { libc::stat(path.as_ptr(), state) })
}
/// realpath, without allocating. None if it fails.
pub fn real_path<'a>(path: &CStr, buffer: &'a mut [u8; libc::PATH_MAX as usize]) -> Option<&'a CStr> {
    // SAFETY: the path ends with a zero, and the buffer has the length that the function asks for.
    let found = unsafe { libc::realpath(path.as_ptr(), buffer.as_mut_ptr().cast()) };
    if found.is_null() { None } else { CStr::from_bytes_until_nul(buffer).ok() }
}
/// atexit: `function` runs when the program exits (not when it is killed).
pub fn at_exit(function: extern "C" fn()) -> Result<(), Errno> {
    // SAFETY: the function lives as long as the process, because the library is never unloaded.
    if unsafe { libc::atexit(function) } == 0 { Ok(()) } else { Err(Errno(libc::ENOMEM)) }
}
/// unlink.
pub fn remove_name(path: &CStr) -> Result<(), Errno> {
    check(Operation::RemoveName)?;
    // SAFETY: the path ends with a zero.
    done(unsafe { libc::unlink(path.as_ptr()) })
}
/// EFBIG if a file that reaches `end` would exceed the process's limit. The system would end the program (SIGXFSZ).
pub fn within_limit(end: u64) -> Result<(), Errno> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call fills in the structure. If it fails, no limit is known.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    if limit.rlim_cur < end { Err(Errno(libc::EFBIG)) } else { Ok(()) }
}
/// fallocate: allocates blocks for a part of a file.
pub fn make_blocks(file: BorrowedFd, start: u64, length: u64) -> Result<(), Errno> {
    check(Operation::MakeBlocks)?;
    let _uncancelled = NotCancelled::begin();
    within_limit(start + length)?;
    // SAFETY: the call changes the file only.
    done(unsafe { libc::fallocate(file.as_raw_fd(), 0, start as i64, length as i64) })
}
/// fallocate: gives back the blocks of a part of a file.
pub fn punch_hole(file: BorrowedFd, start: u64, length: u64) -> Result<(), Errno> {
    check(Operation::PunchHole)?;
    let _uncancelled = NotCancelled::begin();
    let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the call changes the file only.
    done(unsafe { libc::fallocate(file.as_raw_fd(), flags, start as i64, length as i64) })
}
/// How many bytes of a transfer to ask for, given the fault to inject.
fn piece(fault: Option<Injected>, length: usize) -> Result<usize, Errno> {
    match fault {
        Some(Injected::Fail(errno)) => Err(errno),
        Some(Injected::Short) => Ok(length.min(super::map::PAGE)),
        _ => Ok(length),
    }
}
/// pwrite. Returns how many bytes were written.
pub fn write_at(file: BorrowedFd, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    let length = piece(injected(Operation::Write), bytes.len())?;
    within_limit(offset + length as u64)?;
    let _uncancelled = NotCancelled::begin();
    // SAFETY: the call only reads `bytes`.
    let wrote = unsafe { libc::pwrite(file.as_raw_fd(), bytes.as_ptr().cast(), length, offset as i64) };
    usize::try_from(wrote).map_err(|_| Errno::last())
}
/// pread. Returns how many bytes were read.
pub fn read_at(file: BorrowedFd, bytes: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let fault = injected(Operation::Read);
    let length = piece(fault, bytes.len())?;
    let _uncancelled = NotCancelled::begin();
    // SAFETY: the call only writes to `bytes`.
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
    // SAFETY: the call makes a descriptor and touches no memory.
    let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::c_long::from(flags)) } as c_int;
    // SAFETY: the descriptor was just opened, and nobody else owns it.
    if descriptor < 0 { Err(Errno::last()) } else { Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }) }
}
/// ioctl.
///
/// # Safety
/// `T` is the structure of the request, and the caller may do to memory what the request does.
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

/// Blocks all signals of the calling thread. Returns the set that was blocked before.
pub fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are local, and the calls fill them in. A thread may change its own mask.
    unsafe {
        let (mut all, mut before) = (core::mem::zeroed(), core::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    }
}
/// Blocks just these signals of the calling thread.
pub fn set_signals(signals: &libc::sigset_t) {
    // SAFETY: the set is only read. A thread may change its own mask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, signals, null_mut()) };
}

unsafe extern "C" {
    // Not in the libc crate.
    safe fn pthread_setcancelstate(state: c_int, before: Option<&mut c_int>) -> c_int;
}
/// While one of these lives, pthread_cancel does not end its thread; the cancellation waits for the thread's next
/// cancellation point after that. Without it, a cancellation in the middle of a call would unwind through the library and
/// leave locks held. So it is needed around whatever may be a cancellation point: opening, reading, writing and closing
/// files, sleeping, waiting for threads, and functions of the program. It costs two calls of about 5 ns.
pub struct NotCancelled {
    before: c_int,
    of_this_thread: PhantomData<*mut ()>,
}
impl NotCancelled {
    /// Keeps the calling thread from being cancelled until the result is dropped.
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

/// Starts a detached thread with a stack of `stack` bytes. All signals are blocked in it, because they are for the program's
/// own threads. The standard library's threads would use malloc, which would cost 64 MiB of address space for glibc's arena.
pub fn start_thread(stack: usize, main: extern "C" fn(*mut c_void) -> *mut c_void) -> Result<(), Errno> {
    check(Operation::StartThread)?;
    let _environment = Environment::DEFAULT.enter(); // the thread inherits it
    let before = block_signals();
    // SAFETY: the calls get local objects, which they fill in. What the thread runs lives as long as the process.
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
/// A set of the first 1024 processors.
#[derive(Clone, Copy)]
pub struct Processors(libc::cpu_set_t);
impl Processors {
    /// The empty set.
    pub fn none() -> Processors {
        // SAFETY: zero bytes are the empty set.
        Processors(unsafe { core::mem::zeroed() })
    }
    /// This set without one processor.
    pub fn without(mut self, processor: usize) -> Processors {
        if processor < libc::CPU_SETSIZE as usize {
            // SAFETY: the number lies within the set.
            unsafe { libc::CPU_CLR(processor, &mut self.0) };
        }
        self
    }
}
impl PartialEq for Processors {
    fn eq(&self, other: &Processors) -> bool {
        // SAFETY: the call reads two sets.
        unsafe { libc::CPU_EQUAL(&self.0, &other.0) }
    }
}

/// A thread that runs as long as it is asked about.
#[derive(Clone, Copy)]
pub struct LastingThread(libc::pthread_t);
impl LastingThread {
    /// Takes the thread, which can then not be joined any more.
    ///
    /// # Safety
    /// As long as the result is used, the thread runs, and the calling process is the one it runs in.
    pub unsafe fn new(thread: std::thread::JoinHandle<()>) -> LastingThread {
        LastingThread(std::os::unix::thread::JoinHandleExt::into_pthread_t(thread))
    }
    /// pthread_getaffinity_np: the processors that the thread may run on.
    pub fn affinity(self) -> Result<Processors, Errno> {
        check(Operation::Affinity)?;
        let mut set = Processors::none();
        // SAFETY: the call fills in the set. The thread runs, by the promise that `new` was given.
        let error = unsafe { libc::pthread_getaffinity_np(self.0, size_of::<libc::cpu_set_t>(), &mut set.0) };
        if error == 0 { Ok(set) } else { Err(Errno(error)) }
    }
    /// pthread_setaffinity_np: lets the thread run on these processors only.
    pub fn set_affinity(self, processors: Processors) -> Result<(), Errno> {
        check(Operation::Affinity)?;
        // SAFETY: the call reads the set. The thread runs, by the promise that `new` was given.
        let error =
            unsafe { libc::pthread_setaffinity_np(self.0, size_of::<libc::cpu_set_t>(), &processors.0) };
        if error == 0 { Ok(()) } else { Err(Errno(error)) }
    }
}
/// sched_getcpu: the processor that the calling thread is on. It may be on another one at once.
pub fn processor() -> Option<usize> {
    // SAFETY: the call takes nothing and changes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// pthread_key_create.
pub fn make_thread_key(destructor: unsafe extern "C" fn(*mut c_void)) -> Result<libc::pthread_key_t, Errno> {
    check(Operation::ThreadKey)?;
    let mut key = 0;
    // SAFETY: the call fills in `key`. The destructor lives as long as the process, because the library is never unloaded.
    let error = unsafe { libc::pthread_key_create(&mut key, Some(destructor)) };
    if error == 0 { Ok(key) } else { Err(Errno(error)) }
}
/// pthread_key_delete, of a key for which no thread has a value.
pub fn drop_thread_key(key: libc::pthread_key_t) {
    // SAFETY: for a number that is no key the call returns an error and does nothing.
    unsafe { libc::pthread_key_delete(key) };
}
/// pthread_setspecific.
///
/// # Safety
/// The key's destructor may be called with the value.
pub unsafe fn set_thread_value(key: libc::pthread_key_t, value: *const c_void) -> Result<(), Errno> {
    check(Operation::ThreadKey)?;
    // SAFETY: by the caller's promise. For a number that is no key the call returns an error.
    let error = unsafe { libc::pthread_setspecific(key, value) };
    if error == 0 { Ok(()) } else { Err(Errno(error)) }
}
