//! What is done to whole tensors, in plain memory or a chunk at a time: measuring, scaling, reading, writing.
use super::{ChunkedMemory, Purpose, Source, Target};
use crate::error::Result;
use crate::tensor::Complex;
use crate::tensor::kernel::scan::{self, Magnitude};
use crate::tensor::out::Out;
use core::ops::Range;

/// Calls `each` with the range of elements in each chunk that `all` touches, in order, while that chunk is
/// pinned.
fn sweep(
    chunked: &dyn ChunkedMemory,
    all: Range<usize>,
    purpose: Purpose,
    mut each: impl FnMut(Range<usize>),
) -> Result<()> {
    /// How many chunks are prefetched.
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
    let mut all = Magnitude::ZERO;
    sweep(chunked, 0..source.elements.len(), Purpose::Read, |range| {
        all = all.and(scan::magnitude(&source.elements[range]));
    })?;
    Ok(all)
}

/// Whether a finite part of a tensor is at least 2 to the power `power`, wherever the tensor is. Looks no further than the
/// chunk of the first such part.
pub fn reaches(source: Source, power: i32) -> Result<bool> {
    let Some(chunked) = source.chunked else { return Ok(scan::reaches(source.elements, power)) };
    for (index, elements) in source.elements.chunks(chunked.chunk()).enumerate() {
        chunked.acquire(index, Purpose::Read)?;
        let found = scan::reaches(elements, power);
        chunked.release(index);
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Multiplies a tensor by 2 to the power `exponent`, wherever it is.
///
/// # Safety
/// All its elements have been written.
pub unsafe fn scale(target: &mut Target, exponent: i32) -> Result<()> {
    // SAFETY: by the caller's promise.
    let elements = unsafe { target.elements.written_mut() };
    let Some(chunked) = target.chunked else {
        scan::scale(elements, exponent);
        return Ok(());
    };
    sweep(chunked, 0..elements.len(), Purpose::Write, |range| scan::scale(&mut elements[range], exponent))
}

/// Copies the elements from `first` on to `out`, wherever they are.
pub fn read(source: Source, first: usize, mut out: Out) -> Result<()> {
    let all = first..first + out.count();
    let mut copy = |range: Range<usize>| {
        out.part(range.start - first..range.end - first).copy_from(&source.elements[range])
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
    write_each(target, |mut out, range| out.copy_from(&elements[range]))
}
/// Makes all elements 0.
pub fn clear(target: &mut Target) -> Result<()> {
    write_each(target, |mut out, _| out.clear())
}
fn write_each(target: &mut Target, mut each: impl FnMut(Out, Range<usize>)) -> Result<()> {
    let all = 0..target.elements.count();
    let mut write = |range: Range<usize>| each(target.elements.part(range.clone()), range);
    match target.chunked {
        // Not `Overwrite`, because the last chunk may reach beyond the tensor.
        Some(chunked) => sweep(chunked, all, Purpose::Write, write),
        None => {
            write(all);
            Ok(())
        }
    }
}
