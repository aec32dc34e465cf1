//! `PUT`: create a stream, or make sure that it is there (protocol, section 5.1); or a fork of another one (section 4.2).

use http::header::LOCATION;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use weir_shard::{CreateRequest, ForkRequest};
use weir_stream::Expiry;
use weir_types::StreamKey;

use crate::context::Context;
use crate::error::Problem;
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
    fields::check_coding(&head.headers)?;
    let fork = fields::fork(&head.headers)?;
    let condition = fields::create_condition(&head.headers)?;
    let content_type = fields::content_type(&head.headers)?;
    let expiry = fields::expiry(&head.headers)?;
    let closed = fields::closed(&head.headers);
    let body = context.body(body).await?;
    let (facts, existed) = match fork {
        Some((source, from, sub_offset)) => {
            let request = ForkRequest { source, from, sub_offset, content_type, expiry, closed, body, condition };
            context.shard().fork(key, request).await?
        }
        None => {
            let content_type = content_type.unwrap_or_else(|| CONTENT_TYPE_DEFAULT.into());
            let expiry = expiry.unwrap_or(Expiry::Never);
            let request = CreateRequest { content_type, expiry, closed, body, condition };
            context.shard().create(key, request).await?
        }
    };
    let mut response = render::empty(if existed { StatusCode::OK } else { StatusCode::CREATED });
    render::facts(response.headers_mut(), &facts);
    if !existed && let Some(url) = url_at(&context.base_url(head), head.uri.path()) {
        response.headers_mut().insert(LOCATION, url);
    }
    Ok(response)
}
