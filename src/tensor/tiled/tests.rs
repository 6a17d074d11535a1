//! Products by cells on a model of memory (`counting`): values, pins, and the traffic.
use super::counting::{Limited, Trouble};
use super::*;
use crate::error::fail;
use crate::tensor::kernel::scan::Magnitude;
use crate::tensor::testing::*;
use proptest::prelude::*;
use std::collections::HashSet;

/// The ways to multiply two matrices: axis of left, axis of right.
const LAYOUTS: [[(usize, usize); 1]; 4] = [[(0, 0)], [(0, 1)], [(1, 0)], [(1, 1)]];

/// Multiplies under a budget, and checks the result. Returns the traffic, including what is still to be written.
fn check(left: &[usize], right: &[usize], bonds: &[(usize, usize)], room: usize, chunk: usize) -> usize {
    check_served(true, left, right, bonds, room, chunk)
}
/// The same; where touches are not `served`, only what is pinned may be touched.
fn check_served(
    served: bool,
    left: &[usize],
    right: &[usize],
    bonds: &[(usize, usize)],
    room: usize,
    chunk: usize,
) -> usize {
    check_in(&Limited::new(room), served, left, right, bonds, chunk)
}
fn check_in(
    room: &Limited,
    served: bool,
    left: &[usize],
    right: &[usize],
    bonds: &[(usize, usize)],
    chunk: usize,
) -> usize {
    let mut random = Random::new(chunk as u64);
    let (a, b) = (random.tensor(left), random.tensor(right));
    let product = Product::row_major(left, right, bonds);
    let count = product.rows.iter().chain(&product.columns).map(|axis| axis.size).product();
    let mut expected = vec![Complex::new(0.0, 0.0); count];
    product.compute(&a, &b, expected.as_mut_slice().into(), &mut |_| Ok(())).unwrap();
    let [left, right, out] = room.tensors(served, chunk, [&a, &b], expected.len());
    let mut last = 0.0;
    multiply(&product, left.source(), right.source(), &mut out.target(), room, None, &mut |done| {
        assert!(done >= last && done <= 1.0 + 1e-9);
        last = done;
        Ok(())
    })
    .unwrap();
    assert!((last - 1.0).abs() < 1e-9);
    let traffic = room.ram.borrow().traffic();
    room.ram.borrow().assert_nothing_is_pinned();
    assert!(error(&out.elements(), &widen(&expected)) < 1e-5);
    traffic
}

#[test]
fn without_room_nothing_is_touched_that_nobody_brings_in() {
    let elements = Random::new(1).tensor(&[64]);
    let product = Product::row_major(&[8, 8], &[8, 8], &[(1, 0)]);
    let room = Limited { pinnable: 0, ..Limited::new(64) };
    let [mut left, ..] = room.tensors(true, 16, [&elements, &[]], 0);
    // The chunks are in place, as if touching had brought them in.
    left.prefetch(0, 4);
    for served in [true, false] {
        left.served = served;
        let right = Source { elements: &elements, chunked: None };
        let nan = Complex::new(f32::NAN, f32::NAN);
        let mut out = vec![nan; 64];
        let mut target = Target { elements: out.as_mut_slice().into(), chunked: None };
        let done = multiply(&product, left.source(), right, &mut target, &room, None, &mut |_| Ok(()));
        assert_eq!(done, if served { Ok(()) } else { Err(Error::OutOfMemory) });
        assert_eq!(out[0].re.is_nan(), !served);
    }
}
#[test]
fn what_the_next_product_reads_is_on_its_way_when_a_product_ends() {
    let mut random = Random::new(1);
    let (a, b) = (random.tensor(&[8, 64]), random.tensor(&[64, 64]));
    let mut out = vec![Complex::new(0.0, 0.0); 8 * 64];
    let product = Product::row_major(&[8, 64], &[64, 64], &[(1, 0)]);
    let room = Limited { pinnable: 1500, temporaries: None, ..Limited::new(2048) };
    let [next, right, _] = room.tensors(true, 64, [&b, &b], 0);
    let left = Source { elements: &a, chunked: None };
    let mut target = Target { elements: out.as_mut_slice().into(), chunked: None };
    multiply(&product, left, right.source(), &mut target, &room, Some(&next), &mut |_| Ok(())).unwrap();
    let ram = room.ram.borrow();
    let hot: Vec<usize> = ram.hot.keys().filter(|key| key.0 == 0).map(|key| key.1).collect();
    assert!(hot.len() >= 4 && hot.iter().all(|chunk| *chunk < hot.len()), "brought in: {hot:?}");
}

