//! One Raft group's streams as a pure state machine: a committed batch of commands goes in, one outcome each comes out.
//!
//! Time, randomness and limits arrive inside the batch, so that every replica decides the same; there is no clock, file,
//! socket or thread here. Stored bytes stay in the log: the state keeps only where they are.
//!
//! A command's road, one file per stop:
//! - [`command`], [`records`], [`pack`], [`codec`], [`batch`]: how commands are written into a log entry and read back.
//! - [`look`]: what the leader checks before it proposes; `json` splits a body into records.
//! - `apply`: applies a batch to a [`group`], one file per verb: `create`, `append`, `close`, `trim`, `delete`, `expire`; of forks,
//!   `fork/pin` and `fork/release`; of buckets, `bucket/told`; of group 0's tables, [`meta`]: `meta/bind`, `meta/upload`.
//! - [`fork`]: streams that begin with what others hold, `fork/inherit`, and what these keep for them, `fork/pins`.
//! - [`subscription`]: who is woken for which streams; of group 0's tables, `meta/subscribe`.
//! - [`bucket`], [`module`], [`binding`], [`pattern`]: what was uploaded, and to which streams it is attached. No module runs
//!   here.
//! - [`stream`], `slots`, `content_type`, [`producer`]: the state; `list` goes through it.
//! - `extents`, `hot`, `chunks`: where stored bytes are; `hotlog`: which log entries are still needed for them; `buried`: what
//!   is given back bit by bit. [`flush`](Command::Flush) moves bytes from the log to a chunk, which holds them in [parts](Part).
//! - `snapshot`, `freeze`, `head`: the whole state as bytes, piece by piece; `snapshot/recover`: the state without its log.
//! - [`reply`]: what is answered.

mod append;
mod apply;
pub mod batch;
pub mod binding;
pub mod bucket;
mod chunks;
mod close;
pub mod codec;
pub mod command;
mod content_type;
mod create;
mod delete;
mod expire;
mod extents;
mod fields;
mod flush;
pub mod fork;
mod freeze;
pub mod group;
mod head;
mod hotlog;
mod json;
mod key;
mod list;
pub mod look;
pub mod meta;
pub mod module;
pub mod pack;
mod part;
pub mod pattern;
pub mod producer;
pub mod records;
pub mod reply;
mod sink;
mod slots;
mod snapshot;
pub mod stream;
pub mod subscription;
mod trim;

pub use batch::{Batch, BatchBuilder, Frame, Limits, frame_bytes_max};
pub use binding::{BUILTIN_PREFIX, Binding, EPOCH_UNJUDGED, EncodedBindings};
pub use bucket::{BucketTold, BucketView, Retention};
pub use chunks::{Chunk, ChunkId, ChunkTotals};
pub use codec::CodecError;
pub use command::Command;
pub use extents::{Extent, Piece};
pub use fork::{ANCESTORS_MAX, Ancestor, EncodedFork, Fork, ForkPoint, NewFork, Release, Unsettled};
pub use group::{Change, Group, Outcome};
pub use key::KeyRef;
pub use look::Look;
pub use meta::{BucketState, BucketStep, EncodedFounders, Meta, MetaBucket, NodeEntry, NodeState, NodeStep, NodeTable};
pub use module::{Module, Revision, Upload};
pub use pack::{PACK_BYTES_MAX, Pack, packs};
pub use part::{EncodedParts, PARTS_MAX, Part};
pub use pattern::{Pattern, PatternError};
pub use producer::ProducerRef;
pub use records::{Records, Split};
pub use reply::{ADDRESS_BYTES_MAX, Appended, Expiry, Facts, NODES_MAX, NodeRefusal, ProducerState, Refusal, Reply};
pub use snapshot::{ForkLeft, Remainder, Thaw, join_buckets, join_forks};
pub use stream::Stream;
