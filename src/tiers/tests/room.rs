//! Threads that look for room while others hold chunks that could leave, without using them.
use super::*;
use crate::error::Error;
use crate::tiers::chunk_error::ChunkError;
use crate::tiers::state::Phase;
use crate::tiers::sync_points::{SyncPoint, at};
use crate::tiers::table::ListKind;
use crate::tiers::transit::Transit;
use crate::tiers::workers;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

const CHUNK: usize = 16 << 10;
type Wanting = JoinHandle<Result<(), ChunkError>>;

/// Room for four chunks and the records. Two chunks are acquired, and two more are in place: 2 and 3.
fn two_can_leave(mechanism: Mechanism) -> (Arc<Engine>, Piece) {
    let engine = Fixed::new(4 * CHUNK + 4096).engine(mechanism);
    let region = streaming(&engine, 16 * CHUNK, CHUNK);
    region.advise(Advice::Random);
    (0..2).for_each(|index| _ = region.acquire(index, Access::Write).unwrap());
    (2..4).for_each(|index| bring_in(&region, index, Access::Write, false).unwrap());
    (engine, region)
}
/// A plain touch of another chunk, by a thread that has looked for room in vain by now.
fn touch_another(engine: &Arc<Engine>, region: &Piece) -> Wanting {
    let touched = region.clone();
    let wanting = std::thread::spawn(move || bring_in(&touched, 9, Access::Write, false));
    while engine.waiting.waiting() == 0 && !wanting.is_finished() {
        std::thread::yield_now();
    }
    wanting
}
/// Two threads hold a chunk each by `hold`, which passes `point` meanwhile. A third thread wants room in between.
fn room_is_wanted_while_both_are_held(
    (engine, region): &(Arc<Engine>, Piece),
    point: SyncPoint,
    hold: fn(&Region, usize),
) -> Result<(), ChunkError> {
    let (touches, touched): (_, Receiver<Wanting>) = channel();
    {
        let (engine, region) = (engine.clone(), region.clone());
        at(point, move || {
            let other = region.clone();
            std::thread::spawn(move || {
                let (engine, region) = (engine, region);
                at(point, move || touches.send(touch_another(&engine, &region)).unwrap());
                hold(&other, 3);
            })
            .join()
            .unwrap();
        });
    }
    hold(region, 2);
    touched.recv().unwrap().join().unwrap()
}

#[test]
fn what_is_acquired_in_vain_meanwhile_can_leave_then() {
    look_on();
    for mechanism in serving() {
        let memory = two_can_leave(mechanism);
        let acquire_in_vain = |region: &Region, index| {
            assert_eq!(bring_in(region, index, Access::Read, true), Err(ChunkError::NoRoomBeside));
        };
        let touched = room_is_wanted_while_both_are_held(&memory, SyncPoint::AcquiredInVain, acquire_in_vain);
        assert_eq!(touched, Ok(()), "{mechanism:?}");
        memory.0.clear();
    }
}

#[test]
fn what_is_touched_in_place_meanwhile_can_leave_then() {
    look_on();
    let memory = two_can_leave(Mechanism::Signal);
    let touch = |region: &Region, index| {
        let _inside = gate::enter();
        region.touch(index, true).unwrap();
    };
    let touched = room_is_wanted_while_both_are_held(&memory, SyncPoint::Reopening, touch);
    assert_eq!(touched, Ok(()));
    memory.0.clear();
}

