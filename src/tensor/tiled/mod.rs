//! Products of tensors that are larger than RAM: cells of C, pinned chunk by chunk.
//!
//! - A cell of C stays in place while parts of the operands, along the sum or along the columns of B, come and go. The slab of
//!   A stays, too, where its chunks hold nothing else.
//! - Chunks are pinned where they lie, and the kernel works on them there.
//! - `scheme` chooses the sizes of cells and pieces for the least traffic that the memory allows.
//! - Tensors are copied before the product only if they are far wider than the memory, or if their chunks hold much that a
//!   part does not need. `blocks` rearranges those.
mod blocks;
mod chunked;
#[cfg(test)]
mod counting;
mod scheme;
mod split;
mod sweep;
#[cfg(test)]
mod tests;

pub use chunked::{ChunkedMemory, Purpose, Room, Temporary};
pub use sweep::{clear, magnitude, reaches, read, scale, write};

use super::Complex;
use super::kernel::{Axis, Product};
use super::out::Out;
use crate::error::{Error, Result, fail};
use crate::os::lock::sleep;
use crate::recording;
use blocks::Blocks;
use chunked::{Extent, Pins};
use scheme::{Choice, Scheme};
use split::Piece;
use std::time::Duration;

/// A tensor to read, and its chunks if it can leave RAM.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The elements. Reading one that is not in place brings its chunk in, where the tiers serve faults. Pinning the chunk
    /// first is faster, and works everywhere.
    pub elements: &'a [Complex],
    /// The chunks of the tensor; `None` for plain memory.
    pub chunked: Option<&'a dyn ChunkedMemory>,
}
/// A tensor to write.
pub struct Target<'a> {
    /// The elements.
    pub elements: Out<'a>,
    /// As for a source.
    pub chunked: Option<&'a dyn ChunkedMemory>,
}
impl Target<'_> {
    /// What was written, to be read.
    ///
    /// # Safety
    /// All elements have been written.
    pub unsafe fn written(&self) -> Source<'_> {
        // SAFETY: by the caller's promise.
        Source { elements: unsafe { self.elements.written() }, chunked: self.chunked }
    }
}

