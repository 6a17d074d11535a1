//! Cutting a product into parts along its rows, columns and sums.
use super::chunked::Extent;
use crate::tensor::kernel::{Axis, Product};

/// A part of a product. Its tensors are numbered: left 0, right 1, out 2.
#[derive(Clone)]
pub struct Piece {
    pub product: Product,
    /// Where the part begins in each tensor, in elements.
    pub at: [usize; 3],
    /// By group, the first position of each axis.
    starts: [Vec<usize>; 3],
    /// Elements of a chunk of left, right and out; `None` for a tensor in plain memory.
    pub chunks: [Option<usize>; 3],
}

/// The three groups of axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Rows,
    Columns,
    Sums,
}
impl Group {
    /// The two tensors that have the axes of this group. The stride `input` is in the first, the stride `other` in the
    /// second.
    const fn tensors(self) -> [usize; 2] {
        match self {
            Group::Rows => [0, 2],
            Group::Columns => [1, 2],
            Group::Sums => [0, 1],
        }
    }
    /// The two groups whose axes a tensor has.
    pub const fn of_tensor(tensor: usize) -> [Group; 2] {
        match tensor {
            0 => [Group::Rows, Group::Sums],
            1 => [Group::Columns, Group::Sums],
            _ => [Group::Rows, Group::Columns],
        }
    }
    /// An axis's stride in a tensor that has it.
    pub fn stride(self, axis: &Axis, tensor: usize) -> usize {
        if self.tensors()[0] == tensor { axis.input } else { axis.other }
    }
    /// The same, to be changed.
    pub fn stride_mut(self, axis: &mut Axis, tensor: usize) -> &mut usize {
        if self.tensors()[0] == tensor { &mut axis.input } else { &mut axis.other }
    }
}

impl Piece {
    pub fn whole(product: &Product, chunks: [Option<usize>; 3]) -> Piece {
        let starts = [&product.rows, &product.columns, &product.sums].map(|axes| vec![0; axes.len()]);
        Piece { product: product.clone(), at: [0; 3], starts, chunks }
    }
    /// The axes of a group.
    pub fn axes(&self, group: Group) -> &[Axis] {
        match group {
            Group::Rows => &self.product.rows,
            Group::Columns => &self.product.columns,
            Group::Sums => &self.product.sums,
        }
    }
    /// An axis of a group, to be changed.
    pub fn axis_mut(&mut self, group: Group, axis: usize) -> &mut Axis {
        match group {
            Group::Rows => &mut self.product.rows[axis],
            Group::Columns => &mut self.product.columns[axis],
            Group::Sums => &mut self.product.sums[axis],
        }
    }
    /// The elements of a tensor that the part needs.
    pub fn extent(&self, tensor: usize) -> Extent {
        let sizes = |group: Group| self.axes(group).iter().map(move |a| (a.size, group.stride(a, tensor)));
        Extent::new(self.at[tensor], Group::of_tensor(tensor).into_iter().flat_map(sizes))
    }
    pub fn left(&self) -> Extent {
        self.extent(0)
    }
    pub fn right(&self) -> Extent {
        self.extent(1)
    }
    pub fn out(&self) -> Extent {
        self.extent(2)
    }
    /// The part that has `size` positions of one axis, from `start` on.
    fn range(&self, group: Group, axis: usize, start: usize, size: usize) -> Piece {
        let mut piece = self.clone();
        piece.starts[group as usize][axis] += start;
        let axis = piece.axis_mut(group, axis);
        axis.size = size;
        let offsets = [start * axis.input, start * axis.other];
        group.tensors().into_iter().zip(offsets).for_each(|(tensor, offset)| piece.at[tensor] += offset);
        piece
    }
    /// The axis that is cut first: the one with the largest stride.
    fn longest(&self, group: Group) -> Option<usize> {
        let axes = self.axes(group);
        let tensor = if group == Group::Rows { 2 } else { 1 };
        (0..axes.len()).filter(|i| axes[*i].size > 1).max_by_key(|i| group.stride(&axes[*i], tensor))
    }
    /// The axis that is cut into about `count` parts, its size, and how many positions a part has; None if nothing is to
    /// be cut.
    fn cut(&self, group: Group, count: usize) -> Option<(usize, usize, usize)> {
        let axis = self.longest(group).filter(|_| count > 1)?;
        let cut = &self.axes(group)[axis];
        Some((axis, cut.size, self.length(group, cut, count)))
    }
    /// How many positions a part has if an axis is cut into about `count` parts. Where a chunk holds whole positions,
    /// parts end where chunks end, since a chunk that two parts share is brought in for both.
    fn length(&self, group: Group, axis: &Axis, count: usize) -> usize {
        let length = axis.size.div_ceil(count.min(axis.size));
        let [input, other] = group.tensors().map(|tensor| self.chunks[tensor]);
        let tensors = [(input, axis.input), (other, axis.other)];
        let per_chunk = |(chunk, stride): (Option<usize>, usize)| {
            chunk.filter(|chunk| stride > 0 && chunk.is_multiple_of(stride)).map(|chunk| chunk / stride)
        };
        let unit =
            tensors.into_iter().filter_map(per_chunk).filter(|unit| *unit <= length).max().unwrap_or(1);
        length.next_multiple_of(unit).min(axis.size)
    }
    /// Cuts into about `count` parts, along the longest axis first and then along the next. Along each axis all parts
    /// have the same length, except for the last.
    pub fn split(&self, group: Group, count: usize) -> Vec<Piece> {
        let Some((axis, size, length)) = self.cut(group, count) else { return vec![self.clone()] };
        let cut =
            (0..size).step_by(length).map(|start| self.range(group, axis, start, length.min(size - start)));
        if count <= size {
            return cut.collect();
        }
        // More parts are wanted than the axis has positions. Cut the part of each position again, along the next axis.
        cut.flat_map(|part| part.split(group, count.div_ceil(size))).collect()
    }
    /// The first part that [`Piece::split`] makes, which is as large as any, and how many parts it makes.
    pub fn first(&self, group: Group, count: usize) -> (Piece, usize) {
        let Some((axis, size, length)) = self.cut(group, count) else { return (self.clone(), 1) };
        let part = self.range(group, axis, 0, length);
        if count <= size {
            return (part, size.div_ceil(length));
        }
        let (part, further) = part.first(group, count.div_ceil(size));
        (part, size * further)
    }
    /// First position of an axis.
    pub fn start(&self, group: Group, axis: usize) -> usize {
        self.starts[group as usize][axis]
    }
}
