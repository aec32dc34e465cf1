//! Catch-up reads: from extents to a page that begins and ends at record boundaries.
//!
//! What is in the cold tier comes first in a page; how much of a chunk fits is found when its index is read.
//!
//! A plan is made on the shard in one go, so it sees one state; that it has at most [`PIECES_MAX`] pieces bounds how long
//! that takes. What is still in memory is shared, the rest is read back on another thread and checked. A page that would
//! keep much more in memory than it has is a copy; for all others the budget knows what they keep.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::iter;
use futures_util::{StreamExt, TryStreamExt};
use smallvec::SmallVec;
use tokio::time::Instant;
use weir_cold::{ChunkName, Cold, ColdError, PartRef, ReadMax, StoreError};
use weir_storage::{EntryBody, EntryPlace, FRAME_HEADER_BYTES, WalReader};
use weir_stream::batch::BATCH_HEAD_BYTES;
use weir_stream::{Ancestor, Batch, Extent, Facts, Group as State, Pack, Piece, Refusal, Stream};
use weir_types::{Offset, ReadFrom, StreamKey};

use crate::budget::{self, PageClaim};
use crate::core::{Core, Shard};
use crate::group::Leading;
use crate::message::{Answer, CallId, Limit, Page, Peer, Request, Response, ShardError};
use crate::stats::add;
use crate::write::job::LocalGroup;

/// Packs that a page is made of, at most: one per append, where appends are small.
const PIECES_MAX: usize = 1024;
/// A page of more pieces is made in a turn of its own.
const SHORT_PIECES_MAX: usize = 128;
/// Pieces below this are put together in one buffer; larger ones are shared as they are.
const COPY_BYTES_MAX: usize = 16 << 10;
/// What lies between two packs of an entry is read along with them, if it is not more than this.
const GAP_BYTES_MAX: u32 = 64 << 10;
/// How long a page waits for the cold tier.
const COLD_DEADLINE: Duration = Duration::from_secs(10);
/// Runs that are read from the cold tier at a time, for one page.
const COLD_READS: usize = 8;
/// A page shares memory of which it is at least this part, one in so many; else it is a copy.
const SHARED_PART_MIN: usize = 4;

/// A page, decided but not yet read.
pub(crate) struct Plan {
    pub(crate) stream: Facts,
    /// Who holds what comes first, if the stream itself does not: then nothing else is planned.
    pub(crate) inherited: Vec<Ancestor>,
    pub(crate) is_json: bool,
    pub(crate) start: u64,
    pub(crate) bytes_max: usize,
    /// What comes first, and is to be read from the cold tier.
    cold: Vec<PartRef>,
    pub(crate) stretches: Vec<Stretch>,
    pieces: usize,
}

/// Packs of the page that lie near each other in one entry. They are read together.
pub(crate) struct Stretch {
    /// In order, at least one.
    pub(crate) extents: SmallVec<[Extent; 1]>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    /// The entry's body, in memory.
    Memory(Bytes),
    /// The entry's place in the WAL.
    Disk(EntryPlace),
    /// The stretch as it was read back, and where from.
    Read(Bytes, EntryPlace),
    /// Read from a chunk: places are in these bytes, and all were appended at one time.
    Cold { bytes: Bytes, chunk: ChunkName, time_ms: u64 },
}

impl Shard {
    /// A stream's configuration and state. Not a use of it: a sliding TTL goes on.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when there is none.
    pub async fn head(&self, key: StreamKey) -> Result<Facts, ShardError> {
        match self.ask(Request::Head(key)).await? {
            Answer::Facts(facts) => Ok(facts),
            _ => unreachable!("a head is answered with the stream"),
        }
    }

    /// Reads a page of at most `bytes_max` bytes, or of one record if that is larger.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::OffsetGone`], [`Refusal::OffsetTrimmed`], [`Refusal::OffsetInvalid`], [`Limit::Reads`],
    /// [`ShardError::Corrupt`], [`ShardError::ColdDamaged`] or [`ShardError::ColdUnavailable`].
    pub async fn read(&self, key: StreamKey, from: ReadFrom, bytes_max: usize) -> Result<Page, ShardError> {
        self.read_page(key, from, bytes_max, false).await
    }

