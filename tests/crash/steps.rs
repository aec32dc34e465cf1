//! Kill -9 at a step. What a step has done is an entry of a log, so the test looks into the logs' files: it lets a server run for a
//! moment at a time, and kills it as soon as the entry is there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weir_testkit::Server;

const BLOCK: u64 = 4096;
/// What a segment begins with. A file without it is one that is ready for what comes.
const SEGMENT_MAGIC: &[u8] = b"WEIRSEG\x02";
const SEGMENT_HEADER_BYTES: usize = 48;
const FRAME_MAGIC: &[u8] = b"WFR\x02";
const FRAME_HEADER_BYTES: usize = 56;

/// How long a server runs between two looks: less than a durable write takes.
const MOMENT: Duration = Duration::from_micros(200);
/// Until when a step must have come, in looks' time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The commands of forks and of what they come out of: their numbers are a part of the log's format.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Create = 1,
    Delete = 3,
    Pin = 49,
    PinSettle = 50,
    Unpin = 51,
    ForkDecide = 52,
}

/// What an entry of a log has in it.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A command about a stream, by `bucket/name`.
    Of(Kind, String),
    /// The command by which the group of a fork notes that its source knows; by the life of the fork, see [`Logs::life`].
    Released([u8; 8]),
}

impl Step {
    /// What the command begins with.
    fn pattern(&self) -> Vec<u8> {
        match self {
            Step::Of(kind, key) => {
                let bytes = u16::try_from(key.len()).expect("a short name").to_le_bytes();
                [&[*kind as u8], &bytes[..], key.as_bytes()].concat()
            }
            // The fork keeps no pin.
            Step::Released(life) => [&[53], &life[..], &[0]].concat(),
        }
    }
}

/// The logs of a node that runs, from some entry on. What a log gives back before it is read is not seen.
pub(crate) struct Logs {
    folders: Vec<Folder>,
    /// All entries that were seen: the group that each is of, and its bytes.
    entries: Vec<(u16, Vec<u8>)>,
}

/// One log: where its next frame comes.
struct Folder {
    path: PathBuf,
    next_seq: u64,
    /// The file of the frame before it, by number; 0 where nothing was read.
    segment: u64,
    position: u64,
}

impl Logs {
    /// The logs of a data directory, with all that is in them.
    pub(crate) fn of(data_dir: &Path) -> Logs {
        let paths = (0..).map(|wal| data_dir.join(format!("wal-{wal}"))).take_while(|path| path.is_dir());
        let folders: Vec<Folder> = paths.map(|path| Folder { path, next_seq: 0, segment: 0, position: 0 }).collect();
        let mut logs = Logs { folders, entries: Vec::new() };
        logs.look();
        logs
    }

    /// Reads on, up to where the logs end now.
    pub(crate) fn look(&mut self) {
        for folder in &mut self.folders {
            folder.read_on(&mut self.entries);
        }
    }

    /// Forgets what was seen.
    pub(crate) fn forget(&mut self) {
        self.entries.clear();
    }

    /// The group that has taken a step, if one has.
    pub(crate) fn find(&self, step: &Step) -> Option<u16> {
        let pattern = step.pattern();
        self.entries.iter().find(|(_, body)| position(body, &pattern).is_some()).map(|(group, _)| *group)
    }

    /// The last life that a stream was created with.
    pub(crate) fn life(&self, key: &str) -> Option<[u8; 8]> {
        let created = Step::Of(Kind::Create, key.to_owned()).pattern();
        self.entries.iter().rev().find_map(|(_, body)| {
            let at = position(body, &created)? + created.len();
            body.get(at..)?.first_chunk().copied()
        })
    }

    /// Each log's first file, by number.
    pub(crate) fn first_segments(&self) -> Vec<u64> {
        self.folders.iter().map(|folder| first_of(&folder.files())).collect()
    }

    /// The file of the last entry that was seen in each log, by number.
    pub(crate) fn last_segments(&self) -> Vec<u64> {
        self.folders.iter().map(|folder| folder.segment).collect()
    }

