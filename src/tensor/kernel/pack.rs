//! Packing: a block of a strided tensor becomes panels in the order in which the product reads them.
//!
//! A panel holds a few neighbouring lines of the block (rows of A, columns of B), term by term: the element of line x and term
//! y of a panel of w lines is at y w + x.
//!
//! Elements that lie side by side in memory are read in whole cache lines, either along the terms or across the lines. Few
//! lines are read at one time, because strides that are powers of two put all of them into few sets of the cache.
use super::pack_buffer::PackBuffer;
use super::{Complex, scan};
use core::ops::Range;
use pulp::Simd;

/// Terms of a panel that are packed at one time: a cache line of each of the panel's lines.
const STEP: usize = 8;

/// A block of a tensor: the element of line x and term y is `source[lines[x] + terms[y]]`, times 2 to the power `exponent`.
pub struct Block<'a> {
    pub source: *const Complex,
    pub lines: &'a [usize],
    pub terms: &'a [usize],
    pub exponent: i32,
}

/// Elements of a cache line.
const LINE: usize = 8;

/// A packed block.
#[derive(Default)]
pub struct Packed {
    buffer: PackBuffer,
    panels: Vec<Panel>,
    depth: usize,
}
/// The lines of one panel.
struct Panel {
    lines: Range<usize>,
    /// Whether they are neighbours in the source.
    neighbours: bool,
}

impl Packed {
    pub fn depth(&self) -> usize {
        self.depth
    }
    /// The lines of each panel, and where the panel starts.
    pub fn panels(&self) -> impl ExactSizeIterator<Item = (Range<usize>, *const Complex)> {
        let start = self.buffer.start().cast_const();
        // SAFETY: each panel lies inside the buffer, behind the panels before it.
        self.panels
            .iter()
            .map(move |panel| (panel.lines.clone(), unsafe { start.add(panel.lines.start * self.depth) }))
    }
    /// Packs a block into panels of equal or nearly equal width, none wider than `most`.
    ///
    /// # Safety
    /// For each line and each term of the block, the element at `source` plus their sum can be read.
    #[inline(always)]
    pub unsafe fn evenly(&mut self, block: &Block, most: usize) {
        let count = block.lines.len().div_ceil(most);
        let (width, wider) = (block.lines.len() / count, block.lines.len() % count);
        let start = |i: usize| i * width + i.min(wider);
        self.divide(block, (0..count).map(|i| start(i)..start(i + 1)));
        // SAFETY: this function has the same rule.
        unsafe { self.fill(None::<pulp::Scalar>, block) };
    }
    /// Packs a block into panels with as many lines as a vector has lanes. The last one is filled up with zeros. Each term of
    /// a panel is two vectors, one of real and one of imaginary parts; the order within a vector is the one that
    /// `interleave_shfl_f32s` undoes.
    ///
    /// # Safety
    /// The rule of [`Packed::evenly`].
    #[inline(always)]
    pub unsafe fn dealt<S: Simd>(&mut self, simd: S, block: &Block) {
        let count = block.lines.len();
        self.divide(block, (0..count).step_by(S::F32_LANES).map(|x| x..count.min(x + S::F32_LANES)));
        // SAFETY: this function has the same rule.
        unsafe { self.fill(Some(simd), block) };
    }
    fn divide(&mut self, block: &Block, panels: impl Iterator<Item = Range<usize>>) {
        self.panels.clear();
        self.panels.extend(
            panels.map(|lines| Panel { neighbours: are_neighbours(&block.lines[lines.clone()]), lines }),
        );
        self.depth = block.terms.len();
    }
    /// Packs all panels, with the parts separated if `deal` is given.
    ///
    /// # Safety
    /// The rule of [`Packed::evenly`].
    #[inline(always)]
    unsafe fn fill<S: Simd>(&mut self, deal: Option<S>, block: &Block) {
        let lines = block.lines.len().next_multiple_of(if deal.is_some() { S::F32_LANES } else { 1 });
        self.buffer.reserve(lines * self.depth);
        let out = self.buffer.start();
        let steps = self.depth.div_ceil(STEP);
        let count = self.panels.len() * steps;
        let across = near(block.lines) >= near(block.terms);
        for i in 0..count {
            let (panel, step) =
                if across { (i % self.panels.len(), i / self.panels.len()) } else { (i / steps, i % steps) };
            // SAFETY: this function has the same rule, and `reserve` has made room for all panels.
            unsafe { part(deal, block, &self.panels[panel], step * STEP, out) };
        }
    }
}

