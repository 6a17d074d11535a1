//! Whole trees: values against the sum over all indices, orders against every possible order, peaks against the
//! plan's.
use super::exact::{self, Objective, SmallTree};
use super::graph::Graph;
use super::search::{self, Effort};
use super::*;
use crate::error::Error;
use crate::tensor::Complex;
use crate::tensor::memory::Storage;
use crate::tensor::network::End;
use crate::tensor::testing::*;
use proptest::prelude::*;

fn empty() -> (Network, Memory) {
    let network = Network::default();
    let memory = memory(&network.account);
    (network, memory)
}
fn add(network: &mut Network, memory: &Memory, dimensions: &[usize], elements: &[Complex]) -> usize {
    network.add(memory, dimensions, Storage::Plain, Some(elements)).unwrap()
}
fn contracted(network: &mut Network, memory: &Memory) -> (Vec<Complex>, Vec<usize>) {
    let (mut result, dimensions) = contract(network, memory).unwrap();
    (result.elements().to_vec(), dimensions)
}

/// The product of five vectors has 2^50 elements. The first product, of two of them, has 2^20.
#[test]
fn nothing_is_computed_for_a_result_without_memory() {
    let (mut network, memory) = empty();
    let vectors = (1024..1029).map(|size| {
        let elements = vec![Complex::new(1.0, 0.0); size];
        add(&mut network, &memory, &[size], &elements)
    });
    let ids: Vec<usize> = vectors.collect();
    ids.windows(2).for_each(|pair| network.connect(&memory, pair[0], pair[1]).unwrap());
    assert_eq!(contract(&mut network, &memory).err(), Some(Error::OutOfMemory));
    assert_eq!(network.metrics.num_contractions, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn random_trees_give_the_sum_over_all_indices(seed: u64, nodes in 1usize..9) {
        let (mut network, memory) = empty();
        let mut random = Random::new(seed);
        random_tree(&mut network, &memory, &mut random, nodes, 1 << 14);
        let (dimensions, expected, terms) = sum_of_terms(&network);
        let error = |result: &[Complex]| error_beside(result, &expected, terms);
        let elements = |network: &Network| (0..network.len()).map(|id| network.node(id).data().to_vec()).collect::<Vec<_>>();
        let given = elements(&network);
        network.account.reset_peak();
        let before = network.account.peak();
        let (result, sizes) = contracted(&mut network, &memory);
        prop_assert_eq!(&sizes, &dimensions);
        prop_assert_eq!(&sizes, &super::dimensions(&network).unwrap());
        prop_assert!(error(&result) < 1e-5, "{}", error(&result));
        // The peak is the one that the plan says.
        let (_, peak) = cost(&mut network, &memory).unwrap();
        prop_assert_eq!(network.account.peak() - before, peak as usize);
        // Another order, the same value; the network is as it was.
        optimize(&mut network, &memory).unwrap();
        let (again, _) = contracted(&mut network, &memory);
        prop_assert!(error(&again) < 1e-5);
        prop_assert_eq!(super::dimensions(&network).unwrap(), dimensions);
        prop_assert!(elements(&network) == given);
    }
    #[test]
    fn every_failing_allocation_leaves_all_as_it_was(seed: u64, nodes in 1usize..9) {
        let (mut network, memory) = empty();
        random_tree(&mut network, &memory, &mut Random::new(seed), nodes, 1 << 10);
        let (expected, _) = contracted(&mut network, &memory);
        let before = counts();
        for n in 0.. {
            fail_allocation(Some(n));
            let outcome = contract(&mut network, &memory).map(|(mut result, _)| result.elements().to_vec());
            let done = counts().allocations - before.allocations;
            fail_allocation(None);
            prop_assert_eq!((counts().live_blocks, counts().live_bytes), (before.live_blocks, before.live_bytes));
            match outcome {
                Err(error) => prop_assert_eq!(error, Error::OutOfMemory),
                Ok(result) => {
                    prop_assert_eq!(result, expected);
                    prop_assert!(done >= n);
                    break;
                }
            }
        }
        drop(network);
        prop_assert_eq!(counts().live_blocks, 0);
    }
    #[test]
    fn exact_orders_are_the_best_of_all(seed: u64, nodes in 2usize..8) {
        let mut random = Random::new(seed);
        let tree = random_sizes(&mut random, nodes);
        let (time, space) = (exact::solve(&tree, Objective::Time), exact::solve(&tree, Objective::Space));
        let (mut least, mut smallest) = (f64::INFINITY, f64::INFINITY);
        all_orders(&tree, &mut Vec::new(), &mut |terms, largest| {
            least = least.min(terms);
            smallest = smallest.min(largest);
        });
        prop_assert!((time.terms / least - 1.0).abs() < 1e-9, "{} {}", time.terms, least);
        prop_assert!((space.largest / smallest - 1.0).abs() < 1e-9);
    }
}

/// A random tree of sizes. Each vertex comes after the one above it.
fn random_sizes(random: &mut Random, nodes: usize) -> SmallTree {
    let mut tree = SmallTree { size: vec![0.0; nodes], edges: Vec::new() };
    for v in 1..nodes {
        let (parent, bond) = (random.below(v), ((1 + random.below(32)) as f64).log2());
        tree.edges.push((parent, v, bond));
        tree.size[parent] += bond;
        tree.size[v] += bond;
    }
    for size in &mut tree.size {
        *size += ((1 + random.below(2) * random.below(16)) as f64).log2();
    }
    tree
}
fn graph_of(tree: &SmallTree) -> Graph {
    // Renumber into depth-first pre-order.
    let mut order = Vec::new();
    let mut stack = vec![0];
    while let Some(v) = stack.pop() {
        order.push(v);
        stack.extend(tree.edges.iter().filter(|e| e.0 == v).map(|e| e.1));
    }
    let place = |v: usize| order.iter().position(|u| *u == v).unwrap();
    let above = |v: usize| tree.edges.iter().find(|e| e.1 == v);
    let mut graph = Graph {
        ids: order.clone(),
        parent: order.iter().map(|&v| above(v).map_or(0, |e| place(e.0))).collect(),
        end: (1..=order.len()).collect(),
        bond: order.iter().map(|&v| above(v).map_or(1.0, |e| e.2.exp2())).collect(),
        size: order.iter().map(|&v| tree.size[v].exp2()).collect(),
    };
    for v in (1..order.len()).rev() {
        let parent = graph.parent[v];
        graph.end[parent] = graph.end[parent].max(graph.end[v]);
    }
    graph
}
/// Tries every sequence of removing the edges.
fn all_orders(tree: &SmallTree, removed: &mut Vec<usize>, report: &mut impl FnMut(f64, f64)) {
    if removed.len() == tree.edges.len() {
        let mut part: Vec<usize> = (0..tree.size.len()).collect();
        let mut size = tree.size.clone();
        let (mut terms, mut largest) = (0.0, 0.0f64);
        for &e in removed.iter() {
            let (a, b, bond) = tree.edges[e];
            let (a, b) = (part[a], part[b]);
            terms += (size[a] + size[b] - bond).exp2();
            size[a] += size[b] - 2.0 * bond;
            largest = largest.max(size[a].exp2());
            part.iter_mut().filter(|p| **p == b).for_each(|p| *p = a);
        }
        return report(terms, largest);
    }
    for e in 0..tree.edges.len() {
        if !removed.contains(&e) {
            removed.push(e);
            all_orders(tree, removed, report);
            removed.pop();
        }
    }
}

#[test]
fn scales_beyond_the_range_of_floats() {
    // A chain of matrices whose running product leaves the range of f32 both ways.
    let (mut network, memory) = empty();
    let scales = [1e30f32, 1e30, 1e30, 1e-30, 1e-30, 1e-30, 1e-35, 1e-35, 1e35, 1e35];
    let mut random = Random::new(5);
    for (i, scale) in scales.iter().enumerate() {
        let elements: Vec<_> = random.tensor(&[3, 3]).iter().map(|z| z * scale).collect();
        let id = add(&mut network, &memory, &[3, 3], &elements);
        if i > 0 {
            network.connect(&memory, id - 1, id).unwrap();
        }
    }
    let (_, expected) = direct_sum(&network);
    let (result, dimensions) = contracted(&mut network, &memory);
    assert_eq!(dimensions, [3, 3]);
    assert!(error(&result, &expected) < 1e-5);
}
#[test]
fn not_a_number_comes_through() {
    let (mut network, memory) = empty();
    let mut elements = Random::new(1).tensor(&[3, 4]);
    add(&mut network, &memory, &[3, 4], &elements);
    elements[5].re = f32::NAN; // row 1 of 4 by 3
    elements[7].im = f32::INFINITY; // row 2
    add(&mut network, &memory, &[4, 3], &elements);
    network.connect(&memory, 0, 1).unwrap();
    let (result, _) = contracted(&mut network, &memory);
    let finite = |z: &Complex| z.re.is_finite() && z.im.is_finite();
    for row in result.chunks(3) {
        assert!(finite(&row[0]) && !finite(&row[1]) && !finite(&row[2]));
    }
}
#[test]
fn deep_and_wide_trees() {
    for wide in [false, true] {
        let (mut network, memory) = empty();
        let count = 10_000;
        let half =
            [Complex::new(0.0, 1.0), Complex::new(0.0, 0.0), Complex::new(0.0, 0.0), Complex::new(0.0, 1.0)];
        for i in 0..count {
            let (dimensions, elements): (&[usize], &[Complex]) = match (wide, i) {
                (true, 0) => (&[2, 2, 2], &[half[0]; 8]),
                (true, 1..4) => (&[2], &half[..2]),
                (true, _) => (&[1], &half[..1]),
                (false, _) => (&[2, 2], &half),
            };
            add(&mut network, &memory, dimensions, elements);
        }
        // The deep tree is connected from the bottom up, so that the root moves every time. The wide one has all
        // others below the first.
        for i in (1..count).rev() {
            let (parent, child) = if wide { (0, count - i) } else { (i - 1, i) };
            network.connect(&memory, parent, child).unwrap();
        }
        assert_eq!(network.root(), Some(0));
        let (result, dimensions) = contracted(&mut network, &memory);
        // i to the power 10,000 is 1.
        if wide {
            assert_eq!((result[0], dimensions.len()), (Complex::new(1.0, 0.0), count - 4));
        } else {
            assert_eq!(dimensions, [2, 2]);
            assert_eq!(result, [1.0, 0.0, 0.0, 1.0].map(|re| Complex::new(re, 0.0)));
        }
    }
}
#[test]
fn two_threads_give_what_one_gives() {
    let (mut network, memory) = empty();
    let mut random = Random::new(3);
    for dimensions in [[40, 30, 20], [20, 40, 15], [30, 15, 10]] {
        let elements = random.tensor(&dimensions);
        add(&mut network, &memory, &dimensions, &elements);
    }
    network.connect_axes(&memory, End { node: 0, axis: 2 }, End { node: 1, axis: 0 }).unwrap();
    network.connect_axes(&memory, End { node: 0, axis: 1 }, End { node: 2, axis: 0 }).unwrap();
    crate::tensor::kernel::set_threads(1);
    let (one, _) = contracted(&mut network, &memory);
    crate::tensor::kernel::set_threads(2);
    let (two, _) = contracted(&mut network, &memory);
    crate::tensor::kernel::set_threads(0);
    assert!(error(&two, &widen(&one)) < 1e-6);
}
#[test]
fn plans_are_kept_until_the_tree_changes() {
    let (mut network, memory) = empty();
    for _ in 0..3 {
        add(&mut network, &memory, &[2, 2], &[Complex::new(1.0, 0.0); 4]);
    }
    network.connect(&memory, 0, 1).unwrap();
    optimize(&mut network, &memory).unwrap();
    let first = plan(&mut network, &memory, Effort::Quick).unwrap();
    assert!(Rc::ptr_eq(&first, &plan(&mut network, &memory, Effort::Thorough).unwrap()));
    network.connect(&memory, 1, 2).unwrap();
    assert!(!Rc::ptr_eq(&first, &plan(&mut network, &memory, Effort::Quick).unwrap()));
    assert_eq!(cost(&mut network, &memory).unwrap().0, 8.0 * 16.0);
}

#[test]
fn searched_orders_are_near_the_best() {
    for (budget, mean, worst) in [(600.0, 1.05, 4.0), (20_000.0, 1.01, 1.5)] {
        let mut random = Random::new(77);
        let mut ratios = Vec::new();
        for _ in 0..200 {
            let nodes = 8 + random.below(10);
            let tree = random_sizes(&mut random, nodes);
            let best = exact::solve(&tree, Objective::Time).terms;
            let found = search::search(&graph_of(&tree), Objective::Time, budget * nodes as f64).terms / best;
            assert!((1.0 - 1e-9..=worst).contains(&found), "{found} of the best");
            ratios.push(found);
        }
        let average = ratios.iter().sum::<f64>() / ratios.len() as f64;
        assert!(average <= mean, "{average} of the best on average");
    }
}
