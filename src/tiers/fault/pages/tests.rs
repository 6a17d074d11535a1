use super::*;
use crate::os::map::{self, PAGE};
use crate::tiers::fault::userfaultfd;
use crate::tiers::mapping::{Mapping, Protection, is_present};

/// Memory shared with a forked child cannot be moved while the child lives. Neither can memory that a device is
/// reading or writing.
#[test]
fn what_cannot_move_back_is_copied() {
    const LENGTH: usize = 4 * PAGE;
    let features =
        userfaultfd::FEATURE_MOVE | userfaultfd::FEATURE_SIGBUS | userfaultfd::FEATURE_WRITE_PROTECT;
    let Ok(fd) = Userfaultfd::open(features) else { return };
    let mapping = Mapping::reserve(2 * LENGTH, PAGE, Protection::ReadWrite).unwrap();
    mapping::advise(mapping.span(), mapping::Advice::SmallPages);
    let (chunk, slot) = (mapping.part(0, LENGTH), mapping.part(LENGTH, LENGTH));
    // SAFETY: the mapping is the test's own, and not registered yet. The child only waits for its end.
    let child = unsafe {
        chunk.pointer().cast::<u8>().write_bytes(7, LENGTH);
        fd.register(mapping.span(), true).unwrap();
        match libc::fork() {
            0 => loop {
                libc::pause();
            },
            child => child,
        }
    };
    let (_, busy) = fd.move_pages(slot.start, chunk.start, LENGTH);
    crate::tiers::tests::ends(move || {
        // SAFETY: both ranges are the test's own, in the state after a `place` that has moved all of the chunk.
        unsafe { put_back(&fd, slot, chunk, LENGTH, LENGTH) };
        // SAFETY: all pages are there.
        let seen = unsafe { core::slice::from_raw_parts(slot.pointer().cast::<u8>(), LENGTH) };
        assert!(is_busy(busy) && seen.iter().all(|&byte| byte == 7) && !is_present(chunk.start));
    });
    // SAFETY: its own child.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, core::ptr::null_mut(), 0);
    }
}
#[test]
fn a_slot_that_cannot_be_filled_keeps_no_pages() {
    let start = map::map(4 * PAGE, PAGE, 0).unwrap();
    // SAFETY: the last page of what was mapped just now: there the system stops.
    unsafe { map::unmap(start + 3 * PAGE, PAGE) };
    let slot = Span { start, length: 4 * PAGE };
    let filled = Pages::Remap.fill_slot(slot, Span { start, length: 0 });
    assert_eq!(filled, Err(Errno(libc::ENOMEM)));
    assert!((0..3).all(|page| !is_present(start + page * PAGE)), "pages are left");
    // SAFETY: mapped above.
    unsafe { map::unmap(start, 3 * PAGE) };
}
