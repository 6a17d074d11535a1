//! Instances. Behind each table of functions stands one: a heap, tiered memory, a configuration, and the addresses that
//! it tracks.
pub mod config;
pub mod slots;
pub mod tensor_layout;
pub mod tiered;

use crate::error::{Result, fail};
use crate::heap::tracking_table::{Tracked, TrackingTable};
use crate::heap::{self, Heap, HeapStatistics, attributes, tracked};
use crate::log::log;
use crate::os::records::{self, Records};
use crate::tiers::{piece::Piece, region::Policy};
use allocator_api2::vec::Vec;
use config::Config;
use core::ptr::NonNull;
use tiered::Tiered;

/// Tensors of at least this many bytes are aligned to a huge page.
const HUGE_TENSOR: usize = crate::os::map::HUGE_PAGE;
/// Bytes of address space that a process has unless it asks for more, on every processor that the library supports. A
/// tracked block cannot be larger.
const ADDRESS_SPACE: usize = 1 << 48;
/// Bytes that tracked blocks and tiered memory may have in all. So no sum of live bytes wraps, although programs may say any
/// size of any address, and several threads at the same moment.
const MOST_ELSEWHERE: usize = 1 << 62;
/// How many leaks the log names when an instance is closed.
const LEAKS_LOGGED: usize = 16;

/// One instance. Its heap is its own, or that of a memory pool or memory system.
pub struct Instance {
    heap: &'static Heap,
    config: Config,
    /// Tracked addresses outside the instance's own memory. Addresses inside are tracked with that memory
    /// (heap/tracked.rs).
    foreign: TrackingTable,
    /// Streaming and hierarchical memory.
    tiered: Tiered,
    /// What the heap is the main one of, if there are others.
    whole: Option<&'static dyn Whole>,
}

