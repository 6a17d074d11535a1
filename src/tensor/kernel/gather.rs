//! Gathering elements of a strided tensor: panels for the matrix product, and whole permuted copies.
use super::fuse::{self, Side};
use super::{Axis, Complex, scan, threads};
use core::mem::MaybeUninit;
use core::ops::Range;

/// A dense panel of gathered elements: lines one pitch apart.
pub struct Panel {
    buffer: Vec<MaybeUninit<Complex>>,
    pitch: usize,
    runs: Vec<Run>,
}

/// Neighbouring offsets: where in the list they begin, and how many.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    count: usize,
}

/// Runs shorter than this on average do not pay.
const SHORT: usize = 4;

impl Panel {
    pub const fn new() -> Panel {
        Panel { buffer: Vec::new(), pitch: 0, runs: Vec::new() }
    }
    pub fn as_ptr(&self) -> *const Complex {
        self.buffer.as_ptr().cast()
    }
    /// Elements from one line to the next.
    pub fn pitch(&self) -> usize {
        self.pitch
    }
    /// Element y of line x becomes `source[lines[x] + places[y]]`, times 2 to the power `exponent`.
    ///
    /// # Safety
    /// Every sum of an offset of `lines` and one of `places` is inside what `source` points to.
    pub unsafe fn fill(&mut self, source: *const Complex, lines: &[usize], places: &[usize], exponent: i32) {
        // A cache line more than needed, so that lines do not all fall into the same set of the cache.
        self.pitch = places.len().next_multiple_of(8) + 8;
        self.buffer.clear();
        self.buffer.reserve(lines.len() * self.pitch);
        let mut gather =
            Gather { source, lines, places, out: self.buffer.as_mut_ptr().cast(), pitch: self.pitch };
        // SAFETY: the buffer has room for `lines.len()` lines, and the source is readable by the rule above.
        unsafe {
            find_runs(places, &mut self.runs);
            if self.runs.len() * SHORT <= places.len() {
                gather.along(&self.runs);
            } else {
                find_runs(lines, &mut self.runs);
                if self.runs.len() * SHORT <= lines.len() {
                    gather.across(&self.runs);
                } else {
                    gather.one_by_one(0..lines.len(), 0..places.len());
                }
            }
            if exponent != 0 {
                gather.scale(exponent);
            }
        }
    }
}

fn find_runs(offsets: &[usize], runs: &mut Vec<Run>) {
    runs.clear();
    let mut first = 0;
    for i in 1..=offsets.len() {
        if i == offsets.len() || offsets[i] != offsets[i - 1] + 1 {
            runs.push(Run { first, count: i - first });
            first = i;
        }
    }
}

/// One filling of a panel. Its methods share the rule of [`Panel::fill`]: sources are sums of one offset of `lines` and
/// one of `places`, targets are below `places.len()` in one of `lines.len()` lines.
struct Gather<'a> {
    source: *const Complex,
    lines: &'a [usize],
    places: &'a [usize],
    out: *mut Complex,
    pitch: usize,
}
type Four = [Complex; 4];
impl Gather<'_> {
    /// # Safety
    /// The rule of the structure.
    unsafe fn one_by_one(&mut self, lines: Range<usize>, places: Range<usize>) {
        const SQUARE: usize = 16;
        for x0 in lines.clone().step_by(SQUARE) {
            for y0 in places.clone().step_by(SQUARE) {
                for y in y0..places.end.min(y0 + SQUARE) {
                    for x in x0..lines.end.min(x0 + SQUARE) {
                        // SAFETY: the rule of the structure.
                        unsafe {
                            let z = self.source.add(self.lines[x] + self.places[y]).read();
                            self.out.add(x * self.pitch + y).write(z);
                        }
                    }
                }
            }
        }
    }
    /// The source's neighbours are neighbours in a line: copies run by run.
    ///
    /// # Safety
    /// The rule of the structure; `runs` are those of `places`.
    unsafe fn along(&mut self, runs: &[Run]) {
        for (x, &line) in self.lines.iter().enumerate() {
            for run in runs {
                // SAFETY: the rule of the structure, and the places of a run are neighbours.
                unsafe {
                    let from = self.source.add(line + self.places[run.first]);
                    copy_run(from, self.out.add(x * self.pitch + run.first), run.count);
                }
            }
        }
    }
    /// The source's neighbours lie across the lines: squares of 4 by 4 are transposed in registers. Eight lines at a
    /// time, so that a whole cache line of the source is used at once.
    ///
    /// # Safety
    /// The rule of the structure; `runs` are those of `lines`.
    unsafe fn across(&mut self, runs: &[Run]) {
        const STRIP: usize = 32;
        let whole = self.places.len() / 4 * 4;
        for run in runs {
            let lines = run.first..run.first + run.count;
            // SAFETY: the rule of the structure.
            unsafe {
                if run.count < 4 {
                    self.one_by_one(lines, 0..self.places.len());
                    continue;
                }
                for strip in (0..whole).step_by(STRIP) {
                    for x in lines.clone().step_by(8) {
                        for y in (strip..whole.min(strip + STRIP)).step_by(4) {
                            // The last square of a run may overlap the one before it.
                            self.square(x.min(lines.end - 4), y);
                            if x + 4 < lines.end {
                                self.square((x + 4).min(lines.end - 4), y);
                            }
                        }
                    }
                }
                self.one_by_one(lines, whole..self.places.len());
            }
        }
    }
    /// # Safety
    /// The rule of the structure; lines x to x + 3 are neighbours in the source, and there are places y to y + 3.
    #[inline(always)]
    unsafe fn square(&mut self, x: usize, y: usize) {
        // SAFETY: the rule above.
        unsafe {
            let row = |i: usize| self.source.add(self.lines[x] + self.places[y + i]).cast::<Four>().read();
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            for i in 0..4 {
                self.out.add((x + i) * self.pitch + y).cast::<Four>().write([a[i], b[i], c[i], d[i]]);
            }
        }
    }
    /// # Safety
    /// All lines have been filled.
    unsafe fn scale(&mut self, exponent: i32) {
        for x in 0..self.lines.len() {
            // SAFETY: the line's elements are written and this object's own.
            let line =
                unsafe { core::slice::from_raw_parts_mut(self.out.add(x * self.pitch), self.places.len()) };
            scan::scale(line, exponent);
        }
    }
}

/// Copies a run; short ones without a call.
///
/// # Safety
/// Both sides have room for `count` elements and do not overlap.
#[inline(always)]
unsafe fn copy_run(from: *const Complex, to: *mut Complex, count: usize) {
    // SAFETY: the rule above; the last four of a run may be copied twice.
    unsafe {
        match count {
            4..32 => {
                for i in (0..count - 3).step_by(4) {
                    to.add(i).cast::<Four>().write(from.add(i).cast::<Four>().read());
                }
                to.add(count - 4).cast::<Four>().write(from.add(count - 4).cast::<Four>().read());
            }
            _ => to.copy_from_nonoverlapping(from, count),
        }
    }
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
