//! What a log says when it is opened.
//!
//! Frames are read in order and must carry the sequence numbers 1 apart. Where the next one, `s`, is not found, the log
//! either ends or is damaged, and what comes later decides. A durable write happens only after the one before it has
//! succeeded, so:
//!
//! - A later valid frame of the segment whose unit began after `s` proves that the unit of `s` was durable: damage.
//! - So does a next segment whose first frame is beyond `s`.
//! - Valid frames whose unit began at `s` or before belong to the same torn unit: it was never acknowledged, and is cut.
//! - Nothing valid: the log ends here, or its last unit was torn. The two cannot be told apart, and need not be.
//!
//! After a cut with remnants the log goes on in a new segment under a new salt, with sequence number `s` again: the
//! remnants are never overwritten in part, and never follow anything. Without remnants it goes on in the same segment;
//! bytes of a torn frame that has lost its header can only become valid again by being written again.
//!
//! Damage is reported with file and position and never repaired here. The order and completeness of each group's
//! entries, and the state frame that begins each segment, are checked as well.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use weir_types::GroupId;

use crate::BLOCK_BYTES;
use crate::arena::padded;
use crate::disk::{Disk, DiskFile, PARTIAL_SUFFIX};
use crate::entry::EntryId;
use crate::error::WalError;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::log::{BlockAddress, GroupLog, Slot};
use crate::segment::{Parsed, Segment, SegmentFile, SegmentHeader, number_in, segment_name, spare_name};
use crate::spares::Spare;
use crate::state;

/// Bytes that are read at a time.
const WINDOW_BYTES: usize = 1 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// The log as it was found.
pub(crate) struct Recovered {
    pub(crate) logs: BTreeMap<GroupId, GroupLog>,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) spares: VecDeque<Spare>,
    /// Greater than the number of any spare.
    pub(crate) next_spare: u32,
    /// The number that the next frame gets.
    pub(crate) next_seq: u64,
    /// Where the next frame goes in the last segment; `None` when it needs a new one.
    pub(crate) resume_at: Option<u64>,
    /// The end of what was found.
    pub(crate) end: BlockAddress,
    /// The last segment that has its state frame, so that all before it can go once their entries are dead.
    pub(crate) anchor: u32,
}

/// Reads the log in `disk`, puts aside what is no part of it, and makes no other change.
pub(crate) fn recover(disk: &dyn Disk, segment_bytes: u64) -> Result<Recovered, WalError> {
    let names = disk.list().map_err(|source| WalError::io("", source))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_in(name, "wal-")).collect();
    numbers.sort_unstable();
    let next_spare = names.iter().filter_map(|name| number_in(name, "spare-")).max().map_or(1, |number| number + 1);
    let mut recovery = Recovery::new(next_spare);
    for (i, &number) in numbers.iter().enumerate() {
        if i > 0 && numbers[i - 1] + 1 != number {
            let missing = segment_name(numbers[i - 1] + 1);
            return Err(WalError::corrupt(&missing, 0, "the segment is missing"));
        }
        recovery.segment(disk, number, i + 1 == numbers.len(), segment_bytes)?;
    }
    recovery.tidy(disk, &names, segment_bytes)?;
    recovery.finish()
}

struct Recovery {
    found: Recovered,
    /// Entries that the first segment's state frame knows of and that were in segments before it: all purged, or lost.
    unseen: BTreeMap<GroupId, Range<u64>>,
    /// Where the last segment ended, and why.
    last_end: Option<End>,
    buf: Vec<u8>,
}

/// Where a segment's frames end.
struct End {
    file: String,
    position: u64,
    reason: &'static str,
    has_remnants: bool,
}

impl Recovery {
    fn new(next_spare: u32) -> Recovery {
        let found = Recovered {
            logs: BTreeMap::new(),
            segments: VecDeque::new(),
            spares: VecDeque::new(),
            next_spare,
            next_seq: 1,
            resume_at: None,
            end: BlockAddress::default(),
            anchor: 0,
        };
        Recovery { found, unseen: BTreeMap::new(), last_end: None, buf: Vec::new() }
    }

