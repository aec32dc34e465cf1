//! Batches: one log entry, holding every command that waited for the same round.
//!
//! ```text
//! batch  [version u8][reserved u8][count u16][time_ms u64][producers_max u32]  then `count` frames
//! frame  [len u32]  then `len` bytes: [kind u8][fields...][packs]
//! ```
//! All numbers are little-endian. Apply reads entries that the log has checked; what is read back without the rest of its
//! entry is a [pack](crate::pack), which has a checksum of its own.
//! Time and limits stand in the batch because apply may use nothing that is not the same on every replica.

use bytes::{BufMut, BytesMut};
use weir_types::limits::{
    BATCH_COMMANDS_MAX, CONTENT_TYPE_BYTES_MAX, NAME_BYTES_MAX, PRODUCER_ID_BYTES_MAX, WORD_BYTES_MAX,
};

use crate::codec::{CodecError, Reader};
use crate::command::Command;
use crate::pack::{PACK_BYTES_MAX, PACK_HEAD_BYTES};

const VERSION: u8 = 2;
/// Bytes before the first frame.
pub const BATCH_HEAD_BYTES: usize = 16;
/// Bytes before a frame's kind: its length.
pub const FRAME_HEAD_BYTES: usize = 4;

/// The largest frame that a body of at most `body_bytes` can become, for sizing what must hold one.
///
/// In JSON mode every message is at least a byte and a separator of the body, and costs its bytes, a comma and an end of
/// 4 bytes; so `[1,1,1]` triples. Of two packs that follow each other one is more than half full, or both would be one.
/// The rest is head, key, content type, producer and sequence.
pub const fn frame_bytes_max(body_bytes: usize) -> usize {
    const FIELDS_BYTES_MAX: usize = 256 + WORD_BYTES_MAX + NAME_BYTES_MAX + 2 * PRODUCER_ID_BYTES_MAX;
    const { assert!(CONTENT_TYPE_BYTES_MAX <= 2 * PRODUCER_ID_BYTES_MAX) };
    let packs_max = 2 * (2 * body_bytes / PACK_BYTES_MAX + 1);
    FIELDS_BYTES_MAX + 3 * body_bytes + packs_max * PACK_HEAD_BYTES
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

    /// Adds a command, for which the buffer is large enough; the caller stops at [`BATCH_COMMANDS_MAX`].
    pub fn push(&mut self, command: &Command<'_>) {
        assert!(self.count < BATCH_COMMANDS_MAX, "the shard closes a full batch");
        let head = self.buf.len();
        self.buf.put_u32_le(0);
        let body = self.buf.len();
        command.put(&mut self.buf);
        let len = self.buf.len() - body;
        debug_assert_eq!(len, command.encoded_bytes(), "sizes are computed as bytes are written");
        let len = u32::try_from(len).expect("bodies are limited far below 4 GiB");
        self.buf[head..body].copy_from_slice(&len.to_le_bytes());
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

    /// Commands in the batch.
    pub(crate) fn count(&self) -> usize {
        self.count.into()
    }

    /// The commands in order, each with its place. No checksum is verified: the log's covers them.
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
            assert!(pos >= BATCH_HEAD_BYTES, "frames come after the head");
            let item = read_frame(&mut reader).map(|(body, command)| {
                (Frame { pos: pos as u32, len: (FRAME_HEAD_BYTES + body.len()) as u32 }, command)
            });
            ended = item.is_err();
            Some(item)
        })
    }
}

fn read_frame<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], Command<'a>), CodecError> {
    let len = reader.u32("frame head")?;
    let body = reader.take(len as usize, "frame")?;
    Ok((body, Command::read(body)?))
}
