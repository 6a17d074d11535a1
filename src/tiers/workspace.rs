//! What a thread needs while it moves a chunk: buffers for the coders, and a stack. There are a few for the whole
//! process.
//!
//! Faults are served on these stacks because the thread's signal stack may be tiny. A thread takes its workspace
//! before it claims. So a thread that holds a claim can always go on. And no thread waits for a chunk that another
//! thread has claimed while it holds a workspace.
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
// SAFETY: an entry is plain memory that one thread at a time uses: the one that took it from the list.
unsafe impl Send for Entry {}

static FREE: Mutex<Free> = Mutex::sheltered(Free { made: 0, list: [const { None }; COUNT], used: 0 });
static RETURNED: Condvar = Condvar::new();

fn make() -> Option<Entry> {
    // One mapping: first the stack, which grows down towards whatever the kernel put below, then the buffers.
    let mapping = Mapping::reserve(STACK + size_of::<Workspace>(), 64, Access::ReadWrite)?;
    let span = mapping.span();
    core::mem::forget(mapping); // kept for the life of the process
    let workspace = NonNull::new((span.start + STACK) as *mut Workspace)?;
    // SAFETY: the mapping is fresh zeroed memory of sufficient size, and the buffers in it are aligned to a page.
    unsafe { Workspace::init(workspace) };
    Some(Entry { stack: span.start, workspace })
}
/// Makes the workspaces, once. Returns false if there is no memory for a single one. To be called before anything
/// else here.
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
    // SAFETY: `make` has initialised the workspace, and it is this thread's alone until `give`.
    let workspace = unsafe { entry.workspace.as_mut() };
    let result = if own_stack {
        // SAFETY: the stack has STACK bytes, is page-aligned, and is this thread's alone until `give`. `work` neither
        // unwinds nor keeps anything on it.
        unsafe { psm::on_stack(entry.stack as *mut u8, STACK, || work(workspace)) }
    } else {
        work(workspace)
    };
    give(entry);
    result
}