#[test]
fn far_less_room_than_was_told() {
    // As if a network's memory was changed, while its tensors are still in another, smaller one.
    for bonds in LAYOUTS {
        let room = Limited { pinnable: usize::MAX, ..Limited::new(300) };
        check_in(&room, false, &[40, 40], &[40, 40], &bonds, 10);
    }
}

#[test]
fn traffic_is_near_the_least_there_is() {
    // Matrices of n by n in a RAM of m elements: 2 n^3 / sqrt(m), and no less than the three matrices.
    for (n, room) in [(256usize, 60_000usize), (384, 130_000)] {
        let least = (2.0 * (n as f64).powi(3) / (room as f64).sqrt()).max(3.0 * (n * n) as f64);
        for (right, bonds) in [([n, n], [(1, 0)]), ([n, n], [(1, 1)])] {
            let traffic = check(&[n, n], &right, &bonds, room, n) as f64;
            assert!(traffic <= 2.0 * least, "{n} in {room}, {bonds:?}: {:.2} of the least", traffic / least);
        }
    }
}
#[test]
fn traffic_of_wide_matrices_whose_chunks_hold_many_rows() {
    // 64 chunks a matrix and room for 32: 13 of C and of A stay, 2 of B pass, so B is read 5 times, A and C move once.
    let (n, chunk) = (256, 4 * 256);
    for (right, bonds) in [([n, n], [(1, 0)]), ([n, n], [(1, 1)])] {
        let traffic = check(&[n, n], &right, &bonds, 32 * chunk, chunk);
        assert!(traffic <= 7 * n * n, "{bonds:?}: {:.2} matrices", traffic as f64 / (n * n) as f64);
    }
}
#[test]
fn traffic_of_matrices_far_wider_than_the_memory() {
    // The matrices are 4 and 5.7 times as wide as the memory would allow a square one to be. Slabs of whole rows alone would
    // move 4.3 and 5.9 times the least.
    for (n, chunks, most) in [(256, 16, 2.5), (256, 8, 2.0)] {
        let least = 2.0 * (n as f64).powi(3) / ((chunks * n) as f64).sqrt();
        for bonds in LAYOUTS {
            let traffic = check_served(false, &[n, n], &[n, n], &bonds, chunks * n, n) as f64 / least;
            assert!(traffic <= most, "{chunks} rows in place, {bonds:?}: {traffic:.2} of the least");
        }
    }
}
#[test]
fn traffic_of_layouts_that_no_slab_suits() {
    // Columns of A by rows of B: every chunk holds some of each row of A, or of each column of B.
    let (n, chunk) = (256, 4 * 256);
    let traffic = check_served(false, &[n, n], &[n, n], &[(0, 1)], 32 * chunk, chunk);
    assert!(traffic <= 9 * n * n + chunk, "{:.2} matrices", traffic as f64 / (n * n) as f64);
    // Two bonds whose axes lie the other way round in B.
    for (left, right, bonds, room, chunk) in [
        ([8, 40, 8, 40], [40, 8, 40, 8], [(1, 2), (3, 0)], 20_000, 320),
        ([48, 60, 48, 1], [48, 60, 48, 1], [(0, 2), (2, 0)], 30_000, 480),
    ] {
        let traffic = check_served(false, &left, &right, &bonds, room, chunk);
        let sizes = [&left, &right].map(|sizes| sizes.iter().product::<usize>());

        assert!(traffic <= 3 * (sizes[0] + sizes[1]), "{left:?} by {right:?}: {traffic} elements");
    }
}
#[test]
fn compressed_tensors_are_copied_only_where_all_else_moves_far_more() {
    let best = |sizes: &[usize], bonds: &[(usize, usize)], chunk: usize, compressed: bool| {
        let product = Product::row_major(sizes, sizes, bonds);
        let whole = Piece::whole(&product, [Some(chunk); 3]);
        let compressed = [compressed, compressed, false];
        let scheme =
            Choice { whole: &whole, budget: 32 * chunk, compressed, rearranging: Some(chunk / 8) }.best();
        assert!(scheme.pinned <= 32 * chunk, "{bonds:?}");
        scheme.blocks.map(|blocks| blocks.is_some())
    };
    for bonds in LAYOUTS {
        assert_eq!(best(&[1024, 1024], &bonds, 1024, false), [true; 3], "{bonds:?}");
        let [left, right, _] = best(&[1024, 1024], &bonds, 1024, true);
        assert_eq!(left || right, bonds == [(0, 1)], "{bonds:?}");
    }
    let [left, right, _] = best(&[48, 60, 48], &[(0, 2), (2, 0)], 480, true);
    assert!(left || right);
}
#[test]
fn sweeps_reach_every_element() {
    let (given, other) = (Random::new(3).tensor(&[1000]), Random::new(4).tensor(&[1000]));
    let room = Limited::new(3 * 64);
    let [mut first, last, target] = room.tensors(false, 64, [&given, &given], 1000);
    let doubled = |elements: &[Complex]| elements.iter().map(|z| z * 2.0).collect::<Vec<_>>();
    write(&mut target.target(), &other).unwrap();
    assert_eq!(target.elements(), other);
    // SAFETY: written just now.
    unsafe { scale(&mut target.target(), 1) }.unwrap();
    assert_eq!(target.elements(), doubled(&other));
    clear(&mut target.target()).unwrap();
    assert_eq!(magnitude(target.source()), Ok(Magnitude::ZERO));
    for (from, count) in [(0, 1000), (1, 999), (63, 130), (128, 64), (990, 10)] {
        let mut part = vec![Complex::new(f32::NAN, 0.0); count];
        read(last.source(), from, part.as_mut_slice().into()).unwrap();
        assert_eq!(part, given[from..from + count]);
    }
    for place in [0, 500, 999] {
        let mut one = other.clone();
        one[place].im = -9.0;
        write(&mut first.target(), &one).unwrap();
        assert_eq!(magnitude(first.source()), Ok(Magnitude { below: Some(4), is_finite: true }));
    }
    // The second chunk fails: the first one, and the four that are prefetched behind it, succeed.
    first.fail_after(5, Error::Io);
    assert_eq!(magnitude(first.source()), Err(Error::Io));
    room.ram.borrow().assert_nothing_is_pinned();
}
/// Multiplies wide matrices in a small memory, whose copies fail as `trouble` says. The product is stopped when the share
/// `stop` is done. Returns the outcome, the error of the result, and how many copies there were.
fn wide(trouble: Option<Trouble>, stop: f64) -> (Result<()>, f64, usize) {
    let (mut random, n) = (Random::new(7), 256);
    let room = Limited { trouble, ..Limited::new(16 * n) };
    let (a, b) = (random.tensor(&[n, n]), random.tensor(&[n, n]));
    let product = Product::row_major(&[n, n], &[n, n], &[(1, 0)]);
    let mut expected = vec![Complex::new(0.0, 0.0); n * n];
    product.compute(&a, &b, expected.as_mut_slice().into(), &mut |_| Ok(())).unwrap();
    let [left, right, out] = room.tensors(false, n, [&a, &b], n * n);
    let mut last = 0.0;
    let mut tick = |told: f64| {
        assert!(told >= last, "{told} after {last}");
        last = told;
        if told >= stop { fail!(Limit, "stopped") } else { Ok(()) }
    };
    let done = multiply(&product, left.source(), right.source(), &mut out.target(), &room, None, &mut tick);
    room.ram.borrow().assert_nothing_is_pinned();
    assert!(room.ram.borrow().hot.keys().all(|key| key.0 < 3), "a copy is still there");
    let error = if done.is_ok() { error(&out.elements(), &widen(&expected)) } else { f64::NAN };
    (done, error, room.made.get())
}
#[test]
fn without_room_for_copies_the_product_is_made_where_the_tensors_are() {
    let (done, error, copies) = wide(None, 2.0);
    assert!(done.is_ok() && error < 1e-5 && copies == 3, "{done:?}, {error}, {copies} copies");
    for trouble in (0..3).map(Trouble::NoRoom).chain((0..9000).step_by(1999).map(Trouble::DiskFull)) {
        let (done, error, _) = wide(Some(trouble), 2.0);
        assert!(done.is_ok() && error < 1e-5, "{trouble:?}: {done:?}, {error}");
    }
}
#[test]
fn what_goes_wrong_with_copies_is_told_and_leaves_none_of_them() {
    let mut told = 0;
    for chunks in (0..9000).step_by(1999) {
        let (done, error, _) = wide(Some(Trouble::Damage(chunks)), 2.0);
        told += usize::from(done.is_err());
        assert!(
            if done.is_ok() { error < 1e-5 } else { done == Err(Error::Corruption) },
            "{chunks}: {done:?}, {error}"
        );
    }
    assert!(told > 1, "told {told} times");
    for share in 0..4 {
        assert_eq!(wide(None, f64::from(share) / 4.0).0, Err(Error::Limit), "at {share} of 4");
    }
}
#[test]
fn layouts_that_stream_both() {
    for bonds in LAYOUTS {
        check(&[120, 120], &[120, 120], &bonds, 12_000, 100);
        check(&[120, 120], &[120, 120], &bonds, 60_000, 64);
        // Chunks that two slabs share.
        check(&[120, 120], &[120, 120], &bonds, 12_000, 77);
    }
    check(&[6, 20, 30], &[30, 40, 6], &[(2, 0), (0, 2)], 5_000, 50);
    check(&[10_000], &[10_000], &[(0, 0)], 2_000, 64);
    check(&[300], &[40], &[], 3_000, 64);
}

