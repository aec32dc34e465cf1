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
//!   truncated by a durable frame, and nobody holds a [`Place`] in it.
//! - A failed write ends the log: nothing is known of the disk afterwards, so nothing is tried again.
//! - A full disk is met only where segments are made ahead. [`Wal::room`] tells; who appends without asking waits.

use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use weir_types::GroupId;

use crate::BLOCK_BYTES;
use crate::arena::Arena;
use crate::disk::Disk;
use crate::entry::{Done, EntryBody, EntryId, EntryRef, Room, Salts, WalConfig};
use crate::error::WalError;
use crate::frame::{FRAME_HEADER_BYTES, FrameKind};
use crate::log::{Deaths, GroupLog, Slot};
use crate::queue::{Closed, Frame, Queue};
use crate::reader::{Place, WalReader};
use crate::signal::Signal;
use crate::state::VOTE_BYTES_MAX;
use crate::stats::WalStats;

/// Segments that a budget must hold: the current one, a spare and the reserve.
const SEGMENTS_MIN: u64 = 3;

/// A write-ahead log. Clones are the same log; all of them live on one thread.
#[derive(Clone)]
pub struct Wal {
    pub(crate) shared: Rc<Shared>,
}

pub(crate) struct Shared {
    queue: RefCell<Queue>,
    /// Frames wait, or the log is to stop.
    pub(crate) work: Signal,
    /// See [`Wal::room_changed`].
    pub(crate) room: Notify,
}

impl Wal {
    /// Opens the log in `disk`, or begins one there. `salts` gives random numbers. Blocks while it reads its segments: as fast as the disk does.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when what was durable is damaged or missing; nothing is changed then that would lose more.
    /// [`WalError::Format`] for another version's log or sizes that cannot work. [`WalError::Io`] from the disk; a full
    /// disk is none.
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
        let queue = RefCell::new(Queue::open(disk, config, salts)?);
        Ok(Wal { shared: Rc::new(Shared { queue, work: Signal::default(), room: Notify::new() }) })
    }

    fn queue(&self) -> Ref<'_, Queue> {
        self.shared.queue.borrow()
    }

    pub(crate) fn queue_mut(&self) -> RefMut<'_, Queue> {
        self.shared.queue.borrow_mut()
    }

    /// All groups that the log knows of.
    pub fn groups(&self) -> Vec<GroupId> {
        self.queue().logs.keys().copied().collect()
    }

    /// The group's last entry; the last purged one when none follows it.
    pub fn last(&self, group: GroupId) -> Option<EntryId> {
        self.queue().logs.get(&group)?.last()
    }

    /// The last entry that was purged.
    pub fn purged(&self, group: GroupId) -> Option<EntryId> {
        self.queue().logs.get(&group)?.purged()
    }

    /// Index of the group's first entry, or of the next one when it has none.
    pub fn first_index(&self, group: GroupId) -> u64 {
        self.queue().logs.get(&group).map_or(0, GroupLog::first)
    }

    /// What was saved last with [`Wal::save_vote`].
    pub fn vote(&self, group: GroupId) -> Option<Bytes> {
        self.queue().logs.get(&group)?.vote.clone()
    }

    /// The last entry known to be committed. After a restart it may be an earlier one than was saved.
    pub fn committed(&self, group: GroupId) -> Option<EntryId> {
        self.queue().logs.get(&group)?.committed
    }

    /// The entry at `index`, if the log has it.
    pub fn entry(&self, group: GroupId, index: u64) -> Option<EntryRef> {
        let queue = self.queue();
        let log = queue.logs.get(&group)?;
        let slot = log.slot(index)?;
        let id = EntryId { index, term: slot.term };
        let body = match log.cached(index) {
            Some(frame) => EntryBody::Cached(frame.clone(), slot.body_bytes as usize),
            None => {
                let segment = &queue.segments[queue.position_of(slot.at.segment)];
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
        let mut queue = self.queue_mut();
        let body_bytes = (frame.len() - FRAME_HEADER_BYTES) as u32;
        let header = Frame { kind: FrameKind::Entry, entry_kind: kind, group, id };
        let (at, cached) = queue.put(header, frame, Deaths::new(), Some(done));
        let last = queue.segments.back_mut().expect("the frame was put into it");
        last.live += 1;
        queue.cache_bytes += cached.memory_bytes;
        let slot = Slot { term: id.term, at, body_bytes, kind };
        queue.logs.entry(group).or_default().push(id.index, slot, Some(cached));
        queue.evict();
        drop(queue);
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
        let mut queue = self.queue_mut();
        let log = queue.logs.entry(group).or_default();
        log.committed = log.committed.max(Some(id));
    }

    /// Notes that the group's entries up to `index` are applied: they may leave memory.
    pub fn applied(&self, group: GroupId, index: u64) {
        let mut queue = self.queue_mut();
        queue.logs.entry(group).or_default().note_applied(index);
        queue.evict();
    }

    /// Whether a frame of `frame_bytes` (header and body) can be written. Asked before entries are proposed: those that
    /// come without asking wait in the queue until there is a segment for them, and so does everything behind them. The
    /// reserve helps out when a vote, truncation or purge is among those, for as much as one segment holds.
    pub fn room(&self, frame_bytes: usize) -> Room {
        self.queue_mut().room(frame_bytes)
    }

    /// Waits until a segment is ready, or making one was refused, or the log has ended. Ask [`Wal::room`] again then.
    pub async fn room_changed(&self) {
        self.shared.room.notified().await;
    }

    /// The longest frame, header and body, that fits into a segment.
    pub fn frame_bytes_max(&self) -> usize {
        self.queue().frame_bytes_max()
    }

    /// The groups whose entries keep the oldest segment from being recycled: what to purge first when space is short.
    pub fn pinned_by(&self) -> Vec<GroupId> {
        let queue = self.queue();
        let Some(oldest) = queue.segments.front() else { return Vec::new() };
        let is_there = |log: &GroupLog| log.slots().next().is_some_and(|slot| slot.at.segment == oldest.number);
        queue.logs.iter().filter(|(_, log)| is_there(log)).map(|(&group, _)| group).collect()
    }

    /// Ends [`Wal::run`] once what waits now is written, or cannot be.
    pub fn stop(&self) {
        self.queue_mut().is_stopping = true;
        self.shared.work.set();
    }

    /// Whether a write has failed: the log takes nothing any more until it is opened again.
    pub fn failed(&self) -> bool {
        matches!(self.queue().closed, Some(Closed::Failed { .. }))
    }

    /// Figures since the log was opened.
    pub fn stats(&self) -> WalStats {
        let queue = self.queue();
        WalStats {
            write_latency: queue.writer.latency(),
            threaded: queue.writer.is_threaded(),
            segments: queue.segments.len(),
            spares: queue.spares.ready(),
            used_bytes: queue.used_bytes(),
            cache_bytes: queue.cache_bytes,
            index_bytes: queue.index_bytes(),
            reads: queue.reader.reads(),
            ..queue.stats
        }
    }

    /// Memory of the entry index, in bytes; the cached entries themselves are not in it.
    pub fn index_bytes(&self) -> usize {
        self.queue().index_bytes()
    }

    /// Reads stored entries from any thread.
    pub fn reader(&self) -> WalReader {
        self.queue().reader.clone()
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
        let (deaths, freed) = carry_out(queue.logs.entry(group).or_default());
        queue.cache_bytes -= freed;
        queue.put(Frame { kind, entry_kind: 0, group, id }, Arena::seal(body), deaths, Some(done));
        drop(queue);
        self.shared.work.set();
    }
}
