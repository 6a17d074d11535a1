//! What has no room, or no disk, ends in an error, and nothing is lost.
use super::*;
use crate::error::Error;
use crate::tiers::chunk_error::ChunkError;
use crate::tiers::state::{MOST_ACQUIRED, Phase, Settle};
use crate::tiers::transit::Transit;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Runs what once went on for ever.
fn ends<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(Duration::from_secs(60)).expect("goes on for ever")
}
fn acquire(region: &Arc<Region>, index: usize) -> Result<(), Error> {
    let region = region.clone();
    ends(move || region.acquire(index, Access::Read).map(|_| ()))
}
/// Stores `seed` in a way that halves a chunk when it is encoded.
fn fill(region: &Region, index: usize, seed: u64) {
    region.acquire(index, Access::Write).unwrap();
    let words = &words(region)[index * region.chunk_size() / 8..][..region.chunk_size() / 8];
    words[..words.len() / 2]
        .iter()
        .enumerate()
        .for_each(|(i, word)| word.store(mix(seed + i as u64), Relaxed));
    region.release(index).unwrap();
}
fn holds(region: &Region, index: usize, seed: u64) {
    region.acquire(index, Access::Read).unwrap();
    let words = &words(region)[index * region.chunk_size() / 8..][..region.chunk_size() / 8];
    for (i, word) in words.iter().enumerate() {
        let expected = if i < words.len() / 2 { mix(seed + i as u64) } else { 0 };
        assert_eq!(word.load(Relaxed), expected, "chunk {index} word {i}");
    }
    region.release(index).unwrap();
}

#[test]
fn without_faults_memory_that_did_not_fit_grows_once_it_fits() {
    let budget = Fixed::new(1 << 20);
    let engine = budget.engine(Mechanism::None);
    let plain = 240 * 4096;
    assert!(budget.try_charge(plain));
    let region = streaming(&engine, 32 * 4096, 4096);
    assert!(!region.is_resident());
    (0..32).for_each(|index| fill(&region, index, index as u64));
    budget.discharge(plain);
    let region = engine.resize(&region, 80 * 4096).unwrap();
    (0..32).for_each(|index| holds(&region, index, index as u64));
    engine.clear();
    assert_eq!((budget.used.load(SeqCst), engine.residency().cold_bytes), (0, 0));
}

