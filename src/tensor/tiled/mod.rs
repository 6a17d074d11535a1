//! Products of tensors that are larger than RAM: slabs of rows, pinned chunk by chunk.
//!
//! A slab of C stays in place while the sum (or the columns) of B stream by; the slab of A stays, too, where its chunks
//! hold nothing else. Chunks are pinned where they lie and the kernel works on them there: nothing is copied. How
//! large the slabs and the pieces are is chosen for the least traffic that the memory allows (`split`).
mod chunked;
mod split;
#[cfg(test)]
mod tests;

pub use chunked::{ChunkedMemory, Purpose};

use super::Complex;
use super::kernel::scan::{self, Magnitude};
use super::kernel::{Axis, Product};
use crate::error::{Error, Result, fail};
use crate::recording;
use chunked::{Extent, Pins};
use core::ops::Range;
use split::{Piece, Scheme};
use std::time::Duration;

/// A tensor to read, and where its chunks are if it can leave RAM.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The elements; those that are not in place are brought in by reading them, or faster by pinning their chunks.
    pub elements: &'a [Complex],
    /// Its chunks; none for plain memory.
    pub chunked: Option<&'a dyn ChunkedMemory>,
}
/// A tensor to write.
pub struct Target<'a> {
    /// The elements.
    pub elements: &'a mut [Complex],
    /// As for a source.
    pub chunked: Option<&'a dyn ChunkedMemory>,
}

