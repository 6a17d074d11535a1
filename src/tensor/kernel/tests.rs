//! The kernel against a direct sum over all indices in f64.
use super::multiply::{Left, Target};
use super::pack::{Block, Packed};
use super::scan::{Magnitude, magnitude, powers, reaches};
use super::*;
use crate::tensor::shape;
use crate::tensor::testing::{Random, direct_product, error, norm_of, widen};
use faer::c64;
use proptest::prelude::*;
use pulp::Arch;

fn check(left: &[usize], right: &[usize], bonds: &[(usize, usize)], seed: u64) {
    let mut random = Random::new(seed);
    let (a, b) = (random.tensor(left), random.tensor(right));
    let (_, expected) = direct_product(left, &a, right, &b, bonds);
    let mut out = vec![Complex::new(f32::NAN, f32::NAN); expected.len()];
    Product::row_major(left, right, bonds)
        .compute(&a, &b, out.as_mut_slice().into(), &mut |_| Ok(()))
        .unwrap();
    // The error is relative to the sum of the terms' absolute values. Where terms cancel, a result becomes small, but
    // its error does not (Higham, Accuracy and Stability of Numerical Algorithms, section 3.5).
    let absolute = |of: &[Complex]| of.iter().map(|z| Complex::new(z.norm(), 0.0)).collect::<Vec<_>>();
    let (_, terms) = direct_product(left, &absolute(&a), right, &absolute(&b), bonds);
    let off: Vec<c64> = widen(&out).iter().zip(&expected).map(|(a, b)| a - b).collect();
    let error = norm_of(&off) / norm_of(&terms);
    assert!(error < 1e-6, "{left:?} {right:?} {bonds:?}: {error}");
}