/// Computes a product. No more is pinned at one time than `room` has, or less if that much turns out not to be there.
///
/// While the last piece is worked on, the first chunks of `next` are brought in, which the next product will read. `tick` is
/// told the share that is done, ascending; if it fails, the product stops.
pub fn multiply(
    product: &Product,
    left: Source,
    right: Source,
    out: &mut Target,
    room: &dyn Room,
    next: Option<&dyn ChunkedMemory>,
    tick: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<()> {
    recording::start_if_asked();
    let begun = recording::begin();
    let memories = [left.chunked, right.chunked, out.chunked];
    if memories.iter().all(Option::is_none) {
        product.compute(left.elements, right.elements, out.elements.part(..), tick)?;
        record(product, begun, false);
        return Ok(());
    }
    let mut most = 0.0f64;
    let mut tick = |done: f64| {
        most = most.max(done);
        tick(most)
    };
    let whole = Piece::whole(product, memories.map(|chunked| chunked.map(ChunkedMemory::chunk)));
    in_tiers(&whole, [left, right], out, room, next, &mut tick)?;
    record(product, begun, true);
    Ok(())
}

/// Computes a product with a tensor that can leave RAM. An attempt that fails for lack of room is begun anew, so `tick` may be
/// told less than before.
fn in_tiers(
    whole: &Piece,
    operands: [Source; 2],
    out: &mut Target,
    room: &dyn Room,
    next: Option<&dyn ChunkedMemory>,
    tick: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<()> {
    let memories = [operands[0].chunked, operands[1].chunked, out.chunked];
    let compressed = memories.map(|chunked| chunked.is_some_and(ChunkedMemory::is_compressed));
    let rearranging = room.chunk_of_temporaries();
    let mut choice = Choice { whole, budget: room.pinnable(), compressed, rearranging };
    let mut scheme = choice.best();
    let mut is_least = false;
    let mut waited = 0;
    loop {
        if scheme.pinned > choice.budget {
            if !memories.into_iter().flatten().all(ChunkedMemory::is_served) {
                return fail!(
                    OutOfMemory,
                    "the budget has no room for the chunks that a product needs at one time"
                );
            }
            // No way to cut these layouts fits. Chunks come and go as the kernel touches them.
            let [left, right] = operands;
            return whole.product.compute(left.elements, right.elements, out.elements.part(..), tick);
        }
        let done = match scheme.rearranges() {
            true => in_blocks(whole, operands, out, &scheme, room, tick),
            false => in_cells(whole, operands, out, &scheme, next, tick).map(|()| true),
        };
        match done {
            Ok(true) => return Ok(()),
            // There is no room for the copies, in memory or on the disk.
            Ok(false) | Err(Error::Io) if scheme.rearranges() => {
                choice.rearranging = None;
                scheme = choice.best();
                continue;
            }
            Err(Error::OutOfMemory) if waited < PATIENCE => {}
            Ok(false) => return fail!(Internal, "a product without copies that needs them"),
            Err(error) => return Err(error),
        }
        // There was less room than the scheme assumed. Other tensors may take some, or later cells, which begin in the middle
        // of chunks, may need more than the first. So smaller cells are tried. If there are none, the room is taken by chunks
        // on their way to the disk, and waiting helps.
        if !is_least {
            // Half of what was tried, which may be far less than the budget: the tensors may be in another memory, with much
            // less room than this one has.
            let mut half = Choice { budget: choice.budget.min(scheme.pinned) / 2, ..choice };
            let smaller = half.best();
            half.budget = half.budget.max(smaller.pinned);
            is_least = smaller.pinned >= scheme.pinned;
            if !is_least {
                (choice, scheme) = (half, smaller);
                continue;
            }
        }
        waited += 1;
        sleep(Duration::from_millis(waited));
    }
}
/// How many times a product waits for chunks to reach the disk, each time a millisecond longer.
const PATIENCE: u64 = 100;

/// Adds a product that is done to the recording, if there is one.
fn record(product: &Product, begun: recording::Begun, tiered: bool) {
    if recording::is_on() {
        let sizes = |axes: &'_ [Axis]| axes.iter().map(|axis| axis.size).collect::<Vec<_>>().into_iter();
        let mut axes = [sizes(&product.rows), sizes(&product.columns), sizes(&product.sums)];
        recording::contracted(begun, product.terms(), tiered, axes.each_mut().map(|axes| axes as _));
    }
}

/// Copies the tensors that the scheme rearranges, multiplies the copies, and puts the result in its place. Returns false, with
/// nothing done, if there is no room for a copy.
fn in_blocks(
    whole: &Piece,
    operands: [Source; 2],
    out: &mut Target,
    scheme: &Scheme,
    room: &dyn Room,
    tick: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<bool> {
    let mut copies: [Option<Box<dyn Temporary>>; 3] = Default::default();
    for (copy, blocks) in copies.iter_mut().zip(&scheme.blocks) {
        if let Some(blocks) = blocks {
            *copy = room.temporary(blocks.elements(), blocks.chunk());
            if copy.is_none() {
                return Ok(false);
            }
        }
    }
    let share = |blocks: &Blocks| 2.0 * blocks.elements() as f64 / scheme.traffic;
    let shares = scheme.blocks.each_ref().map(|blocks| blocks.as_ref().map_or(0.0, share));
    let mut done = 0.0;
    for number in 0..2 {
        if let (Some(copy), Some(blocks)) = (&mut copies[number], &scheme.blocks[number]) {
            let mut tick = |part: f64| tick(done + part * shares[number]);
            blocks.copy(operands[number], &mut copy.target(), false, &mut tick)?;
            done += shares[number];
        }
    }
    let [left, right, mut result] = copies;
    let sources = [&left, &right].map(Option::as_deref);
    let sources = [0, 1].map(|number| sources[number].map_or(operands[number], |copy| copy.source()));
    let rest = 1.0 - shares.iter().sum::<f64>();
    let mut tick_of_product = |part: f64| tick(done + part * rest);
    match &mut result {
        Some(copy) => in_cells(whole, sources, &mut copy.target(), scheme, None, &mut tick_of_product)?,
        None => in_cells(whole, sources, out, scheme, None, &mut tick_of_product)?,
    }
    drop((left, right));
    if let (Some(copy), Some(blocks)) = (result, &scheme.blocks[2]) {
        blocks.copy(copy.source(), out, true, &mut |part| tick(1.0 - shares[2] + part * shares[2]))?;
    }
    Ok(true)
}

/// Computes the product cell by cell. Tensors are as the scheme has them, rearranged or not.
fn in_cells(
    whole: &Piece,
    [left, right]: [Source; 2],
    out: &mut Target,
    scheme: &Scheme,
    next_product: Option<&dyn ChunkedMemory>,
    tick: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<()> {
    let work = whole.product.terms();
    let mut done = 0.0;
    let _right =
        Pins::new(right.chunked, scheme.keep_right.then(|| scheme.place(whole).right()), Purpose::Read)?;
    let slabs = scheme.cells_of(whole);
    let mut following = slabs.iter().flatten().map(|cell| scheme.pieces_of(cell));
    let mut pieces = following.next().unwrap_or_default();
    for slab in &slabs {
        let of_slab = slab.first().filter(|_| scheme.keep_left).map(|cell| scheme.place(cell).left());
        let _left = Pins::new(left.chunked, of_slab, Purpose::Read)?;
        for cell in slab {
            let of_next_cell = following.next().unwrap_or_default();
            let _out = Pins::new(out.chunked, Some(scheme.place(cell).out()), Purpose::Overwrite)?;
            for (number, piece) in pieces.iter().enumerate() {
                let _right =
                    Pins::new(right.chunked, (!scheme.keep_right).then(|| piece.right()), Purpose::Read)?;
                let _left =
                    Pins::new(left.chunked, (!scheme.keep_left).then(|| piece.left()), Purpose::Read)?;
                if let Some(next) = pieces.get(number + 1).or(of_next_cell.first()) {
                    prefetch(right.chunked, (!scheme.keep_right).then(|| next.right()));
                    prefetch(left.chunked, (!scheme.keep_left).then(|| next.left()));
                } else if let Some(chunked) = next_product {
                    // This product has no next piece, so the next product's begins to come in.
                    chunked.prefetch(0, (scheme.passing / chunked.chunk()).min(chunked.count()));
                }
                let share = piece.product.terms();
                let (left, right) = (&left.elements[piece.at[0]..], &right.elements[piece.at[1]..]);
                let (out, mut tick) = (out.elements.part(piece.at[2]..), |fraction: f64| {
                    tick((done + fraction * share) / work)
                });
                if scheme.over_sums && number > 0 {
                    // SAFETY: the pieces of a cell are parts of one sum, and the first has written all of the cell.
                    unsafe { piece.product.add(left, right, out, &mut tick) }?;
                } else {
                    piece.product.compute(left, right, out, &mut tick)?;
                }
                done += share;
            }
            pieces = of_next_cell;
        }
    }
    Ok(())
}

fn prefetch(chunked: Option<&dyn ChunkedMemory>, extent: Option<Extent>) {
    if let (Some(chunked), Some(extent)) = (chunked, extent) {
        for (first, count) in extent.chunks(chunked.chunk()) {
            chunked.prefetch(first, count);
        }
    }
}
