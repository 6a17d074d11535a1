//! Between the order of values and the order of lanes in which they are summed.
//!
//! A running sum over values in their order is a chain in which each vector waits for the last number of the one before.
//! So each of the 16 lanes gets 32 *consecutive* values (as in the transposed layout of Afroozeh and Boncz, "The FastLanes
//! compression layout", 2023): sums down the rows are plain additions of vectors, and only the sums of whole lanes, 16 a
//! group, have to be added up across. Value `i` is in row `i % 32` of lane `i / 32`.
//!
//! Compilers make no vectors of a transposition, so this is the one place where instructions are named.
use super::bits::{GROUP, Group, LANES, ROWS};
use super::isa::Isa;

/// Rows and columns of a tile that is turned in registers.
#[cfg(target_arch = "x86_64")]
const SIDE: usize = 8;

/// Deals values in their order out to the lanes.
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
/// Gathers the values of the lanes in their order, as bytes.
#[inline(always)]
pub fn gather(isa: Isa, lanes: &Group, values: &mut [[u8; 4]; GROUP]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = isa.avx2() {
        for lane in (0..LANES).step_by(SIDE) {
            for row in (0..ROWS).step_by(SIDE) {
                let from = |r: usize| load(&lanes[row + r][lane..]);
                let tile = [from(0), from(1), from(2), from(3), from(4), from(5), from(6), from(7)];
                for (l, run) in turn(avx2, tile).into_iter().enumerate() {
                    store(run, &mut values[(lane + l) * ROWS + row..]);
                }
            }
        }
        return;
    }
    let _ = isa;
    for (lane, run) in values.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
        for (row, value) in run.iter_mut().enumerate() {
            *value = lanes[row][lane].to_le_bytes();
        }
    }
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
/// Rows become columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turn(avx2: Avx2, rows: [__m256i; SIDE]) -> [__m256i; SIDE] {
    let [a, b, c, d, e, f, g, h] = rows;
    // Names tell which rows are in it, and which columns of each half.
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
    fn every_value_finds_its_place_and_back() {
        let value = |i: usize| (i as u32).wrapping_mul(0x0101_0101);
        let values: Group =
            core::array::from_fn(|row| core::array::from_fn(|lane| value(row * LANES + lane)));
        for isa in Isa::all() {
            let (mut lanes, mut back): (Group, _) = ([[0; LANES]; ROWS], [[0; 4]; GROUP]);
            deal(isa, &values, &mut lanes);
            assert!((0..GROUP).all(|i| lanes[i % ROWS][i / ROWS] == value(i)), "{isa:?}");
            gather(isa, &lanes, &mut back);
            assert_eq!(back.map(u32::from_le_bytes), values.as_flattened(), "{isa:?}");
        }
    }
}
