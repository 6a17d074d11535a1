//! What lies behind a region's end in its last chunk: zeros, as long as the program writes no further than it may.
//!
//! These bytes are stored with the chunk and come back with it. So debug mode can find overruns there, and a region
//! that grows makes them the program's.
use super::chunk_error::ChunkError;
use super::fill::{Access, Reason};
use super::gate;
use super::region::Region;
use super::state::Phase;
use super::sync_points::{self, SyncPoint};
use crate::error::Result;

impl Region {
    /// Bytes of the last chunk that are the program's.
    fn used_in_last(&self) -> usize {
        self.size() - (self.count() - 1) * self.chunk_size()
    }
    /// Calls `look` with the bytes behind the end, unless nothing was ever there. Only while `resizing` is held: another
    /// thread may free the region or change its size at the same moment, and with it goes even an acquired chunk.
    fn with_tail<R>(&self, access: Access, look: impl FnOnce(&mut [u8]) -> R) -> Result<Option<R>> {
        if self.is_leaving() {
            return Err(ChunkError::Leaving.error());
        }
        let (last, used) = (self.count() - 1, self.used_in_last());
        if used == self.chunk_size() || (self.word(last).phase() == Phase::Zero && !self.is_resident()) {
            return Ok(None);
        }
        self.bring_in(last, access, Reason::Acquire).map_err(ChunkError::error)?;
        sync_points::pass(SyncPoint::TailAcquired);
        let start = self.span_of(last).start as *mut u8;
        // SAFETY: the chunk is acquired, so all of it is in place until the release. Only this library has a right to
        // these bytes: a program that stores there meanwhile is in error, and only the bytes are undefined.
        let tail = unsafe { core::slice::from_raw_parts_mut(start.add(used), self.chunk_size() - used) };
        let result = look(tail);
        self.give_up_acquisition(last);
        Ok(Some(result))
    }
    /// [`Region::with_tail`], with all that it asks for.
    fn with_tail_alone<R>(&self, access: Access, look: impl Fn(&mut [u8]) -> R) -> Result<Option<R>> {
        self.engine().with_room(|| {
            let _inside = gate::enter();
            let _alone = self.resizing.lock();
            self.with_tail(access, &look)
        })
    }
    /// The offset of the first byte behind the end that is not zero, from the start of the region. Brings the last
    /// chunk in.
    pub fn first_overrun(&self) -> Result<Option<usize>> {
        let found = self.with_tail_alone(Access::Read, |tail| tail.iter().position(|&byte| byte != 0))?;
        Ok(found.flatten().map(|at| self.size() + at))
    }
    /// Fills the bytes behind the end with zeros.
    pub fn clear_tail(&self) -> Result<()> {
        self.with_tail_alone(Access::Write, |tail| tail.fill(0)).map(drop)
    }
    /// The same, while `resizing` is held.
    pub(super) fn clear_tail_to_grow(&self) -> Result<()> {
        self.with_tail(Access::Write, |tail| tail.fill(0)).map(drop)
    }
    /// Fills the bytes behind the end with zeros in a chunk that is brought in to be overwritten, because the program
    /// writes only its own part.
    pub(super) fn clear_tail_in(&self, index: usize, bytes: &mut [u8]) {
        if index + 1 == self.count() {
            bytes[self.used_in_last()..self.chunk_size()].fill(0);
        }
    }
}
