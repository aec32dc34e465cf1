//! `GET`: one page of what is there (protocol, section 5.6).

use http::Response;
use http::header::IF_NONE_MATCH;
use http::request::Parts;
use weir_types::StreamKey;
use weir_types::limits::PAGE_BYTES_MAX;

use crate::context::Context;
use crate::error::Problem;
use crate::payload::Payload;
use crate::query::ReadQuery;
use crate::render::{self, Kept};

/// Reads the page at the query's offset.
pub(crate) async fn get(
    context: &Context,
    key: StreamKey,
    head: &Parts,
    query: ReadQuery,
) -> Result<Response<Payload>, Problem> {
    let page = context.shard().read(key, query.from, PAGE_BYTES_MAX).await?;
    let kept = Kept::new(context, head, &query);
    Ok(render::page(page, query.from, kept, head.headers.get(IF_NONE_MATCH)))
}
