//! `{root}/__ds/...`: subscriptions, and what those say who were woken.
//!
//! A refusal is a problem document as everywhere, and has the `error` of the protocol besides.
//!
//! Source: Durable Streams Protocol, sections 6 and 7.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use weir_shard::{AckRequest, LinkedStream, SubscriptionView, parse_wake_id, wake_id};
use weir_stream::Pattern;
use weir_stream::subscription::{Delivery, Link, SubscriptionConfig, Turn, is_subscription_id};
use weir_types::limits::{LEASE_MS, SUBSCRIPTION_STREAMS_MAX, SUBSCRIPTION_TEXT_BYTES_MAX, SUBSCRIPTION_URL_BYTES_MAX};
use weir_types::{BucketName, Offset, StreamKey};

use crate::body::{self, Bounds};
use crate::context::Context;
use crate::error::{ErrorCode, Problem};
use crate::fields;
use crate::headers::{APPLICATION_JSON, NO_STORE};
use crate::path::Root;
use crate::payload::Payload;
use crate::render;

/// Longest body: as many names as a subscription may have.
const BODY_BYTES_MAX: usize = 2 << 20;
/// What a lease is when nothing is said, in milliseconds.
const LEASE_MS_DEFAULT: u64 = 30_000;
/// What stands for an offset of a stream that is not there.
const OFFSET_NONE: &str = "-1";

static JWK_SET: HeaderValue = HeaderValue::from_static("application/jwk-set+json");
static PUBLIC_FIVE_MINUTES: HeaderValue = HeaderValue::from_static("public, max-age=300");
static BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// What an address below `__ds` names.
enum Place<'a> {
    Keys,
    Subscription(Cow<'a, str>),
    Streams(Cow<'a, str>),
    Stream(Cow<'a, str>, Cow<'a, str>),
    Callback(Cow<'a, str>),
    Claim(Cow<'a, str>),
    Ack(Cow<'a, str>),
    Release(Cow<'a, str>),
}

impl<'a> Place<'a> {
    /// Reads what follows `__ds/`, as sent.
    fn parse(rest: &'a str) -> Result<Place<'a>, Problem> {
        if rest == "jwks.json" {
            return Ok(Place::Keys);
        }
        let nothing = || Problem::new(ErrorCode::RouteNotFound, "there is nothing at this address");
        let rest = rest.strip_prefix("subscriptions/").ok_or_else(nothing)?;
        let (id, below) = rest.split_once('/').map_or((rest, None), |(id, below)| (id, Some(below)));
        let id = decoded(id)?;
        if !is_subscription_id(&id) {
            return Err(invalid("a subscription's id is 1 to 128 characters of one segment of a path"));
        }
        Ok(match below {
            None => Place::Subscription(id),
            Some("streams") => Place::Streams(id),
            Some("callback") => Place::Callback(id),
            Some("claim") => Place::Claim(id),
            Some("ack") => Place::Ack(id),
            Some("release") => Place::Release(id),
            Some(below) => Place::Stream(id, decoded(below.strip_prefix("streams/").ok_or_else(nothing)?)?),
        })
    }

    fn methods(&self) -> &'static str {
        match self {
            Place::Keys => "GET, HEAD, OPTIONS",
            Place::Subscription(_) => "GET, HEAD, PUT, DELETE, OPTIONS",
            Place::Stream(..) => "DELETE, OPTIONS",
            Place::Streams(_) | Place::Callback(_) | Place::Claim(_) | Place::Ack(_) | Place::Release(_) => {
                "POST, OPTIONS"
            }
        }
    }
}

/// A subscription as it is asked for.
#[derive(Deserialize)]
struct Asked {
    r#type: String,
    pattern: Option<String>,
    streams: Option<Vec<String>>,
    webhook: Option<AskedWebhook>,
    wake_stream: Option<String>,
    lease_ttl_ms: Option<u64>,
    description: Option<String>,
}

#[derive(Deserialize)]
struct AskedWebhook {
    url: String,
}

#[derive(Deserialize)]
struct AskedStreams {
    streams: Vec<String>,
}

#[derive(Deserialize)]
struct AskedClaim {
    worker: String,
}

#[derive(Deserialize)]
struct Said {
    wake_id: String,
    generation: u64,
    #[serde(default)]
    acks: Vec<SaidAck>,
    #[serde(default)]
    done: bool,
}

#[derive(Deserialize)]
struct SaidAck {
    stream: String,
    offset: String,
}

/// A subscription as it is.
#[derive(Serialize)]
struct Document<'a> {
    id: &'a str,
    subscription_id: &'a str,
    r#type: &'static str,
    pattern: Option<&'a str>,
    streams: Vec<LinkDocument<'a>>,
    webhook: Option<WebhookDocument<'a>>,
    wake_stream: Option<&'a str>,
    lease_ttl_ms: u64,
    created_at: String,
    status: &'static str,
    description: Option<&'a str>,
}

#[derive(Serialize)]
struct WebhookDocument<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing: Option<SigningDocument<'a>>,
}

#[derive(Serialize)]
struct SigningDocument<'a> {
    alg: &'static str,
    kid: &'a str,
    jwks_url: String,
}

#[derive(Serialize)]
struct LinkDocument<'a> {
    path: &'a str,
    link_type: &'static str,
    acked_offset: String,
}

#[derive(Serialize)]
struct ClaimDocument<'a> {
    wake_id: String,
    generation: u64,
    token: &'a str,
    streams: Vec<PendingDocument<'a>>,
    lease_ttl_ms: u64,
}

