//! Chunks that are damaged or missing are built again, for as long as the log has what they were made of.
//!
//! The command of a flush says which bytes of which streams are in its chunk. Which entries they came from was forgotten when it
//! was applied. So these streams are looked at as they were right before it: as the last snapshot has them, with the log behind
//! it applied to them and to no others. That takes no memory until a chunk is damaged, and little then. What comes of it is put
//! only if its length and its checksum are those that the command has.
//!
//! The next snapshot behind a flush gives up its entries, so this is for some minutes; and a chunk that was merged from others
//! never was in the log. Then no other copy exists.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use weir_cold::{ChunkName, Cold, PackIn};
use weir_raft::{is_batch, read_streams, snapshot_chunks};
use weir_storage::EntryId;
use weir_stream::{Batch, Chunk, ChunkId, Command, Extent, Group, Piece as Found};
use weir_types::StreamKey;

use crate::core::Core;
use crate::message::ShardError;
use crate::stats::add;
use crate::upkeep::copier::{blocking, current};
use crate::upkeep::entries::{body, damaged};
use crate::upkeep::maker::{Piece, build};
use crate::upkeep::sweeper::Hold;
use crate::write::job::LocalGroup;

/// How often it looks whether somebody has met a damaged chunk.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of the log that are read at once, and entries.
const READ_BYTES: usize = 4 << 20;
const ENTRIES_PER_TURN: usize = 4096;

const GIVEN_UP: &str = "the log has given up the entries that it was made of";
const MERGED: &str = "it was merged from other chunks";
const CHANGED: &str = "a stream was deleted or trimmed while it was made";

/// Why a chunk is not there again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unbuilt {
    /// It cannot be built, now or later.
    #[error("no other copy exists: {0}")]
    NoCopy(&'static str),
    /// It may be possible later.
    #[error("it could not be built again: {0:?}")]
    Failed(ShardError),
}

impl<E: Into<ShardError>> From<E> for Unbuilt {
    fn from(error: E) -> Unbuilt {
        Unbuilt::Failed(error.into())
    }
}

/// The command of a flush, as it is looked for in the log.
struct Flush {
    chunk: ChunkId,
    /// Its entry, and the parts of its chunk without their packs.
    found: Option<(u64, Vec<Piece>)>,
}

/// Streams as they were.
struct Past {
    group: Group,
    keys: BTreeSet<Box<str>>,
}

/// Builds the group's chunks again that somebody has met damaged. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>, cold: Cold) {
    let mut lost = BTreeSet::new();
    while !group.has_failed() {
        tokio::time::sleep(LOOK_EVERY).await;
        lost.retain(|chunk| group.has_chunk(*chunk));
        let damaged = group.damaged.take();
        // Whoever leads now may have deleted them. Those that are read there are met there.
        if group.leading().is_err() {
            continue;
        }
        for name in damaged {
            if lost.contains(&name) {
                continue;
            }
            match repair(&core, &group, &cold, name).await {
                Ok(()) => {}
                Err(Unbuilt::NoCopy(reason)) => {
                    tracing::error!(
                        group = group.id.0,
                        chunk = name.object(),
                        reason,
                        "a damaged chunk has no other copy"
                    );
                    lost.insert(name);
                }
                // Who reads it next asks again.
                Err(Unbuilt::Failed(error)) => {
                    let (group, chunk) = (group.id.0, name.object());
                    tracing::warn!(group, chunk, ?error, "a damaged chunk could not be built again");
                }
            }
        }
    }
}

/// Builds a chunk again unless it is whole.
async fn repair(core: &Core, group: &LocalGroup, cold: &Cold, name: ChunkName) -> Result<(), Unbuilt> {
    let Some(chunk) = group.chunk(name) else { return Ok(()) };
    match cold.verify(name, chunk.bytes, chunk.crc).await? {
        // What was read was damaged on its way, or somebody has put it back.
        None => cold.forget(name).await,
        Some(_) => rebuild(core, group, cold, &chunk).await?,
    }
    Ok(())
}

