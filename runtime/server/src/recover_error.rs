//! Why a node cannot be built out of what is in a store.

use std::io;
use std::path::PathBuf;

use weir_cold::{Flaw, StoreError};
use weir_storage::WalError;
use weir_types::GroupId;

/// Why there is no new node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    /// The store is none that is known.
    #[error(
        "{0:?} is no place that a node can be built from: it is s3://bucket/prefix, or for restore also file:///folder"
    )]
    Place(String),
    /// The directory has something in it.
    #[error("the data directory {} is not empty ({found}): a new node begins in a new one", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of its files.
        found: String,
    },
    /// It is another node's.
    #[error(
        "{from} belongs to the node {owner}. Stop that node for good, for two would delete each other's chunks; \
         then say --take-over"
    )]
    Owned {
        /// The store.
        from: String,
        /// The node.
        owner: String,
    },
    /// It has none.
    #[error("there is no snapshot of a node in {0} that is whole")]
    NoSnapshot(String),
    /// It cannot be read or written.
    #[error("{from} cannot be used")]
    Store {
        /// The store.
        from: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// A snapshot makes no sense.
    #[error("the snapshot of group {group} cannot be read")]
    Snapshot {
        /// Its group.
        group: GroupId,
        /// Why.
        #[source]
        source: WalError,
    },
    /// A chunk that a snapshot names is not as it was written.
    #[error("the chunk {chunk} cannot be copied: {flaw}")]
    Chunk {
        /// The object.
        chunk: String,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// The new node's log cannot be written.
    #[error("the log of the new node cannot be written")]
    Log(#[source] io::Error),
}
