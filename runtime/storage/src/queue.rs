//! The log in memory: every group's index, the segments, and the frames on their way to disk, in one order.
//!
//! A frame gets its place when it is put in, and with it everything that its header says; [`Queue::make_place`] begins
//! segments whose files may come later. The writer takes whole units from the front.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::UnboundedReceiver;
use weir_types::GroupId;

use crate::BLOCK_BYTES;
use crate::arena::{Arena, Blocks, padded, to_blocks};
use crate::disk::Disk;
use crate::entry::{Done, EntryId, FullCause, Room, Salts, WalConfig};
use crate::error::WalError;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::log::{BlockAddress, Cached, Deaths, GroupLog};
use crate::reader::WalReader;
use crate::recover::recover;
use crate::segment::{Segment, SegmentHeader};
use crate::spares::{Report, Spares};
use crate::state;
use crate::stats::WalStats;
use crate::writer::{Target, Writer};

/// What a group takes in a state frame, about, in bytes.
const STATE_BYTES_TYPICAL: usize = 128;

/// Frames that are written together.
pub(crate) struct Unit {
    pub(crate) segment: u32,
    /// Where it begins in its segment, in bytes.
    pub(crate) position: u64,
    pub(crate) bytes: u64,
    /// Its blocks: the segment's header when it is the first, then whole frames.
    pub(crate) parts: Vec<Bytes>,
    first_seq: u64,
    pub(crate) dones: Vec<Done>,
    /// What is dead once the unit is durable.
    pub(crate) deaths: Deaths,
    /// Whether it may take the reserve.
    is_urgent: bool,
}

/// The log in memory.
pub(crate) struct Queue {
    pub(crate) config: WalConfig,
    salts: Salts,
    pub(crate) logs: BTreeMap<GroupId, GroupLog>,
    /// By number, without gaps.
    pub(crate) segments: VecDeque<Segment>,
    /// Where the next frame goes in the last segment; `None` when it needs a new one.
    pub(crate) next_position: Option<u64>,
    pub(crate) next_seq: u64,
    /// Units that are not being written yet; the last one takes further frames.
    pub(crate) units: VecDeque<Unit>,
    /// The end of what is durable.
    pub(crate) durable: BlockAddress,
    /// The last segment whose state frame is durable.
    pub(crate) anchor: u32,
    pub(crate) spares: Spares,
    pub(crate) reports: Option<UnboundedReceiver<Report>>,
    pub(crate) writer: Writer,
    pub(crate) reader: WalReader,
    pub(crate) cache_bytes: usize,
    pub(crate) is_stopping: bool,
    /// Why nothing is taken any more.
    pub(crate) closed: Option<Closed>,
    pub(crate) stats: WalStats,
}

/// Why a log takes nothing any more.
#[derive(Clone)]
pub(crate) enum Closed {
    Stopped,
    Failed { kind: io::ErrorKind, reason: Arc<str> },
}

impl Closed {
    pub(crate) fn error(&self) -> io::Error {
        match self {
            Closed::Stopped => io::Error::other("the log was stopped"),
            Closed::Failed { kind, reason } => io::Error::new(*kind, format!("the log has failed: {reason}")),
        }
    }
}

/// What a frame's caller decides of its header.
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) entry_kind: u8,
    pub(crate) group: GroupId,
    pub(crate) id: EntryId,
}

impl Queue {
    /// Reads the log in `disk` and has spares made for it.
    pub(crate) fn open(disk: Arc<dyn Disk>, config: WalConfig, salts: Salts) -> Result<Queue, WalError> {
        let found = recover(&*disk, config.segment_bytes)?;
        let (spares, reports) = Spares::new(disk.clone(), config.segment_bytes, found.spares, found.next_spare)
            .map_err(|source| WalError::io("", source))?;
        let mut queue = Queue {
            config,
            salts,
            logs: found.logs,
            segments: found.segments,
            next_position: found.resume_at,
            next_seq: found.next_seq,
            units: VecDeque::new(),
            durable: found.end,
            anchor: found.anchor,
            spares,
            reports: Some(reports),
            writer: Writer::new(disk, config.write),
            reader: WalReader::default(),
            cache_bytes: 0,
            is_stopping: false,
            closed: None,
            stats: WalStats::default(),
        };
        queue.release_dead();
        Ok(queue)
    }

