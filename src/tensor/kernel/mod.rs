//! The contraction kernel: C = sum over shared axes of A times B, for tensors with any strides.
//!
//! - The axes of a product fall into three groups: rows (in A and C), columns (in B and C) and sums (in A and B).
//! - Axes of a group that lie behind each other without a gap in both tensors are fused (`fuse`).
//! - C is computed tile by tile (`tiles`). For each tile, blocks of A and B are packed straight from where they lie
//!   (`pack`) and multiplied in registers (`multiply`). Sums are accumulated over blocks of at most `tiles::DEPTH` terms.
//! - The product of a vector and a short sum is added up in place (`thin`).
//!
//! No tensor is ever transposed as a whole. The scheme is the one of Springer and Bientinesi, "Design of a high-performance
//! GEMM-like tensor-tensor multiplication", 2018.
mod first_use;
mod fuse;
mod job;
mod multiply;
mod pack;
mod pack_buffer;
mod permute;
pub mod scan;
#[cfg(test)]
mod tests;
mod thin;
mod threads;
mod tiles;
mod workers;

pub use first_use::HOOKS as FIRST_USE_HOOKS;

use super::Complex;
use super::out::Out;
use crate::error::Result;

/// Floating-point operations of a multiply-add of complex numbers.
pub const OPERATIONS_PER_TERM: f64 = 8.0;
pub use threads::{set_threads, threads, threads_of_decompositions};

/// One axis of a product, with its stride (in elements) in the two tensors that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Number of positions.
    pub size: usize,
    /// Stride in A (rows, sums) or in B (columns).
    pub input: usize,
    /// Stride in C (rows, columns) or in B (sums).
    pub other: usize,
}

/// What to multiply: the axes in their groups. No size may be 0.
#[derive(Clone, Debug, Default)]
pub struct Product {
    /// Axes of A that stay.
    pub rows: Vec<Axis>,
    /// Axes of B that stay.
    pub columns: Vec<Axis>,
    /// Axes summed over.
    pub sums: Vec<Axis>,
    /// A is multiplied by 2 to this power before the product.
    pub left_exponent: i32,
    /// B is multiplied by 2 to this power before the product.
    pub right_exponent: i32,
}

fn volume(axes: &[Axis]) -> usize {
    axes.iter().map(|axis| axis.size).product()
}
/// Offset of the last element that `axes` reach with the strides that `stride` picks.
fn reach(axes: &[Axis], stride: impl Fn(&Axis) -> usize) -> usize {
    axes.iter().map(|axis| (axis.size - 1) * stride(axis)).sum()
}

impl Product {
    /// The product of row-major `left` and `right` over `bonds` (axis of left, axis of right), written row-major
    /// with left's remaining axes first, then right's.
    pub fn row_major(left: &[usize], right: &[usize], bonds: &[(usize, usize)]) -> Product {
        let (left_strides, right_strides) = (super::shape::strides(left), super::shape::strides(right));
        let mut product = Product::default();
        for &(i, j) in bonds {
            product.sums.push(Axis { size: left[i], input: left_strides[i], other: right_strides[j] });
        }
        let mut stride = 1;
        for j in (0..right.len()).rev().filter(|j| bonds.iter().all(|bond| bond.1 != *j)) {
            product.columns.push(Axis { size: right[j], input: right_strides[j], other: stride });
            stride *= right[j];
        }
        for i in (0..left.len()).rev().filter(|i| bonds.iter().all(|bond| bond.0 != *i)) {
            product.rows.push(Axis { size: left[i], input: left_strides[i], other: stride });
            stride *= left[i];
        }
        product
    }
    /// Multiply-adds of the product.
    pub fn terms(&self) -> f64 {
        [&self.rows, &self.columns, &self.sums].iter().flat_map(|g| g.iter()).map(|a| a.size as f64).product()
    }
    /// Floating-point operations of the product.
    pub fn operations(&self) -> f64 {
        OPERATIONS_PER_TERM * self.terms()
    }
    /// Computes C. What C held is overwritten; elements that the axes do not reach are left alone. `tick` is called now and
    /// then on the calling thread, with the share that is done. If it fails, the product stops.
    ///
    /// # Panics
    /// If a slice is shorter than its axes reach: a defect of the caller.
    pub fn compute(
        &self,
        left: &[Complex],
        right: &[Complex],
        out: Out,
        tick: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<()> {
        // SAFETY: nothing of C is read.
        unsafe { self.run(left, right, out, false, tick) }
    }
    /// Like [`Product::compute`], but adds the product to what C holds.
    ///
    /// # Safety
    /// The elements of C that the axes reach have been written.
    pub unsafe fn add(
        &self,
        left: &[Complex],
        right: &[Complex],
        out: Out,
        tick: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<()> {
        // SAFETY: by the caller's promise.
        unsafe { self.run(left, right, out, true, tick) }
    }
    /// # Safety
    /// If `accumulate` is set, the elements of C that the axes reach have been written.
    unsafe fn run(
        &self,
        left: &[Complex],
        right: &[Complex],
        mut out: Out,
        accumulate: bool,
        tick: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<()> {
        assert!(reach(&self.rows, |a| a.input) + reach(&self.sums, |a| a.input) < left.len());
        assert!(reach(&self.columns, |a| a.input) + reach(&self.sums, |a| a.other) < right.len());
        assert!(reach(&self.rows, |a| a.other) + reach(&self.columns, |a| a.other) < out.count());
        // SAFETY: the assertions above are the rule of `tiles::run` for reading and writing, with the caller's promise. Rows
        // and columns of C do not overlap, because the strides of an output are those of distinct axes of one tensor.
        unsafe { tiles::run(self, left.as_ptr(), right.as_ptr(), out.as_mut_ptr(), accumulate, tick) }
    }
}

/// Copies `source` into `out` with its axes in a new order: axis `order[i]` of the source becomes axis i.
pub fn permute(source: &[Complex], dimensions: &[usize], order: &[usize], out: Out) {
    let strides = super::shape::strides(dimensions);
    let mut axes = Vec::with_capacity(order.len());
    let mut stride = 1;
    for &axis in order.iter().rev() {
        axes.push(Axis { size: dimensions[axis], input: strides[axis], other: stride });
        stride *= dimensions[axis];
    }
    assert!(stride <= source.len() && stride <= out.count());
    copy(axes, source, out);
}
/// Copies a tensor that lies in `source` with the strides `input` to `out` with the strides `other`.
///
/// # Panics
/// If a slice is shorter than its axes reach: a defect of the caller.
pub fn copy(axes: Vec<Axis>, source: &[Complex], out: Out) {
    permute::copy(fuse::fuse(axes, |a| a.other), source, out);
}

/// The base-2 logarithm of the number of positions of a group of axes, rounded up.
pub fn volume_log2(axes: &[Axis]) -> i32 {
    volume(axes).next_power_of_two().trailing_zeros() as i32
}
