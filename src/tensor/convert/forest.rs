//! Making a network of tensors a forest: neighbours on a cycle are contracted, the pair with the smallest result first.
use super::{End, Tensor};
use crate::error::Result;
use crate::tensor::Complex;
use crate::tensor::kernel::Product;
use crate::tensor::memory::{Block, Memory};
use crate::tensor::network::storage_for;
use crate::tensor::shape;
use crate::tensor::tiled::{self, Source};

/// A tensor, or several that were contracted.
struct Part<'a> {
    dimensions: Vec<usize>,
    /// The elements of a tensor that was not contracted.
    given: &'a [Complex],
    /// The elements of several that were.
    merged: Option<Block>,
    /// For each axis, the other end of its bond, with the place of that part.
    ends: Vec<Option<End>>,
    /// The axes that are linked, in the order in which the links were listed.
    order: Vec<usize>,
}
impl Part<'_> {
    fn source(&self) -> Source<'_> {
        match &self.merged {
            Some(block) => {
                // SAFETY: `merge` wrote all elements, and nobody writes them while the slice lives.
                let elements = unsafe { block.elements(self.dimensions.iter().product()) };
                Source { elements, chunked: block.chunked() }
            }
            None => Source { elements: self.given, chunked: None },
        }
    }
}

/// The parts, by place in the list. A part of several tensors is at the smallest of their places; the other places are
/// empty. No end of a bond is at an empty place.
pub struct Parts<'a> {
    parts: Vec<Option<Part<'a>>>,
}

