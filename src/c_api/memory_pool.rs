//! The functions of `memory_pool.h`. A pool is a heap whose blocks have the legacy header.
use super::legacy_types::{Block, Flag, MemoryPool, PoolConfig, SizeClass};
use super::{guard, guard_free, guard_uncancelled};
use crate::error::{Result, fail};
use crate::heap::fast::NO_HEAP;
use crate::heap::{DEFAULT_BLOCKS, Heap, HeapParams, HeapStatistics, SHAPES, fast, heap_of_companion};
use crate::instance::{slots, tiered};
use crate::log::log;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};

/// A pool as C sees it, followed by what C does not see. The record is the companion of the pool's heap. Companions are
/// never unmapped, so a pointer to a destroyed pool can still be told from a pointer to a live one.
#[repr(C)]
struct Pool {
    public: MemoryPool,
    heap: AtomicPtr<Heap>,
    /// Number of the heap; [`NO_HEAP`] once the pool is destroyed.
    heap_id: AtomicUsize,
    statistics: AtomicUsize,
}

/// Number of the pool's heap, for heap/fast.rs.
///
/// # Safety
/// `pool` is NULL or came from [`create_memory_pool`].
#[inline(always)]
unsafe fn heap_id(pool: *const MemoryPool) -> Option<usize> {
    // SAFETY: pools are records of type `Pool` that are never unmapped.
    unsafe { pool.cast::<Pool>().as_ref() }.map(|pool| pool.heap_id.load(Relaxed))
}

/// The array that `size_classes` of every pool points at. It shows the heap's size classes to programs that look.
struct SizeClasses(UnsafeCell<[SizeClass; SHAPES.len()]>);
// SAFETY: the library never touches the array after it is initialised. What C does with its fields is C's own
// responsibility.
unsafe impl Sync for SizeClasses {}
static SIZE_CLASSES: SizeClasses = {
    const EMPTY: SizeClass = SizeClass {
        block_size: 0,
        free_list: null_mut(),
        mutex: libc::PTHREAD_MUTEX_INITIALIZER,
        num_blocks: 0,
        max_blocks: 0,
        hits: 0,
        misses: 0,
    };
    let mut classes = [EMPTY; SHAPES.len()];
    let mut i = 0;
    while i < classes.len() {
        classes[i].block_size = SHAPES[i].stride as usize;
        i += 1;
    }
    SizeClasses(UnsafeCell::new(classes))
};

/// The heap of a live pool.
///
/// # Safety
/// `pool` is NULL or came from [`create_memory_pool`].
#[inline(always)]
pub(super) unsafe fn heap_of(pool: *const MemoryPool) -> Result<&'static Heap> {
    if pool.is_null() || !pool.is_aligned() {
        return fail!(InvalidArgument, "{pool:p} is not a pool");
    }
    // SAFETY: a pool is a record of type `Pool`, which is never unmapped. Its heap field is NULL once the pool is
    // destroyed.
    match unsafe { (*pool.cast::<Pool>()).heap.load(Acquire).as_ref() } {
        Some(heap) => Ok(heap),
        None => fail!(InvalidArgument, "the pool at {pool:p} is destroyed"),
    }
}

/// The heap of a live pool of libunimem. `pool` may be any pointer.
pub(super) fn known_heap_of(pool: *const MemoryPool) -> Result<&'static Heap> {
    if heap_of_companion(pool.cast()).is_none() {
        return fail!(InvalidArgument, "{pool:p} is not a pool of libunimem");
    }
    // SAFETY: the pointer is the companion of a heap, and `make` makes only pools as companions.
    unsafe { heap_of(pool) }
}

/// Writes the legacy header before a block.
fn write_header(block: *mut u8, room: usize, class: u16) {
    let header = Block {
        size: room,
        magic: Block::MAGIC,
        is_free: Flag::from(false),
        size_class: class,
        next: null_mut(),
        prev: null_mut(),
        padding: [0; 40],
        data: block.cast(),
    };
    // SAFETY: the heap of a pool keeps as many bytes free before each block as a header has (`prefix` in `make`).
    unsafe { block.cast::<Block>().sub(1).write(header) }
}