#[derive(Serialize)]
struct PendingDocument<'a> {
    #[serde(flatten)]
    link: LinkDocument<'a>,
    tail_offset: String,
    has_pending: bool,
}

#[derive(Serialize)]
struct AckDocument {
    ok: bool,
    next_wake: bool,
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<Jwk>,
}

#[derive(Serialize)]
struct Jwk {
    kty: &'static str,
    crv: &'static str,
    kid: String,
    r#use: &'static str,
    alg: &'static str,
    x: String,
}

/// Answers a request for what `rest` names below `root`.
pub(crate) async fn serve(
    context: &Rc<Context>,
    root: Root,
    rest: &str,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response<Payload>, Problem> {
    answer(context, root, rest, head, body).await.map_err(Problem::in_protocols_form)
}

async fn answer(
    context: &Rc<Context>,
    root: Root,
    rest: &str,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response<Payload>, Problem> {
    fields::check_coding(&head.headers)?;
    let place = Place::parse(rest)?;
    let url = format!("{}{}", context.base_url(head), root.path);
    let (shard, bucket) = (context.shard(), root.bucket);
    let is_get = matches!(head.method, Method::GET | Method::HEAD);
    let is_post = head.method == Method::POST;
    match place {
        Place::Keys if is_get => {
            let keys = shard.hook_keys().await?.into_iter().map(|key| {
                let (kty, crv, r#use, alg) = ("OKP", "Ed25519", "sig", "EdDSA");
                Jwk { kty, crv, kid: key.kid, r#use, alg, x: key.x }
            });
            let mut response = json(StatusCode::OK, &Keys { keys: keys.collect() });
            response.headers_mut().insert(CONTENT_TYPE, JWK_SET.clone());
            response.headers_mut().insert(CACHE_CONTROL, PUBLIC_FIVE_MINUTES.clone());
            Ok(response)
        }
        Place::Subscription(id) if head.method == Method::PUT => {
            let config = config(&bucket, &whole(context, body).await?)?;
            if url.len() > SUBSCRIPTION_URL_BYTES_MAX {
                return Err(invalid("the name that the server is called by is too long"));
            }
            let view = shard.subscription_put(bucket, &id, config, &url).await?;
            let status = if view.existed { StatusCode::OK } else { StatusCode::CREATED };
            Ok(json(status, &document(&id, &url, &view)))
        }
        Place::Subscription(id) if is_get => {
            let view = shard.subscription(bucket, &id).await?;
            Ok(json(StatusCode::OK, &document(&id, &url, &view)))
        }
        Place::Subscription(id) if head.method == Method::DELETE => {
            shard.subscription_delete(bucket, &id).await?;
            Ok(nothing())
        }
        Place::Streams(id) if is_post => {
            let asked: AskedStreams = read(&whole(context, body).await?)?;
            let names = names(&bucket, asked.streams)?;
            shard.subscription_link(bucket, &id, names, true).await?;
            Ok(nothing())
        }
        Place::Stream(id, name) if head.method == Method::DELETE => {
            let names = names(&bucket, vec![name.into_owned()])?;
            shard.subscription_link(bucket, &id, names, false).await?;
            Ok(nothing())
        }
        Place::Claim(id) if is_post => {
            let AskedClaim { worker } = read(&whole(context, body).await?)?;
            if worker.is_empty() || worker.len() > SUBSCRIPTION_TEXT_BYTES_MAX {
                return Err(invalid("'worker' is the worker's name, of at most 1024 bytes"));
            }
            let claimed = shard.subscription_claim(bucket, &id, &worker).await?;
            let Turn { generation, wake, .. } = claimed.turn;
            Ok(json(
                StatusCode::OK,
                &ClaimDocument {
                    wake_id: wake_id(wake),
                    generation,
                    token: &claimed.token,
                    streams: claimed.streams.iter().map(pending).collect(),
                    lease_ttl_ms: claimed.lease_ms,
                },
            ))
        }
        Place::Callback(id) | Place::Ack(id) if is_post => {
            let request = said(&bucket, &head.headers, &whole(context, body).await?)?;
            let next_wake = shard.subscription_ack(bucket, &id, request).await?;
            Ok(json(StatusCode::OK, &AckDocument { ok: true, next_wake }))
        }
        Place::Release(id) if is_post => {
            let request = said(&bucket, &head.headers, &whole(context, body).await?)?;
            let request = AckRequest { acks: Vec::new(), done: true, ..request };
            shard.subscription_ack(bucket, &id, request).await?;
            Ok(nothing())
        }
        place => {
            let allowed = HeaderValue::from_static(place.methods());
            Err(Problem::new(ErrorCode::MethodNotAllowed, "this address has no such method; see Allow")
                .with(&ALLOW, allowed))
        }
    }
}

/// A request's body, whole.
async fn whole(context: &Context, body: &mut Incoming) -> Result<Bytes, Problem> {
    let bounds = Bounds { bytes_max: BODY_BYTES_MAX, timeout: context.config().body_read_timeout, slow_bytes_max: 0 };
    let mut body = body::take(body, context.shard(), context.activity(), bounds).await?;
    body.join();
    Ok(Bytes::copy_from_slice(body.first()))
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // An array of the values would be taken for the object, too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(invalid("the body is a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))
}

fn invalid(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(ErrorCode::SubscriptionInvalid, detail)
}

fn decoded(text: &str) -> Result<Cow<'_, str>, Problem> {
    let malformed = || Problem::new(ErrorCode::PathMalformed, "the path is not UTF-8");
    percent_decode_str(text).decode_utf8().map_err(|_| malformed())
}

/// What is asked for, as it is kept.
fn config(bucket: &BucketName, body: &[u8]) -> Result<SubscriptionConfig, Problem> {
    let asked: Asked = read(body)?;
    let delivery = match (asked.r#type.as_str(), asked.webhook, asked.wake_stream) {
        ("webhook", Some(AskedWebhook { url }), None) => {
            if url.len() > SUBSCRIPTION_URL_BYTES_MAX {
                return Err(invalid(format!("'webhook.url' has at most {SUBSCRIPTION_URL_BYTES_MAX} bytes")));
            }
            Delivery::Webhook { url: url.into() }
        }
        ("pull-wake", None, Some(wake_stream)) => {
            Delivery::PullWake { wake_stream: StreamKey::new(bucket.as_str(), &wake_stream)?.name().into() }
        }
        ("webhook", ..) => return Err(invalid("a subscription of type 'webhook' has 'webhook' and no 'wake_stream'")),
        ("pull-wake", ..) => {
            return Err(invalid("a subscription of type 'pull-wake' has 'wake_stream' and no 'webhook'"));
        }
        _ => return Err(invalid("'type' is 'webhook' or 'pull-wake'")),
    };
    let pattern = asked.pattern.map(|pattern| Pattern::new(&pattern)).transpose();
    let pattern = pattern.map_err(|error| invalid(format!("'pattern': {error}")))?;
    let streams = names(bucket, asked.streams.unwrap_or_default())?;
    if pattern.is_none() && streams.is_empty() {
        return Err(invalid("a subscription has 'pattern' or 'streams' or both"));
    }
    let lease_ms = asked.lease_ttl_ms.unwrap_or(LEASE_MS_DEFAULT);
    if !LEASE_MS.contains(&lease_ms) {
        return Err(invalid(format!("'lease_ttl_ms' is from {} to {}", LEASE_MS.start(), LEASE_MS.end())));
    }
    let description = asked.description.map(Box::<str>::from);
    if description.as_ref().is_some_and(|text| text.len() > SUBSCRIPTION_TEXT_BYTES_MAX) {
        return Err(invalid(format!("'description' has at most {SUBSCRIPTION_TEXT_BYTES_MAX} bytes")));
    }
    Ok(SubscriptionConfig { delivery, pattern, streams, lease_ms, description })
}

fn names(bucket: &BucketName, names: Vec<String>) -> Result<BTreeSet<Box<str>>, Problem> {
    if names.len() > SUBSCRIPTION_STREAMS_MAX {
        let detail = format!("a subscription names at most {SUBSCRIPTION_STREAMS_MAX} streams");
        return Err(Problem::new(ErrorCode::SubscriptionLimit, detail));
    }
    let name = |name: String| Ok(StreamKey::new(bucket.as_str(), &name)?.name().into());
    names.into_iter().map(name).collect()
}

/// What whoever was woken says, and shows.
fn said(bucket: &BucketName, headers: &HeaderMap, body: &[u8]) -> Result<AckRequest, Problem> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        token.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, token)) = token else {
        let detail = "Authorization must be 'Bearer' and the token that came with the wake";
        return Err(Problem::new(ErrorCode::TokenInvalid, detail).with(&WWW_AUTHENTICATE, BEARER.clone()));
    };
    let Said { wake_id, generation, acks, done } = read(body)?;
    // What is no number of a wake is none of the wake that is under way.
    let wake = parse_wake_id(&wake_id).unwrap_or(0);
    if acks.len() > SUBSCRIPTION_STREAMS_MAX {
        return Err(invalid(format!("'acks' has at most {SUBSCRIPTION_STREAMS_MAX} streams")));
    }
    let ack = |SaidAck { stream, offset }: SaidAck| {
        let malformed = |error: weir_types::OffsetError| Problem::new(ErrorCode::OffsetMalformed, error.to_string());
        let key = StreamKey::new(bucket.as_str(), &stream)?;
        Ok((key.name().into(), Offset::parse(&offset).map_err(malformed)?))
    };
    let acks = acks.into_iter().map(ack).collect::<Result<_, Problem>>()?;
    Ok(AckRequest { token: token.trim().into(), generation, wake, acks, done })
}

