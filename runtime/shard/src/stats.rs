//! A shard's figures. Counted on the shard without locks; handed out as a copy when asked by mail.

use std::cell::Cell;
use std::time::Duration;

use weir_storage::WalStats;

use crate::limit::{Limit, LimitsMet};

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
    /// What the shard's lane was asked.
    pub guest_calls: u64,
    /// Time that the lane was not waiting.
    pub guest_busy: Duration,
    /// Groups of this shard that serve now.
    pub groups_serving: u16,
    /// Groups whose log has failed.
    pub groups_failed: u16,
    /// Each WAL of this shard.
    pub wals: Vec<WalStats>,
}

/// The counters behind [`ShardStats`].
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) appends: Cell<u64>,
    pub(crate) append_bytes: Cell<u64>,
    pub(crate) appends_refused: Cell<u64>,
    pub(crate) batches: Cell<u64>,
    pub(crate) reads: Cell<u64>,
    pub(crate) read_bytes: Cell<u64>,
    pub(crate) limits_met: LimitsMet,
    pub(crate) records_validated: Cell<u64>,
    pub(crate) records_rejected: Cell<u64>,
}

impl Counters {
    pub(crate) fn count_append(&self, bytes: usize) {
        add(&self.appends, 1);
        add(&self.append_bytes, bytes as u64);
    }

    pub(crate) fn count_read(&self, bytes: u64) {
        add(&self.reads, 1);
        add(&self.read_bytes, bytes);
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get() + by);
}
