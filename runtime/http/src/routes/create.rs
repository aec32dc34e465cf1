//! `PUT`: create a stream, or make sure that it is there (protocol, section 5.1).

use http::header::LOCATION;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use weir_shard::CreateRequest;
use weir_types::StreamKey;

use crate::context::Context;
use crate::error::{ErrorCode, Problem};
use crate::headers::{STREAM_FORK_OFFSET, STREAM_FORK_SUB_OFFSET, STREAM_FORKED_FROM};
use crate::path::url_at;
use crate::payload::Payload;
use crate::{fields, render};

/// The type of a stream that was created without one.
const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// Creates the stream with the body as its first records.
pub(crate) async fn put(
    context: &Context,
    key: StreamKey,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response<Payload>, Problem> {
    // Refused rather than ignored: a fork without its source's data would be a silent loss.
    if [&STREAM_FORKED_FROM, &STREAM_FORK_OFFSET, &STREAM_FORK_SUB_OFFSET]
        .iter()
        .any(|name| head.headers.contains_key(*name))
    {
        return Err(Problem::new(ErrorCode::NotSupported, "streams cannot be forked yet"));
    }
    fields::check_coding(&head.headers)?;
    let condition = fields::create_condition(&head.headers)?;
    let content_type = fields::content_type(&head.headers)?.unwrap_or_else(|| CONTENT_TYPE_DEFAULT.into());
    let expiry = fields::expiry(&head.headers)?;
    let closed = fields::closed(&head.headers);
    let body = context.body(body).await?;
    let request = CreateRequest { content_type, expiry, closed, body, condition };
    let (facts, existed) = context.shard().create(key, request).await?;
    let mut response = render::empty(if existed { StatusCode::OK } else { StatusCode::CREATED });
    render::facts(response.headers_mut(), &facts);
    if !existed && let Some(url) = url_at(&context.base_url(head), head.uri.path()) {
        response.headers_mut().insert(LOCATION, url);
    }
    Ok(response)
}
