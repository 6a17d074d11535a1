//! The calling thread's record: made on first use, found by one load, dissolved when the thread ends.
//!
//! - Upper layers keep in it what they have for each thread (heap/cache.rs its caches, error.rs the last error).
//! - At the thread's exit the record is taken from the thread, and the function given to [`at_exit`] runs with it. From then
//!   on the thread has no record, and whoever asks for one takes the path without. So destructors that run later still may
//!   allocate and free.
//! - Where nothing is stored, a record points at the [`Sentinel`], which is all zeroes, so fast paths may follow the pointer
//!   without a check.
use super::{records, system};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

/// Bytes of the longest error message kept.
pub const MESSAGE: usize = 256;

/// Number of heaps whose caches are in the record itself.
pub const NEAR: usize = 256;

/// Bytes of the [`Sentinel`]: enough for the largest thing that fast paths read through a record (heap/cache.rs).
pub const SENTINEL_BYTES: usize = 4096;
/// Bytes that are zero for ever. A record points at them where nothing is stored.
#[repr(C, align(64))]
pub struct Sentinel([u8; SENTINEL_BYTES]);
static SENTINEL: Sentinel = Sentinel([0; SENTINEL_BYTES]);
/// The address of the sentinel.
pub const fn sentinel() -> *mut u8 {
    (&raw const SENTINEL).cast::<u8>().cast_mut()
}

/// What a thread owns. Fast paths do not read what comes first: see heap/span.rs about 4 KiB aliasing.
#[repr(C)]
pub struct Record {
    /// The message of the last error, and that of a failure not yet reported. Both end with a zero byte.
    pub messages: core::cell::UnsafeCell<[[u8; MESSAGE]; 2]>,
    /// This thread's caches of the first [`NEAR`] heaps, by the heaps' ids; [`sentinel`] where there is none.
    pub near: [AtomicPtr<u8>; NEAR],
    /// This thread's caches of all further heaps. The thread itself makes the table longer, under the lock of
    /// heap/registry.rs.
    pub far: AtomicPtr<AtomicPtr<u8>>,
    /// Number of entries of `far`.
    pub far_capacity: AtomicU32,
    /// Code of the last error.
    pub last_error: AtomicU32,
    /// Set while a stack is walked or named (heap/debug/trace.rs).
    pub in_trace: AtomicBool,
}

/// A bit of a thread's *mark*, a thread-local word that serves while the thread has no record. The bit says that the record
/// is gone for good. The bits above it are the code of the last error, so that a thread for which there was no memory has
/// one too.
const ENDED: usize = 1;

unsafe extern "C" {
    safe fn unimem_thread_record_address() -> *mut *mut Record;
    safe fn unimem_thread_mark_address() -> *mut usize;
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn pointer() -> *mut Record {
    let record: *mut Record;
    // SAFETY: this reads the initial-exec variable of thread_pointer.c, whose offset the linker resolves.
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
#[cfg(all(target_arch = "aarch64", not(miri)))]
#[inline(always)]
fn pointer() -> *mut Record {
    let record: *mut Record;
    // SAFETY: this reads the initial-exec variable of thread_pointer.c, whose offset the linker resolves. The offset is in
    // one register throughout, as linkers expect that put the offset itself in place of where it is found.
    unsafe {
        core::arch::asm!(
            "adrp {0}, :gottprel:unimem_thread_record",
            "ldr {0}, [{0}, :gottprel_lo12:unimem_thread_record]",
            "mrs {1}, tpidr_el0",
            "ldr {0}, [{1}, {0}]",
            out(reg) record,
            out(reg) _,
            options(nostack, preserves_flags, readonly, pure)
        );
    }
    record
}
#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
#[inline(always)]
fn pointer() -> *mut Record {
    // SAFETY: this is the address of a thread-local variable of the calling thread.
    unsafe { *unimem_thread_record_address() }
}
fn set_pointer(record: *mut Record) {
    // SAFETY: this is the address of a thread-local variable of the calling thread.
    unsafe { *unimem_thread_record_address() = record };
}
fn mark() -> usize {
    // SAFETY: this is the address of a thread-local variable of the calling thread.
    unsafe { *unimem_thread_mark_address() }
}
fn set_mark(mark: usize) {
    // SAFETY: this is the address of a thread-local variable of the calling thread.
    unsafe { *unimem_thread_mark_address() = mark };
}

/// This thread's record if it has one.
#[inline(always)]
pub fn existing() -> Option<&'static Record> {
    // SAFETY: the pointer is null, or `current` of this thread has set it. It is set back to null before the record is
    // released.
    unsafe { pointer().as_ref() }
}

/// This thread's record; it is made if there is none. None when memory is short or the thread's exit function has run.
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
    // SAFETY: the memory is fresh, and zero bytes are a valid record.
    let made = unsafe { record.as_ref() };
    made.near.iter().for_each(|near| near.store(sentinel(), Relaxed));
    made.last_error.store((before >> 1) as u32, Relaxed);
    // The C library may allocate memory for the value, from us if we are its malloc. That call must find a thread without a
    // record, and not make one.
    set_mark(before | ENDED);
    // SAFETY: only `ended` reads the pointer back, and takes it for what it is.
    let kept = unsafe { system::set_thread_value(key, record.as_ptr().cast()) };
    if kept.is_err() {
        set_mark(before);
        // SAFETY: nobody has seen the record. It owns nothing, so no destructor has to run.
        unsafe { records::release(record.cast(), size_of::<Record>()) };
        return None;
    }
    // In this order, as in `ended`: a signal handler that allocates in between finds no record, and makes none either.
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
/// Sets the code of the calling thread's last error, whether it has a record or not.
pub fn set_last_error(code: u32) {
    match existing() {
        Some(record) => record.last_error.store(code, Relaxed),
        None => set_mark((code as usize) << 1 | mark() & ENDED),
    }
}

static AT_EXIT: AtomicPtr<()> = AtomicPtr::new(null_mut());
/// Sets the function that runs with a thread's record when the thread ends. The thread has no record any more while it runs.
pub fn at_exit(function: fn(&'static Record)) {
    AT_EXIT.store(function as *mut (), Release);
}

/// The key whose destructor is `ended`. There is no `Once`, which a forked child could inherit half done. Threads that need
/// the key first at the same moment make one each, and all keys but one are dropped.
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
    // A thread of a forked child may have the stack of a thread that the fork found in the middle of its destructors. Then
    // the C library (glibc 2.36) has left it that thread's values. That thread's record is nobody's any more, and the heap
    // has taken over what it held.
    if !core::ptr::eq(record.cast(), pointer()) {
        return;
    }
    set_mark(ENDED);
    set_pointer(null_mut());
    let function = AT_EXIT.load(Acquire);
    if !function.is_null() {
        // SAFETY: only `at_exit` stores here, and what it stores is a function of this type. The record was this thread's
        // and is still whole.
        unsafe { core::mem::transmute::<*mut (), fn(&'static Record)>(function)(&*record.cast()) };
    }
    // SAFETY: the thread does not refer to the record any more.
    unsafe { records::release(NonNull::new_unchecked(record.cast()), size_of::<Record>()) };
}