/// Makes a pool. A field of `config` that is 0 takes its default. NULL for a NULL `config`, and for an alignment above 64
/// that is not a power of two up to 1 GiB. With an alignment above 64 KiB each block is a mapping of its own, which takes
/// its size and at least 64 KiB.
///
/// # Safety
/// `config` is NULL or points at a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn create_memory_pool(config: *const PoolConfig) -> *mut MemoryPool {
    guard_uncancelled(null_mut(), || {
        // SAFETY: by the caller's promise.
        let config = *unsafe { super::reference(config, "config") }?;
        make(&config)
    })
}
fn make(config: &PoolConfig) -> Result<*mut MemoryPool> {
    let heap = Heap::create(&HeapParams {
        prefix: size_of::<Block>(),
        write_header: Some(write_header),
        alignment: config.alignment,
        cache_blocks: config.thread_cache_size.min(DEFAULT_BLOCKS),
        huge_pages: config.use_huge_pages.is_set(),
        ..HeapParams::default()
    })?;
    let Some(record) = heap.companion(size_of::<Pool>()).map(NonNull::cast::<Pool>) else {
        heap.destroy();
        return fail!(OutOfMemory, "no memory for a pool");
    };
    let public = MemoryPool {
        base_address: record.as_ptr().cast(),
        total_size: AtomicUsize::new(0),
        size_classes: SIZE_CLASSES.0.get().cast(),
        num_classes: SHAPES.len(),
        large_blocks: null_mut(),
        total_allocated: AtomicUsize::new(0),
        peak_allocated: AtomicUsize::new(0),
        num_allocations: AtomicUsize::new(0),
        mutex: libc::PTHREAD_MUTEX_INITIALIZER,
        config: *config,
    };
    let statistics = AtomicUsize::new(config.enable_stats.is_set().into());
    // SAFETY: the record is fresh, and has the size of a `Pool`.
    unsafe {
        record.write(Pool {
            public,
            heap: AtomicPtr::new(core::ptr::from_ref(heap).cast_mut()),
            heap_id: AtomicUsize::new(heap.id()),
            statistics,
        })
    };
    // SAFETY: companions stay mapped for ever, and the field is atomic, so the heap may write it at any time.
    heap.count_held_in(unsafe { &(*record.as_ptr()).public.total_size });
    Ok(record.as_ptr().cast())
}

/// Allocates `size` bytes, aligned to 64 or to `config.alignment` if that is larger, behind a `Block` header.
///
/// # Safety
/// `pool` is NULL or came from `create_memory_pool`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pool_allocate(pool: *mut MemoryPool, size: usize) -> *mut c_void {
    // SAFETY: by the caller's promise.
    let id = unsafe { heap_id(pool) };
    match id.and_then(|id| fast::allocate(id, Some(size_of::<Block>()), size)) {
        Some(block) => block.as_ptr().cast(),
        None => allocate_slow(pool, size),
    }
}
// An `extern "C"` function, which does not unwind. So the fast path ends in a jump and needs no stack frame.
#[cold]
extern "C" fn allocate_slow(pool: *mut MemoryPool, size: usize) -> *mut c_void {
    // SAFETY: by the promise of `pool_allocate`'s caller.
    let id = unsafe { heap_id(pool) };
    if let Some(block) = id.and_then(|id| fast::allocate_other(id, size, 0, false)) {
        return block.as_ptr().cast();
    }
    guard(null_mut(), || {
        // SAFETY: by the promise of `pool_allocate`'s caller.
        let heap = unsafe { heap_of(pool) }?;
        Ok(heap.allocate(size, 0)?.as_ptr().cast())
    })
}

