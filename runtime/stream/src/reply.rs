//! Replies: what apply answers to each command. The same on every replica; `http` turns them into statuses.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_types::{Incarnation, Lineages, Offset, ReadFrom};

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The stream is there now, and was not before.
    Created(Facts),
    /// The stream was there already, with the configuration that was asked for.
    Exists(Facts),
    /// Records were appended, or the stream was closed, or both.
    Appended(Appended),
    /// The stream, or the bucket, is gone now; or, for an expiry, it had been used meanwhile and stays.
    Done,
    /// The stream has no records any more before where it begins now.
    Trimmed(Facts),
    /// A bucket's state in this group was changed; it has that many streams here.
    Bucket {
        /// Streams of the bucket in this group.
        streams: u64,
    },
    /// Group 0 has the bucket now.
    MetaBucket {
        /// When it was created, in milliseconds since 1970.
        created_ms: u64,
        /// Whether it was there before.
        existed: bool,
    },
    /// Group 0 has the module now.
    Module {
        /// The number of the upload.
        revision: u32,
        /// Whether these bytes were the module's newest before.
        existed: bool,
    },
    /// Group 0 has the binding now, or has it no longer.
    Binding {
        /// The change that made it what it is.
        epoch: u64,
        /// Whether there was one of this name before.
        existed: bool,
    },
    /// Group 0 has the subscription now, or has it no longer.
    Subscription {
        /// How many wakes of it there have been.
        generation: u64,
        /// Whether it was there before.
        existed: bool,
        /// If every group is to hear of this: the bucket's change before, and this one.
        told: Option<(u64, u64)>,
    },
    /// Bytes of so many of a flush's parts are read from its chunk now.
    Flushed {
        /// The others no longer fitted.
        parts: u32,
    },
    /// The stream keeps what a fork inherits.
    Pinned(Facts),
    /// It is decided whether a fork will ever be there.
    ForkDecided {
        /// Whether it is.
        is_there: bool,
    },
    /// A node has taken a step.
    Node {
        /// Or not, for this reason.
        refused: Option<NodeRefusal>,
    },
    /// Nothing changed.
    Refused(Refusal),
}

/// The most nodes that a cluster has and has had.
pub const NODES_MAX: usize = 1024;
/// The longest address of a node, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// Why a node of the cluster does not take a step; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeRefusal {
    /// There is none of this number.
    #[error("there is no such node")]
    Unknown,
    /// It was removed.
    #[error("it was removed for ever: a node comes again under a new number, with an empty data directory")]
    Removed,
    /// It is on its way out.
    #[error("it is being removed, and that is not taken back")]
    Leaving,
    /// It has another disk.
    #[error("it has another disk")]
    OtherDisk,
    /// Nobody would be left.
    #[error("it is the last node that is not being removed")]
    Last,
    /// There are, and were, too many.
    #[error("a cluster has at most {NODES_MAX} nodes, those that were removed among them")]
    TooMany,
    /// Its nodes are noted.
    #[error("the cluster has been formed")]
    Formed,
    /// The address is too long.
    #[error("an address has at most {ADDRESS_BYTES_MAX} bytes")]
    Address,
}

/// An append's effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// The tail after the append; for a duplicate the tail that the first request was answered with, where still known.
    pub next: Offset,
    /// Whether the stream is closed now.
    pub closed: bool,
    /// What is accepted of the producer, when the request named one.
    pub producer: Option<ProducerState>,
    /// Whether the records had been appended by an earlier request of this producer.
    pub duplicate: bool,
}

/// The highest epoch and, within it, sequence number accepted of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerState {
    /// The producer's epoch.
    pub epoch: u64,
    /// The highest sequence number accepted in that epoch.
    pub seq: u64,
}

