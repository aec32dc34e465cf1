//! Flush: the oldest bytes of a group's streams go from the log to a chunk in the cold tier.
//!
//! The log is read from the lowest entry that a stream needs, as far as a chunk takes. What streams name of these entries
//! becomes the chunk's parts. The chunk is put; then a command says so, and apply has the streams name the chunk. What no
//! longer fits by then, because its stream was deleted meanwhile, is garbage in the chunk.
//!
//! A chunk that was put and never became part of the state is garbage as a whole. With one voter nobody else puts chunks, so
//! whatever is in the store before the first flush, and is not named, goes.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weir_cold::{ChunkBuilder, ChunkName, Cold, PackIn};
use weir_storage::{EntryBody, EntryRef, FRAME_HEADER_BYTES, WalReader};
use weir_stream::{Batch, Chunk, ChunkId, Command, EncodedParts, KeyRef, PARTS_MAX, Part, Reply, Stream};
use weir_types::limits::BATCH_COMMANDS_MAX;
use weir_types::{Incarnation, StreamKey};

use crate::core::Core;
use crate::message::ShardError;
use crate::stats::add;
use crate::write::job::LocalGroup;

/// Bytes of the log that become one chunk, about.
const CHUNK_BYTES: u64 = 16 << 20;
/// Flushes before the log is looked at again.
const FLUSHES_AT_ONCE: usize = 4;
/// Bytes of the log that are read at once.
const READ_BYTES: usize = 4 << 20;
/// Streams whose places are looked up in one turn.
const STREAMS_PER_TURN: usize = 256;
/// Packs that are looked up in one turn.
const PACKS_PER_TURN: usize = 16_384;
/// Bytes of the parts in a chunk's command, about: it must always fit the log.
const PARTS_BYTES_MAX: usize = 512 << 10;
/// What a part takes in the command besides its stream's name, at most.
const PART_BYTES: usize = 48;
/// How long a chunk's command may wait for its outcome.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// What a group's flusher knows.
#[derive(Default)]
pub(crate) struct Flusher {
    /// Whether what earlier lives have left in the store is gone.
    is_swept: bool,
    /// The highest number that a chunk was given here, whatever became of it.
    last_number: u32,
    /// The lowest entry that is needed, and since when it is that one.
    floor: Option<(u64, Instant)>,
    /// The last entry that is to be moved because what is there has been in the log for too long.
    old_upto: Option<u64>,
    /// Chunks that nothing names any more, and that the store still has.
    gone: Vec<ChunkId>,
}

/// An entry of the log, as it was read.
struct Entry {
    time_ms: u64,
    body: Bytes,
}

/// What becomes a chunk.
#[derive(Default)]
struct Load {
    entries: BTreeMap<u64, Entry>,
    streams: BTreeSet<(Box<str>, u64)>,
    /// Bytes of the entries.
    bytes: u64,
    /// Bytes that the parts will take in the command.
    parts_bytes: usize,
}

/// Bytes of one stream that go into the chunk.
struct Piece {
    key: StreamKey,
    incarnation: Incarnation,
    start: u64,
    end: u64,
    packs: Vec<PackIn>,
}

impl Flusher {
    /// What is in the log now is as old as this, at least.
    pub(crate) fn begin(group: &LocalGroup) -> Flusher {
        let floor = group.state.borrow().hot_floor().map(|floor| (floor, Instant::now()));
        Flusher { floor, ..Flusher::default() }
    }

    /// Does what is to be done: sweeps, flushes, deletes what nothing names. Says whether there is more to be done at once; the
    /// log must give room in between.
    pub(crate) async fn run(
        &mut self,
        core: &Rc<Core>,
        group: &Rc<LocalGroup>,
        cold: &Cold,
    ) -> Result<bool, ShardError> {
        if !self.is_swept {
            self.sweep(core, group, cold).await?;
            self.is_swept = true;
        }
        let mut has_more = true;
        for _ in 0..FLUSHES_AT_ONCE {
            has_more = self.is_due(core, group) && self.flush(core, group, cold).await?;
            if !has_more {
                break;
            }
        }
        self.gone.extend(group.state.borrow_mut().take_gone_chunks());
        while let Some(&ChunkId { term, number }) = self.gone.last() {
            cold.delete(ChunkName { group: group.id, term, number }).await?;
            self.gone.pop();
        }
        Ok(has_more)
    }

