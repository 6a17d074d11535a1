//! The engine through its public functions, on every rung of the ladder.
use super::budget::{Budget, Unlimited};
use super::chunk_error::ChunkError;
use super::chunks::Advice;
use super::engine::Engine;
use super::fault::{Faults, Mechanism};
use super::fill::{Access, Reason};
use super::gate;
use super::piece::Piece;
use super::region::{Params, Policy, Region};
use crate::os::watch::look_on;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

mod ahead;
mod contention;
mod copies;
mod failures;
mod interleavings;
mod mappings;
mod room;
mod slabs;

pub(crate) use contention::beside_others;

/// A budget of fixed size that notes the most that was ever charged.
#[derive(Clone)]
struct Fixed {
    limit: usize,
    used: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}
impl Fixed {
    fn new(limit: usize) -> Fixed {
        Fixed { limit, used: Arc::default(), peak: Arc::default() }
    }
    fn engine(&self, mechanism: Mechanism) -> Arc<Engine> {
        Engine::with_mechanism(mechanism, Box::new(self.clone())).unwrap()
    }
}
impl Budget for Fixed {
    fn try_charge(&self, bytes: usize) -> bool {
        let charged = self
            .used
            .fetch_update(SeqCst, SeqCst, |used| (used + bytes <= self.limit).then_some(used + bytes));
        if let Ok(before) = charged {
            self.peak.fetch_max(before + bytes, SeqCst);
        }
        charged.is_ok()
    }
    fn charge_anyway(&self, bytes: usize) {
        let before = self.used.fetch_add(bytes, SeqCst);
        self.peak.fetch_max(before + bytes, SeqCst);
    }
    fn discharge(&self, bytes: usize) {
        assert!(self.used.fetch_sub(bytes, SeqCst) >= bytes, "gave back more than was charged");
    }
    fn limit(&self) -> usize {
        self.limit
    }
}

/// The rungs that work here and serve faults.
fn serving() -> impl Iterator<Item = Mechanism> {
    // loom's first model installs a handler of SIGSEGV, which cannot pass our faults on. It does so before memory is
    // allocated here: then ours goes in front.
    static LOOM: std::sync::Once = std::sync::Once::new();
    LOOM.call_once(|| loom::model(|| ()));
    Mechanism::LADDER.into_iter().filter(|m| *m != Mechanism::None && Faults::get(*m).is_ok())
}
impl Engine {
    /// Like `change_size`, for tests that do not count.
    fn resize(self: &Arc<Self>, piece: &Piece, size: usize) -> crate::error::Result<Piece> {
        self.change_size(piece, size).map(|(piece, _)| piece)
    }
}
fn streaming(engine: &Arc<Engine>, size: usize, chunk: usize) -> Piece {
    engine.allocate(&Params { size, chunk, policy: Policy::Streaming }).unwrap()
}
/// Brings a chunk in as fault handlers and worker threads do.
fn bring_in(region: &Region, index: usize, access: Access, acquire: bool) -> Result<(), ChunkError> {
    let _inside = gate::enter();
    region.bring_in(index, access, if acquire { Reason::Acquire } else { Reason::Ahead })
}
/// The words of a region, as the program sees them.
fn words(region: &Piece) -> &[AtomicU64] {
    // SAFETY: this is the region's memory, which lives until the region is freed; faults bring in what is missing.
    unsafe { core::slice::from_raw_parts(region.start() as *const AtomicU64, region.size() / 8) }
}
/// Runs `work`, and fails if it goes on for ever.
pub(super) fn ends<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = channel();
    std::thread::spawn(move || {
        look_on();
        done.send(work())
    });
    result.recv_timeout(Duration::from_secs(60)).expect("goes on for ever")
}
fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[test]
fn what_is_written_comes_back_from_every_tier() {
    for mechanism in serving() {
        for (chunk, compressible) in [(4096, false), (64 << 10, true), (1 << 20, false), (2 << 20, true)] {
            let budget = Fixed::new((8 * chunk).max(256 << 10));
            let engine = budget.engine(mechanism);
            let size = 40 * budget.limit / 8 + 12345 / 8 * 8;
            let region = streaming(&engine, size, chunk);
            let words = words(&region);
            let value = |i: usize| if compressible { (i as u64 / 100) << 3 } else { mix(i as u64) };
            for (i, word) in words.iter().enumerate() {
                assert_eq!(word.load(Relaxed), 0);
                word.store(value(i), Relaxed);
            }
            for round in 0..2 {
                for (i, word) in words.iter().enumerate() {
                    assert_eq!(
                        word.load(Relaxed),
                        value(i),
                        "{mechanism:?} chunk {chunk} word {i} round {round}"
                    );
                }
            }
            let figures = engine.residency();
            assert!(figures.evictions > 0 && figures.faults > 0, "{figures:?}");
            if compressible {
                assert!(figures.compression_ratio > 2.0 && figures.warm_bytes > 0, "{figures:?}");
            } else {
                assert!(figures.cold_bytes > 0, "{figures:?}");
            }
            engine.free(&region);
            engine.clear();
            assert_eq!(budget.used.load(SeqCst), 0, "{mechanism:?} chunk {chunk}");
            assert!(budget.peak.load(SeqCst) <= budget.limit);
        }
    }
}

