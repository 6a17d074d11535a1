//! How pages get into the region and out again, on every rung of the ladder.
//!
//! * *place* makes the contents of a staging slot appear as a chunk of the region. No thread sees the chunk with a
//!   part of its bytes missing or different: what is not there yet faults, what is there is final.
//! * *take* makes a chunk disappear from the region and its contents appear in a slot. Every store to the chunk
//!   either comes before and is in the slot, or faults.
//!
//! After `place` the slot is empty, after `take` it is full: pages change hands, their number stays the same.
use super::userfaultfd::Userfaultfd;
use crate::os::system;
use crate::tiers::mapping::{self, Errno, Span, discard};
use std::time::{Duration, Instant};

/// What moves pages.
pub enum Pages {
    /// userfaultfd, pages moved (Linux 6.8).
    Move(Userfaultfd),
    /// userfaultfd, pages write-protected and copied (5.7).
    Copy(Userfaultfd),
    /// Page tables moved by mremap; the region is inaccessible where no chunk is.
    Remap,
    /// Contents copied by plain loads and stores, for systems that can do none of these. Not in one step, so only chunks that
    /// are acquired may be touched: for the mechanism `none` alone.
    Plain,
}

/// How long a busy page is tried again before it is copied instead. Pages under direct I/O are free a moment after it;
/// those shared with a forked child stay busy for good. The processor is not yielded meanwhile: where many threads want
/// it, that could cost a thousand times as much as the copy.
const PATIENCE: Duration = Duration::from_micros(20);
/// How often a move is tried again that the system says was disturbed by something that passes (EAGAIN).
const REPEATS: usize = 1000;

