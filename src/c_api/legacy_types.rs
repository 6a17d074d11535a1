//! The types of the legacy programs, byte for byte, because the programs read these structures themselves. The comments
//! say what each field means to libunimem. The C side of the same layouts is in `include/unimem/`;
//! `c_tests/test_layouts.c` checks it.
use core::ffi::{c_char, c_void};
use core::sync::atomic::AtomicUsize;

/// A C `bool` in memory that C filled. Any byte may be there; every byte but zero means true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Flag(u8);
impl Flag {
    /// Whether C would take it for true.
    pub const fn is_set(self) -> bool {
        self.0 != 0
    }
}
impl From<bool> for Flag {
    fn from(value: bool) -> Flag {
        Flag(value.into())
    }
}

/// A C `enum` that C filled. Any number may come; only the named ones mean something.
macro_rules! c_enum {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $value:ident = $number:expr,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(transparent)]
        pub struct $name(u32);
        impl $name {
            $($(#[$doc])* pub const $value: $name = $name($number);)*
            /// Whether the number is one of the named ones.
            pub const fn is_known(self) -> bool {
                matches!(self, $($name::$value)|*)
            }
        }
    };
}

c_enum! {
    /// `memory_system_type_t`. Has no effect: one heap serves every type.
    MemorySystemType { /** Plain. */ STANDARD = 0, /** Pooled. */ POOLED = 1, /** Quantum. */ QUANTUM = 2,
        /** Any of them. */ HYBRID = 3, }
}
c_enum! {
    /// `allocation_strategy_t`. Has no effect: the heap's size classes serve every strategy.
    AllocationStrategy { /** Best fit. */ BEST_FIT = 0, /** First fit. */ FIRST_FIT = 1, /** Buddies. */ BUDDY = 2,
        /** Slabs. */ SLAB = 3, }
}
c_enum! {
    /// `optimization_level_t`: what `optimize_memory_usage` returns to the system.
    OptimizationLevel { /** Nothing. */ NONE = 0, /** Empty spans go back to the system. */ BASIC = 1,
        /** So do the pools' empty spans. */ ADVANCED = 2, /** The same. */ AGGRESSIVE = 3, }
}
c_enum! {
    /// `geometric_state_type_t`: a tag on layouts, and the direction of `memory_transfer`.
    GeometricStateType { /** CPU to GPU. */ EUCLIDEAN = 0, /** GPU to CPU. */ HYPERBOLIC = 1,
        /** CPU to quantum. */ SPHERICAL = 2, /** Quantum to CPU. */ SYMPLECTIC = 3, /** A tag only. */ KAHLER = 4,
        /** A tag only. */ CALABI_YAU = 5, /** A tag only. */ CUSTOM = 6, }
}
c_enum! {
    /// `HardwareType`: a tag on buffers.
    HardwareType { /** Processor. */ CPU = 0, /** Graphics card. */ GPU = 1, /** Quantum processor. */ QPU = 2,
        /** Simulator. */ SIMULATOR = 3, /** Apple Metal. */ METAL = 4, /** CUDA. */ CUDA = 5, /** FPGA. */ FPGA = 6,
        /** IBM. */ IBM = 7, /** Rigetti. */ RIGETTI = 8, /** D-Wave. */ DWAVE = 9, /** Another one. */ CUSTOM = 10, }
}

/// `PoolConfig`: the configuration of a memory pool. A field that is 0 takes its default.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PoolConfig {
    /// Smallest block, bytes; a hint.
    pub min_block_size: usize,
    /// Alignment of blocks, bytes, a power of two; at least 64 whatever is given.
    pub alignment: usize,
    /// A hint: the heap has size classes of its own.
    pub num_size_classes: usize,
    /// A hint: how legacy size classes grew.
    pub growth_factor: f32,
    /// A hint.
    pub prefetch_distance: usize,
    /// Ask for huge pages more often than the heap does by itself.
    pub use_huge_pages: Flag,
    /// A hint: `thread_cache_size` alone decides.
    pub cache_local_free_lists: Flag,
    /// A hint.
    pub max_blocks_per_class: usize,
    /// Blocks of a size class that a thread keeps; 0: none.
    pub thread_cache_size: usize,
    /// Count what is allocated.
    pub enable_stats: Flag,
}

