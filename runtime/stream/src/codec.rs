//! The primitives of our own binary format: little-endian numbers, short texts, and a reader that trusts nothing.
//!
//! Reading never panics and never allocates: every length is checked against the bytes that are there, and texts and
//! payloads are borrowed from them.

use weir_types::Digest;
use weir_types::limits::FORMAT_LEVEL;

/// Why bytes are no batch or command that this or an earlier version wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The batch was written by a later version.
    #[error("batch version {0} is not known")]
    Version(u8),
    /// The bytes end too early.
    #[error("the bytes end inside {0}")]
    Truncated(&'static str),
    /// Bytes follow where nothing should.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// The bytes of a command are not those that were written.
    #[error("a command's checksum does not match")]
    Checksum,
    /// The command was written by a later version.
    #[error("command kind {0} is not known")]
    Kind(u8),
    /// All nodes had a later version when it was written.
    #[error("format level {0} is not known: this is of a cluster that has gone on with a later version")]
    Level(u16),
    /// A field holds what no encoder writes.
    #[error("{0} is malformed")]
    Field(&'static str),
}

/// Takes fields off the front of borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything not yet taken.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, bytes: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        self.array(what).map(u8::from_le_bytes)
    }

    /// A format level that this version knows.
    pub(crate) fn level(&mut self) -> Result<u16, CodecError> {
        match self.u16("format level")? {
            level @ 0..=FORMAT_LEVEL => Ok(level),
            level => Err(CodecError::Level(level)),
        }
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number as [`Sink::varint`](crate::sink::Sink::varint) writes it.
    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.u8(what)?;
            if shift == 63 && byte > 1 {
                return Err(CodecError::Field(what));
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
            shift += 7;
        }
    }

    /// A number that something has counted to, or a time: far below what would overflow soon.
    pub(crate) fn count(&mut self, what: &'static str) -> Result<u64, CodecError> {
        self.u64(what).and_then(|number| counted(number, what))
    }

    /// How many follow, at most `max`: nothing is made room for before it is there.
    pub(crate) fn up_to(&mut self, max: usize, what: &'static str) -> Result<usize, CodecError> {
        usize::try_from(self.varint(what)?).ok().filter(|count| *count <= max).ok_or(CodecError::Field(what))
    }

    /// A number of 32 bits, written like any other.
    pub(crate) fn varint_u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        u32::try_from(self.varint(what)?).map_err(|_| CodecError::Field(what))
    }

    /// Bytes that [`Sink::blob`](crate::sink::Sink::blob) wrote.
    pub(crate) fn blob(&mut self, what: &'static str) -> Result<&'a [u8], CodecError> {
        let bytes = usize::try_from(self.varint(what)?).map_err(|_| CodecError::Field(what))?;
        self.take(bytes, what)
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, CodecError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Field(what)),
        }
    }

    pub(crate) fn digest(&mut self, what: &'static str) -> Result<Digest, CodecError> {
        self.array(what).map(Digest)
    }

    /// A text of at most 255 bytes, as [`Sink::short`](crate::sink::Sink::short) writes it.
    pub(crate) fn short(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        let bytes = usize::from(self.u8(what)?);
        text(self.take(bytes, what)?, what)
    }

    /// A text of at most 65,535 bytes, as [`Sink::long`](crate::sink::Sink::long) writes it.
    pub(crate) fn long(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        let bytes = usize::from(self.u16(what)?);
        text(self.take(bytes, what)?, what)
    }

    /// Nothing is left.
    pub(crate) fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.rest.len())) }
    }
}

/// A number that something has counted to. Nobody counts to 2^63.
pub(crate) fn counted(number: u64, what: &'static str) -> Result<u64, CodecError> {
    if number <= i64::MAX as u64 { Ok(number) } else { Err(CodecError::Field(what)) }
}

fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, CodecError> {
    std::str::from_utf8(bytes).map_err(|_| CodecError::Field(what))
}
