//! malloc and its kin for whole programs, on a heap of their own. `libunimem-malloc.so` exports them.
//!
//! - Names: the functions have names of ours here, and the Makefile gives them malloc's when it links that library. So
//!   nothing else of libunimem ever takes malloc's place.
//! - Recursion: the C library calls malloc while it serves us (when it starts a thread or makes thread-specific data).
//!   So the heap maps its own records and asks for no topology. Such a call finds either a working heap or, before a
//!   thread has its record, the path that needs none.
//! - Limit: `UNIMEM_MAX_SIZE` in the environment is the limit of the heap.
//! - Errors: as for malloc, a failure is NULL with ENOMEM, and else errno stays as it was. `free` ignores and counts a pointer
//!   that is not a live block; `realloc` returns NULL for it.
use super::{errno, guard, guard_free};
use crate::error::{Result, fail};
use crate::heap::fast::NO_HEAP;
use crate::heap::{Heap, HeapParams, MAX_ALIGNMENT, fast};
use crate::instance::config;
use crate::log::lock_quietly;
use crate::os::lock::Mutex;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};

/// Alignment of every block, as the C standard's `max_align_t` demands.
const ALIGNMENT: usize = 16;
const PAGE: usize = crate::os::map::PAGE;
static HEAP: AtomicPtr<Heap> = AtomicPtr::new(null_mut());
/// Number of the heap, for heap/fast.rs.
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
    // No child inherits this lock taken. To start a second thread allocates, so the heap is there before a second
    // thread is.
    static MAKING: Mutex<()> = Mutex::new(());
    let _lock = lock_quietly(&MAKING);
    // SAFETY: heap records live for ever, and only this function stores here.
    if let Some(heap) = unsafe { HEAP.load(Acquire).as_ref() } {
        return Ok(heap);
    }
    let heap =
        Heap::create(&HeapParams { limit: config::max_size(), placed: false, ..HeapParams::default() })?;
    HEAP.store(core::ptr::from_ref(heap).cast_mut(), Release);
    ID.store(heap.id(), Release);
    Ok(heap)
}

/// Runs `f`. If it fails, sets errno to ENOMEM and returns NULL; else errno stays as it was.
fn or_no_memory(f: impl FnOnce() -> Result<*mut c_void>) -> *mut c_void {
    let before = *errno();
    let block = guard(null_mut(), f);
    *errno() = if block.is_null() { libc::ENOMEM } else { before };
    block
}
fn aligned(alignment: usize, size: usize) -> Result<*mut c_void> {
    if alignment > MAX_ALIGNMENT {
        return fail!(InvalidArgument, "alignment {alignment} is over 1 GiB");
    }
    Ok(heap()?.allocate(size.max(1), alignment.max(ALIGNMENT))?.as_ptr().cast())
}

/// malloc: allocates `size` bytes. A size of 0 gives a block too.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_malloc(size: usize) -> *mut c_void {
    match fast::allocate_packed(ID.load(Relaxed), size) {
        Some(block) => block.as_ptr().cast(),
        None => malloc_slow(size),
    }
}
// An `extern "C"` function, which does not unwind. So the fast path ends in a jump and needs no stack frame.
#[cold]
extern "C" fn malloc_slow(size: usize) -> *mut c_void {
    if let Some(block) = fast::allocate_other(ID.load(Relaxed), size, ALIGNMENT, false) {
        return block.as_ptr().cast();
    }
    or_no_memory(|| aligned(ALIGNMENT, size))
}

/// free: ignores NULL, and any pointer that is not a live block.
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
    guard_free(|| heap()?.free(ptr.cast()));
}

/// calloc: allocates `count` elements of `size` zeroed bytes.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_calloc(count: usize, size: usize) -> *mut c_void {
    or_no_memory(|| match count.checked_mul(size) {
        Some(bytes) => Ok(heap()?.allocate_zeroed(bytes.max(1), ALIGNMENT)?.as_ptr().cast()),
        None => fail!(OutOfMemory, "{count} elements of {size} bytes"),
    })
}

/// realloc: NULL allocates; a size of 0 frees and returns NULL.
///
/// # Safety
/// Nobody uses the old block afterwards, unless the result is NULL and `size` is not 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unimem_program_realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    if let Some(block) = fast::reallocate(ID.load(Relaxed), ptr.cast(), size) {
        return block.as_ptr().cast();
    }
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

/// reallocarray: as realloc, to `count` elements of `size` bytes.
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

/// memalign and aligned_alloc: `alignment` is rounded up to a power of two.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_memalign(alignment: usize, size: usize) -> *mut c_void {
    or_no_memory(|| match alignment.checked_next_power_of_two() {
        Some(alignment) => aligned(alignment, size),
        None => fail!(InvalidArgument, "alignment {alignment}"),
    })
}

/// posix_memalign: EINVAL for an alignment that is not a power of two or is smaller than a pointer; ENOMEM without
/// memory. errno stays as it was.
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

/// valloc: aligns the block to a page.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_valloc(size: usize) -> *mut c_void {
    unimem_program_memalign(PAGE, size)
}

/// pvalloc: aligns the block to a page and rounds its size up to whole pages.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_pvalloc(size: usize) -> *mut c_void {
    match size.max(1).checked_next_multiple_of(PAGE) {
        Some(bytes) => unimem_program_memalign(PAGE, bytes),
        None => or_no_memory(|| fail!(OutOfMemory, "{size} bytes in whole pages")),
    }
}

/// malloc_usable_size: returns the bytes that were asked for; 0 for NULL and for any pointer that is not a live block.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_usable_size(ptr: *mut c_void) -> usize {
    guard(0, || Ok(heap()?.block(ptr.cast()).map_or(0, |block| block.size)))
}

/// malloc_trim: returns unused memory to the system. Returns 1 if there was any, else 0.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_program_trim(_pad: usize) -> c_int {
    guard(0, || Ok((heap()?.trim() > 0).into()))
}
