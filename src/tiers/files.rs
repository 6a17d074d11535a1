//! The spill files of an engine, and which of them is written to.
//!
//! The current file and its number are chosen together, under one lock, and a thread that stores a chunk keeps both.
//! So the number that it notes for the chunk is that of the file it has written to, even if another file has become
//! current meanwhile. Files are opened without the lock: if two threads open one at once, one of them finds the
//! other's in place and uses that.
use super::mapping::Errno;
use super::snapshot::Snapshot;
use super::spill::Spill;
use super::sync_points::{self, SyncPoint};
use std::sync::Arc;

/// A file and its number, from 1 on.
pub type Numbered = (u16, Arc<Spill>);

/// The files.
#[derive(Default)]
pub struct Files(Snapshot<Set>);
#[derive(Clone, Default)]
struct Set {
    /// The file with number n is at n - 1; closed files stay in the list.
    all: Vec<Arc<Spill>>,
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
    /// Whether a file is open, although it is not the current one.
    fn is_left(&self, number: u16) -> bool {
        number != self.current && self.get(number).is_some_and(|file| !file.is_closed())
    }
    /// Adds a file, which is the current one then. Numbers of closed files are used again.
    fn add(&mut self, spill: &Arc<Spill>) -> Result<Numbered, Errno> {
        let at = self.all.iter().position(|file| file.is_closed()).unwrap_or(self.all.len());
        self.current = u16::try_from(at + 1).map_err(|_| Errno(libc::EMFILE))?;
        if at < self.all.len() {
            self.all[at] = spill.clone();
        } else {
            self.all.push(spill.clone());
        }
        Ok((self.current, spill.clone()))
    }
}

impl Files {
    /// The number of the current file. 0 if there is none.
    pub fn current_number(&self) -> u16 {
        self.0.get().current
    }
    /// The current file, opened on first use.
    pub fn current(&self) -> Result<Numbered, Errno> {
        match self.0.get().current() {
            Some(current) => Ok(current),
            None => self.open_instead_of(0),
        }
    }
    /// Opens a file and makes it the current one, if file `number` is still current. Otherwise the new file is
    /// closed. Returns the current file.
    pub fn open_instead_of(&self, number: u16) -> Result<Numbered, Errno> {
        sync_points::pass(SyncPoint::OpeningFile);
        let spill = Arc::new(Spill::open()?);
        self.0.change(|set| match set.current().filter(|_| set.current != number) {
            Some(current) => Ok(current),
            None => set.add(&spill),
        })
    }
    /// Opens another file, which is the current one from now on. Only while nobody spills.
    pub fn open_another(&self) -> Result<Numbered, Errno> {
        self.open_instead_of(self.current_number())
    }
    /// Leaves the set without a current file, until another one is opened.
    pub fn use_none(&self) {
        self.0.change(|set| set.current = 0);
    }
    /// Closes all files, except the current one, whose numbers `unused` accepts.
    pub fn close(&self, unused: impl Fn(u16) -> bool) {
        let others = |set: &Set| (1..=set.all.len() as u16).filter(|n| set.is_left(*n)).collect::<Vec<_>>();
        if others(&self.0.get()).is_empty() {
            return; // most often
        }
        self.0.change(|set| {
            for number in others(set).into_iter().filter(|number| unused(*number)) {
                set.all[usize::from(number) - 1] = Arc::new(Spill::closed());
            }
        });
    }
    /// Notes that from now on another process reads all files too.
    pub fn share(&self) {
        self.0.get().all.iter().for_each(|spill| spill.share());
    }
    /// The file with this number.
    #[cfg(test)]
    pub fn get(&self, number: u16) -> Option<Arc<Spill>> {
        self.0.get().get(number).cloned()
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
        assert_eq!((number, same, files.0.get().all.len()), (1, 1, 1));
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(files.open_instead_of(1).unwrap().0, 2, "on purpose");
        files.close(|number| number < 3);
        assert!(files.get(1).unwrap().is_closed() && !files.get(2).unwrap().is_closed());
        files.use_none();
        assert_eq!(files.current().unwrap().0, 1, "the number of the closed one");
        assert!(files.get(0).is_none() && files.get(3).is_none());
    }
}
