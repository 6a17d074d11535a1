//! The network: its nodes, the bonds between them, and the structures that mirror both for C.
//!
//! - Nodes are numbered from 0 in the order in which they were made, and are never removed.
//! - All rules work on the state in [`Network`] and [`Node`]. The public structures are written from it, and
//!   never read to change it.
mod bonds;
mod node;
mod walk;

pub use bonds::{End, matching};
pub use node::Node;

use super::memory::{Account, Block, Memory, Storage};
use super::progress::Progress;
use super::records::{Metrics, TreeTensorNode};
use super::tiled;
use super::tree::Cache;
use super::{Complex, shape};
use crate::error::{Result, fail};
use std::rc::Rc;
use std::time::Instant;

/// A network of tensors.
#[derive(Default)]
pub struct Network {
    nodes: Vec<Node>,
    /// Trees as disjoint sets of nodes (union-find). Each node has a link towards the representative of its set.
    /// At the representative, the second number is the top of the tree.
    links: Vec<(usize, usize)>,
    /// The top of the first node's tree, once there is a node.
    root: usize,
    /// Changes whenever an edge or a bond is added or a tensor changes its shape. A plan is good for one version.
    version: u64,
    /// The figures that C reads, apart from the high-water mark, which is in `account`.
    pub metrics: Metrics,
    /// The bytes that the blocks of this network hold.
    pub account: Rc<Account>,
    /// The program's callback for long operations.
    pub progress: Progress,
    /// The plan of the last contraction or optimisation.
    pub plan: Cache,
}

impl Network {
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Whether it has no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    /// The node with this number, which must be one of this network's.
    pub fn node(&self, id: usize) -> &Node {
        &self.nodes[id]
    }
    pub(super) fn node_mut(&mut self, id: usize) -> &mut Node {
        &mut self.nodes[id]
    }
    /// The version of the structure.
    pub fn version(&self) -> u64 {
        self.version
    }
    /// To be called when a tensor has changed its shape.
    pub(super) fn changed(&mut self) {
        self.version += 1;
    }
    /// The top of the tree that the first node is in; `None` for a network without nodes.
    pub fn root(&self) -> Option<usize> {
        (!self.nodes.is_empty()).then_some(self.root)
    }
    /// Adds a node with a copy of `elements`, or with zeros. Returns its number. A node without dimensions is a
    /// scalar, and gets the dimensions {1}.
    pub fn add(
        &mut self,
        memory: &Memory,
        dimensions: &[usize],
        storage: Storage,
        elements: Option<&[Complex]>,
    ) -> Result<usize> {
        let dimensions = if dimensions.is_empty() { &[1] } else { dimensions };
        let count = shape::elements(dimensions)?;
        let mut data = memory.elements(count, storage)?;
        match elements {
            Some(elements) => tiled::write(&mut data.target(count), elements)?,
            None => tiled::clear(&mut data.target(count))?,
        }
        self.adopt(memory, dimensions, data, storage == Storage::Hierarchical)
    }
    /// Adds a node that takes over a block of elements. Returns its number.
    pub fn adopt(
        &mut self,
        memory: &Memory,
        dimensions: &[usize],
        data: Block,
        hierarchical: bool,
    ) -> Result<usize> {
        let id = self.nodes.len();
        self.nodes.push(Node::new(memory, id, dimensions, data, hierarchical)?);
        self.links.push((id, id));
        Ok(id)
    }
    /// Adds the time since `start` to the total.
    pub fn spent(&mut self, start: Instant) {
        self.metrics.total_time += start.elapsed().as_secs_f64();
    }
    /// The metrics as C reads them.
    pub fn measured(&self) -> Metrics {
        Metrics { peak_memory_usage: self.account.peak(), ..self.metrics }
    }
    /// The public structure of a node.
    pub fn record(&self, id: usize) -> *mut TreeTensorNode {
        self.nodes[id].record()
    }
    /// The number of the node with this public structure. `InvalidArgument` if it belongs to another network. C
    /// may have changed the number in the structure, so that is only tried first.
    ///
    /// # Safety
    /// The address is that of a live node, of any network.
    pub unsafe fn find(&self, record: *const TreeTensorNode) -> Result<usize> {
        // SAFETY: the caller promises the address of a live node.
        let id = unsafe { (*record).id };
        match self.nodes.get(id) {
            Some(node) if core::ptr::eq(node.record(), record) => Ok(id),
            _ => match self.nodes.iter().position(|node| core::ptr::eq(node.record(), record)) {
                Some(id) => Ok(id),
                None => fail!(InvalidArgument, "the node is not one of this network"),
            },
        }
    }
}

/// Where a tensor of `count` elements goes: to plain memory if it is small beside the budget, else to streaming
/// memory.
pub fn storage_for(memory: &Memory, count: usize) -> Storage {
    if memory.prefers_streaming(count * size_of::<Complex>()) { Storage::Streaming } else { Storage::Plain }
}
