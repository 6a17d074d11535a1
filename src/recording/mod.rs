//! Recordings: what the library's memory does over time, in a file that `unimem report` reads.
//!
//! `UNIMEM_TRACE=FILE` begins a recording with the first allocation; [`start`] begins one at any time. `%p` in the name
//! becomes the number of the process.
//!
//! Without a recording, whoever has an event pays one relaxed load, and only on slow paths: the heap's fast paths know
//! nothing of recordings. During a recording, events go into a bounded [`queue`] without waiting. A thread takes them to
//! the file (writer.rs), together with samples of all figures. Events that find the queue full are counted.
//!
//! - Samples: every 5 ms at first, and half as often after each thousand, down to one a second.
//! - Allocation sites: a thread that comes to the heap's slow path, and has allocated about [`interval`] bytes since its
//!   last sample, records the block that it allocates there, with its stack. The block stands for all of these bytes.
//!   Its slot is marked, so that its free takes the slow path and is recorded, too. Blocks from 1 MiB up, and tiered
//!   memory, always take the slow path.
//! - Sizes of live blocks: at the end, and each time live memory has doubled.
//!
//! A forked child is no part of a recording, and may begin one of its own. A recording ends
//!
//! - with the program;
//! - if the disk is full, with a message in the log;
//! - if the file's descriptor is no longer the one that was opened, because the program has closed descriptors that it
//!   did not know, with a message, too.
//!
//! This module is below the heap: layers that have figures register a [`Source`]. It has one lock, which is taken before
//! those of all these layers (see its place in load.rs), because taking samples takes theirs.
pub mod format;
mod largest;
mod modules;
mod queue;
mod writer;

pub(crate) use writer::HOOKS;

pub use format::{Mechanism, Memory, Movement, Tier};
pub use writer::{start, stop};

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering::*};
use queue::Queue;

/// How many return addresses of a stack are recorded.
pub const DEPTH: usize = 32;
/// Return addresses, innermost first; 0 behind the last.
pub type Stack = [usize; DEPTH];
/// How many sizes of axes are recorded. The last is the product of all further ones.
const AXES: usize = 8;
const QUEUE: usize = 4096;
const USUAL_INTERVAL: usize = 512 << 10;

const UNREAD: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;
static STATE: AtomicU8 = AtomicU8::new(UNREAD);
/// Recordings begun so far.
static NUMBER: AtomicU32 = AtomicU32::new(0);
static INTERVAL: AtomicUsize = AtomicUsize::new(USUAL_INTERVAL);
static EVENTS: Queue<Event, QUEUE> = Queue::new();

#[derive(Clone, Copy)]
struct Contracted {
    began: u64,
    duration: u64,
    thread: u64,
    terms: f64,
    tiered: bool,
    /// Sizes of rows, columns and sums; 0 behind the last.
    axes: [[usize; AXES]; 3],
}
#[derive(Clone, Copy)]
struct Allocated {
    time: u64,
    address: usize,
    size: usize,
    weight: usize,
    memory: Memory,
    stack: Stack,
}
#[derive(Clone, Copy)]
enum Event {
    /// Its time is that of the system's clock, as everywhere in this file. In the file of the recording it counts from
    /// the beginning.
    Moved(format::Moved),
    Contracted(Contracted),
    Allocated(Allocated),
    Freed {
        time: u64,
        address: usize,
    },
}

/// Whether a recording is under way.
#[inline(always)]
pub fn is_on() -> bool {
    STATE.load(Relaxed) == ON
}
/// Whether a recording is under way, or may be once [`start_if_asked`] has been called.
#[inline(always)]
pub fn may_be_on() -> bool {
    STATE.load(Relaxed) != OFF
}
/// The first call begins the recording that the environment asks for. Not to be called inside the gate of the tiers.
pub fn start_if_asked() {
    if STATE.load(Relaxed) == UNREAD {
        writer::start_as_asked();
    }
}
/// The number of the latest recording; the first one is 1.
pub fn number() -> u32 {
    NUMBER.load(Relaxed)
}
/// Bytes that a sampled allocation stands for, on average.
pub fn interval() -> usize {
    INTERVAL.load(Relaxed)
}

