//! The types of `unimem.h`, named as C sees them.
//!
//! Programs have structures of these types in memory of their own, and fill in tables and configurations themselves. So no
//! structure gets another field, nor the table another function, before the next soname: what is new is a new function.
#![allow(non_camel_case_types)] // C's own names
use super::legacy_types::Flag;
use core::ffi::{c_char, c_int, c_void};

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum unimem_error_t {
    /// Nothing has failed.
    UNIMEM_OK = 0,
    /// An argument is out of its range, or does not fit the others.
    UNIMEM_ERROR_INVALID_ARGUMENT,
    /// The system, or the instance's budget, has no memory left.
    UNIMEM_ERROR_OUT_OF_MEMORY,
    /// A fixed number of things is used up.
    UNIMEM_ERROR_LIMIT,
    /// The address is not a live block of the one it was given to.
    UNIMEM_ERROR_NOT_OWNED,
    /// The block was freed before.
    UNIMEM_ERROR_DOUBLE_FREE,
    /// Bytes that must not change have changed.
    UNIMEM_ERROR_CORRUPTION,
    /// A file could not be read or written.
    UNIMEM_ERROR_IO,
    /// This machine, this build or this instance's configuration does not allow it.
    UNIMEM_ERROR_UNSUPPORTED,
    /// A defect of the library.
    UNIMEM_ERROR_INTERNAL,
}

/// Figures of an instance. Exact while no other thread is inside it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct memory_stats_t {
    /// Live bytes, as requested; tracked foreign blocks included.
    pub total_allocated: usize,
    /// Highest `total_allocated` since creation or reset: exact with one thread, with several never low by more
    /// than 64 KiB a thread.
    pub peak_allocated: usize,
    /// Allocations that succeeded. To reallocate is not to allocate, nor to free, whether the block moves or not.
    pub num_allocations: usize,
    /// Blocks freed.
    pub num_frees: usize,
    /// Largest request, bytes.
    pub largest_allocation: usize,
    /// Share of the RAM held that is not live, percent.
    pub fragmentation: usize,
    /// Allocations served by the calling threads' own caches.
    pub cache_hits: usize,
    /// All others.
    pub cache_misses: usize,
}

/// One instance's functions. They may be called from any thread, also to free what another thread allocated.
///
/// Sizes are bytes. A function that fails gives NULL or false and sets the calling thread's last error
/// (`unimem_last_error`); nothing is changed then.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct unified_memory_interface_t {
    /// `size` bytes at `alignment`, a power of two up to 1 GiB; 0 means 64. NULL for 0 bytes.
    pub allocate: Option<unsafe extern "C" fn(size: usize, alignment: usize) -> *mut c_void>,
    /// Frees a live block of this instance; NULL is fine. Anything else is refused: `UNIMEM_ERROR_NOT_OWNED` for
    /// foreign and interior pointers, `UNIMEM_ERROR_DOUBLE_FREE` for blocks freed before, as far as the heap still knows
    /// their memory.
    pub free: Option<unsafe extern "C" fn(ptr: *mut c_void)>,
    /// Changes a block's size; contents up to the smaller size, alignment and kind stay. NULL allocates, 0 frees.
    pub realloc: Option<unsafe extern "C" fn(ptr: *mut c_void, size: usize) -> *mut c_void>,
    /// A dense row-major tensor of `ComplexFloat` (8 bytes an element) of 1 to 64 dimensions, none of them 0, aligned to
    /// 64, from 2 MiB up to 2 MiB with huge pages advised.
    pub allocate_geometric:
        Option<unsafe extern "C" fn(dimensions: *mut usize, num_dims: usize) -> *mut c_void>,
    /// Zeroed memory that may be compressed: float32 elements come back within `tolerance` (0: exactly; negative: the
    /// configured one).
    pub allocate_hierarchical: Option<unsafe extern "C" fn(size: usize, tolerance: f64) -> *mut c_void>,
    /// Zeroed memory that may be larger than RAM, in chunks of `chunk_size` bytes (0: the configured size).
    pub allocate_streaming: Option<unsafe extern "C" fn(total_size: usize, chunk_size: usize) -> *mut c_void>,
    /// Tracks any pointer, ours or not; tracking again replaces the size. Foreign ones count as live bytes, until they are
    /// untracked. One into a live block of this instance, at its start or inside, adds nothing to what the block counts;
    /// its tracking goes along when the block is reallocated and ends when it is freed. More than 2^48 bytes, which no block
    /// can have, are refused: `UNIMEM_ERROR_INVALID_ARGUMENT`.
    pub track_allocation: Option<unsafe extern "C" fn(ptr: *mut c_void, size: usize) -> bool>,
    /// Forgets a tracked pointer; false when it is not tracked.
    pub untrack_allocation: Option<unsafe extern "C" fn(ptr: *mut c_void) -> bool>,
    /// Fills `stats` in.
    pub get_stats: Option<unsafe extern "C" fn(stats: *mut memory_stats_t)>,
}

