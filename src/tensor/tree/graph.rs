//! A tree as the planner sees it: sizes of tensors and of the bonds between them.
use crate::error::{Result, fail};
use crate::tensor::network::Network;

/// The tree below one node, its nodes in depth-first pre-order.
pub struct Graph {
    /// The network's numbers of the nodes.
    pub ids: Vec<usize>,
    /// Position of the parent. The top's is its own position, 0.
    pub parent: Vec<usize>,
    /// One past the last position of the node's subtree.
    pub end: Vec<usize>,
    /// Size of all bonds to the parent together; 1 for an outer product.
    pub bond: Vec<f64>,
    /// Elements of the tensor.
    pub size: Vec<f64>,
}

impl Graph {
    pub fn new(network: &Network, top: usize) -> Graph {
        let ids = network.preorder(top);
        let mut place = vec![0; network.len()];
        for (position, &id) in ids.iter().enumerate() {
            place[id] = position;
        }
        let mut graph = Graph {
            parent: ids.iter().map(|&id| network.node(id).parent().map_or(0, |p| place[p])).collect(),
            end: (1..=ids.len()).collect(),
            bond: vec![1.0; ids.len()],
            size: ids.iter().map(|&id| network.node(id).count() as f64).collect(),
            ids,
        };
        graph.parent[0] = 0;
        for (position, &id) in graph.ids.iter().enumerate().skip(1) {
            let (node, parent) = (network.node(id), network.node(id).parent());
            let to_parent = |axis: &usize| node.end(*axis).is_some_and(|end| Some(end.node) == parent);
            let axes = (0..node.dimensions().len()).filter(to_parent);
            graph.bond[position] = axes.map(|axis| node.dimensions()[axis] as f64).product();
        }
        for position in (1..graph.ids.len()).rev() {
            let above = graph.parent[position];
            graph.end[above] = graph.end[above].max(graph.end[position]);
        }
        graph
    }
    pub fn len(&self) -> usize {
        self.ids.len()
    }
}

/// Dimensions of the contracted tree: the free axes of its nodes in pre-order; {1} if there are none.
pub fn dimensions(network: &Network) -> Result<Vec<usize>> {
    let Some(root) = network.root() else { return fail!(InvalidArgument, "the network has no nodes") };
    let mut sizes = Vec::new();
    for id in network.preorder(root) {
        let node = network.node(id);
        sizes.extend(node.free_axes().into_iter().map(|axis| node.dimensions()[axis]));
    }
    if sizes.is_empty() {
        sizes.push(1);
    }
    Ok(sizes)
}