/// `Block`: the header that ends where a memory pool's block begins. Written once; the library never reads it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Block {
    /// Bytes of the block, at least the request rounded up to 64.
    pub size: usize,
    /// [`Block::MAGIC`].
    pub magic: u32,
    /// Always unset.
    pub is_free: Flag,
    /// Number of the size class; 0 for large blocks.
    pub size_class: u16,
    /// NULL.
    pub next: *mut Block,
    /// NULL.
    pub prev: *mut Block,
    /// Unused.
    pub padding: [c_char; 40],
    /// Where the block begins.
    pub data: *mut c_void,
}
impl Block {
    /// What `magic` holds in a block that came from a pool.
    pub const MAGIC: u32 = 0xDEAD_BEEF;
}

/// `SizeClass`: the legacy pool's own book-keeping, of which libunimem fills in the block sizes alone.
#[repr(C)]
pub struct SizeClass {
    /// Bytes of each block.
    pub block_size: usize,
    /// Free blocks.
    pub free_list: *mut Block,
    /// The class's lock.
    pub mutex: libc::pthread_mutex_t,
    /// Blocks there are.
    pub num_blocks: usize,
    /// Blocks there may be.
    pub max_blocks: usize,
    /// Requests answered from the list.
    pub hits: usize,
    /// Requests that were not.
    pub misses: usize,
}

/// `MemoryPool` of `memory_pool.h`. C may read any field; it writes none.
#[repr(C)]
pub struct MemoryPool {
    /// An address inside the pool's memory.
    pub base_address: *mut c_void,
    /// Bytes the pool holds now.
    pub total_size: AtomicUsize,
    /// The heap's size classes.
    pub size_classes: *mut SizeClass,
    /// Number of size classes.
    pub num_classes: usize,
    /// NULL.
    pub large_blocks: *mut Block,
    /// `get_total_allocated`, as of some moment.
    pub total_allocated: AtomicUsize,
    /// `get_peak_allocated`, as of some moment.
    pub peak_allocated: AtomicUsize,
    /// `get_num_allocations`, as of some moment.
    pub num_allocations: AtomicUsize,
    /// Unused.
    pub mutex: libc::pthread_mutex_t,
    /// What the pool was made from.
    pub config: PoolConfig,
}

/// `memory_system_config_t`: the configuration of a memory system. A field that is 0 takes its default.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MemorySystemConfig {
    /// Has no effect.
    pub kind: MemorySystemType,
    /// Has no effect.
    pub strategy: AllocationStrategy,
    /// Has no effect: `optimize_memory_usage` is told its own level.
    pub optimization: OptimizationLevel,
    /// A hint: nothing is set aside, and the system may grow beyond it.
    pub total_size: usize,
    /// A hint.
    pub block_size: usize,
    /// Alignment in bytes where a call passes 0. It is rounded up to a power of two; 0 means 64.
    pub alignment: usize,
    /// Whether monitoring is on from the beginning.
    pub enable_monitoring: Flag,
    /// Has no effect: unused memory returns by itself after some seconds.
    pub enable_defragmentation: Flag,
}

/// `pool_config_t`: the configuration of a system's pool. A field that is 0 takes its default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct AdvancedPoolConfig {
    /// Most live bytes, unless `enable_growth` is set; 0: no limit.
    pub pool_size: usize,
    /// Bytes of the largest request, if `fixed_size` is set.
    pub block_size: usize,
    /// Most live blocks, unless `enable_growth` is set; 0: no limit.
    pub max_blocks: usize,
    /// Whether requests larger than `block_size` fail.
    pub fixed_size: Flag,
    /// Has no effect: every pool is thread-safe.
    pub thread_safe: Flag,
    /// If set, `pool_size` and `max_blocks` are only hints.
    pub enable_growth: Flag,
    /// Whether `update_memory_access` tags the pool's layouts.
    pub enable_stats: Flag,
}

