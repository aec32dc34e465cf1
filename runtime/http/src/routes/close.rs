//! `POST` with `Stream-Closed: true` and no body: close the stream (protocol, section 5.3).

use http::{Response, StatusCode};
use weir_shard::AppendRequest;
use weir_types::StreamKey;

use crate::context::Context;
use crate::error::Problem;
use crate::payload::Payload;
use crate::render;

/// Closes the stream. `request` has no body; its content type is not looked at, because clients send one by habit.
pub(crate) async fn close(
    context: &Context,
    key: StreamKey,
    request: AppendRequest,
) -> Result<Response<Payload>, Problem> {
    assert!(request.close, "the caller has seen the header");
    assert!(request.body.is_empty(), "with a body it is an append");
    let request = AppendRequest { content_type: None, ..request };
    let closed = context.shard().append(key, request).await?;
    // 204 for producers too: nothing was appended that they could tell from a duplicate.
    Ok(render::appended(StatusCode::NO_CONTENT, &closed))
}
