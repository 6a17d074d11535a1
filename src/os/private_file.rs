//! Descriptors of ours among the program's.
//!
//! A program closes descriptors that it does not know (closefrom, as daemons do), and then gets their numbers for files of its
//! own; or it was started without standard output, and prints to whatever is number 1. So ours have other numbers, and before
//! each use it is looked at whether the number still stands for what was opened. A program that closes it at that very moment
//! is not met.
use super::system::{self, Errno, NotCancelled};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Those below are standard input, output and errors.
const LEAST: RawFd = 3;

/// An open file that only the library uses.
pub struct PrivateFile {
    number: RawFd,
    /// None where the system does not tell.
    identity: Option<(u64, u64)>,
}
impl PrivateFile {
    /// Of a file that has just been opened.
    pub fn new(file: OwnedFd) -> Result<PrivateFile, Errno> {
        PrivateFile::numbered_from(LEAST, file)
    }
    /// Its number is at least `least`, where the process may have so many.
    pub fn numbered_from(least: RawFd, file: OwnedFd) -> Result<PrivateFile, Errno> {
        let _uncancelled = NotCancelled::begin();
        let copied = |least| match file.as_raw_fd() < least {
            true => system::copy_descriptor(file.as_fd(), least).map(Some),
            false => Ok(None),
        };
        let file = copied(least).or_else(|_| copied(LEAST))?.unwrap_or(file);
        let identity = system::state_of(file.as_fd()).ok().map(|state| state.identity);
        Ok(PrivateFile { number: file.into_raw_fd(), identity })
    }
    /// The file. EBADF if the program has closed it.
    pub fn get(&self) -> Result<BorrowedFd<'_>, Errno> {
        // SAFETY: a number that is none, or another file's by now, is found out, and goes no further.
        let file = unsafe { BorrowedFd::borrow_raw(self.number) };
        let ours = match system::state_of(file) {
            Ok(state) => self.identity.is_none_or(|identity| identity == state.identity),
            Err(error) => error != Errno(libc::EBADF),
        };
        if ours { Ok(file) } else { Err(Errno(libc::EBADF)) }
    }
    /// Its number, for where a wrong one does no harm.
    pub fn number(&self) -> RawFd {
        self.number
    }
}
impl Drop for PrivateFile {
    fn drop(&mut self) {
        let _uncancelled = NotCancelled::begin();
        if self.get().is_ok() {
            // SAFETY: still what was opened, for us alone.
            drop(unsafe { OwnedFd::from_raw_fd(self.number) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> PrivateFile {
        PrivateFile::new(system::open(c"/tmp", libc::O_TMPFILE).unwrap()).unwrap()
    }
    #[test]
    fn a_number_that_is_the_programs_by_now_is_left_alone() {
        let [ours, theirs] = [open(), open()];
        assert!(ours.number() >= LEAST && ours.get().is_ok());
        // SAFETY: descriptors of this test alone.
        unsafe { libc::dup2(theirs.number(), ours.number()) };
        assert_eq!(ours.get().err(), Some(Errno(libc::EBADF)));
        let number = ours.number();
        drop(ours);
        // SAFETY: the copy that was made above.
        let copy = unsafe { OwnedFd::from_raw_fd(number) };
        assert!(system::state_of(copy.as_fd()).unwrap().identity == theirs.identity.unwrap());
    }
    #[test]
    fn a_number_that_is_closed_by_now_is_an_error() {
        let ours = open();
        // SAFETY: a descriptor of this test alone.
        unsafe { libc::close(ours.number()) };
        assert_eq!(ours.get().err(), Some(Errno(libc::EBADF)));
    }
}
