//! Whole permuted copies of a tensor.
use super::fuse::{self, Side};
use super::{Axis, Complex, threads};
use crate::tensor::out::Out;

/// Copies a whole tensor from its strides `input` to its strides `other`.
pub fn copy(axes: Vec<Axis>, source: &[Complex], mut out: Out) {
    const ROW: usize = 512;
    let total = super::volume(&axes);
    assert!(
        super::reach(&axes, |a| a.input) < source.len() && super::reach(&axes, |a| a.other) < out.count()
    );
    // Split the axes in two groups: `inner` ends with the output's smallest stride, `outer` with the source's.
    // Copying small squares of both reads and writes whole cache lines.
    let nearest = (0..axes.len()).min_by_key(|i| axes[*i].input).unwrap_or(0);
    let split = if nearest + 1 < axes.len() { nearest + 1 } else { axes.len().saturating_sub(1) };
    let (outer, inner) = axes.split_at(split);
    let (lines, places) = (super::volume(outer), super::volume(inner));
    let (rows, columns) = (lines.div_ceil(ROW), places.div_ceil(ROW));
    let target = Target(out.as_mut_ptr());
    let workers = if total > 1 << 18 { threads() } else { 1 };
    threads::each(
        workers,
        rows * columns,
        || [const { Vec::new() }; 4],
        |lists, part| {
            let (line, place) = (part / columns * ROW, part % columns * ROW);
            let (line_count, place_count) = (ROW.min(lines - line), ROW.min(places - place));
            let [from_lines, to_lines, from_places, to_places] = lists;
            fuse::offsets(outer, Side::Input, line, line_count, from_lines);
            fuse::offsets(outer, Side::Other, line, line_count, to_lines);
            fuse::offsets(inner, Side::Input, place, place_count, from_places);
            fuse::offsets(inner, Side::Other, place, place_count, to_places);
            let target = &target;
            const SQUARE: usize = 16;
            for x0 in (0..line_count).step_by(SQUARE) {
                for y0 in (0..place_count).step_by(SQUARE) {
                    for x in x0..line_count.min(x0 + SQUARE) {
                        for y in y0..place_count.min(y0 + SQUARE) {
                            let z = source[from_lines[x] + from_places[y]];
                            // SAFETY: inside `out` by the assertion above; parts write disjoint elements.
                            unsafe { target.0.add(to_lines[x] + to_places[y]).write(z) };
                        }
                    }
                }
            }
        },
    );
}
/// Where the parts of a copy write, each to elements of its own.
struct Target(*mut Complex);
// SAFETY: no two parts write the same element.
unsafe impl Sync for Target {}