    /// Reads one segment, the next by number.
    fn segment(&mut self, disk: &dyn Disk, number: u32, is_last: bool, segment_bytes: u64) -> Result<(), WalError> {
        let name = segment_name(number);
        let failed = |source| WalError::io(&name, source);
        let file = disk.open(&name).map_err(failed)?;
        if file.bytes() < 2 * BLOCK || !file.bytes().is_multiple_of(BLOCK) {
            return Err(WalError::corrupt(&name, file.bytes(), "the file has lost its end"));
        }
        let mut buf = std::mem::take(&mut self.buf);
        buf.clear();
        let mut window = Window { file: &*file, buf, start: 0 };
        let header = match SegmentHeader::parse(window.get(0, BLOCK_BYTES).map_err(failed)?) {
            Parsed::Header(header) if header.number == number => header,
            Parsed::OtherVersion(version) => {
                let reason = format!("segment format {version} is not known to this version");
                return Err(WalError::Format { file: name, reason });
            }
            Parsed::Header(_) | Parsed::Nothing => {
                let is_unused = is_last && !proves_more(&mut window, self.found.next_seq).map_err(failed)?;
                self.buf = window.buf;
                return if is_unused {
                    self.set_aside(disk, &name, file.bytes() == segment_bytes)
                } else {
                    Err(WalError::corrupt(&name, 0, "the segment's header is damaged"))
                };
            }
        };
        if file.bytes() != header.bytes {
            let reason = format!("the file has {} bytes, the segment {}", file.bytes(), header.bytes);
            return Err(WalError::corrupt(&name, file.bytes().min(header.bytes), reason));
        }
        self.check_follows(&name, header)?;
        self.found.next_seq = header.first_seq;
        let segment_file = SegmentFile { name: name.clone(), salt: header.salt, file: file.clone() };
        self.found.segments.push_back(Segment {
            number,
            salt: header.salt,
            bytes: file.bytes(),
            file: Some(Arc::new(segment_file)),
            live: 0,
        });
        let end = self.frames(&mut window, header, &name)?;
        self.found.end = BlockAddress::new(number, end.position);
        let can_resume = !end.has_remnants && end.position > BLOCK;
        self.found.resume_at = can_resume.then_some(end.position);
        self.last_end = Some(end);
        self.buf = window.buf;
        Ok(())
    }

    /// Whether a segment that begins with `header` goes on where the one before it ended.
    fn check_follows(&self, name: &str, header: SegmentHeader) -> Result<(), WalError> {
        let Some(end) = &self.last_end else { return Ok(()) };
        let expected = self.found.next_seq;
        if header.first_seq > expected {
            return Err(WalError::corrupt(&end.file, end.position, end.reason));
        }
        if header.first_seq < expected {
            let reason = format!("begins with frame {}, {expected} was expected", header.first_seq);
            return Err(WalError::corrupt(name, 0, reason));
        }
        Ok(())
    }

    /// Reads the frames of a segment, and looks beyond their end.
    fn frames(&mut self, window: &mut Window<'_>, segment: SegmentHeader, name: &str) -> Result<End, WalError> {
        let failed = |source| WalError::io(name, source);
        let mut position = BLOCK;
        let reason = loop {
            if position == window.file.bytes() {
                break "the segment ends";
            }
            let header = match window.frame(position, segment.salt).map_err(failed)? {
                Ok(header) if header.seq == self.found.next_seq => header,
                Ok(_) => break "another frame is in this place",
                Err(reason) => break reason,
            };
            if (position == BLOCK) != (header.kind == FrameKind::State) {
                return Err(WalError::corrupt(name, position, "a segment has one state frame, its first"));
            }
            let body = window.get(position, header.frame_bytes()).map_err(failed)?;
            let at = BlockAddress::new(segment.number, position);
            self.apply(header, &body[FRAME_HEADER_BYTES..], at)
                .map_err(|reason| WalError::corrupt(name, position, reason))?;
            self.found.next_seq += 1;
            position += padded(header.frame_bytes()) as u64;
        };
        let has_remnants = self.look_on(window, segment.salt, position, name, reason)?;
        Ok(End { file: name.to_string(), position, reason, has_remnants })
    }