    /// Where the segment of this number is in [`Queue::segments`].
    pub(crate) fn position_of(&self, segment: u32) -> usize {
        let first = self.segments.front().expect("there is a segment when one is asked for").number;
        (segment - first) as usize
    }

    pub(crate) fn index_bytes(&self) -> usize {
        self.logs.values().map(GroupLog::index_bytes).sum()
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        // Segments that have no file yet will take a spare, which is counted.
        let in_files = self.segments.iter().filter(|segment| segment.file.is_some());
        in_files.map(|segment| segment.bytes).sum::<u64>() + self.spares.bytes()
    }

    /// Segments of the log that have no file yet. They are its last ones.
    fn owed(&self) -> usize {
        self.segments.iter().rev().take_while(|segment| segment.file.is_none()).count()
    }

    /// See [`crate::Wal::frame_bytes_max`].
    pub(crate) fn frame_bytes_max(&self) -> usize {
        let state = self.state_frame().len();
        self.config.segment_bytes as usize - BLOCK_BYTES - padded(state)
    }

    /// See [`crate::Wal::room`].
    pub(crate) fn room(&mut self, frame_bytes: usize) -> Room {
        let bytes = padded(frame_bytes) as u64;
        let is_in_last = self.next_position.is_some_and(|at| at + bytes <= self.last_segment_bytes());
        // One must be left for what may take the reserve.
        let needed = self.owed() + 1 + usize::from(!is_in_last);
        if self.closed.is_some() {
            return Room::Free;
        }
        // The longest frame is looked up last, and only when a segment must begin: it takes the state frame to know.
        if !is_in_last && frame_bytes > self.frame_bytes_max() {
            return Room::Full(FullCause::Budget);
        }
        if self.spares.ready() >= needed {
            return Room::Free;
        }
        // Readers may have let go of segments since the last write.
        self.release_dead();
        if self.spares.is_preparing() {
            Room::Preparing
        } else if self.spares.is_refused() {
            Room::Full(FullCause::Disk)
        } else {
            Room::Full(FullCause::Budget)
        }
    }

