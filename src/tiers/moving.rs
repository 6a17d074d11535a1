//! Moves the chunks of a region to a larger one, without bringing in what is stored, and a piece of a slab to a region.
//!
//! While a region moves neither it nor the new one is in any list, and the old one is leaving (claims.rs). So evictions and jobs
//! that know the old region from before do not touch it, and its room on disk and its chunks go over as one.
use super::chunk_error::ChunkError;
use super::claims::Claimant;
use super::engine::Engine;
use super::fill::{Access, Reason, whole_pages};
use super::region::{Params, Region};
use super::residency::Counters;
use super::staging::FullSlot;
use super::state::{Phase, Settle};
use super::sync_points::{self, SyncPoint};
use super::table::{Kept, ListKind};
use super::transit::Transit;
use super::warm::room_for;
use super::workspace;
use crate::error::{Result, fail};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

/// Makes a region of `size` bytes, more than `old` has address space for, and moves everything there. On success
/// `old` is gone; on failure it is as it was. The program must not use `old` meanwhile.
pub fn grow(engine: &Arc<Engine>, old: &Arc<Region>, size: usize) -> Result<Arc<Region>> {
    if old.is_resident() {
        return fail!(Unsupported, "memory without fault handling does not grow");
    }
    if old.counters.acquired.load(Relaxed) > 0 {
        return Err(ChunkError::Fixed.error());
    }
    let params = Params { size, chunk: old.chunk_size(), policy: old.policy() };
    let new = Arc::new(Region::reserve(engine, &params)?);
    // Before this thread has pages in hand: this may wait for a workspace, and the thread that holds it may be
    // waiting for the threads that have pages in hand.
    workspace::with(false, |workspace| {
        let in_use = (0..old.count()).filter(|&index| old.word(index).phase() != Phase::Zero);
        in_use.for_each(|index| engine.charge_record(&new, index, workspace));
    });
    // Before the region leaves the lists, for the reason given in `Engine::free`.
    let _pages = engine.pages_in_hand();
    engine.conceal(old);
    old.leave();
    // Chunks read ahead hold slots, which from here on no other thread can take from them.
    engine.drop_staged(old, Claimant::Leaver);
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
/// Makes a region of `size` bytes, and moves the only chunk of a smaller piece of a slab there. The piece is empty then, and
/// is to be ended; on failure it is as it was. The program must not use it meanwhile. Only while `resizing` is held.
pub fn grow_part(engine: &Arc<Engine>, old: &Region, index: usize, size: usize) -> Result<Arc<Region>> {
    let params = Params { size, chunk: old.chunk_size(), policy: old.policy() };
    let new = Arc::new(Region::reserve(engine, &params)?);
    let moved =
        new.take_spill_space().and_then(|()| move_part(engine, old, index, &new).map_err(ChunkError::error));
    moved.inspect_err(|_| new.dissolve())?;
    if let Some(slab) = old.slab() {
        new.counters.inherit(slab.counters(index));
        old.counters.forgo(slab.counters(index));
    }
    Ok(new)
}
/// Brings in a piece of a slab that is about to move: what is stored of it cannot go along, because its room on disk stays with
/// the slab.
pub fn bring_part_in(region: &Region, index: usize) -> core::result::Result<(), ChunkError> {
    let word = region.word(index);
    match word.phase() {
        Phase::Zero => Ok(()),
        Phase::Hot if word.acquisitions() > 0 => Err(ChunkError::Fixed),
        _ => region.bring_in(index, Access::Write, Reason::Library),
    }
}
fn move_part(
    engine: &Engine,
    old: &Region,
    index: usize,
    new: &Arc<Region>,
) -> core::result::Result<(), ChunkError> {
    workspace::with(false, |workspace| engine.charge_record(new, 0, workspace));
    loop {
        // It may have left again.
        bring_part_in(old, index)?;
        if old.word(index).phase() == Phase::Zero {
            engine.publish(new);
            return Ok(());
        }
        // Until others know the region that the chunk is in.
        let _pages = engine.pages_in_hand();
        if let Some(mut from) = Transit::claim(old, index, Phase::Hot) {
            engine.drop_stored(&mut from);
            let Some(to) = claim(new, 0) else {
                from.settle_unchanged();
                return Err(ChunkError::Fixed);
            };
            move_claimed(engine, from, to)?;
            engine.publish(new);
            return Ok(());
        }
    }
}
/// Moves all chunks. On failure the chunks and the room on disk are back in the old region.
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
/// Marks a chunk as lost that the system would not let come back: from now on using it is an error, and it does not
/// read as zeros.
fn lose(old: &Region, index: usize) {
    if let Some(mut transit) = claim(old, index) {
        transit.stored().kept = Kept::Lost;
        transit.settle(Phase::Stored, Settle::default());
    }
}
fn claim(region: &Region, index: usize) -> Option<Transit<'_>> {
    loop {
        let word = region.word(index);
        match word.phase() {
            Phase::Busy => region.chunk(index).state.wait(),
            Phase::Hot if word.acquisitions() > 0 => return None, // an acquired chunk cannot move
            _ => {
                if let Some(transit) = Transit::claim_by(Claimant::Leaver, region, index, None) {
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
    let from = claim(old, index).ok_or(ChunkError::Fixed)?;
    let Some(to) = claim(new, index) else {
        from.settle_unchanged();
        return Err(ChunkError::Fixed);
    };
    move_claimed(engine, from, to)
}
/// Moves a claimed chunk to the place of another, which is zero, and settles both.
fn move_claimed(engine: &Engine, mut from: Transit, mut to: Transit) -> core::result::Result<(), ChunkError> {
    let (old, new) = (from.region, to.region);
    let before = from.from;
    // The place of a stored chunk on disk follows from its region and index, and the new region has inherited that
    // room. So only pages in place have to be moved.
    let slot = match before {
        Phase::Hot => match move_pages(engine, &mut from, &mut to) {
            Ok(slot) => slot,
            Err(error) => {
                from.settle_unchanged();
                to.settle_unchanged();
                return Err(error);
            }
        },
        _ => from.take_slot(),
    };
    *to.stored() = core::mem::take(from.stored());
    let stored = *to.stored();
    let length = stored.length as usize;
    let shift = |bytes: usize, count: fn(&Counters) -> &AtomicUsize| {
        old.tally(from.index, |counters| _ = count(counters).fetch_sub(bytes, Relaxed));
        new.tally(to.index, |counters| _ = count(counters).fetch_add(bytes, Relaxed));
    };
    match stored.kept {
        Kept::InRam(_) => shift(room_for(length), |counters| &counters.warm),
        Kept::InFile(_) => shift(whole_pages(length), |counters| &counters.cold),
        Kept::Nowhere | Kept::Lost => {}
    }
    let stamp = old.lists().stamp(from.index);
    new.lists().set_stamp(to.index, stamp);
    let after = if slot.is_some() { Phase::Staged } else { before };
    if let Some(slot) = slot {
        if before == Phase::Hot {
            // The stored bytes may be older than those in the slot.
            engine.drop_stored(&mut to);
        }
        to.keep_slot(slot);
    }
    to.settle(after, Settle::default());
    from.settle(Phase::Zero, Settle::default());
    Ok(())
}
/// Moves a chunk's pages. If they could be taken but not placed again, returns the slot that they are left in.
fn move_pages(
    engine: &Engine,
    from: &mut Transit,
    to: &mut Transit,
) -> core::result::Result<Option<FullSlot>, ChunkError> {
    let staging = from.region.staging();
    let slot = loop {
        match engine.empty_slot(staging) {
            Some(slot) => break slot,
            None => match engine.unstage(staging) {
                Some(slot) => engine.drop_pages(staging, slot),
                None => {
                    // Regions that move are in no list, but a slab that a piece leaves is.
                    let unlisted =
                        [from.region, to.region].into_iter().filter(|region| region.slab().is_none());
                    let ours: usize = unlisted.map(|region| region.table().count(ListKind::Staged)).sum();
                    let staged = engine.staged_chunks(staging) + ours;
                    if staged >= staging.count() {
                        return Err(ChunkError::NoRoom);
                    }
                    // The slots are held by other threads, which return them.
                    staging.wait();
                }
            },
        }
    };
    match from.take(slot).map(|slot| to.place(slot)) {
        Ok(Ok(slot)) => {
            staging.put_empty(slot);
            Ok(None)
        }
        Ok(Err((slot, _))) => Ok(Some(slot)),
        Err((slot, errno)) => {
            staging.put_empty(slot);
            Err(ChunkError::Pages(errno))
        }
    }
}
