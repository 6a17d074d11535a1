//! Error-bounded coding of float32: values on a grid, differences packed into as few bits as they need.
//!
//! The grid's step is the largest power of two not above twice the tolerance. A value that is already on the grid is
//! found again exactly, so coding a second time changes nothing more, and errors do not add up.
//!
//! A group of 512 values is coded as grid numbers, relative to whichever of these takes the fewest bits:
//! - their minimum;
//! - the number before;
//! - the number two before (for interleaved complex numbers);
//! - the line through the two numbers before (for smooth data).
//!
//! A group is stored exactly as it is if the checked error of any value exceeds the tolerance: the value is not a
//! number, infinite, or beyond 2^24 steps.
use super::bits::{self, GROUP, Group, LANES, ROWS};
use super::isa::{self, Isa};
use super::lanes;
use super::{AHEAD, Damaged, read, write};

/// Bytes before each group's packed values: mode, width, two unused, base, least difference.
const HEADER: usize = 12;
const GROUP_BYTES: usize = GROUP * 4;
/// Grid numbers stay below this, so that a number times the step is exact.
const MOST: f32 = (1 << 24) as f32;

/// The grid that belongs to a tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    step: f32,
    inverse: f32,
    bound: f32,
}
impl Grid {
    /// The grid for an absolute error of at most `tolerance`. None if only exact coding will do: the tolerance is
    /// zero, or so small that steps would leave the range in which float32 computes exactly.
    pub fn new(tolerance: f64) -> Option<Grid> {
        if !tolerance.is_finite() || tolerance < 2f64.powi(-100) {
            return None;
        }
        // Steps stay at 2^99 or less: 2^99 * 2^24 is still finite, and the inverse of such a step is still normal.
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

/// Buffers for the groups of a block. They are made once a block, because clearing them takes a fifth of the time of
/// a group.
struct Scratch {
    /// Grid numbers in their order.
    numbers: Group,
    /// The same numbers dealt out to lanes, then their residuals.
    lanes: Group,
}
impl Default for Scratch {
    fn default() -> Self {
        Scratch { numbers: [[0; LANES]; ROWS], lanes: [[0; LANES]; ROWS] }
    }
}

/// The most bytes that a block of `size` bytes can become.
pub fn bound(size: usize) -> usize {
    size / GROUP_BYTES * (HEADER + 4 + GROUP_BYTES)
}

/// Least and greatest grid number of one group.
type Range = (i32, i32);

/// Finds the nearest grid numbers of one group. Returns None if one of them would break the bound.
#[inline(always)]
fn quantise(grid: Grid, source: &[u8; GROUP_BYTES], numbers: &mut Group) -> Option<Range> {
    quantise_small(grid, source, numbers).or_else(|| quantise_large(grid, source, numbers))
}
/// `quantise` for numbers below 2^22: adding 1.5 * 2^23 rounds to a whole number, which is then in the lowest bits of
/// the float.
#[inline(always)]
fn quantise_small(grid: Grid, source: &[u8; GROUP_BYTES], numbers: &mut Group) -> Option<Range> {
    const MAGIC: f32 = 1.5 * (1 << 23) as f32;
    const LIMIT: i32 = 1 << 22;
    let (mut least, mut most, mut error) = (i32::MAX, i32::MIN, 0);
    for (number, bytes) in numbers.as_flattened_mut().iter_mut().zip(source.as_chunks().0) {
        let x = f32::from_le_bytes(*bytes);
        let raised = x * grid.inverse + MAGIC;
        // A value that is larger, or not a number, has another exponent or sign, and so gives no small number here.
        let whole = raised.to_bits().wrapping_sub(MAGIC.to_bits());
        *number = whole;
        least = least.min(whole as i32);
        most = most.max(whole as i32);
        // The bits of floats without sign are in the order of their sizes, and those of not-a-number above all
        // others.
        error = error.max(((raised - MAGIC) * grid.step - x).abs().to_bits());
    }
    let held = least >= -LIMIT && most < LIMIT && f32::from_bits(error) <= grid.bound;
    held.then_some((least, most))
}
/// `quantise` for all numbers that the grid can hold.
#[cold]
#[inline(always)]
fn quantise_large(grid: Grid, source: &[u8; GROUP_BYTES], numbers: &mut Group) -> Option<Range> {
    const MAGIC: f32 = (1 << 23) as f32;
    let mut bad = 0;
    let (mut least, mut most) = (i32::MAX, i32::MIN);
    for (number, bytes) in numbers.as_flattened_mut().iter_mut().zip(source.as_chunks().0) {
        let x = f32::from_le_bytes(*bytes);
        let y = x * grid.inverse;
        let y = if y.abs() < MOST { y } else { 0.0 }; // also not-a-number
        // Adding and subtracting 2^23 rounds to a whole number. A float beyond 2^23 is a whole number already.
        let size = y.abs();
        let whole = if size < MAGIC { (size + MAGIC) - MAGIC } else { size };
        let rounded = whole.copysign(y);
        // SAFETY: `rounded` is a whole number of at most 2^24, which an i32 holds.
        let whole = unsafe { rounded.to_int_unchecked::<i32>() };
        *number = whole as u32;
        least = least.min(whole);
        most = most.max(whole);
        // The two are within one step of each other, so their difference is exact (Sterbenz). The comparison fails
        // for not-a-number.
        bad |= u32::from((rounded * grid.step - x).abs() <= grid.bound) ^ 1;
    }
    (bad == 0).then_some((least, most))
}

/// What a number is coded relative to.
trait Prediction {
    const MODE: Mode;
    /// What is left of a number, given the number before it and the number before that.
    fn residual(number: i32, last: i32, second_last: i32) -> i32;
    /// The numbers to assume before the first two of a group, chosen so that the first two get residuals that other
    /// numbers have too.
    fn before(first: [i32; 4]) -> [i32; 2];
}
struct Previous;
struct SecondLast;
struct Line;
impl Prediction for Previous {
    const MODE: Mode = Mode::Difference;
    #[inline(always)]
    fn residual(number: i32, last: i32, _: i32) -> i32 {
        number - last
    }
    #[inline(always)]
    fn before([a, b, ..]: [i32; 4]) -> [i32; 2] {
        [0, a - Previous::residual(b, a, 0)]
    }
}
impl Prediction for SecondLast {
    const MODE: Mode = Mode::DifferenceOfTwo;
    #[inline(always)]
    fn residual(number: i32, _: i32, second_last: i32) -> i32 {
        number - second_last
    }
    #[inline(always)]
    fn before([a, b, c, d]: [i32; 4]) -> [i32; 2] {
        [a - (c - a), b - (d - b)]
    }
}
impl Prediction for Line {
    const MODE: Mode = Mode::SecondDifference;
    #[inline(always)]
    fn residual(number: i32, last: i32, second_last: i32) -> i32 {
        number - 2 * last + second_last
    }
    #[inline(always)]
    fn before([a, b, c, _]: [i32; 4]) -> [i32; 2] {
        let bend = Line::residual(c, b, a);
        let last = bend - b + 2 * a;
        [bend - a + 2 * last, last]
    }
}

/// How a group is packed.
#[derive(Clone, Copy)]
struct Plan {
    mode: Mode,
    width: u32,
    least: i32,
}
impl Plan {
    fn new(mode: Mode, (least, most): Range) -> Plan {
        Plan { mode, width: bits::bits((most - least) as u32), least }
    }
}
/// How many numbers are looked at in each sample, and how many samples, to see which prediction can pay.
const SAMPLE: usize = 16;
const SAMPLES: usize = 4;

/// The bits that a prediction needs for the sampled numbers.
#[inline(always)]
fn sampled_width<P: Prediction>(numbers: &Group) -> u32 {
    let numbers = numbers.as_flattened();
    let (mut least, mut most) = (i32::MAX, i32::MIN);
    for run in numbers.chunks_exact(GROUP / SAMPLES) {
        for i in 2..2 + SAMPLE {
            let residual = P::residual(run[i] as i32, run[i - 1] as i32, run[i - 2] as i32);
            least = least.min(residual);
            most = most.max(residual);
        }
    }
    bits::bits((most - least) as u32)
}
/// Moves the last number of each lane to the lane after it, where it stands before the first number.
#[inline(always)]
fn shifted(row: &Row, first: i32) -> Row {
    core::array::from_fn(
        #[inline(always)]
        |l| if l == 0 { first as u32 } else { row[l - 1] },
    )
}
/// Replaces numbers by their residuals. Those of the first numbers, which have nothing before them, do not matter,
/// because the group's header has these numbers.
#[inline(always)]
fn predict<P: Prediction>(lanes: &mut Group) -> Plan {
    let first = core::array::from_fn(|row| lanes[row][0] as i32);
    let [second_last, last] = P::before(first);
    let mut second_last = shifted(&lanes[ROWS - 2], second_last);
    let mut last = shifted(&lanes[ROWS - 1], last);
    for row in lanes.iter_mut() {
        let numbers = *row;
        for l in 0..LANES {
            row[l] = P::residual(numbers[l] as i32, last[l] as i32, second_last[l] as i32) as u32;
        }
        (second_last, last) = (last, numbers);
    }
    let (mut least, mut most) = (i32::MAX, i32::MIN);
    for residual in lanes.as_flattened() {
        least = least.min(*residual as i32);
        most = most.max(*residual as i32);
    }
    Plan::new(P::MODE, (least, most))
}
/// The prediction that takes the fewest bits. It has to save a bit, because undoing it costs time.
#[inline(always)]
fn choose(numbers: &Group, width: u32) -> Mode {
    let better = |best: (u32, Mode), width, mode| if width < best.0 { (width, mode) } else { best };
    let mut best = (width, Mode::Offset);
    best = better(best, sampled_width::<Previous>(numbers), Mode::Difference);
    best = better(best, sampled_width::<SecondLast>(numbers), Mode::DifferenceOfTwo);
    if best.1 == Mode::Difference {
        best = better(best, sampled_width::<Line>(numbers), Mode::SecondDifference);
    }
    best.1
}

#[inline(always)]
fn encode_group(
    isa: Isa,
    grid: Grid,
    source: &[u8; GROUP_BYTES],
    scratch: &mut Scratch,
    out: &mut [u8],
) -> usize {
    let Scratch { numbers, lanes } = scratch;
    let Some(range) = quantise(grid, source, numbers) else {
        write(out, 0, [Mode::Exact as u8, 32, 0, 0]);
        out[HEADER..HEADER + GROUP_BYTES].copy_from_slice(source);
        return HEADER + GROUP_BYTES;
    };
    let mut plan = Plan::new(Mode::Offset, range);
    let choice = choose(numbers, plan.width);
    if choice != Mode::Offset {
        lanes::deal(isa, numbers, lanes);
        let better = match choice {
            Mode::Difference => predict::<Previous>(lanes),
            Mode::DifferenceOfTwo => predict::<SecondLast>(lanes),
            _ => predict::<Line>(lanes),
        };
        // The samples may have been smoother than the rest.
        if better.width < plan.width {
            plan = better;
        }
    }
    let Plan { mode, width, least } = plan;
    let (packed, base, minimum) = match mode {
        Mode::Offset => (&*numbers, least as u32, 0),
        _ => (&*lanes, numbers[0][0], least),
    };
    write(out, 0, [mode as u8, width as u8, 0, 0]);
    write(out, 4, base.to_le_bytes());
    write(out, 8, minimum.to_le_bytes());
    let mut size = HEADER;
    if matches!(mode, Mode::DifferenceOfTwo | Mode::SecondDifference) {
        // These modes have two starting values.
        write(out, size, numbers[0][1].to_le_bytes());
        size += 4;
    }
    bits::pack(packed, least as u32, ROWS, width, &mut out[size..]);
    size + bits::packed_size(ROWS, width)
}

/// Encodes a block (a multiple of 2 KiB) into `out`, which has room for [`bound`] bytes. Returns the bytes used.
pub fn encode(isa: Isa, grid: Grid, block: &[u8], out: &mut [u8]) -> usize {
    let mut used = 0;
    let mut scratch = Scratch::default();
    let isa = isa.narrow();
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

/// One number for each lane.
type Row = [u32; LANES];
#[inline(always)]
fn add(a: &Row, b: &Row) -> Row {
    let mut sum = *a;
    for l in 0..LANES {
        sum[l] = sum[l].wrapping_add(b[l]);
    }
    sum
}
/// What has to be added to numbers that are sums within their lanes: `first` in the first even and odd row, and
/// `slope` more for every two rows further down.
struct Offsets {
    first: [Row; 2],
    slope: Row,
}
/// Unpacks a group and sums down its rows: each number becomes its residual plus the number `BACK` rows above.
#[inline(always)]
fn sums<const BACK: usize>(packed: &[u8], width: u32, least: &Row, lanes: &mut Group) {
    let mut sums = [[0; LANES]; BACK];
    bits::unpack_through(
        packed,
        width,
        lanes,
        #[inline(always)]
        |row| {
            let sum = add(&sums[0], &add(&row, least));
            sums.rotate_left(1);
            sums[BACK - 1] = sum;
            sum
        },
    );
}
/// Unpacks a group and takes sums of sums down its rows. Returns the last of the inner sums.
#[inline(always)]
fn sums_of_sums(packed: &[u8], width: u32, least: &Row, lanes: &mut Group) -> Row {
    let (mut inner, mut outer) = ([0; LANES], [0; LANES]);
    bits::unpack_through(
        packed,
        width,
        lanes,
        #[inline(always)]
        |row| {
            inner = add(&inner, &add(&row, least));
            outer = add(&outer, &inner);
            outer
        },
    );
    inner
}
/// Turns grid numbers in lanes, from which `offsets` are still missing, into values in their order.
#[inline(always)]
fn values(isa: Isa, grid: Grid, lanes: &Group, offsets: &Offsets, target: &mut [[u8; 4]; GROUP]) {
    lanes::gather(
        isa,
        lanes,
        target,
        #[inline(always)]
        |lane| {
            let [even, odd] = &offsets.first;
            let mut offset = [lanes::part(even, lane), lanes::part(odd, lane)];
            let slope = lanes::part(&offsets.slope, lane);
            #[inline(always)]
            move |row, mut numbers: lanes::Part| {
                let offset = &mut offset[row % 2];
                for l in 0..numbers.len() {
                    let number = numbers[l].wrapping_add(offset[l]);
                    numbers[l] = (number as i32 as f32 * grid.step).to_bits();
                    offset[l] = offset[l].wrapping_add(slope[l]);
                }
                numbers
            }
        },
    );
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
    let target: &mut [[u8; 4]; GROUP] = target.as_chunks_mut().0.first_chunk_mut().ok_or(Damaged)?;
    let least = [minimum; LANES];
    // The first lane's offset is chosen so that its first numbers are the known ones.
    let offsets = match header[0] {
        m if m == Mode::Offset as u8 => {
            bits::unpack(packed, ROWS, width, lanes);
            for (bytes, number) in target.iter_mut().zip(lanes.as_flattened()) {
                *bytes = (number.wrapping_add(base) as i32 as f32 * grid.step).to_le_bytes();
            }
            return Ok(at + size);
        }
        m if m == Mode::Difference as u8 => {
            sums::<1>(packed, width, &least, lanes);
            let start = base.wrapping_sub(lanes[0][0]);
            Offsets { first: [lanes::sums_before(isa, &lanes[ROWS - 1], start); 2], slope: [0; LANES] }
        }
        m if m == Mode::DifferenceOfTwo as u8 => {
            sums::<2>(packed, width, &least, lanes);
            let (even, odd) = (base.wrapping_sub(lanes[0][0]), second.wrapping_sub(lanes[1][0]));
            let first = [
                lanes::sums_before(isa, &lanes[ROWS - 2], even),
                lanes::sums_before(isa, &lanes[ROWS - 1], odd),
            ];
            Offsets { first, slope: [0; LANES] }
        }
        m if m == Mode::SecondDifference as u8 => {
            let bends = sums_of_sums(packed, width, &least, lanes);
            // A lane begins with the slope with which the lane before it ends, at the number to which that slope
            // leads.
            let known = second.wrapping_sub(base);
            let slope =
                lanes::sums_before(isa, &bends, known.wrapping_sub(lanes[1][0]).wrapping_add(lanes[0][0]));
            let rise = slope.map(|slope| slope.wrapping_mul(ROWS as u32));
            let start = base.wrapping_sub(lanes[0][0]).wrapping_sub(slope[0]);
            let start = lanes::sums_before(isa, &add(&rise, &lanes[ROWS - 1]), start);
            let first = add(&start, &slope);
            Offsets { first: [first, add(&first, &slope)], slope: add(&slope, &slope) }
        }
        _ => return Err(Damaged),
    };
    values(isa, grid, lanes, &offsets, target);
    Ok(at + size)
}

/// Decodes what [`encode`] made into a block of the same size.
pub fn decode(isa: Isa, grid: Grid, mut encoded: &[u8], block: &mut [u8]) -> Result<(), Damaged> {
    let mut lanes: Group = [[0; LANES]; ROWS];
    let isa = isa.narrow();
    let groups = block.as_chunks_mut::<GROUP_BYTES>().0;
    for index in 0..groups.len() {
        if let Some(soon) = groups.get(index + AHEAD) {
            isa::prefetch(soon);
        }
        let group = &mut groups[index];
        let used = isa.run(
            #[inline(always)]
            || decode_group(isa, grid, encoded, &mut lanes, group),
        )?;
        encoded = &encoded[used..];
    }
    if encoded.is_empty() { Ok(()) } else { Err(Damaged) }
}
