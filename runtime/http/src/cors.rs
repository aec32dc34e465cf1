//! Browsers: a page of any origin may use streams, without credentials, unless configured otherwise; and what is stored
//! never acts as a page of this origin.
//!
//! Origins that are named may do more: send credentials, and do what operators do. Which header fields a page sends is its own
//! affair in either case: a list of them would protect nothing.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};

use crate::headers::{CROSS_ORIGIN, CROSS_ORIGIN_RESOURCE_POLICY, NOSNIFF, STREAM_METHODS, TRUE};
use crate::media::essence;
use crate::path;
use crate::payload::Payload;

/// What a page may see.
static EXPOSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "ETag, Location, Retry-After, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, Producer-Received-Seq, \
     Stream-Closed, Stream-Cursor, Stream-Earliest-Offset, Stream-Expires-At, Stream-Next-Offset, \
     Stream-SSE-Data-Encoding, Stream-Summary-Error, Stream-Summary-Failed, Stream-Summary-From, Stream-TTL, \
     Stream-Up-To-Date",
);
static ANY: HeaderValue = HeaderValue::from_static("*");
static SANDBOX: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");
static ATTACHMENT: HeaderValue = HeaderValue::from_static("attachment");
/// Types of documents that may hold scripts.
const SCRIPTING: [&str; 5] = ["text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml"];
static MAX_AGE_S: HeaderValue = HeaderValue::from_static("86400");

/// The origins whose pages may use the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Any, without credentials, and not what operators do.
    Any,
    /// These, with everything.
    Named(Vec<HeaderValue>),
}

impl Origins {
    /// Reads `*`, or origins such as `https://app.example`, separated by commas; none for an empty text.
    ///
    /// # Errors
    /// A sentence about what is no origin.
    pub fn parse(text: &str) -> Result<Origins, String> {
        if text.trim() == "*" {
            return Ok(Origins::Any);
        }
        let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty()).map(|origin| {
            let uri = origin.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some() && uri.authority().is_some());
            match HeaderValue::from_str(origin) {
                // A browser sends nothing behind the port.
                Ok(value) if uri.is_some() && !origin.ends_with('/') && origin.matches('/').count() == 2 => Ok(value),
                _ => Err(format!("'{origin}' is no origin such as https://app.example:8443")),
            }
        });
        origins.collect::<Result<_, _>>().map(Origins::Named)
    }

    /// What a page that sends `origin` is told of an address, and whether the page is named.
    pub(crate) fn allow(&self, origin: Option<&HeaderValue>, path: &str) -> Option<HeaderValue> {
        match self {
            Origins::Any => (!path::is_operators(path)).then(|| ANY.clone()),
            Origins::Named(origins) => origin.filter(|origin| origins.contains(origin)).cloned(),
        }
    }
}

/// Answers a preflight, for whatever address: what is not there says so when it is asked for.
pub(crate) fn preflight(asked: &HeaderMap) -> Response<Payload> {
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, STREAM_METHODS.clone());
    if let Some(fields) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, fields.clone());
        headers.insert(VARY, HeaderValue::from_name(ACCESS_CONTROL_REQUEST_HEADERS));
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S.clone());
    response
}

/// Adds to a response what browsers need to use it safely; `expose` names our headers to the page.
pub(crate) fn add(headers: &mut HeaderMap, origins: &Origins, allow_origin: Option<HeaderValue>, expose: bool) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF.clone());
    headers.insert(&CROSS_ORIGIN_RESOURCE_POLICY, CROSS_ORIGIN.clone());
    if *origins != Origins::Any {
        // Another page would be told something else.
        headers.append(VARY, HeaderValue::from_name(ORIGIN));
    }
    if let Some(origin) = allow_origin {
        if origin != ANY {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE.clone());
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_send_them() {
        assert_eq!(Origins::parse(" * "), Ok(Origins::Any));
        assert_eq!(Origins::parse(""), Ok(Origins::Named(Vec::new())));
        let named = Origins::parse("https://a.example, http://localhost:3000").expect("two origins");
        let allowed = |origin: &'static str| named.allow(Some(&HeaderValue::from_static(origin)), "/b/s").is_some();
        assert_eq!((allowed("https://a.example"), allowed("http://localhost:3000")), (true, true));
        assert_eq!(
            (allowed("http://a.example"), allowed("https://a.example.evil"), allowed("null")),
            (false, false, false)
        );
        for text in
            ["a.example", "https://a.example/", "https://a.example/x", "*, https://a.example", "https://é", "null"]
        {
            assert!(Origins::parse(text).is_err(), "{text}");
        }
    }
}