    /// As [`Shard::read`], for what is going to be encoded as live events.
    pub(crate) async fn read_live(&self, key: StreamKey, at: Offset, bytes_max: usize) -> Result<Page, ShardError> {
        self.read_page(key, ReadFrom::At(at), bytes_max, true).await
    }

    async fn read_page(
        &self,
        key: StreamKey,
        from: ReadFrom,
        bytes_max: usize,
        is_live: bool,
    ) -> Result<Page, ShardError> {
        match self.ask(Request::Read { key, from, bytes_max, is_live }).await? {
            Answer::Page(page) => Ok(*page),
            _ => unreachable!("a read is answered with a page"),
        }
    }

    /// Counts `bytes` that are made for a client among what clients have not taken yet, until the claim is dropped.
    ///
    /// # Errors
    /// [`Limit::Reads`] when there are not so many left.
    pub fn claim_read(&self, bytes: usize) -> Result<PageClaim, ShardError> {
        let claim = self.0.config.pages.claim(bytes).ok_or(ShardError::Limit(Limit::Reads));
        claim.inspect_err(|error| self.0.stats.limits_met.count_error(error))
    }

    /// What one connection may have of what clients have not taken yet, in bytes.
    pub fn read_share(&self) -> usize {
        self.0.config.pages.share()
    }
}

impl Core {
    /// The state of a stream, which is not a use of it.
    pub(crate) fn head(&self, key: &StreamKey) -> Result<Facts, ShardError> {
        let group = self.local_group(key);
        let state = group.leading()?;
        Ok(self.live_stream(&group, &state, key)?.facts())
    }

