//! What chunks become when they leave: coders, and the layout of an encoded chunk.
//!
//! A chunk is coded in blocks of 64 KiB. The encoded blocks stand, in order, at the front of the chunk's own staging
//! memory, so neither direction ever needs a second buffer of a chunk's size. Behind them stand the *lengths*, 32
//! bits for each block, and behind these the *tags*, one byte for each block, which name its coder. A block that
//! gains nothing is stored raw, and a chunk of nothing but raw blocks is stored without lengths and tags
//! ([`Form::Raw`]). Only this process and its forked children read what is stored, so tags and layouts may change.
pub mod bits;
pub mod bounded;
pub mod bytes;
pub mod float;
pub mod isa;
pub mod lanes;

use crate::os::floating_point::Environment;
use bounded::Grid;
use isa::Isa;

/// Bytes coded at a time.
pub const BLOCK: usize = 64 << 10;
/// How many groups of 512 values ahead the coders prefetch.
const AHEAD: usize = 2;
/// Room for a block, and for what the headers of the coders add to it.
const BLOCK_ROOM: usize = BLOCK + BLOCK / 16;

/// The error for encoded bytes that cannot have come from the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All bytes are zero: nothing is stored.
    Zero,
    /// The bytes of the chunk itself.
    Raw,
    /// Encoded blocks, then their lengths and tags.
    Blocks,
}

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Tag {
    Raw,
    Bounded,
    BoundedPacked,
    Float,
    Bytes1,
    Bytes4,
    Bytes8,
}
impl Tag {
    /// All tags, in the order of their numbers.
    const ALL: [Tag; 7] =
        [Tag::Raw, Tag::Bounded, Tag::BoundedPacked, Tag::Float, Tag::Bytes1, Tag::Bytes4, Tag::Bytes8];
}
const _: () = {
    let mut number = 0;
    while number < Tag::ALL.len() {
        assert!(Tag::ALL[number] as usize == number, "a tag is missing before this one");
        number += 1;
    }
};

/// Buffers of one thread that encodes or decodes. About 300 KiB; never on a stack.
#[derive(Default)]
pub struct Workspace {
    coders: Coders,
    aside: Buffer,
}
#[derive(Default)]
struct Coders {
    bytes: bytes::Workspace,
    block: Buffer,
}
struct Buffer([u8; BLOCK_ROOM]);
impl Default for Buffer {
    fn default() -> Self {
        Buffer([0; _])
    }
}
impl Workspace {
    /// A workspace on the heap.
    pub fn boxed() -> Box<Workspace> {
        Box::default()
    }
    /// Makes a workspace in place, without a copy of it on the stack.
    ///
    /// # Safety
    /// `place` is valid for writes, aligned, and zeroed.
    pub unsafe fn init(place: core::ptr::NonNull<Workspace>) {
        // SAFETY: `place` is valid for writes, by the caller's promise. All other fields are arrays of bytes, for
        // which zeros are valid.
        unsafe { (&raw mut (*place.as_ptr()).coders.bytes.table).write(bytes::table()) }
    }
}

/// A coder for the chunks of one region.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    isa: Isa,
    grid: Option<Grid>,
    /// Lossless coding is used for a block if it saves at least one byte in this many.
    least_saving: usize,
}
/// The usual least saving: below it, decoding costs more than the space is worth.
const LEAST_SAVING: usize = 32;

/// Bytes of staging memory that a chunk needs beyond its own size.
pub fn directory_size(chunk: usize) -> usize {
    Directory::at(0, chunk).size()
}

#[inline(always)]
fn write<const N: usize>(out: &mut [u8], at: usize, bytes: [u8; N]) {
    out[at..at + N].copy_from_slice(&bytes);
}
#[inline(always)]
fn read<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Damaged> {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).ok_or(Damaged)
}

/// What probing the last probed block told; used for the blocks after it.
#[derive(Clone, Copy)]
struct Probed {
    element: usize,
    size: usize,
    repack: bool,
}

impl Codec {
    /// A lossless coder.
    pub fn lossless() -> Codec {
        Codec { isa: Isa::best(), grid: None, least_saving: LEAST_SAVING }
    }
    /// A coder for float32 that come back within `tolerance`. It is lossless if the tolerance is zero or too small to
    /// compute with.
    pub fn bounded(tolerance: f64) -> Codec {
        Codec { grid: Grid::new(tolerance), ..Codec::lossless() }
    }
    /// Whether what comes back may differ from what was encoded.
    pub fn is_lossy(&self) -> bool {
        self.grid.is_some()
    }
    /// The same coder, which stores a block as it is if lossless coding would save less than one byte in `many`.
    pub fn saving_one_in(self, many: usize) -> Codec {
        Codec { least_saving: many, ..self }
    }
    /// The same coder on another instruction set. For tests and measurements.
    pub fn with_isa(self, isa: Isa) -> Codec {
        Codec { isa, ..self }
    }

