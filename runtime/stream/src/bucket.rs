//! A group's own copy of a bucket: whether streams may be created in it, what is bound to them, and how many there are
//! here.
//!
//! Group 0 holds the truth ([`crate::meta`]) and carries every change to all groups as one command, *the bucket as of epoch
//! e*, so that creating a stream never asks another group. A group takes what is newer than what it has and refuses what is
//! older, also when the bucket has gone meanwhile; so a command may be late, repeated or lost, and the last one wins.
//!
//! A deletion fences the bucket everywhere first; if every group then has none of its streams it is gone everywhere, else
//! it is opened again.

mod told;

use std::num::NonZeroU64;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::binding::{Binding, EncodedBindings};
use crate::codec::{CodecError, Reader};
use crate::sink::Sink;
use crate::subscription::watch::{EncodedWatches, Watch};

/// How much of its streams a bucket keeps: what is beyond one of the limits is trimmed some time later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Records that are older than so many seconds go.
    pub age_s: Option<NonZeroU64>,
    /// At least so many bytes of each stream stay, the newest.
    pub bytes: Option<NonZeroU64>,
}

impl Retention {
    /// Whether all records stay.
    pub fn is_unlimited(&self) -> bool {
        *self == Retention::default()
    }

    pub(crate) fn put<S: Sink>(self, sink: &mut S) {
        for limit in [self.age_s, self.bytes] {
            sink.u64(limit.map_or(0, NonZeroU64::get));
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Retention, CodecError> {
        let mut limit = || reader.u64("retention").map(NonZeroU64::new);
        Ok(Retention { age_s: limit()?, bytes: limit()? })
    }
}

/// A bucket in one group.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// The change that made it what it is.
    pub(crate) epoch: u64,
    pub(crate) created_ms: u64,
    pub(crate) streams: u64,
    /// No stream may be created: the bucket is being deleted.
    pub(crate) fenced: bool,
    pub(crate) retention: Retention,
    pub(crate) bindings: Vec<Arc<Binding>>,
    pub(crate) watches: Vec<Watch>,
}

/// What a group is told of a bucket.
#[derive(Clone, Copy, Debug)]
pub enum BucketTold<'a> {
    /// It is there.
    There {
        /// When it was created, in milliseconds since 1970.
        created_ms: u64,
        /// Whether no stream may be created in it, for it is being deleted.
        fenced: bool,
        /// How much of its streams is kept.
        retention: Retention,
        /// All bindings of the bucket.
        bindings: EncodedBindings<'a>,
        /// Which of its streams subscriptions are for.
        watches: EncodedWatches<'a>,
    },
    /// Nothing has changed but one subscription.
    Watch {
        /// The change before this one. Who has heard of another last has to hear all of the bucket.
        after: u64,
        /// The subscription's number.
        number: u64,
        /// Which streams it is for; none if it is gone.
        watches: EncodedWatches<'a>,
    },
    /// It was deleted.
    Gone,
}

/// A bucket as one group sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketView {
    /// The last change of the bucket that this group has heard of.
    pub epoch: u64,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its streams in this group.
    pub streams: u64,
    /// Whether creates are stopped because it is being deleted.
    pub fenced: bool,
    /// How much of its streams is kept.
    pub retention: Retention,
}
