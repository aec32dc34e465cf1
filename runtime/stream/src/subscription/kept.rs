//! Subscriptions as group 0 has them: what they are for, and how far the wake is that is under way.
//!
//! A subscription is *idle*, or a *wake* of it is under way. Every wake has a number that nobody can guess and a generation,
//! one more than that of the wake before. Who asks for a change of a wake names both, and the subscription's number, which no other
//! one ever has: what was meant for an earlier wake, or for an earlier subscription of the same id, is refused.
//!
//! Up to where each stream was processed its own group knows ([`crate::subscription::cursors`]).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use weir_types::StreamKey;
use weir_types::limits::{
    LEASE_MS, SUBSCRIPTION_ID_BYTES_MAX, SUBSCRIPTION_STREAMS_MAX, SUBSCRIPTION_TEXT_BYTES_MAX,
    SUBSCRIPTION_URL_BYTES_MAX,
};

use crate::codec::{CodecError, Reader};
use crate::pattern::Pattern;
use crate::sink::Sink;

const WHAT: &str = "subscription";

const DELIVERY_WEBHOOK: u8 = 1;
const DELIVERY_PULL_WAKE: u8 = 2;

/// How those are told that something is new who want to know.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// By a request to this address.
    Webhook {
        /// The address.
        url: Box<str>,
    },
    /// By a record in this stream of the bucket.
    PullWake {
        /// The stream's name.
        wake_stream: Box<str>,
    },
}

impl fmt::Debug for Delivery {
    // An address may have a secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delivery::Webhook { url } => write!(f, "Webhook({} bytes)", url.len()),
            Delivery::PullWake { wake_stream } => write!(f, "PullWake({wake_stream})"),
        }
    }
}

/// What a subscription was asked to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionConfig {
    /// How it is delivered.
    pub delivery: Delivery,
    /// Which streams of the bucket it is for.
    pub pattern: Option<Pattern>,
    /// And these, by name.
    pub streams: BTreeSet<Box<str>>,
    /// How long a worker may be silent, in milliseconds.
    pub lease_ms: u64,
    /// For people.
    pub description: Option<Box<str>>,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The change of the node's buckets that made it.
    pub number: u64,
    /// What was asked for.
    pub config: SubscriptionConfig,
    /// How its client calls the bucket, without a slash at the end: `http://localhost:4437/v1/stream`.
    pub root: Box<str>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The streams that it is for by name now.
    pub explicit: BTreeSet<Box<str>>,
    /// The number of wakes that there have been.
    pub generation: u64,
    /// The wake that is under way.
    pub wake: Option<Wake>,
    /// How often it could not be delivered since it last was.
    pub failures: u32,
    /// When it is tried again, in milliseconds since 1970; 0 if the last wake was delivered.
    pub next_attempt_ms: u64,
}

/// A wake that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// Drawn at random.
    pub id: u64,
    /// Until when it is somebody's, in milliseconds since 1970; `None` until somebody claims it.
    pub lease_until_ms: Option<u64>,
    /// Who has claimed it.
    pub worker: Option<Box<str>>,
    /// Whether those who want to know were told.
    pub is_delivered: bool,
}

/// Names one wake of one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The subscription's number.
    pub number: u64,
    /// The wake's generation.
    pub generation: u64,
    /// The wake's own number.
    pub wake: u64,
}

/// A change of a subscription.
#[derive(Clone, Copy, Debug)]
pub enum SubscriptionStep<'a> {
    /// It comes to be, or is there with the same configuration.
    Put {
        /// The configuration.
        config: EncodedConfig<'a>,
        /// How its client calls the bucket.
        root: &'a str,
    },
    /// It is removed.
    Delete,
    /// It is for these streams by name, too.
    Link {
        /// Their names.
        names: EncodedNames<'a>,
    },
    /// It is for these streams by name no longer.
    Unlink {
        /// Their names.
        names: EncodedNames<'a>,
    },
    /// A wake begins, if none is under way.
    Wake {
        /// The subscription's number.
        number: u64,
        /// Drawn at random by the leader.
        wake: u64,
        /// Who claims it at once.
        worker: Option<&'a str>,
    },
    /// Somebody claims the wake that is under way, if nobody has.
    Claim {
        /// The wake.
        turn: Turn,
        /// Who.
        worker: &'a str,
    },
    /// Whoever has the wake has said so: its lease begins anew, unless it is over.
    Extend(Turn),
    /// Those who want to know of the wake were told.
    Delivered(Turn),
    /// They could not be told. A wake by webhook ends with that, unless they have said something by then.
    Failed {
        /// The wake.
        turn: Turn,
        /// After how many milliseconds it is tried again.
        retry_ms: u64,
    },
    /// The wake is over.
    End(Turn),
}

