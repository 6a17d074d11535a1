//! Bringing chunks in: in place on a touch or an acquire, and into a staging slot ahead of need.
use super::chunk_error::ChunkError;
use super::chunks::Acquisition;
use super::engine::Engine;
use super::fault::Mechanism;
use super::mapping::Errno;
use super::mappings;
use super::region::Region;
use super::regret::Left;
use super::staging::FullSlot;
use super::state::{MOST_ACQUIRED, Phase, Settle, Word};
use super::sync_points::{self, SyncPoint};
use super::table::{Kept, Stored};
use super::transit::Transit;
use super::waiting::End;
use super::{codec, workers, workspace};
use crate::os::map::{HUGE_PAGE, PAGE};
use crate::recording::{self, Movement, Tier};
use core::sync::atomic::{Ordering::*, fence};
use std::time::Instant;
use twox_hash::XxHash3_128;

/// How often, for one chunk that comes in, the system may refuse a mapping and others leave for it.
const MOST_REFUSED: usize = 16;

/// What the chunk is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading. The stored bytes stay valid as long as nothing is written.
    Read,
    /// Reading and writing.
    Write,
    /// Writing the whole chunk: its contents need not be brought in.
    Overwrite,
}

/// Why a chunk is brought in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The program touches it. The fault handler does the work, and its stack may be too small.
    Fault,
    /// The program acquires it.
    Acquire,
    /// The program has asked for it ahead of need. A worker thread does the work.
    Ahead,
    /// The library looks at it, or moves it to another region.
    Library,
}

/// What became of bringing a claimed chunk in.
enum Brought {
    /// It is in.
    In,
    /// There was no room to acquire it, so the claim was given up. `since`: the useful progress before.
    InVain { since: u32 },
}

/// Hash of decoded bytes.
pub(super) fn content_hash(bytes: &[u8]) -> [u64; 2] {
    let hash = XxHash3_128::oneshot(bytes);
    [hash as u64, (hash >> 64) as u64]
}
/// Hash of encoded bytes: half of the 128-bit hash, which this crate computes more than twice as fast as the 64-bit
/// one.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    content_hash(bytes)[0]
}
pub(super) fn whole_pages(length: usize) -> usize {
    length.next_multiple_of(PAGE)
}

