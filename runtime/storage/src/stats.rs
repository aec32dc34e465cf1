//! Figures of one WAL since it was opened.

use std::time::Duration;

use weir_types::Distribution;

/// Counters and gauges of one WAL, for metrics.
#[derive(Clone, Debug, Default)]
pub struct WalStats {
    /// Units written.
    pub units: u64,
    /// Frames in them.
    pub frames: u64,
    /// Bytes in them, headers and padding included.
    pub bytes: u64,
    /// Durable writes asked of the disk: one per unit, and now and then one for the log's mark.
    pub durable_writes: u64,
    /// Frames whose bytes had to be copied because their buffer was shared, had grown, or was far too large.
    pub copies: u64,
    /// How long a durable write takes, recent ones weighing more; zero before the first.
    pub write_latency: Duration,
    /// How long the durable writes of units took, in nanoseconds; as the shard's thread saw it.
    pub write_times: Distribution,
    /// Whether writes go to a thread of their own at the moment.
    pub threaded: bool,
    /// Whether writes go through `io_uring`.
    pub io_uring: bool,
    /// Segments in use.
    pub segments: usize,
    /// Segments that are ready, the reserve among them.
    pub spares: usize,
    /// Bytes of the log: full segments, and what is written of the last.
    pub used_bytes: u64,
    /// Bytes that the log may have: whole segments of its budget, without the reserve.
    pub used_bytes_max: u64,
    /// Bytes that all segments take on disk, spares included.
    pub file_bytes: u64,
    /// Bytes of entries in memory.
    pub cache_bytes: usize,
    /// Memory of the entry index, in bytes.
    pub index_bytes: usize,
    /// Reads of stored entries.
    pub reads: u64,
}
