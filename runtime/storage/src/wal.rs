//! The write-ahead log: the Raft logs and votes of several groups in one order, one durable write per drained batch.
//!
//! Whatever is appended becomes a *frame*. Its place, sequence number and checksum are known at once, because frames go
//! to disk in the order of the calls: a frame's segment may be decided before its file exists. Frames that wait together
//! are a *unit*; the writer ([`Wal::run`]) takes all that waits and writes it with one durable write, and then calls
//! each frame's [`Done`]. A unit does not span segments.
//!
//! - What is appended can be read at once, from memory. It leaves memory when it is applied, durable, and the cache is
//!   over its limit.
//! - A segment begins with a state frame; it goes when all before it have gone and every entry in it is purged or
//!   truncated by a durable frame, and nobody holds a [`Place`](crate::Place) in it.
//! - A failed write ends the log: nothing is known of the disk afterwards, so nothing is tried again.
//! - A full disk is met only where segments are made ahead. [`Wal::room`] tells; who appends without asking waits.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use weir_types::GroupId;

use crate::BLOCK_BYTES;
use crate::arena::{Arena, padded, to_blocks};
use crate::disk::Disk;
use crate::entry::{Done, EntryBody, EntryId, EntryRef, FullCause, Room, WalConfig};
use crate::error::WalError;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::log::{BlockAddress, Deaths, GroupLog, Slot};
use crate::reader::{Place, WalReader};
use crate::recover::recover;
use crate::segment::{Segment, SegmentHeader};
use crate::signal::Signal;
use crate::spares::{Report, Spares};
use crate::state::{self, VOTE_BYTES_MAX};
use crate::stats::WalStats;
use crate::writer::Writer;

/// Segments that a budget must hold: the current one, a spare and the reserve.
const SEGMENTS_MIN: u64 = 3;

/// A write-ahead log. Clones are the same log; all of them live on one thread.
#[derive(Clone)]
pub struct Wal {
    pub(crate) shared: Rc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) inner: RefCell<Inner>,
    /// Frames wait, or the log is to stop.
    pub(crate) work: Signal,
    /// See [`Wal::room_changed`].
    pub(crate) room: Notify,
}

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

pub(crate) struct Inner {
    config: WalConfig,
    logs: BTreeMap<GroupId, GroupLog>,
    /// By number, without gaps.
    segments: VecDeque<Segment>,
    /// Where the next frame goes in the last segment; `None` when it needs a new one.
    next_position: Option<u64>,
    next_seq: u64,
    /// Units that are not being written yet; the last one takes further frames.
    queue: VecDeque<Unit>,
    /// The end of what is durable.
    durable: BlockAddress,
    /// The last segment whose state frame is durable.
    anchor: u32,
    spares: Spares,
    pub(crate) reports: Option<UnboundedReceiver<Report>>,
    pub(crate) writer: Writer,
    reader: WalReader,
    cache_bytes: usize,
    pub(crate) is_stopping: bool,
    /// Why nothing is taken any more.
    closed: Option<Closed>,
    pub(crate) stats: WalStats,
}

/// Why a log takes nothing any more.
#[derive(Clone)]
pub(crate) enum Closed {
    Stopped,
    Failed { kind: io::ErrorKind, reason: Arc<str> },
}

impl Closed {
    fn error(&self) -> io::Error {
        match self {
            Closed::Stopped => io::Error::other("the log was stopped"),
            Closed::Failed { kind, reason } => io::Error::new(*kind, format!("the log has failed: {reason}")),
        }
    }
}

/// What a frame's caller decides of its header.
struct Frame {
    kind: FrameKind,
    entry_kind: u8,
    group: GroupId,
    id: EntryId,
}

