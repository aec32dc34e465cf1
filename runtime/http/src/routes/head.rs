//! `HEAD`: a stream's configuration and tail (protocol, section 5.5).

use http::header::CACHE_CONTROL;
use http::{Response, StatusCode};
use weir_types::StreamKey;

use crate::context::Context;
use crate::error::Problem;
use crate::headers::NO_STORE;
use crate::payload::Payload;
use crate::render;

/// Describes the stream.
pub(crate) async fn head(context: &Context, key: StreamKey) -> Result<Response<Payload>, Problem> {
    let facts = context.shard().head(key).await?;
    let mut response = render::empty(StatusCode::OK);
    render::facts(response.headers_mut(), &facts);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE.clone());
    Ok(response)
}