const STEP_PUT: u8 = 1;
const STEP_DELETE: u8 = 2;
const STEP_LINK: u8 = 3;
const STEP_UNLINK: u8 = 4;
const STEP_WAKE: u8 = 5;
const STEP_CLAIM: u8 = 6;
const STEP_EXTEND: u8 = 7;
const STEP_DELIVERED: u8 = 8;
const STEP_FAILED: u8 = 9;
const STEP_END: u8 = 10;

/// Bytes of a watch besides its texts.
const WATCH_BYTES: usize = 24;
/// What an entry of a tree takes besides its text, about.
pub(crate) const ENTRY_BYTES: usize = 48;

/// Longest wait for the next attempt, in milliseconds.
const RETRY_MS_MAX: u64 = 3_600_000;

/// Whether a text may be a subscription's id: what is one segment of a path.
pub fn is_subscription_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=".contains(&byte);
    (1..=SUBSCRIPTION_ID_BYTES_MAX).contains(&text.len()) && !matches!(text, "." | "..") && text.bytes().all(fits)
}

/// Whether a text may be the name of a stream.
pub(crate) fn is_stream_name(name: &str) -> bool {
    StreamKey::new("b", name).is_ok()
}

/// A configuration as bytes in a command.
#[derive(Clone, Copy)]
pub struct EncodedConfig<'a>(&'a [u8]);

impl fmt::Debug for EncodedConfig<'_> {
    // An address may have a secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedConfig({} bytes)", self.0.len())
    }
}

impl<'a> EncodedConfig<'a> {
    /// What [`SubscriptionConfig::encode`] has written.
    pub fn of(encoded: &'a [u8]) -> EncodedConfig<'a> {
        EncodedConfig(encoded)
    }

    pub(crate) fn decode(self) -> SubscriptionConfig {
        self.try_decode().expect("configurations are checked when their command is read")
    }

    fn try_decode(self) -> Result<SubscriptionConfig, CodecError> {
        let mut reader = Reader::new(self.0);
        let config = SubscriptionConfig::read(&mut reader)?;
        reader.finish()?;
        Ok(config)
    }
}

/// Names of streams as bytes in a command.
#[derive(Clone, Copy, Debug)]
pub struct EncodedNames<'a>(&'a [u8]);

impl<'a> EncodedNames<'a> {
    /// What [`EncodedNames::encode`] has written.
    pub fn of(encoded: &'a [u8]) -> EncodedNames<'a> {
        EncodedNames(encoded)
    }

    /// Writes names for [`EncodedNames::of`].
    pub fn encode(names: &BTreeSet<Box<str>>) -> Vec<u8> {
        let mut buf = Vec::new();
        put_names(&mut buf, names);
        buf
    }

    pub(crate) fn decode(self) -> BTreeSet<Box<str>> {
        self.try_decode().expect("names are checked when their command is read")
    }

    fn try_decode(self) -> Result<BTreeSet<Box<str>>, CodecError> {
        let mut reader = Reader::new(self.0);
        let names = read_names(&mut reader)?;
        reader.finish()?;
        Ok(names)
    }
}

impl SubscriptionConfig {
    /// Writes it for [`EncodedConfig::of`].
    pub fn encode(&self) -> Vec<u8> {
        let mut buf = Vec::new();
        self.put(&mut buf);
        buf
    }