    fn last_segment_bytes(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.bytes)
    }

    /// Sees to it that the next frame, of at most `frame_bytes`, has its place: begins a segment if need be.
    pub(crate) fn make_place(&mut self, frame_bytes: usize) {
        let bytes = padded(frame_bytes) as u64;
        if self.next_position.is_some_and(|at| at + bytes <= self.last_segment_bytes()) {
            return;
        }
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        let salt = (self.salts)();
        let bytes = self.config.segment_bytes;
        self.segments.push_back(Segment { number, salt, bytes, file: None, live: 0 });
        self.next_position = Some(BLOCK_BYTES as u64);
        let header = SegmentHeader { number, salt, first_seq: self.next_seq, bytes };
        self.units.push_back(Unit {
            segment: number,
            position: 0,
            bytes: BLOCK_BYTES as u64,
            parts: vec![header.to_block()],
            first_seq: self.next_seq,
            dones: Vec::new(),
            deaths: Deaths::new(),
            is_urgent: false,
        });
        let state =
            Frame { kind: FrameKind::State, entry_kind: 0, group: GroupId::META, id: EntryId { index: 0, term: 0 } };
        let frame = self.state_frame();
        self.put(state, Arena::seal(frame), Deaths::new(), None);
        self.replenish();
    }

    /// The state frame of a segment that would begin now, header not filled in.
    fn state_frame(&self) -> BytesMut {
        let mut buf = Arena::new(self.logs.len() * STATE_BYTES_TYPICAL).into_buf();
        state::encode(self.logs.iter().map(|(&group, log)| log.state(group)), &mut buf);
        buf
    }

    /// Puts a frame at the end of the queue; returns its place, and it as it may be kept in memory.
    pub(crate) fn put(
        &mut self,
        frame: Frame,
        bytes: Bytes,
        deaths: Deaths,
        done: Option<Done>,
    ) -> (BlockAddress, Cached) {
        let body_bytes = bytes.len() - FRAME_HEADER_BYTES;
        self.make_place(bytes.len());
        let Blocks { buf: mut blocks, is_copied, memory_bytes } = to_blocks(bytes);
        self.stats.copies += u64::from(is_copied);
        let segment = self.segments.back().expect("the place was made");
        let position = self.next_position.expect("the place was made");
        assert!(position + blocks.len() as u64 <= segment.bytes, "a frame fits into a segment");
        let (number, salt) = (segment.number, segment.salt);
        // The last unit is open unless it is of an earlier segment.
        if self.units.back().is_none_or(|unit| unit.segment != number) {
            self.units.push_back(Unit {
                segment: number,
                position,
                bytes: 0,
                parts: Vec::new(),
                first_seq: self.next_seq,
                dones: Vec::new(),
                deaths: Deaths::new(),
                is_urgent: false,
            });
        }
        let unit = self.units.back_mut().expect("just made");
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
            committed: self.logs.get(&frame.group).and_then(|log| log.committed).map(|id| id.index),
        };
        header.seal(&mut blocks);
        let blocks = blocks.freeze();
        unit.bytes += blocks.len() as u64;
        unit.parts.push(blocks.clone());
        unit.deaths.extend(deaths);
        unit.dones.extend(done);
        unit.is_urgent |= matches!(frame.kind, FrameKind::Vote | FrameKind::Truncate | FrameKind::Purge);
        self.next_seq += 1;
        self.next_position = Some(position + blocks.len() as u64);
        self.stats.frames += 1;
        (BlockAddress::new(number, position), Cached { frame: blocks, memory_bytes })
    }

    /// Lets entries leave memory, oldest first, while the cache is over its limit.
    pub(crate) fn evict(&mut self) {
        while self.cache_bytes > self.config.cache_bytes {
            let durable = self.durable;
            let oldest = self.logs.values_mut().filter_map(|log| Some((log.evictable(durable)?, log)));
            let Some((_, log)) = oldest.min_by_key(|(at, _)| *at) else { return };
            self.cache_bytes -= log.evict();
        }
    }

    /// Gives segments back that nothing needs, oldest first, and has spares made for what that frees.
    pub(crate) fn release_dead(&mut self) {
        while let Some(oldest) = self.segments.front()
            && oldest.number < self.anchor
            && oldest.live == 0
            && let Some(file) = &oldest.file
            // One owner means this one: nobody can get at it but through `entry`, which finds nothing in it.
            && Arc::strong_count(file) == 1
        {
            self.spares.release(file.name.clone(), oldest.bytes);
            self.segments.pop_front();
        }
        self.replenish();
    }

    fn replenish(&mut self) {
        let free_bytes = self.config.budget_bytes.saturating_sub(self.used_bytes());
        self.spares.replenish(self.owed(), free_bytes);
    }

    /// Takes over what the filling thread has done.
    pub(crate) fn note(&mut self, report: Report) {
        self.spares.note(report);
        self.replenish();
    }
}

/// The writer's side.
impl Queue {
    /// Takes the next unit and the file to write it to; `None` when there is none, or no spare for it yet.
    pub(crate) fn take_unit(&mut self) -> Option<(Unit, Target)> {
        let next = self.units.front()?;
        let at = self.position_of(next.segment);
        let target = match &self.segments[at].file {
            Some(file) => Target { file: file.clone(), spare: None },
            None => {
                // A frame that may take the reserve takes it for those before it too: it is behind them in the order.
                let and_reserve = self.units.iter().any(|unit| unit.is_urgent);
                let spare = self.spares.take(and_reserve)?;
                let segment = &mut self.segments[at];
                let target = Target::of_spare(spare, segment.number, segment.salt);
                segment.file = Some(target.file.clone());
                target
            }
        };
        self.replenish();
        self.units.pop_front().map(|unit| (unit, target))
    }

    /// Notes that a unit is durable.
    pub(crate) fn unit_written(&mut self, unit: &Unit) {
        self.durable = BlockAddress::new(unit.segment, unit.position + unit.bytes);
        self.anchor = unit.segment;
        self.stats.units += 1;
        self.stats.bytes += unit.bytes;
        for &(segment, count) in &unit.deaths {
            let at = self.position_of(segment);
            self.segments[at].live -= count;
        }
        self.release_dead();
        self.evict();
    }

    /// Takes nothing from now on; returns all that waits, to be told so.
    pub(crate) fn close(&mut self, closed: Closed) -> Vec<Done> {
        self.closed = Some(closed);
        std::mem::take(&mut self.units).into_iter().flat_map(|unit| unit.dones).collect()
    }
}
