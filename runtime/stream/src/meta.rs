//! What group 0 keeps for all groups: over how many groups the slots are spread, which buckets there are, and the modules,
//! bindings and subscriptions in them ([`crate::module`], [`crate::binding`], [`crate::subscription`]), and the cluster's [`nodes`].
//!
//! Every change of a bucket has a number, the bucket's *epoch*, and the whole bucket travels to every group under it
//! ([`crate::bucket`]); so nothing depends on the order in which two changes arrive there.
//!
//! A bucket's deletion takes several groups, so it has steps of its own: while it is *deleting* or *dropped*, no other
//! create or delete of that bucket begins, and a new leader finds here what its predecessor left unfinished. A deletion
//! that is not decided is taken back; one that is decided is finished.

mod bind;
pub mod nodes;
mod subscribe;
mod upload;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::binding::Binding;
use crate::bucket::Retention;
pub use crate::meta::nodes::{EncodedFounders, NodeEntry, NodeState, NodeStep, NodeTable};
use crate::module::Module;
use crate::reply::{Refusal, Reply};
use crate::subscription::kept::{HookKey, Subscription};

/// Group 0's tables.
#[derive(Debug, Default)]
pub struct Meta {
    /// How many groups the slots are spread over.
    pub(crate) groups: Option<u16>,
    pub(crate) buckets: BTreeMap<Box<str>, MetaBucket>,
    /// The number of the last change of any bucket.
    pub(crate) changes: u64,
    /// Memory of all subscriptions.
    pub(crate) subscriptions_bytes: usize,
    /// What wakes are signed with, the newest last.
    pub(crate) hook_keys: Vec<HookKey>,
    pub(crate) nodes: NodeTable,
}

/// A bucket, wherever its streams are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaBucket {
    /// How far its deletion is, if it is being deleted.
    pub state: BucketState,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// How much of its streams is kept.
    pub retention: Retention,
    /// What was uploaded, by name.
    pub modules: BTreeMap<Box<str>, Module>,
    /// What is attached to its streams, by name.
    pub bindings: BTreeMap<Box<str>, Arc<Binding>>,
    /// Who is woken for its streams, by id.
    pub subscriptions: BTreeMap<Box<str>, Subscription>,
    /// The number of its last change.
    pub epoch: u64,
}

/// How far a bucket's deletion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketState {
    /// It takes streams.
    Active,
    /// A deletion has begun and is not decided.
    Deleting,
    /// Its deletion is decided: it is to be forgotten when every group has heard of it.
    Dropped,
}

/// A step in a bucket's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketStep {
    /// It comes to be, before any group hears of it.
    Create,
    /// Its deletion begins.
    Delete,
    /// Its deletion is taken back.
    Keep,
    /// Its deletion is decided: no group has streams of it.
    Drop,
    /// Every group knows that it is gone.
    Forget,
    /// It gets a new number, for a group that has heard of a later change before this one.
    Renew,
}

impl MetaBucket {
    pub(crate) fn new(created_ms: u64, epoch: u64) -> MetaBucket {
        let (retention, modules, bindings, subscriptions) = Default::default();
        MetaBucket { state: BucketState::Active, created_ms, retention, modules, bindings, subscriptions, epoch }
    }
}

impl Meta {
    /// How many groups the slots are spread over; `None` before the node or cluster is formed.
    pub fn groups(&self) -> Option<u16> {
        self.groups
    }

    /// One bucket.
    pub fn bucket(&self, name: &str) -> Option<&MetaBucket> {
        self.buckets.get(name)
    }

    /// All buckets in the order of their names.
    pub fn buckets(&self) -> impl Iterator<Item = (&str, &MetaBucket)> {
        self.buckets.iter().map(|(name, bucket)| (&**name, bucket))
    }

