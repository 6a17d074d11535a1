//! Waiting for room: what a thread does that finds no chunk that can leave, and when it may give up.
//!
//! # Protocol
//! A thread that claims or pins a chunk, or has pages in hand, is *at work*: it is counted from before it holds
//! anything (`begin`) until it has let go (`end`). A thread at work may look for room in vain, perhaps because other
//! threads hold the chunks that could leave. Then it waits for *progress* (`starve`): it reads a number before it
//! looks, and waits for that number to change. It gives up only when all threads at work, itself included, wait since
//! the same number.
//!
//! So that no thread gives up while room is coming:
//! - A thread lets go before it calls `end`, which lowers the count and changes the number in one step. It does so
//!   even if it did not use what it held in the end, because others may have looked for that meanwhile.
//! - Progress ends all waiting at once, not when the sleepers get to run: until they have looked again they count as
//!   at work.
//! - Of the threads that wait, the last one to come gives up, alone. The others look again when it has ended.
//!
//! Nobody waits for the right to keep a chunk (to acquire it) with the chunk in hand: its place may be what others want,
//! and an acquire in vain must not make a plain touch fail, which ends the program. So a thread that finds no room to
//! acquire its chunk ends ([`End::InVain`]) and *stands aside*: it looks again when another thread has made progress, and
//! gives up when nobody is at work any more. What ends in vain is no progress to those who stand aside: two threads that
//! want one chunk would take turns at it for ever.
//!
//! A thread that wants room for a plain block can do without it, and does not wait at work either (`progress_since`).
//!
//! [`End::Unnoted`] is for a thread that held nothing that another could have used. What a search tries and leaves as it
//! was must not count as progress, or two threads that find nothing would keep each other going for ever. The model
//! test at the end tries all interleavings.
use super::word::AtomicWord;
use crate::os::lock::{Condvar, Mutex, MutexGuard};
use core::ops::DerefMut;
use core::sync::atomic::AtomicU32;

/// The values under the lock.
#[derive(Default)]
pub struct Counts {
    /// Changes whenever something may have become room for a thread.
    progress: u32,
    /// The same, except that what ends in vain does not change it.
    useful: u32,
    /// Threads at work that wait for progress to change.
    waiting: u32,
    /// Threads not at work that wait for either to change.
    #[cfg(test)]
    aside: u32,
}
impl Counts {
    fn note(&mut self) {
        self.useful = self.useful.wrapping_add(1);
        self.note_in_vain();
    }
    fn note_in_vain(&mut self) {
        self.progress = self.progress.wrapping_add(1);
        self.waiting = 0;
    }
}

/// What the end of a thread's work means to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Progress: what the thread has let go of may be room for them.
    Progress,
    /// The same, except to those who stand aside: the thread found no room to acquire its chunk, and is about to stand
    /// aside too.
    InVain,
    /// Nothing: nobody else could have used what the thread held.
    Unnoted,
}

/// A lock, and sleep until a value under it changes: the system's, and the model checker's.
pub trait Monitor {
    /// The lock, held.
    type Guard<'a>: DerefMut<Target = Counts>
    where
        Self: 'a;
    /// Takes the lock.
    fn lock(&self) -> Self::Guard<'_>;
    /// Sleeps without the lock until woken, or for no reason.
    fn sleep<'a>(&'a self, guard: Self::Guard<'a>) -> Self::Guard<'a>;
    /// Wakes all.
    fn wake(&self);
}
/// The system's.
pub struct SystemMonitor(Mutex<Counts>, Condvar);
impl Default for SystemMonitor {
    fn default() -> SystemMonitor {
        SystemMonitor(Mutex::sheltered(Counts::default()), Condvar::new())
    }
}
impl Monitor for SystemMonitor {
    type Guard<'a> = MutexGuard<'a, Counts>;
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock()
    }
    fn sleep<'a>(&'a self, guard: MutexGuard<'a, Counts>) -> MutexGuard<'a, Counts> {
        self.1.wait(guard)
    }
    fn wake(&self) {
        self.1.notify_all();
    }
}

