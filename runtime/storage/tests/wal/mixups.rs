//! Files of a log that are missing, swapped, copied or older than they were: refused at once, with file and position.

use std::sync::Arc;

use crate::support::{A, CONFIG, LOG_ID, Log};
use weir_storage::{BLOCK_BYTES, Disk, FaultyDisk, Wal, WalError};

const BODY_BYTES: usize = 4000;
/// More than one segment takes.
const ENTRIES: u8 = 40;

fn segment(number: u32) -> String {
    format!("wal-{number:010}.seg")
}

/// A disk with the log `log_id` of [`ENTRIES`] entries over some segments, stopped cleanly, and the last segment's number.
fn written(log_id: u64) -> (FaultyDisk, u32) {
    let disk = FaultyDisk::new(16 << 20, log_id);
    Wal::form(&disk, log_id).expect("an empty disk");
    let log = Log::open(Arc::new(disk.clone()), CONFIG).expect("formed");
    for i in 0..ENTRIES {
        log.append_durably(A, 1, &[i; BODY_BYTES]).expect("a good disk");
    }
    let segments = log.wal.stats().segments as u32;
    log.stop();
    assert!(segments > 2, "{segments} segments");
    (disk.crash(), segments)
}

/// What opening says, and that it changes nothing.
fn refusal(disk: &FaultyDisk) -> WalError {
    let before = disk.operations();
    let error = Log::open(Arc::new(disk.clone()), CONFIG).map(drop).expect_err("it is refused");
    assert_eq!(disk.operations(), before, "nothing is changed: {error}");
    error
}

fn copy(from: &FaultyDisk, name: &str, to: &FaultyDisk, new_name: &str) {
    let bytes = from.read(name).expect("a file");
    to.write_atomic(new_name, &bytes).expect("space");
}

#[track_caller]
fn assert_corrupt(error: &WalError, file: &str, position: u64) {
    assert!(
        matches!(error, WalError::Corrupt { file: at, position: byte, .. } if at == file && *byte == position),
        "{error}, where {file} at {position} is at fault"
    );
}

#[track_caller]
fn assert_foreign(error: &WalError, file: &str) {
    assert!(matches!(error, WalError::Foreign { file: at, .. } if at == file), "{error}, where {file} is at fault");
}

#[test]
fn a_log_as_it_was_written_opens() {
    let (disk, _) = written(LOG_ID);
    let log = Log::open(Arc::new(disk), CONFIG).expect("nothing is missing");
    assert_eq!(log.wal.last(A).map(|last| last.index), Some(u64::from(ENTRIES) - 1));
}

#[test]
fn an_emptied_folder_is_no_new_log() {
    let (disk, last) = written(LOG_ID);
    for number in 1..=last {
        disk.remove(&segment(number)).expect("there");
    }
    assert_corrupt(&refusal(&disk), &segment(1), 0);
    let (disk, _) = written(LOG_ID);
    for name in disk.list().expect("a list") {
        disk.remove(&name).expect("there");
    }
    let error = Wal::check(&disk, LOG_ID).expect_err("nothing is there");
    assert_foreign(&error, "mark");
}

#[test]
fn a_missing_newest_segment_is_missed() {
    let (disk, last) = written(LOG_ID);
    disk.remove(&segment(last)).expect("there");
    assert_corrupt(&refusal(&disk), &segment(last), 0);
}

#[test]
fn a_newest_segment_is_missed_as_soon_as_anything_in_it_is_acknowledged() {
    let disk = FaultyDisk::new(16 << 20, 3);
    let log = Log::open(Arc::new(disk.clone()), CONFIG).expect("an empty disk");
    for begun in 1..4 {
        while log.wal.stats().segments < begun {
            log.append_durably(A, 1, &[7; BODY_BYTES]).expect("a good disk");
        }
        // The process is killed, and nothing that it does at its end is done.
        let killed = disk.copy();
        killed.remove(&segment(begun as u32)).expect("there");
        assert_corrupt(&refusal(&killed), &segment(begun as u32), 0);
    }
}

#[test]
fn a_zeroed_newest_segment_is_missed() {
    let (disk, last) = written(LOG_ID);
    disk.write_atomic(&segment(last), &vec![0; CONFIG.segment_bytes as usize]).expect("space");
    assert_corrupt(&refusal(&disk), &segment(last), 0);
    let header_only = written(LOG_ID).0;
    let mut bytes = header_only.read(&segment(last)).expect("there");
    bytes[..BLOCK_BYTES].fill(0);
    header_only.write_atomic(&segment(last), &bytes).expect("space");
    assert_corrupt(&refusal(&header_only), &segment(last), 0);
}

