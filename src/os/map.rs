//! Mapped memory of the heap and of the library's records: aligned ranges, huge pages, moving without copies.
use super::system::{self, Errno};

/// Bytes of a page. Kernels with larger ones exist (aarch64); there no heap is made, see [`pages_are_supported`].
pub const PAGE: usize = 4096;
/// Bytes of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// Whether the system's pages are as long as this library takes them to be.
pub fn pages_are_supported() -> bool {
    // SAFETY: a plain query.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) == PAGE as libc::c_long }
}

/// Rounds `size` up to whole pages; saturates.
pub const fn round_to_page(size: usize) -> usize {
    size.saturating_add(PAGE - 1) & !(PAGE - 1)
}

const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Maps `length` bytes (whole pages) of zeroed memory whose address plus `offset` is a multiple of `alignment`
/// (a power of two, at least a page). Pages cost nothing until touched.
pub fn map(length: usize, alignment: usize, offset: usize) -> Option<usize> {
    aligned(length, alignment, offset, system::map)
}

/// The same for a block, all of which may be written: a length that the machine can never hold is refused where the
/// system does so for malloc, while [`map`] may reserve more than there is.
pub fn map_to_fill(length: usize, alignment: usize, offset: usize) -> Option<usize> {
    aligned(length, alignment, offset, system::map_accounted).or_else(|| {
        // What was asked for beside it, for the sake of the alignment, is not to count.
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

/// Unmaps whole pages. Where the system cannot (it would have to cut a mapping in two and there are too many already),
/// their memory goes back at least, and the address space is lost.
///
/// # Safety
/// The range was mapped by this module and nothing uses it any more.
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

/// Hands the memory of whole pages back; they read as zero afterwards. False when the system refused.
///
/// # Safety
/// The range was mapped by this module and its contents are no longer needed.
#[must_use]
pub unsafe fn decommit(address: usize, length: usize) -> bool {
    // SAFETY: private anonymous memory whose contents the caller gives up.
    unsafe { system::advise(address, length, libc::MADV_DONTNEED) }.is_ok()
}

/// Asks for huge pages in the range; advice only.
pub fn advise_huge(address: usize, length: usize) {
    // SAFETY: changes how pages are made, never what they hold; a range that is not ours is an error value.
    let _ = unsafe { system::advise(address, length, libc::MADV_HUGEPAGE) };
}

/// Makes the pages of the range present. False when memory is short.
pub fn populate(address: usize, length: usize) -> bool {
    // SAFETY: prefaults pages, never changes what they hold.
    unsafe { system::advise(address, length, libc::MADV_POPULATE_WRITE) }.is_ok()
}

/// How [`resize`] went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Resized {
    /// The mapping has the new length.
    Done,
    /// It is as it was: there is no room behind it.
    NoRoom,
    /// It is as it was, and consists of several mappings to the system, which moves only one at a time.
    Several,
}

/// Makes a mapping longer or shorter where it is.
///
/// # Safety
/// `[address, address + old)` is one mapping of this module; what is cut off is not used any more.
#[must_use]
pub unsafe fn resize(address: usize, old: usize, new: usize) -> Resized {
    // SAFETY: without MAYMOVE the range changes where it is, or the call fails.
    match unsafe { system::remap(address, old, new, 0, 0) } {
        Ok(_) => Resized::Done,
        Err(Errno(libc::EFAULT)) => Resized::Several,
        Err(_) => Resized::NoRoom,
    }
}

/// Moves the pages of a mapping to `target`, without copying, and makes it `new` bytes long there. False leaves the
/// first as it was, and the target is nobody's any more: a system that refuses may have unmapped it already, so that
/// unmapping it here could hit what another thread has mapped there since. At worst that costs address space.
///
/// # Safety
/// `[address, address + old)` and `[target, target + new)` are mappings of this module, nobody uses the first
/// meanwhile, and nothing is in the second.
#[must_use]
pub unsafe fn relocate(address: usize, old: usize, target: usize, new: usize) -> bool {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: MREMAP_FIXED replaces just the target, which the caller gives up.
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
    // SAFETY: two plain queries.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    usize::try_from(pages).unwrap_or(0).saturating_mul(usize::try_from(page).unwrap_or(0))
}
