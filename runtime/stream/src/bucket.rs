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
