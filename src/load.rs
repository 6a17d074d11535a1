//! What happens when the library is loaded: handlers for fork are installed that take all locks.
//!
//! That must not wait for the first use of a module. If another thread had begun a fork just before that, the child
//! would find the module's lock taken.
use crate::instance::{slots, tiered};
use crate::os::fork::{self, Order};
use crate::os::{numa, records};
use crate::tensor::{kernel, live};
use crate::{advanced, defect, heap, log, recording, singleton, tiers};

/// The order in which locks are taken everywhere in the library, outermost first.
static ORDER: Order = Order {
    hooks: &[
        // The installation of the panic hook, by the first call.
        defect::HOOKS,
        // What the first matrix product makes, such as the threads of the pool.
        kernel::FIRST_USE_HOOKS,
        // The table of networks, nodes and streams.
        live::HOOKS,
        // The recording under way. Held while all other modules are asked for their figures.
        &recording::HOOKS,
        // Memory systems and their pools. The first of them is held while a system asks the singleton.
        &advanced::HOOKS,
        // The singleton's memory system.
        singleton::HOOKS,
        // The table of open instances.
        &slots::HOOKS,
        // Making tiered memory smaller that has several owners.
        tiered::HOOKS,
        // The residency engines.
        &tiers::HOOKS,
        // The search for NUMA nodes. Held while it allocates and opens libhwloc.
        numa::HOOKS,
        // Writing a report, and the look-up of the names in a stack. Held while they allocate, from whichever heap is
        // malloc's.
        &heap::debug::SYMBOL_HOOKS,
        // Damage that was found, blocks in quarantine, live tiered memory, and the stacks of allocations.
        &heap::debug::HOOKS,
        // The list of threads, and the heaps.
        &heap::REGISTRY_HOOKS,
        // Owners and layouts of blocks.
        heap::attributes::HOOKS,
        // Tracked addresses in live memory, and blocks with a guard.
        &heap::tracked::HOOKS,
        // Tracked foreign blocks.
        &slots::TRACKING_HOOKS,
        // Free slices of the arena.
        heap::ARENA_HOOKS,
        // Mappings for the library's own records.
        records::HOOKS,
        // Where messages go.
        log::HOOKS,
    ],
    report: tiers::report,
};

/// The dynamic loader or the C library's start-up code runs this, in the shared library, in the archive and in Rust
/// programs.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;
extern "C" fn at_load() {
    // If there is no memory for it, the first call tries again.
    ready();
    // If the library is the program's malloc, this makes its heap, and installs what has to run at exit. The program's first
    // allocation could not do that if it is atexit's: the C library has its lock then.
    // SAFETY: nothing else knows the block. The compiler must not know either that nobody uses it.
    unsafe { libc::free(core::hint::black_box(libc::malloc(1))) };
}

/// For calls that come before this constructor, from the constructor of another library. If it is false it has to be
/// called again.
pub fn ready() -> bool {
    fork::install(&ORDER)
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::instance::config::Config;
    use crate::os::watch;
    use std::process::Command;

    /// Runs in a process of its own, where no other test takes locks between the fork and the question.
    #[test]
    fn fork_takes_all_locks_that_nothing_shelters() {
        const ALONE: &str = "UNIMEM_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "load::tests::fork_takes_all_locks_that_nothing_shelters";
            let program = std::env::current_exe().unwrap();
            let output = Command::new(program).args(["--exact", name]).env(ALONE, "1").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            return assert!(output.status.success() && text.contains("1 passed"), "{text}");
        }
        let slot = slots::open(Config::default()).unwrap();
        let instance = slots::open_at(slot).unwrap();
        let block = instance.allocate(100, 0).unwrap().as_ptr();
        instance.track(0x1000 as *mut u8, 1).unwrap();
        let tiered = instance.allocate_streaming(100_000, 0).unwrap().as_ptr();
        // SAFETY: the child ends at once and uses nothing of the parent's.
        unsafe {
            match libc::fork() {
                0 => libc::_exit(0),
                child => assert_eq!(libc::waitpid(child, core::ptr::null_mut(), 0), child),
            }
        }
        [block, tiered].into_iter().for_each(|memory| instance.free(memory).unwrap());
        slots::close(slot).unwrap();
        assert_eq!(watch::missed_by_fork(), [""; 0]);
    }
}
