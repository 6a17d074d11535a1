//! Error-bounded coding of float32: values on a grid, differences packed into as few bits as they need.
//!
//! The grid's step is the largest power of two not above twice the tolerance, so a value already on the grid is
//! found again exactly: coding twice changes nothing more, and no error adds up. A group of 512 values is coded as
//! grid numbers relative to their minimum, or to the value one or two before (two suits interleaved complex
//! numbers), or to the line through the two before (smooth data), whichever takes the fewest bits. A group in which the checked error of any value exceeds the tolerance
//! (it is not a number, infinite, or beyond 2^24 steps) is kept exactly as it is.
use super::bits::{self, GROUP, Group, LANES, ROWS};
use super::isa::{self, Isa};
use super::lanes;
use super::{AHEAD, Damaged, read, write};

/// Bytes before each group's packed values: mode, width, two spare, base, least difference.
const HEADER: usize = 12;
const GROUP_BYTES: usize = GROUP * 4;
/// Grid numbers stay below this, so that number times step is exact.
const MOST: f32 = (1 << 24) as f32;

/// The grid that belongs to a tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    step: f32,
    inverse: f32,
    bound: f32,
}
impl Grid {
    /// The grid for an absolute error of at most `tolerance`; None where only exact coding will do (tolerance zero,
    /// or so small that steps leave the range in which float32 computes exactly).
    pub fn new(tolerance: f64) -> Option<Grid> {
        if !tolerance.is_finite() || tolerance < 2f64.powi(-100) {
            return None;
        }
        // 2^99 * 2^24 is still finite, and the inverse of the step still normal.
        let tolerance = tolerance.min(2f64.powi(98));
        let mut bound = tolerance as f32;
        if f64::from(bound) > tolerance {
            bound = bound.next_down();
        }
        let step = f32::from_bits((2.0 * bound).to_bits() & 0x7F80_0000); // clears the mantissa: a power of two
        Some(Grid { step, inverse: 1.0 / step, bound })
    }
}

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Mode {
    Offset,
    Difference,
    DifferenceOfTwo,
    Exact,
    SecondDifference,
}

/// What the groups of a block are worked on in: made once a block, as clearing it takes a fifth of the time of a group.
struct Scratch {
    numbers: [i32; GROUP],
    /// Residuals, or the bits of values, in their order.
    ordered: [u32; GROUP],
    /// What is packed.
    lanes: Group,
}
impl Default for Scratch {
    fn default() -> Self {
        Scratch { numbers: [0; GROUP], ordered: [0; GROUP], lanes: [[0; LANES]; ROWS] }
    }
}

/// The largest a block of `size` bytes can become.
pub fn bound(size: usize) -> usize {
    size / GROUP_BYTES * (HEADER + 4 + GROUP_BYTES)
}

/// Nearest grid numbers of one group, and the least and greatest; None if one of them would break the bound.
#[inline(always)]
fn quantise(grid: Grid, source: &[u8; GROUP_BYTES], numbers: &mut [i32; GROUP]) -> Option<(i32, i32)> {
    const MAGIC: f32 = (1 << 23) as f32;
    let mut bad = 0;
    let (mut least, mut most) = (i32::MAX, i32::MIN);
    let words = source.as_chunks::<4>().0;
    for i in 0..GROUP {
        let x = f32::from_le_bytes(words[i]);
        let y = x * grid.inverse;
        let y = if y.abs() < MOST { y } else { 0.0 }; // also not-a-number
        // Adding and taking away 2^23 rounds to a whole number; beyond it a float is one already.
        let size = y.abs();
        let whole = if size < MAGIC { (size + MAGIC) - MAGIC } else { size };
        let rounded = whole.copysign(y);
        // SAFETY: a whole number of at most 2^24.
        numbers[i] = unsafe { rounded.to_int_unchecked::<i32>() };
        least = least.min(numbers[i]);
        most = most.max(numbers[i]);
        // Both are within one step of each other, so the difference is exact (Sterbenz); not-a-number fails.
        bad |= u32::from((rounded * grid.step - x).abs() <= grid.bound) ^ 1;
    }
    (bad == 0).then_some((least, most))
}

/// What a number is coded relative to.
trait Prediction {
    const MODE: Mode;
    /// Numbers at the front that have none.
    const FIRST: usize;
    fn residual(numbers: &[i32; GROUP], i: usize) -> i32;
}
struct Previous;
struct SecondLast;
struct Line;
impl Prediction for Previous {
    const MODE: Mode = Mode::Difference;
    const FIRST: usize = 1;
    #[inline(always)]
    fn residual(numbers: &[i32; GROUP], i: usize) -> i32 {
        numbers[i] - numbers[i - 1]
    }
}
impl Prediction for SecondLast {
    const MODE: Mode = Mode::DifferenceOfTwo;
    const FIRST: usize = 2;
    #[inline(always)]
    fn residual(numbers: &[i32; GROUP], i: usize) -> i32 {
        numbers[i] - numbers[i - 2]
    }
}
impl Prediction for Line {
    const MODE: Mode = Mode::SecondDifference;
    const FIRST: usize = 2;
    #[inline(always)]
    fn residual(numbers: &[i32; GROUP], i: usize) -> i32 {
        numbers[i] - 2 * numbers[i - 1] + numbers[i - 2]
    }
}

