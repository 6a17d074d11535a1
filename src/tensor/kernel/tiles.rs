//! The loops of a contraction: tiles of C, blocks of the sum, and when each block is packed.
use super::fuse::{self, Side};
use super::multiply::{self, Left, Target};
use super::pack::{Block, Packed, are_neighbours};
use super::thin::{self, Thin};
use super::{Axis, Complex, Product, threads, volume};
use crate::error::Result;
use core::cell::Cell;
use core::ops::Range;
use pulp::Arch;

/// Most terms of a sum that are multiplied at one time: a panel of A with as many stays in the first-level cache.
pub const DEPTH: usize = 384;
/// Most elements of B that are packed at one time: they stay in the second-level cache.
const BLOCK: usize = 192 * DEPTH;
/// Rows of A are not worth packing if they are multiplied by no more columns than this.
const REUSED: usize = 64;
/// Most elements of A that stay packed: two huge pages. If the whole sum of a tile fits, tiles of the same rows pack A only
/// once.
const STAYING: usize = 1 << 19;
/// Most rows of a tile of C. A is packed for as many rows at one time; B is packed once for each tile.
const MOST_ROWS: usize = STAYING / DEPTH / 48 * 48;
/// Most columns of a tile of C.
const MOST_COLUMNS: usize = 4096;
/// Rows and columns of a tile are a multiple of this, so that only the last panel of B is filled up with zeros.
const PANEL: usize = 16;
/// Tiles with no more rows and columns than this are not made smaller to have enough for all threads.
const SMALLEST: usize = 96;
/// Tiles that find A packed are not made narrower than this many columns to give threads equal shares.
const NARROWEST: usize = 256;
/// Multiply-adds from which a second thread pays for being woken.
const WORTH_SHARING: f64 = 1e6;

/// A product in its final form: fused axes, with C's smallest stride among the columns.
struct Plan {
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
    arch: Arch,
}
// SAFETY: the operands are only read, and every tile of `out` is written by one thread.
unsafe impl Sync for Plan {}

/// Computes C.
///
/// # Safety
/// `left` and `right` are readable and `out` is writable wherever the product's axes reach. Different positions of rows and
/// columns are different elements of `out`. Nobody else uses these. If the product is to be added to what they hold
/// (`accumulate`), they have been written.
pub unsafe fn run(
    product: &Product,
    left: *const Complex,
    right: *const Complex,
    out: *mut Complex,
    accumulate: bool,
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
    let sums = order_sums(sums, &rows, &columns);
    let depth = volume(&sums);
    let work = size.0 as f64 * size.1 as f64 * depth as f64;
    let threads = if work < WORTH_SHARING { 1 } else { threads() };
    if size.0 == 1 && exponents == (0, 0) && thin::is_thin(&columns, &sums) {
        let arch = Arch::new();
        let thin = Thin { columns: &columns, sums: &sums, left, right, out, accumulate, arch };
        let parts = thin.parts();
        // SAFETY: this function has the same rule, and each part is taken by one thread only.
        let work = |(): &mut (), part: usize| unsafe { thin.part(part) };
        return threads::share(threads, parts, || (), work, &mut |done| tick(done as f64 / parts as f64));
    }
    let tile = tile_size(size, depth, threads);
    let plan = Plan {
        rows,
        columns,
        sums,
        left,
        right,
        out,
        exponents,
        accumulate,
        depth,
        tile,
        size,
        arch: Arch::new(),
    };
    let tiles = size.0.div_ceil(tile.0) * size.1.div_ceil(tile.1);
    if threads > 1 && tiles < threads && depth >= 8 * DEPTH {
        plan.share_sum(threads);
        return tick(1.0);
    }
    let work = |worker: &mut Borrowed, part| plan.tile(worker.worker(), part, 0..plan.depth, None);
    threads::share(threads, tiles, Borrowed::new, work, &mut |done| tick(done as f64 / tiles as f64))
}

