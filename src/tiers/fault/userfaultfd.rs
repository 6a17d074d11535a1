//! The userfaultfd system call and its ioctls, as `linux/userfaultfd.h` defines them.
use crate::os::map::PAGE;
use crate::tiers::mapping::{Errno, Span};
use core::sync::atomic::{AtomicI32, Ordering::*};

const API: u64 = 0xAA;
const USER_MODE_ONLY: libc::c_long = 1;
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
const READ: u32 = 2;
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

fn open_descriptor(features: u64) -> Result<(i32, u64), Errno> {
    let flags = libc::c_long::from(libc::O_CLOEXEC | libc::O_NONBLOCK);
    // SAFETY: makes a descriptor; touches no memory.
    let open = |flags: libc::c_long| unsafe { libc::syscall(libc::SYS_userfaultfd, flags) as i32 };
    let mut descriptor = open(flags);
    if descriptor < 0 {
        // Ordinary users get user-mode faults only, which is all that is needed here.
        descriptor = open(flags | USER_MODE_ONLY);
    }
    if descriptor < 0 {
        return Err(Errno::last());
    }
    let mut api = Api { api: API, features, ioctls: 0 };
    // SAFETY: the structure is the one the request is for.
    if unsafe { libc::ioctl(descriptor, request(READ_WRITE, 0x3F, size_of::<Api>()), &mut api) } != 0 {
        let error = Errno::last();
        // SAFETY: just opened, ours alone.
        unsafe { libc::close(descriptor) };
        return Err(error);
    }
    Ok((descriptor, api.features))
}

impl Userfaultfd {
    /// The features this system offers.
    pub fn offered() -> Result<u64, Errno> {
        let (descriptor, features) = open_descriptor(0)?;
        // SAFETY: just opened, ours alone.
        unsafe { libc::close(descriptor) };
        Ok(features)
    }
    /// Opens one with `features` enabled.
    pub fn open(features: u64) -> Result<Userfaultfd, Errno> {
        let (descriptor, _) = open_descriptor(features)?;
        Ok(Userfaultfd { descriptor: AtomicI32::new(descriptor), features })
    }
    /// In a forked child: replaces the parent's descriptor by one for this process.
    pub fn reopen(&self) -> Result<(), Errno> {
        let (descriptor, _) = open_descriptor(self.features)?;
        let old = self.descriptor.swap(descriptor, Relaxed);
        // SAFETY: the child's copy of the parent's descriptor, not used any more.
        unsafe { libc::close(old) };
        Ok(())
    }
    /// For `poll` and `read`.
    pub fn descriptor(&self) -> i32 {
        self.descriptor.load(Relaxed)
    }
    fn control<T>(&self, direction: u32, number: u32, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: `T` is the structure of that request (the callers below pair them); the requests change only
        // ranges registered here, whose owners (pages.rs) call them.
        let result =
            unsafe { libc::ioctl(self.descriptor(), request(direction, number, size_of::<T>()), argument) };
        if result == 0 { Ok(()) } else { Err(Errno::last()) }
    }
    /// Faults on missing pages of the range come here from now on; with `protect` also writes to protected ones.
    pub fn register(&self, span: Span, protect: bool) -> Result<(), Errno> {
        let mode = if protect { MODE_MISSING | MODE_WRITE_PROTECT } else { MODE_MISSING };
        self.control(READ_WRITE, 0x00, &mut Register { range: span.into(), mode, ioctls: 0 })
    }
    /// Wakes threads that wait for the range.
    pub fn wake(&self, span: Span) -> Result<(), Errno> {
        self.control(READ, 0x02, &mut Range::from(span))
    }
    fn transfer(&self, number: u32, to: usize, from: usize, length: usize) -> (usize, Option<Errno>) {
        let mut done = 0;
        while done < length {
            let mut argument = Transfer {
                to: (to + done) as u64,
                from: (from + done) as u64,
                length: (length - done) as u64,
                mode: 0,
                done: 0,
            };
            match self.control(READ_WRITE, number, &mut argument) {
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
        self.transfer(0x05, to, from, length)
    }
    /// Fills missing pages with copies.
    pub fn copy(&self, to: usize, from: usize, length: usize) -> (usize, Option<Errno>) {
        self.transfer(0x03, to, from, length)
    }
    /// Protects present pages against writing, or ends that.
    pub fn write_protect(&self, span: Span, on: bool) -> Result<(), Errno> {
        loop {
            let result =
                self.control(READ_WRITE, 0x06, &mut WriteProtect { range: span.into(), mode: u64::from(on) });
            if result != Err(Errno(libc::EAGAIN)) {
                return result;
            }
        }
    }
    /// The address of the next fault event; None when there is none now.
    pub fn next_fault(&self) -> Option<Fault> {
        let mut message = [0u64; 4];
        // SAFETY: reads at most 32 bytes into an array of 32.
        let got = unsafe { libc::read(self.descriptor(), message.as_mut_ptr().cast(), 32) };
        // Byte 0 is the event (0x12: page fault); words 1 and 2 are flags and address.
        (got == 32 && message[0] as u8 == 0x12)
            .then(|| Fault { address: message[2] as usize & !(PAGE - 1), write: message[1] & 1 != 0 })
    }
}

/// A fault event.
pub struct Fault {
    /// The page.
    pub address: usize,
    /// Whether it was a store.
    pub write: bool,
}
