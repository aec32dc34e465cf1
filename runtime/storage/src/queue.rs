//! A log as its callers and its writer share it: what is known of it in memory, what waits to be written, and what there
//! is to write it to.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use weir_types::{GroupId, Histogram};

use crate::arena::{Arena, Blocks, to_blocks};
use crate::block::{BLOCK_BYTES, padded};
use crate::chain::{Chain, Frame, Unit};
use crate::disk::Disk;
use crate::entry::{Claim, Done, FullCause, Room, Salts, WalConfig};
use crate::error::WalError;
use crate::filler::Report;
use crate::frame::FRAME_HEADER_BYTES;
use crate::index::Index;
use crate::log::{BlockAddress, Cached, Deaths};
use crate::mark::MarkFile;
use crate::recover::recover;
use crate::segment::SegmentFile;
use crate::spares::Spares;
use crate::state;
use crate::stats::WalStats;

/// What of the reserve is left to frames that come without asking: votes, purges, truncations.
const URGENT_BYTES: u64 = 256 << 10;

/// The log in memory.
pub(crate) struct Queue {
    pub(crate) index: Index,
    pub(crate) chain: Chain,
    pub(crate) spares: Spares,
    budget_bytes: u64,
    segment_bytes: u64,
    /// Bytes of frames that were promised room, until their promise is dropped.
    promised_bytes: u64,
    /// Whether somebody was told to wait because of promises.
    is_promise_awaited: bool,
    pub(crate) is_stopping: bool,
    /// Why nothing is taken any more.
    pub(crate) closed: Option<Closed>,
    pub(crate) stats: WalStats,
    /// How long the durable writes of units took.
    pub(crate) write_times: Histogram,
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

/// What the writer needs besides the queue.
pub(crate) struct Opened {
    pub(crate) queue: Queue,
    pub(crate) mark: MarkFile,
    /// What the filling thread says.
    pub(crate) reports: UnboundedReceiver<Report>,
    /// Whether the log goes further than its mark.
    pub(crate) is_mark_behind: bool,
}

impl Queue {
    /// Reads the log in `disk` and has spares made for it.
    pub(crate) fn open(disk: &Arc<dyn Disk>, config: WalConfig, salts: Salts) -> Result<Opened, WalError> {
        let recovered = recover(&**disk, config.segment_bytes)?;
        let (spares, reports) = Spares::new(disk.clone(), &config, recovered.spares, recovered.next_spare)
            .map_err(|source| WalError::io("", source))?;
        let mut queue = Queue {
            index: Index::new(recovered.logs, config.cache_bytes),
            chain: Chain::new(recovered.chain, config.segment_bytes, salts),
            spares,
            budget_bytes: config.budget_bytes,
            segment_bytes: config.segment_bytes,
            promised_bytes: 0,
            is_promise_awaited: false,
            is_stopping: false,
            closed: None,
            stats: WalStats::default(),
            write_times: Histogram::default(),
        };
        queue.release_dead();
        let is_mark_behind = queue.chain.mark().seq > recovered.marked_seq;
        Ok(Opened { queue, mark: recovered.mark, reports, is_mark_behind })
    }

    /// Bytes that all segments take on disk, or will when all orders are carried out.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.chain.file_bytes() + self.spares.bytes()
    }

    /// See [`WalStats::used_bytes_max`].
    pub(crate) fn used_bytes_max(&self) -> u64 {
        (self.budget_bytes / self.segment_bytes - 1) * self.segment_bytes
    }

    /// See [`crate::Wal::frame_bytes_max`].
    pub(crate) fn frame_bytes_max(&self) -> usize {
        let state_bytes = padded(FRAME_HEADER_BYTES + self.index.states_bytes());
        self.segment_bytes as usize - BLOCK_BYTES - state_bytes
    }

    /// See [`crate::Wal::room`].
    pub(crate) fn room(&mut self, frame_bytes: usize, claim: Claim) -> Room {
        let bytes = padded(frame_bytes) as u64;
        if self.closed.is_some() {
            return Room::Free;
        }
        if bytes > self.chain.rest_bytes() && frame_bytes > self.frame_bytes_max() {
            return Room::Full(FullCause::Budget);
        }
        if self.has_room(self.promised_bytes + bytes, claim) {
            return Room::Free;
        }
        // Readers may have let go of segments since the last write.
        self.release_dead();
        if self.has_room(bytes, claim) {
            // Most of what is promised is already written, and counted twice until its promise is dropped.
            self.is_promise_awaited = true;
            return Room::Preparing;
        }
        self.shortage().map_or(Room::Preparing, Room::Full)
    }