fn check_any(seed: u64, rank: usize, shared: usize, chunk: usize, room: usize) {
    let mut random = Random::new(seed);
    let left: Vec<usize> = (0..rank).map(|_| 1 + random.below(9)).collect();
    let mut right: Vec<usize> = (0..1 + random.below(3)).map(|_| 1 + random.below(9)).collect();
    let mut bonds = Vec::new();
    for axis in random.permutation(rank).into_iter().take(shared) {
        right.push(left[axis]);
        bonds.push((axis, right.len() - 1));
    }
    check(&left, &right, &bonds, room * chunk, chunk);
}
#[test]
fn later_slabs_need_more_chunks_than_the_first() {
    check_any(2_378_593_719_535_162_216, 4, 2, 18, 150);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_product_in_any_room(seed: u64, rank in 1usize..5, shared in 0usize..3, chunk in 8usize..100, room in 40usize..200) {
        check_any(seed, rank, shared, chunk, room);
    }
    #[test]
    fn extents_list_the_chunks_they_touch(seed: u64, chunk in 1usize..20, at in 0usize..50) {
        let mut random = Random::new(seed);
        let mut axes: Vec<(usize, usize)> = (0..3).map(|_| (1 + random.below(5), 1 + random.below(60))).collect();
        if random.below(2) == 0 {
            // Without gaps, or with a gap between the positions of the last axis.
            axes[0].1 = 1;
            axes[1].1 = axes[0].0;
            axes[2].1 = axes[0].0 * axes[1].0 + random.below(2);
        }
        let extent = Extent::new(at, axes.iter().copied());
        let listed: Vec<usize> = extent.chunks(chunk).iter().flat_map(|(first, count)| *first..first + count).collect();
        let mut places = HashSet::new();
        for i in 0..axes[0].0 * axes[1].0 * axes[2].0 {
            let place = at
                + i % axes[0].0 * axes[0].1
                + i / axes[0].0 % axes[1].0 * axes[1].1
                + i / axes[0].0 / axes[1].0 * axes[2].1;
            prop_assert!(listed.contains(&(place / chunk)));
            places.insert(place);
        }
        for index in listed.iter().filter(|index| extent.covers(**index, chunk)) {
            prop_assert!((index * chunk..(index + 1) * chunk).all(|place| places.contains(&place)));
        }
        prop_assert!(listed.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
