//! `GET /`: what this server is, for people who open it; `GET /-/health`: whether it serves, for load balancers.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use weir_shard::Shard;

use crate::error::{ErrorCode, Problem};
use crate::headers::NO_STORE;

const ABOUT: &str = concat!(
    "Weir ",
    env!("CARGO_PKG_VERSION"),
    ": append-only event streams over HTTP, by the Durable Streams Protocol.\n\n",
    "PUT /demo/hello creates a stream, POST appends to it, GET reads it.\n",
    "GET /demo/hello?offset=-1&live=sse follows it.\n",
    "GET /-/buckets lists buckets, GET /demo/-/streams the streams of one.\n",
    "/v1/stream/hello is the stream 'hello' of the bucket 'default', as official clients call it.\n",
    "/-/openapi.json describes every address.\n",
);

/// Says what the server is.
pub(crate) async fn get() -> Response {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], ABOUT).into_response()
}

/// Says that this shard takes requests. A server that is starting or stopping does not answer at all.
pub(crate) async fn health(State(shard): State<Shard>) -> Result<Response, Problem> {
    if shard.has_failed() {
        return Err(Problem::new(
            ErrorCode::LogFailed,
            "a log cannot be written any more; the admin port's /readyz says which",
        ));
    }
    Ok(([(CONTENT_TYPE, "text/plain"), (CACHE_CONTROL, NO_STORE.to_str().expect("ASCII"))], "ok\n").into_response())
}