/// The threads at work in one engine, and those of them that wait.
#[derive(Default)]
pub struct Waiting<M = SystemMonitor, A = AtomicU32> {
    /// Number of threads at work. It is raised without the lock and lowered under it. `begin` comes before a thread
    /// takes anything, so whoever sees that it was taken sees the thread counted.
    at_work: A,
    counts: M,
}
impl<M: Monitor, A: AtomicWord> Waiting<M, A> {
    /// The calling thread is at work from now on. Before it claims, pins or takes anything in hand.
    pub fn begin(&self) {
        self.at_work.add(1);
    }
    /// The calling thread has let go of all that it claimed, pinned or had in hand since `begin`.
    pub fn end(&self, how: End) {
        self.change(|counts| {
            self.at_work.add(1_u32.wrapping_neg());
            match how {
                End::Progress => counts.note(),
                End::InVain => counts.note_in_vain(),
                End::Unnoted => {}
            }
        });
    }
    /// Progress: something may be room for somebody now, though no thread has ended.
    pub fn note(&self) {
        self.change(Counts::note);
    }
    /// Makes those that wait look again at their conditions.
    pub fn wake(&self) {
        self.change(|_| {});
    }
    fn change(&self, edit: impl FnOnce(&mut Counts)) {
        // Under the lock, because a thread that has looked and does not sleep yet holds it.
        let mut counts = self.counts.lock();
        edit(&mut counts);
        drop(counts);
        self.counts.wake();
    }
    /// How many threads are at work.
    pub fn at_work(&self) -> u32 {
        self.at_work.load()
    }
    /// How many of these wait.
    #[cfg(test)]
    pub fn waiting(&self) -> u32 {
        self.counts.lock().waiting
    }
    /// How many threads that are not at work wait.
    #[cfg(test)]
    pub fn aside(&self) -> u32 {
        self.counts.lock().aside
    }
    /// The number that changes with all progress. To be read before looking for room.
    pub fn progress(&self) -> u32 {
        self.counts.lock().progress
    }
    /// Like `progress`, for a thread that may stand aside.
    pub fn useful_progress(&self) -> u32 {
        self.counts.lock().useful
    }
    /// For a thread at work that has found nothing since it read `seen` from `progress`. Waits until there is
    /// progress. Returns false if there is none to hope for, or if the wait is `cancelled`, which is asked again
    /// whenever another thread wakes this one.
    pub fn starve(&self, seen: u32, cancelled: impl Fn() -> bool) -> bool {
        let mut counts = self.counts.lock();
        if counts.progress != seen {
            return true;
        }
        counts.waiting += 1;
        loop {
            if cancelled() || self.at_work.load() <= counts.waiting {
                counts.waiting -= 1; // the others may still hope for what this thread holds
                return false;
            }
            counts = self.counts.sleep(counts);
            // The thread that changed the number has counted this one out.
            if counts.progress != seen {
                return true;
            }
        }
    }
    /// For a thread that is not at work, and has looked in vain since it read `seen` from `progress`. Waits until
    /// there is progress, and returns true; or until nobody is at work, so that none is coming, and returns false.
    /// The thread holds nothing meanwhile, and nobody gives up because of it.
    pub fn progress_since(&self, seen: u32) -> bool {
        self.wait_aside(|counts| counts.progress != seen)
    }
    /// Like `progress_since`, for a thread that has ended in vain since it read `seen` from `useful_progress`.
    pub fn stand_aside(&self, seen: u32) -> bool {
        self.wait_aside(|counts| counts.useful != seen)
    }
    fn wait_aside(&self, is_there: impl Fn(&Counts) -> bool) -> bool {
        let mut counts = self.counts.lock();
        #[cfg(test)]
        {
            counts.aside += 1;
        }
        while !is_there(&counts) && self.at_work.load() > 0 {
            counts = self.counts.sleep(counts);
        }
        #[cfg(test)]
        {
            counts.aside -= 1;
        }
        is_there(&counts)
    }
    /// Waits until `done`, which is asked again whenever a thread ends or notes progress.
    pub fn wait_until(&self, done: impl Fn() -> bool) {
        let mut counts = self.counts.lock();
        while !done() {
            counts = self.counts.sleep(counts);
        }
    }
}

#[cfg(test)]
mod tests;
