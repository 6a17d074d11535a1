//! Lossless block-float coding: what 512 float32 have in common is stored once.
//!
//! The values of a group have three things in common:
//! - a narrow range of exponents, stored as the distance from the greatest one;
//! - zero bits at the end of their mantissas, of which there are many if the data were bf16 once;
//! - zeros among the values, which go into a mask.
//!
//! What is left is packed. Every bit pattern comes back, whatever it means. A group that gains nothing is stored as
//! it is.
use super::bits::{self, GROUP, Group, LANES, ROWS};
use super::isa::{self, Isa};
use super::{AHEAD, Damaged, read, write};

/// Bytes before each group's packed values: mode, width, trailing zeros, greatest exponent, values present.
const HEADER: usize = 6;
const GROUP_BYTES: usize = GROUP * 4;
const MASK_BYTES: usize = GROUP / 8;
const MANTISSA: u32 = 23;
const MANTISSA_MASK: u32 = (1 << MANTISSA) - 1;

/// Mode: all values are packed.
const DENSE: u8 = 0;
/// Mode: a mask tells which values are packed; the others are +0.
const SPARSE: u8 = 1;
/// Mode: a second mask tells which of the others are -0.
const SPARSE_SIGNED: u8 = 2;
/// Mode: the values are stored as they are.
const EXACT: u8 = 3;

/// The most bytes that a block of `size` bytes can become.
pub fn bound(size: usize) -> usize {
    size / GROUP_BYTES * (HEADER + GROUP_BYTES)
}

/// What the values of a group have in common.
#[derive(Clone, Copy)]
struct Common {
    /// All bits that are set in any value.
    union: u32,
    /// Least and greatest exponent of the values that are not zero.
    least: u32,
    greatest: u32,
    /// Values that are not zero.
    present: usize,
    /// Values that are +0.
    positive_zeros: usize,
}
impl Common {
    #[inline(always)]
    fn of(source: &[u8; GROUP_BYTES]) -> Common {
        let (mut union, mut least, mut greatest, mut zeros, mut positive) = (0, u32::MAX, 0, 0u32, 0u32);
        for &bytes in source.as_chunks::<4>().0 {
            let w = u32::from_le_bytes(bytes);
            union |= w;
            // A zero neither lowers the least exponent nor raises the greatest.
            let zero = w << 1 == 0;
            let exponent = w >> MANTISSA & 0xFF;
            least = least.min(if zero { u32::MAX } else { exponent });
            greatest = greatest.max(exponent);
            zeros += u32::from(zero);
            positive += u32::from(w == 0);
        }
        let present = GROUP - zeros as usize;
        Common { union, least, greatest, present, positive_zeros: positive as usize }
    }
    #[inline(always)]
    fn trailing(&self) -> u32 {
        self.union.trailing_zeros().min(MANTISSA)
    }
    /// Bits of a packed value. `with_zeros`: whether zeros are packed too.
    #[inline(always)]
    fn width(&self, with_zeros: bool) -> u32 {
        let least = if with_zeros && self.present < GROUP { 0 } else { self.least.min(self.greatest) };
        bits::bits(self.greatest - least) + MANTISSA + 1 - self.trailing()
    }
    /// Mode, rows to pack, width, and bytes in all.
    #[inline(always)]
    fn plan(&self) -> (u8, usize, u32, usize) {
        let dense =
            (DENSE, ROWS, self.width(true), HEADER + bits::packed_size(ROWS, self.width(true).min(32)));
        let mut best = (EXACT, ROWS, 32, HEADER + GROUP_BYTES);
        if dense.2 < 32 {
            best = dense;
        }
        if self.present < GROUP && self.width(false) <= 32 {
            let rows = self.present.div_ceil(LANES);
            let signed = GROUP - self.present != self.positive_zeros;
            let masks = if signed { 2 * MASK_BYTES } else { MASK_BYTES };
            let size = HEADER + masks + bits::packed_size(rows, self.width(false));
            if size < best.3 {
                best = (if signed { SPARSE_SIGNED } else { SPARSE }, rows, self.width(false), size);
            }
        }
        best
    }
}

/// What is packed of a float's bits `w`: the exponent's distance from the greatest, the mantissa, the sign.
#[inline(always)]
fn folded(common: &Common, trailing: u32, w: u32) -> u32 {
    let (exponent, mantissa, sign) = (w >> MANTISSA & 0xFF, w & MANTISSA_MASK, w >> 31);
    (common.greatest - exponent) << (MANTISSA + 1 - trailing) | mantissa >> trailing << 1 | sign
}

#[inline(always)]
fn encode_group(source: &[u8; GROUP_BYTES], values: &mut Group, out: &mut [u8]) -> usize {
    let words = source.as_chunks::<4>().0;
    let common = Common::of(source);
    let (mode, rows, width, size) = common.plan();
    let trailing = common.trailing();
    write(out, 0, [mode, width as u8, trailing as u8, common.greatest as u8]);
    write(out, 4, (common.present as u16).to_le_bytes());
    if mode == EXACT {
        out[HEADER..HEADER + GROUP_BYTES].copy_from_slice(source);
        return size;
    }
    let mut at = HEADER;
    if mode == DENSE {
        for (value, bytes) in values.as_flattened_mut().iter_mut().zip(words) {
            *value = folded(&common, trailing, u32::from_le_bytes(*bytes));
        }
    } else {
        let mut next = 0;
        let mut negative = [0u8; MASK_BYTES];
        for (byte, eight) in words.as_chunks::<8>().0.iter().enumerate() {
            let mut mask = 0;
            for (bit, &bytes) in eight.iter().enumerate() {
                let w = u32::from_le_bytes(bytes);
                let present = w << 1 != 0;
                mask |= u8::from(present) << bit;
                negative[byte] |= u8::from(w == 1 << 31) << bit;
                // Written in any case, and overwritten unless present: cheaper than a branch.
                values.as_flattened_mut()[next] = w;
                next += usize::from(present);
            }
            out[at + byte] = mask;
        }
        if next < GROUP {
            // Fill up with a value that fits in the width.
            values.as_flattened_mut()[next..].fill(common.greatest << MANTISSA);
        }
        at += MASK_BYTES;
        if mode == SPARSE_SIGNED {
            write(out, at, negative);
            at += MASK_BYTES;
        }
        for value in values.as_flattened_mut() {
            *value = folded(&common, trailing, *value);
        }
    }
    bits::pack(values, 0, rows, width, &mut out[at..]);
    size
}

