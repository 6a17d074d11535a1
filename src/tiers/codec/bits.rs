//! Bit packing of groups of 512 words: of every word the lowest `width` bits are kept.
//!
//! Word `i` belongs to lane `i % 16`, and each lane fills its own column of 32-bit words. So one shift and one or
//! serve sixteen words at a time (the vertical layout of Lemire and Boytsov, "Decoding billions of integers per
//! second through vectorization", 2015). The compiler turns the lanes into vector registers of the width that the
//! caller's instruction set has; all functions are `#[inline(always)]` for that.

/// Words packed side by side.
pub const LANES: usize = 16;
/// Words of a full lane.
pub const ROWS: usize = 32;
/// Words of a full group.
pub const GROUP: usize = LANES * ROWS;
/// A full group of words.
pub type Group = [[u32; LANES]; ROWS];
/// Bytes of one packed row.
const ROW_BYTES: usize = LANES * 4;

/// Bytes that `rows` rows of `width` bits take.
#[inline(always)]
pub fn packed_size(rows: usize, width: u32) -> usize {
    (rows * width as usize).div_ceil(32) * ROW_BYTES
}

/// Bits needed to hold `value`.
#[inline(always)]
pub fn bits(value: u32) -> u32 {
    32 - value.leading_zeros()
}

#[inline(always)]
fn store(out: &mut [u8], word: usize, lanes: &[u32; LANES]) {
    let out = &mut out[word * ROW_BYTES..][..ROW_BYTES];
    for l in 0..LANES {
        out[l * 4..l * 4 + 4].copy_from_slice(&lanes[l].to_le_bytes());
    }
}
#[inline(always)]
fn load(packed: &[u8], word: usize) -> [u32; LANES] {
    let bytes = &packed[word * ROW_BYTES..][..ROW_BYTES];
    core::array::from_fn(|l| {
        u32::from_le_bytes([bytes[l * 4], bytes[l * 4 + 1], bytes[l * 4 + 2], bytes[l * 4 + 3]])
    })
}

#[inline(always)]
fn pack_width<const WIDTH: usize>((values, least): (&Group, u32), rows: usize, out: &mut [u8]) {
    let mut word = 0;
    let mut lanes = [0u32; LANES];
    for (row, value) in values.iter().enumerate().take(rows) {
        let shift = row * WIDTH % 32;
        let value: [u32; LANES] = core::array::from_fn(
            #[inline(always)]
            |l| value[l].wrapping_sub(least),
        );
        for l in 0..LANES {
            lanes[l] |= value[l] << shift;
        }
        if shift + WIDTH >= 32 {
            store(out, word, &lanes);
            word += 1;
            let left = shift + WIDTH - 32;
            for l in 0..LANES {
                lanes[l] = if left > 0 { value[l] >> (WIDTH - left) } else { 0 };
            }
        }
    }
    if !(rows * WIDTH).is_multiple_of(32) {
        store(out, word, &lanes);
    }
}
#[inline(always)]
fn unpack_width<const WIDTH: usize>(packed: &[u8], rows: usize, values: &mut Group) {
    let mask = if WIDTH == 32 { u32::MAX } else { (1 << WIDTH) - 1 };
    for (row, value) in values.iter_mut().enumerate().take(rows) {
        let (word, shift) = (row * WIDTH / 32, row * WIDTH % 32);
        let low = load(packed, word);
        for l in 0..LANES {
            value[l] = low[l] >> shift & mask;
        }
        if shift + WIDTH > 32 {
            let high = load(packed, word + 1);
            for l in 0..LANES {
                value[l] |= high[l] << (32 - shift) & mask;
            }
        }
    }
}

macro_rules! by_width {
    ($width:expr, $function:ident, $zero:expr, $values:expr, $rows:expr, $bytes:expr) => {
        by_width!(@ $width, $function, $zero, $values, $rows, $bytes;
            1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32)
    };
    (@ $width:expr, $function:ident, $zero:expr, $first:expr, $rows:expr, $last:expr; $($n:literal)*) => {
        match $width {
            0 => $zero,
            $($n => if $rows == ROWS { $function::<$n>($first, ROWS, $last) } else { $function::<$n>($first, $rows, $last) },)*
            _ => unreachable!("a word has 32 bits"),
        }
    };
}

/// Subtracts `least` from each value, and packs the first `rows` rows of the results into the front of `out`. All of
/// these must fit in `width` bits.
#[inline(always)]
pub fn pack(values: &Group, least: u32, rows: usize, width: u32, out: &mut [u8]) {
    let out = &mut out[..packed_size(rows, width)];
    by_width!(width, pack_width, (), (values, least), rows, out)
}

/// Unpacks what [`pack`] has packed, without adding `least` again. `packed` holds at least `packed_size(rows, width)`
/// bytes, and `width` is at most 32.
#[inline(always)]
pub fn unpack(packed: &[u8], rows: usize, width: u32, values: &mut Group) {
    let packed = &packed[..packed_size(rows, width)];
    by_width!(width, unpack_width, *values = [[0; LANES]; ROWS], packed, rows, values)
}

/// Unpacks a full group. Each row, in order, is replaced by what `through` returns for it.
#[inline(always)]
pub fn unpack_through(
    packed: &[u8],
    width: u32,
    values: &mut Group,
    mut through: impl FnMut([u32; LANES]) -> [u32; LANES],
) {
    let packed = &packed[..packed_size(ROWS, width)];
    let mask = if width == 32 { u32::MAX } else { (1 << width) - 1 };
    for (row, value) in values.iter_mut().enumerate() {
        let mut numbers = [0; LANES];
        if width > 0 {
            let (word, shift) = (row * width as usize / 32, (row * width as usize % 32) as u32);
            let low = load(packed, word);
            for l in 0..LANES {
                numbers[l] = low[l] >> shift;
            }
            if shift + width > 32 {
                let high = load(packed, word + 1);
                for l in 0..LANES {
                    numbers[l] |= high[l] << (32 - shift);
                }
            }
            for number in &mut numbers {
                *number &= mask;
            }
        }
        *value = through(numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    proptest! {
        #[test]
        fn unpacking_gives_back_what_was_packed(seed: u64, least: u32, rows in 0..=ROWS, width in 0u32..=32) {
            let mut state = seed;
            let mut values: Group = [[0; LANES]; ROWS];
            for value in values.as_flattened_mut() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *value = if width == 0 { 0 } else { (state >> 32) as u32 >> (32 - width) };
            }
            let mut out = vec![0xAA; GROUP * 4 + 8];
            let raised = values.map(|row| row.map(|value| value.wrapping_add(least)));
            pack(&raised, least, rows, width, &mut out);
            let size = packed_size(rows, width);
            prop_assert!(out[size..].iter().all(|b| *b == 0xAA), "wrote behind the packed bytes");
            let mut back: Group = [[1; LANES]; ROWS];
            unpack(&out, rows, width, &mut back);
            prop_assert_eq!(&back[..rows], &values[..rows]);
        }
    }
}