/// Computes a product with at most `budget` elements pinned at one time, fewer where the memory has no room for them.
/// While its last piece is worked on, the first chunks of `next` are brought in: what the next product will read.
pub fn multiply(
    product: &Product,
    left: Source,
    right: Source,
    out: &mut Target,
    budget: usize,
    next: Option<&dyn ChunkedMemory>,
    tick: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<()> {
    recording::start_if_asked();
    let begun = recording::begin();
    if left.chunked.is_none() && right.chunked.is_none() && out.chunked.is_none() {
        product.compute(left.elements, right.elements, out.elements, tick)?;
        record(product, begun, false);
        return Ok(());
    }
    let mut budget = budget;
    let mut most = 0.0f64;
    let mut tick = |done: f64| {
        most = most.max(done);
        tick(most)
    };
    let memories = [left.chunked, right.chunked, out.chunked];
    let chunks = memories.map(|chunked| chunked.map(ChunkedMemory::chunk));
    let mut scheme = Scheme::choose(product, chunks, budget);
    let mut waited = 0;
    if scheme.pinned > budget {
        if !memories.into_iter().flatten().all(ChunkedMemory::is_served) {
            return fail!(
                OutOfMemory,
                "the budget has no room for the chunks that a product needs at one time"
            );
        }
        // No cut of these layouts fits: chunks come and go as the kernel touches them.
        product.compute(left.elements, right.elements, out.elements, &mut tick)?;
    } else {
        while let Err(error) = in_slabs(product, left, right, out, &scheme, next, &mut tick) {
            if error != Error::OutOfMemory || waited == PATIENCE {
                return Err(error);
            }
            // Other tensors take more room than thought, or later slabs more than the first, as they begin in the middle of
            // chunks: smaller slabs may do. Where there are none, the room is taken by chunks on their way to the disk.
            budget /= 2;
            let smaller = Scheme::choose(product, chunks, budget);
            if smaller.pinned < scheme.pinned {
                scheme = smaller;
            } else {
                waited += 1;
                std::thread::sleep(Duration::from_millis(waited));
            }
        }
    }
    record(product, begun, true);
    Ok(())
}
/// How often a product waits for chunks to reach the disk, each time a millisecond longer.
const PATIENCE: u64 = 100;

/// Tells the recording, if there is one, of a product that is done.
fn record(product: &Product, begun: recording::Begun, tiered: bool) {
    if recording::is_on() {
        let sizes = |axes: &'_ [Axis]| axes.iter().map(|axis| axis.size).collect::<Vec<_>>().into_iter();
        let mut axes = [sizes(&product.rows), sizes(&product.columns), sizes(&product.sums)];
        recording::contracted(begun, product.terms(), tiered, axes.each_mut().map(|axes| axes as _));
    }
}

fn in_slabs(
    product: &Product,
    left: Source,
    right: Source,
    out: &mut Target,
    scheme: &Scheme,
    next_product: Option<&dyn ChunkedMemory>,
    tick: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<()> {
    let chunks = [left.chunked, right.chunked, out.chunked].map(|chunked| chunked.map(ChunkedMemory::chunk));
    let whole = Piece::whole(product, chunks);
    let work = product.terms();
    let mut done = 0.0;
    let keep_right = scheme.pieces == 1;
    let _right = Pins::new(right.chunked, keep_right.then(|| whole.right()), Purpose::Read)?;
    let slabs = whole.split_rows(scheme.slabs);
    let mut pieces = slabs.first().map_or(Vec::new(), |slab| scheme.pieces_of(slab));
    for (number, slab) in slabs.iter().enumerate() {
        let of_next_slab = slabs.get(number + 1).map_or(Vec::new(), |slab| scheme.pieces_of(slab));
        let _out = Pins::new(out.chunked, Some(slab.out()), Purpose::Overwrite)?;
        let _left = Pins::new(left.chunked, scheme.keep_left.then(|| slab.left()), Purpose::Read)?;
        for (number, piece) in pieces.iter().enumerate() {
            let _right = Pins::new(right.chunked, (!keep_right).then(|| piece.right()), Purpose::Read)?;
            let _left = Pins::new(left.chunked, (!scheme.keep_left).then(|| piece.left()), Purpose::Read)?;
            if let Some(next) = pieces.get(number + 1).or(of_next_slab.first()) {
                prefetch(right.chunked, (!keep_right).then(|| next.right()));
                prefetch(left.chunked, (!scheme.keep_left).then(|| next.left()));
            } else if let Some(chunked) = next_product {
                // In place of a next piece of this product.
                chunked.prefetch(0, (scheme.passing / chunked.chunk()).min(chunked.count()));
            }
            let mut part = piece.product.clone();
            part.accumulate = scheme.over_sums && number > 0;
            let share = part.terms();
            part.compute(
                &left.elements[piece.at[0]..],
                &right.elements[piece.at[1]..],
                &mut out.elements[piece.at[2]..],
                &mut |fraction| tick((done + fraction * share) / work),
            )?;
            done += share;
        }
        pieces = of_next_slab;
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

/// Calls `each` with the elements of `all` in order, chunk by chunk.
fn sweep(
    chunked: &dyn ChunkedMemory,
    all: Range<usize>,
    purpose: Purpose,
    mut each: impl FnMut(Range<usize>),
) -> Result<()> {
    /// Chunks asked for before they are needed.
    const AHEAD: usize = 4;
    let chunk = chunked.chunk();
    let chunks = all.end.div_ceil(chunk);
    for index in all.start / chunk..chunks {
        chunked.acquire(index, purpose)?;
        let next = index + 1;
        if next < chunks {
            chunked.prefetch(next, AHEAD.min(chunks - next));
        }
        each(all.start.max(index * chunk)..all.end.min(next * chunk));
        chunked.release(index);
    }
    Ok(())
}

/// The magnitude of a tensor, wherever it is.
pub fn magnitude(source: Source) -> Result<Magnitude> {
    let Some(chunked) = source.chunked else { return Ok(scan::magnitude(source.elements)) };
    let mut all = Magnitude::Zero;
    sweep(chunked, 0..source.elements.len(), Purpose::Read, |range| {
        all = all.max(scan::magnitude(&source.elements[range]));
    })?;
    Ok(all)
}

/// Multiplies a tensor by 2 to the power `exponent`, wherever it is.
pub fn scale(target: &mut Target, exponent: i32) -> Result<()> {
    let Some(chunked) = target.chunked else {
        scan::scale(target.elements, exponent);
        return Ok(());
    };
    let count = target.elements.len();
    sweep(chunked, 0..count, Purpose::Write, |range| scan::scale(&mut target.elements[range], exponent))
}

/// Copies the elements from `first` on to `out`, wherever they are.
pub fn read(source: Source, first: usize, out: &mut [Complex]) -> Result<()> {
    let all = first..first + out.len();
    let mut copy = |range: Range<usize>| {
        out[range.start - first..range.end - first].copy_from_slice(&source.elements[range])
    };
    match source.chunked {
        Some(chunked) => sweep(chunked, all, Purpose::Read, copy),
        None => {
            copy(all);
            Ok(())
        }
    }
}
/// Copies `elements` to the whole of a tensor, wherever it is.
pub fn write(target: &mut Target, elements: &[Complex]) -> Result<()> {
    write_each(target, |out, range| out.copy_from_slice(&elements[range]))
}
/// Makes all elements 0.
pub fn clear(target: &mut Target) -> Result<()> {
    write_each(target, |out, _| out.fill(Complex::new(0.0, 0.0)))
}
fn write_each(target: &mut Target, mut each: impl FnMut(&mut [Complex], Range<usize>)) -> Result<()> {
    let all = 0..target.elements.len();
    let mut write = |range: Range<usize>| each(&mut target.elements[range.clone()], range);
    match target.chunked {
        // Not as overwriting: the last chunk may reach beyond the tensor.
        Some(chunked) => sweep(chunked, all, Purpose::Write, write),
        None => {
            write(all);
            Ok(())
        }
    }
}
