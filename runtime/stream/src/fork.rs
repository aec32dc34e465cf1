//! Forks: streams that begin with what others hold.
//!
//! A fork has the records of its *source* up to one position, its *begin*, and then its own. It copies none of them: it names its
//! *ancestors*, each with the position up to which the bytes are that stream's. The list is flat, so a read finds whoever holds a
//! position at once, however long the chain of forks is.
//!
//! So that the source keeps what its forks read, each fork *pins* it (see `pins`). Source and fork may be in different groups,
//! and no command changes both. A fork comes to be in two steps: the pin, then the stream. When the stream is gone, its group
//! notes that the pin is to be released, and whoever leads the group sees to that. A crash between the two steps of a creation
//! leaves a pin; it says until when its fork may come to be, and then the source's leader has the fork's group decide
//! ([`Command::ForkDecide`](crate::Command::ForkDecide)): either the fork is there, or it never will be.

mod inherit;
mod pin;
pub(crate) mod pins;
mod release;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_types::{Incarnation, Lineage, Offset, ReadFrom, StreamKey};

pub use pins::Unsettled;

use crate::codec::{CodecError, Reader, counted};
use crate::sink::Sink;

/// Ancestors that a fork may have: a list of them is in every fork, and in the command that creates it.
pub const ANCESTORS_MAX: usize = 256;

/// What a release takes besides its name, about: a place in a tree that is three quarters full.
const RELEASE_BYTES: usize = (size_of::<Incarnation>() + size_of::<Release>()) * 4 / 3;

const WHAT: &str = "fork";

const POINT_TAIL: u8 = 0;
const POINT_START: u8 = 1;
const POINT_AT: u8 = 2;

/// Where a request has said that a fork is to leave its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkPoint {
    /// At the tail that the source had then.
    Tail,
    /// Before its first record.
    Start,
    /// At an offset.
    At,
}

/// A stream that holds bytes of a fork: those up to `upto`, from where the ancestor before it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// `bucket/name`.
    pub key: Box<str>,
    /// Its life.
    pub incarnation: Incarnation,
    /// The position after the last byte of it that the fork has.
    pub upto: u64,
}

/// What makes a stream a fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// `bucket/name` of the stream that it was made of, and that it pins.
    pub source: Box<str>,
    /// The source's life.
    pub source_incarnation: Incarnation,
    /// How the request said where.
    pub point: ForkPoint,
    /// The position that this was.
    pub anchor: u64,
    /// How many messages, or bytes of a record, of what follows the anchor were asked for besides.
    pub sub_offset: u64,
    /// Whether the request left it to the source when the fork ends.
    pub inherits_expiry: bool,
    /// The position of the first byte of its own.
    pub begin: u64,
    /// In the order of what they hold; the last holds what comes before `begin`. None where nothing is inherited.
    pub ancestors: Vec<Ancestor>,
    /// What the offsets up to `begin` carry, as [`Lineages::inherited`](weir_types::Lineages::inherited); the last is the one at `begin`.
    pub lineages: Arc<[Offset]>,
}

/// A fork as the command that creates it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFork {
    /// The fork.
    pub fork: Fork,
    /// The position of the first record that it inherits.
    pub base: u64,
    /// It comes to be at this group time or before, in milliseconds since 1970, or never.
    pub until_ms: u64,
}

/// A [`NewFork`] as bytes in a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EncodedFork<'a>(&'a [u8]);

/// A pin to be released, of a fork that is gone or needs no bytes of its source any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// `bucket/name` of the source.
    pub source: Box<str>,
    /// The source's life.
    pub source_incarnation: Incarnation,
    /// Whether the fork is still there and only needs no bytes.
    pub keeps_pin: bool,
}

/// The pins to be released, by the life of their fork.
#[derive(Debug, Default)]
pub(crate) struct Releases {
    releases: BTreeMap<Incarnation, Release>,
    names_bytes: usize,
}

impl std::fmt::Debug for EncodedFork<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncodedFork({} bytes)", self.0.len())
    }
}

impl Fork {
    /// Whether a request for a fork of `source` at this point would be a request for this one, which has `anchor` as its offset
    /// there.
    pub(crate) fn is_of(&self, source: &str, from: ReadFrom, sub_offset: u64, anchor: Offset) -> bool {
        let is_there = match from {
            ReadFrom::Now => self.point == ForkPoint::Tail,
            ReadFrom::Start => self.point == ForkPoint::Start,
            ReadFrom::At(offset) => offset == anchor,
        };
        *self.source == *source && is_there && self.sub_offset == sub_offset
    }

    /// Whether this is what `other` is: made of the same source at the same point.
    pub(crate) fn is_like(&self, other: &Fork) -> bool {
        let point = |fork: &Fork| (fork.point, fork.anchor, fork.sub_offset, fork.inherits_expiry);
        self.source == other.source && point(self) == point(other)
    }

