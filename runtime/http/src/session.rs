//! Live responses: what all server-sent events have in common, whatever they are of.
//!
//! A session sends what its source yields, as fast as its connection takes it, and a comment whenever that takes long. It
//! ends by itself after `sse_max_age`, so that caches can collapse readers and connections move to other nodes. Whatever
//! else ends it (the source's end, a shutdown) also just ends the body: the client comes again with the offset it has,
//! and meets the reason as a status.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, Version};
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::context::Context;
use crate::cursor::cursor;
use crate::event_text::Encoding;
use crate::headers::{NO_CACHE, STREAM_SSE_DATA_ENCODING, X_ACCEL_BUFFERING};
use crate::payload::Payload;
use crate::sse::{self, Control, Events, Outbox, Parts};

/// Where a session's events come from.
pub(crate) trait Source: 'static {
    /// What it yields.
    type Event;

    /// Waits for the next event.
    fn next(&mut self) -> impl Future<Output = Self::Event>;

    /// Writes an event; whether it was the last.
    fn send(&mut self, session: &mut LiveSession, event: Self::Event) -> bool;
}

/// What a session waits for.
enum Woken<T> {
    Alarm,
    Stopped,
    Event(T),
}

/// One response in the making.
pub(crate) struct LiveSession {
    context: Rc<Context>,
    outbox: Outbox,
    client_cursor: Option<u64>,
    /// The time, as of the last comment: cursors need it no more exactly, and events are too many to look at the clock for.
    now_ms: u64,
    /// The last control event and its cursor.
    sent: Option<(Control, u64)>,
}

impl LiveSession {
    /// A session of a client that sent `client_cursor`.
    pub(crate) fn new(context: &Rc<Context>, client_cursor: Option<u64>) -> LiveSession {
        context.activity().begin_live();
        let now_ms = context.shard().now_ms();
        LiveSession { context: context.clone(), outbox: Outbox::default(), client_cursor, now_ms, sent: None }
    }

    /// The response that `source` writes, to a request of `version`.
    pub(crate) fn response(self, version: Version, encoding: Encoding, source: impl Source) -> Response<Payload> {
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, NO_CACHE.clone());
        headers.insert(&X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        if encoding == Encoding::Base64 {
            headers.insert(&STREAM_SSE_DATA_ENCODING, HeaderValue::from_static("base64"));
        }
        let outbox = self.outbox.clone();
        let events = Events::new(outbox, self.run(source));
        if version == Version::HTTP_11 {
            // hyper does not get the connection back.
            // Clients rely on it, too: to the `fetch` of Node, the end of such a connection is the end of the body and no
            // error, even within a chunk. So they come again by themselves when the server dies (`tests/clients`). The
            // price is that they do not see that the last event is torn.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut response = Response::new(Payload::events(events));
        *response.headers_mut() = headers;
        response
    }

    /// Puts a frame, to be sent when the session waits next.
    pub(crate) fn put(&self, frame: Bytes) {
        self.outbox.put(self.context.activity().owe(frame));
    }

    /// Counts an event, with so many bytes of records or of a view.
    pub(crate) fn count_event(&self, bytes: usize) {
        self.context.stats().count_event(bytes);
    }

    /// Puts an event that is made in parts; at most one before the session waits.
    pub(crate) fn put_parts(&self, parts: Parts) {
        self.outbox.put_parts(parts.keeping(|bytes| self.context.activity().owe(bytes)));
    }

    /// Puts a control event.
    pub(crate) fn control(&mut self, control: Control) {
        let cursor = self.cursor(control);
        self.put(control.frame(cursor));
    }

    /// The cursor of a control event that is put next.
    pub(crate) fn cursor(&mut self, control: Control) -> u64 {
        // The client's cursor counts once; from then on ours must not go back.
        let cursor = match self.sent {
            None => cursor(self.now_ms, self.client_cursor),
            Some((_, sent)) => cursor(self.now_ms, None).max(sent),
        };
        self.sent = Some((control, cursor));
        cursor
    }

    /// The last control event.
    pub(crate) fn last_control(&self) -> Option<Control> {
        self.sent.map(|(control, _)| control)
    }

    /// Waits until every frame was taken and the socket takes more, so that a session is never ahead of its context.
    async fn flushed(&self) {
        // Nobody is woken here: the body polls the session again when it is asked for more than it has.
        poll_fn(|_| match self.outbox.is_empty() && !self.context.activity().is_blocked() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    async fn run(mut self, mut source: impl Source) {
        let (keep_alive, max_age) = (self.context.config().sse_keep_alive, self.context.config().sse_max_age);
        let end = Instant::now() + max_age;
        let mut alarm = Alarm::at((Instant::now() + keep_alive).min(end));
        let mut stopped = pin!(self.context.stopped());
        self.put(sse::RETRY);
        loop {
            let event = {
                // A comment does not interrupt the wait: what was asked for may be long in coming.
                let mut next = pin!(source.next());
                loop {
                    // By hand, because `select!` would be a tenth of what an event costs. The alarm comes first, so that
                    // a source that always has something does not keep the response beyond its age.
                    let woken = poll_fn(|cx| match (alarm.poll(cx), stopped.as_mut().poll(cx)) {
                        (Poll::Ready(()), _) => Poll::Ready(Woken::Alarm),
                        (_, Poll::Ready(())) => Poll::Ready(Woken::Stopped),
                        _ => next.as_mut().poll(cx).map(Woken::Event),
                    });
                    match woken.await {
                        Woken::Event(event) => break event,
                        Woken::Stopped => return,
                        Woken::Alarm => {
                            let now = Instant::now();
                            if now >= end {
                                return;
                            }
                            self.put(sse::COMMENT);
                            self.now_ms = self.context.shard().now_ms();
                            alarm.reset((now + keep_alive).min(end));
                        }
                    }
                    self.flushed().await;
                }
            };
            if source.send(&mut self, event) {
                return;
            }
            self.flushed().await;
        }
    }
}
