//! Lossless coding of any bytes: lz4 after a byte shuffle, for blocks where a cheap probe says that it pays.
//!
//! The shuffle puts the first bytes of all elements together, then the second bytes, and so on, as Blosc does,
//! because bytes of the same significance resemble each other.
use super::{BLOCK, Damaged};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

/// How many bytes a probe compresses.
const PROBE: usize = 4096;

/// Buffers of one thread that encodes or decodes. Nothing is allocated while coding.
pub struct Workspace {
    /// The table of lz4, the only part that is not valid when zeroed.
    pub table: CompressTable,
    shuffled: [u8; BLOCK],
    /// The output of lz4.
    pub packed: [u8; get_maximum_output_size(BLOCK + BLOCK / 16)],
}
/// A fresh table for lz4.
pub fn table() -> CompressTable {
    CompressTable::large()
}
impl Default for Workspace {
    fn default() -> Self {
        Workspace { table: table(), shuffled: [0; _], packed: [0; _] }
    }
}

fn shuffle(element: usize, source: &[u8], out: &mut [u8]) {
    let n = source.len() / element;
    for (byte, plane) in out[..source.len()].chunks_exact_mut(n).enumerate() {
        for (o, s) in plane.iter_mut().zip(source[byte..].iter().step_by(element)) {
            *o = *s;
        }
    }
}
fn unshuffle(element: usize, source: &[u8], out: &mut [u8]) {
    let n = source.len() / element;
    for (byte, plane) in source.chunks_exact(n).enumerate() {
        for (s, o) in plane.iter().zip(out[byte..].iter_mut().step_by(element)) {
            *o = *s;
        }
    }
}

fn compressed_size(workspace: &mut Workspace, element: usize, sample: &[u8]) -> usize {
    let Workspace { table, shuffled, packed } = workspace;
    let sample = if element == 1 {
        sample
    } else {
        shuffle(element, sample, shuffled);
        &shuffled[..sample.len()]
    };
    compress_into_with_table(sample, packed, table).unwrap_or(usize::MAX)
}

/// Which of the `elements` to shuffle by (1: not at all) makes a sample of the block smallest, and the size of the
/// result in 1/256 of the sample's. The sample is 4 KiB from the block's middle.
pub fn probe(workspace: &mut Workspace, elements: &[usize], block: &[u8]) -> (usize, usize) {
    let length = PROBE.min(block.len());
    let start = ((block.len() - length) / 2) & !7;
    let sample = &block[start..][..length];
    let sizes = elements.iter().map(|e| (compressed_size(workspace, *e, sample), *e));
    let (size, element) = sizes.min().unwrap_or((length, 1));
    (element, size.saturating_mul(256) / length.max(1))
}

/// Shuffles by `element` and compresses into the workspace's `packed`. Returns the bytes used.
pub fn encode(workspace: &mut Workspace, element: usize, block: &[u8]) -> usize {
    compressed_size(workspace, element, block)
}

/// Decodes what [`encode`] made into a block of the same size.
pub fn decode(
    workspace: &mut Workspace,
    element: usize,
    encoded: &[u8],
    block: &mut [u8],
) -> Result<(), Damaged> {
    if element == 1 {
        return match decompress_into(encoded, block) {
            Ok(n) if n == block.len() => Ok(()),
            _ => Err(Damaged),
        };
    }
    let shuffled = workspace.shuffled.get_mut(..block.len()).ok_or(Damaged)?;
    match decompress_into(encoded, shuffled) {
        Ok(n) if n == block.len() => {
            unshuffle(element, shuffled, block);
            Ok(())
        }
        _ => Err(Damaged),
    }
}
