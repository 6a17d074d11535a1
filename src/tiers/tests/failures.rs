//! Without room, or without disk, operations fail with an error, and nothing is lost.
use super::*;
use crate::error::Error;
use crate::tiers::chunk_error::ChunkError;
use crate::tiers::mapping;
use crate::tiers::spill::Spill;
use crate::tiers::state::{MOST_ACQUIRED, Phase, Settle};
use crate::tiers::transit::Transit;

fn acquire(region: &Piece, index: usize) -> Result<(), Error> {
    let region = region.clone();
    ends(move || region.acquire(index, Access::Read).map(|_| ()))
}
/// Fills half of a chunk with words of `seed`, so that encoding halves it.
pub(super) fn fill(region: &Piece, index: usize, seed: u64) {
    region.acquire(index, Access::Write).unwrap();
    let words = &words(region)[index * region.chunk_size() / 8..][..region.chunk_size() / 8];
    words[..words.len() / 2]
        .iter()
        .enumerate()
        .for_each(|(i, word)| word.store(mix(seed + i as u64), Relaxed));
    region.release(index).unwrap();
}
pub(super) fn holds(region: &Piece, index: usize, seed: u64) {
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
    look_on();
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
    look_on();
    for mechanism in serving() {
        let (chunk, count) = (64 << 10, 256);
        let budget = Fixed::new(4 << 20);
        let engine = budget.engine(mechanism);
        let region = streaming(&engine, count * chunk, chunk);
        region.advise(Advice::Random);
        (0..count).for_each(|index| fill(&region, index, index as u64));
        assert!(engine.residency().warm_bytes > 0);
        engine.files.get(1).unwrap().refuse(true);
        let mut acquired = vec![];
        let error = loop {
            let index = count - 1 - acquired.len();
            match acquire(&region, index) {
                Ok(()) => acquired.push(index),
                Err(error) => break error,
            }
        };
        assert_eq!(error, Error::Io, "{mechanism:?}");
        engine.files.get(1).unwrap().refuse(false);
        acquired.into_iter().for_each(|index| region.release(index).unwrap());
        (0..count).for_each(|index| holds(&region, index, index as u64));
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

#[test]
fn a_chunk_that_is_acquired_in_place_gives_its_copy_for_its_room() {
    look_on();
    const CHUNK: usize = 16 << 10;
    for mechanism in serving() {
        for refuses in [false, true] {
            // Room for eight chunks, and for the copy of one that is encoded to a half.
            let budget = Fixed::new(8 * CHUNK + CHUNK / 2);
            let engine = budget.engine(mechanism);
            let region = streaming(&engine, 16 * CHUNK, CHUNK);
            fill(&region, 5, 21);
            region.advise(Advice::Random);
            region.advise(Advice::DontNeed);
            holds(&region, 5, 21);
            (0..5).for_each(|i| _ = region.acquire(i, Access::Overwrite).unwrap());
            let (_, spill) = engine.files.current().unwrap();
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
    look_on();
    for mechanism in serving() {
        let chunk = 4096;
        let engine = Engine::with_mechanism(mechanism, Box::new(Unlimited)).unwrap();
        let region = streaming(&engine, 100 * chunk, chunk);
        let staging = region.staging();
        let mut parked = 0;
        // The state after evictions whose chunks could neither be stored nor go back in place.
        while let Some(slot) = staging.take_empty() {
            assert!(engine.account().charge_pages(chunk));
            let mut slot = staging.fill(engine.pages(), slot).unwrap();
            staging.bytes(&mut slot)[..chunk].fill(parked as u8);
            let mut transit = Transit::claim(&region, parked, Phase::Zero).unwrap();
            transit.keep_slot(slot);
            transit.settle(Phase::Staged, Settle::default());
            parked += 1;
        }
        assert_eq!(acquire(&region, 99), Err(Error::OutOfMemory), "{mechanism:?}");
        // When one of them goes in place its slot is free.
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
    look_on();
    let engine = Engine::new(Box::new(Unlimited)).unwrap();
    let region = streaming(&engine, 1 << 20, 64 << 10);
    // Not by `acquire` above, which starts a thread each time.
    (0..MOST_ACQUIRED).for_each(|_| assert!(region.acquire(0, Access::Read).is_ok()));
    assert_eq!(acquire(&region, 0), Err(Error::Limit));
    region.release(0).unwrap();
    acquire(&region, 0).unwrap();
    assert_eq!(acquire(&region, 0), Err(Error::Limit));
    acquire(&region, 1).unwrap();
    engine.free(&region);
}

#[test]
fn what_fails_leaves_nothing_charged() {
    look_on();
    let mechanism = serving().next().unwrap();
    let budget = Fixed::new(8 << 20);
    let engine = budget.engine(mechanism);
    let chunk = 64 << 10;
    let params = Params { size: 40 << 20, chunk: 1 << 20, policy: Policy::Streaming };
    // First without any region, then with a region of small chunks.
    let first = streaming(&engine, 1 << 20, chunk);
    engine.free(&first);
    for living in [false, true] {
        let region = living.then(|| streaming(&engine, 1 << 20, chunk));
        let before = (budget.used.load(SeqCst), engine.movable());
        engine.files.get(1).unwrap().refuse(true);
        assert_eq!(engine.allocate(&params).err(), Some(Error::Io));
        assert_eq!((budget.used.load(SeqCst), engine.movable()), before, "after an allocation");
        if let Some(region) = region {
            fill(&region, 0, 77);
            let before = (engine.held(), engine.movable());
            assert_eq!(engine.resize(&region, 80 << 20).err(), Some(Error::Io));
            assert_eq!((engine.held(), engine.movable()), before, "after growing");
            holds(&region, 0, 77);
        }
        engine.files.get(1).unwrap().refuse(false);
    }
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}

/// All other room is taken by chunks of another size, which the disk refuses.
#[test]
fn a_touch_ends_while_chunks_of_another_size_cannot_be_stored() {
    look_on();
    for mechanism in serving() {
        const LARGE: usize = 64 << 10;
        let budget = Fixed::new(3 * LARGE + 2 * 4096);
        let engine = budget.engine(mechanism);
        let [large, small] = [LARGE, LARGE / 4].map(|chunk| {
            let region = streaming(&engine, 16 * chunk, chunk);
            region.advise(Advice::Random);
            region
        });
        let (_, spill) = engine.files.current().unwrap();
        let touch = |region: &Piece, index| {
            let region = region.clone();
            ends(move || bring_in(&region, index, Access::Write, false))
        };
        touch(&large, 0).unwrap();
        let store = |region: &Piece, index| {
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

#[test]
fn memory_that_grows_has_blocks_made_for_what_is_new() {
    look_on();
    const CHUNK: usize = 4096;
    let budget = Fixed::new(1 << 20);
    let engine = budget.engine(serving().next().unwrap());
    let region = streaming(&engine, 10 * CHUNK, CHUNK);
    let (file, spill) = engine.files.open_another().unwrap();
    // As fork does: from now on blocks are made one piece at a time, and all ten chunks are in the first.
    region.spill_space().move_to(file, &spill);
    acquire(&region, 0).unwrap();
    assert!(engine.resize(&region, 20 * CHUNK).unwrap().start() == region.start());
    spill.refuse(true);
    assert_eq!(acquire(&region, 15), Err(Error::Io), "the disk is full");
    spill.refuse(false);
    acquire(&region, 15).unwrap();
    spill.refuse(true);
    acquire(&region, 16).unwrap(); // made with it
    spill.refuse(false);
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}

/// Memory whose blocks on disk are made piece by piece, four chunks each, as after a fork.
fn made_by_pieces(engine: &Arc<Engine>, chunks: usize) -> (Piece, Arc<Spill>) {
    let region = streaming(engine, chunks << 20, 1 << 20);
    region.advise(Advice::Random);
    let (file, spill) = engine.files.open_another().unwrap();
    region.spill_space().move_to(file, &spill);
    (region, spill)
}
#[test]
fn memory_that_was_larger_has_blocks_made_again_for_what_is_new() {
    look_on();
    let budget = Fixed::new(32 << 20);
    let engine = budget.engine(serving().next().unwrap());
    for moves in [false, true] {
        let (mut region, spill) = made_by_pieces(&engine, 16);
        (0..16).step_by(4).for_each(|index| acquire(&region, index).unwrap());
        (0..16).step_by(4).for_each(|index| region.release(index).unwrap());
        region = engine.resize(&region, 2 << 20).unwrap();
        region = engine.resize(&region, if moves { 80 << 20 } else { 16 << 20 }).unwrap();
        for index in [3, 4, 8, 12] {
            spill.refuse(true);
            assert_eq!(acquire(&region, index), Err(Error::Io), "chunk {index}: the disk is full");
            spill.refuse(false);
            acquire(&region, index).unwrap();
        }
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}
#[test]
fn blocks_that_the_disk_had_no_room_for_are_made_when_it_has() {
    look_on();
    const CHUNK: usize = 2 << 20;
    let budget = Fixed::new(32 << 20);
    let engine = budget.engine(serving().next().unwrap());
    let (_, spill) = engine.files.current().unwrap();
    // More than the disk could hold. The last piece has one chunk at first, and one that is added.
    let count = (spill.capacity() as usize / CHUNK + 2) / 2 * 2 + 1;
    let region = streaming(&engine, count * CHUNK, CHUNK);
    acquire(&region, count - 1).unwrap();
    assert!(engine.resize(&region, (count + 4) * CHUNK).unwrap().start() == region.start());
    spill.refuse(true);
    assert_eq!(acquire(&region, count), Err(Error::Io), "the disk is full");
    assert_eq!(acquire(&region, count), Err(Error::Io), "and still is");
    spill.refuse(false);
    acquire(&region, count).unwrap();
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}

#[test]
fn memory_that_cannot_grow_keeps_nothing_for_what_it_did_not_get() {
    look_on();
    const CHUNK: usize = 4096;
    let budget = Fixed::new(8 << 20);
    let engine = budget.engine(serving().next().unwrap());
    let region = streaming(&engine, 100 * CHUNK, CHUNK);
    let charged = || engine.account().guaranteed() - 2 * CHUNK;
    let (_, spill) = engine.files.current().unwrap();
    spill.refuse(true);
    assert_eq!(engine.resize(&region, 200 * CHUNK).err(), Some(Error::Io));
    spill.refuse(false);
    assert_eq!(charged(), 2 * 4096);
    let rest = budget.limit - budget.used.load(SeqCst);
    assert!(budget.try_charge(rest));
    assert_eq!(engine.resize(&region, 200 * CHUNK).err(), Some(Error::OutOfMemory));
    budget.discharge(rest);
    // Of so few chunks only these are guaranteed.
    let region = engine.resize(&region, CHUNK).unwrap();
    assert_eq!(engine.account().guaranteed(), CHUNK + 4096);
    let region = engine.resize(&region, 200 * CHUNK).unwrap();
    assert_eq!(charged(), 4 * 4096);
    engine.free(&region);
    assert_eq!(budget.used.load(SeqCst), 0);
}

#[test]
fn memory_that_shrinks_gives_back_its_records_and_its_room_on_disk() {
    look_on();
    const CHUNK: usize = 4096;
    // With the first limit the records of all chunks are charged at once, with the second as they are used.
    for limit in [8 << 20, 1 << 20] {
        let budget = Fixed::new(limit);
        let engine = budget.engine(serving().next().unwrap());
        let region = streaming(&engine, 2000 * CHUNK, CHUNK);
        region.advise(Advice::Random);
        let pages = || (engine.account().guaranteed() - 2 * CHUNK) / 4096;
        let (_, spill) = engine.files.current().unwrap();
        let next_on_disk = || {
            let start = spill.take_range(4096);
            spill.give_range(start, 4096);
            start
        };
        let next = next_on_disk();
        for round in 0..3 {
            (0..2000).step_by(50).chain([1999]).for_each(|index| fill(&region, index, index as u64));
            assert_eq!(pages(), 32);
            assert!(engine.resize(&region, 100 * CHUNK).unwrap().start() == region.start());
            assert_eq!(pages(), 2, "limit {limit}, round {round}");
            for index in 128..2000 {
                let record = core::ptr::from_ref(region.chunk(index)) as usize;
                assert!(!mapping::is_present(record), "limit {limit}, the record of chunk {index}");
            }
            holds(&region, 50, 50);
            assert!(engine.resize(&region, 2000 * CHUNK).unwrap().start() == region.start());
            region.acquire(1000, Access::Read).unwrap();
            assert_eq!(words(&region)[1000 * CHUNK / 8].load(Relaxed), 0);
            region.release(1000).unwrap();
            assert_eq!(pages(), if limit == 8 << 20 { 32 } else { 3 });
            // Pages that are not charged by now are not given back.
            assert!(engine.resize(&region, 100 * CHUNK).unwrap().start() == region.start());
            assert_eq!(pages(), 2, "limit {limit}, round {round}");
            assert!(engine.resize(&region, 2000 * CHUNK).unwrap().start() == region.start());
            assert_eq!(next_on_disk(), next, "limit {limit}, round {round}");
        }
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}
#[test]
fn records_are_given_back_while_others_are_at_them() {
    look_on();
    const CHUNK: usize = 4096;
    let budget = Fixed::new(8 << 20);
    let engine = budget.engine(serving().next().unwrap());
    let region = streaming(&engine, 300 * CHUNK, CHUNK);
    let ended = Arc::new(AtomicUsize::new(0));
    let others = [130, 131, 131].map(|index| {
        let (region, ended) = (region.clone(), ended.clone());
        move || {
            while ended.load(Relaxed) == 0 {
                match bring_in(&region, index, Access::Write, false) {
                    Ok(()) | Err(ChunkError::Leaving) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    ends(move || {
        std::thread::scope(|scope| {
            others.into_iter().for_each(|other| _ = scope.spawn(other));
            for size in [1, 300].into_iter().cycle().take(3000) {
                assert!(engine.resize(&region, size * CHUNK).unwrap().start() == region.start());
            }
            ended.store(1, Relaxed);
        });
        engine.resize(&region, CHUNK).unwrap();
        assert_eq!(region.residency().hot_bytes + region.residency().cold_bytes, 0);
        engine.resize(&region, 300 * CHUNK).unwrap();
        engine.resize(&region, CHUNK).unwrap();
        assert_eq!(engine.account().guaranteed(), CHUNK + 4096);
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    });
}

#[test]
fn room_that_large_chunks_needed_is_free_when_they_are_gone() {
    look_on();
    const CHUNK: usize = 64 << 10;
    let budget = Fixed::new(32 << 20);
    let engine = budget.engine(serving().next().unwrap());
    let region = streaming(&engine, 1024 * CHUNK, CHUNK);
    let before = (engine.held(), engine.account().guaranteed());
    let large = streaming(&engine, 64 << 20, 8 << 20);
    fill(&large, 3, 3);
    engine.free(&large);
    engine.trim();
    assert_eq!((engine.held(), engine.account().guaranteed()), before);
    fill(&region, 3, 3);
    holds(&region, 3, 3);
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}

#[test]
fn memory_in_place_for_good_grows_again_to_what_it_was() {
    look_on();
    const CHUNK: usize = 4096;
    let budget = Fixed::new(1 << 20);
    let engine = budget.engine(Mechanism::None);
    let region = streaming(&engine, 8 * CHUNK, CHUNK);
    assert!(region.is_resident());
    (0..8).for_each(|index| fill(&region, index, index as u64));
    let same = |size| {
        let resized = engine.resize(&region, size).unwrap();
        assert!(resized.start() == region.start() && region.size() == size);
    };
    same(2 * CHUNK + 8);
    same(6 * CHUNK + 16);
    (0..2).for_each(|index| holds(&region, index, index as u64));
    assert_eq!(words(&region)[2 * CHUNK / 8].load(Relaxed), mix(2));
    assert!(words(&region)[2 * CHUNK / 8 + 1..].iter().all(|word| word.load(Relaxed) == 0));
    assert_eq!(region.first_overrun().unwrap(), None);
    same(8 * CHUNK);
    assert!(words(&region)[6 * CHUNK / 8..].iter().all(|word| word.load(Relaxed) == 0));
    assert_eq!(engine.resize(&region, 8 * CHUNK + 1).err(), Some(Error::Unsupported));
    (0..2).for_each(|index| holds(&region, index, index as u64));
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}
