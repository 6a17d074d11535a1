//! Memory of a network: blocks from a table of functions, which may be the program's own C functions.
//!
//! - A block remembers the table that it came from. It goes back to that table when it is dropped, even if the network
//!   has been given another table since.
//! - The blocks of a network are counted in its [`Account`].
use super::Complex;
use super::out::Out;
use super::tiled::{ChunkedMemory, Room, Source, Target, Temporary};
use crate::error::{self, Result, fail};
use crate::instance::Instance;
use crate::os::{floating_point, map};
use crate::tiers::piece::Piece;
use core::cell::Cell;
use core::ffi::c_void;
use core::ptr::NonNull;
use std::rc::Rc;

/// `unified_memory_interface_t`, as the program fills it in. Any function may be missing. A C++ function that throws,
/// although it must not, ends the program at the boundary (defect.rs).
#[repr(C)]
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)] // the contract's own names
pub struct Table {
    pub allocate: Option<unsafe extern "C-unwind" fn(usize, usize) -> *mut c_void>,
    pub free: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
    pub realloc: Option<unsafe extern "C-unwind" fn(*mut c_void, usize) -> *mut c_void>,
    pub allocate_geometric: Option<unsafe extern "C-unwind" fn(*mut usize, usize) -> *mut c_void>,
    pub allocate_hierarchical: Option<unsafe extern "C-unwind" fn(usize, f64) -> *mut c_void>,
    pub allocate_streaming: Option<unsafe extern "C-unwind" fn(usize, usize) -> *mut c_void>,
    pub track_allocation: Option<unsafe extern "C-unwind" fn(*mut c_void, usize) -> bool>,
    pub untrack_allocation: Option<unsafe extern "C-unwind" fn(*mut c_void) -> bool>,
    pub get_stats: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
}

/// The bytes that a network holds, and the most that it has held.
#[derive(Default)]
pub struct Account {
    live: Cell<usize>,
    peak: Cell<usize>,
}
impl Account {
    /// Counts bytes that were allocated.
    pub fn charge(&self, bytes: usize) {
        self.live.set(self.live.get() + bytes);
        self.peak.set(self.peak.get().max(self.live.get()));
    }
    /// Counts bytes that were freed.
    pub fn credit(&self, bytes: usize) {
        self.live.set(self.live.get() - bytes);
    }
    /// The high-water mark: the most bytes held since the last `reset_peak`.
    pub fn peak(&self) -> usize {
        self.peak.get()
    }
    /// Sets the high-water mark to the bytes held now.
    pub fn reset_peak(&self) {
        self.peak.set(self.live.get());
    }
}

/// How a block of elements is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In RAM.
    Plain,
    /// In compressed tiers, within the network's tolerance.
    Hierarchical,
    /// In tiers that spill to a file.
    Streaming,
}

/// Where a network's blocks come from now.
#[derive(Clone)]
pub struct Memory {
    table: NonNull<Table>,
    account: Rc<Account>,
    /// The instance behind the table, if it is one of the library's own.
    instance: Option<&'static Instance>,
    /// Largest error of an element in hierarchical memory.
    pub tolerance: f64,
}

/// Alignment of every block, in bytes.
const ALIGNMENT: usize = 64;

/// Calls a function of a table, which may be the program's own.
fn called<R>(function: impl FnOnce() -> R) -> R {
    let _programs = floating_point::programs();
    function()
}

