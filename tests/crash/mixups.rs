//! Parts of a data directory that are lost, swapped, copied or older than they were: refused at once, by name.

use std::fs;
use std::path::{Path, PathBuf};

use weir_testkit::{Request, Setup};

use crate::setup;

const STREAMS: usize = 8;
const RECORD_BYTES: usize = 100_000;
const EXIT_UNUSABLE: i32 = 5;
const EXIT_DAMAGED: i32 = 6;

/// Does something to a data directory.
type Mixup = fn(&Path);

#[test]
fn a_mixed_up_data_directory_is_refused_by_name() {
    let (setup, _) = filled();
    let mixups: [(&str, Mixup, &[&str]); 9] = [
        ("all segments are gone", |data| segments(data, 1).iter().for_each(|s| remove(s)), &["wal-0000000001.seg"]),
        ("all files are gone", |data| empty(&data.join("wal-1")), &["wal-1", "mark at byte 0"]),
        ("two logs are swapped", swap_logs, &["wal-0", "mark at byte 8"]),
        ("one log is copied over another", |data| copy_files(data, 0, 1, "", true), &["wal-1", "mark at byte 8"]),
        (
            "only its segments are",
            |data| copy_files(data, 0, 1, "wal-", true),
            &["WAL 1", "wal-0000000001.seg at byte 0"],
        ),
        ("the newest segment is gone", |data| remove(&newest(data, 1)), &["WAL 1", "is missing", "at byte 0"]),
        ("it is full of zeros", zero_newest, &["WAL 1", "header is damaged", "at byte 0"]),
        ("it is an older one", older_over_newest, &["WAL 1", "holds the segment wal-0000000001.seg", "at byte 0"]),
        ("a mark is another log's", |data| copy_files(data, 0, 1, "mark", false), &["wal-1", "mark at byte 8"]),
    ];
    for (name, mixup, words) in mixups {
        check(&setup, name, mixup, EXIT_DAMAGED, words);
    }
}

#[test]
fn a_changed_node_file_is_refused() {
    let (setup, _) = filled();
    let changes: [(&str, Mixup); 4] = [
        ("another node", |data| change_line(data, "node_id", |line| line.replacen("= \"", "= \"1", 1))),
        ("another number of groups", |data| change_line(data, "groups", |_| "groups = 1".to_owned())),
        ("a log less", |data| {
            change_line(data, "wal_ids", |line| format!("{}]", line.split(',').next().expect("two logs")));
        }),
        ("logs in another order", |data| {
            change_line(data, "wal_ids", |line| {
                let ids: Vec<&str> = line.split('"').collect();
                format!("wal_ids = [\"{}\", \"{}\"]", ids[3], ids[1])
            });
        }),
    ];
    for (name, change) in changes {
        check(&setup, name, change, EXIT_UNUSABLE, &["node.toml"]);
    }
}

#[test]
fn an_older_copy_of_the_newest_segment_is_refused() {
    let (mut setup, _) = filled();
    let older = newest(setup.data_dir(), 1);
    let bytes = fs::read(&older).expect("a segment");
    // A clean end: whatever was written since is known to have been there.
    let server = setup.start();
    for stream in 0..STREAMS {
        let _ = server.client().send(Request::post(&target(stream)).body("text/plain", "newer")).expect(204);
    }
    assert_eq!(server.stop().code, Some(0));
    fs::write(&older, bytes).expect("the segment can be written");
    let exit = setup.run();
    assert_eq!(exit.code, Some(EXIT_DAMAGED), "{}", exit.log);
    let name = older.file_name().expect("a file").to_string_lossy().into_owned();
    assert!(exit.log.contains(&name) && exit.log.contains("mark knows of frame"), "{}", exit.log);
}

/// Mixes up a copy of the data directory, and asserts that the server refuses it, and that undone it is as it was.
fn check(setup: &Setup, name: &str, mixup: Mixup, code: i32, words: &[&str]) {
    let copy = setup.home().join("copy");
    let _ = fs::remove_dir_all(&copy);
    copy_folder(setup.data_dir(), &copy);
    mixup(&copy);
    let exit = setup.clone().data_dir_at(&copy).run();
    assert_eq!(exit.code, Some(code), "{name}: {}", exit.log);
    for word in words {
        assert!(exit.log.contains(word), "{name}: {word:?} is not named: {}", exit.log);
    }
}

