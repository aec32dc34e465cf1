//! What a log says when it is opened.
//!
//! Frames are read in order and must carry the sequence numbers 1 apart. Where the next one, `s`, is not found, the log
//! either ends or is damaged, and what comes later decides. A durable write happens only after the one before it has
//! succeeded, so:
//!
//! - A later valid frame of the segment whose unit began after `s` proves that the unit of `s` was durable: damage.
//! - So does a next segment whose first frame is beyond `s`.
//! - So does the log's [mark](crate::mark), when it knows of `s`: an end that is missing is not seen in any other way.
//! - Valid frames whose unit began at `s` or before belong to the same torn unit: it was never acknowledged, and is cut.
//! - Nothing valid: the log ends here, or its last unit was torn. The two cannot be told apart, and need not be.
//!
//! After a cut with remnants the log goes on in a new segment under a new salt, with sequence number `s` again: the
//! remnants are never overwritten in part, and never follow anything. Without remnants it goes on in the same segment;
//! bytes of a torn frame that has lost its header can only become valid again by being written again.
//!
//! Files behind the last segment that have no header are spares, ready for what comes. A header of another log or of
//! another number is never taken for one.
//!
//! Damage is reported with file and position and never repaired here. The order and completeness of each group's
//! entries, and the state frame that begins each segment, are checked as well. Nothing is changed before all is checked,
//! and nothing is believed that is not on stable storage: a process may have been killed between writing and syncing, or may
//! have ended because a sync failed. So the last unit is written once more, as it is, where a page cache is in between.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::block::{BLOCK_BYTES, padded};
use crate::chain::Found;
use crate::disk::{Disk, DiskFile, PARTIAL_SUFFIX};
use crate::error::WalError;
use crate::frame::{FRAME_HEADER_BYTES, FrameKind};
use crate::log::{BlockAddress, GroupLog};
use crate::mark::{Mark, MarkFile};
use crate::replay::{Logs, Replay};
use crate::segment::{Parsed, Segment, SegmentFile, SegmentHeader, Spare, number_in, segment_name};
use crate::snapshot::RECEIVED_SUFFIX;
use crate::window::{OVERLONG, TORN, Window};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The log as it was found.
pub(crate) struct Recovered {
    pub(crate) logs: Logs,
    pub(crate) chain: Found,
    pub(crate) mark: MarkFile,
    /// The frame that the mark knows of.
    pub(crate) marked_seq: u64,
    /// By number, behind the last segment's.
    pub(crate) spares: VecDeque<Spare>,
    /// The segment that the next spare is for.
    pub(crate) next_spare: u32,
}

/// Reads the log in `disk`, puts its spares in order, and makes no other change.
pub(crate) fn recover(disk: &dyn Disk, segment_bytes: u64) -> Result<Recovered, WalError> {
    let in_disk = |source| WalError::io("", source);
    // A name that a killed process has given may be in memory only.
    disk.sync().map_err(in_disk)?;
    let (mark_file, mark) = MarkFile::require(disk)?;
    let names = disk.list().map_err(in_disk)?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_in(name)).collect();
    numbers.sort_unstable();
    let mut recovery = Recovery::new(mark);
    for number in numbers {
        recovery.file(disk, number)?;
    }
    let (logs, chain, headless) = recovery.finish()?;
    let mut recovered =
        Recovered { logs, chain, mark: mark_file, marked_seq: mark.seq, spares: VecDeque::new(), next_spare: 0 };
    recovered.tidy(disk, &names, headless, segment_bytes)?;
    Ok(recovered)
}

