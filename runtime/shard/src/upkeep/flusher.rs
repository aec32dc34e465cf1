//! Flush: the oldest bytes of a group's streams go from the log to a chunk in the cold tier.
//!
//! The log is read from the lowest entry that a stream needs, as far as a chunk takes. What streams name of these entries
//! becomes the chunk's parts. The chunk is put; then a command says so, and apply has the streams name the chunk. What no
//! longer fits by then, because its stream was deleted meanwhile, is garbage in the chunk.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weir_cold::{PackIn, Stretches};
use weir_storage::{Claim, EntryRef, WalReader};
use weir_stream::{Batch, Command, PARTS_MAX, Stream};
use weir_types::limits::BATCH_COMMANDS_MAX;
use weir_types::{Incarnation, StreamKey};

use crate::core::Core;
use crate::message::ShardError;
use crate::stats::add;
use crate::upkeep::entries::{body, damaged};
use crate::upkeep::maker::{CHUNK_BYTES, Maker, PART_BYTES, PARTS_BYTES_MAX, Piece};
use crate::write::job::LocalGroup;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long it waits after a flush that has failed.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Bytes of the log that are read at once.
const READ_BYTES: usize = 4 << 20;
/// Packs in a chunk, about: apply takes their places out of the index in one step.
const PACKS_MAX: usize = 65_536;
/// Packs that are looked up in one turn.
const PACKS_PER_TURN: usize = 4096;
/// What finding a stream costs, in packs that are looked up.
const STREAM_PACKS: usize = 64;

/// What a group's flusher knows.
struct Flusher {
    core: Rc<Core>,
    group: Rc<LocalGroup>,
    maker: Rc<Maker>,
    /// The lowest entry that is needed. [`LocalGroup::oldest_since`] says since when it is that one.
    floor: Option<u64>,
    /// The last entry that is to be moved because what is there has been in the log for too long.
    old_upto: Option<u64>,
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
    packs: usize,
}

