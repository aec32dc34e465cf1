//! Storage of one node: directories behind the [`Disk`] trait, and the write-ahead log [`Wal`] in them.
//!
//! - [`disk`]: what the WAL asks of a directory; a real one, one in memory, and one that fails on purpose.
//! - [`arena`]: buffers that a frame is encoded into once and written from as they are.
//! - [`wal`]: the log of several Raft groups, one durable write per drained batch. Its parts:
//!   - `frame`, `segment`, `state`: the format on disk;
//!   - `log`: where each entry of a group lies, and which are still in memory;
//!   - `queue`: the frames on their way to disk, in one order;
//!   - `recover`: what a log says after a restart, and what counts as damage;
//!   - `spares`: segments made ready ahead, and what to do when there is no space for them;
//!   - `writer`: the task that writes units, on the shard's thread or beside it;
//!   - `reader`: reading entries back from any thread.

pub mod arena;
pub mod disk;
mod entry;
mod error;
mod frame;
mod log;
mod queue;
mod reader;
mod recover;
mod segment;
mod signal;
mod spares;
mod state;
mod stats;
pub mod wal;
mod writer;

pub use arena::Arena;
pub use disk::{Disk, DiskFile, FaultyDisk, MemoryDisk, RealDisk};
pub use entry::{Done, EntryBody, EntryId, EntryRef, FullCause, Room, Salts, WalConfig, WriteMode};
pub use error::WalError;
pub use frame::FRAME_HEADER_BYTES;
pub use reader::{Place, WalReader};
pub use stats::WalStats;
pub use wal::Wal;

/// The unit of placement: positions, addresses and lengths of durable writes are multiples of this many bytes.
pub const BLOCK_BYTES: usize = 4096;