/// How a group is packed.
#[derive(Clone, Copy)]
struct Plan {
    mode: Mode,
    width: u32,
    least: i32,
}
/// Numbers looked at to see whether a prediction can pay.
const SAMPLE: usize = 64;

#[inline(always)]
fn range_of<P: Prediction>(numbers: &[i32; GROUP], end: usize) -> (i32, u32) {
    let (mut least, mut most) = (i32::MAX, i32::MIN);
    for i in P::FIRST..end {
        let residual = P::residual(numbers, i);
        least = least.min(residual);
        most = most.max(residual);
    }
    (least, bits::bits((most - least) as u32))
}
/// The better of `plan` and a prediction. Undoing predictions costs time: they have to save a bit.
#[inline(always)]
fn improve<P: Prediction>(plan: Plan, numbers: &[i32; GROUP]) -> Plan {
    if range_of::<P>(numbers, SAMPLE).1 >= plan.width {
        return plan;
    }
    let (least, width) = range_of::<P>(numbers, GROUP);
    if width < plan.width { Plan { mode: P::MODE, width, least } } else { plan }
}
#[inline(always)]
fn predict<P: Prediction>(isa: Isa, scratch: &mut Scratch, least: i32) {
    let Scratch { numbers, ordered, lanes } = scratch;
    for (i, residual) in ordered.iter_mut().enumerate().skip(P::FIRST) {
        *residual = (P::residual(numbers, i) - least) as u32;
    }
    ordered[..P::FIRST].fill(0);
    lanes::deal(isa, ordered, lanes);
}

#[inline(always)]
fn encode_group(
    isa: Isa,
    grid: Grid,
    source: &[u8; GROUP_BYTES],
    scratch: &mut Scratch,
    out: &mut [u8],
) -> usize {
    let numbers = &mut scratch.numbers;
    let Some((least, most)) = quantise(grid, source, numbers) else {
        write(out, 0, [Mode::Exact as u8, 32, 0, 0]);
        out[HEADER..HEADER + GROUP_BYTES].copy_from_slice(source);
        return HEADER + GROUP_BYTES;
    };
    let offset = Plan { mode: Mode::Offset, width: bits::bits((most - least) as u32), least };
    let mut plan = improve::<SecondLast>(improve::<Previous>(offset, numbers), numbers);
    if plan.mode == Mode::Difference {
        plan = improve::<Line>(plan, numbers);
    }
    let Plan { mode, width, least } = plan;
    let (base, minimum) = if mode == Mode::Offset { (least, 0) } else { (scratch.numbers[0], least) };
    match mode {
        Mode::Difference => predict::<Previous>(isa, scratch, least),
        Mode::DifferenceOfTwo => predict::<SecondLast>(isa, scratch, least),
        Mode::SecondDifference => predict::<Line>(isa, scratch, least),
        Mode::Offset | Mode::Exact => {
            for (value, number) in scratch.lanes.as_flattened_mut().iter_mut().zip(&scratch.numbers) {
                *value = (number - least) as u32;
            }
        }
    }
    write(out, 0, [mode as u8, width as u8, 0, 0]);
    write(out, 4, base.to_le_bytes());
    write(out, 8, minimum.to_le_bytes());
    let mut size = HEADER;
    if matches!(mode, Mode::DifferenceOfTwo | Mode::SecondDifference) {
        // They have two starting values.
        write(out, size, scratch.numbers[1].to_le_bytes());
        size += 4;
    }
    bits::pack(&scratch.lanes, ROWS, width, &mut out[size..]);
    size + bits::packed_size(ROWS, width)
}

/// Encodes a block (a multiple of 2 KiB) into `out`, which holds [`bound`] bytes; gives the bytes used.
pub fn encode(isa: Isa, grid: Grid, block: &[u8], out: &mut [u8]) -> usize {
    let mut used = 0;
    let mut scratch = Scratch::default();
    let groups = block.as_chunks::<GROUP_BYTES>().0;
    for (index, group) in groups.iter().enumerate() {
        if let Some(soon) = groups.get(index + AHEAD) {
            isa::prefetch(soon);
        }
        let out = &mut out[used..];
        used += isa.run(
            #[inline(always)]
            || encode_group(isa, grid, group, &mut scratch, out),
        );
    }
    used
}

