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
//!   truncated by a durable frame, and nobody holds an [`EntryPlace`] in it.
//! - A failed write ends the log: nothing is known of the disk afterwards, so nothing is tried again.
//! - A full disk is met only where segments are made ahead. [`Wal::room`] tells; who appends without asking waits.

use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use weir_types::{GroupId, Wakeup};

use crate::arena::Arena;
use crate::block::BLOCK_BYTES;
use crate::carried::Carried;
use crate::chain::Frame;
use crate::disk::Disk;
use crate::entry::{Claim, Done, EntryBody, EntryId, EntryPlace, EntryRef, Salts, WalConfig, WriteMode};
use crate::error::WalError;
use crate::filler::Report;
use crate::frame::{FRAME_HEADER_BYTES, FrameKind};
use crate::log::{Deaths, GroupLog, Located};
use crate::mark::{Mark, MarkFile};
use crate::queue::{Closed, Opened, Queue};
use crate::reader::WalReader;
use crate::snapshot::{SnapshotReader, Snapshots};
use crate::state::VOTE_BYTES_MAX;
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
    is_simulated: bool,
    queue: RefCell<Queue>,
    reader: WalReader,
    snapshots: Snapshots,
    /// What the writer's task takes when it begins.
    parts: RefCell<Option<Parts>>,
    /// Frames wait, or the log is to stop.
    pub(crate) work: Wakeup,
    /// See [`Wal::room_changed`].
    pub(crate) room: Notify,
}

/// What the writer's task holds beside the log.
pub(crate) struct Parts {
    pub(crate) writer: Writer,
    pub(crate) mark: MarkFile,
    pub(crate) reports: UnboundedReceiver<Report>,
    /// Whether the log was found to go further than its mark.
    pub(crate) is_mark_behind: bool,
}

impl Wal {
    /// Forms an empty log in `disk`, under an identity that no other log has. Durable on return.
    ///
    /// # Errors
    /// [`WalError::Foreign`] when there is anything but what a forming has left that did not end; [`WalError::Io`] from the
    /// disk.
    pub fn form(disk: &dyn Disk, log_id: u64) -> Result<(), WalError> {
        Mark::form(disk, log_id)
    }

    /// Whether more than half of it is full: what can give it room is to do so.
    pub fn is_space_short(&self) -> bool {
        let queue = self.queue();
        queue.chain.used_bytes() > queue.used_bytes_max() / 2
    }

    /// Whether nothing may be done on other threads: see [`WriteMode::Simulated`](crate::WriteMode).
    pub fn is_simulated(&self) -> bool {
        self.shared.is_simulated
    }

    /// Checks that the log in `disk` is the one that was formed as `log_id`.
    ///
    /// # Errors
    /// [`WalError::Foreign`] when it is another one or none, [`WalError::Corrupt`] when that cannot be told.
    pub fn check(disk: &dyn Disk, log_id: u64) -> Result<(), WalError> {
        Mark::check(disk, log_id)
    }

    /// Opens the log that was formed in `disk`. `salts` gives random numbers. Blocks while it reads its segments: as fast
    /// as the disk does.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when what was durable is damaged or missing, [`WalError::Foreign`] when a part of it is
    /// another log's; nothing is changed then. [`WalError::Format`] for another version's log or sizes that cannot work.
    /// [`WalError::Io`] from the disk; a full disk is none.
    pub fn open(disk: Arc<dyn Disk>, config: WalConfig, salts: Salts) -> Result<Wal, WalError> {
        let is_whole = config.segment_bytes.is_multiple_of(BLOCK_BYTES as u64);
        if !is_whole || config.segment_bytes < 16 * BLOCK_BYTES as u64 {
            let reason = format!("a segment is a multiple of {BLOCK_BYTES} bytes, at least 16 times that");
            return Err(WalError::Format { file: String::new(), reason });
        }
        if config.budget_bytes < SEGMENTS_MIN * config.segment_bytes {
            let reason = format!("the budget must hold {SEGMENTS_MIN} segments of {} bytes", config.segment_bytes);
            return Err(WalError::Format { file: String::new(), reason });
        }
        let Opened { queue, mark, reports, is_mark_behind } = Queue::open(&disk, config, salts)?;
        let snapshots = Snapshots::new(disk, queue.chain.log_id());
        let file_bytes = queue.file_bytes();
        if file_bytes > config.budget_bytes {
            let budget_bytes = config.budget_bytes;
            tracing::warn!(file_bytes, budget_bytes, "the log is larger than its budget: it takes no further appends");
        }
        let parts = Parts { writer: Writer::new(config.write), mark, reports, is_mark_behind };
        let shared = Shared {
            is_simulated: config.write == WriteMode::Simulated,
            queue: RefCell::new(queue),
            reader: WalReader::default(),
            snapshots,
            parts: RefCell::new(Some(parts)),
            work: Wakeup::default(),
            room: Notify::new(),
        };
        Ok(Wal { shared: Rc::new(shared) })
    }

