//! What a thread needs while it moves a chunk: buffers for the coders, and a stack. There are a few for the whole
//! process.
//!
//! Faults are served on these stacks because the thread's signal stack may be tiny. A thread takes its workspace
//! before it claims. So a thread that holds a claim can always go on. And no thread waits for a chunk that another
//! thread has claimed while it holds a workspace.
use super::codec::Workspace;
use super::mapping::{Mapping, Protection};
use crate::os::lock::{Condvar, Mutex};
use crate::os::stack::Stack;
use core::ptr::NonNull;

const COUNT: usize = 6;
const STACK: usize = 128 << 10;

struct Free {
    made: usize,
    list: [Option<Entry>; COUNT],
    used: usize,
}
/// One workspace with its stack. They are made once, so they take few of the mappings that a process may have.
struct Entry {
    stack: Stack,
    workspace: NonNull<Workspace>,
}
// SAFETY: an entry is plain memory that one thread at a time uses: the one that took it from the list.
unsafe impl Send for Entry {}

static FREE: Mutex<Free> = Mutex::sheltered(Free { made: 0, list: [const { None }; COUNT], used: 0 });
static RETURNED: Condvar = Condvar::new();

fn make() -> Option<Entry> {
    let stack = Stack::new(STACK)?;
    let buffers = Mapping::reserve(size_of::<Workspace>(), 64, Protection::ReadWrite)?;
    let workspace = NonNull::new(buffers.span().start as *mut Workspace)?;
    core::mem::forget(buffers); // kept for the life of the process
    // SAFETY: the mapping is fresh zeroed memory of sufficient size, and the buffers in it are aligned to a page.
    unsafe { Workspace::init(workspace) };
    Some(Entry { stack, workspace })
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
    let result = if own_stack { entry.stack.run(|| work(workspace)) } else { work(workspace) };
    give(entry);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::watch::look_on;
    use core::hint::black_box;

    /// Uses the stack down to the address `end`.
    #[inline(never)]
    fn descend(end: usize) {
        let frame = [0_u8; 1024];
        if black_box(&frame).as_ptr().addr() > end {
            descend(end);
        }
        black_box(&frame);
    }
    /// Uses `depth` bytes of a stack in a forked child, after `taken` others were taken, and returns the child's status.
    /// Signals are blocked there as they are while a fault is served.
    fn status_after(depth: usize, taken: usize) -> libc::c_int {
        // SAFETY: the child touches nothing but a stack of its own, and leaves without returning. While a process forks,
        // no thread has a workspace (gate.rs), so the child finds all of them.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &none);
                libc::alarm(10);
                let mut all = core::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::sigdelset(&mut all, libc::SIGALRM);
                libc::pthread_sigmask(libc::SIG_SETMASK, &all, core::ptr::null_mut());
                (0..taken).for_each(|_| core::mem::forget(take()));
                with(true, |_| {
                    let here = 0_u8;
                    descend(black_box(&raw const here).addr() - depth);
                });
                libc::_exit(0);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            status
        }
    }
    #[test]
    fn who_needs_more_stack_than_there_is_overwrites_nothing() {
        look_on();
        assert!(prepare());
        for taken in 0..COUNT {
            assert_eq!(status_after(STACK / 4 * 3, taken), 0);
            let status = status_after(STACK, taken);
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{status:#x}");
        }
    }
}