impl Region {
    /// Serves a fault of a direct access to chunk `index`.
    pub(super) fn touch(&self, index: usize, store: bool) -> Result<(), ChunkError> {
        let access = if store { Access::Write } else { Access::Read };
        self.bring_in(index, access, Reason::Fault)
    }
    /// Brings a chunk in, and acquires it if that is the reason.
    pub(super) fn bring_in(&self, index: usize, access: Access, reason: Reason) -> Result<(), ChunkError> {
        let chunk = self.chunk(index);
        let acquire = reason == Reason::Acquire;
        let mut refused = 0;
        loop {
            let word = chunk.state.load();
            match word.phase() {
                Phase::Hot if reason == Reason::Fault => return self.reopen(index),
                Phase::Hot if !acquire => return Ok(()),
                Phase::Hot if word.acquisitions() >= MOST_ACQUIRED => return Err(ChunkError::Acquired),
                Phase::Hot if word.acquisitions() > 0 => {
                    if chunk.state.acquire(word) {
                        self.read_ahead(index, reason);
                        return Ok(());
                    }
                }
                Phase::Busy => chunk.state.wait(),
                _ if self.is_leaving() => return Err(ChunkError::Leaving),
                _ => match self.try_to_bring_in(index, word, access, reason) {
                    Some(Ok(Brought::InVain { since })) => {
                        let comes = self.engine().waiting.stand_aside(since);
                        if !comes {
                            return Err(ChunkError::NoRoomBeside);
                        }
                    }
                    // The program may have more mappings than were seen. Then some chunks leave in the next round.
                    Some(Err(ChunkError::Pages(Errno(libc::ENOMEM))))
                        if self.splits_mappings() && refused < MOST_REFUSED && mappings::note_refused() =>
                    {
                        refused += 1;
                    }
                    Some(result) => return result.map(drop),
                    None => {} // another thread was first
                },
            }
        }
    }
    /// Claims a chunk, which was seen as `word`, and brings it in. Returns None if it cannot be claimed.
    fn try_to_bring_in(
        &self,
        index: usize,
        word: Word,
        access: Access,
        reason: Reason,
    ) -> Option<Result<Brought, ChunkError>> {
        let (acquire, handler) = (reason == Reason::Acquire, reason == Reason::Fault);
        // Before the claim, because this takes a workspace. Also for a chunk that is in place already: once it is
        // acquired it cannot leave, so its mapping counts.
        let needs_mapping = self.splits_mappings() && mappings::are_short();
        if needs_mapping && Engine::free_mappings(handler) == 0 && acquire {
            return Some(Err(ChunkError::Mappings));
        }
        let claim = || Transit::claim(self, index, word.phase());
        if word.phase() == Phase::Hot || self.is_resident() {
            return Some(self.bring_claimed(claim()?, reason, |transit| {
                if word.prefetched() {
                    self.tally(index, |counters| _ = counters.prefetch_hits.fetch_add(1, Relaxed));
                }
                // SAFETY: the chunk is in place and claimed.
                let opened = unsafe { self.engine().pages().open_if_in_doubt(transit.span()) };
                if let Err(errno) = opened {
                    transit.settle_unchanged();
                    return Err(ChunkError::Pages(errno));
                }
                let how = Settle { acquired: acquire, prefetched: false, returned: word.returned() };
                transit.settle(Phase::Hot, how);
                Ok(())
            }));
        }
        workspace::with(handler, |workspace| {
            let fill = |transit| self.engine().fill(transit, access, reason, workspace);
            Some(self.bring_claimed(claim()?, reason, fill))
        })
    }
    /// Runs `work`, which settles the chunk, on a claimed chunk. If the chunk is to be acquired, first gets the room
    /// for that.
    fn bring_claimed<'a>(
        &self,
        mut transit: Transit<'a>,
        reason: Reason,
        work: impl FnOnce(Transit<'a>) -> Result<(), ChunkError>,
    ) -> Result<Brought, ChunkError> {
        sync_points::pass(SyncPoint::Claimed);
        // Pairs with the fences in `Region::resize` and `Region::end_part`. A thread that shrinks the region, or ends a
        // piece, stores the new size, fences, and then drops the chunks. So either that thread finds this claim, or this
        // thread sees the new size.
        fence(SeqCst);
        if !self.is_used(transit.index) {
            transit.settle_unchanged();
            return Err(ChunkError::Leaving);
        }
        let mut acquisition = None;
        if reason == Reason::Acquire {
            // Read before looking, so that a chunk that settles from here on counts.
            let since = self.engine().waiting.useful_progress();
            // The room is taken under the claim, so that two threads that acquire one chunk take it once.
            match Acquisition::begin(self, &mut transit) {
                Ok(None) => {
                    transit.settle_as(End::InVain);
                    return Ok(Brought::InVain { since });
                }
                Ok(got) => acquisition = got,
                Err(error) => {
                    sync_points::pass(SyncPoint::AcquiredInVain);
                    transit.settle_unchanged();
                    return Err(error);
                }
            }
        }
        // Before the work, so that the worker threads read ahead at the same time.
        self.read_ahead(transit.index, reason);
        work(transit)?;
        acquisition.into_iter().for_each(Acquisition::keep);
        Ok(Brought::In)
    }
    /// Serves a fault in a chunk that is in place. Most often another thread has brought the chunk in meanwhile.
    /// Under `signal` the chunk may also have been left inaccessible (`Pages::open`).
    fn reopen(&self, index: usize) -> Result<(), ChunkError> {
        if self.engine().mechanism() != Mechanism::Signal {
            return Ok(());
        }
        let chunk = self.chunk(index);
        // Before the pin: a thread that looks for a chunk that can leave must not give up because of this pin.
        let _in_hand = self.engine().pages_in_hand();
        if !chunk.state.pin() {
            return Ok(()); // leaving again: the next fault finds out
        }
        sync_points::pass(SyncPoint::Reopening);
        // SAFETY: a pinned chunk cannot be claimed, so it stays present until it is unpinned.
        let opened = unsafe { self.engine().pages().open(self.span_of(index)) };
        chunk.state.unpin();
        opened.map_err(ChunkError::Pages)
    }
    /// Tells the worker threads what to read ahead now that `index` is wanted.
    fn read_ahead(&self, index: usize, reason: Reason) {
        let explicit = reason != Reason::Fault;
        let window = self.window();
        let mut sweep = self.sweep.lock();
        sweep.note_use(index, explicit);
        let ahead = sweep.note(index, self.count(), window).filter(|_| !(explicit && sweep.is_asked()));
        drop(sweep);
        let Some(ahead) = ahead else { return };
        for index in ahead.indices() {
            // A thread that acquires chunks decodes them itself; only the disk is worth being ahead of.
            let worth = match self.word(index).phase() {
                Phase::Stored => !explicit || !self.is_warm(index),
                _ => false,
            };
            if worth {
                workers::read_ahead(self, index);
            }
        }
    }
    fn note_decoding(&self, index: usize, since: Instant) {
        let ns = since.elapsed().as_nanos() as u64;
        self.tally(index, |counters| _ = counters.decode_ns.fetch_add(ns, Relaxed));
    }
    /// How many chunks may be read ahead of a sweep: none without a limit.
    fn window(&self) -> usize {
        let limit = self.engine().account().limit();
        if limit == 0 {
            return 0;
        }
        // At most a quarter of the slots of a full set (24), and not more than an eighth of the budget.
        (limit / 8 / self.chunk_size()).min(6)
    }
    /// Brings a stored chunk into a staging slot, from which the first touch puts it in place.
    pub(super) fn stage(&self, index: usize) {
        workspace::with(false, |workspace| {
            let Some(transit) = Transit::claim(self, index, Phase::Stored) else { return };
            sync_points::pass(SyncPoint::Staging);
            self.engine().stage(transit, workspace);
        });
    }
}

