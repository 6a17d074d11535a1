//! What lies in a chunk behind the program's bytes: zeros, as long as the program writes no further than it may. That is the
//! last chunk of a region, or any chunk of a slab.
//!
//! These bytes are stored with the chunk and come back with it. So debug mode can find overruns there, and memory
//! that grows makes them the program's.
use super::chunk_error::ChunkError;
use super::fill::{Access, Reason};
use super::gate;
use super::region::Region;
use super::state::Phase;
use super::sync_points::{self, SyncPoint};
use crate::error::Result;

impl Region {
    /// Calls `look` with the bytes of a chunk behind the program's, unless nothing was ever there. Only while `resizing` is
    /// held: another thread may free the memory or change its size at the same moment. Takes no more room than a touch.
    fn with_tail<R>(
        &self,
        index: usize,
        access: Access,
        look: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<Option<R>> {
        if self.is_leaving() || !self.is_used(index) {
            return Err(ChunkError::Leaving.error());
        }
        let used = self.used_in(index);
        if used == self.chunk_size() || (self.word(index).phase() == Phase::Zero && !self.is_resident()) {
            return Ok(None);
        }
        let state = &self.chunk(index).state;
        let _pages = loop {
            self.bring_in(index, access, Reason::Library).map_err(ChunkError::error)?;
            let pages = self.engine().pages_in_hand();
            if state.pin() {
                break pages;
            }
        };
        sync_points::pass(SyncPoint::TailPinned);
        let span = self.span_of(index);
        // SAFETY: the chunk is pinned, so all of it is in place until it is unpinned.
        let result = unsafe { self.engine().pages().open_if_in_doubt(span) }.map(|()| {
            // SAFETY: as above. Only this library has a right to these bytes: a program that stores there meanwhile is in
            // error, and only the bytes are undefined.
            look(unsafe {
                core::slice::from_raw_parts_mut((span.start as *mut u8).add(used), self.chunk_size() - used)
            })
        });
        state.unpin();
        result.map(Some).map_err(|errno| ChunkError::Pages(errno).error())
    }
    /// [`Region::with_tail`], with all that it asks for.
    fn with_tail_alone<R>(
        &self,
        index: usize,
        access: Access,
        look: impl Fn(&mut [u8]) -> R,
    ) -> Result<Option<R>> {
        self.engine().with_room(|| {
            let _inside = gate::enter();
            let _alone = self.resizing(index).lock();
            self.with_tail(index, access, &look)
        })
    }
    /// How far behind the program's bytes of a chunk the first byte is that is not zero. Brings the chunk in.
    pub(super) fn first_overrun(&self, index: usize) -> Result<Option<usize>> {
        let first = |tail: &mut [u8]| tail.iter().position(|&byte| byte != 0);
        self.with_tail_alone(index, Access::Read, first).map(Option::flatten)
    }
    /// Fills the bytes of a chunk behind the program's with zeros.
    pub(super) fn clear_tail(&self, index: usize) -> Result<()> {
        self.with_tail_alone(index, Access::Write, |tail| tail.fill(0)).map(drop)
    }
    /// The same, while `resizing` is held.
    pub(super) fn clear_tail_to_grow(&self, index: usize) -> Result<()> {
        self.with_tail(index, Access::Write, |tail| tail.fill(0)).map(drop)
    }
    /// Fills the bytes behind the program's with zeros in a chunk that is brought in to be overwritten, because the program
    /// writes only its own part.
    pub(super) fn clear_tail_in(&self, index: usize, bytes: &mut [u8]) {
        bytes[self.used_in(index)..self.chunk_size()].fill(0);
    }
}
