//! A connection after the hello: frames both ways, and whether the other side is still heard.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::frame::{Frame, FrameError};
use crate::network::Stream;
use crate::reader::{Buffers, FrameReader, Received};
use crate::writer::FrameWriter;

/// Frames that are received in one turn, at most.
pub(crate) const FRAMES_PER_TURN: usize = 256;

/// Both directions of a connection. One task polls it, so that nothing has to be split or locked.
pub(crate) struct Wire {
    stream: Stream,
    reader: FrameReader,
    writer: FrameWriter,
    watch: Watch,
}

/// Tells silence from patience.
struct Watch {
    stall: Duration,
    /// Since when nothing was heard; none while nothing is waited for.
    silent_since: Option<Instant>,
    /// What had been heard by then, in bytes.
    heard_bytes: u64,
    /// Ends no later than the silence may. It is moved only when it has ended, which is seldom.
    alarm: Pin<Box<Sleep>>,
}

impl Wire {
    pub(crate) fn new(stream: Stream, buffers: Buffers, stall: Duration) -> Wire {
        let watch = Watch { stall, silent_since: None, heard_bytes: 0, alarm: Box::pin(sleep(stall)) };
        Wire { stream, reader: FrameReader::new(buffers), writer: FrameWriter::default(), watch }
    }

    /// Sends what `next` gives until it gives no more, or the connection takes no more.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        mut next: impl FnMut() -> Option<Frame>,
    ) -> Result<(), FrameError> {
        loop {
            let mut is_all = false;
            while self.writer.has_room() {
                let Some(frame) = next() else {
                    is_all = true;
                    break;
                };
                self.writer.push(frame);
            }
            if self.writer.is_done() {
                return Ok(());
            }
            match self.writer.poll_write(&mut self.stream, context) {
                Poll::Ready(written) => written?,
                Poll::Pending => return Ok(()),
            }
            if is_all {
                return Ok(());
            }
        }
    }

    /// The next frame that has come; none when the connection has ended.
    ///
    /// # Errors
    /// When the connection is broken, or of no more use.
    pub(crate) fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Received>, FrameError>> {
        self.reader.poll_frame(&mut self.stream, context)
    }

    /// Whether it has something that is not sent yet.
    pub(crate) fn is_sending(&self) -> bool {
        !self.writer.is_done()
    }

    /// Whether a part of a frame has come.
    pub(crate) fn is_within_a_frame(&self) -> bool {
        self.reader.is_within_a_frame()
    }

    /// Ready when something has been waited for, and nothing was heard, for too long. To be polled after each change.
    pub(crate) fn poll_stalled(&mut self, context: &mut Context<'_>, is_waiting: bool) -> Poll<()> {
        let Watch { stall, silent_since, heard_bytes, alarm } = &mut self.watch;
        if !is_waiting {
            *silent_since = None;
            return Poll::Pending;
        }
        let heard_now = self.reader.received_bytes() + self.writer.resumed_bytes();
        if silent_since.is_none() || heard_now != *heard_bytes {
            (*silent_since, *heard_bytes) = (Some(Instant::now()), heard_now);
        }
        let end = silent_since.expect("it was just set") + *stall;
        while alarm.as_mut().poll(context).is_ready() {
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(end);
        }
        Poll::Pending
    }
}