/// Chooses the order of the summed axes, which is free. An operand whose neighbours lie along a sum is read in whole cache
/// lines only if that sum comes last.
/// - If this is so for one operand only, the order is that operand's.
/// - Otherwise it is the order that fuses to fewer axes, or the larger operand's if both fuse to as many.
fn order_sums(sums: Vec<Axis>, rows: &[Axis], columns: &[Axis]) -> Vec<Axis> {
    if sums.len() < 2 {
        return fuse::fuse(sums, |a| a.input);
    }
    let smallest = |strides: &mut dyn Iterator<Item = usize>| strides.min().unwrap_or(usize::MAX);
    let along = |stride: fn(&Axis) -> usize, kept: &[Axis]| {
        smallest(&mut sums.iter().map(stride)) < smallest(&mut kept.iter().map(|a| a.input))
    };
    let along = (along(|a| a.input, rows), along(|a| a.other, columns));
    let by_left = fuse::fuse(sums.clone(), |a| a.input);
    let by_right = fuse::fuse(sums, |a| a.other);
    let left_first = match along {
        (true, false) => true,
        (false, true) => false,
        _ if by_left.len() != by_right.len() => by_left.len() < by_right.len(),
        _ => volume(rows) >= volume(columns),
    };
    if left_first { by_left } else { by_right }
}

/// Chooses the rows and columns of a tile. Tiles are as large as allowed, but there are enough of them, and they are equal
/// enough, to keep all threads busy: while the last tile is computed, all other threads are idle.
///
/// If other work holds one thread up, the others can make up for it only by whole tiles. So there are more tiles where that
/// costs nothing, because they find A packed.
fn tile_size((rows, columns): (usize, usize), depth: usize, threads: usize) -> (usize, usize) {
    let mut tile = (rows.min(MOST_ROWS), columns.min(MOST_COLUMNS));
    let too_few = |tile: (usize, usize), each: usize| {
        threads > 1 && rows.div_ceil(tile.0) * columns.div_ceil(tile.1) < each * threads
    };
    while too_few(tile, 2) && (tile.0 > SMALLEST || tile.1 > SMALLEST) {
        if tile.0 >= tile.1 {
            tile.0 = tile.0.div_ceil(2);
        } else {
            tile.1 = tile.1.div_ceil(2);
        }
    }
    while too_few(tile, 8) && tile.1 >= 2 * NARROWEST && tile.0 * depth <= STAYING {
        tile.1 = tile.1.div_ceil(2);
    }
    // Make the last tile as large as the others, nearly.
    let even = |all: usize, most: usize| all.div_ceil(all.div_ceil(most)).next_multiple_of(PANEL).min(all);
    (even(rows, tile.0), even(columns, tile.1))
}

/// What a thread keeps between tiles: lists of offsets, and packed blocks.
#[derive(Default)]
struct Worker {
    rows: Vec<usize>,
    columns: Vec<usize>,
    out_rows: Vec<usize>,
    out_columns: Vec<usize>,
    left_sums: Vec<usize>,
    /// Offsets of the terms of A that are packed at one time; `left_sums` are those of one block.
    packed_sums: Vec<usize>,
    right_sums: Vec<usize>,
    left: Packed,
    right: Packed,
    /// First row and first term of what `left` holds now, so that tiles of the same rows can reuse it.
    left_holds: Option<(usize, usize)>,
}

thread_local! {
    /// This thread's worker, kept from product to product. It holds three huge pages at most. With fresh memory every small
    /// page cost a fault, a third of the time of a product of 192 cubed. Boxed, because all thread-local variables of a library
    /// that is opened by dlopen share little room (os/thread_pointer.c).
    static KEPT: Cell<Option<Box<Worker>>> = const { Cell::new(None) };
}
/// The thread's worker, borrowed for one product. It is a new one if the thread's own is borrowed already, or if the thread is
/// ending.
struct Borrowed(Option<Box<Worker>>);
impl Borrowed {
    fn new() -> Borrowed {
        Borrowed(KEPT.try_with(Cell::take).unwrap_or_default())
    }
    fn worker(&mut self) -> &mut Worker {
        self.0.get_or_insert_default()
    }
}
impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(worker) = &mut self.0 {
            worker.left_holds = None;
        }
        // If the thread is ending, there is nowhere to keep the worker, and it is dropped.
        let _ = KEPT.try_with(|kept| kept.set(self.0.take()));
    }
}