    /// Whether it is within the limits of each field: asked of what other nodes send.
    pub fn is_sound(&self) -> bool {
        let delivers = match &self.delivery {
            Delivery::Webhook { url } => (1..=SUBSCRIPTION_URL_BYTES_MAX).contains(&url.len()),
            Delivery::PullWake { wake_stream } => is_stream_name(wake_stream),
        };
        delivers
            && (self.pattern.is_some() || !self.streams.is_empty())
            && self.streams.len() <= SUBSCRIPTION_STREAMS_MAX
            && self.streams.iter().all(|name| is_stream_name(name))
            && LEASE_MS.contains(&self.lease_ms)
            && self.description.as_ref().is_none_or(|text| text.len() <= SUBSCRIPTION_TEXT_BYTES_MAX)
    }

    fn put<S: Sink>(&self, sink: &mut S) {
        let (code, text) = match &self.delivery {
            Delivery::Webhook { url } => (DELIVERY_WEBHOOK, url),
            Delivery::PullWake { wake_stream } => (DELIVERY_PULL_WAKE, wake_stream),
        };
        sink.u8(code);
        sink.long(text);
        put_optional(sink, self.pattern.as_ref().map(Pattern::as_str));
        put_names(sink, &self.streams);
        sink.u64(self.lease_ms);
        put_optional(sink, self.description.as_deref());
    }

    fn read(reader: &mut Reader<'_>) -> Result<SubscriptionConfig, CodecError> {
        let (code, text) = (reader.u8(WHAT)?, reader.long(WHAT)?.into());
        let delivery = match code {
            DELIVERY_WEBHOOK => Delivery::Webhook { url: text },
            DELIVERY_PULL_WAKE => Delivery::PullWake { wake_stream: text },
            _ => return Err(CodecError::Field(WHAT)),
        };
        let pattern = read_pattern(reader)?;
        let streams = read_names(reader)?;
        let lease_ms = reader.u64(WHAT)?;
        let description = read_optional(reader)?.map(Into::into);
        let config = SubscriptionConfig { delivery, pattern, streams, lease_ms, description };
        if config.is_sound() { Ok(config) } else { Err(CodecError::Field(WHAT)) }
    }
}

impl Subscription {
    /// The stream that its wakes are written to.
    pub fn wake_stream(&self) -> Option<&str> {
        match &self.config.delivery {
            Delivery::Webhook { .. } => None,
            Delivery::PullWake { wake_stream } => Some(wake_stream),
        }
    }

    /// The wake that is under way.
    pub fn turn(&self) -> Option<Turn> {
        let wake = self.wake.as_ref()?.id;
        Some(Turn { number: self.number, generation: self.generation, wake })
    }

    /// What matching its pattern takes at most, for one name.
    pub(crate) fn steps_max(&self) -> usize {
        self.config.pattern.as_ref().map_or(0, Pattern::steps_max)
    }

    /// Bytes of what every group hears of: its pattern, its streams' names, and where its wakes are written.
    pub(crate) fn told_bytes(&self) -> usize {
        let names: usize = self.explicit.iter().map(|name| name.len() + 2).sum();
        let pattern = self.config.pattern.as_ref().map_or(0, |pattern| pattern.as_str().len());
        names + pattern + self.wake_stream().map_or(0, str::len) + WATCH_BYTES
    }

    /// Memory that it takes under its id.
    pub(crate) fn memory_bytes(&self, id: &str) -> usize {
        let SubscriptionConfig { delivery, pattern, streams, lease_ms: _, description } = &self.config;
        let delivery = match delivery {
            Delivery::Webhook { url } => url.len(),
            Delivery::PullWake { wake_stream } => wake_stream.len(),
        };
        let texts = delivery + description.as_ref().map_or(0, |text| text.len()) + self.root.len() + id.len();
        let pattern = pattern.as_ref().map_or(0, |pattern| pattern.as_str().len());
        let names = names_bytes(streams) + names_bytes(&self.explicit);
        size_of::<Subscription>() + ENTRY_BYTES + texts + pattern + names + self.worker_bytes()
    }

