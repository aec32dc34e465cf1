//! Batches: one log entry, holding every command that waited for the same round.
//!
//! ```text
//! batch  [version u8][reserved u8][count u16][time_ms u64][producers_max u32]  then `count` frames
//! frame  [len u32][crc32c u32]  then `len` bytes: [kind u8][fields...][payload]
//! ```
//! All numbers are little-endian. A frame has a checksum of its own so that a reader can take one command's payload back
//! from the log without the rest of the entry; apply reads entries that the log has checked already and skips it.
//! Time and limits stand in the batch because apply may use nothing that is not the same on every replica.

use std::ops::Range;

use bytes::{BufMut, BytesMut};
use weir_types::limits::{
    BATCH_COMMANDS_MAX, CONTENT_TYPE_BYTES_MAX, NAME_BYTES_MAX, PRODUCER_ID_BYTES_MAX, WORD_BYTES_MAX,
};

use crate::codec::{CodecError, Reader};
use crate::command::Command;
use crate::records::{Records, ends_of};

const VERSION: u8 = 1;
/// Bytes before the first frame.
pub const BATCH_HEAD_BYTES: usize = 16;
/// Bytes before a frame's kind: length and checksum.
pub const FRAME_HEAD_BYTES: usize = 8;

/// The largest frame that a body of at most `body_bytes` can become, for sizing what must hold one.
///
/// In JSON mode every message is at least a byte and a separator of the body, and costs its bytes, a comma and an end of
/// 4 bytes; so `[1,1,1]` triples. The rest is head, key, content type, producer and sequence.
pub const fn frame_bytes_max(body_bytes: usize) -> usize {
    const FIELDS_BYTES_MAX: usize = 256 + WORD_BYTES_MAX + NAME_BYTES_MAX + 2 * PRODUCER_ID_BYTES_MAX;
    const { assert!(CONTENT_TYPE_BYTES_MAX <= 2 * PRODUCER_ID_BYTES_MAX) };
    FIELDS_BYTES_MAX + 3 * body_bytes
}

/// Limits that apply enforces. They travel with the batch, so that replicas agree whatever their configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Producers that one stream remembers.
    pub producers_max: u32,
}

/// Encodes commands into a caller's buffer, behind whatever it already holds.
#[derive(Debug)]
pub struct BatchBuilder {
    buf: BytesMut,
    base: usize,
    count: usize,
}

impl BatchBuilder {
    /// Begins a batch at the end of `buf`.
    pub fn new(mut buf: BytesMut) -> BatchBuilder {
        let base = buf.len();
        buf.put_bytes(0, BATCH_HEAD_BYTES);
        BatchBuilder { buf, base, count: 0 }
    }

    /// Bytes that [`BatchBuilder::push`] will add for `command`: known before the buffer is sized.
    pub fn frame_bytes(command: &Command<'_>) -> usize {
        FRAME_HEAD_BYTES + command.encoded_bytes()
    }

    /// Adds a command; the caller stops at [`BATCH_COMMANDS_MAX`].
    pub fn push(&mut self, command: &Command<'_>) {
        assert!(self.count < BATCH_COMMANDS_MAX, "the shard closes a full batch");
        let encoded_bytes = command.encoded_bytes();
        let len = u32::try_from(encoded_bytes).expect("bodies are limited far below 4 GiB");
        self.buf.reserve(FRAME_HEAD_BYTES + encoded_bytes);
        let head = self.buf.len();
        self.buf.put_u32_le(len);
        self.buf.put_u32_le(0);
        let body = self.buf.len();
        command.put(&mut self.buf);
        debug_assert_eq!(self.buf.len() - body, encoded_bytes, "sizes are computed as bytes are written");
        let crc = crc32c::crc32c(&self.buf[body..]);
        self.buf[head + 4..body].copy_from_slice(&crc.to_le_bytes());
        self.count += 1;
    }

    /// Commands in the batch.
    pub fn commands(&self) -> usize {
        self.count
    }

    /// Bytes of the batch so far, its head included.
    pub fn bytes(&self) -> usize {
        self.buf.len() - self.base
    }

