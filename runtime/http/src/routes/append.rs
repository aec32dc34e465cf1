//! `POST`: append records, and perhaps close the stream with them (protocol, section 5.2).

use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use weir_shard::AppendRequest;
use weir_types::StreamKey;

use crate::context::Context;
use crate::error::{ErrorCode, Problem};
use crate::payload::Payload;
use crate::routes::close;
use crate::{fields, render};

/// Appends the body.
pub(crate) async fn post(
    context: &Context,
    key: StreamKey,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response<Payload>, Problem> {
    let mut request = AppendRequest { content_type: fields::content_type(&head.headers)?, ..AppendRequest::default() };
    // Most appends have none of these, and a glance at the names costs less than looking each up.
    if fields::has_rare(&head.headers) {
        fields::check_coding(&head.headers)?;
        request.if_match = fields::if_match(&head.headers)?;
        request.close = fields::closed(&head.headers);
        request.producer = fields::producer(&head.headers)?;
        request.seq = fields::seq(&head.headers)?;
    }
    request.body = context.body(body).await?;
    if request.body.is_empty() {
        return match request.close {
            true => close::close(context, key, request).await,
            false => Err(Problem::new(ErrorCode::BodyEmpty, "a body, or 'Stream-Closed: true', is needed")),
        };
    }
    if request.content_type.is_none() {
        return Err(Problem::new(ErrorCode::ContentTypeMissing, "a body needs a content type"));
    }
    let appended = context.shard().append(key, request).await?;
    // The protocol tells new data from a duplicate by the status, but only to producers.
    let status = match appended.producer {
        Some(_) if !appended.duplicate => StatusCode::OK,
        _ => StatusCode::NO_CONTENT,
    };
    Ok(render::appended(status, &appended))
}