impl Wal {
    /// Opens the log in `disk`, or begins one there. Blocks while it reads what is live (about a second per GiB).
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when what was durable is damaged or missing; nothing is changed then that would lose more.
    /// [`WalError::Format`] for another version's log or sizes that cannot work. [`WalError::Io`] from the disk; a full
    /// disk is none.
    pub fn open(disk: Arc<dyn Disk>, config: WalConfig) -> Result<Wal, WalError> {
        let is_whole = config.segment_bytes.is_multiple_of(BLOCK_BYTES as u64);
        if !is_whole || config.segment_bytes < 16 * BLOCK_BYTES as u64 {
            let reason = format!("a segment is a multiple of {BLOCK_BYTES} bytes, at least 16 times that");
            return Err(WalError::Format { file: String::new(), reason });
        }
        if config.budget_bytes < SEGMENTS_MIN * config.segment_bytes {
            let reason = format!("the budget must hold {SEGMENTS_MIN} segments of {} bytes", config.segment_bytes);
            return Err(WalError::Format { file: String::new(), reason });
        }
        let found = recover(&*disk, config.segment_bytes)?;
        let (spares, reports) = Spares::new(disk.clone(), config.segment_bytes, found.spares, found.next_spare)
            .map_err(|source| WalError::io("", source))?;
        let mut inner = Inner {
            config,
            logs: found.logs,
            segments: found.segments,
            next_position: found.resume_at,
            next_seq: found.next_seq,
            queue: VecDeque::new(),
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
        inner.release_dead();
        let shared = Shared { inner: RefCell::new(inner), work: Signal::default(), room: Notify::new() };
        Ok(Wal { shared: Rc::new(shared) })
    }

    fn inner(&self) -> Ref<'_, Inner> {
        self.shared.inner.borrow()
    }

