//! Catch-up reads: from extents to a page that begins and ends at record boundaries.
//!
//! A plan is made on the shard in one go, so it sees one state. Frames that are still in memory are shared, those that
//! are not are read back on another thread and checked; nothing is copied when a page is one frame.

use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use weir_storage::{EntryBody, FRAME_HEADER_BYTES, Place, WalReader};
use weir_stream::batch::BATCH_HEAD_BYTES;
use weir_stream::{Batch, Extent, Refusal, Stream, Summary, command_frame};
use weir_types::{Lineage, Offset, ReadFrom, ShardId, StreamKey};

use crate::budget::{self, PageClaim};
use crate::core::{Core, Shard};
use crate::message::{Answer, CallId, Limit, Page, Request, Response, ShardError};
use crate::write::job::LocalGroup;

/// Pieces below this are put together in one buffer; larger ones are shared as they are.
const COPY_BYTES_MAX: usize = 16 << 10;

/// A page, decided but not yet read.
pub(crate) struct Plan {
    stream: Summary,
    pub(crate) is_json: bool,
    pub(crate) start: u64,
    pub(crate) bytes_max: usize,
    pub(crate) pieces: Vec<Piece>,
}

/// One command's frame with bytes of the page.
pub(crate) struct Piece {
    pub(crate) extent: Extent,
    source: Source,
}

enum Source {
    /// The entry's body, in memory.
    Memory(Bytes),
    /// The entry's place in the WAL; the frame is at the extent's position in it.
    Disk(Place),
    /// The frame as it was read back, and where from.
    Read(Bytes, Place),
}

impl Shard {
    /// A stream's configuration and state. Not a use of it: a sliding TTL goes on.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when there is none.
    pub async fn head(&self, key: StreamKey) -> Result<Summary, ShardError> {
        match self.call(self.owner_of(&key), Request::Head(key)).await? {
            Answer::Summary(summary) => Ok(summary),
            _ => unreachable!("a head is answered with the stream"),
        }
    }

    /// Reads a page of at most `bytes_max` bytes, or of one record if that is larger.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::OffsetGone`], [`Refusal::OffsetInvalid`], [`Limit::Reads`], or
    /// [`ShardError::Corrupt`].
    pub async fn read(&self, key: StreamKey, from: ReadFrom, bytes_max: usize) -> Result<Page, ShardError> {
        match self.call(self.owner_of(&key), Request::Read { key, from, bytes_max }).await? {
            Answer::Page(page) => Ok(*page),
            _ => unreachable!("a read is answered with a page"),
        }
    }
}

impl Core {
    /// The state of a stream, which is not a use of it.
    pub(crate) fn head(&self, key: &StreamKey) -> Result<Summary, ShardError> {
        let group = self.local_group(key);
        let state = group.state.borrow();
        Ok(self.live_stream(&group, &state, key)?.summary())
    }

    /// Finds a stream that exists and has not expired.
    pub(crate) fn live_stream<'a>(
        &self,
        group: &LocalGroup,
        state: &'a weir_stream::Group,
        key: &StreamKey,
    ) -> Result<&'a Stream, ShardError> {
        let found = state.stream(key).filter(|stream| !self.is_expired(group, stream));
        found.ok_or(ShardError::Refused(Refusal::NotFound))
    }

    /// Reads a page: at once when it is in memory, in a task of its own otherwise.
    pub(crate) fn begin_read(
        self: &Rc<Self>,
        origin: ShardId,
        call: CallId,
        key: StreamKey,
        from: ReadFrom,
        bytes_max: usize,
    ) {
        let group = self.local_group(&key);
        let plan = match self.plan(&group, &key, from, bytes_max) {
            Ok(plan) => plan,
            Err(error) => return self.respond(origin, call, Err(error)),
        };
        let Some(claim) = self.config.pages.claim(plan.bytes()) else {
            return self.respond(origin, call, Err(ShardError::Limit(Limit::Reads)));
        };
        if plan.pieces.iter().all(|piece| matches!(piece.source, Source::Memory(_))) {
            return self.finish_read(origin, call, plan.into_page(claim));
        }
        let reader = group.wal.reader();
        let shard = self.clone();
        tokio::task::spawn_local(async move {
            let read = tokio::task::spawn_blocking(move || plan.load(&reader)?.into_page(claim));
            let page = read.await.unwrap_or(Err(ShardError::Unavailable));
            shard.finish_read(origin, call, page);
        });
    }

    fn finish_read(&self, origin: ShardId, call: CallId, page: Result<Page, ShardError>) {
        if let Ok(page) = &page {
            self.stats.count_read(page.next.position - page.start.position);
        }
        let response: Response = page.map(|page| Answer::Page(Box::new(page)));
        self.respond(origin, call, response);
    }

    pub(crate) fn plan(
        &self,
        group: &LocalGroup,
        key: &StreamKey,
        from: ReadFrom,
        bytes_max: usize,
    ) -> Result<Plan, ShardError> {
        let state = group.state.borrow();
        let stream = self.live_stream(group, &state, key)?;
        let start = stream.check_offset(from)?;
        self.touch(stream);
        let mut pieces = Vec::new();
        let mut bytes = 0;
        for extent in stream.extents_from(start) {
            let extent_bytes = (extent.end - extent.start.max(start)) as usize;
            if !pieces.is_empty() && bytes + extent_bytes > bytes_max {
                break;
            }
            let entry = group.wal.entry(group.id, extent.index);
            let source = match entry.expect("an extent's entry is not purged before its stream").body {
                EntryBody::Cached(entry, _) => Source::Memory(entry.slice(FRAME_HEADER_BYTES..)),
                EntryBody::Stored(place) => Source::Disk(place),
            };
            pieces.push(Piece { extent, source });
            bytes += extent_bytes;
        }
        Ok(Plan { stream: stream.summary(), is_json: stream.is_json(), start, bytes_max, pieces })
    }
}

