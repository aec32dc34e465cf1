//! Segments: files that frames are appended to, and that are used again when nothing in them is needed.
//!
//! A segment begins with a header block; frames follow, each at a block. Its file is made ahead, full of zeros, as
//! `spare-<n>.seg`; it becomes `wal-<number>.seg` just before its first unit is written, and the header is part of that
//! unit. A file of that name whose header is not its own therefore holds nothing that was ever acknowledged, whatever
//! its life before has left in it. Numbers of segments grow by one and are never used twice.

use std::sync::Arc;

use bytes::Bytes;

use crate::BLOCK_BYTES;
use crate::arena::block_buf;
use crate::disk::DiskFile;

/// The first bytes of every segment; the last of them is the format's version.
const MAGIC: [u8; 8] = *b"WEIRSEG\x01";
/// Bytes of the header that its checksum, the four after them, covers.
const CHECKED_BYTES: usize = 40;

/// What a segment's first block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
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
        let mut block = block_buf(BLOCK_BYTES);
        block.extend_from_slice(&MAGIC);
        block.extend_from_slice(&u64::from(self.number).to_le_bytes());
        block.extend_from_slice(&self.salt.to_le_bytes());
        block.extend_from_slice(&self.first_seq.to_le_bytes());
        block.extend_from_slice(&self.bytes.to_le_bytes());
        let crc = crc32c::crc32c(&block[..CHECKED_BYTES]);
        block.extend_from_slice(&crc.to_le_bytes());
        block.resize(BLOCK_BYTES, 0);
        block.freeze()
    }

    /// Reads a header block.
    pub(crate) fn parse(block: &[u8]) -> Parsed {
        assert_eq!(block.len(), BLOCK_BYTES, "a header is a block");
        let field = |at: usize| u64::from_le_bytes(*block[at..].first_chunk().expect("within the block"));
        let crc = crc32c::crc32c(&block[..CHECKED_BYTES]).to_le_bytes();
        if block[..7] != MAGIC[..7] || block[CHECKED_BYTES..CHECKED_BYTES + 4] != crc {
            return Parsed::Nothing;
        }
        if block[7] != MAGIC[7] {
            return Parsed::OtherVersion(block[7]);
        }
        match u32::try_from(field(8)) {
            Ok(number) => {
                Parsed::Header(SegmentHeader { number, salt: field(16), first_seq: field(24), bytes: field(32) })
            }
            Err(_) => Parsed::Nothing,
        }
    }
}

/// The name of a segment in use.
pub(crate) fn segment_name(number: u32) -> String {
    format!("wal-{number:010}.seg")
}

/// The name of a spare.
pub(crate) fn spare_name(number: u32) -> String {
    format!("spare-{number:010}.seg")
}

/// The number in a name that [`segment_name`] (`wal-`) or [`spare_name`] (`spare-`) made.
pub(crate) fn number_in(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".seg")?;
    if digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The open file of a segment in use. Whoever holds one keeps it from being recycled.
pub(crate) struct SegmentFile {
    pub(crate) name: String,
    pub(crate) salt: u64,
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
