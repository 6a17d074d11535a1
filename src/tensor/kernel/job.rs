//! Work that helper threads may join while the caller does it, and that ends when the caller says so.
//!
//! - A helper counts itself in before it looks at the work, and out afterwards.
//! - The caller closes the job when its own part is done, and waits for the helpers that are in. A helper that comes later
//!   finds the job closed and touches nothing. So the caller never waits for a helper that is busy elsewhere.
//! - One word holds both the mark and the count. So the caller sees every helper that came in before the mark, and every
//!   helper that comes later sees the mark.
//! - The job itself lives until the last helper has looked at it.
use crate::tiers::word::AtomicWord;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::time::{Duration, Instant};

/// The mark: the caller is done. The bits above it count the helpers.
const CLOSED: u32 = 1;
const HELPER: u32 = 2;

/// Counts the helpers at work, and holds the mark that the caller is done.
struct Attendance<A>(A);
impl<A: AtomicWord> Attendance<A> {
    /// Counts a helper in. Returns false if the job is closed. In either case [`leave`](Self::leave) must follow.
    fn enter(&self) -> bool {
        self.0.add(HELPER) & CLOSED == 0
    }
    fn leave(&self) {
        if self.0.add(HELPER.wrapping_neg()) == CLOSED + HELPER {
            self.0.wake();
        }
    }
    /// From now on nobody comes in.
    fn close(&self) {
        self.0.add(CLOSED);
    }
    fn is_over(&self) -> bool {
        self.0.load() == CLOSED
    }
    /// Returns when nobody is at work any more.
    fn wait(&self) {
        loop {
            match self.0.load() {
                CLOSED => return,
                others => self.0.wait(others),
            }
        }
    }
}

/// How long a caller spins for the last helper before it goes to sleep. Going to sleep and waking up takes as long as a
/// small product.
const LONGEST_SPIN: Duration = Duration::from_micros(50);

struct Job {
    attendance: Attendance<AtomicU32>,
    work: *const (dyn Fn() + Sync),
    /// Whether a helper panicked.
    panicked: AtomicBool,
}
// SAFETY: the work is Sync, and helpers call it only while the caller of `run` keeps it.
unsafe impl Send for Job {}
// SAFETY: the work is Sync (see above), and all else in a job is atomic.
unsafe impl Sync for Job {}
impl Job {
    fn help(&self) {
        if self.attendance.enter() {
            // SAFETY: the caller keeps the work until all who came in before it closed have left.
            let work = unsafe { &*self.work };
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                self.panicked.store(true, Relaxed);
            }
        }
        self.attendance.leave();
    }
}

/// What one helper is to do. It may run at any time, also when the job is over.
pub struct Helper(Arc<Job>);
impl Helper {
    pub fn run(self) {
        self.0.help();
    }
}

/// Runs `own` on the calling thread, and `work` on up to `helpers` others meanwhile, each of which is handed to `spawn`.
/// Returns when all who began it have ended, or if `gone` says that they do not exist here, as in a process forked by `own`.
/// Calls `asleep` before the caller goes to sleep. Panics if a helper panicked.
pub fn run<R>(
    helpers: usize,
    spawn: impl Fn(Helper),
    work: &(dyn Fn() + Sync),
    own: impl FnOnce() -> R,
    asleep: impl FnOnce(),
    gone: fn() -> bool,
) -> R {
    /// Closes the job and waits for its helpers, whether `own` returns or panics.
    struct Close<F: FnOnce()>(Arc<Job>, Option<F>, fn() -> bool);
    impl<F: FnOnce()> Drop for Close<F> {
        fn drop(&mut self) {
            let attendance = &self.0.attendance;
            attendance.close();
            if !attendance.is_over() && (self.2)() {
                return;
            }
            let start = Instant::now();
            while !attendance.is_over() && start.elapsed() < LONGEST_SPIN {
                std::hint::spin_loop();
            }
            if !attendance.is_over() {
                if let Some(asleep) = self.1.take() {
                    asleep();
                }
                attendance.wait();
            }
        }
    }
    // SAFETY: only the lifetime changes. Below or while unwinding, `Close` is dropped and waits; nobody calls the work after
    // that.
    let work = unsafe { core::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
    let attendance = Attendance(AtomicU32::new(0));
    let job = Arc::new(Job { attendance, work, panicked: AtomicBool::new(false) });
    let close = Close(job.clone(), Some(asleep), gone);
    for _ in 0..helpers {
        spawn(Helper(job.clone()));
    }
    let result = own();
    drop(close);
    assert!(!job.panicked.load(Relaxed), "a helper panicked");
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::word::modelled::{ModelledWord, explore};
    use std::sync::mpsc::channel;

    /// The caller takes the work away after it has waited. The model would find a helper that touched the work later.
    #[test]
    fn nobody_touches_what_the_caller_has_taken_away() {
        explore(2, || {
            let shared = loom::sync::Arc::new((
                Attendance(ModelledWord::new(0)),
                loom::cell::UnsafeCell::new(Some(0)),
            ));
            let helpers = [(); 2].map(|()| {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    if shared.0.enter() {
                        shared.1.with(|work| {
                            // SAFETY: the model reports a write at the same time.
                            assert!(unsafe { &*work }.is_some());
                        });
                    }
                    shared.0.leave();
                })
            });
            shared.0.close();
            shared.0.wait();
            shared.1.with_mut(|work| {
                // SAFETY: the model reports a read at the same time.
                unsafe { *work = None };
            });
            helpers.into_iter().for_each(|helper| helper.join().unwrap());
        });
    }

    #[test]
    fn nobody_waits_for_a_helper_that_has_not_begun() {
        let (late, jobs) = channel();
        let work = || panic!("it came too late");
        let result =
            run(2, |job| late.send(job).unwrap(), &work, || 7, || panic!("nobody is at work"), || false);
        assert_eq!(result, 7);
        drop(late);
        jobs.into_iter().for_each(Helper::run);
    }

    #[test]
    fn a_helper_that_panics_is_the_callers_panic() {
        let work = || panic!("as told");
        let outcome = catch_unwind(AssertUnwindSafe(|| run(1, Helper::run, &work, || (), || (), || false)));
        assert!(outcome.is_err());
    }

    #[test]
    fn the_caller_waits_for_those_who_began() {
        let (begun, wait) = channel();
        let (go, gone) = channel::<()>();
        let gone = std::sync::Mutex::new(gone);
        let done = AtomicBool::new(false);
        let work = || {
            begun.send(()).unwrap();
            _ = gone.lock().unwrap().recv();
            done.store(true, Relaxed);
        };
        let spawn = |helper: Helper| _ = std::thread::spawn(|| helper.run());
        run(1, spawn, &work, || wait.recv().unwrap(), || drop(go), || false);
        assert!(done.into_inner());
    }
}
