//! Merging: bytes of streams go from several chunks to one.
//!
//! A stream that is written slowly gets a run per flush. When it has more than [`RUNS_MAX`], the most neighbours of about the same
//! size become one: a byte is moved a few times in a stream's life, however long that is. And a chunk of which less than half is
//! still named is emptied: what is left goes to another one.
//!
//! One pass looks at all streams, slot by slot, and moves what is due in chunks as a flush makes them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio::time::Instant;
use weir_cold::{Cold, ColdError, PackIn, PartRef, ReadMax};
use weir_storage::Claim;
use weir_stream::{Chunk, Group, PARTS_MAX, Pack, Piece as Found, Stream};
use weir_types::limits::SLOTS;
use weir_types::{Incarnation, StreamKey};

use crate::core::Core;
use crate::message::ShardError;
use crate::stats::add;
use crate::upkeep::maker::{CHUNK_BYTES, Maker, PART_BYTES, PARTS_BYTES_MAX, Piece};
use crate::write::job::LocalGroup;

/// Runs that a stream may have before some of them become one, large ones not counted.
const RUNS_MAX: usize = 31;
/// What such a run has: the index has little of it for each byte.
const LARGE_RUN_BYTES: u64 = CHUNK_BYTES / 2;
/// Runs are of about the same size when none is so many times as large as another.
const SIZE_STEP: u64 = 8;
/// Runs that one chunk's command replaces, at most: so it is applied in a few milliseconds.
const REPLACED_MAX: usize = 16_384;
/// How long it rests after a pass, at most.
const REST_MAX: Duration = Duration::from_secs(30);
/// And at least.
const REST_MIN: Duration = Duration::from_millis(200);
/// How long it waits after something that the store or the log has refused.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a run that could not be read is left alone.
const STUCK_FOR: Duration = Duration::from_secs(600);
/// Runs that are left alone, at most.
const STUCK_MAX: usize = 65_536;
/// When so many runs in a row could not be had, the store is away.
const REFUSED_MAX: usize = 4;
/// Streams that are looked at in one turn, about.
const STREAMS_PER_TURN: usize = 2048;
/// Runs that take as long to look at as a stream does.
const RUNS_PER_STREAM: usize = 8;
/// Chunks that are looked at in one turn.
const CHUNKS_PER_TURN: usize = 4096;
/// Chunks that are made of one slot's streams in one pass, at most.
const CHUNKS_PER_SLOT: usize = 64;
/// Streams that are read at a time.
const READS: usize = 8;
/// What is read of a stream at once.
const READ_MAX: ReadMax = ReadMax { bytes: 1 << 20, packs: 16_384 };

/// What merges the chunks of a group.
struct Merger {
    core: Rc<Core>,
    group: Rc<LocalGroup>,
    cold: Cold,
    maker: Rc<Maker>,
    stuck: Stuck,
}

/// Runs that could not be read. They stay where they are for some time, and those before and behind them are merged without them.
#[derive(Default)]
struct Stuck {
    /// The first byte of each.
    runs: BTreeSet<(Incarnation, u64)>,
    /// Since when the first of them.
    since: Option<Instant>,
}

/// What says which runs are to be moved.
struct Look<'a> {
    state: &'a Group,
    /// Chunks from which everything is to be moved.
    emptied: &'a BTreeSet<u32>,
    stuck: &'a Stuck,
}

/// Bytes of a stream in a chunk.
#[derive(Clone)]
struct Run {
    range: Range<u64>,
    chunk: u32,
    at: u32,
    /// What they take in a chunk, about, with their packs' heads and index.
    bytes: u64,
}

/// Runs of one stream that are to become one run.
#[derive(Debug)]
struct Move {
    key: StreamKey,
    /// At least one, all of one life.
    parts: Vec<PartRef>,
    /// What lies before was trimmed: a pack may have bytes on both sides of it.
    base: u64,
}

/// What becomes one chunk.
#[derive(Default)]
struct Load {
    moves: Vec<Move>,
    bytes: u64,
    parts_bytes: usize,
    runs: usize,
    /// Something was due that did not fit any more.
    is_full: bool,
}

