//! Encoded copies of chunks in place: they are counted exactly, and looked for only if there is one.
use super::*;
use crate::tiers::state::Phase;
use crate::tiers::sync_points::{SyncPoint, at};
use crate::tiers::table::ListKind;
use crate::tiers::workers;

const CHUNK: usize = 16 << 10;
/// Writes words into half of a chunk, so that encoding halves it.
fn fill(region: &Piece, index: usize, seed: u64) {
    let words = &words(region)[index * CHUNK / 8..][..CHUNK / 16];
    words.iter().enumerate().for_each(|(i, word)| word.store(mix(seed + i as u64), Relaxed));
}
fn read(region: &Piece, index: usize) {
    region.acquire(index, Access::Read).unwrap();
    region.release(index).unwrap();
}

#[test]
fn of_many_chunks_in_place_the_one_with_a_copy_is_looked_at() {
    look_on();
    let looked = Arc::new(AtomicUsize::new(0));
    for _ in 0..200 {
        let looked = looked.clone();
        at(SyncPoint::CopyLookedFor, move || _ = looked.fetch_add(1, SeqCst));
    }
    for mechanism in serving() {
        let engine = Fixed::new(64 * CHUNK).engine(mechanism);
        let region = streaming(&engine, 128 * CHUNK, CHUNK);
        region.advise(Advice::Random);
        fill(&region, 127, 1);
        region.advise(Advice::DontNeed);
        (0..32).for_each(|index| fill(&region, index, 2));
        read(&region, 127);
        assert_eq!(engine.free_encoded(), Ok(true), "{mechanism:?}");
        assert_eq!(looked.swap(0, SeqCst), 1, "{mechanism:?}: chunks looked at for one copy");
        assert_eq!(
            (engine.free_encoded(), looked.load(SeqCst)),
            (Ok(false), 0),
            "{mechanism:?}: there is none"
        );
        engine.free(&region);
    }
}

/// The number of listed copies, and the true number. Nobody else uses the region.
fn counted(region: &Region) -> (usize, usize) {
    workers::withdraw(region, None);
    let has_copy = |index: &usize| {
        let chunk = region.chunk(*index);
        // SAFETY: nobody else uses the region, so there is no other reference.
        chunk.state.load().phase() == Phase::Hot && unsafe { chunk.stored() }.is_in_ram()
    };
    let listed = (0..region.count()).filter(|index| region.is_listed(*index) == ListKind::Copied).count();
    let there = (0..region.count()).filter(has_copy).count();
    assert_eq!(listed, there);
    (region.table().count(ListKind::Copied), there)
}
#[test]
fn copies_are_counted_whatever_happens_to_their_chunks() {
    look_on();
    let mut most = 0;
    for mechanism in serving() {
        let budget = Fixed::new(24 * CHUNK);
        let engine = budget.engine(mechanism);
        let mut region = streaming(&engine, 40 * CHUNK, CHUNK);
        let mut acquired = vec![];
        for step in 0..3_000 {
            let random = mix(step) as usize;
            let index = random / 16 % region.count();
            match random % 16 {
                0..5 => read(&region, index),
                5 => fill(&region, index, step),
                6 => _ = words(&region)[index * CHUNK / 8].load(Relaxed),
                7 | 8 => {
                    if region.acquire(index, Access::Read).is_ok() {
                        acquired.push(index);
                    }
                }
                9..12 => acquired.drain(..).for_each(|index| region.release(index).unwrap()),
                12 => _ = engine.free_encoded().unwrap(),
                13 => _ = engine.reclaim(random / 16 % 8 * CHUNK),
                14 if (random / 16).is_multiple_of(8) => region.advise(Advice::DontNeed),
                15 if (random / 16).is_multiple_of(16) => {
                    acquired.drain(..).for_each(|index| region.release(index).unwrap());
                    let size = (20 + random / 256 % 90) * CHUNK;
                    region = engine.resize(&region, size).unwrap();
                }
                _ => region.prefetch(index, 1).unwrap(),
            }
            let (counted, there) = counted(&region);
            assert_eq!(counted, there, "{mechanism:?}, step {step}");
            most = most.max(there);
        }
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
    assert!(most > 3, "there were never more than {most} copies");
}

/// CRC-64 of `words`, computed bit by bit with a reflected polynomial.
fn crc_64(polynomial: u64, words: &[u64]) -> u64 {
    let bits = words.iter().flat_map(|word| (0..64).map(move |bit| word >> bit & 1));
    !bits.fold(u64::MAX, |crc, bit| (crc >> 1) ^ if (crc ^ bit) & 1 == 1 { polynomial } else { 0 })
}
/// If a record and its checksum change, they change by a multiple of the checksum's polynomial. A hash of the whole
/// chunk by that polynomial would stay the same, and the write would be lost.
#[test]
fn rewriting_a_record_with_its_own_checksum_is_seen() {
    const POLYNOMIALS: [u64; 2] = [0x9A6C_9329_AC4B_C9B5, 0xC96C_5795_D787_0F42]; // of NVMe, of xz
    for (mechanism, polynomial) in serving().flat_map(|m| POLYNOMIALS.map(|p| (m, p))) {
        let engine = Fixed::new(1 << 20).engine(mechanism);
        let region = streaming(&engine, 2 << 20, 64 << 10);
        words(&region).iter().enumerate().for_each(|(i, w)| w.store(mix(i as u64), Relaxed));
        let record = |seed: u64| {
            let mut record: Vec<u64> = (0..63).map(|i| mix(seed + i)).collect();
            record.push(crc_64(polynomial, &record));
            record
        };
        let place = &words(&region)[100..164];
        for seed in [1 << 40, 1 << 41, 1 << 42] {
            place.iter().zip(record(seed)).for_each(|(word, value)| word.store(value, Relaxed));
            region.advise(Advice::DontNeed);
            region.acquire(0, Access::Read).unwrap();
            let found: Vec<u64> = place.iter().map(|word| word.load(Relaxed)).collect();
            region.release(0).unwrap();
            assert_eq!(found, record(seed), "{mechanism:?}");
        }
        engine.free(&region);
    }
}
