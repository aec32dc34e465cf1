//! What is asked of subscriptions and answered: of group 0, which has them, and of each group, which has the streams.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use weir_hooks::PublicKey;
use weir_stream::subscription::{Link, Subscription, SubscriptionConfig, Turn};
use weir_types::limits::{
    SUBSCRIPTION_STREAMS_MAX, SUBSCRIPTION_TEXT_BYTES_MAX, SUBSCRIPTION_URL_BYTES_MAX, WAKE_STREAMS_MAX,
};
use weir_types::{BucketName, Incarnation, Offset, StreamKey};

/// What is asked of group 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum SubscriptionAsk {
    /// Make it, or find it there as it is asked for.
    Put {
        config: SubscriptionConfig,
        root: Box<str>,
    },
    Get,
    Delete,
    /// It is for these streams by name from now on, or is so no longer.
    Link(BTreeSet<Box<str>>, bool),
    /// This worker takes what is to be done.
    Claim(Box<str>),
    /// Whoever was woken is so far.
    Ack(AckRequest),
}

/// What whoever was woken says.
#[derive(Clone, Serialize, Deserialize)]
pub struct AckRequest {
    /// What it got with the wake.
    pub token: Box<str>,
    /// The wake's generation.
    pub generation: u64,
    /// The wake's own number.
    pub wake: u64,
    /// Streams by name, and up to where each was processed.
    pub acks: Vec<(Box<str>, Offset)>,
    /// Whether it does no more.
    pub done: bool,
}

/// What group 0 answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum SubscriptionAnswer {
    /// As it is now; whether it was there before; what its wakes are signed with.
    Subscription(Box<Subscription>, bool, Option<PublicKey>),
    Claimed(Box<ClaimedWake>),
    /// Whether there is more to be done.
    Acked {
        next_wake: bool,
    },
}

/// A subscription as its client sees it.
#[derive(Clone, Debug)]
pub struct SubscriptionView {
    /// As group 0 has it.
    pub subscription: Subscription,
    /// What its wakes are signed with.
    pub key: Option<PublicKey>,
    /// Its streams, at most [`SUBSCRIPTION_STREAMS_MAX`] of them and those that it names.
    pub streams: Vec<LinkedStream>,
    /// Whether it was there before.
    pub existed: bool,
}

/// A wake that a worker has claimed.
#[derive(Clone, Serialize, Deserialize)]
pub struct ClaimedWake {
    /// Which.
    pub turn: Turn,
    /// What the worker shows from now on.
    pub token: Box<str>,
    /// What has something new.
    pub streams: Vec<LinkedStream>,
    /// How long it may be silent, in milliseconds.
    pub lease_ms: u64,
}

/// A stream as a subscription has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkedStream {
    /// Its name within the bucket.
    pub name: Box<str>,
    /// How it came to be linked.
    pub link: Link,
    /// The life that these offsets are of.
    pub incarnation: Incarnation,
    /// Up to where it was processed; `None` for a stream that is not there.
    pub acked: Option<Offset>,
    /// Where it ends.
    pub tail: Option<Offset>,
}

/// What is asked of a group about the streams of one subscription.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LinksRequest {
    pub(crate) bucket: BucketName,
    /// The subscription's number.
    pub(crate) number: u64,
    pub(crate) ask: LinksAsk,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum LinksAsk {
    /// So many that have something new, of those whose names are behind this one.
    Pending(usize, Box<str>),
    /// So many, whether or not they have.
    All(usize),
    /// These, as far as they are linked.
    Named(BTreeSet<Box<str>>),
    /// These, if they could be acknowledged so far; and that is done before this time of the group, in milliseconds since 1970, unless it is
    /// only a trial.
    Ack { acks: Vec<(Box<str>, Offset)>, until_ms: Option<u64> },
    /// The group's time.
    Now,
}

// Tokens are in no log.
impl fmt::Debug for AckRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AckRequest { token: _, generation, wake, acks, done } = self;
        write!(f, "AckRequest(generation {generation}, wake {wake}, {} streams, done: {done})", acks.len())
    }
}

impl fmt::Debug for ClaimedWake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClaimedWake { turn, token: _, streams, lease_ms } = self;
        write!(f, "ClaimedWake({turn:?}, {} streams, {lease_ms} ms)", streams.len())
    }
}

impl LinkedStream {
    /// Whether it has something new.
    pub fn has_pending(&self) -> bool {
        self.acked != self.tail
    }
}

/// Whether all of these may be names of streams, and are not too many.
fn are_names<'a>(names: impl ExactSizeIterator<Item = &'a Box<str>>) -> bool {
    let mut names = names;
    names.len() <= SUBSCRIPTION_STREAMS_MAX && names.all(|name| StreamKey::new("b", name).is_ok())
}

impl SubscriptionAsk {
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            SubscriptionAsk::Put { config, root } => config.is_sound() && root.len() <= SUBSCRIPTION_URL_BYTES_MAX,
            SubscriptionAsk::Link(names, _) => are_names(names.iter()),
            SubscriptionAsk::Claim(worker) => worker.len() <= SUBSCRIPTION_TEXT_BYTES_MAX,
            SubscriptionAsk::Ack(request) => are_acks(&request.acks),
            SubscriptionAsk::Get | SubscriptionAsk::Delete => true,
        }
    }
}

fn are_acks(acks: &[(Box<str>, Offset)]) -> bool {
    are_names(acks.iter().map(|(name, _)| name))
}

impl LinksRequest {
    pub(crate) fn is_sound(&self) -> bool {
        match &self.ask {
            LinksAsk::Pending(limit, after) => {
                (1..=WAKE_STREAMS_MAX).contains(limit) && (after.is_empty() || are_names([after].into_iter()))
            }
            LinksAsk::All(limit) => (1..=SUBSCRIPTION_STREAMS_MAX).contains(limit),
            LinksAsk::Named(names) => are_names(names.iter()),
            LinksAsk::Ack { acks, .. } => are_acks(acks),
            LinksAsk::Now => true,
        }
    }
}
