//! Fault injection: makes chosen system calls fail, so that tests see what the library does then.
//!
//! Every call in os/system.rs, and every allocation of a record, first asks [`injected`]. While nothing is armed that
//! costs one relaxed load.
//!
//! The functions that arm it are not among the exported names, so no program that uses the library can reach them,
//! neither by accident nor by the environment. Tests link the same archive again with those names
//! (`build/libunimem_faults.so`), or call them from Rust. What is armed holds for the whole process, so tests take
//! turns.
use super::system::Errno;
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering::*};

/// A kind of call that can fail. `c_tests/faults.h` has the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// mmap.
    Map,
    /// munmap.
    Unmap,
    /// mprotect.
    Protect,
    /// mremap.
    Remap,
    /// madvise that gives pages back.
    Discard,
    /// madvise that makes pages present.
    Populate,
    /// All other advice.
    Advise,
    /// mbind.
    Bind,
    /// open.
    Open,
    /// unlink.
    RemoveName,
    /// fallocate that makes blocks.
    MakeBlocks,
    /// fallocate that gives blocks back.
    PunchHole,
    /// pread.
    Read,
    /// pwrite.
    Write,
    /// userfaultfd and its first ioctl.
    Userfaultfd,
    /// ioctl that registers a range with userfaultfd.
    Register,
    /// ioctl that moves pages.
    MovePages,
    /// ioctl that copies pages.
    CopyPages,
    /// ioctl that protects pages against writing, or ends that.
    WriteProtect,
    /// pthread_create.
    StartThread,
    /// pthread_getaffinity_np and pthread_setaffinity_np.
    Affinity,
    /// pthread_key_create and pthread_setspecific.
    ThreadKey,
    /// Memory for a record of the library (os/records.rs).
    Record,
    /// Not a call of the system: a defect of the library, which panics at its C boundary.
    Defect,
}
const OPERATIONS: usize = Operation::Defect as usize + 1;

/// In place of an error number: the transfer is cut short.
pub const SHORT: c_int = -1;
/// In place of an error number: the read gives a wrong byte.
pub const DAMAGE: c_int = -2;

static ARMED: AtomicBool = AtomicBool::new(false);
/// One bit for each operation that may be made to fail.
static CHOSEN: AtomicU32 = AtomicU32::new(0);
/// Number of the first chosen call that is made to fail, from 1 on. `HOW_MANY` calls from there on fail.
static FIRST: AtomicUsize = AtomicUsize::new(0);
static HOW_MANY: AtomicUsize = AtomicUsize::new(0);
static ERRNO: AtomicI32 = AtomicI32::new(0);
static CHOSEN_CALLS: AtomicUsize = AtomicUsize::new(0);
static INJECTED: AtomicUsize = AtomicUsize::new(0);
static CALLS: [AtomicUsize; OPERATIONS] = [const { AtomicUsize::new(0) }; OPERATIONS];

/// Counts, from now on, the calls of the kinds in `operations` (one bit each). `how_many` of them fail with `errno`, or
/// misbehave as [`SHORT`] and [`DAMAGE`] say, beginning with the `first` (1 is the next).
#[unsafe(no_mangle)]
pub extern "C" fn unimem_inject_faults(operations: u32, first: usize, how_many: usize, errno: c_int) {
    ARMED.store(false, SeqCst);
    CHOSEN.store(operations, SeqCst);
    FIRST.store(first, SeqCst);
    HOW_MANY.store(how_many, SeqCst);
    ERRNO.store(errno, SeqCst);
    CHOSEN_CALLS.store(0, SeqCst);
    INJECTED.store(0, SeqCst);
    CALLS.iter().for_each(|calls| calls.store(0, SeqCst));
    ARMED.store(true, SeqCst);
}
/// Lets every call work again. Returns how many calls were made to fail since the last arming.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_end_faults() -> usize {
    ARMED.store(false, SeqCst);
    INJECTED.load(SeqCst)
}
/// Returns how many calls of a kind there were since the last arming, including those made to fail.
#[unsafe(no_mangle)]
pub extern "C" fn unimem_fault_calls(operation: u32) -> usize {
    CALLS.get(operation as usize).map_or(0, |calls| calls.load(SeqCst))
}

