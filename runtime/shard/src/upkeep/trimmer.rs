//! Retention: what a bucket keeps no longer of its streams is trimmed.
//!
//! One pass looks at all streams, slot by slot, and decides nearly everything in memory, by whole runs and packs. How old they are
//! is known from the chunk table, which has the times of each chunk's first and last bytes, and for the log from *marks*: which
//! entry was the last at what time, noted at each pass. Only where a chunk has both old and young bytes, the index of the
//! stream's part is read, and the time of the first record that stays is remembered, so that it is not read at each pass.
//!
//! Streams with a summary are passed over: it could not be computed again.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use weir_cold::PartRef;
use weir_stream::{Command, Group, KeyRef, Piece, Retention, Stream};
use weir_types::limits::SLOTS;
use weir_types::{Incarnation, Role, StreamKey, cut_at_slash};

use crate::core::Core;
use crate::message::ShardError;
use crate::write::job::LocalGroup;

/// How long it rests after a pass, at most.
const REST_MAX: Duration = Duration::from_secs(30);
/// And at least.
const REST_MIN: Duration = Duration::from_millis(200);
/// Streams that are looked at in one turn, about.
const STREAMS_PER_TURN: usize = 2048;
/// Pieces of one stream that are looked at in one pass: a millisecond or two.
const PIECES_MAX: usize = 16_384;
/// Streams that are trimmed before others are looked at.
const DUE_MAX: usize = 1024;
/// Streams that are trimmed at a time.
const TRIMS: usize = 16;
/// How much older than it may be a record gets before it goes, so that many go at once: so much at least,
const LATE_MIN_MS: u64 = 30_000;
/// and such a part of the age.
const LATE_PART: u64 = 16;
/// Marks that are kept.
const MARKS_MAX: usize = 512;
/// Streams of which it is remembered when their first record was appended.
const KNOWN_MAX: usize = 65_536;

/// What a group's trimmer knows.
struct Trimmer {
    core: Rc<Core>,
    group: Rc<LocalGroup>,
    /// Group time in milliseconds since 1970, and the last entry that was applied by then. Both rise.
    marks: VecDeque<(u64, Option<u64>)>,
    /// The time of a stream's record at a position.
    known: HashMap<Incarnation, Known>,
}

#[derive(Clone, Copy)]
struct Known {
    position: u64,
    time_ms: u64,
}

/// A stream that is to be trimmed.
struct Due {
    key: StreamKey,
    incarnation: Incarnation,
    base: u64,
    before: u64,
    /// Of what is behind, this may be older than `cut_ms`, too.
    mixed: Option<PartRef>,
    cut_ms: u64,
}

/// Trims what is to be trimmed of a group. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>) {
    let rest = core.config.flush_age.clamp(REST_MIN, REST_MAX);
    let mut trimmer = Trimmer { core, group, marks: VecDeque::new(), known: HashMap::new() };
    while !trimmer.group.has_failed() {
        tokio::time::sleep(rest).await;
        trimmer.mark();
        let has_retention = trimmer.group.leading().is_ok_and(|state| state.has_retention());
        if has_retention {
            trimmer.pass().await;
        }
    }
}

impl Trimmer {
    /// Notes which entry is the last one by now.
    fn mark(&mut self) {
        let state = self.group.applied();
        let mark = (state.time_ms(), state.applied());
        drop(state);
        if self.marks.back() == Some(&mark) {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            // Every second one goes, so what is known of long ago is known less exactly.
            let mut stays = false;
            self.marks.retain(|_| {
                stays = !stays;
                stays
            });
        }
        self.marks.push_back(mark);
    }

    /// The last entry that is known to be older than `time_ms`.
    fn last_before(&self, time_ms: u64) -> Option<u64> {
        let first_after = self.marks.partition_point(|(mark_ms, _)| *mark_ms < time_ms);
        first_after.checked_sub(1).and_then(|last| self.marks[last].1)
    }

    /// Looks at all streams once.
    async fn pass(&mut self) {
        let (mut due, mut seen) = (Vec::new(), 0);
        for slot in 0..SLOTS {
            seen += self.add_slot(slot, &mut due);
            if seen >= STREAMS_PER_TURN {
                seen = 0;
                tokio::task::yield_now().await;
            }
            if due.len() >= DUE_MAX {
                self.trim(std::mem::take(&mut due)).await;
            }
        }
        self.trim(due).await;
    }

    /// Adds what is due of a slot's streams; says how many streams there were, or as many as it took time for.
    fn add_slot(&self, slot: usize, due: &mut Vec<Due>) -> usize {
        let state = self.group.applied();
        let now_ms = self.core.clock.now_ms();
        let mut seen = 0;
        for stream in state.slot(slot) {
            seen += 1;
            let (bucket, _) = cut_at_slash(stream.key()).expect("a stream's key has a bucket");
            let retention = state.bucket(bucket).map_or(Retention::default(), |bucket| bucket.retention);
            if retention.is_unlimited() || stream.is_gone() || stream.base() == stream.tail().position {
                continue;
            }
            let (found, looked) = self.look(&state, stream, retention, now_ms);
            seen += looked / 8;
            let Some(found) = found else { continue };
            if state.bindings(&found.key, Role::Summary).next().is_none() {
                due.push(found);
            }
        }
        seen
    }

