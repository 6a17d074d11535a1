//! Cutting a product into slabs and pieces, and choosing how many of them.
use super::chunked::Extent;
use crate::tensor::kernel::{Axis, Product};

/// A part of a product, and where its operands and its result begin: left, right, out.
#[derive(Clone)]
pub struct Piece {
    pub product: Product,
    pub at: [usize; 3],
    /// Elements of a chunk of left, right and out; none for tensors in plain memory.
    chunks: [Option<usize>; 3],
}

/// The three groups of axes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Rows,
    Columns,
    Sums,
}

impl Piece {
    pub fn whole(product: &Product, chunks: [Option<usize>; 3]) -> Piece {
        Piece { product: product.clone(), at: [0; 3], chunks }
    }
    fn axes(&mut self, group: Group) -> &mut Vec<Axis> {
        match group {
            Group::Rows => &mut self.product.rows,
            Group::Columns => &mut self.product.columns,
            Group::Sums => &mut self.product.sums,
        }
    }
    pub fn left(&self) -> Extent {
        let product = &self.product;
        Extent::new(self.at[0], product.rows.iter().chain(&product.sums).map(|a| (a.size, a.input)))
    }
    pub fn right(&self) -> Extent {
        let (columns, sums) = (self.product.columns.iter(), self.product.sums.iter());
        Extent::new(self.at[1], columns.map(|a| (a.size, a.input)).chain(sums.map(|a| (a.size, a.other))))
    }
    pub fn out(&self) -> Extent {
        let product = &self.product;
        Extent::new(self.at[2], product.rows.iter().chain(&product.columns).map(|a| (a.size, a.other)))
    }
    /// Positions of one axis, from `start`.
    fn range(&self, group: Group, axis: usize, start: usize, size: usize) -> Piece {
        let mut piece = self.clone();
        let axis = &mut piece.axes(group)[axis];
        let (input, other) = (start * axis.input, start * axis.other);
        axis.size = size;
        let operands = match group {
            Group::Rows => [input, 0, other],
            Group::Columns => [0, input, other],
            Group::Sums => [input, other, 0],
        };
        (0..3).for_each(|i| piece.at[i] += operands[i]);
        piece
    }
    /// The axis that is cut first: the one with the largest stride.
    fn longest(&self, group: Group) -> Option<usize> {
        let (axes, stride): (_, fn(&Axis) -> usize) = match group {
            Group::Rows => (&self.product.rows, |axis| axis.other),
            Group::Columns => (&self.product.columns, |axis| axis.input),
            Group::Sums => (&self.product.sums, |axis| axis.other),
        };
        (0..axes.len()).filter(|i| axes[*i].size > 1).max_by_key(|i| stride(&axes[*i]))
    }
    /// Positions of a part when an axis is cut into about `count`. Where chunks hold whole positions, parts end with a
    /// chunk, since one that two parts share is brought in for both.
    fn length(&self, group: Group, axis: &Axis, count: usize) -> usize {
        let length = axis.size.div_ceil(count.min(axis.size));
        let [left, right, out] = self.chunks;
        let tensors = match group {
            Group::Rows => [(left, axis.input), (out, axis.other)],
            Group::Columns => [(right, axis.input), (out, axis.other)],
            Group::Sums => [(left, axis.input), (right, axis.other)],
        };
        let per_chunk = |(chunk, stride): (Option<usize>, usize)| {
            chunk.filter(|chunk| stride > 0 && chunk.is_multiple_of(stride)).map(|chunk| chunk / stride)
        };
        let unit =
            tensors.into_iter().filter_map(per_chunk).filter(|unit| *unit <= length).max().unwrap_or(1);
        length.next_multiple_of(unit).min(axis.size)
    }
    /// About `count` parts of like size, cut along the longest axis, then the next.
    fn split(&self, group: Group, count: usize) -> Vec<Piece> {
        let mut piece = self.clone();
        let Some(axis) = self.longest(group).filter(|_| count > 1) else { return vec![piece] };
        let size = piece.axes(group)[axis].size;
        let length = self.length(group, &piece.axes(group)[axis], count);
        let cut =
            (0..size).step_by(length).map(|start| self.range(group, axis, start, length.min(size - start)));
        if count <= size {
            return cut.collect();
        }
        // More parts than the axis has positions: cut each position's part again, along the next axis.
        cut.flat_map(|part| part.split(group, count.div_ceil(size))).collect()
    }
    /// The first of these parts, which is as large as any, and how many there are.
    fn first(&self, group: Group, count: usize) -> (Piece, usize) {
        let mut piece = self.clone();
        let Some(axis) = self.longest(group).filter(|_| count > 1) else { return (piece, 1) };
        let size = piece.axes(group)[axis].size;
        let length = self.length(group, &piece.axes(group)[axis], count);
        let part = self.range(group, axis, 0, length);
        if count <= size {
            return (part, size.div_ceil(length));
        }
        let (part, further) = part.first(group, count.div_ceil(size));
        (part, size * further)
    }
    pub fn split_rows(&self, count: usize) -> Vec<Piece> {
        self.split(Group::Rows, count)
    }
}

