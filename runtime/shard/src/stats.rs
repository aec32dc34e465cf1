//! A shard's counters, without locks.

use std::cell::Cell;

use weir_stream::Refusal;
use weir_types::Histogram;
use weir_types::limits::BATCH_COMMANDS_MAX;

use crate::message::{Limit, ShardError};

/// Upper ends of the classes that batches are counted in, by their commands.
const BATCH_ENDS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, BATCH_COMMANDS_MAX as u64];

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
    pub(crate) snapshots: Cell<u64>,
    pub(crate) snapshots_failed: Cell<u64>,
    pub(crate) snapshots_stored: Cell<u64>,
    pub(crate) snapshots_unstored: Cell<u64>,
    pub(crate) flushes: Cell<u64>,
    pub(crate) flushes_failed: Cell<u64>,
    pub(crate) flushed_bytes: Cell<u64>,
    pub(crate) merges: Cell<u64>,
    pub(crate) merged_bytes: Cell<u64>,
    pub(crate) cold_damaged: Cell<u64>,
    pub(crate) chunks_rebuilt: Cell<u64>,
    pub(crate) cold_unavailable: Cell<u64>,
    pub(crate) records_validated: Cell<u64>,
    pub(crate) records_rejected: Cell<u64>,
    /// From the arrival of an append to its acknowledgement.
    pub(crate) append_times: Histogram,
    /// From the arrival of a read to its page.
    pub(crate) read_times: Histogram,
    /// From the arrival of a question to its view.
    pub(crate) summary_times: Histogram,
    /// Commands in a batch.
    pub(crate) batch_commands: Histogram,
}

impl Counters {
    pub(crate) fn new() -> Counters {
        Counters { batch_commands: Histogram::new(&BATCH_ENDS), ..Counters::default() }
    }

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

/// How often each limit was met on a shard, in the order of [`Limit::ALL`].
#[derive(Default)]
pub(crate) struct LimitsMet([Cell<u64>; Limit::ALL.len()]);

impl LimitsMet {
    pub(crate) fn count(&self, limit: Limit) {
        add(&self.0[limit as usize], 1);
    }

    /// Counts the limit that `error` is about, if it is about one.
    pub(crate) fn count_error(&self, error: &ShardError) {
        match error {
            ShardError::Limit(limit) => self.count(*limit),
            ShardError::Refused(Refusal::ProducerLimit) => self.count(Limit::Producers),
            ShardError::Refused(Refusal::BindingLimit) => self.count(Limit::Bindings),
            _ => {}
        }
    }

    pub(crate) fn figures(&self) -> [u64; Limit::ALL.len()] {
        self.0.each_ref().map(Cell::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_counted_in_its_own_place() {
        let met = LimitsMet::default();
        met.count_error(&ShardError::Limit(Limit::Reads));
        met.count_error(&ShardError::Refused(Refusal::ProducerLimit));
        met.count_error(&ShardError::Unavailable);
        for (limit, count) in Limit::ALL.into_iter().zip(met.figures()) {
            assert_eq!(count, u64::from(matches!(limit, Limit::Reads | Limit::Producers)), "{limit:?}");
        }
    }
}
