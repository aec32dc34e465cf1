//! Frames from a connection. What arrives is bounded before memory is taken for it, and bodies go straight into the
//! embedder's buffers.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::frame::{Frame, FrameError, HEADER_BYTES, Header, Message};

/// Makes the buffer for a body of so many bytes. It may hold bytes already, which stay before the body, and it has capacity
/// for the body behind them: none is moved again.
pub type Buffers = fn(usize) -> BytesMut;

/// What is read at once where it is not known yet what it is. That much of a body is copied once.
const AHEAD_BYTES: usize = 8 << 10;
/// A part of a body that is at least this long is read where it will stay.
const DIRECT_BYTES_MIN: usize = AHEAD_BYTES / 2;
/// The most that is read into a body at once, so that a large one does not hold the thread.
const READ_BYTES_MAX: usize = 128 << 10;

const _: () = assert!(HEADER_BYTES <= DIRECT_BYTES_MIN);

/// Reads frames from one connection.
pub(crate) struct FrameReader {
    buffers: Buffers,
    ahead: Ahead,
    part: Option<Part>,
    received_bytes: u64,
}

/// A frame that has come.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) frame: Frame,
    /// What it takes in memory, in bytes: buffers may be larger than what is in them.
    pub(crate) memory_bytes: usize,
}

/// What was read and not yet looked at.
struct Ahead {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

/// A frame of which the header is there.
struct Part {
    header: Header,
    crc: u32,
    filling: Filling,
    /// Once lengths and head are there: how long the bodies are.
    lengths: Option<Vec<usize>>,
    message: Message,
    memory_bytes: usize,
}

/// A buffer and how much it still lacks.
struct Filling {
    buf: BytesMut,
    missing: usize,
}

impl FrameReader {
    pub(crate) fn new(buffers: Buffers) -> FrameReader {
        let ahead = Ahead { bytes: vec![0; AHEAD_BYTES].into(), from: 0, to: 0 };
        FrameReader { buffers, ahead, part: None, received_bytes: 0 }
    }

    /// Bytes that have come so far.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Whether a frame has begun and not ended.
    pub(crate) fn is_within_a_frame(&self) -> bool {
        self.part.is_some() || !self.ahead.unread().is_empty()
    }

    /// The next frame; none when the connection has ended after the last. Loses nothing if it is not polled again.
    ///
    /// # Errors
    /// For what is no frame, or ends within one. Nothing can be read after that.
    pub(crate) fn poll_frame<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Received>, FrameError>> {
        loop {
            let Some(part) = &mut self.part else {
                if let Some(header) = self.ahead.unread().first_chunk() {
                    let header = Header::parse(header)?;
                    self.ahead.from += HEADER_BYTES;
                    self.part = Some(Part::begin(header));
                } else if ready!(self.poll_ahead(stream, context))? == 0 {
                    return Poll::Ready(if self.is_within_a_frame() { Err(FrameError::CutOff) } else { Ok(None) });
                }
                continue;
            };
            if part.filling.missing == 0 {
                if part.advance(self.buffers)? {
                    let Part { header, crc, message, memory_bytes, .. } = self.part.take().expect("it is there");
                    if crc != header.crc {
                        return Poll::Ready(Err(FrameError::Damaged));
                    }
                    let frame = Frame { role: header.role, number: header.number, message };
                    return Poll::Ready(Ok(Some(Received { frame, memory_bytes })));
                }
                continue;
            }
            if !self.ahead.unread().is_empty() {
                let taken = part.take(self.ahead.unread());
                self.ahead.from += taken;
                continue;
            }
            let read = if part.filling.missing >= DIRECT_BYTES_MIN {
                let read = ready!(part.poll_read(stream, context))?;
                self.received_bytes += read as u64;
                read
            } else {
                ready!(self.poll_ahead(stream, context))?
            };
            if read == 0 {
                return Poll::Ready(Err(FrameError::CutOff));
            }
        }
    }

    fn poll_ahead<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let read = ready!(self.ahead.poll_read(stream, context))?;
        self.received_bytes += read as u64;
        Poll::Ready(Ok(read))
    }
}

impl Ahead {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }

    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.bytes.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        assert!(self.to < HEADER_BYTES, "what is enough to go on with is looked at first");
        let mut buf = ReadBuf::new(&mut self.bytes[self.to..]);
        let filled = ready!(Pin::new(stream).poll_read(context, &mut buf));
        let read = or_end(filled.map(|()| buf.filled().len()))?;
        self.to += read;
        Poll::Ready(Ok(read))
    }
}

impl Part {
    fn begin(header: Header) -> Part {
        let front_bytes = 4 * header.bodies + header.head_bytes;
        let filling = Filling { buf: BytesMut::with_capacity(front_bytes), missing: front_bytes };
        let message = Message { kind: header.kind, head: Bytes::new(), bodies: Vec::with_capacity(header.bodies) };
        Part { crc: header.crc_begun, header, filling, lengths: None, message, memory_bytes: 0 }
    }

    /// Puts what is filled where it belongs, and begins what comes next. Whether nothing does.
    fn advance(&mut self, buffers: Buffers) -> Result<bool, FrameError> {
        self.memory_bytes += self.filling.buf.capacity();
        let filled = std::mem::take(&mut self.filling.buf).freeze();
        match self.lengths {
            None => {
                let lengths_bytes = 4 * self.header.bodies;
                self.lengths = Some(self.header.lengths(&filled[..lengths_bytes])?);
                self.message.head = filled.slice(lengths_bytes..);
            }
            Some(_) => self.message.bodies.push(filled),
        }
        let lengths = self.lengths.as_deref().unwrap_or_default();
        let Some(&missing) = lengths.get(self.message.bodies.len()) else { return Ok(true) };
        let buf = buffers(missing);
        assert!(buf.capacity() - buf.len() >= missing, "a buffer has capacity for its body");
        self.filling = Filling { buf, missing };
        Ok(false)
    }

    /// Takes what belongs to the current buffer from the front of `bytes`; returns how much.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = &bytes[..bytes.len().min(self.filling.missing)];
        self.filling.buf.extend_from_slice(taken);
        self.filling.missing -= taken.len();
        self.crc = crc32c::crc32c_append(self.crc, taken);
        taken.len()
    }

    /// Reads into the current buffer; returns how much.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Filling { buf, missing } = &mut self.filling;
        let from = buf.len();
        let mut limited = buf.limit((*missing).min(READ_BYTES_MAX));
        let read = or_end(ready!(pin!(stream.read_buf(&mut limited)).poll(context)))?;
        *missing -= read;
        self.crc = crc32c::crc32c_append(self.crc, &buf[from..]);
        Poll::Ready(Ok(read))
    }
}

/// TLS calls it an error when a connection ends without its goodbye. Frames tell by themselves whether they are whole.
fn or_end(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}

#[cfg(test)]
mod tests;
