//! Response headers and pages.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use weir_shard::{Page, SummaryView};
use weir_stream::{Appended, Expiry, Facts};
use weir_types::{Offset, ReadFrom};

use crate::config::CachePolicy;
use crate::context::Context;
use crate::headers::{
    APPLICATION_JSON, NO_CACHE, NO_STORE, PRIVATE_ONE_MINUTE, PRODUCER_EPOCH, PRODUCER_SEQ, PUBLIC_ONE_MINUTE,
    STREAM_CLOSED, STREAM_CURSOR, STREAM_EARLIEST_OFFSET, STREAM_EXPIRES_AT, STREAM_NEXT_OFFSET, STREAM_SUMMARY_ERROR,
    STREAM_SUMMARY_FAILED, STREAM_SUMMARY_FROM, STREAM_TTL, STREAM_UP_TO_DATE, TRUE, offset,
};
use crate::media::{array, is_json};
use crate::payload::Payload;
use crate::query::ReadQuery;

/// How long a shared cache may keep a page, in seconds.
const CACHED_S: u64 = 60;
/// Longest `Stream-Summary-Error`, in bytes.
const SUMMARY_ERROR_BYTES_MAX: usize = 500;

/// A stream's content type; the usual ones cost no allocation.
pub(crate) fn content_type(text: &str) -> HeaderValue {
    match text {
        "application/json" => APPLICATION_JSON.clone(),
        "text/plain" => HeaderValue::from_static("text/plain"),
        "application/octet-stream" => HeaderValue::from_static("application/octet-stream"),
        // It came as a header; should a stream ever hold another text, it is served as bytes.
        _ => HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream")),
    }
}

/// A time, RFC 3339 in UTC; `ms` since 1970.
pub(crate) fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).ok();
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX).to_string()
}

/// An empty response with this status.
pub(crate) fn empty(status: StatusCode) -> Response<Payload> {
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = status;
    response
}

/// The answer to an append or a close.
pub(crate) fn appended(status: StatusCode, appended: &Appended) -> Response<Payload> {
    let mut headers = HeaderMap::with_capacity(12);
    position(&mut headers, appended.next, appended.closed);
    if let Some(producer) = appended.producer {
        headers.insert(&PRODUCER_EPOCH, producer.epoch.into());
        headers.insert(&PRODUCER_SEQ, producer.seq.into());
    }
    let mut response = empty(status);
    *response.headers_mut() = headers;
    response
}

/// The tail or the place to read on, and whether the stream is closed there.
pub(crate) fn position(headers: &mut HeaderMap, next: Offset, closed: bool) {
    headers.insert(&STREAM_NEXT_OFFSET, offset(next));
    if closed {
        headers.insert(&STREAM_CLOSED, TRUE.clone());
    }
}

/// Where a stream begins, if it was trimmed.
pub(crate) fn earliest(headers: &mut HeaderMap, earliest: Offset) {
    if earliest.position > 0 {
        headers.insert(&STREAM_EARLIEST_OFFSET, offset(earliest));
    }
}

/// A stream's configuration and state, as `PUT` and `HEAD` show it.
pub(crate) fn facts(headers: &mut HeaderMap, facts: &Facts) {
    headers.insert(CONTENT_TYPE, content_type(&facts.content_type));
    position(headers, facts.next, facts.closed);
    earliest(headers, facts.earliest);
    match facts.expiry {
        Expiry::Never => {}
        Expiry::Idle { ttl_s } => {
            headers.insert(&STREAM_TTL, ttl_s.into());
        }
        Expiry::At { at_ms } => {
            let at = HeaderValue::from_str(&time(at_ms)).expect("a time is ASCII");
            headers.insert(&STREAM_EXPIRES_AT, at);
        }
    }
}

/// The cursor of a live response.
pub(crate) fn cursor(headers: &mut HeaderMap, cursor: u64) {
    headers.insert(&STREAM_CURSOR, cursor.into());
}

/// What decides how long a page may be kept, and by whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// The operator's word.
    pub(crate) policy: CachePolicy,
    /// Whether the request's address is the stream's own.
    pub(crate) is_bare: bool,
    /// When the page was read, in milliseconds since 1970.
    pub(crate) now_ms: u64,
}

impl Kept {
    /// Of a read: what somebody has shown a credential for is for that client.
    pub(crate) fn new(context: &Context, head: &Parts, query: &ReadQuery) -> Kept {
        let policy = match context.config().cache {
            CachePolicy::Public if head.headers.contains_key(AUTHORIZATION) => CachePolicy::Private,
            policy => policy,
        };
        Kept { policy, is_bare: query.is_bare, now_ms: context.shard().now_ms() }
    }
}

