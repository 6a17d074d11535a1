//! The spill file: where chunks go that RAM has no room for.
//!
//! - The file has no name and mode 0600, so nothing is left behind, whatever happens to the process.
//! - Regions reserve their room when they are made, so that a full disk is an error of an allocation and not of some
//!   later touch.
//! - Transfers bypass the page cache if the file system allows it: cached pages would take up the RAM that spilling
//!   is to free. This requires offsets, lengths and buffers that are multiples of 4 KiB.
use super::mapping::Errno;
use crate::os::environment;
use crate::os::lock::Mutex;
use crate::os::private_file::PrivateFile;
use crate::os::system;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// One file.
pub struct Spill {
    /// None: the file is closed, and every request fails.
    file: Option<PrivateFile>,
    ranges: Mutex<Ranges>,
    /// Since a fork another process reads the file too: nothing in it may change.
    shared: AtomicBool,
    /// Whether the disk seems full.
    #[cfg(test)]
    refuses: AtomicBool,
}

/// Free ranges of the file, sorted, and where the file ends. Used only where allocation is allowed.
#[derive(Default)]
struct Ranges {
    free: Vec<(u64, u64)>,
    end: u64,
}
impl Ranges {
    fn take(&mut self, length: u64) -> u64 {
        if let Some(at) = self.free.iter().position(|(_, free)| *free >= length) {
            let (start, free) = self.free[at];
            if free == length {
                self.free.remove(at);
            } else {
                self.free[at] = (start + length, free - length);
            }
            return start;
        }
        let start = self.end;
        self.end += length;
        start
    }
    fn give(&mut self, start: u64, length: u64) {
        let at = self.free.partition_point(|(other, _)| *other < start);
        self.free.insert(at, (start, length));
        if at + 1 < self.free.len() && start + length == self.free[at + 1].0 {
            self.free[at].1 += self.free.remove(at + 1).1;
        }
        if at > 0 && self.free[at - 1].0 + self.free[at - 1].1 == start {
            self.free[at - 1].1 += self.free.remove(at).1;
        }
        if let Some((start, length)) = self.free.last().copied()
            && start + length == self.end
        {
            self.free.pop();
            self.end = start;
        }
    }
}

