//! Idempotent producers: what each has sent, so that a retry is answered and not appended again.
//!
//! A producer's sequence numbers are dense within an epoch and begin at 0, so the highest accepted one says everything
//! about which requests were applied. Besides it the tails after the last [`RECEIPTS`] of them are kept, in a ring
//! indexed by the sequence number, so that an exact retry gets the very answer that was lost.
//!
//! - Duplicates older than the ring are answered with the current tail: still truly "it is there", only later.
//! - When the table is full, the producers that have been idle longest are forgotten, a sixteenth of all at once; but none
//!   that was used in the last [`IDLE_MS`] of group time, for it may be about to retry. A forgotten producer is a new one: it
//!   begins again at sequence 0.
//! - A duplicate does not count as use: the leader answers most of them without a log entry, and replicas must agree.
//!
//! Source: Durable Streams Protocol, section 5.2.1.

use hashbrown::HashTable;
use weir_types::StreamKey;
use weir_types::limits::PRODUCER_NUMBER_MAX;

use crate::codec::{CodecError, Reader};
use crate::reply::{ProducerState, Refusal};
use crate::sink::Sink;

/// Tails that are remembered per producer.
pub const RECEIPTS: usize = 8;
/// Idle time after which a full table may forget a producer: longer than clients go on retrying a request.
pub const IDLE_MS: u64 = 10 * 60 * 1000;
/// What part of a full table is forgotten at once, at least one: finding who is idle costs a look at all.
const FORGOTTEN_PART: usize = 16;

/// A request's producer headers, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerRef<'a> {
    /// `Producer-Id`, 1 to [`weir_types::limits::PRODUCER_ID_BYTES_MAX`] bytes.
    pub id: &'a str,
    /// `Producer-Epoch`.
    pub epoch: u64,
    /// `Producer-Seq`.
    pub seq: u64,
}

/// What a request is to its producer's earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The next one, or the first of a new epoch or producer.
    Next,
    /// Already applied.
    Duplicate {
        /// The position it was answered with, where still known.
        next: Option<u64>,
        /// What is accepted of the producer.
        state: ProducerState,
    },
}

#[derive(Debug)]
struct Producer {
    id: Box<str>,
    state: ProducerState,
    used_ms: u64,
    /// The tail after sequence `s` is at `s % RECEIPTS`, for the last [`RECEIPTS`] of the epoch.
    receipts: [u64; RECEIPTS],
    /// Whether its last request closed the stream.
    closed: bool,
}

/// The producers of one stream.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    table: HashTable<Producer>,
    ids_bytes: usize,
}

impl Producers {
    /// Places a request among its producer's earlier ones.
    ///
    /// # Errors
    /// [`Refusal::ProducerFenced`], [`Refusal::ProducerEpochStart`] or [`Refusal::ProducerGap`].
    pub(crate) fn turn(&self, producer: ProducerRef<'_>) -> Result<Turn, Refusal> {
        let gap = |expected| Err(Refusal::ProducerGap { expected, received: producer.seq });
        let Some(known) = self.find(producer.id) else {
            return if producer.seq == 0 { Ok(Turn::Next) } else { gap(0) };
        };
        let state = known.state;
        if producer.epoch < state.epoch {
            return Err(Refusal::ProducerFenced { epoch: state.epoch });
        }
        if producer.epoch > state.epoch {
            return if producer.seq == 0 { Ok(Turn::Next) } else { Err(Refusal::ProducerEpochStart) };
        }
        if producer.seq <= state.seq {
            let kept = state.seq - producer.seq < RECEIPTS as u64;
            let next = kept.then(|| known.receipts[ring(producer.seq)]);
            return Ok(Turn::Duplicate { next, state });
        }
        if producer.seq == state.seq + 1 { Ok(Turn::Next) } else { gap(state.seq + 1) }
    }

    /// Whether this very request closed the stream, and the producer's state if so.
    pub(crate) fn closing(&self, producer: ProducerRef<'_>) -> Option<ProducerState> {
        let known = self.find(producer.id)?;
        let same = known.state == ProducerState { epoch: producer.epoch, seq: producer.seq };
        (known.closed && same).then_some(known.state)
    }

