//! Storing a chunk that has left the region: encoded in RAM, or in the spill file. If neither works the chunk goes
//! back in place.
use super::by_age;
use super::chunk_error::ChunkError;
use super::claims::Claimant;
use super::codec::{self, Form};
use super::engine::Engine;
use super::fill::{checksum, content_hash, whole_pages};
use super::region::Region;
use super::staging::FullSlot;
use super::state::{Phase, Settle};
use super::sync_points::{self, SyncPoint};
use super::table::{Kept, ListKind, Stored};
use super::transit::Transit;
use super::waiting::End;
use super::warm::{Extent, room_for};
use crate::os::map::PAGE;
use crate::recording::{self, Begun, Movement, Tier};
use core::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Encoded bytes stay in RAM if they take at most this many eighths of the chunk. Otherwise they would displace
/// nearly as many bytes in the clear, which cost nothing to use.
const WORTH_KEEPING: usize = 7;

/// A page to write directly to disk.
#[repr(C, align(4096))]
struct AlignedPage([u8; PAGE]);

/// Encodes the chunk at the front of `memory` in place. Returns its form and its encoded bytes.
fn encode(
    region: &Region,
    index: usize,
    memory: &mut [u8],
    workspace: &mut codec::Workspace,
) -> (Form, usize) {
    let chunk = region.chunk_size();
    let start = Instant::now();
    let (form, length) = region.encoder(index).encode_in_place(memory, chunk, workspace);
    let (form, length) = if form == Form::Blocks && room_for(length) >= chunk {
        // Encoding saved nothing, and raw bytes are simpler and faster. Decoding restores the values as the program
        // may see them anyway after a lossy coder.
        match region.codec().decode_in_place(memory, length, chunk, workspace) {
            Ok(()) => (Form::Raw, chunk),
            Err(_) => unreachable!("the encoder's own bytes"),
        }
    } else {
        (form, length)
    };
    let ns = start.elapsed().as_nanos() as u64;
    region.tally(index, |counters| {
        counters.encode_ns.fetch_add(ns, Relaxed);
        counters.encoded_from.fetch_add(chunk as u64, Relaxed);
        counters.encoded_to.fetch_add(length.max(1) as u64, Relaxed);
    });
    (form, length)
}
/// Ends the claim of a chunk that has left the region.
fn settle_eviction(mut transit: Transit, phase: Phase, begun: Begun) {
    let (region, index) = (transit.region, transit.index);
    region.tally(index, |counters| _ = counters.evictions.fetch_add(1, Relaxed));
    let tier = if phase == Phase::Zero { Tier::Zero } else { transit.stored_tier() };
    transit.stored().left = transit.left;
    transit.settle(phase, Settle::default());
    region.record(begun, Movement::Eviction, tier, index);
}

impl Region {
    /// Whether any chunk in place has an encoded copy in RAM.
    fn has_copies(&self) -> bool {
        self.counters.warm.load(Relaxed) > 0 && self.table().count(ListKind::Copied) > 0
    }
    /// Takes the encoded copy in RAM of a chunk that is in place, acquired or not: see `Stored::take_copy` in
    /// table.rs.
    fn take_copy(&self) -> Option<(usize, (Extent, usize))> {
        let mut lists = self.lists();
        let mut next = lists.oldest(ListKind::Copied);
        while let Some(index) = next {
            let chunk = self.chunk(index);
            sync_points::pass(SyncPoint::CopyLookedFor);
            if chunk.state.pin() {
                // SAFETY: the chunk is pinned, so nobody can claim it, and the lists' lock is held. This function is
                // the only one that reaches `stored` by a pin.
                let copy = unsafe { chunk.stored() }.take_copy();
                lists.lose_copy(index);
                chunk.state.unpin();
                debug_assert!(copy.is_some(), "a chunk without a copy was listed among those with one");
                return copy.map(|copy| (index, copy));
            }
            next = lists.next_copy(index); // claimed: no more chunks are skipped than there are claims
        }
        None
    }
}

