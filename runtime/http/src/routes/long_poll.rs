//! `GET` with `live=long-poll`: the next data, or `204` when none comes in time (protocol, section 5.7).

use http::header::{CACHE_CONTROL, IF_NONE_MATCH};
use http::request::Parts;
use http::{Response, StatusCode};
use weir_shard::LongPoll;
use weir_types::{ReadFrom, StreamKey};

use crate::context::Context;
use crate::cursor::cursor;
use crate::error::{ErrorCode, Problem};
use crate::headers::{NO_STORE, STREAM_UP_TO_DATE, TRUE};
use crate::payload::Payload;
use crate::query::ReadQuery;
use crate::render::{self, Kept};

/// Waits for data at the query's offset.
pub(crate) async fn get(
    context: &Context,
    key: StreamKey,
    head: &Parts,
    query: ReadQuery,
) -> Result<Response<Payload>, Problem> {
    let shard = context.shard();
    let ended = tokio::select! {
        biased;
        ended = shard.long_poll(key, query.from, context.config().long_poll_timeout) => ended?,
        () = context.stopped() => return Err(Problem::new(ErrorCode::Unavailable, "the server is stopping")),
    };
    let kept = Kept::new(context, head, &query);
    let (mut response, closed) = match ended {
        LongPoll::Page(page) => {
            let closed = page.closed;
            // What came after `now` came after a known place: a page like any other, but not of a fixed address.
            let from = if query.from == ReadFrom::Now { ReadFrom::At(page.start) } else { query.from };
            let mut response = render::page(page, from, kept, head.headers.get(IF_NONE_MATCH));
            if query.from == ReadFrom::Now {
                response.headers_mut().insert(CACHE_CONTROL, NO_STORE.clone());
            }
            (response, closed)
        }
        LongPoll::Nothing { next, closed, earliest } => {
            let mut response = render::empty(StatusCode::NO_CONTENT);
            let headers = response.headers_mut();
            render::position(headers, next, closed);
            render::earliest(headers, earliest);
            headers.insert(&STREAM_UP_TO_DATE, TRUE.clone());
            headers.insert(CACHE_CONTROL, NO_STORE.clone());
            (response, closed)
        }
    };
    // At a closed stream's end nobody polls again.
    if !closed {
        render::cursor(response.headers_mut(), cursor(kept.now_ms, query.cursor));
    }
    Ok(response)
}