impl Engine {
    /// Fills a claimed chunk that is not Hot, and settles it.
    fn fill(
        &self,
        mut transit: Transit,
        access: Access,
        reason: Reason,
        workspace: &mut codec::Workspace,
    ) -> Result<(), ChunkError> {
        let (region, from, index) = (transit.region, transit.from, transit.index);
        let (acquire, prefetched) =
            (reason == Reason::Acquire, reason == Reason::Ahead && from == Phase::Stored);
        let begun = recording::begin();
        let tier = transit.tier();
        let left = transit.stored().left;
        match self.place(&mut transit, access, acquire, workspace) {
            Ok(()) => {
                let returned =
                    from != Phase::Zero && self.note_return(region, index, left, tier == Tier::Cold);
                region.tally(index, |counters| {
                    counters.prefetch_hits.fetch_add(u64::from(from == Phase::Staged), Relaxed);
                    counters.prefetches.fetch_add(u64::from(prefetched), Relaxed);
                    counters.faults.fetch_add(1, Relaxed);
                });
                if from == Phase::Zero
                    && region.counters.evictions.load(Relaxed) == 0
                    && region.chunk_size().is_multiple_of(HUGE_PAGE)
                {
                    // A first touch, and nothing was evicted so far: perhaps all data fit, and the chunk will stay.
                    self.pages().join(region.span_of(index));
                }
                // The mark lets a later acquisition count as a hit.
                transit.settle(Phase::Hot, Settle { acquired: acquire, prefetched, returned });
                region.record(begun, Movement::Fault, tier, index);
                // A thread that acquires chunks encoded in RAM had better make room itself, because pages that a
                // worker thread has emptied are in another processor's cache. Being ahead pays only for the disk.
                let ahead = !(acquire && tier == Tier::Warm);
                if ahead && region.staging().full() == 0 && self.account().limit() != 0 {
                    workers::stock(region);
                }
                Ok(())
            }
            Err(error) => {
                transit.settle(from, Settle::default());
                Err(error)
            }
        }
    }
    /// Notes that a chunk that had left is back, before it is listed anew. Returns whether it is back soon: before as
    /// many others have left as are in place.
    fn note_return(&self, region: &Region, index: usize, left: Left, from_disk: bool) -> bool {
        let since = self.departures().wrapping_sub(region.lists().stamp(index)) as usize;
        let soon = since <= self.account().pages() / region.chunk_size();
        let mut sweep = region.sweep.lock();
        if soon {
            sweep.regret.note_back(left);
        }
        // In a sweep chunks that seem to come back were read ahead and given up.
        if !sweep.is_swept() {
            drop(sweep);
            self.clear_share.note_return(since, from_disk, self.account().limit(), region.chunk_size());
        }
        soon
    }
    fn place(
        &self,
        transit: &mut Transit,
        access: Access,
        acquire: bool,
        workspace: &mut codec::Workspace,
    ) -> Result<(), ChunkError> {
        let region = transit.region;
        if transit.from == Phase::Zero {
            region.spill_space().make_blocks(transit.index, region.count()).map_err(ChunkError::Disk)?;
            self.charge_record(region, transit.index, workspace);
        }
        let staged = transit.from == Phase::Staged;
        let mut slot = match transit.take_slot() {
            Some(slot) => slot,
            None => self.loaded_slot(transit, access, workspace)?,
        };
        if access == Access::Read && (acquire || region.counters.keeping_pays()) {
            self.remember_content(transit, &mut slot);
        }
        match transit.place(slot) {
            Ok(slot) => {
                region.staging().put_empty(slot);
                if access != Access::Read || !transit.stored().content_known {
                    self.drop_stored(transit);
                }
                Ok(())
            }
            Err((slot, errno)) => {
                if staged {
                    transit.keep_slot(slot);
                } else {
                    region.staging().put_full(slot);
                }
                Err(ChunkError::Pages(errno))
            }
        }
    }
    /// A slot with the contents of a chunk that is in none.
    fn loaded_slot(
        &self,
        transit: &mut Transit,
        access: Access,
        workspace: &mut codec::Workspace,
    ) -> Result<FullSlot, ChunkError> {
        let region = transit.region;
        let mut slot = self.full_slot(region, workspace)?;
        let loaded = match (transit.from, access) {
            (Phase::Zero, _) => {
                region.staging().bytes(&mut slot)[..region.chunk_size()].fill(0);
                Ok(())
            }
            (_, Access::Overwrite) => {
                region.clear_tail_in(transit.index, region.staging().bytes(&mut slot));
                Ok(())
            }
            _ => self.load(transit, &mut slot, workspace),
        };
        match loaded {
            Ok(()) => Ok(slot),
            Err(error) => {
                region.staging().put_full(slot);
                Err(error)
            }
        }
    }
    /// Notes the hash of the decoded bytes. By this hash an unchanged chunk is recognised when it leaves.
    fn remember_content(&self, transit: &mut Transit, slot: &mut FullSlot) {
        let region = transit.region;
        let stored = transit.stored();
        if stored.kept != Kept::Nowhere && !stored.content_known {
            stored.content = content_hash(&region.staging().bytes(slot)[..region.chunk_size()]);
            stored.content_known = true;
        }
    }
    fn stage(&self, mut transit: Transit, workspace: &mut codec::Workspace) {
        let (region, index) = (transit.region, transit.index);
        let begun = recording::begin();
        let tier = transit.tier();
        let Ok(slot) = self.loaded_slot(&mut transit, Access::Read, workspace) else {
            return transit.settle_unchanged(); // the thread that needs the chunk will meet the same error
        };
        transit.keep_slot(slot);
        region.tally(index, |counters| _ = counters.prefetches.fetch_add(1, Relaxed));
        transit.settle(Phase::Staged, Settle::default());
        region.record(begun, Movement::Prefetch, tier, index);
    }
    /// Decodes what is stored into a slot.
    fn load(
        &self,
        transit: &mut Transit,
        slot: &mut FullSlot,
        workspace: &mut codec::Workspace,
    ) -> Result<(), ChunkError> {
        let region = transit.region;
        let index = transit.index;
        let stored: Stored = *transit.stored();
        let memory = region.staging().bytes(slot);
        let (chunk, length) = (region.chunk_size(), stored.length as usize);
        let damaged = |_| ChunkError::Damaged;
        if let Kept::InRam(extent) = stored.kept {
            let start = Instant::now();
            // SAFETY: the claim owns the chunk's record and so its extent, which is not freed while the claim lasts.
            let encoded = &unsafe { self.warm.bytes(extent, length) }[..length];
            if checksum(encoded) != stored.checksum {
                return Err(ChunkError::Damaged);
            }
            region.codec().decode(encoded, &mut memory[..chunk], workspace).map_err(damaged)?;
            region.note_decoding(index, start);
            return Ok(());
        }
        let Kept::InFile(file) = stored.kept else { return Err(ChunkError::Lost) };
        let (spill, offset) =
            region.spill_space().place(file, index).ok_or(ChunkError::Disk(Errno(libc::EBADF)))?;
        spill.read(&mut memory[..whole_pages(length)], offset).map_err(ChunkError::Disk)?;
        let pages = whole_pages(length) as u64;
        region.tally(index, |counters| _ = counters.fetched.fetch_add(pages, Relaxed));
        let hash = content_hash(&memory[..length]);
        if hash[0] != stored.checksum {
            return Err(ChunkError::Damaged);
        }
        if !stored.blocks {
            // The chunk is stored as it is, so this hash is also that of the contents, and noting it costs nothing.
            (transit.stored().content, transit.stored().content_known) = (hash, true);
        } else {
            let start = Instant::now();
            region.codec().decode_in_place(memory, length, chunk, workspace).map_err(damaged)?;
            region.note_decoding(index, start);
        }
        Ok(())
    }
    /// Forgets what is stored of a chunk.
    pub(super) fn drop_stored(&self, transit: &mut Transit) {
        let region = transit.region;
        let stored = core::mem::take(transit.stored());
        let (index, length) = (transit.index, stored.length as usize);
        match stored.kept {
            Kept::InRam(extent) => self.free_copy(region, index, (extent, length)),
            Kept::InFile(file) => {
                let pages = whole_pages(length);
                region.tally(index, |counters| _ = counters.cold.fetch_sub(pages, Relaxed));
                region.spill_space().note_stored(file, false);
            }
            Kept::Nowhere | Kept::Lost => {}
        }
    }
}