/// `memory_metrics_t`: what a memory system and its pools have done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct MemoryMetrics {
    /// Bytes allocated since creation or reset, including freed ones.
    pub total_allocated: usize,
    /// Bytes freed since then.
    pub total_freed: usize,
    /// Most bytes live at once since then.
    pub peak_usage: usize,
    /// Bytes live now.
    pub current_usage: usize,
    /// Share of the memory held that no live block uses, 0 to 1.
    pub fragmentation: f64,
    /// Allocations since creation or reset.
    pub allocation_count: usize,
}

/// `block_info_t`: what is known about one block.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockInfo {
    /// Where it begins.
    pub address: *mut c_void,
    /// Bytes asked for.
    pub size: usize,
    /// Always true.
    pub is_allocated: Flag,
    /// Alignment that the block was requested with.
    pub alignment: usize,
    /// Bytes from the end of the request to the end of the block.
    pub padding: usize,
    /// The pool that it came from; NULL if it came from the system itself.
    pub pool: *mut c_void,
}

/// `defrag_config_t`: when and how to return memory.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DefragConfig {
    /// Fragmentation, 0 to 1, below which nothing is done.
    pub threshold: f64,
    /// Has no effect: no block is moved, because programs hold the addresses.
    pub max_moves: usize,
    /// Whether the pools return memory too, not only the system's own heap.
    pub compact_pools: Flag,
    /// Has no effect: order is always preserved.
    pub preserve_order: Flag,
    /// Has no effect: memory is returned in one step.
    pub incremental: Flag,
    /// Has no effect.
    pub batch_size: usize,
}

/// Largest number of dimensions of a [`MemoryLayout`] (`QGT_MAX_DIMENSIONS`).
pub const MAX_DIMENSIONS: usize = 16;

/// `MemoryLayout`: a dense array with its shape. An element is one byte; the first dimension runs fastest.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemoryLayout {
    /// The array, zeroed when made, aligned to 64.
    pub base_ptr: *mut c_void,
    /// Extents; 0 beyond the last dimension.
    pub dimensions: [usize; MAX_DIMENSIONS],
    /// Bytes from one index to the next; 0 beyond the last dimension.
    pub strides: [usize; MAX_DIMENSIONS],
    /// Bytes of the array: the product of the extents rounded up to 64.
    pub total_size: usize,
    /// Always true.
    pub is_geometric: Flag,
    /// As given, or as `update_memory_access` set it.
    pub geom_type: GeometricStateType,
}

/// `MemoryBuffer`: memory of the processor, with mirrors of the same size.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemoryBuffer {
    /// The GPU mirror, in RAM; NULL if none was asked for.
    pub gpu_ptr: *mut c_void,
    /// The processor's memory, zeroed when made, aligned to 64.
    pub cpu_ptr: *mut c_void,
    /// The quantum mirror, in RAM; NULL if none was asked for.
    pub quantum_ptr: *mut c_void,
    /// Bytes of each.
    pub size: usize,
    /// Always true.
    pub is_pinned: Flag,
    /// Whether there is a GPU mirror.
    pub is_unified: Flag,
    /// As given.
    pub hardware: HardwareType,
}

/// `MemoryPool` of `advanced_memory_system.h`: a pool of a memory system. C may read every field and writes none.
#[repr(C)]
pub struct AdvancedMemoryPool {
    /// Always NULL: layouts are not kept in one array, so that none of them ever moves.
    pub layouts: *mut MemoryLayout,
    /// Always NULL.
    pub buffers: *mut MemoryBuffer,
    /// Layouts that `create_memory_layout` made in this pool.
    pub num_layouts: AtomicUsize,
    /// Buffers that `create_memory_buffer` made in this pool.
    pub num_buffers: AtomicUsize,
    /// Always NULL.
    pub fast_path_cache: *mut c_void,
    /// What the pool was made from.
    pub config: AdvancedPoolConfig,
    /// Always false: the compiler chooses the instructions.
    pub use_neon: Flag,
}

/// `advanced_memory_system_t`: the type of the pointers that `create_memory_system` returned, be it ours or the legacy
/// C file's. A pointer of ours points at a record of `c_api::advanced_system`.
#[repr(C)]
pub struct AdvancedMemorySystem {
    _opaque: [u8; 0],
    _not_send: core::marker::PhantomData<*mut u8>,
}

