//! The ladder of fault mechanisms: which of them work here, and which one is used.
//!
//! | name | needs | direct access to a chunk that is not in place | system calls given such memory |
//! | --- | --- | --- | --- |
//! | `userfaultfd` | Linux 6.8 | SIGBUS handler in the touching thread moves pages in | fail with EFAULT |
//! | `userfaultfd-copy` | Linux 5.7 | the same, pages are copied in and out | fail with EFAULT |
//! | `signal` | Linux 5.7 | SIGSEGV handler, page tables moved by mremap | fail with EFAULT |
//! | `none` | Linux | not served: the program dies of SIGSEGV. Memory that fits the budget when it is allocated is in place for good | fail with EFAULT |
//!
//! Under each mechanism an acquired chunk is in place until it is released, and may be given to system calls too.
//! `UNIMEM_FAULTS` names the rung with which the search for one that works begins; otherwise that is the first.
pub mod handler;
pub mod pages;
mod remapping;
pub mod userfaultfd;

use super::gate;
use super::mapping::{Errno, Mapping, Protection};
use crate::log::log;
use crate::os::environment;
use crate::os::map::PAGE;
use pages::Pages;
use std::sync::OnceLock;
use userfaultfd::Userfaultfd;

/// A rung of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// userfaultfd, pages moved.
    Move,
    /// userfaultfd, pages write-protected and copied.
    Copy,
    /// SIGSEGV and mremap.
    Signal,
    /// No faults are served.
    None,
}
impl Mechanism {
    /// All rungs, the best first.
    pub const LADDER: [Mechanism; 4] = [Mechanism::Move, Mechanism::Copy, Mechanism::Signal, Mechanism::None];
    /// The name in `UNIMEM_FAULTS` and in the log.
    pub fn name(self) -> &'static core::ffi::CStr {
        match self {
            Mechanism::Move => c"userfaultfd",
            Mechanism::Copy => c"userfaultfd-copy",
            Mechanism::Signal => c"signal",
            Mechanism::None => c"none",
        }
    }
    /// The signal that reports faults.
    pub fn signal(self) -> Option<libc::c_int> {
        match self {
            Mechanism::Move | Mechanism::Copy => Some(libc::SIGBUS),
            Mechanism::Signal => Some(libc::SIGSEGV),
            Mechanism::None => None,
        }
    }
}

/// A rung that works here.
pub struct Faults {
    /// Which.
    pub mechanism: Mechanism,
    /// How pages are moved.
    pub pages: Pages,
}

static RUNGS: [OnceLock<Result<Faults, Errno>>; Mechanism::LADDER.len()] =
    [const { OnceLock::new() }; Mechanism::LADDER.len()];

/// Whether an error may be gone the next time, because the system is short of something. All other errors mean that a
/// rung does not work here, now or later.
fn is_passing(error: Errno) -> bool {
    matches!(
        error,
        Errno(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::EBUSY | libc::EFAULT)
    )
}

impl Faults {
    /// The given rung, tried out on first use. An error says why it does not work here. To be called outside the
    /// gate.
    pub fn get(mechanism: Mechanism) -> Result<&'static Faults, Errno> {
        let rung = &RUNGS[mechanism as usize];
        if rung.get().is_none() {
            // Inside the gate, so that a forked child inherits the rung either whole, and reopens its descriptor, or
            // not at all.
            let _inside = gate::enter();
            let tried = try_out(mechanism);
            if let Err(error) = tried
                && is_passing(error)
            {
                return Err(error);
            }
            rung.get_or_init(|| tried);
        }
        rung.get().map_or(Err(Errno(libc::EAGAIN)), |tried| tried.as_ref().map_err(|error| *error))
    }
    /// The rung that this process uses: the first that works, beginning with the one that the environment asks for.
    /// Fails, to be asked again later, if the system is too short of something to find out. To be called outside the
    /// gate.
    pub fn chosen() -> Result<&'static Faults, Errno> {
        static CHOSEN: OnceLock<Result<&'static Faults, Errno>> = OnceLock::new();
        if let Some(chosen) = CHOSEN.get() {
            return *chosen;
        }
        let asked = environment::variable(c"UNIMEM_FAULTS").unwrap_or_default();
        let first = match asked {
            b"" => Some(Mechanism::Move),
            name => Mechanism::LADDER.into_iter().find(|m| m.name().to_bytes() == name),
        };
        if first.is_none() {
            let asked = String::from_utf8_lossy(asked);
            log!(Warning, "UNIMEM_FAULTS={asked} is not userfaultfd, userfaultfd-copy, signal or none");
        }
        let mut result = Err(Errno(libc::ENOSYS));
        for mechanism in &Mechanism::LADDER[first.unwrap_or(Mechanism::Move) as usize..] {
            result = Faults::get(*mechanism);
            match result {
                Ok(_) => {
                    log!(Info, "tiered memory: faults are served through {:?}", mechanism.name());
                    break;
                }
                Err(error) => {
                    log!(Info, "tiered memory: {:?} does not work here: {error}", mechanism.name());
                    if is_passing(error) {
                        return result;
                    }
                }
            }
        }
        let _inside = gate::enter();
        *CHOSEN.get_or_init(|| result)
    }
    /// All rungs that were tried out so far and work. For fork.
    pub fn used() -> impl Iterator<Item = &'static Faults> {
        RUNGS.iter().filter_map(|rung| rung.get()?.as_ref().ok())
    }
}

