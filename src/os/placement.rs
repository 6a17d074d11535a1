//! Keeps threads that help a caller off the processor that the caller is on.
//!
//! The system wakes a thread where it likes. On a virtual machine that is often the processor of the thread that wakes it,
//! since an idle one that the host has taken away counts as busy there (`available_idle_cpu` in Linux's
//! kernel/sched): it then waits until its waker has used up a time slice of some milliseconds, or has done a short
//! job alone. Libraries whose threads stay awake for that, up to 200 ms after each job, do not meet this.
use super::lock::Mutex;
use super::system::{self, LastingThread, Processors};
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// Of more threads than these, one that comes late is no matter, and moving all of them is.
const FEW: usize = 15;

/// Threads, and where they may be.
pub struct Placement {
    threads: Vec<LastingThread>,
    /// The processor that they are kept off, [`NONE`], or [`LEFT_ALONE`].
    kept_off: AtomicUsize,
    places: Mutex<Places>,
}
const NONE: usize = usize::MAX;
/// They are many, or the program or the system has a say in where they are: then we have none.
const LEFT_ALONE: usize = usize::MAX - 1;

struct Places {
    /// Where they could be at first.
    all: Processors,
    /// Where they may be now.
    now: Processors,
}

impl Placement {
    /// Of threads that may all be on the same processors.
    pub fn new(threads: Vec<LastingThread>) -> Placement {
        let first = threads.first().filter(|_| threads.len() <= FEW);
        let all = first.and_then(|first| first.affinity().ok());
        let kept_off = AtomicUsize::new(if all.is_some() { NONE } else { LEFT_ALONE });
        let all = all.unwrap_or_else(Processors::none);
        Placement { threads, kept_off, places: Mutex::new(Places { all, now: all }) }
    }

    /// From now on the threads are kept off the processor that the calling thread is on. Costs nothing as long as that is
    /// the same. Of callers at the same time the last one counts.
    pub fn keep_off_caller(&self) {
        let Some(processor) = system::processor() else { return };
        let kept_off = self.kept_off.load(Relaxed);
        if kept_off == processor || kept_off == LEFT_ALONE {
            return;
        }
        if let Some(mut places) = self.places.try_lock() {
            let moved = self.move_off(&mut places, processor);
            self.kept_off.store(if moved { processor } else { LEFT_ALONE }, Relaxed);
        }
    }

    /// False where somebody else places the threads, or there is no other processor.
    fn move_off(&self, places: &mut Places, processor: usize) -> bool {
        let others = places.all.without(processor);
        let ours = |now| now == places.now;
        if others == Processors::none()
            || !self.threads.first().is_some_and(|first| first.affinity().is_ok_and(ours))
        {
            return false;
        }
        places.now = others;
        self.threads.iter().all(|thread| thread.set_affinity(others).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// A thread that waits until its sender goes.
    fn waiting() -> (LastingThread, Sender<()>) {
        let (stop, stopped) = channel();
        (LastingThread::new(std::thread::spawn(move || _ = stopped.recv())), stop)
    }

    #[test]
    fn threads_are_kept_off_their_caller() {
        let (thread, _stop) = waiting();
        let all = thread.affinity().unwrap();
        let placement = Placement::new(vec![thread]);
        // The caller may move in between: then once more.
        let placed = (0..1000).any(|_| {
            let before = system::processor().unwrap();
            placement.keep_off_caller();
            let others = all.without(before);
            others == Processors::none() || thread.affinity().unwrap() == others
        });
        assert!(placed);
    }

    #[test]
    fn threads_that_the_program_places_are_left_alone() {
        let (thread, _stop) = waiting();
        let placement = Placement::new(vec![thread]);
        let here = system::processor().unwrap();
        let only_here =
            (0..1024).filter(|x| *x != here).fold(thread.affinity().unwrap(), Processors::without);
        thread.set_affinity(only_here).unwrap();
        placement.keep_off_caller();
        assert!(thread.affinity().unwrap() == only_here);
        assert_eq!(placement.kept_off.into_inner(), LEFT_ALONE);
    }
}
