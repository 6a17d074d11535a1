//! Products of blocks on one thread, with the vectors that this processor has.
//!
//! The scheme is that of BLIS (Van Zee and van de Geijn, "BLIS: a framework for rapidly instantiating BLAS functionality",
//! 2015): a panel of A stays in the first-level cache while panels of B are read from the second, and a small tile of C is
//! summed up in registers.
//!
//! Packed B has real and imaginary parts in vectors of their own, so that every step of a sum is a multiply-add and none is a
//! shuffle. Packing separates the parts; writing C interleaves them again.
use super::Complex;
use super::pack::{Block, Packed, are_neighbours};
use core::ops::Range;
use pulp::{Arch, Simd, WithSimd};

/// Where a product goes: element (x, y) is `out[rows[x] + columns[y]]`.
pub struct Target<'a> {
    pub out: *mut Complex,
    pub rows: &'a [usize],
    pub columns: &'a [usize],
    /// Whether the product is added to what is there; else it overwrites that.
    pub add: bool,
}

/// Packs a block of A, whose lines are rows.
///
/// # Safety
/// The rule of [`Packed::evenly`].
pub unsafe fn pack_left(arch: Arch, block: &Block, packed: &mut Packed) {
    struct Left<'a>(&'a Block<'a>, &'a mut Packed);
    impl WithSimd for Left<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            // SAFETY: this function has the same rule.
            unsafe { self.1.evenly(self.0, most_rows::<S>()) }
        }
    }
    arch.dispatch(Left(block, packed));
}

/// Packs a block of B, whose lines are columns.
///
/// # Safety
/// The rule of [`Packed::evenly`].
pub unsafe fn pack_right(arch: Arch, block: &Block, packed: &mut Packed) {
    struct Right<'a>(&'a Block<'a>, &'a mut Packed);
    impl WithSimd for Right<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            // SAFETY: this function has the same rule.
            unsafe { self.1.dealt(simd, self.0) }
        }
    }
    arch.dispatch(Right(block, packed));
}

/// A block of A, packed or read where it lies.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// A packed block, and the first of its terms that is used. It is followed by as many as B has.
    Packed(&'a Packed, usize),
    /// A block that is not packed. The terms of each row must be neighbours, and the exponent must be 0.
    AsItLies(&'a Block<'a>),
}

/// Computes C = A B, or C += A B. Blocks must be packed for the same `arch`. The terms of A that are used are those of B.
///
/// # Safety
/// All elements of the target may be written, and read if the product is added to them. They are distinct, and nobody else uses
/// them. A block that is read where it
/// lies follows the rule of [`Packed::evenly`].
pub unsafe fn multiply(arch: Arch, left: Left, right: &Packed, target: &Target) {
    match left {
        Left::Packed(packed, first) => assert!(first + right.depth() <= packed.depth()),
        Left::AsItLies(block) => assert_eq!(block.terms.len(), right.depth()),
    }
    arch.dispatch(Multiply { left, right, target });
}

/// The most rows of a panel of A. Each has two vectors of sums; they all fit into the registers, together with the vectors that
/// are multiplied.
const fn most_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 12 } else { 5 }
}
/// The same for rows that are read where they lie. Each of these needs a register for its address, too.
const fn most_lying<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 5 }
}

