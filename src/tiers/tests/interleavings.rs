//! Interleavings of threads in which something was lost once; each is made to happen.
use super::*;
use crate::error::Error;
use crate::tiers::sync_points::{SyncPoint, at};
use crate::tiers::table::ListKind;
use std::sync::mpsc::channel;

fn fill(region: &Piece, seed: u64) {
    words(region).iter().enumerate().for_each(|(i, word)| word.store(mix(seed + i as u64), Relaxed));
}
fn holds(region: &Piece, seed: u64, chunks: usize) {
    for index in 0..chunks {
        let chunk = region.chunk_size() / 8;
        region.acquire(index, Access::Read).unwrap_or_else(|error| panic!("chunk {index}: {error:?}"));
        for i in index * chunk..(index + 1) * chunk {
            assert_eq!(words(region)[i].load(Relaxed), mix(seed + i as u64), "chunk {index}");
        }
        region.release(index).unwrap();
    }
}
/// A region of `chunks` that holds words of `seed`, none of them in place.
fn stored(engine: &Arc<Engine>, chunks: usize, seed: u64) -> Piece {
    let region = streaming(engine, chunks * CHUNK, CHUNK);
    fill(&region, seed);
    region.advise(Advice::DontNeed);
    region
}
fn unlimited(mechanism: Mechanism) -> Arc<Engine> {
    Engine::with_mechanism(mechanism, Box::new(Unlimited)).unwrap()
}
const CHUNK: usize = 16 << 10;

#[test]
fn two_threads_open_the_spill_file_at_once() {
    look_on();
    for mechanism in serving() {
        let engine = unlimited(mechanism);
        let regions = [1000, 2_000_000].map(|seed| {
            let region = streaming(&engine, 4 * CHUNK, CHUNK);
            fill(&region, seed);
            region
        });
        let (opened, opens) = channel();
        let [first, second] = regions.clone();
        at(SyncPoint::OpeningFile, move || {
            // The other thread opens a file too, writes a chunk there, and waits before it notes that.
            let (wrote, writes) = channel();
            let other = std::thread::spawn(move || {
                at(SyncPoint::Written, move || {
                    wrote.send(()).unwrap();
                    opens.recv().unwrap();
                });
                second.advise(Advice::DontNeed);
            });
            writes.recv().unwrap();
            at(SyncPoint::Written, move || {
                opened.send(()).unwrap();
                other.join().unwrap();
            });
        });
        first.advise(Advice::DontNeed);
        assert_eq!(engine.residency().cold_bytes, 8 * CHUNK);
        holds(&regions[0], 1000, 4);
        holds(&regions[1], 2_000_000, 4);
        engine.clear();
        assert_eq!(engine.held(), 0);
    }
}

#[test]
fn a_region_grows_while_an_eviction_holds_the_list_that_had_it() {
    look_on();
    for mechanism in serving() {
        let engine = unlimited(mechanism);
        // All chunks have been out once, so there is room on disk for the new region to inherit.
        let region = stored(&engine, 8, 4);
        fill(&region, 5);
        let (grown, grows) = channel();
        let (evicted, evictions) = channel();
        {
            let engine = engine.clone();
            at(SyncPoint::RegionChosen, move || {
                let (inherited, inherits) = channel();
                std::thread::spawn(move || {
                    at(SyncPoint::RoomInherited, move || {
                        inherited.send(()).unwrap();
                        evictions.recv().unwrap();
                    });
                    grown.send(engine.resize(&region, 64 * CHUNK)).unwrap();
                });
                inherits.recv().unwrap();
            });
        }
        {
            // Without waiting for the threads at work: one of them waits for this thread, which happens only in this
            // test.
            let _inside = gate::enter();
            engine.reclaim_now(20 * CHUNK);
        }
        evicted.send(()).unwrap();
        let region = grows.recv().unwrap().unwrap();
        assert_eq!(region.count(), 64);
        holds(&region, 5, 8);
        engine.clear();
        assert_eq!(engine.held(), 0);
    }
}

