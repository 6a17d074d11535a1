//! From general tensor networks to trees and back.
//!
//! A general network is a list of tensors with links. The m-th link of a towards b is joined with the m-th link
//! of b towards a. If this is not a tree, neighbours on a cycle are contracted until it is one.
mod forest;
#[cfg(test)]
mod tests;

use super::Complex;
use super::memory::Memory;
use super::network::{End, Network, storage_for};
use super::shape;
use crate::error::{Result, fail};
use foldhash::fast::FixedState; // the standard one asks the system for random numbers, and panics if refused
use forest::Parts;
use std::collections::{HashMap, VecDeque};

/// A tensor of a general network.
pub struct Tensor<'a> {
    /// The id by which links name the tensor.
    pub id: usize,
    /// Sizes of the axes.
    pub dimensions: Vec<usize>,
    /// The elements, row-major.
    pub elements: &'a [Complex],
    /// Links: id of the neighbour, own axis.
    pub links: Vec<(usize, usize)>,
}

/// Finds the partner of every link: for each tensor and axis, the other end of its bond, with the tensor's place in the
/// list. Fails with `InvalidArgument` if the links contradict each other.
fn partners(tensors: &[Tensor]) -> Result<Vec<Vec<Option<End>>>> {
    let mut place_of = HashMap::with_capacity_and_hasher(tensors.len(), FixedState::default());
    for (place, tensor) in tensors.iter().enumerate() {
        if tensor.elements.len() != shape::elements(&tensor.dimensions)? {
            let (count, id) = (tensor.elements.len(), tensor.id);
            return fail!(InvalidArgument, "node {id} has {count} elements, not those of its dimensions");
        }
        if place_of.insert(tensor.id, place).is_some() {
            return fail!(InvalidArgument, "two nodes have the id {}", tensor.id);
        }
    }
    // The axes of each tensor towards each neighbour, in order.
    let mut towards: HashMap<(usize, usize), Vec<usize>, FixedState> = HashMap::default();
    for (place, tensor) in tensors.iter().enumerate() {
        for &(id, axis) in &tensor.links {
            let Some(&neighbour) = place_of.get(&id) else {
                return fail!(
                    InvalidArgument,
                    "node {} is connected to {id}, which is no valid node",
                    tensor.id
                );
            };
            if neighbour == place {
                return fail!(InvalidArgument, "node {id} is connected to itself");
            }
            if axis >= tensor.dimensions.len() {
                return fail!(InvalidArgument, "node {} has no axis {axis}", tensor.id);
            }
            towards.entry((place, neighbour)).or_default().push(axis);
        }
    }
    let mut ends: Vec<Vec<Option<End>>> = tensors.iter().map(|t| vec![None; t.dimensions.len()]).collect();
    for (&(place, neighbour), axes) in &towards {
        let others = towards.get(&(neighbour, place)).map_or(&[][..], |others| others);
        let (id, other_id) = (tensors[place].id, tensors[neighbour].id);
        if others.len() != axes.len() {
            return fail!(
                InvalidArgument,
                "nodes {id} and {other_id} do not agree on how they are connected"
            );
        }
        for (&axis, &other) in axes.iter().zip(others) {
            if tensors[place].dimensions[axis] != tensors[neighbour].dimensions[other] {
                return fail!(
                    InvalidArgument,
                    "nodes {id} and {other_id} are connected by axes of different sizes"
                );
            }
            if ends[place][axis].replace(End { node: neighbour, axis: other }).is_some() {
                return fail!(InvalidArgument, "axis {axis} of node {id} is connected twice");
            }
        }
    }
    Ok(ends)
}

/// Fills `network`, which must be empty, with the tree of a general network. The root is the tensor with the
/// smallest id. Parts that no link connects with it become children of the root without a bond.
pub fn to_tree(network: &mut Network, memory: &Memory, mut tensors: Vec<Tensor>) -> Result<()> {
    if tensors.is_empty() {
        return fail!(InvalidArgument, "the network has no valid nodes");
    }
    tensors.sort_by_key(|tensor| tensor.id);
    let ends = partners(&tensors)?;
    let order = tensors.iter().map(|tensor| tensor.links.iter().map(|link| link.1).collect()).collect();
    let mut parts = Parts::new(&tensors, ends, order);
    parts.make_forest(memory)?;
    // Nodes are made in the order of ids, so that the root is the first.
    let mut node_of = vec![usize::MAX; parts.len()];
    for place in parts.places() {
        let (dimensions, merged) = parts.take(place);
        node_of[place] = match merged {
            Some(block) => network.adopt(memory, &dimensions, block, false)?,
            None => {
                let elements = tensors[place].elements;
                network.add(memory, &dimensions, storage_for(memory, elements.len()), Some(elements))?
            }
        };
    }
    let mut reached = vec![false; parts.len()];
    let first = parts.places()[0];
    for start in parts.places() {
        if core::mem::replace(&mut reached[start], true) {
            continue;
        }
        if start != first {
            network.connect_without_bond(memory, node_of[first], node_of[start])?;
        }
        let mut queue = VecDeque::from([start]);
        while let Some(place) = queue.pop_front() {
            let parent = node_of[place];
            for (axis, other) in parts.links(place) {
                let child = node_of[other.node];
                if reached[other.node] && network.node(child).parent() != Some(parent) {
                    continue; // the edge it was reached by, seen from the other side
                }
                if !core::mem::replace(&mut reached[other.node], true) {
                    queue.push_back(other.node);
                }
                let (above, below) = (End { node: parent, axis }, End { node: child, ..other });
                network.connect_axes(memory, above, below)?;
            }
        }
    }
    Ok(())
}

/// A node of a tree as a general network has it. Nodes are numbered in pre-order.
pub struct Exported {
    /// Number of the tree's node.
    pub node: usize,
    /// The links: the neighbour's id and the own axis. Those to the parent come first, then those to the children
    /// in their order.
    pub links: Vec<(usize, usize)>,
}

/// The root's tree as a general network: its nodes in pre-order, the id of each its place.
pub fn to_network(network: &Network) -> Result<Vec<Exported>> {
    let Some(root) = network.root() else { return fail!(InvalidArgument, "the network has no nodes") };
    let ids = network.preorder(root);
    let mut place_of = vec![0; network.len()];
    for (place, &id) in ids.iter().enumerate() {
        place_of[id] = place;
    }
    let exported = |&id: &usize| {
        let node = network.node(id);
        let mut links = Vec::new();
        // Both sides list the bonds of an edge in the order of the parent's axes.
        if let Some(parent) = node.parent() {
            links.extend(network.node(parent).bonds_to(id).iter().map(|bond| (place_of[parent], bond.1)));
        }
        let mut by_child: HashMap<usize, Vec<usize>, FixedState> = HashMap::default();
        for axis in 0..node.dimensions().len() {
            if let Some(end) = node.end(axis).filter(|end| Some(end.node) != node.parent()) {
                by_child.entry(end.node).or_default().push(axis);
            }
        }
        for child in node.children() {
            links.extend(by_child.get(child).into_iter().flatten().map(|axis| (place_of[*child], *axis)));
        }
        Exported { node: id, links }
    };
    Ok(ids.iter().map(exported).collect())
}