/// Two logs with several segments each, after `kill -9`, and what is in each stream.
fn filled() -> (Setup, Vec<usize>) {
    let mut setup = setup("2");
    let server = setup.start();
    let mut client = server.client();
    let mut stored = vec![0; STREAMS];
    for stream in 0..STREAMS {
        let _ = client.send(Request::put(&target(stream)).header("Content-Type", "text/plain")).expect(201);
    }
    let is_spread = |data: &Path| (0..2).all(|wal| segments(data, wal).len() > 1);
    while !is_spread(setup.data_dir()) {
        for (stream, count) in stored.iter_mut().enumerate() {
            let record = "r".repeat(RECORD_BYTES);
            let _ = client.send(Request::post(&target(stream)).body("text/plain", record)).expect(204);
            *count += 1;
        }
    }
    server.kill();
    (setup, stored)
}

#[test]
fn what_is_not_mixed_up_starts() {
    let (mut setup, stored) = filled();
    let server = setup.start();
    for (stream, count) in stored.into_iter().enumerate() {
        assert_eq!(server.client().read_all(&target(stream)).len(), count * RECORD_BYTES);
    }
}

fn target(stream: usize) -> String {
    format!("/mixups/s{stream}")
}

/// The segments of a log that have anything in them, by number.
pub(crate) fn segments(data: &Path, wal: usize) -> Vec<PathBuf> {
    let mut segments: Vec<PathBuf> = files(&data.join(format!("wal-{wal}")))
        .into_iter()
        .filter(|path| name(path).starts_with("wal-") && name(path).ends_with(".seg"))
        .filter(|path| fs::read(path).expect("a segment").starts_with(b"WEIRSEG"))
        .collect();
    segments.sort();
    segments
}

pub(crate) fn newest(data: &Path, wal: usize) -> PathBuf {
    segments(data, wal).pop().expect("a segment")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("a file");
}

fn empty(folder: &Path) {
    files(folder).iter().for_each(|path| remove(path));
}

fn swap_logs(data: &Path) {
    for (from, to) in [("wal-0", "aside"), ("wal-1", "wal-0"), ("aside", "wal-1")] {
        fs::rename(data.join(from), data.join(to)).expect("a folder");
    }
}

/// Copies the files of one log whose names begin so over those of another, in place of them if `replace`.
fn copy_files(data: &Path, from: usize, to: usize, prefix: &str, replace: bool) {
    let (from, to) = (data.join(format!("wal-{from}")), data.join(format!("wal-{to}")));
    if replace {
        files(&to).iter().filter(|path| name(path).starts_with(prefix)).for_each(|path| remove(path));
    }
    for path in files(&from).iter().filter(|path| name(path).starts_with(prefix)) {
        fs::copy(path, to.join(name(path))).expect("a copy");
    }
}

fn zero_newest(data: &Path) {
    let newest = newest(data, 1);
    let bytes = fs::metadata(&newest).expect("a segment").len();
    fs::write(newest, vec![0; bytes as usize]).expect("zeros");
}

fn older_over_newest(data: &Path) {
    let segments = segments(data, 1);
    fs::copy(&segments[0], segments.last().expect("two")).expect("a copy");
}

fn change_line(data: &Path, key: &str, change: impl Fn(&str) -> String) {
    let path = data.join("node.toml");
    let text = fs::read_to_string(&path).expect("node.toml");
    let lines = text.lines().map(|line| if line.starts_with(key) { change(line) } else { line.to_owned() });
    let changed = lines.collect::<Vec<_>>().join("\n") + "\n";
    assert_ne!(changed, text, "{key} is changed");
    fs::write(path, changed).expect("node.toml can be written");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for path in files(from) {
        let copy = to.join(name(&path));
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("a copy");
        }
    }
}
