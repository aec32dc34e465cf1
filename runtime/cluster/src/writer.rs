//! Frames to a connection. Bodies are written from where they are, many parts in one call.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::frame::{Frame, Message};

/// Parts of one call to the system.
const PARTS_MAX: usize = 64;
/// More frames are taken while less than this waits to be written.
const WAITING_BYTES: usize = 64 << 10;
/// A head that is shorter is copied behind its header, which is cheaper than a part of its own.
const HEAD_COPIED_BYTES: usize = 1 << 10;

/// The most that is written at once, so that a large message does not hold the thread.
const WRITE_BYTES_MAX: usize = 128 << 10;

/// Writes frames to one connection.
#[derive(Default)]
pub(crate) struct FrameWriter {
    parts: VecDeque<Bytes>,
    /// The last part, still growing: headers and short heads of frames one after another.
    small: BytesMut,
    waiting_bytes: usize,
    needs_flush: bool,
    /// Whether the connection took nothing when it was last asked.
    is_full: bool,
    resumed_bytes: u64,
}

impl FrameWriter {
    /// Whether another frame should be given now, and not only when something was written.
    pub(crate) fn has_room(&self) -> bool {
        self.parts.len() < PARTS_MAX && self.waiting_bytes < WAITING_BYTES
    }

    /// Whether everything that was given has left.
    pub(crate) fn is_done(&self) -> bool {
        self.waiting_bytes == 0 && !self.needs_flush
    }

    /// Bytes that were taken by a connection that had been full: each says that the peer's machine is there.
    pub(crate) fn resumed_bytes(&self) -> u64 {
        self.resumed_bytes
    }

    /// Takes a frame, to be written behind the others.
    pub(crate) fn push(&mut self, frame: Frame) {
        self.waiting_bytes += frame.message.frame_bytes();
        frame.encode_front(&mut self.small);
        let Message { head, bodies, .. } = frame.message;
        if head.len() < HEAD_COPIED_BYTES {
            self.small.extend_from_slice(&head);
        } else {
            self.part(head);
        }
        bodies.into_iter().for_each(|body| self.part(body));
    }

    /// Writes what it has. Ready when all of it has left.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.close_small();
        while !self.parts.is_empty() {
            let written = match self.poll_parts(stream, context) {
                Poll::Pending => {
                    self.is_full = true;
                    return Poll::Pending;
                }
                Poll::Ready(written) => written?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if std::mem::take(&mut self.is_full) {
                self.resumed_bytes += written as u64;
            }
            self.needs_flush = true;
            self.waiting_bytes -= written;
            self.drop_written(written);
        }
        assert_eq!(self.waiting_bytes, 0, "without parts, nothing waits");
        if self.needs_flush {
            ready!(Pin::new(stream).poll_flush(context))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_parts<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); PARTS_MAX];
        let mut used = 0;
        let mut room = WRITE_BYTES_MAX;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            if room == 0 {
                break;
            }
            let taken = part.len().min(room);
            *slice = IoSlice::new(&part[..taken]);
            room -= taken;
            used += 1;
        }
        Pin::new(stream).poll_write_vectored(context, &slices[..used])
    }

    fn drop_written(&mut self, mut written: usize) {
        while written > 0 {
            let part = self.parts.front_mut().expect("no more is written than there is");
            let taken = part.len().min(written);
            written -= taken;
            if taken == part.len() {
                self.parts.pop_front();
            } else {
                part.advance(taken);
            }
        }
    }

    fn part(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.close_small();
            self.parts.push_back(part);
        }
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.parts.push_back(self.small.split().freeze());
        }
    }
}
