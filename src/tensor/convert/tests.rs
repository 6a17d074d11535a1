//! Conversions: the same value there and back, cycles, and networks that contradict themselves.
use super::*;
use crate::error::Error;
use crate::tensor::testing::*;
use faer::c64;
use proptest::prelude::*;

fn empty() -> (Network, Memory) {
    let network = Network::default();
    let memory = memory(&network.account);
    (network, memory)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn there_and_back(seed: u64, nodes in 1usize..9) {
        let (mut tree, memory) = empty();
        random_tree(&mut tree, &memory, &mut Random::new(seed), nodes, 1 << 10);
        let exported = to_network(&tree).unwrap();
        let tensors = exported.iter().enumerate().map(|(id, entry)| Tensor {
            id,
            dimensions: tree.node(entry.node).dimensions().to_vec(),
            elements: tree.node(entry.node).data(),
            links: entry.links.clone(),
        });
        let tensors: Vec<_> = tensors.collect();
        let (mut again, other_memory) = empty();
        to_tree(&mut again, &other_memory, tensors).unwrap();
        let connected = exported.iter().enumerate().all(|(id, e)| id == 0 || !e.links.is_empty());
        let (a, b) = (direct_sum(&tree), direct_sum(&again));
        prop_assert_eq!(again.len(), exported.len());
        if connected && (1..exported.len()).all(|id| exported[id].links.iter().any(|l| l.0 < id)) {
            // Without outer products the axes come in the same order, too.
            prop_assert_eq!(a, b);
        } else {
            let sum = |v: &[c64]| v.iter().sum::<c64>();
            prop_assert!((sum(&a.1) - sum(&b.1)).norm() <= 1e-9 * a.1.iter().map(|z| z.norm()).sum::<f64>());
        }
    }
    #[test]
    fn cycles_keep_the_value(seed: u64, nodes in 3usize..7, extra in 1usize..5) {
        // A random connected graph without free axes: its value is a number.
        let mut random = Random::new(seed);
        let mut dimensions = vec![Vec::new(); nodes];
        let mut links = vec![Vec::new(); nodes];
        for edge in 0..nodes - 1 + extra {
            let b = if edge < nodes - 1 { edge + 1 } else { 1 + random.below(nodes - 1) };
            let a = random.below(b);
            let size = 1 + random.below(3);
            links[a].push((b, dimensions[a].len()));
            links[b].push((a, dimensions[b].len()));
            dimensions[a].push(size);
            dimensions[b].push(size);
        }
        let data: Vec<_> = dimensions.iter().map(|d| random.tensor(d)).collect();
        // Contract one after the other into the first, in f64.
        let ids = random.permutation(nodes); // ids say nothing about places
        let mut value = widen(&data[0]);
        let mut axes: Vec<(usize, usize)> = (0..dimensions[0].len()).map(|axis| (0, axis)).collect();
        let mut sizes = dimensions[0].clone();
        for next in 1..nodes {
            let mut bonds = Vec::new();
            for (place, &(node, axis)) in axes.iter().enumerate() {
                let (to, _) = links[node][axis];
                if to == next {
                    let m = links[node].iter().filter(|l| l.0 == next && l.1 < axis).count();
                    let other = links[next].iter().filter(|l| l.0 == node).nth(m).unwrap().1;
                    bonds.push((place, other));
                }
            }
            let (_, product) = direct_product_wide(&sizes, &value, &dimensions[next], &widen(&data[next]), &bonds);
            let keep: Vec<usize> = (0..axes.len()).filter(|p| bonds.iter().all(|b| b.0 != *p)).collect();
            let mut next_axes: Vec<_> = keep.iter().map(|p| axes[*p]).collect();
            let mut next_sizes: Vec<_> = keep.iter().map(|p| sizes[*p]).collect();
            for axis in (0..dimensions[next].len()).filter(|axis| bonds.iter().all(|b| b.1 != *axis)) {
                next_axes.push((next, axis));
                next_sizes.push(dimensions[next][axis]);
            }
            (value, axes, sizes) = (product, next_axes, next_sizes);
        }
        let tensors = (0..nodes).map(|n| Tensor {
            id: 100 + ids[n],
            dimensions: dimensions[n].clone(),
            elements: &data[n],
            links: links[n].iter().map(|(to, axis)| (100 + ids[*to], *axis)).collect(),
        });
        let tensors: Vec<_> = tensors.collect();
        let (mut tree, memory) = empty();
        to_tree(&mut tree, &memory, tensors).unwrap();
        prop_assert_eq!(tree.root(), Some(0));
        let (_, result) = direct_sum(&tree);
        prop_assert!((result[0] - value[0]).norm() <= 1e-5 * (1.0 + value[0].norm()));
        drop((tree, memory));
        prop_assert_eq!(counts().live_blocks, 0);
    }
}

#[test]
fn the_smallest_result_is_made_first() {
    // Of the three edges of this triangle, one joins large axes: its contraction is smaller than any tensor.
    let (mut tree, memory) = empty();
    let data = Random::new(1).tensor(&[2, 10]);
    let tensor = |id: usize, dimensions: [usize; 2], links: [(usize, usize); 2]| Tensor {
        id,
        dimensions: dimensions.to_vec(),
        elements: &data[..dimensions.iter().product()],
        links: links.to_vec(),
    };
    let tensors = vec![
        tensor(0, [2, 2], [(1, 0), (2, 1)]),
        tensor(1, [2, 10], [(0, 0), (2, 1)]),
        tensor(2, [10, 2], [(1, 0), (0, 1)]),
    ];
    to_tree(&mut tree, &memory, tensors).unwrap();
    assert_eq!(
        (tree.len(), tree.node(0).dimensions(), tree.node(1).dimensions()),
        (2, &[2, 2][..], &[2, 2][..])
    );
}
#[test]
fn contradictions_are_refused() {
    let data = Random::new(1).tensor(&[2, 3]);
    type Links<'a> = &'a [(usize, usize)];
    let refused = |ids: [usize; 2], first: Links, second: Links| {
        let (mut tree, memory) = empty();
        let tensor = |place: usize, links: Links| Tensor {
            id: ids[place],
            dimensions: vec![2, 3],
            elements: &data,
            links: links.to_vec(),
        };
        let outcome = to_tree(&mut tree, &memory, vec![tensor(0, first), tensor(1, second)]);
        outcome == Err(Error::InvalidArgument) && tree.is_empty()
    };
    assert!(!refused([4, 7], &[(7, 0)], &[(4, 0)]));
    assert!(refused([4, 7], &[(7, 0)], &[])); // one-sided
    assert!(refused([4, 7], &[(7, 0)], &[(4, 1)])); // sizes
    assert!(refused([4, 7], &[(7, 2)], &[(4, 0)])); // axis
    assert!(refused([4, 7], &[(9, 0)], &[(4, 0)])); // id
    assert!(refused([4, 4], &[], &[])); // same id
    assert!(refused([4, 7], &[(7, 0), (7, 0)], &[(4, 0), (4, 0)])); // twice
    assert!(refused([4, 7], &[(4, 0)], &[])); // itself
}
