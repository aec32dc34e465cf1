//! `PUT`, `GET` and `DELETE /{bucket}`: buckets by name; `GET /-/buckets`: all of them.

use std::num::NonZeroU64;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};
use send_wrapper::SendWrapper;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use weir_shard::{BucketSummary, Shard};
use weir_stream::Retention;
use weir_types::BucketName;

use crate::error::{ErrorCode, Problem};
use crate::headers::{APPLICATION_JSON, NO_STORE};
use crate::query::BucketsQuery;
use crate::render;
use crate::routes::state::{Connection, RouterState};

/// Longest body that says how a bucket is to be.
const BODY_BYTES_MAX: usize = 64 << 10;

#[derive(Serialize)]
struct Bucket<'a> {
    name: &'a str,
    created: String,
    streams: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Limits>,
}

/// How a bucket is asked to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    /// `null` for no limits.
    #[serde(borrow, default, deserialize_with = "given")]
    retention: Option<&'a RawValue>,
}

/// A field that is there, be it `null`.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// A [`Retention`] with at least one limit.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_s: Option<NonZeroU64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<NonZeroU64>,
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

/// Creates the bucket: 201, or 200 when it is there already. A body, JSON whatever its content type says, says what the bucket
/// keeps from now on.
pub(crate) async fn put(
    State(state): State<RouterState>,
    Path(bucket): Path<String>,
    connection: Connection,
    body: Body,
) -> Result<Response, Problem> {
    let name = BucketName::new(&bucket)?;
    let mut body = state.body(body, connection, BODY_BYTES_MAX).await?;
    body.join();
    let (retention, shard) = (retention(body.first())?, &state.shard);
    let (summary, existed) = SendWrapper::new(async {
        let existed = shard.bucket_create(name.clone(), retention).await?;
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

/// The retention that a body asks for; none for an empty one.
fn retention(body: &[u8]) -> Result<Option<Retention>, Problem> {
    let invalid = |detail: String| Problem::new(ErrorCode::BucketInvalid, detail);
    let body = body.trim_ascii();
    if body.is_empty() {
        return Ok(None);
    }
    // An array of the values would be taken for the object, too.
    if !body.starts_with(b"{") {
        return Err(invalid("a bucket is a JSON object, perhaps with 'retention'".to_string()));
    }
    let asked: Asked<'_> = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    let Some(limits) = asked.retention.map(RawValue::get) else { return Ok(None) };
    if limits == "null" {
        return Ok(Some(Retention::default()));
    }
    let is_object = limits.starts_with('{');
    let Limits { age_s, bytes } = serde_json::from_str(limits).map_err(|error| invalid(error.to_string()))?;
    let retention = Retention { age_s, bytes };
    if !is_object || retention.is_unlimited() {
        return Err(invalid("'retention' is an object with 'age_s' or 'bytes' or both, or null".to_string()));
    }
    Ok(Some(retention))
}

fn describe(status: StatusCode, name: &BucketName, summary: BucketSummary) -> Response {
    let (created, Retention { age_s, bytes }) = (render::time(summary.created_ms), summary.retention);
    let retention = (!summary.retention.is_unlimited()).then_some(Limits { age_s, bytes });
    json(status, &Bucket { name: name.as_str(), created, streams: summary.streams, retention })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `age bytes`, `-` where nothing is asked for, or the refusal's sentence.
    fn check(body: &str) -> String {
        match retention(body.as_bytes()) {
            Ok(None) => "-".to_string(),
            Ok(Some(Retention { age_s, bytes })) => {
                let [age, bytes] = [age_s, bytes].map(|limit| limit.map_or(0, NonZeroU64::get));
                format!("{age} {bytes}")
            }
            Err(problem) => {
                assert_eq!(problem.code(), ErrorCode::BucketInvalid, "{body}");
                problem.detail().to_string()
            }
        }
    }

    #[test]
    fn retention_is_asked_for_by_one_limit_or_both() {
        assert_eq!(check(r#"{"retention":{"age_s":60,"bytes":1000}}"#), "60 1000");
        assert_eq!(check(r#" {"retention":{"age_s":60}}"#), "60 0");
        assert_eq!(check(r#"{"retention":{"bytes":1}}"#), "0 1");
        assert_eq!(check(r#"{"retention":null}"#), "0 0");
        for body in ["", " ", "{}"] {
            assert_eq!(check(body), "-", "{body}");
        }
    }

    #[test]
    fn what_is_no_retention_is_refused() {
        for body in ["[]", "null", "7"] {
            assert_eq!(check(body), "a bucket is a JSON object, perhaps with 'retention'", "{body}");
        }
        assert_eq!(check(r#"{"retention":{}}"#), "'retention' is an object with 'age_s' or 'bytes' or both, or null");
        assert!(check(r#"{"retain":{}}"#).starts_with("unknown field `retain`"));
        assert!(check(r#"{"retention":{"age":1}}"#).starts_with("unknown field `age`"));
        assert!(check(r#"{"retention":{"age_s":0}}"#).starts_with("invalid value: integer `0`"));
        assert!(check(r#"{"retention":{"bytes":-1}}"#).starts_with("invalid value: integer `-1`"));
        assert!(check(r#"{"retention":{"bytes":"1"}}"#).starts_with("invalid type: string"));
        assert!(check(r#"{"retention":[1,2]}"#).starts_with("'retention' is an object"));
        assert!(check(r#"{"retention":"#).starts_with("EOF while parsing"));
    }
}