    /// Memory outside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let names: usize = self.ancestors.iter().map(|ancestor| ancestor.key.len()).sum();
        let ancestors = self.ancestors.capacity() * size_of::<Ancestor>() + names;
        self.source.len() + ancestors + size_of_val(&*self.lineages)
    }

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        let Fork { source, source_incarnation, point, anchor, sub_offset, inherits_expiry, begin, ancestors, lineages } =
            self;
        sink.long(source);
        sink.u64(source_incarnation.0);
        sink.u8(match point {
            ForkPoint::Tail => POINT_TAIL,
            ForkPoint::Start => POINT_START,
            ForkPoint::At => POINT_AT,
        });
        sink.varint(*anchor);
        sink.varint(*sub_offset);
        sink.u8(u8::from(*inherits_expiry));
        sink.varint(*begin);
        sink.varint(ancestors.len() as u64);
        for Ancestor { key, incarnation, upto } in ancestors {
            sink.long(key);
            sink.u64(incarnation.0);
            sink.varint(*upto);
        }
        sink.varint(lineages.len() as u64);
        for Offset { position, lineage } in lineages.iter() {
            sink.varint(*position);
            sink.u64(lineage.bits());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Fork, CodecError> {
        let (source, source_incarnation) = (read_key(reader)?, Incarnation(reader.u64(WHAT)?));
        let point = match reader.u8(WHAT)? {
            POINT_TAIL => ForkPoint::Tail,
            POINT_START => ForkPoint::Start,
            POINT_AT => ForkPoint::At,
            _ => return Err(CodecError::Field(WHAT)),
        };
        let (anchor, sub_offset) = (reader.varint(WHAT)?, reader.varint(WHAT)?);
        let (inherits_expiry, begin) = (reader.flag(WHAT)?, counted(reader.varint(WHAT)?, WHAT)?);
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for _ in 0..reader.varint(WHAT)? {
            let (key, incarnation, upto) = (read_key(reader)?, Incarnation(reader.u64(WHAT)?), reader.varint(WHAT)?);
            let follows = ancestors.last().map_or(0, |last| last.upto) < upto;
            if !follows || ancestors.len() == ANCESTORS_MAX {
                return Err(CodecError::Field(WHAT));
            }
            ancestors.push(Ancestor { key, incarnation, upto });
        }
        ancestors.shrink_to_fit();
        if ancestors.last().is_some_and(|last| last.upto != begin) {
            return Err(CodecError::Field(WHAT));
        }
        let mut lineages: Vec<Offset> = Vec::new();
        for _ in 0..reader.varint(WHAT)? {
            let last = Offset { position: reader.varint(WHAT)?, lineage: Lineage::from_bits(reader.u64(WHAT)?) };
            let follows = lineages.last().is_none_or(|before| before.position < last.position);
            if !follows || lineages.len() > ANCESTORS_MAX {
                return Err(CodecError::Field(WHAT));
            }
            lineages.push(last);
        }
        if lineages.last().is_none_or(|last| last.position != begin) {
            return Err(CodecError::Field(WHAT));
        }
        let lineages = lineages.into();
        Ok(Fork { source, source_incarnation, point, anchor, sub_offset, inherits_expiry, begin, ancestors, lineages })
    }
}

fn read_key(reader: &mut Reader<'_>) -> Result<Box<str>, CodecError> {
    let key = reader.long(WHAT)?;
    StreamKey::check(key).map_err(|_| CodecError::Field(WHAT))?;
    Ok(key.into())
}

impl NewFork {
    /// Writes it for [`EncodedFork::of`].
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.fork.ancestors.len() <= ANCESTORS_MAX, "who makes a fork counts them");
        let mut buf = Vec::new();
        buf.varint(self.base);
        buf.u64(self.until_ms);
        self.fork.put(&mut buf);
        buf
    }
}

impl<'a> EncodedFork<'a> {
    /// What [`NewFork::encode`] has written.
    pub fn of(encoded: &'a [u8]) -> EncodedFork<'a> {
        EncodedFork(encoded)
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Reads a blob, and checks it.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<EncodedFork<'a>, CodecError> {
        let encoded = EncodedFork(reader.blob(WHAT)?);
        encoded.try_decode().map(|_| encoded)
    }

    pub(crate) fn decode(self) -> NewFork {
        self.try_decode().expect("it was checked when its command was read")
    }

    fn try_decode(self) -> Result<NewFork, CodecError> {
        let mut reader = Reader::new(self.0);
        let base = reader.varint(WHAT)?;
        let (until_ms, fork) = (reader.count(WHAT)?, Fork::read(&mut reader)?);
        reader.finish()?;
        // Nothing is inherited, or all from the base on.
        if base > fork.begin || fork.ancestors.is_empty() != (base == fork.begin) {
            return Err(CodecError::Field(WHAT));
        }
        Ok(NewFork { fork, base, until_ms })
    }
}

impl Releases {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Incarnation, &Release)> {
        self.releases.iter().map(|(fork, release)| (*fork, release))
    }

    pub(crate) fn get(&self, fork: Incarnation) -> Option<&Release> {
        self.releases.get(&fork)
    }

    /// Takes the place of one that was there of the same fork.
    pub(crate) fn insert(&mut self, fork: Incarnation, release: Release) {
        self.names_bytes += release.source.len();
        if let Some(before) = self.releases.insert(fork, release) {
            self.names_bytes -= before.source.len();
        }
    }

    pub(crate) fn remove(&mut self, fork: Incarnation) {
        if let Some(gone) = self.releases.remove(&fork) {
            self.names_bytes -= gone.source.len();
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.releases.len() * RELEASE_BYTES + self.names_bytes
    }

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        sink.varint(self.releases.len() as u64);
        for (fork, Release { source, source_incarnation, keeps_pin }) in &self.releases {
            sink.u64(fork.0);
            sink.long(source);
            sink.u64(source_incarnation.0);
            sink.u8(u8::from(*keeps_pin));
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Releases, CodecError> {
        let mut releases = Releases::default();
        for _ in 0..reader.varint(WHAT)? {
            let (fork, source) = (Incarnation(reader.u64(WHAT)?), read_key(reader)?);
            let (source_incarnation, keeps_pin) = (Incarnation(reader.u64(WHAT)?), reader.flag(WHAT)?);
            releases.insert(fork, Release { source, source_incarnation, keeps_pin });
        }
        Ok(releases)
    }
}