    /// What is due of a stream, if anything is; and how many pieces were looked at for that.
    fn look(&self, state: &Group, stream: &Stream, retention: Retention, now_ms: u64) -> (Option<Due>, usize) {
        let (base, tail) = (stream.base(), stream.tail().position);
        let by_bytes = retention.bytes.map_or(base, |bytes| before_last(stream, bytes));
        let cut_ms = retention.age_s.map_or(0, |age_s| now_ms.saturating_sub(age_ms(age_s)));
        let (by_age, mixed, looked) = match retention.age_s {
            None => (base, None, 0),
            Some(_) if stream.last_write_ms() < cut_ms => (tail, None, 0),
            Some(age_s) => self.look_at_times(state, stream, cut_ms, age_ms(age_s)),
        };
        let before = by_bytes.max(by_age);
        let mixed = mixed.filter(|mixed| mixed.range.end > before);
        let due = (before > base || mixed.is_some()).then(|| Due {
            key: StreamKey::parse(stream.key()).expect("keys were checked when their request came"),
            incarnation: stream.incarnation(),
            base,
            before,
            mixed,
            cut_ms,
        });
        (due, looked)
    }

    /// Up to where a stream is older than `cut_ms`, by runs and packs; the run behind, if some of that may be, too; and how many
    /// pieces were looked at.
    fn look_at_times(&self, state: &Group, stream: &Stream, cut_ms: u64, age_ms: u64) -> (u64, Option<PartRef>, usize) {
        let (base, late_ms) = (stream.base(), cut_ms.saturating_sub(LATE_MIN_MS.max(age_ms / LATE_PART)));
        let (last_old, last_late) = (self.last_before(cut_ms), self.last_before(late_ms));
        let (mut before, mut looked) = (base, 0);
        if base < stream.begin() {
            // When what it inherits was appended, its ancestors know: before there was this one.
            if stream.created_ms() >= cut_ms {
                return (base, None, 0);
            }
            before = stream.begin();
        }
        for piece in stream.pieces_from(base).take(PIECES_MAX) {
            looked += 1;
            match piece {
                Piece::Cold { end, chunk, at, .. } => {
                    let chunk = state.chunk(chunk).expect("a chunk that is named is known");
                    let (first_ms, last_ms) = chunk.times;
                    if last_ms < cut_ms {
                        before = end;
                        continue;
                    }
                    let known = self.known.get(&stream.incarnation()).filter(|known| known.position == before);
                    if known.map_or(first_ms, |known| known.time_ms) >= late_ms {
                        break;
                    }
                    let (chunk, incarnation) = (self.group.chunk_name(chunk.id), stream.incarnation());
                    return (before, Some(PartRef { chunk, at, incarnation, range: before..end }), looked);
                }
                // What goes anyway takes along what is only just old.
                Piece::Hot(extent) if Some(extent.index) <= if before == base { last_late } else { last_old } => {
                    before = extent.end;
                }
                Piece::Hot(_) => break,
            }
        }
        (before, None, looked)
    }

    async fn trim(&mut self, due: Vec<Due>) {
        let (core, group) = (&self.core, &self.group);
        let mut trims = iter(due).map(|due| trim(core, group, due)).buffer_unordered(TRIMS);
        let (mut known, mut refused) = (Vec::new(), None);
        while let Some(trimmed) = trims.next().await {
            match trimmed {
                Ok(first) => known.extend(first),
                Err(error) => refused = Some(error),
            }
        }
        drop(trims);
        if let Some(error) = refused.filter(|_| !self.group.has_failed()) {
            tracing::warn!(group = self.group.id.0, ?error, "streams cannot be trimmed: they are tried again");
        }
        if self.known.len() + known.len() > KNOWN_MAX {
            self.known.clear();
        }
        self.known.extend(known);
    }
}

/// Where the piece begins that has the first of a stream's last `bytes` bytes, or its base.
fn before_last(stream: &Stream, bytes: NonZeroU64) -> u64 {
    let kept = stream.tail().position.saturating_sub(bytes.get());
    // What a fork inherits goes as a whole, once none of it is to be kept.
    let first = (kept > stream.base() && kept >= stream.begin()).then(|| stream.pieces_from(kept).next()).flatten();
    first.map_or(stream.base(), |piece| piece.start()).max(stream.base())
}

fn age_ms(age_s: NonZeroU64) -> u64 {
    age_s.get().saturating_mul(1000)
}

/// Trims a stream; says when its first record was appended, if that was looked for.
async fn trim(core: &Core, group: &LocalGroup, due: Due) -> Result<Option<(Incarnation, Known)>, ShardError> {
    let Due { key, incarnation, base, mut before, mixed, cut_ms } = due;
    let (mut known, mut failed) = (None, None);
    if let Some(mixed) = mixed {
        let chunk = mixed.chunk;
        let cold = core.cold.as_ref().expect("a shard with chunks has a cold tier");
        match cold.index(mixed).await {
            Ok(packs) => {
                let young = packs.iter().find(|pack| pack.time_ms >= cut_ms);
                let first_left = young.map(|pack| pack.start).or(packs.last().map(|pack| pack.end));
                before = before.max(first_left.unwrap_or(before));
                known = young.map(|pack| (incarnation, Known { position: before, time_ms: pack.time_ms }));
            }
            // The bytes were moved or deleted, and then what they were in.
            Err(_) if !group.has_chunk(chunk) => {}
            Err(error) => failed = core.note_damage::<()>(Err(error.into())).await.err(),
        }
    }
    if before > base {
        group.command(&Command::Trim { key: KeyRef::from(&key), incarnation, before, force: false }).await?;
    }
    failed.map_or(Ok(known), Err)
}