struct Multiply<'a> {
    left: Left<'a>,
    right: &'a Packed,
    target: &'a Target<'a>,
}
impl WithSimd for Multiply<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Each number of rows has code of its own, so that the sums of a tile stay in registers.
        macro_rules! tiles {
            ($rows:expr, $most:expr, $step:expr, $row:expr, $next:expr, [$($count:literal)*]) => {
                match $rows.len() {
                    $($count if $count <= $most => {
                        let lines: [*const f32; $count] = core::array::from_fn($row);
                        // SAFETY: `lines` are that many rows of the left block. The target follows the rule of `multiply`.
                        unsafe { band::<S, $count>(simd, lines, $step, &self, $rows, $next) };
                    })*
                    _ => unreachable!(),
                }
            };
        }
        match self.left {
            Left::Packed(packed, first) => {
                // A panel has one term of all its rows after the other, so `first` terms are skipped.
                let panels = packed.panels();
                let mut panels = panels
                    .map(|(rows, start)| (rows.clone(), start.wrapping_add(first * rows.len())))
                    .peekable();
                while let Some((rows, start)) = panels.next() {
                    let next = panels.peek().map(|(rows, start)| (rows.len(), *start));
                    let next = match next {
                        Some((rows, source)) => {
                            Next { source, rows: &[0], length: rows * self.right.depth(), at: 0 }
                        }
                        None => Next { source: start, rows: &[], length: 0, at: 0 },
                    };
                    let start = start.cast::<f32>();
                    let row = |i: usize| start.wrapping_add(2 * i);
                    tiles!(rows, most_rows::<S>(), 2 * rows.len(), row, next, [1 2 3 4 5 6 7 8 9 10 11 12]);
                }
            }
            Left::AsItLies(block) => {
                for first in (0..block.lines.len()).step_by(most_lying::<S>()) {
                    let rows = first..block.lines.len().min(first + most_lying::<S>());
                    let next = rows.end..block.lines.len().min(rows.end + most_lying::<S>());
                    let next = Next {
                        source: block.source.wrapping_add(block.terms[0]),
                        rows: &block.lines[next],
                        length: block.terms.len(),
                        at: 0,
                    };
                    let row = |i: usize| {
                        block.source.wrapping_add(block.lines[first + i] + block.terms[0]).cast::<f32>()
                    };
                    tiles!(rows, most_lying::<S>(), 2, row, next, [1 2 3 4 5 6 7 8]);
                }
            }
        }
    }
}

/// Elements of a cache line.
const LINE: usize = 8;
/// Terms that a tile multiplies between two prefetches.
const STRIDE: usize = 8;

/// Multiplies some rows of A by all of B. Neighbouring terms of A are `step` floats apart. `next` are the rows of A that
/// follow.
///
/// # Safety
/// Each of `lines` is a row of the left block; the target follows the rule of [`multiply`].
#[inline(always)]
unsafe fn band<S: Simd, const ROWS: usize>(
    simd: S,
    lines: [*const f32; ROWS],
    step: usize,
    product: &Multiply,
    rows: Range<usize>,
    mut next: Next,
) {
    let depth = product.right.depth();
    let strides = product.right.panels().len() * depth.div_ceil(STRIDE);
    let rows_each = ROWS.div_ceil(depth.div_ceil(STRIDE));
    let each = next.lines().div_ceil(strides);
    for (columns, right) in product.right.panels() {
        let mut result = ResultTile::new(product.target, rows.clone(), columns.clone());
        let mut ahead = || {
            result.ask(rows_each);
            next.ask(each);
        };
        // SAFETY: this function has the same rule, and each panel of B has `depth` terms.
        unsafe {
            let sums = tile::<S, ROWS>(simd, depth, lines, step, right.cast(), &mut ahead);
            write(simd, sums, product.target, rows.clone(), columns);
        }
    }
}

/// Real and imaginary parts of a row of a tile.
type Row<S> = [<S as Simd>::f32s; 2];

/// Computes a tile of C: the product of some rows of A and a panel of B. Every `STRIDE` terms it calls `ahead`, which
/// prefetches. Prefetching a little at a time brings memory in by the time it is needed, and does not hold up the reads of B.
///
/// # Safety
/// Each of `lines` points to `depth` terms, each a real and an imaginary part, `step` floats apart. `right` points to as many
/// pairs of vectors.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize>(
    simd: S,
    depth: usize,
    lines: [*const f32; ROWS],
    step: usize,
    right: *const Row<S>,
    mut ahead: impl FnMut(),
) -> [Row<S>; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
    for first in (0..depth).step_by(STRIDE) {
        ahead();
        for term in first..depth.min(first + STRIDE) {
            // SAFETY: by the rule above, B has this term.
            let [b_re, b_im] = unsafe { right.add(term).read() };
            for (row, [re, im]) in sums.iter_mut().enumerate() {
                // SAFETY: by the rule above, A has this term. Each part is loaded to all lanes on its own, because a load of
                // both would have to be taken apart.
                let [a_re, a_im] =
                    unsafe { [0, 1].map(|part| simd.splat_f32s(lines[row].add(term * step + part).read())) };
                *re = simd.mul_add_e_f32s(a_re, b_re, *re);
                *im = simd.mul_add_e_f32s(a_re, b_im, *im);
                *re = simd.negate_mul_add_e_f32s(a_im, b_im, *re);
                *im = simd.mul_add_e_f32s(a_im, b_re, *im);
            }
        }
    }
    sums
}

