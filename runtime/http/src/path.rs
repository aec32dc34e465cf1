//! Addresses: which stream a path names, if it names one.
//!
//! `/{bucket}/{name...}` is a stream; `/v1/stream/{name...}` and `/v1/streams/{name...}` are the same streams of the
//! bucket `default`. What is left is the router's: buckets, and what is reserved (`/{bucket}/-/...`, `/-/...`,
//! `/v1/...`). What is below a first name segment `__ds` is found before anything is decoded, and has its own rules.
//!
//! A path is percent-decoded once, before it is split. An encoded slash is refused, so that a name is cut into
//! segments in one way only.

use bytes::Bytes;
use http::HeaderValue;
use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use weir_types::{BucketName, StreamKey, cut_at_slash};

use crate::error::{ErrorCode, Problem};

/// The bucket of the addresses that have none.
const DEFAULT_BUCKET: &str = "default";

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A stream.
    Stream(StreamKey),
    /// What is below `__ds`, as it was sent.
    Ds(Root, String),
    /// Something else, or nothing.
    Other,
}

/// A bucket, as a client has called it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// The bucket.
    pub(crate) bucket: BucketName,
    /// `/demo`, `/v1/stream` or `/v1/streams`.
    pub(crate) path: String,
}

/// Reads a path below `__ds`. Nothing is decoded: what follows may have slashes in its names.
fn ds(path: &str) -> Option<Target> {
    let rest = path.strip_prefix('/')?;
    let (first, below) = cut_at_slash(rest)?;
    let (bucket, root, below) = match first {
        "v1" => {
            let (form @ ("stream" | "streams"), below) = cut_at_slash(below)? else { return None };
            (DEFAULT_BUCKET, format!("/v1/{form}"), below)
        }
        _ => (first, format!("/{first}"), below),
    };
    let rest = below.strip_prefix("__ds/")?;
    let bucket = BucketName::new(bucket).ok()?;
    Some(Target::Ds(Root { bucket, path: root }, rest.to_string()))
}

/// Reads a request's path, as sent.
pub(crate) fn parse(path: &str) -> Result<Target, Problem> {
    if let Some(target) = ds(path) {
        return Ok(target);
    }
    let path = decode(path)?;
    let Some(rest) = path.strip_prefix('/') else { return Ok(Target::Other) };
    let Some((bucket, name)) = cut_at_slash(rest) else { return Ok(Target::Other) };
    let (bucket, name) = match bucket {
        "v1" => match cut_at_slash(name) {
            Some(("stream" | "streams", name)) => (DEFAULT_BUCKET, name),
            _ => return Ok(Target::Other),
        },
        "-" | ".well-known" => return Ok(Target::Other),
        _ => (bucket, name),
    };
    if matches!(cut_at_slash(name).map_or(name, |(first, _)| first), "-" | "__ds") {
        return Ok(Target::Other);
    }
    Ok(Target::Stream(StreamKey::new(bucket, name)?))
}

fn decode(path: &str) -> Result<Cow<'_, str>, Problem> {
    let malformed = |detail| Problem::new(ErrorCode::PathMalformed, detail);
    if !path.as_bytes().contains(&b'%') {
        return Ok(Cow::Borrowed(path));
    }
    let bytes = path.as_bytes();
    for (i, _) in path.match_indices('%') {
        match bytes.get(i + 1..i + 3) {
            Some(hex) if hex.eq_ignore_ascii_case(b"2f") => return Err(malformed("an encoded slash is refused")),
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => {}
            _ => return Err(malformed("a '%' is followed by two hexadecimal digits")),
        }
    }
    percent_decode_str(path).decode_utf8().map_err(|_| malformed("the path is not UTF-8"))
}

/// Whether what is at `path` is an operator's business: buckets, modules, bindings, subscriptions, lists.
pub(crate) fn is_operators(path: &str) -> bool {
    let below_root = path.strip_prefix('/').unwrap_or(path);
    if ds(path).is_some() {
        return true;
    }
    match cut_at_slash(below_root) {
        Some((first, below)) => first == "-" || below.starts_with("-/"),
        None => !below_root.is_empty(),
    }
}

/// The address of `path` below what [`Context::base_url`](crate::context::Context::base_url) says.
pub(crate) fn url_at(base: &str, path: &str) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::from(format!("{base}{path}"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `bucket/name`, `other`, or the code of the refusal.
    fn check(path: &str) -> String {
        match parse(path) {
            Ok(Target::Stream(key)) => key.to_string(),
            Ok(Target::Ds(root, rest)) => format!("{} {} {rest}", root.bucket, root.path),
            Ok(Target::Other) => "other".to_string(),
            Err(problem) => problem.code().as_str().to_string(),
        }
    }

    #[test]
    fn both_forms_of_an_address_name_one_stream() {
        for path in ["/v1/stream/a/b", "/v1/streams/a/b", "/default/a/b", "/v1/stream/a/%62", "/d%65fault/a/b"] {
            assert_eq!(check(path), "default/a/b", "{path}");
        }
        assert_eq!(check("/demo/orders/7/.updates"), "demo/orders/7/.updates");
    }

    #[test]
    fn buckets_and_reserved_addresses_are_the_routers() {
        for path in ["/", "/demo", "/demo/-/streams", "/-/x", "/v1/other", "/v1/stream", "/demo/__ds", "*", ""] {
            assert_eq!(check(path), "other", "{path}");
        }
        assert_eq!(check("/v1/stream/__ds/subscriptions/x"), "default /v1/stream subscriptions/x");
        assert_eq!(check("/v1/streams/__ds/jwks.json"), "default /v1/streams jwks.json");
        assert_eq!(check("/demo/__ds/subscriptions/s/streams/a%2Fb"), "demo /demo subscriptions/s/streams/a%2Fb");
        assert_eq!(check("/demo/a/__ds/x"), "demo/a/__ds/x");
        assert_eq!(check("/v1/stream/-/x"), "other");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert_eq!(check("/demo/a%2Fb"), "path_malformed");
        assert_eq!(check("/demo%2fa"), "path_malformed");
        assert_eq!(check("/demo/a%2"), "path_malformed");
        assert_eq!(check("/demo/a%zz"), "path_malformed");
        assert_eq!(check("/demo/a%ff"), "path_malformed");
        assert_eq!(check("/demo/a%00"), "stream_name_invalid");
        assert_eq!(check("/demo/a/../b"), "stream_name_invalid");
        assert_eq!(check("/demo/a/%2e%2e/b"), "stream_name_invalid");
        assert_eq!(check("/demo/"), "stream_name_invalid");
        assert_eq!(check("/Demo/a"), "bucket_name_invalid");
    }

    #[test]
    fn a_name_is_decoded_once() {
        assert_eq!(check("/demo/a%2525"), "demo/a%25");
        assert_eq!(check("/demo/%C3%A9"), "demo/é");
        assert_eq!(check("/demo/a+b"), "demo/a+b");
    }
}
