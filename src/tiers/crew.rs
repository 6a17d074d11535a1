//! The crew: two threads for the whole process that read ahead and keep slots in stock.
//!
//! Started with the first region that has a budget, never in a fault handler. They block all signals, so the program's
//! handlers never run on them. Jobs are hints: when the queue is full they are dropped. A forked child has no crew
//! until it allocates again; everything works without one, only later.
use super::region::Region;
use super::{gate, registry};
use crate::os::lock::Mutex;
use crate::os::system;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

const THREADS: usize = 2;
const STACK: usize = 256 << 10;
const QUEUE: usize = 64;

#[derive(Clone, Copy, PartialEq)]
enum Job {
    /// Bring chunk `index` of the region at `start` into a slot.
    ReadAhead { start: usize, index: usize },
    /// Bring a chunk in place.
    BringIn { start: usize, index: usize },
    /// Make an empty slot of the region's full.
    Stock { start: usize },
}
struct Queue {
    jobs: [Option<Job>; QUEUE],
    first: usize,
    count: usize,
}
static JOBS: Mutex<Queue> = Mutex::new(Queue { jobs: [None; QUEUE], first: 0, count: 0 });
/// Changes with every job; what idle threads wait on.
static CALLS: AtomicU32 = AtomicU32::new(0);
static RUNNING: AtomicBool = AtomicBool::new(false);

fn push(job: Job) -> bool {
    let mut queue = JOBS.lock();
    let (first, count) = (queue.first, queue.count);
    if count == QUEUE || (0..count).any(|i| queue.jobs[(first + i) % QUEUE] == Some(job)) {
        return false;
    }
    queue.jobs[(first + count) % QUEUE] = Some(job);
    queue.count += 1;
    drop(queue);
    CALLS.fetch_add(1, Release);
    atomic_wait::wake_one(&CALLS);
    true
}
fn pop() -> Option<Job> {
    let mut queue = JOBS.lock();
    if queue.count == 0 {
        return None;
    }
    let first = queue.first;
    queue.first = (first + 1) % QUEUE;
    queue.count -= 1;
    queue.jobs[first].take()
}

/// Asks for a stored chunk to be decoded into a slot.
pub fn read_ahead(region: &Region, index: usize) {
    push(Job::ReadAhead { start: region.start(), index });
}
/// Asks for a chunk to be brought in place; false if the queue is full.
pub fn bring_in(region: &Region, index: usize) -> bool {
    push(Job::BringIn { start: region.start(), index })
}
/// Asks for a full slot.
pub fn stock(region: &Region) {
    push(Job::Stock { start: region.start() });
}

fn work(job: Job) {
    let (Job::ReadAhead { start, .. } | Job::BringIn { start, .. } | Job::Stock { start }) = job;
    let Some(region) = registry::find(start) else { return };
    match job {
        Job::ReadAhead { index, .. } if index < region.count() => region.stage(index),
        Job::BringIn { index, .. } if index < region.count() => region.bring_ahead(index),
        Job::Stock { .. } => region.engine().stock(&region),
        _ => {}
    }
}
extern "C" fn serve(_: *mut core::ffi::c_void) -> *mut core::ffi::c_void {
    loop {
        let calls = CALLS.load(Acquire);
        let inside = gate::enter_masked();
        let job = pop();
        if let Some(job) = job {
            work(job);
        }
        drop(inside);
        if job.is_none() {
            atomic_wait::wait(&CALLS, calls);
        }
    }
}

/// Starts the threads if they do not run. Without them nothing is done ahead.
pub fn start() {
    if RUNNING.swap(true, AcqRel) {
        return;
    }
    for _ in 0..THREADS {
        if system::start_thread(STACK, serve).is_err() {
            RUNNING.store(false, Release);
        }
    }
}
/// In a forked child: the threads are the parent's, and the queue too.
pub fn forget() {
    RUNNING.store(false, Release);
    while pop().is_some() {}
}
