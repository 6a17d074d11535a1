//! Converts between the order of values and the order of lanes in which they are summed.
//!
//! A running sum over values in their order is a chain, in which each vector waits for the last number of the vector
//! before. So each of the 16 lanes gets 32 *consecutive* values (as in the transposed layout of Afroozeh and Boncz,
//! "The FastLanes compression layout", 2023). Then sums down the rows are plain additions of vectors, and only the
//! sums of whole lanes, 16 for each group, have to be added up across. Value `i` is in row `i % 32` of lane `i / 32`.
//!
//! Compilers make no vector code of a transposition, so this is the one place that names instructions.
use super::bits::{GROUP, Group, LANES, ROWS};
use super::isa::Isa;

/// Rows and columns of a tile that is transposed in registers.
const SIDE: usize = 8;

/// Deals out values in their order to the lanes.
#[inline(always)]
pub fn deal(isa: Isa, values: &Group, lanes: &mut Group) {
    let values = values.as_flattened();
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = isa.avx2() {
        for lane in (0..LANES).step_by(SIDE) {
            for row in (0..ROWS).step_by(SIDE) {
                let from = |l: usize| load(&values[(lane + l) * ROWS + row..]);
                let tile = [from(0), from(1), from(2), from(3), from(4), from(5), from(6), from(7)];
                for (r, part) in turn(avx2, tile).into_iter().enumerate() {
                    store(part, &mut lanes[row + r][lane..]);
                }
            }
        }
        return;
    }
    let _ = isa;
    for (lane, run) in values.as_chunks::<ROWS>().0.iter().enumerate() {
        for (row, value) in run.iter().enumerate() {
            lanes[row][lane] = *value;
        }
    }
}
/// Numbers of neighbouring lanes in one row.
pub type Part = [u32; SIDE];

/// Gathers the values of the lanes in their order, as bytes. `through(lane)` is called for each part of the lanes,
/// which begins with `lane`, and returns a function. All rows of the part pass through that function, in order, with
/// their indices.
#[inline(always)]
pub fn gather<F: FnMut(usize, Part) -> Part>(
    isa: Isa,
    lanes: &Group,
    values: &mut [[u8; 4]; GROUP],
    through: impl Fn(usize) -> F,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = isa.avx2() {
        for lane in (0..LANES).step_by(SIDE) {
            let mut through = through(lane);
            for row in (0..ROWS).step_by(SIDE) {
                let mut tile = [pulp::cast([0u32; SIDE]); SIDE];
                for (r, part_of_tile) in tile.iter_mut().enumerate() {
                    *part_of_tile = pulp::cast(through(r, part(&lanes[row + r], lane)));
                }
                for (l, run) in turn(avx2, tile).into_iter().enumerate() {
                    store(run, &mut values[(lane + l) * ROWS + row..]);
                }
            }
        }
        return;
    }
    let _ = isa;
    for lane in (0..LANES).step_by(SIDE) {
        let mut through = through(lane);
        for (row, numbers) in lanes.iter().enumerate() {
            for (l, number) in through(row, part(numbers, lane)).into_iter().enumerate() {
                values[(lane + l) * ROWS + row] = number.to_le_bytes();
            }
        }
    }
}
/// The part of a row that begins with `lane`.
#[inline(always)]
pub fn part(row: &[u32; LANES], lane: usize) -> Part {
    *row[lane..].first_chunk().expect("lanes are whole parts")
}

/// For each lane, `start` plus the sum of all lanes before it.
#[inline(always)]
pub fn sums_before(isa: Isa, totals: &[u32; LANES], start: u32) -> [u32; LANES] {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = isa.avx2() {
        let [low, high]: [__m256i; 2] = pulp::cast(*totals);
        let (low_sums, high_sums) = (sums(avx2, low), sums(avx2, high));
        let all_low = avx2._mm256_permutevar8x32_epi32(low_sums, pulp::cast([SIDE as u32 - 1; SIDE]));
        let start: __m256i = pulp::cast([start; SIDE]);
        let low = avx2._mm256_add_epi32(start, avx2._mm256_sub_epi32(low_sums, low));
        let high = avx2._mm256_add_epi32(start, avx2._mm256_sub_epi32(high_sums, high));
        return pulp::cast([low, avx2._mm256_add_epi32(all_low, high)]);
    }
    let _ = isa;
    let mut before = [start; LANES];
    for l in 1..LANES {
        before[l] = before[l - 1].wrapping_add(totals[l - 1]);
    }
    before
}

