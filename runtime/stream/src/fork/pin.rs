//! Pinning a stream for a fork, and releasing it. See `pins`.

use weir_types::Incarnation;

use crate::fork::pins::{Pin, Pins, Unsettled};
use crate::group::{Group, Outcome, recount};
use crate::key::KeyRef;
use crate::reply::{Refusal, Reply};
use crate::stream::Stream;

impl Group {
    /// A fork that may come to be until `until_ms` holds the stream up to the position `upto`.
    pub(crate) fn pin(
        &mut self,
        key: KeyRef<'_>,
        incarnation: Incarnation,
        (fork, fork_incarnation): (KeyRef<'_>, Incarnation),
        upto: u64,
        until_ms: u64,
    ) -> Outcome {
        let Some(stream) = self.life_at(key, incarnation) else {
            return Outcome::refused(Refusal::NotFound);
        };
        if stream.is_gone() {
            return Outcome::refused(Refusal::NameHeld);
        }
        if stream.pins().is_some_and(|pins| pins.has(fork_incarnation)) {
            return Outcome::unchanged(Reply::Pinned(stream.facts()));
        }
        if upto > stream.tail {
            return Outcome::refused(Refusal::OffsetInvalid);
        }
        if upto < stream.base() {
            return Outcome::refused(Refusal::OffsetTrimmed { earliest: stream.earliest() });
        }
        let stream = self.slots.get_mut(key).expect("it was just there");
        let before_bytes = stream.memory_bytes();
        // What ends behind all that is read may be given up, and with it the position of nothing.
        let range = if stream.base() < upto { stream.base()..upto } else { 0..0 };
        let pin = Pin { fork: fork.as_str().into(), range, until_ms };
        self.unsettled.insert((&stream.key, incarnation), fork_incarnation, &pin);
        stream.origin_mut().pins.get_or_insert_default().insert(fork_incarnation, pin);
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        Outcome::unchanged(Reply::Pinned(stream.facts()))
    }

    /// A fork is known to have come to be.
    pub(crate) fn settle_pin(&mut self, key: KeyRef<'_>, incarnation: Incarnation, fork: Incarnation) -> Outcome {
        if self.has_pin(key, incarnation, fork) {
            let stream = self.slots.get_mut(key).expect("it was just there");
            let pins = stream.origin_mut().pins.as_mut().expect("it is pinned");
            let until_ms = pins.settle(fork).expect("it was just there");
            self.unsettled.remove(until_ms, fork);
        }
        Outcome::unchanged(Reply::Done)
    }

    /// A fork needs no bytes of the stream any more and, unless it `keeps_pin`, is gone or will never be.
    pub(crate) fn unpin(
        &mut self,
        key: KeyRef<'_>,
        incarnation: Incarnation,
        fork: Incarnation,
        keeps_pin: bool,
    ) -> Outcome {
        if !self.has_pin(key, incarnation, fork) {
            return Outcome::unchanged(Reply::Done);
        }
        let stream = self.slots.get_mut(key).expect("it was just there");
        let (before_bytes, before) = (stream.memory_bytes(), stream.needed());
        let pins = stream.origin_mut().pins.as_mut().expect("it is pinned");
        if keeps_pin {
            pins.empty(fork);
        } else {
            let pin = pins.remove(fork).expect("it was just there");
            self.unsettled.remove(pin.until_ms, fork);
            if pins.is_empty() && !pins.is_gone {
                stream.origin_mut().pins = None;
            }
        }
        let is_over = stream.pins().is_some_and(Pins::is_empty);
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        self.give_up(key, before);
        if is_over {
            self.remove(key);
        }
        Outcome::unchanged(Reply::Done)
    }

    /// The pins that may have no fork and whose time is over at `time_ms`, the oldest first, each with the life of its fork.
    pub fn unsettled_pins(&self, time_ms: u64) -> impl Iterator<Item = (Incarnation, u64, &Unsettled)> {
        self.unsettled.over(time_ms)
    }

    /// Notes the unsettled pins of a stream that comes out of a snapshot.
    pub(crate) fn note_unsettled(&mut self, stream: &Stream) {
        let pins = stream.pins().into_iter().flat_map(Pins::iter);
        for (fork, pin) in pins.filter(|(_, pin)| pin.until_ms > 0) {
            self.unsettled.insert((&stream.key, stream.incarnation()), fork, pin);
        }
    }

    fn has_pin(&self, key: KeyRef<'_>, incarnation: Incarnation, fork: Incarnation) -> bool {
        let stream = self.life_at(key, incarnation);
        stream.and_then(Stream::pins).is_some_and(|pins| pins.has(fork))
    }
}
