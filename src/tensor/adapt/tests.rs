//! Adapted trees: the error that was promised, the ranks that were wanted, canonical form.
use super::*;
use crate::error::Error;
use crate::tensor::Complex;
use crate::tensor::network::End;
use crate::tensor::stream::Stream;
use crate::tensor::testing::*;
use faer::c64;
use proptest::prelude::*;

fn empty() -> (Network, Memory) {
    let network = Network::default();
    let memory = memory(&network.account);
    (network, memory)
}
fn value(network: &Network) -> Vec<Complex> {
    direct_sum(network).1.iter().map(|z| Complex::new(z.re as f32, z.im as f32)).collect()
}
/// Asserts that every node but the root is an isometry towards its parent.
fn assert_canonical(network: &Network) {
    for id in network.preorder(network.root().unwrap()) {
        let node = network.node(id);
        let Some(parent) = node.parent() else { continue };
        let axes: Vec<usize> = node.bonds_to(parent).iter().map(|bond| bond.0).collect();
        let folded = Folded::new(node.source(), node.dimensions(), &axes).unwrap();
        let overlap = folded.matrix().adjoint() * folded.matrix();
        let difference =
            overlap - faer::Mat::<faer::c64>::identity(folded.matrix().ncols(), folded.matrix().ncols());
        assert!(difference.norm_l2() < 1e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn the_error_stays_below_the_target(seed: u64, nodes in 1usize..8, exponent in 0u32..6) {
        let (mut network, memory) = empty();
        random_tree(&mut network, &memory, &mut Random::new(seed), nodes, 1 << 12);
        let (dimensions, before) = direct_sum(&network);
        // How much larger the product of the nodes' norms is than the norm of the value.
        let nodes = network.preorder(network.root().unwrap());
        let norms = nodes.iter().map(|id| norm_of(&widen(network.node(*id).data()))).product::<f64>();
        let cancelled = norms / norm_of(&before);
        let target = if exponent == 0 { 0.0 } else { 10f64.powi(-(exponent as i32)) };
        adapt(&mut network, &memory, target, 0).unwrap();
        let (sizes, _) = direct_sum(&network);
        prop_assert_eq!(sizes, dimensions);
        let error = error(&value(&network), &before);
        // With 5 nodes whose norms multiply to 2000 times the norm of the value, rounding to 32 bits left an error of
        // 1.8e-6.
        let rounding = 1e-6f64.max(2e-9 * cancelled);
        prop_assert!(error <= target + rounding, "{error}, {cancelled} cancelled");
        assert_canonical(&network);
        for id in network.preorder(network.root().unwrap()) {
            // SAFETY: a live node's public structure.
            let rank = unsafe { (*network.record(id)).rank };
            let bonds = network.node(id).parent().map(|p| network.node(id).bonds_to(p));
            let expected = bonds.map_or(0, |b| b.iter().map(|bond| network.node(id).dimensions()[bond.0]).product());
            prop_assert_eq!(rank, expected);
        }
    }
    #[test]
    fn every_failing_allocation_leaves_the_network_as_it_was(seed: u64, nodes in 2usize..6) {
        let (mut network, memory) = empty();
        random_tree(&mut network, &memory, &mut Random::new(seed), nodes, 1 << 8);
        let shapes = |n: &Network| (0..n.len()).map(|id| (n.node(id).dimensions().to_vec(), n.node(id).data().to_vec())).collect::<Vec<_>>();
        let (before, blocks) = (shapes(&network), counts().live_blocks);
        for n in 0.. {
            fail_allocation(Some(n));
            let outcome = adapt(&mut network, &memory, 0.1, 0);
            fail_allocation(None);
            prop_assert_eq!(counts().live_blocks, blocks);
            if outcome.is_ok() {
                break;
            }
            prop_assert_eq!(outcome, Err(Error::OutOfMemory));
            prop_assert!(shapes(&network) == before);
        }
    }
}

/// Two nodes with these singular values between them.
fn spectrum(network: &mut Network, memory: &Memory, values: &[f32]) {
    let n = values.len();
    // Columns of a Fourier matrix are orthogonal; the values go to the first node.
    let wave = |i: usize, j: usize| {
        let angle = 2.0 * std::f32::consts::PI * (i * j) as f32 / n as f32;
        Complex::new(angle.cos(), angle.sin()) * (1.0 / (n as f32).sqrt())
    };
    for second in [false, true] {
        let value = |place: usize| {
            let (i, j) = (place / n, place % n);
            if second { wave(i, j) } else { wave(i, j) * values[j] }
        };
        let elements: Vec<_> = (0..n * n).map(value).collect();
        network.add(memory, &[n, n], Storage::Plain, Some(&elements)).unwrap();
    }
    network.connect_axes(memory, End { node: 0, axis: 1 }, End { node: 1, axis: 0 }).unwrap();
}

#[test]
fn known_singular_values() {
    let values = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25];
    let norm = values.iter().map(|v: &f32| f64::from(v * v)).sum::<f64>().sqrt();
    // Dropping the last k values makes exactly this error.
    for kept in 1..6 {
        let tail = values[kept..].iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        let (mut network, memory) = empty();
        spectrum(&mut network, &memory, &values);
        let (_, before) = direct_sum(&network);
        adapt(&mut network, &memory, tail / norm * 1.0001, 0).unwrap();
        assert_eq!(network.node(1).dimensions(), [kept, 6]);
        assert!((error(&value(&network), &before) - tail / norm).abs() < 1e-5);
    }
}
#[test]
fn outer_products_weigh_what_is_below_them() {
    // A vector, and beside it two nodes with these singular values between them; the norm of either may be anything.
    for scale in [0.01f32, 1.0, 100.0] {
        for vector in [0.01f32, 1.0, 100.0] {
            let (mut network, memory) = empty();
            spectrum(&mut network, &memory, &[4.0, 2.0, 1.0].map(|v| v * scale));
            let data = [Complex::new(vector, 0.0); 5];
            let root = network.add(&memory, &[5], Storage::Plain, Some(&data)).unwrap();
            network.connect(&memory, root, 0).unwrap();
            let (_, before) = direct_sum(&network);
            let error_of = |values: f64| (values / 21.0f64).sqrt();
            adapt(&mut network, &memory, error_of(1.0) * 1.001, 0).unwrap();
            assert_eq!(network.node(1).dimensions(), [2, 3]);
            assert!((error(&value(&network), &before) - error_of(1.0)).abs() < 1e-5);
            assert_canonical(&network);
        }
    }
}
#[test]
fn ranks_that_the_error_does_not_allow() {
    let (mut network, memory) = empty();
    spectrum(&mut network, &memory, &[4.0, 2.0, 1.0, 0.0]);
    let (_, before) = direct_sum(&network);
    // Truncation to a bond of 2 makes an error of about 0.22. The first target does not allow that; the second does.
    adapt(&mut network, &memory, 0.1, 2).unwrap_err();
    assert_eq!(network.node(1).dimensions()[0], 3);
    assert!(error(&value(&network), &before) < 1e-6);
    adapt(&mut network, &memory, 0.25, 2).unwrap();
    assert_eq!(network.node(1).dimensions()[0], 2);
}
#[test]
fn the_budget_goes_first_where_it_must() {
    // The far bond needs nearly the whole budget to come down to 2; sharing equally would not do.
    let (mut network, memory) = empty();
    let line = |values: &[f32]| {
        let n = values.len();
        let mut data = vec![Complex::new(0.0, 0.0); n * n];
        values.iter().enumerate().for_each(|(i, v)| data[i * n + i].re = *v);
        data
    };
    let add = |network: &mut Network, n: usize, data: Vec<Complex>| {
        network.add(&memory, &[n, n], Storage::Plain, Some(&data))
    };
    for values in [[1.0; 3], [1.0; 3], [1.0, 0.9, 0.3]] {
        add(&mut network, 3, line(&values)).unwrap();
    }
    network.connect_axes(&memory, End { node: 0, axis: 1 }, End { node: 1, axis: 0 }).unwrap();
    network.connect_axes(&memory, End { node: 1, axis: 1 }, End { node: 2, axis: 0 }).unwrap();
    let (_, before) = direct_sum(&network);
    let target = 0.3 / (1.0f64 + 0.81 + 0.09).sqrt() * 1.001;
    adapt(&mut network, &memory, target, 2).unwrap();
    assert_eq!((network.node(1).dimensions()[0], network.node(2).dimensions()[0]), (2, 2));
    assert!(error(&value(&network), &before) <= target);
}
#[test]
fn the_budget_is_set_aside_for_those_that_need_least() {
    // Two bonds can be served, or the first one alone.
    let mut budget = Budget::new(1.0, 1);
    budget.reserve(&[0.9, 0.3, 0.3]);
    budget.share_over(3);
    let kept = [0.9f64, 0.3, 0.3].map(|needed| [1.0, needed.sqrt()]);
    assert_eq!([0, 1, 2].map(|node| budget.keep(node, &kept[node])), [2, 1, 1]);
    assert!(!budget.fitted());
    // What was set aside and is not needed after all goes to the next bond.
    let mut budget = Budget::new(1.0, 1);
    budget.reserve(&[0.3, 1.1]);
    budget.share_over(2);
    let kept = [0.1f64, 0.85].map(|needed| [1.0, needed.sqrt()]);
    assert_eq!([0, 1].map(|node| budget.keep(node, &kept[node])), [1, 1]);
    assert!(budget.fitted());
}
#[test]
fn what_is_above_rounding_stays() {
    let (mut network, memory) = empty();
    let values: Vec<f32> = (0..100).map(|place| if place < 99 { 1.0 } else { 5e-6 }).collect();
    spectrum(&mut network, &memory, &values);
    adapt(&mut network, &memory, 0.0, 0).unwrap();
    assert_eq!(network.node(1).dimensions(), [100, 100]);
}
#[test]
fn norms_beyond_the_range_of_floats() {
    for scale in [1e-30f32, 1e30] {
        let (mut network, memory) = empty();
        let mut random = Random::new(9);
        for id in 0..5 {
            let data: Vec<Complex> = random.tensor(&[3, 3]).iter().map(|z| z * scale).collect();
            network.add(&memory, &[3, 3], Storage::Plain, Some(&data)).unwrap();
            if id > 0 {
                network.connect(&memory, id - 1, id).unwrap();
            }
        }
        let (_, before) = direct_sum(&network);
        adapt(&mut network, &memory, 1e-4, 0).unwrap();
        let (_, after) = direct_sum(&network);
        let distance = norm_of(&after.iter().zip(&before).map(|(a, b)| a - b).collect::<Vec<_>>());
        let norm = norm_of(&before);
        assert!(norm > 0.0 && distance / norm < 1e-4);
    }
}
/// A line of 2 by 2 matrices.
fn line(network: &mut Network, memory: &Memory, matrices: impl Iterator<Item = [Complex; 4]>) {
    for (id, elements) in matrices.enumerate() {
        network.add(memory, &[2, 2], Storage::Plain, Some(&elements)).unwrap();
        if id > 0 {
            network.connect(memory, id - 1, id).unwrap();
        }
    }
}
/// The value of a line: the product of its matrices, in f64.
fn product_of_line(network: &Network) -> Vec<c64> {
    let node = |id: usize| (network.node(id).dimensions().to_vec(), widen(network.node(id).data()));
    let first = node(0);
    let next = |left: (Vec<usize>, Vec<c64>), id: usize| {
        let right = node(id);
        direct_product_wide(&left.0, &left.1, &right.0, &right.1, &[(1, 0)])
    };
    (1..network.len()).fold(first, next).1
}
fn assert_line_keeps_its_value(network: &mut Network, memory: &Memory) {
    let before = product_of_line(network);
    adapt(network, memory, 0.0, 0).unwrap();
    let distances = product_of_line(network).iter().zip(&before).map(|(a, b)| a - b).collect::<Vec<_>>();
    let (distance, norm) = (norm_of(&distances), norm_of(&before));
    assert!(norm > 0.0 && distance < 1e-5 * norm, "{norm:e} {distance:e}");
}
#[test]
fn norms_of_long_lines() {
    // The norm gathers in the root. With 300 nodes its exponent stays below 300 either way, but leaves the range of a
    // float.
    for scale in [0.6f32, 0.75, 1.5, 1.7] {
        let (mut network, memory) = empty();
        let mut random = Random::new(11);
        let turn = |angle: f32| [angle.cos(), -angle.sin(), angle.sin(), angle.cos()];
        let matrices = (0..300).map(|_| turn(random.real()).map(|x| Complex::new(x * scale, 0.0)));
        line(&mut network, &memory, matrices);
        assert_line_keeps_its_value(&mut network, &memory);
    }
}
#[test]
fn elements_at_the_ends_of_the_range_of_floats() {
    for scale in [2e-38f32, 3e38] {
        let (mut network, memory) = empty();
        line(&mut network, &memory, [scale, 0.99, 0.99].map(|x| [Complex::new(x, 0.0); 4]).into_iter());
        assert_line_keeps_its_value(&mut network, &memory);
    }
}
#[test]
fn no_tensor_holds_all_that_is_far_from_one() {
    for scale in [1e-16f32, 1e19] {
        let (mut network, memory) = empty();
        line(&mut network, &memory, (0..2).map(|_| [Complex::new(scale, 0.0); 4]));
        assert_line_keeps_its_value(&mut network, &memory);
        for id in 0..2 {
            let magnitude = tiled::magnitude(network.node(id).source()).unwrap();
            assert!((-66..=66).contains(&magnitude.bound()), "{magnitude:?}");
        }
    }
}
#[test]
fn nothing_times_much_is_nothing() {
    let (mut network, memory) = empty();
    let much = |id| Complex::new(if id == 0 { 0.0 } else { 1e37 }, 0.0);
    line(&mut network, &memory, (0..12).map(|id| [much(id); 4]));
    adapt(&mut network, &memory, 0.0, 0).unwrap();
    assert_eq!(norm_of(&product_of_line(&network)), 0.0);
}
#[test]
fn a_stream_over_a_node_that_becomes_smaller_ends() {
    let (mut network, memory) = empty();
    spectrum(&mut network, &memory, &[4.0, 0.0, 0.0, 0.0]);
    let mut stream = Stream::new(&network, &memory, 0, 10).unwrap();
    assert_eq!(stream.next(&network), Ok(true));
    adapt(&mut network, &memory, 0.0, 0).unwrap();
    assert_eq!(network.node(0).count(), 4);
    assert_eq!((stream.next(&network), stream.offset), (Ok(false), 10));
}
#[test]
fn bad_targets_are_refused() {
    let (mut network, memory) = empty();
    assert_eq!(adapt(&mut network, &memory, 0.1, 0), Err(Error::InvalidArgument));
    spectrum(&mut network, &memory, &[1.0, 0.5]);
    for target in [-1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(adapt(&mut network, &memory, target, 0), Err(Error::InvalidArgument));
    }
}