/// Packs a few terms of a panel.
///
/// # Safety
/// The rule of [`Packed::evenly`]; `out` has room for the whole block.
#[inline(always)]
unsafe fn part<S: Simd>(deal: Option<S>, block: &Block, panel: &Panel, first: usize, out: *mut Complex) {
    let lines = &block.lines[panel.lines.clone()];
    let depth = block.terms.len();
    let terms = &block.terms[first..depth.min(first + STEP)];
    let width = if deal.is_some() { S::F32_LANES } else { lines.len() };
    // SAFETY: by the rule above, `out` has room for the whole block, and so for this part of the panel.
    let part = unsafe { out.add(panel.lines.start * depth + first * width) };
    if let Some(simd) = deal
        && panel.neighbours
        && lines.len() == width
        && block.exponent == 0
    {
        // The quick way: whole vectors, separated between the source and the panel.
        let parts = part.cast::<[S::f32s; 2]>();
        for (y, term) in terms.iter().enumerate() {
            // SAFETY: the lines are neighbours in the source and fill a pair of vectors, as each term of the panel does.
            unsafe {
                let pair = block.source.add(lines[0] + term).cast::<[S::f32s; 2]>().read_unaligned();
                parts.add(y).write_unaligned(simd.deinterleave_shfl_f32s(pair));
            }
        }
        return;
    }
    // SAFETY: the rule above lets `gather` read the source. The part has `width` elements for each of these terms, and the
    // panel has no more lines than that.
    let part = unsafe {
        // Loops are faster if the compiler knows how often they run.
        match lines.first_chunk::<12>() {
            Some(lines) if width == 12 => gather(block.source, lines, terms, panel.neighbours, part, 12),
            _ => gather(block.source, lines, terms, panel.neighbours, part, width),
        }
        core::slice::from_raw_parts_mut(part, terms.len() * width)
    };
    if block.exponent != 0 {
        scan::scale(part, block.exponent);
    }
    if let Some(simd) = deal {
        let parts = part.as_mut_ptr().cast::<[S::f32s; 2]>();
        for term in 0..terms.len() {
            // SAFETY: each term of the panel is two vectors long.
            unsafe {
                let pair = parts.add(term);
                pair.write_unaligned(simd.deinterleave_shfl_f32s(pair.read_unaligned()));
            }
        }
    }
}

/// How many of the offsets are within a cache line of the one before them.
fn near(offsets: &[usize]) -> usize {
    offsets.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < LINE).count()
}
/// Whether each offset is one more than the one before.
pub fn are_neighbours(offsets: &[usize]) -> bool {
    offsets.windows(2).all(|pair| pair[0] + 1 == pair[1])
}

type Four = [Complex; 4];
/// Gathers a few terms of a panel into `out`, `width` elements for each term. Elements beyond the panel's lines become 0.
///
/// # Safety
/// The rule of [`Packed::evenly`]. `out` has room for `width` elements for each term, and there are no more than `width`
/// lines. `neighbours` is true only if the lines are neighbours.
#[inline(always)]
unsafe fn gather(
    source: *const Complex,
    lines: &[usize],
    terms: &[usize],
    neighbours: bool,
    out: *mut Complex,
    width: usize,
) {
    let count = lines.len();
    // SAFETY: the rule above covers all that is read and written here.
    unsafe {
        if count < width {
            for y in 0..terms.len() {
                out.add(y * width + count).write_bytes(0, width - count);
            }
        }
        if neighbours {
            for (y, term) in terms.iter().enumerate() {
                copy_run(source.add(lines[0] + term), out.add(y * width), count);
            }
        } else {
            // Two terms at a time: where the two are neighbours, squares of 2 by 2 are transposed in registers.
            for (y, pair) in terms.chunks(2).enumerate() {
                let out = out.add(2 * y * width);
                if let [first, second] = *pair
                    && second == first + 1
                    && count > 1
                {
                    // The last square may overlap the one before it.
                    for x in (0..count).step_by(2).map(|x| x.min(count - 2)) {
                        let (upper, lower) = (source.add(lines[x] + first), source.add(lines[x + 1] + first));
                        transpose(upper, lower, out.add(x), out.add(width + x));
                    }
                } else {
                    for (y, term) in pair.iter().enumerate() {
                        for (x, line) in lines.iter().enumerate() {
                            out.add(y * width + x).write(source.add(line + term).read());
                        }
                    }
                }
            }
        }
    }
}

/// Transposes a square of 2 by 2: two elements each of the rows `upper` and `lower` become its columns, written to the rows
/// `first` and `second`.
///
/// # Safety
/// Two elements can be read at `upper` and `lower`, and written at `first` and `second`.
#[inline(always)]
unsafe fn transpose(upper: *const Complex, lower: *const Complex, first: *mut Complex, second: *mut Complex) {
    // SAFETY: the rule above covers what is read and written, and every x86-64 has these instructions.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            // Written with intrinsics because the compiler, left to itself, takes the elements apart.
            use core::arch::x86_64::{_mm_loadu_pd, _mm_storeu_pd, _mm_unpackhi_pd, _mm_unpacklo_pd};
            let (a, b) = (_mm_loadu_pd(upper.cast()), _mm_loadu_pd(lower.cast()));
            _mm_storeu_pd(first.cast(), _mm_unpacklo_pd(a, b));
            _mm_storeu_pd(second.cast(), _mm_unpackhi_pd(a, b));
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let ([a, b], [c, d]) = (upper.cast::<[Complex; 2]>().read(), lower.cast::<[Complex; 2]>().read());
            first.cast::<[Complex; 2]>().write([a, c]);
            second.cast::<[Complex; 2]>().write([b, d]);
        }
    }
}

/// Copies a few elements without a call of `memcpy`.
///
/// # Safety
/// `count` elements can be read at `from` and written at `to`, and the two do not overlap.
#[inline(always)]
unsafe fn copy_run(from: *const Complex, to: *mut Complex, count: usize) {
    // SAFETY: no access goes beyond `count` elements. The last four may be copied twice.
    unsafe {
        if count < 4 {
            (0..count).for_each(|i| to.add(i).write(from.add(i).read()));
            return;
        }
        for i in (0..count - 3).step_by(4) {
            to.add(i).cast::<Four>().write(from.add(i).cast::<Four>().read());
        }
        to.add(count - 4).cast::<Four>().write(from.add(count - 4).cast::<Four>().read());
    }
}