/// A page of a stream that was read from `from`, or `304` when `if_none_match` names it.
pub(crate) fn page(page: Page, from: ReadFrom, kept: Kept, if_none_match: Option<&HeaderValue>) -> Response<Payload> {
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(CACHE_CONTROL, cache_control(&page, from, kept));
    position(&mut headers, page.next, page.closed);
    earliest(&mut headers, page.earliest);
    if page.up_to_date {
        headers.insert(&STREAM_UP_TO_DATE, TRUE.clone());
    }
    // `now` is another place at every read: nothing to validate.
    if from != ReadFrom::Now && tag(&mut headers, etag(&page), if_none_match) {
        return not_modified(headers);
    }
    headers.insert(CONTENT_TYPE, content_type(&page.content_type));
    let chunks = if is_json(&page.content_type) { array(page.chunks) } else { page.chunks };
    let mut response = Response::new(Payload::chunks(chunks));
    *response.headers_mut() = headers;
    response
}

/// What a fold says, or `304` when `if_none_match` names it.
pub(crate) fn view(view: SummaryView, if_none_match: Option<&HeaderValue>) -> Response<Payload> {
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(CACHE_CONTROL, NO_CACHE.clone());
    position(&mut headers, view.next, view.closed);
    extent(&mut headers, &view);
    if tag(&mut headers, view_etag(&view), if_none_match) {
        return not_modified(headers);
    }
    headers.insert(CONTENT_TYPE, content_type(&view.content_type));
    let mut response = Response::new(Payload::from(view.body));
    *response.headers_mut() = headers;
    response
}

/// Says where a fold has begun, if it is not of all records, and where and why it has stopped, if it has.
pub(crate) fn extent(headers: &mut HeaderMap, view: &SummaryView) {
    if view.from.position > 0 {
        headers.insert(&STREAM_SUMMARY_FROM, offset(view.from));
    }
    if let Some(reason) = &view.failed {
        headers.insert(&STREAM_SUMMARY_FAILED, offset(view.next));
        headers.insert(&STREAM_SUMMARY_ERROR, one_line(reason));
    }
}

/// The beginning of a text that may have any characters, as a header can carry it.
fn one_line(text: &str) -> HeaderValue {
    let printable = |c: char| match c {
        ' '..='~' => c,
        _ if c.is_whitespace() => ' ',
        _ => '?',
    };
    let line: String = text.trim().chars().map(printable).take(SUMMARY_ERROR_BYTES_MAX).collect();
    HeaderValue::from_maybe_shared(Bytes::from(line)).expect("visible ASCII and spaces")
}

/// Adds an entity tag; whether the client has what it names.
fn tag(headers: &mut HeaderMap, etag: HeaderValue, if_none_match: Option<&HeaderValue>) -> bool {
    let is_known = if_none_match.is_some_and(|tags| matches(tags, &etag));
    headers.insert(ETAG, etag);
    is_known
}

fn not_modified(headers: HeaderMap) -> Response<Payload> {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    *response.headers_mut() = headers;
    response
}

/// How long a page may be kept. Its bytes never change, but that it is the newest does, and a stream may expire.
///
/// - `offset=now`: never; it is another page every time.
/// - No offset: it must be asked for again. A cache may make a `GET` of a `HEAD`, which asks for the tail; and what one page
///   writes, its next read is to bring.
/// - Nothing there yet: it must be asked for again, or a client that polls would see nothing for as long as a cache
///   keeps it.
/// - A stream that expires: not after that. A sliding TTL counts as if this read were the last.
fn cache_control(page: &Page, from: ReadFrom, kept: Kept) -> HeaderValue {
    if from == ReadFrom::Now || kept.policy == CachePolicy::NoStore {
        return NO_STORE.clone();
    }
    if kept.is_bare || (page.start == page.next && !page.closed) {
        return NO_CACHE.clone();
    }
    let (one_minute, whose) = match kept.policy {
        CachePolicy::Public => (&PUBLIC_ONE_MINUTE, "public"),
        CachePolicy::Private | CachePolicy::NoStore => (&PRIVATE_ONE_MINUTE, "private"),
    };
    let left_s = match page.expiry {
        Expiry::Never => return one_minute.clone(),
        Expiry::Idle { ttl_s } => ttl_s,
        Expiry::At { at_ms } => at_ms.saturating_sub(kept.now_ms) / 1000,
    };
    let text = format!("{whose}, max-age={}", left_s.min(CACHED_S));
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("words and a number")
}

/// The page's entity tag: which life of the stream, which range, and whether it ends there. No hash: the bytes of a
/// range never change.
fn etag(page: &Page) -> HeaderValue {
    let closed = if page.closed { ":c" } else { "" };
    let tag = format!("\"{:x}:{}:{}{closed}\"", page.incarnation.0, page.start.position, page.next.position);
    HeaderValue::from_maybe_shared(Bytes::from(tag)).expect("hexadecimal and decimal digits")
}

