//! Mapped memory: the one place that calls mmap and its relatives.
//!
//! Every call passes [`fault`] first, so that tests can make the n-th one fail.
use core::ptr::null_mut;

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

/// Makes system calls fail on request.
pub mod fault {
    use core::sync::atomic::{AtomicIsize, Ordering::Relaxed};
    static COUNTDOWN: AtomicIsize = AtomicIsize::new(-1);
    /// The `n`-th call from now (0: the next) and all later ones fail, until `disarm`. For tests.
    pub fn arm(n: usize) {
        COUNTDOWN.store(n as isize, Relaxed);
    }
    /// Calls work again.
    pub fn disarm() {
        COUNTDOWN.store(-1, Relaxed);
    }
    pub(super) fn strikes() -> bool {
        match COUNTDOWN.load(Relaxed) {
            n if n < 0 => false,
            0 => true,
            n => {
                COUNTDOWN.store(n - 1, Relaxed);
                false
            }
        }
    }
}

fn map_anywhere(length: usize) -> Option<usize> {
    if fault::strikes() {
        return None;
    }
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let address = unsafe {
        libc::mmap(
            null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    (address != libc::MAP_FAILED).then_some(address as usize)
}

/// Maps `length` bytes (whole pages) of zeroed memory whose address plus `offset` is a multiple of `alignment`
/// (a power of two, at least a page). Pages cost nothing until touched.
pub fn map(length: usize, alignment: usize, offset: usize) -> Option<usize> {
    debug_assert!(length.is_multiple_of(PAGE) && offset.is_multiple_of(PAGE));
    if alignment <= PAGE {
        return map_anywhere(length);
    }
    let reserved = length.checked_add(alignment)?;
    let start = map_anywhere(reserved)?;
    let address = (start + offset).next_multiple_of(alignment) - offset;
    let (head, tail) = (address - start, start + reserved - address - length);
    // SAFETY: both ends are part of the mapping just made, and nobody has seen it yet.
    unsafe {
        unmap(start, head);
        unmap(address + length, tail);
    }
    Some(address)
}

/// Unmaps whole pages.
///
/// # Safety
/// The range was mapped by this module and nothing uses it any more.
pub unsafe fn unmap(address: usize, length: usize) {
    if length > 0 {
        // SAFETY: the caller gives up the range.
        unsafe { libc::munmap(address as *mut _, length) };
    }
}

/// Hands the memory of whole pages back; they read as zero afterwards. False when the system refused.
///
/// # Safety
/// The range was mapped by this module and its contents are no longer needed.
#[must_use]
pub unsafe fn decommit(address: usize, length: usize) -> bool {
    // SAFETY: private anonymous memory whose contents the caller gives up.
    !fault::strikes() && unsafe { libc::madvise(address as *mut _, length, libc::MADV_DONTNEED) } == 0
}

/// Asks for huge pages in the range; advice only.
pub fn advise_huge(address: usize, length: usize) {
    // SAFETY: changes how pages are made, never what they hold; a range that is not ours is an error value.
    unsafe { libc::madvise(address as *mut _, length, libc::MADV_HUGEPAGE) };
}

/// Makes the pages of the range present. False when memory is short.
pub fn populate(address: usize, length: usize) -> bool {
    // SAFETY: prefaults pages, never changes what they hold.
    !fault::strikes() && unsafe { libc::madvise(address as *mut _, length, libc::MADV_POPULATE_WRITE) } == 0
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
    if fault::strikes() {
        return Resized::NoRoom;
    }
    // SAFETY: without MAYMOVE the range changes where it is, or the call fails.
    if unsafe { libc::mremap(address as *mut _, old, new, 0) } != libc::MAP_FAILED {
        Resized::Done
    } else if std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) {
        Resized::Several
    } else {
        Resized::NoRoom
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
    if fault::strikes() {
        // SAFETY: the target, which the caller gives up.
        unsafe { unmap(target, new) };
        return false;
    }
    // SAFETY: MREMAP_FIXED replaces just the target, which the caller gives up.
    let moved = unsafe { libc::mremap(address as *mut _, old, new, flags, target as *mut libc::c_void) };
    moved != libc::MAP_FAILED
}

/// Bytes of RAM in the machine.
pub fn physical_memory() -> usize {
    // SAFETY: two plain queries.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    usize::try_from(pages).unwrap_or(0).saturating_mul(usize::try_from(page).unwrap_or(0))
}
