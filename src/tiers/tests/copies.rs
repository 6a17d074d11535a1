//! Encoded copies of chunks in place: they are counted exactly, and looked for only if there is one.
use super::*;
use crate::tiers::state::Phase;
use crate::tiers::sync_points::{SyncPoint, at};
use crate::tiers::table::ListKind;
use crate::tiers::workers;

const CHUNK: usize = 16 << 10;
/// Writes words into half of a chunk, so that encoding halves it.
fn fill(region: &Region, index: usize, seed: u64) {
    let words = &words(region)[index * CHUNK / 8..][..CHUNK / 16];
    words.iter().enumerate().for_each(|(i, word)| word.store(mix(seed + i as u64), Relaxed));
}
fn read(region: &Region, index: usize) {
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
        region.advise(Advice::Random).unwrap();
        fill(&region, 127, 1);
        region.advise(Advice::DontNeed).unwrap();
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
    workers::withdraw(region);
    let has_copy = |index: &usize| {
        let chunk = region.chunk(*index);
        // SAFETY: nobody else uses the region, so there is no other reference.
        chunk.state.load().phase() == Phase::Hot && unsafe { chunk.stored() }.warm != 0
    };
    let listed = (0..region.count()).filter(|index| region.is_listed(*index) == ListKind::Copied).count();
    let there = (0..region.count()).filter(has_copy).count();
    assert_eq!(listed, there);
    (region.lists().count(ListKind::Copied), there)
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
                14 if (random / 16).is_multiple_of(8) => region.advise(Advice::DontNeed).unwrap(),
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