/// Merges what is to be merged of a group. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>, cold: Cold, maker: Rc<Maker>) {
    let rest = core.config.flush_age.clamp(REST_MIN, REST_MAX);
    let mut merger = Merger { core, group, cold, maker, stuck: Stuck::default() };
    while !merger.group.has_failed() {
        tokio::time::sleep(rest).await;
        if merger.group.leading().is_err() {
            continue;
        }
        match merger.pass().await {
            Ok(()) => {}
            Err(_) if merger.group.has_failed() => {}
            // Whoever leads now goes on.
            Err(_) if merger.group.reign().is_none() => {}
            Err(error) => {
                let group = merger.group.id.0;
                tracing::warn!(group, ?error, "chunks cannot be merged: they are tried again");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

impl Merger {
    /// Looks at all streams once.
    async fn pass(&mut self) -> Result<(), ShardError> {
        self.stuck.forget_old();
        let emptied = self.emptied().await;
        let (mut load, mut seen) = (Load::default(), 0);
        for slot in 0..SLOTS {
            // What has been moved is due no longer, and makes place for others.
            for _ in 0..CHUNKS_PER_SLOT {
                seen += self.add_slot(&mut load, &emptied, slot);
                if seen >= STREAMS_PER_TURN {
                    seen = 0;
                    tokio::task::yield_now().await;
                }
                if !load.is_full {
                    break;
                }
                self.carry_out(std::mem::take(&mut load)).await?;
            }
        }
        self.carry_out(load).await
    }

    /// Chunks that are mostly garbage, or not where new ones go.
    async fn emptied(&self) -> BTreeSet<u32> {
        let chunks: Vec<Chunk> = self.group.applied().chunks().copied().collect();
        let mut emptied = BTreeSet::new();
        for some in chunks.chunks(CHUNKS_PER_TURN) {
            let left = some
                .iter()
                .filter(|chunk| is_sparse(chunk) || self.cold.is_left_behind(self.group.chunk_name(chunk.id)));
            emptied.extend(left.map(|chunk| chunk.id.number));
            tokio::task::yield_now().await;
        }
        emptied
    }

    /// Adds what is due of a slot's streams; says how many streams there were, those of many runs counted as several.
    fn add_slot(&self, load: &mut Load, emptied: &BTreeSet<u32>, slot: usize) -> usize {
        let state = self.group.applied();
        let look = Look { state: &state, emptied, stuck: &self.stuck };
        let mut seen = 0;
        for stream in state.slot(slot) {
            seen += 1 + stream.runs() / RUNS_PER_STREAM;
            if load.is_full {
                break;
            }
            if let Some(runs) = look.due(stream) {
                load.add(&self.group, &state, stream, &runs);
            }
        }
        seen
    }

    /// Reads what is to be moved, and makes a chunk of it. What cannot be read stays where it is.
    async fn carry_out(&mut self, mut load: Load) -> Result<(), ShardError> {
        if load.moves.is_empty() {
            return Ok(());
        }
        // What is read in vain costs the store's time.
        drop(self.group.leading()?);
        // In the order in which they lie in the first chunk, so each of its blocks is read once.
        load.moves.sort_by_key(|of| (of.parts[0].chunk, of.parts[0].at));
        let _turn = self.cold.merging().await;
        let cold = &self.cold;
        let mut reads = iter(load.moves).map(|of| read(cold, of)).buffered(READS);
        let (mut pieces, mut refused) = (Vec::new(), 0);
        while let Some(read) = reads.next().await {
            let (part, error) = match read {
                Ok(piece) => {
                    refused = 0;
                    pieces.push(piece);
                    continue;
                }
                Err(failed) => failed,
            };
            match &error {
                // Its stream was deleted meanwhile.
                ColdError::Damaged { .. } if !self.group.has_chunk(part.chunk) => continue,
                ColdError::Damaged { .. } => {
                    add(&self.core.stats.cold_damaged, 1);
                    tracing::error!(%error, "cold bytes are damaged: they stay where they are");
                    self.group.note_damaged(part.chunk);
                }
                ColdError::Unavailable(_) => {
                    add(&self.core.stats.cold_unavailable, 1);
                    refused += 1;
                    if refused == REFUSED_MAX {
                        return Err(error.into());
                    }
                    tracing::warn!(%error, "cold bytes cannot be read: they stay where they are");
                }
            }
            self.stuck.add(part.incarnation, part.range.start);
        }
        drop(reads);
        if !pieces.is_empty() {
            let made = self.maker.make(load.bytes, pieces, Claim::Spare).await?;
            add(&self.core.stats.merges, 1);
            add(&self.core.stats.merged_bytes, made.bytes);
        }
        Ok(())
    }
}

impl Stuck {
    fn add(&mut self, incarnation: Incarnation, start: u64) {
        self.since.get_or_insert_with(Instant::now);
        if self.runs.len() < STUCK_MAX {
            self.runs.insert((incarnation, start));
        }
    }

    /// Has all of them read again, when it is time.
    fn forget_old(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= STUCK_FOR) {
            *self = Stuck::default();
        }
    }
}

/// Whether less than half of what was named of the chunk still is.
fn is_sparse(chunk: &Chunk) -> bool {
    chunk.live_bytes < chunk.named_bytes / 2
}

impl Look<'_> {
    /// The runs of a stream that are to become one, if any are.
    fn due(&self, stream: &Stream) -> Option<Vec<Run>> {
        if self.emptied.is_empty() && stream.runs() <= RUNS_MAX {
            return None;
        }
        let runs = self.runs(stream);
        let is_stuck = |run: &Run| self.stuck.runs.contains(&(stream.incarnation(), run.range.start));
        // Between what is read of a stream there may be a gap.
        let between =
            || runs.chunk_by(|run, next| run.range.end == next.range.start).flat_map(|runs| runs.split(is_stuck));
        let small = runs.iter().filter(|run| run.bytes < LARGE_RUN_BYTES).count();
        // Of several, the last: it has the fewest bytes.
        let alike =
            if small > RUNS_MAX { between().filter_map(most_alike).max_by_key(|most| most.len()) } else { None };
        alike.or_else(|| between().find_map(|runs| self.emptied(runs))).map(<[Run]>::to_vec)
    }

    fn runs(&self, stream: &Stream) -> Vec<Run> {
        let mut runs = Vec::with_capacity(stream.runs());
        for piece in stream.pieces_from(0).take(stream.runs()) {
            let Found::Cold { start, end, chunk, at } = piece else { break };
            let start = start.max(stream.held());
            let Chunk { bytes, named_bytes, .. } = *self.state.chunk(chunk).expect("a chunk that is named is known");
            // As much of the object as of what is named of it.
            let bytes = (bytes.saturating_mul(end - start) / named_bytes).max(1);
            runs.push(Run { range: start..end, chunk, at, bytes });
        }
        runs
    }

    /// The first neighbours that are in emptied chunks, as far as they fit a chunk.
    fn emptied<'a>(&self, runs: &'a [Run]) -> Option<&'a [Run]> {
        let is_emptied = |run: &Run| self.emptied.contains(&run.chunk);
        let runs = &runs[runs.iter().position(is_emptied)?..];
        let mut bytes = 0;
        let fit = runs.iter().take_while(|run| {
            bytes += run.bytes;
            is_emptied(run) && bytes <= CHUNK_BYTES
        });
        Some(&runs[..fit.count().max(1)])
    }
}

