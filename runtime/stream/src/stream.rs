//! One stream's state: where its bytes are, and what decides the next write.
//!
//! An idle stream must be small, because there may be millions: what most streams lack (an expiry, producers, a
//! sequence) is boxed together and absent by default, and content types are shared.

use std::ops::Range;
use std::sync::Arc;

use weir_types::{Incarnation, Lineage, Lineages, Offset, ReadFrom, StreamKey};

use crate::codec::{CodecError, Reader, counted};
use crate::extents::hot::Place;
use crate::extents::{Extents, Piece};
use crate::fields::{flag, put_expiry, read_expiry};
use crate::fork::pins::{Pin, Pins};
use crate::fork::{Fork, NewFork};
use crate::producer::Producers;
use crate::reply::{Expiry, Facts, Refusal, position_of};
use crate::sink::Sink;
use crate::subscription::cursors::Cursors;
use crate::subscription::watch::WATCH_EPOCH_MAX;

/// What the allocator and the slot's table add to a stream: headers of its box and its name, and a table place.
const OVERHEAD_BYTES: usize = 48;

/// Of a stream in a snapshot.
const FLAG_CLOSED: u8 = 1;
/// It has a content type of its own, and not that of the stream before it.
const FLAG_TYPE: u8 = 2;
const FLAG_RARE: u8 = 4;
const FLAG_FORK: u8 = 8;
const FLAG_PINS: u8 = 16;
const FLAG_CURSORS: u8 = 32;

/// One stream of a group.
#[derive(Debug)]
pub struct Stream {
    pub(crate) key: Box<str>,
    pub(crate) content_type: Arc<str>,
    incarnation: Incarnation,
    pub(crate) tail: u64,
    pub(crate) created_ms: u64,
    pub(crate) last_write_ms: u64,
    pub(crate) extents: Extents,
    /// `None` while every part has its default.
    pub(crate) rare: Option<Box<Rare>>,
    marks: Marks,
    pub(crate) closed: bool,
    /// The freeze that has it written down already, or that it is too young for.
    pub(crate) frozen: u32,
}

/// Whether records are JSON, and which [watches](crate::subscription) the stream was linked to last, in what is left of a word: every stream
/// has this.
#[derive(Clone, Copy, Debug)]
struct Marks([u8; 3]);

impl Marks {
    fn new(is_json: bool) -> Marks {
        Marks([u8::from(is_json), 0, 0])
    }

    fn is_json(self) -> bool {
        self.0[0] & 1 != 0
    }

    fn watched(self) -> u32 {
        let [low, middle, high] = self.0;
        u32::from_le_bytes([low, middle, high, 0]) >> 1
    }

    fn set_watched(&mut self, epoch: u32) {
        assert!(epoch <= WATCH_EPOCH_MAX, "the group begins anew");
        let [low, middle, high, _] = (epoch << 1 | u32::from(self.is_json())).to_le_bytes();
        self.0 = [low, middle, high];
    }
}

/// What few streams have.
#[derive(Debug)]
pub(crate) struct Rare {
    pub(crate) expiry: Expiry,
    /// The last `Stream-Seq`.
    pub(crate) seq: Option<Box<str>>,
    pub(crate) producers: Producers,
    /// `None` while it has all that was ever appended, and is linked to no subscription.
    pub(crate) origin: Option<Box<Origin>>,
}

/// Where a stream begins that does not have all its records any more, or shares them; and how far those are who follow it.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Where the first record begins that has not been trimmed, or the tail.
    pub(crate) base: u64,
    /// What its own offsets carry: not what its life says since a recovery.
    pub(crate) lineage: Lineage,
    /// What makes it a fork.
    pub(crate) fork: Option<Box<Fork>>,
    /// Its own forks.
    pub(crate) pins: Option<Box<Pins>>,
    /// Up to where it was processed, for each subscription that it is linked to.
    pub(crate) cursors: Cursors,
}

impl Stream {
    /// An empty stream; `key` is `bucket/name`.
    pub(crate) fn new(
        key: &str,
        incarnation: Incarnation,
        content_type: Arc<str>,
        expiry: Expiry,
        time_ms: u64,
    ) -> Stream {
        let json = crate::content_type::is_json(&content_type);
        let mut stream = Stream {
            key: key.into(),
            content_type,
            incarnation,
            tail: 0,
            created_ms: time_ms,
            last_write_ms: time_ms,
            extents: Extents::default(),
            rare: None,
            marks: Marks::new(json),
            closed: false,
            frozen: 0,
        };
        if expiry != Expiry::Never {
            stream.rare_mut().expiry = expiry;
        }
        stream
    }