    /// Encodes in place the chunk in the first `chunk` bytes of `memory`. `chunk` is a multiple of 4 KiB, and
    /// `memory` has at least `chunk + directory_size(chunk)` bytes. Returns the form, and how many bytes at the front
    /// are the result.
    pub fn encode_in_place(
        &self,
        memory: &mut [u8],
        chunk: usize,
        workspace: &mut Workspace,
    ) -> (Form, usize) {
        let _environment = Environment::DEFAULT.enter();
        if is_zero(self.isa, &memory[..chunk]) {
            return (Form::Zero, 0);
        }
        let workspace = &mut workspace.coders;
        // Collected behind the chunk's end, where staging memory has room.
        let directory = Directory::at(chunk, chunk);
        let mut probed = Probed { element: 1, size: 256, repack: false };
        let mut used = 0;
        let mut raw = true;
        for index in 0..directory.blocks {
            let start = index * BLOCK;
            let end = (start + BLOCK).min(chunk);
            let (tag, size) = self.encode_block(&memory[start..end], index % 8 == 0, &mut probed, workspace);
            raw &= tag == Tag::Raw;
            match tag {
                // While all blocks so far are raw, they are where they belong.
                Tag::Raw if used == start => {}
                Tag::Raw => memory.copy_within(start..end, used),
                Tag::Bytes1 | Tag::Bytes4 | Tag::Bytes8 | Tag::BoundedPacked => {
                    memory[used..used + size].copy_from_slice(&workspace.bytes.packed[..size]);
                }
                Tag::Bounded | Tag::Float => {
                    memory[used..used + size].copy_from_slice(&workspace.block.0[..size]);
                }
            }
            used += size;
            directory.set(memory, index, tag, size);
        }
        if raw {
            return (Form::Raw, chunk);
        }
        memory.copy_within(chunk..chunk + directory.size(), used);
        (Form::Blocks, used + directory.size())
    }

    /// Encodes a block. Returns its tag and size; the encoded bytes are in the workspace's buffer for that coder.
    fn encode_block(
        &self,
        block: &[u8],
        probe: bool,
        probed: &mut Probed,
        workspace: &mut Coders,
    ) -> (Tag, usize) {
        if let Some(grid) = self.grid {
            let size = bounded::encode(self.isa, grid, block, &mut workspace.block.0);
            if size >= block.len() {
                return (Tag::Raw, block.len());
            }
            if probe {
                // Periodic or constant data: their packed bits still repeat. This is rare, so only some blocks are
                // probed for it.
                let sample = &workspace.block.0[..size];
                probed.repack = size >= 2048 && bytes::probe(&mut workspace.bytes, &[1], sample).1 < 128;
            }
            if probed.repack {
                let packed = bytes::encode(&mut workspace.bytes, 1, &workspace.block.0[..size]);
                if packed < size - size / 4 {
                    return (Tag::BoundedPacked, packed);
                }
            }
            return (Tag::Bounded, size);
        }
        if probe {
            let (element, size) = bytes::probe(&mut workspace.bytes, &[1, 4, 8], block);
            *probed = Probed { element, size, repack: false };
        }
        let estimate = float::estimate(self.isa, block);
        let expected = block.len() * probed.size / 256;
        // lz4 is several times slower than packing, so its result has to be clearly smaller.
        if expected < estimate - estimate / 4 && expected < block.len() / 10 * 9 {
            let size = bytes::encode(&mut workspace.bytes, probed.element, block);
            if size < estimate && size < block.len() {
                return (
                    match probed.element {
                        1 => Tag::Bytes1,
                        4 => Tag::Bytes4,
                        _ => Tag::Bytes8,
                    },
                    size,
                );
            }
        }
        let most = block.len() - block.len() / self.least_saving;
        if estimate <= most {
            let size = float::encode(self.isa, block, &mut workspace.block.0);
            if size <= most {
                return (Tag::Float, size);
            }
        }
        (Tag::Raw, block.len())
    }

    fn decode_block(
        &self,
        tag: Tag,
        encoded: &[u8],
        block: &mut [u8],
        workspace: &mut Coders,
    ) -> Result<(), Damaged> {
        let grid = self.grid.ok_or(Damaged);
        match tag {
            Tag::Raw if encoded.len() != block.len() => Err(Damaged),
            Tag::Raw => {
                block.copy_from_slice(encoded);
                Ok(())
            }
            Tag::Bounded => bounded::decode(self.isa, grid?, encoded, block),
            Tag::BoundedPacked => {
                let grid = grid?;
                let buffer = &mut workspace.block.0;
                let size = lz4_flex::block::decompress_into(encoded, buffer).map_err(|_| Damaged)?;
                bounded::decode(self.isa, grid, &buffer[..size], block)
            }
            Tag::Float => float::decode(self.isa, encoded, block),
            Tag::Bytes1 => bytes::decode(&mut workspace.bytes, 1, encoded, block),
            Tag::Bytes4 => bytes::decode(&mut workspace.bytes, 4, encoded, block),
            Tag::Bytes8 => bytes::decode(&mut workspace.bytes, 8, encoded, block),
        }
    }

