//! One group as a leader, its log and its cold tier would drive it: commands are encoded, kept, applied, and read back from
//! what was kept.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use weir_stream::{
    BatchBuilder, Chunk, ChunkId, Command, EncodedParts, Group, Limits, Outcome, Pack, Part, Piece, Stream, Thaw,
};
use weir_types::limits::SLOTS;
use weir_types::{Incarnation, StreamKey};

/// The term that everything happens in.
pub(crate) const TERM: u64 = 3;

/// A group and its log, one command per entry.
pub(crate) struct World {
    pub(crate) group: Group,
    /// Entry `i` is at index `i`, with bytes before it that do not belong to the batch.
    pub(crate) log: Vec<BytesMut>,
    /// What is at `at` is the part of that place.
    pub(crate) chunks: BTreeMap<ChunkId, Vec<Stored>>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) producers_max: u32,
}

/// A part of a chunk: the position of its first record, and its records.
type Stored = (u64, Vec<Vec<u8>>);

/// Bytes that a log keeps in front of a batch.
const HEADER_BYTES: usize = 64;

impl World {
    pub(crate) fn new() -> World {
        let (log, outcomes, chunks) = (Vec::new(), Vec::new(), BTreeMap::new());
        World { group: Group::new(), log, chunks, outcomes, producers_max: 8 }
    }

    /// Applies one command at `time_ms`.
    pub(crate) fn apply(&mut self, time_ms: u64, command: &Command<'_>) -> Outcome {
        let mut builder = BatchBuilder::new(BytesMut::zeroed(HEADER_BYTES));
        builder.push(command);
        self.log.push(builder.finish(time_ms, Limits { producers_max: self.producers_max }));
        let index = self.log.len() - 1;
        let mut outcomes = apply(&mut self.group, &self.log, index..index + 1);
        assert_eq!(outcomes.len(), 1, "one outcome per command");
        let outcome = outcomes.remove(0);
        self.outcomes.push(outcome.clone());
        outcome
    }

    /// Puts the records of some streams into chunk `id`, and proposes that.
    pub(crate) fn flush(
        &mut self,
        time_ms: u64,
        id: ChunkId,
        picked: &[(&StreamKey, Incarnation, Range<u64>)],
    ) -> Outcome {
        self.put_chunk(id, picked);
        self.propose_chunk(time_ms, id, picked)
    }

    /// Puts the records of some streams into chunk `id`.
    pub(crate) fn put_chunk(&mut self, id: ChunkId, picked: &[(&StreamKey, Incarnation, Range<u64>)]) {
        let parts = picked.iter().map(|(key, _, range)| {
            let alive = self.find(key).filter(|stream| range.end <= stream.tail().position);
            (range.start, alive.map_or(Vec::new(), |stream| self.records_of(stream, range.clone())))
        });
        let parts: Vec<_> = parts.collect();
        self.chunks.entry(id).or_insert(parts);
    }

    /// Proposes what was put into chunk `id`.
    pub(crate) fn propose_chunk(
        &mut self,
        time_ms: u64,
        id: ChunkId,
        picked: &[(&StreamKey, Incarnation, Range<u64>)],
    ) -> Outcome {
        let encoded: Vec<Part<'_>> = (0..)
            .zip(picked)
            .map(|(at, (key, incarnation, range))| Part {
                key: (*key).into(),
                incarnation: *incarnation,
                range: range.clone(),
                at,
            })
            .collect();
        let encoded = Part::encode(&encoded);
        let parts = EncodedParts::of(&encoded);
        self.apply(time_ms, &Command::Flush { chunk: id, bytes: 1000, crc: 7, times: (time_ms, time_ms), parts })
    }

    /// The number that the next chunk has.
    pub(crate) fn next_chunk(&self) -> ChunkId {
        ChunkId { term: TERM, number: self.group.chunk_number_last() + 1, nonce: 9 }
    }

    /// The records of a stream from `position` on, read back through its pieces.
    pub(crate) fn records(&self, key: &StreamKey, position: u64) -> Vec<Vec<u8>> {
        let stream = self.group.stream(key).expect("the stream is there");
        self.records_of(stream, position..stream.tail().position)
    }

    /// A stream, gone or not.
    pub(crate) fn find(&self, key: &StreamKey) -> Option<&Stream> {
        self.group.slot(key.slot().index()).find(|stream| stream.key() == key.as_str())
    }

