//! A live response over HTTP/1.1, once its head is written.
//!
//! Such a response lasts for minutes and is most of what a server of live readers does, so it does without hyper from
//! there on: the connection takes its socket back, gives up hyper's buffers, and sends the events as the chunks that they
//! are. It ends with the response. (HTTP/2 has other frames, and HTTP/1.0 has none: there, events are a body like others.)

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::activity::ActiveRequest;
use crate::io::Io;
use crate::sse::Events;

/// From a response whose head is written to its connection, which sends the rest. Belongs to the task that serves the
/// connection, and to responses on their way, but to nothing that a live response keeps: so it ends with that task,
/// whatever is in it.
#[derive(Clone, Default)]
pub(crate) struct Handover(Rc<Cell<Option<LiveResponse>>>);

impl Handover {
    /// Gives the rest of a response to the connection.
    pub(crate) fn give(&self, live: LiveResponse) {
        let before = self.0.replace(Some(live));
        assert!(before.is_none(), "a live response is its connection's last");
    }

    /// Takes it, if there is one.
    pub(crate) fn take(&self) -> Option<LiveResponse> {
        self.0.take()
    }
}

/// The rest of a response.
pub(crate) struct LiveResponse {
    events: Events,
    active: ActiveRequest,
}

impl LiveResponse {
    /// The rest of the response to `active`.
    pub(crate) fn new(events: Events, active: ActiveRequest) -> LiveResponse {
        LiveResponse { events, active }
    }

    /// Sends it, and closes the connection.
    ///
    /// # Errors
    /// When the client leaves or takes nothing for too long.
    pub(crate) async fn send(mut self, mut io: Io) -> io::Result<()> {
        poll_fn(|cx| match self.events.poll_write(&mut io, cx) {
            Poll::Pending => poll_left(&mut io, cx),
            sent => sent,
        })
        .await?;
        io.shutdown().await
    }
}

impl Drop for LiveResponse {
    fn drop(&mut self) {
        if let Some(access) = self.active.access() {
            access.sent(self.events.sent_bytes());
        }
    }
}

/// Ready when the client has left. What it sends is dropped: it was told that the connection ends with this response.
fn poll_left(io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut bytes = [0; 256];
    loop {
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
