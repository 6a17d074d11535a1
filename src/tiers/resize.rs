//! Changes a region's size in place. moving.rs moves a region that grows beyond its address space.
use super::chunk_error::ChunkError;
use super::claims::Claimant;
use super::region::Region;
use super::table;
use super::waiting::End;
use super::workspace;
use crate::error::{Result, fail};
use crate::os::map::PAGE;
use core::sync::atomic::{Ordering::*, fence};

impl Region {
    /// Changes the size in place if the reserved address space allows. Returns false if it does not. The bytes it
    /// grows by are zeros from the next chunk boundary on; tail.rs clears those before it.
    pub(super) fn resize(&self, size: usize) -> Result<bool> {
        let (old, new) = (self.count(), size.div_ceil(self.chunk_size()));
        if self.is_resident() || new > self.table().capacity() {
            return Ok(self.is_resident() && self.resize_resident(size, new));
        }
        let (account, length) = (self.engine().account(), new * self.chunk_size());
        if new > old {
            let more = length - old * self.chunk_size();
            let records = self.records.load(Relaxed);
            let room = self.engine().guarantee(|account| account.extend(more));
            if !room.map_err(ChunkError::error)? {
                return Err(ChunkError::NoRoomBeside.error());
            }
            if self.prepaid && !self.prepay(new) {
                account.shorten(more);
                return fail!(OutOfMemory, "the budget has no room for the records of {} chunks", new - old);
            }
            if account.limit() != 0
                && let Err(error) = self.spill_space().take(old, new - old)
            {
                account.shorten(more);
                if self.prepaid {
                    account.discharge_records(self.records.swap(records, Relaxed) - records);
                }
                return Err(error);
            }
            self.extent.store(length, Relaxed);
        }
        self.size.store(size, Relaxed);
        fence(SeqCst); // see `Region::bring_claimed`
        for index in new..old {
            self.forget(Claimant::Leaver, index);
        }
        if new < old {
            self.spill_space().shorten(new);
            account.shorten(self.extent.swap(length, Relaxed) - length);
            self.give_back_records(new, old);
        }
        Ok(true)
    }
    /// Charges bytes of records. Returns false if there is no room for them.
    pub(super) fn charge_more_records(&self, bytes: usize) -> bool {
        let charged = workspace::with(false, |workspace| self.engine().charge_records(bytes, workspace));
        if charged {
            self.records.fetch_add(bytes, Relaxed);
        }
        charged
    }
    /// Gives back, by whole pages, the records of the chunks from `new` to `old`, which are gone. A page stays
    /// charged if another thread that has not yet seen that the chunk is gone has one of its records claimed at this
    /// moment.
    fn give_back_records(&self, new: usize, old: usize) {
        for first in (new.next_multiple_of(table::RECORDS_PER_PAGE)..old).step_by(table::RECORDS_PER_PAGE) {
            if !self.is_record_charged(first) {
                continue;
            }
            self.begin_transit(Claimant::Leaver);
            if self.table().forget_page(first) {
                self.records.fetch_sub(PAGE, Relaxed);
                self.engine().account().discharge_records(PAGE);
            }
            self.end_transit(End::Progress);
        }
    }
    /// Resizes a region that is in place for good. What is cut off stays in place and charged, so the region can grow
    /// again up to its first extent.
    fn resize_resident(&self, size: usize, count: usize) -> bool {
        // Compared before anything is multiplied: any size may be asked for.
        let (old, fits) = (self.size(), size > 0 && size <= self.extent.load(Relaxed));
        if fits && size > old {
            let length = count * self.chunk_size();
            // SAFETY: the range is in place for good and belongs to the region: it begins behind the program's bytes
            // and ends with the new last chunk.
            unsafe { core::ptr::write_bytes((self.start() + old) as *mut u8, 0, length - old) };
        }
        if fits {
            self.size.store(size, Relaxed);
        }
        fits
    }
}