impl Memory {
    /// The memory behind `table`. `instance` is the one behind the table, if the table is one of the library's own.
    /// `InvalidArgument` if the table is NULL, or has no `allocate` or no `free`.
    ///
    /// # Safety
    /// `table` points to a table whose functions do what the contract says, and which outlives every block made
    /// through it.
    pub unsafe fn new(
        table: *const Table,
        instance: Option<&'static Instance>,
        account: &Rc<Account>,
        tolerance: f64,
    ) -> Result<Memory> {
        let Some(table) = NonNull::new(table.cast_mut()) else {
            return fail!(InvalidArgument, "the network has no memory interface");
        };
        // SAFETY: the caller promises that the table can be read.
        let functions = unsafe { table.read() };
        if functions.allocate.is_none() || functions.free.is_none() {
            return fail!(InvalidArgument, "the memory interface has no allocate or no free");
        }
        Ok(Memory { table, instance, account: account.clone(), tolerance })
    }
    fn functions(&self) -> Table {
        // SAFETY: the caller of `new` promised that the table outlives every block made through it.
        unsafe { self.table.read() }
    }
    /// The most bytes of RAM that this memory may hold. `None` if there is no limit, or none is known.
    pub fn limit(&self) -> Option<usize> {
        self.instance.map(|instance| instance.heap().limit()).filter(|limit| *limit != 0)
    }
    /// Whether a tensor of this size belongs in streaming memory.
    ///
    /// - In the library's own memory, plain tensors leave half of the limit to the chunks of tensors that can leave RAM.
    ///   No plain tensor takes more than an eighth of the limit.
    /// - Of a program's own table nothing is known, so only the size of the tensor counts.
    pub fn prefers_streaming(&self, bytes: usize) -> bool {
        /// Tiered memory takes a page of records besides its chunks, and an entry in the process's list of mappings.
        const ALWAYS_PLAIN: usize = 64 << 10;
        const CALLERS_OWN: usize = 1 << 30;
        match (self.instance, self.limit()) {
            _ if bytes < ALWAYS_PLAIN => false,
            (None, _) => bytes >= CALLERS_OWN,
            (Some(_), None) => false,
            (Some(instance), _) if !instance.has_streaming() => false,
            (Some(instance), Some(limit)) => {
                // A limit beyond the machine's RAM says nothing about what fits.
                bytes > limit.min(map::physical_memory()) / 8 || !instance.can_allocate(bytes + limit / 2)
            }
        }
    }
    fn block(&self, start: *mut c_void, bytes: usize) -> Result<Block> {
        let Some(start) = NonNull::new(start) else {
            // The library's own tables have set the thread's last error. A program's table reports failures in its own
            // way, if at all.
            return match self.instance.and_then(|_| error::again()) {
                Some(reason) => Err(reason),
                None => fail!(OutOfMemory, "the network's memory has no {bytes} bytes left"),
            };
        };
        self.account.charge(bytes);
        Ok(Block { start: start.cast(), bytes, memory: self.clone(), piece: None })
    }
    /// Allocates a block of plain memory. Its contents are undefined.
    pub fn bytes(&self, bytes: usize) -> Result<Block> {
        let Some(allocate) = self.functions().allocate else {
            return fail!(InvalidArgument, "the memory interface has no allocate");
        };
        // SAFETY: the table does what the contract says (`new`), and size and alignment are as the contract asks.
        let start = called(|| unsafe { allocate(bytes, ALIGNMENT) });
        self.block(start, bytes)
    }
    /// Allocates memory for `count` elements. It is plain if the table has no memory of the kind that `storage` names.
    pub fn elements(&self, count: usize, storage: Storage) -> Result<Block> {
        let bytes = count * size_of::<Complex>();
        let functions = self.functions();
        if storage == Storage::Hierarchical && !(self.tolerance.is_finite() && self.tolerance >= 0.0) {
            return fail!(InvalidArgument, "the network's tolerance is {}", self.tolerance);
        }
        // SAFETY: the table does what the contract says (`new`). The contract allows all sizes above 0, and a chunk size
        // of 0, which means the default.
        let start = unsafe {
            match (storage, functions.allocate_hierarchical, functions.allocate_streaming) {
                (Storage::Hierarchical, Some(allocate), _) => called(|| allocate(bytes, self.tolerance)),
                (Storage::Streaming, _, Some(allocate)) => called(|| allocate(bytes, 0)),
                _ => return self.bytes(bytes),
            }
        };
        self.tiered(start, bytes)
    }
    fn tiered(&self, start: *mut c_void, bytes: usize) -> Result<Block> {
        let mut block = self.block(start, bytes)?;
        // Chunks are counted from the piece's start, so only a block that begins there can be pinned chunk by chunk.
        let piece = Piece::around(start as usize);
        block.piece = piece.filter(|piece| piece.start() == start as usize && !piece.is_resident());
        Ok(block)
    }
}