/// When an operation began; nothing if it is not to be recorded.
#[derive(Clone, Copy)]
pub struct Begun(Option<u64>);
/// To be called when an operation begins.
#[inline]
pub fn begin() -> Begun {
    Begun(is_on().then(now))
}
/// Nanoseconds of the system's steady clock.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only fills in the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
fn thread() -> u64 {
    // SAFETY: the call has no arguments and no effects.
    unsafe { libc::syscall(libc::SYS_gettid) as u64 }
}

/// Records that the chunk at `address` came or went.
#[inline]
pub fn moved(
    begun: Begun,
    (movement, memory, tier, mechanism): (Movement, Memory, Tier, Mechanism),
    bytes: usize,
    address: usize,
) {
    if let Some(began) = begun.0 {
        let (duration, thread) = (now() - began, thread());
        EVENTS.push(Event::Moved(format::Moved {
            time: began,
            duration,
            thread,
            movement,
            memory,
            tier,
            mechanism,
            bytes: bytes as u64,
            address: address as u64,
        }));
    }
}
/// Records that two tensors were contracted, with `terms` multiply-adds.
pub fn contracted(begun: Begun, terms: f64, tiered: bool, axes: [&mut dyn Iterator<Item = usize>; 3]) {
    let Some(began) = begun.0 else { return };
    let (duration, thread) = (now() - began, thread());
    let axes = axes.map(|sizes| {
        let mut kept = [0; AXES];
        for (place, size) in sizes.enumerate() {
            match kept.get_mut(place) {
                Some(free) => *free = size,
                None => kept[AXES - 1] *= size,
            }
        }
        kept
    });
    EVENTS.push(Event::Contracted(Contracted { began, duration, thread, terms, tiered, axes }));
}
/// Records that a block was allocated, which stands for `weight` bytes.
pub fn allocated(address: usize, size: usize, weight: usize, memory: Memory, stack: Stack) {
    EVENTS.push(Event::Allocated(Allocated { time: now(), address, size, weight, memory, stack }));
}
/// Records that a block was freed whose allocation may have been recorded.
pub fn freed(address: usize) {
    if is_on() {
        EVENTS.push(Event::Freed { time: now(), address });
    }
}

/// Bytes of one kind of tiered memory.
#[derive(Clone, Copy, Default)]
pub struct Tiered {
    /// Allocated.
    pub size: usize,
    /// In the clear in RAM.
    pub hot: usize,
    /// Encoded in RAM.
    pub warm: usize,
    /// Encoded in the spill file.
    pub cold: usize,
}
/// Figures of the process, as in [`format::Sample`].
#[derive(Clone, Copy, Default)]
#[expect(missing_docs, reason = "the record's own names")]
pub struct Figures {
    pub live: usize,
    pub tensors: usize,
    pub held: usize,
    pub allocations: usize,
    pub frees: usize,
    pub streaming: Tiered,
    pub hierarchical: Tiered,
    pub faults: u64,
    pub evictions: u64,
    pub prefetches: u64,
}
/// A live block.
#[derive(Clone, Copy)]
pub struct Live {
    /// Where it begins.
    pub address: usize,
    /// Bytes asked for.
    pub size: usize,
    /// Its kind.
    pub memory: Memory,
}
/// A layer that has figures.
pub struct Source {
    /// Adds the layer's figures.
    pub figures: fn(&mut Figures),
    /// Calls the function with every live block. The function neither allocates nor takes locks.
    pub live: fn(&mut dyn FnMut(Live)),
    /// The stack that allocated the live block at an address, where it is known.
    pub stack: fn(usize) -> Option<Stack>,
}
/// Layers with figures.
#[derive(Clone, Copy)]
pub enum Layer {
    /// All heaps.
    Heaps,
    /// All engines of tiered memory.
    Tiers,
}
static SOURCES: [AtomicPtr<Source>; 2] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 2];
/// Makes a layer's figures known.
pub fn register(layer: Layer, source: &'static Source) {
    SOURCES[layer as usize].store(core::ptr::from_ref(source).cast_mut(), Release);
}
fn sources() -> impl Iterator<Item = &'static Source> {
    // SAFETY: only `register` stores here, and only references that live for ever.
    SOURCES.iter().filter_map(|source| unsafe { source.load(Acquire).as_ref() })
}
