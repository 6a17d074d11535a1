//! The spill file: where chunks go that RAM has no room for.
//!
//! The file has no name, so nothing is left behind whatever happens to the process, and mode 0600. Regions reserve
//! their room when they are made, so that a full disk is an error of an allocation and not of some later touch.
//! Transfers bypass the page cache where the file system allows it: cached pages would eat the RAM that spilling is
//! to free. Offsets, lengths and buffers are multiples of 4 KiB for that.
use super::mapping::Errno;
use crate::os::lock::Mutex;
use crate::os::map::PAGE;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Lets tests make the file misbehave.
#[derive(Default)]
pub struct Mischief {
    /// Writes that still work before all others fail with `write_error`, if that is not 0.
    pub writes_left: AtomicU32,
    /// Error of failing writes and reservations.
    pub write_error: AtomicI32,
    /// Error of all reads, if not 0.
    pub read_error: AtomicI32,
    /// 1: transfers move at most a page at a time.
    pub short: AtomicU32,
    /// 1: reads give back a wrong byte.
    pub damage: AtomicU32,
}
impl Mischief {
    fn on_write(&self) -> Result<(), Errno> {
        match self.write_error.load(Relaxed) {
            0 => Ok(()),
            error => match self.writes_left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)) {
                Ok(_) => Ok(()),
                Err(_) => Err(Errno(error)),
            },
        }
    }
}

/// One file.
pub struct Spill {
    /// None: everything fails.
    file: Option<OwnedFd>,
    ranges: Mutex<Ranges>,
    /// Since a fork another process reads it too: nothing in it may change.
    shared: AtomicBool,
    /// For tests.
    pub mischief: Mischief,
}

/// Free room in the file. Kept sorted; used only where allocation is allowed.
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

