//! Whether an object is what was written: all of it is read, a bounded piece at a time.

use std::cmp::Ordering;

use bytes::{Bytes, BytesMut};

use crate::store::{ChunkStore, StoreError};

/// What is read at once, in bytes.
const READ_BYTES: u64 = 4 << 20;

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// There is none.
    #[error("it is missing")]
    Missing,
    /// It ends too early.
    #[error("it has {found} bytes, and {written} were written")]
    Short {
        /// Its length.
        found: u64,
        /// What it should be.
        written: u64,
    },
    /// It goes on behind its end.
    #[error("it has more than the {written} bytes that were written")]
    Long {
        /// What its length should be.
        written: u64,
    },
    /// It has other bytes.
    #[error("its bytes are not those that were written: their checksum is {found:08x}, and not {written:08x}")]
    Changed {
        /// CRC32C of its bytes.
        found: u32,
        /// What it should be.
        written: u32,
    },
}

impl Flaw {
    /// What is wrong with these bytes, if so many `bytes` with this CRC32C were written.
    pub(crate) fn of(found: &[u8], bytes: u64, crc: u32) -> Option<Flaw> {
        let (len, found) = (found.len() as u64, crc32c::crc32c(found));
        match len.cmp(&bytes) {
            Ordering::Less => Some(Flaw::Short { found: len, written: bytes }),
            Ordering::Greater => Some(Flaw::Long { written: bytes }),
            Ordering::Equal => (found != crc).then_some(Flaw::Changed { found, written: crc }),
        }
    }
}

/// The `bytes` that were written of an object with this CRC32C, or what is wrong with them. What is behind them is left out.
///
/// # Errors
/// The store does not answer, or refuses.
pub async fn read_written(
    store: &dyn ChunkStore,
    object: &str,
    bytes: u64,
    crc: u32,
) -> Result<Result<Bytes, Flaw>, StoreError> {
    let mut written = BytesMut::with_capacity(bytes as usize);
    while (written.len() as u64) < bytes {
        let begin = written.len() as u64;
        match store.get(object, begin..bytes.min(begin + READ_BYTES)).await {
            Err(StoreError::Missing(_)) if begin == 0 => return Ok(Err(Flaw::Missing)),
            Err(StoreError::Missing(_)) => break,
            read => match read? {
                read if read.is_empty() => break,
                read => written.extend_from_slice(&read),
            },
        }
    }
    let written = written.freeze();
    Ok(Flaw::of(&written, bytes, crc).map_or(Ok(written), Err))
}

/// Reads all of an object that was written with so many `bytes` and this CRC32C; says what is wrong with it, if anything is.
///
/// # Errors
/// The store does not answer, or refuses.
pub async fn verify(store: &dyn ChunkStore, object: &str, bytes: u64, crc: u32) -> Result<Option<Flaw>, StoreError> {
    let (mut begin, mut found) = (0, 0);
    loop {
        let upto = bytes.min(begin + READ_BYTES);
        // One more behind the end: there must be none.
        let end = if upto == bytes { bytes + 1 } else { upto };
        let read = match store.get(object, begin..end).await {
            Err(StoreError::Missing(_)) if begin == 0 => return Ok(Some(Flaw::Missing)),
            Err(StoreError::Missing(_)) => return Ok(Some(Flaw::Short { found: begin, written: bytes })),
            read => read?,
        };
        let read_end = begin + read.len() as u64;
        if read_end < upto {
            return Ok(Some(Flaw::Short { found: read_end, written: bytes }));
        }
        if read_end > bytes {
            return Ok(Some(Flaw::Long { written: bytes }));
        }
        found = crc32c::crc32c_append(found, &read);
        if upto == bytes {
            return Ok((found != crc).then_some(Flaw::Changed { found, written: crc }));
        }
        begin = upto;
    }
}
