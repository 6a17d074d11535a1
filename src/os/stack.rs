//! Stacks of the library's own, for work that may need more than the calling thread has.
use super::map::{self, PAGE};
use super::system;
use core::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Bytes below each stack that nobody may touch: whoever needs more stack than there is ends the program there, and
/// overwrites nothing. Compiled Rust touches every page of a frame in turn; C need not, so this is more than a page.
const GUARD: usize = 64 << 10;
const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;

/// A stack with a guard below it: two of the mappings that a process may have.
pub struct Stack {
    start: usize,
    length: usize,
}

impl Stack {
    /// A stack of `length` bytes. Takes no RAM until it is used. None if the system refuses.
    pub fn new(length: usize) -> Option<Stack> {
        let length = length.next_multiple_of(PAGE);
        let start = system::map(GUARD + length, libc::PROT_NONE).ok()? + GUARD;
        let stack = Stack { start, length };
        // If the program has locked all its future memory (mlockall), an accessible mapping would have pages from the
        // first moment on.
        system::unlock(start, length);
        // SAFETY: this only adds access to the stack's own mapping.
        unsafe { system::protect(start, length, READ_WRITE) }.ok()?;
        Some(stack)
    }
    /// Runs `work` on the stack. If it panics, so does this.
    pub fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let caught = || catch_unwind(AssertUnwindSafe(work));
        // SAFETY: the stack has `length` bytes and is page-aligned. It is borrowed exclusively, so nobody else runs on it.
        // `caught` does not unwind.
        let result = unsafe { psm::on_stack(self.start as *mut u8, self.length, caught) };
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is the stack's own, and nobody runs on it any more.
        unsafe { map::unmap(self.start - GUARD, GUARD + self.length) };
    }
}
