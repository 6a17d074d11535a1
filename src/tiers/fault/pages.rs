//! How pages get into the region and out again, on every rung of the ladder.
//!
//! * *place* makes the contents of a staging slot appear as a chunk of the region. No thread sees a chunk with some
//!   of its bytes missing or different: absent pages fault, and present pages have their final bytes.
//! * *take* makes a chunk disappear from the region and its contents appear in a slot. Every store to the chunk
//!   either comes before, and is in the slot, or faults.
//!
//! After `place` the slot is empty, after `take` it is full: pages change hands, and their number stays the same.
use super::remapping::{self, close};
use super::userfaultfd::Userfaultfd;
use crate::os::system;
use crate::tiers::mapping::{self, Errno, Span, discard};
use std::time::{Duration, Instant};

/// How pages are moved.
pub enum Pages {
    /// userfaultfd, pages moved (Linux 6.8).
    Move(Userfaultfd),
    /// userfaultfd, pages write-protected and copied (5.7).
    Copy(Userfaultfd),
    /// Page tables moved by mremap. The region is inaccessible where no chunk is in place.
    Remap,
    /// Contents copied by plain loads and stores, for systems that can do nothing better. This is not atomic, so only
    /// acquired chunks may be touched: it serves the mechanism `none` alone.
    Plain,
}

/// Why a chunk could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTaken {
    /// What the system said.
    pub errno: Errno,
    /// Whether the system also refused to undo it. Then some of the pages are in the slot, and the contents are lost;
    /// otherwise the chunk is as it was.
    pub lost: bool,
}
impl From<Errno> for NotTaken {
    fn from(errno: Errno) -> NotTaken {
        NotTaken { errno, lost: false }
    }
}

/// How long the move of a busy page is tried again before the page is copied instead. Pages under direct I/O are free
/// a moment after it; pages shared with a forked child stay busy for good. The processor is not yielded meanwhile,
/// because with many threads that want it this could cost a thousand times as much as the copy.
const PATIENCE: Duration = Duration::from_micros(20);
/// How often a move is tried again that something passing disturbed (EAGAIN).
const REPEATS: usize = 1000;

/// Moves pages, with patience for busy ones. Returns how many bytes went, and the error that stopped it.
fn move_patiently(fd: &Userfaultfd, to: Span, from: Span) -> (usize, Option<Errno>) {
    let (mut moved, mut stopped) = fd.move_pages(to.start, from.start, to.length);
    if is_busy(stopped) {
        let start = Instant::now();
        let mut repeats = 0;
        let again = |stopped, repeats| match stopped {
            Some(Errno(libc::EAGAIN)) => repeats < REPEATS,
            Some(Errno(libc::EBUSY)) => start.elapsed() < PATIENCE,
            _ => false,
        };
        while again(stopped, repeats) {
            repeats += 1;
            core::hint::spin_loop();
            let (more, error) = fd.move_pages(to.start + moved, from.start + moved, to.length - moved);
            moved += more;
            stopped = error;
        }
    }
    (moved, stopped)
}

impl Pages {
    /// The userfaultfd, if there is one.
    pub fn userfaultfd(&self) -> Option<&Userfaultfd> {
        match self {
            Pages::Move(fd) | Pages::Copy(fd) => Some(fd),
            Pages::Remap | Pages::Plain => None,
        }
    }
    /// Whether each chunk in place and each gap between them is a mapping (mappings.rs). Else a region is one.
    pub fn splits_mappings(&self) -> bool {
        matches!(self, Pages::Remap | Pages::Plain)
    }
    /// How a region with no chunk in place is mapped.
    pub fn empty_protection(&self) -> mapping::Protection {
        match self {
            Pages::Move(_) | Pages::Copy(_) => mapping::Protection::ReadWrite,
            Pages::Remap | Pages::Plain => mapping::Protection::Nothing,
        }
    }
    /// Prepares a fresh, empty region with chunks of this size.
    pub fn adopt_region(&self, span: Span, chunk: usize) -> Result<(), Errno> {
        match self.userfaultfd() {
            Some(fd) => {
                mapping::advise_region(span, chunk);
                fd.register(span, true)
            }
            // `close` says why nothing is advised here; pages bring the advice of their slots along.
            None => Ok(()),
        }
    }
    /// Prepares an empty slot.
    pub fn adopt_slot(&self, span: Span) -> Result<(), Errno> {
        match self {
            // Pages can only be moved into registered memory. Only this library touches slots.
            Pages::Move(fd) => fd.register(span, true),
            _ => Ok(()),
        }
    }
    /// Whether a forked child must not inherit slots: pages shared with a child cannot be moved.
    pub fn slots_are_private(&self) -> bool {
        matches!(self, Pages::Move(_))
    }