    pub(crate) fn inner_mut(&self) -> RefMut<'_, Inner> {
        self.shared.inner.borrow_mut()
    }

    /// All groups that the log knows of.
    pub fn groups(&self) -> Vec<GroupId> {
        self.inner().logs.keys().copied().collect()
    }

    /// The group's last entry; the last purged one when none follows it.
    pub fn last(&self, group: GroupId) -> Option<EntryId> {
        self.inner().logs.get(&group)?.last()
    }

    /// The last entry that was purged.
    pub fn purged(&self, group: GroupId) -> Option<EntryId> {
        self.inner().logs.get(&group)?.purged()
    }

    /// Index of the group's first entry, or of the next one when it has none.
    pub fn first_index(&self, group: GroupId) -> u64 {
        self.inner().logs.get(&group).map_or(0, GroupLog::first)
    }

    /// What was saved last with [`Wal::save_vote`].
    pub fn vote(&self, group: GroupId) -> Option<Bytes> {
        self.inner().logs.get(&group)?.vote.clone()
    }

    /// The last entry known to be committed. After a restart it may be an earlier one than was saved.
    pub fn committed(&self, group: GroupId) -> Option<EntryId> {
        self.inner().logs.get(&group)?.committed
    }

    /// The entry at `index`, if the log has it.
    pub fn entry(&self, group: GroupId, index: u64) -> Option<EntryRef> {
        let inner = self.inner();
        let log = inner.logs.get(&group)?;
        let slot = log.slot(index)?;
        let id = EntryId { index, term: slot.term };
        let body = match log.cached(index) {
            Some(frame) => EntryBody::Cached(frame.clone(), slot.body_bytes as usize),
            None => {
                let segment = &inner.segments[inner.position_of(slot.at.segment)];
                let file = segment.file.clone().expect("what is not cached is durable");
                let body_bytes = slot.body_bytes;
                EntryBody::Stored(Place { segment: file, position: slot.at.position(), body_bytes, group, id })
            }
        };
        Some(EntryRef { id, kind: slot.kind, body })
    }

    /// Appends an entry: `frame` comes from [`Arena::seal`](crate::Arena::seal) and is at most
    /// [`Wal::frame_bytes_max`] long. The entry can be read when this returns; `done` is called when it is durable.
    ///
    /// `id.index` follows the group's last entry (any index begins a group without one). `kind` is kept with the entry
    /// and means nothing here.
    pub fn append(&self, group: GroupId, id: EntryId, kind: u8, frame: Bytes, done: Done) {
        let Some(done) = self.unless_closed(done) else { return };
        let mut inner = self.inner_mut();
        let body_bytes = (frame.len() - FRAME_HEADER_BYTES) as u32;
        let header = Frame { kind: FrameKind::Entry, entry_kind: kind, group, id };
        let (at, frame) = inner.put(header, frame, Deaths::new(), Some(done));
        let last = inner.segments.back_mut().expect("the frame was put into it");
        last.live += 1;
        inner.cache_bytes += frame.len();
        let slot = Slot { term: id.term, at, body_bytes, kind };
        inner.logs.entry(group).or_default().push(id.index, slot, Some(frame));
        inner.evict();
        drop(inner);
        self.shared.work.set();
    }

    /// Saves the group's vote (at most 4 KiB), durably by when `done` is called. It may take the reserve.
    pub fn save_vote(&self, group: GroupId, vote: &[u8], done: Done) {
        assert!(vote.len() <= VOTE_BYTES_MAX, "a vote is a few numbers");
        let Some(done) = self.unless_closed(done) else { return };
        let mut body = Arena::new(vote.len()).into_buf();
        body.extend_from_slice(vote);
        let vote = Bytes::copy_from_slice(vote);
        self.control(FrameKind::Vote, group, EntryId { index: 0, term: 0 }, body, done, |log| {
            log.vote = Some(vote);
            (Deaths::new(), 0)
        });
    }

    /// Removes the entries after `last_kept`; all of them for `None`. It may take the reserve.
    pub fn truncate_after(&self, group: GroupId, last_kept: Option<EntryId>, done: Done) {
        let Some(done) = self.unless_closed(done) else { return };
        let first = self.first_index(group);
        let from = last_kept.map_or(first, |kept| kept.index + 1);
        assert!(from >= first, "what is purged is not kept");
        let body = Arena::new(0).into_buf();
        let id = EntryId { index: from, term: 0 };
        self.control(FrameKind::Truncate, group, id, body, done, |log| log.truncate(from));
    }

    /// Removes the entries up to `upto`, which may be beyond the last (after a snapshot came in): the next entry then
    /// follows `upto`. It may take the reserve.
    pub fn purge(&self, group: GroupId, upto: EntryId, done: Done) {
        let Some(done) = self.unless_closed(done) else { return };
        let body = Arena::new(0).into_buf();
        self.control(FrameKind::Purge, group, upto, body, done, |log| log.purge(upto));
    }

    /// Notes what is committed. It goes to disk with the group's next frame and costs no write of its own.
    pub fn save_committed(&self, group: GroupId, id: EntryId) {
        let mut inner = self.inner_mut();
        let log = inner.logs.entry(group).or_default();
        log.committed = log.committed.max(Some(id));
    }

    /// Notes that the group's entries up to `index` are applied: they may leave memory.
    pub fn applied(&self, group: GroupId, index: u64) {
        let mut inner = self.inner_mut();
        inner.logs.entry(group).or_default().note_applied(index);
        inner.evict();
    }

    /// Whether a frame of `frame_bytes` (header and body) can be written. Asked before entries are proposed: those that
    /// come without asking wait in the queue until there is a segment for them, and so does everything behind them.
    pub fn room(&self, frame_bytes: usize) -> Room {
        self.inner_mut().room(frame_bytes)
    }

    /// Waits until a segment is ready, or making one was refused, or the log has ended. Ask [`Wal::room`] again then.
    pub async fn room_changed(&self) {
        self.shared.room.notified().await;
    }

    /// The longest frame, header and body, that fits into a segment.
    pub fn frame_bytes_max(&self) -> usize {
        self.inner().frame_bytes_max()
    }

    /// The groups whose entries keep the oldest segment from being recycled: what to purge first when space is short.
    pub fn pinned_by(&self) -> Vec<GroupId> {
        let inner = self.inner();
        let Some(oldest) = inner.segments.front() else { return Vec::new() };
        let is_there = |log: &GroupLog| log.slots().next().is_some_and(|slot| slot.at.segment == oldest.number);
        inner.logs.iter().filter(|(_, log)| is_there(log)).map(|(&group, _)| group).collect()
    }

    /// Ends [`Wal::run`] once what waits now is written, or cannot be.
    pub fn stop(&self) {
        self.inner_mut().is_stopping = true;
        self.shared.work.set();
    }

    /// Whether a write has failed: the log takes nothing any more until it is opened again.
    pub fn failed(&self) -> bool {
        matches!(self.inner().closed, Some(Closed::Failed { .. }))
    }

    /// Figures since the log was opened.
    pub fn stats(&self) -> WalStats {
        let inner = self.inner();
        WalStats {
            write_latency: inner.writer.latency(),
            threaded: inner.writer.is_threaded(),
            segments: inner.segments.len(),
            spares: inner.spares.ready(),
            used_bytes: inner.used_bytes(),
            cache_bytes: inner.cache_bytes,
            index_bytes: inner.index_bytes(),
            reads: inner.reader.reads(),
            ..inner.stats
        }
    }

    /// Memory of the entry index, in bytes; the cached entries themselves are not in it.
    pub fn index_bytes(&self) -> usize {
        self.inner().index_bytes()
    }

    /// Reads stored entries from any thread.
    pub fn reader(&self) -> WalReader {
        self.inner().reader.clone()
    }

    /// Gives `done` back, or answers it when the log takes nothing any more.
    fn unless_closed(&self, done: Done) -> Option<Done> {
        let closed = self.inner().closed.clone();
        match closed {
            None => Some(done),
            Some(closed) => {
                done(Err(closed.error()));
                None
            }
        }
    }

    /// Puts a frame that is no entry, and carries it out in memory.
    fn control(
        &self,
        kind: FrameKind,
        group: GroupId,
        id: EntryId,
        body: BytesMut,
        done: Done,
        carry_out: impl FnOnce(&mut GroupLog) -> (Deaths, usize),
    ) {
        let mut inner = self.inner_mut();
        // A segment may begin with this frame, and its state frame, which comes before it, is without its effect: what
        // is carried out in memory first would be in both.
        inner.make_place(FRAME_HEADER_BYTES + VOTE_BYTES_MAX);
        let (deaths, freed) = carry_out(inner.logs.entry(group).or_default());
        inner.cache_bytes -= freed;
        inner.put(Frame { kind, entry_kind: 0, group, id }, Arena::seal(body), deaths, Some(done));
        drop(inner);
        self.shared.work.set();
    }
}

