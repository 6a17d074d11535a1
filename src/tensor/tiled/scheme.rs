//! Choosing how a product is cut, and which of its tensors are rearranged, for the least traffic that the memory allows.
use super::blocks::Blocks;
use super::chunked::Extent;
use super::split::{Group, Piece};

/// How a product is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheme {
    /// About how many slabs of rows there are (see [`Piece::split`]).
    slabs: usize,
    /// How many bands of columns each slab is cut into. A slab and a band make a cell.
    bands: usize,
    /// How many pieces come and go while a cell stays.
    pieces: usize,
    /// Whether the pieces are parts of the sum; else they are parts of the columns.
    pub over_sums: bool,
    /// Whether the slab of A stays while the pieces come and go; else a part of it comes with each piece.
    pub keep_left: bool,
    /// Whether all of B stays; else a part of it comes with each piece.
    pub keep_right: bool,
    /// The blocks of left, right and out, if they are rearranged.
    pub blocks: [Option<Blocks>; 3],
    /// About how many elements are brought in and sent out.
    pub traffic: f64,
    /// About how many elements are pinned at one time or on their way in.
    pub pinned: usize,
    /// How many of these are parts of the operands that come with each piece.
    pub passing: usize,
}

/// What a scheme is chosen for.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// The product.
    pub whole: &'a Piece,
    /// Elements that may be pinned at one time.
    pub budget: usize,
    /// Which tensors are kept compressed within a tolerance.
    pub compressed: [bool; 3],
    /// Elements of a chunk of rearranged tensors; `None` if tensors must stay as they are.
    pub rearranging: Option<usize>,
}

impl Choice<'_> {
    /// The scheme with the least traffic among those that pin no more than the budget. If none does, the one that pins least.
    pub fn best(&self) -> Scheme {
        /// Tensors stay as they are if that moves less than this many times the least possible, or less than this many times
        /// what a scheme with copies moves. Copies have to be written, too. That takes longer than reading, and there is
        /// nothing to multiply meanwhile.
        const WORTH: f64 = 2.0;
        /// Compressed tensors stay as they are, and are decoded again and again, if some scheme without copies of them moves
        /// no more than this many times the least possible. Copies of them would be in the clear.
        const FAR: f64 = 8.0;
        let mut search = Search::new(self);
        search.in_place();
        let uncut = search.measure([1; 3], true, true, [false; 3]);
        let in_place = search.best.take().unwrap_or(uncut);
        if search.fits(&in_place) && in_place.traffic <= WORTH * search.least() {
            return in_place;
        }
        search.limit = if search.fits(&in_place) { in_place.traffic / WORTH } else { f64::INFINITY };
        search.rearranged(false);
        let is_good = |scheme: &Scheme| search.fits(scheme) && scheme.traffic <= FAR * search.least();
        let good = is_good(&in_place) || search.best.as_ref().is_some_and(is_good);
        if !good && self.compressed.contains(&true) {
            search.rearranged(true);
        }
        match search.best {
            Some(best) if self.fits(&best) && best.traffic < search.limit => best,
            _ => in_place,
        }
    }
    fn fits(&self, scheme: &Scheme) -> bool {
        scheme.pinned <= self.budget
    }
}

/// A search among the schemes, and the best so far.
struct Search<'a> {
    choice: &'a Choice<'a>,
    /// How many positions rows, columns and sums have.
    positions: [usize; 3],
    best: Option<Scheme>,
    /// Schemes that move more are of no interest.
    limit: f64,
}

