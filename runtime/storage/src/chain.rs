//! The segments of a log, and the frames on their way to them, in one order.
//!
//! A frame gets its place when it is put in, and with it everything that its header says: [`Chain::begin_segment`] begins
//! segments whose files may come later. The writer takes whole units from the front.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use weir_types::GroupId;

use crate::block::BLOCK_BYTES;
use crate::entry::{Claim, Done, EntryId, Salts};
use crate::frame::{FrameHeader, FrameKind};
use crate::log::{BlockAddress, Deaths};
use crate::mark::Mark;
use crate::segment::{Segment, SegmentFile, SegmentHeader, Spare, segment_name};

/// Frames that are written together.
pub(crate) struct Unit {
    pub(crate) segment: u32,
    /// Where it begins in its segment, in bytes.
    pub(crate) position: u64,
    pub(crate) bytes: u64,
    /// Its blocks: the segment's header when it is the first, then whole frames.
    pub(crate) parts: Vec<Bytes>,
    first_seq: u64,
    /// One more than the number of its last frame.
    next_seq: u64,
    pub(crate) dones: Vec<Done>,
    /// What is dead once the unit is durable.
    pub(crate) deaths: Deaths,
    /// Whether it may take the reserve.
    is_urgent: bool,
}

impl Unit {
    /// Whether it is the first of its segment.
    pub(crate) fn begins_segment(&self) -> bool {
        self.position == 0
    }
}

/// What a frame's caller decides of its header, and what it may be written into.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) entry_kind: u8,
    pub(crate) group: GroupId,
    pub(crate) id: EntryId,
    pub(crate) claim: Claim,
}

/// Where a chain goes on after it was found on disk.
pub(crate) struct Found {
    pub(crate) log_id: u64,
    /// By number, without gaps.
    pub(crate) segments: VecDeque<Segment>,
    /// Where the next frame goes in the last segment; `None` when it needs a new one.
    pub(crate) resume_at: Option<u64>,
    /// The number that the next frame gets.
    pub(crate) next_seq: u64,
    /// The end of what was found.
    pub(crate) end: BlockAddress,
    /// The last segment that has its state frame, so that all before it can go once their entries are dead.
    pub(crate) anchor: u32,
}

/// The segments and what waits to be written to them.
pub(crate) struct Chain {
    log_id: u64,
    segment_bytes: u64,
    salts: Salts,
    segments: VecDeque<Segment>,
    /// Where the next frame goes in the last segment; `None` when it needs a new one.
    next_position: Option<u64>,
    next_seq: u64,
    /// Units that are not being written yet; the last one takes further frames.
    units: VecDeque<Unit>,
    /// The end of what is durable, and the number of the frame that follows it.
    durable: BlockAddress,
    durable_next_seq: u64,
    anchor: u32,
}

impl Chain {
    pub(crate) fn new(found: Found, segment_bytes: u64, salts: Salts) -> Chain {
        let Found { log_id, segments, resume_at, next_seq, end, anchor } = found;
        assert!(next_seq > 0, "frames are numbered from 1");
        assert!(segments.iter().all(|segment| segment.file.is_some()), "what was found has files");
        Chain {
            log_id,
            segment_bytes,
            salts,
            segments,
            next_position: resume_at,
            next_seq,
            units: VecDeque::new(),
            durable: end,
            durable_next_seq: next_seq,
            anchor,
        }
    }

    pub(crate) fn segment(&self, number: u32) -> &Segment {
        let first = self.segments.front().expect("there is a segment when one is asked for").number;
        &self.segments[(number - first) as usize]
    }

    fn segment_mut(&mut self, number: u32) -> &mut Segment {
        let first = self.segments.front().expect("there is a segment when one is asked for").number;
        &mut self.segments[(number - first) as usize]
    }