fn document<'a>(id: &'a str, url: &str, view: &'a SubscriptionView) -> Document<'a> {
    let subscription = &view.subscription;
    let config = &subscription.config;
    let signing = |key: &'a weir_shard::PublicKey| SigningDocument {
        alg: "ed25519",
        kid: &key.kid,
        jwks_url: format!("{url}/__ds/jwks.json"),
    };
    let (r#type, webhook) = match &config.delivery {
        Delivery::Webhook { url } => {
            ("webhook", Some(WebhookDocument { url, signing: view.key.as_ref().map(signing) }))
        }
        Delivery::PullWake { .. } => ("pull-wake", None),
    };
    Document {
        id,
        subscription_id: id,
        r#type,
        pattern: config.pattern.as_ref().map(Pattern::as_str),
        streams: view.streams.iter().map(link).collect(),
        webhook,
        wake_stream: subscription.wake_stream(),
        lease_ttl_ms: config.lease_ms,
        created_at: render::time(subscription.created_ms),
        status: if subscription.next_attempt_ms > 0 { "failed" } else { "active" },
        description: config.description.as_deref(),
    }
}

fn link(stream: &LinkedStream) -> LinkDocument<'_> {
    LinkDocument {
        path: &stream.name,
        link_type: match stream.link {
            Link::Explicit => "explicit",
            Link::Glob => "glob",
        },
        acked_offset: token(stream.acked),
    }
}