    /// Finds a stream that exists and has not expired.
    pub(crate) fn live_stream<'a>(
        &self,
        group: &LocalGroup,
        state: &'a Leading<'_>,
        key: &StreamKey,
    ) -> Result<&'a Stream, ShardError> {
        let found = state.find(key)?;
        if self.is_expired(group, found) { Err(ShardError::Refused(Refusal::NotFound)) } else { Ok(found) }
    }

    /// Reads a page: at once when it is in memory and short, in a task of its own otherwise.
    pub(crate) fn begin_read(
        self: &Rc<Self>,
        origin: Peer,
        call: CallId,
        (key, from): (StreamKey, ReadFrom),
        bytes_max: usize,
        is_live: bool,
    ) {
        let arrived = Instant::now();
        let group = self.local_group(&key);
        let bytes_max = self.config.pages.page_bytes_max(bytes_max);
        let plan = match self.plan(&group, &key, from, bytes_max) {
            Ok(plan) => plan,
            Err(error) => return self.respond(origin, call, Err(error)),
        };
        if plan.inherited.is_empty() {
            let again = move |core: &Core, group: &LocalGroup| core.plan(group, &key, from, bytes_max);
            let answer = move |core: &Core, page| core.count_page(arrived, page);
            return self.begin_page((origin, call), group, plan, again, is_live, answer);
        }
        let core = self.clone();
        self.work_counted(origin, call, async move {
            let page = core.read_inherited(&group, &key, plan, is_live).await;
            core.count_page(arrived, page)
        });
    }

    /// Reads what is planned: at once when it is in memory and short, in a task of its own otherwise.
    pub(crate) fn begin_page(
        self: &Rc<Self>,
        (origin, call): (Peer, CallId),
        group: Rc<LocalGroup>,
        plan: Plan,
        again: impl Fn(&Core, &LocalGroup) -> Result<Plan, ShardError> + 'static,
        is_live: bool,
        answer: impl FnOnce(&Core, Result<Page, ShardError>) -> Response + 'static,
    ) {
        let claimed = match self.claim_page(&plan, is_live) {
            Ok(claimed) => claimed,
            Err(error) => return self.respond(origin, call, Err(error)),
        };
        if plan.is_in_memory() && plan.is_short() {
            return self.respond(origin, call, answer(self, plan.into_page(claimed.1)));
        }
        let core = self.clone();
        self.work_counted(origin, call, async move {
            let page = core.load_page(&group, plan, || again(&core, &group), is_live, claimed).await;
            answer(&core, page)
        });
    }

    /// As [`Core::work`], for a read: it is in flight for as long as it takes.
    fn work_counted(self: &Rc<Self>, origin: Peer, call: CallId, read: impl Future<Output = Response> + 'static) {
        match self.count_in_flight(0) {
            Ok(counted) => self.work(origin, call, async move {
                let _counted = counted;
                read.await
            }),
            Err(error) => self.respond(origin, call, Err(error)),
        }
    }

    /// Reads what is planned, for which memory is claimed.
    pub(crate) async fn load_page(
        &self,
        group: &LocalGroup,
        plan: Plan,
        again: impl Fn() -> Result<Plan, ShardError>,
        is_live: bool,
        mut claimed: (usize, PageClaim),
    ) -> Result<Page, ShardError> {
        if plan.is_in_memory() {
            return plan.into_page(claimed.1);
        }
        let plan = self.with_cold(group, plan, again).await?;
        if plan.claimed_bytes(is_live) > claimed.0 {
            drop(claimed);
            claimed = self.claim_page(&plan, is_live)?;
        }
        let reader = group.wal.reader();
        let read = tokio::task::spawn_blocking(move || plan.load(&reader)?.into_page(claimed.1));
        self.note_damage(read.await.unwrap_or(Err(ShardError::Unavailable))).await
    }

    /// Claims the memory of a page; says how much that is.
    pub(crate) fn claim_page(&self, plan: &Plan, is_live: bool) -> Result<(usize, PageClaim), ShardError> {
        let bytes = plan.claimed_bytes(is_live);
        let claim = self.config.pages.claim(bytes).ok_or(ShardError::Limit(Limit::Reads))?;
        Ok((bytes, claim))
    }

    /// The plan, when what of it is in the cold tier has been read; made `again` if that has moved meanwhile.
    pub(crate) async fn with_cold(
        &self,
        group: &LocalGroup,
        mut plan: Plan,
        again: impl Fn() -> Result<Plan, ShardError>,
    ) -> Result<Plan, ShardError> {
        while !plan.cold.is_empty() {
            let cold = self.cold.as_ref().expect("a shard with chunks has a cold tier");
            let chunks: Vec<ChunkName> = plan.cold.iter().map(|part| part.chunk).collect();
            let waiting = self.config.pages.wait(plan.cold_bytes()).ok_or(ShardError::Limit(Limit::Reads))?;
            let loaded = tokio::time::timeout(COLD_DEADLINE, plan.load_cold(cold)).await;
            drop(waiting);
            match loaded.unwrap_or_else(|_| Err(StoreError::Failed("it takes too long to answer".to_string()).into())) {
                Ok(()) => {}
                // The bytes were moved or deleted, and then what they were in.
                Err(ColdError::Damaged { .. }) if !chunks.iter().all(|chunk| group.has_chunk(*chunk)) => {
                    plan = again()?;
                }
                Err(error) => {
                    if let ColdError::Damaged { chunk, .. } = &error
                        && let Some(chunk) = ChunkName::parse(chunk)
                    {
                        group.note_damaged(chunk);
                    }
                    return self.note_damage(Err(error.into())).await;
                }
            }
        }
        Ok(plan)
    }

    /// Counts and logs what cannot be had of the cold tier.
    pub(crate) async fn note_damage<T>(&self, read: Result<T, ShardError>) -> Result<T, ShardError> {
        match &read {
            Err(ShardError::ColdDamaged(reason)) => {
                add(&self.stats.cold_damaged, 1);
                tracing::error!(%reason, "cold bytes are damaged");
            }
            Err(ShardError::ColdUnavailable(reason)) => {
                add(&self.stats.cold_unavailable, 1);
                tracing::warn!(%reason, "cold bytes cannot be read");
            }
            _ => {}
        }
        read
    }

    /// Counts a read that came at `arrived` and is answered now.
    fn count_page(&self, arrived: Instant, page: Result<Page, ShardError>) -> Response {
        page.map(|page| {
            self.stats.read_times.count_time(arrived.elapsed());
            self.stats.count_read(page.next.position - page.start.position);
            Answer::Page(Box::new(page))
        })
    }

    /// Whether a record begins at `offset`, or the last one ends there: as a read at it would say, but that is no use of the
    /// stream.
    ///
    /// # Errors
    /// As for a read.
    pub(crate) async fn check_boundary(
        self: &Rc<Self>,
        group: &LocalGroup,
        key: &StreamKey,
        offset: Offset,
    ) -> Result<(), ShardError> {
        let again = || self.plan_unused(group, key, ReadFrom::At(offset), 1);
        let plan = again()?;
        if !plan.inherited.is_empty() {
            return self.read_inherited(group, key, plan, false).await.map(|_| ());
        }
        let claimed = self.claim_page(&plan, false)?;
        self.load_page(group, plan, again, false, claimed).await.map(|_| ())
    }

    /// Decides a page, which is a use of the stream.
    pub(crate) fn plan(
        &self,
        group: &LocalGroup,
        key: &StreamKey,
        from: ReadFrom,
        bytes_max: usize,
    ) -> Result<Plan, ShardError> {
        let plan = self.plan_unused(group, key, from, bytes_max)?;
        self.touch(plan.stream.incarnation, plan.stream.expiry);
        Ok(plan)
    }

    fn plan_unused(
        &self,
        group: &LocalGroup,
        key: &StreamKey,
        from: ReadFrom,
        bytes_max: usize,
    ) -> Result<Plan, ShardError> {
        let state = group.leading()?;
        let stream = self.live_stream(group, &state, key)?;
        let start = stream.check_offset(from)?;
        Ok(Plan::of(group, &state, stream, start, bytes_max))
    }
}

