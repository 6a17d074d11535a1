//! A piece of tiered memory: what one allocation gave the program. It is a region, or a chunk of a slab.
use super::chunks::Advice;
use super::engine::{Engine, Resized};
use super::fill::Access;
use super::gate;
use super::region::{Params, Policy, Region};
use super::residency::Residency;
use super::slab;
use super::sweep::Order;
use super::sync_points::{self, SyncPoint};
use super::{fault::Mechanism, registry};
use crate::error::{Result, fail};
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

/// A live piece, or one that has been freed since. An operation on a freed one fails; but if it was a chunk of a slab, the
/// chunk may be another piece by then.
#[derive(Clone)]
pub struct Piece {
    region: Arc<Region>,
    /// Its chunk, if the region is a slab.
    part: Option<usize>,
}

impl Piece {
    /// The piece in whose address space `address` lies. To be called outside the gate.
    pub fn around(address: usize) -> Option<Piece> {
        let region = registry::lookup(address)?;
        match region.slab() {
            None => Some(Piece { region, part: None }),
            Some(_) => region.index_of(address).map(|index| Piece { region, part: Some(index) }),
        }
    }
    /// The engine it belongs to.
    pub fn engine(&self) -> &Arc<Engine> {
        self.region.engine()
    }
    /// Where it begins.
    pub fn start(&self) -> usize {
        self.region.span_of(self.first()).start
    }
    /// Bytes.
    pub fn size(&self) -> usize {
        self.part.map_or_else(|| self.region.size(), |index| self.region.used_in(index))
    }
    /// Bytes of a chunk.
    pub fn chunk_size(&self) -> usize {
        self.region.chunk_size()
    }
    /// Number of chunks.
    pub fn count(&self) -> usize {
        self.part.map_or_else(|| self.region.count(), |_| 1)
    }
    /// What it is for.
    pub fn policy(&self) -> Policy {
        self.region.policy()
    }
    /// Whether elements may differ, within a tolerance, once they have left.
    pub fn is_lossy(&self) -> bool {
        self.region.is_lossy()
    }
    /// Whether all of it is in place for good.
    pub fn is_resident(&self) -> bool {
        self.region.is_resident()
    }
    /// The region's index of its first chunk.
    fn first(&self) -> usize {
        self.part.unwrap_or(0)
    }
    /// The region's index of a chunk.
    fn index(&self, chunk: usize) -> Result<usize> {
        match chunk < self.count() {
            true => Ok(self.first() + chunk),
            false => fail!(InvalidArgument, "chunk {chunk} of {}", self.count()),
        }
    }
    /// Brings a chunk in and keeps it in place until it is released as often as it was acquired. With
    /// [`Access::Overwrite`] its contents are unspecified until written. The calling thread does the work.
    pub fn acquire(&self, chunk: usize, access: Access) -> Result<*mut u8> {
        self.region.acquire(self.index(chunk)?, access)
    }
    /// Gives up one acquisition of a chunk.
    pub fn release(&self, chunk: usize) -> Result<()> {
        if self.region.release(self.index(chunk)?) {
            return Ok(());
        }
        fail!(InvalidArgument, "chunk {chunk} is not acquired")
    }
    /// Asks the worker threads to bring in chunks, as many as fit. Returns at once.
    pub fn prefetch(&self, first: usize, count: usize) -> Result<()> {
        let index = self.index(first)?;
        if count > self.count() - first {
            let (end, all) = (first.wrapping_add(count), self.count());
            return fail!(InvalidArgument, "chunks {first} to {end} of {all}");
        }
        self.region.prefetch(index, count);
        Ok(())
    }
    /// Takes the program's advice. A piece of one chunk has no order of use.
    pub fn advise(&self, advice: Advice) {
        match (advice, self.part) {
            (Advice::WillNeed, _) => self.region.will_need(self.first(), self.count()),
            (Advice::DontNeed, _) => self.region.send_out(self.part),
            (Advice::Sequential, None) => self.region.set_order(Order::Sequential),
            (Advice::Random, None) => self.region.set_order(Order::Random),
            (Advice::Sequential | Advice::Random, Some(_)) => {}
        }
    }
    /// Figures of the piece.
    pub fn residency(&self) -> Residency {
        match self.region.slab().zip(self.part) {
            Some((slab, index)) => slab.counters(index).residency(),
            None => self.region.residency(),
        }
    }
    /// The offset of the first byte behind the end that is not zero. Brings the last chunk in.
    pub fn first_overrun(&self) -> Result<Option<usize>> {
        let found = self.region.first_overrun(self.first() + self.count() - 1)?;
        Ok(found.map(|at| self.size() + at))
    }
    /// Fills the bytes behind the end with zeros.
    pub fn clear_tail(&self) -> Result<()> {
        self.region.clear_tail(self.first() + self.count() - 1)
    }
    /// Adds an owner.
    pub fn add_owner(&self) {
        match self.region.slab().zip(self.part) {
            Some((slab, index)) => slab.add_owner(index),
            None => _ = self.region.further_owners.fetch_add(1, Relaxed),
        }
    }
    /// Takes an owner. Returns false if there is only one.
    pub fn take_owner(&self) -> bool {
        match self.region.slab().zip(self.part) {
            Some((slab, index)) => slab.take_owner(index),
            None => self.region.further_owners.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok(),
        }
    }
    /// How many owners there are beyond the first.
    pub fn further_owners(&self) -> usize {
        match self.region.slab().zip(self.part) {
            Some((slab, index)) => slab.further_owners(index),
            None => self.region.further_owners.load(Relaxed),
        }
    }
}