    pub(crate) fn oldest(&self) -> Option<&Segment> {
        self.segments.front()
    }

    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Bytes of the segments that have files. Those without will take spares.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.segments.iter().filter(|segment| segment.file.is_some()).map(|segment| segment.bytes).sum()
    }

    /// Bytes up to the end of what is durable; segments before the last count as full.
    pub(crate) fn used_bytes(&self) -> u64 {
        let durable = self.durable;
        let full = self.segments.iter().take_while(|segment| segment.number < durable.segment);
        full.map(|segment| segment.bytes).sum::<u64>() + durable.position()
    }

    /// Segments that have no file yet. They are the last ones.
    pub(crate) fn owed(&self) -> usize {
        self.segments.iter().rev().take_while(|segment| segment.file.is_none()).count()
    }

    /// The end of what is durable.
    pub(crate) fn durable(&self) -> BlockAddress {
        self.durable
    }

    /// The log's identity.
    pub(crate) fn log_id(&self) -> u64 {
        self.log_id
    }

    /// What the log's mark may say now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { log_id: self.log_id, segment: self.anchor, seq: self.durable_next_seq - 1 }
    }

    /// Bytes that the last segment still takes.
    pub(crate) fn rest_bytes(&self) -> u64 {
        let last = self.segments.back().map_or(0, |segment| segment.bytes);
        self.next_position.map_or(0, |at| last - at)
    }

    /// Begins a segment with its state frame, whose body is `body_bytes` long. Its file comes when its first unit is taken.
    pub(crate) fn begin_segment(&mut self, state: BytesMut, body_bytes: usize) {
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        let salt = (self.salts)();
        let bytes = self.segment_bytes;
        let header = SegmentHeader { log_id: self.log_id, number, salt, first_seq: self.next_seq, bytes };
        self.segments.push_back(Segment { number, salt, bytes, file: None, live: 0 });
        self.next_position = Some(BLOCK_BYTES as u64);
        self.begin_unit(number, 0);
        let unit = self.units.back_mut().expect("just begun");
        unit.bytes = BLOCK_BYTES as u64;
        unit.parts.push(header.to_block());
        let id = EntryId { index: 0, term: 0 };
        let frame = Frame { kind: FrameKind::State, entry_kind: 0, group: GroupId::META, id, claim: Claim::Spare };
        self.put(frame, state, body_bytes, Deaths::new(), None);
    }

    fn begin_unit(&mut self, segment: u32, position: u64) {
        self.units.push_back(Unit {
            segment,
            position,
            bytes: 0,
            parts: Vec::new(),
            first_seq: self.next_seq,
            next_seq: self.next_seq,
            dones: Vec::new(),
            deaths: Deaths::new(),
            is_urgent: false,
        });
    }

    /// Puts a frame at the end of the last segment, which has room for it; returns its place, and it as it is written.
    pub(crate) fn put(
        &mut self,
        frame: Frame,
        mut blocks: BytesMut,
        body_bytes: usize,
        deaths: Deaths,
        done: Option<Done>,
    ) -> (BlockAddress, Bytes) {
        let segment = self.segments.back().expect("a segment was begun");
        let position = self.next_position.expect("a segment was begun");
        assert!(position + blocks.len() as u64 <= segment.bytes, "a frame fits into a segment");
        let (number, salt) = (segment.number, segment.salt);
        // The last unit is open unless it is of an earlier segment.
        if self.units.back().is_none_or(|unit| unit.segment != number) {
            self.begin_unit(number, position);
        }
        let unit = self.units.back_mut().expect("just begun");
        let header = FrameHeader {
            body_bytes: body_bytes as u32,
            kind: frame.kind,
            entry_kind: frame.entry_kind,
            group: frame.group,
            term: frame.id.term,
            index: frame.id.index,
            seq: self.next_seq,
            unit_first_seq: unit.first_seq,
            salt,
        };
        header.seal(&mut blocks);
        let blocks = blocks.freeze();
        unit.bytes += blocks.len() as u64;
        unit.parts.push(blocks.clone());
        unit.deaths.extend(deaths);
        unit.dones.extend(done);
        unit.is_urgent |= frame.claim == Claim::Reserve;
        self.next_seq += 1;
        unit.next_seq = self.next_seq;
        self.next_position = Some(position + blocks.len() as u64);
        (BlockAddress::new(number, position), blocks)
    }

    /// Notes that an entry was put into the last segment.
    pub(crate) fn note_live(&mut self) {
        self.segments.back_mut().expect("the entry was put into it").live += 1;
    }
}

/// The writer's side.
impl Chain {
    /// The segment of the next unit, when there is a unit.
    pub(crate) fn next_segment(&self) -> Option<&Segment> {
        self.units.front().map(|unit| self.segment(unit.segment))
    }

    /// Whether a frame that may take the reserve waits. It takes it for those before it too, which are ahead of it in the
    /// order.
    pub(crate) fn is_urgent(&self) -> bool {
        self.units.iter().any(|unit| unit.is_urgent)
    }

    /// Gives the next unit's segment its file.
    pub(crate) fn give_file(&mut self, spare: Spare) {
        let number = self.units.front().expect("a unit waits for it").segment;
        assert_eq!(spare.number, number, "spares are taken in the order of their numbers");
        let segment = self.segment_mut(number);
        assert!(segment.file.is_none(), "a segment is given one file");
        let file = SegmentFile { name: segment_name(number), salt: segment.salt, file: spare.file };
        segment.file = Some(Arc::new(file));
    }

    /// The next unit and its segment's file, if it has one.
    pub(crate) fn take_unit(&mut self) -> Option<(Unit, Arc<SegmentFile>)> {
        let file = self.next_segment()?.file.clone()?;
        self.units.pop_front().map(|unit| (unit, file))
    }

    /// Notes that a unit is durable.
    pub(crate) fn unit_written(&mut self, unit: &Unit) {
        let follows = unit.segment == self.durable.segment && unit.position == self.durable.position();
        assert!(follows || unit.begins_segment(), "a unit begins where the one before it ended");
        assert_eq!(unit.first_seq, self.durable_next_seq, "units are written in order");
        assert!(unit.next_seq > unit.first_seq, "a unit has a frame");
        self.durable = BlockAddress::new(unit.segment, unit.position + unit.bytes);
        self.durable_next_seq = unit.next_seq;
        self.anchor = unit.segment;
        for &(segment, count) in &unit.deaths {
            let segment = self.segment_mut(segment);
            assert!(segment.live >= count, "an entry dies once");
            segment.live -= count;
        }
    }

    /// Takes the oldest segment out, if nothing needs it: its name and its bytes.
    pub(crate) fn release_oldest(&mut self) -> Option<(String, u64)> {
        let oldest = self.segments.front()?;
        let file = oldest.file.as_ref()?;
        // One owner means this one: nobody can get at it but through `entry`, which finds nothing in it.
        let is_needed = oldest.number >= self.anchor || oldest.live > 0 || Arc::strong_count(file) > 1;
        if is_needed {
            return None;
        }
        let released = (file.name.clone(), oldest.bytes);
        self.segments.pop_front();
        Some(released)
    }

    /// Gives up all that waits; returns who is to be told.
    pub(crate) fn abandon(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.units).into_iter().flat_map(|unit| unit.dones).collect()
    }
}
