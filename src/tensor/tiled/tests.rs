//! Products by slabs: values, what is pinned, and the traffic, on memory that only counts.
use super::*;
use crate::error::fail;
use crate::tensor::testing::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// RAM that several tensors share: chunks in place, the one used longest ago goes first.
struct Ram {
    room: usize,
    clock: usize,
    /// Tensor and chunk: last use, pins, whether it was written.
    hot: HashMap<(usize, usize), (usize, usize, bool)>,
    /// Chunks that exist outside.
    stored: HashMap<(usize, usize), ()>,
    /// Elements moved in and out.
    traffic: usize,
}
/// One tensor's chunks.
struct Counting {
    ram: Rc<RefCell<Ram>>,
    tensor: usize,
    chunk: usize,
    count: usize,
    served: bool,
}
impl ChunkedMemory for Counting {
    fn chunk(&self) -> usize {
        self.chunk
    }
    fn acquire(&self, index: usize, purpose: Purpose) -> Result<()> {
        let ram = &mut *self.ram.borrow_mut();
        ram.clock += 1;
        let key = (self.tensor, index);
        if !ram.hot.contains_key(&key) {
            while (ram.hot.len() + 1) * self.chunk > ram.room {
                let oldest = ram.hot.iter().filter(|e| e.1.1 == 0).min_by_key(|e| e.1.0).map(|e| *e.0);
                let Some(oldest) = oldest else { return fail!(OutOfMemory, "all is pinned") };
                if ram.hot.remove(&oldest).is_some_and(|entry| entry.2) {
                    ram.traffic += self.chunk;
                    ram.stored.insert(oldest, ());
                }
            }
            if purpose != Purpose::Overwrite && ram.stored.contains_key(&key) {
                ram.traffic += self.chunk;
            }
        }
        let entry = ram.hot.entry(key).or_insert((0, 0, false));
        *entry = (ram.clock, entry.1 + 1, entry.2 || purpose != Purpose::Read);
        Ok(())
    }
    fn release(&self, index: usize) {
        let ram = &mut *self.ram.borrow_mut();
        let entry = ram.hot.get_mut(&(self.tensor, index)).expect("released what is not in place");
        entry.1 = entry.1.checked_sub(1).expect("released what is not pinned");
    }
    fn count(&self) -> usize {
        self.count
    }
    fn is_served(&self) -> bool {
        self.served
    }
    fn prefetch(&self, first: usize, count: usize) {
        for index in first..first + count {
            // Like the engine: only what fits without sending out what is pinned.
            if self.acquire(index, Purpose::Read).is_ok() {
                self.release(index);
            }
        }
    }
}

/// Three tensors, all outside, in a RAM of `room` elements.
fn counting(room: usize, chunk: usize, sizes: [usize; 3]) -> (Rc<RefCell<Ram>>, [Counting; 3]) {
    let stored = (0..2).flat_map(|t| (0..sizes[t].div_ceil(chunk)).map(move |i| ((t, i), ()))).collect();
    let ram = Rc::new(RefCell::new(Ram { room, clock: 0, hot: HashMap::new(), stored, traffic: 0 }));
    let count = |tensor: usize| sizes[tensor].div_ceil(chunk);
    let memory = |tensor| Counting { ram: ram.clone(), tensor, chunk, count: count(tensor), served: true };
    let all = [memory(0), memory(1), memory(2)];
    (ram, all)
}