#[test]
fn every_shape_of_matrix_product() {
    // In the last shape, several tiles find all terms of A packed, block after block.
    let shapes =
        [(1, 1, 1), (1, 1, 5000), (3, 1, 9), (23, 34, 4000), (130, 97, 33), (1100, 970, 3), (5, 1000, 600)];
    for (m, n, k) in shapes.into_iter().chain([(25, 600, 900)]) {
        check(&[m, k], &[k, n], &[(1, 0)], 1);
        check(&[k, m], &[k, n], &[(0, 0)], 2);
        check(&[m, k], &[n, k], &[(1, 1)], 3);
        check(&[k, m], &[n, k], &[(0, 1)], 4);
    }
}
#[test]
fn vectors_with_short_sums() {
    check(&[70, 4, 90], &[4], &[(1, 0)], 1);
    check(&[3], &[5000, 3, 17], &[(0, 1)], 2);
    check(&[2, 3], &[40, 3, 50, 2, 60], &[(0, 3), (1, 1)], 3);
    check(&[1], &[5000], &[], 4);
    for terms in 5..12 {
        check(&[terms], &[3, terms, 16 + terms], &[(0, 1)], terms as u64);
    }
    // The sum is added to what is there. A NaN reaches the elements it is summed into, and no others.
    let (zero, one) = (Complex::new(0.0, 0.0), Complex::new(1.0, -2.0));
    let product = Product::row_major(&[2, 30], &[2], &[(0, 0)]);
    let (mut left, mut out) = (vec![one; 60], vec![one; 30]);
    left[7].re = f32::NAN;
    // SAFETY: `out` was written.
    unsafe { product.add(&left, &[one, zero], out.as_mut_slice().into(), &mut |_| Ok(())) }.unwrap();
    assert!(out.iter().enumerate().all(|(i, z)| if i == 7 { z.re.is_nan() } else { *z == one + one * one }));
}
#[test]
fn axes_that_do_not_fuse() {
    check(&[5, 33, 7, 9, 3], &[3, 11, 33, 13, 9], &[(1, 2), (3, 4), (4, 0)], 5);
    check(&[9, 8, 31, 6], &[31, 9, 40], &[(0, 1), (2, 0)], 6);
    check(&[2; 12], &[2; 10], &[(1, 3), (3, 2), (11, 7), (5, 0)], 7);
    check(&[12, 13], &[14], &[], 8);
    check(&[], &[4, 5], &[], 9);
    check(&[], &[], &[], 10);
}
#[test]
fn output_with_any_order_of_axes() {
    // C[j, i, l, k] = A[i, s, k] B[s, j, l], through its own strides.
    let (i, j, k, l, s) = (40, 30, 50, 20, 12);
    let mut random = Random::new(11);
    let (a, b) = (random.tensor(&[i, s, k]), random.tensor(&[s, j, l]));
    let axis = |size, input, other| Axis { size, input, other };
    let product = Product {
        rows: vec![axis(i, s * k, l * k), axis(k, 1, 1)],
        columns: vec![axis(j, l, i * l * k), axis(l, 1, k)],
        sums: vec![axis(s, k, j * l)],
        ..Product::default()
    };
    let mut out = vec![Complex::new(0.0, 0.0); i * j * k * l];
    product.compute(&a, &b, out.as_mut_slice().into(), &mut |_| Ok(())).unwrap();
    let (_, plain) = direct_product(&[i, s, k], &a, &[s, j, l], &b, &[(1, 0)]);
    let plain: Vec<Complex> = plain.iter().map(|z| Complex::new(z.re as f32, z.im as f32)).collect();
    let mut expected = plain.clone();
    permute(&plain, &[i, k, j, l], &[2, 0, 3, 1], expected.as_mut_slice().into());
    let expected: Vec<_> = expected.iter().map(|z| faer::c64::new(z.re as f64, z.im as f64)).collect();
    assert!(error(&out, &expected) < 1e-5);
}
#[test]
fn long_sums_stay_exact_and_two_threads_agree() {
    check(&[3, 200_000], &[200_000, 2], &[(1, 0)], 12);
    // Summed one after the other in f32, so many equal terms would be off by a hundredth.
    let (terms, tenth) = (1 << 22, Complex::new(0.1, 0.0));
    let (tenths, ones) = (vec![tenth; 3 * terms], vec![Complex::new(1.0, 0.0); 2 * terms]);
    let exact = f64::from(tenth.re) * terms as f64;
    let off = |sum: f32| (f64::from(sum) / exact - 1.0).abs();
    assert!(off(tenths[..terms].iter().fold(0.0, |sum, term| sum + term.re)) > 0.01);
    for (rows, columns) in [(1, 1), (3, 1), (1, 2), (3, 2)] {
        let mut out = vec![Complex::new(f32::NAN, 0.0); rows * columns];
        Product::row_major(&[rows, terms], &[terms, columns], &[(1, 0)])
            .compute(
                &tenths[..rows * terms],
                &ones[..terms * columns],
                out.as_mut_slice().into(),
                &mut |_| Ok(()),
            )
            .unwrap();
        for sum in out {
            assert!(off(sum.re) < 1e-4 && sum.im == 0.0, "{rows} by {columns}: {sum}, not {exact}");
        }
    }
}
#[test]
fn not_a_number_and_infinity_stay() {
    let mut random = Random::new(13);
    let (mut a, b) = (random.tensor(&[40, 50]), random.tensor(&[50, 60]));
    a[7 * 50 + 3].re = f32::NAN;
    a[9 * 50 + 3].im = f32::INFINITY;
    let mut out = vec![Complex::new(0.0, 0.0); 2400];
    Product::row_major(&[40, 50], &[50, 60], &[(1, 0)])
        .compute(&a, &b, out.as_mut_slice().into(), &mut |_| Ok(()))
        .unwrap();
    for (i, row) in out.chunks(60).enumerate() {
        let finite = row.iter().all(|z| z.re.is_finite() && z.im.is_finite());
        assert_eq!(finite, i != 7 && i != 9);
        assert!(finite || row.iter().all(|z| !z.re.is_finite() || !z.im.is_finite()));
    }
}
#[test]
fn scaled_operands() {
    let a = [Complex::new(1e30, 0.0), Complex::new(0.0, 2e30)];
    let mut product = Product::row_major(&[2], &[2], &[(0, 0)]);
    product.left_exponent = -100;
    product.right_exponent = -100;
    let mut out = [Complex::new(0.0, 0.0)];
    product.compute(&a, &a, out.as_mut_slice().into(), &mut |_| Ok(())).unwrap();
    assert!((f64::from(out[0].re) * 2f64.powi(200) / -3e60 - 1.0).abs() < 1e-6);
}
#[test]
fn scaled_and_added_by_every_way() {
    let mut random = Random::new(14);
    // The ways, in turn: packed; A read where it lies; thin; thin with the operands exchanged; packed with the operands
    // exchanged; a sum that threads share.
    for (m, n, k) in [(40, 90, 50), (40, 20, 50), (1, 90, 5), (90, 1, 5), (60, 1, 90), (23, 34, 4000)] {
        let (left, right) = ([m, k], [k, n]);
        let (a, b, before) = (random.tensor(&left), random.tensor(&right), random.tensor(&[m, n]));
        let (_, sum) = direct_product(&left, &a, &right, &b, &[(1, 0)]);
        let times = |elements: &[Complex], exponent: i32| -> Vec<Complex> {
            elements.iter().map(|z| z * 2f32.powi(exponent)).collect()
        };
        // If the exponents of the operands were mixed up, the result would be out of range.
        for (exponents, value) in [((0, 0), 1.0), ((-100, 97), 0.125)] {
            let (left_exponent, right_exponent) = exponents;
            let product = Product::row_major(&left, &right, &[(1, 0)]);
            let product = Product { left_exponent, right_exponent, ..product };
            let scaled = if left_exponent == 0 { 0 } else { 100 };
            let mut out = before.clone();
            let (a, b) = (times(&a, scaled), times(&b, -scaled));
            // SAFETY: `out` was written.
            unsafe { product.add(&a, &b, out.as_mut_slice().into(), &mut |_| Ok(())) }.unwrap();
            let expected: Vec<c64> =
                widen(&before).iter().zip(&sum).map(|(z, sum)| z + sum * value).collect();
            assert!(error(&out, &expected) < 1e-5, "{m} {n} {k}, {exponents:?}: {}", error(&out, &expected));
        }
    }
}
#[test]
fn magnitudes() {
    let of = |x: f32| magnitude(&[Complex::new(0.0, 0.0), Complex::new(0.0, -x)]);
    let below = |bound: i32| Magnitude { below: Some(bound), is_finite: true };
    assert_eq!(of(0.0), Magnitude::ZERO);
    assert_eq!(of(1.0), below(1));
    assert_eq!(of(0.75), below(0));
    assert_eq!(of(f32::MAX), below(128));
    assert_eq!(of(f32::MIN_POSITIVE), below(-125));
    assert_eq!(of(f32::from_bits(1)), below(-148));
    for not_finite in [f32::NAN, f32::INFINITY] {
        assert_eq!(of(not_finite), Magnitude { below: None, is_finite: false });
        let beside = magnitude(&[Complex::new(-9.0, not_finite), Complex::new(not_finite, 3.0)]);
        assert_eq!(beside, Magnitude { below: Some(4), is_finite: false });
        assert_eq!(beside.and(below(7)), Magnitude { below: Some(7), is_finite: false });
    }
    let mut many = vec![Complex::new(0.5, 0.0); 1 << 20];
    many[1 << 19].im = -3.0;
    assert_eq!(magnitude(&many), below(2));
    assert!(reaches(&many, 1) && !reaches(&many, 2));
    many[5].re = 4.0f32.next_down();
    many[6] = Complex::new(f32::NAN, f32::NEG_INFINITY);
    assert!(reaches(&many, -100) && !reaches(&many, 2) && !reaches(&[], -149));
    many.push(Complex::new(0.0, -4.0));
    assert!(reaches(&many, 2));
    for exponent in [-252, -149, -126, -1, 0, 1, 127, 128, 254] {
        let (first, second) = powers(exponent);
        assert_eq!(f64::from(first) * f64::from(second), 2f64.powi(exponent));
    }
}
#[test]
fn permuted_copies() {
    let dimensions = [7, 1, 30, 5, 40];
    let source: Vec<Complex> =
        (0..shape::elements(&dimensions).unwrap()).map(|i| Complex::new(i as f32, 0.0)).collect();
    for order in [[4, 3, 2, 1, 0], [0, 1, 2, 3, 4], [2, 4, 0, 3, 1], [1, 0, 2, 4, 3]] {
        let mut out = source.clone();
        permute(&source, &dimensions, &order, out.as_mut_slice().into());
        let strides = shape::strides(&dimensions);
        for (place, z) in out.iter().enumerate() {
            let (mut rest, mut from) = (place, 0);
            for &axis in order.iter().rev() {
                from += rest % dimensions[axis] * strides[axis];
                rest /= dimensions[axis];
            }
            assert_eq!(z.re, from as f32);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn random_pairs(sizes in prop::collection::vec(1usize..8, 0..10), cut in 0usize..7, shared in 0usize..5, seed: u64) {
        let cut = cut.min(sizes.len());
        let (left, rest) = sizes.split_at(cut);
        let mut random = Random::new(seed);
        let (mut left, mut right) = (left.to_vec(), rest[..rest.len().min(4)].to_vec());
        let mut bonds = Vec::new();
        for axis in random.permutation(left.len()).into_iter().take(shared) {
            // Insert the partner somewhere among right's axes.
            let place = random.below(right.len() + 1);
            right.insert(place, left[axis]);
            for bond in &mut bonds {
                let (_, other): &mut (usize, usize) = bond;
                *other += usize::from(*other >= place);
            }
            bonds.push((axis, place));
        }
        left.truncate(6);
        bonds.retain(|bond| bond.0 < 6);
        check(&left, &right, &bonds, seed);
    }
}
/// All instruction sets that this processor has.
fn all() -> Vec<Arch> {
    let all = core::iter::once(Arch::new());
    #[cfg(target_arch = "x86_64")]
    let all = all
        .chain([Arch::Scalar])
        .chain(pulp::x86::V3::try_new().map(Arch::V3))
        .chain(pulp::x86::V4::try_new().map(Arch::V4));
    all.collect()
}
#[test]
fn every_size_of_a_panel_on_every_instruction_set() {
    let mut random = Random::new(21);
    let space = random.tensor(&[4000]);
    let by = |count: usize, stride: usize| (0..count).map(|i| i * stride).collect::<Vec<_>>();
    // Strides of rows and terms in A, and of columns and terms in B. Neighbours are the terms of A and the columns of
    // B, then the rows of A and the terms of B, then none.
    let layouts = [([40, 1], [1, 40]), ([1, 40], [40, 1]), ([2, 90], [90, 2])];
    let sizes = (1..=13).map(|m| (m, 17, 9)).chain((1..=35).map(|n| (5, n, 20)));
    for ((m, n, k), arch) in sizes.flat_map(|size| all().into_iter().map(move |arch| (size, arch))) {
        for (exponent, (a, b)) in layouts.into_iter().enumerate() {
            let [rows, left_terms, columns, right_terms] =
                [by(m, a[0]), by(k, a[1]), by(n, b[0]), by(k, b[1])];
            let source = space.as_ptr();
            let left = Block { source, lines: &rows, terms: &left_terms, exponent: exponent as i32 };
            let right = Block { source, lines: &columns, terms: &right_terms, exponent: 0 };
            // Columns of C are neighbours, or not.
            let (out_rows, out_columns) = (by(m, 80), by(n, 1 + exponent % 2));
            let mut out = vec![Complex::new(f32::NAN, f32::NAN); m * 80];
            let mut target =
                |add| Target { out: out.as_mut_ptr(), rows: &out_rows, columns: &out_columns, add };
            let (replace, add) = (target(false), target(true));
            let (mut packed_left, mut packed_right) = (Packed::default(), Packed::default());
            let lies = a[1] == 1;
            // SAFETY: all offsets are inside `space`, those of the target inside `out`, and distinct.
            unsafe {
                multiply::pack_left(arch, &left, &mut packed_left);
                multiply::pack_right(arch, &right, &mut packed_right);
                multiply::multiply(arch, Left::Packed(&packed_left, 0), &packed_right, &replace);
                if lies {
                    multiply::multiply(arch, Left::AsItLies(&left), &packed_right, &add);
                }
            }
            let times = 2f32.powi(exponent as i32) * if lies { 2.0 } else { 1.0 };
            for (row, out_row) in rows.iter().zip(&out_rows) {
                for (column, out_column) in columns.iter().zip(&out_columns) {
                    let terms = left_terms.iter().zip(&right_terms);
                    let sum: Complex = terms.map(|(i, j)| space[row + i] * space[column + j] * times).sum();
                    let difference = out[out_row + out_column] - sum;
                    assert!(
                        difference.re.abs() + difference.im.abs() < 1e-4,
                        "{arch:?}: {m} {n} {k}, {a:?} {b:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn scaling_by_more_than_a_float_holds() {
    for (element, exponent, expected) in [
        (0.0f32, 300, 0.0f32),
        (1.0, 300, f32::INFINITY),
        (f32::from_bits(1), 270, 2f32.powi(121)),
        (f32::from_bits(1), 276, 2f32.powi(127)),
        (f32::MAX, -276, f32::from_bits(2)),
        (f32::INFINITY, -300, f32::INFINITY),
        (f32::MAX, -300, 0.0),
        (1.0, 1 << 20, f32::INFINITY),
        (1.0, -(1 << 20), 0.0),
        (-1.5, -130, -1.5 * 2f32.powi(-130)),
    ] {
        let mut elements = [Complex::new(element, -0.0)];
        scan::scale(&mut elements, exponent);
        assert_eq!(elements[0].re, expected, "{element:e} times 2 to {exponent}");
        assert_eq!(elements[0].im, 0.0, "{element:e} times 2 to {exponent}");
    }
}