/// Two threads wait to acquire the two chunks in place; or one thread does, and the other chunk is pinned. An encoded
/// chunk takes the room for that. Then the encoded chunk is touched.
fn a_touch_while_others_wait_to_acquire(mechanism: Mechanism, wanted: &'static [usize]) {
    // Room for three chunks, and for a quarter of the encoded one.
    let budget = Fixed::new(3 * CHUNK + CHUNK / 8 + 4096);
    let engine = budget.engine(mechanism);
    let region = streaming(&engine, 16 * CHUNK, CHUNK);
    region.advise(Advice::Random);
    let half = &words(&region)[..CHUNK / 16];
    half.iter().enumerate().for_each(|(i, word)| word.store(mix(i as u64), Relaxed));
    region.advise(Advice::DontNeed);
    assert_eq!(region.is_listed(0), ListKind::Warm, "{mechanism:?}");
    (2..4).for_each(|index| bring_in(&region, index, Access::Write, false).unwrap());
    let pinned = (2..4).filter(|index| !wanted.contains(index));
    pinned.clone().for_each(|index| assert!(region.chunk(index).state.pin()));
    let (starts, started) = channel();
    {
        let (engine, region) = (engine.clone(), region.clone());
        at(SyncPoint::Claimed, move || {
            let acquire = |index: &usize| {
                let (index, region) = (*index, region.clone());
                std::thread::spawn(move || region.acquire(index, Access::Write).map(drop))
            };
            let acquires: Vec<_> = wanted.iter().map(acquire).collect();
            while (engine.waiting.aside() as usize) < wanted.len()
                && !acquires.iter().any(JoinHandle::is_finished)
            {
                std::thread::yield_now();
            }
            starts.send(acquires).unwrap();
        });
    }
    assert_eq!(bring_in(&region, 0, Access::Write, false), Ok(()), "{mechanism:?}");
    let acquired: Vec<_> =
        started.recv().unwrap().into_iter().map(|acquire| acquire.join().unwrap()).collect();
    // In the end there is room to acquire one of them.
    assert!(acquired.contains(&Ok(())), "{mechanism:?}: {acquired:?}");
    pinned.for_each(|index| region.chunk(index).state.unpin());
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}
#[test]
fn a_touch_gets_the_place_of_what_others_wait_to_acquire() {
    look_on();
    for mechanism in serving() {
        for wanted in [&[2, 3][..], &[2]] {
            ends(move || a_touch_while_others_wait_to_acquire(mechanism, wanted));
        }
    }
}

/// A thread that waits to acquire a chunk stops when the memory is freed or moved, even if what it waits for goes on.
#[test]
fn memory_is_freed_or_moved_while_another_waits_to_acquire_some() {
    look_on();
    for mechanism in serving() {
        for grows in [false, true] {
            ends(move || leaves_while_another_waits_to_acquire_some(mechanism, grows));
        }
    }
}
fn leaves_while_another_waits_to_acquire_some(mechanism: Mechanism, grows: bool) {
    let budget = Fixed::new(3 * CHUNK + CHUNK / 8 + 4 * 4096);
    let engine = budget.engine(mechanism);
    let other = streaming(&engine, CHUNK, CHUNK);
    let half = &words(&other)[..CHUNK / 16];
    half.iter().enumerate().for_each(|(i, word)| word.store(mix(i as u64), Relaxed));
    other.advise(Advice::DontNeed);
    let region = streaming(&engine, 16 * CHUNK, CHUNK);
    region.advise(Advice::Random);
    words(&region)[2 * CHUNK / 8].store(7, Relaxed);
    // This encoded chunk, which is claimed, takes the room for the acquisition.
    let encoded = Transit::claim(&other, 0, Phase::Stored).unwrap();
    let acquire = {
        let region = region.clone();
        std::thread::spawn(move || region.acquire(2, Access::Write).map(drop))
    };
    while engine.waiting.aside() < 1 && !acquire.is_finished() {
        std::thread::yield_now();
    }
    let kept = if grows {
        let grown = engine.resize(&region, 64 * CHUNK).unwrap();
        words(&grown)[2 * CHUNK / 8].load(Relaxed) == 7
    } else {
        engine.free(&region)
    };
    let acquired = acquire.join().unwrap();
    encoded.settle_unchanged();
    assert!(kept, "{mechanism:?}, grows: {grows}");
    assert_eq!(acquired, Err(Error::NotOwned), "{mechanism:?}, grows: {grows}");
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}

/// Chunks of many regions came in, in an order of their own. They leave in that order.
#[test]
fn the_oldest_chunk_of_all_regions_leaves_first() {
    look_on();
    const REGIONS: usize = 150;
    for mechanism in serving() {
        let engine = Engine::with_mechanism(mechanism, Box::new(Unlimited)).unwrap();
        let regions: Vec<_> = (0..REGIONS).map(|_| streaming(&engine, 2 * CHUNK, CHUNK)).collect();
        regions.iter().for_each(|region| region.advise(Advice::Random));
        let mut order: Vec<usize> = (0..2 * REGIONS).collect();
        order.sort_by_key(|&chunk| mix(chunk as u64));
        for &chunk in &order {
            bring_in(&regions[chunk / 2], chunk % 2, Access::Write, false).unwrap();
        }
        // Some are freed, and others moved, so that they are in other places.
        let gone = |region: usize| region % 7 == 3;
        let pieces: Vec<_> = (0..REGIONS)
            .map(|region| match region % 7 {
                3 => engine.free(&regions[region]).then(|| regions[region].clone()).unwrap(),
                5 => engine.resize(&regions[region], 50 * CHUNK).unwrap(),
                _ => regions[region].clone(),
            })
            .collect();
        let inside = gate::enter();
        engine.drop_full(pieces[0].staging(), usize::MAX); // pages in stock would go before chunks
        let is_hot = |chunk: usize| pieces[chunk / 2].word(chunk % 2).phase() == Phase::Hot;
        let (moved, stayed): (Vec<_>, Vec<_>) =
            order.into_iter().filter(|chunk| !gone(chunk / 2)).partition(|chunk| chunk / 2 % 7 == 5);
        // A chunk that moves comes in anew.
        let mut left = stayed.len() + moved.len();
        for &chunk in &stayed {
            assert!(is_hot(chunk), "{mechanism:?}: {chunk} has left before its turn, {left} to go");
            assert!(engine.reclaim_now(1) > 0);
            assert!(!is_hot(chunk), "{mechanism:?}: {chunk} has not left in its turn, {left} to go");
            left -= 1;
        }
        assert!(moved.iter().all(|&chunk| is_hot(chunk)));
        drop(inside);
        engine.clear();
        assert_eq!(engine.held(), 0);
    }
}