/// Which group is looked at in each run of four, in turn. The distances vary, so that they do not coincide with the
/// rows of a matrix.
const SAMPLES: [usize; 8] = [0, 1, 3, 2, 2, 3, 1, 0];
/// About how many bytes [`encode`] will make of the block. A quarter of the groups is looked at.
pub fn estimate(isa: Isa, block: &[u8]) -> usize {
    let groups = block.as_chunks::<GROUP_BYTES>().0;
    isa.run(
        #[inline(always)]
        || {
            let (mut size, mut seen) = (0, 0);
            for (four, sample) in groups.chunks(4).zip(SAMPLES.into_iter().cycle()) {
                let group = &four[sample.min(four.len() - 1)];
                size += Common::of(group).plan().3;
                seen += GROUP_BYTES;
            }
            size * block.len() / seen.max(1)
        },
    )
}

/// Encodes a block (a multiple of 2 KiB) into `out`, which has room for [`bound`] bytes. Returns the bytes used.
pub fn encode(isa: Isa, block: &[u8], out: &mut [u8]) -> usize {
    let mut used = 0;
    let mut values: Group = [[0; LANES]; ROWS]; // once a block, as in bounded.rs
    let groups = block.as_chunks::<GROUP_BYTES>().0;
    for (index, group) in groups.iter().enumerate() {
        if let Some(soon) = groups.get(index + AHEAD) {
            isa::prefetch(soon);
        }
        let out = &mut out[used..];
        used += isa.run(
            #[inline(always)]
            || encode_group(group, &mut values, out),
        );
    }
    used
}

#[inline(always)]
fn decode_group(
    encoded: &[u8],
    values: &mut Group,
    target: &mut [u8; GROUP_BYTES],
) -> Result<usize, Damaged> {
    let [mode, width, trailing, greatest]: [u8; 4] = read(encoded, 0)?;
    let present = usize::from(u16::from_le_bytes(read(encoded, 4)?));
    if mode == EXACT {
        target.copy_from_slice(encoded.get(HEADER..HEADER + GROUP_BYTES).ok_or(Damaged)?);
        return Ok(HEADER + GROUP_BYTES);
    }
    let (width, trailing, greatest) = (u32::from(width), u32::from(trailing), u32::from(greatest));
    if width > 32 || trailing > MANTISSA || present > GROUP || mode > EXACT {
        return Err(Damaged);
    }
    let masks = usize::from(mode);
    let rows = if mode == DENSE { ROWS } else { present.div_ceil(LANES) };
    let at = HEADER + masks * MASK_BYTES;
    let size = bits::packed_size(rows, width);
    let packed = encoded.get(at..at + size).ok_or(Damaged)?;
    bits::unpack(packed, rows, width, values);
    let (below, above) = (MANTISSA - trailing, MANTISSA + 1 - trailing);
    let unfolded = |v: u32| {
        let exponent = greatest.wrapping_sub(v >> above) & 0xFF;
        exponent << MANTISSA | (v >> 1 & ((1 << below) - 1)) << trailing | v << 31
    };
    let words = target.as_chunks_mut::<4>().0;
    if mode == DENSE {
        for (bytes, value) in words.iter_mut().zip(values.as_flattened()) {
            *bytes = unfolded(*value).to_le_bytes();
        }
        return Ok(at + size);
    }
    for value in values.as_flattened_mut() {
        *value = unfolded(*value);
    }
    let flat = values.as_flattened();
    let mask: [u8; MASK_BYTES] = read(encoded, HEADER)?;
    let negative: [u8; MASK_BYTES] =
        if mode == SPARSE_SIGNED { read(encoded, HEADER + MASK_BYTES)? } else { [0; _] };
    if mask.iter().map(|b| b.count_ones() as usize).sum::<usize>() != present {
        return Err(Damaged);
    }
    let mut next = 0;
    for (byte, eight) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        if mask[byte] == 0 && negative[byte] == 0 {
            *eight = [[0; 4]; 8];
            continue;
        }
        for (bit, bytes) in eight.iter_mut().enumerate() {
            let there = mask[byte] >> bit & 1 != 0;
            let zero = u32::from(negative[byte] >> bit & 1) << 31;
            let word = if there { flat[next.min(GROUP - 1)] } else { zero };
            *bytes = word.to_le_bytes();
            next += usize::from(there);
        }
    }
    Ok(at + size)
}

/// Decodes what [`encode`] made into a block of the same size.
pub fn decode(isa: Isa, mut encoded: &[u8], block: &mut [u8]) -> Result<(), Damaged> {
    let mut values: Group = [[0; LANES]; ROWS];
    for group in block.as_chunks_mut::<GROUP_BYTES>().0 {
        let used = isa.run(
            #[inline(always)]
            || decode_group(encoded, &mut values, group),
        )?;
        encoded = &encoded[used..];
    }
    if encoded.is_empty() { Ok(()) } else { Err(Damaged) }
}