/// For tests in Rust: makes all calls of these kinds fail with `errno`, from the `n`-th on (0 is the next).
pub fn arm(operations: &[Operation], n: usize, errno: c_int) {
    let bits = operations.iter().fold(0, |bits, operation| bits | 1 << *operation as u32);
    unimem_inject_faults(bits, n + 1, usize::MAX, errno);
}
/// Ends what [`arm`] began.
pub fn disarm() {
    unimem_end_faults();
}

/// What is to happen to a call instead of its usual work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// The call fails.
    Fail(Errno),
    /// The call does less than it was asked for.
    Short,
    /// The call works, but what it read is wrong.
    Damage,
}
/// What is to happen to this call; None: it works as usual.
#[inline]
pub fn injected(operation: Operation) -> Option<Injected> {
    if ARMED.load(Relaxed) { count(operation) } else { None }
}
/// Asks the same for a call that can only fail as a whole.
#[inline]
pub fn check(operation: Operation) -> Result<(), Errno> {
    match injected(operation) {
        Some(Injected::Fail(errno)) => Err(errno),
        _ => Ok(()),
    }
}
#[cold]
fn count(operation: Operation) -> Option<Injected> {
    CALLS[operation as usize].fetch_add(1, SeqCst);
    if CHOSEN.load(SeqCst) >> operation as u32 & 1 == 0 {
        return None;
    }
    let number = CHOSEN_CALLS.fetch_add(1, SeqCst) + 1;
    if !is_among(number, FIRST.load(SeqCst), HOW_MANY.load(SeqCst)) {
        return None;
    }
    INJECTED.fetch_add(1, SeqCst);
    Some(match ERRNO.load(SeqCst) {
        SHORT => Injected::Short,
        DAMAGE => Injected::Damage,
        errno => Injected::Fail(Errno(errno)),
    })
}

/// Whether a number is one of `how_many` from `first` on.
fn is_among(number: usize, first: usize, how_many: usize) -> bool {
    number.checked_sub(first).is_some_and(|after| after < how_many)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_call_before_the_first_is_made_to_fail() {
        let among = |first, how_many| {
            (1..6).filter(|&number| super::is_among(number, first, how_many)).collect::<Vec<_>>()
        };
        assert_eq!(among(3, 2), [3, 4]);
        assert_eq!(among(4, usize::MAX), [4, 5], "without an end");
        assert_eq!(among(1, usize::MAX), [1, 2, 3, 4, 5]);
    }
    /// The words of a list of variants or of enumerators.
    fn words<'a>(text: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
        let list = text.split_once(begin).unwrap().1.split_once(end).unwrap().0;
        let lines = list.lines().map(|line| line.split("//").next().unwrap());
        lines.flat_map(|line| line.split([',', ' ']).filter(|word| !word.is_empty())).collect()
    }
    fn as_in_c(name: &str) -> String {
        let mut words = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !words.is_empty() {
                words.push('_');
            }
            words.push(letter.to_ascii_uppercase());
        }
        words
    }
    /// If the numbers differed, the fault sweep would make other calls fail than it says.
    #[test]
    fn operations_have_the_same_numbers_in_c() {
        let here = words(include_str!("injection.rs"), "pub enum Operation {", "Defect,");
        let in_c =
            words(include_str!("../../c_tests/faults.h"), "src/os/injection.rs. */\nenum {", "OPERATIONS,");
        assert_eq!(here.len(), super::OPERATIONS - 1);
        assert_eq!(here.into_iter().map(as_in_c).collect::<Vec<_>>(), in_c);
    }
}