/// One number a lane.
type Row = [u32; LANES];
#[inline(always)]
fn add(a: &Row, b: &Row) -> Row {
    let mut sum = *a;
    for l in 0..LANES {
        sum[l] = sum[l].wrapping_add(b[l]);
    }
    sum
}
/// For each lane the sum of all lanes before it, from `start` on.
#[inline(always)]
fn sums_before(totals: &Row, start: u32) -> Row {
    let mut before = [start; LANES];
    for l in 1..LANES {
        before[l] = before[l - 1].wrapping_add(totals[l - 1]);
    }
    before
}
/// Running sums down the rows, or, with `BACK` 2, down every other; `more` is added to each number first.
#[inline(always)]
fn sums<const BACK: usize>(lanes: &mut Group, more: &Row) {
    let mut sums = [[0; LANES]; BACK];
    for rows in lanes.as_chunks_mut::<BACK>().0 {
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum = add(sum, &add(row, more));
            *row = *sum;
        }
    }
}
/// What the last `BACK` rows, which are sums of their lanes, add to the lanes after them, from `start` on.
#[inline(always)]
fn before<const BACK: usize>(lanes: &Group, start: [u32; BACK]) -> [Row; BACK] {
    core::array::from_fn(
        #[inline(always)]
        |i| sums_before(&lanes[ROWS - BACK + i], start[i]),
    )
}
/// From grid numbers, less the `offsets` of their rows, to the bits of values.
#[inline(always)]
fn values<const BACK: usize>(grid: Grid, lanes: &mut Group, offsets: &[Row; BACK]) {
    for rows in lanes.as_chunks_mut::<BACK>().0 {
        for (row, offset) in rows.iter_mut().zip(offsets) {
            *row = add(row, offset);
            for number in row {
                *number = (*number as i32 as f32 * grid.step).to_bits();
            }
        }
    }
}

#[inline(always)]
fn decode_group(
    isa: Isa,
    grid: Grid,
    encoded: &[u8],
    lanes: &mut Group,
    target: &mut [u8; GROUP_BYTES],
) -> Result<usize, Damaged> {
    let header: [u8; 4] = read(encoded, 0)?;
    let width = u32::from(header[1]);
    if header[0] == Mode::Exact as u8 {
        target.copy_from_slice(encoded.get(HEADER..HEADER + GROUP_BYTES).ok_or(Damaged)?);
        return Ok(HEADER + GROUP_BYTES);
    }
    if width > 32 {
        return Err(Damaged);
    }
    let base = u32::from_le_bytes(read(encoded, 4)?);
    let minimum = u32::from_le_bytes(read(encoded, 8)?);
    let mut second = base;
    let mut at = HEADER;
    if header[0] == Mode::DifferenceOfTwo as u8 || header[0] == Mode::SecondDifference as u8 {
        second = u32::from_le_bytes(read(encoded, at)?);
        at += 4;
    }
    let size = bits::packed_size(ROWS, width);
    let packed = encoded.get(at..at + size).ok_or(Damaged)?;
    bits::unpack(packed, ROWS, width, lanes);
    let target: &mut [[u8; 4]; GROUP] = target.as_chunks_mut().0.first_chunk_mut().ok_or(Damaged)?;
    // The first numbers have none before them: zero, once the minimum is added.
    let none = 0u32.wrapping_sub(minimum);
    let minimum = [minimum; LANES];
    match header[0] {
        m if m == Mode::Offset as u8 => {
            for (bytes, number) in target.iter_mut().zip(lanes.as_flattened()) {
                *bytes = (number.wrapping_add(base) as i32 as f32 * grid.step).to_le_bytes();
            }
            return Ok(at + size);
        }
        m if m == Mode::Difference as u8 => {
            lanes[0][0] = none;
            sums::<1>(lanes, &minimum);
            values(grid, lanes, &before(lanes, [base]));
        }
        m if m == Mode::DifferenceOfTwo as u8 => {
            (lanes[0][0], lanes[1][0]) = (none, none);
            sums::<2>(lanes, &minimum);
            values(grid, lanes, &before(lanes, [base, second]));
        }
        m if m == Mode::SecondDifference as u8 => {
            lanes[0][0] = none;
            lanes[1][0] = none.wrapping_add(second).wrapping_sub(base);
            sums::<1>(lanes, &minimum);
            // A lane begins with the slope with which the one before it ends.
            let [slope] = before(lanes, [0]);
            sums::<1>(lanes, &slope);
            values(grid, lanes, &before(lanes, [base]));
        }
        _ => return Err(Damaged),
    }
    lanes::gather(isa, lanes, target);
    Ok(at + size)
}

/// Decodes what [`encode`] made into a block of the same size.
pub fn decode(isa: Isa, grid: Grid, mut encoded: &[u8], block: &mut [u8]) -> Result<(), Damaged> {
    let mut lanes: Group = [[0; LANES]; ROWS];
    let isa = isa.narrow();
    for group in block.as_chunks_mut::<GROUP_BYTES>().0 {
        let used = isa.run(
            #[inline(always)]
            || decode_group(isa, grid, encoded, &mut lanes, group),
        )?;
        encoded = &encoded[used..];
    }
    if encoded.is_empty() { Ok(()) } else { Err(Damaged) }
}