    /// Gives an empty slot pages of unspecified contents. `nursery`: plain memory of the same length, only for this.
    pub fn fill_slot(&self, slot: Span, nursery: Span) -> Result<(), Errno> {
        let Pages::Move(fd) = self else { return fill(slot) };
        fill(nursery)?;
        let mut result = move_all(fd, slot, nursery);
        if result == Err(Errno(libc::EEXIST)) {
            // The slot still has pages: the system refused to drop them when it was emptied.
            // SAFETY: the caller's own, and holds nothing anybody wants.
            result = unsafe { discard(slot) }.and_then(|()| move_all(fd, slot, nursery));
        }
        if result.is_err() {
            // SAFETY: both are the caller's, and hold nothing anybody wants.
            unsafe {
                let _ = (discard(nursery), discard(slot));
            }
        }
        result
    }

    /// See the top of this file. On failure the chunk is absent and the slot full, as before.
    ///
    /// # Safety
    /// The caller owns the chunk and the slot. The chunk is absent, the slot is full.
    pub unsafe fn place(&self, slot: Span, chunk: Span) -> Result<(), Errno> {
        // SAFETY: by the caller's promise.
        match unsafe { self.place_once(slot, chunk) } {
            // The chunk still has pages: the system refused to drop them when it was vacated.
            // SAFETY: by the caller's promise; nobody wants what an absent chunk holds.
            Err(Errno(libc::EEXIST)) => unsafe {
                discard(chunk)?;
                self.place_once(slot, chunk)
            },
            result => result,
        }
    }
    unsafe fn place_once(&self, slot: Span, chunk: Span) -> Result<(), Errno> {
        // SAFETY: by the caller's promise.
        unsafe {
            match self {
                Pages::Move(fd) => place_by_moving(fd, slot, chunk),
                Pages::Copy(fd) => place_by_copying(fd, slot, chunk),
                Pages::Remap => remapping::place(slot, chunk),
                Pages::Plain => place_plainly(slot, chunk),
            }
        }
    }
    /// Makes huge pages of the small ones that copies have made of a present chunk (Linux 6.1). This costs another
    /// copy, so it is for chunks that will stay. If the system refuses, the chunk works as well, only slower.
    pub fn join(&self, chunk: Span) {
        if matches!(self, Pages::Copy(_)) {
            mapping::advise(chunk, mapping::Advice::OnePage);
        }
    }
    /// Makes sure that a present chunk can be accessed. It always can, except after a failed `take` that the system
    /// refused to undo.
    ///
    /// # Safety
    /// The chunk is present, and stays so until this returns.
    pub unsafe fn open(&self, chunk: Span) -> Result<(), Errno> {
        // SAFETY: by the caller's promise.
        unsafe { remapping::open(chunk) }
    }
    /// Like `open`, without asking the system as long as no chunk was ever left without access.
    ///
    /// # Safety
    /// As for `open`.
    pub unsafe fn open_if_in_doubt(&self, chunk: Span) -> Result<(), Errno> {
        // SAFETY: by the caller's promise.
        if self.splits_mappings() && remapping::is_in_doubt() { unsafe { self.open(chunk) } } else { Ok(()) }
    }