    /// Makes sure that `id` can be accepted, forgetting idle producers if the table is full.
    ///
    /// # Errors
    /// [`Refusal::ProducerLimit`] when it is full of active ones.
    pub(crate) fn make_room(&mut self, id: &str, time_ms: u64, producers_max: u32) -> Result<(), Refusal> {
        let full = |producers: &Producers| producers.table.len() >= producers_max as usize;
        if !full(self) || self.find(id).is_some() {
            return Ok(());
        }
        let mut used_ms: Vec<u64> = self.table.iter().map(|producer| producer.used_ms).collect();
        let (Some(idle_ms), false) = (time_ms.checked_sub(IDLE_MS), used_ms.is_empty()) else {
            return Err(Refusal::ProducerLimit);
        };
        let part = used_ms.len() / FORGOTTEN_PART;
        let until_ms = idle_ms.min(*used_ms.select_nth_unstable(part).1);
        let ids_bytes = &mut self.ids_bytes;
        self.table.retain(|producer| {
            let is_kept = producer.used_ms > until_ms;
            if !is_kept {
                assert!(*ids_bytes >= producer.id.len(), "ids are counted");
                *ids_bytes -= producer.id.len();
            }
            is_kept
        });
        if full(self) { Err(Refusal::ProducerLimit) } else { Ok(()) }
    }

    /// Remembers a request that was applied: `tail` is the position after it, `closed` whether it closed the stream.
    pub(crate) fn accept(&mut self, producer: ProducerRef<'_>, tail: u64, time_ms: u64, closed: bool) -> ProducerState {
        let state = ProducerState { epoch: producer.epoch, seq: producer.seq };
        let hash = StreamKey::hash_of(producer.id);
        match self.table.find_mut(hash, |known| *known.id == *producer.id) {
            Some(known) => {
                let before = known.state;
                assert!((before.epoch, before.seq) < (state.epoch, state.seq), "a producer's turns rise");
                assert!(!known.closed, "a closed stream accepts nothing");
                known.state = state;
                known.used_ms = time_ms;
                known.receipts[ring(producer.seq)] = tail;
                known.closed = closed;
            }
            None => {
                assert!(producer.seq == 0, "a producer begins at 0");
                let mut receipts = [0; RECEIPTS];
                receipts[ring(producer.seq)] = tail;
                self.insert(Producer { id: producer.id.into(), state, used_ms: time_ms, receipts, closed });
            }
        }
        state
    }

    /// Memory outside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.table.capacity() * size_of::<Producer>() + self.ids_bytes
    }

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        sink.varint(self.table.len() as u64);
        for Producer { id, state, used_ms, receipts, closed } in &self.table {
            sink.short(id);
            sink.varint(state.epoch);
            sink.varint(state.seq);
            sink.varint(*used_ms);
            receipts.iter().for_each(|tail| sink.varint(*tail));
            sink.u8(u8::from(*closed));
        }
    }

    /// Reads what [`Producers::put`] wrote.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Producers, CodecError> {
        const WHAT: &str = "producer";
        let mut producers = Producers::default();
        for _ in 0..reader.varint(WHAT)? {
            let id = reader.short(WHAT)?;
            let state = ProducerState { epoch: reader.varint(WHAT)?, seq: reader.varint(WHAT)? };
            let used_ms = reader.varint(WHAT)?;
            let mut receipts = [0; RECEIPTS];
            for tail in &mut receipts {
                *tail = reader.varint(WHAT)?;
            }
            let closed = reader.flag(WHAT)?;
            if producers.find(id).is_some() {
                return Err(CodecError::Field(WHAT));
            }
            producers.insert(Producer { id: id.into(), state, used_ms, receipts, closed });
        }
        Ok(producers)
    }

    /// Whether they can be those of a stream that ends at `tail`, in a group whose time is `time_ms`.
    pub(crate) fn fit(&self, tail: u64, time_ms: u64, is_closed: bool) -> bool {
        self.table.iter().all(|Producer { state, used_ms, receipts, closed, .. }| {
            let is_counted = state.epoch <= PRODUCER_NUMBER_MAX && state.seq <= PRODUCER_NUMBER_MAX;
            let is_past = *used_ms <= time_ms && receipts.iter().all(|receipt| *receipt <= tail);
            is_counted && is_past && (is_closed || !closed)
        })
    }

    fn insert(&mut self, producer: Producer) {
        self.ids_bytes += producer.id.len();
        let hash = StreamKey::hash_of(&producer.id);
        self.table.insert_unique(hash, producer, |other| StreamKey::hash_of(&other.id));
    }

    fn find(&self, id: &str) -> Option<&Producer> {
        self.table.find(StreamKey::hash_of(id), |known| *known.id == *id)
    }
}

fn ring(seq: u64) -> usize {
    (seq % RECEIPTS as u64) as usize
}
