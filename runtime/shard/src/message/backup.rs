//! What a shard tells of a backup that it makes.

use weir_types::GroupId;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupNews {
    /// The state of a group is written down; so much belongs to it.
    Begun {
        /// Chunks.
        chunks: u64,
        /// Their size.
        bytes: u64,
    },
    /// A chunk is in the backup.
    Chunk {
        /// Its size.
        bytes: u64,
        /// Whether it was there before.
        was_there: bool,
    },
    /// A group is led by another node, and is not in this backup.
    Elsewhere {
        /// The group.
        group: GroupId,
        /// Whether an earlier backup of it is in the same place.
        is_there: bool,
    },
    /// The backup cannot be made, for this reason.
    Failed(String),
    /// All groups that the shard leads are in the backup.
    Ended,
}
