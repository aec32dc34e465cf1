//! Pins: what the forks of a stream hold of it.
//!
//! A pinned stream keeps its records from where its forks begin to read, also when they are trimmed: its own readers no longer see
//! them, its forks do. If it is deleted, or its time is over, it is *gone*: its name is taken and nobody reaches it, but its bytes
//! stay, those that forks read, until the last fork has released it. Source: Durable Streams Protocol, section 4.2.

use std::collections::BTreeMap;
use std::ops::Range;

use weir_types::{Incarnation, StreamKey};

use crate::codec::{CodecError, Reader};
use crate::sink::Sink;

/// What a pin takes besides its name, about: a place in a tree that is three quarters full.
const PIN_BYTES: usize = (size_of::<Incarnation>() + size_of::<Pin>()) * 4 / 3;
/// What a position takes at which some begin or end to read.
const COUNT_BYTES: usize = size_of::<(u64, usize)>() * 4 / 3;
/// What an unsettled pin takes besides.
const UNSETTLED_BYTES: usize = (size_of::<(u64, Incarnation)>() + size_of::<Unsettled>()) * 4 / 3;
/// Where those begin to read that read nothing.
const NOTHING: u64 = u64::MAX;

const WHAT: &str = "pin";

/// What one fork holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// `bucket/name` of the fork.
    pub(crate) fork: Box<str>,
    /// The positions that it reads, from the first one to the one behind the last.
    pub(crate) range: Range<u64>,
    /// Until when the fork may come to be, in milliseconds since 1970; 0 once it is known to be there.
    pub(crate) until_ms: u64,
}

/// All forks of one stream.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// By the life of the fork.
    pins: BTreeMap<Incarnation, Pin>,
    /// How many read from each position on, and up to each.
    begins: BTreeMap<u64, usize>,
    ends: BTreeMap<u64, usize>,
    names_bytes: usize,
    /// Whether only they keep the stream.
    pub(crate) is_gone: bool,
}

/// A pin of which it is not known whether its fork has come to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// `bucket/name` of the source.
    pub source: Box<str>,
    /// Its life.
    pub source_incarnation: Incarnation,
    /// `bucket/name` of the fork.
    pub fork: Box<str>,
}

/// The unsettled pins of a group, by the time until which their forks may come to be.
#[derive(Debug, Default)]
pub(crate) struct UnsettledPins {
    pins: BTreeMap<(u64, Incarnation), Unsettled>,
    names_bytes: usize,
}

impl Pins {
    pub(crate) fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.pins.len()
    }

    pub(crate) fn has(&self, fork: Incarnation) -> bool {
        self.pins.contains_key(&fork)
    }

    /// Every fork's life, and its pin.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Incarnation, &Pin)> {
        self.pins.iter().map(|(fork, pin)| (*fork, pin))
    }

    /// The lowest position that a fork reads; beyond every stream when none reads anything.
    pub(crate) fn floor(&self) -> u64 {
        self.begins.keys().next().copied().unwrap_or(NOTHING)
    }

    /// The position behind the last one that a fork reads.
    pub(crate) fn ceiling(&self) -> u64 {
        self.ends.keys().next_back().copied().unwrap_or(0)
    }

    /// Notes that a fork is there; says until when it may have come to be.
    pub(crate) fn settle(&mut self, fork: Incarnation) -> Option<u64> {
        self.pins.get_mut(&fork).map(|pin| std::mem::take(&mut pin.until_ms))
    }

    /// Notes that a fork needs no bytes.
    pub(crate) fn empty(&mut self, fork: Incarnation) {
        if let Some(pin) = self.pins.get_mut(&fork) {
            let range = std::mem::take(&mut pin.range);
            self.forget(&range);
        }
    }

    pub(crate) fn insert(&mut self, fork: Incarnation, pin: Pin) {
        if !pin.range.is_empty() {
            *self.begins.entry(pin.range.start).or_default() += 1;
            *self.ends.entry(pin.range.end).or_default() += 1;
        }
        self.names_bytes += pin.fork.len();
        let before = self.pins.insert(fork, pin);
        assert!(before.is_none(), "a fork pins once");
    }

    pub(crate) fn remove(&mut self, fork: Incarnation) -> Option<Pin> {
        let pin = self.pins.remove(&fork)?;
        self.names_bytes -= pin.fork.len();
        self.forget(&pin.range);
        Some(pin)
    }

    /// One fork less reads that.
    fn forget(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        for (counts, position) in [(&mut self.begins, range.start), (&mut self.ends, range.end)] {
            let count = counts.get_mut(&position).expect("every pin is counted");
            *count -= 1;
            if *count == 0 {
                counts.remove(&position);
            }
        }
    }

    /// Memory outside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.pins.len() * PIN_BYTES + (self.begins.len() + self.ends.len()) * COUNT_BYTES + self.names_bytes
    }

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        sink.u8(u8::from(self.is_gone));
        sink.varint(self.pins.len() as u64);
        for (incarnation, Pin { fork, range, until_ms }) in &self.pins {
            sink.u64(incarnation.0);
            sink.long(fork);
            sink.varint(range.start);
            sink.varint(range.end - range.start);
            sink.varint(*until_ms);
        }
    }

    /// Reads what [`Pins::put`] wrote of a stream that ends at `tail`.
    pub(crate) fn read(reader: &mut Reader<'_>, tail: u64) -> Result<Pins, CodecError> {
        let mut pins = Pins { is_gone: reader.flag(WHAT)?, ..Pins::default() };
        for _ in 0..reader.varint(WHAT)? {
            let (incarnation, fork) = (Incarnation(reader.u64(WHAT)?), reader.long(WHAT)?);
            let (start, bytes, until_ms) = (reader.varint(WHAT)?, reader.varint(WHAT)?, reader.varint(WHAT)?);
            let end = start.checked_add(bytes).ok_or(CodecError::Field(WHAT))?;
            let fits = end <= tail && until_ms <= i64::MAX as u64;
            if !fits || StreamKey::check(fork).is_err() || pins.pins.contains_key(&incarnation) {
                return Err(CodecError::Field(WHAT));
            }
            pins.insert(incarnation, Pin { fork: fork.into(), range: start..end, until_ms });
        }
        if pins.is_empty() { Err(CodecError::Field(WHAT)) } else { Ok(pins) }
    }
}

impl UnsettledPins {
    pub(crate) fn insert(&mut self, (source, life): (&str, Incarnation), fork: Incarnation, pin: &Pin) {
        let unsettled = Unsettled { source: source.into(), source_incarnation: life, fork: pin.fork.clone() };
        self.names_bytes += unsettled.source.len() + unsettled.fork.len();
        if let Some(before) = self.pins.insert((pin.until_ms, fork), unsettled) {
            self.names_bytes -= before.source.len() + before.fork.len();
        }
    }

    pub(crate) fn remove(&mut self, until_ms: u64, fork: Incarnation) {
        if let Some(gone) = self.pins.remove(&(until_ms, fork)) {
            self.names_bytes -= gone.source.len() + gone.fork.len();
        }
    }

    /// Those whose time is over at `time_ms`, the oldest first: the life of the fork, and its time.
    pub(crate) fn over(&self, time_ms: u64) -> impl Iterator<Item = (Incarnation, u64, &Unsettled)> {
        let all = self.pins.iter().map(|((until_ms, fork), pin)| (*fork, *until_ms, pin));
        all.take_while(move |(_, until_ms, _)| *until_ms < time_ms)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.pins.len() * UNSETTLED_BYTES + self.names_bytes
    }
}