/// Builds a chunk again that is not as it was written, and puts it in its place.
pub(crate) async fn rebuild(core: &Core, group: &LocalGroup, cold: &Cold, chunk: &Chunk) -> Result<(), Unbuilt> {
    // It takes as much memory as a piece of a snapshot.
    let _turn = core.copying.lock().await;
    // Nobody is to delete it before it is there.
    let _hold = Hold::new(group);
    let name = group.chunk_name(chunk.id);
    if !group.has_chunk(name) {
        return Ok(());
    }
    let built = built(group, chunk).await?;
    cold.put(name, built).await?;
    cold.forget(name).await;
    add(&core.stats.chunks_rebuilt, 1);
    tracing::warn!(group = group.id.0, chunk = name.object(), "a damaged chunk was built again from the log");
    Ok(())
}

/// The chunk, as it was written.
async fn built(group: &LocalGroup, chunk: &Chunk) -> Result<Bytes, Unbuilt> {
    let last = group.applied().applied().unwrap_or(0);
    let mut next = group.wal.first_index(group.id);
    if let Some(file) = current(group).await? {
        next = next.max(file.last().index + 1);
        let (_, chunks) = blocking(move || snapshot_chunks(file)).await?;
        if chunks.iter().any(|known| known.id == chunk.id) {
            return Err(Unbuilt::NoCopy(GIVEN_UP));
        }
    }
    let flush = Flush { chunk: chunk.id, found: None };
    let flush = scan(group, next..=last, flush, Flush::look).await?;
    let (entry, pieces) = flush.found.ok_or(Unbuilt::NoCopy(GIVEN_UP))?;
    let past = past(group, &pieces, entry).await?;
    let extents = tokio::task::spawn_blocking(move || past.extents(pieces));
    let pieces = extents.await.map_err(|_| ShardError::Unavailable)??;
    let entries: BTreeSet<u64> = pieces.iter().flat_map(|(_, extents)| extents).map(|extent| extent.index).collect();
    let bodies = scan(group, entries.into_iter(), BTreeMap::new(), take_body).await?;
    let (name, bytes) = (group.chunk_name(chunk.id), chunk.bytes);
    let built = tokio::task::spawn_blocking(move || build(name, bytes, &filled(pieces, &bodies)));
    let (built, crc, ..) = built.await.map_err(|_| ShardError::Unavailable)?;
    let is_same = (built.len() as u64, crc) == (chunk.bytes, chunk.crc);
    if is_same { Ok(built) } else { Err(Unbuilt::NoCopy("what the log has makes other bytes")) }
}

/// The streams of these pieces as they were right before an entry.
async fn past(group: &LocalGroup, pieces: &[Piece], entry: u64) -> Result<Past, Unbuilt> {
    let keys: BTreeSet<Box<str>> = pieces.iter().map(|piece| piece.key.as_str().into()).collect();
    let (mut next, mut state) = (group.wal.first_index(group.id), Group::new());
    if let Some(file) = current(group).await? {
        next = file.last().index + 1;
        if next > entry {
            return Err(Unbuilt::NoCopy(GIVEN_UP));
        }
        let wanted = keys.clone();
        state = blocking(move || read_streams(file, wanted)).await?;
    }
    scan(group, next..entry, Past { group: state, keys }, Past::apply).await
}

