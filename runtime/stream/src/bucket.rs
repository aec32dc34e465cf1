//! A group's own copy of a bucket: whether streams may be created in it, and how many there are here.
//!
//! Group 0 holds the truth ([`crate::meta`]) and carries every change to all groups as commands, so that creating a
//! stream never asks another group. A deletion fences the bucket everywhere first; if every group then has none of its
//! streams it is dropped everywhere, else the fences are taken back. Commands may be repeated: the leader of group 0
//! begins again where its predecessor failed.

use crate::binding::Bindings;
use crate::group::{At, Group, Outcome};
use crate::reply::{Refusal, Reply};

/// A bucket in one group.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) created_ms: u64,
    pub(crate) streams: u64,
    /// No stream may be created: the bucket is being deleted.
    pub(crate) fenced: bool,
    pub(crate) bindings: Bindings,
}

/// A bucket as one group sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketView {
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its streams in this group.
    pub streams: u64,
    /// Whether creates are stopped because it is being deleted.
    pub fenced: bool,
    /// The last change of the bucket's bindings that this group has heard of; 0 for none.
    pub bindings_epoch: u64,
}

impl Group {
    /// The group's own copy of a bucket.
    pub fn bucket(&self, name: &str) -> Option<BucketView> {
        let &Bucket { created_ms, streams, fenced, ref bindings } = self.buckets.get(name)?;
        Some(BucketView { created_ms, streams, fenced, bindings_epoch: bindings.epoch })
    }

    pub(crate) fn bucket_create(&mut self, name: &str, created_ms: u64) -> Outcome {
        match self.buckets.get(name) {
            Some(bucket) if bucket.fenced => Outcome::refused(Refusal::BucketBusy),
            Some(bucket) => Outcome::unchanged(Reply::Bucket { streams: bucket.streams }),
            None => {
                self.buckets.insert(
                    name.into(),
                    Bucket { created_ms, streams: 0, fenced: false, bindings: Bindings::default() },
                );
                Outcome::unchanged(Reply::Bucket { streams: 0 })
            }
        }
    }

    pub(crate) fn bucket_fence(&mut self, at: &At, name: &str) -> Outcome {
        // A bucket unknown here is fenced all the same: its creation may still be on the way to this group, and must not
        // let streams in behind the deletion's back.
        let absent = Bucket { created_ms: at.time_ms, streams: 0, fenced: true, bindings: Bindings::default() };
        let bucket = self.buckets.entry(name.into()).or_insert(absent);
        bucket.fenced = true;
        Outcome::unchanged(Reply::Bucket { streams: bucket.streams })
    }

    pub(crate) fn bucket_unfence(&mut self, name: &str) -> Outcome {
        match self.buckets.get_mut(name) {
            Some(bucket) => {
                bucket.fenced = false;
                Outcome::unchanged(Reply::Bucket { streams: bucket.streams })
            }
            None => Outcome::refused(Refusal::BucketNotFound),
        }
    }

    pub(crate) fn bucket_drop(&mut self, name: &str) -> Outcome {
        if self.buckets.get(name).is_some_and(|bucket| bucket.streams > 0) {
            return Outcome::refused(Refusal::BucketBusy);
        }
        if let Some(bucket) = self.buckets.remove(name) {
            self.drop_bindings(&bucket.bindings);
        }
        Outcome::unchanged(Reply::Done)
    }
}