fn pending(stream: &LinkedStream) -> PendingDocument<'_> {
    PendingDocument { link: link(stream), tail_offset: token(stream.tail), has_pending: stream.has_pending() }
}

fn token(offset: Option<Offset>) -> String {
    offset.map_or_else(|| OFFSET_NONE.to_string(), |offset| offset.to_string())
}

fn json(status: StatusCode, document: &impl Serialize) -> Response<Payload> {
    let body = Bytes::from(serde_json::to_vec(document).expect("plain structs are JSON"));
    let mut response = Response::new(Payload::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, APPLICATION_JSON.clone());
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE.clone());
    response
}

fn nothing() -> Response<Payload> {
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The refusal's code and sentence, or what is kept.
    fn check(body: &str) -> String {
        let bucket = BucketName::new("b").expect("a name");
        match config(&bucket, body.as_bytes()) {
            Ok(config) => {
                let streams: Vec<&str> = config.streams.iter().map(|name| &**name).collect();
                let pattern = config.pattern.as_ref().map_or("-", Pattern::as_str);
                let delivery = match &config.delivery {
                    Delivery::Webhook { url } => format!("webhook {url}"),
                    Delivery::PullWake { wake_stream } => format!("pull-wake {wake_stream}"),
                };
                format!("{delivery} {pattern} {streams:?} {}", config.lease_ms)
            }
            Err(problem) => format!("{}: {}", problem.code().as_str(), problem.detail()),
        }
    }

    #[test]
    fn a_configuration_is_read_and_put_in_order() {
        assert_eq!(
            check(r#"{"type":"webhook","webhook":{"url":"https://a.example/"},"streams":["b","a","b"],"extra":1}"#),
            r#"webhook https://a.example/ - ["a", "b"] 30000"#
        );
        assert_eq!(
            check(r#"{"type":"pull-wake","wake_stream":"wake/pool","pattern":"events/*","lease_ttl_ms":1000}"#),
            r#"pull-wake wake/pool events/* [] 1000"#
        );
    }

    #[test]
    fn a_refusal_names_the_field() {
        let of_webhook = |more: &str| check(&format!(r#"{{"type":"webhook","webhook":{{"url":"https://a/"}}{more}}}"#));
        assert_eq!(of_webhook(""), "subscription_invalid: a subscription has 'pattern' or 'streams' or both");
        assert!(of_webhook(r#","pattern":"a**""#).starts_with("subscription_invalid: 'pattern': a pattern is"));
        assert!(of_webhook(r#","streams":["__ds/a"]"#).starts_with("stream_name_invalid"));
        for lease in ["999", "600001"] {
            let refused = of_webhook(&format!(r#","pattern":"a","lease_ttl_ms":{lease}"#));
            assert_eq!(refused, "subscription_invalid: 'lease_ttl_ms' is from 1000 to 600000");
        }
        assert!(of_webhook(r#","wake_stream":"w","pattern":"a""#).contains("has 'webhook' and no 'wake_stream'"));
        assert_eq!(check(r#"{"type":"push"}"#), "subscription_invalid: 'type' is 'webhook' or 'pull-wake'");
        assert!(check(r#"{"type":"pull-wake","pattern":"a"}"#).contains("has 'wake_stream' and no 'webhook'"));
        assert_eq!(check("[]"), "subscription_invalid: the body is a JSON object");
    }

    #[test]
    fn a_place_is_decoded_segment_by_segment() {
        let place = |rest| match Place::parse(rest) {
            Ok(Place::Keys) => "keys".to_string(),
            Ok(Place::Subscription(id)) => format!("subscription {id}"),
            Ok(Place::Stream(id, name)) => format!("stream {id} {name}"),
            Ok(Place::Streams(id)) => format!("streams {id}"),
            Ok(Place::Callback(id) | Place::Claim(id) | Place::Ack(id) | Place::Release(id)) => format!("post {id}"),
            Err(problem) => problem.code().as_str().to_string(),
        };
        assert_eq!(place("jwks.json"), "keys");
        assert_eq!(place("subscriptions/sub%2D1"), "subscription sub-1");
        assert_eq!(place("subscriptions/s/streams/a%2Fb/c"), "stream s a/b/c");
        assert_eq!(place("subscriptions/s/streams"), "streams s");
        assert_eq!(place("subscriptions/s/ack"), "post s");
        for rest in ["", "subscriptions", "subscriptions/s/other", "jwks"] {
            assert_eq!(place(rest), "route_not_found", "{rest}");
        }
        for rest in ["subscriptions/", "subscriptions/a%2Fb", "subscriptions/.."] {
            assert_eq!(place(rest), "subscription_invalid", "{rest}");
        }
    }
}