/// Moves pages, with patience. Gives how many bytes went, and the error that stopped it.
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
    /// Whether each chunk in place is a mapping to the system, beside what is between them (mappings.rs); else a region is one.
    pub fn splits_mappings(&self) -> bool {
        matches!(self, Pages::Remap | Pages::Plain)
    }
    /// How a region without chunks is mapped.
    pub fn empty_access(&self) -> mapping::Access {
        match self {
            Pages::Move(_) | Pages::Copy(_) => mapping::Access::ReadWrite,
            Pages::Remap | Pages::Plain => mapping::Access::Nothing,
        }
    }
    /// Prepares a fresh, empty region with chunks of this size.
    pub fn adopt_region(&self, span: Span, chunk: usize) -> Result<(), Errno> {
        match self.userfaultfd() {
            Some(fd) => {
                mapping::advise_region(span, chunk);
                fd.register(span, true)
            }
            // What is advised for slots goes with their pages (see `close`).
            None => Ok(()),
        }
    }
    /// Prepares an empty slot.
    pub fn adopt_slot(&self, span: Span) -> Result<(), Errno> {
        match self {
            // Pages can only be moved into registered memory. Others than us never touch slots.
            Pages::Move(fd) => fd.register(span, true),
            _ => Ok(()),
        }
    }
    /// Whether a forked child must not inherit slots: pages shared with a child cannot be moved.
    pub fn slots_are_private(&self) -> bool {
        matches!(self, Pages::Move(_))
    }

    /// Gives an empty slot pages of unspecified contents. `nursery` is as long, plain memory that only serves this.
    pub fn fill_slot(&self, slot: Span, nursery: Span) -> Result<(), Errno> {
        let Pages::Move(fd) = self else { return fill(slot) };
        fill(nursery)?;
        let mut result = move_all(fd, slot, nursery);
        if result == Err(Errno(libc::EEXIST)) {
            // The slot was to be emptied, and the system refused at the time.
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
    /// The caller owns both; the chunk is absent, the slot full.
    pub unsafe fn place(&self, slot: Span, chunk: Span) -> Result<(), Errno> {
        // SAFETY: by the caller's promise.
        match unsafe { self.place_once(slot, chunk) } {
            // The chunk's pages were to be dropped, and the system refused at the time.
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
                Pages::Remap => place_by_remapping(slot, chunk),
                Pages::Plain => place_plainly(slot, chunk),
            }
        }
    }
    /// Makes a huge page of a present chunk's small ones, where copies have made it (Linux 6.1). Costs another copy, so it
    /// is for chunks that will stay. Where the system refuses, they work as well, only slower.
    pub fn join(&self, chunk: Span) {
        if matches!(self, Pages::Copy(_)) {
            mapping::advise(chunk, mapping::Advice::OnePage);
        }
    }
    /// Makes sure that a present chunk can be accessed. It always can, except after a `take` that failed and that the system
    /// refused to undo.
    ///
    /// # Safety
    /// The chunk is present, and stays so meanwhile.
    pub unsafe fn open(&self, chunk: Span) -> Result<(), Errno> {
        // SAFETY: gives access, takes none.
        unsafe { system::protect(chunk.start, chunk.length, libc::PROT_READ | libc::PROT_WRITE) }
    }

    /// Drops the pages of a chunk; it is absent afterwards.
    ///
    /// # Safety
    /// The caller owns the chunk, and nobody wants its contents any more.
    pub unsafe fn vacate(&self, chunk: Span) {
        match self {
            Pages::Move(fd) | Pages::Copy(fd) if fd.is_open() => {
                // SAFETY: by the caller's promise.
                let _ = unsafe { discard(chunk) };
            }
            // Where no touch of what is absent would be a fault, it must be inaccessible.
            // SAFETY: by the caller's promise.
            _ => unsafe { close(chunk) },
        }
    }

    /// See the top of this file. On failure the chunk is as it was and the slot empty. `nursery` as in `fill_slot`.
    ///
    /// # Safety
    /// The caller owns both; the chunk is present, the slot empty.
    pub unsafe fn take(&self, chunk: Span, slot: Span, nursery: Span) -> Result<(), Errno> {
        // SAFETY: by the caller's promise.
        match unsafe { self.take_once(chunk, slot, nursery) } {
            // The slot was to be emptied, and the system refused at the time.
            // SAFETY: by the caller's promise; an empty slot holds nothing that anybody wants.
            Err(Errno(libc::EEXIST)) => unsafe {
                discard(slot)?;
                self.take_once(chunk, slot, nursery)
            },
            result => result,
        }
    }
    unsafe fn take_once(&self, chunk: Span, slot: Span, nursery: Span) -> Result<(), Errno> {
        // SAFETY: by the caller's promise.
        unsafe {
            match self {
                Pages::Move(fd) => self.take_by_moving(fd, chunk, slot, nursery),
                Pages::Copy(fd) => take_by_copying(fd, chunk, slot),
                Pages::Remap => self.take_by_remapping(chunk, slot),
                Pages::Plain => take_plainly(chunk, slot),
            }
        }
    }
    /// `take`, page by page.
    ///
    /// # Safety
    /// The same.
    unsafe fn take_by_moving(
        &self,
        fd: &Userfaultfd,
        chunk: Span,
        slot: Span,
        nursery: Span,
    ) -> Result<(), Errno> {
        let (moved, stopped) = move_patiently(fd, slot, chunk);
        if moved == chunk.length {
            return Ok(());
        }
        let (chunk_left, slot_left) = (rest(chunk, moved), rest(slot, moved));
        // Pages shared with a forked child, or held by direct I/O: protect and copy them.
        let result = match stopped {
            Some(error) if !is_busy(Some(error)) => Err(error),
            _ => self.fill_slot(slot_left, Span { length: slot_left.length, ..nursery }).and_then(|()| {
                // SAFETY: a huge page may have been made where a part was wanted: what is left of it serves
                // nobody. Then the rest of the caller's chunk, and of its slot, which now has pages and, on
                // failure, must not keep them.
                unsafe {
                    // Where the system refuses that too, the pages are given back with the slot's next ones.
                    let leave = |_: &Errno| _ = discard(slot_left);
                    discard(nursery).and_then(|()| copy_out(fd, chunk_left, slot_left)).inspect_err(leave)
                }
            }),
        };
        result.inspect_err(|_| move_back(fd, chunk, slot, moved))
    }
    /// `take`, all pages at once.
    ///
    /// # Safety
    /// The same.
    unsafe fn take_by_remapping(&self, chunk: Span, slot: Span) -> Result<(), Errno> {
        // SAFETY: only changes what may be done with the caller's chunk: from here on stores fault.
        unsafe { system::protect(chunk.start, chunk.length, libc::PROT_NONE) }?;
        // SAFETY: replaces the slot, which is empty and the caller's; the chunk stays mapped, inaccessible.
        let moved = unsafe { system::remap(chunk.start, chunk.length, chunk.length, REMAP, slot.start) };
        if let Err(error) = moved {
            // SAFETY: the chunk did not move, so it is present, and the caller's; the slot is empty still.
            unsafe {
                // Where the process has as many mappings as it may have, chunks have to leave without one.
                if error == Errno(libc::ENOMEM) && take_by_reading(chunk, slot).is_ok() {
                    return Ok(());
                }
                let _ = self.open(chunk);
            }
            return Err(error);
        }
        // SAFETY: the slot's new pages, the caller's alone.
        if let Err(error) = unsafe { self.open(slot) } {
            // SAFETY: they go back where they came from.
            unsafe {
                system::remap(slot.start, slot.length, slot.length, REMAP, chunk.start)?;
                let _ = self.open(chunk);
            }
            return Err(error);
        }
        // SAFETY: the chunk is empty.
        unsafe { close(chunk) };
        Ok(())
    }
}

