//! Threads that want room while others bring in chunks all the time, and would take all of it.
use super::*;

const CHUNK: usize = 16 << 10;

/// Runs `ask` while other threads change chunks all the time, more of them than fit.
pub(crate) fn beside_others<R: Send + 'static>(
    region: &Piece,
    ask: impl FnOnce() -> R + Send + 'static,
) -> R {
    let chunks = region.count();
    let (done, rounds) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let others: Vec<_> = (0..4)
        .map(|thread| {
            let (done, rounds, region) = (done.clone(), rounds.clone(), region.clone());
            std::thread::spawn(move || {
                let mut seed = thread << 40;
                while done.load(Relaxed) == 0 {
                    seed += 1;
                    let first = mix(seed) as usize % chunks * region.chunk_size() / 8;
                    words(&region)[first..][..100].iter().for_each(|word| word.store(seed, Relaxed));
                    rounds.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    while rounds.load(Relaxed) < 4 * chunks {
        std::thread::yield_now();
    }
    let result = ends(ask);
    done.store(1, Relaxed);
    others.into_iter().for_each(|other| other.join().unwrap());
    result
}

/// The plain block takes nearly all that is not guaranteed to chunks.
#[test]
fn a_plain_block_gets_room_that_others_would_take() {
    look_on();
    for mechanism in serving() {
        let budget = Fixed::new(64 * CHUNK);
        let engine = budget.engine(mechanism);
        let region = streaming(&engine, 512 * CHUNK, CHUNK);
        region.advise(Advice::Random);
        let block = 59 * CHUNK;
        let charged = budget.clone();
        let reclaiming = engine.clone();
        let found = beside_others(&region, move || {
            // As `Instance::with_room`.
            while !charged.try_charge(block) {
                if reclaiming.reclaim(2 * block) == 0 {
                    return false;
                }
            }
            true
        });
        assert!(found, "{mechanism:?}");
        // The others did not notice more than that it took longer.
        assert!(words(&region).iter().map(|word| word.load(Relaxed)).any(|word| word > 0));
        budget.discharge(block);
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}
/// Whoever asks for more than there is gets what there is, once, and goes on.
#[test]
fn more_than_there_is_is_not_looked_for_for_ever() {
    look_on();
    for mechanism in serving() {
        let engine = Fixed::new(64 * CHUNK).engine(mechanism);
        let region = streaming(&engine, 512 * CHUNK, CHUNK);
        region.advise(Advice::Random);
        let reclaiming = engine.clone();
        let freed = beside_others(&region, move || {
            (0..100).map(|_| reclaiming.reclaim(usize::MAX)).collect::<Vec<_>>()
        });
        assert!(freed[0] > 0, "{mechanism:?}");
        engine.clear();
    }
}