impl Plan {
    /// Reads what is not in memory back from the WAL and checks it. Blocks.
    pub(crate) fn load(mut self, reader: &WalReader) -> Result<Plan, ShardError> {
        for piece in &mut self.pieces {
            let Source::Disk(place) = &piece.source else { continue };
            let pos = piece.extent.frame_pos as usize;
            let read = reader.read(place, pos..pos + piece.extent.frame_len as usize);
            let frame = read.map_err(|error| corrupt(&piece.extent, &error.to_string()))?;
            command_frame(&frame).map_err(|error| corrupt(&piece.extent, &error.to_string()))?;
            piece.source = Source::Read(frame, place.clone());
        }
        Ok(self)
    }

    /// Bytes that the page will have, or more where it ends inside a command's records.
    fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| (piece.extent.end - piece.extent.start.max(self.start)) as usize).sum()
    }

    fn into_page(self, claim: PageClaim) -> Result<Page, ShardError> {
        let mut payloads = Vec::with_capacity(self.pieces.len());
        let mut position = self.start;
        for piece in &self.pieces {
            let payload = piece.cut(position, self.bytes_max)?;
            position += payload.len() as u64;
            payloads.push(payload);
        }
        let Summary { incarnation, next: tail, content_type, closed, expiry, .. } = self.stream;
        let at = |position: u64, lineage: Lineage| Offset { position, lineage };
        let up_to_date = position == tail.position;
        let mut chunks = join(payloads);
        if let Some(last) = chunks.pop() {
            chunks.push(budget::keep(last, claim));
        }
        Ok(Page {
            incarnation,
            content_type,
            start: at(self.start, tail.lineage),
            next: at(position, tail.lineage),
            chunks,
            up_to_date,
            closed: closed && up_to_date,
            expiry,
        })
    }
}

impl Piece {
    /// The frame.
    ///
    /// # Panics
    /// When the plan has something on disk and is not loaded.
    pub(crate) fn frame(&self) -> Bytes {
        match &self.source {
            Source::Memory(body) => {
                let pos = self.extent.frame_pos as usize;
                body.slice(pos..pos + self.extent.frame_len as usize)
            }
            Source::Read(frame, _) => frame.clone(),
            Source::Disk(_) => unreachable!("a plan is loaded before it is used"),
        }
    }

    /// The time of the batch that the frame is in. Blocks where that is on disk.
    pub(crate) fn batch_time_ms(&self, reader: &WalReader) -> Result<u64, ShardError> {
        let damaged = |reason: &dyn std::fmt::Display| corrupt(&self.extent, &reason.to_string());
        let head = match &self.source {
            Source::Memory(body) => body.slice(..BATCH_HEAD_BYTES),
            Source::Read(_, place) | Source::Disk(place) => {
                reader.read(place, 0..BATCH_HEAD_BYTES).map_err(|error| damaged(&error))?
            }
        };
        Batch::read(&head).map(|batch| batch.time_ms).map_err(|error| damaged(&error))
    }

    /// The piece's payload from `start` on: all of it, or as many records as fit `bytes_max`, at least one.
    fn cut(&self, start: u64, bytes_max: usize) -> Result<Bytes, ShardError> {
        let frame = self.frame();
        let Extent { start: extent_start, end, .. } = self.extent;
        let payload = frame.slice(frame.len() - (end - extent_start) as usize..);
        if start <= extent_start && payload.len() <= bytes_max {
            return Ok(payload);
        }
        // Only here the record boundaries matter: the page begins or ends inside one command's records.
        let view = command_frame(&frame).map_err(|error| corrupt(&self.extent, &error.to_string()))?;
        let skip = start.saturating_sub(extent_start) as usize;
        if skip != 0 && !view.record_ends().any(|record_end| record_end as usize == skip) {
            return Err(ShardError::Refused(Refusal::OffsetInvalid));
        }
        let mut end = skip;
        for record_end in view.record_ends().map(|record_end| record_end as usize).filter(|&end| end > skip) {
            if end > skip && record_end - skip > bytes_max {
                break;
            }
            end = record_end;
        }
        Ok(payload.slice(skip..end))
    }
}

/// Small pieces become one buffer, large ones stay as they are.
fn join(payloads: Vec<Bytes>) -> Vec<Bytes> {
    let bytes: usize = payloads.iter().map(Bytes::len).sum();
    if payloads.len() <= 1 || bytes / payloads.len() > COPY_BYTES_MAX {
        return payloads;
    }
    let mut joined = BytesMut::with_capacity(bytes);
    payloads.iter().for_each(|payload| joined.extend_from_slice(payload));
    vec![joined.freeze()]
}

pub(crate) fn corrupt(extent: &Extent, reason: &str) -> ShardError {
    tracing::error!(index = extent.index, reason, "a stored frame is damaged");
    ShardError::Corrupt(Arc::from(format!("entry {}: {reason}", extent.index)))
}