/// The most neighbours of about the same size, as far as they fit a chunk. Runs that are smaller than a later one count as large as
/// that: to take them along costs little.
fn most_alike(runs: &[Run]) -> Option<&[Run]> {
    let mut sizes: Vec<u32> = runs.iter().map(|run| run.bytes.ilog(SIZE_STEP)).collect();
    for n in (1..sizes.len()).rev() {
        sizes[n - 1] = sizes[n - 1].max(sizes[n]);
    }
    let mut most: Option<&[Run]> = None;
    let (mut first, mut bytes) = (0, 0);
    for end in 1..=runs.len() {
        bytes += runs[end - 1].bytes;
        let goes_on = end < runs.len() && sizes[end] == sizes[first] && bytes + runs[end].bytes <= CHUNK_BYTES;
        if !goes_on {
            // Of several, the last: it has the fewest bytes.
            if end - first > 1 && most.is_none_or(|most| end - first >= most.len()) {
                most = Some(&runs[first..end]);
            }
            (first, bytes) = (end, 0);
        }
    }
    most
}

impl Load {
    /// Adds what is to be moved of a stream, if it fits.
    fn add(&mut self, group: &LocalGroup, state: &Group, stream: &Stream, runs: &[Run]) {
        let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        let part_bytes = stream.key().len() + PART_BYTES;
        let fits = self.bytes + bytes <= CHUNK_BYTES
            && self.moves.len() < PARTS_MAX
            && self.parts_bytes + part_bytes <= PARTS_BYTES_MAX
            && self.runs + runs.len() <= REPLACED_MAX;
        if !fits && !self.moves.is_empty() {
            self.is_full = true;
            return;
        }
        let key = StreamKey::parse(stream.key()).expect("keys were checked when their request came");
        let part = |Run { range, chunk, at, .. }: &Run| {
            let chunk = group.chunk_name(state.chunk(*chunk).expect("a chunk that is named is known").id);
            PartRef { chunk, at: *at, incarnation: stream.incarnation(), range: range.clone() }
        };
        let parts: Vec<PartRef> = runs.iter().map(part).collect();
        self.bytes += bytes;
        self.parts_bytes += part_bytes;
        self.runs += parts.len();
        self.moves.push(Move { key, parts, base: stream.held() });
    }
}

