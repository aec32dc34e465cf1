//! `GET` with `live=sse`: what is there and what comes, as server-sent events (protocol, section 5.8).
//!
//! Each piece of data is followed by its own control event; control events alone say that the reader has caught up or
//! that the stream has ended. A reader that is too slow, a deleted stream, trimmed and damaged bytes just end the [`LiveSession`].

use std::rc::Rc;

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use weir_shard::{LiveData, LiveEvent, Subscription};
use weir_types::{Offset, ReadFrom, StreamKey};

use crate::context::Context;
use crate::error::Problem;
use crate::event_text::{Encoding, ends_in_a_character};
use crate::headers::{LAST_EVENT_ID, NO_STORE, STREAM_UP_TO_DATE, TRUE};
use crate::media::is_utf8;
use crate::payload::Payload;
use crate::query::{self, ReadQuery};
use crate::render;
use crate::session::{LiveSession, Source};
use crate::sse::{self, Control};

/// Data up to this size and its control event are one frame, which readers with the same cursor (almost all) share. For
/// more, a copy for each other cursor would cost more than a second frame.
const TOGETHER_BYTES_MAX: usize = 4 << 10;
/// What is held back of a text at most, in bytes: whoever writes no characters is read all the same.
const HELD_BYTES_MAX: usize = 64 << 10;

/// Follows the stream from the query's offset, or from where a browser's earlier response ended.
pub(crate) async fn get(
    context: &Rc<Context>,
    key: StreamKey,
    head: &Parts,
    query: ReadQuery,
) -> Result<Response<Payload>, Problem> {
    let resumed = last_event_id(&head.headers, query.resumed)?;
    let from = resumed.map_or(query.from, ReadFrom::At);
    let subscription = context.shard().subscribe(key, from).await?;
    let facts = subscription.facts();
    if facts.closed && resumed == Some(facts.next) {
        return Ok(finished(facts.next));
    }
    let is_at_end = facts.closed && from == ReadFrom::Now;
    let (earliest, next) = (facts.earliest, facts.next);
    let encoding = Encoding::of(&facts.content_type);
    let is_utf8 = encoding == Encoding::Text && is_utf8(&facts.content_type);
    let sent = subscription.position();
    let records = Records { subscription, encoding, is_utf8, held: None, sent, after_cr: false };
    let mut response = LiveSession::new(context, query.cursor).response(head.version, encoding, records);
    render::earliest(response.headers_mut(), earliest);
    if is_at_end {
        render::position(response.headers_mut(), next, true);
        response.headers_mut().insert(&STREAM_UP_TO_DATE, TRUE.clone());
    }
    Ok(response)
}

/// `Last-Event-ID`, which a browser sends when it comes again: the `id:` of the last event it got. Otherwise what the query
/// says.
pub(crate) fn last_event_id(headers: &HeaderMap, in_query: Option<Offset>) -> Result<Option<Offset>, Problem> {
    let Some(id) = headers.get(&LAST_EVENT_ID) else { return Ok(in_query) };
    let id = query::last_event_id(&String::from_utf8_lossy(id.as_bytes()))?;
    Ok(id.or(in_query))
}

/// A browser comes again after the end of a closed stream, as after every end; `204` is what makes it stop.
pub(crate) fn finished(next: Offset) -> Response<Payload> {
    let mut response = render::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    render::position(headers, next, true);
    headers.insert(&STREAM_UP_TO_DATE, TRUE.clone());
    headers.insert(CACHE_CONTROL, NO_STORE.clone());
    response
}

/// A stream's records as events.
struct Records {
    subscription: Subscription,
    encoding: Encoding,
    is_utf8: bool,
    /// Records that end within a character, which the next one may complete: an event has whole characters, and the offset
    /// behind it is one that can be read from.
    held: Option<LiveData>,
    /// The offset behind what was sent.
    sent: Offset,
    /// The text that was sent ends with a CR, so an LF that comes next is the same line break.
    after_cr: bool,
}

impl Records {
    /// What there is to send now, with what was held back.
    fn whole(&mut self, data: LiveData) -> Option<LiveData> {
        if self.encoding != Encoding::Text {
            return Some(data);
        }
        let mut data = match self.held.take() {
            Some(held) => held.and(data),
            None => data,
        };
        let goes_on = !data.closed && self.is_utf8 && ends_in_a_character(&data.chunks);
        if goes_on && data.len() <= HELD_BYTES_MAX {
            self.held = Some(data);
            return None;
        }
        let bytes = || data.chunks.iter().flat_map(|chunk| chunk.iter());
        let (begins_with_lf, ends_with_cr) = (bytes().next() == Some(&b'\n'), bytes().next_back() == Some(&b'\r'));
        if std::mem::replace(&mut self.after_cr, ends_with_cr) && begins_with_lf {
            data = data.without_first();
        }
        Some(data)
    }

    /// Says that everything is sent that can be.
    fn caught_up(&self, session: &mut LiveSession) {
        let control = Control { next: self.sent, up_to_date: true, closed: false };
        // The data before it may have said so already.
        if session.last_control() != Some(control) {
            session.control(control);
        }
    }

    fn put(&mut self, session: &mut LiveSession, data: LiveData, control: Control) {
        let (encoding, next) = (self.encoding, data.next);
        self.sent = next;
        session.count_event(data.len());
        if data.len() <= TOGETHER_BYTES_MAX {
            let cursor = session.cursor(control);
            let both = |chunks: &[Bytes]| sse::data_and_control(encoding, chunks, control, cursor);
            if let Some(frame) = data.rendered(control.key(cursor), both) {
                return session.put(frame);
            }
        }
        match data.rendered(0, |chunks| sse::data(encoding, chunks, next)) {
            Some(frame) => session.put(frame),
            None => session.put_parts(sse::data_in_parts(encoding, data.chunks, next)),
        }
        session.control(control);
    }
}

impl Source for Records {
    type Event = LiveEvent;

    async fn next(&mut self) -> LiveEvent {
        self.subscription.next().await
    }

    fn send(&mut self, session: &mut LiveSession, event: LiveEvent) -> bool {
        match event {
            LiveEvent::Data(data) => {
                let is_up_to_date = data.up_to_date;
                let Some(data) = self.whole(data) else {
                    if is_up_to_date {
                        self.caught_up(session);
                    }
                    return false;
                };
                let control = Control { next: data.next, up_to_date: data.up_to_date, closed: data.closed };
                self.put(session, data, control);
                control.closed
            }
            LiveEvent::CaughtUp { .. } => {
                self.caught_up(session);
                false
            }
            LiveEvent::Closed { next } => {
                let control = Control { next, up_to_date: true, closed: true };
                let held = self.held.take().and_then(|mut held| {
                    held.closed = true;
                    self.whole(held)
                });
                match held {
                    Some(held) => self.put(session, held, control),
                    None => session.control(control),
                }
                true
            }
            LiveEvent::Removed | LiveEvent::Lagged => true,
            LiveEvent::Failed(error) => {
                tracing::warn!(%error, "a live read ended");
                true
            }
        }
    }
}