#[test]
fn all_that_fits_is_acquired_and_the_disk_fails() {
    for mechanism in serving() {
        let (chunk, count) = (64 << 10, 256);
        let budget = Fixed::new(4 << 20);
        let engine = budget.engine(mechanism);
        let region = streaming(&engine, count * chunk, chunk);
        region.advise(Advice::Random).unwrap();
        (0..count).for_each(|index| fill(&region, index, index as u64));
        assert!(engine.residency().warm_bytes > 0);
        engine.file(1).unwrap().refuse(true);
        let mut acquired = vec![];
        let error = loop {
            let index = count - 1 - acquired.len();
            match acquire(&region, index) {
                Ok(()) => acquired.push(index),
                Err(error) => break error,
            }
        };
        assert_eq!(error, Error::Io, "{mechanism:?}");
        engine.file(1).unwrap().refuse(false);
        acquired.into_iter().for_each(|index| region.release(index).unwrap());
        (0..count).for_each(|index| holds(&region, index, index as u64));
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

#[test]
fn a_chunk_that_is_acquired_in_place_gives_its_copy_for_its_room() {
    const CHUNK: usize = 16 << 10;
    for mechanism in serving() {
        for refuses in [false, true] {
            // Room for eight chunks, and for the copy of one that is encoded to a half.
            let budget = Fixed::new(8 * CHUNK + CHUNK / 2);
            let engine = budget.engine(mechanism);
            let region = streaming(&engine, 16 * CHUNK, CHUNK);
            fill(&region, 5, 21);
            region.advise(Advice::Random).unwrap();
            region.advise(Advice::DontNeed).unwrap();
            holds(&region, 5, 21);
            (0..5).for_each(|i| _ = region.acquire(i, Access::Overwrite).unwrap());
            let (_, spill) = engine.spill().unwrap();
            spill.refuse(refuses);
            assert_eq!(region.acquire(5, Access::Read).map(drop), Ok(()), "{mechanism:?}");
            spill.refuse(false);
            assert_eq!(engine.residency().cold_bytes, 0, "{mechanism:?}: it was written out for nothing");
            region.release(5).unwrap();
            holds(&region, 5, 21);
        }
    }
}
#[test]
fn all_slots_hold_chunks_that_have_no_other_place() {
    for mechanism in serving() {
        let chunk = 4096;
        let engine = Engine::with_mechanism(mechanism, Box::new(Unlimited)).unwrap();
        let region = streaming(&engine, 100 * chunk, chunk);
        let staging = region.staging();
        let mut parked = 0;
        // As after evictions whose chunks could neither be stored nor go back in place.
        while let Some(mut slot) = staging.take_empty() {
            assert!(engine.account().charge_pages(chunk));
            engine.pages().fill_slot(staging.span(&slot), staging.nursery(&slot)).unwrap();
            staging.bytes(&mut slot)[..chunk].fill(parked as u8);
            let mut transit = Transit::claim(&region, parked, Some(Phase::Zero)).unwrap();
            transit.stored().slot = slot.into_number();
            region.counters.staged.fetch_add(chunk, Relaxed);
            transit.settle(Phase::Staged, Settle::default());
            parked += 1;
        }
        assert_eq!(acquire(&region, 99), Err(Error::OutOfMemory), "{mechanism:?}");
        // One of them goes in place, and its slot is free.
        acquire(&region, 3).unwrap();
        acquire(&region, 99).unwrap();
        let byte = |index: usize| words(&region)[index * chunk / 8].load(Relaxed) as u8;
        assert!((0..parked).all(|index| byte(index) == index as u8));
        engine.clear();
        assert_eq!(engine.held(), 0);
    }
}

#[test]
fn a_chunk_is_acquired_too_often() {
    let engine = Engine::new(Box::new(Unlimited)).unwrap();
    let region = streaming(&engine, 1 << 20, 64 << 10);
    acquire(&region, 0).unwrap();
    (1..MOST_ACQUIRED).for_each(|_| acquire(&region, 0).unwrap());
    assert_eq!(acquire(&region, 0), Err(Error::Limit));
    region.release(0).unwrap();
    acquire(&region, 0).unwrap();
    assert_eq!(acquire(&region, 0), Err(Error::Limit));
    acquire(&region, 1).unwrap();
    engine.free(&region);
}

#[test]
fn what_fails_leaves_nothing_charged() {
    let mechanism = serving().next().unwrap();
    let budget = Fixed::new(8 << 20);
    let engine = budget.engine(mechanism);
    let chunk = 64 << 10;
    let params = Params { size: 40 << 20, chunk: 1 << 20, policy: Policy::Streaming };
    // Nothing lives, then a region with small chunks.
    let first = streaming(&engine, 1 << 20, chunk);
    engine.free(&first);
    for living in [false, true] {
        let region = living.then(|| streaming(&engine, 1 << 20, chunk));
        let before = (budget.used.load(SeqCst), engine.movable());
        engine.file(1).unwrap().refuse(true);
        assert_eq!(engine.allocate(&params).err(), Some(Error::Io));
        assert_eq!((budget.used.load(SeqCst), engine.movable()), before, "after an allocation");
        if let Some(region) = region {
            fill(&region, 0, 77);
            let before = (engine.held(), engine.movable());
            assert_eq!(engine.resize(&region, 80 << 20).err(), Some(Error::Io));
            assert_eq!((engine.held(), engine.movable()), before, "after growing");
            holds(&region, 0, 77);
        }
        engine.file(1).unwrap().refuse(false);
    }
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}

/// All other room is with chunks of another size, and the disk refuses these.
#[test]
fn a_touch_ends_while_chunks_of_another_size_cannot_be_stored() {
    for mechanism in serving() {
        const LARGE: usize = 64 << 10;
        let budget = Fixed::new(3 * LARGE + 2 * 4096);
        let engine = budget.engine(mechanism);
        let [large, small] = [LARGE, LARGE / 4].map(|chunk| {
            let region = streaming(&engine, 16 * chunk, chunk);
            region.advise(Advice::Random).unwrap();
            region
        });
        let (_, spill) = engine.spill().unwrap();
        let touch = |region: &Arc<Region>, index| {
            let region = region.clone();
            ends(move || region.bring_in(index, Access::Write, false, false))
        };
        touch(&large, 0).unwrap();
        let store = |region: &Region, index| {
            let words = &words(region)[index * region.chunk_size() / 8..][..region.chunk_size() / 8];
            words.iter().enumerate().for_each(|(i, word)| word.store(mix(i as u64), Relaxed));
        };
        store(&large, 0);
        (0..8).for_each(|index| store(&small, index));
        spill.refuse(true);
        let refused =
            (1..8).map(|index| touch(&large, index).map(|()| store(&large, index))).find(Result::is_err);
        spill.refuse(false);
        assert!(matches!(refused, Some(Err(ChunkError::Disk(_)))), "{mechanism:?}: {refused:?}");
        for i in 0..LARGE / 8 {
            assert_eq!(words(&large)[i].load(Relaxed), mix(i as u64), "{mechanism:?}");
        }
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}
