//! The largest magnitude in a tensor, as a power of two.
use super::{Complex, threads};
use pulp::{Arch, Simd, WithSimd};

/// How large the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Magnitude {
    /// The largest finite real or imaginary part is below 2 to this power, and at least half of that. `None` if all are 0.
    pub below: Option<i32>,
    /// There is no infinity and no NaN.
    pub is_finite: bool,
}
impl Magnitude {
    /// The magnitude of no elements, or of zeros.
    pub const ZERO: Magnitude = Magnitude { below: None, is_finite: true };
    /// The power of two below which all finite parts are; 0 if all parts are 0, since there is nothing to keep in range.
    pub fn bound(self) -> i32 {
        self.below.unwrap_or(0)
    }
    /// The magnitude of these elements and others together.
    pub fn and(self, other: Magnitude) -> Magnitude {
        let is_finite = self.is_finite && other.is_finite;
        Magnitude { below: self.below.max(other.below), is_finite }
    }
}

/// Whether a finite real or imaginary part is at least 2 to the power `power`. Looks little further than the first.
pub fn reaches(elements: &[Complex], power: i32) -> bool {
    const BLOCK: usize = 1024;
    elements.chunks(BLOCK).any(|block| magnitude(block).below.is_some_and(|bound| bound > power))
}

/// Finds the magnitude of `elements`.
pub fn magnitude(elements: &[Complex]) -> Magnitude {
    let mut bits = largest_bits(elements, largest_of_all);
    let is_finite = f32::from_bits(bits).is_finite();
    if !is_finite {
        bits = largest_bits(elements, largest_of_finite);
    }
    let below = match bits {
        0 => None,
        // The bit length of a subnormal says where its leading one is. Its lowest bit is 2^-149.
        _ if f32::from_bits(bits).is_subnormal() => Some(-149 + 32 - bits.leading_zeros() as i32),
        _ => Some((bits >> 23) as i32 - 126),
    };
    Magnitude { below, is_finite }
}
/// The largest bit pattern that `largest` finds, with several threads for large tensors.
fn largest_bits(elements: &[Complex], largest: fn(&[Complex]) -> u32) -> u32 {
    const SHARE: usize = 1 << 16;
    let parts = elements.chunks(SHARE).len();
    if parts >= 4 && threads() > 1 {
        threads::fold(parts, |i| largest(&elements[i * SHARE..elements.len().min((i + 1) * SHARE)]))
    } else {
        largest(elements)
    }
}
/// The largest bit pattern of any part that is finite, without its sign.
fn largest_of_finite(elements: &[Complex]) -> u32 {
    let bits = |part: f32| if part.is_finite() { part.abs().to_bits() } else { 0 };
    elements.iter().map(|z| bits(z.re).max(bits(z.im))).max().unwrap_or(0)
}

/// The largest bit pattern of any part without its sign. Bit patterns have the order of the floats, with infinity and NaN on
/// top.
fn largest_of_all(elements: &[Complex]) -> u32 {
    struct Largest<'a>(&'a [Complex]);
    impl WithSimd for Largest<'_> {
        type Output = u32;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> u32 {
            const SIGN: u32 = 1 << 31;
            self.0.iter().fold(0, |most, z| most.max(z.re.to_bits() & !SIGN).max(z.im.to_bits() & !SIGN))
        }
    }
    Arch::new().dispatch(Largest(elements))
}

/// Multiplies every element by 2 to the power `exponent`.
pub fn scale(elements: &mut [Complex], exponent: i32) {
    if !TWO_POWERS.contains(&exponent) {
        // A double holds the power. It is clamped to +-300, beyond which all floats become 0 or infinite anyway.
        let power = 2f64.powi(exponent.clamp(-300, 300));
        let by_power = |part: f32| (f64::from(part) * power) as f32;
        elements.iter_mut().for_each(|z| *z = Complex::new(by_power(z.re), by_power(z.im)));
        return;
    }
    let (first, second) = powers(exponent);
    for z in elements {
        *z = Complex::new(z.re * first * second, z.im * first * second);
    }
}

/// The exponents that [`powers`] can take.
const TWO_POWERS: core::ops::RangeInclusive<i32> = -252..=254;
/// 2 to the power `exponent` as a product of two floats. One float might not do: where it brings elements back from one end of
/// the range to the other, the power is beyond the range.
pub(super) fn powers(exponent: i32) -> (f32, f32) {
    let half = exponent / 2;
    (power(half), power(exponent - half))
}
/// 2 to a power between -126 and 127.
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
