//! The userfaultfd system call and its ioctls, as `linux/userfaultfd.h` defines them.
use crate::os::injection::{Operation, Strike, strike};
use crate::os::map::PAGE;
use crate::os::system;
use crate::tiers::mapping::{Errno, Span};
use core::sync::atomic::{AtomicI32, Ordering::*};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

const API: u64 = 0xAA;
const USER_MODE_ONLY: libc::c_int = 1;
/// Write-protection faults (5.7).
pub const FEATURE_WRITE_PROTECT: u64 = 1 << 0;
/// Faults are signals to the faulting thread instead of events.
pub const FEATURE_SIGBUS: u64 = 1 << 7;
/// Pages can be moved (6.8).
pub const FEATURE_MOVE: u64 = 1 << 16;

const MODE_MISSING: u64 = 1;
const MODE_WRITE_PROTECT: u64 = 2;

const fn request(direction: u32, number: u32, size: usize) -> libc::c_ulong {
    ((direction << 30) | ((size as u32) << 16) | (0xAA << 8) | number) as libc::c_ulong
}
const READ_WRITE: u32 = 3;

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

/// One userfaultfd. The descriptor can be replaced, because a forked child needs one of its own.
pub struct Userfaultfd {
    descriptor: AtomicI32,
    features: u64,
}

fn open_descriptor(features: u64) -> Result<(OwnedFd, u64), Errno> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // Ordinary users get user-mode faults only, which is all that is needed here.
    let descriptor = system::userfaultfd(flags).or_else(|_| system::userfaultfd(flags | USER_MODE_ONLY))?;
    let mut api = Api { api: API, features, ioctls: 0 };
    let request = request(READ_WRITE, 0x3F, size_of::<Api>());
    // SAFETY: the structure is the one the request is for; it touches no memory.
    unsafe { system::control(Operation::Userfaultfd, descriptor.as_raw_fd(), request, &mut api)? };
    Ok((descriptor, api.features))
}

impl Userfaultfd {
    /// The features this system offers.
    pub fn offered() -> Result<u64, Errno> {
        Ok(open_descriptor(0)?.1)
    }
    /// Opens one with `features` enabled.
    pub fn open(features: u64) -> Result<Userfaultfd, Errno> {
        let (descriptor, _) = open_descriptor(features)?;
        Ok(Userfaultfd { descriptor: AtomicI32::new(descriptor.into_raw_fd()), features })
    }
    /// In a forked child: replaces the parent's descriptor by one for this process.
    pub fn reopen(&self) -> Result<(), Errno> {
        let (descriptor, _) = open_descriptor(self.features)?;
        let old = self.descriptor.swap(descriptor.into_raw_fd(), Relaxed);
        // SAFETY: the child's copy of the parent's descriptor, not used any more.
        drop(unsafe { OwnedFd::from_raw_fd(old) });
        Ok(())
    }
    fn control<T>(&self, operation: Operation, number: u32, argument: &mut T) -> Result<(), Errno> {
        let request = request(READ_WRITE, number, size_of::<T>());
        // SAFETY: `T` is the structure of that request (the callers below pair them); the requests change only
        // ranges registered here, whose owners (pages.rs) call them.
        unsafe { system::control(operation, self.descriptor.load(Relaxed), request, argument) }
    }
    /// Faults on missing pages of the range come here from now on; with `protect` also writes to protected ones.
    pub fn register(&self, span: Span, protect: bool) -> Result<(), Errno> {
        let mode = if protect { MODE_MISSING | MODE_WRITE_PROTECT } else { MODE_MISSING };
        self.control(Operation::Register, 0x00, &mut Register { range: span.into(), mode, ioctls: 0 })
    }
    fn transfer(
        &self,
        operation: Operation,
        number: u32,
        to: usize,
        from: usize,
        length: usize,
    ) -> (usize, Option<Errno>) {
        let mut done = 0;
        while done < length {
            let short = strike(operation) == Some(Strike::Short);
            let piece = if short { PAGE } else { length - done };
            let mut argument = Transfer {
                to: (to + done) as u64,
                from: (from + done) as u64,
                length: piece as u64,
                mode: 0,
                done: 0,
            };
            match self.control(operation, number, &mut argument) {
                Ok(()) if short => return (done + piece, Some(Errno(libc::EBUSY))),
                Ok(()) => return (length, None),
                // Partly done: go on where it stopped.
                Err(_) if argument.done > 0 => done += argument.done as usize,
                Err(error) => return (done, Some(error)),
            }
        }
        (done, None)
    }
    /// Moves pages. Gives how many bytes went, and the error that stopped it.
    pub fn move_pages(&self, to: usize, from: usize, length: usize) -> (usize, Option<Errno>) {
        self.transfer(Operation::MovePages, 0x05, to, from, length)
    }
    /// Fills missing pages with copies.
    pub fn copy(&self, to: usize, from: usize, length: usize) -> (usize, Option<Errno>) {
        self.transfer(Operation::CopyPages, 0x03, to, from, length)
    }
    /// Protects present pages against writing, or ends that.
    pub fn write_protect(&self, span: Span, on: bool) -> Result<(), Errno> {
        loop {
            let mut argument = WriteProtect { range: span.into(), mode: u64::from(on) };
            let result = self.control(Operation::WriteProtect, 0x06, &mut argument);
            if result != Err(Errno(libc::EAGAIN)) {
                return result;
            }
        }
    }
}
impl Drop for Userfaultfd {
    fn drop(&mut self) {
        // SAFETY: ours alone, and not used any more.
        drop(unsafe { OwnedFd::from_raw_fd(*self.descriptor.get_mut()) });
    }
}