/// `ComplexFloat`: an element of a tensor, two float32.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct ComplexFloat {
    /// Real part.
    pub real: f32,
    /// Imaginary part.
    pub imag: f32,
}

const fn field_size<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}
/// Asserts a structure's size and alignment, then each field's offset and size.
macro_rules! assert_layout {
    ($type:ty, $size:tt, $align:literal, $($field:ident $offset:tt $bytes:tt,)*) => {
        const _: () = {
            assert!(size_of::<$type>() == $size && align_of::<$type>() == $align);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);
            assert!(field_size::<$type, _>(|s| &s.$field) == $bytes);)*
        };
    };
}
// Only a mutex depends on the processor: it has 40 bytes on x86-64 and 48 on aarch64.
#[rustfmt::skip]
mod layouts {
    use super::*;
    const MUTEX: usize = size_of::<libc::pthread_mutex_t>();
    assert_layout!(PoolConfig, 72, 8, min_block_size 0 8, alignment 8 8, num_size_classes 16 8, growth_factor 24 4,
        prefetch_distance 32 8, use_huge_pages 40 1, cache_local_free_lists 41 1, max_blocks_per_class 48 8,
        thread_cache_size 56 8, enable_stats 64 1,);
    assert_layout!(Block, 128, 64, size 0 8, magic 8 4, is_free 12 1, size_class 14 2, next 16 8, prev 24 8,
        padding 32 40, data 72 8,);
    assert_layout!(SizeClass, {48 + MUTEX}, 8, block_size 0 8, free_list 8 8, mutex 16 MUTEX,
        num_blocks {16 + MUTEX} 8, max_blocks {24 + MUTEX} 8, hits {32 + MUTEX} 8, misses {40 + MUTEX} 8,);
    assert_layout!(MemoryPool, {136 + MUTEX}, 8, base_address 0 8, total_size 8 8, size_classes 16 8,
        num_classes 24 8, large_blocks 32 8, total_allocated 40 8, peak_allocated 48 8, num_allocations 56 8,
        mutex 64 MUTEX, config {64 + MUTEX} 72,);
    assert_layout!(MemorySystemConfig, 48, 8, kind 0 4, strategy 4 4, optimization 8 4, total_size 16 8,
        block_size 24 8, alignment 32 8, enable_monitoring 40 1, enable_defragmentation 41 1,);
    assert_layout!(AdvancedPoolConfig, 32, 8, pool_size 0 8, block_size 8 8, max_blocks 16 8, fixed_size 24 1,
        thread_safe 25 1, enable_growth 26 1, enable_stats 27 1,);
    assert_layout!(MemoryMetrics, 48, 8, total_allocated 0 8, total_freed 8 8, peak_usage 16 8, current_usage 24 8,
        fragmentation 32 8, allocation_count 40 8,);
    assert_layout!(BlockInfo, 48, 8, address 0 8, size 8 8, is_allocated 16 1, alignment 24 8, padding 32 8,
        pool 40 8,);
    assert_layout!(DefragConfig, 32, 8, threshold 0 8, max_moves 8 8, compact_pools 16 1, preserve_order 17 1,
        incremental 18 1, batch_size 24 8,);
    assert_layout!(MemoryLayout, 280, 8, base_ptr 0 8, dimensions 8 128, strides 136 128, total_size 264 8,
        is_geometric 272 1, geom_type 276 4,);
    assert_layout!(MemoryBuffer, 40, 8, gpu_ptr 0 8, cpu_ptr 8 8, quantum_ptr 16 8, size 24 8, is_pinned 32 1,
        is_unified 33 1, hardware 36 4,);
    assert_layout!(AdvancedMemoryPool, 80, 8, layouts 0 8, buffers 8 8, num_layouts 16 8, num_buffers 24 8,
        fast_path_cache 32 8, config 40 32, use_neon 72 1,);
    assert_layout!(ComplexFloat, 8, 4, real 0 4, imag 4 4,);
}
