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
use weir_cold::{Cold, ColdError, PackIn, PartRef, ReadMax};
use weir_stream::{Chunk, Group, PARTS_MAX, Pack, Piece as Found, Stream};
use weir_types::StreamKey;
use weir_types::limits::SLOTS;

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
const REPLACED_MAX: usize = 32_768;
/// How long it rests after a pass, at most.
const REST_MAX: Duration = Duration::from_secs(30);
/// And at least.
const REST_MIN: Duration = Duration::from_millis(200);
/// How long it waits after something that the store or the log has refused.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Streams that are looked at in one turn, about.
const STREAMS_PER_TURN: usize = 2048;
/// Streams that are read at a time.
const READS: usize = 8;
/// What is read of a stream at once.
const READ_MAX: ReadMax = ReadMax { bytes: 1 << 20, packs: 16_384 };

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
}

/// Merges what is to be merged of a group. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>, cold: Cold, maker: Rc<Maker>) {
    let rest = core.config.flush_age.clamp(REST_MIN, REST_MAX);
    while !group.has_failed() {
        tokio::time::sleep(rest).await;
        match pass(&core, &group, &cold, &maker).await {
            Ok(()) => {}
            Err(_) if group.has_failed() => {}
            Err(error) => {
                tracing::warn!(group = group.id.0, ?error, "chunks cannot be merged: they are tried again");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// Looks at all streams once.
async fn pass(core: &Core, group: &LocalGroup, cold: &Cold, maker: &Maker) -> Result<(), ShardError> {
    let emptied: BTreeSet<u32> = {
        let state = group.state.borrow();
        let left = |chunk: &&Chunk| is_sparse(chunk) || cold.is_left_behind(group.chunk_name(chunk.id));
        state.chunks().filter(left).map(|chunk| chunk.id.number).collect()
    };
    let (mut load, mut seen) = (Load::default(), 0);
    for slot in 0..SLOTS {
        seen += load.add_slot(group, &emptied, slot);
        if seen >= STREAMS_PER_TURN {
            seen = 0;
            tokio::task::yield_now().await;
        }
        if load.is_full() {
            carry_out(core, cold, maker, std::mem::take(&mut load)).await?;
        }
    }
    carry_out(core, cold, maker, load).await
}

/// Whether less than half of what was named of the chunk still is.
fn is_sparse(chunk: &Chunk) -> bool {
    chunk.live_bytes < chunk.named_bytes / 2
}

/// The bytes of a stream that are to become one run, if any are.
fn due(stream: &Stream, emptied: &BTreeSet<u32>) -> Option<Range<u64>> {
    if emptied.is_empty() && stream.runs() <= RUNS_MAX {
        return None;
    }
    let mut runs = Vec::with_capacity(stream.runs());
    for piece in stream.pieces_from(0).take(stream.runs()) {
        let Found::Cold { start, end, chunk, .. } = piece else { break };
        runs.push((start.max(stream.base())..end, chunk));
    }
    let small = runs.iter().filter(|(range, _)| range.end - range.start < LARGE_RUN_BYTES).count();
    let merged = if small > RUNS_MAX { most_alike(&runs) } else { None };
    merged.or_else(|| runs.into_iter().find(|(_, chunk)| emptied.contains(chunk)).map(|(range, _)| range))
}

/// The most neighbours of about the same size, as far as they fit a chunk. Runs that are smaller than a later one count as large as
/// that: to take them along costs little.
fn most_alike(runs: &[(Range<u64>, u32)]) -> Option<Range<u64>> {
    let mut sizes: Vec<u32> = runs.iter().map(|(range, _)| (range.end - range.start).ilog(SIZE_STEP)).collect();
    for n in (1..sizes.len()).rev() {
        sizes[n - 1] = sizes[n - 1].max(sizes[n]);
    }
    let mut most: Option<Range<usize>> = None;
    let mut first = 0;
    for end in 1..=runs.len() {
        let goes_on =
            end < runs.len() && sizes[end] == sizes[first] && runs[end].0.end - runs[first].0.start <= CHUNK_BYTES;
        if !goes_on {
            // Of several, the last: it has the fewest bytes.
            if end - first > 1 && most.as_ref().is_none_or(|most| end - first >= most.len()) {
                most = Some(first..end);
            }
            first = end;
        }
    }
    most.map(|most| runs[most.start].0.start..runs[most.end - 1].0.end)
}

impl Load {
    /// Adds what is due of a slot's streams; says how many streams there were.
    fn add_slot(&mut self, group: &LocalGroup, emptied: &BTreeSet<u32>, slot: usize) -> usize {
        let state = group.state.borrow();
        let mut seen = 0;
        for stream in state.slot(slot) {
            seen += 1;
            // What does not fit is due in the next pass.
            if let Some(range) = due(stream, emptied).filter(|_| !self.is_full()) {
                self.add(group, &state, stream, range);
            }
        }
        seen
    }

    fn add(&mut self, group: &LocalGroup, state: &Group, stream: &Stream, range: Range<u64>) {
        let key = StreamKey::parse(stream.key()).expect("keys were checked when their request came");
        let mut parts = Vec::new();
        for piece in stream.pieces_from(range.start) {
            let Found::Cold { start, end, chunk, at } = piece else { break };
            if start >= range.end {
                break;
            }
            let chunk = group.chunk_name(state.chunk(chunk).expect("a chunk that is named is known").id);
            let range = start.max(stream.base())..end;
            parts.push(PartRef { chunk, at, incarnation: stream.incarnation(), range });
        }
        self.bytes += range.end - range.start;
        self.parts_bytes += key.as_str().len() + PART_BYTES;
        self.runs += parts.len();
        self.moves.push(Move { key, parts, base: stream.base() });
    }

    fn is_full(&self) -> bool {
        self.bytes >= CHUNK_BYTES
            || self.moves.len() >= PARTS_MAX
            || self.parts_bytes >= PARTS_BYTES_MAX
            || self.runs >= REPLACED_MAX
    }
}

/// Reads what is to be moved, and makes a chunk of it. What is damaged stays where it is.
async fn carry_out(core: &Core, cold: &Cold, maker: &Maker, mut load: Load) -> Result<(), ShardError> {
    // In the order in which they lie in the first chunk, so each of its blocks is read once.
    load.moves.sort_by_key(|of| (of.parts[0].chunk, of.parts[0].at));
    let mut reads = iter(load.moves).map(|of| read(cold, of)).buffered(READS);
    let (mut pieces, mut damaged) = (Vec::new(), Vec::new());
    while let Some(read) = reads.next().await {
        match read {
            Ok(piece) => pieces.push(piece),
            Err(error @ ColdError::Damaged { .. }) => damaged.push(error),
            Err(error) => return Err(error.into()),
        }
    }
    drop(reads);
    if let Some(error) = damaged.first() {
        add(&core.stats.cold_damaged, damaged.len() as u64);
        tracing::error!(%error, streams = damaged.len(), "cold bytes are damaged: they stay where they are");
    }
    if !pieces.is_empty() {
        let made = maker.make(load.bytes, pieces).await?;
        add(&core.stats.merges, 1);
        add(&core.stats.merged_bytes, made.bytes);
    }
    Ok(())
}

async fn read(cold: &Cold, of: Move) -> Result<Piece, ColdError> {
    let Move { key, parts, base } = of;
    let PartRef { incarnation, range: Range { start, .. }, .. } = parts[0];
    let mut piece = Piece { key, incarnation, start, end: start, packs: Vec::new() };
    for part in parts {
        while piece.end < part.range.end {
            let rest = PartRef { range: piece.end..part.range.end, ..part.clone() };
            let read = cold.read(rest, READ_MAX, Pack::is_whole).await?;
            for pack in &read.packs {
                if piece.packs.is_empty() && pack.start < base {
                    (piece.start, piece.end) = (pack.start, pack.start);
                }
                // Packs are moved whole.
                if pack.start != piece.end || pack.end > part.range.end {
                    let (chunk, position) = (part.chunk.object(), part.at.into());
                    return Err(ColdError::Damaged { chunk, position, reason: "packs are not where the runs are" });
                }
                piece.packs.push(PackIn {
                    bytes: read.bytes.slice(pack.pos as usize..(pack.pos + pack.len) as usize),
                    payload_bytes: (pack.end - pack.start) as u32,
                    time_ms: pack.time_ms,
                });
                piece.end = pack.end;
            }
        }
    }
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
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
        let replies = apply(group, &[Command::Flush { chunk, bytes: 1 << 20, crc: 0, times: (0, 0), parts }]);
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
            let due: Vec<_> =
                streams.filter_map(|stream| Some((stream.incarnation(), due(stream, &emptied)?))).collect();
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
