//! Whole entries of the log, read back.

use bytes::Bytes;
use weir_storage::{EntryBody, EntryRef, FRAME_HEADER_BYTES, WalReader};

use crate::message::ShardError;

/// The size of an entry's body.
pub(crate) fn body_bytes(entry: &EntryRef) -> usize {
    match &entry.body {
        EntryBody::Cached(_, body_bytes) => *body_bytes,
        EntryBody::Stored(place) => place.body_bytes(),
    }
}

/// An entry's body. Blocks where it is on disk.
pub(crate) fn body(entry: &EntryRef, reader: &WalReader) -> Result<Bytes, ShardError> {
    match &entry.body {
        EntryBody::Cached(frame, body_bytes) => Ok(frame.slice(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body_bytes)),
        EntryBody::Stored(place) => {
            let frame = reader.read_frame(place).map_err(|error| damaged(entry.id.index, &error))?;
            Ok(frame.slice(FRAME_HEADER_BYTES..))
        }
    }
}

/// The error for an entry whose bytes are not those that were written.
pub(crate) fn damaged(index: u64, error: &dyn std::fmt::Display) -> ShardError {
    tracing::error!(index, %error, "a stored frame is damaged");
    ShardError::Corrupt(format!("entry {index}: {error}").into())
}