#[test]
fn an_encoded_chunk_comes_in_just_before_it_is_written_out() {
    look_on();
    for mechanism in serving() {
        let engine = unlimited(mechanism);
        let region = streaming(&engine, 2 * CHUNK, CHUNK);
        words(&region).iter().enumerate().for_each(|(i, word)| word.store(i as u64 / 100, Relaxed));
        region.advise(Advice::DontNeed);
        assert!(engine.residency().warm_bytes > 0);
        let index = region.lists().oldest(ListKind::Warm).unwrap();
        {
            let region = region.clone();
            at(SyncPoint::OldestChosen, move || {
                let acquire = move || region.acquire(index, Access::Read).map(drop);
                assert_eq!(std::thread::spawn(acquire).join().unwrap(), Ok(()));
            });
        }
        engine.reclaim(usize::MAX);
        assert_eq!(region.is_listed(index), ListKind::Hot);
        region.release(index).unwrap();
        engine.free(&region);
        assert_eq!((engine.residency().warm_bytes, engine.held()), (0, 0));
    }
}

#[test]
fn memory_is_freed_while_a_worker_is_about_to_bring_some_in() {
    look_on();
    for mechanism in serving() {
        let engine = unlimited(mechanism);
        let region = stored(&engine, 2, 9);
        {
            let (engine, region) = (engine.clone(), region.clone());
            at(SyncPoint::BringingAhead, move || assert!(engine.free(&region)));
        }
        region.bring_ahead(0);
        assert_eq!((region.residency().hot_bytes, engine.held()), (0, 0), "{mechanism:?}");
    }
}

#[test]
fn memory_that_holds_all_slots_is_freed_while_a_worker_wants_one_for_it() {
    look_on();
    for mechanism in serving() {
        let engine = unlimited(mechanism);
        let region = stored(&engine, 64, 10);
        let slots = region.staging().count();
        (0..slots).for_each(|index| region.stage(index));
        assert_eq!(engine.staged_chunks(region.staging()), slots);
        let (freed, frees) = channel();
        let worker = {
            let (engine, region) = (engine.clone(), region.clone());
            std::thread::spawn(move || {
                let leaving = region.clone();
                at(SyncPoint::Staging, move || {
                    let region = leaving.clone();
                    std::thread::spawn(move || freed.send(engine.free(&region)).unwrap());
                    while !leaving.is_leaving() {
                        std::thread::yield_now();
                    }
                });
                let _inside = gate::enter();
                region.stage(slots);
            })
        };
        let patience = core::time::Duration::from_secs(60);
        assert_eq!(frees.recv_timeout(patience), Ok(true), "{mechanism:?}: both wait for each other");
        worker.join().unwrap();
        assert_eq!(engine.held(), 0);
    }
}

#[test]
fn a_chunk_is_wanted_while_all_room_is_with_memory_that_is_freed_or_moved() {
    look_on();
    for mechanism in serving() {
        for grows in [false, true] {
            let budget = Fixed::new(8 * CHUNK);
            let engine = budget.engine(mechanism);
            let other = stored(&engine, 4, 12);
            let region = streaming(&engine, 16 * CHUNK, CHUNK);
            fill(&region, 13);
            let (acquired, acquires) = channel();
            {
                let (engine, other) = (engine.clone(), other.clone());
                at(SyncPoint::Concealed, move || {
                    let wanting = std::thread::spawn(move || other.acquire(0, Access::Read).map(drop));
                    while engine.waiting.waiting() + engine.waiting.aside() == 0 && !wanting.is_finished() {
                        std::thread::yield_now();
                    }
                    acquired.send(wanting).unwrap();
                });
            }
            if grows {
                let region = engine.resize(&region, 64 * CHUNK).unwrap();
                holds(&region, 13, 16);
            } else {
                assert!(engine.free(&region));
            }
            let result = acquires.recv().unwrap().join().unwrap();
            assert_eq!(result, Ok(()), "{mechanism:?}, grows: {grows}");
            other.release(0).unwrap();
            holds(&other, 12, 4);
            engine.clear();
            assert_eq!(budget.used.load(SeqCst), 0);
        }
    }
}

#[test]
fn memory_shrinks_while_a_worker_is_about_to_bring_in_what_is_cut_off() {
    look_on();
    for mechanism in serving() {
        let engine = unlimited(mechanism);
        let region = stored(&engine, 4, 14);
        {
            let (engine, region) = (engine.clone(), region.clone());
            at(SyncPoint::BringingAhead, move || _ = engine.resize(&region, CHUNK).unwrap());
        }
        region.bring_ahead(3);
        assert_eq!(region.residency().hot_bytes, 0, "{mechanism:?}");
        holds(&region, 14, 1);
        engine.clear();
        assert_eq!(engine.held(), 0);
    }
}

