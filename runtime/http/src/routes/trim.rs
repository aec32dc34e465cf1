//! `POST /{bucket}/-/trim/{name}`: gives up a stream's oldest records.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use send_wrapper::SendWrapper;
use weir_shard::Shard;
use weir_types::StreamKey;

use crate::error::Problem;
use crate::headers::{NO_STORE, STREAM_EARLIEST_OFFSET, offset};
use crate::query;
use crate::render;

/// Trims the stream; says where it begins now.
pub(crate) async fn post(
    State(shard): State<Shard>,
    Path((bucket, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let key = StreamKey::new(&bucket, &name)?;
    let request = query::trim(query.as_deref())?;
    let facts = SendWrapper::new(shard.trim(key, request)).await?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    render::position(headers, facts.next, facts.closed);
    headers.insert(&STREAM_EARLIEST_OFFSET, offset(facts.earliest));
    headers.insert(CACHE_CONTROL, NO_STORE.clone());
    Ok(response)
}
