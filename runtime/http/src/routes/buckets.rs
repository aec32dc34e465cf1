//! `PUT`, `GET` and `DELETE /{bucket}`: buckets by name; `GET /-/buckets`: all of them.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};
use send_wrapper::SendWrapper;
use serde::Serialize;
use weir_shard::{BucketSummary, Shard};
use weir_types::BucketName;

use crate::error::Problem;
use crate::headers::{APPLICATION_JSON, NO_STORE};
use crate::query::BucketsQuery;
use crate::render;

#[derive(Serialize)]
struct Bucket<'a> {
    name: &'a str,
    created: String,
    streams: u64,
}

/// A page of buckets.
#[derive(Serialize)]
struct Buckets {
    buckets: Vec<Row>,
    /// `after` for the next page; none on the last.
    next: Option<Box<str>>,
}

#[derive(Serialize)]
struct Row {
    name: Box<str>,
    created: String,
}

/// Lists buckets, without their streams: to count those, every group would have to be asked.
pub(crate) async fn list(State(shard): State<Shard>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let BucketsQuery { after, limit } = BucketsQuery::parse(query.as_deref())?;
    // One more than is shown says whether there is another page.
    let mut buckets = SendWrapper::new(shard.buckets(&after, limit + 1)).await?;
    let is_last = buckets.len() <= limit;
    buckets.truncate(limit);
    let next = buckets.last().filter(|_| !is_last).map(|(name, _)| name.clone());
    let row = |(name, created_ms)| Row { name, created: render::time(created_ms) };
    Ok(json(StatusCode::OK, &Buckets { buckets: buckets.into_iter().map(row).collect(), next }))
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
