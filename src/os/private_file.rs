//! The library's descriptors among the program's.
//!
//! A program may close descriptors that it does not know (closefrom, as daemons do), and then gets their numbers for files
//! of its own. Or it was started without standard output, and prints to whatever has number 1. So the library's descriptors
//! have numbers of at least 3, and each use first checks that the number still stands for the file that was opened. A
//! program that closes it just after this check is not protected against.
use super::system::{self, Errno, NotCancelled};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Lower numbers are standard input, output and error.
const LEAST: RawFd = 3;

/// An open file that only the library uses.
pub struct PrivateFile {
    number: RawFd,
    /// Device and number of the file. None if the system does not tell.
    identity: Option<(u64, u64)>,
}
impl PrivateFile {
    /// Takes over a file that has just been opened. Its number will be at least 3.
    pub fn new(file: OwnedFd) -> Result<PrivateFile, Errno> {
        PrivateFile::numbered_from(LEAST, file)
    }
    /// Takes over a file and gives it a number of at least `least`, if the process may have such a number.
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
    /// The file. EBADF if the program has closed it or its number stands for another file.
    pub fn get(&self) -> Result<BorrowedFd<'_>, Errno> {
        // SAFETY: if nothing or another file has that number by now, the check below finds out, and the descriptor goes no
        // further.
        let file = unsafe { BorrowedFd::borrow_raw(self.number) };
        let ours = match system::state_of(file) {
            Ok(state) => self.identity.is_none_or(|identity| identity == state.identity),
            Err(error) => error != Errno(libc::EBADF),
        };
        if ours { Ok(file) } else { Err(Errno(libc::EBADF)) }
    }
    /// The file's number, for uses in which a wrong one does no harm.
    pub fn number(&self) -> RawFd {
        self.number
    }
}
impl Drop for PrivateFile {
    fn drop(&mut self) {
        let _uncancelled = NotCancelled::begin();
        if self.get().is_ok() {
            // SAFETY: the number still stands for the file that was opened for us alone.
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