/// Prefetches a cache line that will be needed at once.
#[inline(always)]
fn ask_for(place: *const Complex) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and it reads nothing the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
/// Prefetches a cache line that will be needed later. It goes to the second-level cache, since the first is full of the
/// operands at work.
#[inline(always)]
fn ask_for_later(place: *const Complex) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as in `ask_for`.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Prefetches a tile of C row by row while it is summed up, since it is written right after that.
struct ResultTile<'a> {
    /// The first column of the tile, before a row's offset is added.
    out: *const Complex,
    /// The rows that are not prefetched yet.
    rows: &'a [usize],
    last_column: usize,
}
impl<'a> ResultTile<'a> {
    #[inline(always)]
    fn new(target: &'a Target, rows: Range<usize>, columns: Range<usize>) -> ResultTile<'a> {
        let (first, last) = (target.columns[columns.start], target.columns[columns.end - 1]);
        ResultTile {
            out: target.out.wrapping_add(first),
            rows: &target.rows[rows],
            last_column: last - first,
        }
    }
    #[inline(always)]
    fn ask(&mut self, rows: usize) {
        for _ in 0..rows {
            let Some((row, rest)) = self.rows.split_first() else { return };
            let start = self.out.wrapping_add(*row);
            ask_for(start);
            ask_for(start.wrapping_add(self.last_column));
            self.rows = rest;
        }
    }
}

/// Prefetches the next rows of A, or its next packed panel, a few cache lines at a time while the present ones are multiplied.
struct Next<'a> {
    source: *const Complex,
    /// The rows that are not prefetched yet, and the elements of each.
    rows: &'a [usize],
    length: usize,
    /// The next element to prefetch, in the first of these rows.
    at: usize,
}
impl Next<'_> {
    /// The cache lines of all rows.
    fn lines(&self) -> usize {
        self.rows.len() * self.length.div_ceil(LINE)
    }
    #[inline(always)]
    fn ask(&mut self, lines: usize) {
        for _ in 0..lines {
            let Some((row, rest)) = self.rows.split_first() else { return };
            ask_for_later(self.source.wrapping_add(row + self.at));
            self.at += LINE;
            if self.at >= self.length {
                (self.rows, self.at) = (rest, 0);
            }
        }
    }
}

/// Writes the sums of a tile to C, or adds them.
///
/// # Safety
/// The rule of [`multiply`].
#[inline(always)]
unsafe fn write<S: Simd, const ROWS: usize>(
    simd: S,
    sums: [Row<S>; ROWS],
    target: &Target,
    rows: Range<usize>,
    columns: Range<usize>,
) {
    let columns = &target.columns[columns];
    let whole = columns.len() == S::F32_LANES && are_neighbours(columns);
    for (sum, row) in sums.into_iter().zip(&target.rows[rows]) {
        let sum = simd.interleave_shfl_f32s(sum);
        // SAFETY: the rule of `multiply` lets this call read and write these elements of the target. Where the columns are
        // neighbours, as many as a vector has lanes, they are two whole vectors.
        unsafe {
            let start = target.out.add(*row);
            if whole {
                let place = start.add(columns[0]).cast::<Row<S>>();
                let [mut first, mut second] = sum;
                if target.add {
                    let [a, b] = place.read_unaligned();
                    (first, second) = (simd.add_f32s(a, first), simd.add_f32s(b, second));
                }
                place.write_unaligned([first, second]);
            } else {
                for (i, column) in columns.iter().enumerate() {
                    let value = (&raw const sum).cast::<Complex>().add(i).read();
                    let place = start.add(*column);
                    place.write(if target.add { place.read() + value } else { value });
                }
            }
        }
    }
}
