//! Products with one row and a short sum: C is a sum of a few lines of B, each times a number, added up where they lie.
//!
//! Such a product reads B once and does little with it. So nothing is packed, and only memory's speed counts. An example is
//! a leaf with one small axis, multiplied by its neighbour.
use super::fuse::{self, Side};
use super::{Axis, Complex, volume};
use core::array::from_fn;
use core::mem::MaybeUninit;
use pulp::{Arch, Simd, WithSimd};

/// Terms of the longest sum that is added up this way. Longer sums are worth packing, and are blocked there.
const LONGEST: usize = 64;
/// Shorter lines are left to the packed product.
const SHORTEST: usize = 16;
/// Elements of a line that are added up at one time, so that the sum stays in the first-level cache.
const PIECE: usize = 2048;
/// Terms that are added up in registers.
const AT_ONCE: usize = 4;
/// Pieces that a thread takes at one time.
const SHARE: usize = 8;

/// A product of this kind. Columns and sums are fused, and the axis along the lines is the last of the columns.
pub struct Thin<'a> {
    pub columns: &'a [Axis],
    pub sums: &'a [Axis],
    pub left: *const Complex,
    pub right: *const Complex,
    pub out: *mut Complex,
    pub accumulate: bool,
    pub arch: Arch,
}
// SAFETY: the operands are only read, and every piece of `out` is written by one thread.
unsafe impl Sync for Thin<'_> {}

/// Whether a product of one row has this form.
pub fn is_thin(columns: &[Axis], sums: &[Axis]) -> bool {
    volume(sums) <= LONGEST
        && columns.last().is_some_and(|line| line.input == 1 && line.other == 1 && line.size >= SHORTEST)
}

impl Thin<'_> {
    /// Parts that threads can share.
    pub fn parts(&self) -> usize {
        self.pieces().div_ceil(SHARE)
    }
    fn pieces(&self) -> usize {
        let line = self.columns.last().map_or(1, |line| line.size);
        volume(self.columns) / line * line.div_ceil(PIECE)
    }
    /// Computes one part.
    ///
    /// # Safety
    /// `left` and `right` are readable and `out` writable wherever the axes reach, and nobody else uses this part of `out`. If
    /// `accumulate` is set it has been written.
    pub unsafe fn part(&self, part: usize) {
        let Some((line, outer)) = self.columns.split_last() else { return };
        let depth = volume(self.sums);
        let (mut factors, mut lines, mut inputs, mut outputs) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        fuse::offsets(self.sums, Side::Input, 0, depth, &mut factors);
        fuse::offsets(self.sums, Side::Other, 0, depth, &mut lines);
        // SAFETY: by the rule above, A can be read at these offsets.
        let factors: Vec<Complex> = factors.iter().map(|at| unsafe { self.left.add(*at).read() }).collect();
        let per_line = line.size.div_ceil(PIECE);
        for piece in part * SHARE..self.pieces().min((part + 1) * SHARE) {
            let start = piece % per_line * PIECE;
            let count = PIECE.min(line.size - start);
            fuse::offsets(outer, Side::Input, piece / per_line, 1, &mut inputs);
            fuse::offsets(outer, Side::Other, piece / per_line, 1, &mut outputs);
            // SAFETY: by the rule above, `count` neighbours in C from here on are writable and nobody else's.
            let out = unsafe {
                let first = self.out.add(outputs[0] + start).cast::<MaybeUninit<Complex>>();
                core::slice::from_raw_parts_mut(first, count)
            };
            // SAFETY: by the rule above, as many neighbours in B can be read.
            let line = |at: usize| unsafe {
                core::slice::from_raw_parts(self.right.add(at + inputs[0] + start), count)
            };
            for first in (0..depth).step_by(AT_ONCE) {
                // So C was written: by the rule above, or by the terms before these.
                let add = self.accumulate || first > 0;
                let term = |i: usize| (factors[first + i], line(lines[first + i]));
                match depth - first {
                    1 => self.arch.dispatch(AddUp::<1> { out: &mut *out, terms: from_fn(term), add }),
                    2 => self.arch.dispatch(AddUp::<2> { out: &mut *out, terms: from_fn(term), add }),
                    3 => self.arch.dispatch(AddUp::<3> { out: &mut *out, terms: from_fn(term), add }),
                    _ => self.arch.dispatch(AddUp::<AT_ONCE> { out: &mut *out, terms: from_fn(term), add }),
                }
            }
        }
    }
}

/// Adds up lines, each as long as `out` and each times a number.
struct AddUp<'a, const TERMS: usize> {
    out: &'a mut [MaybeUninit<Complex>],
    terms: [(Complex, &'a [Complex]); TERMS],
    /// Whether the sum is added to what `out` holds, all of which has been written; else it overwrites that.
    add: bool,
}
impl<const TERMS: usize> WithSimd for AddUp<'_, TERMS> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let factors = self.terms.map(|(factor, _)| simd.splat_c32s(factor));
        let zero = simd.splat_c32s(Complex::new(0.0, 0.0));
        let (out, out_rest) = S::as_uninit_mut_simd_c32s(self.out);
        let lines = self.terms.map(|(_, line)| S::as_simd_c32s(line));
        for (x, z) in out.iter_mut().enumerate() {
            // SAFETY: what is added to was written.
            let mut sum = if self.add { unsafe { z.assume_init_read() } } else { zero };
            for (factor, (line, _)) in factors.into_iter().zip(lines) {
                sum = simd.mul_add_e_c32s(factor, line[x], sum);
            }
            z.write(sum);
        }
        if !out_rest.is_empty() {
            if !self.add {
                out_rest.fill(MaybeUninit::new(Complex::new(0.0, 0.0)));
            }
            // SAFETY: it was written before, or just now.
            let out_rest = unsafe {
                core::slice::from_raw_parts_mut(out_rest.as_mut_ptr().cast::<Complex>(), out_rest.len())
            };
            let mut sum = simd.partial_load_c32s(out_rest);
            for (factor, (_, rest)) in factors.into_iter().zip(lines) {
                sum = simd.mul_add_e_c32s(factor, simd.partial_load_c32s(rest), sum);
            }
            simd.partial_store_c32s(out_rest, sum);
        }
    }
}
