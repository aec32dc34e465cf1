//! Ids: small integers with a name each, so that a group is never passed where a shard is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::SLOTS;

/// One Raft group of the node or cluster. Group 0 is also the meta group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupId(pub u16);

impl GroupId {
    /// The group that also holds nodes, slots and buckets.
    pub const META: GroupId = GroupId(0);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One core of this process and all it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One write-ahead log of the node. Their number is chosen when the node is formed and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WalId(pub u16);

impl fmt::Display for WalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hash bucket of stream keys, `0..SLOTS`; a table maps slots to groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a key's hash: its low bits.
    pub fn of_hash(hash: u64) -> Slot {
        const { assert!(SLOTS.is_power_of_two() && SLOTS <= 1 << 16) };
        Slot((hash & (SLOTS as u64 - 1)) as u16)
    }

    /// The slot's number, below [`SLOTS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One life of a stream's name: drawn at random by the leader when the stream is created, never 0.
///
/// A stream that is deleted and created again has another incarnation, so that what was checked against the first
/// never touches the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub u64);
