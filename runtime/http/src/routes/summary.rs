//! `GET` with `summary`: what a fold says of the stream's records, once or after every change.
//!
//! The answer's `Stream-Next-Offset` is where to read on: the state, and the stream from there, are all that a client needs.

use std::rc::Rc;

use http::header::{CACHE_CONTROL, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use weir_shard::{ShardError, SummaryFollower, SummaryView, SummaryWait};
use weir_types::{Offset, StreamKey};

use crate::context::Context;
use crate::error::{ErrorCode, Problem};
use crate::event_text::Encoding;
use crate::headers::NO_STORE;
use crate::payload::Payload;
use crate::query::SummaryRead;
use crate::render;
use crate::routes::follow::{finished, last_event_id};
use crate::session::{LiveSession, Source};
use crate::sse::{self, Control};

/// Reads the summary, or follows it.
pub(crate) async fn get(
    context: &Rc<Context>,
    key: StreamKey,
    head: &Parts,
    read: SummaryRead,
) -> Result<Response<Payload>, Problem> {
    if read.is_followed {
        return follow(context, key, head, read).await;
    }
    let timeout = context.config().long_poll_timeout;
    let view = tokio::select! {
        biased;
        view = context.shard().summary(key, read.query, read.at_least, timeout) => view?,
        () = context.stopped() => return Err(Problem::new(ErrorCode::Unavailable, "the server is stopping")),
    };
    match view {
        SummaryWait::View(view) => Ok(render::view(view, head.headers.get(IF_NONE_MATCH))),
        SummaryWait::Nothing { next, closed } => {
            let mut response = render::empty(StatusCode::NO_CONTENT);
            render::position(response.headers_mut(), next, closed);
            response.headers_mut().insert(CACHE_CONTROL, NO_STORE.clone());
            Ok(response)
        }
    }
}

async fn follow(
    context: &Rc<Context>,
    key: StreamKey,
    head: &Parts,
    read: SummaryRead,
) -> Result<Response<Payload>, Problem> {
    let seen = last_event_id(&head.headers, read.resumed)?;
    let mut follower = context.shard().follow_summary(key, read.query).await?;
    let first = follower.next().await.expect("a follower begins with a view")?;
    if first.closed && seen == Some(first.next) {
        return Ok(finished(first.next));
    }
    // The first view's type decides for all of them: the response can say it only once.
    let encoding = Encoding::of_document(&first.content_type);
    let mut extent = HeaderMap::new();
    render::extent(&mut extent, &first);
    let views = Views { from: first.from, next: first.next, first: Some(first), follower, encoding };
    let mut response = LiveSession::new(context, read.cursor).response(head.version, encoding, views);
    response.headers_mut().extend(extent);
    Ok(response)
}

/// What a fold says, as events.
struct Views {
    first: Option<SummaryView>,
    /// All views are of records from this offset on.
    from: Offset,
    /// The last view is of all records before this offset.
    next: Offset,
    follower: SummaryFollower,
    encoding: Encoding,
}

impl Source for Views {
    type Event = Option<Result<SummaryView, ShardError>>;

    async fn next(&mut self) -> Self::Event {
        match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.follower.next().await,
        }
    }

    fn send(&mut self, session: &mut LiveSession, event: Self::Event) -> bool {
        let Some(event) = event else { return true };
        let view = match event {
            Ok(view) => view,
            Err(error) => {
                session.put(sse::failed(Problem::from(error).document(), self.next));
                return true;
            }
        };
        if Encoding::of_document(&view.content_type) != self.encoding || view.from != self.from {
            // The response has said how it is encoded and where the fold begins. The next one says it anew.
            return true;
        }
        let (next, closed) = (view.next, view.closed);
        self.next = next;
        session.count_event(view.body.len());
        session.put_parts(sse::view(self.encoding, view.body, next));
        // A fold that has stopped is of all that it will ever be of, but not of all there is.
        session.control(Control { next, up_to_date: view.failed.is_none(), closed });
        if let Some(reason) = view.failed {
            let stopped = Problem::from(ShardError::SummaryFailed { at: next, reason });
            session.put(sse::failed(stopped.document(), next));
        }
        closed
    }
}