    /// Ends the batch and gives the buffer back. `time_ms` is the leader's time, in milliseconds since 1970.
    pub fn finish(mut self, time_ms: u64, limits: Limits) -> BytesMut {
        assert!(u32::try_from(self.bytes()).is_ok(), "positions in a batch are 32 bits");
        let mut head = &mut self.buf[self.base..self.base + BATCH_HEAD_BYTES];
        head.put_u8(VERSION);
        head.put_u8(0);
        head.put_u16_le(self.count as u16);
        head.put_u64_le(time_ms);
        head.put_u32_le(limits.producers_max);
        self.buf
    }
}

/// A batch as read back: its head, and the commands one by one.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The leader's time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The leader's limits.
    pub limits: Limits,
    count: u16,
    bytes: &'a [u8],
}

/// Where a command's frame lies in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From the batch's first byte to the frame's first.
    pub pos: u32,
    /// The whole frame, its head included.
    pub len: u32,
}

impl<'a> Batch<'a> {
    /// Reads a batch's head.
    ///
    /// # Errors
    /// [`CodecError`] when `bytes` do not begin as a batch does.
    pub fn read(bytes: &'a [u8]) -> Result<Batch<'a>, CodecError> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(CodecError::Field("batch length"));
        }
        let mut reader = Reader::new(bytes);
        match reader.u8("batch head")? {
            VERSION => {}
            version => return Err(CodecError::Version(version)),
        }
        if reader.u8("batch head")? != 0 {
            return Err(CodecError::Field("batch head"));
        }
        let count = reader.u16("batch head")?;
        let time_ms = reader.u64("batch head")?;
        let limits = Limits { producers_max: reader.u32("batch head")? };
        Ok(Batch { time_ms, limits, count, bytes })
    }

    /// The commands in order, each with its place. The frames' checksums are not verified: the log's covers them.
    ///
    /// Ends after the first error.
    pub fn commands(&self) -> impl Iterator<Item = Result<(Frame, Command<'a>), CodecError>> + use<'a> {
        let (bytes, mut left) = (self.bytes, self.count);
        let mut reader = Reader::new(&bytes[BATCH_HEAD_BYTES..]);
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            if left == 0 {
                ended = true;
                return reader.finish().err().map(Err);
            }
            left -= 1;
            let pos = bytes.len() - reader.rest().len();
            let item = read_frame(&mut reader, false).map(|(body, command)| {
                (Frame { pos: pos as u32, len: (FRAME_HEAD_BYTES + body.len()) as u32 }, command)
            });
            ended = item.is_err();
            Some(item)
        })
    }
}

/// The payload of one frame, as a reader takes it back from the log.
#[derive(Clone, Debug)]
pub struct PayloadView<'a> {
    /// Where the payload lies within the frame: at its end.
    pub payload: Range<usize>,
    count: usize,
    ends: &'a [u8],
}

impl PayloadView<'_> {
    /// Records in the payload.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The end of each record, relative to the payload's begin; strictly rising, the last is the payload's length.
    pub fn record_ends(&self) -> impl Iterator<Item = u32> + '_ {
        // A single record's end is not stored: it is the payload's.
        let only = (self.count == 1).then_some(self.payload.len() as u32);
        ends_of(self.ends).chain(only)
    }
}

/// Checks one frame as read back from the log, and says where its payload is.
///
/// # Errors
/// [`CodecError`] when length, checksum or fields are not those of a frame.
pub fn command_frame(frame: &[u8]) -> Result<PayloadView<'_>, CodecError> {
    let mut reader = Reader::new(frame);
    let (_, command) = read_frame(&mut reader, true)?;
    reader.finish()?;
    let records = match command {
        Command::Create { records, .. } | Command::Append { records, .. } => records,
        _ => Records::NONE,
    };
    let ends = records.check_ends()?;
    let payload = frame.len() - records.payload_bytes()..frame.len();
    Ok(PayloadView { payload, count: records.count(), ends })
}

fn read_frame<'a>(reader: &mut Reader<'a>, verify: bool) -> Result<(&'a [u8], Command<'a>), CodecError> {
    let len = reader.u32("frame head")?;
    let crc = reader.u32("frame head")?;
    let body = reader.take(len as usize, "frame")?;
    if verify && crc32c::crc32c(body) != crc {
        return Err(CodecError::Checksum);
    }
    Ok((body, Command::read(body)?))
}