impl Recovered {
    /// Takes up the spares and removes what a crash has left half made, or another configuration in another size.
    fn tidy(
        &mut self,
        disk: &dyn Disk,
        names: &[String],
        headless: Vec<Headless>,
        segment_bytes: u64,
    ) -> Result<(), WalError> {
        let is_left = |name: &&String| name.ends_with(PARTIAL_SUFFIX) || name.ends_with(RECEIVED_SUFFIX);
        for name in names.iter().filter(is_left) {
            disk.remove(name).map_err(|source| WalError::io(name, source))?;
        }
        self.next_spare = self.chain.segments.back().map_or(1, |last| last.number + 1);
        for Headless { number, mut file } in headless {
            let name = segment_name(number);
            let failed = |source| WalError::io(&name, source);
            if file.bytes() != segment_bytes {
                disk.remove(&name).map_err(failed)?;
                continue;
            }
            if number != self.next_spare {
                let next = segment_name(self.next_spare);
                disk.rename(&name, &next).map_err(failed)?;
                file = disk.open(&next).map_err(failed)?;
            }
            self.spares.push_back(Spare { number: self.next_spare, file });
            self.next_spare += 1;
        }
        Ok(())
    }
}

/// A file without a header.
struct Headless {
    number: u32,
    file: Arc<dyn DiskFile>,
}

struct Recovery {
    mark: Mark,
    replay: Replay,
    chain: Found,
    /// Files behind the last segment.
    headless: Vec<Headless>,
    /// Where the last segment ended, and why.
    last_end: Option<End>,
    /// Where its last unit begins.
    unit_position: u64,
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
    fn new(mark: Mark) -> Recovery {
        let chain = Found {
            log_id: mark.log_id,
            segments: VecDeque::new(),
            resume_at: None,
            next_seq: 1,
            end: BlockAddress::default(),
            anchor: 0,
        };
        Recovery {
            mark,
            replay: Replay::default(),
            chain,
            headless: Vec::new(),
            last_end: None,
            unit_position: 0,
            buf: Vec::new(),
        }
    }

    /// Reads one file, the next by number.
    fn file(&mut self, disk: &dyn Disk, number: u32) -> Result<(), WalError> {
        let name = segment_name(number);
        let failed = |source| WalError::io(&name, source);
        let file = disk.open(&name).map_err(failed)?;
        if file.bytes() < 2 * BLOCK || !file.bytes().is_multiple_of(BLOCK) {
            return Err(WalError::corrupt(&name, file.bytes(), "the file has lost its end"));
        }
        let mut window = Window::new(&*file, std::mem::take(&mut self.buf));
        let header = match SegmentHeader::parse(window.get(0, BLOCK_BYTES).map_err(failed)?) {
            Parsed::Header(header) => header,
            Parsed::OtherVersion(version) => {
                let reason = format!("segment format {version} is not known to this version");
                return Err(WalError::Format { file: name, reason });
            }
            Parsed::Nothing => {
                self.buf = window.into_buf();
                self.headless.push(Headless { number, file });
                return Ok(());
            }
        };
        self.check_header(&name, number, header, file.bytes())?;
        self.check_follows(&name, header)?;
        self.chain.next_seq = header.first_seq;
        let segment_file = SegmentFile { name: name.clone(), salt: header.salt, file: file.clone() };
        self.chain.segments.push_back(Segment {
            number,
            salt: header.salt,
            bytes: file.bytes(),
            file: Some(Arc::new(segment_file)),
            live: 0,
        });
        let end = self.frames(&mut window, header, &name)?;
        assert!(end.position >= BLOCK && end.position <= file.bytes(), "frames end in their segment");
        self.chain.end = BlockAddress::new(number, end.position);
        let can_resume = !end.has_remnants && end.position > BLOCK;
        self.chain.resume_at = can_resume.then_some(end.position);
        self.last_end = Some(end);
        self.buf = window.into_buf();
        Ok(())
    }

