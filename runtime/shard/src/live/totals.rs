//! What all live readers of a shard take together.

use std::cell::Cell;

use tokio::time::Instant;
use weir_types::{Distribution, Histogram};

/// Figures of one shard's feeds, and their limits.
pub(crate) struct Totals {
    bytes: Cell<usize>,
    bytes_max: usize,
    /// Bytes of one feed's events; those of the last advance are kept even if they are more.
    bytes_per_feed_max: usize,
    readers: Cell<usize>,
    /// From the apply of new bytes until the last of their readers has taken them.
    delivery_times: Histogram,
}

impl Totals {
    pub(crate) fn new(bytes_max: usize, bytes_per_feed_max: usize) -> Totals {
        Totals {
            bytes: Cell::new(0),
            bytes_max,
            bytes_per_feed_max,
            readers: Cell::new(0),
            delivery_times: Histogram::default(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    pub(crate) fn readers(&self) -> usize {
        self.readers.get()
    }

    pub(crate) fn add_reader(&self) {
        self.readers.set(self.readers.get() + 1);
    }

    pub(crate) fn sub_reader(&self) {
        self.readers.set(self.readers.get() - 1);
    }

    pub(crate) fn add_bytes(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    pub(crate) fn sub_bytes(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
    }

    /// Counts an event that was applied `at`, and that its last reader has taken now.
    pub(crate) fn count_delivery(&self, at: Instant) {
        self.delivery_times.count_time(at.elapsed());
    }

    pub(crate) fn delivery_times(&self) -> Distribution {
        self.delivery_times.distribution()
    }

    /// Whether a feed with `feed_bytes`, or all feeds together, have more than they may.
    pub(crate) fn is_over(&self, feed_bytes: usize) -> bool {
        feed_bytes > self.bytes_per_feed_max || self.bytes.get() > self.bytes_max
    }
}
