//! A program's own table of functions over `malloc`. It counts, checks, and fails when told to. Counts are
//! per thread.
use crate::tensor::memory::{Account, Memory, Table};
use core::cell::{Cell, RefCell};
use core::ffi::c_void;
use std::collections::HashMap;
use std::rc::Rc;

/// What the table has done on this thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub live_blocks: usize,
    pub live_bytes: usize,
    pub allocations: usize,
    pub hierarchical: usize,
    pub streaming: usize,
}

thread_local! {
    static LIVE: RefCell<HashMap<usize, usize>> = RefCell::default();
    static COUNTS: Cell<Counts> = Cell::default();
    static FAIL_AT: Cell<Option<usize>> = const { Cell::new(None) };
}

pub fn counts() -> Counts {
    let (blocks, bytes) = LIVE.with_borrow(|live| (live.len(), live.values().sum()));
    Counts { live_blocks: blocks, live_bytes: bytes, ..COUNTS.get() }
}
/// Makes the n-th allocation from now (0: the next one) and all after it fail; `None`: no more failures.
pub fn fail_allocation(n: Option<usize>) {
    FAIL_AT.set(n.map(|n| COUNTS.get().allocations + n));
}

fn take(bytes: usize, note: fn(&mut Counts)) -> *mut c_void {
    let mut counts = COUNTS.get();
    let number = counts.allocations;
    counts.allocations += 1;
    note(&mut counts);
    COUNTS.set(counts);
    if FAIL_AT.get().is_some_and(|at| number >= at) || bytes == 0 {
        return core::ptr::null_mut();
    }
    // SAFETY: the alignment is a power of two and the size a multiple of it.
    let block = unsafe { libc::aligned_alloc(64, bytes.next_multiple_of(64)) };
    // SAFETY: the block has at least that many bytes. Garbage in it shows who reads what was not written.
    unsafe { block.cast::<u8>().write_bytes(0xA5, bytes) };
    LIVE.with_borrow_mut(|live| live.insert(block as usize, bytes));
    block
}
unsafe extern "C-unwind" fn allocate(size: usize, alignment: usize) -> *mut c_void {
    assert!(alignment.is_power_of_two() && alignment <= 64);
    take(size, |_| ())
}
unsafe extern "C-unwind" fn hierarchical(size: usize, tolerance: f64) -> *mut c_void {
    assert!(tolerance >= 0.0);
    take(size, |counts| counts.hierarchical += 1)
}
unsafe extern "C-unwind" fn streaming(size: usize, _chunk: usize) -> *mut c_void {
    take(size, |counts| counts.streaming += 1)
}
unsafe extern "C-unwind" fn free(block: *mut c_void) {
    let known = LIVE.with_borrow_mut(|live| live.remove(&(block as usize)));
    assert!(known.is_some(), "freed what is not live");
    // SAFETY: a live block of `take`.
    unsafe { libc::free(block) }
}

pub static TABLE: Table = Table {
    allocate: Some(allocate),
    free: Some(free),
    realloc: None,
    allocate_geometric: None,
    allocate_hierarchical: Some(hierarchical),
    allocate_streaming: Some(streaming),
    track_allocation: None,
    untrack_allocation: None,
    get_stats: None,
};

/// The table as a network's memory.
pub fn memory(account: &Rc<Account>) -> Memory {
    // SAFETY: the table lives for ever and does what the contract says.
    unsafe { Memory::new(&TABLE, None, account, 0.0) }.unwrap()
}