/// A memory system, whose pools have heaps of their own that are parts of its heap.
pub trait Whole: Sync {
    /// The figures of all heaps together.
    fn statistics(&self) -> HeapStatistics;
    /// Returns unused memory of all heaps to the system. Gives the number of bytes.
    fn trim(&self) -> usize;
    /// Calls `each` with all heaps. It must not call the program.
    fn for_each_heap(&self, each: &mut dyn FnMut(&'static Heap));
}

/// A block that is live or tracked when leaks are reported.
#[derive(Clone, Copy, Debug)]
pub struct Leak {
    /// Where it begins.
    pub address: usize,
    /// Bytes asked for, or the size it is tracked with.
    pub size: usize,
    /// Whether it is tracked and not the instance's own.
    pub foreign: bool,
    /// Number of owners; 1 for foreign blocks.
    pub references: usize,
}

impl Instance {
    fn new(heap: &'static Heap, config: Config, whole: Option<&'static dyn Whole>) -> Instance {
        Instance { heap, config, foreign: TrackingTable::new(), tiered: Tiered::default(), whole }
    }
    /// The heap that the instance allocates from.
    pub fn heap(&self) -> &'static Heap {
        self.heap
    }
    fn for_each_heap(&self, each: &mut dyn FnMut(&'static Heap)) {
        match self.whole {
            Some(whole) => whole.for_each_heap(each),
            None => each(self.heap),
        }
    }

    /// Allocates `size` bytes of plain memory. `alignment` is a power of two up to 1 GiB; 0 means 64.
    #[inline(always)]
    pub fn allocate(&self, size: usize, alignment: usize) -> Result<NonNull<u8>> {
        let alignment = self.alignment_for(size, alignment);
        self.with_room(size, alignment, || 0, || self.heap.allocate_as_guarding(size, alignment, false))
    }
    #[inline(always)]
    fn alignment_for(&self, size: usize, alignment: usize) -> usize {
        match self.config.use_geometric_layout && size >= HUGE_TENSOR {
            true => alignment.max(HUGE_TENSOR),
            false => alignment,
        }
    }
    /// Gives up one owner of a block. The last one frees it. NULL does nothing.
    #[inline(always)]
    pub fn free(&self, pointer: *mut u8) -> Result<()> {
        if let Some(piece) = self.tiered.piece(pointer) {
            return self.free_piece(&piece);
        }
        self.heap.free_guarded(pointer).map_err(|error| tiered::free_refused("free", pointer, error))
    }
    /// Changes the size of a block. NULL allocates; a size of 0 frees.
    pub fn reallocate(&self, pointer: *mut u8, size: usize) -> Result<Option<NonNull<u8>>> {
        if pointer.is_null() {
            return self.allocate(size, 0).map(Some);
        }
        if size == 0 {
            return self.free(pointer).map(|()| None);
        }
        if let Some(piece) = self.tiered.piece(pointer) {
            return self.reallocate_piece(&piece, size).map(Some);
        }
        let old = || self.heap.block(pointer).map_or(0, |block| block.size);
        let block = self.with_room(size, 0, old, || self.heap.reallocate_as_guarding(pointer, size));
        block.map(Some).map_err(|error| tiered::refused(pointer, error))
    }
    /// Allocates a dense row-major tensor, and stores its layout with the block.
    pub fn allocate_tensor(&self, extents: &[usize], element_size: usize) -> Result<NonNull<u8>> {
        let size = tensor_layout::bytes(extents, element_size)?;
        let alignment = if size >= HUGE_TENSOR { HUGE_TENSOR } else { 0 };
        let block =
            self.with_room(size, alignment, || 0, || self.heap.allocate_as_guarding(size, alignment, false))?;
        let noted = tensor_layout::row_major(extents, element_size)
            .and_then(|layout| attributes::set_layout(block.as_ptr(), layout));
        if let Err(error) = noted {
            self.heap.free(block.as_ptr())?;
            return Err(error);
        }
        Ok(block)
    }
    /// Allocates zeroed memory that may be compressed within `tolerance` (negative: the configured one).
    pub fn allocate_hierarchical(&self, size: usize, tolerance: f64) -> Result<NonNull<u8>> {
        if !tolerance.is_finite() {
            return fail!(InvalidArgument, "a tolerance of {tolerance}");
        }
        let tolerance = if tolerance < 0.0 { self.config.compression_tolerance } else { tolerance };
        self.allocate_piece(size, 0, Policy::Hierarchical { tolerance })
    }
    /// Whether streaming memory can be allocated.
    pub fn has_streaming(&self) -> bool {
        self.config.enable_streaming
    }
    /// Allocates zeroed memory that may be larger than RAM, in chunks of `chunk_size` bytes (0: the configured size).
    pub fn allocate_streaming(&self, total_size: usize, chunk_size: usize) -> Result<NonNull<u8>> {
        if !self.config.enable_streaming {
            return fail!(Unsupported, "streaming is not enabled for this instance");
        }
        self.allocate_piece(total_size, chunk_size, Policy::Streaming)
    }

    /// Tracks any pointer; tracking it again replaces its size. A pointer into the instance's own memory adds nothing
    /// to what is counted, whatever the size, and is tracked as long as that memory lives.
    pub fn track(&self, pointer: *mut u8, size: usize) -> Result<()> {
        if pointer.is_null() {
            return fail!(InvalidArgument, "NULL cannot be tracked");
        }
        if size > ADDRESS_SPACE {
            return fail!(InvalidArgument, "{size} bytes are more than there are addresses for");
        }
        if let Some(memory) = self.own_memory_at(pointer) {
            return memory.track(&tracked::INSTANCES, pointer as usize);
        }
        if self.heap.live_elsewhere() > MOST_ELSEWHERE - size {
            return fail!(InvalidArgument, "with {size} bytes more, more are tracked than can be counted");
        }
        // Makes now what counting needs, because counting must not fail once the pointer is tracked.
        self.heap.ready_to_count()?;
        let old = match self.foreign.track(pointer as usize, size) {
            Tracked::New => 0,
            Tracked::Again(old) => old,
            Tracked::NoMemory => return fail!(OutOfMemory, "no memory to track {pointer:p}"),
        };
        self.heap.count_foreign(size as isize - old as isize)
    }
    /// Stops tracking a pointer. InvalidArgument if it is not tracked.
    pub fn untrack(&self, pointer: *mut u8) -> Result<()> {
        if self.own_memory_at(pointer).is_some() && tracked::INSTANCES.untrack(pointer as usize) {
            return Ok(());
        }
        self.heap.ready_to_count()?;
        match self.foreign.untrack(pointer as usize) {
            Some(size) => self.heap.count_foreign(-(size as isize)),
            None => fail!(InvalidArgument, "{pointer:p} is not tracked"),
        }
    }

    /// The live memory of this instance that contains `pointer`, at its start or inside.
    fn own_memory_at(&self, pointer: *const u8) -> Option<Memory> {
        memory_at(pointer).filter(|memory| match memory {
            Memory::Block { heap, .. } => core::ptr::eq(*heap, self.heap),
            Memory::Tiered(piece) => self.tiered.has(piece),
        })
    }
    /// The statistics of the instance. Live bytes include tracked foreign blocks.
    pub fn statistics(&self) -> HeapStatistics {
        self.whole.map_or_else(|| self.heap.statistics(), Whole::statistics)
    }
    /// Begins a new history: the counts begin at 0, the peak at what is live.
    pub fn reset_statistics(&self) {
        self.for_each_heap(&mut Heap::reset_statistics);
    }
    /// Bytes that count against the limit.
    pub fn held(&self) -> usize {
        let mut held = 0;
        self.for_each_heap(&mut |heap| held += heap.held());
        held
    }
    /// Frees refused since creation or reset.
    pub fn refused(&self) -> usize {
        let mut refused = 0;
        self.for_each_heap(&mut |heap| refused += heap.refused());
        refused
    }
    /// Whether [`Instance::allocate`] would find room for `size` bytes in the budget now.
    pub fn can_allocate(&self, size: usize) -> bool {
        let movable = self.tiered.engine().map_or(0, |engine| engine.movable());
        self.heap.can_allocate(size, self.alignment_for(size, 0), movable)
    }
    /// Returns unused memory to the system. Gives the number of bytes.
    pub fn trim(&self) -> usize {
        let plain = || self.whole.map_or_else(|| self.heap.trim(), Whole::trim);
        self.tiered.engine().map_or(0, |engine| engine.trim()) + plain()
    }
    /// Calls `each` with every live block and every tracked foreign block. Gives how many there are.
    pub fn for_each_leak(&self, each: impl FnMut(Leak)) -> usize {
        // The callback may use the instance, so no lock is held while it runs.
        let (leaks, count) = self.leaks();
        leaks.iter().copied().for_each(each);
        count
    }
    /// All leaks, and how many there are. Leaks that there is no memory to list are counted but left out.
    fn leaks(&self) -> (Leaks, usize) {
        let (mut leaks, mut count) = self.leaks_beside_blocks();
        let mut blocks = Vec::new_in(Records);
        self.for_each_heap(&mut |heap| count += heap.list_live(&mut blocks));
        for block in blocks {
            let references = attributes::references(block.start as *const u8).max(1);
            let leak = Leak { address: block.start, size: block.size, foreign: false, references };
            records::push(&mut leaks, leak);
        }
        (leaks, count)
    }
    /// The leaks that are not plain blocks: live tiered memory, and tracked foreign blocks.
    fn leaks_beside_blocks(&self) -> (Leaks, usize) {
        let (mut leaks, mut count) = (Leaks::new_in(Records), 0);
        for piece in self.tiered.engine().iter().flat_map(|engine| engine.pieces()) {
            count += 1;
            let references = 1 + piece.further_owners();
            let leak = Leak { address: piece.start(), size: piece.size(), foreign: false, references };
            records::push(&mut leaks, leak);
        }
        self.foreign.for_each(|address, size| {
            count += 1;
            records::push(&mut leaks, Leak { address, size, foreign: true, references: 1 });
        });
        (leaks, count)
    }
    /// Reports all leaks to the log. Gives how many there are.
    fn report_leaks(&self) -> usize {
        let (leaks, count) = self.leaks();
        report(&leaks, count);
        count
    }
    /// Reports the leaks that are not plain blocks. For a pool or system, which reports its blocks itself.
    fn report_leaks_beside_blocks(&self) {
        let (leaks, count) = self.leaks_beside_blocks();
        report(&leaks, count);
    }
}

/// A list of leaks, in records. It is filled under locks under which malloc must not be called, because malloc's heap
/// may be ours.
type Leaks = Vec<Leak, Records>;
/// Reports `count` leaks to the log, and names the first of them.
fn report(leaks: &[Leak], count: usize) {
    for leak in &leaks[..leaks.len().min(LEAKS_LOGGED)] {
        let kind = if leak.foreign { "tracked block" } else { "block" };
        let Leak { address, size, references, .. } = leak;
        log!(Warning, "leak: {kind} at {address:#x}, {size} bytes, {references} owner(s)");
    }
    if count > 0 {
        let bytes = leaks.iter().map(|leak| leak.size).sum::<usize>();
        log!(Warning, "leak: {count} blocks, {bytes} bytes in all");
    }
}

/// Live memory of libunimem.
pub enum Memory {
    /// A plain block.
    Block {
        /// The heap that the block belongs to.
        heap: &'static Heap,
        /// Where it begins.
        start: usize,
    },
    /// Streaming or hierarchical memory.
    Tiered(Piece),
}
impl Memory {
    /// Tracks an address in this memory, as long as the memory lives.
    pub fn track(&self, tracker: &tracked::Tracker, address: usize) -> Result<()> {
        match self {
            Memory::Block { start, .. } => tracker.track_in_block(address, *start),
            Memory::Tiered(piece) => tracker.track(address, piece.start()),
        }
    }
}
/// Whether `pointer` points into a live block of libunimem, at its start or inside.
pub fn owns(pointer: *const u8) -> bool {
    memory_at(pointer).is_some()
}
/// The live memory of libunimem that contains `pointer`, at its start or inside.
pub fn memory_at(pointer: *const u8) -> Option<Memory> {
    match heap::owner_of_interior(pointer) {
        Some((heap, block)) => Some(Memory::Block { heap, start: block.start }),
        None => tiered::piece_of(pointer).map(Memory::Tiered),
    }
}
