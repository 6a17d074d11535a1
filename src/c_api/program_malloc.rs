//! malloc and its kin for whole programs, on a heap of their own: what `libunimem-malloc.so` exports.
//!
//! The functions have names of ours here; the Makefile gives them malloc's when it links that library, so nothing else
//! of libunimem ever takes malloc's place. The heap's own records are mapped, and it asks for no topology, so the calls
//! that come back from the C library (starting a thread, thread-specific data) find either a working heap or, before a
//! thread has its record, the path without one. `UNIMEM_MAX_SIZE` caps the heap.
//!
//! As malloc: failures are NULL with ENOMEM; `free` keeps errno. A pointer that is not a live block is ignored by
//! `free` and counted; `realloc` of one is NULL.
use super::guard;
use crate::error::{Result, fail};
use crate::heap::fast::NO_HEAP;
use crate::heap::{Heap, HeapParams, MAX_ALIGNMENT, fast};
use crate::instance::config;
use crate::os::environment::variable;
use crate::os::lock::Mutex;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};

/// What every block is aligned to, as the C standard's `max_align_t` wants.
const ALIGNMENT: usize = 16;
const PAGE: usize = crate::os::map::PAGE;
static HEAP: AtomicPtr<Heap> = AtomicPtr::new(null_mut());
/// Its number, for heap/fast.rs.
static ID: AtomicUsize = AtomicUsize::new(NO_HEAP);

fn heap() -> Result<&'static Heap> {
    // SAFETY: heap records live for ever, and only `make` stores here.
    match unsafe { HEAP.load(Acquire).as_ref() } {
        Some(heap) => Ok(heap),
        None => make(),
    }
}
#[cold]
fn make() -> Result<&'static Heap> {
    // No child inherits it taken: starting a thread allocates, so the heap is there before a second thread is.
    static MAKING: Mutex<()> = Mutex::new(());
    let _lock = MAKING.lock();
    // SAFETY: heap records live for ever, and only this function stores here.
    if let Some(heap) = unsafe { HEAP.load(Acquire).as_ref() } {
        return Ok(heap);
    }
    let limit = variable(c"UNIMEM_MAX_SIZE").and_then(|text| core::str::from_utf8(text).ok());
    let limit = limit.and_then(config::size).unwrap_or(0);
    let heap = Heap::create(&HeapParams { limit, placed: false, ..HeapParams::default() })?;
    HEAP.store(core::ptr::from_ref(heap).cast_mut(), Release);
    ID.store(heap.id(), Release);
    Ok(heap)
}

fn errno() -> &'static mut c_int {
    // SAFETY: this thread's own variable; the reference ends with the statement that takes it.
    unsafe { &mut *libc::__errno_location() }
}
/// Runs `f`; a failure is NULL with ENOMEM.
fn or_no_memory(f: impl FnOnce() -> Result<*mut c_void>) -> *mut c_void {
    let block = guard(null_mut(), f);
    if block.is_null() {
        *errno() = libc::ENOMEM;
    }
    block
}
fn aligned(alignment: usize, size: usize) -> Result<*mut c_void> {
    if alignment > MAX_ALIGNMENT {
        return fail!(InvalidArgument, "alignment {alignment} is over 1 GiB");
    }
    Ok(heap()?.allocate(size.max(1), alignment.max(ALIGNMENT))?.as_ptr().cast())
}

/// malloc: `size` bytes; 0 is a block too.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_malloc(size: usize) -> *mut c_void {
    match fast::allocate_for_malloc(ID.load(Relaxed), size) {
        Some(block) => block.as_ptr().cast(),
        None => malloc_slow(size),
    }
}
// A C function, as none of these unwinds: then the fast path ends in a jump and needs no frame.
#[cold]
extern "C" fn malloc_slow(size: usize) -> *mut c_void {
    if let Some(block) = fast::allocate_other(ID.load(Relaxed), size, ALIGNMENT, false) {
        return block.as_ptr().cast();
    }
    or_no_memory(|| aligned(ALIGNMENT, size))
}

/// free: NULL, and what is not a live block, is ignored.
///
/// # Safety
/// Nobody uses the block afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_program_free(ptr: *mut c_void) {
    if !fast::free(ID.load(Relaxed), ptr.cast()) {
        free_slow(ptr);
    }
}
#[cold]
extern "C" fn free_slow(ptr: *mut c_void) {
    if ptr.is_null() {
        return;
    }
    let before = *errno();
    guard((), || heap()?.free(ptr.cast()));
    *errno() = before;
}

/// calloc: `count` elements of `size` zeroed bytes.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_calloc(count: usize, size: usize) -> *mut c_void {
    or_no_memory(|| match count.checked_mul(size) {
        Some(bytes) => Ok(heap()?.allocate_zeroed(bytes.max(1), ALIGNMENT)?.as_ptr().cast()),
        None => fail!(OutOfMemory, "{count} elements of {size} bytes"),
    })
}

/// realloc: NULL allocates, 0 frees and is NULL.
///
/// # Safety
/// Nobody uses the old block afterwards, unless the result is NULL and `size` is not 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_program_realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    if ptr.is_null() {
        return unimem_program_malloc(size);
    }
    if size == 0 {
        // SAFETY: by the caller's promise.
        unsafe { unimem_program_free(ptr) };
        return null_mut();
    }
    or_no_memory(|| Ok(heap()?.reallocate(ptr.cast(), size)?.as_ptr().cast()))
}

/// reallocarray: realloc to `count` elements of `size` bytes.
///
/// # Safety
/// As for realloc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_program_reallocarray(
    ptr: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: by the caller's promise.
        Some(bytes) => unsafe { unimem_program_realloc(ptr, bytes) },
        None => or_no_memory(|| fail!(OutOfMemory, "{count} elements of {size} bytes")),
    }
}

/// memalign, and aligned_alloc: `alignment` is rounded up to a power of two.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_memalign(alignment: usize, size: usize) -> *mut c_void {
    or_no_memory(|| match alignment.checked_next_power_of_two() {
        Some(alignment) => aligned(alignment, size),
        None => fail!(InvalidArgument, "alignment {alignment}"),
    })
}

/// posix_memalign: EINVAL for an alignment that is no power of two or smaller than a pointer, ENOMEM; errno stays.
///
/// # Safety
/// `result` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_program_posix_memalign(
    result: *mut *mut c_void,
    alignment: usize,
    size: usize,
) -> c_int {
    if !alignment.is_power_of_two() || alignment < size_of::<*mut c_void>() {
        return libc::EINVAL;
    }
    let before = *errno();
    let block = unimem_program_memalign(alignment, size);
    *errno() = before;
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: by the caller's promise.
    unsafe { result.write(block) };
    0
}

/// valloc: aligned to a page.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_valloc(size: usize) -> *mut c_void {
    unimem_program_memalign(PAGE, size)
}

/// pvalloc: whole pages.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_pvalloc(size: usize) -> *mut c_void {
    match size.max(1).checked_next_multiple_of(PAGE) {
        Some(bytes) => unimem_program_memalign(PAGE, bytes),
        None => or_no_memory(|| fail!(OutOfMemory, "{size} bytes in whole pages")),
    }
}

/// malloc_usable_size: what was asked for; 0 for NULL and for what is not a live block.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_usable_size(ptr: *mut c_void) -> usize {
    guard(0, || Ok(heap()?.block(ptr.cast()).map_or(0, |block| block.size)))
}

/// malloc_trim: gives unused memory back to the system; 1 if there was any.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_trim(_pad: usize) -> c_int {
    guard(0, || Ok((heap()?.trim() > 0).into()))
}