    /// The part of that which comes and goes with wakes.
    pub(crate) fn worker_bytes(&self) -> usize {
        self.wake.as_ref().and_then(|wake| wake.worker.as_ref()).map_or(0, |worker| worker.len())
    }

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        let Subscription { number, config, root, created_ms, explicit, generation, wake, failures, next_attempt_ms } =
            self;
        sink.u64(*number);
        config.put(sink);
        sink.long(root);
        sink.u64(*created_ms);
        put_names(sink, explicit);
        sink.u64(*generation);
        sink.u32(*failures);
        sink.u64(*next_attempt_ms);
        sink.u8(u8::from(wake.is_some()));
        if let Some(Wake { id, lease_until_ms, worker, is_delivered }) = wake {
            sink.u64(*id);
            sink.u64(lease_until_ms.unwrap_or(0));
            put_optional(sink, worker.as_deref());
            sink.u8(u8::from(*is_delivered));
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Subscription, CodecError> {
        let number = reader.count(WHAT)?;
        let config = SubscriptionConfig::read(reader)?;
        let root = root(reader.long(WHAT)?)?.into();
        let (created_ms, explicit) = (reader.count(WHAT)?, read_names(reader)?);
        let (generation, failures, next_attempt_ms) = (reader.count(WHAT)?, reader.u32(WHAT)?, reader.count(WHAT)?);
        let wake = match reader.flag(WHAT)? {
            true => {
                let (id, until_ms) = (reader.u64(WHAT)?, reader.count(WHAT)?);
                let (worker, is_delivered) = (read_optional(reader)?.map(Into::into), reader.flag(WHAT)?);
                Some(Wake { id, lease_until_ms: Some(until_ms).filter(|ms| *ms > 0), worker, is_delivered })
            }
            false => None,
        };
        if number == 0 || (wake.is_some() && generation == 0) {
            return Err(CodecError::Field(WHAT));
        }
        Ok(Subscription { number, config, root, created_ms, explicit, generation, wake, failures, next_attempt_ms })
    }
}

impl<'a> SubscriptionStep<'a> {
    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        match self {
            SubscriptionStep::Put { config, root } => {
                sink.u8(STEP_PUT);
                sink.long(root);
                sink.bytes(config.0);
            }
            SubscriptionStep::Delete => sink.u8(STEP_DELETE),
            SubscriptionStep::Link { names } => {
                sink.u8(STEP_LINK);
                sink.bytes(names.0);
            }
            SubscriptionStep::Unlink { names } => {
                sink.u8(STEP_UNLINK);
                sink.bytes(names.0);
            }
            SubscriptionStep::Wake { number, wake, worker } => {
                sink.u8(STEP_WAKE);
                sink.u64(*number);
                sink.u64(*wake);
                put_optional(sink, *worker);
            }
            SubscriptionStep::Claim { turn, worker } => {
                put_turn(sink, STEP_CLAIM, turn);
                sink.long(worker);
            }
            SubscriptionStep::Extend(turn) => put_turn(sink, STEP_EXTEND, turn),
            SubscriptionStep::Delivered(turn) => put_turn(sink, STEP_DELIVERED, turn),
            SubscriptionStep::Failed { turn, retry_ms } => {
                put_turn(sink, STEP_FAILED, turn);
                sink.u64(*retry_ms);
            }
            SubscriptionStep::End(turn) => put_turn(sink, STEP_END, turn),
        }
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<SubscriptionStep<'a>, CodecError> {
        let rest = |reader: &mut Reader<'a>| reader.take(reader.rest().len(), WHAT);
        Ok(match reader.u8(WHAT)? {
            STEP_PUT => {
                let (root, config) = (root(reader.long(WHAT)?)?, EncodedConfig(rest(reader)?));
                config.try_decode()?;
                SubscriptionStep::Put { config, root }
            }
            STEP_DELETE => SubscriptionStep::Delete,
            code @ (STEP_LINK | STEP_UNLINK) => {
                let names = EncodedNames(rest(reader)?);
                names.try_decode()?;
                if code == STEP_LINK { SubscriptionStep::Link { names } } else { SubscriptionStep::Unlink { names } }
            }
            STEP_WAKE => {
                let (number, wake) = (reader.u64(WHAT)?, reader.u64(WHAT)?);
                SubscriptionStep::Wake { number, wake, worker: read_optional(reader)? }
            }
            STEP_CLAIM => SubscriptionStep::Claim { turn: read_turn(reader)?, worker: reader.long(WHAT)? },
            STEP_EXTEND => SubscriptionStep::Extend(read_turn(reader)?),
            STEP_DELIVERED => SubscriptionStep::Delivered(read_turn(reader)?),
            STEP_FAILED => match (read_turn(reader)?, reader.u64(WHAT)?) {
                (turn, retry_ms) if retry_ms <= RETRY_MS_MAX => SubscriptionStep::Failed { turn, retry_ms },
                _ => return Err(CodecError::Field(WHAT)),
            },
            STEP_END => SubscriptionStep::End(read_turn(reader)?),
            _ => return Err(CodecError::Field(WHAT)),
        })
    }
}

fn root(text: &str) -> Result<&str, CodecError> {
    if text.len() <= SUBSCRIPTION_URL_BYTES_MAX { Ok(text) } else { Err(CodecError::Field(WHAT)) }
}

fn put_turn<S: Sink>(sink: &mut S, step: u8, turn: &Turn) {
    sink.u8(step);
    for number in [turn.number, turn.generation, turn.wake] {
        sink.u64(number);
    }
}

fn read_turn(reader: &mut Reader<'_>) -> Result<Turn, CodecError> {
    Ok(Turn { number: reader.u64(WHAT)?, generation: reader.u64(WHAT)?, wake: reader.u64(WHAT)? })
}

fn put_optional<S: Sink>(sink: &mut S, text: Option<&str>) {
    sink.u8(u8::from(text.is_some()));
    if let Some(text) = text {
        sink.long(text);
    }
}

fn read_optional<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a str>, CodecError> {
    if reader.flag(WHAT)? { reader.long(WHAT).map(Some) } else { Ok(None) }
}

pub(crate) fn put_pattern<S: Sink>(sink: &mut S, pattern: Option<&Pattern>) {
    put_optional(sink, pattern.map(Pattern::as_str));
}

pub(crate) fn read_pattern(reader: &mut Reader<'_>) -> Result<Option<Pattern>, CodecError> {
    let text = read_optional(reader)?;
    text.map(|text| Pattern::kept(text).map_err(|_| CodecError::Field(WHAT))).transpose()
}

pub(crate) fn put_name<S: Sink>(sink: &mut S, name: Option<&str>) {
    put_optional(sink, name);
}

pub(crate) fn read_name<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a str>, CodecError> {
    let name = read_optional(reader)?;
    if name.is_none_or(is_stream_name) { Ok(name) } else { Err(CodecError::Field(WHAT)) }
}

/// Memory of names.
pub(crate) fn names_bytes(names: &BTreeSet<Box<str>>) -> usize {
    names.iter().map(|name| name.len() + ENTRY_BYTES).sum()
}

pub(crate) fn put_names<S: Sink>(sink: &mut S, names: &BTreeSet<Box<str>>) {
    sink.varint(names.len() as u64);
    names.iter().for_each(|name| sink.long(name));
}

/// Names in their order, each once.
pub(crate) fn read_names(reader: &mut Reader<'_>) -> Result<BTreeSet<Box<str>>, CodecError> {
    let mut names: BTreeSet<Box<str>> = BTreeSet::new();
    for _ in 0..reader.up_to(SUBSCRIPTION_STREAMS_MAX, WHAT)? {
        let name = reader.long(WHAT)?;
        if !is_stream_name(name) || names.last().is_some_and(|last| **last >= *name) {
            return Err(CodecError::Field(WHAT));
        }
        names.insert(name.into());
    }
    Ok(names)
}

/// What a key is made of, drawn at random. It is in no log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HookSeed(pub [u8; 32]);

impl fmt::Debug for HookSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookSeed")
    }
}

/// A key that wakes are signed with, and the tokens of those who answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookKey {
    /// What it is made of.
    pub seed: HookSeed,
    /// When it came, in milliseconds since 1970.
    pub created_ms: u64,
}

impl HookKey {
    /// As many are kept: the one before is still asked for what it has signed.
    pub(crate) const KEPT: usize = 2;

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        sink.bytes(&self.seed.0);
        sink.u64(self.created_ms);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<HookKey, CodecError> {
        Ok(HookKey { seed: read_seed(reader)?, created_ms: reader.count(WHAT)? })
    }
}

pub(crate) fn read_seed(reader: &mut Reader<'_>) -> Result<HookSeed, CodecError> {
    Ok(HookSeed(reader.digest(WHAT)?.0))
}
