//! Contracting two nodes into a new one.
use super::kernel::Product;
use super::live::{self, Session};
use super::memory::{Block, Memory};
use super::network::{Network, Node, matching, storage_for};
use super::progress::Progress;
use super::records::{TreeTensorNetwork, TreeTensorNode};
use super::{shape, tiled};
use crate::error::{Result, fail};
use std::time::Instant;

/// Two nodes to contract, and the axes to sum over.
pub struct Pair<'a> {
    /// First operand.
    pub left: &'a Node,
    /// Second operand.
    pub right: &'a Node,
    /// The axes to sum over, in pairs: axis of left, axis of right.
    pub bonds: Vec<(usize, usize)>,
}

impl<'a> Pair<'a> {
    /// Two nodes of one network, contracted over their bonds. Without any, the rule of [`Pair::new`] applies.
    pub fn within(network: &'a Network, left: usize, right: usize) -> Pair<'a> {
        let bonds = if left == right { Vec::new() } else { network.node(left).bonds_to(right) };
        Pair::new(network.node(left), network.node(right), bonds)
    }
    /// Two nodes contracted over `bonds`. If there are none, as between different networks, the legacy rule over
    /// all axes ([`matching`]) finds one bond, or none.
    pub fn new(left: &'a Node, right: &'a Node, mut bonds: Vec<(usize, usize)>) -> Pair<'a> {
        if bonds.is_empty() {
            let all = |node: &Node| (0..node.dimensions().len()).collect::<Vec<_>>();
            bonds.extend(matching(left.dimensions(), &all(left), right.dimensions(), &all(right)));
        }
        Pair { left, right, bonds }
    }
    /// Dimensions of the result: the remaining axes of left, then those of right; {1} if none remains.
    pub fn dimensions(&self) -> Vec<usize> {
        let remaining = |sizes: &[usize], bonded: &dyn Fn(usize) -> bool| -> Vec<usize> {
            (0..sizes.len()).filter(|axis| !bonded(*axis)).map(|axis| sizes[axis]).collect()
        };
        let mut sizes = remaining(self.left.dimensions(), &|i| self.bonds.iter().any(|b| b.0 == i));
        sizes.extend(remaining(self.right.dimensions(), &|j| self.bonds.iter().any(|b| b.1 == j)));
        if sizes.is_empty() {
            sizes.push(1);
        }
        sizes
    }
    /// The product over the bonds.
    pub fn product(&self) -> Product {
        Product::row_major(self.left.dimensions(), self.right.dimensions(), &self.bonds)
    }
}

/// Sessions of the networks that the operands belong to, besides the session `first`, which the caller holds.
pub struct OtherSessions<'a> {
    first: &'a Session,
    own: Vec<Session>,
}
impl<'a> OtherSessions<'a> {
    /// Begins to use the networks of `nodes`, except that of `first`.
    pub fn new(first: &'a Session, nodes: [*mut TreeTensorNode; 2]) -> Result<OtherSessions<'a>> {
        let mut others = OtherSessions { first, own: Vec::new() };
        for node in nodes {
            let network = live::network_of(node)?;
            if others.of(network).is_none() {
                others.own.push(Session::new(network)?);
            }
        }
        Ok(others)
    }
    fn of(&self, network: *mut TreeTensorNetwork) -> Option<&Session> {
        core::iter::once(self.first).chain(&self.own).find(|session| session.public() == network)
    }
    /// The network of a node, and the node's number in it.
    fn find(&self, node: *mut TreeTensorNode) -> Result<(&Network, usize)> {
        match self.of(live::network_of(node)?) {
            Some(session) => Ok((session.view(), session.find(node)?)),
            None => fail!(Internal, "the node has changed its network"),
        }
    }
    /// Two nodes to contract: over their bonds if they have any, else by the rule over all axes.
    pub fn pair(&self, left: *mut TreeTensorNode, right: *mut TreeTensorNode) -> Result<Pair<'_>> {
        let ((of_left, left), (of_right, right)) = (self.find(left)?, self.find(right)?);
        Ok(if core::ptr::eq(of_left, of_right) {
            Pair::within(of_left, left, right)
        } else {
            Pair::new(of_left.node(left), of_right.node(right), Vec::new())
        })
    }
}

/// The result of a contraction that is not in a network yet.
pub struct Contracted {
    dimensions: Vec<usize>,
    data: Block,
    start: Instant,
}

/// Contracts a pair.
pub fn contract(pair: &Pair, memory: &Memory, progress: &Progress) -> Result<Contracted> {
    let start = Instant::now();
    let dimensions = pair.dimensions();
    let count = shape::elements(&dimensions)?;
    let product = pair.product();
    let work = product.operations();
    progress.report(0.0, work)?;
    let mut data = memory.elements(count, storage_for(memory, count))?;
    let mut out = data.target(count);
    let (left, right) = (pair.left.source(), pair.right.source());
    let mut tick = |done: f64| progress.report(done * work, work);
    tiled::multiply(&product, left, right, &mut out, memory, None, &mut tick)?;
    Ok(Contracted { dimensions, data, start })
}

/// Adds the result of a contraction to `network` as a new node. Returns the node's number.
pub fn keep(network: &mut Network, memory: &Memory, contracted: Contracted) -> Result<usize> {
    let id = network.adopt(memory, &contracted.dimensions, contracted.data, false)?;
    network.metrics.num_contractions += 1;
    network.metrics.contraction_time += contracted.start.elapsed().as_secs_f64();
    network.spent(contracted.start);
    Ok(id)
}