impl Search<'_> {
    fn new<'a>(choice: &'a Choice) -> Search<'a> {
        let product = &choice.whole.product;
        let positions = [&product.rows, &product.columns, &product.sums]
            .map(|axes| axes.iter().map(|axis| axis.size).product());
        Search { choice, positions, best: None, limit: f64::INFINITY }
    }
    fn fits(&self, scheme: &Scheme) -> bool {
        self.choice.fits(scheme)
    }
    /// Elements of all chunks of a tensor.
    fn elements(&self, tensor: usize) -> usize {
        elements(self.choice.whole.extent(tensor), self.choice.whole.chunks[tensor])
    }
    /// Elements that every scheme has to move: 2 m n k / sqrt(M), with M elements of memory, and no less than each tensor
    /// once.
    fn least(&self) -> f64 {
        let once = (0..3).map(|tensor| self.elements(tensor)).sum::<usize>() as f64;
        (2.0 * self.choice.whole.product.terms() / (self.choice.budget as f64).sqrt()).max(once)
    }
    fn offer(&mut self, scheme: Scheme) {
        let better = match &self.best {
            None => true,
            Some(old) if self.fits(old) != self.fits(&scheme) => self.fits(&scheme),
            Some(old) if self.fits(old) => scheme.is_better_than(old),
            Some(old) => scheme.pinned < old.pinned,
        };
        if better {
            self.best = Some(scheme);
        }
    }
    /// Whether a scheme that moves at least so much is beyond the limit, or worse than the best so far.
    fn is_beaten(&self, traffic: f64) -> bool {
        let beats = |best: &Scheme| self.fits(best) && traffic > best.traffic * SAME;
        traffic > self.limit || self.best.as_ref().is_some_and(beats)
    }

    /// Tries schemes that leave tensors as they are: slabs of rows, and pieces of the sum or of the columns.
    fn in_place(&mut self) {
        let [rows, columns, sums] = self.positions;
        for slabs in counts(rows) {
            // Each slab is multiplied by all of B, so more slabs move more. If B stays, their number makes no difference, and
            // fewer have been tried.
            if self.is_beaten(slabs as f64 * self.elements(1) as f64) {
                break;
            }
            for over_sums in [true, false] {
                for pieces in counts(if over_sums { sums } else { columns }) {
                    for keep_left in [true, false] {
                        // Pieces of the columns need the whole slab of A each.
                        if keep_left || over_sums {
                            self.offer(self.measure([slabs, 1, pieces], over_sums, keep_left, [false; 3]));
                        }
                    }
                }
            }
        }
    }
    /// Tries schemes with some tensors in blocks: cells of rows and columns, and pieces of the sum. Tensors that are
    /// compressed within a tolerance are copied, in the clear, only if `any` tensor may be.
    fn rearranged(&mut self, any: bool) {
        let Some(_) = self.choice.rearranging else { return };
        let movable = [0, 1, 2].map(|tensor| {
            self.choice.whole.chunks[tensor].is_some() && (any || !self.choice.compressed[tensor])
        });
        let [rows, columns, _] = self.positions;
        for slabs in counts(rows) {
            for bands in counts(columns) {
                let sides = [rows.div_ceil(slabs), columns.div_ceil(bands)];
                let cell = sides[0] * sides[1];
                // Leave out cells that do not fit, and those that are smaller than need be.
                if cell > self.choice.budget || (cell < self.choice.budget / 8 && slabs > 1 && bands > 1) {
                    continue;
                }
                for moved in 1..8 {
                    let moved = [0, 1, 2].map(|tensor| moved >> tensor & 1 == 1);
                    if (0..3).all(|tensor| movable[tensor] || !moved[tensor]) {
                        self.cells(slabs, bands, sides, moved);
                    }
                }
            }
        }
    }
    /// Offers cells with the fewest pieces of the sum that fit, and with a few more.
    fn cells(&mut self, slabs: usize, bands: usize, sides: [usize; 2], moved: [bool; 3]) {
        const MORE: usize = 4;
        let moves = |tensor: usize, passes: usize| {
            let copies = if moved[tensor] { 2 } else { 0 };
            (copies + passes) * self.elements(tensor)
        };
        if self.is_beaten((moves(0, 1) + moves(1, slabs) + moves(2, 1)) as f64) {
            return;
        }
        let [sums, budget] = [self.positions[2], self.choice.budget];
        let mut more = MORE;
        for pieces in counts(sums) {
            for keep_left in [true, false] {
                // A lower bound: one piece is worked on while another is on its way.
                let passing = if keep_left { sides[1] } else { sides[0] + sides[1] };
                let pinned = sides[0] * sides[1] + if pieces > 1 { 2 * passing * (sums / pieces) } else { 0 };
                // A slab that is in several blocks is not pinned as a whole.
                if pinned <= budget && !(keep_left && moved[0] && pieces > 1) {
                    let scheme = self.measure([slabs, bands, pieces], true, keep_left, moved);
                    more -= usize::from(!keep_left && self.fits(&scheme));
                    self.offer(scheme);
                }
            }
            if more == 0 {
                return;
            }
        }
    }

    /// The scheme for some choices, with its costs. `parts` are the numbers of slabs, bands and pieces; `moved` tells which
    /// tensors are rearranged.
    fn measure(&self, parts: [usize; 3], over_sums: bool, keep_left: bool, moved: [bool; 3]) -> Scheme {
        let chunks = self.choice.whole.chunks;
        let (slab, slabs) = self.choice.whole.first(Group::Rows, parts[0]);
        let (cell, bands) = slab.first(Group::Columns, parts[1]);
        let group = if over_sums { Group::Sums } else { Group::Columns };
        let (mut piece, pieces) = cell.first(group, parts[2]);
        let blocks = [0, 1, 2].map(|tensor| {
            let chunk = self.choice.rearranging.filter(|_| moved[tensor])?;
            Some(Blocks::new(self.choice.whole, &piece, tensor, chunk))
        });
        let chunk = |tensor: usize| blocks[tensor].as_ref().map(Blocks::chunk).or(chunks[tensor]);
        place(&blocks, &mut piece);
        let out = elements(if moved[2] { piece.out() } else { cell.out() }, chunk(2));
        let right = elements(piece.right(), chunk(1));
        let (left, left_passing) = match keep_left {
            true => (elements(if moved[0] { piece.left() } else { cell.left() }, chunk(0)), 0),
            false => (0, elements(piece.left(), chunk(0))),
        };
        // The next piece is on its way while one is worked on.
        let passing = right + left_passing;
        let moving = if pieces > 1 { 2 * passing } else { passing };
        let (cells, rounds) = ((slabs * bands) as f64, (slabs * bands * pieces) as f64);
        let keep_right = pieces == 1 && bands == 1;
        let traffic_right = if keep_right { right as f64 } else { rounds * right as f64 };
        // A chunk of C that several cells write parts of is read again.
        let times_out = if bands == 1 || moved[2] { 1.0 } else { 2.0 };
        let mut traffic = slabs as f64 * left as f64 + rounds * left_passing as f64;
        traffic += traffic_right + times_out * cells * out as f64;
        let mut pinned = out + left + moving;
        for (tensor, blocks) in blocks.iter().enumerate() {
            if let (Some(blocks), Some(chunk)) = (blocks, chunks[tensor]) {
                traffic += (self.elements(tensor) + blocks.elements()) as f64;
                // For copying: the chunk that is copied, the one that comes next, and a chunk of each block that receives some
                // of it.
                pinned = pinned.max(blocks.open(chunk) * blocks.chunk() + 2 * chunk);
            }
        }
        let [slabs, bands, pieces] = parts;
        Scheme { slabs, bands, pieces, over_sums, keep_left, keep_right, blocks, traffic, pinned, passing }
    }
}

