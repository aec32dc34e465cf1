//! The cold tier: bytes of streams in immutable objects, outside of the log.
//!
//! - [`chunk`]: the format of an object, which holds packs of many streams of one group.
//! - [`store`]: where objects are kept: a directory, memory. Nothing relies on more than put, get, list and delete.
//! - [`cold`]: [`Cold`], what a shard holds: it puts chunks, and reads packs through a cache, on a runtime beside the shards.
//!
//! What a pack is, the crate does not know: bytes with a length, which their reader checks.

pub mod chunk;
mod cold;
mod error;
mod index;
mod name;
pub mod store;

pub use chunk::ChunkBuilder;
pub use cold::{Cold, ColdPacks, PartRef};
pub use error::ColdError;
pub use index::{PackAt, PackIn};
pub use name::ChunkName;
pub use store::{ChunkStore, LocalStore, MemoryStore, StoreError};