/// [`Pages::take`] of a chunk that nobody can store into any more, by copying. On failure it is inaccessible still.
///
/// # Safety
/// The caller owns both; the chunk is present, and inaccessible; the slot is empty.
unsafe fn take_by_reading(chunk: Span, slot: Span) -> Result<(), Errno> {
    fill(slot)?;
    // SAFETY: two ranges of the caller's, as long as each other and apart, both present. Other threads may read the chunk
    // meanwhile, and store into neither.
    unsafe {
        system::protect(chunk.start, chunk.length, libc::PROT_READ).inspect_err(|_| _ = discard(slot))?;
        copy(chunk, slot);
        close(chunk);
    }
    Ok(())
}

/// [`Pages::place`], page by page.
///
/// # Safety
/// The same.
unsafe fn place_by_moving(fd: &Userfaultfd, slot: Span, chunk: Span) -> Result<(), Errno> {
    let (moved, _) = move_patiently(fd, chunk, slot);
    if moved < chunk.length {
        // Pages under direct I/O, or shared with a child: copies do as well.
        let (copied, error) = fd.copy(chunk.start + moved, slot.start + moved, chunk.length - moved);
        if let Some(error) = error {
            // SAFETY: what has arrived goes back; the chunk is still the caller's to claim.
            unsafe { put_back(fd, slot, chunk, moved, moved + copied) };
            return Err(error);
        }
        // SAFETY: their contents are in the chunk.
        let _ = unsafe { discard(rest(slot, moved)) };
    }
    Ok(())
}
/// [`Pages::place`], where pages cannot be moved.
///
/// # Safety
/// The same.
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
                // A thread may have stored into what was there already: it has to be kept.
                // SAFETY: both are the caller's; the slot is full, and so much of the chunk is present.
                unsafe { copy_out(fd, Span { length: copied, ..chunk }, slot) }?;
            }
            Err(error)
        }
    }
}
/// [`Pages::place`], all pages at once.
///
/// # Safety
/// The same.
unsafe fn place_by_remapping(slot: Span, chunk: Span) -> Result<(), Errno> {
    // SAFETY: replaces the chunk, which is inaccessible, in one step; the slot stays mapped and empty.
    unsafe { system::remap(slot.start, slot.length, slot.length, REMAP, chunk.start) }.map(|_| ())
}
/// After a `place` that failed half-way: bytes up to `moved` have gone from the slot, up to `present` are in the
/// chunk. Brings them back.
///
/// # Safety
/// The caller owns both.
unsafe fn put_back(fd: &Userfaultfd, slot: Span, chunk: Span, moved: usize, present: usize) {
    let (back, stopped) = move_patiently(fd, part(slot, 0..moved), part(chunk, 0..moved));
    if is_busy(stopped) {
        // Held by the system, perhaps for good: direct I/O of the program's has found them a moment ago. Copies do as well.
        let left = part(chunk, back..moved);
        // SAFETY: the caller's own; nobody can store into it while it is copied, and then it is gone.
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
        // SAFETY: the copies; stores that went into them meanwhile are copied back over the slot's pages.
        let _ = unsafe { copy_out(fd, part(chunk, pages.clone()), part(slot, pages)) };
    }
}
/// After a `take` that failed half-way: brings bytes up to `moved` back, by moves, or copies where the system refuses those
/// as well.
fn move_back(fd: &Userfaultfd, chunk: Span, slot: Span, moved: usize) {
    let mut back = 0;
    while back < moved {
        // Nothing holds these pages: they were moved a moment ago.
        let (more, stopped) = fd.move_pages(chunk.start + back, slot.start + back, moved - back);
        back += more;
        if more == 0 && !is_busy(stopped) {
            let (copied, _) = fd.copy(chunk.start + back, slot.start + back, moved - back);
            back += copied;
            if copied == 0 {
                return;
            }
        }
    }
}
/// [`Pages::take`], where pages cannot be moved.
///
/// # Safety
/// The same.
unsafe fn take_by_copying(fd: &Userfaultfd, chunk: Span, slot: Span) -> Result<(), Errno> {
    fill(slot)?;
    // SAFETY: by the caller's promise.
    unsafe { copy_out(fd, chunk, slot) }.inspect_err(|_| {
        // SAFETY: the slot is the caller's and holds nothing yet.
        let _ = unsafe { discard(slot) };
    })
}
/// [`Pages::place`], where nobody else touches the chunk.
///
/// # Safety
/// The same; and nobody touches the chunk until it is placed.
unsafe fn place_plainly(slot: Span, chunk: Span) -> Result<(), Errno> {
    // SAFETY: gives access to what is the caller's; then, by its promise, the chunk has pages and gets the slot's contents,
    // or is absent as before.
    unsafe {
        system::protect(chunk.start, chunk.length, libc::PROT_READ | libc::PROT_WRITE)?;
        mapping::advise_region(chunk, chunk.length);
        mapping::populate(chunk).inspect_err(|_| close(chunk))?;
        copy(slot, chunk);
        let _ = discard(slot);
    }
    Ok(())
}
/// [`Pages::take`], where nobody else touches the chunk.
///
/// # Safety
/// The same; and nobody touches the chunk any more.
unsafe fn take_plainly(chunk: Span, slot: Span) -> Result<(), Errno> {
    // SAFETY: by the caller's promise the slot, which has pages then or is empty as before, gets the chunk's contents.
    unsafe {
        mapping::populate(slot).inspect_err(|_| _ = discard(slot))?;
        copy(chunk, slot);
        close(chunk);
    }
    Ok(())
}
/// # Safety
/// Two ranges of the caller's, as long as each other and apart, both present; nobody writes to either meanwhile.
unsafe fn copy(from: Span, to: Span) {
    // SAFETY: by the caller's promise.
    unsafe {
        core::ptr::copy_nonoverlapping(from.pointer().cast::<u8>(), to.pointer().cast::<u8>(), from.length);
    }
}