    /// Whether frames of these many bytes together, in whatever order, need no more segments than there are, the reserve
    /// counted only for a claim to it.
    fn has_room(&self, bytes: u64, claim: Claim) -> bool {
        // Who asks for the reserve leaves some of it to those who cannot ask.
        let kept = if claim == Claim::Reserve { URGENT_BYTES.min(self.segment_bytes / 16) } else { 0 };
        let bytes = bytes + kept;
        let new_segments = if bytes <= self.chain.rest_bytes() {
            0
        } else {
            let segment = self.frame_bytes_max() as u64;
            // Two segments that follow each other are more than half full, or their frames would be in one.
            if bytes <= segment { 1 } else { 2 * bytes / segment + 1 }
        };
        let ready = self.spares.ready() as u64 + u64::from(claim == Claim::Reserve);
        ready > self.chain.owed() as u64 + new_segments
    }

    /// Promises room, which [`Queue::room`] has said there is.
    pub(crate) fn promise(&mut self, frame_bytes: usize) -> u64 {
        let bytes = padded(frame_bytes) as u64;
        self.promised_bytes += bytes;
        bytes
    }

    /// Takes a promise back; returns whether somebody waits for that.
    pub(crate) fn drop_promise(&mut self, bytes: u64) -> bool {
        assert!(bytes <= self.promised_bytes, "a promise is dropped once");
        self.promised_bytes -= bytes;
        std::mem::take(&mut self.is_promise_awaited)
    }

    /// Why no spare is to be expected, if none is.
    fn shortage(&self) -> Option<FullCause> {
        if self.spares.is_preparing() {
            None
        } else if self.spares.is_refused() {
            Some(FullCause::Disk)
        } else {
            Some(FullCause::Budget)
        }
    }

    /// See [`crate::Wal::blocked`].
    pub(crate) fn blocked(&self) -> Option<FullCause> {
        let next = self.chain.next_segment()?;
        let is_spare_missing = next.file.is_none() && !self.spares.has(self.chain.is_urgent());
        if is_spare_missing { self.shortage() } else { None }
    }

    /// Sees to it that the next frame, of at most `frame_bytes`, has its place: begins a segment if need be.
    pub(crate) fn make_place(&mut self, frame_bytes: usize) {
        if padded(frame_bytes) as u64 <= self.chain.rest_bytes() {
            return;
        }
        let body_bytes = self.index.states_bytes();
        let mut state = Arena::new(body_bytes).into_buf();
        state::encode(self.index.states(), &mut state);
        assert_eq!(state.len(), FRAME_HEADER_BYTES + body_bytes, "a state is as long as was said");
        let Blocks { buf, .. } = to_blocks(Arena::seal(state));
        self.chain.begin_segment(buf, body_bytes);
        self.stats.frames += 1;
        self.replenish();
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
        let Blocks { buf, is_copied, memory_bytes } = to_blocks(bytes);
        self.stats.copies += u64::from(is_copied);
        self.stats.frames += 1;
        let (at, frame) = self.chain.put(frame, buf, body_bytes, deaths, done);
        (at, Cached { frame, memory_bytes })
    }

    /// Notes that the group's entries up to `index` are applied: they may leave memory.
    pub(crate) fn applied(&mut self, group: GroupId, index: u64) {
        // One that the disk does not have yet is packed after the next one.
        self.index.applied(group, index, self.chain.durable());
        self.evict();
    }

    /// Lets entries leave memory while there are more than may be.
    pub(crate) fn evict(&mut self) {
        self.index.evict(self.chain.durable());
    }

    /// Gives segments back that nothing needs, oldest first, and has spares made for what that frees.
    pub(crate) fn release_dead(&mut self) {
        while let Some((name, bytes)) = self.chain.release_oldest() {
            self.spares.release(name, bytes);
        }
        self.replenish();
    }

    fn replenish(&mut self) {
        let free_bytes = self.budget_bytes.saturating_sub(self.file_bytes());
        self.spares.replenish(self.chain.owed(), free_bytes);
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
    pub(crate) fn take_unit(&mut self) -> Option<(Unit, Arc<SegmentFile>)> {
        if self.chain.next_segment()?.file.is_none() {
            let spare = self.spares.take(self.chain.is_urgent())?;
            self.chain.give_file(spare);
            self.replenish();
        }
        self.chain.take_unit()
    }

    /// Notes that a unit is durable.
    pub(crate) fn unit_written(&mut self, unit: &Unit) {
        self.chain.unit_written(unit);
        self.stats.units += 1;
        self.stats.bytes += unit.bytes;
        self.release_dead();
        self.evict();
    }

    /// Takes nothing from now on; returns all that waits, to be told so.
    pub(crate) fn close(&mut self, closed: Closed) -> Vec<Done> {
        self.closed = Some(closed);
        self.chain.abandon()
    }
}
