//! Tensors with an exponent of their own: value = elements times 2 to that power.
//!
//! Every tensor carries a bound on its largest part. The bound of a product follows from those of its operands; only
//! when it has become too loose, or leaves the comfortable range, are the elements looked at again.
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

/// A bound that has become looser than this is measured anew.
const LOOSE: i32 = 40;
/// The slack of a tensor nobody has looked at.
const UNKNOWN: i32 = 1 << 20;
/// A product is safe from overflow, and from losing much to underflow, with its bound in this range.
const SAFE: core::ops::RangeInclusive<i32> = -60..=120;
/// Elements outside this range are brought near 1.
const COMFORTABLE: core::ops::RangeInclusive<i32> = -40..=40;

impl Scale {
    /// Of a tensor that is too large to be looked at without need. A product with it is looked at instead, and made
    /// again if it shows that the range was left.
    pub fn unknown() -> Scale {
        Scale { exponent: 0, bound: 0, slack: UNKNOWN }
    }
    /// Whether nothing is known of the elements.
    pub fn is_unknown(&self) -> bool {
        self.slack >= UNKNOWN
    }
    /// Looks at the elements of a tensor.
    pub fn measure(tensor: Source) -> Result<Scale> {
        Ok(Scale { exponent: 0, bound: tiled::magnitude(tensor)?.bound(), slack: 0 })
    }
    /// The scale of a product; sets the powers of two its operands are multiplied by, where they need it.
    pub fn of_product(left: Scale, right: Scale, product: &mut Product) -> Scale {
        // A complex product has two terms in each part.
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
    /// Whether a product of operands that nobody has looked at shows that the range was left.
    pub fn looks_wrong(elements: Source) -> Result<bool> {
        let magnitude = tiled::magnitude(elements)?;
        Ok(!magnitude.is_finite || magnitude.below.is_none_or(|bound| bound < *SAFE.start()))
    }
    /// Looks at a product's elements again if its bound is too loose, and brings them near 1 if they are far off.
    pub fn refresh(&mut self, tensor: &mut Target) -> Result<()> {
        if self.slack <= LOOSE && COMFORTABLE.contains(&self.bound) {
            return Ok(());
        }
        let measured = Scale::measure(Source { elements: tensor.elements, chunked: tensor.chunked })?;
        (self.bound, self.slack) = (measured.bound, 0);
        if !COMFORTABLE.contains(&self.bound) {
            tiled::scale(tensor, -self.bound)?;
            self.exponent += self.bound;
            self.bound = 0;
        }
        Ok(())
    }
}
