//! What a thread needs while it moves a chunk: buffers for the codecs and a stack. A few for the whole process.
//!
//! Faults are served on stacks of our own because the thread's signal stack may be tiny. Workspaces come
//! before claims: whoever holds a claim can always go on, and nobody waits for a chunk of another while holding one.
use super::codec::Workspace;
use super::mapping::{Access, Mapping};
use crate::os::lock::{Condvar, Mutex};
use core::ptr::NonNull;

const COUNT: usize = 6;
const STACK: usize = 128 << 10;

struct Free {
    made: usize,
    list: [Option<Entry>; COUNT],
    used: usize,
}
/// One workspace with its stack.
struct Entry {
    stack: usize,
    workspace: NonNull<Workspace>,
}
// SAFETY: plain memory, used by one thread at a time.
unsafe impl Send for Entry {}

static FREE: Mutex<Free> = Mutex::sheltered(Free { made: 0, list: [const { None }; COUNT], used: 0 });
static RETURNED: Condvar = Condvar::new();

fn make() -> Option<Entry> {
    // One mapping: the stack (growing down, below it whatever the kernel put there), then the buffers.
    let mapping = Mapping::reserve(STACK + size_of::<Workspace>(), 64, Access::ReadWrite)?;
    let span = mapping.span();
    core::mem::forget(mapping); // kept for the life of the process
    let workspace = NonNull::new((span.start + STACK) as *mut Workspace)?;
    // SAFETY: fresh zeroed memory of that size, aligned to a page.
    unsafe { Workspace::init(workspace) };
    Some(Entry { stack: span.start, workspace })
}
/// Makes the workspaces, once; false if there is no memory for a single one. Before anything else here.
pub fn prepare() -> bool {
    let mut free = FREE.lock();
    while free.made < COUNT {
        let Some(entry) = make() else { break };
        let at = free.used;
        free.list[at] = Some(entry);
        free.used += 1;
        free.made += 1;
    }
    free.made > 0
}
fn take() -> Entry {
    let mut free = FREE.lock();
    loop {
        if free.used > 0 {
            free.used -= 1;
            let at = free.used;
            if let Some(entry) = free.list[at].take() {
                return entry;
            }
        }
        free = RETURNED.wait(free);
    }
}
fn give(entry: Entry) {
    let mut free = FREE.lock();
    let at = free.used;
    free.list[at] = Some(entry);
    free.used += 1;
    drop(free);
    RETURNED.notify_one();
}

/// Runs `work` with a workspace, on its stack if `own_stack`. `work` must not panic.
pub fn with<R>(own_stack: bool, work: impl FnOnce(&mut Workspace) -> R) -> R {
    let mut entry = take();
    // SAFETY: initialised by `make`, and this thread's alone until `give`.
    let workspace = unsafe { entry.workspace.as_mut() };
    let result = if own_stack {
        // SAFETY: the stack is STACK bytes, page-aligned, and this thread's alone; `work` neither unwinds nor keeps
        // anything on it.
        unsafe { psm::on_stack(entry.stack as *mut u8, STACK, || work(workspace)) }
    } else {
        work(workspace)
    };
    give(entry);
    result
}