fn try_out(mechanism: Mechanism) -> Result<Faults, Errno> {
    let open = |wanted: u64| {
        if Userfaultfd::offered()? & wanted != wanted {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        Userfaultfd::open(wanted)
    };
    use userfaultfd::{FEATURE_MOVE, FEATURE_SIGBUS, FEATURE_WRITE_PROTECT};
    let pages = match mechanism {
        // If mremap cannot leave the old mapping behind: valgrind, emulated kernels, Linux before 5.7.
        Mechanism::None if round_trip(&Pages::Remap).is_err_and(|error| !is_passing(error)) => Pages::Plain,
        Mechanism::Move => Pages::Move(open(FEATURE_SIGBUS | FEATURE_WRITE_PROTECT | FEATURE_MOVE)?),
        Mechanism::Copy => Pages::Copy(open(FEATURE_SIGBUS | FEATURE_WRITE_PROTECT)?),
        Mechanism::Signal | Mechanism::None => Pages::Remap,
    };
    round_trip(&pages)?;
    Ok(Faults { mechanism, pages })
}

/// Moves one chunk of two pages in and out, because what the system promises does not always work (seccomp, emulated
/// kernels).
fn round_trip(pages: &Pages) -> Result<(), Errno> {
    const LENGTH: usize = 2 * PAGE;
    let no_memory = Errno(libc::ENOMEM);
    let region = Mapping::reserve(LENGTH, PAGE, pages.empty_protection()).ok_or(no_memory)?;
    let slot = Mapping::reserve(LENGTH, PAGE, Protection::ReadWrite).ok_or(no_memory)?;
    let nursery = Mapping::reserve(LENGTH, PAGE, Protection::ReadWrite).ok_or(no_memory)?;
    let (chunk, slot, nursery) = (region.span(), slot.span(), nursery.span());
    pages.adopt_region(chunk, LENGTH)?;
    pages.adopt_slot(slot)?;
    pages.fill_slot(slot, nursery)?;
    let last = LENGTH - 1;
    // SAFETY: all three mappings are ours. The slot is full and the chunk absent before `place`, and the other way
    // round before `take`.
    unsafe {
        (slot.start as *mut u8).add(last).write_volatile(42);
        pages.place(slot, chunk)?;
        let seen = (chunk.start as *mut u8).add(last).read_volatile();
        (chunk.start as *mut u8).write_volatile(seen + 1);
        pages.take(chunk, slot, nursery).map_err(|failed| failed.errno)?;
        let first = (slot.start as *mut u8).read_volatile();
        if (first, seen) != (43, 42) {
            return Err(Errno(libc::EIO));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn every_rung_works_here_or_says_why() {
        for mechanism in Mechanism::LADDER {
            if let Err(error) = Faults::get(mechanism) {
                println!("SKIP {mechanism:?}: {error}");
                assert!(mechanism.signal() == Some(libc::SIGBUS), "the others need no permission");
            }
        }
    }
}
