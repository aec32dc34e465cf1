//! A shard's figures, as a copy.

use std::time::Duration;

use weir_raft::{Role, Standing};
use weir_storage::WalStats;
use weir_types::{Distribution, GroupId};

use crate::message::limit::Limit;

/// A shard's figures at one moment. Counters count from the shard's start.
#[derive(Clone, Debug, Default)]
pub struct ShardStats {
    /// Appends that were acknowledged.
    pub appends: u64,
    /// Bytes of their bodies.
    pub append_bytes: u64,
    /// Appends that were answered with an error.
    pub appends_refused: u64,
    /// Log entries that carried commands.
    pub batches: u64,
    /// Pages read.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// How often each limit was met, in the order of [`Limit::ALL`].
    pub limits_met: [u64; Limit::ALL.len()],
    /// Live readers now.
    pub subscribers: u64,
    /// Bytes kept for live readers now.
    pub live_bytes: u64,
    /// Memory of writes under way now, in bytes.
    pub in_flight_bytes: u64,
    /// Streams now.
    pub streams: u64,
    /// Memory of the index of hot bytes now: streams' extents and log entries.
    pub hot_index_bytes: u64,
    /// Snapshots of groups that were taken.
    pub snapshots: u64,
    /// Snapshots that the disk has refused.
    pub snapshots_failed: u64,
    /// Snapshots that were put into the store.
    pub snapshots_stored: u64,
    /// Times that one could not be put there, or older ones not be deleted. They are tried again.
    pub snapshots_unstored: u64,
    /// Chunks that were put into the cold tier and are read from there.
    pub flushes: u64,
    /// Times that bytes could not be moved to the cold tier. They are tried again.
    pub flushes_failed: u64,
    /// Bytes of these chunks.
    pub flushed_bytes: u64,
    /// Chunks that were made of others.
    pub merges: u64,
    /// Bytes of these chunks.
    pub merged_bytes: u64,
    /// For how long the oldest bytes in a log have been the next ones to go to the cold tier.
    pub flush_wait: Duration,
    /// Reads that met damaged bytes in the cold tier.
    pub cold_damaged: u64,
    /// Chunks that were damaged or missing, and built again.
    pub chunks_rebuilt: u64,
    /// Reads that the cold tier did not answer.
    pub cold_unavailable: u64,
    /// Chunks that streams name now.
    pub chunks: u64,
    /// Bytes of these chunks.
    pub chunk_bytes: u64,
    /// Stored bytes in them that streams name.
    pub cold_bytes: u64,
    /// Bytes of streams that are in the log now.
    pub hot_bytes: u64,
    /// Records that validators have let through, as they came or replaced.
    pub records_validated: u64,
    /// Writes that a validator has refused.
    pub records_rejected: u64,
    /// Instances of modules that were ended, or gave an answer that does not fit.
    pub module_traps: u64,
    /// Instances that are warm now.
    pub guest_instances: u64,
    /// Folds that are warm now.
    pub guest_folds: u64,
    /// Memory of instances and of kept snapshots now, in bytes.
    pub guest_bytes: u64,
    /// How often a validator was moved out of the way of others because it took too long.
    pub guest_demotions: u64,
    /// How often a module was suspended because it had failed again and again.
    pub guest_suspensions: u64,
    /// What the shard's lane was asked.
    pub guest_calls: u64,
    /// Time that the lane was not waiting.
    pub guest_busy: Duration,
    /// Groups of this shard that serve now.
    pub groups_serving: u16,
    /// Groups whose log has failed.
    pub groups_failed: u16,
    /// What this node is to each of its groups.
    pub roles: Vec<(GroupId, Role)>,
    /// How each of its groups stands.
    pub groups: Vec<(GroupId, Standing)>,
    /// From the arrival of an append on its stream's shard to its acknowledgement, in nanoseconds.
    pub append_times: Distribution,
    /// From the arrival of a read on its stream's shard to its page, in nanoseconds.
    pub read_times: Distribution,
    /// From the arrival of a question to a fold on its stream's shard to its view, in nanoseconds.
    pub summary_times: Distribution,
    /// Commands in each batch.
    pub batch_commands: Distribution,
    /// From the apply of new bytes until the last live reader on this shard has taken them, in nanoseconds.
    pub delivery_times: Distribution,
    /// How long calls into modules took that have little time, in nanoseconds.
    pub guest_front_times: Distribution,
    /// How long all others took.
    pub guest_back_times: Distribution,
    /// Each WAL of this shard.
    pub wals: Vec<WalStats>,
}
