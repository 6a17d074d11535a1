//! The spill file misbehaves: what is lost (nothing), what is an error, what is a signal. A program of its own, because
//! it installs a handler for SIGBUS.
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use unimem::error::Error;
use unimem::tiers::budget::Budget;
use unimem::tiers::chunks::Advice;
use unimem::tiers::engine::Engine;
use unimem::tiers::fault::{Faults, Mechanism};
use unimem::tiers::fill::Access;
use unimem::tiers::region::{Params, Region};
use unimem::tiers::spill::Spill;

const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 24;

struct Fixed(usize, AtomicUsize);
impl Budget for Fixed {
    fn try_charge(&self, bytes: usize) -> bool {
        self.1.fetch_update(SeqCst, SeqCst, |used| (used + bytes <= self.0).then_some(used + bytes)).is_ok()
    }
    fn discharge(&self, bytes: usize) {
        self.1.fetch_sub(bytes, SeqCst);
    }
    fn limit(&self) -> usize {
        self.0
    }
}
/// A region of incompressible words, most of them in the spill file.
fn spilled(mechanism: Mechanism) -> (Arc<Engine>, Arc<Region>, Arc<Spill>) {
    let engine = Engine::with_mechanism(mechanism, Box::new(Fixed(6 * CHUNK, AtomicUsize::new(0)))).unwrap();
    let region = engine.allocate(&Params { size: CHUNKS * CHUNK, chunk: CHUNK, tolerance: None }).unwrap();
    let spill = engine.file(1).unwrap();
    words(&region).iter().enumerate().for_each(|(i, w)| w.store(mix(i), Relaxed));
    (engine, region, spill)
}
fn words(region: &Region) -> &[AtomicU64] {
    // SAFETY: the region's memory, alive as long as it is not freed.
    unsafe { core::slice::from_raw_parts(region.start() as *const AtomicU64, region.size() / 8) }
}
fn mix(i: usize) -> u64 {
    let mut z = (i as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
fn is_whole(region: &Region) -> bool {
    words(region).iter().enumerate().all(|(i, w)| w.load(Relaxed) == mix(i))
}
fn serving() -> impl Iterator<Item = Mechanism> {
    Mechanism::LADDER.into_iter().filter(|m| *m != Mechanism::None && Faults::get(*m).is_ok())
}
/// The tests share the process's handlers and its log.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn a_full_disk_is_an_error_and_nothing_is_lost() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    for mechanism in serving() {
        let (engine, region, spill) = spilled(mechanism);
        // Everything in place is dirty, so that eviction has to write.
        let hot = (0..CHUNKS).find(|i| region.acquire(*i, Access::Write).map(|_| region.release(*i)).is_ok());
        assert_eq!(hot, Some(0));
        for (i, word) in words(&region).iter().enumerate() {
            word.store(mix(i), Relaxed);
        }
        spill.mischief.writes_left.store(1, SeqCst);
        spill.mischief.write_error.store(libc::ENOSPC, SeqCst);
        let errors: Vec<_> = (0..CHUNKS)
            .filter_map(|i| match region.acquire(i, Access::Write) {
                Ok(_) => {
                    region.release(i).unwrap();
                    None
                }
                Err(error) => Some(error),
            })
            .collect();
        assert!(
            errors.len() > CHUNKS / 2 && errors.iter().all(|e| *e == Error::Io),
            "{mechanism:?}: {errors:?}"
        );
        let more = engine.allocate(&Params { size: 1 << 20, chunk: CHUNK, tolerance: None });
        assert!(matches!(more, Err(Error::Io)), "an allocation that needs room on disk");
        spill.mischief.write_error.store(0, SeqCst);
        assert!(is_whole(&region), "{mechanism:?}");
        engine.free(&region);
    }
}

#[test]
fn short_transfers_are_finished() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    for mechanism in serving() {
        let (engine, region, spill) = spilled(mechanism);
        spill.mischief.short.store(1, SeqCst);
        for (i, word) in words(&region).iter().enumerate() {
            word.store(mix(i), Relaxed);
        }
        assert!(is_whole(&region), "{mechanism:?}");
        engine.free(&region);
    }
}

#[test]
fn what_cannot_be_read_or_is_damaged_is_an_error_of_acquire() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    for mechanism in serving() {
        let (engine, region, spill) = spilled(mechanism);
        region.advise(Advice::DontNeed).unwrap();
        spill.mischief.read_error.store(libc::EIO, SeqCst);
        assert_eq!(region.acquire(3, Access::Read).unwrap_err(), Error::Io);
        spill.mischief.read_error.store(0, SeqCst);
        spill.mischief.damage.store(1, SeqCst);
        assert_eq!(region.acquire(3, Access::Read).unwrap_err(), Error::Corruption);
        // Overwriting needs nothing of what was there.
        region.acquire(4, Access::Overwrite).unwrap();
        words(&region)[4 * CHUNK / 8..5 * CHUNK / 8]
            .iter()
            .enumerate()
            .for_each(|(i, w)| w.store(mix(4 * CHUNK / 8 + i), Relaxed));
        region.release(4).unwrap();
        spill.mischief.damage.store(0, SeqCst);
        assert!(is_whole(&region), "{mechanism:?}");
        engine.free(&region);
    }
}

/// What the handler repairs, and the last address it was told.
static BROKEN: AtomicPtr<Spill> = AtomicPtr::new(core::ptr::null_mut());
static SEEN: AtomicUsize = AtomicUsize::new(0);
static LOGGED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn repair(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's siginfo; the spill file outlives the test.
    unsafe {
        SEEN.store((*info).si_addr() as usize, SeqCst);
        (*BROKEN.load(SeqCst)).mischief.damage.store(0, SeqCst);
    }
}
unsafe extern "C" fn note(level: libc::c_int, _: *const libc::c_char, _: *mut libc::c_void) {
    if level == 0 {
        LOGGED.fetch_add(1, SeqCst);
    }
}

#[test]
fn direct_access_that_cannot_be_served_is_a_bus_error_at_its_address() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    // SAFETY: a handler that lives as long as the process.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = repair as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, core::ptr::null_mut());
    }
    unimem::log::set_callback(Some(note), core::ptr::null_mut());
    for mechanism in serving() {
        let (engine, region, spill) = spilled(mechanism);
        region.advise(Advice::DontNeed).unwrap();
        BROKEN.store(Arc::as_ptr(&spill).cast_mut(), SeqCst);
        spill.mischief.damage.store(1, SeqCst);
        let logged = LOGGED.load(SeqCst);
        let at = 7 * CHUNK / 8 + 5;
        // The handler repairs the file and returns: the access is tried again.
        assert_eq!(words(&region)[at].load(Relaxed), mix(at));
        assert_eq!(SEEN.swap(0, SeqCst), region.start() + at * 8, "{mechanism:?}");
        assert!(LOGGED.load(SeqCst) > logged, "the log says why");
        assert!(is_whole(&region));
        engine.free(&region);
    }
}