impl Room for Memory {
    /// Seven eighths of what plain blocks leave of the limit. The rest is for chunks that are on their way in or out.
    fn pinnable(&self) -> usize {
        let (Some(instance), Some(limit)) = (self.instance, self.limit()) else { return usize::MAX };
        // `can_allocate` counts everything that can leave RAM as free.
        let sixteenths = (1..=16).rev().find(|part| instance.can_allocate(limit / 16 * part)).unwrap_or(0);
        limit / 16 * sixteenths / 8 * 7 / size_of::<Complex>()
    }
    /// A chunk is small enough that many blocks can be filled at one time, and large enough for fast transfers to the
    /// disk.
    fn chunk_of_temporaries(&self) -> Option<usize> {
        const IN_PLACE: usize = 256;
        const SIZES: [usize; 2] = [(64 << 10) / size_of::<Complex>(), (2 << 20) / size_of::<Complex>()];
        let chunk = (self.pinnable() / IN_PLACE).next_power_of_two().clamp(SIZES[0], SIZES[1]);
        self.instance.is_some_and(Instance::has_streaming).then_some(chunk)
    }
    fn temporary(&self, elements: usize, chunk: usize) -> Option<Box<dyn Temporary>> {
        let bytes = elements.checked_mul(size_of::<Complex>())?;
        // Not allocated through the table: that would make a failure the thread's last error, but a product can do
        // without copies.
        let start = self.instance?.allocate_streaming(bytes, chunk * size_of::<Complex>()).ok()?;
        let block = self.tiered(start.as_ptr().cast(), bytes).ok()?;
        block.piece.is_some().then(|| Box::new(block) as Box<dyn Temporary>)
    }
}

/// A block of a network's memory.
pub struct Block {
    start: NonNull<u8>,
    bytes: usize,
    memory: Memory,
    /// The chunks of the block, if it lies in the library's tiers and can leave RAM.
    piece: Option<Piece>,
}
impl Block {
    /// The memory whose chunks are to be pinned; `None` if the block always stays in place.
    pub fn chunked(&self) -> Option<&dyn ChunkedMemory> {
        self.piece.as_ref().map(|piece| piece as &dyn ChunkedMemory)
    }
    /// The start of the block, for the structures that C sees.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
    /// The length in bytes.
    pub fn size(&self) -> usize {
        self.bytes
    }
    /// The block as elements, the first `count` of them.
    ///
    /// # Safety
    /// These elements have been written, and nobody writes them while the slice lives.
    pub unsafe fn elements(&self, count: usize) -> &[Complex] {
        assert!(count * size_of::<Complex>() <= self.bytes);
        // SAFETY: the elements are inside the block (asserted), aligned, and initialised by the caller's promise.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr().cast(), count) }
    }
    /// The first `count` elements of a block that nobody else uses, to be written.
    pub fn target(&mut self, count: usize) -> Target<'_> {
        // SAFETY: the block is borrowed for as long as the target lives.
        unsafe { self.shared_target(count) }
    }
    /// The first `count` elements of a block that others know, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes these elements while the target lives.
    pub unsafe fn shared_target(&self, count: usize) -> Target<'_> {
        assert!(count * size_of::<Complex>() <= self.bytes);
        // SAFETY: the elements are inside the block (asserted) and aligned. They are the caller's alone, by its promise.
        let elements = unsafe { Out::new(self.start.as_ptr().cast(), count) };
        Target { elements, chunked: self.chunked() }
    }
}
impl Temporary for Block {
    fn source(&self) -> Source<'_> {
        // SAFETY: memory of the tiers reads as 0 until it is written, and the block is borrowed, so nobody writes it
        // meanwhile.
        let elements = unsafe { self.elements(self.bytes / size_of::<Complex>()) };
        Source { elements, chunked: self.chunked() }
    }
    fn target(&mut self) -> Target<'_> {
        Block::target(self, self.bytes / size_of::<Complex>())
    }
}
impl Drop for Block {
    fn drop(&mut self) {
        self.memory.account.credit(self.bytes);
        self.piece = None;
        if let Some(free) = self.memory.functions().free {
            // SAFETY: the block came from this table, is live, and is given back only here.
            called(|| unsafe { free(self.start.as_ptr().cast()) });
        }
    }
}
