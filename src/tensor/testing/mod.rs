//! What tests share: random tensors, and sums over all indices in f64 to compare with.
mod memory;
mod reference;

pub use memory::{counts, fail_allocation, memory};
pub use reference::{direct_sum, random_tree, sum_of_terms};

use super::{Complex, shape};
use faer::c64;

/// A small generator of random numbers (splitmix64): the same numbers in every run.
pub struct Random(u64);
impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
    /// A number between -1 and 1.
    pub fn real(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub fn tensor(&mut self, dimensions: &[usize]) -> Vec<Complex> {
        (0..shape::elements(dimensions).unwrap()).map(|_| Complex::new(self.real(), self.real())).collect()
    }
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

pub fn widen(elements: &[Complex]) -> Vec<c64> {
    elements.iter().map(|z| c64::new(z.re.into(), z.im.into())).collect()
}

/// The Frobenius norm of a tensor.
pub fn norm_of(elements: &[c64]) -> f64 {
    elements.iter().map(|z| z.norm_sqr()).sum::<f64>().sqrt()
}

/// The product of two tensors by its definition, in f64. Returns dimensions and elements.
pub fn direct_product(
    left: &[usize],
    a: &[Complex],
    right: &[usize],
    b: &[Complex],
    bonds: &[(usize, usize)],
) -> (Vec<usize>, Vec<c64>) {
    direct_product_wide(left, &widen(a), right, &widen(b), bonds)
}
pub fn direct_product_wide(
    left: &[usize],
    a: &[c64],
    right: &[usize],
    b: &[c64],
    bonds: &[(usize, usize)],
) -> (Vec<usize>, Vec<c64>) {
    let free_left: Vec<usize> = (0..left.len()).filter(|i| bonds.iter().all(|x| x.0 != *i)).collect();
    let free_right: Vec<usize> = (0..right.len()).filter(|j| bonds.iter().all(|x| x.1 != *j)).collect();
    let (sl, sr) = (shape::strides(left), shape::strides(right));
    let list = |axes: &[(usize, usize)]| {
        let mut offsets = vec![0usize];
        for &(size, stride) in axes {
            offsets = offsets.iter().flat_map(|o| (0..size).map(move |i| o + i * stride)).collect();
        }
        offsets
    };
    let rows = list(&free_left.iter().map(|&i| (left[i], sl[i])).collect::<Vec<_>>());
    let columns = list(&free_right.iter().map(|&j| (right[j], sr[j])).collect::<Vec<_>>());
    let from_left = list(&bonds.iter().map(|x| (left[x.0], sl[x.0])).collect::<Vec<_>>());
    let from_right = list(&bonds.iter().map(|x| (right[x.1], sr[x.1])).collect::<Vec<_>>());
    let mut out = Vec::with_capacity(rows.len() * columns.len());
    for &row in &rows {
        for &column in &columns {
            out.push(from_left.iter().zip(&from_right).map(|(p, q)| a[row + p] * b[column + q]).sum());
        }
    }
    let mut dimensions: Vec<usize> = free_left.iter().map(|&i| left[i]).collect();
    dimensions.extend(free_right.iter().map(|&j| right[j]));
    if dimensions.is_empty() {
        dimensions.push(1);
    }
    (dimensions, out)
}

/// Relative error in the Frobenius norm.
pub fn error(actual: &[Complex], expected: &[c64]) -> f64 {
    error_beside(actual, expected, 0.0)
}
/// The same, but relative to `terms`, the norm of all terms that were summed, if that is larger than the norm
/// of what was expected.
pub fn error_beside(actual: &[Complex], expected: &[c64], terms: f64) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let square = |z: c64| z.re * z.re + z.im * z.im;
    let difference: f64 = widen(actual).iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = expected.iter().map(|b| square(*b)).sum::<f64>().max(terms * terms);
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}
