//! The calling thread's record: made on first use, found by one load, dissolved when the thread ends.
//!
//! Upper layers hang what they keep per thread into it (heap/cache.rs its caches, error.rs the last error). At thread
//! exit its record is taken from the thread, and the function given to [`at_exit`] runs with it; from then on the thread has
//! none, and whoever asks takes the path without one. That way destructors that run later still may allocate and free.
//!
//! A place in a record where nothing is stored points to [`SENTINEL`], which is zeros: fast paths follow it without asking.
use super::{records, system};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

/// Bytes of the longest error message kept.
pub const MESSAGE: usize = 256;

/// Heaps whose caches a record holds itself.
pub const NEAR: usize = 256;

/// Bytes of the [`Sentinel`]: as many as the largest thing in a record that fast paths read (heap/cache.rs).
pub const SENTINEL_BYTES: usize = 4096;
/// Zero bytes, for ever: what a place in a record points to where nothing is stored.
#[repr(C, align(64))]
pub struct Sentinel([u8; SENTINEL_BYTES]);
static SENTINEL: Sentinel = Sentinel([0; SENTINEL_BYTES]);
/// Where the sentinel is.
pub const fn sentinel() -> *mut u8 {
    (&raw const SENTINEL).cast::<u8>().cast_mut()
}

/// What a thread owns. Fast paths do not read what comes first, because of 4 KiB aliasing (heap/span.rs).
#[repr(C)]
pub struct Record {
    /// The message of the last error, and of a failure not yet reported; both end with a zero byte.
    pub messages: core::cell::UnsafeCell<[[u8; MESSAGE]; 2]>,
    /// This thread's caches of the first heaps, by the heaps' ids; [`sentinel`] where there is none.
    pub near: [AtomicPtr<u8>; NEAR],
    /// Those of all further heaps. Grown by its own thread, under the lock of heap/registry.rs.
    pub far: AtomicPtr<AtomicPtr<u8>>,
    /// Entries of `far`.
    pub far_capacity: AtomicU32,
    /// Code of the last error.
    pub last_error: AtomicU32,
    /// Set while a stack is walked or named (heap/debug/trace.rs).
    pub in_trace: AtomicBool,
}

/// A thread without a record has a *mark*, a thread-local word: this bit says that its record is gone for good, and above it
/// is the code of the last error, so that a thread for which there was no memory has one too.
const ENDED: usize = 1;

unsafe extern "C" {
    #[allow(dead_code)] // the assembly below finds the variable itself
    safe fn unimem_thread_record_address() -> *mut *mut Record;
    safe fn unimem_thread_mark_address() -> *mut usize;
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn pointer() -> *mut Record {
    let record: *mut Record;
    // SAFETY: reads the initial-exec variable of thread_pointer.c; the linker resolves its offset.
    unsafe {
        core::arch::asm!(
            "mov {0}, qword ptr [rip + unimem_thread_record@GOTTPOFF]",
            "mov {0}, qword ptr fs:[{0}]",
            out(reg) record,
            options(nostack, preserves_flags, readonly, pure)
        );
    }
    record
}
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
fn pointer() -> *mut Record {
    // SAFETY: the address of a thread-local variable of this very thread.
    unsafe { *unimem_thread_record_address() }
}
fn set_pointer(record: *mut Record) {
    // SAFETY: the address of a thread-local variable of this very thread.
    unsafe { *unimem_thread_record_address() = record };
}
fn mark() -> usize {
    // SAFETY: the address of a thread-local variable of this very thread.
    unsafe { *unimem_thread_mark_address() }
}
fn set_mark(mark: usize) {
    // SAFETY: the address of a thread-local variable of this very thread.
    unsafe { *unimem_thread_mark_address() = mark };
}

/// This thread's record if it has one.
#[inline(always)]
pub fn existing() -> Option<&'static Record> {
    // SAFETY: null, or set by `current` of this thread and set back before the record is released.
    unsafe { pointer().as_ref() }
}

/// This thread's record, made now if need be. None when memory is short or the thread is past its exit.
pub fn current() -> Option<&'static Record> {
    if let Some(record) = existing() {
        return Some(record);
    }
    let before = mark();
    if before & ENDED != 0 {
        return None;
    }
    let key = key()?;
    let record = records::allocate(size_of::<Record>())?.cast::<Record>();
    // SAFETY: fresh, and zero bytes are a valid record.
    let made = unsafe { record.as_ref() };
    made.near.iter().for_each(|near| near.store(sentinel(), Relaxed));
    made.last_error.store((before >> 1) as u32, Relaxed);
    // The C library may allocate for the value, from us if we are its malloc: that call finds a thread without a record.
    set_mark(before | ENDED);
    // SAFETY: a pointer that is only read back by `ended`, which takes it for what it is.
    let kept = unsafe { system::set_thread_value(key, record.as_ptr().cast()) };
    if kept.is_err() {
        set_mark(before);
        // SAFETY: nobody has seen it. All-zero bytes are a valid record, so no destructor is owed.
        unsafe { records::release(record.cast(), size_of::<Record>()) };
        return None;
    }
    // In this order, as in `ended`: a signal handler that allocates in between finds no record, and makes none.
    set_pointer(record.as_ptr());
    set_mark(before);
    Some(made)
}

/// The code of the calling thread's last error.
pub fn last_error() -> u32 {
    match existing() {
        Some(record) => record.last_error.load(Relaxed),
        None => (mark() >> 1) as u32,
    }
}
/// Sets it, with or without a record.
pub fn set_last_error(code: u32) {
    match existing() {
        Some(record) => record.last_error.store(code, Relaxed),
        None => set_mark((code as usize) << 1 | mark() & ENDED),
    }
}

static AT_EXIT: AtomicPtr<()> = AtomicPtr::new(null_mut());
/// Sets what runs with a thread's record when the thread ends, which has none any more.
pub fn at_exit(function: fn(&'static Record)) {
    AT_EXIT.store(function as *mut (), Release);
}

/// The key whose destructor is `ended`. Not through a `Once`, which a forked child could inherit half done: threads that
/// need it first at the same moment make one each, and all but one go.
fn key() -> Option<libc::pthread_key_t> {
    /// The key, plus one.
    static KEY: AtomicU64 = AtomicU64::new(0);
    if let Some(known) = KEY.load(Acquire).checked_sub(1) {
        return Some(known as libc::pthread_key_t);
    }
    let made = system::make_thread_key(ended).ok()?;
    match KEY.compare_exchange(0, u64::from(made) + 1, AcqRel, Acquire) {
        Ok(_) => Some(made),
        Err(first) => {
            system::drop_thread_key(made);
            Some((first - 1) as libc::pthread_key_t)
        }
    }
}

unsafe extern "C" fn ended(record: *mut libc::c_void) {
    // Where a thread of a forked child has the stack of one that the fork found among its destructors, the C library (glibc
    // 2.36) has left it that one's values. Its record is nobody's any more: the heap has taken over what hung in it.
    if !core::ptr::eq(record.cast(), pointer()) {
        return;
    }
    set_mark(ENDED);
    set_pointer(null_mut());
    let function = AT_EXIT.load(Acquire);
    if !function.is_null() {
        // SAFETY: stored by `at_exit` from a function of this very type; the record was this thread's and is still whole.
        unsafe { core::mem::transmute::<*mut (), fn(&'static Record)>(function)(&*record.cast()) };
    }
    // SAFETY: nothing of this thread holds the record any more.
    unsafe { records::release(NonNull::new_unchecked(record.cast()), size_of::<Record>()) };
}