fn directory() -> std::path::PathBuf {
    ["UNIMEM_SPILL_DIR", "TMPDIR"]
        .into_iter()
        .filter_map(std::env::var_os)
        .find(|value| !value.is_empty())
        .map_or_else(|| "/var/tmp".into(), Into::into)
}
fn open(path: &[u8], flags: libc::c_int) -> Result<OwnedFd, Errno> {
    let path = std::ffi::CString::new(path).map_err(|_| Errno(libc::EINVAL))?;
    // SAFETY: a zero-terminated path; makes a descriptor that is ours alone.
    unsafe {
        let file = libc::open(path.as_ptr(), flags | libc::O_RDWR | libc::O_CLOEXEC, 0o600);
        if file < 0 { Err(Errno::last()) } else { Ok(OwnedFd::from_raw_fd(file)) }
    }
}
fn open_unnamed(direct: libc::c_int) -> Result<OwnedFd, Errno> {
    let directory = directory();
    match open(directory.as_os_str().as_bytes(), libc::O_TMPFILE | direct) {
        // The file system has no unnamed files.
        Err(Errno(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) => {}
        result => return result,
    }
    for attempt in 0..100u32 {
        let nanoseconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
        let name = directory.join(format!(".unimem-{}-{nanoseconds:x}-{attempt}", std::process::id()));
        let bytes = name.as_os_str().as_bytes();
        match open(bytes, libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | direct) {
            Ok(file) => {
                std::fs::remove_file(&name).map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EIO)))?;
                return Ok(file);
            }
            Err(Errno(libc::EEXIST)) => {}
            // A file may have been made and then not opened for direct transfers.
            Err(error) => {
                let _ = std::fs::remove_file(&name);
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
        Ok(Spill { file: Some(file), ..Spill::closed() })
    }
    /// One that refuses everything.
    pub fn closed() -> Spill {
        Spill {
            file: None,
            ranges: Mutex::default(),
            shared: AtomicBool::new(false),
            mischief: Mischief::default(),
        }
    }
    /// Whether it refuses everything.
    pub fn is_closed(&self) -> bool {
        self.file.is_none()
    }
    /// From now on another process reads it too. Its room is given back when both have closed it.
    pub fn share(&self) {
        self.shared.store(true, Relaxed);
    }
    fn descriptor(&self) -> i32 {
        self.file.as_ref().map_or(-1, |file| file.as_raw_fd())
    }
    /// Bytes the file system could hold if it were empty.
    pub fn capacity(&self) -> u64 {
        // SAFETY: zero bytes are a valid structure to fill in.
        unsafe {
            let mut about: libc::statvfs = core::mem::zeroed();
            match libc::fstatvfs(self.descriptor(), &mut about) {
                0 => about.f_blocks as u64 * about.f_frsize as u64,
                _ => u64::MAX,
            }
        }
    }
    /// A part of the file for the caller alone, without blocks on disk yet.
    pub fn take_range(&self, length: u64) -> u64 {
        self.ranges.lock().take(length)
    }
    /// Gives a part back, its blocks too.
    pub fn give_range(&self, start: u64, length: u64) {
        if self.shared.load(Relaxed) {
            return; // the other process may need what is there
        }
        let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: changes the file only. Where holes cannot be made the blocks stay until the file is closed.
        unsafe { libc::fallocate(self.descriptor(), flags, start as i64, length as i64) };
        self.ranges.lock().give(start, length);
    }
    /// Makes blocks for a part of the file, so that writing there cannot find the disk full.
    pub fn make_blocks(&self, start: u64, length: u64) -> Result<(), Errno> {
        if self.mischief.write_error.load(Relaxed) == libc::ENOSPC
            && self.mischief.writes_left.load(Relaxed) == 0
        {
            return Err(Errno(libc::ENOSPC));
        }
        loop {
            // SAFETY: changes the file only.
            if unsafe { libc::fallocate(self.descriptor(), 0, start as i64, length as i64) } == 0 {
                return Ok(());
            }
            match Errno::last() {
                Errno(libc::EINTR) => {}
                // The file system cannot; then writes tell.
                Errno(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(()),
                error => return Err(error),
            }
        }
    }
    fn piece(&self, length: usize) -> usize {
        if self.mischief.short.load(Relaxed) != 0 { length.min(PAGE) } else { length }
    }
    /// Writes all of `bytes` (whole pages) at `offset`.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        let mut done = 0;
        while done < bytes.len() {
            self.mischief.on_write()?;
            let rest = &bytes[done..];
            // SAFETY: reads `rest` only.
            let wrote = unsafe {
                libc::pwrite(
                    self.descriptor(),
                    rest.as_ptr().cast(),
                    self.piece(rest.len()),
                    (offset + done as u64) as i64,
                )
            };
            match wrote {
                // Direct transfers may stop short only at the end of room.
                0 => return Err(Errno(libc::ENOSPC)),
                n if n > 0 => done += n as usize,
                _ => match Errno::last() {
                    Errno(libc::EINTR) => {}
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }
    /// Reads `bytes.len()` bytes (whole pages) at `offset`.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Errno> {
        let error = self.mischief.read_error.load(Relaxed);
        if error != 0 {
            return Err(Errno(error));
        }
        let mut done = 0;
        while done < bytes.len() {
            let rest = &mut bytes[done..];
            let length = self.piece(rest.len());
            // SAFETY: writes to `rest` only.
            let got = unsafe {
                libc::pread(
                    self.descriptor(),
                    rest.as_mut_ptr().cast(),
                    length,
                    (offset + done as u64) as i64,
                )
            };
            match got {
                0 => return Err(Errno(libc::EIO)), // shorter than what was written
                n if n > 0 => done += n as usize,
                _ => match Errno::last() {
                    Errno(libc::EINTR) => {}
                    error => return Err(error),
                },
            }
        }
        if self.mischief.damage.load(Relaxed) != 0 {
            bytes[bytes.len() / 3] ^= 0x10;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[repr(align(4096))]
    struct Aligned([u8; 4 * PAGE]);

    #[test]
    fn the_file_has_no_name_and_only_its_owner_may_read_it() {
        let spill = Spill::open().unwrap();
        let about = std::fs::metadata(format!("/proc/self/fd/{}", spill.descriptor())).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((about.nlink(), about.mode() & 0o777), (0, 0o600));
    }
    #[test]
    fn bytes_come_back_and_errors_are_values() {
        let spill = Spill::open().unwrap();
        let start = spill.take_range(8 * PAGE as u64);
        spill.make_blocks(start, 8 * PAGE as u64).unwrap();
        let mut buffer = Aligned([7; 4 * PAGE]);
        for short in [0, 1] {
            spill.mischief.short.store(short, Relaxed);
            buffer.0.iter_mut().enumerate().for_each(|(i, b)| *b = (i % 251) as u8 + short as u8);
            spill.write(&buffer.0, start + PAGE as u64).unwrap();
            buffer.0.fill(0);
            spill.read(&mut buffer.0, start + PAGE as u64).unwrap();
            assert!(buffer.0.iter().enumerate().all(|(i, b)| *b == (i % 251) as u8 + short as u8));
        }
        spill.mischief.writes_left.store(2, Relaxed);
        spill.mischief.write_error.store(libc::ENOSPC, Relaxed);
        assert_eq!(spill.write(&buffer.0, start), Err(Errno(libc::ENOSPC)), "the third page fails");
        assert_eq!(spill.make_blocks(start, 1), Err(Errno(libc::ENOSPC)));
        spill.mischief.read_error.store(libc::EIO, Relaxed);
        assert_eq!(spill.read(&mut buffer.0, start), Err(Errno(libc::EIO)));
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
