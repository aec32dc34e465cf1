//! A group's own copy of a bucket: whether streams may be created in it, what is bound to them, and how many there are
//! here.
//!
//! Group 0 holds the truth ([`crate::meta`]) and carries every change to all groups as one command, *the bucket as of epoch
//! e*, so that creating a stream never asks another group. A group takes what is newer than what it has and refuses what is
//! older, also when the bucket has gone meanwhile; so a command may be late, repeated or lost, and the last one wins.
//!
//! A deletion fences the bucket everywhere first; if every group then has none of its streams it is gone everywhere, else
//! it is opened again.

use std::sync::Arc;

use crate::binding::{Binding, EncodedBindings};
use crate::group::{Group, Outcome};
use crate::reply::{Refusal, Reply};

/// A bucket in one group.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// The change that made it what it is.
    pub(crate) epoch: u64,
    pub(crate) created_ms: u64,
    pub(crate) streams: u64,
    /// No stream may be created: the bucket is being deleted.
    pub(crate) fenced: bool,
    pub(crate) bindings: Vec<Arc<Binding>>,
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
        /// All bindings of the bucket.
        bindings: EncodedBindings<'a>,
    },
    /// It was deleted.
    Gone,
}

/// A bucket as one group sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketView {
    /// The last change of the bucket that this group has heard of.
    pub epoch: u64,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its streams in this group.
    pub streams: u64,
    /// Whether creates are stopped because it is being deleted.
    pub fenced: bool,
}

impl Group {
    /// The group's own copy of a bucket.
    pub fn bucket(&self, name: &str) -> Option<BucketView> {
        let &Bucket { epoch, created_ms, streams, fenced, .. } = self.buckets.get(name)?;
        Some(BucketView { epoch, created_ms, streams, fenced })
    }

    /// Takes in what group 0 says of a bucket, if it is news.
    pub(crate) fn bucket_told(&mut self, name: &str, epoch: u64, told: BucketTold<'_>) -> Outcome {
        let bucket = self.buckets.get(name);
        let is_there = bucket.is_some();
        let known = bucket.map_or(self.buckets_gone_epoch, |bucket| bucket.epoch);
        let streams = bucket.map_or(0, |bucket| bucket.streams);
        match told {
            _ if is_there && epoch == known => {}
            BucketTold::Gone if !is_there => self.buckets_gone_epoch = known.max(epoch),
            // Without the bucket there is one number for all that have gone: it may be of another one, and then group 0
            // says it again under a new number.
            _ if epoch <= known => return Outcome::refused(Refusal::Stale),
            BucketTold::Gone if streams > 0 => return Outcome::refused(Refusal::BucketBusy),
            BucketTold::Gone => {
                self.set_bindings(name, Vec::new());
                self.buckets.remove(name);
                self.buckets_gone_epoch = self.buckets_gone_epoch.max(epoch);
            }
            BucketTold::There { created_ms, fenced, bindings } => {
                let new = || Bucket { epoch, created_ms, streams: 0, fenced, bindings: Vec::new() };
                let own = self.buckets.entry(name.into()).or_insert_with(new);
                own.epoch = epoch;
                own.created_ms = created_ms;
                own.fenced = fenced;
                self.set_bindings(name, bindings.decode().into_iter().map(Arc::new).collect());
            }
        }
        Outcome::unchanged(Reply::Bucket { streams })
    }
}
