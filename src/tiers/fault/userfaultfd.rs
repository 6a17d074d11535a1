//! The userfaultfd system call and its ioctls, as `linux/userfaultfd.h` defines them.
use crate::os::injection::{Injected, Operation, injected};
use crate::os::lock::Mutex;
use crate::os::map::PAGE;
use crate::os::private_file::PrivateFile;
use crate::os::system::{self, NotCancelled};
use crate::tiers::mapping::{Errno, Span, is_present};
use core::sync::atomic::{AtomicI32, Ordering::*};
use std::os::fd::{AsRawFd, OwnedFd};

const API: u64 = 0xAA;
const USER_MODE_ONLY: libc::c_int = 1;
/// Write-protection faults (5.7).
pub const FEATURE_WRITE_PROTECT: u64 = 1 << 0;
/// Faults are signals to the faulting thread instead of events.
pub const FEATURE_SIGBUS: u64 = 1 << 7;
/// Pages can be moved (6.8).
pub const FEATURE_MOVE: u64 = 1 << 16;

/// How often in a row a move that stops without having moved anything is examined (see `move_pages`).
const RECOUNTS: usize = 10_000;

const MODE_MISSING: u64 = 1;
const MODE_WRITE_PROTECT: u64 = 2;

/// A request, and the kind of call that tests make fail.
#[derive(Clone, Copy)]
struct Request {
    number: u32,
    operation: Operation,
}
impl Request {
    const API: Request = Request { number: 0x3F, operation: Operation::Userfaultfd };
    const REGISTER: Request = Request { number: 0x00, operation: Operation::Register };
    const COPY: Request = Request { number: 0x03, operation: Operation::CopyPages };
    const MOVE: Request = Request { number: 0x05, operation: Operation::MovePages };
    const WRITE_PROTECT: Request = Request { number: 0x06, operation: Operation::WriteProtect };
    /// Makes the request.
    ///
    /// # Safety
    /// `T` is the structure that this request takes, and the caller may do to memory what the request does.
    unsafe fn make<T>(self, descriptor: libc::c_int, argument: &mut T) -> Result<(), Errno> {
        const READ_WRITE: u32 = 3;
        let code = READ_WRITE << 30 | (size_of::<T>() as u32) << 16 | 0xAA << 8 | self.number;
        // SAFETY: by the caller's promise.
        unsafe { system::control(self.operation, descriptor, code.into(), argument) }
    }
}

#[repr(C)]
#[derive(Default)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}
#[repr(C)]
struct Range {
    start: u64,
    length: u64,
}
#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}
#[repr(C)]
struct Transfer {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    done: i64,
}
#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

impl From<Span> for Range {
    fn from(span: Span) -> Range {
        Range { start: span.start as u64, length: span.length as u64 }
    }
}

/// Stands for no descriptor: every request fails with EBADF.
const NONE: libc::c_int = -1;

/// One userfaultfd. The descriptor can be replaced, because a forked child needs its own: the parent's descriptor
/// acts on the parent's memory, whichever process uses it.
pub struct Userfaultfd {
    /// The descriptor of `file`, or [`NONE`]. If the program has closed it, requests fail with EBADF, or with ENOTTY
    /// if another file has its number.
    descriptor: AtomicI32,
    /// Only `reopen` locks this, in a forked child's only thread.
    file: Mutex<Option<PrivateFile>>,
    features: u64,
}

fn open_file(features: u64) -> Result<(OwnedFd, u64), Errno> {
    let _uncancelled = NotCancelled::begin();
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // Ordinary users get user-mode faults only, which is all that is needed here.
    let descriptor = system::userfaultfd(flags).or_else(|_| system::userfaultfd(flags | USER_MODE_ONLY))?;
    let mut api = Api { api: API, features, ioctls: 0 };
    // SAFETY: `api` is the structure that this request takes. The request touches no other memory.
    unsafe { Request::API.make(descriptor.as_raw_fd(), &mut api)? };
    Ok((descriptor, api.features))
}

