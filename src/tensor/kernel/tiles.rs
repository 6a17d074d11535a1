//! The loops of a contraction: tiles of C, blocks of the sum, and the choice between direct and gathered operands.
use super::fuse::{self, Side, common_stride};
use super::gather::Panel;
use super::multiply::{Matrix, multiply};
use super::thin::{self, Thin};
use super::{Axis, Complex, Product, threads, volume};
use crate::error::Result;

/// Terms of a sum per matrix product.
pub const DEPTH: usize = 512;
/// Rows and columns of a tile of C. Tiles of this size with blocks of this depth reach what faer reaches on a
/// whole product, and bound what it packs.
const ROWS: usize = 1024;
const COLUMNS: usize = 960;
/// Columns per tile are a multiple of this, faer's panel for complex elements.
const PANEL: usize = 48;
/// A block that meets fewer rows or columns than this is not worth gathering.
const REUSED: usize = 32;
/// Multiply-adds from which a second thread pays for being woken.
const WORTH_SHARING: f64 = 1e6;

/// A product in its final form: fused axes, with C's smallest stride among the columns.
struct Plan<'a> {
    rows: Vec<Axis>,
    columns: Vec<Axis>,
    sums: Vec<Axis>,
    left: *const Complex,
    right: *const Complex,
    out: *mut Complex,
    exponents: (i32, i32),
    accumulate: bool,
    depth: usize,
    tile: (usize, usize),
    size: (usize, usize),
    terms: core::marker::PhantomData<&'a Complex>,
}
// SAFETY: the operands are only read, and every tile of `out` is written by one thread.
unsafe impl Sync for Plan<'_> {}