impl Inner {
    fn position_of(&self, segment: u32) -> usize {
        let first = self.segments.front().expect("there is a segment when one is asked for").number;
        (segment - first) as usize
    }

    fn index_bytes(&self) -> usize {
        self.logs.values().map(GroupLog::index_bytes).sum()
    }

    fn used_bytes(&self) -> u64 {
        // Segments that have no file yet will take a spare, which is counted.
        let in_files = self.segments.iter().filter(|segment| segment.file.is_some());
        in_files.map(|segment| segment.bytes).sum::<u64>() + self.spares.bytes()
    }

    /// Segments of the log that have no file yet. They are its last ones.
    fn owed(&self) -> usize {
        self.segments.iter().rev().take_while(|segment| segment.file.is_none()).count()
    }

    fn frame_bytes_max(&self) -> usize {
        let state = self.state_frame(BLOCK_BYTES).len();
        self.config.segment_bytes as usize - BLOCK_BYTES - padded(state)
    }

    fn room(&mut self, frame_bytes: usize) -> Room {
        if self.closed.is_some() {
            return Room::Free;
        }
        if frame_bytes > self.frame_bytes_max() {
            return Room::Full(FullCause::Budget);
        }
        let bytes = padded(frame_bytes) as u64;
        let fits = |inner: &Inner| {
            let is_current = inner.next_position.is_some_and(|at| at + bytes <= inner.last_segment_bytes());
            let needed = inner.owed() + 1 + usize::from(!is_current);
            inner.spares.ready() >= needed
        };
        if fits(self) {
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
    fn make_place(&mut self, frame_bytes: usize) {
        let bytes = padded(frame_bytes) as u64;
        if self.next_position.is_some_and(|at| at + bytes <= self.last_segment_bytes()) {
            return;
        }
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        let salt = getrandom::u64().expect("the operating system has random numbers");
        let bytes = self.config.segment_bytes;
        self.segments.push_back(Segment { number, salt, bytes, file: None, live: 0 });
        self.next_position = Some(BLOCK_BYTES as u64);
        let header = SegmentHeader { number, salt, first_seq: self.next_seq, bytes };
        self.queue.push_back(Unit {
            segment: number,
            position: 0,
            bytes: BLOCK_BYTES as u64,
            parts: vec![header.to_block()],
            first_seq: self.next_seq,
            dones: Vec::new(),
            deaths: Deaths::new(),
            is_urgent: false,
        });
        let state = Frame {
            kind: FrameKind::State,
            entry_kind: 0,
            group: GroupId::META,
            id: EntryId { index: 0, term: 0 },
        };
        let frame = self.state_frame(bytes as usize);
        self.put(state, Arena::seal(frame), Deaths::new(), None);
        self.replenish();
    }

    /// The state frame of a segment that would begin now, header not filled in.
    fn state_frame(&self, capacity: usize) -> BytesMut {
        let mut buf = Arena::new(capacity.min(BLOCK_BYTES - FRAME_HEADER_BYTES)).into_buf();
        state::encode(self.logs.iter().map(|(&group, log)| log.state(group)), &mut buf);
        buf
    }

    /// Puts a frame at the end of the queue; returns its place and its bytes.
    fn put(&mut self, frame: Frame, bytes: Bytes, deaths: Deaths, done: Option<Done>) -> (BlockAddress, Bytes) {
        let body_bytes = bytes.len() - FRAME_HEADER_BYTES;
        self.make_place(bytes.len());
        let (mut blocks, is_copied) = to_blocks(bytes);
        self.stats.copies += u64::from(is_copied);
        let segment = self.segments.back().expect("the place was made");
        let position = self.next_position.expect("the place was made");
        assert!(position + blocks.len() as u64 <= segment.bytes, "a frame fits into a segment");
        let (number, salt) = (segment.number, segment.salt);
        // The last unit is open unless it is of an earlier segment.
        if self.queue.back().is_none_or(|unit| unit.segment != number) {
            self.queue.push_back(Unit {
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
        let unit = self.queue.back_mut().expect("just made");
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
        (BlockAddress::new(number, position), blocks)
    }

    /// Lets entries leave memory, oldest first, while the cache is over its limit.
    fn evict(&mut self) {
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

/// The writer's side of the queue.
impl Inner {
    /// Takes the next unit and the file to write it to; `None` when there is none, or no spare for it yet.
    pub(crate) fn take_unit(&mut self) -> Option<(Unit, crate::writer::Target)> {
        let next = self.queue.front()?;
        let at = self.position_of(next.segment);
        let target = match &self.segments[at].file {
            Some(file) => crate::writer::Target { file: file.clone(), spare: None },
            None => {
                // A frame that may take the reserve takes it for those before it too: it is behind them in the order.
                let and_reserve = self.queue.iter().any(|unit| unit.is_urgent);
                let spare = self.spares.take(and_reserve)?;
                let segment = &mut self.segments[at];
                let target = crate::writer::Target::of_spare(spare, segment.number, segment.salt);
                segment.file = Some(target.file.clone());
                target
            }
        };
        self.replenish();
        self.queue.pop_front().map(|unit| (unit, target))
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
        self.closed.get_or_insert(closed);
        std::mem::take(&mut self.queue).into_iter().flat_map(|unit| unit.dones).collect()
    }

    /// What is told to those who come after [`Inner::close`].
    pub(crate) fn closed_error(&self) -> Option<io::Error> {
        self.closed.as_ref().map(Closed::error)
    }
}
