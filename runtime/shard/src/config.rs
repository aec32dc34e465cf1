//! A shard's settings, and which shard owns what.

use std::time::Duration;

use weir_storage::WalConfig;
use weir_types::limits::BINDINGS_PER_BUCKET_MAX;
use weir_types::{GroupId, ShardId, Slot, WalId};

use crate::budget::PageBudget;

/// How many shards, WALs and groups this node has. WALs and groups are fixed when the node is formed; the number of
/// shards may change at a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Threads that serve.
    pub shards: u16,
    /// Logs.
    pub wals: u16,
    /// Raft groups.
    pub groups: u16,
}

impl Topology {
    /// The group that a new node's table gives a slot to.
    pub fn group_of(self, slot: Slot) -> GroupId {
        assert!(self.groups > 0, "a node has group 0");
        GroupId((slot.index() % usize::from(self.groups)) as u16)
    }

    /// The WAL that a group belongs to, for life.
    pub fn wal_of(self, group: GroupId) -> WalId {
        assert!(group.0 < self.groups, "groups are numbered from 0");
        WalId(group.0 % self.wals)
    }

    /// The shard that runs a WAL, and with it the WAL's groups.
    pub fn shard_of(self, wal: WalId) -> ShardId {
        assert!(wal.0 < self.wals, "WALs are numbered from 0");
        ShardId(wal.0 % self.shards)
    }

    /// The shard that runs a group.
    pub fn owner_of(self, group: GroupId) -> ShardId {
        self.shard_of(self.wal_of(group))
    }

    /// All groups.
    pub fn groups(self) -> impl Iterator<Item = GroupId> {
        (0..self.groups).map(GroupId)
    }
}

/// A shard's settings.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// This node's id, never 0.
    pub node_id: u64,
    /// Each WAL's settings.
    pub wal: WalConfig,
    /// Memory for the index of hot bytes on this shard; beyond it appends are refused.
    pub hot_index_bytes_max: usize,
    /// Bodies of requests under way on this shard; beyond it writes are refused.
    pub in_flight_bytes_max: usize,
    /// Events kept for subscribers that have not taken them yet, on this shard; beyond it the slowest are cut off.
    pub live_bytes_max: usize,
    /// Events kept so for subscribers of one stream.
    pub live_bytes_per_stream_max: usize,
    /// Live readers on this shard; beyond it further ones are refused.
    pub subscribers_max: usize,
    /// Bytes of pages that clients have not taken yet, of the whole node; beyond it reads are refused.
    pub pages: PageBudget,
    /// Bytes of a group's streams that may stay in the log; beyond it the oldest go to the cold tier.
    pub flush_bytes: u64,
    /// How long bytes may stay in the log.
    pub flush_age: Duration,
    /// Active producers that one stream remembers.
    pub producers_per_stream_max: u32,
    /// Bindings of one bucket, at most [`weir_types::limits::BINDINGS_PER_BUCKET_MAX`].
    pub bindings_per_bucket_max: usize,
    /// Whether a bucket comes to be with its first stream.
    pub buckets_auto_create: bool,
    /// Longest body of a request, and so of what a validator may replace it with.
    pub body_bytes_max: usize,
    /// Bytes that a fork may inherit where a validator has to judge them.
    pub fork_judged_bytes_max: usize,
    /// Folds that this shard keeps; beyond it the least recently used go, and are computed again when asked for.
    pub folds_max: usize,
    /// How long an upload waits for its compilation before it is answered.
    pub compile_wait: Duration,
    /// How long a write may wait for its outcome.
    pub write_deadline: Duration,
    /// How old the key that webhooks are signed with may become.
    pub hook_key_age: Duration,
}

impl ShardConfig {
    /// Checks what the configuration file's own checks have promised.
    pub(crate) fn assert_sound(&self) {
        assert!(self.node_id != 0, "node ids are drawn from 1 on");
        assert!(self.in_flight_bytes_max > 0 && self.hot_index_bytes_max > 0, "nothing could be written");
        assert!(self.producers_per_stream_max > 0, "a producer needs a place");
        assert!(self.bindings_per_bucket_max <= BINDINGS_PER_BUCKET_MAX, "the format's own limit is lower");
        assert!(!self.write_deadline.is_zero(), "every write would be late");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_with_their_wal_when_shards_change() {
        let at = |shards| Topology { shards, wals: 4, groups: 6 };
        for group in at(1).groups() {
            assert_eq!(at(1).wal_of(group), at(3).wal_of(group));
            assert!(at(3).owner_of(group).0 < 3);
        }
        assert_eq!(at(2).owner_of(GroupId(5)), ShardId(1));
    }
}
