//! What a shard tells of its chunks while it verifies them.

use weir_types::GroupId;

/// One thing to tell of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckNews {
    /// So much is to be verified on this shard.
    Begun {
        /// Chunks.
        chunks: u64,
        /// Their size.
        bytes: u64,
    },
    /// A chunk is what was written, or is not named any more.
    Whole {
        /// Its size.
        bytes: u64,
    },
    /// A chunk is not what was written.
    Damaged(DamagedChunk),
    /// A chunk was not what was written, and is again.
    Repaired(DamagedChunk),
    /// A chunk could not be read: nobody knows whether it is what was written.
    Unread {
        /// The object.
        chunk: String,
        /// Its size.
        bytes: u64,
        /// What the store has said.
        reason: String,
    },
    /// A group is led by another node, and nothing of it was looked at, or not all.
    Elsewhere(GroupId),
    /// The shard has looked at all.
    Ended,
}

/// A chunk that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedChunk {
    /// Its group.
    pub group: GroupId,
    /// The object.
    pub chunk: String,
    /// Its size as it was written.
    pub bytes: u64,
    /// What is wrong.
    pub reason: String,
    /// Streams that have bytes in it.
    pub streams: u64,
    /// Bytes of streams that are in it.
    pub stream_bytes: u64,
    /// Why it is damaged still, if it was to be repaired.
    pub unrepaired: Option<String>,
}
