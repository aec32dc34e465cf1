//! Storage of one node: directories behind the [`Disk`] trait, and the write-ahead log [`Wal`] in them.
//!
//! - [`disk`]: what the WAL asks of a directory; a real one, one in memory, and one that fails on purpose.
//! - [`arena`]: buffers that a frame is encoded into once and written from as they are; `block`: what they consist of.
//! - [`wal`]: the log of several Raft groups, one durable write per drained batch. Its parts:
//!   - `frame`, `segment`, `state`, `mark`: the format on disk;
//!   - `log`, `index`: where each entry of each group lies, and which are still in memory;
//!   - `chain`: the segments, and the frames on their way to them, in one order;
//!   - `spares`, `filler`: segments made ready ahead, and what to do when there is no space for them;
//!   - `queue`, `room`: these three together, and whether there is room;
//!   - `recover`, `replay`, `window`: what a log says after a restart, and what counts as damage;
//!   - `run`, `writer`, `ring`, `durable_write`: the task that writes units, through `io_uring`, on the shard's thread, or
//!     beside it;
//!   - `reader`: reading entries back from any thread.
//! - `snapshot`: a group's state as of one entry, in a file beside its log; `carried`: entries in it that the log does not have.

pub mod arena;
mod block;
mod carried;
mod chain;
pub mod disk;
mod durable_write;
mod entry;
mod error;
mod filler;
mod frame;
mod index;
mod log;
mod mark;
mod queue;
mod reader;
mod recover;
mod replay;
mod ring;
mod room;
mod run;
mod segment;
mod snapshot;
mod spares;
mod state;
mod stats;
pub mod wal;
mod window;
mod writer;

pub use arena::Arena;
pub use block::BLOCK_BYTES;
pub use carried::Carried;
pub use disk::faulty::{DurableWrite, FaultyDisk, Reads};
pub use disk::memory::MemoryDisk;
pub use disk::real::RealDisk;
pub use disk::{Disk, DiskFile, NewFile};
pub use entry::{Claim, Done, EntryBody, EntryId, EntryPlace, EntryRef, FullCause, Room, Salts, WalConfig, WriteMode};
pub use error::WalError;
pub use frame::FRAME_HEADER_BYTES;
pub use mark::MARK_BYTES;
pub use reader::WalReader;
pub use room::Ticket;
pub use snapshot::{SECTION_BYTES_MAX, SnapshotReader, SnapshotWriter, Snapshots};
pub use stats::WalStats;
pub use wal::Wal;