/// How a product is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheme {
    /// Slabs of rows.
    pub slabs: usize,
    /// Pieces that pass by each slab.
    pub pieces: usize,
    /// The pieces are parts of the sum; else of the columns.
    pub over_sums: bool,
    /// The slab of A stays while the pieces pass; else parts of it come with each piece.
    pub keep_left: bool,
    /// Elements that are brought in and sent out, about.
    pub traffic: f64,
    /// Elements pinned at one time, and being brought in, about.
    pub pinned: usize,
    /// Of these, the elements of the operands' parts that come with each piece.
    pub passing: usize,
}

impl Scheme {
    /// The scheme with the least traffic of those that pin at most `budget` elements; the one that pins least if none
    /// does. `chunks`: elements of a chunk of left, right and out; none for tensors in plain memory.
    pub fn choose(product: &Product, chunks: [Option<usize>; 3], budget: usize) -> Scheme {
        let whole = Piece::whole(product, chunks);
        let size = |axes: &[Axis]| axes.iter().map(|axis| axis.size).product::<usize>();
        let (rows, columns, sums) = (size(&product.rows), size(&product.columns), size(&product.sums));
        let fits = |scheme: &Scheme| scheme.pinned <= budget;
        let mut best: Option<Scheme> = None;
        for slabs in counts(rows) {
            // Each slab meets all of B, unless B stays, and then every number of slabs costs the same.
            let least = slabs as f64 * elements(whole.right(), chunks[1]) as f64;
            if best.as_ref().is_some_and(|best| fits(best) && least > best.traffic * SAME) {
                break;
            }
            let (slab, slabs) = whole.first(Group::Rows, slabs);
            for over_sums in [true, false] {
                let (group, positions) =
                    if over_sums { (Group::Sums, sums) } else { (Group::Columns, columns) };
                for pieces in counts(positions) {
                    let (piece, pieces) = slab.first(group, pieces);
                    for keep_left in [true, false] {
                        if !keep_left && !over_sums {
                            continue; // every part of the columns needs the whole slab of A
                        }
                        let scheme = measure(&slab, &piece, [slabs, pieces], over_sums, keep_left);
                        let better = match &best {
                            None => true,
                            Some(old) if fits(old) != fits(&scheme) => fits(&scheme),
                            Some(old) if fits(old) => scheme.is_better_than(old),
                            Some(old) => scheme.pinned < old.pinned,
                        };
                        if better {
                            best = Some(scheme);
                        }
                    }
                }
            }
        }
        best.unwrap_or(Scheme {
            slabs: 1,
            pieces: 1,
            over_sums: true,
            keep_left: true,
            traffic: 0.0,
            pinned: 0,
            passing: 0,
        })
    }
}

impl Scheme {
    /// The pieces of one slab, in order.
    pub fn pieces_of(&self, slab: &Piece) -> Vec<Piece> {
        slab.split(if self.over_sums { Group::Sums } else { Group::Columns }, self.pieces)
    }
    /// Less traffic; for about the same traffic, pieces enough that one is on its way while another is worked on.
    fn is_better_than(&self, other: &Scheme) -> bool {
        const ENOUGH: usize = 8;
        let overlap = |scheme: &Scheme| scheme.pieces.min(ENOUGH);
        self.traffic < other.traffic / SAME
            || self.traffic <= other.traffic * SAME && overlap(self) > overlap(other)
    }
}

/// Traffics within this ratio count as the same.
const SAME: f64 = 1.02;

/// Numbers of parts worth trying for so many positions: 1 to 8, then 10, 12, 14, 16, 20 and so on.
fn counts(positions: usize) -> impl Iterator<Item = usize> {
    let powers = (0..12).map(|i| 1usize << i);
    let all = (1..4).chain(powers.flat_map(|p| [4 * p, 5 * p, 6 * p, 7 * p]));
    all.take_while(move |count| *count <= positions.max(1))
}

/// Elements of the chunks that an extent needs; 0 for plain memory.
fn elements(extent: Extent, chunk: Option<usize>) -> usize {
    chunk.map_or(0, |chunk| extent.count(chunk) * chunk)
}

fn measure(
    slab: &Piece,
    piece: &Piece,
    [slabs, pieces]: [usize; 2],
    over_sums: bool,
    keep_left: bool,
) -> Scheme {
    let chunks = slab.chunks;
    let out = elements(slab.out(), chunks[2]);
    let right = elements(piece.right(), chunks[1]);
    let (left, left_passing) = match keep_left {
        true => (elements(slab.left(), chunks[0]), 0),
        false => (0, elements(piece.left(), chunks[0])),
    };
    // The next piece is on its way while one is worked on.
    let passing = right + left_passing;
    let moving = if pieces > 1 { 2 * passing } else { passing };
    let rounds = (slabs * pieces) as f64;
    let traffic_right = if pieces == 1 { right as f64 } else { rounds * right as f64 };
    let traffic = slabs as f64 * (out + left) as f64 + traffic_right + rounds * left_passing as f64;
    Scheme { slabs, pieces, over_sums, keep_left, traffic, pinned: out + left + moving, passing }
}
