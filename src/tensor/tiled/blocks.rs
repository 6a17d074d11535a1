//! Tensors that are rearranged for a product: they are copied to blocks, one for each part that the product needs of them.
//!
//! A chunk of a row-major tensor holds whole rows. A part of a product that has some of the rows and some of the columns needs
//! all chunks of these rows, but uses little of each. A block of the part lies in chunks of its own instead.
//!
//! Within a block the axes keep the tensor's order. So the elements that one chunk of the tensor shares with a block go to one
//! place in that block.
use super::chunked::{Extent, Pins};
use super::split::{Group, Piece};
use super::{Purpose, Source, Target};
use crate::error::Result;
use crate::tensor::kernel::{self, Axis};

/// How a tensor is cut into blocks, and where these are.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// The tensor's axes, the largest stride first.
    axes: Vec<Cut>,
    /// Elements from one block to the next, a multiple of `chunk`.
    slot: usize,
    chunk: usize,
}
/// An axis and how it is cut.
#[derive(Clone, Debug, PartialEq)]
struct Cut {
    group: Group,
    /// The number of the axis in its group.
    index: usize,
    size: usize,
    /// The axis's stride in the original tensor.
    stride: usize,
    /// Positions of every block but the last.
    length: usize,
}
impl Cut {
    fn blocks(&self) -> usize {
        self.size.div_ceil(self.length)
    }
    /// The first position of block number `part`, and how many it has.
    fn block(&self, part: usize) -> (usize, usize) {
        let start = part * self.length;
        (start, self.length.min(self.size - start))
    }
}

/// The elements that a box of the tensor and one block have in common.
struct Share {
    /// Where they begin in the tensor, and in the blocks.
    at: [usize; 2],
    /// Their axes, with the strides in the tensor (`input`) and in the block (`other`).
    axes: Vec<Axis>,
}

