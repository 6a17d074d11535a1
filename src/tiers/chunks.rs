//! Chunks in the program's own hands: acquire, release, prefetch, advise.
use super::chunk_error::ChunkError;
use super::claims::Claimant;
use super::fill::{Access, Reason};
use super::region::Region;
use super::state::Phase;
use super::sweep::Order;
use super::sync_points::{self, SyncPoint};
use super::table::ListKind;
use super::transit::Transit;
use super::{gate, mappings, workers};
use crate::error::Result;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// How many chunks behind the first stored one are looked at when the program asks for chunks ahead. Records are 64
/// bytes each.
const MOST_LOOKED_AT: usize = 1 << 20;

/// What the program says about its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It will be swept in order.
    Sequential,
    /// It will be used in no order: nothing is read ahead.
    Random,
    /// It will be used soon: chunks are brought in, from the first one on, as many as half the budget holds.
    WillNeed,
    /// It will not be used for a while: chunks in place are sent out.
    DontNeed,
}

/// The right to keep a chunk in place: room for the chunk in the budget, beside the room that plain access needs.
pub(super) struct Acquisition<'a>(&'a Region);
impl<'a> Acquisition<'a> {
    /// Gets the room for a claimed chunk that is not acquired yet. Returns None if there is none now, but other threads
    /// may give some back: then the caller lets go of the chunk, which may be what they want, and stands aside
    /// (waiting.rs).
    pub fn begin(
        region: &'a Region,
        transit: &mut Transit,
    ) -> core::result::Result<Option<Self>, ChunkError> {
        let engine = region.engine();
        // A chunk that is in place for good takes no room from others.
        if !region.is_resident() {
            let room = || engine.guarantee(|account| account.acquire(region.chunk_size()));
            let mut found = room()?;
            if !found && engine.demote_claimed(transit)? {
                engine.waiting.note(); // this may be room for others who have looked
                found = room()?;
            }
            // While others bring chunks in they hold encoded ones, whose room is free later. Room is just coming, too, if
            // a chunk, perhaps this one, is being released.
            let comes =
                || engine.releasing.load(Acquire) > 0 || engine.account().could_acquire(region.chunk_size());
            if !found {
                return if comes() { Ok(None) } else { Err(ChunkError::NoRoomBeside) };
            }
        }
        region.counters.acquired.fetch_add(1, Relaxed);
        Ok(Some(Acquisition(region)))
    }
    /// Keeps the right until the chunk is released.
    pub fn keep(self) {
        core::mem::forget(self);
    }
}
impl Drop for Acquisition<'_> {
    fn drop(&mut self) {
        self.0.counters.acquired.fetch_sub(1, Relaxed);
        if !self.0.is_resident() {
            self.0.engine().account().release(self.0.chunk_size());
        }
        // Another thread may wait for a chunk that can leave.
        self.0.engine().waiting.note();
    }
}

impl Region {
    /// See [`Piece::acquire`](super::piece::Piece::acquire), as for the functions below. To be called outside the gate.
    pub(super) fn acquire(&self, index: usize, access: Access) -> Result<*mut u8> {
        self.engine().with_room(|| {
            let _inside = gate::enter();
            self.bring_in(index, access, Reason::Acquire).map_err(ChunkError::error)
        })?;
        Ok(self.span_of(index).start as *mut u8)
    }
    /// Returns false if the chunk is not acquired.
    pub(super) fn release(&self, index: usize) -> bool {
        let _inside = gate::enter();
        self.give_up_acquisition(index)
    }
    pub(super) fn give_up_acquisition(&self, index: usize) -> bool {
        let engine = self.engine();
        // At work until the room has been given back, so that who sees that it comes can wait for it.
        let at_work = engine.pages_in_hand();
        engine.releasing.fetch_add(1, Relaxed);
        let left = self.chunk(index).state.release();
        if left == Some(0) {
            sync_points::pass(SyncPoint::Released);
            drop(Acquisition(self));
        }
        engine.releasing.fetch_sub(1, Release);
        drop(at_work);
        left.is_some()
    }
    pub(super) fn prefetch(&self, first: usize, count: usize) {
        // More chunks would only drive out the first of them.
        let fitting = self.engine().account().limit().checked_div(self.chunk_size());
        self.ask_for(first, count, fitting.filter(|&fitting| fitting > 0).unwrap_or(usize::MAX));
    }
    pub(super) fn will_need(&self, first: usize, count: usize) {
        let half = (self.engine().account().limit() / 2).checked_div(self.chunk_size());
        let most = half.filter(|_| self.engine().account().limit() != 0).unwrap_or(usize::MAX);
        self.ask_for(first, count, most);
    }
    pub(super) fn set_order(&self, order: Order) {
        let _inside = gate::enter();
        self.sweep.lock().set_order(order);
    }
    /// Sends out what is in place of one chunk, or of all.
    pub(super) fn send_out(&self, only: Option<usize>) {
        let _inside = gate::enter();
        if self.is_resident() {
            return;
        }
        workers::withdraw(self, only);
        let pages = self.engine().pages_in_hand();
        match only {
            Some(index) => self.engine().drop_staged_one(self, index),
            None => self.engine().drop_staged(self, Claimant::Anybody),
        }
        drop(pages);
        if let Some(index) = only {
            return self.engine().evict_one(self, index);
        }
        let mut left = self.table().count(ListKind::Hot);
        while left > 0
            && let Some(index) = { self.lists().oldest(ListKind::Hot) }
        {
            left -= 1;
            self.engine().evict_one(self, index);
            self.lists().rotate(index);
        }
    }
    /// Asks for the first `most` of these chunks that are stored. Chunks in place, and chunks that nobody has
    /// written, need not be brought in.
    fn ask_for(&self, first: usize, count: usize, most: usize) {
        let _inside = gate::enter();
        workers::start();
        self.sweep.lock().note_asked();
        if self.counters.warm.load(Relaxed) + self.counters.cold.load(Relaxed) == 0 {
            return; // no need to look at all records
        }
        let is_stored = |index: &usize| self.word(*index).phase() == Phase::Stored;
        let mut indices = first..first + count;
        if let Some(next) = indices.find(is_stored) {
            let others = indices.take(MOST_LOOKED_AT).filter(is_stored).take(most.saturating_sub(1));
            let last = others.last().unwrap_or(next);
            workers::bring_in(self, next, last + 1 - next);
        }
    }
    /// Brings a chunk in place, by a worker thread.
    pub(super) fn bring_ahead(&self, index: usize) {
        // If mappings are short, other chunks would have to leave for this one.
        if self.word(index).phase() != Phase::Stored || self.splits_mappings() && mappings::are_short() {
            return;
        }
        sync_points::pass(SyncPoint::BringingAhead);
        // This counts as a request of the program. Otherwise these uses would be taken for a sweep, and cause reading
        // ahead.
        self.sweep.lock().note_asked();
        // For reading: the stored bytes stay valid. A chunk that cannot be brought in now will be an error for the thread
        // that needs it.
        let _ = self.bring_in(index, Access::Read, Reason::Ahead);
    }
}