impl<'a> Parts<'a> {
    pub fn new(tensors: &[Tensor<'a>], ends: Vec<Vec<Option<End>>>, order: Vec<Vec<usize>>) -> Parts<'a> {
        let part = |((tensor, ends), order): ((&Tensor<'a>, _), _)| {
            Some(Part {
                dimensions: tensor.dimensions.clone(),
                given: tensor.elements,
                merged: None,
                ends,
                order,
            })
        };
        Parts { parts: tensors.iter().zip(ends).zip(order).map(part).collect() }
    }
    pub fn len(&self) -> usize {
        self.parts.len()
    }
    /// The places that hold something.
    pub fn places(&self) -> Vec<usize> {
        (0..self.parts.len()).filter(|place| self.parts[*place].is_some()).collect()
    }
    /// The part at one of the `places`.
    fn part(&self, place: usize) -> &Part<'a> {
        self.parts[place].as_ref().expect("no part is looked for at an empty place")
    }
    /// The linked axes of a part in order, each with its other end.
    pub fn links(&self, place: usize) -> Vec<(usize, End)> {
        let part = self.part(place);
        part.order.iter().filter_map(|&axis| Some((axis, part.ends[axis]?))).collect()
    }
    /// The dimensions of a part. Takes its elements if it was contracted; else these are still the given ones.
    pub fn take(&mut self, place: usize) -> (Vec<usize>, Option<Block>) {
        let dimensions = self.part(place).dimensions.clone();
        (dimensions, self.parts[place].as_mut().and_then(|part| part.merged.take()))
    }
    /// Contracts neighbours until no cycle is left. Several bonds between the same two parts are not a cycle.
    pub fn make_forest(&mut self, memory: &Memory) -> Result<()> {
        loop {
            let cheapest =
                self.cycle_edges().into_iter().min_by(|a, b| self.cost(*a).total_cmp(&self.cost(*b)));
            let Some((left, right)) = cheapest else { return Ok(()) };
            self.merge(left, right, memory)?;
        }
    }
    fn neighbours(&self, place: usize) -> Vec<usize> {
        let mut found: Vec<usize> = self.links(place).iter().map(|(_, end)| end.node).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
    /// Pairs of neighbours whose edge is on a cycle, that is, no bridge (Tarjan's low points, without recursion).
    fn cycle_edges(&self) -> Vec<(usize, usize)> {
        const NEW: usize = usize::MAX;
        let (mut number, mut low) = (vec![NEW; self.len()], vec![NEW; self.len()]);
        let (mut count, mut edges) = (0, Vec::new());
        for start in self.places() {
            if number[start] != NEW {
                continue;
            }
            (number[start], low[start]) = (count, count);
            count += 1;
            let mut stack = vec![(start, usize::MAX, self.neighbours(start))];
            while let Some((place, from, left)) = stack.last_mut() {
                let (place, from) = (*place, *from);
                match left.pop() {
                    Some(next) if number[next] == NEW => {
                        (number[next], low[next]) = (count, count);
                        count += 1;
                        stack.push((next, place, self.neighbours(next)));
                    }
                    Some(next) if next != from => {
                        low[place] = low[place].min(number[next]);
                        if number[next] < number[place] {
                            edges.push((place, next)); // a back edge closes a cycle
                        }
                    }
                    Some(_) => {}
                    None => {
                        stack.pop();
                        if from != usize::MAX {
                            low[from] = low[from].min(low[place]);
                            if low[place] <= number[from] && low[place] != number[place] {
                                edges.push((from, place));
                            }
                        }
                    }
                }
            }
        }
        edges.iter().map(|&(a, b)| (a.min(b), a.max(b))).collect()
    }
    fn bonds(&self, left: usize, right: usize) -> Vec<(usize, usize)> {
        self.links(left)
            .into_iter()
            .filter(|(_, end)| end.node == right)
            .map(|(axis, end)| (axis, end.axis))
            .collect()
    }
    /// How many elements the contraction of two neighbours has.
    fn cost(&self, (left, right): (usize, usize)) -> f64 {
        let size = |place| self.part(place).dimensions.iter().map(|d| *d as f64).product::<f64>();
        let bonds = self.bonds(left, right);
        let bond: f64 = bonds.iter().map(|bond| self.part(left).dimensions[bond.0] as f64).product();
        size(left) / bond * (size(right) / bond)
    }
    /// Contracts `right` into `left`. The axes are the remaining ones of left, then those of right.
    fn merge(&mut self, left: usize, right: usize, memory: &Memory) -> Result<()> {
        let bonds = self.bonds(left, right);
        let (a, b) = (self.part(left), self.part(right));
        let mut dimensions = Vec::new();
        let mut ends = Vec::new();
        // Which axis of the result each axis of the two becomes.
        let mut place_of = [vec![usize::MAX; a.dimensions.len()], vec![usize::MAX; b.dimensions.len()]];
        for (side, (part, places)) in [a, b].into_iter().zip(&mut place_of).enumerate() {
            for (axis, place) in places.iter_mut().enumerate() {
                if bonds.iter().all(|bond| [bond.0, bond.1][side] != axis) {
                    *place = dimensions.len();
                    dimensions.push(part.dimensions[axis]);
                    ends.push(part.ends[axis]);
                }
            }
        }
        let sides = [a, b].into_iter().zip(&place_of);
        let order: Vec<usize> = sides
            .flat_map(|(part, places)| part.order.iter().map(|axis| places[*axis]))
            .filter(|place| *place != usize::MAX)
            .collect();
        let count = shape::elements(&dimensions)?;
        let mut block = memory.elements(count, storage_for(memory, count))?;
        let product = Product::row_major(&a.dimensions, &b.dimensions, &bonds);
        let mut out = block.target(count);
        // A network that is being made has no progress callback yet.
        tiled::multiply(&product, a.source(), b.source(), &mut out, memory, None, &mut |_| Ok(()))?;
        for (axis, end) in ends.iter().enumerate() {
            if let Some(other) = *end
                && let Some(neighbour) = &mut self.parts[other.node]
            {
                neighbour.ends[other.axis] = Some(End { node: left, axis });
            }
        }
        self.parts[right] = None;
        self.parts[left] = Some(Part { dimensions, given: &[], merged: Some(block), ends, order });
        Ok(())
    }
}
