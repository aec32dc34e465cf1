//! Whole entries of the log, read back.

use bytes::Bytes;
use weir_storage::{EntryRef, WalReader};

use crate::message::ShardError;

/// An entry's body. Blocks where it is on disk.
pub(crate) fn body(entry: &EntryRef, reader: &WalReader) -> Result<Bytes, ShardError> {
    reader.body(entry).map_err(|error| damaged(entry.id.index, &error))
}

/// The error for an entry whose bytes are not those that were written.
pub(crate) fn damaged(index: u64, error: &dyn std::fmt::Display) -> ShardError {
    tracing::error!(index, %error, "a stored frame is damaged");
    ShardError::Corrupt(format!("entry {index}: {error}").into())
}