impl Plan {
    /// A page of a stream from `start` on: where its bytes are or, if it does not hold them itself, who does.
    pub(crate) fn of(group: &LocalGroup, state: &State, stream: &Stream, start: u64, bytes_max: usize) -> Plan {
        let inherited = stream.inherited_from(start).to_vec();
        let (mut stretches, mut cold): (Vec<Stretch>, Vec<PartRef>) = Default::default();
        let (mut pieces, mut bytes) = (0, 0);
        let own = if inherited.is_empty() { Some(stream.pieces_from(start)) } else { None };
        for piece in own.into_iter().flatten() {
            let extent = match piece {
                Piece::Hot(extent) => extent,
                Piece::Cold { .. } if pieces == PIECES_MAX || bytes >= bytes_max => break,
                Piece::Cold { start: begin, end, chunk, at } => {
                    let chunk = group.chunk_name(state.chunk(chunk).expect("a chunk that is named is known").id);
                    let range = begin.max(start)..end;
                    (pieces, bytes) = (pieces + 1, bytes + (range.end - range.start) as usize);
                    cold.push(PartRef { chunk, at, incarnation: stream.incarnation(), range });
                    continue;
                }
            };
            let extent_bytes = (extent.end - extent.start.max(start)) as usize;
            if pieces == PIECES_MAX || (pieces > 0 && bytes + extent_bytes > bytes_max) {
                break;
            }
            (pieces, bytes) = (pieces + 1, bytes + extent_bytes);
            let last = stretches.last_mut();
            if let Some(last) = last.filter(|last| last.is_near(&extent)) {
                last.extents.push(extent);
                continue;
            }
            let same_entry = stretches.last().filter(|last| last.extents[0].index == extent.index);
            let source = match same_entry {
                Some(last) => last.source.clone(),
                None => source_of(group, extent.index),
            };
            stretches.push(Stretch { extents: [extent].into(), source });
        }
        let (stream, is_json) = (stream.facts(), stream.is_json());
        Plan { stream, inherited, is_json, start, bytes_max, cold, stretches, pieces }
    }
}

fn source_of(group: &LocalGroup, index: u64) -> Source {
    let entry = group.wal.entry(group.id, index).expect("an extent's entry is not purged before its stream");
    match entry.body {
        EntryBody::Cached(entry, _) => Source::Memory(entry.slice(FRAME_HEADER_BYTES..)),
        EntryBody::Stored(place) => Source::Disk(place),
    }
}

