//! Moves the chunks of a region to a larger one, without bringing in what is stored.
//!
//! Neither region is in any list meanwhile, and the old one is leaving (claims.rs): evictions and jobs that know it from
//! before do not touch it, so room on disk and chunks go over as one.
use super::chunk_error::ChunkError;
use super::engine::Engine;
use super::region::{Params, Region};
use super::staging::Slot;
use super::state::{Phase, Settle};
use super::sync_points::{self, SyncPoint};
use super::table::{ListKind, Stored};
use super::transit::Transit;
use super::workspace;
use crate::error::{Result, fail};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

/// Makes a region of `size` bytes, more than `old` has address space for, and moves everything there. `old` is gone
/// then; on failure it is as it was. The program must not use it meanwhile.
pub fn grow(engine: &Arc<Engine>, old: &Arc<Region>, size: usize) -> Result<Arc<Region>> {
    if old.is_resident() {
        return fail!(Unsupported, "memory without fault handling does not grow");
    }
    let params = Params { size, chunk: old.chunk_size(), policy: old.policy() };
    let new = Arc::new(Region::reserve(engine, &params)?);
    // Before pages are in hand: this may wait for a workspace, which a thread that waits for pages in hand may hold.
    workspace::with(false, |workspace| {
        let in_use = (0..old.count()).filter(|&index| old.word(index).phase() != Phase::Zero);
        in_use.for_each(|index| engine.charge_record(&new, index, workspace));
    });
    // Before it is in no list, see `Engine::free`.
    let _pages = engine.pages_in_hand();
    engine.conceal(old);
    old.leave();
    // Chunks read ahead hold slots that nobody else can take any more.
    engine.drop_staged(old, Transit::claim_leaving);
    let moved = new
        .spill_space()
        .inherit(old.spill_space(), old.count(), new.count().saturating_sub(old.count()))
        .and_then(|()| {
            sync_points::pass(SyncPoint::RoomInherited);
            move_chunks(engine, old, &new).map_err(ChunkError::error)
        });
    if let Err(error) = moved {
        new.dissolve();
        old.stay();
        engine.publish(old);
        return Err(error);
    }
    new.counters.inherit(&old.counters);
    let order = old.sweep.lock().order();
    new.sweep.lock().set_order(order);
    engine.publish(&new);
    old.dissolve();
    Ok(new)
}
/// Moves all chunks; on failure they and the room on disk are back.
fn move_chunks(engine: &Engine, old: &Region, new: &Region) -> core::result::Result<(), ChunkError> {
    for index in 0..old.count() {
        if let Err(error) = move_chunk(engine, old, new, index) {
            new.spill_space().return_to(old.spill_space(), old.count());
            for index in 0..index {
                if move_chunk(engine, new, old, index).is_err() {
                    lose(old, index);
                }
            }
            return Err(error);
        }
    }
    Ok(())
}
/// Where the system has let a chunk go but not come back: using it is an error from now on, not zeroes.
fn lose(old: &Region, index: usize) {
    if let Some(mut transit) = claim(old, index) {
        transit.stored().file = Stored::LOST;
        transit.settle(Phase::Stored, Settle::default());
    }
}
fn claim(region: &Region, index: usize) -> Option<Transit<'_>> {
    loop {
        let word = region.word(index);
        match word.phase() {
            Phase::Busy => region.chunk(index).state.wait(),
            Phase::Hot if word.acquisitions() > 0 => return None, // it cannot go
            _ => {
                if let Some(transit) = Transit::claim_leaving(region, index, None) {
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
) -> core::result::Result<(), ChunkError> {
    if old.word(index).phase() == Phase::Zero {
        return Ok(());
    }
    let mut from = claim(old, index).ok_or(ChunkError::NoRoom)?;
    let Some(mut to) = claim(new, index) else {
        from.settle_unchanged();
        return Err(ChunkError::NoRoom);
    };
    let before = from.from;
    // Where stored chunks lie on disk is known by region and index, and the room has been inherited.
    let slot = match before {
        Phase::Hot => match move_pages(engine, &from, &to) {
            Ok(slot) => slot,
            Err(error) => {
                from.settle_unchanged();
                to.settle_unchanged();
                return Err(error);
            }
        },
        _ => None,
    };
    *to.stored() = core::mem::take(from.stored());
    let (a, b) = (&old.counters, &new.counters);
    let stored = *to.stored();
    let pages = super::fill::whole_pages(stored.length as usize);
    let shift = |a: &AtomicUsize, b: &AtomicUsize, bytes| {
        a.fetch_sub(bytes, Relaxed);
        b.fetch_add(bytes, Relaxed);
    };
    if stored.warm != 0 {
        shift(&a.warm, &b.warm, pages);
    }
    if stored.file != 0 {
        shift(&a.cold, &b.cold, pages);
    }
    let after = if slot.is_some() { Phase::Staged } else { before };
    match (before, after) {
        (Phase::Hot, Phase::Hot) => shift(&a.hot, &b.hot, old.chunk_size()),
        (Phase::Hot, Phase::Staged) => shift(&a.hot, &b.staged, old.chunk_size()),
        (Phase::Staged, _) => shift(&a.staged, &b.staged, old.chunk_size()),
        _ => {}
    }
    if let Some(slot) = slot {
        // What is stored may be older than what the slot holds.
        engine.drop_stored(&mut to);
        to.stored().slot = slot.into_number();
    }
    to.settle(after, Settle::default());
    from.settle(Phase::Zero, Settle::default());
    Ok(())
}
/// Moves a chunk's pages. Gives the slot they have stayed in, if they could be taken and not be placed again.
fn move_pages(
    engine: &Engine,
    from: &Transit,
    to: &Transit,
) -> core::result::Result<Option<Slot>, ChunkError> {
    let staging = from.region.staging();
    let slot = loop {
        match engine.empty_slot(staging) {
            Some(slot) => break slot,
            None => match engine.unstage(staging) {
                Some(slot) => engine.drop_pages(staging, slot),
                None => {
                    let ours = |region: &Region| region.lists().count(ListKind::Staged);
                    let staged = engine.staged_chunks(staging) + ours(from.region) + ours(to.region);
                    if staged >= staging.count() {
                        return Err(ChunkError::NoRoom);
                    }
                    // In use by other threads, which return them.
                    staging.wait();
                }
            },
        }
    };
    let (span, nursery) = (staging.span(&slot), staging.nursery(&slot));
    // SAFETY: the claim owns the chunk, which is present; the slot is empty and ours.
    if let Err(errno) = unsafe { engine.pages().take(from.span(), span, nursery) } {
        staging.put_empty(slot);
        return Err(ChunkError::Pages(errno));
    }
    // SAFETY: the claim owns the chunk, which is absent; the slot is full and ours.
    if unsafe { engine.pages().place(span, to.span()) }.is_err() {
        return Ok(Some(slot));
    }
    staging.put_empty(slot);
    Ok(None)
}
