//! Moves the chunks of a region to a larger one, without bringing in what is stored.
//!
//! Neither region is in any list meanwhile, and the old one is leaving (claims.rs): evictions and jobs that know it from
//! before do not touch it, so room on disk and chunks go over as one. Nothing has to be undone: once the new region has its
//! room on disk, a chunk whose pages the system refuses to move stays where it is (behind.rs).
use super::engine::Engine;
use super::points::{self, Point};
use super::region::{Params, Region};
use super::staging::Slot;
use super::state::{Phase, Settle};
use super::table::{Stored, Which};
use super::transit::Transit;
use super::trouble::Trouble;
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
    engine.conceal(old);
    old.leave();
    let _pages = engine.pages_in_hand();
    // Chunks read ahead hold slots that nobody else can take any more.
    engine.drop_staged(old, Transit::claim_leaving);
    if let Err(error) = prepare(old, &new) {
        new.dissolve();
        old.stay();
        engine.publish(old);
        return Err(error);
    }
    points::pass(Point::RoomInherited);
    (0..old.count()).for_each(|index| move_chunk(engine, old, &new, index));
    new.counters.inherit(&old.counters);
    let stayed = new.behind().keep(old);
    engine.publish(&new);
    if stayed {
        old.give_up_extent();
    } else {
        old.dissolve();
    }
    Ok(new)
}
/// All that can fail.
fn prepare(old: &Region, new: &Region) -> Result<()> {
    // Nobody acquires a chunk of it any more who has not acquired it yet.
    if (0..old.count()).any(|index| old.word(index).acquisitions() > 0) {
        return Err(Trouble::NoRoom.error());
    }
    new.room().inherit(old.room(), old.count(), new.count().saturating_sub(old.count()))
}
fn claim(region: &Region, index: usize) -> Transit<'_> {
    loop {
        if region.word(index).phase() == Phase::Busy {
            region.chunk(index).state.wait();
        } else if let Some(transit) = Transit::claim_leaving(region, index, None) {
            return transit;
        }
    }
}
/// What became of a chunk's pages.
enum Moved {
    /// They are where they belong.
    There,
    /// They could be taken, and then not be placed.
    InSlot(Slot),
    /// They are where they were.
    Not,
}
fn move_chunk(engine: &Engine, old: &Region, new: &Region, index: usize) {
    if old.word(index).phase() == Phase::Zero {
        return;
    }
    if !new.is_record_charged(index) {
        workspace::with(false, |workspace| engine.charge_record(new, index, workspace));
    }
    let (mut from, mut to) = (claim(old, index), claim(new, index));
    let before = from.from;
    // Where stored chunks lie on disk is known by region and index, and the room has been inherited.
    let moved = if before == Phase::Hot { move_pages(engine, &from, &to) } else { Moved::There };
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
    // Where pages are elsewhere than in place, what is stored may be older.
    let (left, after) = match moved {
        Moved::There => {
            match before {
                Phase::Hot => shift(&a.hot, &b.hot, old.chunk_size()),
                Phase::Staged => shift(&a.staged, &b.staged, old.chunk_size()),
                _ => {}
            }
            (Phase::Zero, before)
        }
        Moved::InSlot(slot) => {
            shift(&a.hot, &b.staged, old.chunk_size());
            engine.drop_stored(&mut to);
            to.stored().slot = slot.into_number();
            (Phase::Zero, Phase::Staged)
        }
        Moved::Not => {
            engine.drop_stored(&mut to);
            to.stored().file = Stored::BEHIND;
            (before, Phase::Stored)
        }
    };
    to.settle(after, Settle::default());
    from.settle(left, Settle::default());
}
fn move_pages(engine: &Engine, from: &Transit, to: &Transit) -> Moved {
    let staging = from.region.staging();
    let slot = loop {
        match engine.empty_slot(staging) {
            Some(slot) => break slot,
            None => match engine.unstage(staging) {
                Some(slot) => engine.drop_pages(staging, slot),
                None => {
                    let ours = |region: &Region| region.lists().count(Which::Staged);
                    let staged = engine.staged_chunks(staging) + ours(from.region) + ours(to.region);
                    if staged >= staging.count() {
                        return Moved::Not;
                    }
                    // In use by other threads, which return them.
                    staging.wait();
                }
            },
        }
    };
    let (span, nursery) = (staging.span(&slot), staging.nursery(&slot));
    // SAFETY: the claim owns the chunk, which is present; the slot is empty and ours.
    if unsafe { engine.pages().take(from.span(), span, nursery) }.is_err() {
        staging.put_empty(slot);
        return Moved::Not;
    }
    // SAFETY: the claim owns the chunk, which is absent; the slot is full and ours.
    if unsafe { engine.pages().place(span, to.span()) }.is_err() {
        return Moved::InSlot(slot);
    }
    staging.put_empty(slot);
    Moved::There
}