#[cfg(target_arch = "x86_64")]
use {core::arch::x86_64::__m256i, pulp::core_arch::x86::Avx2};

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn load(from: &[u32]) -> __m256i {
    let row: [u32; SIDE] = *from.first_chunk().expect("a row of the tile");
    pulp::cast(row)
}
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn store<T: pulp::bytemuck::Pod>(row: __m256i, to: &mut [T]) {
    let row: [T; SIDE] = pulp::cast(row);
    to[..SIDE].copy_from_slice(&row);
}
/// Running sums within one part.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn sums(avx2: Avx2, numbers: __m256i) -> __m256i {
    // Sums of pairs, then of fours; then the sum of the lower four is added to the upper four.
    let pairs = avx2._mm256_add_epi32(numbers, avx2._mm256_slli_si256::<4>(numbers));
    let fours = avx2._mm256_add_epi32(pairs, avx2._mm256_slli_si256::<8>(pairs));
    let lower = avx2._mm256_permute2x128_si256::<0x08>(fours, fours);
    avx2._mm256_add_epi32(fours, avx2._mm256_shuffle_epi32::<0xFF>(lower))
}
/// Transposes a tile: rows become columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turn(avx2: Avx2, rows: [__m256i; SIDE]) -> [__m256i; SIDE] {
    let [a, b, c, d, e, f, g, h] = rows;
    // A name tells which rows are in the vector, and which columns of each half.
    let ones = |x, y| (avx2._mm256_unpacklo_epi32(x, y), avx2._mm256_unpackhi_epi32(x, y));
    let twos = |x, y| (avx2._mm256_unpacklo_epi64(x, y), avx2._mm256_unpackhi_epi64(x, y));
    let fours =
        |x, y| (avx2._mm256_permute2x128_si256::<0x20>(x, y), avx2._mm256_permute2x128_si256::<0x31>(x, y));
    let ((ab01, ab23), (cd01, cd23)) = (ones(a, b), ones(c, d));
    let ((ef01, ef23), (gh01, gh23)) = (ones(e, f), ones(g, h));
    let ((abcd0, abcd1), (abcd2, abcd3)) = (twos(ab01, cd01), twos(ab23, cd23));
    let ((efgh0, efgh1), (efgh2, efgh3)) = (twos(ef01, gh01), twos(ef23, gh23));
    let ((row0, row4), (row1, row5)) = (fours(abcd0, efgh0), fours(abcd1, efgh1));
    let ((row2, row6), (row3, row7)) = (fours(abcd2, efgh2), fours(abcd3, efgh3));
    [row0, row1, row2, row3, row4, row5, row6, row7]
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn sums_are_those_of_the_lanes_before() {
        let totals: [u32; LANES] = core::array::from_fn(|l| 0x9E37_79B9_u32.wrapping_mul(l as u32 + 1));
        for isa in Isa::all() {
            let before = sums_before(isa, &totals, 77);
            for l in 0..LANES {
                let sum = totals[..l].iter().fold(77, |sum: u32, total| sum.wrapping_add(*total));
                assert_eq!(before[l], sum, "{isa:?}, lane {l}");
            }
        }
    }
    #[test]
    fn every_value_finds_its_place_and_back() {
        let value = |i: usize| (i as u32).wrapping_mul(0x0101_0101);
        let values: Group =
            core::array::from_fn(|row| core::array::from_fn(|lane| value(row * LANES + lane)));
        for isa in Isa::all() {
            let (mut lanes, mut back): (Group, _) = ([[0; LANES]; ROWS], [[0; 4]; GROUP]);
            deal(isa, &values, &mut lanes);
            assert!((0..GROUP).all(|i| lanes[i % ROWS][i / ROWS] == value(i)), "{isa:?}");
            gather(isa, &lanes, &mut back, |_| |_, numbers| numbers);
            assert_eq!(back.map(u32::from_le_bytes), values.as_flattened(), "{isa:?}");
        }
    }
}
