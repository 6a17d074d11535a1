//! The chunks of a tensor: pinning them in place, and which of them a part of the tensor needs.
use super::{Source, Target};
use crate::error::Result;
use crate::tensor::Complex;
use crate::tiers::fault::Mechanism;
pub use crate::tiers::fill::Access as Purpose;
use crate::tiers::piece::Piece;

/// Memory in chunks that come and go. The first element of the tensor is the first of chunk 0.
pub trait ChunkedMemory {
    /// Elements of one chunk.
    fn chunk(&self) -> usize;
    /// Brings a chunk in and pins it: it stays in place until it has been released as often as it was
    /// acquired.
    fn acquire(&self, index: usize, purpose: Purpose) -> Result<()>;
    /// Lets go of a chunk that was acquired.
    fn release(&self, index: usize);
    /// Asks for `count` chunks that will be acquired soon. This is a hint.
    fn prefetch(&self, first: usize, count: usize);
    /// Number of chunks.
    fn count(&self) -> usize;
    /// Whether touching a chunk that is not in place brings it in. Otherwise only acquired chunks may be
    /// touched.
    fn is_served(&self) -> bool;
    /// Whether chunks that leave are compressed within a tolerance, so that most of them may stay in RAM.
    fn is_compressed(&self) -> bool;
}

/// The memory that there is for a product.
pub trait Room {
    /// Elements that may be pinned at one time.
    fn pinnable(&self) -> usize;
    /// Elements of a chunk of temporary tensors; `None` if there is no memory for these.
    fn chunk_of_temporaries(&self) -> Option<usize>;
    /// Memory for a temporary tensor of so many elements, in chunks of `chunk` elements; `None` if there is
    /// no room.
    fn temporary(&self, elements: usize, chunk: usize) -> Option<Box<dyn Temporary>>;
}
/// A tensor that lives as long as one product.
pub trait Temporary {
    /// To read what was written.
    fn source(&self) -> Source<'_>;
    /// To write.
    fn target(&mut self) -> Target<'_>;
}

impl ChunkedMemory for Piece {
    fn chunk(&self) -> usize {
        self.chunk_size() / size_of::<Complex>()
    }
    fn acquire(&self, index: usize, purpose: Purpose) -> Result<()> {
        Piece::acquire(self, index, purpose).map(drop)
    }
    fn release(&self, index: usize) {
        let released = Piece::release(self, index);
        debug_assert!(released.is_ok()); // it fails only for a chunk that was not acquired
    }
    fn prefetch(&self, first: usize, count: usize) {
        // A hint: a chunk that cannot be brought in now is brought in, or the error reported, when it is
        // acquired.
        let _ = Piece::prefetch(self, first, count);
    }
    fn count(&self) -> usize {
        Piece::count(self)
    }
    fn is_served(&self) -> bool {
        self.engine().mechanism() != Mechanism::None
    }
    fn is_compressed(&self) -> bool {
        Piece::is_lossy(self)
    }
}

/// The elements of a tensor that some axes reach from the element `at`.
#[derive(Clone, Debug)]
pub struct Extent {
    at: usize,
    /// Sizes and strides, smallest stride first.
    axes: Vec<(usize, usize)>,
}

impl Extent {
    pub fn new(at: usize, axes: impl Iterator<Item = (usize, usize)>) -> Extent {
        let mut axes: Vec<(usize, usize)> = axes.filter(|axis| axis.0 > 1).collect();
        axes.sort_by_key(|axis| axis.1);
        Extent { at, axes }
    }
    /// The place behind the last element.
    pub fn end(&self) -> usize {
        self.at + 1 + self.axes.iter().map(|(size, stride)| (size - 1) * stride).sum::<usize>()
    }
    /// The length of pieces that have no gap as long as a chunk, and the axes that tell where these pieces
    /// are.
    fn solid(&self, chunk: usize) -> (usize, &[(usize, usize)]) {
        let mut length = 1;
        for (i, &(size, stride)) in self.axes.iter().enumerate() {
            if stride >= length + chunk {
                return (length, &self.axes[i..]);
            }
            length += stride * (size - 1);
        }
        (length, &[])
    }
    /// About how many chunks are needed: an upper bound for most places where the extent may begin.
    pub fn count(&self, chunk: usize) -> usize {
        let (length, apart) = self.solid(chunk);
        apart.iter().map(|axis| axis.0).product::<usize>()
            * (length.div_ceil(chunk) + usize::from(!self.at.is_multiple_of(chunk)))
    }
    /// The chunks needed, as runs in ascending order: the first chunk, and how many.
    pub fn chunks(&self, chunk: usize) -> Vec<(usize, usize)> {
        let (length, apart) = self.solid(chunk);
        let mut starts = vec![self.at];
        for &(size, stride) in apart.iter().rev() {
            starts = starts.iter().flat_map(|start| (0..size).map(move |i| start + i * stride)).collect();
        }
        starts.sort_unstable();
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for start in starts {
            let (first, end) = (start / chunk, (start + length - 1) / chunk + 1);
            match runs.last_mut() {
                Some(run) if run.0 + run.1 >= first => run.1 = run.1.max(end - run.0),
                _ => runs.push((first, end - first)),
            }
        }
        runs
    }
    /// Whether all of a chunk belongs to the extent.
    pub fn covers(&self, index: usize, chunk: usize) -> bool {
        let mut length = 1;
        for &(size, stride) in &self.axes {
            if stride > length {
                return false;
            }
            length += stride * (size - 1);
        }
        self.at <= index * chunk && (index + 1) * chunk <= self.at + length
    }
}

/// Pinned chunks, which are released when this is dropped.
#[derive(Default)]
pub struct Pins<'a> {
    chunked: Option<&'a dyn ChunkedMemory>,
    chunks: Vec<usize>,
}
impl<'a> Pins<'a> {
    /// Pins the chunks that an extent needs; none if there are no chunks or no extent. A chunk that the
    /// extent does not cover as a whole is not overwritten but written.
    pub fn new(
        chunked: Option<&'a dyn ChunkedMemory>,
        extent: Option<Extent>,
        purpose: Purpose,
    ) -> Result<Pins<'a>> {
        let mut pins = Pins { chunked, chunks: Vec::new() };
        if let (Some(chunked), Some(extent)) = (chunked, extent) {
            let chunk = chunked.chunk();
            let runs = extent.chunks(chunk);
            if purpose == Purpose::Read {
                runs.iter().for_each(|(first, count)| chunked.prefetch(*first, *count));
            }
            for (first, count) in runs {
                for index in first..first + count {
                    let whole = purpose != Purpose::Overwrite || extent.covers(index, chunk);
                    chunked.acquire(index, if whole { purpose } else { Purpose::Write })?;
                    pins.chunks.push(index);
                }
            }
        }
        Ok(pins)
    }
}
impl Drop for Pins<'_> {
    fn drop(&mut self) {
        if let Some(chunked) = self.chunked {
            self.chunks.iter().for_each(|index| chunked.release(*index));
        }
    }
}
