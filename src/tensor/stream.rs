//! Streams: a node's elements piece by piece, in a buffer of the stream's own.
use super::Complex;
use super::memory::{Block, Memory, Storage};
use super::network::{Network, Node};
use super::pair::Pair;
use super::tiled;
use crate::error::{Result, fail};
use std::time::Instant;

/// Elements of a piece where the caller gives none: 1 MiB.
const DEFAULT_CHUNK: usize = (1 << 20) / size_of::<Complex>();

/// A position in a node's elements, and the piece that ends there.
pub struct Stream {
    /// The node's number in its network.
    pub node: usize,
    /// Elements per piece.
    pub chunk: usize,
    /// Elements read so far.
    pub offset: usize,
    /// The latest piece.
    pub buffer: Block,
}

impl Stream {
    /// Opens a stream at the start of a node. Its pieces have `chunk` elements; 0 means pieces of 1 MiB.
    pub fn new(network: &Network, memory: &Memory, node: usize, chunk: usize) -> Result<Stream> {
        let chunk = if chunk == 0 { DEFAULT_CHUNK } else { chunk };
        let buffer = memory.elements(chunk.min(network.node(node).count()), Storage::Plain)?;
        Ok(Stream { node, chunk, offset: 0, buffer })
    }
    /// Reads the next piece. Returns false at the end of the node. If the node has become smaller than `offset`
    /// meanwhile, as adapting bonds makes it, that is its end, too.
    pub fn next(&mut self, network: &Network) -> Result<bool> {
        let source = network.node(self.node).source();
        let length = self.chunk.min(source.elements.len().saturating_sub(self.offset));
        if length == 0 {
            return Ok(false);
        }
        // The buffer is the stream's own, and C reads it between calls only.
        tiled::read(source, self.offset, self.buffer.target(length).elements)?;
        self.offset += length;
        Ok(true)
    }
}

/// Contracts two nodes and writes what this gives to the elements of a third one, `result`. Its dimensions must
/// be those that the contraction gives, apart from axes of size 1. Operands are read a part at a time. If a
/// whole operand is copied, then into memory that can leave RAM (`tiled`).
pub fn contract(pair: &Pair, result: &Node, memory: &Memory, network: &Network) -> Result<()> {
    let lengths = |sizes: &[usize]| sizes.iter().copied().filter(|size| *size != 1).collect::<Vec<_>>();
    if lengths(&pair.dimensions()) != lengths(result.dimensions()) {
        let (is, should) = (result.dimensions(), pair.dimensions());
        return fail!(InvalidArgument, "the result has dimensions {is:?}, the contraction gives {should:?}");
    }
    for operand in [pair.left, pair.right] {
        if core::ptr::eq(operand, result) {
            return fail!(InvalidArgument, "the result of a contraction cannot be one of its operands");
        }
    }
    let product = pair.product();
    let work = product.operations();
    network.progress.report(0.0, work)?;
    // SAFETY: the result's own block is neither operand's (checked above). No other call uses the network.
    let mut out = unsafe { result.block().shared_target(result.count()) };
    let (left, right) = (pair.left.source(), pair.right.source());
    let mut tick = |done: f64| network.progress.report(done * work, work);
    tiled::multiply(&product, left, right, &mut out, memory, None, &mut tick)
}

/// Counts a contraction of streams that began at `start`.
pub fn count(network: &mut Network, start: Instant) {
    network.metrics.num_contractions += 1;
    network.metrics.contraction_time += start.elapsed().as_secs_f64();
    network.spent(start);
}
