//! Where a stream's bytes are: the oldest in chunks of the cold tier, the newest in the log.
//!
//! Bytes move from the log to a chunk, or from several chunks to one; their positions never change. So what moves is said by
//! positions, and means the same on a replica whose bytes are elsewhere.
//!
//! What lies before a stream's *base* was trimmed. A run or pack that has bytes on both sides of it stays as it is, but only
//! what is behind counts. Where forks still read what comes long before the base, there may be a *gap* between: a run that is in no
//! chunk.

pub(crate) mod buried;
pub(crate) mod hot;

use std::ops::Range;

pub use hot::Extent;
use hot::{Hot, Place};
use smallvec::SmallVec;

use crate::codec::{CodecError, Reader};
use crate::sink::Sink;

/// The chunk of a gap. Chunks are numbered from 1.
const GAP: u32 = 0;

/// Bytes of a stream that are together in one chunk; up to the next run, or to what is in the log. Or a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    chunk: u32,
    at: u32,
}

/// Some bytes of a stream, and where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// In the cold tier.
    Cold {
        /// The position of the first byte.
        start: u64,
        /// The position after the last byte.
        end: u64,
        /// The number of the chunk: [`Group::chunk`](crate::Group::chunk) has the rest.
        chunk: u32,
        /// Where in the chunk, as its maker has said.
        at: u32,
    },
    /// In the log.
    Hot(Extent),
}

impl Piece {
    /// The position of its first byte.
    pub fn start(&self) -> u64 {
        match self {
            Piece::Cold { start, .. } => *start,
            Piece::Hot(extent) => extent.start,
        }
    }

    /// The position after its last byte.
    pub fn end(&self) -> u64 {
        match self {
            Piece::Cold { end, .. } => *end,
            Piece::Hot(extent) => extent.end,
        }
    }
}

/// So many bytes of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkBytes {
    pub(crate) chunk: u32,
    pub(crate) bytes: u64,
}

/// What bytes were in before they were moved or deleted.
pub(crate) enum Freed {
    /// A pack of this log entry, of so many bytes.
    Entry(u64, u32),
    /// Bytes of a chunk.
    Chunk(ChunkBytes),
}

/// Where the bytes of one stream are.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    /// By the position of their first byte.
    runs: SmallVec<[Run; 1]>,
    /// What lies behind the last run.
    pub(crate) hot: Hot,
}

impl Extents {
    /// Adds a pack behind everything else.
    pub(crate) fn push(&mut self, place: Place) {
        self.hot.push(place);
    }

