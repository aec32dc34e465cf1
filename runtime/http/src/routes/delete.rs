//! `DELETE`: remove a stream and all its data (protocol, section 5.4).

use http::request::Parts;
use http::{Response, StatusCode};
use weir_types::StreamKey;

use crate::context::Context;
use crate::error::Problem;
use crate::payload::Payload;
use crate::{fields, render};

/// Deletes the stream.
pub(crate) async fn delete(context: &Context, key: StreamKey, head: &Parts) -> Result<Response<Payload>, Problem> {
    context.shard().delete(key, fields::if_match(&head.headers)?).await?;
    Ok(render::empty(StatusCode::NO_CONTENT))
}
