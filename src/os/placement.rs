//! Keeps threads that help a caller off the processor that the caller is on.
//!
//! The system wakes a thread on a processor of its choice. On a virtual machine that is often the processor of the thread
//! that wakes it: an idle processor that the host has taken away counts as busy (`available_idle_cpu` in Linux's
//! kernel/sched). The woken thread then waits until its waker has used up a time slice of some milliseconds, or has done a
//! short job alone. Libraries whose threads stay awake for up to 200 ms after each job do not have this problem.
use super::lock::Mutex;
use super::system::{self, LastingThread, Processors};
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// With more threads than these, it does not matter if one of them starts late, but moving all of them takes long.
const FEW: usize = 15;

/// Some threads, and where they may run.
pub struct Placement {
    threads: Vec<LastingThread>,
    /// The processors that they were allowed at first.
    all: Processors,
    /// The processor that the threads are kept off, or [`NONE`], or [`LEFT_ALONE`]. It changes under the lock `moving`.
    kept_off: AtomicUsize,
    moving: Mutex<()>,
}
/// Not the number of a processor: the threads are kept off none.
const NONE: usize = usize::MAX;
/// Stands for threads that are not placed: they are too many, or the program or the system places them itself.
const LEFT_ALONE: usize = usize::MAX - 1;

impl Placement {
    /// For threads that are all allowed the same processors.
    pub fn new(threads: Vec<LastingThread>) -> Placement {
        let first = threads.first().filter(|_| threads.len() <= FEW);
        let all = first.and_then(|first| first.affinity().ok());
        let kept_off = AtomicUsize::new(if all.is_some() { NONE } else { LEFT_ALONE });
        Placement { threads, all: all.unwrap_or_else(Processors::none), kept_off, moving: Mutex::new(()) }
    }

    /// Keeps the threads off the processor that the calling thread is on. Costs nothing while that processor stays the
    /// same. If several threads call this at the same time, one of them wins.
    pub fn keep_off_caller(&self) {
        if let Some(processor) = system::processor() {
            self.place(processor);
        }
    }
    /// Allows the threads every processor again, because their caller is about to sleep.
    pub fn let_go(&self) {
        self.place(NONE);
    }

    fn place(&self, kept_off: usize) {
        let is_done = |before| before == kept_off || before == LEFT_ALONE;
        if is_done(self.kept_off.load(Relaxed)) {
            return;
        }
        let Some(_moving) = self.moving.try_lock() else { return };
        let before = self.kept_off.load(Relaxed);
        if is_done(before) {
            return;
        }
        let (now, wanted) = (self.all.without(before), self.all.without(kept_off));
        // If a thread is not where we put it, somebody else places it. Then the others are given back.
        let ours = wanted != Processors::none() && self.threads.iter().all(|thread| is_at(thread, now));
        let moved = ours && self.threads.iter().all(|thread| thread.set_affinity(wanted).is_ok());
        if !moved {
            self.give_back(now);
            if ours {
                self.give_back(wanted);
            }
        }
        self.kept_off.store(if moved { kept_off } else { LEFT_ALONE }, Relaxed);
    }
    /// Allows every processor again to those threads that are allowed just `some`.
    fn give_back(&self, some: Processors) {
        for thread in self.threads.iter().filter(|thread| is_at(thread, some)) {
            let _ = thread.set_affinity(self.all); // a thread for which this fails stays there and works there
        }
    }
}
fn is_at(thread: &LastingThread, processors: Processors) -> bool {
    thread.affinity().is_ok_and(|found| found == processors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// A thread that waits until its sender is dropped.
    fn waiting() -> (LastingThread, Sender<()>) {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || _ = stopped.recv());
        // SAFETY: the tests use the thread only while they hold its sender, so it still runs.
        (unsafe { LastingThread::new(thread) }, stop)
    }

    #[test]
    fn threads_are_kept_off_their_caller_until_let_go() {
        let (thread, _stop) = waiting();
        let all = thread.affinity().unwrap();
        let placement = Placement::new(vec![thread]);
        // The caller may move between these calls; then it tries again.
        let placed = (0..1000).any(|_| {
            let before = system::processor().unwrap();
            placement.keep_off_caller();
            let others = all.without(before);
            others == Processors::none() || thread.affinity().unwrap() == others
        });
        assert!(placed);
        placement.let_go();
        assert!(thread.affinity().unwrap() == all);
    }

    #[test]
    fn threads_that_the_program_places_are_left_alone() {
        let [(first, _stop), (second, _stop_too)] = [waiting(), waiting()];
        let all = first.affinity().unwrap();
        let placement = Placement::new(vec![first, second]);
        let here = system::processor().unwrap();
        let only_here = (0..1024).filter(|x| *x != here).fold(all, Processors::without);
        second.set_affinity(only_here).unwrap();
        placement.keep_off_caller();
        assert!(second.affinity().unwrap() == only_here && first.affinity().unwrap() == all);
        placement.let_go();
        assert!(second.affinity().unwrap() == only_here);
    }
}