    /// Looks for frames of this segment from `end` on, where the next one was not found: damage when they prove that it
    /// was durable, remnants of a torn unit otherwise.
    fn look_on(
        &self,
        window: &mut Window<'_>,
        salt: u64,
        end: u64,
        name: &str,
        reason: &'static str,
    ) -> Result<bool, WalError> {
        let mut has_remnants = false;
        let mut position = end;
        while position < window.file.bytes() {
            let frame = window.frame(position, salt).map_err(|source| WalError::io(name, source))?;
            position += match frame {
                Ok(header) if header.unit_first_seq > self.found.next_seq || header.seq < self.found.next_seq => {
                    return Err(WalError::corrupt(name, end, reason));
                }
                Ok(header) => {
                    has_remnants = true;
                    padded(header.frame_bytes()) as u64
                }
                Err(reason) => {
                    // A header of this life without its body must not stay under frames to come either.
                    has_remnants |= reason == TORN || reason == OVERLONG;
                    BLOCK
                }
            };
        }
        Ok(has_remnants)
    }

    /// Carries out one frame; the error says what does not follow from the frames before it.
    fn apply(&mut self, header: FrameHeader, body: &[u8], at: BlockAddress) -> Result<(), String> {
        if header.kind == FrameKind::State {
            return self.apply_state(body, at);
        }
        let unseen = self.unseen.get_mut(&header.group);
        let log = self.found.logs.entry(header.group).or_default();
        match header.kind {
            FrameKind::Entry => {
                let is_first = log.is_unbegun() && unseen.is_none_or(|unseen| unseen.is_empty());
                if header.index != log.next() && !is_first {
                    let (found, expected) = (header.index, log.next());
                    let group = header.group;
                    return Err(format!("entry {found} of group {group} is where {expected} was expected"));
                }
                let slot = Slot { term: header.term, at, body_bytes: header.body_bytes, kind: header.entry_kind };
                log.push(header.index, slot, None);
            }
            FrameKind::Vote => log.vote = Some(Bytes::copy_from_slice(body)),
            FrameKind::Truncate => {
                log.truncate(header.index);
                if let Some(unseen) = unseen {
                    unseen.end = unseen.end.min(header.index);
                }
            }
            FrameKind::Purge => {
                log.purge(EntryId { index: header.index, term: header.term });
                if let Some(unseen) = unseen {
                    unseen.start = unseen.start.max(header.index + 1);
                }
            }
            FrameKind::State => unreachable!("returned above"),
        }
        if let Some(committed) = header.committed {
            log.note_committed(committed);
        }
        Ok(())
    }

    /// The first state frame is where the log begins; later ones must say what is known already.
    fn apply_state(&mut self, body: &[u8], at: BlockAddress) -> Result<(), String> {
        let states = state::decode(body).ok_or("not a state frame of this version")?;
        // Not always the first segment's: one may be left that was torn before it had a state frame.
        let is_start = self.found.anchor == 0;
        let groups = states.len();
        for state in states {
            if is_start {
                self.unseen.insert(state.group, state.first..state.next);
                self.found.logs.insert(state.group, GroupLog::from_state(state));
                continue;
            }
            let log = self.found.logs.entry(state.group).or_default();
            if (log.next(), log.purged(), &log.vote) != (state.next, state.purged, &state.vote) {
                let found = log.state(state.group);
                return Err(format!("the state does not follow from the log before it: {state:?} after {found:?}"));
            }
            log.committed = log.committed.max(state.committed);
        }
        if self.found.logs.len() != groups {
            return Err("the state frame lacks a group that the log before it has".to_string());
        }
        self.found.anchor = at.segment;
        Ok(())
    }

    /// Puts a segment that was taken and never written back among the spares.
    fn set_aside(&mut self, disk: &dyn Disk, name: &str, is_usable: bool) -> Result<(), WalError> {
        let failed = |source| WalError::io(name, source);
        if !is_usable {
            return disk.remove(name).map_err(failed);
        }
        let spare = spare_name(self.found.next_spare);
        self.found.next_spare += 1;
        disk.rename(name, &spare).map_err(failed)?;
        let file = disk.open(&spare).map_err(failed)?;
        self.found.spares.push_back(Spare { name: spare, file });
        Ok(())
    }

