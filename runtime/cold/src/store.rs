//! Where chunks are kept. A store needs to do four things, none of them conditionally.

mod claimed;
mod counted;
mod local;
mod memory;
mod moved;
mod s3;

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use claimed::ClaimedStore;
pub(crate) use counted::CountedStore;
pub use counted::StoreStats;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use moved::MovedStore;
pub use s3::{S3Location, S3Store};

/// Why a store has not done what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such object, or not so many bytes in it.
    #[error("there is no object {0}, or it is too short")]
    Missing(String),
    /// The bucket is missing.
    #[error("there is no such bucket")]
    NoBucket,
    /// It knows us and refuses, or does not know us.
    #[error("access is denied: {0}")]
    Denied(String),
    /// It does not answer, or not as it should.
    #[error("{0}")]
    Failed(String),
}

impl StoreError {
    /// What kinds there are, as metrics call them.
    pub const KINDS: [&str; 4] = ["missing", "no_bucket", "denied", "failed"];

    /// Which of [`StoreError::KINDS`] it is.
    pub(crate) fn kind(&self) -> usize {
        match self {
            StoreError::Missing(_) => 0,
            StoreError::NoBucket => 1,
            StoreError::Denied(_) => 2,
            StoreError::Failed(_) => 3,
        }
    }
}

/// Objects by flat names. Its futures run on the cold tier's own runtime.
pub trait ChunkStore: Send + Sync + 'static {
    /// Puts an object, in place of one of the same name; it is durable then.
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Reads a range of an object. What lies behind its end is left out.
    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>>;

    /// Deletes an object. One that is not there is no error.
    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The names of all objects, and their lengths in bytes.
    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>>;
}