/// Reads what is to be moved; the part that cannot be read, and why.
async fn read(cold: &Cold, of: Move) -> Result<Piece, (PartRef, ColdError)> {
    let Move { key, parts, base } = of;
    let PartRef { incarnation, range: Range { start, .. }, .. } = parts[0];
    let mut piece = Piece { key, incarnation, start, end: start, packs: Vec::new() };
    for part in parts {
        if let Err(error) = piece.add_part(cold, &part, base).await {
            return Err((part, error));
        }
    }
    Ok(piece)
}

impl Piece {
    async fn add_part(&mut self, cold: &Cold, part: &PartRef, base: u64) -> Result<(), ColdError> {
        while self.end < part.range.end {
            let rest = PartRef { range: self.end..part.range.end, ..part.clone() };
            let read = cold.read(rest, READ_MAX, Pack::is_whole).await?;
            for pack in &read.packs {
                if self.packs.is_empty() && pack.start < base {
                    (self.start, self.end) = (pack.start, pack.start);
                }
                // Packs are moved whole.
                if pack.start != self.end || pack.end > part.range.end {
                    let (chunk, position) = (part.chunk.object(), part.at.into());
                    return Err(ColdError::Damaged { chunk, position, reason: "packs are not where the runs are" });
                }
                self.packs.push(PackIn {
                    bytes: read.bytes.slice(pack.pos as usize..(pack.pos + pack.len) as usize),
                    payload_bytes: (pack.end - pack.start) as u32,
                    time_ms: pack.time_ms,
                });
                self.end = pack.end;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use weir_stream::subscription::EncodedWatches;
    use weir_stream::{
        BatchBuilder, BucketTold, ChunkId, Command, EncodedBindings, EncodedParts, Expiry, KeyRef, Limits, Part,
        Records, Reply, Retention, Split,
    };
    use weir_types::Incarnation;

    use super::*;

    const STREAMS: u64 = 20;
    const SECONDS: u64 = 90 * 24 * 60 * 60;
    /// A record of 100 bytes a minute, and a flush every ten.
    const FLUSHES: u64 = SECONDS / 600;
    const FLUSH_BYTES: u64 = 10 * 100;
    /// Ten thousand streams take so many chunks where these few take one.
    const CHUNKS: u64 = 10_000_u64.div_ceil(PARTS_MAX as u64);

    fn apply(group: &mut Group, commands: &[Command<'_>]) -> Vec<Reply> {
        let mut builder = BatchBuilder::new(BytesMut::new());
        commands.iter().for_each(|command| builder.push(command));
        let batch = builder.finish(1, Limits { producers_max: 8 });
        let index = group.applied().map_or(0, |applied| applied + 1);
        let mut outcomes = Vec::new();
        group.apply(1, index, &batch, &mut outcomes).expect("our own bytes");
        outcomes.into_iter().map(|outcome| outcome.reply).collect()
    }

    /// A chunk takes in bytes of the streams of these incarnations.
    fn put(group: &mut Group, keys: &[StreamKey], ranges: &[(Incarnation, Range<u64>)]) {
        let part = |(incarnation, range): &(Incarnation, Range<u64>)| Part {
            key: KeyRef::from(&keys[incarnation.0 as usize - 1]),
            incarnation: *incarnation,
            range: range.clone(),
            at: 0,
        };
        let encoded = Part::encode(&ranges.iter().map(part).collect::<Vec<_>>());
        let chunk = ChunkId { term: 1, number: group.chunk_number_last() + 1, nonce: 0 };
        let parts = EncodedParts::of(&encoded);
        let bytes = ranges.iter().map(|(_, range)| range.end - range.start).sum();
        let replies = apply(group, &[Command::Flush { chunk, bytes, crc: 0, times: (0, 0), parts }]);
        assert!(matches!(replies[..], [Reply::Flushed { parts }] if parts as usize == ranges.len()), "{replies:?}");
        group.take_gone_chunks();
    }

    /// What is due of one slow stream is due of all, so what these few do, ten thousand do.
    #[test]
    fn slow_streams_have_few_runs_and_few_puts_over_ninety_days() {
        let keys: Vec<StreamKey> =
            (0..STREAMS).map(|n| StreamKey::new("b", &format!("s{n}")).expect("a valid name")).collect();
        let mut group = Group::new();
        let told = BucketTold::There {
            created_ms: 0,
            fenced: false,
            retention: Retention::default(),
            bindings: EncodedBindings::of(&[0, 0]),
            watches: EncodedWatches::NONE,
        };
        apply(&mut group, &[Command::Bucket { name: "b", epoch: 1, told }]);
        let create = |(n, key)| Command::Create {
            key: KeyRef::from(key),
            incarnation: Incarnation(n),
            content_type: "text/plain",
            expiry: Expiry::Never,
            closed: false,
            only_new: true,
            bindings_epoch: 0,
            fork: None,
            records: Records::NONE,
        };
        apply(&mut group, &(1..).zip(&keys).map(create).collect::<Vec<_>>());
        let body = vec![b'x'; FLUSH_BYTES as usize];
        let append = |(n, key)| Command::Append {
            key: KeyRef::from(key),
            incarnation: Incarnation(n),
            close: false,
            producer: None,
            seq: None,
            if_match: None,
            bindings_epoch: 0,
            records: Records::new(&body, &Split::Whole),
        };
        let appends: Vec<_> = (1..).zip(&keys).map(append).collect();
        let (mut puts, mut moved_bytes, mut runs_max, mut index_bytes_max, mut chunks_max) = (0, 0, 0, 0, 0);
        for flush in 0..FLUSHES {
            apply(&mut group, &appends);
            let new = flush * FLUSH_BYTES..(flush + 1) * FLUSH_BYTES;
            put(&mut group, &keys, &(1..=STREAMS).map(|n| (Incarnation(n), new.clone())).collect::<Vec<_>>());
            puts += CHUNKS;
            let emptied = group.chunks().filter(|chunk| is_sparse(chunk)).map(|chunk| chunk.id.number).collect();
            let streams = keys.iter().map(|key| group.stream(key).expect("it is there"));
            let range = |runs: &[Run]| runs[0].range.start..runs[runs.len() - 1].range.end;
            let look = Look { state: &group, emptied: &emptied, stuck: &Stuck::default() };
            let due: Vec<_> =
                streams.filter_map(|stream| Some((stream.incarnation(), range(&look.due(stream)?)))).collect();
            if !due.is_empty() {
                moved_bytes += due.iter().map(|(_, range)| range.end - range.start).sum::<u64>();
                put(&mut group, &keys, &due);
                puts += CHUNKS;
            }
            runs_max =
                keys.iter().map(|key| group.stream(key).map_or(0, Stream::runs)).max().max(Some(runs_max)).unwrap_or(0);
            index_bytes_max = index_bytes_max.max(group.index_bytes() as u64);
            chunks_max = chunks_max.max(group.chunks_totals().chunks);
        }
        assert!(runs_max <= RUNS_MAX, "{runs_max} runs");
        assert!(puts < SECONDS / 100, "{puts} puts");
        assert!(chunks_max <= RUNS_MAX as u64, "{chunks_max} chunks");
        assert!(index_bytes_max / STREAMS < 2048, "{index_bytes_max} bytes of index");
        let written = FLUSHES * STREAMS * FLUSH_BYTES;
        assert!(moved_bytes < 4 * written, "a byte is moved {} times", moved_bytes / written);
        println!("{puts} puts, {runs_max} runs, {index_bytes_max} bytes, moved {moved_bytes} of {written}");
    }
}
