//! What tiered memory takes of the mappings that a process may have, and with which pages they are backed.
use super::failures::{fill, holds};
use super::*;
use crate::tiers::mapping::Span;
use crate::tiers::staging::{self, Staging};
use crate::tiers::state::{Phase, Settle};
use crate::tiers::table::Kept;
use crate::tiers::transit::Transit;

/// All mappings of the process, as far as the system tells.
fn mappings() -> Vec<core::ops::Range<usize>> {
    let all = std::fs::read_to_string("/proc/self/maps").unwrap();
    let range = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let [start, end] = [start, end].map(|address| usize::from_str_radix(address, 16).unwrap());
        Some(start..end)
    };
    all.lines().map(|line| range(line).unwrap()).collect()
}
#[test]
fn a_set_of_slots_takes_as_many_mappings_as_is_said() {
    look_on();
    for mechanism in serving() {
        for chunk in [4096, 64 << 10, 2 << 20, 64 << 20] {
            let staging = Staging::new(&Faults::get(mechanism).unwrap().pages, chunk).unwrap();
            let slot = staging.take_empty().unwrap();
            let last = staging.count() - 1;
            let within = |first: Span| {
                let end = first.start + last * staging::stride(chunk) + chunk;
                mappings().iter().filter(|mapping| mapping.start < end && mapping.end > first.start).count()
            };
            let number = within(staging.span(&slot)) + within(staging.nursery(&slot));
            // Behind the last slot and the last nursery there may be anything.
            assert_eq!(number + 2, 4 * staging.count(), "{mechanism:?}, chunks of {chunk}");
            assert!(number + 2 <= Staging::MOST_MAPPINGS);
            staging.put_empty(slot);
        }
    }
}

#[test]
fn chunk_sizes_that_nothing_has_any_more_take_no_mappings() {
    look_on();
    for mechanism in serving() {
        let budget = Fixed::new(8 << 20);
        let engine = budget.engine(mechanism);
        let living = streaming(&engine, 1 << 20, 64 << 10);
        fill(&living, 3, 31);
        for pages in 1..=30 {
            let chunk = pages * 4096;
            let region = streaming(&engine, 4 * chunk, chunk);
            (0..4).for_each(|index| fill(&region, index, 32));
            region.advise(Advice::DontNeed);
            holds(&region, 2, 32);
            engine.free(&region);
            // More than there is address space.
            let params = Params { size: 1 << 62, chunk: chunk + (1 << 20), policy: Policy::Streaming };
            assert!(engine.allocate(&params).is_err());
        }
        assert!(engine.stagings().len() <= 8, "{mechanism:?}: {} sets of slots", engine.stagings().len());
        holds(&living, 3, 31);
        engine.clear();
        assert_eq!(budget.used.load(SeqCst), 0);
    }
}

/// Whether the kernel was told to back the mapping at `address` with small pages only; None if it does not say.
fn has_small_pages(address: usize) -> Option<bool> {
    let all = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let mut inside = false;
    for line in all.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = range.and_then(|(start, end)| Some((number(start)?, number(end)?))) {
            inside = (start..end).contains(&address);
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return Some(flags.split_whitespace().any(|flag| flag == "nh"));
        }
    }
    None
}
#[test]
fn what_is_charged_by_the_page_takes_no_huge_ones() {
    look_on();
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        println!("SKIP: no huge pages here");
        return;
    }
    let engine = Engine::new(Box::new(Unlimited)).unwrap();
    let region = streaming(&engine, 8 << 20, 2 << 20);
    fill(&region, 0, 40);
    region.advise(Advice::DontNeed);
    let transit = Transit::claim(&region, 0, Phase::Stored);
    let mut transit = transit.expect("stored");
    let stored = *transit.stored();
    transit.settle(Phase::Stored, Settle::default());
    let Kept::InRam(extent) = stored.kept else { panic!("it is not encoded in RAM") };
    // SAFETY: only the address is used.
    let encoded = unsafe { engine.warm.bytes(extent, 1) }.as_ptr() as usize;
    let slot = engine.empty_slot(region.staging()).unwrap();
    let behind = region.staging().span(&slot).start + region.chunk_size();
    region.staging().put_empty(slot);
    for (what, address) in [
        ("records", core::ptr::from_ref(region.chunk(0)) as usize),
        ("encoded bytes", encoded),
        ("what is behind a slot", behind),
    ] {
        assert_ne!(has_small_pages(address), Some(false), "{what}");
    }
    engine.free(&region);
}

/// In the process of all tests no other memory has as many chunks in place.
#[test]
fn where_mappings_are_short_the_region_that_has_most_gives_some() {
    const CHUNK: usize = 4096;
    look_on();
    if Faults::get(Mechanism::Signal).is_err() {
        return;
    }
    let regions = [4000, 5000, 4500].map(|chunks| {
        let engine = Engine::with_mechanism(Mechanism::Signal, Box::new(Unlimited)).unwrap();
        let region = streaming(&engine, chunks * CHUNK, CHUNK);
        (0..chunks).for_each(|index| bring_in(&region, index, Access::Write, false).unwrap());
        region
    });
    let hot = || regions.each_ref().map(|region| region.counters.hot.load(Relaxed) / CHUNK);
    assert_eq!(hot(), [4000, 5000, 4500]);
    let inside = gate::enter();
    assert_eq!(Engine::free_mappings(false), 8);
    drop(inside);
    assert_eq!(hot(), [4000, 4992, 4500]);
    regions.iter().for_each(|region| assert!(region.engine().free(region)));
}