/// Other threads hold the oldest of the encoded chunks, and of those read ahead.
#[test]
fn what_is_behind_claimed_chunks_is_found() {
    look_on();
    const CLAIMED: usize = 6;
    for mechanism in serving() {
        let engine = Engine::with_mechanism(mechanism, Box::new(Unlimited)).unwrap();
        let [older, region] = [1, 20].map(|chunks| {
            let region = streaming(&engine, chunks * CHUNK, CHUNK);
            words(&region).iter().enumerate().for_each(|(i, word)| word.store(i as u64 / 100, Relaxed));
            region.advise(Advice::DontNeed);
            region
        });
        let oldest = Transit::claim(&older, 0, Phase::Stored).unwrap();
        let claim = |from| {
            let held = (0..CLAIMED).map(|index| Transit::claim(&region, index, from).unwrap());
            held.collect::<Vec<_>>()
        };
        let held = claim(Phase::Stored);
        assert_eq!(engine.demote_oldest(), Ok(true), "{mechanism:?}");
        oldest.settle_unchanged();
        held.into_iter().for_each(Transit::settle_unchanged);
        (0..=CLAIMED).for_each(|index| region.stage(index));
        let held = claim(Phase::Staged);
        let slot = engine.unstage(region.staging());
        assert!(slot.is_some(), "{mechanism:?}");
        slot.into_iter().for_each(|slot| engine.drop_pages(region.staging(), slot));
        held.into_iter().for_each(Transit::settle_unchanged);
        engine.clear();
        assert_eq!(engine.held(), 0);
    }
}

/// A region larger than the budget, of which eight chunks are in place.
fn eight_in_place(engine: &Arc<Engine>) -> Piece {
    let region = streaming(engine, 32 * CHUNK, CHUNK);
    region.advise(Advice::Random);
    (0..8).for_each(|index| bring_in(&region, index, Access::Write, false).unwrap());
    // Ends the jobs of the worker threads, and gives back what they keep.
    workers::withdraw(&region, None);
    engine.trim();
    region
}
#[test]
fn a_plain_block_waits_for_chunks_that_others_hold_for_a_moment() {
    look_on();
    for mechanism in serving() {
        let engine = Fixed::new(16 * CHUNK).engine(mechanism);
        let region = eight_in_place(&engine);
        let inside = gate::enter();
        engine.account().drop_reserve();
        let held: Vec<_> = (0..8).filter_map(|index| Transit::claim(&region, index, Phase::Hot)).collect();
        assert!(held.len() > 4, "{mechanism:?}");
        let (looks, looked) = channel();
        let reclaiming = {
            let engine = engine.clone();
            std::thread::spawn(move || {
                at(SyncPoint::ReclaimedNothing, move || looks.send(()).unwrap());
                engine.reclaim(CHUNK)
            })
        };
        looked.recv().unwrap();
        held.into_iter().for_each(Transit::settle_unchanged);
        drop(inside);
        assert!(ends(move || reclaiming.join().unwrap()) >= CHUNK, "{mechanism:?}");
        // Nobody waits for acquired chunks, which may stay acquired for ever.
        (0..8).for_each(|index| _ = region.acquire(index, Access::Read).unwrap());
        let others = engine.clone();
        ends(move || while others.reclaim(16 * CHUNK) > 0 {});
        engine.clear();
    }
}