    /// Takes up the spares and removes what a crash has left half made, or another configuration in another size.
    fn tidy(&mut self, disk: &dyn Disk, names: &[String], segment_bytes: u64) -> Result<(), WalError> {
        for name in names {
            let failed = |source| WalError::io(name, source);
            if name.ends_with(PARTIAL_SUFFIX) {
                disk.remove(name).map_err(failed)?;
            } else if number_in(name, "spare-").is_some() {
                let file = disk.open(name).map_err(failed)?;
                if file.bytes() == segment_bytes {
                    self.found.spares.push_back(Spare { name: name.clone(), file });
                } else {
                    disk.remove(name).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// Checks that nothing is missing at the front, and counts what each segment still holds.
    fn finish(mut self) -> Result<Recovered, WalError> {
        for (group, unseen) in &self.unseen {
            if !unseen.is_empty() {
                let first = self.found.segments.front().map_or(0, |segment| segment.number);
                let reason = format!(
                    "entries {} to {} of group {group} were before it and are gone",
                    unseen.start,
                    unseen.end - 1
                );
                return Err(WalError::corrupt(&segment_name(first), 0, reason));
            }
        }
        let first = self.found.segments.front().map_or(0, |segment| segment.number);
        for slot in self.found.logs.values().flat_map(GroupLog::slots) {
            self.found.segments[(slot.at.segment - first) as usize].live += 1;
        }
        Ok(self.found)
    }
}

/// Whether a segment with an unreadable header has frames that only a header that was once durable explains. Frames of
/// the file's earlier lives have lower numbers, and so has any unit that was cut before.
fn proves_more(window: &mut Window<'_>, next_seq: u64) -> io::Result<bool> {
    let mut position = BLOCK;
    while position < window.file.bytes() {
        let salt = FrameHeader::parse(window.get(position, BLOCK_BYTES)?).map(|header| header.salt);
        if let Some(salt) = salt
            && let Ok(header) = window.frame(position, salt)?
            && header.unit_first_seq > next_seq
        {
            return Ok(true);
        }
        position += BLOCK;
    }
    Ok(false)
}

const TORN: &str = "the frame's checksum does not fit its bytes";
const OVERLONG: &str = "the frame is longer than its segment";

/// Reads a file front to back with few calls; nothing is allocated per frame.
struct Window<'a> {
    file: &'a dyn DiskFile,
    buf: Vec<u8>,
    /// Where in the file `buf` begins.
    start: u64,
}

impl Window<'_> {
    /// `bytes` bytes from `position` on, within the file.
    fn get(&mut self, position: u64, bytes: usize) -> io::Result<&[u8]> {
        let is_held = position >= self.start && position + bytes as u64 <= self.start + self.buf.len() as u64;
        if !is_held {
            let rest = self.file.bytes() - position;
            self.buf.resize(rest.min(WINDOW_BYTES.max(bytes) as u64) as usize, 0);
            self.start = position;
            self.file.read_at(position, &mut self.buf)?;
        }
        let from = (position - self.start) as usize;
        Ok(&self.buf[from..from + bytes])
    }

    /// The frame at `position`, checked to be whole and of this `salt`; or why there is none.
    fn frame(&mut self, position: u64, salt: u64) -> io::Result<Result<FrameHeader, &'static str>> {
        let rest = self.file.bytes() - position;
        let Some(header) = FrameHeader::parse(self.get(position, FRAME_HEADER_BYTES)?) else {
            return Ok(Err("no frame begins here"));
        };
        if header.salt != salt {
            return Ok(Err("the frame is not of this segment"));
        }
        if header.frame_bytes() as u64 > rest {
            return Ok(Err(OVERLONG));
        }
        let frame = self.get(position, header.frame_bytes())?;
        Ok(if FrameHeader::is_intact(frame) { Ok(header) } else { Err(TORN) })
    }
}
