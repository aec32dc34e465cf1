//! Segments: files that frames are appended to, and that are used again when nothing in them is needed.
//!
//! A segment begins with a header block; frames follow, each at a block. Its file is made ahead, under its own name and
//! with zeros where the header goes, which is part of the first unit written to it. Such a *spare* holds nothing that was
//! ever acknowledged, whatever an earlier life of the file has left in its other blocks. Numbers of segments grow by one
//! and are never used twice.

use std::sync::Arc;

use bytes::Bytes;

use crate::block::{Unsealed, seal, unseal};
use crate::disk::DiskFile;

/// The first bytes of every segment; the last of them is the format's version.
const MAGIC: [u8; 8] = *b"WEIRSEG\x02";

/// What a segment's first block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Identity of the log that the segment is part of.
    pub(crate) log_id: u64,
    pub(crate) number: u32,
    /// Random, and different in each life of a file.
    pub(crate) salt: u64,
    /// Sequence number of the segment's first frame: one more than that of the last frame before it.
    pub(crate) first_seq: u64,
    /// Size of the file: files do not grow or shrink.
    pub(crate) bytes: u64,
}

/// What a block that should be a segment's header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A header.
    Header(SegmentHeader),
    /// The header of a version that we do not know.
    OtherVersion(u8),
    /// No header, or a damaged one.
    Nothing,
}

impl SegmentHeader {
    /// The header block.
    pub(crate) fn to_block(self) -> Bytes {
        assert!(self.number > 0 && self.first_seq > 0, "segments and frames are numbered from 1");
        seal(MAGIC, [self.number.into(), self.salt, self.first_seq, self.bytes, self.log_id])
    }

    /// Reads a header block.
    pub(crate) fn parse(block: &[u8]) -> Parsed {
        match unseal(MAGIC, block) {
            Unsealed::Numbers([number, salt, first_seq, bytes, log_id]) => match number.try_into() {
                Ok(number) => Parsed::Header(SegmentHeader { log_id, number, salt, first_seq, bytes }),
                Err(_) => Parsed::Nothing,
            },
            Unsealed::OtherVersion(version) => Parsed::OtherVersion(version),
            Unsealed::Nothing => Parsed::Nothing,
        }
    }
}

/// The name of a segment.
pub(crate) fn segment_name(number: u32) -> String {
    format!("wal-{number:010}.seg")
}

/// The number in a name that [`segment_name`] made.
pub(crate) fn number_in(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("wal-")?.strip_suffix(".seg")?;
    if digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The open file of a segment in use. Whoever holds one keeps it from being recycled.
pub(crate) struct SegmentFile {
    pub(crate) name: String,
    pub(crate) salt: u64,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// A file that can become a segment.
pub(crate) struct Spare {
    /// The number of the segment that it is for.
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// A segment of the log.
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) salt: u64,
    pub(crate) bytes: u64,
    /// `None` until a spare has been taken for it.
    pub(crate) file: Option<Arc<SegmentFile>>,
    /// Entries in it that no durable frame has removed.
    pub(crate) live: u32,
}