const REMAP: libc::c_int = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;

/// Puts a fresh inaccessible mapping in the chunk's place, which the kernel can merge with its neighbours as long as nothing is
/// advised for either: the number of mappings of a process is limited.
///
/// # Safety
/// The caller owns the chunk, and nobody wants its contents any more.
unsafe fn close(chunk: Span) {
    // SAFETY: by the caller's promise.
    if unsafe { system::map_over(chunk.start, chunk.length, libc::PROT_NONE) }.is_err() {
        // No room for another mapping: drop the pages and forbid access instead.
        // SAFETY: by the caller's promise.
        unsafe {
            let _ = system::protect(chunk.start, chunk.length, libc::PROT_NONE);
            let _ = discard(chunk);
        }
    }
}

/// Whether the system only holds on to pages for a while.
pub fn is_busy(error: Option<Errno>) -> bool {
    matches!(error, Some(Errno(libc::EBUSY | libc::EAGAIN)))
}
/// Makes all pages of a span of ours, which holds nothing; on failure none, where the system has made some: nobody has charged
/// them to a budget.
fn fill(span: Span) -> Result<(), Errno> {
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
    // The system holds on to a page. A copy does as well.
    let (_, error) = fd.copy(to.start + moved, from.start + moved, to.length - moved);
    // SAFETY: the caller's own; what it held has been moved or copied.
    let _ = unsafe { discard(from) };
    error.map_or(Ok(()), Err)
}
/// Stops all stores to `chunk`, copies it into `slot`, and drops it.
///
/// # Safety
/// The caller owns both, and both are present.
unsafe fn copy_out(fd: &Userfaultfd, chunk: Span, slot: Span) -> Result<(), Errno> {
    fd.write_protect(chunk, true).inspect_err(|_| {
        let _ = fd.write_protect(chunk, false); // what was protected before the failure
    })?;
    // SAFETY: two ranges of the caller's, as long as each other, apart; nobody can store into either any more.
    // Other threads may still read the chunk: reads do not conflict.
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