impl Engine {
    /// Stores the chunk whose pages are in `slot`, settles it, and returns the slot. If the chunk cannot be stored it
    /// goes back in place.
    pub(super) fn store(
        &self,
        mut transit: Transit,
        mut slot: FullSlot,
        workspace: &mut codec::Workspace,
    ) -> Result<FullSlot, ChunkError> {
        let region = transit.region;
        let chunk = region.chunk_size();
        let begun = recording::begin();
        let memory = region.staging().bytes(&mut slot);
        let stored = transit.stored();
        if stored.kept != Kept::Nowhere {
            let clean = stored.content_known && content_hash(&memory[..chunk]) == { stored.content };
            region.counters.note_kept(clean);
            if clean {
                settle_eviction(transit, Phase::Stored, begun);
                return Ok(slot);
            }
            self.drop_stored(&mut transit);
        }
        let (form, length) = encode(region, transit.index, memory, workspace);
        if form == Form::Zero {
            settle_eviction(transit, Phase::Zero, begun);
            return Ok(slot);
        }
        match self.keep(&mut transit, form, &mut memory[..whole_pages(length).max(length)], length) {
            Ok(()) => {
                settle_eviction(transit, Phase::Stored, begun);
                Ok(slot)
            }
            Err(error) => {
                self.put_back(transit, form, length, slot, workspace);
                Err(error)
            }
        }
    }
    /// Keeps the encoded bytes at the front of `memory`: in RAM if that pays and there is room, otherwise on disk.
    fn keep(
        &self,
        transit: &mut Transit,
        form: Form,
        memory: &mut [u8],
        length: usize,
    ) -> Result<(), ChunkError> {
        let region = transit.region;
        let pages = whole_pages(length);
        memory[length..].fill(0);
        let stored = transit.stored();
        stored.length = length as u32;
        stored.blocks = form == Form::Blocks;
        stored.checksum = checksum(&memory[..length]);
        stored.content_known = false;
        let room = room_for(length);
        if form == Form::Blocks && room <= region.chunk_size() / 8 * WORTH_KEEPING {
            loop {
                if let Some(extent) = self.warm.store(self.account(), &memory[..length]) {
                    transit.stored().kept = Kept::InRam(extent);
                    region.tally(transit.index, |counters| _ = counters.warm.fetch_add(room, Relaxed));
                    return Ok(());
                }
                // The oldest encoded chunks go to disk to make room. If the disk fails them, it will fail this chunk
                // as well, and then the error is returned.
                if self.demote_oldest() != Ok(true) {
                    break;
                }
            }
        }
        self.write_out(transit, &memory[..pages])
    }
    /// Writes a chunk's encoded bytes to its place on disk.
    fn write_out(&self, transit: &mut Transit, bytes: &[u8]) -> Result<(), ChunkError> {
        let region = transit.region;
        let (file, spill, offset) =
            region.spill_space().place_for_writing(transit.index).map_err(ChunkError::Disk)?;
        spill.write(bytes, offset).map_err(ChunkError::Disk)?;
        sync_points::pass(SyncPoint::Written);
        transit.stored().kept = Kept::InFile(file);
        region.spill_space().note_stored(file, true);
        region.tally(transit.index, |counters| {
            counters.cold.fetch_add(bytes.len(), Relaxed);
            counters.spilled.fetch_add(bytes.len() as u64, Relaxed);
        });
        Ok(())
    }
    /// Undoes an eviction whose bytes could not be stored.
    fn put_back(
        &self,
        mut transit: Transit,
        form: Form,
        length: usize,
        mut slot: FullSlot,
        workspace: &mut codec::Workspace,
    ) {
        let region = transit.region;
        let staging = region.staging();
        *transit.stored() = Default::default();
        if form == Form::Blocks {
            let memory = staging.bytes(&mut slot);
            if region.codec().decode_in_place(memory, length, region.chunk_size(), workspace).is_err() {
                unreachable!("the encoder's own bytes");
            }
        }
        match transit.place(slot) {
            Ok(slot) => {
                staging.put_empty(slot);
                transit.settle(Phase::Hot, Settle::default());
            }
            Err((slot, _)) => {
                // The bytes stay in the slot, as if the chunk had been read ahead; but they are its only copy.
                transit.keep_slot(slot);
                transit.settle(Phase::Staged, Settle::default());
            }
        }
    }
    /// Writes the chunk that has been encoded in RAM the longest to disk. Returns false if none can be claimed.
    pub(super) fn demote_oldest(&self) -> Result<bool, ChunkError> {
        // Not only the very oldest is tried: the thread that has claimed it may be waiting for the room of those
        // behind it. How many there are is only counted when some were tried.
        let (mut tries, mut most) = (0, by_age::FEW);
        while let Some(region) = self.encoded.oldest() {
            if tries == most {
                most = self.encoded.chunks();
                if tries >= most {
                    break;
                }
            }
            tries += 1;
            let Some(index) = region.lists().oldest(ListKind::Warm) else { continue };
            sync_points::pass(SyncPoint::OldestChosen);
            if let Some(transit) = Transit::claim(&region, index, Phase::Stored) {
                return self.demote(transit).map(|()| true);
            }
            // Another thread has claimed the chunk, and may have listed it anew meanwhile, here or in another list.
            let mut lists = region.lists();
            if lists.oldest(ListKind::Warm) == Some(index) {
                lists.renew(index, self.departures());
            }
        }
        Ok(false)
    }
    fn demote(&self, mut transit: Transit) -> Result<(), ChunkError> {
        let (region, index) = (transit.region, transit.index);
        let begun = recording::begin();
        match self.demote_claimed(&mut transit) {
            Ok(true) => {
                transit.settle(Phase::Stored, Settle::default());
                region.record(begun, Movement::Spill, Tier::Cold, index);
                Ok(())
            }
            done => {
                transit.settle_unchanged();
                done.map(drop)
            }
        }
    }
    /// Frees the encoded bytes in RAM of a claimed chunk. They are written to disk first, unless the chunk is in place.
    /// Returns false if there are none in RAM.
    pub(super) fn demote_claimed(&self, transit: &mut Transit) -> Result<bool, ChunkError> {
        let stored = *transit.stored();
        let Kept::InRam(extent) = stored.kept else { return Ok(false) };
        let length = stored.length as usize;
        if transit.from == Phase::Hot {
            *transit.stored() = Stored::default();
        } else {
            // SAFETY: the claim owns the chunk's record and so its extent, which is not freed while the claim lasts.
            let bytes = unsafe { self.warm.bytes(extent, length) };
            if bytes.len().is_multiple_of(PAGE) {
                self.write_out(transit, bytes)?;
            } else {
                // Direct I/O takes whole pages.
                let mut page = AlignedPage([0; PAGE]);
                page.0[..bytes.len()].copy_from_slice(bytes);
                self.write_out(transit, &page.0)?;
            }
        }
        self.free_copy(transit.region, transit.index, (extent, length));
        Ok(true)
    }
    /// Frees an encoded copy that no chunk's record names any more.
    pub(super) fn free_copy(&self, region: &Region, index: usize, (extent, length): (Extent, usize)) {
        self.warm.free(self.account(), extent, length);
        region.tally(index, |counters| _ = counters.warm.fetch_sub(room_for(length), Relaxed));
    }

