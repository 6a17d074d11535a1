//! The spill file misbehaves: what is lost (nothing), what is an error, what is a signal. A program of its own, because
//! it installs a handler for SIGBUS, and because faults are injected into the whole process.
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use unimem::error::Error;
use unimem::os::injection::{DAMAGE, Operation, SHORT, arm, disarm, unimem_inject_faults};
use unimem::os::map::PAGE;
use unimem::os::system::Errno;
use unimem::tiers::budget::{Budget, Unlimited};
use unimem::tiers::chunks::Advice;
use unimem::tiers::engine::Engine;
use unimem::tiers::fault::{Faults, Mechanism};
use unimem::tiers::fill::Access;
use unimem::tiers::piece::Piece;
use unimem::tiers::region::{Params, Policy};
use unimem::tiers::spill::Spill;

const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 24;

struct Fixed(usize, AtomicUsize);
impl Budget for Fixed {
    fn try_charge(&self, bytes: usize) -> bool {
        self.1.fetch_update(SeqCst, SeqCst, |used| (used + bytes <= self.0).then_some(used + bytes)).is_ok()
    }
    fn charge_anyway(&self, bytes: usize) {
        self.1.fetch_add(bytes, SeqCst);
    }
    fn discharge(&self, bytes: usize) {
        self.1.fetch_sub(bytes, SeqCst);
    }
    fn limit(&self) -> usize {
        self.0
    }
}
/// A region of incompressible words, most of them in the spill file.
fn spilled(mechanism: Mechanism) -> (Arc<Engine>, Piece) {
    let engine = Engine::with_mechanism(mechanism, Box::new(Fixed(6 * CHUNK, AtomicUsize::new(0)))).unwrap();
    let region =
        engine.allocate(&Params { size: CHUNKS * CHUNK, chunk: CHUNK, policy: Policy::Streaming }).unwrap();
    words(&region).iter().enumerate().for_each(|(i, w)| w.store(mix(i), Relaxed));
    (engine, region)
}
fn words(region: &Piece) -> &[AtomicU64] {
    // SAFETY: the region's memory, alive as long as it is not freed.
    unsafe { core::slice::from_raw_parts(region.start() as *const AtomicU64, region.size() / 8) }
}
fn mix(i: usize) -> u64 {
    let mut z = (i as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
fn is_whole(region: &Piece) -> bool {
    words(region).iter().enumerate().all(|(i, w)| w.load(Relaxed) == mix(i))
}
fn serving() -> impl Iterator<Item = Mechanism> {
    Mechanism::LADDER.into_iter().filter(|m| *m != Mechanism::None && Faults::get(*m).is_ok())
}
/// The tests share the process's handlers and its log.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[repr(align(4096))]
struct Aligned([u8; 4 * PAGE]);

#[test]
fn bytes_come_back_and_errors_are_values() {
    unimem::os::watch::look_on();
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let spill = Spill::open().unwrap();
    let start = spill.take_range(8 * PAGE as u64);
    spill.make_blocks(start, 8 * PAGE as u64).unwrap();
    let mut buffer = Aligned([7; 4 * PAGE]);
    for (seed, odd) in [(0, 0), (1, SHORT), (2, libc::EINTR)] {
        // Interrupted once, short always.
        unimem_inject_faults(
            1 << Operation::Read as u32 | 1 << Operation::Write as u32,
            1,
            if odd == SHORT { usize::MAX } else { usize::from(odd != 0) },
            odd,
        );
        buffer.0.iter_mut().enumerate().for_each(|(i, b)| *b = (i % 251) as u8 + seed);
        spill.write(&buffer.0, start + PAGE as u64).unwrap();
        buffer.0.fill(0);
        spill.read(&mut buffer.0, start + PAGE as u64).unwrap();
        assert!(buffer.0.iter().enumerate().all(|(i, b)| *b == (i % 251) as u8 + seed));
    }
    arm(&[Operation::Write, Operation::MakeBlocks], 0, libc::ENOSPC);
    assert_eq!(spill.write(&buffer.0, start), Err(Errno(libc::ENOSPC)));
    assert_eq!(spill.make_blocks(start, 1), Err(Errno(libc::ENOSPC)));
    arm(&[Operation::Read], 0, libc::EIO);
    assert_eq!(spill.read(&mut buffer.0, start), Err(Errno(libc::EIO)));
    disarm();
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_lost() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    for mechanism in serving() {
        let (engine, region) = spilled(mechanism);
        // Everything in place is dirty, so that eviction has to write.
        let hot = (0..CHUNKS).find(|i| region.acquire(*i, Access::Write).map(|_| region.release(*i)).is_ok());
        assert_eq!(hot, Some(0));
        for (i, word) in words(&region).iter().enumerate() {
            word.store(mix(i), Relaxed);
        }
        arm(&[Operation::Write], 1, libc::ENOSPC);
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
        arm(&[Operation::Write, Operation::MakeBlocks], 0, libc::ENOSPC);
        let more = engine.allocate(&Params { size: 1 << 20, chunk: CHUNK, policy: Policy::Streaming });
        assert!(matches!(more, Err(Error::Io)), "an allocation that needs room on disk");
        disarm();
        assert!(is_whole(&region), "{mechanism:?}");
        engine.free(&region);
    }
}

#[test]
fn growing_that_the_system_refuses_half_way_loses_nothing() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let moving = [
        Operation::Protect,
        Operation::Remap,
        Operation::Populate,
        Operation::MovePages,
        Operation::CopyPages,
        Operation::WriteProtect,
    ];
    let moving = moving.into_iter().fold(0, |bits, operation| bits | 1 << operation as u32);
    for mechanism in serving() {
        let mut refused = 0;
        for call in 1..=20 {
            let engine = Engine::with_mechanism(mechanism, Box::new(Unlimited)).unwrap();
            let params = Params { size: 6 * CHUNK, chunk: CHUNK, policy: Policy::Streaming };
            let region = engine.allocate(&params).unwrap();
            words(&region).iter().enumerate().for_each(|(i, w)| w.store(mix(i), Relaxed));
            unimem_inject_faults(moving, call, 1, libc::ENOMEM);
            let grown = engine.change_size(&region, CHUNKS * CHUNK);
            disarm();
            refused += usize::from(grown.is_err());
            let live = grown.map_or(region, |(grown, _)| grown);
            let kept = &words(&live)[..6 * CHUNK / 8];
            assert!(
                kept.iter().enumerate().all(|(i, w)| w.load(Relaxed) == mix(i)),
                "{mechanism:?} call {call}"
            );
            engine.clear();
            assert_eq!(engine.held(), 0, "{mechanism:?} call {call}");
        }
        assert!(refused > 0, "{mechanism:?}");
    }
}

#[test]
fn short_transfers_are_finished() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    for mechanism in serving() {
        let (engine, region) = spilled(mechanism);
        arm(&[Operation::Read, Operation::Write], 0, SHORT);
        for (i, word) in words(&region).iter().enumerate() {
            word.store(mix(i), Relaxed);
        }
        assert!(is_whole(&region), "{mechanism:?}");
        disarm();
        engine.free(&region);
    }
}

