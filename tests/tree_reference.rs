//! Trees whose values NumPy computed in complex128 (tests/data/make_tree_reference.py).
use core::ptr::null_mut;
use unimem::c_api::tensor_types::*;
use unimem::c_api::tree_tensor_network::*;

/// A float in C's hexadecimal notation, as Python writes it.
fn hexadecimal(text: &str) -> f64 {
    let (sign, rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let (mantissa, exponent) = rest.strip_prefix("0x").unwrap().split_once('p').unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = u64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap();
    let exponent = exponent.parse::<i32>().unwrap() - 4 * fraction.len() as i32;
    sign * digits as f64 * 2f64.powi(exponent)
}
fn numbers(line: &str) -> Vec<f64> {
    line.split_whitespace().map(hexadecimal).collect()
}
fn integers<T: std::str::FromStr>(words: &[&str]) -> Vec<T> {
    words.iter().map(|word| word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))).collect()
}

#[test]
fn values_that_numpy_computed() {
    let text = include_str!("data/tree_reference.txt");
    let mut lines = text.lines();
    let mut cases = 0;
    // SAFETY: every call has what its description asks for.
    while let Some(head) = lines.next() {
        let count: usize = head.strip_prefix("tree ").unwrap().parse().unwrap();
        let ttn = create_tree_tensor_network(0, 0, 0.0);
        let mut nodes = Vec::new();
        let mut parents = Vec::new();
        for _ in 0..count {
            let words: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
            parents.push(words[1].parse::<isize>().unwrap());
            let sizes: Vec<usize> = integers(&words[2..]);
            let parts = numbers(lines.next().unwrap());
            let data: Vec<_> = parts.chunks(2).map(|z| ComplexFloat::new(z[0] as f32, z[1] as f32)).collect();
            // SAFETY: the slices have the lengths that go with them.
            nodes.push(unsafe {
                add_tree_tensor_node(ttn, data.as_ptr(), sizes.as_ptr(), sizes.len(), false)
            });
        }
        let value = loop {
            let words: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
            if words[0] == "value" {
                break integers::<usize>(&words[1..]);
            }
            let bond: Vec<usize> = integers(&words[1..]);
            assert_eq!(parents[bond[2]], bond[0] as isize);
            // SAFETY: nodes of this network.
            assert!(unsafe { unimem_connect_axes(ttn, nodes[bond[0]], bond[1], nodes[bond[2]], bond[3]) });
        };
        let expected = numbers(lines.next().unwrap());
        let (mut result, mut sizes, mut rank) = (null_mut(), [0; 64], 0);
        // SAFETY: there is room for 64 sizes.
        assert!(unsafe { contract_full_tree_network(ttn, &mut result, sizes.as_mut_ptr(), &mut rank) });
        assert_eq!(sizes[..rank], value);
        // SAFETY: the result has as many elements as its sizes say.
        let elements = unsafe { core::slice::from_raw_parts(result.cast::<f32>(), expected.len()) };
        let far: f64 = elements.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        let norm: f64 = expected.iter().map(|b| b.powi(2)).sum();
        assert!(far.sqrt() <= 1e-5 * norm.sqrt(), "case {cases}: {}", (far / norm).sqrt());
        // SAFETY: from `malloc`, and the network is not used any more.
        unsafe {
            libc::free(result.cast());
            destroy_tree_tensor_network(ttn);
        }
        cases += 1;
    }
    assert_eq!(cases, 16);
}