#[test]
fn no_increment_is_lost_while_chunks_move() {
    const THREADS: usize = 4;
    for mechanism in serving() {
        for (chunk, rounds) in [(4096, 1_500), (64 << 10, 1_000), (2 << 20, 100)] {
            let budget = Fixed::new(6 * chunk);
            let engine = budget.engine(mechanism);
            let region = streaming(&engine, 20 * chunk, chunk);
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let region = &region;
                    scope.spawn(move || {
                        let words = words(region);
                        for i in 0..rounds {
                            // All threads are in all chunks, and share the words of cache lines.
                            let at = mix((i * THREADS + thread) as u64) as usize % words.len() / 64 * 64;
                            words[at + thread].fetch_add(1, Relaxed);
                            words[at + 7].fetch_add(1, Relaxed);
                        }
                    });
                }
            });
            let sum: u64 = words(&region).iter().map(|w| w.load(Relaxed)).sum();
            assert_eq!(sum, (2 * rounds * THREADS) as u64, "{mechanism:?} chunk {chunk}");
            assert!(engine.residency().evictions > 100);
            engine.free(&region);
        }
    }
}

#[test]
fn the_tolerance_holds_over_a_thousand_cycles() {
    for mechanism in serving() {
        let chunk = 16 << 10;
        let budget = Fixed::new(1 << 20);
        let engine = budget.engine(mechanism);
        let tolerance = 1e-3;
        let region = engine
            .allocate(&Params { size: 3 * chunk, chunk, policy: Policy::Hierarchical { tolerance } })
            .unwrap();
        // SAFETY: as in `words`.
        let floats =
            unsafe { core::slice::from_raw_parts_mut(region.start() as *mut f32, region.size() / 4) };
        let mut written: Vec<f32> = (0..floats.len()).map(|i| (mix(i as u64) as f32 / 1e19).sin()).collect();
        written[100] = f32::NAN;
        written[101] = f32::INFINITY;
        written[5000] = f32::NEG_INFINITY;
        written[6000] = 3e30;
        floats.copy_from_slice(&written);
        let mut seen: Option<Vec<u32>> = None;
        for cycle in 0..1000 {
            region.advise(Advice::DontNeed);
            floats[7000] = cycle as f32;
            written[7000] = cycle as f32;
            for (i, (w, f)) in written.iter().zip(floats.iter()).enumerate() {
                let good = if w.is_finite() {
                    f64::from((w - f).abs()) <= tolerance
                } else {
                    w.to_bits() == f.to_bits()
                };
                assert!(good, "cycle {cycle}: element {i} was {w}, is {f}");
            }
            let bits: Vec<u32> =
                floats.iter().enumerate().map(|(i, f)| if i == 7000 { 0 } else { f.to_bits() }).collect();
            assert_eq!(seen.get_or_insert_with(|| bits.clone()), &bits, "drift in cycle {cycle}");
        }
        assert!(engine.residency().evictions >= 1000);
        assert!(engine.residency().compression_ratio > 1.5);
        engine.free(&region);
    }
}