/// What is freed or has moved does not change its size any more, and nothing of it stays charged.
#[test]
fn memory_changes_its_size_after_another_thread_has_freed_or_moved_it() {
    look_on();
    for mechanism in Mechanism::LADDER.into_iter().filter(|mechanism| Faults::get(*mechanism).is_ok()) {
        for size in [1, 6, 64] {
            let budget = Fixed::new(256 * CHUNK);
            let engine = budget.engine(mechanism);
            let region = streaming(&engine, 4 * CHUNK, CHUNK);
            assert!(engine.free(&region) && !engine.free(&region));
            assert_eq!(engine.resize(&region, size * CHUNK).err(), Some(Error::NotOwned), "{mechanism:?}");
            if mechanism != Mechanism::None {
                let region = streaming(&engine, 4 * CHUNK, CHUNK);
                fill(&region, 15);
                let moved = engine.resize(&region, 32 * CHUNK).unwrap();
                assert_eq!(engine.resize(&region, size * CHUNK).err(), Some(Error::NotOwned));
                assert!(!engine.free(&region));
                holds(&moved, 15, 4);
            }
            engine.clear();
            assert_eq!(budget.used.load(SeqCst), 0, "{mechanism:?}");
        }
    }
}
/// The room of as many chunks as can be acquired is taken. A thread acquires one of them again just when another lets go
/// of it: it may be acquired before that, and after it.
#[test]
fn a_chunk_is_acquired_while_it_is_released() {
    look_on();
    for mechanism in serving() {
        let budget = Fixed::new(6 * CHUNK + 4096);
        let engine = budget.engine(mechanism);
        let region = streaming(&engine, 16 * CHUNK, CHUNK);
        (0..4).for_each(|index| _ = region.acquire(index, Access::Write).unwrap());
        assert_eq!(region.acquire(4, Access::Write), Err(Error::OutOfMemory), "{mechanism:?}");
        let (acquired, acquires) = channel();
        {
            let (engine, region) = (engine.clone(), region.clone());
            at(SyncPoint::Released, move || {
                let acquire = std::thread::spawn(move || region.acquire(3, Access::Write).map(drop));
                while engine.waiting.aside() == 0 && !acquire.is_finished() {
                    std::thread::yield_now();
                }
                acquired.send(acquire).unwrap();
            });
        }
        region.release(3).unwrap();
        assert_eq!(acquires.recv().unwrap().join().unwrap(), Ok(()), "{mechanism:?}");
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

/// The last memory with chunks of its size is freed while the pages of one that has just left are about to be kept.
#[test]
fn memory_is_freed_while_pages_of_it_go_into_stock() {
    look_on();
    for mechanism in serving() {
        let engine = unlimited(mechanism);
        let region = streaming(&engine, 4 * CHUNK, CHUNK);
        fill(&region, 17);
        // More sizes than slots are kept for.
        let others = (5..14).map(|pages| streaming(&engine, pages * 4096, pages * 4096)).collect::<Vec<_>>();
        {
            let (engine, region) = (engine.clone(), region.clone());
            at(SyncPoint::KeepingPages, move || {
                assert!(std::thread::spawn(move || engine.free(&region)).join().unwrap());
            });
        }
        region.advise(Advice::DontNeed);
        assert!(!engine.has_set(region.staging()));
        others.iter().for_each(|other| _ = engine.free(other));
        engine.clear();
        assert_eq!(engine.held(), 0, "{mechanism:?}");
    }
}

/// Memory that grows is freed while the bytes behind its end are cleared, in a chunk that is pinned for that.
#[test]
fn memory_is_freed_while_what_lies_behind_its_end_is_cleared() {
    look_on();
    for mechanism in serving() {
        let engine = unlimited(mechanism);
        let region = streaming(&engine, CHUNK + 800, CHUNK);
        fill(&region, 18);
        let (freed, frees) = channel();
        {
            let (engine, region) = (engine.clone(), region.clone());
            at(SyncPoint::TailPinned, move || {
                let goes_first = region.resizing(0).try_lock().is_some();
                let free = std::thread::spawn(move || engine.free(&region));
                while goes_first && !free.is_finished() {
                    std::thread::yield_now();
                }
                freed.send(free).unwrap();
            });
        }
        assert!(engine.resize(&region, 2 * CHUNK).is_ok(), "{mechanism:?}: it grows where it is");
        assert!(frees.recv().unwrap().join().unwrap());
        assert_eq!(engine.held(), 0, "{mechanism:?}");
    }
}
