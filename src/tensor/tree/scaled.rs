//! Tensors with an exponent of their own: the value is the elements times 2 to the power `exponent`.
//!
//! Every tensor carries a bound on the largest real or imaginary part of its elements. The bound of a product follows from
//! those of its operands. So no product overflows, but its elements may be far smaller than their bound: large elements of
//! one operand may meet small ones of the other. Therefore each product is looked at, as far as the first element that is
//! large enough. If there is none, it is made again from operands that were multiplied by powers of two.
use crate::error::Result;
use crate::tensor::kernel::{Product, volume_log2};
use crate::tensor::tiled::{self, Source, Target};

/// What is known of a tensor's elements.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The value is the elements times 2 to this power.
    pub exponent: i32,
    size: Size,
}

/// How large the finite parts of a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// They were never measured.
    Unknown,
    /// All are 0.
    Zero,
    /// They are below 2 to this power.
    Below(i32),
}

/// A product whose bound is no higher cannot overflow, not even on the way.
const HIGHEST: i32 = 120;
/// A product with an element of at least 2 to this power has lost nothing that counts to underflow.
const LOWEST: i32 = -90;
/// Tensors whose largest elements are outside this range are brought near 1.
const COMFORTABLE: core::ops::RangeInclusive<i32> = -40..=40;

impl Scale {
    /// The scale of a tensor that is too large to be measured without need. A product with such an operand is made as if
    /// there were no danger. It is made again with measured scales if it is not [`Scale::is_right`].
    pub fn unknown() -> Scale {
        Scale { exponent: 0, size: Size::Unknown }
    }
    /// Whether the elements were never measured.
    pub fn is_unknown(&self) -> bool {
        self.size == Size::Unknown
    }
    /// Measures the elements of a tensor.
    pub fn measure(tensor: Source) -> Result<Scale> {
        Ok(Scale { exponent: 0, size: tiled::magnitude(tensor)?.below.map_or(Size::Zero, Size::Below) })
    }
    /// A bound for products; 0 if there is none.
    fn bound(&self) -> i32 {
        if let Size::Below(bound) = self.size { bound } else { 0 }
    }
    /// The scale of a product. If it is to be `raised`, sets the powers of two by which its operands are multiplied first.
    /// These bring it as high up as can be without overflow. It has to be raised if it might overflow, or must underflow.
    pub fn of_product(left: Scale, right: Scale, product: &mut Product, raised: &mut bool) -> Scale {
        // Each part of a complex product is a sum of two real products: one power of two more.
        let growth = volume_log2(&product.sums) + 1;
        let (mut bound, mut exponent) =
            (left.bound() + right.bound() + growth, left.exponent + right.exponent);
        *raised |= bound <= LOWEST || bound > HIGHEST;
        if *raised {
            let raise = |operand: Scale, to: i32| if operand.is_unknown() { 0 } else { to - operand.bound() };
            product.left_exponent = raise(left, HIGHEST / 2);
            product.right_exponent = raise(right, HIGHEST / 2 - growth);
            exponent -= product.left_exponent + product.right_exponent;
            bound = HIGHEST;
        }
        let size = match (left.size, right.size) {
            (Size::Zero, _) | (_, Size::Zero) => Size::Zero,
            (Size::Unknown, _) | (_, Size::Unknown) => Size::Unknown,
            (Size::Below(_), Size::Below(_)) => Size::Below(bound),
        };
        Scale { exponent, size }
    }
    /// Whether the elements of a product, which has this scale, show that nothing was lost.
    pub fn is_right(&self, elements: Source) -> Result<bool> {
        match self.size {
            Size::Zero => Ok(true),
            Size::Below(_) => tiled::reaches(elements, LOWEST),
            Size::Unknown => {
                let magnitude = tiled::magnitude(elements)?;
                Ok(magnitude.is_finite && magnitude.below.is_some_and(|bound| bound > LOWEST))
            }
        }
    }
    /// Brings the elements of a product near 1 if they are far from it.
    ///
    /// # Safety
    /// All elements have been written.
    pub unsafe fn refresh(&mut self, tensor: &mut Target) -> Result<()> {
        // SAFETY: by the caller's promise.
        let written = unsafe { tensor.written() };
        let is_near = match self.size {
            Size::Zero => true,
            Size::Below(bound) if bound <= *COMFORTABLE.end() => {
                tiled::reaches(written, *COMFORTABLE.start())?
            }
            _ => false,
        };
        if is_near {
            return Ok(());
        }
        self.size = Scale::measure(written)?.size;
        if let Size::Below(bound) = self.size
            && !COMFORTABLE.contains(&bound)
        {
            // SAFETY: by the caller's promise.
            unsafe { tiled::scale(tensor, -bound) }?;
            self.exponent += bound;
            self.size = Size::Below(0);
        }
        Ok(())
    }
}
