//! Random trees, and what contracting them must give, by the definition.
use super::{Random, widen};
use crate::tensor::memory::{Memory, Storage};
use crate::tensor::network::{End, Network};
use crate::tensor::shape;
use faer::c64;

/// The root's tree contracted by its definition: a sum over all indices, in f64. Returns dimensions and elements.
pub fn direct_sum(network: &Network) -> (Vec<usize>, Vec<c64>) {
    let (dimensions, elements, _) = sum_of_terms(network);
    (dimensions, elements)
}
/// The same, and the norm of all terms. Rounding errors are in proportion to that norm, also where terms cancel and the result
/// is small.
pub fn sum_of_terms(network: &Network) -> (Vec<usize>, Vec<c64>, f64) {
    let ids = network.preorder(network.root().unwrap());
    // Number the free axes in the order of the result, then the bonds.
    let mut sizes = Vec::new();
    let mut index = vec![Vec::new(); network.len()];
    for &id in &ids {
        let node = network.node(id);
        index[id] = vec![usize::MAX; node.dimensions().len()];
        for axis in node.free_axes() {
            index[id][axis] = sizes.len();
            sizes.push(node.dimensions()[axis]);
        }
    }
    let free = sizes.len();
    for &id in &ids {
        for axis in 0..index[id].len() {
            if let Some(End { node, axis: other }) = network.node(id).end(axis)
                && index[id][axis] == usize::MAX
            {
                (index[id][axis], index[node][other]) = (sizes.len(), sizes.len());
                sizes.push(network.node(id).dimensions()[axis]);
            }
        }
    }
    let strides: Vec<_> = ids.iter().map(|&id| shape::strides(network.node(id).dimensions())).collect();
    let data: Vec<_> = ids.iter().map(|&id| widen(network.node(id).data())).collect();
    let mut out = vec![c64::new(0.0, 0.0); sizes[..free].iter().product()];
    let mut squares = 0.0;
    let mut at = vec![0; sizes.len()];
    for position in 0..sizes.iter().product::<usize>() {
        let mut rest = position;
        for i in (0..sizes.len()).rev() {
            (at[i], rest) = (rest % sizes[i], rest / sizes[i]);
        }
        let mut term = c64::new(1.0, 0.0);
        for (n, &id) in ids.iter().enumerate() {
            let offset: usize = index[id].iter().zip(&strides[n]).map(|(i, stride)| at[*i] * stride).sum();
            term *= data[n][offset];
        }
        out[position / sizes[free..].iter().product::<usize>()] += term;
        squares += term.norm_sqr();
    }
    let mut dimensions = sizes[..free].to_vec();
    if dimensions.is_empty() {
        dimensions.push(1);
    }
    (dimensions, out, squares.sqrt())
}

/// Makes a random tree with at most `limit` positions of all its indices together. Ranks are 0 to 6, sizes 1 to 7. An edge has
/// none to three bonds. Edges are made in any order.
pub fn random_tree(network: &mut Network, memory: &Memory, random: &mut Random, nodes: usize, limit: usize) {
    let mut room = limit;
    let mut size = |random: &mut Random| {
        let size = 1 + random.below(7);
        if size <= room {
            room /= size;
            size
        } else {
            1
        }
    };
    let mut axes: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    let mut bonds = Vec::new();
    let mut edges = Vec::new();
    for child in 1..nodes {
        let parent = random.below(child);
        let count = [1, 1, 1, 1, 2, 2, 3, 0][random.below(8)];
        edges.push((parent, child));
        for _ in 0..count {
            if axes[parent].len() < 6 && axes[child].len() < 6 {
                let size = size(random);
                bonds.push((parent, axes[parent].len(), child, axes[child].len()));
                axes[parent].push(size);
                axes[child].push(size);
            }
        }
    }
    for own in &mut axes {
        for _ in 0..random.below(3) {
            if own.len() < 6 {
                own.push(size(random));
            }
        }
    }
    // Give each node its axes in a random order, and the nodes random places.
    let places = random.permutation(nodes);
    let orders: Vec<Vec<usize>> = axes.iter().map(|own| random.permutation(own.len())).collect();
    let mut id_of = vec![0; nodes];
    for &node in &places {
        let mut dimensions = vec![0; axes[node].len()];
        for (axis, &place) in orders[node].iter().enumerate() {
            dimensions[place] = axes[node][axis];
        }
        let data = random.tensor(&dimensions);
        id_of[node] = network.add(memory, &dimensions, Storage::Plain, Some(&data)).unwrap();
    }
    for i in random.permutation(edges.len()) {
        let (parent, child) = edges[i];
        let of_edge: Vec<_> = bonds.iter().filter(|b| (b.0, b.2) == (parent, child)).collect();
        if of_edge.is_empty() {
            network.connect(memory, id_of[parent], id_of[child]).unwrap();
        }
        for &&(_, i, _, j) in &of_edge {
            let ends = [(parent, i), (child, j)]
                .map(|(node, axis)| End { node: id_of[node], axis: orders[node][axis] });
            // The rule may have given the axis to an edge that was to have no bond. Then this bond cannot be made.
            let _ = network.connect_axes(memory, ends[0], ends[1]);
        }
        if network.node(id_of[child]).parent().is_none() {
            network.connect(memory, id_of[parent], id_of[child]).unwrap();
        }
    }
}
