//! Records are read as they were written. Files that are damaged or cut off are noticed.
use super::*;

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
fn samples() -> Vec<Record<'static>> {
    vec![
        Program { began: u64::MAX, process: 1, interval: 127, command: Cow::Borrowed(b"a\0b") }.into(),
        Sizes { time: 128, classes: Cow::Borrowed(&[6, 0, 1 << 63]) }.into(),
        Moved {
            time: 1,
            duration: 2,
            thread: 3,
            movement: Movement::Spill,
            memory: Memory::Streaming,
            tier: Tier::Cold,
            mechanism: Mechanism::Copy,
            bytes: 4,
            address: 5,
        }
        .into(),
        End { time: 300, blocks: 0, bytes: 0 }.into(),
    ]
}
fn file(records: &[Record]) -> Vec<u8> {
    let mut file = head().to_vec();
    for record in records {
        let mut bytes = Vec::new();
        record.put(&mut bytes);
        file.extend(block_head(&bytes));
        file.extend(bytes);
    }
    file
}
fn read_all(file: &[u8]) -> Result<(Vec<Record<'static>>, bool), Damage> {
    let mut records = Vec::new();
    let cut = read(file, |record, _| records.push(record))?;
    Ok((records, cut))
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(read_all(&file(&samples())), Ok((samples(), false)));
}
#[test]
fn a_cut_file_gives_what_came_before_the_cut() {
    let whole = file(&samples());
    for length in HEAD..whole.len() {
        let (records, _) = read_all(&whole[..length]).unwrap();
        assert_eq!(records, samples()[..records.len()]);
        assert!(records.len() < samples().len());
    }
}
#[test]
fn every_changed_bit_is_found() {
    let whole = file(&samples());
    for bit in 0..8 * whole.len() {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // If a bit makes a block longer, the file reads as one that is cut off. Four bytes of the head have
        // no meaning yet.
        match read_all(&changed) {
            Err(_) => {}
            Ok((records, cut)) => {
                assert!(cut && records.len() < samples().len() || (96..128).contains(&bit), "{bit}")
            }
        }
    }
    assert_eq!(read_all(b""), Err(Damage::Empty));
    assert_eq!(read_all(b"#!/bin/sh\necho hello\n"), Err(Damage::NotARecording));
}
