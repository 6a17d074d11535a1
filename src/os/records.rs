//! Memory for the library's own records: mapped, never malloc'd, so that the heap can itself serve as malloc.
//!
//! Sizes are rounded up to powers of two. Up to 64 KiB, records come from free lists over mapped pieces, and go back
//! to those lists. Their memory is never unmapped, so a stale pointer to one can still be read. If it must also keep
//! its type, as spans and heaps must, its owner keeps it in a list of its own and never releases it. Larger records
//! are mappings of their own.
use super::injection::{Operation, check};
use super::{fork, lock::Mutex, map};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const SMALLEST: u32 = 6; // base-2 logarithm: one cache line
const LARGEST: u32 = 16;
const PIECE: usize = 1 << 18;

struct FreeLists {
    heads: [Option<NonNull<FreeRecord>>; (LARGEST - SMALLEST + 1) as usize],
    fresh: usize,
    fresh_end: usize,
}
struct FreeRecord {
    next: Option<NonNull<FreeRecord>>,
}
// SAFETY: the pointers are only followed under the lock.
unsafe impl Send for FreeLists {}
static LISTS: Mutex<FreeLists> =
    Mutex::new(FreeLists { heads: [None; (LARGEST - SMALLEST + 1) as usize], fresh: 0, fresh_end: 0 });

fn rounded_log2(size: usize) -> u32 {
    size.next_power_of_two().trailing_zeros().max(SMALLEST)
}

/// Most mappings that are remembered for [`mappings`].
pub const MAPPINGS: usize = 1024;
/// Start and length of each mapping. One for which there is no room is not remembered.
static KNOWN: [(AtomicUsize, AtomicUsize); MAPPINGS] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; MAPPINGS];
fn know(start: usize, length: usize) {
    let free = KNOWN.iter().find(|(known, _)| known.compare_exchange(0, start, Relaxed, Relaxed).is_ok());
    if let Some((_, bytes)) = free {
        bytes.store(length, Relaxed);
    }
}
fn forget(start: usize) {
    if let Some((known, bytes)) = KNOWN.iter().find(|(known, _)| known.load(Relaxed) == start) {
        bytes.store(0, Relaxed);
        known.store(0, Relaxed);
    }
}
/// The ranges that hold records. A search for the program's pointers leaves them out, so that it does not take the
/// library's own pointers for those.
pub fn mappings() -> impl Iterator<Item = core::ops::Range<usize>> {
    KNOWN.iter().map(|(start, bytes)| start.load(Relaxed)..start.load(Relaxed) + bytes.load(Relaxed))
}

/// Allocates `size` zeroed bytes, aligned to 64 bytes, and to a page from 4 KiB on. None when memory is short.
pub fn allocate(size: usize) -> Option<NonNull<u8>> {
    check(Operation::Record).ok()?;
    if size > 1 << LARGEST {
        let length = map::round_to_page(size);
        let huge = length >= map::HUGE_PAGE;
        let address = map::map(length, if huge { map::HUGE_PAGE } else { map::PAGE }, 0)?;
        if huge {
            map::advise_huge(address, length);
        }
        know(address, length);
        return NonNull::new(address as *mut u8);
    }
    let log2 = rounded_log2(size);
    let mut lists = LISTS.lock();
    if let Some(record) = lists.heads[(log2 - SMALLEST) as usize] {
        // SAFETY: records in the lists are free and mapped for ever, and each begins with a `FreeRecord`.
        lists.heads[(log2 - SMALLEST) as usize] = unsafe { record.read() }.next;
        drop(lists);
        // SAFETY: the record was taken off the list, so it is ours alone. It is 1 << log2 bytes long.
        unsafe { record.cast::<u8>().write_bytes(0, 1 << log2) };
        return Some(record.cast());
    }
    let start = lists.fresh.next_multiple_of(if log2 < 12 { 1 << SMALLEST } else { map::PAGE });
    if start + (1 << log2) > lists.fresh_end {
        let piece = map::map(PIECE, map::PAGE, 0)?;
        know(piece, PIECE);
        (lists.fresh, lists.fresh_end) = (piece + (1 << log2), piece + PIECE);
        return NonNull::new(piece as *mut u8);
    }
    lists.fresh = start + (1 << log2);
    NonNull::new(start as *mut u8)
}

#[cfg(test)]
type Hook = Box<dyn FnMut(NonNull<u8>)>;
#[cfg(test)]
std::thread_local! {
    /// Called with each record that this thread is about to give back.
    pub static ON_RELEASE: core::cell::RefCell<Option<Hook>> = const { core::cell::RefCell::new(None) };
}
/// Gives back what [`allocate`] returned for the same `size`.
///
/// # Safety
/// `record` came from `allocate(size)` and is not used any more.
pub unsafe fn release(record: NonNull<u8>, size: usize) {
    #[cfg(test)]
    let _ = ON_RELEASE.try_with(|hook| hook.borrow_mut().iter_mut().for_each(|hook| hook(record)));
    if size > 1 << LARGEST {
        forget(record.as_ptr() as usize);
        // SAFETY: the record is a mapping of its own, and the caller has given it up.
        unsafe { map::unmap(record.as_ptr() as usize, map::round_to_page(size)) };
        return;
    }
    let mut lists = LISTS.lock();
    let head = &mut lists.heads[(rounded_log2(size) - SMALLEST) as usize];
    let record = record.cast::<FreeRecord>();
    // SAFETY: the record has at least 64 bytes, is aligned to 64, and the caller has given it up.
    unsafe { record.write(FreeRecord { next: *head }) };
    *head = Some(record);
}

/// [`allocate`] and [`release`] as an allocator for collections.
#[derive(Clone, Copy, Default)]
pub struct Records;
// SAFETY: a record stays valid until it is released. Clones are interchangeable, because there is one set of lists.
unsafe impl allocator_api2::alloc::Allocator for Records {
    fn allocate(
        &self,
        layout: core::alloc::Layout,
    ) -> Result<NonNull<[u8]>, allocator_api2::alloc::AllocError> {
        debug_assert!(layout.align() <= 64);
        let record = allocate(layout.size().max(1)).ok_or(allocator_api2::alloc::AllocError)?;
        Ok(NonNull::slice_from_raw_parts(record, layout.size()))
    }
    unsafe fn deallocate(&self, record: NonNull<u8>, layout: core::alloc::Layout) {
        // SAFETY: by the trait's contract the size is the one that was allocated.
        unsafe { release(record, layout.size().max(1)) }
    }
}

/// Adds `value` to a list if there is memory for it; otherwise drops it.
pub fn push<T>(list: &mut allocator_api2::vec::Vec<T, Records>, value: T) {
    if list.try_reserve(1).is_ok() {
        list.push(value);
    }
}

/// See load.rs.
pub(crate) static HOOKS: &dyn fork::AtFork = &LISTS;

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn records_are_zeroed_and_reused() {
        for size in [1, 64, 65, 4096, 65536, 65537, 5 << 20] {
            let first = allocate(size).unwrap();
            // SAFETY: `size` bytes of ours.
            unsafe {
                assert!((0..size).all(|i| first.add(i).read() == 0));
                first.write_bytes(0xAA, size);
                release(first, size);
                let second = allocate(size).unwrap();
                assert!((0..size).all(|i| second.add(i).read() == 0));
                release(second, size);
            }
        }
    }
}
