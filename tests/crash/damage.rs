//! Bytes changed on disk while the server is down.
//!
//! The log's layout is known here only as far as the damage needs it: segments `wal-<k>/wal-<number>.seg`, a header
//! block, then frames at blocks of 4 KiB, each with its magic and the length of its body (`runtime/storage/src/frame.rs`).

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use weir_testkit::{Request, Setup};

use crate::setup;

const BLOCK: usize = 4096;
const FRAME_MAGIC: &[u8] = b"WFR\x01";
const FRAME_HEADER_BYTES: usize = 64;
const APPENDS: usize = 30;
const EXIT_CORRUPT: i32 = 6;

/// A segment and its frames: where each begins and how long it is without padding.
struct Segment {
    path: PathBuf,
    frames: Vec<(usize, usize)>,
}

/// Does something to the last frame of a segment.
type Tear = fn(&Segment);

/// What a write that never completed may have left behind the last frame.
type Remnant = fn(&Segment) -> Vec<u8>;

#[test]
fn a_torn_last_unit_is_cut() {
    let tears: [(&str, Tear); 4] = [
        ("zeros", |segment| segment.overwrite_last(0, |_| 0)),
        ("garbage", |segment| segment.overwrite_last(0, |i| (i * 31 + 7) as u8)),
        ("only the header is there", |segment| segment.overwrite_last(FRAME_HEADER_BYTES, |_| 0)),
        ("only the body is there", |segment| {
            let (position, _) = *segment.frames.last().expect("a frame");
            write(&segment.path, position, &[0; FRAME_HEADER_BYTES]);
        }),
    ];
    for (name, tear) in tears {
        let mut setup = filled();
        tear(&newest(setup.data_dir()));
        let server = setup.start();
        let stored = server.client().send(Request::get("/damage/s")).expect(200).text();
        // What was in the last write, an append or only a note of the server's own, was not known to be durable.
        assert!(stored == numbers(APPENDS) || stored == numbers(APPENDS - 1), "{name}: {stored}");
        // The log goes on behind the cut, and holds.
        let _ = server.client().send(Request::post("/damage/s").body("text/plain", "after\n")).expect(204);
        server.kill();
        let server = setup.start();
        assert_eq!(server.client().send(Request::get("/damage/s")).expect(200).text(), stored + "after\n", "{name}");
    }
}

#[test]
fn a_write_that_never_completed_leaves_nothing() {
    let remnants: [(&str, Remnant); 2] = [
        ("garbage", |_| (0..3 * BLOCK).map(|i| (i % 251) as u8).collect()),
        ("the first sector of an old frame", |segment| {
            segment.bytes()[segment.frames[APPENDS / 2].0..][..512].to_vec()
        }),
    ];
    for (name, remnant) in remnants {
        let mut setup = filled();
        let segment = newest(setup.data_dir());
        let bytes = remnant(&segment);
        write(&segment.path, segment.end(), &bytes);
        let server = setup.start();
        assert_eq!(server.client().send(Request::get("/damage/s")).expect(200).text(), numbers(APPENDS), "{name}");
    }
}

#[test]
fn damage_below_the_last_unit_stops_the_server() {
    let mut setup = filled();
    let segment = newest(setup.data_dir());
    let middle = segment.frames.len() / 2;
    // Magic, checksum, length, kind, group, term, index, sequence numbers, salt, committed index, body: one bit each.
    let in_header = [0, 3, 5, 8, 11, 12, 14, 16, 24, 32, 40, 48, 56];
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
    let damages: [(&str, Tear); 3] = [
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
    let names = fs::read_dir(data_dir.join("wal-0")).expect("the log's folder").map(|entry| entry.expect("an entry"));
    let segments = names
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-")));
    let path = segments.max().expect("a segment");
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

    /// Overwrites the last frame from its byte `from` on.
    fn overwrite_last(&self, from: usize, byte: impl Fn(usize) -> u8) {
        let (position, _) = *self.frames.last().expect("a frame");
        let bytes: Vec<u8> = (from..self.end() - position).map(byte).collect();
        write(&self.path, position + from, &bytes);
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
