//! Watches: which of a bucket's streams a subscription is for. Group 0 has the subscription; this comes to every group with the bucket
//! ([`crate::bucket`]). And what comes back from those who have processed something: acknowledgements.

use std::collections::BTreeSet;

use weir_types::Incarnation;
use weir_types::limits::{NAME_BYTES_MAX, SUBSCRIPTION_STREAMS_MAX, SUBSCRIPTIONS_PER_BUCKET_MAX};

use crate::codec::{CodecError, Reader};
use crate::pattern::Pattern;
use crate::sink::Sink;
use crate::subscription::kept::{
    Subscription, names_bytes, put_name, put_names, put_pattern, read_name, read_names, read_pattern,
};

const WHAT: &str = "watch";
/// Changes of watches that a group tells apart.
pub(crate) const WATCH_EPOCH_MAX: u32 = (1 << 23) - 1;

/// Which streams of a bucket a subscription is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The subscription's number.
    pub(crate) number: u64,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) explicit: BTreeSet<Box<str>>,
    /// Where its wakes are written: nothing that any pattern of the bucket is for.
    pub(crate) wake_stream: Option<Box<str>>,
}

/// How a stream came to be linked to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Link {
    /// By its name, whatever the pattern says.
    Explicit,
    /// By the pattern.
    Glob,
}

/// A stream's processing, as a worker says it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ack {
    /// The stream's name.
    pub name: Box<str>,
    /// The life that was read.
    pub incarnation: Incarnation,
    /// The position after the last record that was processed.
    pub position: u64,
}

/// Watches as bytes in a command: `[count varint]`, then each.
#[derive(Clone, Copy, Debug)]
pub struct EncodedWatches<'a>(&'a [u8]);

/// Acknowledgements as bytes in a command: `[count varint]`, then each.
#[derive(Clone, Copy, Debug)]
pub struct EncodedAcks<'a>(&'a [u8]);

impl EncodedWatches<'static> {
    /// None.
    pub const NONE: EncodedWatches<'static> = EncodedWatches(&[0]);
}

impl<'a> EncodedWatches<'a> {
    /// What [`EncodedWatches::encode`] has written.
    pub fn of(encoded: &'a [u8]) -> EncodedWatches<'a> {
        EncodedWatches(encoded)
    }

    /// Whether these bytes are what [`EncodedWatches::encode`] writes: asked of what other nodes send.
    pub fn is_sound(encoded: &[u8]) -> bool {
        EncodedWatches(encoded).try_decode().is_ok()
    }

    /// Whether they are sound, and none or that of this subscription.
    pub fn is_only(encoded: &[u8], number: u64) -> bool {
        let watches = EncodedWatches(encoded).try_decode();
        watches.is_ok_and(|watches| watches.len() <= 1 && watches.iter().all(|watch| watch.number == number))
    }

    /// What every group is to know of a bucket's subscriptions.
    pub fn encode<'s>(subscriptions: impl Iterator<Item = &'s Subscription>) -> Vec<u8> {
        Watch::encode(&subscriptions.map(Watch::of).collect::<Vec<_>>())
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == EncodedWatches::NONE.0
    }

    /// Checks what was read of a command.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<EncodedWatches<'a>, CodecError> {
        let encoded = EncodedWatches(reader.blob(WHAT)?);
        encoded.try_decode()?;
        Ok(encoded)
    }

    pub(crate) fn decode(self) -> Vec<Watch> {
        self.try_decode().expect("watches are checked when their command is read")
    }

    pub(crate) fn try_decode(self) -> Result<Vec<Watch>, CodecError> {
        let mut reader = Reader::new(self.0);
        let mut watches = Vec::new();
        for _ in 0..reader.up_to(SUBSCRIPTIONS_PER_BUCKET_MAX, WHAT)? {
            watches.push(Watch::read(&mut reader)?);
        }
        reader.finish()?;
        Ok(watches)
    }
}

impl<'a> EncodedAcks<'a> {
    /// What [`EncodedAcks::encode`] has written.
    pub fn of(encoded: &'a [u8]) -> EncodedAcks<'a> {
        EncodedAcks(encoded)
    }

    /// Writes acknowledgements for [`EncodedAcks::of`].
    pub fn encode(acks: &[Ack]) -> Vec<u8> {
        let mut buf = Vec::new();
        buf.varint(acks.len() as u64);
        for Ack { name, incarnation, position } in acks {
            buf.long(name);
            buf.u64(incarnation.0);
            buf.u64(*position);
        }
        buf
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Takes everything that is left of a command, and checks it.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<EncodedAcks<'a>, CodecError> {
        let encoded = EncodedAcks(reader.take(reader.rest().len(), WHAT)?);
        encoded.try_decode()?;
        Ok(encoded)
    }

    pub(crate) fn try_decode(self) -> Result<Vec<Ack>, CodecError> {
        let mut reader = Reader::new(self.0);
        let mut acks = Vec::new();
        for _ in 0..reader.up_to(SUBSCRIPTION_STREAMS_MAX, WHAT)? {
            let (name, incarnation) = (reader.long(WHAT)?, Incarnation(reader.u64(WHAT)?));
            if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
                return Err(CodecError::Field(WHAT));
            }
            acks.push(Ack { name: name.into(), incarnation, position: reader.u64(WHAT)? });
        }
        reader.finish()?;
        Ok(acks)
    }
}

/// Whether wakes are written to the stream `name`, of any of a bucket's subscriptions. Only who names it is woken for it: two whose
/// patterns are for each other's wakes would wake each other without end.
pub(crate) fn is_wakes(watches: &[Watch], name: &str) -> bool {
    watches.iter().any(|watch| watch.wake_stream.as_deref() == Some(name))
}

impl Watch {
    fn of(subscription: &Subscription) -> Watch {
        Watch {
            number: subscription.number,
            pattern: subscription.config.pattern.clone(),
            explicit: subscription.explicit.clone(),
            wake_stream: subscription.wake_stream().map(Into::into),
        }
    }

    /// How it is for the stream `name`, if it is; `is_wakes` as [`is_wakes`] says of all watches of the bucket.
    pub(crate) fn link(&self, name: &str, is_wakes: bool) -> Option<Link> {
        if self.explicit.contains(name) {
            Some(Link::Explicit)
        } else if is_wakes {
            None
        } else {
            self.pattern.as_ref().is_some_and(|pattern| pattern.matches(name)).then_some(Link::Glob)
        }
    }

    /// Memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let pattern = self.pattern.as_ref().map_or(0, |pattern| pattern.as_str().len());
        let wake_stream = self.wake_stream.as_ref().map_or(0, |name| name.len());
        size_of::<Watch>() + pattern + wake_stream + names_bytes(&self.explicit)
    }

    pub(crate) fn encode(watches: &[Watch]) -> Vec<u8> {
        let mut buf = Vec::new();
        buf.varint(watches.len() as u64);
        for Watch { number, pattern, explicit, wake_stream } in watches {
            buf.u64(*number);
            put_pattern(&mut buf, pattern.as_ref());
            put_names(&mut buf, explicit);
            put_name(&mut buf, wake_stream.as_deref());
        }
        buf
    }

    fn read(reader: &mut Reader<'_>) -> Result<Watch, CodecError> {
        let number = reader.count(WHAT)?;
        let (pattern, explicit) = (read_pattern(reader)?, read_names(reader)?);
        let wake_stream = read_name(reader)?.map(Into::into);
        if number == 0 {
            return Err(CodecError::Field(WHAT));
        }
        Ok(Watch { number, pattern, explicit, wake_stream })
    }
}
