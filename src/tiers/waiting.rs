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
//! - Some threads hold a chunk in place that could leave for another, and wait for the right to keep it: they want to
//!   acquire it (`starve_for_more`). If all threads wait, and not all of them for that right, then these let go first
//!   and *stand aside*: they look again when some thread has ended, or when none is at work. Otherwise an acquire in
//!   vain could make a plain touch fail, which ends the program. A thread that lets go in this way ([`End::Called`])
//!   does not count here as one that has ended: two threads that want one chunk would take turns at it for ever.
//!
//! A thread that wants room for a plain block can do without it. It does not wait at work: it ends, and looks again
//! when there is progress (`progress_since`). So no touch gives up sooner because of it; it gives up itself when
//! nobody is at work any more.
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
    /// The same, except that a called thread that lets go does not change it.
    uncalled: u32,
    /// Threads that wait for progress to change.
    waiting: u32,
    /// How many of these can let go of a chunk: they wait in `starve_for_more`.
    for_more: u32,
    /// Changes when these threads have to let go.
    called: u32,
}
impl Counts {
    fn note(&mut self) {
        self.uncalled = self.uncalled.wrapping_add(1);
        self.note_called();
    }
    fn note_called(&mut self) {
        self.progress = self.progress.wrapping_add(1);
        (self.waiting, self.for_more) = (0, 0);
    }
    fn count_in(&mut self, for_more: bool) {
        self.waiting += 1;
        self.for_more += u32::from(for_more);
    }
    fn count_out(&mut self, for_more: bool) {
        self.waiting -= 1;
        self.for_more -= u32::from(for_more);
    }
}

/// What the end of a thread's work means to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Progress: what the thread has let go of may be room for them.
    Progress,
    /// The same, by a thread that was called and is about to stand aside.
    Called,
    /// Nothing: nobody else could have used what the thread held.
    Unnoted,
}

/// How waiting for progress ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was progress: look again.
    Progress,
    /// There is none to hope for.
    Hopeless,
    /// Others want what the thread holds: let go of it, and stand aside.
    Called,
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
                End::Called => counts.note_called(),
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
    /// The number that changes with all progress. To be read before looking for room.
    pub fn progress(&self) -> u32 {
        self.counts.lock().progress
    }
    /// For a thread at work that has found nothing since it read `seen` from `progress`. Waits until there is
    /// progress. Returns false if there is none to hope for, or if the wait is `cancelled`, which is asked again
    /// whenever another thread wakes this one.
    pub fn starve(&self, seen: u32, cancelled: impl Fn() -> bool) -> bool {
        self.wait_for_progress(seen, cancelled, false) == Outcome::Progress
    }
    /// Like `starve`, for a thread that can let go of what it holds, and try again later (`stand_aside`).
    pub fn starve_for_more(&self, seen: u32, cancelled: impl Fn() -> bool) -> Outcome {
        self.wait_for_progress(seen, cancelled, true)
    }
    fn wait_for_progress(&self, seen: u32, cancelled: impl Fn() -> bool, for_more: bool) -> Outcome {
        let mut counts = self.counts.lock();
        if counts.progress != seen {
            return Outcome::Progress;
        }
        let called = counts.called;
        counts.count_in(for_more);
        loop {
            if cancelled() {
                counts.count_out(for_more);
                return Outcome::Hopeless;
            }
            if self.at_work.load() <= counts.waiting {
                if counts.for_more == 0 || counts.for_more == counts.waiting {
                    counts.count_out(for_more); // the others may still hope for what this thread holds
                    return Outcome::Hopeless;
                }
                // These threads count as at work until they have let go, so nobody else gives up.
                counts.waiting -= counts.for_more;
                counts.for_more = 0;
                counts.called = counts.called.wrapping_add(1);
                self.counts.wake();
                if for_more {
                    return Outcome::Called;
                }
            }
            counts = self.counts.sleep(counts);
            // The thread that changed either number has counted this one out.
            if counts.progress != seen {
                return Outcome::Progress;
            }
            if for_more && counts.called != called {
                return Outcome::Called;
            }
        }
    }
    /// For a thread that is not at work. Waits until another thread has made progress, or none is at work.
    pub fn stand_aside(&self) {
        let mut counts = self.counts.lock();
        let seen = counts.uncalled;
        while counts.uncalled == seen && self.at_work.load() > 0 {
            counts = self.counts.sleep(counts);
        }
    }
    /// For a thread that is not at work, and has looked in vain since it read `seen` from `progress`. Waits until
    /// there is progress, and returns true; or until nobody is at work, so that none is coming, and returns false.
    /// The thread holds nothing meanwhile, and nobody gives up because of it.
    pub fn progress_since(&self, seen: u32) -> bool {
        let mut counts = self.counts.lock();
        while counts.progress == seen && self.at_work.load() > 0 {
            counts = self.counts.sleep(counts);
        }
        counts.progress != seen
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
