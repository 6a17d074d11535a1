//! Bonds: the rule that finds them, and connecting nodes into trees.
use super::Network;
use crate::error::{Result, fail};
use crate::tensor::memory::Memory;

/// One end of a bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The node.
    pub node: usize,
    /// Its axis.
    pub axis: usize,
}

/// The legacy rule for a bond: chooses an axis of a parent and an axis of a child. `parent` and `child` are their
/// dimensions; `left` and `right` are the axes that may be used, ascending. The choice is, in this order:
/// 1. the parent's last axis with the child's first, if the sizes agree;
/// 2. the first pair with equal sizes, over the parent's axes and then over the child's;
/// 3. none.
pub fn matching(
    parent: &[usize],
    left: &[usize],
    child: &[usize],
    right: &[usize],
) -> Option<(usize, usize)> {
    let (&last, &first) = (left.last()?, right.first()?);
    if parent[last] == child[first] {
        return Some((last, first));
    }
    left.iter().find_map(|&i| right.iter().find(|&&j| parent[i] == child[j]).map(|&j| (i, j)))
}

impl Network {
    /// The representative of a node's set. Halves the path to it on the way.
    fn representative(&mut self, mut id: usize) -> usize {
        while self.links[id].0 != id {
            self.links[id].0 = self.links[self.links[id].0].0;
            id = self.links[id].0;
        }
        id
    }
    /// Fails unless `child` can become a child of `parent`.
    fn check_edge(&mut self, parent: usize, child: usize) -> Result<()> {
        if parent == child {
            return fail!(InvalidArgument, "node {parent} cannot be its own parent");
        }
        if let Some(other) = self.node(child).parent() {
            return fail!(InvalidArgument, "node {child} already has a parent, node {other}");
        }
        // A child without a parent is the top of its tree, so all nodes of that tree are below it.
        if self.representative(parent) == self.representative(child) {
            return fail!(InvalidArgument, "an edge from node {parent} to node {child} would close a cycle");
        }
        Ok(())
    }
    fn make_edge(&mut self, parent: usize, child: usize) {
        let (parent_record, child_record) = (self.record(parent), self.record(child));
        self.nodes[child].set_parent(parent, parent_record);
        self.nodes[parent].push_child(child, child_record);
        let (above, below) = (self.representative(parent), self.representative(child));
        self.links[below].0 = above; // the top stays that of the parent's tree
        if child == self.root {
            self.root = self.links[above].1;
        }
        self.version += 1;
    }
    fn make_bond(&mut self, parent: End, child: End) {
        self.nodes[parent.node].ends[parent.axis] = Some(child);
        self.nodes[child.node].ends[child.axis] = Some(parent);
        self.version += 1;
    }
    /// Makes `child` a child of `parent`, joined by the bond that the rule finds among their free axes, if any.
    pub fn connect(&mut self, memory: &Memory, parent: usize, child: usize) -> Result<()> {
        self.check_edge(parent, child)?;
        let (above, below) = (self.node(parent), self.node(child));
        let bond = matching(above.dimensions(), &above.free_axes(), below.dimensions(), &below.free_axes());
        self.nodes[parent].reserve_child(memory)?;
        self.make_edge(parent, child);
        if let Some((i, j)) = bond {
            self.make_bond(End { node: parent, axis: i }, End { node: child, axis: j });
        }
        Ok(())
    }
    /// Makes `child` a child of `parent` without a bond: an outer product.
    pub fn connect_without_bond(&mut self, memory: &Memory, parent: usize, child: usize) -> Result<()> {
        self.check_edge(parent, child)?;
        self.nodes[parent].reserve_child(memory)?;
        self.make_edge(parent, child);
        Ok(())
    }
    /// Joins two axes by a bond. Makes `child` a child of `parent` unless it is one already.
    pub fn connect_axes(&mut self, memory: &Memory, parent: End, child: End) -> Result<()> {
        let joined = self.node(child.node).parent() == Some(parent.node);
        if !joined {
            self.check_edge(parent.node, child.node)?;
        }
        for end in [parent, child] {
            let node = self.node(end.node);
            if end.axis >= node.dimensions().len() {
                return fail!(InvalidArgument, "node {} has no axis {}", end.node, end.axis);
            }
            if node.end(end.axis).is_some() {
                return fail!(InvalidArgument, "axis {} of node {} is in a bond already", end.axis, end.node);
            }
        }
        let size = |end: End| self.node(end.node).dimensions()[end.axis];
        if size(parent) != size(child) {
            return fail!(
                InvalidArgument,
                "axes of sizes {} and {} cannot be joined",
                size(parent),
                size(child)
            );
        }
        if !joined {
            self.nodes[parent.node].reserve_child(memory)?;
            self.make_edge(parent.node, child.node);
        }
        self.make_bond(parent, child);
        Ok(())
    }
}