    /// Makes a stream that is still empty a fork.
    pub(crate) fn begin_as(&mut self, NewFork { fork, base, .. }: NewFork) {
        assert!(self.tail == 0, "a fork begins with what it inherits");
        self.tail = fork.begin;
        let lineage = self.lineage();
        let origin = Origin { base, lineage, fork: Some(Box::new(fork)), pins: None, cursors: Cursors::default() };
        self.rare_mut().origin = Some(Box::new(origin));
    }

    /// Which life of the name this is.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What its offsets carry.
    pub fn lineages(&self) -> Lineages {
        Lineages::new(self.fork().map(|fork| fork.lineages.clone()), self.lineage())
    }

    fn lineage(&self) -> Lineage {
        self.origin().map_or_else(|| Lineage::of(self.incarnation), |origin| origin.lineage)
    }

    /// `bucket/name`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The offset before the first record that has not been trimmed.
    pub fn earliest(&self) -> Offset {
        self.offset(self.base())
    }

    /// The position of [`Stream::earliest`].
    pub fn base(&self) -> u64 {
        self.origin().map_or(0, |origin| origin.base)
    }

    /// The offset after the last record.
    pub fn tail(&self) -> Offset {
        self.offset(self.tail)
    }

    /// As given when the stream was created.
    pub fn content_type(&self) -> &Arc<str> {
        &self.content_type
    }

    /// Whether records are JSON messages.
    pub fn is_json(&self) -> bool {
        self.marks.is_json()
    }

    /// Whether it takes no further records.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// When it ends by itself.
    pub fn expiry(&self) -> Expiry {
        self.rare.as_ref().map_or(Expiry::Never, |rare| rare.expiry)
    }

    /// When it was created, in group time: milliseconds since 1970.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// When it was last appended to or closed (or created), in group time: milliseconds since 1970.
    pub fn last_write_ms(&self) -> u64 {
        self.last_write_ms
    }

    /// What makes it a fork, if it is one.
    pub fn fork(&self) -> Option<&Fork> {
        self.origin()?.fork.as_deref()
    }

    /// Where its own bytes begin, and end what it has of its ancestors: 0, but for a fork.
    pub fn begin(&self) -> u64 {
        self.fork().map_or(0, |fork| fork.begin)
    }

    pub(crate) fn pins(&self) -> Option<&Pins> {
        self.origin()?.pins.as_deref()
    }

    /// Whether it was deleted, or has ended, and is kept for its forks alone.
    pub fn is_gone(&self) -> bool {
        self.pins().is_some_and(|pins| pins.is_gone)
    }

    /// How many forks pin it.
    pub fn forks(&self) -> usize {
        self.pins().map_or(0, |pins| pins.len())
    }

    /// The position from which on anybody reads it: who asks for it, or its forks.
    pub(crate) fn needed(&self) -> u64 {
        match self.pins() {
            None => self.base(),
            Some(pins) if pins.is_gone => pins.floor().min(self.tail),
            Some(pins) => pins.floor().min(self.base()),
        }
    }

    /// The positions that nobody reads between what its forks do and what who asks for it does.
    pub(crate) fn unread(&self) -> Range<u64> {
        let begin = self.pins().map_or(u64::MAX, Pins::ceiling).max(self.held());
        begin..self.base().max(begin)
    }

    /// Whether nobody reads any of these positions. Forks may have come since nobody did, which read others.
    fn is_unread(&self, gap: &Range<u64>) -> bool {
        let is_read = |pin: &Pin| pin.range.start < gap.end && gap.start < pin.range.end;
        gap.start >= self.held()
            && gap.end <= self.base()
            && !self.pins().is_some_and(|pins| pins.iter().any(|(_, pin)| is_read(pin)))
    }

    /// The position from which on it holds bytes of its own.
    pub fn held(&self) -> u64 {
        self.needed().max(self.begin())
    }

    /// Configuration and state, as `HEAD` shows it.
    pub fn facts(&self) -> Facts {
        Facts {
            incarnation: self.incarnation,
            earliest: self.earliest(),
            next: self.tail(),
            lineages: self.lineages(),
            content_type: self.content_type.clone(),
            closed: self.closed,
            expiry: self.expiry(),
            created_ms: self.created_ms,
        }
    }

