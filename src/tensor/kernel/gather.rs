//! Gathering elements of a strided tensor: panels for the matrix product, and whole permuted copies.
use super::fuse::{self, Side};
use super::{Axis, Complex, scan, threads};

/// A dense panel of elements with one pitch: `lines` lines of `length` elements.
pub struct Panel {
    buffer: Vec<Complex>,
}
impl Panel {
    pub const fn new() -> Panel {
        Panel { buffer: Vec::new() }
    }
    pub fn as_ptr(&self) -> *const Complex {
        self.buffer.as_ptr()
    }
    /// Element (x, y) becomes `source[lines[x] + places[y]]`, times 2 to the power `exponent`; y varies fastest.
    ///
    /// # Safety
    /// Every sum of an offset of `lines` and one of `places` is inside what `source` points to.
    pub unsafe fn fill(&mut self, source: *const Complex, lines: &[usize], places: &[usize], exponent: i32) {
        let length = places.len();
        self.buffer.clear();
        self.buffer.reserve(lines.len() * length);
        // SAFETY: the buffer has room for `lines.len() * length` elements, all of which are written before the
        // length is set; the source is readable at every sum of offsets by the rule above.
        unsafe {
            gather(source, lines, places, self.buffer.as_mut_ptr());
            self.buffer.set_len(lines.len() * length);
        }
        if exponent != 0 {
            scan::scale(&mut self.buffer, exponent);
        }
    }
}

/// # Safety
/// `out` has room for `lines.len() * places.len()` elements, `source` is readable at every sum of offsets.
unsafe fn gather(source: *const Complex, lines: &[usize], places: &[usize], out: *mut Complex) {
    let length = places.len();
    let read = |x: usize, y: usize| {
        // SAFETY: a sum of one offset of `lines` and one of `places`.
        unsafe { source.add(lines[x] + places[y]).read() }
    };
    let write = |x: usize, y: usize, z: Complex| {
        // SAFETY: x is below `lines.len()` and y below `length`.
        unsafe { out.add(x * length + y).write(z) }
    };
    let run = run_length(places);
    if run >= 4 {
        for x in 0..lines.len() {
            for y in (0..length).step_by(run) {
                let count = run.min(length - y);
                // SAFETY: `run_length` made sure that these `count` places are neighbours in the source.
                unsafe {
                    out.add(x * length + y).copy_from_nonoverlapping(source.add(lines[x] + places[y]), count)
                };
            }
        }
        return;
    }
    // The source's neighbours lie across the lines: small squares keep both sides' cache lines at hand.
    const SQUARE: usize = 16;
    for x0 in (0..lines.len()).step_by(SQUARE) {
        let x1 = lines.len().min(x0 + SQUARE);
        for y0 in (0..length).step_by(SQUARE) {
            for y in y0..length.min(y0 + SQUARE) {
                for x in x0..x1 {
                    write(x, y, read(x, y));
                }
            }
        }
    }
}

/// A length such that the places fall into runs of it (the last may be shorter), each of neighbouring elements.
fn run_length(places: &[usize]) -> usize {
    let neighbours = |i: usize| places[i] + 1 == places[i + 1];
    let Some(run) = (0..places.len().saturating_sub(1)).find(|i| !neighbours(*i)).map(|i| i + 1) else {
        return places.len();
    };
    let regular = (0..places.len() - 1).all(|i| (i + 1) % run == 0 || neighbours(i));
    if regular { run } else { 1 }
}

/// Copies a whole tensor from its strides `input` to its strides `other`.
pub fn copy(axes: Vec<Axis>, source: &[Complex], out: &mut [Complex]) {
    const ROW: usize = 512;
    let total = super::volume(&axes);
    assert!(super::reach(&axes, |a| a.input) < source.len() && super::reach(&axes, |a| a.other) < out.len());
    // Split the axes in two: `inner` ends with the output's unit stride, `outer` holds the source's smallest one.
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
/// Where the parts of one copy write, each to elements of its own.
struct Target(*mut Complex);
// SAFETY: see above: no two parts write one element.
unsafe impl Sync for Target {}