impl Plan {
    /// Reads what is in the cold tier; as much of it as fits the page, and then nothing behind it.
    async fn load_cold(&mut self, cold: &Cold) -> Result<(), ColdError> {
        let mut loaded: Vec<Stretch> = Vec::new();
        let (mut position, mut packs) = (self.start, 0);
        let page_end = self.start.saturating_add(self.bytes_max as u64);
        let read = |part: PartRef| async move {
            let bytes = page_end.saturating_sub(part.range.start) as usize;
            let (chunk, end) = (part.chunk, part.range.end);
            cold.read(part, ReadMax { bytes, packs: PIECES_MAX }, Pack::is_whole).await.map(|read| (chunk, end, read))
        };
        let mut reads = iter(std::mem::take(&mut self.cold)).map(read).buffered(COLD_READS);
        while let Some((chunk, end, read)) = reads.try_next().await? {
            for pack in &read.packs {
                if packs == PIECES_MAX || (packs > 0 && pack.end > page_end) {
                    break;
                }
                packs += 1;
                let extent = Extent { start: pack.start, end: pack.end, index: 0, pos: pack.pos, len: pack.len };
                position = pack.end;
                match loaded.last_mut() {
                    Some(Stretch { extents, source: Source::Cold { chunk: of, time_ms, .. } })
                        if *of == chunk && *time_ms == pack.time_ms =>
                    {
                        extents.push(extent);
                    }
                    _ => {
                        let source = Source::Cold { bytes: read.bytes.clone(), chunk, time_ms: pack.time_ms };
                        loaded.push(Stretch { extents: [extent].into(), source });
                    }
                }
            }
            if position < end || position >= page_end {
                self.stretches.clear();
                break;
            }
        }
        let hot = self.stretches.iter().map(|stretch| stretch.extents.len()).sum::<usize>();
        if packs + hot > PIECES_MAX {
            self.stretches.clear();
        }
        loaded.append(&mut self.stretches);
        self.stretches = loaded;
        self.pieces = self.stretches.iter().map(|stretch| stretch.extents.len()).sum();
        Ok(())
    }

    /// Reads what is not in memory back from the WAL and checks it. Blocks.
    pub(crate) fn load(mut self, reader: &WalReader) -> Result<Plan, ShardError> {
        for stretch in &mut self.stretches {
            let Source::Disk(place) = &stretch.source else { continue };
            let (first, last) = stretch.ends();
            let read = reader.read(place, first.pos as usize..(last.pos + last.len) as usize);
            let bytes = read.map_err(|error| corrupt(first, &error.to_string()))?;
            stretch.source = Source::Read(bytes, place.clone());
            for extent in &stretch.extents {
                Pack::check(&stretch.pack(extent)).map_err(|error| corrupt(extent, &error.to_string()))?;
            }
        }
        Ok(self)
    }

    /// Whether nothing has to be read from anywhere.
    fn is_in_memory(&self) -> bool {
        self.cold.is_empty() && self.stretches.iter().all(|stretch| matches!(stretch.source, Source::Memory(_)))
    }

    /// Whether many such pages may be made at a stretch.
    fn is_short(&self) -> bool {
        self.pieces <= SHORT_PIECES_MAX
    }

    /// Bytes that the page will have, or more where it begins or ends inside a pack.
    fn bytes(&self) -> usize {
        self.stretches.iter().map(Stretch::bytes).sum()
    }

    /// Whether the page becomes one buffer of its own.
    fn is_joined(&self) -> bool {
        self.pieces > 1 && self.bytes() / self.pieces <= COPY_BYTES_MAX
    }

    /// Whether a stretch is copied out of memory that is much larger than what the page has of it.
    fn is_copied(&self, stretch: &Stretch) -> bool {
        stretch.bytes().min(self.bytes_max) * SHARED_PART_MIN < stretch.shared_bytes()
    }

    /// Bytes that will be read from the cold tier, about.
    fn cold_bytes(&self) -> usize {
        let bytes: u64 = self.cold.iter().map(|part| part.range.end - part.range.start).sum();
        self.bytes_max.min(bytes as usize)
    }

    /// Bytes to claim for the page.
    fn claimed_bytes(&self, is_live: bool) -> usize {
        let kept_bytes = self.kept_bytes() + self.cold_bytes();
        if is_live { budget::with_encoded(kept_bytes) } else { kept_bytes }
    }

    /// Bytes that the page will keep in memory.
    fn kept_bytes(&self) -> usize {
        if self.is_joined() {
            return self.bytes();
        }
        let kept = |stretch| if self.is_copied(stretch) { stretch.bytes() } else { stretch.shared_bytes() };
        self.stretches.iter().map(kept).sum()
    }

