//! The protocol's header names and our own, and the values that never change, ready to be cloned without an allocation.
//!
//! Source: Durable Streams Protocol, section 13.2; `stream-earliest-offset` and `stream-summary-*` are ours. They are statics and not constants so that a use is a reference.

use http::{HeaderName, HeaderValue};
use weir_types::Offset;

pub(crate) static STREAM_CLOSED: HeaderName = HeaderName::from_static("stream-closed");
pub(crate) static STREAM_CURSOR: HeaderName = HeaderName::from_static("stream-cursor");
/// The offset before the first record that has not been trimmed.
pub(crate) static STREAM_EARLIEST_OFFSET: HeaderName = HeaderName::from_static("stream-earliest-offset");
pub(crate) static STREAM_EXPIRES_AT: HeaderName = HeaderName::from_static("stream-expires-at");
pub(crate) static STREAM_FORKED_FROM: HeaderName = HeaderName::from_static("stream-forked-from");
pub(crate) static STREAM_FORK_OFFSET: HeaderName = HeaderName::from_static("stream-fork-offset");
pub(crate) static STREAM_FORK_SUB_OFFSET: HeaderName = HeaderName::from_static("stream-fork-sub-offset");
pub(crate) static STREAM_NEXT_OFFSET: HeaderName = HeaderName::from_static("stream-next-offset");
pub(crate) static STREAM_SEQ: HeaderName = HeaderName::from_static("stream-seq");
pub(crate) static STREAM_SSE_DATA_ENCODING: HeaderName = HeaderName::from_static("stream-sse-data-encoding");
/// Why a summary does not go on, in the server's or the module's words.
pub(crate) static STREAM_SUMMARY_ERROR: HeaderName = HeaderName::from_static("stream-summary-error");
/// The offset of the record at which a summary has stopped for good.
pub(crate) static STREAM_SUMMARY_FAILED: HeaderName = HeaderName::from_static("stream-summary-failed");
/// The offset before the first record that a summary is of, where that is not the stream's first.
pub(crate) static STREAM_SUMMARY_FROM: HeaderName = HeaderName::from_static("stream-summary-from");
pub(crate) static STREAM_TTL: HeaderName = HeaderName::from_static("stream-ttl");
pub(crate) static STREAM_UP_TO_DATE: HeaderName = HeaderName::from_static("stream-up-to-date");

pub(crate) static PRODUCER_ID: HeaderName = HeaderName::from_static("producer-id");
pub(crate) static PRODUCER_EPOCH: HeaderName = HeaderName::from_static("producer-epoch");
pub(crate) static PRODUCER_SEQ: HeaderName = HeaderName::from_static("producer-seq");
pub(crate) static PRODUCER_EXPECTED_SEQ: HeaderName = HeaderName::from_static("producer-expected-seq");
pub(crate) static PRODUCER_RECEIVED_SEQ: HeaderName = HeaderName::from_static("producer-received-seq");

pub(crate) static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub(crate) static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(crate) static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
pub(crate) static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(crate) static TRUE: HeaderValue = HeaderValue::from_static("true");
pub(crate) static NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
pub(crate) static NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
pub(crate) static NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
pub(crate) static CROSS_ORIGIN: HeaderValue = HeaderValue::from_static("cross-origin");
pub(crate) static APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) static PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
pub(crate) static PUBLIC_ONE_MINUTE: HeaderValue =
    HeaderValue::from_static("public, max-age=60, stale-while-revalidate=300");
pub(crate) static PRIVATE_ONE_MINUTE: HeaderValue =
    HeaderValue::from_static("private, max-age=60, stale-while-revalidate=300");
/// The methods of a stream's address.
pub(crate) static STREAM_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS");

/// An offset's token.
pub(crate) fn offset(offset: Offset) -> HeaderValue {
    HeaderValue::from_bytes(&offset.token()).expect("a token is ASCII")
}
