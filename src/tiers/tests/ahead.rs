//! Chunks that the program asks for ahead of need.
use super::failures::{fill, holds};
use super::*;

#[test]
fn all_that_is_asked_for_ahead_comes() {
    look_on();
    const CHUNK: usize = 4096;
    let budget = Fixed::new(8 << 20);
    let engine = budget.engine(serving().next().unwrap());
    let region = streaming(&engine, 500 * CHUNK, CHUNK);
    (0..500).for_each(|index| fill(&region, index, index as u64));
    region.advise(Advice::DontNeed);
    region.prefetch(100, 300).unwrap();
    ends(move || {
        while region.residency().hot_bytes < 300 * CHUNK {
            std::thread::yield_now();
        }
        (0..500).for_each(|index| holds(&region, index, index as u64));
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    });
}

#[test]
fn what_is_asked_for_ahead_need_not_come_first() {
    look_on();
    const CHUNK: usize = 4096;
    let budget = Fixed::new(256 * CHUNK);
    let engine = budget.engine(serving().next().unwrap());
    let region = streaming(&engine, 1000 * CHUNK, CHUNK);
    (600..650).for_each(|index| fill(&region, index, index as u64));
    let comes = move |region: Piece, chunks: usize| {
        ends(move || {
            while region.residency().hot_bytes < chunks * CHUNK {
                std::thread::yield_now();
            }
        })
    };
    region.advise(Advice::DontNeed);
    // Half the budget is 128 chunks.
    region.advise(Advice::WillNeed);
    comes(region.clone(), 50);
    // Now with chunks in place between those that are asked for.
    region.advise(Advice::DontNeed);
    (600..650).step_by(2).for_each(|index| holds(&region, index, index as u64));
    region.prefetch(0, 1000).unwrap();
    comes(region.clone(), 50);
    (600..650).for_each(|index| holds(&region, index, index as u64));
    engine.clear();
    assert_eq!(budget.used.load(SeqCst), 0);
}