#[test]
fn an_allocation_waits_for_chunks_that_others_hold_for_a_moment() {
    look_on();
    for mechanism in serving() {
        let budget = Fixed::new(16 * CHUNK);
        let engine = budget.engine(mechanism);
        let region = eight_in_place(&engine);
        let inside = gate::enter();
        engine.account().drop_reserve();
        let held: Vec<_> = (0..8).filter_map(|index| Transit::claim(&region, index, Phase::Hot)).collect();
        // All other room is taken, so there is none for a page of records.
        let rest = budget.limit - budget.used.load(SeqCst);
        assert!(held.len() > 4 && budget.try_charge(rest), "{mechanism:?}");
        let (looks, looked) = channel();
        let allocating = {
            let engine = engine.clone();
            std::thread::spawn(move || {
                at(SyncPoint::ReclaimedNothing, move || looks.send(()).unwrap());
                engine.allocate(&Params { size: 100, chunk: CHUNK, policy: Policy::Streaming }).map(drop)
            })
        };
        looked.recv().unwrap();
        held.into_iter().for_each(Transit::settle_unchanged);
        drop(inside);
        assert_eq!(ends(move || allocating.join().unwrap()), Ok(()), "{mechanism:?}");
        engine.clear();
        budget.discharge(rest);
    }
}

/// Whoever looks for room for a plain block is at work, so that nobody gives up meanwhile; and notes progress where it has found
/// some, and only there, as two that find nothing would keep each other going.
#[test]
fn who_makes_room_for_a_plain_block_is_at_work() {
    look_on();
    for mechanism in serving() {
        let engine = Fixed::new(16 * CHUNK).engine(mechanism);
        let region = streaming(&engine, 32 * CHUNK, CHUNK);
        region.advise(Advice::Random);
        (0..12).for_each(|index| bring_in(&region, index, Access::Write, false).unwrap());
        workers::withdraw(&region, None);
        // Pages of slots, which are nobody's claim.
        region.advise(Advice::DontNeed);
        let inside = gate::enter();
        let seen = engine.waiting.progress();
        assert!(region.staging().full() > 0 && engine.reclaim_now(1) > 0, "{mechanism:?}");
        assert_ne!(engine.waiting.progress(), seen, "{mechanism:?}");
        drop(inside);
        // Chunks.
        (0..8).for_each(|index| bring_in(&region, index, Access::Write, false).unwrap());
        workers::withdraw(&region, None);
        engine.trim();
        let inside = gate::enter();
        let (tell, told) = channel();
        let looking = engine.clone();
        at(SyncPoint::RegionChosen, move || tell.send(looking.waiting.at_work()).unwrap());
        assert!(engine.reclaim_now(1) > 0, "{mechanism:?}");
        assert_eq!(told.recv(), Ok(1), "{mechanism:?}");
        // What is reserved, while others hold all chunks that are left.
        engine.drop_full(region.staging(), usize::MAX);
        let held: Vec<_> = (0..12).filter_map(|index| Transit::claim(&region, index, Phase::Hot)).collect();
        assert!(held.len() > 4, "{mechanism:?}");
        while engine.warm.trim(engine.account()) > 0 || engine.free_encoded() == Ok(true) {}
        assert!(engine.reclaim_now(1) > 0, "{mechanism:?}: the reserve");
        let seen = engine.waiting.progress();
        assert_eq!(engine.reclaim_now(1), 0, "{mechanism:?}");
        assert_eq!(engine.waiting.progress(), seen, "{mechanism:?}");
        held.into_iter().for_each(Transit::settle_unchanged);
        drop(inside);
        engine.clear();
        assert_eq!(engine.held(), 0);
    }
}

/// What was encoded leaves pages that nobody uses. A plain block gets them before any chunk has to leave.
#[test]
fn a_plain_block_gets_unused_pages_first() {
    look_on();
    for mechanism in serving() {
        let engine = Engine::with_mechanism(mechanism, Box::new(Unlimited)).unwrap();
        let [gone, stays] = [(); 2].map(|()| streaming(&engine, 8 * CHUNK, CHUNK));
        for region in [&gone, &stays] {
            for (i, word) in words(region).iter().enumerate() {
                word.store(i as u64 / 100, Relaxed);
            }
        }
        gone.advise(Advice::DontNeed);
        assert!(engine.residency().warm_bytes > 0);
        engine.free(&gone);
        let hot = stays.counters.hot.load(Relaxed);
        assert!(hot > 0);
        let inside = gate::enter();
        let pages = engine.pages_in_hand();
        engine.drop_full(stays.staging(), usize::MAX); // pages in stock would go before chunks, too
        drop(pages);
        assert!(engine.reclaim_now(1) > 0);
        drop(inside);
        assert_eq!(stays.counters.hot.load(Relaxed), hot, "{mechanism:?}");
        engine.clear();
        assert_eq!(engine.held(), 0);
    }
}
