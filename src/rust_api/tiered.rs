//! Memory larger than RAM, used chunk by chunk.
//!
//! There are no references to elements outside of pinned chunks. A chunk that leaves and comes back may have changed
//! within the tolerance, and memory behind a Rust reference must not change. So a chunk stays pinned as long as it is
//! borrowed.
use super::{Interface, bytes_of, told};
use crate::error::{Result, fail};
use crate::os::map::PAGE;
use crate::tiers::chunks::Advice;
use crate::tiers::fill::Access;
use crate::tiers::piece::Piece;
use crate::tiers::residency::Residency;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// Streaming or hierarchical memory. Its chunks are in RAM, compressed, or on disk.
///
/// ```
/// use unimem::{Config, Interface};
///
/// # fn main() -> Result<(), unimem::Error> {
/// let memory = Interface::open(Config { max_size: 2 << 20, chunk_size: 64 << 10, ..Config::default() })?;
/// let mut weights = memory.streaming::<f64>(1 << 20, 0)?; // 8 MiB in 2 MiB
/// for index in 0..weights.chunk_count() {
///     weights.overwrite(index)?.fill(index as f64);
/// }
/// assert_eq!(weights.read(5)?[0], 5.0);
/// assert!(weights.residency().evictions > 0);
/// # Ok(())
/// # }
/// ```
pub struct Tiered<T> {
    memory: Interface,
    start: NonNull<u8>,
    piece: Piece,
    length: usize,
    elements: PhantomData<T>,
}

// SAFETY: it owns its elements. The engine moves chunks under its own locks.
unsafe impl<T: Send> Send for Tiered<T> {}
// SAFETY: a shared reference gives only chunks for reading.
unsafe impl<T: Sync> Sync for Tiered<T> {}

impl<T: bytemuck::Pod> Tiered<T> {
    pub(super) fn new(
        memory: &Interface,
        length: usize,
        allocate: impl FnOnce(usize) -> Result<NonNull<u8>>,
    ) -> Result<Tiered<T>> {
        const { assert!(align_of::<T>() <= PAGE, "chunks begin with a page") };
        let start = allocate(bytes_of::<T>(length)?)?;
        let piece = crate::instance::tiered::expect_piece(start.as_ptr())?;
        let tiered = Tiered { memory: memory.clone(), start, piece, length, elements: PhantomData };
        if tiered.piece.chunk_size() % size_of::<T>() != 0 {
            return fail!(InvalidArgument, "an element of {} bytes would lie in two chunks", size_of::<T>());
        }
        Ok(tiered)
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }
    /// Whether there are no elements. That is never so, because memory of 0 bytes is refused.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
    /// Number of elements of a chunk. The last chunk may have fewer.
    pub fn chunk_length(&self) -> usize {
        self.piece.chunk_size() / size_of::<T>()
    }
    /// Number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.piece.count()
    }
    /// Pins a chunk for reading.
    pub fn read(&self, index: usize) -> Result<Chunk<'_, T>> {
        Ok(Chunk { pin: self.pin(index, Access::Read)?, tiered: PhantomData })
    }
    /// Pins a chunk for reading and writing.
    pub fn write(&mut self, index: usize) -> Result<ChunkMut<'_, T>> {
        Ok(ChunkMut { pin: self.pin(index, Access::Write)?, tiered: PhantomData })
    }
    /// Pins a chunk that will be written anew. What it held is not brought in; it begins as zeros.
    pub fn overwrite(&mut self, index: usize) -> Result<ChunkMut<'_, T>> {
        let pin = self.pin::<T>(index, Access::Overwrite)?;
        // SAFETY: the chunk is pinned for writing. The zeros replace contents that are unspecified, which no reference
        // may see.
        unsafe { pin.start.write_bytes(0, pin.length) };
        Ok(ChunkMut { pin, tiered: PhantomData })
    }
    /// Asks the library's own threads to bring in `count` chunks, from chunk `index` on. Returns at once.
    pub fn prefetch(&self, index: usize, count: usize) -> Result<()> {
        told(self.piece.prefetch(index, count))
    }
    /// Says how the memory will be used.
    pub fn advise(&self, advice: Advice) -> Result<()> {
        self.piece.advise(advice);
        Ok(())
    }
    /// Where its bytes are, and what moving them has cost.
    pub fn residency(&self) -> Residency {
        self.piece.residency()
    }
    fn pin<E>(&self, index: usize, access: Access) -> Result<Pin<E>> {
        let start = told(self.piece.acquire(index, access))?;
        let length = self.chunk_length().min(self.length - index * self.chunk_length());
        let Some(start) = NonNull::new(start.cast()) else { return fail!(Internal, "a chunk at NULL") };
        Ok(Pin { piece: self.piece.clone(), index, start, length })
    }
}

impl<T> Drop for Tiered<T> {
    fn drop(&mut self) {
        self.memory.release(self.start);
    }
}
impl<T> fmt::Debug for Tiered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiered").field("length", &self.length).finish_non_exhaustive()
    }
}

/// One acquisition of a chunk.
struct Pin<T> {
    piece: Piece,
    index: usize,
    start: NonNull<T>,
    length: usize,
}
impl<T> Drop for Pin<T> {
    fn drop(&mut self) {
        let released = self.piece.release(self.index);
        debug_assert!(released.is_ok(), "a pin is given up once");
    }
}

/// A chunk that is pinned for reading.
pub struct Chunk<'a, T> {
    pin: Pin<T>,
    tiered: PhantomData<&'a Tiered<T>>,
}
impl<T> Deref for Chunk<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the chunk is pinned, so it is in place and unchanged as long as this lives. Any bytes are a valid
        // value (Pod).
        unsafe { core::slice::from_raw_parts(self.pin.start.as_ptr(), self.pin.length) }
    }
}

/// A chunk that is pinned for reading and writing.
pub struct ChunkMut<'a, T> {
    pin: Pin<T>,
    tiered: PhantomData<&'a mut Tiered<T>>,
}
impl<T> Deref for ChunkMut<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: as for `Chunk`.
        unsafe { core::slice::from_raw_parts(self.pin.start.as_ptr(), self.pin.length) }
    }
}
impl<T> DerefMut for ChunkMut<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the chunk is pinned for writing, and this borrows the whole memory exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.pin.start.as_ptr(), self.pin.length) }
    }
}