#[test]
fn an_older_copy_of_the_newest_segment_is_told() {
    let disk = FaultyDisk::new(16 << 20, 3);
    let open = |disk: &FaultyDisk| Log::open(Arc::new(disk.clone()), CONFIG).expect("no damage");
    let log = open(&disk);
    log.append_durably(A, 1, &[1; BODY_BYTES]).expect("a good disk");
    log.stop();
    let older = disk.read(&segment(1)).expect("a segment");
    let log = open(&disk);
    log.append_durably(A, 1, &[2; BODY_BYTES]).expect("a good disk");
    log.append_durably(A, 1, &[3; BODY_BYTES]).expect("a good disk");
    log.stop();
    disk.write_atomic(&segment(1), &older).expect("space");
    // Header, state, one entry.
    assert_corrupt(&refusal(&disk), &segment(1), 3 * BLOCK_BYTES as u64);
}

#[test]
fn a_last_unit_that_was_marked_is_not_cut() {
    let (disk, last) = written(LOG_ID);
    let bytes = disk.read(&segment(last)).expect("a segment");
    let frames = bytes.chunks(BLOCK_BYTES).skip(1).take_while(|block| block.starts_with(b"WFR")).count();
    let position = frames as u64 * BLOCK_BYTES as u64;
    for byte in [0, 9, 70, 3000] {
        disk.flip_bit(&segment(last), position + byte, 2).expect("there");
        assert_corrupt(&refusal(&disk), &segment(last), position);
        disk.flip_bit(&segment(last), position + byte, 2).expect("there");
    }
}

#[test]
fn segments_in_the_wrong_place_are_told() {
    let (disk, last) = written(LOG_ID);
    // An older one over the newest, and over one in the middle.
    for place in [last, 2] {
        let mixed = disk.copy();
        copy(&disk, &segment(1), &mixed, &segment(place));
        assert_foreign(&refusal(&mixed), &segment(place));
    }
    // Two of them swapped.
    let mixed = disk.copy();
    copy(&disk, &segment(1), &mixed, &segment(2));
    copy(&disk, &segment(2), &mixed, &segment(1));
    assert_foreign(&refusal(&mixed), &segment(1));
}

#[test]
fn another_logs_files_are_told() {
    let (disk, last) = written(LOG_ID);
    let (other, _) = written(LOG_ID + 1);
    for number in [1, 2, last] {
        let mixed = disk.copy();
        copy(&other, &segment(number), &mixed, &segment(number));
        assert_foreign(&refusal(&mixed), &segment(number));
    }
    let mixed = disk.copy();
    copy(&other, "mark", &mixed, "mark");
    assert_foreign(&refusal(&mixed), &segment(1));
    assert_foreign(&Wal::check(&mixed, LOG_ID).expect_err("the other's mark"), "mark");
}

#[test]
fn a_used_log_is_not_formed_again() {
    let (disk, _) = written(LOG_ID);
    assert!(matches!(Wal::form(&disk, 9), Err(WalError::Foreign { .. })));
    let unformed = FaultyDisk::new(16 << 20, 1);
    let opened = Wal::open(Arc::new(unformed), CONFIG, Box::new(|| 1)).map(drop);
    assert_foreign(&opened.expect_err("no log was formed here"), "mark");
}

#[test]
fn a_recycled_segment_has_no_header() {
    let disk = FaultyDisk::new(64 << 20, 3);
    let log = Log::open(Arc::new(disk.clone()), CONFIG).expect("an empty disk");
    let outcomes = crate::support::Outcomes::default();
    for i in 0..ENTRIES {
        log.append_durably(A, 1, &[i; BODY_BYTES]).expect("a good disk");
    }
    let segments = log.wal.stats().segments;
    log.wal.purge(A, log.wal.last(A).expect("entries"), outcomes.done());
    log.until(|| log.wal.stats().segments < segments && log.wal.stats().spares == 4);
    let in_use = log.wal.stats().segments;
    let has_header = |name: &String| disk.read(name).expect("there").starts_with(b"WEIRSEG");
    let names: Vec<_> = disk.list().expect("a list").into_iter().filter(|name| name.starts_with("wal-")).collect();
    assert_eq!(names.iter().filter(|name| has_header(name)).count(), in_use, "{names:?}");
    assert!(names.contains(&segment(ENTRIES as u32 / 14 + 4)), "spares have the names of segments to come: {names:?}");
}