/// A stream's configuration and state, as `HEAD` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Which life of the name this is.
    pub incarnation: Incarnation,
    /// The offset before the first record that has not been trimmed.
    pub earliest: Offset,
    /// The offset after the last record.
    pub next: Offset,
    /// What its offsets carry.
    pub lineages: Lineages,
    /// As given when the stream was created.
    #[serde(with = "weir_types::shared")]
    pub content_type: Arc<str>,
    /// Whether it takes no further records.
    pub closed: bool,
    /// When it ends by itself.
    pub expiry: Expiry,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
}

impl Facts {
    /// As [`Stream::check_offset`](crate::Stream::check_offset), of the stream as it was then.
    ///
    /// # Errors
    /// As there.
    pub fn check_offset(&self, from: ReadFrom) -> Result<u64, Refusal> {
        position_of(from, self.earliest, self.next, &self.lineages)
    }

    /// The offset of a position.
    pub fn offset(&self, position: u64) -> Offset {
        self.lineages.offset(position)
    }
}

/// The position that a read from `from` begins at in a stream that has records from `earliest` to `next`.
pub(crate) fn position_of(from: ReadFrom, earliest: Offset, next: Offset, lineages: &Lineages) -> Result<u64, Refusal> {
    match from {
        ReadFrom::Start => Ok(earliest.position),
        ReadFrom::Now => Ok(next.position),
        ReadFrom::At(offset) if offset != lineages.offset(offset.position) => Err(Refusal::OffsetGone),
        ReadFrom::At(offset) if offset.position > next.position => Err(Refusal::OffsetInvalid),
        ReadFrom::At(offset) if offset.position < earliest.position => Err(Refusal::OffsetTrimmed { earliest }),
        ReadFrom::At(offset) => Ok(offset.position),
    }
}

/// When a stream ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// Never.
    Never,
    /// After this many seconds without a read or write.
    Idle {
        /// Seconds.
        ttl_s: u64,
    },
    /// At this time, in milliseconds since 1970.
    At {
        /// Milliseconds since 1970.
        at_ms: u64,
    },
}

impl Expiry {
    /// When a stream ends that was used last at `used_ms`, both in milliseconds since 1970; `None` for never.
    pub fn ends_ms(self, used_ms: u64) -> Option<u64> {
        match self {
            Expiry::Never => None,
            Expiry::Idle { ttl_s } => Some(used_ms.saturating_add(ttl_s.saturating_mul(1000))),
            Expiry::At { at_ms } => Some(at_ms),
        }
    }
}

