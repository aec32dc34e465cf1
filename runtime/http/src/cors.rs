//! Browsers: a page of any origin may use streams, without credentials, unless configured otherwise; and what is stored
//! never acts as a page of this origin.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::headers::{CROSS_ORIGIN, CROSS_ORIGIN_RESOURCE_POLICY, NOSNIFF, STREAM_METHODS};
use crate::media::essence;
use crate::payload::Payload;

/// What a page may send.
static ALLOW_HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID, Producer-Id, Producer-Epoch, Producer-Seq, \
     Stream-Closed, Stream-Expires-At, Stream-Fork-Offset, Stream-Fork-Sub-Offset, Stream-Forked-From, Stream-Seq, \
     Stream-TTL",
);
/// What a page may see.
static EXPOSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "ETag, Location, Retry-After, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, Producer-Received-Seq, \
     Stream-Closed, Stream-Cursor, Stream-Expires-At, Stream-Next-Offset, Stream-SSE-Data-Encoding, \
     Stream-Summary-Error, Stream-Summary-Failed, Stream-TTL, Stream-Up-To-Date",
);
static SANDBOX: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");
static ATTACHMENT: HeaderValue = HeaderValue::from_static("attachment");
/// Types of documents that may hold scripts.
const SCRIPTING: [&str; 5] = ["text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml"];
static MAX_AGE_S: HeaderValue = HeaderValue::from_static("86400");

/// Answers a preflight, for whatever address: what is not there says so when it is asked for.
pub(crate) fn preflight() -> Response<Payload> {
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, STREAM_METHODS.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS.clone());
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S.clone());
    response
}

/// Adds to a response what browsers need to use it safely; `expose` names our headers to the page.
pub(crate) fn add(headers: &mut HeaderMap, allow_origin: Option<&HeaderValue>, expose: bool) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF.clone());
    headers.insert(&CROSS_ORIGIN_RESOURCE_POLICY, CROSS_ORIGIN.clone());
    if let Some(origin) = allow_origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSE_HEADERS.clone());
        }
    }
}

/// Adds to the response of a `GET` what keeps stored bytes from acting in this origin's name: no script in them runs, and what
/// can hold any is saved and not shown.
pub(crate) fn disarm(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, SANDBOX.clone());
    let content_type = headers.get(CONTENT_TYPE).and_then(|content_type| content_type.to_str().ok());
    if content_type
        .is_some_and(|content_type| SCRIPTING.iter().any(|of| essence(content_type).eq_ignore_ascii_case(of)))
    {
        headers.insert(CONTENT_DISPOSITION, ATTACHMENT.clone());
    }
}
