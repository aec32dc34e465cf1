//! Bits that change on disk: found below the last unit, with file and position; cut in it.

use std::sync::Arc;

use crate::support::{A, B, CONFIG, Log, Outcomes, unit_writes};
use weir_storage::{BLOCK_BYTES, EntryBody, FRAME_HEADER_BYTES, FaultyDisk, WalConfig, WalError};

/// A body whose frame is exactly one block: every byte of it is under its checksum.
const BODY_BYTES: usize = BLOCK_BYTES - FRAME_HEADER_BYTES;

/// A log of 20 entries over two segments, each entry a unit of its own, and where the units are.
fn written() -> (FaultyDisk, Vec<(String, u64)>) {
    let disk = FaultyDisk::new(16 << 20, 1);
    let log = Log::open(Arc::new(disk.clone()), CONFIG).expect("an empty disk");
    for i in 0..20u8 {
        let group = if i % 3 == 0 { B } else { A };
        log.append_durably(group, 1, &[i; BODY_BYTES]).expect("a good disk");
    }
    let after = disk.crash();
    let units = unit_writes(&disk).into_iter().map(|write| (write.name, write.position)).collect();
    (after, units)
}

fn damage_of(disk: &FaultyDisk) -> Option<(String, u64)> {
    match Log::open(Arc::new(disk.clone()), CONFIG) {
        Ok(_) => None,
        Err(WalError::Corrupt { file, position, .. }) => Some((file, position)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_flipped_bit_below_the_last_unit_is_found() {
    let (disk, units) = written();
    assert_eq!(units.iter().filter(|(_, position)| *position == 0).count(), 2, "two segments: {units:?}");
    let block = BLOCK_BYTES as u64;
    for (file, position) in &units[..units.len() - 1] {
        // A segment's first unit is its header, a state frame, and then what the others are.
        let frames: &[u64] = if *position == 0 { &[0, block, 2 * block] } else { &[*position] };
        for &frame in frames {
            let checked = if frame == 2 * block || *position != 0 { block } else { 52 };
            for byte in (0..checked).step_by(37).chain(0..checked.min(64)) {
                disk.flip_bit(file, frame + byte, (byte % 8) as u8).expect("the file is there");
                assert_eq!(damage_of(&disk), Some((file.clone(), frame)), "byte {byte} of {file} at {frame}");
                disk.flip_bit(file, frame + byte, (byte % 8) as u8).expect("the file is there");
            }
        }
    }
    assert_eq!(damage_of(&disk), None);
}

#[test]
fn a_damaged_last_unit_is_cut() {
    let (disk, units) = written();
    let (file, position) = units.last().expect("units");
    disk.flip_bit(file, position + 100, 3).expect("the file is there");
    let log = Log::open(Arc::new(disk.clone()), CONFIG).expect("a torn tail is no damage");
    assert_eq!(log.wal.last(A).map(|last| last.index), Some(11));
    // The frame's header is still there, so the log goes on elsewhere and the torn one never comes back.
    log.append_durably(B, 2, &[99; BODY_BYTES]).expect("a good disk");
    let log = Log::open(Arc::new(disk.crash()), CONFIG).expect("still no damage");
    assert_eq!(log.wal.last(A).map(|last| last.index), Some(11));
    assert_eq!(log.body(B, log.wal.last(B).expect("appended").index), Some(vec![99; BODY_BYTES]));
}

#[test]
fn what_a_torn_unit_left_never_follows_a_new_frame() {
    let disk = FaultyDisk::new(16 << 20, 1);
    let log = Log::open(Arc::new(disk.clone()), CONFIG).expect("an empty disk");
    log.append_durably(A, 1, &[0; BODY_BYTES]).expect("a good disk");
    let outcomes = Outcomes::default();
    for i in 1..5u8 {
        log.append(A, 1, &[i; BODY_BYTES], outcomes.done());
    }
    log.until(|| outcomes.good() == 4);
    let torn = disk.crash();
    let position = unit_writes(&disk)[1].position;
    torn.flip_bit("wal-0000000001.seg", position + 1000, 0).expect("the file is there");
    // The new frame has the torn one's sequence number and index: the old second one would fit behind it.
    let log = Log::open(Arc::new(torn.clone()), CONFIG).expect("a torn tail is no damage");
    log.append_durably(A, 1, &[9; BODY_BYTES]).expect("a good disk");
    let log = Log::open(Arc::new(torn.crash()), CONFIG).expect("a torn tail is no damage");
    assert_eq!(log.wal.last(A).map(|last| last.index), Some(1));
    assert_eq!(log.body(A, 1), Some(vec![9; BODY_BYTES]));
}

#[test]
fn a_missing_segment_and_a_shortened_one_are_found() {
    use weir_storage::Disk;
    let (disk, _) = written();
    let first = "wal-0000000001.seg";
    let bytes = disk.read(first).expect("a segment");
    disk.write_atomic(first, &bytes[..bytes.len() - BLOCK_BYTES]).expect("space");
    assert_eq!(damage_of(&disk), Some((first.to_string(), (bytes.len() - BLOCK_BYTES) as u64)));
    disk.remove(first).expect("there");
    assert_eq!(damage_of(&disk), Some(("wal-0000000002.seg".to_string(), 0)));
}

#[test]
fn damage_under_a_running_log_is_reported_and_not_served() {
    let disk = FaultyDisk::new(16 << 20, 1);
    let config = WalConfig { cache_bytes: 0, ..CONFIG };
    let log = Log::open(Arc::new(disk.clone()), config).expect("an empty disk");
    let id = log.append_durably(A, 1, &[7; 5000]).expect("a good disk");
    log.wal.applied(A, id.index);
    let EntryBody::Stored(place) = log.wal.entry(A, id.index).expect("the entry").body else {
        panic!("it has left memory");
    };
    let reader = log.wal.reader();
    assert_eq!(reader.read(&place, 10..20).expect("a good disk"), [7; 10][..]);
    disk.flip_bit("wal-0000000001.seg", 2 * BLOCK_BYTES as u64 + 500, 0).expect("the file is there");
    let Err(WalError::Corrupt { file, position, .. }) = reader.read_frame(&place) else { panic!("damage is found") };
    assert_eq!((file.as_str(), position), ("wal-0000000001.seg", 2 * BLOCK_BYTES as u64));
}
