//! Adapting bonds: canonical form, then truncation of every bond under one error budget.
//!
//! - If the tree is in canonical form towards a node, the singular values of that node's tensor across one of its bonds
//!   are those of the whole network.
//! - Bonds are truncated from the root downwards. Each truncation projects the part above its bond; later ones act below
//!   that bond or beside it. So all errors are orthogonal to each other, and their squares add up to the square of the
//!   whole error.
//!
//! Canonical forms and truncation of trees: Grasedyck, "Hierarchical singular value decomposition of tensors", 2010; Shi,
//! Duan and Vidal, 2006.
mod budget;
mod matrix;
#[cfg(test)]
mod tests;

use super::kernel::threads_of_decompositions;
use super::memory::{Block, Memory, Storage};
use super::network::{Network, storage_for};
use super::shape;
use super::tiled::{self, Source};
use crate::error::{Result, fail};
use budget::Budget;
use matrix::{Algebra, Folded, conjugate, norm};
use std::time::Instant;

/// A tensor that replaces a node's tensor at the end.
struct Work {
    dimensions: Vec<usize>,
    data: Block,
}

/// An edge between a node and its parent, with its axes at both ends in the same order. An outer product has no axes, and
/// its matrix of weights is a number.
struct Edge {
    node: usize,
    parent: usize,
    own_axes: Vec<usize>,
    parent_axes: Vec<usize>,
}

/// An adaptation at work. The network itself does not change before all has succeeded.
struct Adapting<'a> {
    network: &'a Network,
    memory: &'a Memory,
    algebra: Algebra,
    /// The nodes of the root's tree in pre-order.
    ids: Vec<usize>,
    /// By node number: what is to replace the node's tensor.
    work: Vec<Option<Work>>,
    /// Steps for the progress callback: done, total.
    steps: (usize, usize),
    /// The network's value is that of the tensors, times 2 to this power. All of the norm gathers in the root, and 32-bit
    /// floats may not hold it on the way.
    exponent: i32,
}

/// Brings the root's tree to canonical form and truncates its bonds, so that the network's relative error in the Frobenius
/// norm is at most `target`. If a bond must stay larger than `most` (0: no limit) to keep the error, the tree is adapted
/// all the same, and the error is `Limit`.
pub fn adapt(network: &mut Network, memory: &Memory, target: f64, most: usize) -> Result<()> {
    if !(target >= 0.0 && target.is_finite()) {
        return fail!(InvalidArgument, "the target error {target} is not a finite number of at least 0");
    }
    let Some(root) = network.root() else { return fail!(InvalidArgument, "the network has no nodes") };
    let start = Instant::now();
    let threads = threads_of_decompositions();
    faer::set_global_parallelism(if threads > 1 { faer::Par::rayon(threads) } else { faer::Par::Seq });
    let ids = network.preorder(root);
    let steps = (0, 4 * ids.len());
    let mut work = Vec::with_capacity(network.len());
    work.resize_with(network.len(), || None);
    let mut adapting = Adapting { network, memory, algebra: Algebra::new()?, ids, work, steps, exponent: 0 };
    let fitted = adapting.run(target, most)?;
    let (ids, mut work) = (adapting.ids, adapting.work);
    let ranks: Vec<usize> = ids.iter().map(|&id| rank(network, id, &work)).collect();
    for (id, rank) in ids.into_iter().zip(ranks) {
        if let Some(Work { dimensions, data }) = work[id].take() {
            network.node_mut(id).replace(dimensions, data);
        }
        network.node_mut(id).set_rank(rank);
    }
    network.changed();
    network.spent(start);
    if fitted {
        Ok(())
    } else {
        fail!(Limit, "a bond stays larger than {most} to keep the error below {target}")
    }
}

/// Size of all bonds to the parent together; 0 for the root.
fn rank(network: &Network, id: usize, work: &[Option<Work>]) -> usize {
    let node = network.node(id);
    let Some(parent) = node.parent() else { return 0 };
    let sizes = work[id].as_ref().map_or(node.dimensions(), |w| &w.dimensions);
    node.bonds_to(parent).iter().map(|bond| sizes[bond.0]).product()
}