/// Frees a block of this pool, whichever thread allocated it, or tiered memory that its `unimem_pool_interface`
/// allocated. Any other pointer is refused, and nothing changes.
///
/// # Safety
/// `pool` is NULL or came from `create_memory_pool`; nobody uses the block afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pool_free(pool: *mut MemoryPool, ptr: *mut c_void) {
    // SAFETY: by the caller's promise.
    let id = unsafe { heap_id(pool) };
    if !id.is_some_and(|id| fast::free(id, ptr.cast())) {
        free_slow(pool, ptr);
    }
}
#[cold]
extern "C" fn free_slow(pool: *mut MemoryPool, ptr: *mut c_void) {
    guard_free(|| {
        // SAFETY: by the promise of `pool_free`'s caller.
        let heap = unsafe { heap_of(pool) }?;
        if let Some((instance, piece)) = tiered::made_through(heap, ptr.cast()) {
            return instance.free_piece(&piece);
        }
        heap.free(ptr.cast()).map_err(|error| tiered::free_refused("pool_free", ptr.cast(), error))
    })
}

/// Destroys a pool and frees all its blocks. Live blocks are freed too, and reported to the log as leaks.
///
/// # Safety
/// `pool` is NULL or came from `create_memory_pool`; no other thread is inside it and nobody uses it afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn destroy_memory_pool(pool: *mut MemoryPool) {
    if pool.is_null() {
        return;
    }
    guard_uncancelled((), || {
        // SAFETY: by the caller's promise.
        let heap = unsafe { heap_of(pool) }?;
        let record = NonNull::new(pool.cast::<Pool>()).expect("checked");
        // SAFETY: the record of a pool is never unmapped. Clearing its heap marks the pool as destroyed.
        let live = unsafe { record.as_ref() };
        if live.heap.swap(null_mut(), AcqRel).is_null() {
            return fail!(InvalidArgument, "the pool at {pool:p} is being destroyed already");
        }
        live.heap_id.store(NO_HEAP, Release);
        slots::disown(heap);
        let leaks = heap.destroy();
        if leaks.blocks > 0 {
            log!(
                Warning,
                "leak: pool {pool:p} is destroyed with {} live blocks, {} bytes",
                leaks.blocks,
                leaks.bytes
            );
        }
        Ok(())
    })
}

/// The pool's statistics; all 0 if the pool was made without.
///
/// # Safety
/// `pool` is NULL or came from [`create_memory_pool`].
unsafe fn statistics(pool: *const MemoryPool) -> Result<HeapStatistics> {
    // SAFETY: by the caller's promise.
    let heap = unsafe { heap_of(pool) }?;
    // SAFETY: `heap_of` found that the pool is live.
    let record = unsafe { &*pool.cast::<Pool>() };
    if record.statistics.load(Relaxed) == 0 {
        return Ok(HeapStatistics::default());
    }
    let figures = heap.statistics();
    record.public.total_allocated.store(figures.live, Relaxed);
    record.public.peak_allocated.store(figures.peak, Relaxed);
    record.public.num_allocations.store(figures.allocations, Relaxed);
    Ok(figures)
}

/// The exact number of live bytes, as requested. 0 for NULL, and for a pool without statistics.
///
/// # Safety
/// `pool` is NULL or came from `create_memory_pool`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_total_allocated(pool: *const MemoryPool) -> usize {
    // SAFETY: by the caller's promise.
    guard(0, || unsafe { statistics(pool) }.map(|figures| figures.live))
}

/// The highest value of `get_total_allocated` so far. With one thread it is exact; with several it is never too low by
/// more than 64 KiB for each thread.
///
/// # Safety
/// `pool` is NULL or came from `create_memory_pool`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_peak_allocated(pool: *const MemoryPool) -> usize {
    // SAFETY: by the caller's promise.
    guard(0, || unsafe { statistics(pool) }.map(|figures| figures.peak))
}

/// Allocations that succeeded.
///
/// # Safety
/// `pool` is NULL or came from `create_memory_pool`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_num_allocations(pool: *const MemoryPool) -> usize {
    // SAFETY: by the caller's promise.
    guard(0, || unsafe { statistics(pool) }.map(|figures| figures.allocations))
}