    /// Lets a server run until one of these steps is new there or `is_over` says so, and kills it then. Returns the step.
    #[track_caller]
    pub(crate) fn kill_at(&mut self, server: Server, steps: &[Step], is_over: impl Fn() -> bool) -> Option<Step> {
        let patterns: Vec<Vec<u8>> = steps.iter().map(Step::pattern).collect();
        let begun = Instant::now();
        let found = loop {
            server.signal(Signal::STOP);
            let before = self.entries.len();
            self.look();
            let is_new =
                |pattern: &Vec<u8>| self.entries[before..].iter().any(|(_, body)| position(body, pattern).is_some());
            let found = patterns.iter().position(is_new);
            if found.is_some() || is_over() {
                break found;
            }
            assert!(begun.elapsed() < PATIENCE, "none of {steps:?} has come");
            server.signal(Signal::CONT);
            thread::sleep(MOMENT);
        };
        server.kill();
        self.look();
        found.map(|step| steps[step].clone())
    }
}

impl Folder {
    /// Reads all frames that follow: the group and the body of each.
    fn read_on(&mut self, entries: &mut Vec<(u16, Vec<u8>)>) {
        loop {
            let files = self.files();
            self.read_files(&files, entries);
            // A file that was given back while it was looked for looks like the log's end.
            if first_of(&self.files()) == first_of(&files) {
                return;
            }
        }
    }

    fn read_files(&mut self, files: &BTreeMap<u64, PathBuf>, entries: &mut Vec<(u16, Vec<u8>)>) {
        // Where the log has given back the file of the last frame, it goes on with the first one that it has.
        let mut is_behind = !files.contains_key(&self.segment);
        for (&number, path) in files.range(self.segment..) {
            let Some((file, first_seq)) = open(path) else { return };
            if is_behind {
                (self.next_seq, is_behind) = (first_seq, false);
            }
            // A kill may leave a file that has no whole frame, or no more. The log goes on in the next one then.
            let mut position = if number == self.segment { self.position } else { BLOCK };
            while let Some(frame) = Frame::read(&file, position).filter(|frame| frame.seq == self.next_seq) {
                let bytes = (FRAME_HEADER_BYTES + frame.body.len()) as u64;
                position += bytes.next_multiple_of(BLOCK);
                (self.segment, self.position, self.next_seq) = (number, position, frame.seq + 1);
                entries.push((frame.group, frame.body));
            }
        }
    }

    /// The files by number, also those that are ready for what comes.
    fn files(&self) -> BTreeMap<u64, PathBuf> {
        let files = fs::read_dir(&self.path).expect("a log's folder").flatten().map(|file| file.path());
        files.filter_map(|path| Some((number_of(&path)?, path))).collect()
    }
}

/// The number of a log's first file.
fn first_of(files: &BTreeMap<u64, PathBuf>) -> u64 {
    *files.keys().next().expect("a log has a file")
}

/// A segment, and the sequence number of its first frame; `None` where nothing was written yet.
fn open(path: &Path) -> Option<(File, u64)> {
    let file = File::open(path).ok()?;
    let mut header = [0; SEGMENT_HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    let first_seq = u64::from_le_bytes(*header[24..].first_chunk().expect("within the header"));
    header.starts_with(SEGMENT_MAGIC).then_some((file, first_seq))
}

/// The number of a segment's file.
fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("wal-")?.strip_suffix(".seg")?.parse().ok()
}

/// A whole frame.
struct Frame {
    seq: u64,
    group: u16,
    body: Vec<u8>,
}

impl Frame {
    /// The frame at `position`, if there is one.
    fn read(file: &File, position: u64) -> Option<Frame> {
        let mut header = [0; FRAME_HEADER_BYTES];
        file.read_exact_at(&mut header, position).ok()?;
        if !header.starts_with(FRAME_MAGIC) {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes(*header[at..].first_chunk().expect("within the header"));
        let mut body = vec![0; word(8) as usize];
        file.read_exact_at(&mut body, position + FRAME_HEADER_BYTES as u64).ok()?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&header[8..]), &body);
        let group = u16::from_le_bytes(*header[14..].first_chunk().expect("within the header"));
        let seq = u64::from_le_bytes(*header[32..].first_chunk().expect("within the header"));
        (sum == word(4)).then_some(Frame { seq, group, body })
    }
}

fn position(body: &[u8], pattern: &[u8]) -> Option<usize> {
    body.windows(pattern.len()).position(|window| window == pattern)
}
