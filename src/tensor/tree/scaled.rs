//! Tensors with an exponent of their own: the value is the elements times 2 to the power `exponent`.
//!
//! Every tensor carries a bound on the largest real or imaginary part of its elements. The bound of a product
//! follows from those of its operands. The elements are measured again only if the bound has become too loose or
//! leaves the comfortable range.
use crate::error::Result;
use crate::tensor::kernel::{Product, volume_log2};
use crate::tensor::tiled::{self, Source, Target};

/// What is known of a tensor's elements.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The value is the elements times 2 to this power.
    pub exponent: i32,
    /// All parts of the elements are below 2 to this power.
    bound: i32,
    /// How many powers of two the bound may be too high.
    slack: i32,
}

/// A bound with more slack than this is measured again.
const LOOSE: i32 = 40;
/// The slack of a tensor that was never measured.
const UNKNOWN: i32 = 1 << 20;
/// A product whose bound is in this range cannot overflow, and loses little to underflow.
const SAFE: core::ops::RangeInclusive<i32> = -60..=120;
/// Elements outside this range are brought near 1.
const COMFORTABLE: core::ops::RangeInclusive<i32> = -40..=40;

impl Scale {
    /// The scale of a tensor that is too large to be measured without need. A product with such an operand is
    /// checked afterwards ([`Scale::looks_wrong`]), and made again with measured scales if the safe range was left.
    pub fn unknown() -> Scale {
        Scale { exponent: 0, bound: 0, slack: UNKNOWN }
    }
    /// Whether the elements were never measured.
    pub fn is_unknown(&self) -> bool {
        self.slack >= UNKNOWN
    }
    /// Measures the elements of a tensor.
    pub fn measure(tensor: Source) -> Result<Scale> {
        Ok(Scale { exponent: 0, bound: tiled::magnitude(tensor)?.bound(), slack: 0 })
    }
    /// The scale of a product. If the product might leave the safe range, sets the powers of two by which its
    /// operands are multiplied first.
    pub fn of_product(left: Scale, right: Scale, product: &mut Product) -> Scale {
        // Each part of a complex product is a sum of two real products: one power of two more.
        let growth = volume_log2(&product.sums) + 1;
        let slack = left.slack + right.slack + growth;
        let bound = left.bound + right.bound + growth;
        if SAFE.contains(&bound) {
            return Scale { exponent: left.exponent + right.exponent, bound, slack };
        }
        (product.left_exponent, product.right_exponent) = (-left.bound, -right.bound);
        let exponent = left.exponent + left.bound + right.exponent + right.bound;
        Scale { exponent, bound: growth, slack }
    }
    /// Whether the elements of a product, of which an operand was never measured, show that the safe range was left.
    pub fn looks_wrong(elements: Source) -> Result<bool> {
        let magnitude = tiled::magnitude(elements)?;
        Ok(!magnitude.is_finite || magnitude.below.is_none_or(|bound| bound < *SAFE.start()))
    }
    /// Measures a product's elements if the bound is too loose or far from 1. Brings the elements near 1 if they are
    /// far from it.
    ///
    /// # Safety
    /// All elements have been written.
    pub unsafe fn refresh(&mut self, tensor: &mut Target) -> Result<()> {
        if self.slack <= LOOSE && COMFORTABLE.contains(&self.bound) {
            return Ok(());
        }
        // SAFETY: by the caller's promise.
        let measured = Scale::measure(unsafe { tensor.written() })?;
        (self.bound, self.slack) = (measured.bound, 0);
        if !COMFORTABLE.contains(&self.bound) {
            // SAFETY: by the caller's promise.
            unsafe { tiled::scale(tensor, -self.bound) }?;
            self.exponent += self.bound;
            self.bound = 0;
        }
        Ok(())
    }
}