/// The entity tag of what a fold says: which life of the stream, which binding, of which records, and whether that is
/// the last. The question is the rest of the address.
fn view_etag(view: &SummaryView) -> HeaderValue {
    let closed = if view.closed { ":c" } else { "" };
    // The same state, but no longer one that goes on.
    let failed = if view.failed.is_some() { ":f" } else { "" };
    let from = if view.from.position > 0 { format!(":{}-", view.from.position) } else { String::new() };
    let (incarnation, position) = (view.incarnation.0, view.next.position);
    let tag = format!("\"{incarnation:x}:{}{from}:{position}{closed}{failed}\"", view.epoch);
    HeaderValue::from_maybe_shared(Bytes::from(tag)).expect("hexadecimal and decimal digits")
}

/// Whether `If-None-Match` names `etag`, by weak comparison (RFC 9110, section 13.1.2).
pub(crate) fn matches(if_none_match: &HeaderValue, etag: &HeaderValue) -> bool {
    let Ok(tags) = if_none_match.to_str() else { return false };
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use http_body::Body;
    use weir_stream::ProducerState;
    use weir_types::{Incarnation, Lineage, Lineages};

    use super::*;

    const KEPT: Kept = Kept { policy: CachePolicy::Public, is_bare: false, now_ms: 10_000 };

    fn at(position: u64) -> Offset {
        Offset { position, lineage: Lineage::of(Incarnation(10)) }
    }

    fn a_page(start: u64, next: u64, closed: bool, expiry: Expiry) -> Page {
        Page {
            incarnation: Incarnation(10),
            content_type: "text/plain".into(),
            start: at(start),
            next: at(next),
            chunks: vec![Bytes::from(vec![b'x'; (next - start) as usize])],
            up_to_date: true,
            closed,
            expiry,
            earliest: at(0),
        }
    }

    fn header(response: &Response<Payload>, name: &str) -> String {
        response.headers().get(name).map_or("-".to_string(), |value| value.to_str().expect("ASCII").to_string())
    }

    #[test]
    fn an_etag_names_life_range_and_closure() {
        let tag = |start, next, closed| {
            header(&page(a_page(start, next, closed, Expiry::Never), ReadFrom::Start, KEPT, None), "etag")
        };
        assert_eq!(tag(0, 4, false), "\"a:0:4\"");
        assert_eq!(tag(4, 4, true), "\"a:4:4:c\"");
        let now = page(a_page(4, 4, false, Expiry::Never), ReadFrom::Now, KEPT, None);
        assert_eq!((header(&now, "etag"), header(&now, "cache-control")), ("-".to_string(), "no-store".to_string()));
    }

    #[test]
    fn a_known_page_is_not_sent_again() {
        let status = |tags: &'static str| {
            let tags = HeaderValue::from_static(tags);
            page(a_page(0, 4, false, Expiry::Never), ReadFrom::Start, KEPT, Some(&tags)).status().as_u16()
        };
        for tags in ["\"a:0:4\"", "W/\"a:0:4\"", "\"x\", \"a:0:4\"", "*"] {
            assert_eq!(status(tags), 304, "{tags}");
        }
        for tags in ["\"a:0:4:c\"", "\"b:0:4\"", "a:0:4", ""] {
            assert_eq!(status(tags), 200, "{tags}");
        }
    }

    #[test]
    fn a_page_is_kept_no_longer_than_it_is_true() {
        let kept = |start, closed, expiry| {
            header(&page(a_page(start, 4, closed, expiry), ReadFrom::At(at(start)), KEPT, None), "cache-control")
        };
        assert_eq!(kept(0, false, Expiry::Never), "public, max-age=60, stale-while-revalidate=300");
        assert_eq!(kept(4, false, Expiry::Never), "no-cache");
        assert_eq!(kept(4, true, Expiry::Never), "public, max-age=60, stale-while-revalidate=300");
        assert_eq!(kept(0, false, Expiry::Idle { ttl_s: 5 }), "public, max-age=5");
        assert_eq!(kept(0, false, Expiry::At { at_ms: 12_500 }), "public, max-age=2");
        assert_eq!(kept(0, false, Expiry::At { at_ms: 1 }), "public, max-age=0");
    }

    #[test]
    fn who_keeps_a_page_is_the_operators_word() {
        let kept = |policy, is_bare, expiry| {
            let kept = Kept { policy, is_bare, ..KEPT };
            header(&page(a_page(0, 4, false, expiry), ReadFrom::Start, kept, None), "cache-control")
        };
        assert_eq!(kept(CachePolicy::Public, true, Expiry::Never), "no-cache");
        assert_eq!(kept(CachePolicy::Private, false, Expiry::Never), "private, max-age=60, stale-while-revalidate=300");
        assert_eq!(kept(CachePolicy::Private, false, Expiry::Idle { ttl_s: 5 }), "private, max-age=5");
        assert_eq!(kept(CachePolicy::NoStore, false, Expiry::Never), "no-store");
        assert_eq!(kept(CachePolicy::NoStore, true, Expiry::Never), "no-store");
    }

    fn a_view(closed: bool, failed: Option<&str>) -> SummaryView {
        SummaryView {
            incarnation: Incarnation(10),
            epoch: 3,
            from: at(0),
            next: at(4),
            lineages: Lineages::new(None, at(4).lineage),
            content_type: "application/json".into(),
            body: Bytes::from_static(b"{}"),
            closed,
            failed: failed.map(Into::into),
        }
    }

    /// `status | header: value | ...` of a view, headers in alphabetical order.
    fn check_view(of: SummaryView, if_none_match: Option<&'static str>) -> String {
        let tags = if_none_match.map(HeaderValue::from_static);
        let response = view(of, tags.as_ref());
        let headers = response.headers().iter();
        let mut headers: Vec<String> =
            headers.map(|(name, value)| format!(" | {name}: {}", value.to_str().expect("ASCII"))).collect();
        headers.sort();
        format!("{}{}", response.status().as_u16(), headers.concat())
    }

    #[test]
    fn a_view_says_of_what_it_is() {
        let open = "cache-control: no-cache | content-type: application/json | etag: \"a:3:4\" | stream-next-offset: \
                    00000000000000000004-0000000a";
        assert_eq!(check_view(a_view(false, None), None), format!("200 | {open}"));
        let closed = open.replace("4\" |", "4:c\" | stream-closed: true |");
        assert_eq!(check_view(a_view(true, None), Some("\"a:3:4\"")), format!("200 | {closed}"));
        let unchanged = open.replace("content-type: application/json | ", "");
        assert_eq!(check_view(a_view(false, None), Some("\"a:3:4\"")), format!("304 | {unchanged}"));
    }

    #[test]
    fn a_failed_view_says_where_and_why_in_one_line() {
        let token = "00000000000000000004-0000000a";
        let reason = "trapped:\r\n\tat \u{e9}\0 ";
        let expected = format!(
            "200 | cache-control: no-cache | content-type: application/json | etag: \"a:3:4:f\" | stream-next-offset: \
             {token} | stream-summary-error: trapped:   at ?? | stream-summary-failed: {token}"
        );
        assert_eq!(check_view(a_view(false, Some(reason)), Some("\"a:3:4\"")), expected);
        let long = "x".repeat(2 * SUMMARY_ERROR_BYTES_MAX);
        assert_eq!(one_line(&long).len(), SUMMARY_ERROR_BYTES_MAX);
    }

    #[test]
    fn a_view_and_a_page_say_where_a_trimmed_stream_begins() {
        let token = "00000000000000000003-0000000a";
        let of_rest = SummaryView { from: at(3), ..a_view(false, None) };
        let expected = format!(
            "200 | cache-control: no-cache | content-type: application/json | etag: \"a:3:3-:4\" | stream-next-offset: \
             00000000000000000004-0000000a | stream-summary-from: {token}"
        );
        assert_eq!(check_view(of_rest, Some("\"a:3:4\"")), expected);
        let trimmed = Page { earliest: at(3), ..a_page(3, 4, false, Expiry::Never) };
        let response = page(trimmed, ReadFrom::Start, KEPT, None);
        assert_eq!(header(&response, "stream-earliest-offset"), token);
        let whole = page(a_page(0, 4, false, Expiry::Never), ReadFrom::Start, KEPT, None);
        assert_eq!(header(&whole, "stream-earliest-offset"), "-");
    }

    #[test]
    fn a_page_knows_its_length() {
        let response = page(a_page(0, 4, false, Expiry::Never), ReadFrom::Start, KEPT, None);
        assert_eq!(response.body().size_hint().exact(), Some(4));
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(1_500), "1970-01-01T00:00:01.5Z");
        assert!(time(u64::MAX).starts_with("9999-12-30T"), "what no calendar holds is its end");
    }

    #[test]
    fn a_response_says_where_the_tail_is_and_what_is_accepted() {
        let next = Offset { position: 3, lineage: Lineage::of(Incarnation(1)) };
        let producer = Some(ProducerState { epoch: 2, seq: 5 });
        let appended = Appended { next, closed: true, producer, duplicate: false };
        let response = super::appended(StatusCode::OK, &appended);
        let mut headers: Vec<_> = response.headers().iter().map(|(name, value)| (name.as_str(), value)).collect();
        headers.sort();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.to_str().expect("ASCII"))).collect();
        let token = "00000000000000000003-00000001";
        let expected =
            [("producer-epoch", "2"), ("producer-seq", "5"), ("stream-closed", "true"), ("stream-next-offset", token)];
        assert_eq!(headers, expected);
    }
}
