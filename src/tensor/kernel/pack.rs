//! Packing: a block of a strided tensor becomes panels in the order in which the product reads them.
//!
//! A panel holds a few neighbouring lines of the block (rows of A, columns of B), term by term: element (line x, term y) of a
//! panel of w lines is at y w + x. What lies side by side in memory is read in whole cache lines, along the terms or across
//! the lines, and little of it at once: strides that are powers of two put everything into few sets of the cache.
use super::pack_buffer::PackBuffer;
use super::{Complex, scan};
use core::ops::Range;
use pulp::Simd;

/// Terms of a panel that are packed at one time: a cache line of each of its lines.
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
    /// The lines of each panel, and where it starts.
    pub fn panels(&self) -> impl ExactSizeIterator<Item = (Range<usize>, *const Complex)> {
        let start = self.buffer.start().cast_const();
        // SAFETY: a panel lies inside the buffer behind those before it.
        self.panels
            .iter()
            .map(move |panel| (panel.lines.clone(), unsafe { start.add(panel.lines.start * self.depth) }))
    }
    /// Packs a block into panels of equal width, or nearly, none wider than `most`.
    ///
    /// # Safety
    /// Every sum of a line and a term of the block is inside what its source points to.
    #[inline(always)]
    pub unsafe fn evenly(&mut self, block: &Block, most: usize) {
        let count = block.lines.len().div_ceil(most);
        let (width, wider) = (block.lines.len() / count, block.lines.len() % count);
        let start = |i: usize| i * width + i.min(wider);
        self.divide(block, (0..count).map(|i| start(i)..start(i + 1)));
        // SAFETY: forwarded.
        unsafe { self.fill(None::<pulp::Scalar>, block) };
    }
    /// Packs a block into panels of a vector of lines, the last filled up with zeros. Each term is two vectors, of real and of
    /// imaginary parts, in an order of their own.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    pub unsafe fn dealt<S: Simd>(&mut self, simd: S, block: &Block) {
        let count = block.lines.len();
        self.divide(block, (0..count).step_by(S::F32_LANES).map(|x| x..count.min(x + S::F32_LANES)));
        // SAFETY: forwarded.
        unsafe { self.fill(Some(simd), block) };
    }
    fn divide(&mut self, block: &Block, panels: impl Iterator<Item = Range<usize>>) {
        self.panels.clear();
        self.panels.extend(
            panels.map(|lines| Panel { neighbours: are_neighbours(&block.lines[lines.clone()]), lines }),
        );
        self.depth = block.terms.len();
    }
    /// # Safety
    /// As above.
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
            // SAFETY: forwarded; there is room for all panels.
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
    // SAFETY: this part of the panel is inside the buffer.
    let part = unsafe { out.add(panel.lines.start * depth + first * width) };
    if let Some(simd) = deal
        && panel.neighbours
        && lines.len() == width
        && block.exponent == 0
    {
        // Straight from the source to their places.
        let parts = part.cast::<[S::f32s; 2]>();
        for (y, term) in terms.iter().enumerate() {
            // SAFETY: the lines are neighbours in the source, a pair of vectors long, as each term of the panel is.
            unsafe {
                let pair = block.source.add(lines[0] + term).cast::<[S::f32s; 2]>().read_unaligned();
                parts.add(y).write_unaligned(simd.deinterleave_shfl_f32s(pair));
            }
        }
        return;
    }
    // SAFETY: as above; the source is the caller's promise.
    let part = unsafe {
        // Loops over a number that is known are faster.
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

/// How many of the offsets are within a cache line of the one before.
fn near(offsets: &[usize]) -> usize {
    offsets.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < LINE).count()
}
/// Whether each offset is one more than the one before.
pub fn are_neighbours(offsets: &[usize]) -> bool {
    offsets.windows(2).all(|pair| pair[0] + 1 == pair[1])
}

type Four = [Complex; 4];
/// Gathers a few terms of a panel into `out`, `width` elements a term; what is beyond the panel's lines becomes 0.
///
/// # Safety
/// The rule of [`Packed::evenly`]; `out` has room for `width` elements a term, and `lines` are no more than `width`.
/// `neighbours`: whether the lines are.
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
    // SAFETY: the rule above, for all that is read and written here.
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
            // Two terms at a time: squares of 2 by 2 are transposed in registers where they lie side by side.
            for (y, pair) in terms.chunks(2).enumerate() {
                let out = out.add(2 * y * width);
                if let [first, second] = *pair
                    && second == first + 1
                    && count > 1
                {
                    // The last may overlap the one before it.
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

/// Two elements of `upper` and of `lower` become the columns of two rows, of `first` and of `second`.
///
/// # Safety
/// Two elements may be read or written at each place.
#[inline(always)]
unsafe fn transpose(upper: *const Complex, lower: *const Complex, first: *mut Complex, second: *mut Complex) {
    // SAFETY: the rule above; every x86-64 has these instructions.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            // The compiler takes the elements apart where it is left to it.
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

/// Copies a few elements without a call.
///
/// # Safety
/// Both sides have room for `count` elements and do not overlap.
#[inline(always)]
unsafe fn copy_run(from: *const Complex, to: *mut Complex, count: usize) {
    // SAFETY: the rule above; the last four may be copied twice.
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
