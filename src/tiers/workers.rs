//! The worker threads: two for the whole process, which read ahead and keep slots in stock.
//!
//! - They are started with the first region that has a budget, and never in a fault handler.
//! - They block all signals, so the program's handlers never run on them.
//! - Jobs are hints: they are dropped when the queue is full.
//! - A forked child has no worker threads until it allocates again. Everything works without them, only later.
use super::region::Region;
use super::{gate, registry};
use crate::os::lock::Mutex;
use crate::os::system;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};

const THREADS: usize = 2;
const STACK: usize = 256 << 10;
const QUEUE: usize = 64;

/// What is to be done ahead, in the region that begins at `start`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Job {
    start: usize,
    work: Work,
}
#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    /// Bring a chunk into a slot.
    ReadAhead { index: usize },
    /// Bring `count` chunks in place.
    BringIn { index: usize, count: usize },
    /// Fill one empty slot of the region.
    Stock,
}
impl Job {
    /// Whether it is for the region that begins at `start`; if `only` is given, for that chunk of it.
    fn is_for(&self, start: usize, only: Option<usize>) -> bool {
        let concerns = |chunk| match self.work {
            Work::ReadAhead { index } => index == chunk,
            Work::BringIn { index, count } => (index..index + count).contains(&chunk),
            Work::Stock => false,
        };
        self.start == start && only.is_none_or(concerns)
    }
    /// Splits off a job for one thread. The rest is left to others.
    fn split(self) -> (Job, Option<Job>) {
        match self.work {
            Work::BringIn { index, count } if count > 1 => (
                Job { work: Work::BringIn { index, count: 1 }, ..self },
                Some(Job { work: Work::BringIn { index: index + 1, count: count - 1 }, ..self }),
            ),
            _ => (self, None),
        }
    }
}
struct Queue {
    jobs: [Option<Job>; QUEUE],
    first: usize,
    count: usize,
    /// The jobs that threads have begun.
    begun: [Option<Job>; THREADS],
}
impl Queue {
    /// Puts a job at the end of the queue, unless it is in the queue already. Returns false if the queue is full.
    fn ask(&mut self, job: Job) -> bool {
        let waits = (0..self.count).any(|i| self.jobs[(self.first + i) % QUEUE] == Some(job));
        if !waits && self.count < QUEUE {
            self.push(job);
            return true;
        }
        waits
    }
    fn push(&mut self, job: Job) {
        self.jobs[(self.first + self.count) % QUEUE] = Some(job);
        self.count += 1;
    }
    fn pop(&mut self) -> Option<Job> {
        self.count = self.count.checked_sub(1)?;
        let first = self.first;
        self.first = (first + 1) % QUEUE;
        self.jobs[first].take()
    }
}
const EMPTY: Queue = Queue { jobs: [None; QUEUE], first: 0, count: 0, begun: [None; THREADS] };
static JOBS: Mutex<Queue> = Mutex::sheltered(EMPTY);
/// Changes with every job. Idle threads wait for a change.
static CALLS: AtomicU32 = AtomicU32::new(0);
/// Changes when a job is done. `withdraw` waits for a change.
static DONE: AtomicU32 = AtomicU32::new(0);
/// How many worker threads there are.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Queues a job and wakes a thread, unless the queue is full.
fn push(region: &Region, work: Work) {
    let asked = JOBS.lock().ask(Job { start: region.start(), work });
    if asked {
        call();
    }
}
fn call() {
    CALLS.fetch_add(1, Release);
    atomic_wait::wake_one(&CALLS);
}
/// Takes the next job, to be ended by `end`.
fn begin() -> Option<Job> {
    let mut queue = JOBS.lock();
    let (job, rest) = queue.pop()?.split();
    if let Some(place) = queue.begun.iter_mut().find(|place| place.is_none()) {
        *place = Some(job);
    }
    if let Some(rest) = rest {
        queue.push(rest); // behind the others; the job taken out has left room for it
        drop(queue);
        call();
    }
    Some(job)
}
fn end(job: Job) {
    let mut queue = JOBS.lock();
    if let Some(place) = queue.begun.iter_mut().find(|place| **place == Some(job)) {
        *place = None;
    }
    drop(queue);
    DONE.fetch_add(1, Release);
    atomic_wait::wake_all(&DONE);
}
/// Withdraws the jobs for a region, or for one of its chunks, that wait. Waits for those that were begun.
pub fn withdraw(region: &Region, only: Option<usize>) {
    let start = region.start();
    loop {
        let done = DONE.load(Acquire);
        let mut queue = JOBS.lock();
        for _ in 0..queue.count {
            if let Some(job) = queue.pop().filter(|job| !job.is_for(start, only)) {
                queue.push(job);
            }
        }
        if !queue.begun.iter().flatten().any(|job| job.is_for(start, only)) {
            return;
        }
        drop(queue);
        atomic_wait::wait(&DONE, done);
    }
}

/// Asks for a stored chunk to be decoded into a staging slot.
pub fn read_ahead(region: &Region, index: usize) {
    push(region, Work::ReadAhead { index });
}
/// Asks for chunks to be brought in place.
pub fn bring_in(region: &Region, index: usize, count: usize) {
    push(region, Work::BringIn { index, count });
}
/// Asks for a full slot.
pub fn stock(region: &Region) {
    push(region, Work::Stock);
}

fn work(job: Job) {
    let Some(region) = registry::find(job.start) else { return };
    match job.work {
        Work::ReadAhead { index } if index < region.count() => region.stage(index),
        Work::BringIn { index, .. } if index < region.count() => region.bring_ahead(index),
        Work::Stock => region.engine().stock(&region),
        _ => {}
    }
}
extern "C" fn serve(_: *mut core::ffi::c_void) -> *mut core::ffi::c_void {
    loop {
        let calls = CALLS.load(Acquire);
        let inside = gate::enter_masked();
        let job = begin();
        if let Some(job) = job {
            work(job);
            end(job);
        }
        drop(inside);
        if job.is_none() {
            atomic_wait::wait(&CALLS, calls);
        }
    }
}

/// Starts the threads that are not running. If that fails, nothing is done ahead.
pub fn start() {
    let one_more = |count| (count < THREADS).then_some(count + 1);
    while RUNNING.load(Relaxed) < THREADS && RUNNING.fetch_update(AcqRel, Relaxed, one_more).is_ok() {
        if system::start_thread(STACK, serve).is_err() {
            RUNNING.fetch_sub(1, AcqRel);
            return;
        }
    }
}
/// In a forked child: forgets the threads, which are the parent's, and empties the queue. No job is under way while a
/// process forks (gate.rs).
pub fn forget() {
    RUNNING.store(0, Release);
    while JOBS.lock().pop().is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn what_is_asked_for_again_waits_once_and_is_no_full_queue() {
        let mut queue = EMPTY;
        let job = |index, count| Job { start: 4096, work: Work::BringIn { index, count } };
        assert!(queue.ask(job(0, 3)) && queue.ask(job(0, 3)) && queue.count == 1);
        assert!((1..QUEUE).all(|index| queue.ask(job(index, 3))));
        assert!(!queue.ask(job(QUEUE, 3)) && queue.ask(job(7, 3)));
        assert!((0..QUEUE).all(|index| queue.pop() == Some(job(index, 3))) && queue.pop().is_none());
        assert_eq!(job(5, 3).split(), (job(5, 1), Some(job(6, 2))));
        assert_eq!(job(5, 1).split(), (job(5, 1), None));
    }
}