    /// Drops the pages of a chunk, which is absent then.
    ///
    /// # Safety
    /// The caller owns the chunk, and nobody wants its contents any more.
    pub unsafe fn vacate(&self, chunk: Span) {
        match self {
            Pages::Move(fd) | Pages::Copy(fd) if fd.is_open() => {
                // SAFETY: by the caller's promise.
                let _ = unsafe { discard(chunk) };
            }
            // If touching absent pages would not fault, they must be inaccessible.
            // SAFETY: by the caller's promise.
            _ => unsafe { close(chunk) },
        }
    }

    /// See the top of this file. On failure the slot is empty, and the chunk as it was unless [`NotTaken::lost`].
    /// `nursery`: as in `fill_slot`.
    ///
    /// # Safety
    /// The caller owns the chunk and the slot. The chunk is present, the slot is empty.
    pub unsafe fn take(&self, chunk: Span, slot: Span, nursery: Span) -> Result<(), NotTaken> {
        // SAFETY: by the caller's promise.
        match unsafe { self.take_once(chunk, slot, nursery) } {
            // The slot still has pages: the system refused to drop them when it was emptied.
            // SAFETY: by the caller's promise; an empty slot holds nothing that anybody wants.
            Err(NotTaken { errno: Errno(libc::EEXIST), lost: false }) => unsafe {
                discard(slot)?;
                self.take_once(chunk, slot, nursery)
            },
            result => result,
        }
    }
    unsafe fn take_once(&self, chunk: Span, slot: Span, nursery: Span) -> Result<(), NotTaken> {
        // SAFETY: by the caller's promise.
        unsafe {
            match self {
                Pages::Move(fd) => self.take_by_moving(fd, chunk, slot, nursery),
                Pages::Copy(fd) => Ok(take_by_copying(fd, chunk, slot)?),
                Pages::Remap => remapping::take(chunk, slot),
                Pages::Plain => Ok(take_plainly(chunk, slot)?),
            }
        }
    }
    /// `take` for [`Pages::Move`]: page by page.
    ///
    /// # Safety
    /// As for `take`.
    unsafe fn take_by_moving(
        &self,
        fd: &Userfaultfd,
        chunk: Span,
        slot: Span,
        nursery: Span,
    ) -> Result<(), NotTaken> {
        let (moved, stopped) = move_patiently(fd, slot, chunk);
        if moved == chunk.length {
            return Ok(());
        }
        let (chunk_left, slot_left) = (rest(chunk, moved), rest(slot, moved));
        // The rest is shared with a forked child, or held by direct I/O: protect these pages and copy them.
        let result = match stopped {
            Some(error) if !is_busy(Some(error)) => Err(error),
            _ => self.fill_slot(slot_left, Span { length: slot_left.length, ..nursery }).and_then(|()| {
                // SAFETY: chunk and slot are the caller's, and nobody uses the nursery. It is emptied first, because
                // a huge page may have been made of which only a part was needed. If the copy fails the slot must not
                // keep its new pages.
                unsafe {
                    // If the system refuses to drop them, they are dropped when the slot gets its next pages.
                    let leave = |_: &Errno| _ = discard(slot_left);
                    discard(nursery).and_then(|()| copy_out(fd, chunk_left, slot_left)).inspect_err(leave)
                }
            }),
        };
        result.map_err(|errno| NotTaken { errno, lost: !move_back(fd, chunk, slot, moved) })
    }
}