    pub(crate) fn take_parts(&self) -> Parts {
        self.shared.parts.take().expect("the writer is spawned once")
    }

    pub(crate) fn queue(&self) -> Ref<'_, Queue> {
        self.shared.queue.borrow()
    }

    pub(crate) fn queue_mut(&self) -> RefMut<'_, Queue> {
        self.shared.queue.borrow_mut()
    }

    /// All groups that the log knows of.
    pub fn groups(&self) -> Vec<GroupId> {
        self.queue().index.groups().map(|(group, _)| group).collect()
    }

    /// The group's last entry; the last purged one when none follows it.
    pub fn last(&self, group: GroupId) -> Option<EntryId> {
        self.queue().index.group(group)?.last()
    }

    /// The last entry that was purged.
    pub fn purged(&self, group: GroupId) -> Option<EntryId> {
        self.queue().index.group(group)?.purged()
    }

    /// Index of the group's first entry, or of the next one when it has none.
    pub fn first_index(&self, group: GroupId) -> u64 {
        self.queue().index.group(group).map_or(0, GroupLog::first)
    }

    /// What was saved last with [`Wal::save_vote`].
    pub fn vote(&self, group: GroupId) -> Option<Bytes> {
        self.queue().index.group(group)?.vote.clone()
    }

    /// The entry at `index`, if the log has it or the group's snapshot carries it.
    pub fn entry(&self, group: GroupId, index: u64) -> Option<EntryRef> {
        let queue = self.queue();
        let log = queue.index.group(group)?;
        let Some(entry) = log.entry(index) else { return log.carried.as_ref()?.entry(index) };
        let id = EntryId { index, term: entry.term };
        let body = match log.cached(index) {
            Some(frame) => EntryBody::Cached(frame.clone(), entry.body_bytes as usize),
            None => {
                let file = queue.chain.segment(entry.at.segment).file.clone();
                let segment = file.expect("what is not cached is durable");
                let body_bytes = entry.body_bytes;
                EntryBody::Stored(EntryPlace { segment, position: entry.at.position(), body_bytes, group, id })
            }
        };
        Some(EntryRef { id, kind: entry.kind, body })
    }

    /// Appends an entry: `frame` comes from [`Arena::seal`](crate::Arena::seal) and is at most
    /// [`Wal::frame_bytes_max`] long. The entry can be read when this returns; `done` is called when it is durable.
    ///
    /// `id.index` follows the group's last entry (any index begins a group without one). `kind` is kept with the entry
    /// and means nothing here.
    pub fn append(&self, group: GroupId, id: EntryId, kind: u8, frame: Bytes, claim: Claim, done: Done) {
        let Some(done) = self.unless_closed(done) else { return };
        let mut queue = self.queue_mut();
        assert!(frame.len() >= FRAME_HEADER_BYTES, "a frame begins with its header space");
        let body_bytes = (frame.len() - FRAME_HEADER_BYTES) as u32;
        let header = Frame { kind: FrameKind::Entry, entry_kind: kind, group, id, claim };
        let (at, cached) = queue.put(header, frame, Deaths::new(), Some(done));
        queue.chain.note_live();
        let entry = Located { term: id.term, at, body_bytes, kind };
        queue.index.append(group, id, entry, cached);
        queue.evict();
        drop(queue);
        self.shared.work.ring();
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

    /// Takes over what the group's snapshot carries, in place of what the one before it did.
    pub fn carry(&self, group: GroupId, carried: Carried) {
        self.queue_mut().index.group_mut(group).carried = Some(carried).filter(|carried| !carried.is_empty());
    }

    /// What the group's snapshot carries, if anything is left of it.
    pub fn carried(&self, group: GroupId) -> Option<Carried> {
        self.queue().index.group(group)?.carried.clone()
    }

    /// Nobody needs the entries before `floor` any more that the group's snapshot carries.
    pub fn leave_carried(&self, group: GroupId, floor: u64) {
        let mut queue = self.queue_mut();
        let log = queue.index.group_mut(group);
        if let Some(carried) = &mut log.carried {
            carried.leave_before(floor);
            log.carried = log.carried.take().filter(|carried| !carried.is_empty());
        }
    }

    /// Notes that the group's entries up to `index` are applied: they may leave memory.
    pub fn applied(&self, group: GroupId, index: u64) {
        self.queue_mut().applied(group, index);
    }

    /// The longest frame, header and body, that fits into a segment.
    pub fn frame_bytes_max(&self) -> usize {
        self.queue().frame_bytes_max()
    }

    /// Whether entries of the group behind `index` (any, without one) keep the oldest segment from being recycled.
    pub fn is_pinned_behind(&self, group: GroupId, index: Option<u64>) -> bool {
        let queue = self.queue();
        let (Some(oldest), Some(log)) = (queue.chain.oldest(), queue.index.group(group)) else { return false };
        let next = index.map_or(log.first(), |index| (index + 1).max(log.first()));
        log.entry(next).is_some_and(|entry| entry.at.segment == oldest.number)
    }

    /// Ends [`Wal::run`] once what waits now is written, or cannot be, and the log's end is noted. See [`Wal::stopped`].
    pub fn stop(&self) {
        self.queue_mut().is_stopping = true;
        self.shared.work.ring();
    }

    /// Waits until the writer has ended, after [`Wal::stop`] or a failed write.
    pub async fn stopped(&self) {
        loop {
            let changed = self.shared.room.notified();
            if self.queue().closed.is_some() {
                return;
            }
            changed.await;
        }
    }

    /// Whether a write has failed: the log takes nothing any more until it is opened again.
    pub fn failed(&self) -> bool {
        matches!(self.queue().closed, Some(Closed::Failed { .. }))
    }

    /// Figures since the log was opened.
    pub fn stats(&self) -> WalStats {
        let queue = self.queue();
        WalStats {
            segments: queue.chain.segments(),
            spares: queue.spares.ready(),
            used_bytes: queue.chain.used_bytes(),
            used_bytes_max: queue.used_bytes_max(),
            file_bytes: queue.file_bytes(),
            cache_bytes: queue.index.cache_bytes(),
            index_bytes: queue.index.index_bytes(),
            reads: self.shared.reader.reads(),
            write_times: queue.write_times.distribution(),
            ..queue.stats.clone()
        }
    }

    /// How long a durable write takes, recent ones weighing more; zero before the first.
    pub fn write_latency(&self) -> Duration {
        self.queue().stats.write_latency
    }

    /// Memory of the entry index, in bytes; the cached entries themselves are not in it.
    pub fn index_bytes(&self) -> usize {
        self.queue().index.index_bytes()
    }

    /// Reads stored entries from any thread.
    pub fn reader(&self) -> WalReader {
        self.shared.reader.clone()
    }

    /// Begins to read the group's snapshot, if it has one.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when it is damaged, or when the log begins behind it or ends before it; [`WalError::Foreign`] when it is another
    /// log's or group's, [`WalError::Format`] when it is another version's, [`WalError::Io`] from the disk.
    pub fn open_snapshot(&self, group: GroupId) -> Result<Option<SnapshotReader>, WalError> {
        self.shared.snapshots.open(group, self.purged(group), self.last(group))
    }

    /// The snapshots of the log's groups, from any thread.
    pub fn snapshots(&self) -> Snapshots {
        self.shared.snapshots.clone()
    }

    /// Gives `done` back, or answers it when the log takes nothing any more.
    fn unless_closed(&self, done: Done) -> Option<Done> {
        let closed = self.queue().closed.clone();
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
        let mut queue = self.queue_mut();
        // A segment may begin with this frame, and its state frame, which comes before it, is without its effect: what
        // is carried out in memory first would be in both.
        queue.make_place(FRAME_HEADER_BYTES + VOTE_BYTES_MAX);
        let deaths = queue.index.remove(group, carry_out);
        queue.put(
            Frame { kind, entry_kind: 0, group, id, claim: Claim::Reserve },
            Arena::seal(body),
            deaths,
            Some(done),
        );
        drop(queue);
        self.shared.work.ring();
    }
}
