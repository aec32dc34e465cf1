//! Appends: where records land in one stream, and what may forbid it once the order is known.
//!
//! The checks, in the order that the protocol's section 5.2 asks for: closed, then the producer (a retry is answered even
//! where the rest would refuse it: it has happened), then `Stream-Seq`, then `If-Match`. The content type and JSON were
//! checked by the leader, against the incarnation that the command names.

use std::ops::Range;

use weir_types::{Incarnation, Offset};

use crate::group::{At, Change, Group, Outcome, recount};
use crate::hotlog::HotLog;
use crate::key::KeyRef;
use crate::pack::{Pack, packs};
use crate::producer::{ProducerRef, Turn};
use crate::records::Records;
use crate::reply::{Appended, ProducerState, Refusal, Reply};
use crate::stream::Stream;

/// One append, close, or both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write<'a> {
    pub(crate) incarnation: Incarnation,
    pub(crate) close: bool,
    pub(crate) producer: Option<ProducerRef<'a>>,
    pub(crate) seq: Option<&'a str>,
    pub(crate) if_match: Option<Offset>,
    /// The group's bindings that the records were checked under.
    pub(crate) bindings_epoch: u64,
    /// As they are stored, at the end of the command's frame.
    pub(crate) records: Records<'a>,
}

impl Write<'_> {
    pub(crate) fn has_records(&self) -> bool {
        self.records.count() > 0
    }
}

impl Group {
    pub(crate) fn append(&mut self, at: &At, key: KeyRef<'_>, write: Write<'_>) -> Outcome {
        let Some(stream) = self.slots.get_mut(key) else {
            return Outcome::refused(Refusal::NotFound);
        };
        let is_stale = stream.incarnation() != write.incarnation
            || (write.has_records() && write.bindings_epoch != self.bindings_epoch);
        if is_stale {
            return Outcome::refused(Refusal::Stale);
        }
        if stream.is_gone() {
            return Outcome::refused(Refusal::SoftDeleted);
        }
        let before_bytes = stream.memory_bytes();
        let result = stream.append(at, &write, &mut self.hotlog);
        if let Ok((_, Change::Advanced { start, .. })) = result
            && self.watched_buckets > 0
        {
            if stream.watched() != self.watch_epoch {
                let watches = self.buckets.get(key.bucket()).map_or(&[][..], |bucket| &bucket.watches);
                stream.follow(watches, self.watch_epoch, start);
            }
            stream.note_pending(start, &mut self.pending);
        }
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        match result {
            Ok((appended, change)) => Outcome { reply: Reply::Appended(appended), change },
            Err(refusal) => Outcome::refused(refusal),
        }
    }
}

impl Stream {
    /// Appends and closes as `write` says. On a refusal nothing that a client can see has changed.
    fn append(&mut self, at: &At, write: &Write<'_>, hotlog: &mut HotLog) -> Result<(Appended, Change), Refusal> {
        if self.is_closed() {
            return self.answer_closed(write).map(|appended| (appended, Change::None));
        }
        if !write.has_records() && !write.close {
            return Err(Refusal::Empty);
        }
        if let Some(producer) = write.producer
            && let Some(duplicate) = self.check_producer(producer)?
        {
            return Ok((duplicate, Change::None));
        }
        self.check_seq(write.seq)?;
        self.check_tail(write.if_match)?;
        if let Some(producer) = write.producer {
            self.rare_mut().producers.make_room(producer.id, at.time_ms, at.limits.producers_max)?;
        }

        // Nothing is refused from here on.
        let start = self.tail;
        let packs = self.push_packs(at, &write.records, hotlog);
        if write.close {
            self.close();
        }
        let end = self.tail;
        assert!(end - start == write.records.payload_bytes() as u64, "the tail moves by what is stored");
        assert!(at.time_ms >= self.last_write_ms, "group time never goes backwards");
        self.last_write_ms = at.time_ms;
        if let Some(seq) = write.seq {
            self.rare_mut().seq = Some(seq.into());
        }
        let producer =
            write.producer.map(|producer| self.rare_mut().producers.accept(producer, end, at.time_ms, write.close));
        let change = Change::Advanced {
            incarnation: self.incarnation(),
            start,
            end,
            packs_pos: packs.start,
            packs_end: packs.end,
            closed: write.close,
        };
        Ok((Appended { next: self.tail(), closed: write.close, producer, duplicate: false }, change))
    }

    /// Takes in where a command's packs are, at the end of its frame, and says so: from the batch's first byte.
    pub(crate) fn push_packs(&mut self, at: &At, records: &Records<'_>, hotlog: &mut HotLog) -> Range<u32> {
        let end = at.frame.pos + at.frame.len;
        assert!(records.packs().len() <= at.frame.len as usize, "packs are a part of their frame");
        let begin = end - records.packs().len() as u32;
        if records.is_one_pack() {
            self.push_extent(records.payload_bytes() as u64, at.index, begin, end - begin);
            hotlog.take(at.index, end - begin);
            return begin..end;
        }
        let mut pos = begin;
        for pack in packs(records.packs()) {
            let pack = pack.expect("packs were read with their command");
            let payload_bytes = Pack::read(pack).expect("packs were read with their command").payload().len();
            self.push_extent(payload_bytes as u64, at.index, pos, pack.len() as u32);
            hotlog.take(at.index, pack.len() as u32);
            pos += pack.len() as u32;
        }
        assert!(pos == end, "packs are the last bytes of their frame");
        begin..end
    }

    /// The answer for a request of `producer` that an open stream has already applied; `None` when its turn has come.
    pub(crate) fn check_producer(&self, producer: ProducerRef<'_>) -> Result<Option<Appended>, Refusal> {
        let turn = match self.producers() {
            Some(producers) => producers.turn(producer)?,
            None => crate::producer::Producers::default().turn(producer)?,
        };
        Ok(match turn {
            Turn::Next => None,
            Turn::Duplicate { next, state } => Some(self.duplicate(next.unwrap_or(self.tail), state)),
        })
    }

    /// The answer to a retry whose first attempt left the tail at `position`.
    pub(crate) fn duplicate(&self, position: u64, state: ProducerState) -> Appended {
        Appended { next: self.offset(position), closed: self.is_closed(), producer: Some(state), duplicate: true }
    }

    fn check_seq(&self, seq: Option<&str>) -> Result<(), Refusal> {
        let last = self.rare.as_ref().and_then(|rare| rare.seq.as_deref());
        match (seq, last) {
            // Byte-wise, as the protocol wants: "2" is after "10".
            (Some(seq), Some(last)) if seq.as_bytes() <= last.as_bytes() => Err(Refusal::SeqRegression),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_tail(&self, expected: Option<Offset>) -> Result<(), Refusal> {
        match expected {
            Some(offset) if offset != self.tail() => Err(Refusal::TailMoved { tail: self.tail() }),
            _ => Ok(()),
        }
    }
}
