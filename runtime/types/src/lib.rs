//! The words every crate shares: ids, stream names, offsets and limits. No I/O, no clock, no allocation beyond names.
//!
//! - [`ids`]: which group, shard, slot, and which life of a name.
//! - [`key`]: a stream's address, `{bucket}/{name}`, checked once and hashed once.
//! - [`offset`]: positions in a stream and the tokens that clients see.
//! - [`module`]: what modules and bindings are called, and what a module can be.
//! - [`counts`]: what one thread counts and every thread may look at.
//! - [`shared`]: what several share, as serde writes it.
//! - [`wakeup`]: how one task of a thread tells another that there is work.
//! - [`bugs`]: what a build for tests has on purpose, and no other.
//! - [`limits`]: sizes that are part of the protocol or of a format, and therefore constants.

pub mod bugs;
pub mod counts;
pub mod ids;
pub mod key;
pub mod limits;
pub mod module;
pub mod offset;
pub mod shared;
pub mod wakeup;

pub use counts::{Counter, Distribution, Histogram};
pub use ids::{GroupId, Incarnation, ShardId, Slot, WalId};
pub use key::{BucketName, KeyError, StreamKey, cut_at_slash};
pub use module::{Digest, DigestError, ModuleName, ModuleNameError, Role};
pub use offset::{Lineage, Lineages, Offset, OffsetError, ReadFrom};
pub use wakeup::Wakeup;