    fn into_page(self, claim: PageClaim) -> Result<Page, ShardError> {
        let mut payloads = Vec::with_capacity(self.pieces);
        let mut position = self.start;
        let is_joined = self.is_joined();
        for stretch in &self.stretches {
            let is_copied = !is_joined && self.is_copied(stretch);
            for extent in &stretch.extents {
                let payload = stretch.cut(extent, position, self.bytes_max)?;
                position += payload.len() as u64;
                payloads.push(if is_copied { Bytes::copy_from_slice(&payload) } else { payload });
            }
        }
        let Facts { incarnation, earliest, next: tail, lineages, content_type, closed, expiry, .. } = self.stream;
        let up_to_date = position == tail.position;
        let mut chunks = if is_joined { vec![join(&payloads)] } else { payloads };
        if let Some(last) = chunks.pop() {
            chunks.push(budget::keep(last, claim));
        }
        Ok(Page {
            incarnation,
            content_type,
            start: lineages.offset(self.start),
            next: lineages.offset(position),
            chunks,
            up_to_date,
            closed: closed && up_to_date,
            expiry,
            earliest,
        })
    }
}

impl Stretch {
    /// Whether the pack lies behind the last one, so near that they are read together.
    fn is_near(&self, extent: &Extent) -> bool {
        let (_, last) = self.ends();
        last.index == extent.index && extent.pos - (last.pos + last.len) <= GAP_BYTES_MAX
    }

    fn ends(&self) -> (&Extent, &Extent) {
        let both = self.extents.first().zip(self.extents.last());
        both.expect("a stretch has an extent")
    }

    /// Bytes of the stream in it.
    fn bytes(&self) -> usize {
        self.extents.iter().map(|extent| (extent.end - extent.start) as usize).sum()
    }

    /// Bytes that stay in memory for as long as a part of it is shared.
    fn shared_bytes(&self) -> usize {
        match &self.source {
            Source::Memory(body) => body.len(),
            Source::Disk(_) | Source::Read(..) | Source::Cold { .. } => {
                let (first, last) = self.ends();
                (last.pos + last.len - first.pos) as usize
            }
        }
    }

    /// A pack.
    ///
    /// # Panics
    /// When the plan has something on disk and is not loaded.
    pub(crate) fn pack(&self, extent: &Extent) -> Bytes {
        let (bytes, begin) = match &self.source {
            Source::Memory(bytes) | Source::Cold { bytes, .. } => (bytes, 0),
            Source::Read(bytes, _) => (bytes, self.ends().0.pos),
            Source::Disk(_) => unreachable!("a plan is loaded before it is used"),
        };
        let pos = (extent.pos - begin) as usize;
        bytes.slice(pos..pos + extent.len as usize)
    }

    /// The time at which the packs were appended. Blocks where that is on disk.
    pub(crate) fn batch_time_ms(&self, reader: &WalReader) -> Result<u64, ShardError> {
        let damaged = |reason: &dyn std::fmt::Display| corrupt(self.ends().0, &reason.to_string());
        let head = match &self.source {
            Source::Memory(body) => body.slice(..BATCH_HEAD_BYTES),
            Source::Cold { time_ms, .. } => return Ok(*time_ms),
            Source::Read(_, place) | Source::Disk(place) => {
                reader.read(place, 0..BATCH_HEAD_BYTES).map_err(|error| damaged(&error))?
            }
        };
        Batch::read(&head).map(|batch| batch.time_ms).map_err(|error| damaged(&error))
    }

    /// A pack's payload from `start` on: all of it, or as many records as fit `bytes_max`, at least one.
    fn cut(&self, extent: &Extent, start: u64, bytes_max: usize) -> Result<Bytes, ShardError> {
        let bytes = self.pack(extent);
        let payload = bytes.slice(bytes.len() - (extent.end - extent.start) as usize..);
        if start <= extent.start && payload.len() <= bytes_max {
            return Ok(payload);
        }
        // Only here the record boundaries matter: the page begins or ends inside one pack's records.
        let pack = Pack::read(&bytes).map_err(|error| corrupt(extent, &error.to_string()))?;
        let cut = pack.cut(start.saturating_sub(extent.start) as usize, bytes_max);
        cut.map(|range| payload.slice(range)).map_err(|_| ShardError::Refused(Refusal::OffsetInvalid))
    }
}

/// Small pieces in one buffer.
fn join(payloads: &[Bytes]) -> Bytes {
    let mut joined = BytesMut::with_capacity(payloads.iter().map(Bytes::len).sum());
    payloads.iter().for_each(|payload| joined.extend_from_slice(payload));
    joined.freeze()
}

pub(crate) fn corrupt(extent: &Extent, reason: &str) -> ShardError {
    tracing::error!(index = extent.index, reason, "a stored frame is damaged");
    ShardError::Corrupt(Arc::from(format!("entry {}: {reason}", extent.index)))
}
