//! The largest magnitude in a tensor, as a power of two.
use super::{Complex, threads};
use pulp::{Arch, Simd, WithSimd};

/// How large the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Magnitude {
    /// All elements are 0.
    Zero,
    /// The largest real or imaginary part is below 2 to this power, and at least half of it.
    Below(i32),
    /// There is an infinity or a NaN.
    NotFinite,
}
impl Magnitude {
    /// The power of two below which all parts are; 0 where there is nothing to keep in range, or nothing that could be kept.
    pub fn bound(self) -> i32 {
        match self {
            Magnitude::Below(bound) => bound,
            Magnitude::Zero | Magnitude::NotFinite => 0,
        }
    }
}

/// Finds the magnitude of `elements`.
pub fn magnitude(elements: &[Complex]) -> Magnitude {
    const SHARE: usize = 1 << 16;
    let parts = elements.chunks(SHARE).len();
    let bits = if parts >= 4 && threads() > 1 {
        threads::fold(parts, |i| largest_bits(&elements[i * SHARE..elements.len().min((i + 1) * SHARE)]))
    } else {
        largest_bits(elements)
    };
    let value = f32::from_bits(bits);
    match bits {
        0 => Magnitude::Zero,
        _ if !value.is_finite() => Magnitude::NotFinite,
        // A subnormal has its leading one where its bit length says; 2^-149 is the lowest bit.
        _ if value.is_subnormal() => Magnitude::Below(-149 + 32 - bits.leading_zeros() as i32),
        _ => Magnitude::Below((bits >> 23) as i32 - 126),
    }
}

/// The largest bit pattern of any part without its sign: the order of floats, with infinity and NaN on top.
fn largest_bits(elements: &[Complex]) -> u32 {
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
        // One double holds it. Beyond these bounds nothing is left of any float, or all are infinite.
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
/// 2 to the power `exponent` as a product of two floats: it may be beyond a float's range where the elements it brings back are, too.
pub(super) fn powers(exponent: i32) -> (f32, f32) {
    let half = exponent / 2;
    (power(half), power(exponent - half))
}
/// 2 to a power between -126 and 127.
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