/// Has `take` look at the batches among these entries, in their order, until it wants no more. Gives back what it has made of
/// `taken`.
async fn scan<T: Send + 'static>(
    group: &LocalGroup,
    indices: impl Iterator<Item = u64>,
    mut taken: T,
    take: fn(&mut T, EntryId, Bytes) -> Result<bool, ShardError>,
) -> Result<T, Unbuilt> {
    let mut indices = indices.peekable();
    let mut wants_more = true;
    while wants_more && indices.peek().is_some() {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for index in indices.by_ref().take(ENTRIES_PER_TURN) {
            let entry = group.wal.entry(group.id, index).ok_or(Unbuilt::NoCopy(GIVEN_UP))?;
            bytes += entry.body_bytes();
            entries.push(entry);
            if bytes >= READ_BYTES {
                break;
            }
        }
        let reader = group.wal.reader();
        let read = tokio::task::spawn_blocking(move || {
            for entry in entries.iter().filter(|entry| is_batch(entry.kind)) {
                if !take(&mut taken, entry.id, body(entry, &reader)?)? {
                    return Ok((taken, false));
                }
            }
            Ok::<_, ShardError>((taken, true))
        });
        (taken, wants_more) = read.await.map_err(|_| ShardError::Unavailable)??;
    }
    Ok(taken)
}

impl Flush {
    /// Whether it is another entry's. A flush is in a batch of its own.
    fn look(&mut self, entry: EntryId, body: Bytes) -> Result<bool, ShardError> {
        let batch = Batch::read(&body).map_err(|error| damaged(entry.index, &error))?;
        let first = batch.commands().next().transpose().map_err(|error| damaged(entry.index, &error))?;
        let Some((_, Command::Flush { chunk, parts, .. })) = first else { return Ok(true) };
        if chunk != self.chunk {
            return Ok(true);
        }
        let pieces = parts.decode().map(|part| Piece {
            key: StreamKey::parse(part.key.as_str()).expect("keys were checked when their request came"),
            incarnation: part.incarnation,
            start: part.range.start,
            end: part.range.end,
            packs: Vec::new(),
        });
        self.found = Some((entry.index, pieces.collect()));
        Ok(false)
    }
}

impl Past {
    fn apply(&mut self, entry: EntryId, body: Bytes) -> Result<bool, ShardError> {
        let applied = self.group.apply_to(&self.keys, entry.term, entry.index, &body);
        applied.map(|()| true).map_err(|error| damaged(entry.index, &error))
    }

    /// Where in the log the packs of each piece are.
    fn extents(&self, pieces: Vec<Piece>) -> Result<Vec<(Piece, Vec<Extent>)>, Unbuilt> {
        let with_extents = |piece: Piece| {
            let extents = self.extents_of(&piece)?;
            Ok((piece, extents))
        };
        pieces.into_iter().map(with_extents).collect()
    }

    fn extents_of(&self, piece: &Piece) -> Result<Vec<Extent>, Unbuilt> {
        let stream = self.group.life(&piece.key, piece.incarnation).ok_or(Unbuilt::NoCopy(CHANGED))?;
        let (mut extents, mut end) = (Vec::new(), piece.start);
        for found in stream.pieces_from(piece.start) {
            if end == piece.end {
                break;
            }
            let Found::Hot(extent) = found else { return Err(Unbuilt::NoCopy(MERGED)) };
            if extent.start != end {
                return Err(Unbuilt::NoCopy(CHANGED));
            }
            end = extent.end;
            extents.push(extent);
        }
        if end == piece.end { Ok(extents) } else { Err(Unbuilt::NoCopy(CHANGED)) }
    }
}

fn take_body(bodies: &mut BTreeMap<u64, Bytes>, entry: EntryId, body: Bytes) -> Result<bool, ShardError> {
    bodies.insert(entry.index, body);
    Ok(true)
}

/// The pieces with their packs.
fn filled(pieces: Vec<(Piece, Vec<Extent>)>, bodies: &BTreeMap<u64, Bytes>) -> Vec<Piece> {
    let pack = |extent: Extent| {
        let body = &bodies[&extent.index];
        let time_ms = Batch::read(body).expect("it was applied").time_ms;
        let (pos, len) = (extent.pos as usize, extent.len as usize);
        PackIn { bytes: body.slice(pos..pos + len), payload_bytes: (extent.end - extent.start) as u32, time_ms }
    };
    let filled =
        |(piece, extents): (Piece, Vec<Extent>)| Piece { packs: extents.into_iter().map(pack).collect(), ..piece };
    pieces.into_iter().map(filled).collect()
}
