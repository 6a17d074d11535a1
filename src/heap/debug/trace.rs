//! Call stacks. Each stack is stored once, under its hash; for each live block the hash of the stack that allocated it is
//! kept.
//!
//! Walking a stack allocates nothing and takes no lock of ours. With a C library older than glibc 2.35 it takes the
//! dynamic loader's. Names are looked up only to tell people, and under a lock of their own. Fork waits for that lock, so
//! that no child inherits the symboliser's locks half taken.
use super::super::tracking_table::give_room_back;
use super::regions;
use crate::log::{Level, is_wanted, lock_quietly, log};
use crate::os::fork::AtFork;
use crate::os::{lock::Mutex, records::Records, system::NotCancelled, thread};
use crate::recording::{DEPTH, Stack};
use allocator_api2::vec::Vec;
use core::ffi::c_void;
use core::hash::BuildHasher;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// The hash of a stack that is not known.
pub(super) const UNKNOWN: u64 = 0;
const SEED: FixedState = FixedState::with_seed(0);

struct Traces {
    stacks: HashMap<u64, Stack, FixedState, Records>,
    blocks: HashMap<usize, u64, FixedState, Records>,
}
static TRACES: Mutex<Traces> = Mutex::new(Traces {
    stacks: HashMap::with_hasher_in(SEED, Records),
    blocks: HashMap::with_hasher_in(SEED, Records),
});
/// Names that were looked up already, by return address.
static SYMBOLS: Mutex<HashMap<usize, Call, FixedState>> = Mutex::new(HashMap::with_hasher(SEED));

/// See load.rs.
pub(super) static HOOKS: &dyn AtFork = &TRACES;
/// See load.rs.
pub(super) static SYMBOL_HOOKS: &dyn AtFork = &SYMBOLS;

/// Runs `f` unless this thread is inside another call of this, or has no record. So what walking and naming allocate is
/// not traced. The mark is in the thread's record, because a thread-local variable of ours might make the dynamic loader
/// allocate.
fn alone<R>(f: impl FnOnce() -> R) -> Option<R> {
    let busy = &thread::existing()?.in_trace;
    if busy.swap(true, Relaxed) {
        return None;
    }
    let result = f();
    busy.store(false, Relaxed);
    Some(result)
}

unsafe extern "C" {
    /// The start of the object that this code is linked into, and the end of its code. The linker defines both.
    static __ehdr_start: u8;
    static etext: u8;
}
/// The range of the library's own code; empty if the library is part of the program.
fn own_code() -> Range<usize> {
    let object = &raw const __ehdr_start as usize..&raw const etext as usize;
    // SAFETY: the function only returns a value of the process.
    let program = unsafe { libc::getauxval(libc::AT_ENTRY) } as usize;
    if object.contains(&program) { 0..0 } else { object }
}

#[inline(never)]
fn walk() -> Stack {
    let mut stack = [0; DEPTH];
    let mut depth = 0;
    let own = own_code();
    // SAFETY: "unsynchronized" concerns Windows' library. Here this is the unwinder, which any number of threads may use
    // at once.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let address = frame.ip() as usize;
            if depth > 0 || !own.contains(&address) {
                stack[depth] = address;
                depth += 1;
            }
            depth < DEPTH
        })
    };
    stack
}

impl Traces {
    /// Stores a stack and returns its hash. If there is no memory for it the stack stays unknown.
    fn enter(&mut self, stack: Stack) -> u64 {
        let hash = SEED.hash_one(stack).max(1);
        if self.stacks.try_reserve(1).is_err() {
            return UNKNOWN;
        }
        self.stacks.entry(hash).or_insert(stack);
        hash
    }
}
/// The calling stack. None if this thread is walking or naming one already.
pub(super) fn walk_alone() -> Option<Stack> {
    alone(walk)
}
/// The stack that allocated the live block at `start`.
pub(super) fn known_stack(start: usize) -> Option<Stack> {
    let traces = TRACES.lock();
    traces.stacks.get(traces.blocks.get(&start)?).copied()
}

