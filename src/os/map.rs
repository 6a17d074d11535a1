//! Mapped memory of the heap and of the library's records: aligned ranges, huge pages, moving without copies.
use super::system::{self, Errno};

/// Bytes of a page. Some aarch64 kernels have larger pages; there no heap can be made: see [`pages_are_supported`].
pub const PAGE: usize = 4096;
/// Bytes of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// Whether the system's pages have the length that this library counts on.
pub fn pages_are_supported() -> bool {
    // SAFETY: sysconf only returns a value.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) == PAGE as libc::c_long }
}

/// Rounds `size` up to whole pages, or down to the last multiple of a page if there is none above it.
pub const fn round_to_page(size: usize) -> usize {
    size.saturating_add(PAGE - 1) & !(PAGE - 1)
}

const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Maps `length` bytes (whole pages) of zeroed memory. Their address plus `offset` is a multiple of `alignment`, a
/// power of two that is at least a page. Pages cost nothing until they are touched.
///
/// Not even where the system makes huge pages of everything: parts that are never touched must not become resident with
/// others that are. [`advise_huge`] asks for huge pages.
pub fn map(length: usize, alignment: usize, offset: usize) -> Option<usize> {
    let address = aligned(length, alignment, offset, system::map)?;
    if length >= HUGE_PAGE {
        // SAFETY: this changes how pages are made. A system without huge pages refuses it, which does not matter.
        let _ = unsafe { system::advise(address, length, libc::MADV_NOHUGEPAGE) };
    }
    Some(address)
}

/// Maps memory as [`map`] does, for a block all of whose bytes may be written. Where the system refuses malloc a
/// length that the machine can never hold, it refuses that here too, while [`map`] may reserve more than there is.
pub fn map_to_fill(length: usize, alignment: usize, offset: usize) -> Option<usize> {
    aligned(length, alignment, offset, system::map_accounted).or_else(|| {
        // The bytes that were asked for beyond `length`, for the alignment, are not to count. So this tries `length`
        // alone.
        let trial = system::map_accounted(length, READ_WRITE).ok()?;
        // SAFETY: mapped just now, and nobody has seen it.
        unsafe { unmap(trial, length) };
        map(length, alignment, offset)
    })
}

fn aligned(
    length: usize,
    alignment: usize,
    offset: usize,
    map: fn(usize, libc::c_int) -> Result<usize, Errno>,
) -> Option<usize> {
    debug_assert!(length.is_multiple_of(PAGE) && offset.is_multiple_of(PAGE));
    if alignment <= PAGE {
        return map(length, READ_WRITE).ok();
    }
    let reserved = length.checked_add(alignment)?;
    let start = map(reserved, READ_WRITE).ok()?;
    let address = (start + offset).next_multiple_of(alignment) - offset;
    let (head, tail) = (address - start, start + reserved - address - length);
    // SAFETY: both ends are part of the mapping just made, and nobody has seen it yet.
    unsafe {
        unmap(start, head);
        unmap(address + length, tail);
    }
    Some(address)
}

/// Unmaps whole pages. The system may refuse, because it would have to cut a mapping in two and there are too many
/// already. Then at least their memory goes back, and the address space is lost.
///
/// # Safety
/// This module mapped the range, and nothing uses it any more.
pub unsafe fn unmap(address: usize, length: usize) {
    if length > 0 {
        // SAFETY: the caller gives up the range.
        unsafe {
            if system::unmap(address, length).is_err() {
                let _ = decommit(address, length);
            }
        }
    }
}

/// Gives the memory of whole pages back to the system. They read as zero afterwards. False if the system refused.
///
/// # Safety
/// This module mapped the range, and its contents are not needed any more.
#[must_use]
pub unsafe fn decommit(address: usize, length: usize) -> bool {
    // SAFETY: the range is private anonymous memory, and the caller gives up its contents.
    unsafe { system::advise(address, length, libc::MADV_DONTNEED) }.is_ok()
}

/// Asks for huge pages in the range; advice only.
pub fn advise_huge(address: usize, length: usize) {
    // SAFETY: this changes how pages are made, never what they hold. A range that is not ours is an error.
    let _ = unsafe { system::advise(address, length, libc::MADV_HUGEPAGE) };
}

/// Makes the pages of the range present. False when memory is short.
pub fn populate(address: usize, length: usize) -> bool {
    // SAFETY: this makes pages present and never changes what they hold.
    unsafe { system::advise(address, length, libc::MADV_POPULATE_WRITE) }.is_ok()
}

/// How [`resize`] went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Resized {
    /// The mapping has the new length.
    Done,
    /// The mapping is as it was: there is no room behind it.
    NoRoom,
    /// The mapping is as it was: it consists of several mappings to the system, which resizes and moves only one at a
    /// time.
    Several,
}

/// Makes a mapping longer or shorter in place.
///
/// # Safety
/// `[address, address + old)` is one mapping of this module, and what is cut off is not used any more.
#[must_use]
pub unsafe fn resize(address: usize, old: usize, new: usize) -> Resized {
    // SAFETY: without MAYMOVE the range changes where it is, or the call fails.
    match unsafe { system::remap(address, old, new, 0, 0) } {
        Ok(_) => Resized::Done,
        Err(Errno(libc::EFAULT)) => Resized::Several,
        Err(_) => Resized::NoRoom,
    }
}

/// Moves the pages of a mapping to `target`, without copying, and makes the mapping `new` bytes long there. False
/// leaves the mapping as it was. The target is given up in any case: a system that refuses may have unmapped it
/// already, and unmapping it here could then hit what another thread has mapped there since. At worst that loses
/// address space.
///
/// # Safety
/// `[address, address + old)` and `[target, target + new)` are mappings of this module. Nobody uses the first
/// meanwhile, and the second holds nothing.
#[must_use]
pub unsafe fn relocate(address: usize, old: usize, target: usize, new: usize) -> bool {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: MREMAP_FIXED replaces the target and nothing else, and the caller gives up the target.
    let moved = unsafe { system::remap(address, old, new, flags, target) }.is_ok();
    #[cfg(test)]
    ON_RELOCATED.take().into_iter().for_each(|hook| hook(address));
    moved
}
#[cfg(test)]
type Hook = Box<dyn FnOnce(usize)>;
#[cfg(test)]
std::thread_local! {
    /// Called once with an address that this thread has just moved a mapping away from.
    pub static ON_RELOCATED: core::cell::Cell<Option<Hook>> = const { core::cell::Cell::new(None) };
}

/// Bytes of RAM in the machine.
pub fn physical_memory() -> usize {
    // SAFETY: sysconf only returns a value.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    usize::try_from(pages).unwrap_or(0).saturating_mul(usize::try_from(page).unwrap_or(0))
}