/// What an instance is made from. In all sizes 0 means: none, or the default.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct unified_pool_config_t {
    /// Bytes made ready at creation; 0: none.
    pub initial_size: usize,
    /// Cap on the RAM the instance holds, everything counted; 0: none.
    pub max_size: usize,
    /// False: the cap is `initial_size`.
    pub enable_growth: Flag,
    /// `allocate` places tensors as `allocate_geometric` does.
    pub use_geometric_layout: Flag,
    /// False: `allocate_streaming` gives NULL.
    pub enable_streaming: Flag,
    /// Default chunk of streaming and hierarchical memory; 0: 1 MiB.
    pub chunk_size: usize,
    /// Used where a call passes a negative tolerance.
    pub compression_tolerance: f64,
}

/// Receives the library's messages. `level`: 0 error, 1 warning, 2 info, 3 debug. It may be called on any thread, and
/// must return: a C++ exception that leaves it ends the program.
pub type unimem_log_t =
    Option<unsafe extern "C-unwind" fn(level: c_int, message: *const c_char, context: *mut c_void)>;

/// The layout of a tensor. The arrays belong to the block and live as long as it does.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct unimem_layout_t {
    /// Dimensions.
    pub num_dims: usize,
    /// Bytes of an element.
    pub element_size: usize,
    /// Bytes of the tensor.
    pub size: usize,
    /// Extent of each dimension.
    pub dimensions: *const usize,
    /// Elements from one index to the next, of each dimension; the last one is 1.
    pub strides: *const usize,
}

/// A block that is live, or tracked.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct unimem_leak_t {
    /// Where it begins.
    pub address: *mut c_void,
    /// Bytes asked for, or the size it is tracked with.
    pub size: usize,
    /// Tracked, and not the instance's own.
    pub foreign: bool,
    /// Owners (`unimem_retain`); 1 for foreign blocks.
    pub references: usize,
}

/// Receives leaks one by one. It may use the instance, but must not close it, and must return: a C++ exception
/// that leaves it ends the program.
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
};

/// What a chunk is acquired for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum unimem_access_t {
    /// Reading.
    UNIMEM_READ = 0,
    /// Reading and writing.
    UNIMEM_WRITE,
    /// Writing all of it: what it held is not brought in.
    UNIMEM_OVERWRITE,
}

/// How streaming or hierarchical memory will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum unimem_advice_t {
    /// In order: it is read ahead from the first chunk on.
    UNIMEM_SEQUENTIAL = 0,
    /// In no order: nothing is read ahead.
    UNIMEM_RANDOM,
    /// Soon: it is brought in as far as the budget goes.
    UNIMEM_WILL_NEED,
    /// Not for a while: it is sent out.
    UNIMEM_DONT_NEED,
}

/// Where the bytes of streaming or hierarchical memory are, and what moving them has cost.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct unimem_residency_t {
    /// Bytes in place in RAM.
    pub hot_bytes: usize,
    /// Encoded bytes in RAM. A chunk that is in place unchanged may be kept encoded as well.
    pub warm_bytes: usize,
    /// Encoded bytes in the spill file; so may one in RAM.
    pub cold_bytes: usize,
    /// Chunks brought in because they were touched or acquired.
    pub faults: usize,
    /// Chunks sent out.
    pub evictions: usize,
    /// Chunks brought in ahead of need.
    pub prefetches: usize,
    /// Those of them that were then used.
    pub prefetch_hits: usize,
    /// Bytes before encoding for each byte after it, over all that was encoded; 1 if nothing was.
    pub compression_ratio: f64,
    /// Nanoseconds spent encoding and decoding.
    pub compression_ns: usize,
}
