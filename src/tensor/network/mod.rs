//! The network: its nodes, the bonds between them, and the structures that mirror both for C.
//!
//! Nodes are numbered from 0 in the order they were made and are never removed. All rules work on this state; the
//! public structures are written after it and never read for it.
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
    /// Trees as disjoint sets of nodes: a link towards the set's representative, and at that its tree's top.
    links: Vec<(usize, usize)>,
    /// Changes whenever a node or a bond is added or a tensor changes its shape: plans are made for one version.
    version: u64,
    /// What has been done, its high-water mark apart.
    pub metrics: Metrics,
    /// What the blocks of this network hold.
    pub account: Rc<Account>,
    /// Who is told about long operations.
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
    /// The node of this number, which the caller has from this network.
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
    /// The top of the tree that the first node is in.
    pub fn root(&self) -> Option<usize> {
        (!self.nodes.is_empty()).then(|| self.top(0))
    }
    /// Adds a node with a copy of `elements`, or zeros. No dimensions mean a scalar, dimensions {1}.
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
    /// Adds a node around a block of elements.
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
        self.version += 1;
        Ok(id)
    }
    /// Adds the elements of time since `start` to the total.
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
    /// The node whose public structure this is.
    ///
    /// # Safety
    /// The address is that of a live node, of any network.
    pub unsafe fn find(&self, record: *const TreeTensorNode) -> Result<usize> {
        // SAFETY: the caller's promise.
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

/// Where a tensor of `count` elements goes: plain memory while it is small beside the budget.
pub fn storage_for(memory: &Memory, count: usize) -> Storage {
    if memory.prefers_streaming(count * size_of::<Complex>()) { Storage::Streaming } else { Storage::Plain }
}