#[test]
fn a_chunk_acquired_again_and_again_beside_a_sweep_stays() {
    const CHUNK: usize = 64 << 10;
    for mechanism in serving() {
        let engine = Fixed::new(64 * CHUNK).engine(mechanism);
        let region = streaming(&engine, 256 * CHUNK, CHUNK);
        let visit = |index, access| {
            region.acquire(index, access).unwrap();
            words(&region)[index * CHUNK / 8].store(index as u64, Relaxed);
            region.release(index).unwrap();
        };
        (0..256).for_each(|index| visit(index, Access::Write));
        let before = engine.residency().faults;
        let (mut swept, mut kept) = (0, 190);
        while swept < 180 {
            if swept % 30 == 0 {
                kept += 10; // another chunk, which belongs to no sweep
            }
            visit(kept, Access::Read);
            visit(swept, Access::Read);
            swept += 1;
        }
        let faults = engine.residency().faults - before;
        assert!(faults <= 180 + 2 * 6, "{mechanism:?}: {faults} chunks came in");
        engine.free(&region);
    }
}

#[test]
fn a_tebibyte_costs_what_is_touched() {
    for mechanism in serving() {
        let budget = Fixed::new(64 << 20);
        let engine = budget.engine(mechanism);
        for chunk in [64 << 10, 1 << 20, 64 << 20] {
            if chunk * 2 > budget.limit {
                continue;
            }
            let region = streaming(&engine, 1 << 40, chunk);
            let words = words(&region);
            for i in (0..200).map(|i| (mix(i) as usize) % words.len()) {
                words[i].fetch_add(i as u64, Relaxed);
            }
            for i in (0..200).map(|i| (mix(i) as usize) % words.len()) {
                assert_eq!(words[i].load(Relaxed), i as u64);
            }
            engine.free(&region);
        }
    }
}

#[test]
fn chunks_of_64_mib_work_and_a_budget_below_two_is_refused() {
    let mechanism = Mechanism::LADDER.into_iter().find(|m| Faults::get(*m).is_ok()).unwrap();
    let budget = Fixed::new(144 << 20);
    let engine = budget.engine(mechanism);
    let region = streaming(&engine, 200 << 20, 64 << 20);
    let words = words(&region);
    for i in (0..words.len()).step_by(512) {
        words[i].store(i as u64, Relaxed);
    }
    assert!((0..words.len()).step_by(512).all(|i| words[i].load(Relaxed) == i as u64));
    engine.free(&region);
    let small = Fixed::new(1 << 20).engine(mechanism);
    assert!(small.allocate(&Params { size: 10 << 20, chunk: 2 << 20, policy: Policy::Streaming }).is_err());
    for chunk in [0, 1, 4095, 5000, 128 << 20] {
        assert!(
            engine.allocate(&Params { size: 10 << 20, chunk, policy: Policy::Streaming }).is_err(),
            "chunk {chunk}"
        );
    }
    for tolerance in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(
            engine
                .allocate(&Params { size: 4096, chunk: 4096, policy: Policy::Hierarchical { tolerance } })
                .is_err()
        );
    }
}