#[test]
fn what_cannot_be_read_or_is_damaged_is_an_error_of_acquire() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    for mechanism in serving() {
        let (engine, region) = spilled(mechanism);
        region.advise(Advice::DontNeed);
        arm(&[Operation::Read], 0, libc::EIO);
        assert_eq!(region.acquire(3, Access::Read).unwrap_err(), Error::Io);
        arm(&[Operation::Read], 0, DAMAGE);
        assert_eq!(region.acquire(3, Access::Read).unwrap_err(), Error::Corruption);
        // Overwriting needs nothing of what was there.
        region.acquire(4, Access::Overwrite).unwrap();
        words(&region)[4 * CHUNK / 8..5 * CHUNK / 8]
            .iter()
            .enumerate()
            .for_each(|(i, w)| w.store(mix(4 * CHUNK / 8 + i), Relaxed));
        region.release(4).unwrap();
        disarm();
        assert!(is_whole(&region), "{mechanism:?}");
        engine.free(&region);
    }
}

/// The last address the handler was told.
static SEEN: AtomicUsize = AtomicUsize::new(0);
static LOGGED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn repair(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's siginfo.
    SEEN.store(unsafe { (*info).si_addr() } as usize, SeqCst);
    disarm();
}
unsafe extern "C-unwind" fn note(level: libc::c_int, _: *const libc::c_char, _: *mut libc::c_void) {
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
        let (engine, region) = spilled(mechanism);
        region.advise(Advice::DontNeed);
        arm(&[Operation::Read], 0, DAMAGE);
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

#[test]
fn a_slot_that_the_system_left_without_access_serves_again() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let engine = Engine::with_mechanism(Mechanism::Signal, Box::new(Unlimited)).unwrap();
    let region =
        engine.allocate(&Params { size: CHUNKS * CHUNK, chunk: CHUNK, policy: Policy::Streaming }).unwrap();
    let first = CHUNK / 8;
    words(&region)[..first].iter().enumerate().for_each(|(i, w)| w.store(mix(i), Relaxed));
    // A chunk loses access, its pages go to a slot, which is refused access: back they go, and the slot is given back.
    unimem_inject_faults(1 << Operation::Protect as u32, 2, 1, libc::ENOMEM);
    region.advise(Advice::DontNeed);
    disarm();
    words(&region)[first..].iter().enumerate().for_each(|(i, w)| w.store(mix(first + i), Relaxed));
    region.advise(Advice::DontNeed);
    assert!(is_whole(&region));
    engine.free(&region);
    assert_eq!(engine.held(), 0);
}

#[test]
fn a_chunk_that_the_system_lets_neither_out_nor_back_is_an_error_and_never_zeros() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let engine = Engine::with_mechanism(Mechanism::Signal, Box::new(Unlimited)).unwrap();
    let region =
        engine.allocate(&Params { size: CHUNKS * CHUNK, chunk: CHUNK, policy: Policy::Streaming }).unwrap();
    words(&region).iter().enumerate().for_each(|(i, w)| w.store(mix(i), Relaxed));
    // A chunk loses access, its pages go to a slot, which is refused access, and they cannot go back.
    arm(&[Operation::Protect, Operation::Remap], 2, libc::ENOMEM);
    region.advise(Advice::DontNeed);
    disarm();
    let mut lost = 0;
    for index in 0..CHUNKS {
        match region.acquire(index, Access::Read) {
            Err(error) => {
                assert_eq!(error, Error::Io);
                lost += 1;
            }
            Ok(_) => {
                let at = index * CHUNK / 8;
                let chunk = &words(&region)[at..at + CHUNK / 8];
                assert!(
                    chunk.iter().enumerate().all(|(i, w)| w.load(Relaxed) == mix(at + i)),
                    "chunk {index}"
                );
                region.release(index).unwrap();
            }
        }
    }
    assert_eq!(lost, 1);
    // What is lost can be written anew.
    let all_work = (0..CHUNKS).all(|index| region.acquire(index, Access::Overwrite).is_ok());
    assert!(all_work);
    engine.free(&region);
    assert_eq!(engine.held(), 0);
}
