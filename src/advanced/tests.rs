use super::*;
use crate::error::Error;
use crate::heap::attributes;
use crate::heap::guard::{GUARD, GUARDED};
use proptest::prelude::*;

fn system() -> &'static System {
    Box::leak(Box::new(System::new(0, false).unwrap()))
}
fn bytes(block: NonNull<u8>, size: usize) -> &'static mut [u8] {
    // SAFETY: the blocks are live and have that size, and each is used by one test.
    unsafe { core::slice::from_raw_parts_mut(block.as_ptr(), size) }
}
fn joined(system: &'static System, limits: pool::Limits) -> &'static Pool {
    let pool: &'static Pool = Box::leak(Box::new(Pool::new(system, limits).unwrap()));
    pool.join().unwrap();
    pool
}

#[test]
fn alignments_are_rounded_up() {
    for (given, default, rounded) in
        [(0, 64, 64), (0, 256, 256), (1, 64, 64), (65, 64, 128), (3000, 64, 4096)]
    {
        assert_eq!(rounded_alignment(given, default), Ok(rounded));
    }
    assert_eq!(rounded_alignment(MAX_ALIGNMENT - 1, 64), Ok(MAX_ALIGNMENT));
    assert_eq!(rounded_alignment(MAX_ALIGNMENT + 1, 64), Err(Error::InvalidArgument));
}

#[test]
fn metrics_count_pools_and_history() {
    let system = system();
    let pool = joined(system, pool::Limits::default());
    let own = system.allocate(1000, 0).unwrap();
    let pooled = pool.allocate(500).unwrap();
    system.free(own.as_ptr()).unwrap();
    pool.free(pooled.as_ptr()).unwrap();
    let kept = pool.allocate(300).unwrap();
    let Metrics { allocated, freed, peak, live, allocations, fragmentation } = system.metrics();
    assert_eq!((allocated, freed, peak, live, allocations), (1800, 1500, 1500, 300, 3));
    assert!((0.0..=1.0).contains(&fragmentation));
    system.reset_metrics();
    let Metrics { allocated, freed, peak, live, allocations, .. } = system.metrics();
    assert_eq!((allocated, freed, peak, live, allocations), (0, 0, 300, 300, 0));
    assert_eq!(system.free(kept.as_ptr()), Err(Error::NotOwned), "a pool's block is the pool's to free");
    pool.end();
    assert_eq!((system.metrics().live, system.metrics().freed), (0, 300));
    system.end();
}

#[test]
fn a_limit_of_blocks_bears_more_frees_than_allocations() {
    let system = system();
    let pool = joined(system, pool::Limits { blocks: 2, ..pool::Limits::default() });
    let blocks = [pool.allocate(100).unwrap(), pool.allocate(100).unwrap()];
    assert_eq!(pool.allocate(100), Err(Error::Limit));
    // Leaves more frees than allocations, as if frees had been counted twice.
    pool.heap().reset_statistics();
    blocks.iter().for_each(|block| pool.free(block.as_ptr()).unwrap());
    assert!(pool.allocate(100).is_ok());
    pool.end();
    system.end();
}

#[test]
fn blocks_with_several_owners_are_counted_once() {
    let system = system();
    let pool = joined(system, pool::Limits::default());
    let block = pool.allocate(100).unwrap();
    attributes::retain(block.as_ptr()).unwrap();
    pool.free(block.as_ptr()).unwrap();
    assert_eq!(system.metrics().live, 100);
    pool.free(block.as_ptr()).unwrap();
    assert_eq!(system.metrics().live, 0);
    assert!(pool.free(block.as_ptr()).is_err());
    assert_eq!(system.metrics().live, 0);
    pool.end();
    system.end();
}

#[test]
fn limits_hold_until_they_are_lifted() {
    let system = system();
    let pool = joined(system, pool::Limits { bytes: 1000, blocks: 3, request: 600 });
    assert_eq!(pool.allocate(601), Err(Error::Limit));
    let first = pool.allocate(600).unwrap();
    assert_eq!(pool.allocate(401), Err(Error::Limit));
    pool.allocate(400).unwrap();
    pool.free(first.as_ptr()).unwrap();
    pool.allocate(1).unwrap();
    pool.allocate(1).unwrap();
    assert_eq!(pool.allocate(1), Err(Error::Limit), "three blocks are live");
    system.reset_metrics();
    assert_eq!(pool.allocate(1), Err(Error::Limit), "a new history changes no limit");
    pool.set_limits(pool::Limits::default());
    pool.allocate(1 << 20).unwrap();
    pool.end();
    system.end();
}

#[test]
fn damage_is_told_while_blocks_have_guards() {
    let system = system();
    let pool = joined(system, pool::Limits::default());
    let early = system.allocate(100, 0).unwrap();
    system.set_monitoring(true);
    let younger = joined(system, pool::Limits::default());
    for size in [1, 63, 64, 100, 4096, 100_000, 3 << 20] {
        let of_pools = [pool, younger].map(|pool| pool.allocate(size).unwrap());
        for block in [system.allocate(size, 128).unwrap(), of_pools[0], of_pools[1]] {
            bytes(block, size).fill(0xFF);
            assert_eq!(system.check(block.as_ptr()), Ok(()));
            for place in [0, GUARD - 1] {
                // SAFETY: the guard bytes are there. The test plays a program that writes beyond its block.
                let behind = unsafe { &mut *block.as_ptr().add(size + place) };
                *behind ^= 1;
                assert_eq!(system.check(block.as_ptr()), Err(Error::Corruption));
                *behind ^= 1;
                assert_eq!(system.check(block.as_ptr()), Ok(()));
            }
        }
    }
    assert_eq!(system.check(early.as_ptr()), Ok(()), "a block without a guard cannot be told");
    system.set_monitoring(false);
    let later = system.allocate(100, 0).unwrap();
    bytes(later, 128).fill(0xEE); // the block's own room, beyond the request
    assert_eq!(system.check(later.as_ptr()), Ok(()));
    assert_eq!(system.check(later.as_ptr().wrapping_add(1)), Err(Error::NotOwned));
    [pool, younger].iter().for_each(|pool| _ = pool.end());
    system.end();
}

#[test]
fn a_guard_ends_with_its_block() {
    let system = system();
    system.set_monitoring(true);
    let block = system.allocate(100, 0).unwrap();
    system.set_monitoring(false);
    let block = system.reallocate(block.as_ptr(), 110).unwrap().unwrap();
    assert_eq!(GUARDED.get(block.as_ptr() as usize), None);
    assert_eq!(system.check(block.as_ptr()), Ok(()));
    system.set_monitoring(true);
    let block = system.reallocate(block.as_ptr(), 120).unwrap().unwrap();
    assert_eq!(GUARDED.get(block.as_ptr() as usize), Some(120));
    system.free(block.as_ptr()).unwrap();
    assert_eq!(GUARDED.get(block.as_ptr() as usize), None);
    system.end();
}

#[test]
fn defragmentation_gives_memory_back() {
    let system = system();
    let blocks: Vec<_> = (0..4000).map(|_| system.allocate(4000, 0).unwrap()).collect();
    blocks.iter().for_each(|&block| bytes(block, 4000).fill(1));
    blocks.iter().for_each(|block| system.free(block.as_ptr()).unwrap());
    let held = system.heap().held();
    assert!(system.is_fragmented() && held > 8 << 20, "{held}");
    assert!(!system.stop_defragmentation());
    system.start_defragmentation(2.0, true).unwrap();
    assert_eq!(system.heap().held(), held, "the threshold was not reached");
    system.start_defragmentation(0.1, true).unwrap();
    assert!(system.heap().held() < held / 4);
    assert!(system.stop_defragmentation() && !system.stop_defragmentation());
    system.end();
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Allocate(usize, usize),
    Free(usize),
    Reallocate(usize, usize),
    Monitor(bool),
}
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![1..300usize, 1..100_000usize];
    let step = prop_oneof![
        4 => (size.clone(), 0..5000usize).prop_map(|(size, alignment)| Step::Allocate(size, alignment)),
        3 => (0..100usize).prop_map(Step::Free),
        2 => (0..100usize, size).prop_map(|(at, size)| Step::Reallocate(at, size)),
        1 => any::<bool>().prop_map(Step::Monitor),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Whatever a program does, with guards on and off, blocks are zeroed, aligned, intact and counted.
    #[test]
    fn a_system_does_as_a_list_of_vectors(steps in steps()) {
        let system = system();
        let mut model: Vec<(NonNull<u8>, Vec<u8>)> = Vec::new();
        let mut fill = 0u8;
        for step in steps {
            fill = fill.wrapping_add(37) | 1;
            match step {
                Step::Allocate(size, alignment) => {
                    let block = system.allocate(size, alignment).unwrap();
                    prop_assert_eq!(block.as_ptr() as usize % rounded_alignment(alignment, 64).unwrap(), 0);
                    prop_assert!(bytes(block, size).iter().all(|&byte| byte == 0));
                    bytes(block, size).fill(fill);
                    model.push((block, vec![fill; size]));
                }
                Step::Free(at) if !model.is_empty() => {
                    let (block, content) = model.swap_remove(at % model.len());
                    prop_assert_eq!(&*bytes(block, content.len()), &content[..]);
                    system.free(block.as_ptr()).unwrap();
                    prop_assert!(system.free(block.as_ptr()).is_err());
                }
                Step::Reallocate(at, size) if !model.is_empty() => {
                    let at = at % model.len();
                    let (block, content) = &mut model[at];
                    *block = system.reallocate(block.as_ptr(), size).unwrap().unwrap();
                    content.resize(size, 0);
                    prop_assert_eq!(&*bytes(*block, size), &content[..]);
                    bytes(*block, size).fill(fill);
                    content.fill(fill);
                }
                Step::Free(_) | Step::Reallocate(..) => (),
                Step::Monitor(on) => system.set_monitoring(on),
            }
            let live: usize = model.iter().map(|(_, content)| content.len()).sum();
            let metrics = system.metrics();
            prop_assert_eq!(metrics.live, live);
            prop_assert_eq!(metrics.allocated - metrics.freed, live);
        }
        for (block, content) in &model {
            prop_assert_eq!(&*bytes(*block, content.len()), &content[..]);
            prop_assert_eq!(system.check(block.as_ptr()), Ok(()));
            prop_assert_eq!(system.block(block.as_ptr()).map(|(block, _)| block.size), Some(content.len()));
        }
        system.end();
    }
}

#[test]
fn the_free_itself_tells_which_owner_is_the_last() {
    let system = system();
    let pool = joined(system, pool::Limits::default());
    let live = || system.metrics().live;
    let block = pool.allocate(100).unwrap().as_ptr();
    attributes::retain(block).unwrap();
    pool.free(block).unwrap();
    assert_eq!(live(), 100);
    pool.free(block).unwrap();
    assert_eq!(live(), 0);
    // If it were asked before the free, then of two owners that free at the same moment neither might be the last.
    let block = pool.heap().allocate(100, 0).unwrap().as_ptr();
    attributes::retain(block).unwrap();
    assert_eq!(pool.heap().give_up(block), Ok(false));
    assert_eq!(pool.heap().give_up(block), Ok(true));
    assert_eq!(pool.heap().give_up(core::ptr::null_mut()), Ok(false));
    pool.end();
    system.end();
}
