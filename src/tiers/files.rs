//! The spill files of an engine, and which of them is written to.
//!
//! The current file and its number are chosen together, under one lock, and a thread that stores a chunk keeps both.
//! So the number that it notes for the chunk is that of the file it has written to, even if another file has become
//! current meanwhile. Files are opened without the lock: if two threads open one at once, one of them finds the
//! other's in place and uses that.
use super::engine::Snapshot;
use super::mapping::Errno;
use super::spill::Spill;
use super::sync_points::{self, SyncPoint};
use super::table::Stored;
use crate::os::lock::Mutex;
use std::sync::Arc;

/// A file and its number, from 1 on.
pub type Numbered = (u16, Arc<Spill>);

/// The files.
pub struct Files(Mutex<Set>);
impl Default for Files {
    fn default() -> Files {
        Files(Mutex::sheltered(Set::default()))
    }
}
#[derive(Clone, Default)]
struct Set {
    /// The file with number n is at n - 1; closed files stay in the list. The list is replaced, never changed.
    all: Snapshot<Spill>,
    /// Number of the file that is written to; 0: none.
    current: u16,
}
impl Set {
    fn get(&self, number: u16) -> Option<&Arc<Spill>> {
        self.all.get(usize::from(number).checked_sub(1)?)
    }
    fn current(&self) -> Option<Numbered> {
        Some((self.current, self.get(self.current)?.clone()))
    }
    /// This set with one more file, which is the current one. Numbers of closed files are used again.
    fn with(&self, spill: &Arc<Spill>) -> Result<Set, Errno> {
        let mut all = (*self.all).clone();
        let at = all.iter().position(|file| file.is_closed()).unwrap_or(all.len());
        let number = u16::try_from(at + 1).ok().filter(|number| *number != Stored::LOST);
        let current = number.ok_or(Errno(libc::EMFILE))?;
        if at < all.len() {
            all[at] = spill.clone();
        } else {
            all.push(spill.clone());
        }
        Ok(Set { all: Arc::new(all), current })
    }
}

impl Files {
    fn set(&self) -> Set {
        self.0.lock().clone()
    }
    /// Replaces the set that was read before. Returns false if it has changed since. Nothing is allocated or freed
    /// under the lock, because malloc may be this library's own heap (docs/contributing.md).
    fn replace(&self, old: &Set, new: Set) -> bool {
        let mut set = self.0.lock();
        if !Arc::ptr_eq(&set.all, &old.all) || set.current != old.current {
            return false;
        }
        let replaced = core::mem::replace(&mut *set, new);
        drop(set);
        drop(replaced);
        true
    }
    /// The number of the current file. 0 if there is none.
    pub fn current_number(&self) -> u16 {
        self.0.lock().current
    }
    /// The current file, opened on first use.
    pub fn current(&self) -> Result<Numbered, Errno> {
        match self.set().current() {
            Some(current) => Ok(current),
            None => self.open_instead_of(0),
        }
    }
    /// Opens a file and makes it the current one, if file `number` is still current. Otherwise the new file is
    /// closed. Returns the current file.
    pub fn open_instead_of(&self, number: u16) -> Result<Numbered, Errno> {
        sync_points::pass(SyncPoint::OpeningFile);
        let spill = Arc::new(Spill::open()?);
        loop {
            let old = self.set();
            if let Some(current) = old.current().filter(|_| old.current != number) {
                return Ok(current);
            }
            let new = old.with(&spill)?;
            let current = new.current;
            if self.replace(&old, new) {
                return Ok((current, spill));
            }
        }
    }
    /// Leaves the set without a current file, until another one is opened.
    pub fn use_none(&self) {
        self.0.lock().current = 0;
    }
    /// Closes all files, except the current one, whose numbers `unused` accepts.
    pub fn close(&self, unused: impl Fn(u16) -> bool) {
        loop {
            let old = self.set();
            let mut others = (1..).zip(old.all.iter()).filter(|(number, _)| *number != old.current);
            let Some((number, _)) = others.find(|(number, spill)| !spill.is_closed() && unused(*number))
            else {
                return;
            };
            let mut all = (*old.all).clone();
            all[usize::from(number) - 1] = Arc::new(Spill::closed());
            self.replace(&old, Set { all: Arc::new(all), current: old.current });
        }
    }
    /// All files, including closed ones.
    pub fn all(&self) -> Snapshot<Spill> {
        self.0.lock().all.clone()
    }
    /// The file with this number.
    pub fn get(&self, number: u16) -> Option<Arc<Spill>> {
        self.0.lock().get(number).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::gate;
    #[test]
    fn who_opens_one_too_many_uses_the_current_one() {
        let _inside = gate::enter();
        let files = Files::default();
        assert_eq!(files.current_number(), 0);
        let (number, first) = files.current().unwrap();
        let (same, again) = files.open_instead_of(0).unwrap();
        assert_eq!((number, same, files.all().len()), (1, 1, 1));
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(files.open_instead_of(1).unwrap().0, 2, "on purpose");
        files.close(|number| number < 3);
        assert!(files.get(1).unwrap().is_closed() && !files.get(2).unwrap().is_closed());
        files.use_none();
        assert_eq!(files.current().unwrap().0, 1, "the number of the closed one");
        assert!(files.get(0).is_none() && files.get(3).is_none());
    }
}
