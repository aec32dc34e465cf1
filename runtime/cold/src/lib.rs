//! The cold tier: bytes of streams in immutable objects, outside of the log.
//!
//! - [`chunk`]: the format of an object, which holds packs of many streams of one group.
//! - [`store`]: where objects are kept: a directory, an S3 bucket, memory. Nothing relies on more than put, get, list and delete.
//! - [`cold`]: [`Cold`], what a shard holds: it puts chunks, and reads packs through a cache, on a runtime beside the shards.
//! - [`backup`]: chunks and snapshots in another store.
//! - [`stored`]: snapshots, beside the chunks that they name.
//! - [`Stretches`]: work that gives way to others. [`claim`]: whose a store is. [`verify`]: whether an object is what was written.
//!
//! What a pack is, the crate does not know: bytes with a length, and a reader that can say whether they are what was written.

mod backup;
pub mod chunk;
pub mod claim;
mod cold;
mod error;
mod index;
mod name;
pub mod store;
mod stored;
mod stretches;
mod verify;

pub use backup::{BackupError, begin_backup};
pub use chunk::ChunkBuilder;
pub use cold::{Cold, ColdPacks, ColdStats, PartRef, ReadMax};
pub use error::ColdError;
pub use index::{PackAt, PackIn};
pub use name::ChunkName;
pub use store::{
    ChunkStore, ClaimedStore, LocalStore, MemoryStore, MovedStore, S3Location, S3Store, StoreError, StoreStats,
};
pub use stored::{Manifest, PIECE_BYTES_MAX, SnapshotName, SnapshotPiece, Survey, survey};
pub use stretches::Stretches;
pub use verify::{Flaw, read_written, verify};