/// Multiplies under a budget; gives the traffic, with what is left to be written counted.
fn check(left: &[usize], right: &[usize], bonds: &[(usize, usize)], room: usize, chunk: usize) -> usize {
    let mut random = Random::new(room as u64);
    let (a, b) = (random.tensor(left), random.tensor(right));
    let product = Product::row_major(left, right, bonds);
    let count = product.rows.iter().chain(&product.columns).map(|axis| axis.size).product();
    let mut expected = vec![Complex::new(0.0, 0.0); count];
    let mut out = vec![Complex::new(f32::NAN, f32::NAN); expected.len()];
    product.compute(&a, &b, &mut expected, &mut |_| Ok(())).unwrap();
    let (ram, [chunked_a, chunked_b, chunked_c]) = counting(room, chunk, [a.len(), b.len(), out.len()]);
    let mut last = 0.0;
    let mut target = Target { elements: &mut out, chunked: Some(&chunked_c) };
    let (left, right) = (
        Source { elements: &a, chunked: Some(&chunked_a) },
        Source { elements: &b, chunked: Some(&chunked_b) },
    );
    multiply(&product, left, right, &mut target, room * 9 / 10, None, &mut |done| {
        assert!(done >= last && done <= 1.0 + 1e-9);
        last = done;
        Ok(())
    })
    .unwrap();
    assert!((last - 1.0).abs() < 1e-9);
    assert!(error(&out, &widen(&expected)) < 1e-5);
    let ram = ram.borrow();
    assert!(ram.hot.values().all(|entry| entry.1 == 0), "something is still pinned");
    ram.traffic + ram.hot.values().filter(|entry| entry.2).count() * chunk
}

#[test]
fn without_room_nothing_is_touched_that_nobody_brings_in() {
    let elements = Random::new(1).tensor(&[64]);
    let product = Product::row_major(&[8, 8], &[8, 8], &[(1, 0)]);
    let (_, [mut chunked, ..]) = counting(64, 16, [64; 3]);
    for served in [true, false] {
        chunked.served = served;
        let (left, right) = (
            Source { elements: &elements, chunked: Some(&chunked) },
            Source { elements: &elements, chunked: None },
        );
        let nan = Complex::new(f32::NAN, f32::NAN);
        let mut out = vec![nan; 64];
        let mut target = Target { elements: &mut out, chunked: None };
        let done = multiply(&product, left, right, &mut target, 0, None, &mut |_| Ok(()));
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
    let (ram, [next, chunked_b, _]) = counting(2048, 64, [4096, b.len(), 0]);
    let (left, right) =
        (Source { elements: &a, chunked: None }, Source { elements: &b, chunked: Some(&chunked_b) });
    let mut target = Target { elements: &mut out, chunked: None };
    multiply(&product, left, right, &mut target, 1500, Some(&next), &mut |_| Ok(())).unwrap();
    let hot: Vec<usize> = ram.borrow().hot.keys().filter(|key| key.0 == 0).map(|key| key.1).collect();
    assert!(hot.len() >= 4 && hot.iter().all(|chunk| *chunk < hot.len()), "brought in: {hot:?}");
}

#[test]
fn traffic_is_near_the_least_there_is() {
    // Matrices of n by n in a RAM of m elements: 2 n^3 / sqrt(m), and no less than the three matrices.
    for (n, room) in [(256usize, 60_000usize), (384, 130_000), (512, 250_000)] {
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
    let (n, chunk) = (512, 8 * 512);
    for (right, bonds) in [([n, n], [(1, 0)]), ([n, n], [(1, 1)])] {
        let traffic = check(&[n, n], &right, &bonds, 32 * chunk, chunk);
        assert!(traffic <= 7 * n * n, "{bonds:?}: {:.2} matrices", traffic as f64 / (n * n) as f64);
    }
}
#[test]
fn layouts_that_stream_both() {
    for bonds in [[(0, 0)], [(0, 1)], [(1, 0)], [(1, 1)]] {
        check(&[120, 120], &[120, 120], &bonds, 12_000, 100);
        check(&[120, 120], &[120, 120], &bonds, 60_000, 64);
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
        let axes: Vec<(usize, usize)> = (0..3).map(|_| (1 + random.below(5), 1 + random.below(60))).collect();
        let extent = Extent::new(at, axes.iter().copied());
        let listed: Vec<usize> = extent.chunks(chunk).iter().flat_map(|(first, count)| *first..first + count).collect();
        for i in 0..axes[0].0 * axes[1].0 * axes[2].0 {
            let place = at
                + i % axes[0].0 * axes[0].1
                + i / axes[0].0 % axes[1].0 * axes[1].1
                + i / axes[0].0 / axes[1].0 * axes[2].1;
            prop_assert!(listed.contains(&(place / chunk)));
        }
        prop_assert!(listed.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