/// Moves a group's old bytes to the cold tier. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>, maker: Rc<Maker>) {
    // What is in the log now is as old as this, at least.
    let floor = group.applied().hot_floor();
    group.oldest_since.set(floor.map(|_| Instant::now()));
    let mut flusher = Flusher { core, group, maker, floor, old_upto: None };
    while !flusher.group.has_failed() {
        if !flusher.is_due() {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        match flusher.flush().await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(LOOK_EVERY).await,
            Err(_) if flusher.group.has_failed() => {}
            // Whoever leads now goes on.
            Err(_) if flusher.group.reign().is_none() => {}
            Err(error) => {
                add(&flusher.core.stats.flushes_failed, 1);
                let group = flusher.group.id.0;
                tracing::warn!(group, ?error, "bytes cannot go to the cold tier: the log grows until they can");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

impl Flusher {
    /// Whether there are too many bytes in the log, too old ones, or some that keep it from giving room.
    fn is_due(&mut self) -> bool {
        let group = &self.group;
        let (floor, hot_bytes, applied) = {
            let state = group.applied();
            (state.hot_floor(), state.hot_bytes(), state.applied())
        };
        if self.floor != floor {
            self.floor = floor;
            group.oldest_since.set(floor.map(|_| Instant::now()));
        } else if group.oldest_since.get().is_some_and(|since| since.elapsed() >= self.core.config.flush_age) {
            self.old_upto = applied;
        }
        let Some(floor) = floor else { return false };
        let is_old = Some(floor) <= self.old_upto.max(group.flush_upto.get());
        let pins = || group.wal.is_pinned_behind(group.id, floor.checked_sub(1));
        let is_wanted = hot_bytes > self.core.config.flush_bytes || is_old || (group.wal.is_space_short() && pins());
        is_wanted && group.leading().is_ok()
    }

    /// Moves the oldest bytes to a chunk; says whether the log has more than it takes.
    async fn flush(&mut self) -> Result<bool, ShardError> {
        let group = &self.group;
        let bytes_max = CHUNK_BYTES.min(self.core.config.flush_bytes.max(1));
        let load = load(group, bytes_max).await?;
        let Some((&upto, _)) = load.entries.last_key_value() else { return Ok(false) };
        let pieces = pieces(group, &load, upto).await;
        if pieces.is_empty() {
            return Ok(false);
        }
        let (bytes, has_more) = (load.bytes, load.bytes >= bytes_max || load.is_full());
        // What the pieces do not need of the entries is not kept while the chunk is put.
        drop(load);
        let made = self.maker.make(bytes, pieces, Claim::Reserve).await?;
        add(&self.core.stats.flushes, 1);
        add(&self.core.stats.flushed_bytes, made.bytes);
        Ok(has_more && made.pieces > 0)
    }
}

/// Reads the log from the lowest entry that is needed, until there are `bytes_max` of it or the chunk has as many streams
/// as it may.
async fn load(group: &LocalGroup, bytes_max: u64) -> Result<Load, ShardError> {
    let mut load = Load::default();
    let (floor, last) = {
        let state = group.applied();
        (state.hot_floor(), state.applied())
    };
    let Some((mut next, last)) = floor.zip(last) else { return Ok(load) };
    while next <= last && load.bytes < bytes_max && !load.is_full() {
        let mut entries = Vec::new();
        let mut bytes = 0;
        while next <= last && bytes < READ_BYTES {
            if group.applied().is_hot(next) {
                let entry = group.wal.entry(group.id, next).expect("what a stream names is not purged");
                bytes += entry.body_bytes();
                entries.push(entry);
            }
            next += 1;
        }
        let reader = group.wal.reader();
        let read = tokio::task::spawn_blocking(move || {
            let mut stretches = Stretches::default();
            for entry in &entries {
                if load.is_full() {
                    break;
                }
                load.add(entry, &reader)?;
                stretches.worked(entry.body_bytes());
            }
            Ok::<_, ShardError>(load)
        });
        load = read.await.map_err(|_| ShardError::Unavailable)??;
    }
    Ok(load)
}

impl Load {
    /// Whether another entry might have more than fits the chunk or its command.
    fn is_full(&self) -> bool {
        self.streams.len() + BATCH_COMMANDS_MAX > PARTS_MAX
            || self.parts_bytes >= PARTS_BYTES_MAX
            || self.packs >= PACKS_MAX
    }

    /// Adds an entry. Blocks where it is on disk.
    fn add(&mut self, entry: &EntryRef, reader: &WalReader) -> Result<(), ShardError> {
        let body = body(entry, reader)?;
        let batch = Batch::read(&body).map_err(|error| damaged(entry.id.index, &error))?;
        let time_ms = batch.time_ms;
        for command in batch.commands() {
            let (_, command) = command.map_err(|error| damaged(entry.id.index, &error))?;
            if let Command::Create { key, incarnation, records, .. } | Command::Append { key, incarnation, records, .. } =
                command
                && records.count() > 0
            {
                let key = key.as_str();
                self.packs += 1;
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
    let mut left = PACKS_PER_TURN;
    for (key, incarnation) in &load.streams {
        let key = StreamKey::parse(key).expect("keys were checked when their request came");
        let incarnation = Incarnation(*incarnation);
        let start = group.applied().life(&key, incarnation).map_or(0, Stream::hot_begin);
        let mut piece = Piece { key, incarnation, start, end: start, packs: Vec::new() };
        left = left.saturating_sub(STREAM_PACKS);
        while piece.add_packs(&group.applied(), load, upto, &mut left) {
            tokio::task::yield_now().await;
            left = PACKS_PER_TURN;
        }
        if !piece.packs.is_empty() {
            pieces.push(piece);
        }
    }
    pieces
}

impl Piece {
    /// Adds the packs that follow, as many as are `left` in this turn; false when these were all.
    fn add_packs(&mut self, state: &weir_stream::Group, load: &Load, upto: u64, left: &mut usize) -> bool {
        let Some(stream) = state.life(&self.key, self.incarnation) else { return false };
        let mut entry: Option<(u64, &Entry)> = None;
        for found in stream.pieces_from(self.end) {
            // A command of earlier has been applied meanwhile, and apply will refuse this one's part.
            let weir_stream::Piece::Hot(extent) = found else { return false };
            if extent.index > upto {
                return false;
            }
            if *left == 0 {
                return true;
            }
            *left -= 1;
            if extent.start != self.end {
                // What lies between was trimmed meanwhile, and what is here before it.
                self.packs.clear();
                self.start = extent.start;
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
        false
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use weir_stream::subscription::EncodedWatches;
    use weir_stream::{
        BatchBuilder, BucketTold, EncodedBindings, Expiry, Group, KeyRef, Limits, Records, Retention, Split,
    };

    use super::*;

    /// Applies a command, and adds its entry to what becomes a chunk.
    fn apply(group: &mut Group, load: &mut Load, command: &Command<'_>) {
        let mut builder = BatchBuilder::new(BytesMut::new());
        builder.push(command);
        let body = builder.finish(1, Limits { producers_max: 8 }).freeze();
        let index = group.applied().map_or(0, |applied| applied + 1);
        group.apply(1, index, &body, &mut Vec::new()).expect("our own bytes");
        load.entries.insert(index, Entry { time_ms: 1, body });
    }

    #[test]
    fn a_part_begins_anew_when_a_trim_takes_what_lay_between_two_turns() {
        let key = StreamKey::new("b", "s").expect("a valid name");
        let (mut group, mut load, incarnation) = (Group::new(), Load::default(), Incarnation(1));
        let (retention, bindings) = (Retention::default(), EncodedBindings::of(&[0, 0]));
        let told =
            BucketTold::There { created_ms: 0, fenced: false, retention, bindings, watches: EncodedWatches::NONE };
        apply(&mut group, &mut load, &Command::Bucket { name: "b", epoch: 1, told });
        let create = Command::Create {
            key: KeyRef::from(&key),
            incarnation,
            content_type: "text/plain",
            expiry: Expiry::Never,
            closed: false,
            only_new: true,
            bindings_epoch: 0,
            fork: None,
            records: Records::NONE,
        };
        apply(&mut group, &mut load, &create);
        for text in ["one", "two", "three", "four"] {
            let append = Command::Append {
                key: KeyRef::from(&key),
                incarnation,
                close: false,
                producer: None,
                seq: None,
                if_match: None,
                bindings_epoch: 0,
                records: Records::new(text.as_bytes(), &Split::Whole),
            };
            apply(&mut group, &mut load, &append);
        }
        let mut piece = Piece { key: key.clone(), incarnation, start: 0, end: 0, packs: Vec::new() };
        assert!(piece.add_packs(&group, &load, u64::MAX, &mut 2), "there are more");
        assert_eq!((piece.start, piece.end, piece.packs.len()), (0, 6, 2));
        let trim = Command::Trim { key: KeyRef::from(&key), incarnation, before: 11, force: false };
        apply(&mut group, &mut load, &trim);
        assert!(!piece.add_packs(&group, &load, u64::MAX, &mut 2), "these are all");
        assert_eq!((piece.start, piece.end, piece.packs.len()), (11, 15, 1));
        assert!(piece.packs[0].bytes.ends_with(b"four"));
    }
}
