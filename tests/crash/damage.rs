//! Bytes changed on disk while the server is down.
//!
//! The log's layout is known here only as far as the damage needs it: segments `wal-<k>/wal-<number>.seg`, a header
//! block, then frames at blocks of 4 KiB, each with its magic and the length of its body (`runtime/storage/src/frame.rs`).

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use weir_testkit::{Request, Setup};

use crate::{mixups, setup};

const BLOCK: usize = 4096;
const FRAME_MAGIC: &[u8] = b"WFR\x02";
const FRAME_HEADER_BYTES: usize = 56;
const APPENDS: usize = 30;
const EXIT_CORRUPT: i32 = 6;

/// A segment and its frames: where each begins and how long it is without padding.
struct Segment {
    path: PathBuf,
    frames: Vec<(usize, usize)>,
}

/// Does something to a segment.
type Damage = fn(&Segment);

/// What a write that never completed may have left behind the last frame.
type Remnant = fn(&Segment) -> Vec<u8>;

#[test]
fn a_torn_write_leaves_nothing() {
    let remnants: [(&str, Remnant); 6] = [
        ("zeros", |_| vec![0; BLOCK]),
        ("garbage", |_| (0..3 * BLOCK).map(|i| (i % 251) as u8).collect()),
        ("the first sector of an old frame", |segment| {
            segment.bytes()[segment.frames[APPENDS / 2].0..][..512].to_vec()
        }),
        ("a frame whose body is another's", Segment::next_frame),
        ("only its header", |segment| segment.next_frame()[..FRAME_HEADER_BYTES].to_vec()),
        ("only its body", |segment| {
            let mut frame = segment.next_frame();
            frame[..FRAME_HEADER_BYTES].fill(0);
            frame
        }),
    ];
    for (name, remnant) in remnants {
        let mut setup = filled();
        let segment = newest(setup.data_dir());
        let bytes = remnant(&segment);
        write(&segment.path, segment.end(), &bytes);
        let server = setup.start();
        let stored = server.client().send(Request::get("/damage/s")).expect(200).text();
        assert_eq!(stored, numbers(APPENDS), "{name}");
        // The log goes on behind the cut, and holds.
        let _ = server.client().send(Request::post("/damage/s").body("text/plain", "after\n")).expect(204);
        server.kill();
        let server = setup.start();
        assert_eq!(server.client().send(Request::get("/damage/s")).expect(200).text(), stored + "after\n", "{name}");
    }
}

#[test]
fn damage_in_the_last_unit_of_a_log_that_was_stopped_stops_the_server() {
    let mut setup = filled();
    assert_eq!(setup.start().stop().code, Some(0));
    let segment = newest(setup.data_dir());
    let (position, length) = *segment.frames.last().expect("a frame");
    for byte in [0, 5, 32, FRAME_HEADER_BYTES, length - 1] {
        flip(&segment.path, position + byte);
        let exit = setup.run();
        assert_eq!(exit.code, Some(EXIT_CORRUPT), "a bit of byte {byte} of the last frame flipped: {}", exit.log);
        let place = format!("{} is damaged at byte {position}", segment.name());
        assert!(exit.log.contains(&place), "{place} is not named: {}", exit.log);
        flip(&segment.path, position + byte);
    }
}

#[test]
fn damage_below_the_last_unit_stops_the_server() {
    let mut setup = filled();
    let segment = newest(setup.data_dir());
    let middle = segment.frames.len() / 2;
    // Magic, checksum, length, kind, group, term, index, sequence numbers, salt, body: one bit each.
    let in_header = [0, 3, 5, 8, 11, 12, 14, 16, 24, 32, 40, 48];
    let flips = in_header.into_iter().chain([FRAME_HEADER_BYTES, segment.frames[middle].1 - 1]);
    for byte in flips {
        let position = segment.frames[middle].0;
        flip(&segment.path, position + byte);
        let exit = setup.run();
        assert_eq!(exit.code, Some(EXIT_CORRUPT), "a bit of byte {byte} of a frame flipped: {}", exit.log);
        assert!(exit.log.contains(&segment.name()), "{} is not named: {}", segment.name(), exit.log);
        assert!(exit.log.contains(&position.to_string()), "byte {position} is not named: {}", exit.log);
        flip(&segment.path, position + byte);
    }
    zero_middle(&segment, &setup);
    // All of that changed nothing: repaired by hand, the log is whole.
    let server = setup.start();
    assert_eq!(server.client().send(Request::get("/damage/s")).expect(200).text(), numbers(APPENDS));
}

