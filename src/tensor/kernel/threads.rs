//! How many threads a contraction may use, and sharing work between them.
use super::{first_use, workers};
use crate::error::{Result, fail};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};

static LIMIT: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of threads of one contraction. 0 means as many as there are processors.
pub fn set_threads(count: usize) {
    LIMIT.store(count, Relaxed);
}

/// The number of threads of one product. 1 if there are no other threads to be had, or in a forked child.
pub fn threads() -> usize {
    let limit = limit();
    if limit > 1 && (workers::forked() || workers::of_products().is_none()) { 1 } else { limit }
}
/// The number of threads of one decomposition, in the same way. Gets faer ready.
pub fn threads_of_decompositions() -> usize {
    first_use::ready();
    let limit = limit();
    if limit > 1 && (workers::forked() || !workers::of_decompositions()) { 1 } else { limit }
}
fn limit() -> usize {
    match LIMIT.load(Relaxed) {
        0 => workers::processors(),
        limit => limit.min(workers::processors()),
    }
}

/// Runs `work(i)` for every i below `parts` on up to `threads` threads, of which the caller's is one. Parts are taken in
/// ascending order by whichever thread is free. Each thread has a `state` of its own.
///
/// `tick` is called on the caller's thread after each part that this thread has done, with the number of parts taken so far,
/// and with all of them in the end. If it fails, nobody takes another part. `tick` may fork. In the child `share` then fails
/// with `Unsupported`, since the parts that other threads have taken will never be done there.
pub fn share<S>(
    threads: usize,
    parts: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) + Sync,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let workers = if threads.min(parts) > 1 { workers::of_products() } else { None };
    let helpers_are_here = || match workers.is_some() && workers::forked() {
        true => fail!(Unsupported, "this process was forked while others had parts of the product"),
        false => Ok(()),
    };
    let next = AtomicUsize::new(0);
    let take = || Some(next.fetch_add(1, Relaxed)).filter(|part| *part < parts);
    let mut told = 0;
    let mut own = || {
        let mut state = state();
        while let Some(part) = take() {
            work(&mut state, part);
            told = next.load(Relaxed).min(parts);
            if let Err(error) = tick(told).and_then(|()| helpers_are_here()) {
                next.store(parts, Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    let Some(workers) = workers else { return own() };
    let helping = || {
        let mut state = state();
        while let Some(part) = take() {
            work(&mut state, part);
        }
    };
    workers.help(threads.min(parts) - 1, &helping, own)?;
    // Other threads took the last parts.
    if told < parts { tick(parts) } else { Ok(()) }
}

/// [`share`] without a `tick`.
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
        if threads() == 1 {
            return; // nobody else does any
        }
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