    /// What holds bytes from `position` on, in order, of a stream that ends at `tail`.
    pub(crate) fn from(&self, position: u64, tail: u64) -> impl Iterator<Item = Piece> + '_ {
        let first = self.runs.partition_point(|run| run.start <= position).saturating_sub(1);
        let runs = (first..self.runs.len()).filter_map(move |n| {
            let Run { start, chunk, at } = self.runs[n];
            let end = self.run_end(n, tail);
            (end > position && chunk != GAP).then_some(Piece::Cold { start, end, chunk, at })
        });
        runs.chain(self.hot.from(position, tail).map(Piece::Hot))
    }

    /// How many runs there are.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Where what is in the log begins.
    pub(crate) fn hot_begin(&self, tail: u64) -> u64 {
        self.hot.begin().unwrap_or(tail)
    }

    fn run_end(&self, n: usize, tail: u64) -> u64 {
        self.runs.get(n + 1).map_or_else(|| self.hot_begin(tail), |next| next.start)
    }

    /// Notes that the bytes of `range` are in a chunk now, and says what they were in. False, and nothing changes, unless
    /// `range` begins where a run does, or what is in the log, and ends where a run does, or a pack. It may also begin anywhere
    /// before `base`, which is where it began before the last trim, or where a pack does that has bytes on both sides.
    pub(crate) fn move_to_chunk(
        &mut self,
        range: &Range<u64>,
        (base, tail): (u64, u64),
        chunk: u32,
        at: u32,
        mut freed: impl FnMut(Freed),
    ) -> bool {
        let hot_begin = self.hot_begin(tail);
        let is_run = |position: u64| self.runs.binary_search_by_key(&position, |run| run.start).is_ok();
        let is_first = range.start <= base;
        let begins = is_first || range.start == hot_begin || is_run(range.start);
        let ends = range.end == hot_begin
            || is_run(range.end)
            || (range.end > hot_begin && (range.end == tail || self.hot.begins_at(range.end)));
        if !begins || !ends || range.is_empty() || range.end <= base {
            return false;
        }
        let first = if is_first { 0 } else { self.runs.partition_point(|run| run.start < range.start) };
        let last = self.runs.partition_point(|run| run.start < range.end);
        if self.runs[first..last].iter().any(|run| run.chunk == GAP) {
            return false;
        }
        (first..last).for_each(|n| freed(Freed::Chunk(self.run_bytes(n, base, tail))));
        self.hot.take_before(range.end, |index, bytes| freed(Freed::Entry(index, bytes)));
        self.runs.drain(first..last);
        self.runs.insert(first, Run { start: range.start, chunk, at });
        self.shrink_runs();
        true
    }

    /// Moves the base of a stream that ends at `tail` from `bases.start` to `bases.end`: gives up what lies before it. Returns
    /// which chunks held how much of that, and what was in the log.
    pub(crate) fn trim(&mut self, bases: &Range<u64>, tail: u64) -> (Vec<ChunkBytes>, Hot) {
        assert!(bases.end <= tail, "what is not there yet is not given up");
        let touched = self.runs.partition_point(|run| run.start < bases.end);
        let freed = |n: usize| {
            let bytes = self.run_end(n, tail).min(bases.end) - self.runs[n].start.max(bases.start);
            ChunkBytes { chunk: self.runs[n].chunk, bytes }
        };
        let freed = (0..touched).map(freed).filter(|freed| freed.chunk != GAP).collect();
        let is_cut = touched > 0 && self.run_end(touched - 1, tail) > bases.end;
        let first_left = self.hot.from(bases.end, tail).next().map_or(tail, |extent| extent.start);
        let hot = self.hot.split_before(first_left);
        self.runs.drain(..touched - usize::from(is_cut));
        self.shrink_runs();
        (freed, hot)
    }

    /// Gives up the pieces that begin at `position` or behind it, of a stream that holds bytes from `base` to `tail`. Returns where it
    /// ends then, which chunks held how much of that, and what was in the log.
    pub(crate) fn cut_end(&mut self, position: u64, (base, tail): (u64, u64)) -> (u64, Vec<ChunkBytes>, Hot) {
        let first = self.from(position, tail).map(|piece| piece.start()).find(|start| *start >= position);
        let Some(end) = first else { return (tail, Vec::new(), Hot::default()) };
        let first = self.runs.partition_point(|run| run.start < end);
        let freed = (first..self.runs.len()).map(|n| self.run_bytes(n, base, tail));
        let freed = freed.filter(|freed| freed.chunk != GAP).collect();
        let left = self.hot.split_before(end);
        let hot = std::mem::replace(&mut self.hot, left);
        self.runs.truncate(first);
        self.shrink_runs();
        (end, freed, hot)
    }

    /// Makes a gap of the runs that lie within `range`, of a stream that ends at `tail`. Returns which chunks held how much of that.
    pub(crate) fn punch(&mut self, range: &Range<u64>, tail: u64) -> Vec<ChunkBytes> {
        let first = self.runs.partition_point(|run| run.start < range.start);
        let within = (first..self.runs.len()).take_while(|n| self.run_end(*n, tail) <= range.end).count();
        let freed = (first..first + within).map(|n| self.run_bytes(n, range.start, tail));
        let freed: Vec<ChunkBytes> = freed.filter(|freed| freed.chunk != GAP).collect();
        if !freed.is_empty() {
            (self.runs[first].chunk, self.runs[first].at) = (GAP, 0);
            self.runs.drain(first + 1..first + within);
            self.shrink_runs();
        }
        freed
    }

    /// Has a stream that ends at `tail` begin at `position`, with a gap if it has nothing there; says whether that is so.
    pub(crate) fn begin_at(&mut self, position: u64, tail: u64) -> bool {
        let begin = self.runs.first().map_or_else(|| self.hot_begin(tail), |first| first.start);
        if position < begin {
            self.runs.insert(0, Run { start: position, chunk: GAP, at: 0 });
        }
        position < begin
    }

    /// Where the first gap in a range begins, of a stream that ends at `tail`.
    pub(crate) fn gap_in(&self, range: &Range<u64>, tail: u64) -> Option<u64> {
        let gap = self.gaps(tail).find(|gap| gap.start < range.end && gap.end > range.start);
        gap.map(|gap| gap.start.max(range.start))
    }

    /// The gaps of a stream that ends at `tail`.
    pub(crate) fn gaps(&self, tail: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let gaps = (0..self.runs.len()).filter(|n| self.runs[*n].chunk == GAP);
        gaps.map(move |n| self.runs[n].start..self.run_end(n, tail))
    }

    /// What run `n` has behind `base`, of a stream that ends at `tail`.
    fn run_bytes(&self, n: usize, base: u64, tail: u64) -> ChunkBytes {
        let bytes = self.run_end(n, tail) - self.runs[n].start.max(base);
        ChunkBytes { chunk: self.runs[n].chunk, bytes }
    }

    fn shrink_runs(&mut self) {
        if self.runs.capacity() > 2 * self.runs.len() {
            self.runs.shrink_to_fit();
        }
    }

    /// Says which chunks hold how much.
    pub(crate) fn chunks(&self, base: u64, tail: u64) -> impl Iterator<Item = ChunkBytes> + '_ {
        let runs = (0..self.runs.len()).map(move |n| self.run_bytes(n, base, tail));
        runs.filter(|run| run.chunk != GAP)
    }

    /// Memory outside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let runs = if self.runs.spilled() { self.runs.capacity() * size_of::<Run>() } else { 0 };
        runs + self.hot.heap_bytes()
    }

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        sink.varint(self.runs.len() as u64);
        let mut before = 0;
        for Run { start, chunk, at } in &self.runs {
            sink.varint(start - before);
            sink.varint(u64::from(*chunk));
            sink.varint(u64::from(*at));
            before = *start;
        }
        self.hot.put(sink);
    }

    /// Reads what [`Extents::put`] wrote of a stream that has records from `base` to `tail`; `taken_in` is told each pack's entry.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        base: u64,
        tail: u64,
        taken_in: impl FnMut(u64, u32),
    ) -> Result<Extents, CodecError> {
        const WHAT: &str = "run";
        let mut extents = Extents::default();
        let mut before = 0;
        for n in 0..reader.varint(WHAT)? {
            let by = reader.varint(WHAT)?;
            let start = u64::checked_add(before, by).filter(|_| n == 0 || by > 0).ok_or(CodecError::Field(WHAT))?;
            let run = Run { start, chunk: reader.varint_u32(WHAT)?, at: reader.varint_u32(WHAT)? };
            extents.runs.push(run);
            before = start;
        }
        extents.hot = Hot::read(reader, taken_in)?;
        let begin = extents.runs.first().map_or_else(|| extents.hot_begin(tail), |first| first.start);
        let is_dense = begin <= base
            && base <= tail
            && extents.runs.last().is_none_or(|last| last.start < extents.hot_begin(tail))
            && extents.hot.last_begin().is_none_or(|last| last < tail);
        let can_be = |extent: Extent| {
            extent.end - extent.start < u64::from(extent.len) && extent.pos.checked_add(extent.len).is_some()
        };
        let can_all_be = || extents.hot.from(0, tail).all(can_be);
        let has_only_retained = || extents.from(0, tail).next().is_none_or(|first| first.end() > base);
        if is_dense && can_all_be() && has_only_retained() { Ok(extents) } else { Err(CodecError::Field(WHAT)) }
    }
}