    /// Whether a file with this header is the segment that its name says, of this log, and the next one.
    fn check_header(&self, name: &str, number: u32, header: SegmentHeader, bytes: u64) -> Result<(), WalError> {
        if header.log_id != self.mark.log_id {
            let (found, expected) = (header.log_id, self.mark.log_id);
            let reason = format!("the segment is of the log {found:016x}, and {expected:016x} belongs here");
            return Err(WalError::foreign(name, 0, reason));
        }
        if header.number != number {
            let reason = format!("the file holds the segment {}", segment_name(header.number));
            return Err(WalError::foreign(name, 0, reason));
        }
        if bytes != header.bytes {
            let reason = format!("the file has {bytes} bytes, the segment {}", header.bytes);
            return Err(WalError::corrupt(name, bytes.min(header.bytes), reason));
        }
        if let Some(headless) = self.headless.first() {
            return Err(self.missing(headless.number));
        }
        if let Some(last) = self.chain.segments.back()
            && last.number + 1 != number
        {
            return Err(self.missing(last.number + 1));
        }
        Ok(())
    }

    /// A segment that was there.
    fn missing(&self, number: u32) -> WalError {
        let is_there = self.headless.iter().any(|headless| headless.number == number);
        let reason = if is_there { "the segment's header is damaged" } else { "the segment is missing" };
        WalError::corrupt(&segment_name(number), 0, reason)
    }

    /// Whether a segment that begins with `header` goes on where the one before it ended.
    fn check_follows(&self, name: &str, header: SegmentHeader) -> Result<(), WalError> {
        let Some(end) = &self.last_end else { return Ok(()) };
        let expected = self.chain.next_seq;
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
        // The header is part of the first unit.
        self.unit_position = 0;
        let reason = loop {
            if position == window.file.bytes() {
                break "the segment ends";
            }
            let header = match window.frame(position, segment.salt).map_err(failed)? {
                Ok(header) if header.seq == self.chain.next_seq => header,
                Ok(_) => break "another frame is in this place",
                Err(reason) => break reason,
            };
            if header.seq == header.unit_first_seq {
                self.unit_position = position;
            }
            if (position == BLOCK) != (header.kind == FrameKind::State) {
                return Err(WalError::corrupt(name, position, "a segment has one state frame, its first"));
            }
            let body = window.get(position, header.frame_bytes()).map_err(failed)?;
            let at = BlockAddress::new(segment.number, position);
            self.replay
                .apply(header, &body[FRAME_HEADER_BYTES..], at)
                .map_err(|reason| WalError::corrupt(name, position, reason))?;
            if header.kind == FrameKind::State {
                self.chain.anchor = segment.number;
            }
            self.chain.next_seq += 1;
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
                Ok(header) if header.unit_first_seq > self.chain.next_seq || header.seq < self.chain.next_seq => {
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

    /// Checks that nothing is missing at either end, and counts what each segment still holds.
    fn finish(mut self) -> Result<(Logs, Found, Vec<Headless>), WalError> {
        self.check_mark()?;
        let first = self.chain.segments.front().map_or(0, |segment| segment.number);
        let logs = self.replay.finish().map_err(|reason| WalError::corrupt(&segment_name(first), 0, reason))?;
        for entry in logs.values().flat_map(GroupLog::entries) {
            self.chain.segments[(entry.at.segment - first) as usize].live += 1;
        }
        if let Some(last) = self.chain.segments.back() {
            let file = last.file.as_ref().expect("what was found has a file");
            let unit = self.unit_position..self.chain.end.position();
            file.file.settle(unit).map_err(|source| WalError::io(&file.name, source))?;
        }
        Ok((logs, self.chain, self.headless))
    }

    /// Checks that the log goes as far as its mark says.
    fn check_mark(&self) -> Result<(), WalError> {
        let last = self.chain.segments.back().map_or(0, |segment| segment.number);
        if last < self.mark.segment {
            return Err(self.missing(last + 1));
        }
        let Some(end) = &self.last_end else { return Ok(()) };
        if self.chain.next_seq <= self.mark.seq {
            let reason = format!("{}, and the log's mark knows of frame {}", end.reason, self.mark.seq);
            return Err(WalError::corrupt(&end.file, end.position, reason));
        }
        Ok(())
    }
}
