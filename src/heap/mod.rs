//! The heap: one engine behind every pool, memory system and instance.
//!
//! A [`Heap`] owns its blocks. Small ones come from spans of one size class each (central.rs) through a cache that
//! every thread has for every heap it uses (cache.rs); blocks above 1 MiB are mappings of their own (large.rs). What
//! is known of a block lies apart from it and is found from its address alone (page_map.rs), so a free is checked
//! before anything is changed: the address must be the start of a live block of this very heap.
//!
//! Two threads that free one block at the same moment may both pass that check; slot.rs says what becomes of it.
//!
//! Heap records are type-stable and never unmapped; ending a heap while another thread is inside it is the one thing
//! callers must not do.
mod abandoned;
mod arena;
pub mod attributes;
mod cache;
mod central;
pub mod debug;
pub(crate) mod fast;
pub mod freed;
mod front;
pub mod guard;
pub mod guarded;
mod kept;
mod large;
mod leaves;
mod lifecycle;
mod look_up;
mod magazine;
pub(crate) mod page_map;
pub mod recorded;
mod records_of_spans;
mod registry;
mod resize;
mod room;
mod runs;
mod scavenger;
mod sequence;
mod size_class;
mod slot;
mod slow;
mod span;
mod statistics;
mod tally;
pub mod tracked;
pub mod tracking_table;

pub(crate) use arena::HOOKS as ARENA_HOOKS;
pub(crate) use registry::HOOKS as REGISTRY_HOOKS;

pub use magazine::DEFAULT_BLOCKS;
pub use registry::{RESERVED, heap_of_companion};
pub use size_class::{DEFAULT_ALIGNMENT, SHAPES};
pub use statistics::HeapStatistics;

use crate::error::Result;
use crate::os::{lock::Mutex, thread};
use cache::ThreadCache;
use central::Central;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::*};
use slow::Extras;
use statistics::Counters;

/// Largest alignment a block may ask for.
pub const MAX_ALIGNMENT: usize = 1 << 30;
/// Largest size a block may have: half the address space.
pub const MAX_SIZE: usize = 1 << 46;

/// Writes the header before a block of a heap with a prefix: block, room, class.
pub type WriteHeader = fn(*mut u8, usize, u16);

/// How a heap is made.
#[derive(Clone, Copy, Debug)]
pub struct HeapParams {
    /// The number that the heap is to have, below [`RESERVED`]; no other heap in use may have it. None: the registry picks
    /// one, [`RESERVED`] or above.
    pub id: Option<usize>,
    /// Bytes before each block that belong to it; 0 or a multiple of 64.
    pub prefix: usize,
    /// Writes the header that the prefix is for, once for each block made.
    pub write_header: Option<WriteHeader>,
    /// Least alignment of a block, a power of two up to [`MAX_ALIGNMENT`]; 0 means 64. Above 64 KiB each block is a mapping
    /// of its own.
    pub alignment: usize,
    /// How many blocks of a size class a thread caches at first. A magazine that runs empty and full by turns grows beyond
    /// this (magazine.rs). 0: threads cache nothing.
    pub cache_blocks: usize,
    /// Whether spans ask for huge pages.
    pub huge_pages: bool,
    /// Whether mapped blocks are placed on the caller's NUMA node. Otherwise each page lands on the node of the thread that
    /// touches it first.
    pub placed: bool,
    /// Most bytes that the heap may hold; 0: no limit.
    pub limit: usize,
    /// Bytes that are mapped and populated when the heap is made.
    pub ready: usize,
}
impl Default for HeapParams {
    fn default() -> HeapParams {
        HeapParams {
            id: None,
            prefix: 0,
            write_header: None,
            alignment: 0,
            cache_blocks: DEFAULT_BLOCKS,
            huge_pages: false,
            placed: true,
            limit: 0,
            ready: 0,
        }
    }
}

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it begins.
    pub start: usize,
    /// Bytes asked for.
    pub size: usize,
    /// Bytes it could hold.
    pub capacity: usize,
    /// Alignment it keeps when reallocated.
    pub alignment: usize,
}

/// Blocks that were live when their heap ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaks {
    /// How many.
    pub blocks: usize,
    /// Their sizes together.
    pub bytes: usize,
}

/// An independent heap. See the module's comment.
pub struct Heap {
    id: usize,
    in_use: AtomicBool,
    next: AtomicPtr<Heap>,
    next_spare: AtomicPtr<Heap>,
    prefix: AtomicUsize,
    alignment: AtomicUsize,
    cache_blocks: AtomicUsize,
    huge_pages: AtomicBool,
    /// See guarded.rs.
    guarding: AtomicBool,
    placed: AtomicBool,
    limit: AtomicUsize,
    write_header: AtomicPtr<()>,
    companion: AtomicPtr<u8>,
    /// See [`Heap::count_in`].
    counted_in: AtomicPtr<Heap>,
    counters: Counters,
    central: Mutex<Central>,
    /// The cache shared by all threads that have none of their own, because they have ended already or because there was no
    /// memory for one.
    orphans: Mutex<Option<NonNull<ThreadCache>>>,
    /// How often [`Heap::want_caches`] (slow.rs) has asked the threads to put back what they cache.
    caches_wanted: AtomicU32,
}
// SAFETY: the orphans' cache is only reached under its lock; every other field is Sync by itself.
unsafe impl Sync for Heap {}

