//! `PUT`, `GET` and `DELETE /{bucket}`: buckets by name.

use axum::extract::{Path, State};
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};
use send_wrapper::SendWrapper;
use serde::Serialize;
use weir_shard::{BucketSummary, Shard};
use weir_types::BucketName;

use crate::error::Problem;
use crate::headers::{APPLICATION_JSON, NO_STORE};
use crate::render;

#[derive(Serialize)]
struct Bucket<'a> {
    name: &'a str,
    created: String,
    streams: u64,
}

/// Creates the bucket: 201, or 200 when it is there already.
pub(crate) async fn put(State(shard): State<Shard>, Path(bucket): Path<String>) -> Result<Response, Problem> {
    let name = BucketName::new(&bucket)?;
    let (summary, existed) = SendWrapper::new(async {
        let existed = shard.bucket_create(name.clone()).await?;
        Ok::<_, Problem>((shard.bucket(name.clone()).await?, existed))
    })
    .await?;
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    let response = describe(status, &name, summary);
    Ok(if existed { response } else { located(response, &format!("/{name}")) })
}

/// Describes the bucket.
pub(crate) async fn get(State(shard): State<Shard>, Path(bucket): Path<String>) -> Result<Response, Problem> {
    let name = BucketName::new(&bucket)?;
    let summary = SendWrapper::new(shard.bucket(name.clone())).await?;
    Ok(describe(StatusCode::OK, &name, summary))
}

/// Deletes the bucket when it is empty.
pub(crate) async fn delete(State(shard): State<Shard>, Path(bucket): Path<String>) -> Result<Response, Problem> {
    let name = BucketName::new(&bucket)?;
    SendWrapper::new(shard.bucket_delete(name)).await?;
    Ok(deleted())
}

fn describe(status: StatusCode, name: &BucketName, summary: BucketSummary) -> Response {
    let created = render::time(summary.created_ms);
    json(status, &Bucket { name: name.as_str(), created, streams: summary.streams })
}

/// The answer when something is gone.
pub(crate) fn deleted() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Says where to find what the response is about; `path` is made of checked names.
pub(crate) fn located(mut response: Response, path: &str) -> Response {
    let path = HeaderValue::from_str(path).expect("names are ASCII");
    response.headers_mut().insert(LOCATION, path);
    response
}

/// A JSON document about something that changes.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    let body = serde_json::to_vec(document).expect("plain structs are JSON");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, APPLICATION_JSON.clone());
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE.clone());
    response
}