    /// What holds bytes from `position` on, in order. The first may begin before it, also before what is retained; nothing at the
    /// tail.
    pub fn pieces_from(&self, position: u64) -> impl Iterator<Item = Piece> + '_ {
        self.extents.from(position, self.tail)
    }

    /// How many stretches of its bytes are in the cold tier, each in another chunk or another place of one.
    pub fn runs(&self) -> usize {
        self.extents.runs()
    }

    /// Where the bytes begin that are in the log; those before are in the cold tier.
    pub fn hot_begin(&self) -> u64 {
        self.extents.hot_begin(self.tail)
    }

    /// The position that a read from `from` begins at. Whether it is a record boundary only the stored frame tells.
    ///
    /// # Errors
    /// [`Refusal::OffsetGone`] for an offset of another lineage, [`Refusal::OffsetTrimmed`] before what is retained,
    /// [`Refusal::OffsetInvalid`] beyond the tail.
    pub fn check_offset(&self, from: ReadFrom) -> Result<u64, Refusal> {
        position_of(from, self.earliest(), self.tail(), &self.lineages())
    }

    /// The offset of a position.
    pub fn offset(&self, position: u64) -> Offset {
        self.lineages().offset(position)
    }

    pub(crate) fn producers(&self) -> Option<&Producers> {
        self.rare.as_ref().map(|rare| &rare.producers)
    }

    /// The watches that it was linked to last; 0 for none.
    pub(crate) fn watched(&self) -> u32 {
        self.marks.watched()
    }

    pub(crate) fn set_watched(&mut self, epoch: u32) {
        self.marks.set_watched(epoch);
    }

    /// The rare parts, made on first use.
    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare { expiry: Expiry::Never, seq: None, producers: Producers::default(), origin: None })
        })
    }

    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.rare.as_ref()?.origin.as_deref()
    }

    /// Where it begins, made on first use.
    pub(crate) fn origin_mut(&mut self) -> &mut Origin {
        let (base, lineage) = (self.base(), self.lineage());
        let new = || Box::new(Origin { base, lineage, fork: None, pins: None, cursors: Cursors::default() });
        self.rare_mut().origin.get_or_insert_with(new)
    }

    /// Adds `bytes` at the tail, stored at the end of that pack of log entry `index`.
    pub(crate) fn push_extent(&mut self, bytes: u64, index: u64, pos: u32, len: u32) {
        assert!(bytes > 0, "a pack holds bytes");
        assert!(bytes < u64::from(len), "a payload is part of its pack");
        assert!(!self.closed, "a closed stream takes nothing");
        self.extents.push(Place { start: self.tail, index, pos, len });
        self.tail = self.tail.checked_add(bytes).expect("a stream is shorter than 2^64 bytes");
    }

    /// Writes the stream, behind another one of the same page with the content type `type_before`.
    pub(crate) fn put<S: Sink>(&self, sink: &mut S, type_before: Option<&str>) {
        sink.long(&self.key);
        let has_type = type_before != Some(&self.content_type);
        let (fork, pins) = (self.fork(), self.pins());
        sink.u8(flag(self.closed, FLAG_CLOSED)
            | flag(has_type, FLAG_TYPE)
            | flag(self.rare.is_some(), FLAG_RARE)
            | flag(fork.is_some(), FLAG_FORK)
            | flag(pins.is_some(), FLAG_PINS)
            | flag(self.cursors().is_some(), FLAG_CURSORS));
        if has_type {
            sink.short(&self.content_type);
        }
        sink.u64(self.incarnation.0);
        sink.varint(self.tail);
        sink.varint(self.created_ms);
        sink.varint(self.last_write_ms - self.created_ms);
        if let Some(rare) = &self.rare {
            put_expiry(sink, rare.expiry);
            sink.u8(u8::from(rare.seq.is_some()));
            if let Some(seq) = &rare.seq {
                sink.short(seq);
            }
            rare.producers.put(sink);
            sink.u8(u8::from(rare.origin.is_some()));
            if let Some(origin) = &rare.origin {
                sink.varint(origin.base);
                sink.u64(origin.lineage.bits());
            }
            fork.inspect(|fork| fork.put(sink));
            pins.inspect(|pins| pins.put(sink));
            self.cursors().inspect(|cursors| cursors.put(sink));
        }
        self.extents.put(sink);
    }

    /// Reads what [`Stream::put`] wrote, of a group whose time is `time_ms`. `intern` keeps content types; `taken_in` is told each
    /// pack's log entry.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        time_ms: u64,
        type_before: Option<&str>,
        intern: impl FnOnce(&str) -> Arc<str>,
        taken_in: impl FnMut(u64, u32),
    ) -> Result<Stream, CodecError> {
        const WHAT: &str = "stream";
        let key = reader.long(WHAT)?;
        StreamKey::check(key).map_err(|_| CodecError::Field(WHAT))?;
        let flags = reader.u8(WHAT)?;
        if flags & !(FLAG_CLOSED | FLAG_TYPE | FLAG_RARE | FLAG_FORK | FLAG_PINS | FLAG_CURSORS) != 0 {
            return Err(CodecError::Field(WHAT));
        }
        let content_type =
            if flags & FLAG_TYPE != 0 { reader.short(WHAT)? } else { type_before.ok_or(CodecError::Field(WHAT))? };
        if !crate::content_type::is_valid(content_type) {
            return Err(CodecError::Field(WHAT));
        }
        let incarnation = Incarnation(reader.u64(WHAT)?);
        let (tail, created_ms) = (counted(reader.varint(WHAT)?, WHAT)?, reader.varint(WHAT)?);
        let last_write_ms = created_ms.checked_add(reader.varint(WHAT)?).ok_or(CodecError::Field(WHAT))?;
        let closed = flags & FLAG_CLOSED != 0;
        let rare = if flags & FLAG_RARE != 0 {
            let expiry = read_expiry(reader)?;
            let seq = if reader.flag(WHAT)? { Some(reader.short(WHAT)?.into()) } else { None };
            let producers = Producers::read(reader)?;
            if !producers.fit(tail, time_ms, closed) {
                return Err(CodecError::Field(WHAT));
            }
            let origin = if reader.flag(WHAT)? {
                let (base, lineage) = (reader.varint(WHAT)?, Lineage::from_bits(reader.u64(WHAT)?));
                let fork = if flags & FLAG_FORK != 0 { Some(Box::new(Fork::read(reader)?)) } else { None };
                let pins = if flags & FLAG_PINS != 0 { Some(Box::new(Pins::read(reader, tail)?)) } else { None };
                let is_linked = flags & FLAG_CURSORS != 0;
                let cursors = if is_linked { Cursors::read(reader, tail)? } else { Cursors::default() };
                Some(Box::new(Origin { base, lineage, fork, pins, cursors }))
            } else {
                None
            };
            Some(Box::new(Rare { expiry, seq, producers, origin }))
        } else {
            None
        };
        let has_origin = rare.as_ref().is_some_and(|rare| rare.origin.is_some());
        if flags & (FLAG_FORK | FLAG_PINS | FLAG_CURSORS) != 0 && !has_origin {
            return Err(CodecError::Field(WHAT));
        }
        let json = crate::content_type::is_json(content_type);
        let mut stream = Stream {
            key: key.into(),
            content_type: intern(content_type),
            incarnation,
            tail,
            created_ms,
            last_write_ms,
            extents: Extents::default(),
            rare,
            marks: Marks::new(json),
            closed,
            frozen: 0,
        };
        let has_ancestors = stream.fork().is_none_or(|fork| fork.begin <= stream.base() || !fork.ancestors.is_empty());
        if last_write_ms > time_ms || stream.base() > tail || stream.begin() > tail || !has_ancestors {
            return Err(CodecError::Field(WHAT));
        }
        stream.extents = Extents::read(reader, stream.held(), tail, taken_in)?;
        let begins = stream.pieces_from(0).next().map_or(tail, |first| first.start());
        let fits = begins >= stream.begin() && stream.extents.gaps(tail).all(|gap| stream.is_unread(&gap));
        if fits { Ok(stream) } else { Err(CodecError::Field(WHAT)) }
    }

    /// Memory that the stream holds, but for its shared content type.
    pub(crate) fn memory_bytes(&self) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let seq = rare.seq.as_ref().map_or(0, |seq| seq.len());
            size_of::<Rare>() + seq + rare.producers.heap_bytes() + rare.origin.as_ref().map_or(0, |o| o.memory_bytes())
        });
        size_of::<Stream>() + self.key.len() + OVERHEAD_BYTES + self.extents.heap_bytes() + rare
    }
}

impl Origin {
    fn memory_bytes(&self) -> usize {
        let fork = self.fork.as_ref().map_or(0, |fork| size_of::<Fork>() + fork.heap_bytes());
        let pins = self.pins.as_ref().map_or(0, |pins| size_of::<Pins>() + pins.heap_bytes());
        size_of::<Origin>() + fork + pins + self.cursors.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_takes_at_most_300_bytes_besides_its_name() {
        // A table of 8-byte boxes and 1-byte tags is at worst 7/16 full, right after it has grown.
        let table_place = (size_of::<Box<Stream>>() + 1) * 16 / 7 + 1;
        let allocator_headers = 2 * 16;
        let plain = size_of::<Stream>() + table_place + allocator_headers;
        assert!(plain <= 200, "{plain}");
        let with_expiry = plain + size_of::<Rare>() + 16;
        assert!(with_expiry <= 300, "{with_expiry}");
    }
}