#[test]
fn acquired_chunks_stay_and_work_without_any_faults() {
    for mechanism in Mechanism::LADDER.into_iter().filter(|m| Faults::get(*m).is_ok()) {
        let chunk = 64 << 10;
        let budget = Fixed::new(6 * chunk);
        let engine = budget.engine(mechanism);
        let region = streaming(&engine, 20 * chunk, chunk);
        let fill = |index: usize, value: u8| {
            let pointer = region.acquire(index, Access::Overwrite).unwrap();
            // SAFETY: the chunk is acquired, so its `chunk` bytes are in place.
            unsafe { pointer.write_bytes(value, chunk) };
            region.release(index).unwrap();
        };
        (0..20).for_each(|i| fill(i, i as u8 + 1));
        let held = region.acquire(3, Access::Read).unwrap();
        for i in (0..20).rev() {
            let pointer = region.acquire(i, Access::Read).unwrap();
            assert_eq!(pointer as usize, region.start() + i * chunk);
            // SAFETY: the chunk is acquired, so its bytes are in place.
            let bytes = unsafe { core::slice::from_raw_parts(pointer, chunk) };
            assert!(bytes.iter().all(|b| *b == i as u8 + 1), "{mechanism:?} chunk {i}");
            // SAFETY: still acquired since before the loop.
            assert_eq!(unsafe { held.add(chunk - 1).read() }, 4);
            region.release(i).unwrap();
        }
        region.release(3).unwrap();
        assert!(region.release(3).is_err(), "released once too often");
        assert!(region.acquire(20, Access::Read).is_err() && region.release(99).is_err());
        // When as many chunks are acquired as fit, one more is an error, and a release helps.
        let mut pinned = vec![];
        let failed = loop {
            match region.acquire(pinned.len(), Access::Write) {
                Ok(_) => pinned.push(pinned.len()),
                Err(error) => break error,
            }
            assert!(pinned.len() < 20, "{mechanism:?}: the budget does not hold");
        };
        assert_eq!(failed, crate::error::Error::OutOfMemory);
        assert!(pinned.len() >= 2);
        region.release(pinned.pop().unwrap()).unwrap();
        region.acquire(19, Access::Write).unwrap();
        engine.free(&region);
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

#[test]
fn without_faults_data_that_fit_are_plain_memory() {
    let budget = Fixed::new(1 << 20);
    let engine = budget.engine(Mechanism::None);
    let region = streaming(&engine, 512 << 10, 64 << 10);
    words(&region).iter().enumerate().for_each(|(i, w)| w.store(i as u64, Relaxed));
    assert_eq!((engine.reclaim(1 << 20), engine.movable()), (0, 0), "plain memory cannot be evicted");
    assert!(words(&region).iter().enumerate().all(|(i, w)| w.load(Relaxed) == i as u64));
    region.acquire(2, Access::Write).unwrap();
    region.release(2).unwrap();
    engine.free(&region);
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}

#[test]
fn reclaim_makes_room_for_plain_blocks() {
    for mechanism in serving() {
        let chunk = 256 << 10;
        let budget = Fixed::new(8 << 20);
        let engine = budget.engine(mechanism);
        let region = streaming(&engine, 16 << 20, chunk);
        let words = words(&region);
        words.iter().enumerate().for_each(|(i, w)| w.store(mix(i as u64), Relaxed));
        assert!(!budget.try_charge(4 << 20));
        assert!(engine.reclaim(4 << 20) >= 4 << 20);
        assert!(budget.try_charge(4 << 20), "{mechanism:?}");
        assert!(words.iter().enumerate().all(|(i, w)| w.load(Relaxed) == mix(i as u64)));
        budget.discharge(4 << 20);
        engine.free(&region);
    }
}

#[test]
fn sizes_change_without_losing_data() {
    for mechanism in serving() {
        let chunk = 64 << 10;
        let budget = Fixed::new(1 << 20);
        let engine = budget.engine(mechanism);
        let mut region = streaming(&engine, 2 << 20, chunk);
        words(&region).iter().enumerate().for_each(|(i, w)| w.store(mix(i as u64), Relaxed));
        let mut kept = (2 << 20) / 8;
        for size in [3 << 20, 20 << 20, 1 << 20, (1 << 20) + 8, 5 << 20, 50 << 20, 4096] {
            // Chunks are read ahead into all slots.
            region.advise(Advice::Sequential);
            for i in (0..kept).step_by(chunk / 8).take(20) {
                words(&region)[i].load(Relaxed);
            }
            let before = engine.residency().faults;
            region = engine.resize(&region, size).unwrap();
            assert_eq!(engine.residency().faults, before, "{mechanism:?}: resizing brings nothing in");
            kept = kept.min(size / 8);
            let words = words(&region);
            assert_eq!(words.len(), size / 8);
            for i in (0..kept).step_by(61) {
                assert_eq!(words[i].load(Relaxed), mix(i as u64), "{mechanism:?} size {size} word {i}");
            }
            let next = kept.next_multiple_of(chunk / 8);
            assert!((next..words.len()).step_by(4099).all(|i| words[i].load(Relaxed) == 0));
        }
        engine.free(&region);
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

#[test]
fn unlimited_engines_keep_everything_in_place() {
    let engine = Engine::new(Box::new(Unlimited)).unwrap();
    let region = streaming(&engine, 4 << 20, 1 << 20);
    words(&region).iter().enumerate().for_each(|(i, w)| w.store(mix(i as u64), Relaxed));
    assert_eq!(engine.residency().evictions, 0);
    region.advise(Advice::DontNeed);
    assert!(words(&region).iter().enumerate().all(|(i, w)| w.load(Relaxed) == mix(i as u64)));
    engine.free(&region);
}

#[test]
fn what_the_program_said_of_its_order_outlives_growing() {
    look_on();
    let engine = Engine::new(Box::new(Unlimited)).unwrap();
    let region = streaming(&engine, 128 << 10, 64 << 10);
    region.advise(Advice::Sequential);
    let grown = engine.resize(&region, 4 << 20).unwrap();
    assert!(grown.start() != region.start() && grown.sweep.lock().is_swept());
    engine.free(&grown);
}

#[test]
fn what_fits_is_acquired_whatever_others_bring_in() {
    const THREADS: usize = 4;
    const CHUNK: usize = 16 << 10;
    const COUNT: usize = 64;
    for mechanism in serving() {
        // One chunk for each thread, the two of plain access, and the records of chunks.
        let budget = Fixed::new((THREADS + 2) * CHUNK + 4096);
        let engine = budget.engine(mechanism);
        let region = streaming(&engine, COUNT * CHUNK, CHUNK);
        region.advise(Advice::Random);
        let visit = |index: usize, access| {
            region
                .acquire(index, access)
                .unwrap_or_else(|error| panic!("{mechanism:?}, chunk {index}: {error:?}"));
            // A quarter cannot be compressed.
            let words = &words(&region)[index * CHUNK / 8..][..CHUNK / 32];
            words
                .iter()
                .enumerate()
                .for_each(|(i, word)| word.store(mix((index * CHUNK + i) as u64), Relaxed));
            region.release(index).unwrap();
        };
        (0..COUNT).for_each(|index| visit(index, Access::Write));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let visit = &visit;
                scope.spawn(move || {
                    let at = |i| mix((i * THREADS + thread) as u64) as usize % COUNT;
                    (0..1000)
                        .for_each(|i| visit(at(i), if i % 3 == 0 { Access::Write } else { Access::Read }));
                });
            }
        });
        engine.free(&region);
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

/// A thread that has looked a region up may hold the last reference to it, outside the gate, where fork does not wait
/// for locks.
#[test]
fn the_last_reference_takes_no_lock() {
    for mechanism in Mechanism::LADDER.into_iter().filter(|mechanism| Faults::get(*mechanism).is_ok()) {
        let engine = Fixed::new(1 << 20).engine(mechanism);
        let region = streaming(&engine, 100_000, 4096);
        assert!(engine.free(&region));
        drop(engine);
        drop(region); // checked builds end here if it takes one: os/watch.rs
    }
}
