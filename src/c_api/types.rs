//! The types of `unimem.h`, with their C names.
//!
//! Programs hold structures of these types in their own memory, and fill in tables and configurations themselves. So
//! until the next soname no structure gets another field, and the table gets no other function. What is new becomes a
//! new exported function.
#![allow(non_camel_case_types)] // C's own names
use super::legacy_types::Flag;
use core::ffi::{c_char, c_int, c_void};

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum unimem_error_t {
    /// Nothing has failed.
    UNIMEM_OK = 0,
    /// An argument is out of its range, or does not fit the other arguments.
    UNIMEM_ERROR_INVALID_ARGUMENT,
    /// The system has no memory left, or the instance's budget has no room.
    UNIMEM_ERROR_OUT_OF_MEMORY,
    /// A fixed number of things is used up, a limit that the caller set is reached, or a progress callback stopped the
    /// call.
    UNIMEM_ERROR_LIMIT,
    /// The address is not that of a live block of this instance, pool or system.
    UNIMEM_ERROR_NOT_OWNED,
    /// The block was freed before.
    UNIMEM_ERROR_DOUBLE_FREE,
    /// Bytes that nobody should have changed have changed.
    UNIMEM_ERROR_CORRUPTION,
    /// A file could not be read or written.
    UNIMEM_ERROR_IO,
    /// This machine, this build or this instance's configuration does not allow it.
    UNIMEM_ERROR_UNSUPPORTED,
    /// An error inside the library.
    UNIMEM_ERROR_INTERNAL,
}

/// Statistics of an instance. They are exact while no other thread is inside the instance.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct memory_stats_t {
    /// Bytes that are live, as requested. Tracked foreign blocks are included.
    pub total_allocated: usize,
    /// Highest `total_allocated` since creation or reset. With one thread it is exact. With several it is never too low
    /// by more than 64 KiB for each thread. It may be too high by what other threads have freed since they last told the
    /// instance, which they do with every 1024th free and when it comes to more than 64 KiB beyond their caches.
    pub peak_allocated: usize,
    /// Allocations that succeeded. A reallocation counts neither as an allocation nor as a free, whether the block
    /// moves or not.
    pub num_allocations: usize,
    /// Blocks freed.
    pub num_frees: usize,
    /// Bytes of the largest request.
    pub largest_allocation: usize,
    /// Percentage of the RAM held that neither live blocks nor chunks of tiered memory use, 0 to 100.
    pub fragmentation: usize,
    /// Allocations that the calling thread's own cache served.
    pub cache_hits: usize,
    /// All other allocations.
    pub cache_misses: usize,
}

