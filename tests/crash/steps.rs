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

/// The logs of a node that runs, from some entry on.
pub(crate) struct Logs {
    folders: Vec<Folder>,
    /// All entries that were seen: the group that each is of, and its bytes.
    entries: Vec<(u16, Vec<u8>)>,
}

/// One log: where its next frame comes.
struct Folder {
    path: PathBuf,
    last_seq: u64,
    segment: u64,
    position: u64,
}

impl Logs {
    /// The logs of a data directory, with all that is in them.
    pub(crate) fn of(data_dir: &Path) -> Logs {
        let paths = (0..).map(|wal| data_dir.join(format!("wal-{wal}"))).take_while(|path| path.is_dir());
        let folders: Vec<Folder> = paths.map(|path| Folder { path, last_seq: 0, segment: 0, position: 0 }).collect();
        let mut logs = Logs { folders, entries: Vec::new() };
        logs.look();
        logs
    }

    /// Reads on, up to where the logs end now.
    pub(crate) fn look(&mut self) {
        for folder in &mut self.folders {
            self.entries.extend(std::iter::from_fn(|| folder.next()));
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
        let first = |folder: &Folder| folder.segments_by_name().into_keys().next().expect("a log has a file");
        self.folders.iter().map(first).collect()
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
    /// The group and the body of the next frame, if it is there.
    fn next(&mut self) -> Option<(u16, Vec<u8>)> {
        if self.segment == 0 {
            // The first one that there is.
            let first =
                self.segments().into_iter().find_map(|(number, file)| Some((number, Frame::read(&file, BLOCK)?)));
            let (number, frame) = first?;
            return Some(self.take(number, BLOCK, frame));
        }
        let here = File::open(self.file(self.segment)).ok().and_then(|file| Frame::read(&file, self.position));
        if let Some(frame) = here.filter(|frame| frame.seq == self.last_seq + 1) {
            return Some(self.take(self.segment, self.position, frame));
        }
        let (number, file) = self.segments().split_off(&(self.segment + 1)).into_iter().next()?;
        let frame = Frame::read(&file, BLOCK).filter(|frame| frame.seq == self.last_seq + 1)?;
        Some(self.take(number, BLOCK, frame))
    }

    fn take(&mut self, segment: u64, position: u64, Frame { seq, group, body }: Frame) -> (u16, Vec<u8>) {
        let bytes = (FRAME_HEADER_BYTES + body.len()) as u64;
        (self.segment, self.position, self.last_seq) = (segment, position + bytes.next_multiple_of(BLOCK), seq);
        (group, body)
    }

    fn file(&self, segment: u64) -> PathBuf {
        self.segments_by_name().remove(&segment).unwrap_or_default()
    }

    fn segments(&self) -> BTreeMap<u64, File> {
        let files = self.segments_by_name().into_iter();
        files.filter_map(|(number, path)| Some((number, File::open(path).ok()?))).collect()
    }

    fn segments_by_name(&self) -> BTreeMap<u64, PathBuf> {
        let files = fs::read_dir(&self.path).expect("a log's folder").flatten().map(|file| file.path());
        files.filter_map(|path| Some((number_of(&path)?, path))).collect()
    }
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