/// Where spill files go: `UNIMEM_SPILL_DIR`, else `TMPDIR`, else /var/tmp.
pub fn directory() -> PathBuf {
    let mut names = [c"UNIMEM_SPILL_DIR", c"TMPDIR"].into_iter().filter_map(environment::variable);
    let named = names.find(|directory| !directory.is_empty());
    PathBuf::from(OsStr::from_bytes(named.unwrap_or(b"/var/tmp")))
}
fn open_unnamed(direct: libc::c_int) -> Result<OwnedFd, Errno> {
    let path = |path: PathBuf| {
        std::ffi::CString::new(path.into_os_string().into_encoded_bytes()).map_err(|_| Errno(libc::EINVAL))
    };
    let directory = directory();
    match system::open(&path(directory.clone())?, libc::O_TMPFILE | direct) {
        // The file system has no unnamed files.
        Err(Errno(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) => {}
        result => return result,
    }
    for attempt in 0..100u32 {
        let nanoseconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
        let name = format!(".unimem-{}-{nanoseconds:x}-{attempt}", std::process::id());
        let name = path(directory.join(name))?;
        match system::open(&name, libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | direct) {
            Ok(file) => {
                system::remove_name(&name)?;
                return Ok(file);
            }
            Err(Errno(libc::EEXIST)) => {}
            // The file may have been made although it could not be opened for direct transfers.
            Err(error) => {
                let _ = system::remove_name(&name);
                return Err(error);
            }
        }
    }
    Err(Errno(libc::EEXIST))
}

impl Spill {
    /// Opens a file in the directory the environment names.
    pub fn open() -> Result<Spill, Errno> {
        let file = match open_unnamed(libc::O_DIRECT) {
            Err(Errno(libc::EINVAL | libc::EOPNOTSUPP)) => open_unnamed(0),
            result => result,
        }?;
        let mut spill = Spill::closed();
        spill.file = Some(PrivateFile::new(file)?);
        Ok(spill)
    }
    /// A closed file, which refuses everything.
    pub fn closed() -> Spill {
        Spill {
            file: None,
            ranges: Mutex::sheltered(Default::default()),
            shared: AtomicBool::new(false),
            #[cfg(test)]
            refuses: AtomicBool::new(false),
        }
    }
    /// Whether the file is closed, and so refuses everything.
    pub fn is_closed(&self) -> bool {
        self.file.is_none()
    }
    /// Notes that from now on another process reads the file too. Its room is given back when both have closed it.
    pub fn share(&self) {
        self.shared.store(true, Relaxed);
    }
    /// Refuses new blocks and writes, as on a full disk, or ends that.
    #[cfg(test)]
    pub fn refuse(&self, refuse: bool) {
        self.refuses.store(refuse, Relaxed);
    }
    /// The file, for requests that may find the disk full.
    fn file_to_fill(&self) -> Result<BorrowedFd<'_>, Errno> {
        #[cfg(test)]
        if self.refuses.load(Relaxed) {
            return Err(Errno(libc::ENOSPC));
        }
        self.file()
    }
    fn file(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.file.as_ref().ok_or(Errno(libc::EBADF))?.get()
    }
    /// Bytes the file system could hold if it were empty.
    pub fn capacity(&self) -> u64 {
        let Ok(file) = self.file() else { return u64::MAX };
        // SAFETY: zero bytes are a valid structure to fill in.
        unsafe {
            let mut about: libc::statvfs = core::mem::zeroed();
            match libc::fstatvfs(file.as_raw_fd(), &mut about) {
                0 => about.f_blocks as u64 * about.f_frsize as u64,
                _ => u64::MAX,
            }
        }
    }
    /// Takes a range of the file for the caller alone, without blocks on disk yet.
    pub fn take_range(&self, length: u64) -> u64 {
        self.ranges.lock().take(length)
    }
    /// Gives a range and its blocks back.
    pub fn give_range(&self, start: u64, length: u64) {
        if self.shared.load(Relaxed) {
            return; // the other process may need what is there
        }
        self.drop_blocks(start, length);
        self.ranges.lock().give(start, length);
    }
    /// Gives the blocks of a range back. The range stays the caller's.
    pub fn drop_blocks(&self, start: u64, length: u64) {
        if self.shared.load(Relaxed) {
            return;
        }
        // If the file system cannot make holes, the blocks stay until the file is closed.
        let _ = self.file().and_then(|file| system::punch_hole(file, start, length));
    }
    /// Makes blocks on disk for a range of the file, so that writing there cannot find the disk full.
    pub fn make_blocks(&self, start: u64, length: u64) -> Result<(), Errno> {
        let file = self.file_to_fill()?;
        loop {
            match system::make_blocks(file, start, length) {
                Err(Errno(libc::EINTR)) => {}
                // The file system cannot make blocks in advance. A write tells if the disk is full.
                Err(Errno(libc::EOPNOTSUPP | libc::ENOSYS)) => return Ok(()),
                result => return result,
            }
        }
    }
    /// Writes all of `bytes` (whole pages) at `offset`.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        let file = self.file_to_fill()?;
        let mut done = 0;
        while done < bytes.len() {
            match system::write_at(file, &bytes[done..], offset + done as u64) {
                // A write stops without progress only if there is no room left.
                Ok(0) => return Err(Errno(libc::ENOSPC)),
                Ok(wrote) => done += wrote,
                Err(Errno(libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
    /// Reads `bytes.len()` bytes (whole pages) at `offset`.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Errno> {
        let file = self.file()?;
        let mut done = 0;
        while done < bytes.len() {
            match system::read_at(file, &mut bytes[done..], offset + done as u64) {
                Ok(0) => return Err(Errno(libc::EIO)), // shorter than what was written
                Ok(got) => done += got,
                Err(Errno(libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_file_has_no_name_and_only_its_owner_may_read_it() {
        let spill = Spill::open().unwrap();
        let about =
            std::fs::metadata(format!("/proc/self/fd/{}", spill.file().unwrap().as_raw_fd())).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((about.nlink(), about.mode() & 0o777), (0, 0o600));
    }
    proptest! {
        #[test]
        fn ranges_never_overlap(steps in prop::collection::vec((1u64..100, any::<bool>(), any::<prop::sample::Index>()), 1..200)) {
            let mut ranges = Ranges::default();
            let mut live: Vec<(u64, u64)> = vec![];
            for (length, give, which) in steps {
                if give && !live.is_empty() {
                    let (start, length) = live.swap_remove(which.index(live.len()));
                    ranges.give(start, length);
                } else {
                    live.push((ranges.take(length), length));
                }
                let mut all: Vec<_> = live.iter().chain(&ranges.free).copied().collect();
                all.sort();
                prop_assert!(all.iter().try_fold(0, |end, (s, l)| (*s == end).then_some(s + l)) == Some(ranges.end));
            }
        }
    }
}
