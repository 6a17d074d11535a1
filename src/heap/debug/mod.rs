//! Debugging aids: `UNIMEM_DEBUG=guard,quarantine,trace`, for every heap and so for every surface.
//!
//! The variable is read once, when the first heap is made. If any aid is on, heaps cache nothing (`Heap::create`), so
//! fast.rs serves no call and all of them pass through slow.rs, which calls here. If none is on, the fast paths know nothing
//! of this, and the slow ones pay one relaxed load.
//!
//! - guard: [`super::guard`] behind each block. It is written before the block is live. It is checked when the block is
//!   freed or reallocated, by `check_memory_corruption`, and when the heap ends, under the heap's lock, since reports look at
//!   all blocks. The free of a damaged block is refused like any bad free, so that the block stays to be looked at.
//! - quarantine: see [`quarantine`](mod@quarantine).
//! - trace: see [`trace`](mod@trace).
//!
//! A free or reallocation that is refused is reported as well, and all findings are in the report (report.rs).
//!
//! Locks, in the order in which they are taken, all before any heap's:
//! 1. Two for writing the report and for looking names up ([`SYMBOL_HOOKS`]). Code under these may allocate, also from the
//!    heap that serves as malloc.
//! 2. One each for the findings, the quarantine, tiered memory and the stacks ([`HOOKS`]). Under these nothing is logged, no
//!    stack is walked and no name is looked up.
mod findings;
mod quarantine;
mod reachable;
pub mod regions;
mod report;
mod trace;

pub use report::write as write_report;

use super::guard::{self, GUARD};
use super::span::Span;
use super::{Block, Heap, owner, owner_of_interior};
use crate::error::{Error, Result, fail};
use crate::log::log;
use crate::os::environment::variable;
use crate::os::fork::AtFork;
use crate::os::records::Records;
use crate::recording::Stack;
use allocator_api2::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use findings::{Finding, Kind};

const GUARD_ON: u8 = 1;
const QUARANTINE_ON: u8 = 2;
const TRACE_ON: u8 = 4;
const READ: u8 = 128;
static MODES: AtomicU8 = AtomicU8::new(0);

/// Which aids are on.
#[derive(Clone, Copy)]
pub struct Modes(u8);
impl Modes {
    /// Whether any aid is on.
    pub fn any(self) -> bool {
        self.0 & !READ != 0
    }
}

/// What the environment asks for. The first call reads it, without allocating, because the heap may be malloc's.
pub fn modes() -> Modes {
    let known = MODES.load(Relaxed);
    if known & READ != 0 {
        return Modes(known);
    }
    let mut modes = READ;
    let mut unknown = false;
    for word in variable(c"UNIMEM_DEBUG").unwrap_or(b"").split(|&byte| byte == b',') {
        match word.trim_ascii() {
            b"guard" => modes |= GUARD_ON,
            b"quarantine" => modes |= QUARANTINE_ON,
            b"trace" => modes |= TRACE_ON,
            b"all" | b"1" => modes |= GUARD_ON | QUARANTINE_ON | TRACE_ON,
            b"" | b"0" | b"none" => {}
            _ => unknown = true,
        }
    }
    if MODES.swap(modes, Relaxed) & READ == 0 {
        if Modes(modes).any() {
            report::at_exit();
        }
        if unknown {
            log!(
                Warning,
                "UNIMEM_DEBUG knows guard, quarantine and trace; what else it says is not understood"
            );
        }
    }
    Modes(modes)
}
/// The calling stack. None if this thread is walking one already.
pub fn walk_stack() -> Option<Stack> {
    trace::walk_alone()
}
/// The stack that allocated the live block at `start`, if `trace` is on.
pub fn stack_of(start: usize) -> Option<Stack> {
    if has(TRACE_ON) { trace::known_stack(start) } else { None }
}
fn has(mode: u8) -> bool {
    MODES.load(Relaxed) & mode != 0
}
/// Whether blocks have guards.
pub fn guards_are_on() -> bool {
    has(GUARD_ON)
}
fn traces_are_on() -> bool {
    has(TRACE_ON)
}
/// The hash of the calling stack, if `trace` is on.
fn stack_here() -> u64 {
    if has(TRACE_ON) { trace::here() } else { trace::UNKNOWN }
}

/// See load.rs.
pub(crate) static SYMBOL_HOOKS: [&dyn AtFork; 2] = [report::HOOKS, trace::SYMBOL_HOOKS];
/// See load.rs.
pub(crate) static HOOKS: [&dyn AtFork; 4] =
    [findings::HOOKS, quarantine::HOOKS, regions::HOOKS, trace::HOOKS];