impl Adapting<'_> {
    /// Adapts the tree. Returns false if a bond had to stay larger than `most`.
    fn run(&mut self, target: f64, most: usize) -> Result<bool> {
        self.canonical_form()?;
        let whole = norm(self.folded(self.ids[0], &[])?.matrix());
        if !whole.is_finite() {
            return fail!(InvalidArgument, "the network has elements that are not finite");
        }
        let mut budget = Budget::new((target * whole).powi(2), most);
        let bonds = self.ids[1..].iter().filter(|id| self.bond(**id).is_some()).count();
        if most != 0 && self.ids[1..].iter().any(|&id| self.bond(id).is_some_and(|e| self.size(&e) > most)) {
            // Look at all singular values first, to serve the bonds that are too large before any other bond takes of the
            // budget.
            let mut needed = vec![0.0; self.network.len()];
            self.truncate_downwards(|node, values| {
                needed[node] = budget::tail(values, most);
                values.len()
            })?;
            budget.reserve(&needed);
        }
        budget.share_over(bonds);
        let truncated = self.truncate_downwards(|node, values| budget.keep(node, values))?;
        if truncated {
            self.canonical_form()?;
        }
        self.spread_exponent()?;
        // Steps that were not needed count as done.
        let total = self.steps.1 as f64;
        self.network.progress.report(total, total)?;
        Ok(budget.fitted())
    }
    /// Puts the exponent back into the tensors: into the root if its elements can take it, else into all nodes, so that
    /// the largest elements of all tensors are about equal.
    fn spread_exponent(&mut self) -> Result<()> {
        const COMFORTABLE: core::ops::RangeInclusive<i32> = -60..=120;
        let Some(root) = tiled::magnitude(self.source(self.ids[0]))?.below else {
            return Ok(()); // the value is 0, whatever the exponent
        };
        if COMFORTABLE.contains(&(root + self.exponent)) {
            return self.scale(self.ids[0], self.exponent);
        }
        let mut bounds = vec![root];
        for &id in &self.ids[1..] {
            bounds.push(tiled::magnitude(self.source(id))?.bound());
        }
        let nodes = self.ids.len() as i32;
        let total = self.exponent + bounds.iter().sum::<i32>();
        let (each, further) = (total.div_euclid(nodes), total.rem_euclid(nodes));
        if !(f32::MIN_EXP..f32::MAX_EXP).contains(&each) {
            return fail!(Unsupported, "elements of the adapted tensors would be near 2 to the power {each}");
        }
        for (place, bound) in bounds.into_iter().enumerate() {
            let share = each + i32::from((place as i32) < further) - bound;
            self.scale(self.ids[place], share)?;
        }
        Ok(())
    }
    /// Multiplies a node's tensor by 2 to the power `exponent`.
    fn scale(&mut self, id: usize, exponent: i32) -> Result<()> {
        if exponent == 0 {
            return Ok(());
        }
        let mut folded = self.folded(id, &[])?;
        folded.scale(exponent);
        self.store(id, &folded)
    }
    fn step(&mut self) -> Result<()> {
        self.steps.0 += 1;
        self.network.progress.report(self.steps.0.min(self.steps.1) as f64, self.steps.1 as f64)
    }
    /// The edge above a node.
    fn edge(&self, id: usize) -> Option<Edge> {
        let parent = self.network.node(id).parent()?;
        let (own_axes, parent_axes) = self.network.node(id).bonds_to(parent).into_iter().unzip();
        Some(Edge { node: id, parent, own_axes, parent_axes })
    }
    /// The edge above a node, unless it is an outer product.
    fn bond(&self, id: usize) -> Option<Edge> {
        self.edge(id).filter(|edge| !edge.own_axes.is_empty())
    }
    fn dimensions(&self, id: usize) -> &[usize] {
        self.work[id].as_ref().map_or(self.network.node(id).dimensions(), |work| &work.dimensions)
    }
    fn size(&self, edge: &Edge) -> usize {
        edge.own_axes.iter().map(|axis| self.dimensions(edge.node)[*axis]).product()
    }
    fn source(&self, id: usize) -> Source<'_> {
        match &self.work[id] {
            Some(work) => {
                // SAFETY: `store` wrote all elements. Nobody writes them while the slice lives, since it borrows this
                // object.
                let elements = unsafe { work.data.elements(work.dimensions.iter().product()) };
                Source { elements, chunked: work.data.chunked() }
            }
            None => self.network.node(id).source(),
        }
    }
    /// A node's tensor as a matrix with `axes` as its columns.
    fn folded(&self, id: usize, axes: &[usize]) -> Result<Folded> {
        Folded::new(self.source(id), self.dimensions(id), axes)
    }
    /// Makes a matrix the new tensor of a node.
    fn store(&mut self, id: usize, folded: &Folded) -> Result<()> {
        let dimensions = folded.dimensions();
        let count = shape::elements(&dimensions)?;
        let storage = if self.network.node(id).is_hierarchical() {
            Storage::Hierarchical
        } else {
            storage_for(self.memory, count)
        };
        let mut data = self.memory.elements(count, storage)?;
        folded.unfold(&mut data.target(count))?;
        self.work[id] = Some(Work { dimensions, data });
        Ok(())
    }
    /// Brings the tree to canonical form, from the leaves to the root: every other node becomes an isometry towards its
    /// parent.
    fn canonical_form(&mut self) -> Result<()> {
        for place in (1..self.ids.len()).rev() {
            self.step()?;
            let Some(edge) = self.edge(self.ids[place]) else { continue };
            let mut own = self.folded(edge.node, &edge.own_axes)?;
            let (q, mut r) = self.algebra.qr(own.matrix());
            self.exponent += matrix::normalise(&mut r, 0);
            own.set(q);
            let mut above = self.folded(edge.parent, &edge.parent_axes)?;
            above.multiply(&mut self.algebra, r.transpose());
            self.exponent += above.normalise();
            self.store(edge.node, &own)?;
            self.store(edge.parent, &above)?;
        }
        Ok(())
    }
    /// Goes through the bonds from the root to the leaves. For each, `keep` is given the node below and the singular
    /// values, and says how many of them stay; the bond is truncated to these. Returns whether any bond became smaller.
    fn truncate_downwards(&mut self, mut keep: impl FnMut(usize, &[f64]) -> usize) -> Result<bool> {
        let mut truncated = false;
        // By node number: the tensor, weighted with all that is above the node.
        let mut centers: Vec<Option<Folded>> = Vec::with_capacity(self.network.len());
        centers.resize_with(self.network.len(), || None);
        centers[self.ids[0]] = Some(self.folded(self.ids[0], &[])?);
        for place in 0..self.ids.len() {
            self.step()?;
            let id = self.ids[place];
            let Some(mut center) = centers[id].take() else { continue };
            let children: Vec<usize> = self.network.node(id).children().to_vec();
            for &child in &children {
                let Some(edge) = self.bond(child) else { continue };
                center.refold(&edge.parent_axes)?;
                let (values, vectors) = self.algebra.right_vectors(center.matrix())?;
                let kept = keep(child, &values).clamp(1, values.len());
                if kept == self.size(&edge) {
                    continue;
                }
                truncated = true;
                let vectors = vectors.get(.., ..kept);
                center.multiply(&mut self.algebra, vectors);
                let mut above = self.folded(id, &edge.parent_axes)?;
                above.multiply(&mut self.algebra, vectors);
                let mut below = self.folded(child, &edge.own_axes)?;
                below.multiply(&mut self.algebra, conjugate(vectors).as_ref());
                self.store(id, &above)?;
                self.store(child, &below)?;
            }
            for &child in &children {
                let Some(edge) = self.edge(child) else { continue };
                center.refold(&edge.parent_axes)?;
                let mut below = self.folded(child, &edge.own_axes)?;
                let factor = self.algebra.upper_factor(center.matrix());
                below.multiply(&mut self.algebra, factor.transpose());
                centers[child] = Some(below);
            }
        }
        Ok(truncated)
    }
}
