//! Single bits that change on the disk while a node is down: in its log, its snapshots and its chunks. Each is found, or changes
//! nothing; no wrong byte is served, and `weir cold check` finds those in chunks.
//!
//! `WEIR_TEST_FLIPS` says how many, for a campaign.

use std::fs;
use std::path::{Path, PathBuf};

use weir_testkit::{Request, Server, Setup, metric, wait_until};

use crate::MOVES_WITHIN;
use crate::checks::check;
use crate::large::Random;

/// How many, if nobody says.
const FLIPS: u64 = 150;
const EXIT_CORRUPT: i32 = 6;
const EXIT_DAMAGED: i32 = 8;
const BLOCK_BYTES: usize = 4096;
const STREAMS: usize = 3;
/// Records of each stream that are in the cold tier, and then of those that are in the log.
const COLD: usize = 40;
const HOT: usize = 20;

/// What became of them.
#[derive(Debug, Default)]
struct Found {
    /// By a server that did not start.
    at_start: u64,
    /// By readers who were told so.
    by_readers: u64,
    /// By the check alone.
    by_check: u64,
    harmless: u64,
}

fn target(stream: usize) -> String {
    format!("/flips/s{stream}")
}

fn record(stream: usize, number: usize) -> String {
    format!("{stream}-{number} {}\n", "abcdefgh".repeat(20 + 50 * (number % 7)))
}

fn content(stream: usize) -> String {
    (0..COLD + HOT).map(|number| record(stream, number)).collect()
}

fn append(server: &Server, numbers: std::ops::Range<usize>) {
    let mut client = server.client();
    for number in numbers {
        for stream in 0..STREAMS {
            let _ = client.send(Request::post(&target(stream)).body("text/plain", record(stream, number))).expect(204);
        }
    }
}

/// A server whose bytes are in all three places.
fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir"))
        .args(&["--shards", "1"])
        .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 17)
        .env("WEIR_WAL_SEGMENT_BYTES", 2 << 20)
}

/// The files of a data directory in which a bit may change: of the logs, snapshots, and chunks.
fn files(data_dir: &Path) -> [Vec<PathBuf>; 3] {
    let mut files: [Vec<PathBuf>; 3] = Default::default();
    let mut dirs = vec![data_dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a folder").flatten() {
            let path = entry.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => dirs.push(path),
                // Some are made ready for later.
                Some("seg") if fs::read(&path).is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0)) => {
                    files[0].push(path)
                }
                Some("snapshot") => files[1].push(path),
                Some("chunk") => files[2].push(path),
                _ => {}
            }
        }
    }
    files.iter_mut().for_each(|files| files.sort());
    assert!(files.iter().all(|files| !files.is_empty()), "{files:?}");
    files
}

/// Changes a bit of a block that has something in it.
fn flip(path: &Path, random: &mut Random) -> u64 {
    let mut bytes = fs::read(path).expect("it is there");
    loop {
        let at = random.next() as usize % bytes.len();
        let block = at / BLOCK_BYTES * BLOCK_BYTES;
        if bytes[block..bytes.len().min(block + BLOCK_BYTES)].iter().any(|byte| *byte != 0) {
            bytes[at] ^= 1 << (random.next() % 8);
            fs::write(path, bytes).expect("it is written");
            return at as u64;
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("it is copied");
        }
    }
}

/// Reads a stream; false when a reader is told of damage. What comes before is right.
fn is_served(server: &Server, stream: usize, what: &str) -> bool {
    let (content, mut client) = (content(stream), server.client());
    let (mut offset, mut read) = ("-1".to_owned(), 0);
    loop {
        let page = client.send(Request::get(&format!("{}?offset={offset}", target(stream))));
        if page.status >= 500 {
            assert!(!page.code().is_empty(), "{what}: {page:?}");
            return false;
        }
        let page = page.expect(200);
        assert!(
            content.as_bytes()[read..].starts_with(&page.body),
            "{what}: other bytes of stream {stream} are served"
        );
        read += page.body.len();
        assert!(!page.body.is_empty() || page.header("stream-up-to-date").is_some(), "{what}: it does not go on");
        if page.header("stream-up-to-date").is_some() {
            assert_eq!(read, content.len(), "{what}: stream {stream} is shorter");
            return true;
        }
        offset = page.next_offset().to_owned();
    }
}

#[test]
fn a_flipped_bit_is_found_or_changes_nothing() {
    let mut whole = setup().env("WEIR_COLD_FLUSH_AGE_MS", 200);
    let server = whole.start();
    for stream in 0..STREAMS {
        let _ = server.client().send(Request::put(&target(stream)).header("Content-Type", "text/plain")).expect(201);
    }
    append(&server, 0..COLD);
    wait_until("all is in the cold tier", MOVES_WITHIN, || metric(&server, "weir_hot_bytes") == 0.0);
    wait_until("there are snapshots", MOVES_WITHIN, || metric(&server, "weir_snapshots_total") > 0.0);
    assert_eq!(server.stop().code, Some(0));
    // What follows stays in the log.
    let mut later = setup().data_dir_at(whole.data_dir());
    let server = later.start();
    append(&server, COLD..COLD + HOT);
    assert_eq!(server.stop().code, Some(0));

    let flips = std::env::var("WEIR_TEST_FLIPS").map_or(FLIPS, |flips| flips.parse().expect("a number"));
    let (mut random, mut found) = (Random(1), Found::default());
    for number in 0..flips {
        let mut damaged = setup();
        copy(whole.data_dir(), damaged.data_dir());
        let files = &files(damaged.data_dir())[number as usize % 3];
        let file = &files[random.next() as usize % files.len()];
        let is_chunk = file.extension().is_some_and(|extension| extension == "chunk");
        let at = flip(file, &mut random);
        let what = format!("a bit of byte {at} of {}", file.file_name().expect("a file").to_string_lossy());
        let server = match damaged.try_start() {
            Ok(server) => server,
            Err(exit) => {
                assert_eq!(exit.code, Some(EXIT_CORRUPT), "{what}: {exit:?}");
                assert!(!is_chunk, "{what}: {exit:?}");
                found.at_start += 1;
                continue;
            }
        };
        let served = (0..STREAMS).filter(|stream| is_served(&server, *stream, &what)).count();
        let checked = check(&server, &[]).status.code();
        assert_eq!(checked, Some(if is_chunk { EXIT_DAMAGED } else { 0 }), "{what}");
        match (served == STREAMS, is_chunk) {
            (false, _) => found.by_readers += 1,
            (true, true) => found.by_check += 1,
            (true, false) => found.harmless += 1,
        }
        server.kill();
    }
    println!("{flips} flipped bits: {found:?}");
    assert!(found.at_start > 0 && found.by_readers > 0, "{found:?}");
}