/// [`Pages::place`] for [`Pages::Move`]: page by page.
///
/// # Safety
/// As for `Pages::place`.
unsafe fn place_by_moving(fd: &Userfaultfd, slot: Span, chunk: Span) -> Result<(), Errno> {
    let (moved, _) = move_patiently(fd, chunk, slot);
    if moved < chunk.length {
        // Pages under direct I/O, or shared with a forked child, are copied.
        let (copied, error) = fd.copy(chunk.start + moved, slot.start + moved, chunk.length - moved);
        if let Some(error) = error {
            // SAFETY: the caller owns the chunk and the slot. What has arrived in the chunk goes back.
            unsafe { put_back(fd, slot, chunk, moved, moved + copied) };
            return Err(error);
        }
        // SAFETY: their contents are in the chunk.
        let _ = unsafe { discard(rest(slot, moved)) };
    }
    Ok(())
}
/// [`Pages::place`] for [`Pages::Copy`].
///
/// # Safety
/// As for `Pages::place`.
unsafe fn place_by_copying(fd: &Userfaultfd, slot: Span, chunk: Span) -> Result<(), Errno> {
    let (copied, error) = fd.copy(chunk.start, slot.start, chunk.length);
    match error {
        None => {
            // SAFETY: their contents are in the chunk.
            let _ = unsafe { discard(slot) };
            Ok(())
        }
        Some(error) => {
            if copied > 0 {
                // Another thread may have stored into the pages that are there already, so these are copied back.
                // SAFETY: chunk and slot are the caller's, the slot full, and `copied` bytes of the chunk present.
                unsafe { copy_out(fd, Span { length: copied, ..chunk }, slot) }?;
            }
            Err(error)
        }
    }
}
/// Undoes a `place` that failed half-way: the first `moved` bytes have gone from the slot to the chunk, and the bytes
/// from there to `present` were copied into the chunk.
///
/// # Safety
/// The caller owns the chunk and the slot.
unsafe fn put_back(fd: &Userfaultfd, slot: Span, chunk: Span, moved: usize, present: usize) {
    let (back, stopped) = move_patiently(fd, part(slot, 0..moved), part(chunk, 0..moved));
    if is_busy(stopped) {
        // The system holds these pages, perhaps for good, as for direct I/O of the program. So copy them.
        let left = part(chunk, back..moved);
        // SAFETY: the chunk is the caller's. Nobody can store into it between its protection and the discard.
        unsafe {
            let copied = fd.write_protect(left, true).and_then(|()| {
                match fd.copy(slot.start + back, left.start, left.length) {
                    (_, None) => discard(left),
                    (_, Some(error)) => Err(error),
                }
            });
            let _ = copied.inspect_err(|_| _ = fd.write_protect(left, false));
        }
    }
    if present > moved {
        let pages = moved..present;
        // SAFETY: the caller owns both. Stores that reached the copies meanwhile go back over the slot's pages.
        let _ = unsafe { copy_out(fd, part(chunk, pages.clone()), part(slot, pages)) };
    }
}
/// Undoes a `take` that failed half-way: the first `moved` bytes go back to the chunk, by moves, else by copies. Returns
/// false if the system allows neither.
fn move_back(fd: &Userfaultfd, chunk: Span, slot: Span, moved: usize) -> bool {
    let mut back = 0;
    while back < moved {
        // Nothing holds these pages, since they were moved only a moment ago.
        let (more, stopped) = fd.move_pages(chunk.start + back, slot.start + back, moved - back);
        back += more;
        if more == 0 && !is_busy(stopped) {
            let (copied, _) = fd.copy(chunk.start + back, slot.start + back, moved - back);
            back += copied;
            if copied == 0 {
                return false;
            }
        }
    }
    true
}
/// [`Pages::take`] for [`Pages::Copy`].
///
/// # Safety
/// As for `Pages::take`.
unsafe fn take_by_copying(fd: &Userfaultfd, chunk: Span, slot: Span) -> Result<(), Errno> {
    fill(slot)?;
    // SAFETY: by the caller's promise.
    unsafe { copy_out(fd, chunk, slot) }.inspect_err(|_| {
        // SAFETY: the slot is the caller's and holds nothing yet.
        let _ = unsafe { discard(slot) };
    })
}
/// [`Pages::place`] for [`Pages::Plain`].
///
/// # Safety
/// As for `Pages::place`; and nobody touches the chunk until it is placed.
unsafe fn place_plainly(slot: Span, chunk: Span) -> Result<(), Errno> {
    // SAFETY: nobody else touches the caller's chunk and slot. The chunk gets pages and contents, or stays absent.
    unsafe {
        system::protect(chunk.start, chunk.length, libc::PROT_READ | libc::PROT_WRITE)?;
        mapping::advise_region(chunk, chunk.length);
        mapping::populate(chunk).inspect_err(|_| close(chunk))?;
        copy(slot, chunk);
        let _ = discard(slot);
    }
    Ok(())
}
/// [`Pages::take`] for [`Pages::Plain`].
///
/// # Safety
/// As for `Pages::take`; and nobody touches the chunk any more.
unsafe fn take_plainly(chunk: Span, slot: Span) -> Result<(), Errno> {
    // SAFETY: nobody else touches the caller's chunk and slot. The slot gets pages and contents, or stays empty.
    unsafe {
        mapping::populate(slot).inspect_err(|_| _ = discard(slot))?;
        copy(chunk, slot);
        close(chunk);
    }
    Ok(())
}
/// # Safety
/// Both ranges are the caller's, of the same length, apart, and present. Nobody writes to either meanwhile.
pub(super) unsafe fn copy(from: Span, to: Span) {
    // SAFETY: by the caller's promise.
    unsafe {
        core::ptr::copy_nonoverlapping(from.pointer().cast::<u8>(), to.pointer().cast::<u8>(), from.length);
    }
}

