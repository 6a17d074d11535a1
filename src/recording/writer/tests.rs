//! What a recording has of what was there before it, and how often it takes samples.
use super::super::{Movement, Tier};
use super::*;
use crate::recording::Mechanism;
use std::os::unix::ffi::OsStrExt;

const ADDRESS: usize = 0xABC000;
/// More events than fit.
fn fill() {
    for number in 0..2 * QUEUE {
        EVENTS.push(match number % 2 {
            0 => Event::Freed { time: now(), address: ADDRESS },
            _ => Event::Moved(format::Moved {
                time: now(),
                duration: 1,
                thread: 1,
                movement: Movement::Fault,
                memory: Memory::Streaming,
                tier: Tier::Warm,
                mechanism: Mechanism::Move,
                bytes: 4096,
                address: ADDRESS as u64,
            }),
        });
    }
}
/// Makes a recording and looks for those events: how many chunks have moved, how many blocks were freed, how many are lost.
fn recorded() -> [u64; 3] {
    let path = std::env::temp_dir().join(format!("unimem-recorded-{}", std::process::id()));
    start(path.as_os_str().as_bytes()).unwrap();
    stop().unwrap();
    let file = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut found = [0; 3];
    let count = |record, _| match record {
        Record::Moved(moved) => found[0] += u64::from(moved.address == ADDRESS as u64),
        Record::Freed(freed) => found[1] += u64::from(freed.address == ADDRESS as u64),
        Record::Lost(lost) => found[2] += lost.events,
        _ => {}
    };
    assert_eq!(format::read(&file, count), Ok(false));
    found
}
/// Runs in a process of its own, where nobody else has events.
#[test]
fn what_was_before_a_recording_is_not_in_it() {
    const ALONE: &str = "UNIMEM_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "recording::writer::tests::what_was_before_a_recording_is_not_in_it";
        let program = std::env::current_exe().unwrap();
        let output =
            std::process::Command::new(program).args(["--exact", name]).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        return assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
    fill();
    let [moved, _, lost] = recorded();
    assert_eq!((moved, lost), (0, 0));
    fill();
    // SAFETY: the child ends at once, and uses nothing that other threads of the parent may have locked.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let clean = recorded() == [0; 3];
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!clean)) };
    }
    let mut status = 0;
    // SAFETY: the call fills in the status.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "a child has its parent's events");
}

#[test]
fn samples_come_half_as_often_after_each_thousand_down_to_one_a_second() {
    // Held, because ticks take events.
    let _recording = RECORDING.lock();
    let file = system::open(c"/tmp", libc::O_TMPFILE).unwrap();
    let mut bytes = Vec::new_in(Records);
    bytes.reserve_exact(BLOCK_HEAD + LARGEST_BLOCK);
    bytes.resize(BLOCK_HEAD, 0);
    let mut recording = Recording {
        file: PrivateFile::new(file).unwrap(),
        length: 0,
        buffer: Buffer { bytes },
        began: now(),
        due: 0,
        pace: TICK.as_nanos() as u64,
        left: PACE,
        told: usize::MAX / 2,
        new: true,
    };
    let mut paces = vec![recording.pace];
    for _ in 0..10 * PACE {
        recording.due = 0;
        recording.tick().unwrap();
        if paces.last() != Some(&recording.pace) {
            paces.push(recording.pace);
        }
    }
    let doubled = (0..8).map(|times| 5_000_000 << times);
    assert_eq!(paces, doubled.chain([1_000_000_000]).collect::<std::vec::Vec<u64>>());
}