impl Plan {
    /// Computes one tile over a range of the sum, into C or into `own`, a dense matrix of the tile's size.
    fn tile(&self, worker: &mut Worker, part: usize, terms: Range<usize>, own: Option<&mut [Complex]>) {
        let across = self.size.1.div_ceil(self.tile.1);
        let (row, column) = (part / across * self.tile.0, part % across * self.tile.1);
        let (m, n) = (self.tile.0.min(self.size.0 - row), self.tile.1.min(self.size.1 - column));
        let w = worker;
        fuse::offsets(&self.rows, Side::Input, row, m, &mut w.rows);
        fuse::offsets(&self.columns, Side::Input, column, n, &mut w.columns);
        let (out, accumulate) = match own {
            Some(own) => {
                w.out_rows.clear();
                w.out_rows.extend((0..m).map(|row| row * n));
                w.out_columns.clear();
                w.out_columns.extend(0..n);
                (own.as_mut_ptr(), false)
            }
            None => {
                fuse::offsets(&self.rows, Side::Other, row, m, &mut w.out_rows);
                fuse::offsets(&self.columns, Side::Other, column, n, &mut w.out_columns);
                (self.out, self.accumulate)
            }
        };
        // Nearly the same number of terms in each block.
        let depth = terms.len().div_ceil(terms.len().div_ceil(DEPTH));
        let stays = m * terms.len() <= STAYING;
        for first in terms.clone().step_by(depth) {
            let count = depth.min(terms.end - first);
            fuse::offsets(&self.sums, Side::Input, first, count, &mut w.left_sums);
            fuse::offsets(&self.sums, Side::Other, first, count, &mut w.right_sums);
            let block =
                |terms| Block { source: self.left, lines: &w.rows, terms, exponent: self.exponents.0 };
            let lying = block(&w.left_sums);
            let left = if n <= REUSED && lying.exponent == 0 && are_neighbours(lying.terms) {
                Left::AsItLies(&lying)
            } else {
                let packed = if stays { terms.clone() } else { first..first + count };
                if w.left_holds != Some((row, packed.start)) {
                    fuse::offsets(&self.sums, Side::Input, packed.start, packed.len(), &mut w.packed_sums);
                    // SAFETY: by the rule of `run`, all sums of these offsets are inside the operand.
                    unsafe { multiply::pack_left(self.arch, &block(&w.packed_sums), &mut w.left) };
                    w.left_holds = Some((row, packed.start));
                }
                Left::Packed(&w.left, first - packed.start)
            };
            // The fewer terms a block has, the more of its columns are packed at one time, and the longer the lines of C that
            // are written.
            let width = BLOCK / count / PANEL * PANEL;
            for (columns, out_columns) in w.columns.chunks(width).zip(w.out_columns.chunks(width)) {
                let block = Block {
                    source: self.right,
                    lines: columns,
                    terms: &w.right_sums,
                    exponent: self.exponents.1,
                };
                let add = accumulate || first != terms.start;
                let target = Target { out, rows: &w.out_rows, columns: out_columns, add };
                // SAFETY: by the rule of `run`, all sums of offsets are inside B and C. The target is this tile, which no other
                // thread touches.
                unsafe {
                    multiply::pack_right(self.arch, &block, &mut w.right);
                    multiply::multiply(self.arch, left, &w.right, &target);
                }
            }
        }
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
        let work = |worker: &mut Borrowed, part: usize| {
            let mut own = vec![zero; self.size.0 * self.size.1];
            single.tile(worker.worker(), 0, part * share..self.depth.min((part + 1) * share), Some(&mut own));
            partial.lock().unwrap_or_else(|e| e.into_inner())[part] = own;
        };
        threads::each(threads, parts, Borrowed::new, work);
        let partial = partial.into_inner().unwrap_or_else(|e| e.into_inner());
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        fuse::offsets(&self.rows, Side::Other, 0, self.size.0, &mut rows);
        fuse::offsets(&self.columns, Side::Other, 0, self.size.1, &mut columns);
        for (i, place) in rows.iter().flat_map(|r| columns.iter().map(move |c| r + c)).enumerate() {
            let sum = partial.iter().fold(zero, |sum, own| sum + own[i]);
            // SAFETY: by the rule of `run` this is an element of C, and all other threads are done with it.
            unsafe {
                let element = self.out.add(place);
                element.write(if self.accumulate { element.read() + sum } else { sum });
            }
        }
    }
}