impl Blocks {
    /// Blocks for tensor number `tensor` of a product that is cut into parts like `first`. The blocks are in chunks of `chunk`
    /// elements.
    pub fn new(whole: &Piece, first: &Piece, tensor: usize, chunk: usize) -> Blocks {
        let mut axes = Vec::new();
        for group in Group::of_tensor(tensor) {
            for (index, axis) in whole.axes(group).iter().enumerate() {
                let (size, stride) = (axis.size, group.stride(axis, tensor));
                axes.push(Cut { group, index, size, stride, length: first.axes(group)[index].size });
            }
        }
        axes.sort_by_key(|cut| core::cmp::Reverse(cut.stride));
        let slot = axes.iter().map(|cut| cut.length).product::<usize>().next_multiple_of(chunk);
        Blocks { axes, slot, chunk }
    }
    /// Elements of all blocks.
    pub fn elements(&self) -> usize {
        self.slot * self.axes.iter().map(Cut::blocks).product::<usize>()
    }
    /// Elements of a chunk of the blocks.
    pub fn chunk(&self) -> usize {
        self.chunk
    }
    /// How many chunks of the blocks are filled at one time while a tensor in chunks of `chunk` elements is copied.
    pub fn open(&self, chunk: usize) -> usize {
        let outer = self.outer(chunk);
        let (mut inner, mut open) = (1, 1);
        for (a, cut) in self.axes.iter().enumerate().rev() {
            inner *= cut.length;
            // All blocks along an axis are open if a chunk of the tensor spans the axis, or if a chunk of a block also holds
            // the next position of a slower axis, and so is not finished.
            if a >= outer || (a > 0 && inner < self.chunk) {
                open *= cut.blocks();
            }
        }
        open
    }
    /// Makes a part of the product use the rearranged tensor. The part must be one of those that the product was cut into.
    pub fn place(&self, piece: &mut Piece, tensor: usize) {
        let (mut stride, mut weight, mut number) = (1, 1, 0);
        for cut in self.axes.iter().rev() {
            number += piece.start(cut.group, cut.index) / cut.length * weight;
            weight *= cut.blocks();
            let axis = piece.axis_mut(cut.group, cut.index);
            *cut.group.stride_mut(axis, tensor) = stride;
            stride *= axis.size;
        }
        piece.at[tensor] = number * self.slot;
    }
    /// How many of the first axes are walked position by position, so that what the others span is no longer than a chunk.
    fn outer(&self, chunk: usize) -> usize {
        let mut inner = 1;
        let fits = |cut: &&Cut| {
            inner *= cut.size;
            inner <= chunk
        };
        self.axes.len() - self.axes.iter().rev().take_while(fits).count()
    }
    /// What a box shares with each block that it touches. The box is given by the first position and the number of positions
    /// along each axis.
    fn shares(&self, from: &[usize], count: &[usize]) -> Vec<Share> {
        let last = |a: usize| (from[a] + count[a] - 1) / self.axes[a].length;
        let mut parts: Vec<usize> = (0..from.len()).map(|a| from[a] / self.axes[a].length).collect();
        let mut shares = Vec::new();
        loop {
            let (mut stride, mut weight, mut number) = (1, 1, 0);
            let mut share = Share { at: [0; 2], axes: Vec::with_capacity(parts.len()) };
            for (a, cut) in self.axes.iter().enumerate().rev() {
                let (start, length) = cut.block(parts[a]);
                let (low, high) = (from[a].max(start), (from[a] + count[a]).min(start + length));
                share.at[0] += low * cut.stride;
                share.at[1] += (low - start) * stride;
                share.axes.push(Axis { size: high - low, input: cut.stride, other: stride });
                stride *= length;
                number += parts[a] * weight;
                weight *= cut.blocks();
            }
            share.at[1] += number * self.slot;
            shares.push(share);
            let Some(a) = (0..parts.len()).rev().find(|a| parts[*a] < last(*a)) else { return shares };
            parts[a] += 1;
            (a + 1..parts.len()).for_each(|b| parts[b] = from[b] / self.axes[b].length);
        }
    }
    /// Copies the tensor to its blocks, or the blocks `back`. It goes through the tensor once, a chunk at a time. Each chunk of
    /// a block is finished before the next one of that block is begun. `tick` is told the share that is done.
    pub fn copy(
        &self,
        from: Source,
        to: &mut Target,
        back: bool,
        tick: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<()> {
        let [tensor, blocks] = if back { [to.chunked, from.chunked] } else { [from.chunked, to.chunked] };
        let [read, write] = [Purpose::Read, Purpose::Overwrite];
        let [of_tensor, of_blocks] = if back { [write, read] } else { [read, write] };
        let chunk = tensor.map_or(usize::MAX, |chunked| chunked.chunk());
        let outer = self.outer(chunk);
        let mut count: Vec<usize> =
            self.axes.iter().enumerate().map(|(a, cut)| if a < outer { 1 } else { cut.size }).collect();
        let inner: usize = count.iter().product();
        let step = (chunk / inner).max(1);
        let mut from_place = vec![0; count.len()];
        let all = self.axes.iter().map(|cut| cut.size).product::<usize>() as f64;
        let mut done = 0.0;
        loop {
            if let Some(walked) = outer.checked_sub(1) {
                count[walked] = step.min(self.axes[walked].size - from_place[walked]);
            }
            let axes = self.axes.iter().zip(&count).map(|(cut, count)| (*count, cut.stride));
            let at = self.axes.iter().zip(&from_place).map(|(cut, place)| place * cut.stride).sum();
            let extent = Extent::new(at, axes);
            let end = extent.end();
            let _in_tensor = Pins::new(tensor, Some(extent), of_tensor)?;
            if let Some(tensor) = tensor.filter(|tensor| !back && end / chunk < tensor.count()) {
                tensor.prefetch(end / chunk, 1);
            }
            for share in self.shares(&from_place, &count) {
                let Share { at: [natural, placed], axes } = share;
                let extent = Extent::new(placed, axes.iter().map(|axis| (axis.size, axis.other)));
                let _in_block = Pins::new(blocks, Some(extent), of_blocks)?;
                if back {
                    let turned = |axis: Axis| Axis { input: axis.other, other: axis.input, ..axis };
                    let axes = axes.into_iter().map(turned).collect();
                    kernel::copy(axes, &from.elements[placed..], to.elements.part(natural..));
                } else {
                    kernel::copy(axes, &from.elements[natural..], to.elements.part(placed..));
                }
            }
            done += count.iter().product::<usize>() as f64;
            tick(done / all)?;
            let next = |a: &usize| from_place[*a] + count[*a] < self.axes[*a].size;
            let Some(a) = (0..outer).rev().find(next) else { return Ok(()) };
            from_place[a] += count[a];
            (a + 1..outer).for_each(|b| from_place[b] = 0);
        }
    }
}