    /// Frees encoded bytes in RAM: it writes the bytes of a chunk that is out to disk, or else drops the copy of a
    /// chunk in place, which is needed only if that chunk leaves unchanged. Returns false if there are none.
    pub(super) fn free_encoded(&self) -> Result<bool, ChunkError> {
        match self.demote_oldest() {
            Ok(true) => Ok(true),
            // Dropping a copy needs no disk, so it works after an error too.
            _ if self.drop_copy() => Ok(true),
            nothing => nothing,
        }
    }
    /// Drops the encoded copy of a chunk that is in place. Returns false if there is none.
    fn drop_copy(&self) -> bool {
        let dropped = self.find_among(&self.copied, |region| {
            if !region.has_copies() || !region.begin_transit(Claimant::Anybody) {
                return None;
            }
            let copy = region.take_copy();
            copy.into_iter().for_each(|(index, copy)| self.free_copy(region, index, copy));
            region.end_transit(if copy.is_some() { End::Progress } else { End::Unnoted });
            copy
        });
        dropped.is_some()
    }

    /// Drops a claimed chunk's contents for good.
    pub(super) fn drop_contents(&self, mut transit: Transit) {
        let region = transit.region;
        if transit.from == Phase::Hot {
            transit.vacate();
            self.account().discharge_pages(region.chunk_size());
        }
        if let Some(slot) = transit.take_slot() {
            self.drop_pages(region.staging(), slot);
        }
        self.drop_stored(&mut transit);
        transit.settle(Phase::Zero, Settle::default());
    }
}
