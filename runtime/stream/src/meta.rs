//! What group 0 keeps for all groups: which group a slot belongs to, which buckets there are, and the modules and
//! bindings in them ([`crate::module`], [`crate::binding`]).
//!
//! A bucket's deletion takes several groups, so it has a state of its own: while it is *deleting*, no other create or
//! delete of that bucket begins, and a new leader finds here what its predecessor left unfinished.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_types::limits::SLOTS;
use weir_types::{GroupId, Slot};

use crate::binding::Binding;
use crate::module::Module;
use crate::reply::{Refusal, Reply};

/// Group 0's tables.
#[derive(Debug, Default)]
pub struct Meta {
    slots: Option<SlotTable>,
    buckets: BTreeMap<Box<str>, MetaBucket>,
    /// The number of the last change of any binding.
    pub(crate) bindings_epoch: u64,
}

/// Which group each slot belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    groups: u16,
    group_of: Box<[GroupId]>,
}

/// A bucket, wherever its streams are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaBucket {
    /// Whether it is being deleted.
    pub state: BucketState,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// What was uploaded, by name.
    pub modules: BTreeMap<Box<str>, Module>,
    /// What is attached to its streams, by name.
    pub bindings: BTreeMap<Box<str>, Arc<Binding>>,
    /// The number of the last change of its bindings; 0 for none.
    pub bindings_epoch: u64,
}

/// Whether a bucket is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketState {
    /// It takes streams.
    Active,
    /// A deletion has begun and is not decided.
    Deleting,
}

impl SlotTable {
    /// How many groups the slots are spread over.
    pub fn groups(&self) -> u16 {
        self.groups
    }

    /// The group that a slot belongs to.
    pub fn group(&self, slot: Slot) -> GroupId {
        self.group_of[slot.index()]
    }
}

impl MetaBucket {
    fn new(created_ms: u64) -> MetaBucket {
        let (modules, bindings) = Default::default();
        MetaBucket { state: BucketState::Active, created_ms, modules, bindings, bindings_epoch: 0 }
    }
}

impl Meta {
    /// The slot table; `None` before the node or cluster is formed.
    pub fn slots(&self) -> Option<&SlotTable> {
        self.slots.as_ref()
    }

    /// One bucket.
    pub fn bucket(&self, name: &str) -> Option<&MetaBucket> {
        self.buckets.get(name)
    }

    /// All buckets in the order of their names.
    pub fn buckets(&self) -> impl Iterator<Item = (&str, &MetaBucket)> {
        self.buckets.iter().map(|(name, bucket)| (&**name, bucket))
    }

    pub(crate) fn bucket_mut(&mut self, name: &str) -> Option<&mut MetaBucket> {
        self.buckets.get_mut(name)
    }

    pub(crate) fn form(&mut self, groups: u16) -> Reply {
        assert!(groups > 0, "the codec refuses a formation without groups");
        match &self.slots {
            Some(table) if table.groups == groups => Reply::Done,
            // Streams would be looked for where they are not.
            Some(_) => Reply::Refused(Refusal::ConfigConflict),
            None => {
                let group_of = (0..SLOTS).map(|slot| GroupId((slot % usize::from(groups)) as u16)).collect();
                self.slots = Some(SlotTable { groups, group_of });
                Reply::Done
            }
        }
    }

    pub(crate) fn bucket_create(&mut self, name: &str, time_ms: u64) -> Reply {
        match self.buckets.get(name) {
            Some(MetaBucket { state: BucketState::Deleting, .. }) => Reply::Refused(Refusal::BucketBusy),
            Some(bucket) => Reply::MetaBucket { created_ms: bucket.created_ms, existed: true },
            None => {
                self.buckets.insert(name.into(), MetaBucket::new(time_ms));
                Reply::MetaBucket { created_ms: time_ms, existed: false }
            }
        }
    }

    pub(crate) fn bucket_delete(&mut self, name: &str) -> Reply {
        match self.buckets.get_mut(name) {
            None => Reply::Refused(Refusal::BucketNotFound),
            Some(MetaBucket { state: BucketState::Deleting, .. }) => Reply::Refused(Refusal::BucketBusy),
            Some(bucket) => {
                bucket.state = BucketState::Deleting;
                Reply::Done
            }
        }
    }

    pub(crate) fn bucket_deleted(&mut self, name: &str) -> Reply {
        match self.buckets.get(name) {
            // Never begun, or taken back: its groups are not fenced.
            Some(MetaBucket { state: BucketState::Active, .. }) => Reply::Refused(Refusal::BucketBusy),
            _ => {
                self.buckets.remove(name);
                Reply::Done
            }
        }
    }

    pub(crate) fn bucket_kept(&mut self, name: &str) -> Reply {
        match self.buckets.get_mut(name) {
            Some(bucket) => {
                bucket.state = BucketState::Active;
                Reply::Done
            }
            None => Reply::Refused(Refusal::BucketNotFound),
        }
    }
}
