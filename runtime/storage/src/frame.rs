//! Frames: what one call of the WAL becomes on disk.
//!
//! A frame is a header of [`FRAME_HEADER_BYTES`], a body, and zeros up to a whole block. All numbers are little endian.
//!
//! ```text
//!  0 magic "WFR" and version     16 term            40 sequence number of the unit's first frame
//!  4 crc32c of bytes 8.. + body  24 index           48 salt of the segment
//!  8 body bytes (u32)            32 sequence number
//! 12 kind, entry kind, group (u8, u8, u16)
//! ```
//!
//! The sequence number grows by one with every frame of the WAL, the segment's salt differs in each life of its file:
//! together they say whether a frame belongs where it was found.

use weir_types::GroupId;

/// Bytes of a frame before its body.
pub const FRAME_HEADER_BYTES: usize = 56;

/// The first four bytes of every frame; the last of them is the format's version.
const MAGIC: u32 = u32::from_le_bytes(*b"WFR\x02");
/// The checksum covers everything from here on.
const CHECKED_FROM: usize = 8;
const _: () = assert!(FRAME_HEADER_BYTES == 16 + 5 * 8, "the fixed fields, and five numbers");

/// What a frame does to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// Appends the entry (`index`, `term`); the body is the caller's.
    Entry = 1,
    /// Replaces the group's vote by the body.
    Vote = 2,
    /// Removes the group's entries from `index` on.
    Truncate = 3,
    /// Removes the group's entries up to (`index`, `term`).
    Purge = 4,
    /// Says what all groups had when the segment began: see [`crate::state`].
    State = 5,
}

impl FrameKind {
    fn from_u8(kind: u8) -> Option<FrameKind> {
        [FrameKind::Entry, FrameKind::Vote, FrameKind::Truncate, FrameKind::Purge, FrameKind::State]
            .into_iter()
            .find(|&known| known as u8 == kind)
    }
}

/// A frame's header without magic and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) body_bytes: u32,
    pub(crate) kind: FrameKind,
    pub(crate) entry_kind: u8,
    pub(crate) group: GroupId,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) seq: u64,
    pub(crate) unit_first_seq: u64,
    pub(crate) salt: u64,
}

impl FrameHeader {
    /// Bytes of the frame without its padding.
    pub(crate) fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.body_bytes as usize
    }

    /// Writes the header, checksum included, in front of the body that `frame` holds already. Padding may follow.
    pub(crate) fn seal(&self, frame: &mut [u8]) {
        assert!(frame.len() >= self.frame_bytes(), "the body is in the frame already");
        assert!(self.unit_first_seq <= self.seq, "a unit's first frame is its first");
        frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        frame[12] = self.kind as u8;
        frame[13] = self.entry_kind;
        frame[14..16].copy_from_slice(&self.group.0.to_le_bytes());
        let numbers = [self.term, self.index, self.seq, self.unit_first_seq, self.salt];
        for (field, number) in frame[16..FRAME_HEADER_BYTES].chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&frame[CHECKED_FROM..self.frame_bytes()]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header as far as it can be told without the body: `None` when it cannot be one. Its length is not yet to
    /// be trusted.
    pub(crate) fn parse(bytes: &[u8]) -> Option<FrameHeader> {
        let header: &[u8; FRAME_HEADER_BYTES] = bytes.first_chunk()?;
        let number = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("within the header"));
        let small = |at: usize| u32::from_le_bytes(*header[at..].first_chunk().expect("within the header"));
        if small(0) != MAGIC {
            return None;
        }
        Some(FrameHeader {
            body_bytes: small(8),
            kind: FrameKind::from_u8(header[12])?,
            entry_kind: header[13],
            group: GroupId(u16::from_le_bytes([header[14], header[15]])),
            term: number(16),
            index: number(24),
            seq: number(32),
            unit_first_seq: number(40),
            salt: number(48),
        })
    }

    /// Whether `frame`, header and body without padding, is as it was sealed.
    pub(crate) fn is_intact(frame: &[u8]) -> bool {
        frame.len() >= FRAME_HEADER_BYTES && frame[4..8] == crc32c::crc32c(&frame[CHECKED_FROM..]).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (FrameHeader, Vec<u8>) {
        let header = FrameHeader {
            body_bytes: 5,
            kind: FrameKind::Entry,
            entry_kind: 9,
            group: GroupId(513),
            term: 3,
            index: 4,
            seq: 77,
            unit_first_seq: 76,
            salt: u64::MAX,
        };
        let mut frame = vec![0; 4096];
        frame[FRAME_HEADER_BYTES..][..5].copy_from_slice(b"hello");
        header.seal(&mut frame);
        (header, frame)
    }

    #[test]
    fn a_header_reads_back_as_written() {
        let (header, frame) = sealed();
        assert_eq!(FrameHeader::parse(&frame), Some(header));
        assert!(FrameHeader::is_intact(&frame[..header.frame_bytes()]));
    }

    #[test]
    fn every_flipped_bit_of_header_and_body_is_noticed() {
        let (header, frame) = sealed();
        for bit in 0..header.frame_bytes() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let intact = FrameHeader::parse(&damaged)
                .is_some_and(|found| damaged.get(..found.frame_bytes()).is_some_and(FrameHeader::is_intact));
            assert!(!intact, "bit {bit}");
        }
    }
}