/// Whether the error says that the system only holds on to pages for a while.
pub fn is_busy(error: Option<Errno>) -> bool {
    matches!(error, Some(Errno(libc::EBUSY | libc::EAGAIN)))
}
/// Makes all pages of a span of ours that holds nothing. On failure drops them: no budget is charged for them.
pub(super) fn fill(span: Span) -> Result<(), Errno> {
    mapping::populate(span).inspect_err(|_| {
        // SAFETY: the caller's own, and holds nothing anybody wants.
        let _ = unsafe { discard(span) };
    })
}
fn part(span: Span, bytes: core::ops::Range<usize>) -> Span {
    Span { start: span.start + bytes.start, length: bytes.len() }
}
fn rest(span: Span, done: usize) -> Span {
    part(span, done..span.length)
}
fn move_all(fd: &Userfaultfd, to: Span, from: Span) -> Result<(), Errno> {
    let (moved, stopped) = move_patiently(fd, to, from);
    match stopped {
        None => return Ok(()),
        Some(error) if !is_busy(Some(error)) => return Err(error),
        Some(_) => {}
    }
    // The system holds on to a page, so the rest is copied.
    let (_, error) = fd.copy(to.start + moved, from.start + moved, to.length - moved);
    // SAFETY: the range is the caller's, and its contents have been moved or copied.
    let _ = unsafe { discard(from) };
    error.map_or(Ok(()), Err)
}
/// Stops all stores to `chunk`, copies it into `slot`, and drops its pages.
///
/// # Safety
/// The caller owns both ranges, and both are present.
unsafe fn copy_out(fd: &Userfaultfd, chunk: Span, slot: Span) -> Result<(), Errno> {
    fd.write_protect(chunk, true).inspect_err(|_| {
        let _ = fd.write_protect(chunk, false); // for the part that was protected before the failure
    })?;
    // SAFETY: both are the caller's, equally long, apart, and nobody can store into either. Others may still read.
    unsafe {
        core::ptr::copy_nonoverlapping(
            chunk.pointer().cast::<u8>(),
            slot.pointer().cast::<u8>(),
            chunk.length,
        );
        discard(chunk).inspect_err(|_| {
            let _ = fd.write_protect(chunk, false); // it stays, as it was
        })
    }
}

#[cfg(test)]
mod tests;
