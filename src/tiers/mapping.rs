//! Ranges of address space: reserving them, advising the system about them, giving them back.
use crate::os::map::{self, HUGE_PAGE, PAGE};
use crate::os::system;
pub use crate::os::system::Errno;

/// A range of whole pages. It only says where the pages are, not who owns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: usize,
    /// Bytes.
    pub length: usize,
}
impl Span {
    /// The address as a pointer.
    pub fn pointer(self) -> *mut libc::c_void {
        self.start as *mut libc::c_void
    }
    /// Whether `address` is inside.
    pub fn contains(self, address: usize) -> bool {
        address.wrapping_sub(self.start) < self.length
    }
}

/// What may be done with a fresh mapping.
#[derive(Clone, Copy, PartialEq)]
pub enum Protection {
    /// Nothing: every touch is a fault.
    Nothing,
    /// Read and write.
    ReadWrite,
}

/// Address space of the library's own, unmapped when dropped.
pub struct Mapping(Span);
impl Mapping {
    /// Reserves `length` bytes at a multiple of `alignment` (a power of two). Takes no RAM until touched.
    pub fn reserve(length: usize, alignment: usize, protection: Protection) -> Option<Mapping> {
        let alignment = alignment.max(PAGE);
        let room = length.checked_next_multiple_of(PAGE)?.checked_add(alignment - PAGE)?;
        let start = system::map(room, libc::PROT_NONE).ok()?;
        let aligned = start.next_multiple_of(alignment);
        let length = length.next_multiple_of(PAGE);
        // SAFETY: both ends belong to the mapping just made, and nobody else knows of them.
        unsafe {
            map::unmap(start, aligned - start);
            map::unmap(aligned + length, start + room - aligned - length);
        }
        let mapping = Mapping(Span { start: aligned, length });
        if protection == Protection::ReadWrite {
            // If the program has locked all its future memory (mlockall), accessible memory would have pages from the
            // first moment on: more than there may be, and no touch of them would fault.
            system::unlock(aligned, length);
            // SAFETY: this only adds access to the library's own mapping.
            unsafe { system::protect(aligned, length, libc::PROT_READ | libc::PROT_WRITE) }.ok()?;
        }
        Some(mapping)
    }
    /// All of it.
    pub fn span(&self) -> Span {
        self.0
    }
    /// A part of it.
    pub fn part(&self, offset: usize, length: usize) -> Span {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.0.length), "outside the mapping");
        Span { start: self.0.start + offset, length }
    }
}
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is the library's own, and its owner is gone.
        unsafe { map::unmap(self.0.start, self.0.length) };
    }
}

/// Advice that changes how pages are made or inherited, never what they hold.
#[derive(Clone, Copy)]
#[repr(i32)]
pub enum Advice {
    /// Back with huge pages.
    HugePages = libc::MADV_HUGEPAGE,
    /// Make huge pages of the small ones now (Linux 6.1).
    OnePage = libc::MADV_COLLAPSE,
    /// Never back with huge pages.
    SmallPages = libc::MADV_NOHUGEPAGE,
    /// A forked child inherits the range without the pages.
    NotInherited = libc::MADV_WIPEONFORK,
    /// Not into core dumps.
    NotDumped = libc::MADV_DONTDUMP,
}
/// Gives advice. It is no error if the kernel does not know it.
pub fn advise(span: Span, advice: Advice) {
    // SAFETY: none of these changes the contents of memory.
    let _ = unsafe { system::advise(span.start, span.length, advice as i32) };
}
/// Advises how a region or slot with chunks of this size is backed. Both must have the same advice, or moving pages
/// costs a hundred times as much.
pub fn advise_pages(span: Span, chunk: usize) {
    advise(span, if chunk.is_multiple_of(HUGE_PAGE) { Advice::HugePages } else { Advice::SmallPages });
}
/// Gives all advice for memory that stays where it is and has chunks of this size.
pub fn advise_region(span: Span, chunk: usize) {
    advise_pages(span, chunk);
    advise(span, Advice::NotDumped);
}
/// Makes all pages of the caller's own range present, and accessible.
pub fn populate(span: Span) -> Result<(), Errno> {
    // SAFETY: this makes pages present and never changes what they hold.
    match unsafe { system::advise(span.start, span.length, libc::MADV_POPULATE_WRITE) } {
        Err(Errno(libc::EINVAL)) => {
            // Either this is Linux before 5.14, or the range has no access, because the system refused to give it
            // back (`Pages::take`). So give access, and make the pages by touching them: writing back what was read
            // changes nothing.
            // SAFETY: this only adds access to the caller's own range.
            unsafe { system::protect(span.start, span.length, libc::PROT_READ | libc::PROT_WRITE) }?;
            for page in (span.start..span.start + span.length).step_by(PAGE) {
                let page = page as *mut u8;
                // SAFETY: the page is inside the caller's own range, which is readable and writable by now.
                unsafe { page.write_volatile(page.read_volatile()) };
            }
            Ok(())
        }
        result => result,
    }
}
/// Whether the page at `address` is in RAM. A page that is swapped out is not.
pub fn is_present(address: usize) -> bool {
    let mut seen = 0u8;
    // SAFETY: the call writes one byte, for which `seen` has room, and only asks about the page.
    unsafe { libc::mincore(address as *mut libc::c_void, PAGE, &mut seen) == 0 && seen & 1 != 0 }
}
/// Gives the pages of a range back to the system, even locked ones (a program may have called mlockall).
///
/// # Safety
/// The range is private anonymous memory of the caller, who no longer needs its contents.
pub unsafe fn discard(span: Span) -> Result<(), Errno> {
    // SAFETY: by the caller's promise.
    unsafe {
        system::advise(span.start, span.length, libc::MADV_DONTNEED).or_else(|_| {
            system::unlock(span.start, span.length);
            system::advise(span.start, span.length, libc::MADV_DONTNEED)
        })
    }
}
