//! Parts: which bytes of which streams a chunk holds.

use std::ops::Range;

use bytes::BufMut;
use weir_types::Incarnation;

use crate::codec::{CodecError, Reader};
use crate::key::KeyRef;
use crate::sink::Sink;

/// Parts that one chunk may have: so a flush is applied in a few milliseconds.
pub const PARTS_MAX: usize = 4096;

/// Bytes of one stream that are in a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The stream.
    pub key: KeyRef<'a>,
    /// Its life.
    pub incarnation: Incarnation,
    /// The positions of the bytes, not empty.
    pub range: Range<u64>,
    /// Where in the chunk, as its maker understands it.
    pub at: u32,
}

/// Parts as bytes in a command: `[count u32]`, then each with its fields.
#[derive(Clone, Copy)]
pub struct EncodedParts<'a>(&'a [u8]);

impl std::fmt::Debug for EncodedParts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncodedParts({} bytes)", self.0.len())
    }
}

impl<'a> Part<'a> {
    /// Writes at most [`PARTS_MAX`] parts for [`EncodedParts::of`].
    pub fn encode(parts: &[Part<'_>]) -> Vec<u8> {
        assert!(parts.len() <= PARTS_MAX, "a chunk is closed before");
        let mut buf = Vec::new();
        buf.put_u32_le(parts.len() as u32);
        for Part { key, incarnation, range, at } in parts {
            assert!(range.start < range.end, "a part has bytes");
            buf.long(key.as_str());
            buf.u64(incarnation.0);
            buf.varint(range.start);
            buf.varint(range.end - range.start);
            buf.varint(u64::from(*at));
        }
        buf
    }

    fn read(reader: &mut Reader<'a>) -> Result<Part<'a>, CodecError> {
        const WHAT: &str = "part";
        let (key, incarnation) = (KeyRef::read(reader)?, Incarnation(reader.u64(WHAT)?));
        let start = reader.varint(WHAT)?;
        let bytes = reader.varint(WHAT)?;
        let end = start.checked_add(bytes).filter(|_| bytes > 0).ok_or(CodecError::Field(WHAT))?;
        Ok(Part { key, incarnation, range: start..end, at: reader.varint_u32(WHAT)? })
    }
}

impl<'a> EncodedParts<'a> {
    /// What [`Part::encode`] has written.
    pub fn of(encoded: &'a [u8]) -> EncodedParts<'a> {
        EncodedParts(encoded)
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Takes everything that is left of a command, and checks it.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<EncodedParts<'a>, CodecError> {
        let rest = reader.rest();
        let encoded = EncodedParts(reader.take(rest.len(), "parts")?);
        let mut reader = Reader::new(rest);
        let count = reader.u32("parts")?;
        if count as usize > PARTS_MAX {
            return Err(CodecError::Field("parts"));
        }
        for _ in 0..count {
            Part::read(&mut reader)?;
        }
        reader.finish()?;
        Ok(encoded)
    }

    /// The parts. They were checked when they were encoded, or when their command was read.
    pub fn decode(self) -> impl Iterator<Item = Part<'a>> {
        const CHECKED: &str = "parts are checked when their command is read";
        let mut reader = Reader::new(self.0);
        let count = reader.u32("parts").expect(CHECKED);
        (0..count).map(move |_| Part::read(&mut reader).expect(CHECKED))
    }
}