impl Engine {
    /// A new piece of zeroed memory.
    pub fn allocate(self: &Arc<Self>, params: &Params) -> Result<Piece> {
        self.with_reclaimed(|| {
            let _inside = gate::enter();
            // Without faults a piece that fits stays in place for good, which is the region's matter.
            let piece = if slab::suits(params) && self.mechanism() != Mechanism::None {
                let (region, index) = self.begin_part(params)?;
                Piece { region, part: Some(index) }
            } else {
                Piece { region: self.make_region(params)?, part: None }
            };
            self.be_ready();
            Ok(piece)
        })
    }
    /// Frees a piece. Waits for operations on it that other threads have begun. Returns false if another thread freed it
    /// first.
    pub fn free(&self, piece: &Piece) -> bool {
        self.end(piece).is_some()
    }
    /// The same, but returns the size that it had in the end, which other threads may have changed.
    pub fn end(&self, piece: &Piece) -> Option<usize> {
        sync_points::pass(SyncPoint::Freeing);
        let _inside = gate::enter();
        match piece.part {
            Some(index) => self.free_part(&piece.region, index),
            None => self.free_inside(&piece.region).then(|| piece.region.size()),
        }
    }
    /// Changes a piece's size. Returns the piece, and its size before. If it has to move, it is another piece, and if there
    /// is no size before, the old one is still there and empty: the caller ends it when it has noted where the contents are
    /// now, for then another piece may begin there. The bytes it grows by are zeros. On failure the piece is as it was.
    pub fn change_size(self: &Arc<Self>, piece: &Piece, size: usize) -> Result<(Piece, Option<usize>)> {
        if size == 0 {
            return fail!(InvalidArgument, "tiered memory of no bytes");
        }
        self.with_reclaimed(|| {
            let _inside = gate::enter();
            let Some(index) = piece.part else {
                let (region, before) = self.resize_region(&piece.region, size)?;
                return Ok((Piece { region, part: None }, Some(before)));
            };
            match self.resize_part(&piece.region, index, size)? {
                Resized::InPlace(before) => Ok((piece.clone(), Some(before))),
                Resized::Moved(region) => Ok((Piece { region, part: None }, None)),
            }
        })
    }
    /// All pieces now.
    pub fn pieces(&self) -> Vec<Piece> {
        let _inside = gate::enter();
        let mut pieces = Vec::new();
        for region in self.regions().iter() {
            match region.slab() {
                None => pieces.push(Piece { region: region.clone(), part: None }),
                Some(slab) => pieces
                    .extend(slab.pieces().map(|index| Piece { region: region.clone(), part: Some(index) })),
            }
        }
        pieces
    }
}

/// Tests look inside.
#[cfg(test)]
impl core::ops::Deref for Piece {
    type Target = Region;
    fn deref(&self) -> &Region {
        &self.region
    }
}