impl Userfaultfd {
    /// The features this system offers.
    pub fn offered() -> Result<u64, Errno> {
        let _uncancelled = NotCancelled::begin();
        Ok(open_file(0)?.1)
    }
    /// Opens a userfaultfd with `features` enabled.
    pub fn open(features: u64) -> Result<Userfaultfd, Errno> {
        let file = PrivateFile::new(open_file(features)?.0)?;
        let descriptor = AtomicI32::new(file.number());
        Ok(Userfaultfd { descriptor, file: Mutex::new(Some(file)), features })
    }
    /// In a forked child: replaces the parent's descriptor by one for this process. On failure there is none. The
    /// parent's is closed first, so that its number is free even if the program has used up all others.
    pub fn reopen(&self) -> Result<(), Errno> {
        self.descriptor.store(NONE, Relaxed);
        let mut file = self.file.lock();
        *file = None;
        let new = file.insert(PrivateFile::new(open_file(self.features)?.0)?);
        self.descriptor.store(new.number(), Relaxed);
        Ok(())
    }
    /// Whether there is a descriptor. There is none if `reopen` failed in this child.
    pub fn is_open(&self) -> bool {
        self.descriptor.load(Relaxed) != NONE
    }
    fn make<T>(&self, request: Request, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: `T` is the structure that this request takes; the callers below pair them. The requests change only
        // ranges registered here, and their owners (pages.rs) are the callers.
        unsafe { request.make(self.descriptor.load(Relaxed), argument) }
    }
    /// Registers a range: from now on touches of its missing pages are faults of this userfaultfd. With `protect`
    /// stores to protected pages are too.
    pub fn register(&self, span: Span, protect: bool) -> Result<(), Errno> {
        let mode = if protect { MODE_MISSING | MODE_WRITE_PROTECT } else { MODE_MISSING };
        self.make(Request::REGISTER, &mut Register { range: span.into(), mode, ioctls: 0 })
    }
    fn transfer(&self, request: Request, to: usize, from: usize, length: usize) -> (usize, Option<Errno>) {
        let mut done = 0;
        while done < length {
            let short = injected(request.operation) == Some(Injected::Short);
            let piece = if short { PAGE } else { length - done };
            let mut argument = Transfer {
                to: (to + done) as u64,
                from: (from + done) as u64,
                length: piece as u64,
                mode: 0,
                done: 0,
            };
            match self.make(request, &mut argument) {
                Ok(()) if short => return (done + piece, Some(Errno(libc::EBUSY))),
                Ok(()) => return (length, None),
                // The request was partly done: go on where it stopped.
                Err(_) if argument.done > 0 => done += argument.done as usize,
                Err(error) => return (done, Some(error)),
            }
        }
        (done, None)
    }
    /// Moves pages. Returns how many bytes went, and the error that stopped it.
    ///
    /// Linux 6.18 miscounts. If a move is disturbed and the system itself tries again, it moves pages (up to 512)
    /// without counting them, and then stops with EEXIST at the first of them. (A loop of moves beside a loop of
    /// forks shows it within a second.) So EEXIST is believed only if the page is in both places. Otherwise the pages
    /// that went uncounted are moved back and moved again. A page is in one of the two places at any moment, so no
    /// store is lost meanwhile.
    pub fn move_pages(&self, to: usize, from: usize, length: usize) -> (usize, Option<Errno>) {
        const EXISTS: Option<Errno> = Some(Errno(libc::EEXIST));
        let mut done = 0;
        let mut rounds = 0;
        loop {
            let (more, error) = self.transfer(Request::MOVE, to + done, from + done, length - done);
            done += more;
            rounds = if more > 0 { 0 } else { rounds + 1 };
            // The limit of rounds is for pages that are swapped out: `is_present` does not see them.
            if error != EXISTS || rounds > RECOUNTS || (is_present(from + done) && is_present(to + done)) {
                return (done, error);
            }
            let (_, back) = self.transfer(Request::MOVE, from + done, to + done, length - done);
            if back == Some(Errno(libc::EBUSY)) && is_present(to + done) && !is_present(from + done) {
                // The page was shared with a forked child after it had moved. It cannot move back, and need not.
                done += PAGE;
            }
        }
    }
    /// Fills missing pages with copies.
    pub fn copy(&self, to: usize, from: usize, length: usize) -> (usize, Option<Errno>) {
        self.transfer(Request::COPY, to, from, length)
    }
    /// Protects present pages against writing, or ends that. The loop does not wait for another thread, and ends: the
    /// kernel answers EAGAIN here only while events of forks and of moves of memory (UFFD_FEATURE_EVENT_...) are
    /// unread, and this library never asks for such events.
    pub fn write_protect(&self, span: Span, on: bool) -> Result<(), Errno> {
        loop {
            let mut argument = WriteProtect { range: span.into(), mode: u64::from(on) };
            let result = self.make(Request::WRITE_PROTECT, &mut argument);
            if result != Err(Errno(libc::EAGAIN)) {
                return result;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::mapping::{Advice, Mapping, Protection, advise, populate};

    const COUNT: usize = 64;

    /// Puts both sides in the state in which the kernel's error leaves them, with the pages in `moved` there already,
    /// uncounted; then moves all.
    fn a_move_goes_on_after(moved: core::ops::Range<usize>) {
        let Ok(fd) = Userfaultfd::open(FEATURE_MOVE | FEATURE_SIGBUS | FEATURE_WRITE_PROTECT) else { return };
        let mapping = Mapping::reserve(2 * COUNT * PAGE, PAGE, Protection::ReadWrite).unwrap();
        advise(mapping.span(), Advice::SmallPages);
        let (from, to) = (mapping.part(0, COUNT * PAGE), mapping.part(COUNT * PAGE, COUNT * PAGE));
        // SAFETY: its own mapping, writable.
        (0..COUNT).for_each(|i| unsafe { ((from.start + i * PAGE) as *mut usize).write(i + 1) });
        fd.register(mapping.span(), true).unwrap();
        let (start, length) = (moved.start * PAGE, moved.len() * PAGE);
        assert_eq!(fd.transfer(Request::MOVE, to.start + start, from.start + start, length), (length, None));
        assert_eq!(fd.move_pages(to.start, from.start, COUNT * PAGE), (COUNT * PAGE, None));
        for i in 0..COUNT {
            // SAFETY: all pages are there now.
            assert_eq!(unsafe { ((to.start + i * PAGE) as *const usize).read() }, i + 1);
        }
    }
    #[test]
    fn pages_that_went_uncounted_are_counted() {
        [0..1, 0..COUNT, 5..6, 5..40, 40..COUNT, COUNT - 1..COUNT].into_iter().for_each(a_move_goes_on_after);
    }
    #[test]
    fn a_page_in_both_places_is_an_error() {
        let Ok(fd) = Userfaultfd::open(FEATURE_MOVE | FEATURE_SIGBUS | FEATURE_WRITE_PROTECT) else { return };
        let mapping = Mapping::reserve(8 * PAGE, PAGE, Protection::ReadWrite).unwrap();
        advise(mapping.span(), Advice::SmallPages);
        populate(mapping.part(0, 4 * PAGE)).unwrap();
        populate(mapping.part(6 * PAGE, PAGE)).unwrap();
        fd.register(mapping.span(), true).unwrap();
        let start = mapping.span().start;
        assert_eq!(fd.move_pages(start + 4 * PAGE, start, 4 * PAGE), (2 * PAGE, Some(Errno(libc::EEXIST))));
    }
}
