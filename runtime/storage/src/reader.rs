//! Reading stored entries back, from any thread.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use crate::entry::{EntryBody, EntryId, EntryPlace, EntryRef};
use crate::error::WalError;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};

/// Reads [`EntryPlace`]s of a WAL. Every call blocks on the disk.
#[derive(Clone, Debug, Default)]
pub struct WalReader {
    reads: Arc<AtomicU64>,
}

impl WalReader {
    /// Reads `range` of the entry's body. The bytes are not checked: only the whole frame has a checksum, and what the
    /// caller reads a part of carries its own.
    ///
    /// # Errors
    /// Whatever the disk says. `range` must lie within the body.
    pub fn read(&self, place: &EntryPlace, range: Range<usize>) -> io::Result<Bytes> {
        assert!(range.start <= range.end && range.end <= place.body_bytes(), "a range of the body");
        let position = place.position + (FRAME_HEADER_BYTES + range.start) as u64;
        self.read_at(place, position, range.len())
    }

    /// The entry's body. Blocks where it is on disk.
    ///
    /// # Errors
    /// As [`WalReader::read_frame`].
    pub fn body(&self, entry: &EntryRef) -> Result<Bytes, WalError> {
        let frame = match &entry.body {
            EntryBody::Cached(frame, _) => frame.clone(),
            EntryBody::Stored(place) => self.read_frame(place)?,
        };
        Ok(frame.slice(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + entry.body_bytes()))
    }

    /// Reads the entry's frame, header space included, without padding, and checks that it is the entry's and whole.
    ///
    /// # Errors
    /// [`WalError::Io`] when the disk refuses, [`WalError::Corrupt`] when the bytes are not those that were written.
    pub fn read_frame(&self, place: &EntryPlace) -> Result<Bytes, WalError> {
        let file = &place.segment.name;
        let frame = self
            .read_at(place, place.position, FRAME_HEADER_BYTES + place.body_bytes())
            .map_err(|source| WalError::io(file, source))?;
        let is_expected = |header: FrameHeader| {
            header.kind == FrameKind::Entry
                && header.salt == place.segment.salt
                && header.group == place.group
                && EntryId { index: header.index, term: header.term } == place.id
                && header.body_bytes == place.body_bytes
        };
        if FrameHeader::is_intact(&frame) && FrameHeader::parse(&frame).is_some_and(is_expected) {
            Ok(frame)
        } else {
            let reason = format!("not the entry {} of group {} that was written there", place.id.index, place.group);
            Err(WalError::corrupt(file, place.position, reason))
        }
    }

    /// Reads done with this reader and its clones.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn read_at(&self, place: &EntryPlace, position: u64, bytes: usize) -> io::Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut buf = BytesMut::zeroed(bytes);
        place.segment.file.read_at(position, &mut buf)?;
        Ok(buf.freeze())
    }
}