    /// Decodes `encoded`, of form [`Form::Blocks`], into `chunk`. Goes from the last block to the first, so that the
    /// bytes that a reader begins with are in the cache.
    pub fn decode(&self, encoded: &[u8], chunk: &mut [u8], workspace: &mut Workspace) -> Result<(), Damaged> {
        let _environment = Environment::DEFAULT.enter();
        let directory = Directory::of(encoded, chunk.len())?;
        let mut end = directory.start;
        for (index, block) in chunk.chunks_mut(BLOCK).enumerate().rev() {
            let (tag, size) = directory.entry(encoded, index)?;
            let begin = end.checked_sub(size).ok_or(Damaged)?;
            self.decode_block(tag, &encoded[begin..end], block, &mut workspace.coders)?;
            end = begin;
        }
        if end == 0 { Ok(()) } else { Err(Damaged) }
    }

    /// Decodes in place the `encoded` bytes, of form [`Form::Blocks`], at the front of `memory` into its first
    /// `chunk` bytes. Goes from the last block to the first, so that no encoded block is overwritten before its turn.
    pub fn decode_in_place(
        &self,
        memory: &mut [u8],
        encoded: usize,
        chunk: usize,
        workspace: &mut Workspace,
    ) -> Result<(), Damaged> {
        let _environment = Environment::DEFAULT.enter();
        let directory = Directory::of(memory.get(..encoded).ok_or(Damaged)?, chunk)?;
        let mut end = directory.start;
        // The lengths and tags move behind the chunk, because the blocks that are decoded first may lie over them.
        memory.copy_within(end..encoded, chunk);
        let directory = Directory::at(chunk, chunk);
        for index in (0..directory.blocks).rev() {
            let (tag, size) = directory.entry(memory, index)?;
            let begin = end.checked_sub(size).ok_or(Damaged)?;
            let start = index * BLOCK;
            let length = BLOCK.min(chunk - start);
            if begin > start || size > BLOCK_ROOM {
                return Err(Damaged); // blocks before it would be overwritten
            }
            let Workspace { coders, aside } = workspace;
            if end <= start {
                let (front, target) = memory.split_at_mut(start);
                self.decode_block(tag, &front[begin..end], &mut target[..length], coders)?;
            } else {
                // The encoded block overlaps its own place.
                aside.0[..size].copy_from_slice(&memory[begin..end]);
                self.decode_block(tag, &aside.0[..size], &mut memory[start..start + length], coders)?;
            }
            end = begin;
        }
        if end == 0 { Ok(()) } else { Err(Damaged) }
    }
}

/// Where the lengths and tags of a chunk lie.
struct Directory {
    start: usize,
    blocks: usize,
}
impl Directory {
    /// Bytes of a length.
    const LENGTH: usize = 4;
    /// The directory of a chunk, from `start` on.
    fn at(start: usize, chunk: usize) -> Directory {
        Directory { start, blocks: chunk.div_ceil(BLOCK) }
    }
    /// The directory at the end of an encoded chunk.
    fn of(encoded: &[u8], chunk: usize) -> Result<Directory, Damaged> {
        let start = encoded.len().checked_sub(directory_size(chunk)).ok_or(Damaged)?;
        Ok(Directory::at(start, chunk))
    }
    fn size(&self) -> usize {
        self.blocks * (Directory::LENGTH + size_of::<Tag>())
    }
    fn length_at(&self, index: usize) -> usize {
        self.start + index * Directory::LENGTH
    }
    fn tag_at(&self, index: usize) -> usize {
        self.length_at(self.blocks) + index
    }
    fn set(&self, bytes: &mut [u8], index: usize, tag: Tag, size: usize) {
        write(bytes, self.length_at(index), (size as u32).to_le_bytes());
        bytes[self.tag_at(index)] = tag as u8;
    }
    fn entry(&self, bytes: &[u8], index: usize) -> Result<(Tag, usize), Damaged> {
        let size = u32::from_le_bytes(read(bytes, self.length_at(index))?);
        let tag = Tag::ALL.get(usize::from(bytes[self.tag_at(index)])).ok_or(Damaged)?;
        Ok((*tag, size as usize))
    }
}

/// Whether all bytes are zero; stops at the first 4 KiB that are not.
fn is_zero(isa: Isa, bytes: &[u8]) -> bool {
    isa.run(
        #[inline(always)]
        || bytes.chunks(4096).all(|page| page.iter().fold(0, |all, b| all | b) == 0),
    )
}

#[cfg(test)]
mod tests;