    /// Deletes what is in the store and is not named, and says what is named and not in the store.
    async fn sweep(&self, core: &Core, group: &LocalGroup, cold: &Cold) -> Result<(), ShardError> {
        let found = cold.chunks(group.id).await?;
        for &chunk in found.iter().filter(|chunk| !group.has_chunk(**chunk)) {
            cold.delete(chunk).await?;
        }
        let found: BTreeSet<u32> = found.iter().map(|chunk| chunk.number).collect();
        let missing = group.state.borrow().chunks().filter(|chunk| !found.contains(&chunk.id.number)).count();
        if missing > 0 {
            add(&core.stats.cold_damaged, missing as u64);
            tracing::error!(
                group = group.id.0,
                missing,
                "chunks are missing from the cold tier: what is in them is not served"
            );
        }
        Ok(())
    }

    /// Whether there are too many bytes in the log, too old ones, or some that keep it from giving room.
    fn is_due(&mut self, core: &Core, group: &LocalGroup) -> bool {
        let (floor, hot_bytes, applied) = {
            let state = group.state.borrow();
            (state.hot_floor(), state.hot_bytes(), state.applied())
        };
        let Some(floor) = floor else { return false };
        match self.floor {
            Some((known, since)) if known == floor => {
                if since.elapsed() >= core.config.flush_age {
                    self.old_upto = applied;
                }
            }
            _ => self.floor = Some((floor, Instant::now())),
        }
        let is_old = Some(floor) <= self.old_upto;
        let wal = group.wal.stats();
        let is_short = wal.used_bytes > wal.used_bytes_max / 2 && group.wal.pinned_by().contains(&group.id);
        hot_bytes > core.config.flush_bytes || is_old || (is_short && Some(floor) <= group.replica.snapshot_index())
    }

    /// Moves the oldest bytes to a chunk; false when there was nothing to move.
    async fn flush(&mut self, core: &Rc<Core>, group: &Rc<LocalGroup>, cold: &Cold) -> Result<bool, ShardError> {
        let load = load(group, CHUNK_BYTES.min(core.config.flush_bytes.max(1))).await?;
        let Some((&upto, _)) = load.entries.last_key_value() else { return Ok(false) };
        let pieces = pieces(group, &load, upto).await;
        if pieces.is_empty() {
            return Ok(false);
        }
        let term = group.replica.standing().term;
        self.last_number = self.last_number.max(group.state.borrow().chunk_number_last()) + 1;
        let name = ChunkName { group: group.id, term, number: self.last_number };
        let built = tokio::task::spawn_blocking(move || build(name, load, &pieces));
        let (chunk, bytes, parts) = built.await.map_err(|_| ShardError::Unavailable)?;
        cold.put(name, bytes).await?;
        let Chunk { id, bytes, crc, .. } = chunk;
        let command = Command::Flush { chunk: id, bytes, crc, parts: EncodedParts::of(&parts) };
        match group.command_until(&command, Instant::now() + COMMAND_DEADLINE).await? {
            Reply::Flushed { parts } => {
                add(&core.stats.flushes, 1);
                add(&core.stats.flushed_bytes, bytes);
                tracing::debug!(group = group.id.0, chunk = name.object(), bytes, parts, upto, "chunk put");
                Ok(parts > 0)
            }
            // Another leader's term has begun: the chunk is garbage, and the next one has another name.
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => unreachable!("a flush is not answered with {reply:?}"),
        }
    }
}

/// Reads the log from the lowest entry that is needed, until there are `bytes_max` of it or the chunk has as many streams
/// as it may.
async fn load(group: &LocalGroup, bytes_max: u64) -> Result<Load, ShardError> {
    let mut load = Load::default();
    let (floor, last) = {
        let state = group.state.borrow();
        (state.hot_floor(), state.applied())
    };
    let Some((mut next, last)) = floor.zip(last) else { return Ok(load) };
    while next <= last
        && load.bytes < bytes_max
        && load.streams.len() + BATCH_COMMANDS_MAX <= PARTS_MAX
        && load.parts_bytes < PARTS_BYTES_MAX
    {
        let mut entries = Vec::new();
        let mut bytes = 0;
        // As many as are sure to fit.
        let entries_max = (PARTS_MAX - load.streams.len()) / BATCH_COMMANDS_MAX;
        while next <= last && bytes < READ_BYTES && entries.len() < entries_max {
            if group.state.borrow().is_hot(next) {
                let entry = group.wal.entry(group.id, next).expect("what a stream names is not purged");
                bytes += match &entry.body {
                    EntryBody::Cached(_, body_bytes) => *body_bytes,
                    EntryBody::Stored(place) => place.body_bytes(),
                };
                entries.push(entry);
            }
            next += 1;
        }
        let reader = group.wal.reader();
        let read = tokio::task::spawn_blocking(move || {
            entries.iter().try_for_each(|entry| load.add(entry, &reader)).map(|()| load)
        });
        load = read.await.map_err(|_| ShardError::Unavailable)??;
    }
    Ok(load)
}

