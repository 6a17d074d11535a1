//! Pieces that share a region.
use super::*;
use crate::error::Error;
use crate::tiers::registry;
use crate::tiers::state::{Phase, Settle};
use crate::tiers::sync_points::{SyncPoint, at};
use crate::tiers::transit::Transit;

const CHUNK: usize = 4096;

fn piece(engine: &Arc<Engine>) -> Result<Piece, Error> {
    engine.allocate(&Params { size: CHUNK - 100, chunk: CHUNK, policy: Policy::Streaming })
}
/// What another thread does meanwhile.
fn elsewhere<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let thread = std::thread::spawn(move || {
        look_on();
        work()
    });
    thread.join().unwrap()
}
/// A piece whose contents are on disk.
fn stored(engine: &Arc<Engine>) -> Piece {
    let piece = piece(engine).unwrap();
    (0..).zip(words(&piece)).for_each(|(i, word)| word.store(mix(i), Relaxed));
    piece.advise(Advice::DontNeed);
    assert_eq!(piece.word(index(&piece)).phase(), Phase::Stored);
    piece
}
/// A piece's chunk.
fn index(piece: &Piece) -> usize {
    piece.index_of(piece.start()).unwrap()
}

#[test]
fn slabs_come_and_go_with_their_pieces() {
    look_on();
    for mechanism in serving() {
        let budget = Fixed::new(4 << 20);
        let engine = budget.engine(mechanism);
        let pieces: Vec<_> = (0..64 + 256 + 1).map(|_| piece(&engine).unwrap()).collect();
        assert_eq!(engine.regions().len(), 3, "of 64, 256 and 1024 chunks");
        assert_eq!(engine.pieces().len(), pieces.len());
        // Other chunks, and another policy, are in slabs of their own.
        let large = engine.allocate(&Params { size: 5000, chunk: 8192, policy: Policy::Streaming }).unwrap();
        let policy = Policy::Hierarchical { tolerance: 0.5 };
        let lossy = engine.allocate(&Params { size: 100, chunk: CHUNK, policy }).unwrap();
        assert_eq!(engine.regions().len(), 5);
        assert!(large.size() == 5000 && lossy.is_lossy() && !large.is_lossy());
        for piece in [&large, &lossy].into_iter().chain(&pieces) {
            assert!(engine.free(piece));
        }
        assert_eq!(engine.regions().len(), 0);
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

/// For recordings, which do not look at each piece.
#[test]
fn slabs_know_the_bytes_of_their_pieces() {
    look_on();
    let engine = Engine::with_mechanism(serving().next().unwrap(), Box::new(Unlimited)).unwrap();
    let bytes =
        || engine.regions().iter().filter_map(|region| Some(region.slab()?.live_bytes())).sum::<usize>();
    let [first, second] = [0, 1].map(|_| piece(&engine).unwrap());
    assert_eq!(bytes(), 2 * (CHUNK - 100));
    for size in [10, CHUNK, 20] {
        engine.resize(&first, size).unwrap();
        assert_eq!(bytes(), size + CHUNK - 100);
    }
    let moved = engine.resize(&first, 3 * CHUNK).unwrap();
    assert!(engine.free(&first) && bytes() == CHUNK - 100);
    assert!(engine.free(&second) && bytes() == 0 && engine.free(&moved));
}

#[test]
fn of_two_threads_one_frees_a_piece() {
    look_on();
    let engine = Engine::new(Box::new(Unlimited)).unwrap();
    let kept = piece(&engine).unwrap();
    for _ in 0..500 {
        let piece = piece(&engine).unwrap();
        words(&piece)[0].store(1, Relaxed);
        let free = || {
            look_on();
            engine.free(&piece)
        };
        let freed = std::thread::scope(|scope| [0, 1].map(|_| scope.spawn(free)).map(|t| t.join().unwrap()));
        assert!(freed[0] != freed[1]);
    }
    assert_eq!(engine.residency().hot_bytes, 0);
    assert!(engine.free(&kept) && engine.held() == 0);
}

#[test]
fn a_piece_is_freed_while_others_bring_it_in() {
    look_on();
    for mechanism in serving() {
        let budget = Fixed::new(1 << 20);
        let engine = budget.engine(mechanism);
        let [freed, kept] = [0, 1].map(|_| piece(&engine).unwrap());
        words(&freed)[0].store(7, Relaxed);
        freed.advise(Advice::DontNeed);
        let (claimed, claims) = channel();
        let (ended, ends) = channel();
        let other = {
            let freed = freed.clone();
            std::thread::spawn(move || {
                look_on();
                at(SyncPoint::Claimed, move || {
                    claimed.send(()).unwrap();
                    ends.recv().unwrap();
                });
                bring_in(&freed, 0, Access::Write, false)
            })
        };
        claims.recv().unwrap();
        // Ends the piece, and then waits for the claim.
        let free = {
            let (engine, freed) = (engine.clone(), freed.clone());
            std::thread::spawn(move || {
                look_on();
                engine.free(&freed)
            })
        };
        while freed.size() > 0 {
            std::hint::spin_loop();
        }
        ended.send(()).unwrap();
        assert_eq!(other.join().unwrap(), Err(ChunkError::Leaving), "{mechanism:?}");
        assert!(free.join().unwrap());
        // A worker that was asked before finds nothing to bring in.
        {
            let _inside = gate::enter();
            freed.bring_ahead(0);
        }
        assert_eq!(engine.residency().hot_bytes, 0);
        let next = piece(&engine).unwrap();
        assert!(next.start() == freed.start() && next.word(0).phase() == Phase::Zero);
        assert_eq!(words(&next)[0].load(Relaxed), 0);
        assert!(engine.free(&next) && engine.free(&kept));
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

#[test]
fn what_there_is_no_room_for_leaves_nothing() {
    look_on();
    let budget = Fixed::new(1 << 20);
    let engine = budget.engine(serving().next().unwrap());
    let (_, spill) = engine.files.current().unwrap();
    // 64 chunks have blocks on disk at a time.
    for others in [0, 64] {
        let others: Vec<_> = (0..others).map(|_| piece(&engine).unwrap()).collect();
        let before = (budget.used.load(SeqCst), engine.regions().len());
        spill.refuse(true);
        assert_eq!(piece(&engine).err(), Some(Error::Io), "the disk is full");
        spill.refuse(false);
        assert_eq!((budget.used.load(SeqCst), engine.regions().len()), before);
        others.iter().for_each(|piece| assert!(engine.free(piece)));
    }
    assert_eq!(budget.used.load(SeqCst), 0);
    let live = piece(&engine).unwrap();
    let nothing = Params { size: 0, chunk: CHUNK, policy: Policy::Streaming };
    assert_eq!(engine.allocate(&nothing).err(), Some(Error::InvalidArgument));
    assert!(engine.free(&live));
    // One chunk and a page of records fit, but not two chunks beside that.
    let engine = Fixed::new(2 * CHUNK).engine(serving().next().unwrap());
    let only = piece(&engine).unwrap();
    assert_eq!(piece(&engine).err(), Some(Error::OutOfMemory));
    assert!(engine.pieces().len() == 1 && engine.free(&only));
    assert_eq!((engine.held(), engine.regions().len()), (0, 0));
}

#[test]
fn a_piece_that_cannot_move_to_grow_is_as_it_was() {
    look_on();
    for mechanism in serving() {
        let budget = Fixed::new(1 << 20);
        let engine = budget.engine(mechanism);
        let grows = piece(&engine).unwrap();
        words(&grows)[3].store(mix(3), Relaxed);
        grows.advise(Advice::DontNeed);
        let before = budget.used.load(SeqCst);
        let (_, spill) = engine.files.current().unwrap();
        spill.refuse(true);
        assert_eq!(engine.resize(&grows, 100 * CHUNK).err(), Some(Error::Io), "the disk is full");
        spill.refuse(false);
        assert_eq!(engine.resize(&grows, 0).err(), Some(Error::InvalidArgument));
        assert!(grows.size() == CHUNK - 100 && engine.regions().len() == 1);
        assert!(budget.used.load(SeqCst) <= before + 2 * CHUNK, "{mechanism:?}");
        let grown = engine.resize(&grows, 100 * CHUNK).unwrap();
        assert_eq!((engine.regions().len(), grown.count()), (2, 100), "{mechanism:?}: the old one is there");
        assert_eq!(words(&grown)[3].load(Relaxed), mix(3));
        assert!(words(&grown)[4..].iter().all(|word| word.load(Relaxed) == 0));
        assert!(
            engine.free(&grows) && engine.regions().len() == 1 && !engine.free(&grows) && engine.free(&grown)
        );
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

#[test]
fn a_slab_ends_while_another_piece_fails_to_begin_in_it() {
    look_on();
    let budget = Fixed::new(1 << 20);
    let engine = budget.engine(serving().next().unwrap());
    ends(move || {
        // Another thread makes a slab just before this one does, and gives it up while this one finds no room there.
        let (others, taken) = (engine.clone(), budget.clone());
        at(SyncPoint::NoChunkFree, move || {
            let engine = others.clone();
            let other = elsewhere(move || piece(&engine).unwrap());
            at(SyncPoint::ChunkTaken, move || {
                elsewhere(move || assert!(others.free(&other)));
                while taken.try_charge(4096) {}
            });
        });
        assert_eq!(piece(&engine).err(), Some(Error::OutOfMemory));
        assert_eq!((engine.regions().len(), engine.held()), (0, 0));
    });
}

#[test]
fn a_piece_is_freed_while_all_are() {
    look_on();
    let budget = Fixed::new(1 << 20);
    let engine = budget.engine(serving().next().unwrap());
    ends(move || {
        let [freed, _other] = [0, 1].map(|_| stored(&engine));
        let all = engine.clone();
        at(SyncPoint::PieceEnded, move || elsewhere(move || all.clear()));
        assert!(engine.free(&freed));
        assert_eq!((engine.regions().len(), engine.held()), (0, 0));
        drop((freed, _other));
        assert_eq!(budget.used.load(SeqCst), 0);
    });
}

#[test]
fn a_piece_begins_where_there_is_room_for_it() {
    look_on();
    let budget = Fixed::new(1 << 20);
    let engine = budget.engine(serving().next().unwrap());
    let first = piece(&engine).unwrap();
    let others: Vec<_> = (0..64).map(|_| piece(&engine).unwrap()).collect();
    assert_eq!(engine.regions().len(), 2);
    assert!(engine.free(&first));
    while budget.try_charge(4096) {}
    // In the other slab a chunk that was not used so far may need another page of records.
    let last: Vec<_> = core::iter::from_fn(|| piece(&engine).ok()).take(100).collect();
    assert!(last.len() < 100 && last.iter().any(|piece| piece.start() == first.start()));
    others.iter().chain(&last).for_each(|piece| assert!(engine.free(piece)));
    assert_eq!(engine.held(), 0);
}

#[test]
fn no_piece_begins_where_faults_are_not_served() {
    look_on();
    for mechanism in serving() {
        let engine = Engine::with_mechanism(mechanism, Box::new(Unlimited)).unwrap();
        let first = piece(&engine).unwrap();
        {
            let _inside = gate::enter();
            first.forbid();
        }
        let next = piece(&engine).unwrap();
        assert!(first.is_forbidden() && !next.is_forbidden(), "{mechanism:?}");
        words(&next)[0].store(1, Relaxed);
        assert!(engine.free(&first) && engine.free(&next) && engine.held() == 0);
    }
}

#[test]
fn advice_for_a_piece_is_for_no_other() {
    look_on();
    let budget = Fixed::new(4 << 20);
    let engine = budget.engine(serving().next().unwrap());
    let ahead = stored(&engine);
    let sent_out = piece(&engine).unwrap();
    let asked: Vec<_> = (0..32).map(|_| stored(&engine)).collect();
    {
        let _inside = gate::enter();
        ahead.stage(index(&ahead));
    }
    assert_eq!(ahead.word(index(&ahead)).phase(), Phase::Staged);
    asked.iter().for_each(|piece| piece.prefetch(0, 1).unwrap());
    sent_out.advise(Advice::DontNeed);
    assert_eq!(ahead.word(index(&ahead)).phase(), Phase::Staged);
    ends(move || {
        while asked.iter().any(|piece| piece.residency().hot_bytes == 0) {
            std::thread::yield_now();
        }
    });
    ahead.advise(Advice::DontNeed);
    assert_eq!(ahead.word(index(&ahead)).phase(), Phase::Stored);
    engine.clear();
    assert_eq!(engine.held(), 0);
}

#[test]
fn what_a_piece_has_counted_counts_once() {
    look_on();
    let engine = Engine::new(Box::new(Unlimited)).unwrap();
    let [grows, kept] = [0, 1].map(|_| stored(&engine));
    words(&grows)[0].store(1, Relaxed);
    let before = engine.residency();
    assert_eq!((before.faults, before.evictions, grows.residency().faults), (3, 2, 2));
    let grown = engine.resize(&grows, 2 * CHUNK).unwrap();
    engine.free(&grows);
    assert_eq!(engine.residency(), before);
    assert_eq!((grown.residency().faults, kept.residency().faults), (2, 1));
    assert!(engine.free(&kept) && engine.free(&grown));
}

#[test]
fn a_piece_moves_to_grow_once_there_is_a_slot() {
    look_on();
    for mechanism in serving() {
        let engine = Engine::with_mechanism(mechanism, Box::new(Unlimited)).unwrap();
        let grows = piece(&engine).unwrap();
        words(&grows)[0].store(1, Relaxed);
        let staging = grows.staging().clone();
        let parked = staging.count() / 2 + 1;
        // The state after evictions whose chunks could neither be stored nor go back in place.
        let _others: Vec<_> = (0..parked)
            .map(|_| {
                let other = piece(&engine).unwrap();
                assert!(engine.account().charge_pages(CHUNK));
                let slot = staging.fill(engine.pages(), staging.take_empty().unwrap()).unwrap();
                let mut transit = Transit::claim(&other, index(&other), Phase::Zero).unwrap();
                transit.keep_slot(slot);
                transit.settle(Phase::Staged, Settle::default());
                other
            })
            .collect();
        // The other slots are with other threads for a moment.
        let mut taken: Vec<_> = core::iter::from_fn(|| staging.take_empty()).collect();
        let (done, moved) = channel();
        let (others, growing) = (engine.clone(), grows.clone());
        std::thread::spawn(move || {
            look_on();
            done.send(others.resize(&growing, 2 * CHUNK))
        });
        let early = moved.recv_timeout(Duration::from_millis(100));
        assert!(early.is_err(), "{mechanism:?}: it gave up: {:?}", early.map(|moved| moved.err()));
        taken.drain(..).for_each(|slot| staging.put_empty(slot));
        let grown = moved.recv().unwrap().unwrap();
        assert_eq!(words(&grown)[0].load(Relaxed), 1);
        engine.clear();
        assert_eq!(engine.held(), 0);
    }
}

#[test]
fn what_the_program_brings_in_was_not_brought_in_ahead() {
    look_on();
    let engine = Fixed::new(1 << 20).engine(serving().next().unwrap());
    let [acquired, asked] = [0; 2].map(|_| stored(&engine));
    {
        let acquired = acquired.clone();
        at(SyncPoint::BringingAhead, move || {
            elsewhere(move || _ = acquired.acquire(0, Access::Read).unwrap());
        });
    }
    {
        let _inside = gate::enter();
        acquired.bring_ahead(index(&acquired));
        asked.bring_ahead(index(&asked));
    }
    for (piece, ahead) in [(&acquired, 0), (&asked, 1)] {
        piece.acquire(0, Access::Read).unwrap();
        let figures = piece.residency();
        assert_eq!((figures.faults, figures.prefetches, figures.prefetch_hits), (2, ahead, ahead));
    }
    engine.clear();
}

#[test]
fn nobody_waits_for_a_piece_that_comes_in_to_grow() {
    look_on();
    for mechanism in serving() {
        // Within its chunk, beyond it, and from a full chunk.
        for (from, to) in [(CHUNK - 100, CHUNK), (CHUNK - 100, 2 * CHUNK), (CHUNK, 2 * CHUNK)] {
            let engine = Fixed::new(1 << 20).engine(mechanism);
            let [grows, freed, resized] = [0; 3].map(|_| stored(&engine));
            assert!(from < CHUNK || engine.resize(&grows, from).is_ok());
            grows.advise(Advice::DontNeed);
            assert_eq!(grows.word(index(&grows)).phase(), Phase::Stored);
            ends(move || {
                let others = engine.clone();
                at(SyncPoint::Claimed, move || {
                    elsewhere(move || {
                        assert!(others.free(&freed) && others.resize(&resized, 10).is_ok());
                        let params = Params { size: 10 * CHUNK, chunk: CHUNK, policy: Policy::Streaming };
                        assert!(others.free(&others.allocate(&params).unwrap()));
                    });
                });
                let grown = engine.resize(&grows, to).unwrap();
                assert_eq!((grown.size(), words(&grown)[3].load(Relaxed)), (to, mix(3)));
                engine.clear();
                assert_eq!(engine.held(), 0);
            });
        }
    }
}

/// Chunks may have to leave for these. Meanwhile another thread frees one piece, or all there are.
#[test]
fn nobody_waits_for_room_for_records() {
    look_on();
    for all in [false, true] {
        let engine = Fixed::new(1 << 20).engine(serving().next().unwrap());
        ends(move || {
            let mut pieces = vec![piece(&engine).unwrap()];
            let (others, first) = (engine.clone(), pieces[0].clone());
            let (freed, frees) = channel();
            at(SyncPoint::ChargingRecords, move || {
                elsewhere(move || if all { others.clear() } else { assert!(others.free(&first)) });
                freed.send(()).unwrap();
            });
            while frees.try_recv().is_err() {
                pieces.push(piece(&engine).unwrap());
            }
            let live = if all { 1 } else { pieces.len() - 1 };
            assert_eq!((engine.regions().len(), engine.pieces().len()), (1, live));
            assert!(all || pieces.last().unwrap().start() == pieces[0].start());
            engine.clear();
            assert_eq!((engine.regions().len(), engine.held()), (0, 0));
        });
    }
}

/// Another thread may touch a piece of a slab as soon as it finds the slab.
#[test]
fn a_slab_is_found_by_its_addresses_first() {
    look_on();
    let engine = Engine::new(Box::new(Unlimited)).unwrap();
    let (seen, sees) = channel();
    {
        let engine = engine.clone();
        at(SyncPoint::HalfPublished, move || {
            let unknown = |region: &&Arc<Region>| registry::find(region.start()).is_none();
            seen.send(engine.regions().iter().filter(unknown).count()).unwrap();
        });
    }
    let piece = piece(&engine).unwrap();
    assert_eq!(sees.try_recv(), Ok(0));
    engine.free(&piece);
}
