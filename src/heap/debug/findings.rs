//! What was found wrong. Each finding is logged at once and kept for the report; a finding that is known already
//! is not repeated. What was live when its heap ended is kept by the stack that allocated it.
use super::super::Block;
use super::report::Sum;
use super::{report, trace};
use crate::log::{Level, is_wanted, log};
use crate::os::fork::AtFork;
use crate::os::{lock::Mutex, records::Records};
use allocator_api2::vec::Vec;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde_json::{Value, json};

/// Most findings kept. Later ones are only logged, and counted if they are damage.
const MOST: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes behind a live block were overwritten.
    Overrun,
    /// A freed block was written to.
    WriteAfterFree,
    /// A block was freed or reallocated after it had been freed.
    DoubleFree,
    /// Something was freed or reallocated that is no block.
    BadFree,
}
impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Overrun => "overrun",
            Kind::WriteAfterFree => "write after free",
            Kind::DoubleFree => "double free",
            Kind::BadFree => "bad free",
        }
    }
    /// Whether memory was damaged.
    pub fn is_damage(self) -> bool {
        matches!(self, Kind::Overrun | Kind::WriteAfterFree)
    }
}

/// One finding. Stacks are hashes of trace.rs.
#[derive(Clone, Copy)]
pub(super) struct Finding {
    pub kind: Kind,
    pub start: usize,
    /// Size of the block; 0 if there is none.
    pub size: usize,
    /// Offset in the block of the first byte that was overwritten, or of what was freed.
    pub offset: usize,
    /// The stack that found it.
    pub found: u64,
    pub allocated: u64,
    pub freed: u64,
}
impl Finding {
    fn is_that_of(&self, other: &Finding) -> bool {
        (self.kind, self.start, self.size) == (other.kind, other.start, other.size)
            && (self.allocated, self.freed) == (other.allocated, other.freed)
            && (self.kind.is_damage() || self.found == other.found)
    }
    fn stacks(&self) -> [(&'static str, u64); 3] {
        [("found", self.found), ("allocated", self.allocated), ("freed", self.freed)]
    }
}

struct Found {
    list: Vec<Finding, Records>,
    damaged: usize,
    left: HashMap<u64, Sum, FixedState, Records>,
}
static FOUND: Mutex<Found> = Mutex::new(Found {
    list: Vec::new_in(Records),
    damaged: 0,
    left: HashMap::with_hasher_in(FixedState::with_seed(0), Records),
});

/// See load.rs.
pub(super) static HOOKS: &dyn AtFork = &FOUND;

/// Reports a finding, unless it was reported before. This takes locks and allocates, so it must not be called
/// under any of our locks.
pub(super) fn tell(finding: Finding) {
    let in_report = {
        let mut found = FOUND.lock();
        if found.list.iter().any(|known| known.is_that_of(&finding)) {
            return;
        }
        let is_damage = finding.kind.is_damage();
        found.damaged += usize::from(is_damage);
        let kept = found.list.len() < MOST && found.list.try_reserve(1).is_ok();
        if kept {
            found.list.push(finding);
        }
        kept || is_damage
    };
    log_finding(&finding);
    if in_report {
        report::note_finding();
    }
}
fn log_finding(finding: &Finding) {
    if !is_wanted(Level::Error) {
        return;
    }
    let Finding { kind, start, size, offset, .. } = *finding;
    match kind {
        Kind::Overrun => log!(
            Error,
            "overrun: bytes behind the block of {size} bytes at {start:#x} were overwritten, first byte {offset}"
        ),
        Kind::WriteAfterFree => log!(
            Error,
            "write after free: byte {offset} of the freed block of {size} bytes at {start:#x} was overwritten"
        ),
        Kind::DoubleFree => log!(Error, "double free: {start:#x} was freed before"),
        Kind::BadFree if size == 0 => log!(Error, "bad free: {start:#x} is not the start of a block"),
        Kind::BadFree if offset == 0 => log!(
            Error,
            "bad free: the block of {size} bytes at {start:#x} belongs to another pool, system or instance"
        ),
        Kind::BadFree => log!(
            Error,
            "bad free: {start:#x} is byte {offset} of the block of {size} bytes at {:#x}",
            start - offset
        ),
    }
    for (role, stack) in finding.stacks() {
        if stack != trace::UNKNOWN {
            log!(Warning, "  {role} by");
            trace::log_stack(stack);
        }
    }
}

/// Notes blocks that are live when their heap ends.
pub(super) fn note_left<'a>(live: impl Iterator<Item = &'a Block> + Clone) {
    let stacks = trace::stacks_of(live.clone().map(|block| block.start));
    let mut found = FOUND.lock();
    for (block, &stack) in live.zip(&stacks) {
        if found.left.try_reserve(1).is_ok() {
            found.left.entry(stack).or_default().add(block);
        }
    }
}
/// What was live when its heap ended, by the stack that allocated it.
pub(super) fn left() -> Vec<(u64, Sum), Records> {
    let found = FOUND.lock();
    let mut left = Vec::new_in(Records);
    if left.try_reserve(found.left.len()).is_ok() {
        left.extend(found.left.iter().map(|(&stack, &sum)| (stack, sum)));
    }
    left
}

/// How many live and freed blocks were found damaged.
pub(super) fn damaged() -> usize {
    FOUND.lock().damaged
}
/// All findings that were kept, oldest first.
pub(super) fn to_json() -> std::vec::Vec<Value> {
    let found: Vec<Finding, Records> = {
        let found = FOUND.lock();
        let mut copy = Vec::new_in(Records);
        if copy.try_reserve(found.list.len()).is_ok() {
            copy.extend_from_slice(&found.list);
        }
        copy
    };
    let value = |finding: &Finding| {
        let mut value = json!({"kind": finding.kind.name(), "address": format!("{:#x}", finding.start),
                               "size": finding.size});
        if finding.kind.is_damage() || finding.kind == Kind::BadFree && finding.size > 0 {
            value["offset"] = finding.offset.into();
        }
        for (role, stack) in finding.stacks() {
            if stack != trace::UNKNOWN {
                value[role] = report::stack_to_json(stack);
            }
        }
        value
    };
    found.iter().map(value).collect()
}
