//! The threads that share work with the caller.
//!
//! - Products have a pool of their own. It has one thread less than there are processors, since the caller works, too.
//! - Decompositions have rayon's global pool, because faer uses that. It has as many threads as there are processors.
use super::{first_use, job};
use crate::defect;
use crate::os::floating_point::Environment;
use crate::os::injection::{Operation, check};
use crate::os::placement::Placement;
use crate::os::system::{Errno, LastingThread};
use std::error::Error;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};
use std::thread::JoinHandle;

/// The threads of products.
pub struct Workers {
    pool: rayon::ThreadPool,
    placement: Placement,
}
impl Workers {
    fn new(count: usize) -> Option<Workers> {
        let mut threads = Vec::with_capacity(count);
        let builder =
            rayon::ThreadPoolBuilder::new().num_threads(count).start_handler(|_| defect::stay_inside());
        let keep = |thread| {
            threads.push(start(thread)?);
            Ok(())
        };
        let pool = builder.spawn_handler(keep).build().ok()?;
        // SAFETY: the threads run as long as anybody asks: the pool is never dropped, and a forked child does not use it.
        let threads = threads.into_iter().map(|thread| unsafe { LastingThread::new(thread) }).collect();
        Some(Workers { pool, placement: Placement::new(threads) })
    }
    /// Runs `own` on the calling thread, and `work` on up to `helpers` of these threads that are free meanwhile.
    pub fn help<R>(&self, helpers: usize, work: &(dyn Fn() + Sync), own: impl FnOnce() -> R) -> R {
        self.placement.keep_off_caller();
        let spawn = |helper: job::Helper| self.pool.spawn(|| helper.run());
        job::run(helpers, spawn, work, own, || self.placement.let_go(), forked)
    }
}
fn start(thread: rayon::ThreadBuilder) -> io::Result<JoinHandle<()>> {
    check(Operation::StartThread).map_err(|Errno(error)| io::Error::from_raw_os_error(error))?;
    let _environment = Environment::DEFAULT.enter(); // the thread inherits it
    std::thread::Builder::new().name("unimem".into()).spawn(|| thread.run())
}

/// The threads of products, which the first call makes. `None` if there is one processor. `None` for good if the system
/// refused the threads to the first call.
pub fn of_products() -> Option<&'static Workers> {
    static WORKERS: OnceLock<Option<Workers>> = OnceLock::new();
    let count = processors() - 1;
    once(&WORKERS, || if count > 0 { Workers::new(count) } else { None }).as_ref()
}

/// Whether there are threads for decompositions. The first call makes them; there is no second attempt, because rayon
/// allows none. A global pool that a Rust program around the library has made will do.
pub fn of_decompositions() -> bool {
    static MADE: OnceLock<bool> = OnceLock::new();
    *once(&MADE, || {
        let made = rayon::ThreadPoolBuilder::new()
            .start_handler(|_| defect::stay_inside())
            .spawn_handler(|thread| start(thread).map(drop))
            .build_global();
        made.map_or_else(|error| error.source().is_none(), |()| true)
    })
}

/// Returns what `make` made. `make` is called at most once for a place, and never while the process forks.
fn once<T>(place: &'static OnceLock<T>, make: impl FnOnce() -> T) -> &'static T {
    if let Some(made) = place.get() {
        return made;
    }
    let _making = first_use::making();
    place.get_or_init(make)
}

/// The number of processors. The system is asked once. Threads that ask it at the same moment get the same answer.
pub fn processors() -> usize {
    static PROCESSORS: AtomicUsize = AtomicUsize::new(0);
    match PROCESSORS.load(Relaxed) {
        0 => {
            let found = std::thread::available_parallelism().map_or(1, |n| n.get());
            PROCESSORS.store(found, Relaxed);
            found
        }
        known => known,
    }
}

/// Whether this process is a forked child of the first one that called this. The threads do not exist in the child, so
/// everything runs on the calling thread there.
pub fn forked() -> bool {
    static PROCESS: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let owner = PROCESS.compare_exchange(0, process, Relaxed, Relaxed).unwrap_or_else(|owner| owner);
    owner != 0 && owner != process
}
