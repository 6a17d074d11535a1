//! The stacks that allocated: each different one is stored once, by its hash; a live block knows the hash of its own.
//! Walking a stack takes no lock; names are looked up for reports only.
use crate::log::log;
use crate::os::{lock::Mutex, records::Records};
use allocator_api2::vec::Vec;
use core::cell::Cell;
use core::hash::BuildHasher;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Calls remembered of a stack.
pub(super) const DEPTH: usize = 32;
/// The stack of a block whose allocation was not traced.
pub(super) const UNKNOWN: u64 = 0;
const SEED: FixedState = FixedState::with_seed(0);

/// Return addresses, innermost first; 0 beyond the last.
pub type Stack = [usize; DEPTH];
struct Traces {
    stacks: HashMap<u64, Stack, FixedState, Records>,
    blocks: HashMap<usize, u64, FixedState, Records>,
}
static TRACES: Mutex<Traces> = Mutex::new(Traces {
    stacks: HashMap::with_hasher_in(SEED, Records),
    blocks: HashMap::with_hasher_in(SEED, Records),
});

pub(super) fn lock() {
    core::mem::forget(TRACES.lock());
}
/// # Safety
/// [`lock`] was called before.
pub(super) unsafe fn unlock() {
    // SAFETY: taken by `lock`, whose guard was forgotten.
    unsafe { TRACES.force_unlock() }
}

thread_local! {
    /// Set while a stack is walked or named: what that allocates is not traced.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}
/// Runs `f` unless this thread is in another one.
fn alone<R>(f: impl FnOnce() -> R) -> Option<R> {
    if BUSY.replace(true) {
        return None;
    }
    let result = f();
    BUSY.set(false);
    Some(result)
}

#[inline(never)]
fn walk() -> Stack {
    let mut stack = [0; DEPTH];
    let mut depth = 0;
    // SAFETY: unsynchronised is about Windows' library; here it is the unwinder, which any threads may use at once.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            stack[depth] = frame.ip() as usize;
            depth += 1;
            depth < DEPTH
        })
    };
    stack
}

/// The calling stack. None while this thread walks one already.
pub(super) fn walk_alone() -> Option<Stack> {
    alone(walk)
}
/// The stack that allocated the live block at `start`.
pub(super) fn known_stack(start: usize) -> Option<Stack> {
    let traces = TRACES.lock();
    traces.stacks.get(traces.blocks.get(&start)?).copied()
}

/// A block was made at `start` by the calling stack.
pub(super) fn allocated(start: usize) {
    let Some(stack) = alone(walk) else { return };
    let hash = SEED.hash_one(stack).max(1);
    let mut traces = TRACES.lock();
    // Without memory for it the block's stack stays unknown.
    if traces.stacks.try_reserve(1).is_ok() && traces.blocks.try_reserve(1).is_ok() {
        traces.stacks.entry(hash).or_insert(stack);
        traces.blocks.insert(start, hash);
    }
}
/// A block is no longer live. Gives the hash of the stack that allocated it.
pub(super) fn freed(start: usize) -> u64 {
    TRACES.lock().blocks.remove(&start).unwrap_or(UNKNOWN)
}
/// The hash of the stack that allocated the live block at `start`.
pub(super) fn stack_of(start: usize) -> u64 {
    TRACES.lock().blocks.get(&start).copied().unwrap_or(UNKNOWN)
}

/// One call of a stack.
#[derive(Default)]
pub(super) struct Call {
    pub address: usize,
    pub function: String,
    pub file: String,
    pub line: u32,
}
/// The calls of a stack, innermost first, from the caller of the library on. Empty when it is not known.
pub(super) fn calls(hash: u64) -> std::vec::Vec<Call> {
    let Some(stack) = TRACES.lock().stacks.get(&hash).copied() else { return Default::default() };
    let mut calls = std::vec::Vec::new();
    alone(|| {
        for &address in stack.iter().take_while(|&&address| address != 0) {
            let mut call = Call { address, ..Call::default() };
            // A return address may be the next function's first: the call is before it.
            backtrace::resolve((address - 1) as *mut _, |symbol| {
                if call.function.is_empty() {
                    call.function = symbol.name().map(|name| format!("{name:#}")).unwrap_or_default();
                    call.file = symbol.filename().map(|file| file.display().to_string()).unwrap_or_default();
                    call.line = symbol.lineno().unwrap_or(0);
                }
            });
            calls.push(call);
        }
    });
    let inner = |call: &Call| {
        ["unimem::", "<unimem::", "backtrace::"].iter().any(|own| call.function.starts_with(own))
    };
    let own = calls.iter().take_while(|call| inner(call)).count();
    if own < calls.len() {
        calls.drain(..own);
    }
    calls
}
/// Sends a stack to the log, a call a line.
pub(super) fn log_stack(hash: u64) {
    for (depth, call) in calls(hash).iter().enumerate() {
        match call.file.as_str() {
            "" => log!(Warning, "    #{depth} {:#x} {}", call.address, call.function),
            file => {
                log!(Warning, "    #{depth} {:#x} {} at {file}:{}", call.address, call.function, call.line)
            }
        }
    }
}
pub(super) fn log_stack_of(start: usize) {
    log_stack(stack_of(start));
}

/// Hashes of the stacks of many blocks at once.
pub(super) fn stacks_of(starts: impl Iterator<Item = usize>) -> Vec<u64, Records> {
    let traces = TRACES.lock();
    let mut hashes = Vec::new_in(Records);
    for start in starts {
        if hashes.try_reserve(1).is_ok() {
            hashes.push(traces.blocks.get(&start).copied().unwrap_or(UNKNOWN));
        }
    }
    hashes
}
