//! `GET` with `live=sse`: what is there and what comes, as server-sent events (protocol, section 5.8).
//!
//! A session sends each piece of data followed by its own control event; control events alone say that the reader has
//! caught up or that the stream has ended. It ends by itself after `sse_max_age`, so that caches can collapse readers
//! and connections move to other nodes. Whatever else ends it (a reader that is too slow, a deleted stream, damaged
//! bytes, a shutdown) also just ends the body: the client comes again with the offset it has, and meets the reason as
//! a status.

use std::pin::pin;
use std::rc::Rc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::time::{Instant, sleep_until};
use weir_shard::{LiveEvent, Subscription};
use weir_types::{Offset, ReadFrom, StreamKey};

use crate::cursor::cursor;
use crate::error::{ErrorCode, Problem};
use crate::headers::{
    LAST_EVENT_ID, NO_CACHE, NO_STORE, STREAM_SSE_DATA_ENCODING, STREAM_UP_TO_DATE, TRUE, X_ACCEL_BUFFERING,
};
use crate::payload::Payload;
use crate::query::ReadQuery;
use crate::render;
use crate::service::Connection;
use crate::sse::{self, Control, Encoding, Events, Outbox};

/// Follows the stream from the query's offset, or from where a browser's earlier response ended.
pub(crate) async fn get(
    connection: &Rc<Connection>,
    key: StreamKey,
    head: &Parts,
    query: ReadQuery,
) -> Result<Response<Payload>, Problem> {
    let resumed = last_event_id(&head.headers)?;
    let from = resumed.map_or(query.from, ReadFrom::At);
    let subscription = connection.shard().subscribe(key, from).await?;
    let summary = subscription.summary();
    if summary.closed && resumed == Some(summary.next) {
        return Ok(finished(summary.next));
    }
    let encoding = Encoding::of(&summary.content_type);
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, NO_CACHE.clone());
    headers.insert(&X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    if encoding == Encoding::Base64 {
        headers.insert(&STREAM_SSE_DATA_ENCODING, HeaderValue::from_static("base64"));
    }
    if summary.closed && from == ReadFrom::Now {
        render::position(&mut headers, summary.next, true);
        headers.insert(&STREAM_UP_TO_DATE, TRUE.clone());
    }
    let outbox = Outbox::default();
    let session = Session {
        connection: connection.clone(),
        outbox: outbox.clone(),
        encoding,
        client_cursor: query.cursor,
        sent: None,
    };
    let mut response = Response::new(Payload::events(Events::new(outbox, session.run(subscription))));
    *response.headers_mut() = headers;
    Ok(response)
}

/// `Last-Event-ID`, which a browser sends when it comes again: the `id:` of the last event it got.
fn last_event_id(headers: &HeaderMap) -> Result<Option<Offset>, Problem> {
    match headers.get(&LAST_EVENT_ID).map(|id| id.to_str()) {
        None | Some(Ok("")) => Ok(None),
        Some(Ok(id)) => match Offset::parse(id) {
            Ok(offset) => Ok(Some(offset)),
            Err(error) => Err(Problem::new(ErrorCode::OffsetMalformed, format!("Last-Event-ID: {error}"))),
        },
        Some(Err(_)) => Err(Problem::new(ErrorCode::OffsetMalformed, "Last-Event-ID is not an offset")),
    }
}

/// A browser comes again after the end of a closed stream, as after every end; `204` is what makes it stop.
fn finished(next: Offset) -> Response<Payload> {
    let mut response = render::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    render::position(headers, next, true);
    headers.insert(&STREAM_UP_TO_DATE, TRUE.clone());
    headers.insert(CACHE_CONTROL, NO_STORE.clone());
    response
}

/// One response in the making.
struct Session {
    connection: Rc<Connection>,
    outbox: Outbox,
    encoding: Encoding,
    client_cursor: Option<u64>,
    /// The last control event and its cursor.
    sent: Option<(Control, u64)>,
}

impl Session {
    async fn run(mut self, mut subscription: Subscription) {
        let (keep_alive, max_age) = (self.connection.config().sse_keep_alive, self.connection.config().sse_max_age);
        let end = Instant::now() + max_age;
        let mut timer = pin!(sleep_until((Instant::now() + keep_alive).min(end)));
        let connection = self.connection.clone();
        let mut stopped = pin!(connection.stopped());
        loop {
            tokio::select! {
                biased;
                // First, so that a stream that always has data does not keep the response beyond its age.
                () = &mut timer => {
                    let now = Instant::now();
                    if now >= end {
                        return;
                    }
                    self.outbox.put(sse::COMMENT);
                    timer.as_mut().reset((now + keep_alive).min(end));
                }
                () = &mut stopped => return,
                event = subscription.next() => {
                    if self.send(event) {
                        return;
                    }
                }
            }
            self.outbox.flushed().await;
        }
    }

    /// Sends an event; whether it was the last.
    fn send(&mut self, event: LiveEvent) -> bool {
        match event {
            LiveEvent::Data(data) => {
                let frame = data.rendered(|chunks| sse::data(self.encoding, chunks, data.next));
                self.outbox.put(frame);
                self.control(Control { next: data.next, up_to_date: data.up_to_date, closed: data.closed });
                data.closed
            }
            LiveEvent::CaughtUp { next } => {
                let control = Control { next, up_to_date: true, closed: false };
                // The data before it may have said so already.
                if self.sent.is_none_or(|(sent, _)| sent != control) {
                    self.control(control);
                }
                false
            }
            LiveEvent::Closed { next } => {
                self.control(Control { next, up_to_date: true, closed: true });
                true
            }
            LiveEvent::Removed | LiveEvent::Lagged => true,
            LiveEvent::Failed(error) => {
                tracing::warn!(%error, "a live read ended");
                true
            }
        }
    }

    fn control(&mut self, control: Control) {
        let now_ms = self.connection.shard().now_ms();
        // The client's cursor counts once; from then on ours must not go back.
        let cursor = match self.sent {
            None => cursor(now_ms, self.client_cursor),
            Some((_, sent)) => cursor(now_ms, None).max(sent),
        };
        self.outbox.put(control.frame(cursor));
        self.sent = Some((control, cursor));
    }
}