    /// The buckets behind `after`, in the order of their names.
    pub fn buckets_after(&self, after: &str) -> impl Iterator<Item = (&str, &MetaBucket)> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.buckets.range::<str, _>(behind).map(|(name, bucket)| (&**name, bucket))
    }

    pub(crate) fn bucket_mut(&mut self, name: &str) -> Option<&mut MetaBucket> {
        self.buckets.get_mut(name)
    }

    /// The bucket, unless it is being deleted.
    pub(crate) fn active_bucket(&mut self, name: &str) -> Result<&mut MetaBucket, Refusal> {
        match self.bucket_mut(name) {
            None => Err(Refusal::BucketNotFound),
            Some(bucket) if bucket.state == BucketState::Active => Ok(bucket),
            Some(_) => Err(Refusal::BucketBusy),
        }
    }

    /// The cluster's nodes.
    pub fn nodes(&self) -> &NodeTable {
        &self.nodes
    }

    pub(crate) fn nodes_form(&mut self, founders: EncodedFounders<'_>) -> Reply {
        Reply::Node { refused: self.nodes.form(founders).err() }
    }

    pub(crate) fn raise_level(&mut self, level: u16) -> Reply {
        self.nodes.raise_level(level);
        Reply::Node { refused: None }
    }

    pub(crate) fn node_step(&mut self, node: u64, step: NodeStep<'_>) -> Reply {
        Reply::Node { refused: self.nodes.step(node, step).err() }
    }

    pub(crate) fn form(&mut self, groups: u16) -> Result<Reply, Refusal> {
        assert!(groups > 0, "the codec refuses a formation without groups");
        match self.groups {
            // Streams would be looked for where they are not.
            Some(formed) if formed != groups => Err(Refusal::ConfigConflict),
            _ => {
                self.groups = Some(groups);
                Ok(Reply::Done)
            }
        }
    }

    pub(crate) fn bucket_step(&mut self, name: &str, step: BucketStep, time_ms: u64) -> Result<Reply, Refusal> {
        use BucketState::{Active, Deleting, Dropped};
        let Some(bucket) = self.buckets.get_mut(name) else {
            return match step {
                BucketStep::Create => {
                    let epoch = self.next_change();
                    self.buckets.insert(name.into(), MetaBucket::new(time_ms, epoch));
                    Ok(Reply::MetaBucket { created_ms: time_ms, existed: false })
                }
                BucketStep::Forget => Ok(Reply::Done),
                BucketStep::Delete | BucketStep::Keep | BucketStep::Drop | BucketStep::Renew => {
                    Err(Refusal::BucketNotFound)
                }
            };
        };
        let state = match (step, bucket.state) {
            (BucketStep::Create, Active) => {
                return Ok(Reply::MetaBucket { created_ms: bucket.created_ms, existed: true });
            }
            (BucketStep::Delete, Active) => Deleting,
            (BucketStep::Keep, Deleting) => Active,
            (BucketStep::Drop, Deleting) => Dropped,
            (BucketStep::Renew, state) => state,
            // Said again: the answer to the first may have been lost.
            (BucketStep::Keep, Active) | (BucketStep::Drop, Dropped) => return Ok(Reply::Done),
            (BucketStep::Forget, Dropped) => {
                let gone = self.buckets.remove(name);
                self.subscriptions_bytes -= gone.map_or(0, |gone| gone.subscriptions_bytes());
                return Ok(Reply::Done);
            }
            (BucketStep::Create | BucketStep::Delete | BucketStep::Keep, Deleting | Dropped)
            | (BucketStep::Drop, Active)
            | (BucketStep::Forget, Active | Deleting) => return Err(Refusal::BucketBusy),
        };
        let epoch = self.next_change();
        let bucket = self.buckets.get_mut(name).expect("it was there");
        assert!(bucket.epoch < epoch, "the changes of a bucket rise");
        bucket.state = state;
        bucket.epoch = epoch;
        Ok(Reply::Done)
    }

    /// Says how much of a bucket's streams is kept from now on.
    pub(crate) fn retention_put(&mut self, name: &str, retention: Retention) -> Result<Reply, Refusal> {
        if self.active_bucket(name)?.retention != retention {
            let epoch = self.next_change();
            let bucket = self.active_bucket(name)?;
            bucket.retention = retention;
            bucket.epoch = epoch;
        }
        Ok(Reply::Done)
    }

    /// Numbers a change.
    pub(crate) fn next_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }
}