#[test]
fn what_no_crash_leaves_behind_stops_the_server() {
    let damages: [(&str, Damage); 3] = [
        ("a flipped bit in the segment's header", |segment| flip(&segment.path, 20)),
        // Segments are made at their full length: one that is shorter has lost something.
        ("a segment that is too short", |segment| {
            let (position, _) = *segment.frames.last().expect("a frame");
            let file = fs::File::options().write(true).open(&segment.path).expect("the segment");
            file.set_len(position as u64 + 100).expect("a shorter segment");
        }),
        // A write that went to the wrong place, perhaps in the place of one that was acknowledged.
        ("a frame written a second time", |segment| {
            let frame = segment.bytes()[segment.frames[2].0..][..BLOCK].to_vec();
            write(&segment.path, segment.end(), &frame);
        }),
    ];
    for (name, damage) in damages {
        let setup = filled();
        let segment = newest(setup.data_dir());
        damage(&segment);
        let exit = setup.run();
        assert_eq!(exit.code, Some(EXIT_CORRUPT), "{name}: {}", exit.log);
        assert!(exit.log.contains(&segment.name()), "{name}: {} is not named: {}", segment.name(), exit.log);
    }
}

/// A whole block lost in the middle.
fn zero_middle(segment: &Segment, setup: &Setup) {
    let position = segment.frames[segment.frames.len() / 2].0;
    let before = segment.bytes()[position..][..BLOCK].to_vec();
    write(&segment.path, position, &[0; BLOCK]);
    let exit = setup.run();
    assert_eq!(exit.code, Some(EXIT_CORRUPT), "a block of zeros: {}", exit.log);
    write(&segment.path, position, &before);
}

/// A server's data directory after [`APPENDS`] appends, one durable write each, and `kill -9`.
fn filled() -> Setup {
    let mut setup = setup("1");
    let server = setup.start();
    let mut client = server.client();
    let _ = client.send(Request::put("/damage/s").header("Content-Type", "text/plain")).expect(201);
    for number in 0..APPENDS {
        let body = numbers(number + 1)[numbers(number).len()..].to_owned();
        let _ = client.send(Request::post("/damage/s").body("text/plain", body)).expect(204);
    }
    server.kill();
    setup
}

/// The stream after `count` appends, each longer than a disk's sector, so that a torn one is incomplete.
fn numbers(count: usize) -> String {
    (0..count).map(|number| format!("append number {number} {}\n", ".".repeat(700))).collect()
}

/// The segment written last.
fn newest(data_dir: &Path) -> Segment {
    let path = mixups::newest(data_dir, 0);
    let bytes = fs::read(&path).expect("the segment");
    let (mut frames, mut position) = (Vec::new(), BLOCK);
    while bytes.get(position..position + 4) == Some(FRAME_MAGIC) {
        let body = u32::from_le_bytes(*bytes[position + 8..].first_chunk().expect("within the header"));
        let length = FRAME_HEADER_BYTES + body as usize;
        frames.push((position, length));
        position += length.next_multiple_of(BLOCK);
    }
    assert!(frames.len() > APPENDS, "every append is a frame of its own: {} frames", frames.len());
    Segment { path, frames }
}

impl Segment {
    fn name(&self) -> String {
        self.path.file_name().expect("a file").to_string_lossy().into_owned()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("the segment")
    }

    /// Where the next frame would begin.
    fn end(&self) -> usize {
        let (position, length) = *self.frames.last().expect("a frame");
        position + length.next_multiple_of(BLOCK)
    }

    /// A frame that could follow the last one, but for its body, which the checksum does not fit.
    fn next_frame(&self) -> Vec<u8> {
        let (position, length) = *self.frames.last().expect("a frame");
        let mut frame = self.bytes()[position..][..length].to_vec();
        // Index, sequence number, the unit's first.
        for at in [24, 32, 40] {
            let number = u64::from_le_bytes(*frame[at..].first_chunk().expect("within the header"));
            frame[at..at + 8].copy_from_slice(&(number + 1).to_le_bytes());
        }
        frame
    }
}

fn write(path: &Path, position: usize, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(path).expect("the segment");
    file.write_all_at(bytes, position as u64).expect("the segment can be written");
}

fn flip(path: &Path, position: usize) {
    let byte = fs::read(path).expect("the segment")[position];
    write(path, position, &[byte ^ 1]);
}
