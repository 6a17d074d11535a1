//! What happens when the library is loaded: fork learns of all locks.
//!
//! Not at the first use of each module: a fork that another thread had begun just before would leave the child with that
//! module's lock taken.
use crate::instance::{slots, tiered};
use crate::os::fork::{self, Order};
use crate::os::{numa, records};
use crate::tensor::{kernel, live};
use crate::{advanced, defect, heap, log, recording, singleton, tiers};

/// The order in which locks are taken everywhere in the library, outermost first.
static ORDER: Order = Order {
    hooks: &[
        // The hook for panics, installed by the first call.
        defect::HOOKS,
        // What the first product makes, the pool's threads among it.
        kernel::FIRST_USE_HOOKS,
        // The table of networks, nodes and streams.
        live::HOOKS,
        // The recording under way. Held while all others are asked for their figures.
        &recording::HOOKS,
        // Memory systems and their pools. The first is held while a system asks the singleton.
        &advanced::HOOKS,
        // The global system of the singleton.
        singleton::HOOKS,
        // The table of open instances.
        &slots::HOOKS,
        // Tiered memory that has several owners, one of whom makes it smaller.
        tiered::HOOKS,
        // The residency engines.
        &tiers::HOOKS,
        // Finding out about NUMA nodes. Held while that allocates and opens libhwloc.
        numa::HOOKS,
        // Looking up the names of a stack. Held while that allocates, from whichever heap is malloc's.
        &heap::debug::SYMBOL_HOOKS,
        // What was found, blocks in quarantine, and the stacks that allocated.
        &heap::debug::HOOKS,
        // The list of threads and the heaps.
        &heap::REGISTRY_HOOKS,
        // Retain counts and layouts.
        heap::attributes::HOOKS,
        // Tracked places of live memory, and blocks with a guard.
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

/// Run by the dynamic loader or the C library's start-up code: in the shared library, in the archive and in Rust programs.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;
extern "C" fn at_load() {
    // Without memory for it, the first call tries again.
    ready();
}

/// For calls that come before the constructor, from another library's. False: to be called again.
pub fn ready() -> bool {
    fork::install(&ORDER)
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::instance::config::Config;
    use crate::os::watch;
    use std::process::Command;

    /// In a process of its own, where no other test takes locks between the fork and the question.
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
        // SAFETY: a child that ends at once, in which nothing of the parent's is used.
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