/// Bytes that a block needs beyond what was asked for.
pub(super) fn slack() -> usize {
    if has(GUARD_ON) { GUARD } else { 0 }
}
/// A block of `size` bytes, and [`slack`] more, is about to be live: whoever finds it so finds its guard.
pub(super) fn write_guard(block: *mut u8, size: usize) {
    if has(GUARD_ON)
        && let Some(block) = NonNull::new(block)
    {
        // SAFETY: still the caller's alone, and with that much slack.
        unsafe { guard::write(block, size) };
    }
}
/// A block was made.
pub(super) fn allocated(block: NonNull<u8>) {
    if has(TRACE_ON) {
        trace::allocated(block.as_ptr() as usize);
    }
}
/// Whether a reallocation has to move the block, so that stale pointers to it are found. A block with several owners cannot
/// be moved.
pub(super) fn moves_blocks(block: &Block, size: usize, pinned: bool) -> bool {
    modes().any() && !(pinned && size <= block.size)
}
/// A live block of `capacity` bytes was given another size in place. The heap's lock is held, and was when it was done.
pub(super) fn resized(pointer: *mut u8, size: usize, capacity: usize) {
    if capacity - size >= GUARD {
        write_guard(pointer, size);
    }
}
/// Checks the guard of the live block at `pointer`. If the block was overrun it logs that and fails with Corruption.
#[inline]
pub fn check(pointer: *const u8) -> Result<()> {
    if !has(GUARD_ON) {
        return Ok(());
    }
    match damaged_by(pointer) {
        Some(damage) => {
            tell_damage(damage);
            fail!(
                Corruption,
                "bytes behind the block of {} bytes at {pointer:p} were overwritten",
                damage.0.size
            )
        }
        None => Ok(()),
    }
}
/// The live block at `pointer` if it has a guard, bytes of which were overwritten, and which is the first. Anybody may ask:
/// other threads may free it, and make another one there.
fn damaged_by(pointer: *const u8) -> Option<(Block, usize)> {
    if !has(GUARD_ON) {
        return None;
    }
    let (heap, _) = owner(pointer)?;
    heap.with_live(pointer, |block| {
        if block.capacity - block.size < GUARD {
            return None;
        }
        // SAFETY: live as long as the heap's lock is held, and with guards on those had one written before they were live.
        unsafe { guard::first_damage(&block) }.map(|byte| (block, block.size + byte))
    })?
}
/// Whether a live block is damaged. Then it is no leak: perhaps the program has freed it, which was refused.
fn is_damaged(block: &Block) -> bool {
    damaged_by(block.start as *const u8).is_some()
}
fn tell_damage((block, offset): (Block, usize)) {
    tell_overrun(block.start, block.size, offset);
}
/// Reports those of the blocks that are damaged. Each is looked up again, because other threads may have freed it since it
/// was listed.
fn tell_damaged(live: &[Block]) {
    live.iter().filter_map(|block| damaged_by(block.start as *const u8)).for_each(tell_damage);
}
/// Reports that the memory of `size` bytes at `start` was overrun, first at `offset`.
pub fn tell_overrun(start: usize, size: usize, offset: usize) {
    findings::tell(Finding {
        kind: Kind::Overrun,
        start,
        size,
        offset,
        found: stack_here(),
        allocated: trace::stack_of(start),
        freed: trace::UNKNOWN,
    });
}
/// Called when a free or reallocation of `pointer` was refused.
#[cold]
pub(super) fn refused(pointer: *const u8, error: Error) {
    if !modes().any() {
        return;
    }
    let (start, found) = (pointer as usize, stack_here());
    if error == Error::DoubleFree {
        let (size, allocated, freed) = quarantine::stacks_of(start).unwrap_or_default();
        return findings::tell(Finding {
            kind: Kind::DoubleFree,
            start,
            size,
            offset: 0,
            found,
            allocated,
            freed,
        });
    }
    // It may be a block of somebody else, or inside a block.
    let block =
        owner_of_interior(pointer).map(|(_, block)| (block.start, block.size, trace::stack_of(block.start)));
    let (start_of_block, size, allocated) =
        block.or_else(|| regions::around(start)).unwrap_or((start, 0, trace::UNKNOWN));
    let offset = start - start_of_block;
    findings::tell(Finding {
        kind: Kind::BadFree,
        start,
        size,
        offset,
        found,
        allocated,
        freed: trace::UNKNOWN,
    });
}

/// Takes a block that is being freed into quarantine. False: it was not taken, and is to be freed at once. DoubleFree:
/// another thread freed it at the same moment.
pub(super) fn quarantine(
    heap: &'static Heap,
    span: &'static Span,
    index: usize,
    start: usize,
) -> Result<bool> {
    if !modes().any() {
        return Ok(false);
    }
    if !has(QUARANTINE_ON) {
        trace::freed(start);
        return Ok(false);
    }
    let (held, damaged) = quarantine::take(heap, span, index, start, stack_here())?;
    tell_writes(damaged);
    if !held {
        trace::freed(start);
    }
    Ok(held)
}
/// Ends the quarantine of the blocks of `heap`, or of all blocks. True if there were any. Reports what it finds, so it must
/// not be called under a lock.
pub fn empty_quarantine(heap: Option<&Heap>) -> bool {
    if !has(QUARANTINE_ON) {
        return false;
    }
    let (left, damaged) = quarantine::release(|held| heap.is_none_or(|heap| core::ptr::eq(held, heap)));
    tell_writes(damaged);
    left
}
fn tell_writes(damaged: Vec<quarantine::Written, Records>) {
    for written in damaged {
        findings::tell(Finding {
            kind: Kind::WriteAfterFree,
            start: written.start,
            size: written.size,
            offset: written.offset,
            found: trace::UNKNOWN,
            allocated: written.allocated,
            freed: written.freed,
        });
    }
}

/// Called when a heap is about to end. Reports what is damaged or live, with the stacks that allocated it.
pub(super) fn heap_ends(heap: &'static Heap) {
    if !modes().any() {
        return;
    }
    empty_quarantine(Some(heap));
    let mut live = Vec::new_in(Records);
    heap.list_live(&mut live);
    regions::add_to(&mut live, Some(heap));
    tell_damaged(&live);
    findings::note_left(live.iter().filter(|block| !is_damaged(block)));
    if has(TRACE_ON) {
        report::log_sites(&live);
        live.iter().for_each(|block| _ = trace::freed(block.start));
        regions::forget_of(heap);
    }
}