impl Heap {
    const fn out_of_service(id: usize, next: *mut Heap) -> Heap {
        Heap {
            id,
            in_use: AtomicBool::new(false),
            next: AtomicPtr::new(next),
            next_spare: AtomicPtr::new(core::ptr::null_mut()),
            prefix: AtomicUsize::new(0),
            alignment: AtomicUsize::new(0),
            cache_blocks: AtomicUsize::new(0),
            huge_pages: AtomicBool::new(false),
            guarding: AtomicBool::new(false),
            placed: AtomicBool::new(true),
            limit: AtomicUsize::new(0),
            write_header: AtomicPtr::new(core::ptr::null_mut()),
            companion: AtomicPtr::new(core::ptr::null_mut()),
            counted_in: AtomicPtr::new(core::ptr::null_mut()),
            counters: Counters::new(),
            central: Mutex::new(Central::new()),
            orphans: Mutex::new(None),
            caches_wanted: AtomicU32::new(0),
        }
    }
    /// The heap's number, by which fast.rs finds its caches. No other heap has it while this one exists.
    pub fn id(&self) -> usize {
        self.id
    }
    /// Bytes before each block: the length of the header, rounded up to the heap's alignment.
    fn prefix(&self) -> usize {
        self.prefix.load(Relaxed)
    }
    fn huge_pages(&self) -> bool {
        self.huge_pages.load(Relaxed)
    }

    /// This thread's cache, if it has one.
    fn existing_cache(&self) -> Option<&'static ThreadCache> {
        cache::existing(thread::existing()?, self.id)
    }

    fn allocate_quickly(&self, size: usize, alignment: usize, zeroed: bool) -> Option<NonNull<u8>> {
        let usual = if fast::is_usual(alignment) { fast::allocate(self.id, None, size) } else { None };
        usual.or_else(|| fast::allocate_other(self.id, size, alignment, zeroed))
    }
    /// Allocates `size` bytes at `alignment`, a power of two up to 1 GiB, or 0 for the heap's own.
    pub fn allocate(&'static self, size: usize, alignment: usize) -> Result<NonNull<u8>> {
        match self.allocate_quickly(size, alignment, false) {
            Some(block) => Ok(block),
            None => self.allocate_slow(size, alignment, Extras::default()),
        }
    }

    /// Allocates a block of `size` bytes whose capacity is at least `slack` more.
    pub fn allocate_with_slack(
        &'static self,
        size: usize,
        alignment: usize,
        slack: usize,
    ) -> Result<NonNull<u8>> {
        self.allocate_slow(size, alignment, Extras { slack, ..Extras::default() })
    }

    /// Frees a block. NULL is allowed and does nothing. If `pointer` is not a live block of this heap the error is NotOwned
    /// or DoubleFree, and nothing changes but the count of refused frees.
    pub fn free(&'static self, pointer: *mut u8) -> Result<()> {
        self.give_up(pointer).map(|_| ())
    }
    /// Frees a block as [`Heap::free`] does, and tells whether it is free now. It is not if it has other owners
    /// (attributes.rs), or if `pointer` is NULL.
    pub fn give_up(&'static self, pointer: *mut u8) -> Result<bool> {
        if fast::free(self.id, pointer) || fast::free_other(self.id, pointer) {
            Ok(true)
        } else {
            self.free_slow(pointer)
        }
    }
}

/// The span of a block that is cached or live.
fn span_of_block(pointer: *mut u8) -> &'static span::Span {
    page_map::span_of(pointer as usize).expect("a block is in a span")
}

/// The live block that starts at `pointer`, and its heap.
pub fn owner(pointer: *const u8) -> Option<(&'static Heap, Block)> {
    let span = page_map::span_of(pointer as usize)?;
    span.whole(|| {
        let heap = span.heap()?;
        let value = span.value(span.index_of(pointer as usize)?);
        slot::is_live(value).then(|| (heap, heap.describe(span, pointer as usize, value)))
    })
}

/// The live block that `pointer` lies in, start or inside, and its heap.
pub fn owner_of_interior(pointer: *const u8) -> Option<(&'static Heap, Block)> {
    let span = page_map::span_of(pointer as usize)?;
    let start = span.whole(|| {
        // The pitch may read as 0 while another thread reuses the record.
        let index = (pointer as usize).checked_sub(span.first())?.checked_div(span.pitch())?;
        Some(span.address_of(index))
    })?;
    let found = owner(core::ptr::without_provenance(start))?;
    ((pointer as usize) < found.1.start + found.1.size).then_some(found)
}

#[cfg(test)]
mod tests;