/// The functions of one instance. They may be called from any thread, and one thread may free what another allocated.
///
/// Sizes are in bytes. A function that fails returns NULL or false, changes nothing, and sets the calling thread's last
/// error (`unimem_last_error`).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct unified_memory_interface_t {
    /// Allocates `size` bytes, which are not zeroed. `alignment` is a power of two up to 1 GiB; 0 means 64. A `size` of
    /// 0 is refused (`UNIMEM_ERROR_INVALID_ARGUMENT`), and so is any other alignment.
    pub allocate: Option<unsafe extern "C" fn(size: usize, alignment: usize) -> *mut c_void>,
    /// Frees a live block of this instance; a block with several owners loses one of them (`unimem_retain`). NULL does
    /// nothing. Any other pointer is refused and counted (`unimem_refused_frees`): with `UNIMEM_ERROR_DOUBLE_FREE` if
    /// it was freed before and the heap still knows its memory, else with `UNIMEM_ERROR_NOT_OWNED`. With
    /// `UNIMEM_DEBUG=guard` a block behind which bytes were overwritten is refused too (`UNIMEM_ERROR_CORRUPTION`).
    pub free: Option<unsafe extern "C" fn(ptr: *mut c_void)>,
    /// Changes the size of a block. It keeps its contents up to the smaller size, its alignment, and its kind (plain,
    /// streaming or hierarchical); a tensor loses its layout. NULL allocates; a `size` of 0 frees and returns NULL. On
    /// failure the old block is untouched. Tiered memory of which a chunk is acquired grows only where it is; if it would
    /// have to move, that is `UNIMEM_ERROR_UNSUPPORTED`.
    pub realloc: Option<unsafe extern "C" fn(ptr: *mut c_void, size: usize) -> *mut c_void>,
    /// Allocates a dense row-major tensor of `ComplexFloat` (8 bytes an element), which is not zeroed. It has 1 to 64
    /// dimensions, none of them 0. It is aligned to 64 bytes; from 2 MiB on it is aligned to 2 MiB and asks for huge
    /// pages.
    pub allocate_geometric:
        Option<unsafe extern "C" fn(dimensions: *mut usize, num_dims: usize) -> *mut c_void>,
    /// Allocates zeroed memory that may be compressed. With a `tolerance` above 0 it is read as an array of float32:
    /// each finite element comes back within `tolerance` of what was last written (an absolute error), and NaN and
    /// infinities come back as they were. With 0 every byte comes back. A negative tolerance means the instance's
    /// `compression_tolerance`; one that is not finite is refused (`UNIMEM_ERROR_INVALID_ARGUMENT`).
    /// `UNIMEM_ERROR_LIMIT` if the budget cannot hold two chunks.
    pub allocate_hierarchical: Option<unsafe extern "C" fn(size: usize, tolerance: f64) -> *mut c_void>,
    /// Allocates zeroed memory that may be larger than RAM. Every byte comes back as it was written. `chunk_size` is in
    /// bytes and is rounded up to whole pages, from 4 KiB to 64 MiB; 0 means the instance's chunk size, or a smaller
    /// one where the memory or the budget is small.
    pub allocate_streaming: Option<unsafe extern "C" fn(total_size: usize, chunk_size: usize) -> *mut c_void>,
    /// Tracks any pointer; tracking it again replaces its size. How it counts depends on where it points:
    ///
    /// - A foreign pointer: its `size` counts as live bytes until it is untracked.
    ///
    /// - A pointer to the start or the inside of a live block of this instance: it adds nothing to what the block
    ///   counts. The tracking follows the block when it is reallocated, and ends when it is freed.
    ///
    /// A `size` above 2^48, which no block can have, is refused (`UNIMEM_ERROR_INVALID_ARGUMENT`), and so is one with which
    /// more than 2^62 bytes would be tracked in all.
    pub track_allocation: Option<unsafe extern "C" fn(ptr: *mut c_void, size: usize) -> bool>,
    /// Stops tracking a pointer. False if it is not tracked (`UNIMEM_ERROR_INVALID_ARGUMENT`).
    pub untrack_allocation: Option<unsafe extern "C" fn(ptr: *mut c_void) -> bool>,
    /// Writes the instance's statistics to `stats`.
    pub get_stats: Option<unsafe extern "C" fn(stats: *mut memory_stats_t)>,
}

/// The configuration of an instance. In all sizes 0 means none, or the default.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct unified_pool_config_t {
    /// Bytes made ready when the instance is created; 0: none.
    pub initial_size: usize,
    /// Most bytes of RAM that the instance may hold, everything included; 0: no limit.
    pub max_size: usize,
    /// Whether the instance may grow beyond `initial_size`. If not, and `initial_size` is not 0, that is the limit.
    pub enable_growth: Flag,
    /// Whether `allocate` aligns large blocks as `allocate_geometric` does.
    pub use_geometric_layout: Flag,
    /// Whether `allocate_streaming` works; otherwise it fails with `UNIMEM_ERROR_UNSUPPORTED`.
    pub enable_streaming: Flag,
    /// Bytes of a chunk of streaming and hierarchical memory, where a call does not say, rounded as `allocate_streaming`
    /// rounds; 0: 1 MiB.
    pub chunk_size: usize,
    /// The tolerance where a call passes a negative one; absolute, finite and at least 0.
    pub compression_tolerance: f64,
}

