//! A group against a naive model of it: lists that are searched, histories that are kept whole, bytes that are stored.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::world::World;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use weir_stream::subscription::EncodedWatches;
use weir_stream::{
    BucketTold, Change, ChunkId, Command, EncodedBindings, Expiry, Outcome, Piece, ProducerRef, Records, Refusal,
    Reply, Retention, Split, Stream,
};
use weir_types::{Incarnation, Lineage, Offset, ReadFrom, StreamKey};

const IDLE_MS: u64 = 10 * 60 * 1000;
const PRODUCERS_MAX: u32 = 2;

/// One random step. Numbers are relative to the model's state, so that most steps come near to something.
#[derive(Clone, Debug)]
enum Step {
    Create {
        name: usize,
        json: bool,
        upper: bool,
        ttl: bool,
        closed: bool,
        body: usize,
    },
    Append {
        name: usize,
        close: bool,
        producer: Option<(usize, i64, i64)>,
        seq: Option<u8>,
        if_match: IfMatch,
        body: usize,
        stale: bool,
    },
    Delete {
        name: usize,
        stale: bool,
    },
    Expire {
        name: usize,
        stale: bool,
    },
    Bucket {
        verb: u8,
        epoch: u64,
    },
    /// Ranges of streams are put into a chunk: between which of their records.
    Flush {
        picked: Vec<(usize, prop::sample::Index, prop::sample::Index)>,
        stale: bool,
        other_term: bool,
        old_number: bool,
    },
    /// All that is in the log is put into a chunk.
    FlushAll,
    /// What lies before one of the records is given up; and with `late`, all that is still there was put into a chunk before,
    /// but is proposed only afterwards.
    Trim {
        name: usize,
        at: prop::sample::Index,
        stale: bool,
        late: bool,
    },
    Freeze {
        piece_bytes: usize,
    },
    TakeFrozen,
    /// The group goes on as what its snapshot and the log behind it make.
    Thaw,
    Wait {
        ms: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum IfMatch {
    Absent,
    Tail,
    Before,
    OtherLife,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..3usize;
    let rarely = || prop::bool::weighted(0.1);
    // Epoch and sequence number are given as distances to the producer's own: next is (0, 1).
    let producer = (0..3usize, -1..2i64, -3..3i64);
    let producer = prop_oneof![
        3 => Just(None),
        3 => producer.prop_map(Some),
        6 => (0..3usize).prop_map(|id| Some((id, 0, 1))),
    ];
    let if_match = prop_oneof![
        6 => Just(IfMatch::Absent),
        3 => Just(IfMatch::Tail),
        1 => Just(IfMatch::Before),
        1 => Just(IfMatch::OtherLife),
    ];
    let seq = prop_oneof![3 => Just(None), 1 => (0..40u8).prop_map(Some)];
    let append = (name.clone(), rarely(), producer, seq, if_match, 0..6usize, rarely());
    let index = any::<prop::sample::Index>;
    let flush = (vec((name.clone(), index(), index()), 0..3), rarely(), rarely(), rarely())
        .prop_map(|(picked, stale, other_term, old_number)| Step::Flush { picked, stale, other_term, old_number });
    let wait = prop_oneof![0..3000u64, Just(IDLE_MS / 2), Just(IDLE_MS)];
    prop_oneof![
        4 => (name.clone(), any::<bool>(), rarely(), rarely(), rarely(), 0..3usize)
            .prop_map(|(name, json, upper, ttl, closed, body)| Step::Create { name, json, upper, ttl, closed, body }),
        20 => append.prop_map(|(name, close, producer, seq, if_match, body, stale)| {
            Step::Append { name, close, producer, seq, if_match, body, stale }
        }),
        1 => (name.clone(), rarely()).prop_map(|(name, stale)| Step::Delete { name, stale }),
        1 => (name.clone(), rarely()).prop_map(|(name, stale)| Step::Expire { name, stale }),
        1 => (0..3u8, 1..20u64).prop_map(|(verb, epoch)| Step::Bucket { verb, epoch }),
        2 => wait.prop_map(|ms| Step::Wait { ms }),
        3 => flush,
        2 => Just(Step::FlushAll),
        4 => (name, index(), rarely(), any::<bool>())
            .prop_map(|(name, at, stale, late)| Step::Trim { name, at, stale, late }),
        1 => (0..300usize).prop_map(|piece_bytes| Step::Freeze { piece_bytes }),
        1 => Just(Step::TakeFrozen),
        1 => Just(Step::Thaw),
    ]
}

/// A request of a producer that was accepted, and what it did.
#[derive(Clone)]
struct Accepted {
    id: usize,
    epoch: u64,
    seq: u64,
    tail: u64,
    time_ms: u64,
    closed: bool,
}

struct ModelStream {
    name: usize,
    life: u64,
    json: bool,
    ttl: bool,
    closed: bool,
    records: Vec<Vec<u8>>,
    /// How many of the records are trimmed.
    trimmed: usize,
    written_ms: u64,
    seqs: Vec<String>,
    accepted: Vec<Accepted>,
}

impl ModelStream {
    fn tail(&self) -> u64 {
        self.starts()[self.records.len()]
    }

    /// Where each record begins, and the tail.
    fn starts(&self) -> Vec<u64> {
        let mut starts = vec![0];
        self.records.iter().for_each(|record| starts.push(starts[starts.len() - 1] + record.len() as u64));
        starts
    }

    fn base(&self) -> u64 {
        self.starts()[self.trimmed]
    }

    fn last_of(&self, id: usize) -> Option<&Accepted> {
        self.accepted.iter().rev().find(|accepted| accepted.id == id)
    }

    /// What the closed stream answers.
    fn answer_closed(
        &self,
        producer: Option<(usize, u64, u64)>,
        close_alone: bool,
        mismatch: Option<Refusal>,
    ) -> Answer {
        let tail = self.tail();
        if let Some((id, epoch, seq)) = producer {
            let same = |a: &Accepted| a.closed && (a.id, a.epoch, a.seq) == (id, epoch, seq);
            if self.accepted.iter().any(same) {
                return Answer::Appended { tail, closed: true, producer: Some((epoch, seq)), duplicate: true };
            }
        }
        if producer.is_some() || !close_alone {
            return Answer::Refused(Refusal::Closed { tail: offset(self.life, tail) });
        }
        match mismatch {
            Some(refusal) => Answer::Refused(refusal),
            None => Answer::Appended { tail, closed: true, producer: None, duplicate: false },
        }
    }

    /// What the open stream answers to a request whose turn it is not.
    fn judge(&self, (id, epoch, seq): (usize, u64, u64)) -> Option<Answer> {
        let Some(last) = self.last_of(id) else {
            let gap = Refusal::ProducerGap { expected: 0, received: seq };
            return (seq != 0).then_some(Answer::Refused(gap));
        };
        let refusal = if epoch < last.epoch {
            Refusal::ProducerFenced { epoch: last.epoch }
        } else if epoch > last.epoch && seq != 0 {
            Refusal::ProducerEpochStart
        } else if epoch > last.epoch || seq == last.seq + 1 {
            return None;
        } else if seq > last.seq {
            Refusal::ProducerGap { expected: last.seq + 1, received: seq }
        } else {
            let first = self.accepted.iter().find(|a| (a.id, a.epoch, a.seq) == (id, epoch, seq)).expect("dense");
            let tail = if last.seq - seq < 8 { first.tail } else { self.tail() };
            let producer = Some((last.epoch, last.seq));
            return Some(Answer::Appended { tail, closed: false, producer, duplicate: true });
        };
        Some(Answer::Refused(refusal))
    }
}

#[derive(Default)]
struct Model {
    streams: Vec<ModelStream>,
    bucket: bool,
    fenced: bool,
    epoch: u64,
    gone_epoch: u64,
    time_ms: u64,
    lives: u64,
    /// How many entries the snapshot that is being taken is of, and what has been taken.
    frozen: Option<(usize, Vec<Bytes>)>,
}

/// The part of an answer that the model predicts.
#[derive(Debug, PartialEq)]
enum Answer {
    Created { tail: u64, closed: bool },
    Exists { tail: u64, closed: bool },
    Appended { tail: u64, closed: bool, producer: Option<(u64, u64)>, duplicate: bool },
    Trimmed { base: u64, tail: u64 },
    Done { removed: bool },
    Bucket(u64),
    Flushed(u32),
    Refused(Refusal),
}

impl Answer {
    fn of(outcome: &Outcome) -> Answer {
        match &outcome.reply {
            Reply::Created(s) => Answer::Created { tail: s.next.position, closed: s.closed },
            Reply::Exists(s) => Answer::Exists { tail: s.next.position, closed: s.closed },
            Reply::Appended(a) => Answer::Appended {
                tail: a.next.position,
                closed: a.closed,
                producer: a.producer.map(|p| (p.epoch, p.seq)),
                duplicate: a.duplicate,
            },
            Reply::Done => Answer::Done { removed: matches!(outcome.change, Change::Removed { .. }) },
            Reply::Trimmed(s) => Answer::Trimmed { base: s.earliest.position, tail: s.next.position },
            Reply::Flushed { parts } => Answer::Flushed(*parts),
            Reply::Bucket { streams } => Answer::Bucket(*streams),
            Reply::Node { .. } | Reply::MetaBucket { .. } => panic!("no meta commands here"),
            Reply::Pinned(_) | Reply::ForkDecided { .. } => unreachable!("the model has no forks"),
            Reply::Module { .. } | Reply::Binding { .. } => unreachable!("the model has no modules"),
            Reply::Subscription { .. } => unreachable!("the model has no subscriptions"),
            Reply::Refused(refusal) => Answer::Refused(refusal.clone()),
        }
    }
}

/// The bodies that writes carry, and their records as they should be stored.
fn body(json: bool, which: usize) -> (&'static [u8], Split, Vec<Vec<u8>>) {
    let plain: [&[u8]; 6] = [b"", b"a", b"bc", b"def", b"ghij", b"klmno"];
    if !json || which == 0 {
        let body = plain[which];
        return (body, Split::Whole, if body.is_empty() { vec![] } else { vec![body.to_vec()] });
    }
    let text: &[u8] = b"[1,22,333,4444,55555]";
    let ranges = [1..2, 3..5, 6..9, 10..14, 15..20];
    let split = Split::Json(ranges[..which].iter().cloned().collect());
    let record = |range: &std::ops::Range<u32>| [&text[range.start as usize..range.end as usize], b","].concat();
    (text, split, ranges[..which].iter().map(record).collect())
}

fn offset(life: u64, position: u64) -> Offset {
    Offset { position, lineage: Lineage::of(Incarnation(life)) }
}

impl Model {
    fn find(&mut self, name: usize) -> Option<&mut ModelStream> {
        self.streams.iter_mut().find(|stream| stream.name == name)
    }

    fn create(&mut self, name: usize, json: bool, ttl: bool, closed: bool, records: Vec<Vec<u8>>) -> Answer {
        let time_ms = self.time_ms;
        if let Some(stream) = self.find(name) {
            return if (stream.json, stream.ttl, stream.closed) == (json, ttl, closed) {
                Answer::Exists { tail: stream.tail(), closed }
            } else {
                Answer::Refused(Refusal::ConfigConflict)
            };
        }
        if !self.bucket {
            return Answer::Refused(Refusal::BucketNotFound);
        }
        if self.fenced {
            return Answer::Refused(Refusal::BucketBusy);
        }
        let (life, written_ms) = (self.lives, time_ms);
        let (trimmed, seqs, accepted) = (0, vec![], vec![]);
        let stream = ModelStream { name, life, json, ttl, closed, records, trimmed, written_ms, seqs, accepted };
        let tail = stream.tail();
        self.streams.push(stream);
        Answer::Created { tail, closed }
    }

    #[expect(clippy::too_many_arguments, reason = "a request has as many parts")]
    fn append(
        &mut self,
        name: usize,
        life: u64,
        close: bool,
        producer: Option<(usize, u64, u64)>,
        seq: Option<&str>,
        if_match: Option<Offset>,
        records: Vec<Vec<u8>>,
    ) -> Answer {
        let time_ms = self.time_ms;
        let refuse = |refusal| Answer::Refused(refusal);
        let Some(stream) = self.find(name) else { return refuse(Refusal::NotFound) };
        if stream.life != life {
            return refuse(Refusal::Stale);
        }
        let tail = offset(stream.life, stream.tail());
        let mismatch = match if_match {
            Some(o) if o != tail => Some(Refusal::TailMoved { tail }),
            _ => None,
        };
        if stream.closed {
            let close_alone = close && records.is_empty();
            return stream.answer_closed(producer, close_alone, mismatch);
        }
        if records.is_empty() && !close {
            return refuse(Refusal::Empty);
        }
        if let Some(answer) = producer.and_then(|producer| stream.judge(producer)) {
            return answer;
        }
        if seq.is_some_and(|seq| stream.seqs.last().is_some_and(|last| seq.as_bytes() <= last.as_bytes())) {
            return refuse(Refusal::SeqRegression);
        }
        if let Some(refusal) = mismatch {
            return refuse(refusal);
        }
        if let Some((id, ..)) = producer
            && stream.last_of(id).is_none()
        {
            let mut ids: Vec<usize> = stream.accepted.iter().map(|a| a.id).collect();
            ids.sort_unstable();
            ids.dedup();
            if ids.len() >= PRODUCERS_MAX as usize {
                // Of so few, those are forgotten that were used longest ago.
                let used_ms = |id: usize| stream.last_of(id).expect("listed").time_ms;
                let oldest_ms = ids.iter().map(|id| used_ms(*id)).min().expect("the table is full");
                if time_ms - oldest_ms < IDLE_MS {
                    return refuse(Refusal::ProducerLimit);
                }
                let forgotten: Vec<usize> = ids.into_iter().filter(|id| used_ms(*id) == oldest_ms).collect();
                stream.accepted.retain(|a| !forgotten.contains(&a.id));
            }
        }
        stream.records.extend(records);
        stream.closed = close;
        stream.written_ms = time_ms;
        stream.seqs.extend(seq.map(str::to_string));
        let tail = stream.tail();
        if let Some((id, epoch, seq)) = producer {
            stream.accepted.push(Accepted { id, epoch, seq, tail, time_ms, closed: close });
        }
        Answer::Appended {
            tail,
            closed: close,
            producer: producer.map(|(_, epoch, seq)| (epoch, seq)),
            duplicate: false,
        }
    }

    fn remove(&mut self, name: usize) -> bool {
        let before = self.streams.len();
        self.streams.retain(|stream| stream.name != name);
        self.streams.len() < before
    }

    fn expire(&mut self, name: usize, life: u64) -> Answer {
        let time_ms = self.time_ms;
        let due = self.find(name).is_some_and(|s| s.life == life && s.ttl && time_ms >= s.written_ms + 2000);
        Answer::Done { removed: due && self.remove(name) }
    }

    /// The bucket is told as of `epoch`: there, fenced, or gone.
    fn bucket(&mut self, verb: u8, epoch: u64) -> Answer {
        let streams = self.streams.len() as u64;
        let known = if self.bucket { self.epoch } else { self.gone_epoch };
        match verb {
            _ if self.bucket && epoch == known => return Answer::Bucket(streams),
            2 if !self.bucket => self.gone_epoch = known.max(epoch),
            _ if epoch <= known => return Answer::Refused(Refusal::Stale),
            2 if streams > 0 => return Answer::Refused(Refusal::BucketBusy),
            2 => (self.bucket, self.fenced, self.gone_epoch) = (false, false, self.gone_epoch.max(epoch)),
            _ => (self.bucket, self.fenced, self.epoch) = (true, verb == 1, epoch),
        }
        Answer::Bucket(streams)
    }
}

/// Makes a step happen in both, and gives both answers.
fn take(step: &Step, model: &mut Model, world: &mut World) -> (Answer, Outcome) {
    let key = |name: usize| StreamKey::new("b", ["x", "y/z", "w"][name]).expect("a valid name");
    match *step {
        Step::Create { name, json, upper, ttl, closed, body: which } => {
            let (bytes, split, records) = body(json, which);
            model.lives += 1;
            let expected = model.create(name, json, ttl, closed, records);
            let content_type = match (json, upper) {
                (true, true) => "APPLICATION/json; a=b",
                (true, false) => "application/json",
                (false, true) => "Text/Plain",
                (false, false) => "text/plain",
            };
            let key = key(name);
            let command = Command::Create {
                key: (&key).into(),
                incarnation: Incarnation(model.lives),
                content_type,
                expiry: if ttl { Expiry::Idle { ttl_s: 2 } } else { Expiry::Never },
                closed,
                only_new: false,
                bindings_epoch: 0,
                fork: None,
                records: Records::new(bytes, &split),
            };
            (expected, world.apply(model.time_ms, &command))
        }
        Step::Append { name, close, producer, seq, if_match, body: which, stale } => {
            let ids = ["p", "q", "r"];
            let found = model.find(name);
            let (json, tail, life) = found.as_ref().map_or((false, 0, 0), |s| (s.json, s.tail(), s.life));
            let life = if stale { life + 1000 } else { life };
            let producer = producer.map(|(id, epoch, seq)| {
                let last =
                    found.as_ref().and_then(|s| s.last_of(id)).map_or((0, -1), |a| (a.epoch as i64, a.seq as i64));
                (id, (last.0 + epoch).max(0) as u64, (last.1 + seq).max(0) as u64)
            });
            let if_match = match if_match {
                IfMatch::Absent => None,
                IfMatch::Tail => Some(offset(life, tail)),
                IfMatch::Before => Some(offset(life, tail.saturating_sub(1))),
                IfMatch::OtherLife => Some(offset(life + 7, tail)),
            };
            let seq = seq.map(|seq| seq.to_string());
            let (bytes, split, records) = body(json, which);
            let expected = model.append(name, life, close, producer, seq.as_deref(), if_match, records);
            let key = key(name);
            let command = Command::Append {
                key: (&key).into(),
                incarnation: Incarnation(life),
                close,
                producer: producer.map(|(id, epoch, seq)| ProducerRef { id: ids[id], epoch, seq }),
                seq: seq.as_deref(),
                if_match,
                bindings_epoch: 0,
                records: Records::new(bytes, &split),
            };
            (expected, world.apply(model.time_ms, &command))
        }
        Step::Delete { name, stale } => {
            let life = model.find(name).map_or(0, |stream| stream.life) + u64::from(stale) * 1000;
            let removed = !stale && model.remove(name);
            let expected = if removed { Answer::Done { removed } } else { Answer::Refused(Refusal::NotFound) };
            let incarnation = Incarnation(life);
            (
                expected,
                world.apply(model.time_ms, &Command::Delete { key: (&key(name)).into(), incarnation, if_match: None }),
            )
        }
        Step::Expire { name, stale } => {
            let life = model.find(name).map_or(0, |stream| stream.life) + u64::from(stale) * 1000;
            let expected = model.expire(name, life);
            let key = key(name);
            let command = Command::Expire { key: (&key).into(), incarnation: Incarnation(life) };
            (expected, world.apply(model.time_ms, &command))
        }
        Step::Bucket { verb, epoch } => (model.bucket(verb, epoch), world.apply(model.time_ms, &told(verb, epoch))),
        Step::Flush { ref picked, stale, other_term, old_number } => {
            let picked: Vec<_> = picked
                .iter()
                .filter_map(|(name, from, upto)| {
                    let stream = model.find(*name)?;
                    let first = first_held(world.group.stream(&key(*name)).expect("the model has it"));
                    let mut ends = stream.starts();
                    ends.retain(|end| *end >= first);
                    let (from, upto) = (*from.get(&ends), *upto.get(&ends));
                    let incarnation = Incarnation(stream.life + u64::from(stale) * 1000);
                    (from < upto).then_some((key(*name), incarnation, from..upto))
                })
                .collect();
            let picked: Vec<_> = picked.iter().map(|(key, life, range)| (key, *life, range.clone())).collect();
            let next = world.next_chunk();
            let term = next.term - u64::from(other_term);
            let id = ChunkId { term, number: next.number - u32::from(old_number), ..next };
            let expected = if other_term || old_number {
                Answer::Refused(Refusal::Stale)
            } else if stale {
                Answer::Flushed(0)
            } else {
                let mut all: BTreeMap<&str, Cells> = BTreeMap::new();
                let mut moves = |(key, _, range): &(&StreamKey, Incarnation, Range<u64>)| {
                    let stream = world.group.stream(key).expect("the model has it");
                    all.entry(stream.key()).or_insert_with(|| Cells::of(stream)).moves(range)
                };
                Answer::Flushed(picked.iter().map(|pick| u32::from(moves(pick))).sum())
            };
            (expected, world.flush(model.time_ms, id, &picked))
        }
        Step::FlushAll => {
            let keys: Vec<_> =
                model.streams.iter().map(|stream| (key(stream.name), Incarnation(stream.life))).collect();
            let hot = keys.iter().map(|(key, life)| {
                let stream = world.group.stream(key).expect("the model has it");
                (key, *life, stream.hot_begin()..stream.tail().position)
            });
            let picked: Vec<_> = hot.filter(|(.., range)| !range.is_empty()).collect();
            let outcome = world.flush(model.time_ms, world.next_chunk(), &picked);
            assert_eq!(world.group.hot_floor(), None, "nothing names the log any more");
            (Answer::Flushed(picked.len() as u32), outcome)
        }
        Step::Trim { name, at, stale, late } => {
            let key = key(name);
            let Some(stream) = model.find(name) else { return nothing(model, world) };
            let (life, tail, trimmed) = (stream.life, stream.tail(), at.index(stream.records.len() + 1));
            let before = stream.starts()[trimmed];
            stream.trimmed = if stale { stream.trimmed } else { stream.trimmed.max(trimmed) };
            let base = stream.base();
            let expected = if stale { Answer::Refused(Refusal::NotFound) } else { Answer::Trimmed { base, tail } };
            let (id, held) =
                (world.next_chunk(), first_held(world.group.stream(&key).expect("the model has it"))..tail);
            let picked = [(&key, Incarnation(life), held)];
            if late && !picked[0].2.is_empty() {
                world.put_chunk(id, &picked);
            }
            let incarnation = Incarnation(life + u64::from(stale) * 1000);
            let command = Command::Trim { key: (&key).into(), incarnation, before, force: false };
            let outcome = world.apply(model.time_ms, &command);
            if late && !picked[0].2.is_empty() {
                let flushed = world.propose_chunk(model.time_ms, id, &picked);
                assert_eq!(Answer::of(&flushed), Answer::Flushed(u32::from(base < tail)), "what is left fits");
            }
            (expected, outcome)
        }
        Step::Freeze { piece_bytes } => {
            world.group.freeze(piece_bytes);
            model.frozen = Some((world.log.len(), Vec::new()));
            nothing(model, world)
        }
        Step::TakeFrozen => {
            if let Some((_, pages)) = &mut model.frozen {
                pages.extend(world.group.take_frozen());
            }
            nothing(model, world)
        }
        Step::Thaw => {
            if let Some((entries, mut pages)) = model.frozen.take() {
                while let Some(page) = world.group.take_frozen() {
                    pages.push(page);
                }
                world.thaw(entries, &pages);
            }
            nothing(model, world)
        }
        Step::Wait { ms } => {
            model.time_ms += ms;
            // A new leader whose clock is behind: group time must not follow it.
            let behind_ms = model.time_ms / 2;
            let (verb, epoch) = (u8::from(model.fenced), model.epoch);
            let expected = model.bucket(verb, epoch);
            let command = told(verb, epoch);
            world.apply(model.time_ms, &Command::MetaForm { groups: 1 });
            (expected, world.apply(behind_ms, &command))
        }
    }
}

/// Where the first byte is that a stream still has, trimmed or not.
fn first_held(stream: &Stream) -> u64 {
    stream.pieces_from(0).next().map_or(stream.tail().position, |piece| match piece {
        Piece::Cold { start, .. } => start,
        Piece::Hot(extent) => extent.start,
    })
}

/// The pieces of a stream, which of them are cold, and its base.
struct Cells(Vec<(Range<u64>, bool)>, u64);

impl Cells {
    fn of(stream: &Stream) -> Cells {
        let cell = |piece| match piece {
            Piece::Cold { start, end, .. } => (start..end, true),
            Piece::Hot(extent) => (extent.start..extent.end, false),
        };
        Cells(stream.pieces_from(0).map(cell).collect(), stream.base())
    }

    /// Moves a range to a chunk, if it may be.
    fn moves(&mut self, range: &Range<u64>) -> bool {
        let hot_begin = self.0.iter().find(|(_, is_cold)| !is_cold).map(|(cell, _)| cell.start);
        let begins = |(cell, is_cold): &(Range<u64>, bool)| {
            cell.start == range.start && (*is_cold || Some(cell.start) == hot_begin)
        };
        let fits = (range.start <= self.1 || self.0.iter().any(begins))
            && self.0.iter().any(|(cell, _)| cell.end == range.end);
        if fits {
            self.0.retain(|(cell, _)| cell.end <= range.start || cell.start >= range.end);
            self.0.push((range.clone(), true));
            self.0.sort_by_key(|(cell, _)| cell.start);
        }
        fits
    }
}

/// A command that changes nothing.
fn nothing(model: &Model, world: &mut World) -> (Answer, Outcome) {
    (Answer::Done { removed: false }, world.apply(model.time_ms, &Command::MetaForm { groups: 1 }))
}

/// The bucket as of `epoch`: there, fenced, or gone.
fn told(verb: u8, epoch: u64) -> Command<'static> {
    let bindings = EncodedBindings::of(&[0, 0]);
    let told = match verb {
        2 => BucketTold::Gone,
        _ => BucketTold::There {
            created_ms: 5,
            fenced: verb == 1,
            retention: Retention::default(),
            bindings,
            watches: EncodedWatches::NONE,
        },
    };
    Command::Bucket { name: "b", epoch, told }
}

fn agree(model: &Model, world: &World) {
    let group = &world.group;
    assert_eq!(group.streams(), model.streams.len());
    assert_eq!(group.time_ms(), model.time_ms);
    let view = group.bucket("b");
    assert_eq!(view.map(|b| (b.streams, b.fenced)), model.bucket.then_some((model.streams.len() as u64, model.fenced)));
    for expected in &model.streams {
        let key = StreamKey::new("b", ["x", "y/z", "w"][expected.name]).expect("a valid name");
        let stream = group.stream(&key).expect("the model has it");
        assert_eq!(stream.incarnation(), Incarnation(expected.life));
        assert_eq!((stream.is_json(), stream.is_closed()), (expected.json, expected.closed));
        assert_eq!(stream.last_write_ms(), expected.written_ms);
        let (base, starts) = (expected.base(), expected.starts());
        assert_eq!((stream.base(), stream.tail().position), (base, expected.tail()));
        assert_eq!(stream.check_offset(ReadFrom::Start), Ok(base));
        for (i, start) in starts.into_iter().enumerate() {
            let at = ReadFrom::At(offset(expected.life, start));
            if i < expected.trimmed {
                let earliest = offset(expected.life, base);
                assert_eq!(stream.check_offset(at), Err(Refusal::OffsetTrimmed { earliest }));
            } else {
                assert_eq!(stream.check_offset(at), Ok(start));
                assert_eq!(world.records(&key, start), expected.records[i..]);
            }
        }
        assert!(stream.pieces_from(0).all(|piece| piece.end() > base), "what is trimmed is not named");
        assert_eq!(stream.pieces_from(stream.tail().position).count(), 0);
    }
    let streams = || (0..weir_types::limits::SLOTS).flat_map(|slot| group.slot(slot));
    let pieces: Vec<(u64, Piece)> =
        streams().flat_map(|stream| stream.pieces_from(0).map(|piece| (stream.base(), piece))).collect();
    let named = || {
        pieces.iter().filter_map(|(_, piece)| match piece {
            Piece::Hot(extent) => Some(extent),
            Piece::Cold { .. } => None,
        })
    };
    let floor = named().map(|extent| extent.index).min();
    assert_eq!(group.hot_floor(), floor, "the floor is the lowest entry that is named");
    assert_eq!(group.hot_bytes(), named().map(|extent| u64::from(extent.len)).sum::<u64>());
    for chunk in group.chunks() {
        let live = pieces.iter().filter_map(|(base, piece)| match piece {
            Piece::Cold { start, end, chunk: number, .. } if *number == chunk.id.number => Some(end - start.max(base)),
            _ => None,
        });
        assert_eq!(chunk.live_bytes, live.sum::<u64>());
        assert!(chunk.live_bytes > 0, "a chunk that nothing names is forgotten");
    }
    assert_eq!(group.has_expirable(), model.streams.iter().any(|stream| stream.ttl));
    let listed = (0..weir_types::limits::SLOTS).flat_map(|slot| group.slot(slot));
    assert_eq!(listed.count(), model.streams.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_group_behaves_as_its_model(steps in vec(step(), 0..80)) {
        let mut model = Model::default();
        let mut world = World::new();
        world.producers_max = PRODUCERS_MAX;
        model.bucket(0, 1);
        world.apply(0, &told(0, 1));
        for step in &steps {
            let (expected, outcome) = take(step, &mut model, &mut world);
            prop_assert_eq!(Answer::of(&outcome), expected, "{:?}", step);
        }
        agree(&model, &world);
        world.check_replay();

        for name in 0..3 {
            take(&Step::Delete { name, stale: false }, &mut model, &mut world);
        }
        prop_assert_eq!(world.group.chunks().count(), 0, "what nothing names is gone");
        world.group.take_gone_chunks();
        world.group.end_freeze();
        prop_assert_eq!(world.group.index_bytes(), 0, "what is deleted is no longer counted");
    }
}