impl Load {
    /// Adds an entry. Blocks where it is on disk.
    fn add(&mut self, entry: &EntryRef, reader: &WalReader) -> Result<(), ShardError> {
        let damaged = |error: &dyn std::fmt::Display| {
            tracing::error!(index = entry.id.index, %error, "a stored frame is damaged");
            ShardError::Corrupt(format!("entry {}: {error}", entry.id.index).into())
        };
        let body = match &entry.body {
            EntryBody::Cached(frame, body_bytes) => frame.slice(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body_bytes),
            EntryBody::Stored(place) => {
                reader.read_frame(place).map_err(|error| damaged(&error))?.slice(FRAME_HEADER_BYTES..)
            }
        };
        let batch = Batch::read(&body).map_err(|error| damaged(&error))?;
        let time_ms = batch.time_ms;
        for command in batch.commands() {
            let (_, command) = command.map_err(|error| damaged(&error))?;
            if let Command::Create { key, incarnation, records, .. } | Command::Append { key, incarnation, records, .. } =
                command
                && records.count() > 0
            {
                let key = key.as_str();
                if self.streams.insert((key.into(), incarnation.0)) {
                    self.parts_bytes += key.len() + PART_BYTES;
                }
            }
        }
        self.bytes += body.len() as u64;
        self.entries.insert(entry.id.index, Entry { time_ms, body });
        Ok(())
    }
}

/// What streams name of the entries up to `upto`.
async fn pieces(group: &LocalGroup, load: &Load, upto: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (n, (key, incarnation)) in load.streams.iter().enumerate() {
        if n % STREAMS_PER_TURN == STREAMS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        let (bucket, name) = key.split_once('/').expect("a stream's key is bucket/name");
        let key = StreamKey::new(bucket, name).expect("keys were checked when their request came");
        let start = group.state.borrow().stream(&key).map_or(0, Stream::hot_begin);
        let mut piece = Piece { key, incarnation: Incarnation(*incarnation), start, end: start, packs: Vec::new() };
        while piece.add_packs(&group.state.borrow(), load, upto) {
            tokio::task::yield_now().await;
        }
        if !piece.packs.is_empty() {
            pieces.push(piece);
        }
    }
    pieces
}

impl Piece {
    /// Adds the packs that follow, as many as one turn takes; false when these were all.
    fn add_packs(&mut self, state: &weir_stream::Group, load: &Load, upto: u64) -> bool {
        let alive = state.stream(&self.key).filter(|stream| stream.incarnation() == self.incarnation);
        let Some(stream) = alive else { return false };
        let mut entry: Option<(u64, &Entry)> = None;
        for found in stream.pieces_from(self.end).take(PACKS_PER_TURN) {
            let weir_stream::Piece::Hot(extent) = found else {
                unreachable!("what is in the log lies behind all else")
            };
            if extent.index > upto {
                return false;
            }
            // Many packs of one entry follow each other.
            let (_, entry) = match entry {
                Some((index, known)) if index == extent.index => (index, known),
                _ => *entry.insert((extent.index, &load.entries[&extent.index])),
            };
            let (pos, len) = (extent.pos as usize, extent.len as usize);
            self.packs.push(PackIn {
                bytes: entry.body.slice(pos..pos + len),
                payload_bytes: (extent.end - extent.start) as u32,
                time_ms: entry.time_ms,
            });
            self.end = extent.end;
        }
        stream.tail().position > self.end
    }
}

/// The chunk, its bytes, and its parts as the command carries them.
fn build(name: ChunkName, load: Load, pieces: &[Piece]) -> (Chunk, Bytes, Vec<u8>) {
    let mut builder = ChunkBuilder::new(name, load.bytes as usize);
    let parts: Vec<Part<'_>> = pieces
        .iter()
        .map(|piece| Part {
            key: KeyRef::from(&piece.key),
            incarnation: piece.incarnation,
            range: piece.start..piece.end,
            at: builder.part(piece.key.as_str(), piece.incarnation, piece.start, &piece.packs),
        })
        .collect();
    let encoded = Part::encode(&parts);
    let bytes = builder.finish();
    let id = ChunkId { term: name.term, number: name.number };
    let chunk = Chunk { id, bytes: bytes.len() as u64, crc: crc32c::crc32c(&bytes), live_bytes: 0 };
    (chunk, bytes, encoded)
}