/// A function that receives the library's messages. `level` is 0 for errors, 1 for warnings, 2 for information and 3
/// for debugging. It may be called on any thread. It must return: a C++ exception that leaves it ends the program.
pub type unimem_log_t =
    Option<unsafe extern "C-unwind" fn(level: c_int, message: *const c_char, context: *mut c_void)>;

/// The layout of a tensor. The arrays belong to the block, and live as long as it does.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct unimem_layout_t {
    /// Number of dimensions.
    pub num_dims: usize,
    /// Bytes of one element.
    pub element_size: usize,
    /// Bytes of the whole tensor.
    pub size: usize,
    /// Extent of each dimension, in elements.
    pub dimensions: *const usize,
    /// Distance from one index to the next in each dimension, in elements; that of the last dimension is 1.
    pub strides: *const usize,
}

/// A block that is live, or that is tracked.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct unimem_leak_t {
    /// Where it begins.
    pub address: *mut c_void,
    /// Bytes asked for, or the size that it is tracked with.
    pub size: usize,
    /// Whether the block is tracked and not the instance's own.
    pub foreign: bool,
    /// Number of owners (`unimem_retain`); 1 for foreign blocks.
    pub references: usize,
}

/// A function that receives leaks one by one. It may use the instance, but must not close it. It must return: a C++
/// exception that leaves it ends the program.
pub type unimem_leak_callback_t =
    Option<unsafe extern "C-unwind" fn(leak: *const unimem_leak_t, context: *mut c_void)>;

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<memory_stats_t>() == 64 && offset_of!(memory_stats_t, cache_misses) == 56);
    assert!(size_of::<unified_memory_interface_t>() == 72);
    assert!(offset_of!(unified_memory_interface_t, get_stats) == 64);
    assert!(size_of::<unified_pool_config_t>() == 40);
    assert!(offset_of!(unified_pool_config_t, chunk_size) == 24);
    assert!(offset_of!(unified_pool_config_t, compression_tolerance) == 32);
    // Callers own these, so they never get more fields.
    assert!(size_of::<unimem_layout_t>() == 40 && size_of::<unimem_leak_t>() == 32);
    assert!(size_of::<unimem_residency_t>() == 72 && offset_of!(unimem_residency_t, compression_ns) == 64);
};

/// What a program wants to do with a chunk that it acquires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum unimem_access_t {
    /// Read it.
    UNIMEM_READ = 0,
    /// Read and write it.
    UNIMEM_WRITE,
    /// Write all of it. The old contents are not brought in, and are unspecified until they are written.
    UNIMEM_OVERWRITE,
}

/// How a program will use streaming or hierarchical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum unimem_advice_t {
    /// In order. Chunks are read ahead from the first access on.
    UNIMEM_SEQUENTIAL = 0,
    /// In no order. Nothing is read ahead.
    UNIMEM_RANDOM,
    /// Soon. The library's own threads bring in stored chunks, as many as half the budget holds.
    UNIMEM_WILL_NEED,
    /// Not for a while. Chunks in place are sent out.
    UNIMEM_DONT_NEED,
}

/// Where the bytes of streaming or hierarchical memory are, and what moving them has cost.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct unimem_residency_t {
    /// Bytes in RAM as the program sees them: chunks in place, and chunks that were read ahead.
    pub hot_bytes: usize,
    /// Encoded bytes in RAM. A chunk that is in place and unchanged may have an encoded copy, which counts here too.
    pub warm_bytes: usize,
    /// Encoded bytes in the spill file. A chunk that is in RAM may have a copy there, which counts here too.
    pub cold_bytes: usize,
    /// Chunks put in place: touched, acquired or prefetched.
    pub faults: usize,
    /// Chunks sent out of their place in RAM.
    pub evictions: usize,
    /// Chunks brought in before they were needed.
    pub prefetches: usize,
    /// Prefetched chunks that were then used.
    pub prefetch_hits: usize,
    /// Bytes before encoding divided by bytes after it, over all that was encoded; 1 if nothing was.
    pub compression_ratio: f64,
    /// Nanoseconds spent encoding and decoding.
    pub compression_ns: usize,
}
