//! How many threads a contraction may use, and sharing work between them (rayon's global pool).
use super::first_use;
use crate::defect;
use crate::error::Result;
use crate::os::injection::{Operation, check};
use crate::os::system::Errno;
use std::error::Error;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering::*};

static LIMIT: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of threads of one contraction; 0: as many as there are processors.
pub fn set_threads(count: usize) {
    LIMIT.store(count, Relaxed);
}

/// The number of threads of one contraction.
pub fn threads() -> usize {
    first_use::ready();
    let processors = processors();
    let limit = match LIMIT.load(Relaxed) {
        0 => processors,
        limit => limit.min(processors),
    };
    if limit > 1 && (forked() || !pool_is_made()) { 1 } else { limit }
}

/// Asked for once; threads that come first at the same moment find the same.
fn processors() -> usize {
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

/// Makes the pool's threads, once. False where the system had none: then everything runs on the calling thread, for
/// good, because rayon does not try again. A pool that a Rust program around us has made is as good.
fn pool_is_made() -> bool {
    const UNKNOWN: u8 = 0;
    const MADE: u8 = 1;
    const NONE: u8 = 2;
    static POOL: AtomicU8 = AtomicU8::new(UNKNOWN);
    let mut pool = POOL.load(Acquire);
    if pool == UNKNOWN {
        let _making = first_use::making();
        pool = POOL.load(Relaxed);
        if pool == UNKNOWN {
            pool = if make_pool() { MADE } else { NONE };
            POOL.store(pool, Release);
        }
    }
    pool == MADE
}
fn make_pool() -> bool {
    let made = rayon::ThreadPoolBuilder::new()
        .start_handler(|_| defect::stay_inside())
        .spawn_handler(|thread| {
            check(Operation::StartThread).map_err(|Errno(error)| std::io::Error::from_raw_os_error(error))?;
            std::thread::Builder::new().name("unimem".into()).spawn(|| thread.run()).map(|_| ())
        })
        .build_global();
    made.map_or_else(|error| error.source().is_none(), |()| true)
}

/// The pool's threads do not live on in a forked child: there everything runs on the calling thread.
fn forked() -> bool {
    static POOL_PROCESS: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let owner = POOL_PROCESS.compare_exchange(0, process, Relaxed, Relaxed).unwrap_or_else(|owner| owner);
    owner != 0 && owner != process
}

/// Runs `work(i)` for every i below `parts` on up to `threads` threads, the caller's among them. Parts are taken
/// in ascending order, whoever is free next. `tick` is called on the caller's thread after each part it has done, with the
/// number of parts taken so far, and with all of them in the end; its failure stops everyone before the next part.
pub fn share<S>(
    threads: usize,
    parts: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) + Sync,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let take = || Some(next.fetch_add(1, Relaxed)).filter(|part| *part < parts);
    let mut told = 0;
    let mut own = || {
        let mut state = state();
        while let Some(part) = take() {
            work(&mut state, part);
            told = next.load(Relaxed).min(parts);
            if let Err(error) = tick(told) {
                next.store(parts, Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    if threads.min(parts) <= 1 {
        return own();
    }
    rayon::in_place_scope(|scope| {
        for _ in 1..threads.min(parts) {
            scope.spawn(|_| {
                let mut state = state();
                while let Some(part) = take() {
                    work(&mut state, part);
                }
            });
        }
        own()
    })?;
    // The others took the last ones.
    if told < parts { tick(parts) } else { Ok(()) }
}

/// `share` without anyone to tell.
pub fn each<S>(
    threads: usize,
    parts: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) + Sync,
) {
    let told = share(threads, parts, state, work, &mut |_| Ok(()));
    debug_assert!(told.is_ok()); // only a tick can fail
}

/// The largest of `value(i)` for every i below `parts`.
pub fn fold(parts: usize, value: impl Fn(usize) -> u32 + Sync) -> u32 {
    let most = AtomicU32::new(0);
    each(
        threads(),
        parts,
        || (),
        |(), part| {
            most.fetch_max(value(part), Relaxed);
        },
    );
    most.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn all_parts_are_told_whoever_did_them() {
        let caller = std::thread::current().id();
        let done = AtomicUsize::new(0);
        let late = || {
            while std::thread::current().id() == caller && done.load(Acquire) < 3 {
                std::hint::spin_loop();
            }
        };
        let mut told = Vec::new();
        let work = |(): &mut (), _| _ = done.fetch_add(1, AcqRel);
        share(2, 3, late, work, &mut |parts| {
            told.push(parts);
            Ok(())
        })
        .unwrap();
        assert_eq!(told, [3]);
    }
}
