//! Moves the chunks of a region to a larger one, without bringing in what is stored.
use super::engine::Engine;
use super::region::{Params, Region};
use super::state::{Phase, Settle};
use super::transit::Transit;
use super::trouble::Trouble;
use crate::error::{Result, fail};
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

/// Makes a region of `size` bytes, more than `old` has address space for, and moves everything there. `old` is gone
/// then; on failure it is as it was. The program must not use it meanwhile.
pub fn grow(engine: &Arc<Engine>, old: &Arc<Region>, size: usize) -> Result<Arc<Region>> {
    if old.is_resident() {
        return fail!(Unsupported, "memory without fault handling does not grow");
    }
    let params = Params { size, chunk: old.chunk_size(), policy: old.policy() };
    let new = Arc::new(Region::reserve(engine, &params)?);
    engine.conceal(old);
    old.wait_for_transits();
    let _pages = engine.pages_in_hand();
    // Chunks read ahead hold slots that nobody else can take any more.
    while let Some(slot) = engine.unstage_from(old) {
        engine.drop_pages(old.staging(), slot);
    }
    let moved = new.inherit_room(old).and_then(|()| {
        move_chunks(engine, old, &new).map_err(|trouble| {
            new.return_room(old);
            trouble.error()
        })
    });
    if let Err(error) = moved {
        new.dissolve();
        engine.publish(old);
        return Err(error);
    }
    new.counters.inherit(&old.counters);
    engine.publish(&new);
    old.dissolve();
    Ok(new)
}
/// Moves all chunks; on failure all are back.
fn move_chunks(engine: &Engine, old: &Region, new: &Region) -> core::result::Result<(), Trouble> {
    for index in 0..old.count() {
        if let Err(trouble) = move_chunk(engine, old, new, index) {
            for index in 0..index {
                move_chunk(engine, new, old, index)?;
            }
            return Err(trouble);
        }
    }
    Ok(())
}
fn claim(region: &Region, index: usize) -> Option<Transit<'_>> {
    loop {
        let word = region.word(index);
        match word.phase() {
            Phase::Busy => region.chunk(index).state.wait(),
            // Somebody holds it acquired: it cannot go.
            Phase::Hot if word.pins() > 0 => return None,
            _ => {
                if let Some(transit) = Transit::claim(region, index, None) {
                    return Some(transit);
                }
            }
        }
    }
}
fn move_chunk(
    engine: &Engine,
    old: &Region,
    new: &Region,
    index: usize,
) -> core::result::Result<(), Trouble> {
    if old.word(index).phase() == Phase::Zero {
        return Ok(());
    }
    let mut from = claim(old, index).ok_or(Trouble::NoRoom)?;
    let Some(mut to) = claim(new, index) else {
        let phase = from.from;
        from.settle(phase, Settle::default());
        return Err(Trouble::NoRoom);
    };
    let phase = from.from;
    let moved = match phase {
        Phase::Hot => move_pages(engine, &from, &to),
        // A file's chunk has its place by region: it moves with the next eviction.
        Phase::Stored | Phase::Staged => Ok(()),
        Phase::Zero | Phase::Busy => Ok(()),
    };
    if let Err(trouble) = moved {
        from.settle(phase, Settle::default());
        to.settle(Phase::Zero, Settle::default());
        return Err(trouble);
    }
    *to.stored() = core::mem::take(from.stored());
    let (a, b) = (&old.counters, &new.counters);
    let stored = *to.stored();
    let pages = super::fill::whole_pages(stored.length as usize);
    let shift = |a: &core::sync::atomic::AtomicUsize, b: &core::sync::atomic::AtomicUsize, bytes| {
        a.fetch_sub(bytes, Relaxed);
        b.fetch_add(bytes, Relaxed);
    };
    match phase {
        Phase::Hot => shift(&a.hot, &b.hot, old.chunk_size()),
        Phase::Staged => shift(&a.staged, &b.staged, old.chunk_size()),
        _ => {}
    }
    if stored.warm != 0 {
        shift(&a.warm, &b.warm, pages);
    }
    if stored.file != 0 {
        shift(&a.cold, &b.cold, pages);
    }
    to.settle(phase, Settle::default());
    from.settle(Phase::Zero, Settle::default());
    Ok(())
}
fn move_pages(engine: &Engine, from: &Transit, to: &Transit) -> core::result::Result<(), Trouble> {
    let staging = from.region.staging();
    let slot = loop {
        match engine.empty_slot(staging) {
            Some(slot) => break slot,
            None => match engine.unstage(staging) {
                Some(slot) => engine.drop_pages(staging, slot),
                // In use by other threads, which return them.
                None => staging.wait(),
            },
        }
    };
    let (span, nursery) = (staging.span(&slot), staging.nursery(&slot));
    // SAFETY: both chunks are claimed, one present and one absent; the slot is empty, then full, then empty again.
    let moved = unsafe {
        engine.pages().take(from.span(), span, nursery).and_then(|()| {
            engine.pages().place(span, to.span()).or_else(|error| {
                engine.pages().place(span, from.span())?;
                Err(error)
            })
        })
    };
    staging.put_empty(slot);
    moved.map_err(Trouble::Pages)
}