/// Why a command changed nothing. Decided by the state alone, so the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// No stream has this name.
    #[error("no such stream")]
    NotFound,
    /// The stream was deleted, or has ended, and is kept only for its forks.
    #[error("the stream was deleted, but has forks")]
    SoftDeleted,
    /// The stream was deleted and is kept for its forks: it cannot be made anew, nor forked.
    #[error("a stream that was deleted, but has forks, has this name")]
    NameHeld,
    /// The source keeps nothing for the fork any more: the create has come too late. Never leaves the shard.
    #[error("the fork was not created in time")]
    ForkLate,
    /// Too many streams hold a part of what a fork would inherit.
    #[error("a fork has records of at most {max} streams")]
    ForkAncestors {
        /// So many may.
        max: usize,
    },
    /// The sub-offset is beyond the record at the fork's offset, or beyond the tail.
    #[error("the sub-offset is beyond the next record of the source, or beyond its tail")]
    ForkSubOffset,
    /// No bucket has this name.
    #[error("no such bucket")]
    BucketNotFound,
    /// The bucket is being deleted, or still has streams and cannot be.
    #[error("the bucket is not empty or is being deleted")]
    BucketBusy,
    /// A stream with other content type, expiry or closure has this name.
    #[error("the stream exists with another content type, expiry or closed state")]
    ConfigConflict,
    /// The stream is there already, and only a new one was wanted.
    #[error("the stream is there already")]
    Exists {
        /// Its tail.
        tail: Offset,
    },
    /// The stream takes no further records, forever.
    #[error("the stream is closed")]
    Closed {
        /// Its final tail.
        tail: Offset,
    },
    /// The body's type is not the stream's.
    #[error(
        "the body is {sent:?}, but the stream is {expected:?}: send 'Content-Type: {expected}' (with curl: -H \
         'Content-Type: {expected}')"
    )]
    ContentTypeMismatch {
        /// The body's.
        sent: Box<str>,
        /// The stream's.
        #[serde(with = "weir_types::shared")]
        expected: Arc<str>,
    },
    /// A body without a content type.
    #[error("a body needs a content type")]
    ContentTypeMissing,
    /// The body is no JSON.
    #[error("the body is not valid JSON: {reason}")]
    JsonInvalid {
        /// Where and why.
        reason: String,
    },
    /// An empty body, or an empty JSON array, where records are needed.
    #[error("nothing to append")]
    Empty,
    /// `Stream-Seq` is not greater than the last one.
    #[error("Sequence conflict: Stream-Seq is not after the last one")]
    SeqRegression,
    /// `If-Match` names another offset than the tail.
    #[error("the tail has moved")]
    TailMoved {
        /// Where it is.
        tail: Offset,
    },
    /// A read at an offset of an earlier life of the name.
    #[error("the offset is of an earlier stream of this name")]
    OffsetGone,
    /// A read at an offset before what is retained.
    #[error("the records at this offset have been trimmed")]
    OffsetTrimmed {
        /// Where what is retained begins.
        earliest: Offset,
    },
    /// An offset after the tail, or inside a record.
    #[error("the offset is beyond the tail or inside a record")]
    OffsetInvalid,
    /// A summary is computed from the records that were to be trimmed.
    #[error(
        "the stream has a summary, which would begin anew without these records: 'force=true' trims them all the same"
    )]
    TrimSummarized,
    /// A newer epoch of the producer has written.
    #[error("a newer epoch of this producer has written")]
    ProducerFenced {
        /// That epoch.
        epoch: u64,
    },
    /// A sequence number was skipped.
    #[error("expected producer sequence {expected}, received {received}")]
    ProducerGap {
        /// The next one that would be accepted.
        expected: u64,
        /// The one received.
        received: u64,
    },
    /// A new epoch did not begin at sequence number 0.
    #[error("a new producer epoch begins at sequence 0")]
    ProducerEpochStart,
    /// The stream already remembers as many active producers as it may.
    #[error("the stream has too many active producers")]
    ProducerLimit,
    /// No module of the bucket has this name, or none of its uploads has the digest.
    #[error("no such module")]
    ModuleNotFound,
    /// The module is still being compiled, or could not be.
    #[error("the module is not ready")]
    ModuleNotReady,
    /// A binding uses the module.
    #[error("the module is used by a binding")]
    ModuleInUse,
    /// The bucket has as many modules as it may.
    #[error("the bucket has too many modules")]
    ModuleLimit,
    /// No binding of the bucket has this name.
    #[error("no such binding")]
    BindingNotFound,
    /// The bucket has as many bindings, or as many bytes of their configurations, as it may.
    #[error("the bucket has too many bindings, or their configurations are too large")]
    BindingLimit,
    /// No subscription of the bucket has this id.
    #[error("no such subscription")]
    SubscriptionNotFound,
    /// A subscription with another configuration has this id.
    #[error("the subscription exists with another configuration")]
    SubscriptionConflict,
    /// The bucket has as many subscriptions, or as many names of streams in them, as it may.
    #[error("the bucket has too many subscriptions, or they name too many streams")]
    SubscriptionLimit,
    /// The wake is over, or another one is under way.
    #[error("the wake is over, or another one has begun")]
    WakeFenced,
    /// The stream, or the bindings of the group, changed between the leader's check and apply; the leader checks again.
    /// Never leaves the shard.
    #[error("the stream or its bindings have changed since the command was checked")]
    Stale,
}