/// Computes C.
///
/// # Safety
/// `left` and `right` are readable and `out` writable wherever the product's axes reach; different positions of
/// rows and columns are different elements of `out`.
pub unsafe fn run(
    product: &Product,
    left: *const Complex,
    right: *const Complex,
    out: *mut Complex,
    tick: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<()> {
    let smallest =
        |axes: &[Axis]| axes.iter().filter(|a| a.size > 1).map(|a| a.other).min().unwrap_or(usize::MAX);
    let swapped = smallest(&product.rows) < smallest(&product.columns);
    let mut sums = product.sums.clone();
    let (mut rows, mut columns) = (product.rows.clone(), product.columns.clone());
    let (mut left, mut right) = (left, right);
    let mut exponents = (product.left_exponent, product.right_exponent);
    if swapped {
        core::mem::swap(&mut rows, &mut columns);
        core::mem::swap(&mut left, &mut right);
        exponents = (exponents.1, exponents.0);
        for axis in &mut sums {
            core::mem::swap(&mut axis.input, &mut axis.other);
        }
    }
    let rows = fuse::fuse(rows, |a| a.other);
    let columns = fuse::fuse(columns, |a| a.other);
    let size = (volume(&rows), volume(&columns));
    let sums = order_sums(sums, size);
    let depth = volume(&sums);
    let work = size.0 as f64 * size.1 as f64 * depth as f64;
    let threads = if work < WORTH_SHARING { 1 } else { threads() };
    if size.0 == 1 && exponents == (0, 0) && thin::is_thin(&columns, &sums) {
        let thin = Thin { columns: &columns, sums: &sums, left, right, out, accumulate: product.accumulate };
        let parts = thin.parts();
        // SAFETY: forwarded; every part is taken once.
        let work = |(): &mut (), part: usize| unsafe { thin.part(part) };
        return threads::share(threads, parts, || (), work, &mut |done| tick(done as f64 / parts as f64));
    }
    let tile = tile_size(size, threads);
    let plan = Plan {
        rows,
        columns,
        sums,
        left,
        right,
        out,
        exponents,
        accumulate: product.accumulate,
        depth,
        tile,
        size,
        terms: core::marker::PhantomData,
    };
    let tiles = size.0.div_ceil(tile.0) * size.1.div_ceil(tile.1);
    if threads > 1 && tiles < threads && depth >= 8 * DEPTH {
        plan.share_sum(threads);
        return tick(1.0);
    }
    let work = |worker: &mut Worker, part| plan.tile(worker, part, 0..plan.depth, None);
    threads::share(threads, tiles, Worker::new, work, &mut |done| tick(done as f64 / tiles as f64))
}

/// The order of the summed axes is free: take the one that fuses best, the larger operand's when both do.
fn order_sums(sums: Vec<Axis>, size: (usize, usize)) -> Vec<Axis> {
    if sums.len() < 2 {
        return fuse::fuse(sums, |a| a.input);
    }
    let by_left = fuse::fuse(sums.clone(), |a| a.input);
    let by_right = fuse::fuse(sums, |a| a.other);
    match by_left.len().cmp(&by_right.len()) {
        core::cmp::Ordering::Less => by_left,
        core::cmp::Ordering::Greater => by_right,
        core::cmp::Ordering::Equal if size.0 >= size.1 => by_left,
        core::cmp::Ordering::Equal => by_right,
    }
}

/// Tiles as large as allowed, but enough of them, and equal enough, for all threads.
fn tile_size((rows, columns): (usize, usize), threads: usize) -> (usize, usize) {
    let mut tile = (rows.min(ROWS), columns.min(COLUMNS));
    let count = |tile: (usize, usize)| rows.div_ceil(tile.0) * columns.div_ceil(tile.1);
    // The last tile leaves all other threads idle. Halving wide tiles costs nothing, since what is packed of B is used
    // by as many rows as before; narrow ones are halved only for want of work for everyone.
    let enough = |tile: (usize, usize)| match count(tile) {
        _ if threads == 1 => true,
        parts if tile.1 > COLUMNS / 2 => parts >= 8 * threads,
        parts => parts >= 4 * threads,
    };
    while !enough(tile) && (tile.0 > 128 || tile.1 > 2 * PANEL) {
        if tile.0 >= tile.1 && tile.0 > 128 || tile.1 <= 2 * PANEL {
            tile.0 = tile.0.div_ceil(2);
        } else {
            tile.1 = tile.1.div_ceil(2).next_multiple_of(PANEL);
        }
    }
    // Even out the last tile.
    tile.0 = rows.div_ceil(rows.div_ceil(tile.0));
    tile.1 = columns.div_ceil(columns.div_ceil(tile.1)).next_multiple_of(PANEL.min(columns)).min(columns);
    tile
}

/// What one thread keeps between tiles: lists of offsets, and panels with what they hold.
struct Worker {
    rows: Vec<usize>,
    columns: Vec<usize>,
    out_rows: Vec<usize>,
    out_columns: Vec<usize>,
    left_sums: Vec<usize>,
    right_sums: Vec<usize>,
    left: Panel,
    right: Panel,
    /// First row and first term of what `left` holds now: tiles of one row reuse it.
    left_holds: Option<(usize, usize)>,
    scattered: Vec<Complex>,
}
impl Worker {
    fn new() -> Worker {
        Worker {
            rows: Vec::new(),
            columns: Vec::new(),
            out_rows: Vec::new(),
            out_columns: Vec::new(),
            left_sums: Vec::new(),
            right_sums: Vec::new(),
            left: Panel::new(),
            right: Panel::new(),
            left_holds: None,
            scattered: Vec::new(),
        }
    }
}

impl Plan<'_> {
    /// Computes one tile over a range of the sum, into C or into `own`, a dense matrix of the tile's size.
    fn tile(
        &self,
        worker: &mut Worker,
        part: usize,
        terms: core::ops::Range<usize>,
        own: Option<&mut [Complex]>,
    ) {
        let across = self.size.1.div_ceil(self.tile.1);
        let (row, column) = (part / across * self.tile.0, part % across * self.tile.1);
        let (m, n) = (self.tile.0.min(self.size.0 - row), self.tile.1.min(self.size.1 - column));
        fuse::offsets(&self.rows, Side::Input, row, m, &mut worker.rows);
        fuse::offsets(&self.rows, Side::Other, row, m, &mut worker.out_rows);
        fuse::offsets(&self.columns, Side::Input, column, n, &mut worker.columns);
        fuse::offsets(&self.columns, Side::Other, column, n, &mut worker.out_columns);
        let regular = common_stride(&worker.out_rows).zip(common_stride(&worker.out_columns));
        // A tile that is written elsewhere first is added to C at the end.
        let add = self.accumulate && own.is_none() && regular.is_some();
        let (target, scatter) = match (own, regular) {
            (Some(own), _) => (Matrix { start: own.as_mut_ptr(), row_stride: n, column_stride: 1 }, false),
            (None, Some((row_stride, column_stride))) => {
                // SAFETY: the first element of the tile, inside C.
                let start = unsafe { self.out.add(worker.out_rows[0] + worker.out_columns[0]) };
                (Matrix { start, row_stride, column_stride }, false)
            }
            (None, None) => {
                worker.scattered.resize(m * n, Complex::new(0.0, 0.0));
                (Matrix { start: worker.scattered.as_mut_ptr(), row_stride: n, column_stride: 1 }, true)
            }
        };
        for first in terms.clone().step_by(DEPTH) {
            let k = DEPTH.min(terms.end - first);
            fuse::offsets(&self.sums, Side::Input, first, k, &mut worker.left_sums);
            fuse::offsets(&self.sums, Side::Other, first, k, &mut worker.right_sums);
            // SAFETY: all sums of offsets are inside the operands by the rule of `run`.
            let (left, right) = unsafe { (self.left_block(worker, row, first), self.right_block(worker)) };
            // SAFETY: both blocks are readable; the target is this tile, which no other thread touches.
            unsafe { multiply([m, n, k], left, right, target, first != terms.start || add) };
        }
        if scatter {
            for (line, base) in worker.scattered.chunks(n).zip(&worker.out_rows) {
                for (z, offset) in line.iter().zip(&worker.out_columns) {
                    // SAFETY: an element of this tile of C.
                    unsafe { self.put(base + offset, *z) };
                }
            }
        }
    }
    /// Writes an element of C, or adds to it.
    ///
    /// # Safety
    /// `place` is one of C's elements, which nobody else uses now.
    unsafe fn put(&self, place: usize, value: Complex) {
        // SAFETY: the rule above.
        unsafe {
            let element = self.out.add(place);
            element.write(if self.accumulate { element.read() + value } else { value });
        }
    }
    /// The block of A: as it lies where the sum is fastest (or the block is hardly used), else gathered that way.
    ///
    /// # Safety
    /// The rule of `run`.
    unsafe fn left_block(&self, worker: &mut Worker, row: usize, first: usize) -> Matrix {
        if self.exponents.0 == 0
            && let Some(matrix) = direct(self.left, &worker.rows, &worker.left_sums)
            && (matrix.column_stride == 1 || worker.columns.len() < REUSED)
        {
            return matrix;
        }
        if worker.left_holds != Some((row, first)) {
            // SAFETY: forwarded.
            unsafe { worker.left.fill(self.left, &worker.rows, &worker.left_sums, self.exponents.0) };
            worker.left_holds = Some((row, first));
        }
        Matrix { start: worker.left.as_ptr(), row_stride: worker.left.pitch(), column_stride: 1 }
    }
    /// The block of B: as it lies where its columns are fastest (or it is hardly used), else gathered that way.
    ///
    /// # Safety
    /// The rule of `run`.
    unsafe fn right_block(&self, worker: &mut Worker) -> Matrix {
        if self.exponents.1 == 0
            && let Some(matrix) = direct(self.right, &worker.right_sums, &worker.columns)
            && (matrix.column_stride == 1 || worker.rows.len() < REUSED)
        {
            return matrix;
        }
        // SAFETY: forwarded.
        unsafe { worker.right.fill(self.right, &worker.right_sums, &worker.columns, self.exponents.1) };
        Matrix { start: worker.right.as_ptr(), row_stride: worker.right.pitch(), column_stride: 1 }
    }
    /// A small C with a long sum: each thread sums its share of the terms into a C of its own.
    fn share_sum(&self, threads: usize) {
        let single = Plan {
            tile: self.size,
            rows: self.rows.clone(),
            columns: self.columns.clone(),
            sums: self.sums.clone(),
            ..*self
        };
        let share = self.depth.div_ceil(2 * threads).next_multiple_of(DEPTH);
        let parts = self.depth.div_ceil(share);
        let zero = Complex::new(0.0, 0.0);
        let partial = std::sync::Mutex::new(vec![Vec::new(); parts]);
        let work = |worker: &mut Worker, part: usize| {
            let mut own = vec![zero; self.size.0 * self.size.1];
            single.tile(worker, 0, part * share..self.depth.min((part + 1) * share), Some(&mut own));
            partial.lock().unwrap_or_else(|e| e.into_inner())[part] = own;
        };
        threads::each(threads, parts, Worker::new, work);
        let partial = partial.into_inner().unwrap_or_else(|e| e.into_inner());
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        fuse::offsets(&self.rows, Side::Other, 0, self.size.0, &mut rows);
        fuse::offsets(&self.columns, Side::Other, 0, self.size.1, &mut columns);
        for (i, place) in rows.iter().flat_map(|r| columns.iter().map(move |c| r + c)).enumerate() {
            let sum = partial.iter().fold(zero, |sum, own| sum + own[i]);
            // SAFETY: an element of C by the rule of `run`; all threads are done.
            unsafe { self.put(place, sum) };
        }
    }
}

/// A block as it lies, if its strides are regular and one of them is 1 (or it is a single line).
fn direct(start: *const Complex, lines: &[usize], places: &[usize]) -> Option<Matrix> {
    let (row_stride, column_stride) = (common_stride(lines)?, common_stride(places)?);
    let near = row_stride == 1 || column_stride == 1 || lines.len() == 1 || places.len() == 1;
    // SAFETY: the first element of the block, inside the operand by the rule of `run`.
    near.then(|| Matrix { start: unsafe { start.add(lines[0] + places[0]) }, row_stride, column_stride })
}
