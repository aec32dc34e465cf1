//! Limits that belong to the protocol or to a format. What an operator may choose is in the configuration instead.

/// The format level that this version knows: raised with each new kind of command, of mail between nodes or of page in a snapshot. A
/// cluster is at the lowest level of its nodes, and nobody writes what is above it; so nodes can be replaced by newer ones one by one.
pub const FORMAT_LEVEL: u16 = 1;

/// Hash buckets that stream keys fall into. Part of the data format: it never changes.
pub const SLOTS: usize = 4096;

/// Longest name of a bucket, module or binding, in bytes.
pub const WORD_BYTES_MAX: usize = 64;

/// Longest stream name (all its segments with their slashes), in bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// Longest `Content-Type` of a stream, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// Longest `Producer-Id` and `Stream-Seq`, in bytes each.
pub const PRODUCER_ID_BYTES_MAX: usize = 255;

/// Largest `Producer-Epoch` and `Producer-Seq`: what JavaScript holds exactly.
pub const PRODUCER_NUMBER_MAX: u64 = (1 << 53) - 1;

/// How deep a JSON body may be nested, or the array that a single value becomes: what common parsers take, for a page is one
/// array.
pub const JSON_DEPTH_MAX: usize = 128;

/// Bytes of one page of a catch-up read; a page is longer only when its one record is.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// Commands in one batch (one log entry).
pub const BATCH_COMMANDS_MAX: usize = 512;

/// Bytes after which a batch takes no further command; one command may be larger than that.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// The largest body that can be configured: a command must fit a WAL segment and a frame length.
pub const BODY_BYTES_CEILING: usize = 48 << 20;

/// Modules of one bucket.
pub const MODULES_PER_BUCKET_MAX: usize = 64;

/// Uploads of one module that stay for going back, besides those that a binding uses.
pub const REVISIONS_KEPT: usize = 4;

/// Bindings of one bucket.
pub const BINDINGS_PER_BUCKET_MAX: usize = 32;

/// Longest pattern of a binding, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// Bytes of the configurations of all bindings of one bucket: they travel to every group in one command.
pub const BINDING_CONFIGS_BYTES_MAX: usize = 512 << 10;

/// Subscriptions of one bucket.
pub const SUBSCRIPTIONS_PER_BUCKET_MAX: usize = 256;

/// Streams that one subscription names one by one.
pub const SUBSCRIPTION_STREAMS_MAX: usize = 1024;

/// Bytes of the patterns and names in all subscriptions of one bucket: they travel to every group in one command.
pub const SUBSCRIPTIONS_BYTES_MAX: usize = 512 << 10;

/// Segments and bytes that matching all patterns of one bucket's subscriptions may compare at most, for one name: apply does that for a
/// stream's first record after a change of them.
pub const SUBSCRIPTIONS_STEPS_MAX: usize = 16 << 10;

/// Longest id of a subscription, in bytes.
pub const SUBSCRIPTION_ID_BYTES_MAX: usize = 128;

/// Longest address that a subscription names, in bytes: that of its webhook, or that of the server as its client calls it.
pub const SUBSCRIPTION_URL_BYTES_MAX: usize = 2048;

/// Longest description of a subscription, and longest name of a worker, in bytes.
pub const SUBSCRIPTION_TEXT_BYTES_MAX: usize = 1024;

/// How short and how long a lease may be, in milliseconds.
pub const LEASE_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;

/// Streams that one wake names. Where more have something new, they are named by the next.
pub const WAKE_STREAMS_MAX: usize = 1024;