    /// The records of its own that a stream has in a range.
    pub(crate) fn records_of(&self, stream: &Stream, wanted: Range<u64>) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let mut at = None;
        for piece in stream.pieces_from(wanted.start).take_while(|piece| piece.start() < wanted.end) {
            let (range, found) = self.piece(&piece);
            assert!(range.end > wanted.start && at.is_none_or(|at| at == range.start), "pieces are dense");
            at = Some(range.end);
            let mut start = range.start;
            for record in found {
                let end = start + record.len() as u64;
                if end > wanted.start && start < wanted.end {
                    records.push(record);
                }
                start = end;
            }
            assert_eq!(start, range.end, "records cover the piece");
        }
        assert!(wanted.is_empty() || at.is_some_and(|at| at >= wanted.end), "pieces reach the end");
        records
    }

    /// All records of a piece, read from where it says.
    fn piece(&self, piece: &Piece) -> (Range<u64>, Vec<Vec<u8>>) {
        match *piece {
            Piece::Cold { start, end, chunk, at } => {
                let chunk = self.group.chunk(chunk).expect("a chunk that is named is in the table");
                let (begin, records) = &self.chunks[&chunk.id][at as usize];
                assert_eq!(*begin, start);
                (start..end, records.clone())
            }
            Piece::Hot(extent) => {
                let batch = &self.log[extent.index as usize][HEADER_BYTES..];
                let bytes = &batch[extent.pos as usize..][..extent.len as usize];
                let pack = Pack::check(bytes).expect("a pack as it was written");
                let payload = &bytes[pack.payload()];
                assert_eq!(payload.len() as u64, extent.end - extent.start);
                let ends: Vec<usize> = [0].into_iter().chain(pack.record_ends().map(|end| end as usize)).collect();
                (extent.start..extent.end, ends.windows(2).map(|pair| payload[pair[0]..pair[1]].to_vec()).collect())
            }
        }
    }

    /// The group of the first `entries` of the log, and what it has answered.
    pub(crate) fn replayed(&self, entries: usize) -> (Group, Vec<Outcome>) {
        let mut group = Group::new();
        let outcomes = apply(&mut group, &self.log, 0..entries);
        (group, outcomes)
    }

    /// Goes on with the group that a snapshot of the first `entries` becomes. It must be what those have made, and become,
    /// with the rest, what is there now.
    pub(crate) fn thaw(&mut self, entries: usize, pages: &[Bytes]) {
        let mut thaw = Thaw::default();
        for page in pages {
            thaw.take(page).expect("pages as they were written");
        }
        let mut group = thaw.finish().expect("all pages are there");
        assert_eq!(view(&group), view(&self.replayed(entries).0));
        apply(&mut group, &self.log, entries..self.log.len());
        assert_eq!(view(&group), view(&self.group));
        group.take_gone_chunks();
        self.group = group;
    }

    /// Applies the whole log to another group: its answers must be those of this one.
    pub(crate) fn check_replay(&self) {
        let (group, outcomes) = self.replayed(self.log.len());
        assert_eq!(outcomes, self.outcomes, "the same log gives the same answers");
        assert_eq!(view(&group), view(&self.group));
    }
}

fn apply(group: &mut Group, log: &[BytesMut], entries: Range<usize>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for index in entries {
        group.apply(TERM, index as u64, &log[index][HEADER_BYTES..], &mut outcomes).expect("our own bytes");
    }
    outcomes
}

/// What can be seen of a group.
pub(crate) fn view(group: &Group) -> String {
    let mut streams: Vec<_> = (0..SLOTS).flat_map(|slot| group.slot(slot)).collect();
    streams.sort_by_key(|stream| stream.key());
    let streams: Vec<String> = streams
        .iter()
        .map(|stream| {
            let pieces: Vec<Piece> = stream.pieces_from(0).collect();
            let written = (stream.last_write_ms(), stream.expires_ms(), stream.hot_begin());
            let shared = (stream.fork(), stream.forks(), stream.is_gone(), stream.held());
            let linked = group
                .meta()
                .buckets()
                .flat_map(|(name, bucket)| bucket.subscriptions.values().map(move |s| (name, s.number)));
            let linked = linked.filter_map(|(name, number)| group.linked(name, number, stream));
            let linked: Vec<_> = linked.map(|linked| (linked.link, linked.acked)).collect();
            format!("{} {:?} {written:?} {shared:?} {pieces:?} {linked:?}", stream.key(), stream.facts())
        })
        .collect();
    let chunks: Vec<&Chunk> = group.chunks().collect();
    let of_log = (group.applied(), group.hot_floor(), group.hot_bytes(), group.time_ms());
    let releases: Vec<_> = group.releases().collect();
    let unsettled: Vec<_> = group.unsettled_pins(u64::MAX).collect();
    let of_chunks = (group.chunk_number_last(), chunks);
    let of_all = (group.streams(), group.has_expirable(), group.bindings_epoch(), group.bucket("b"), group.meta());
    let of_forks = (releases, unsettled, group.pending_subscriptions().collect::<Vec<_>>());
    format!("{streams:#?} {of_log:?} {of_chunks:?} {of_all:?} {of_forks:?}")
}