impl Scheme {
    /// Whether any tensor is rearranged.
    pub fn rearranges(&self) -> bool {
        self.blocks.iter().any(Option::is_some)
    }
    /// The cells of a product, slab by slab.
    pub fn cells_of(&self, whole: &Piece) -> Vec<Vec<Piece>> {
        let slabs = whole.split(Group::Rows, self.slabs);
        slabs.iter().map(|slab| slab.split(Group::Columns, self.bands)).collect()
    }
    /// The pieces of one cell in order, with their tensors where the scheme has them.
    pub fn pieces_of(&self, cell: &Piece) -> Vec<Piece> {
        let pieces = cell.split(if self.over_sums { Group::Sums } else { Group::Columns }, self.pieces);
        pieces.iter().map(|piece| self.place(piece)).collect()
    }
    /// A part of the product with its tensors where the scheme has them. Of a tensor in blocks the part must need one block,
    /// or a part of one.
    pub fn place(&self, piece: &Piece) -> Piece {
        let mut placed = piece.clone();
        place(&self.blocks, &mut placed);
        placed
    }
    /// Whether this scheme has less traffic. If the traffic is about the same, it is better to have enough pieces that one is
    /// on its way while another is worked on.
    fn is_better_than(&self, other: &Scheme) -> bool {
        const ENOUGH: usize = 8;
        let overlap = |scheme: &Scheme| scheme.pieces.min(ENOUGH);
        self.traffic < other.traffic / SAME
            || self.traffic <= other.traffic * SAME && overlap(self) > overlap(other)
    }
}

fn place(blocks: &[Option<Blocks>; 3], piece: &mut Piece) {
    for (tensor, blocks) in blocks.iter().enumerate() {
        if let Some(blocks) = blocks {
            blocks.place(piece, tensor);
        }
    }
}

/// Traffics within this ratio count as the same.
const SAME: f64 = 1.02;

/// Numbers of parts worth trying for so many positions: 1 to 8, then 10, 12, 14, 16, 20 and so on.
fn counts(positions: usize) -> impl Iterator<Item = usize> {
    let powers = (0..12).map(|i| 1usize << i);
    let all = (1..4).chain(powers.flat_map(|p| [4 * p, 5 * p, 6 * p, 7 * p]));
    all.take_while(move |count| *count <= positions.max(1))
}

/// Elements of the chunks that an extent needs; 0 for plain memory.
fn elements(extent: Extent, chunk: Option<usize>) -> usize {
    chunk.map_or(0, |chunk| extent.count(chunk) * chunk)
}