/// The hash of the calling stack.
pub(super) fn here() -> u64 {
    alone(walk).map_or(UNKNOWN, |stack| TRACES.lock().enter(stack))
}
/// Notes that the calling stack allocated the block at `start`.
pub(super) fn allocated(start: usize) {
    let Some(stack) = alone(walk) else { return };
    let mut traces = TRACES.lock();
    let hash = traces.enter(stack);
    if hash != UNKNOWN && traces.blocks.try_reserve(1).is_ok() {
        traces.blocks.insert(start, hash);
    }
}
/// Forgets the block at `start`, which is no longer live. Returns the hash of the stack that allocated it.
pub(super) fn freed(start: usize) -> u64 {
    let mut traces = TRACES.lock();
    let hash = traces.blocks.remove(&start).unwrap_or(UNKNOWN);
    give_room_back(&mut traces.blocks);
    hash
}
/// The hash of the stack that allocated the live block at `start`.
pub(super) fn stack_of(start: usize) -> u64 {
    TRACES.lock().blocks.get(&start).copied().unwrap_or(UNKNOWN)
}
/// The hashes of the stacks that allocated the blocks or regions at `starts`.
pub(super) fn stacks_of(starts: impl Iterator<Item = usize>) -> Vec<u64, Records> {
    let mut hashes = Vec::new_in(Records);
    for start in starts {
        if hashes.try_reserve(1).is_ok() {
            let stack = stack_of(start);
            hashes.push(if stack == UNKNOWN { regions::stack_of(start).unwrap_or(UNKNOWN) } else { stack });
        }
    }
    hashes
}

/// One call of a stack.
#[derive(Clone, Default)]
pub(super) struct Call {
    pub address: usize,
    pub function: String,
    pub file: String,
    pub line: u32,
}
/// The calls of a stack, innermost first, beginning with the library's caller. Empty if the stack is not known. The calls
/// have no names if this thread is naming another stack already.
pub(super) fn calls(hash: u64) -> std::vec::Vec<Call> {
    let Some(stack) = TRACES.lock().stacks.get(&hash).copied() else { return Default::default() };
    let addresses = stack.into_iter().take_while(|&address| address != 0);
    let mut calls: std::vec::Vec<Call> =
        addresses.map(|address| Call { address, ..Call::default() }).collect();
    alone(|| {
        let mut symbols = lock_quietly(&SYMBOLS);
        for call in &mut calls {
            call.clone_from(symbols.entry(call.address).or_insert_with_key(|&address| name(address)));
        }
    });
    // If the library is part of the program its own calls are in the stack too.
    let own = |call: &Call| call.function.starts_with("unimem::") || call.function.starts_with("<unimem::");
    let inner = calls.iter().rposition(own).map_or(0, |last| last + 1);
    if inner < calls.len() {
        calls.drain(..inner);
    }
    calls
}
fn name(address: usize) -> Call {
    let _uncancelled = NotCancelled::begin();
    let mut call = Call { address, ..Call::default() };
    // A return address may be the first of the next function; the call is the instruction before it.
    backtrace::resolve((call.address - 1) as *mut c_void, |symbol| {
        if call.function.is_empty() {
            call.function = symbol.name().map(|name| format!("{name:#}")).unwrap_or_default();
            call.file = symbol.filename().map(|file| file.display().to_string()).unwrap_or_default();
            call.line = symbol.lineno().unwrap_or(0);
        }
    });
    call
}
/// Sends a stack to the log, a call a line.
pub(super) fn log_stack(hash: u64) {
    if !is_wanted(Level::Warning) {
        return; // names take long to find, and their tables much memory
    }
    for (depth, call) in calls(hash).iter().enumerate() {
        match call.file.as_str() {
            "" => log!(Warning, "    #{depth} {:#x} {}", call.address, call.function),
            file => {
                log!(Warning, "    #{depth} {:#x} {} at {file}:{}", call.address, call.function, call.line)
            }
        }
    }
}
