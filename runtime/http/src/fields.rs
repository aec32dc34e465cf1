//! Request header fields: each is parsed strictly, so that what a client meant and what is done never differ.

use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, IF_MATCH, IF_NONE_MATCH, ORIGIN, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::civil::DateTime;
use jiff::{Timestamp, tz};
use weir_shard::{CreateCondition, IfMatch, Producer};
use weir_stream::Expiry;
use weir_types::limits::{CONTENT_TYPE_BYTES_MAX, PRODUCER_ID_BYTES_MAX, PRODUCER_NUMBER_MAX};
use weir_types::{Offset, ReadFrom, StreamKey};

use crate::error::{ErrorCode, Problem};
use crate::headers::{
    LAST_EVENT_ID, PRODUCER_EPOCH, PRODUCER_ID, PRODUCER_SEQ, STREAM_CLOSED, STREAM_EXPIRES_AT, STREAM_FORK_OFFSET,
    STREAM_FORK_SUB_OFFSET, STREAM_FORKED_FROM, STREAM_SEQ, STREAM_TTL,
};
use crate::path::{self, Target};

/// The first offset of every stream of the protocol's reference server, which clients write as it is.
const OFFSET_ZERO: &str = "0000000000000000_0000000000000000";
/// What is read of a fraction of a second: its point, and nanoseconds.
const FRACTION_BYTES_MAX: usize = 10;

/// Whether there may be fields that few requests have: the protocol's own, which all begin with `Stream-` or `Producer-`,
/// conditions, and a body's coding.
pub(crate) fn has_rare(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| match name.as_str().as_bytes() {
        [b's' | b'p' | b'i', ..] => true,
        [b'c', rest @ ..] => rest.len() == CONTENT_ENCODING.as_str().len() - 1,
        [b't', rest @ ..] => rest.len() == TRANSFER_ENCODING.as_str().len() - 1,
        _ => false,
    })
}

/// Refuses a field that is given twice although it has one value: which one was meant is unknown.
pub(crate) fn check_single(headers: &HeaderMap) -> Result<(), Problem> {
    // Almost no request has any field twice.
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    let is_single = |name: &HeaderName| {
        let own =
            [b"stream-".as_slice(), b"producer-"].iter().any(|prefix| name.as_str().as_bytes().starts_with(prefix));
        own || *name == LAST_EVENT_ID || [HOST, CONTENT_TYPE, ORIGIN].contains(name)
    };
    match headers.keys().find(|name| is_single(name) && headers.get_all(*name).iter().count() > 1) {
        Some(name) => Err(invalid(format!("{name} is given more than once"))),
        None => Ok(()),
    }
}

/// Refuses a body that is compressed, or coded otherwise: it would be stored, and read, as it is.
pub(crate) fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut transfers = headers.get_all(TRANSFER_ENCODING).iter();
    if transfers.any(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        return Err(Problem::new(
            ErrorCode::NotSupported,
            "the only Transfer-Encoding that the server takes is 'chunked'",
        ));
    }
    let codings = headers.get_all(CONTENT_ENCODING).iter();
    if codings.map(HeaderValue::as_bytes).all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    let detail = "bodies are stored as they come: send this one without Content-Encoding";
    let problem = Problem::new(ErrorCode::ContentEncodingUnsupported, detail);
    Err(problem.with(&ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

/// `Stream-Closed`: only `true` counts, in any case; every other value is as if it were absent (section 4.1).
pub(crate) fn closed(headers: &HeaderMap) -> bool {
    headers.get(&STREAM_CLOSED).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// `Content-Type`; an empty one counts as none.
pub(crate) fn content_type(headers: &HeaderMap) -> Result<Option<Box<str>>, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    match value.to_str() {
        Ok("") => Ok(None),
        Ok(text) if text.len() <= CONTENT_TYPE_BYTES_MAX => Ok(Some(text.into())),
        _ => Err(invalid(format!("Content-Type is at most {CONTENT_TYPE_BYTES_MAX} visible ASCII characters"))),
    }
}

/// The three producer headers: all or none (section 5.2.1).
pub(crate) fn producer(headers: &HeaderMap) -> Result<Option<Producer>, Problem> {
    let names = [&PRODUCER_ID, &PRODUCER_EPOCH, &PRODUCER_SEQ];
    let [id, epoch, seq] = names.map(|name| headers.get(name));
    if id.is_none() && epoch.is_none() && seq.is_none() {
        return Ok(None);
    }
    if id.is_none() || epoch.is_none() || seq.is_none() {
        return Err(invalid("Producer-Id, Producer-Epoch and Producer-Seq are given together or not at all"));
    }
    let id = text(headers, &PRODUCER_ID)?.unwrap_or_default();
    if id.is_empty() {
        return Err(invalid("Producer-Id is empty"));
    }
    let number = |name: &HeaderName| {
        let value = text(headers, name)?.and_then(number);
        value.ok_or_else(|| invalid(format!("{name} is a whole number from 0 to {PRODUCER_NUMBER_MAX}")))
    };
    Ok(Some(Producer { id: id.into(), epoch: number(&PRODUCER_EPOCH)?, seq: number(&PRODUCER_SEQ)? }))
}

/// `Stream-Seq`: opaque, compared byte by byte.
pub(crate) fn seq(headers: &HeaderMap) -> Result<Option<Box<str>>, Problem> {
    match text(headers, &STREAM_SEQ)? {
        None => Ok(None),
        Some("") => Err(invalid("Stream-Seq is empty")),
        Some(seq) => Ok(Some(seq.into())),
    }
}

/// `If-Match` (RFC 9110, section 13.1.1): `*`, or entity tags, of which those that are offsets can be the tail. A weak tag
/// never matches. `If-None-Match: *` is never true of what is there.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Problem> {
    if is_none_match(headers)? {
        return Ok(Some(IfMatch::Tails(Vec::new())));
    }
    let mut values = headers.get_all(IF_MATCH).iter().peekable();
    if values.peek().is_none() {
        return Ok(None);
    }
    let mut tails = Vec::new();
    for value in values {
        let value = value.to_str().map(str::trim).unwrap_or_default();
        if value == "*" {
            return Ok(Some(IfMatch::Exists));
        }
        for tag in value.split(',').map(str::trim) {
            let strong = tag.strip_prefix("W/").unwrap_or(tag);
            let Some(opaque) = strong.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) else {
                let detail = "If-Match is '*', or one or more offsets, each in double quotes";
                return Err(Problem::new(ErrorCode::HeaderInvalid, detail));
            };
            if strong.len() == tag.len() {
                tails.extend(Offset::parse(opaque));
            }
        }
    }
    Ok(Some(IfMatch::Tails(tails)))
}

/// Whether there must be no such stream. `If-None-Match` has no other use where something changes.
fn is_none_match(headers: &HeaderMap) -> Result<bool, Problem> {
    match headers.get(IF_NONE_MATCH).map(|value| value.as_bytes().trim_ascii()) {
        None => Ok(false),
        Some(b"*") => Ok(true),
        Some(_) => Err(invalid("If-None-Match must be '*' in this request, or left out")),
    }
}

/// The conditions of a create.
pub(crate) fn create_condition(headers: &HeaderMap) -> Result<Option<CreateCondition>, Problem> {
    match is_none_match(headers)? {
        true => Ok(Some(CreateCondition::Absent)),
        false => Ok(if_match(headers)?.map(CreateCondition::Matches)),
    }
}

/// `Stream-TTL` or `Stream-Expires-At` (section 5.1).
pub(crate) fn expiry(headers: &HeaderMap) -> Result<Option<Expiry>, Problem> {
    match (text(headers, &STREAM_TTL)?, text(headers, &STREAM_EXPIRES_AT)?) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid("Stream-TTL and Stream-Expires-At exclude each other")),
        (Some(ttl), None) => match number(ttl) {
            Some(ttl_s) => Ok(Some(Expiry::Idle { ttl_s })),
            None => Err(invalid(format!("Stream-TTL is a whole number of seconds from 0 to {PRODUCER_NUMBER_MAX}"))),
        },
        (None, Some(at)) => match timestamp(at) {
            // A time before 1970 is past like any other.
            Some(at) => Ok(Some(Expiry::At { at_ms: u64::try_from(at.as_millisecond()).unwrap_or(0) })),
            None => Err(invalid("Stream-Expires-At is an RFC 3339 time such as 2026-01-31T12:00:00Z")),
        },
    }
}

/// Which stream a fork is to be of, and where it leaves it (section 4.2); `None` for a stream that is none.
pub(crate) fn fork(headers: &HeaderMap) -> Result<Option<(StreamKey, ReadFrom, u64)>, Problem> {
    let sub_offset = match text(headers, &STREAM_FORK_SUB_OFFSET)?.map(number) {
        None => None,
        Some(Some(sub_offset)) => Some(sub_offset),
        Some(None) => {
            return Err(invalid(format!("Stream-Fork-Sub-Offset is a whole number from 0 to {PRODUCER_NUMBER_MAX}")));
        }
    };
    let offset = match text(headers, &STREAM_FORK_OFFSET)? {
        None => None,
        Some(OFFSET_ZERO) => Some(ReadFrom::Start),
        Some(text) => Some(ReadFrom::parse(text).map_err(|e| Problem::new(ErrorCode::OffsetMalformed, e.to_string()))?),
    };
    let Some(source) = headers.get(&STREAM_FORKED_FROM) else {
        return match (offset, sub_offset) {
            (None, None) => Ok(None),
            _ => Err(invalid("a fork's offsets need Stream-Forked-From")),
        };
    };
    let source = source.to_str().ok().filter(|path| !path.contains(['?', '#']));
    let source = source.ok_or_else(|| invalid("Stream-Forked-From is the path of a stream"))?;
    let Target::Stream(source) = path::parse(source)? else {
        return Err(invalid("Stream-Forked-From is the path of a stream, such as /demo/orders"));
    };
    let sub_offset = sub_offset.unwrap_or(0);
    if sub_offset > 0 && offset.is_none() {
        return Err(invalid("Stream-Fork-Sub-Offset needs Stream-Fork-Offset"));
    }
    Ok(Some((source, offset.unwrap_or(ReadFrom::Now), sub_offset)))
}

/// A header's text, at most as long as the longest that is kept.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) if text.len() <= PRODUCER_ID_BYTES_MAX => Ok(Some(text)),
        _ => Err(invalid(format!("{name} is at most {PRODUCER_ID_BYTES_MAX} bytes of UTF-8"))),
    }
}

/// A decimal number that JavaScript holds exactly: digits only, no leading zero.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|&number| plain && number <= PRODUCER_NUMBER_MAX)
}

/// An RFC 3339 date and time. The library reads more than that (spaces, time zone names), so the shape is checked too; and it
/// ends a day before the year 9999 does, which is how some say *never*: that is taken for the last moment there is.
fn timestamp(text: &str) -> Option<Timestamp> {
    let (moment, rest) = text.split_at_checked("2026-01-31T12:00:00".len())?;
    let shape: String = moment.chars().map(|c| if c.is_ascii_digit() { '0' } else { c.to_ascii_uppercase() }).collect();
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let fraction = &rest[..rest.len() - zone.len()];
    let fraction_fits = fraction.is_empty()
        || fraction
            .strip_prefix('.')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()));
    if shape != "0000-00-00T00:00:00" || !fraction_fits {
        return None;
    }
    let zone = match zone.as_bytes() {
        [b'Z' | b'z'] => tz::Offset::UTC,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) => {
            let two = |high: &u8, low: &u8| i32::from(high - b'0') * 10 + i32::from(low - b'0');
            let minutes = if two(m1, m2) < 60 { two(h1, h2) * 60 + two(m1, m2) } else { return None };
            tz::Offset::from_seconds(if *sign == b'-' { -60 * minutes } else { 60 * minutes }).ok()?
        }
        _ => return None,
    };
    let at: DateTime = format!("{moment}{}", &fraction[..fraction.len().min(FRACTION_BYTES_MAX)]).parse().ok()?;
    Some(zone.to_timestamp(at).unwrap_or(if at.year() > 0 { Timestamp::MAX } else { Timestamp::MIN }))
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(ErrorCode::HeaderInvalid, detail)
}

#[cfg(test)]
mod tests {
    use weir_types::{Incarnation, Lineage};

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn closed_is_the_word_true_in_any_case() {
        for (value, expected) in [("true", true), ("TRUE", true), ("yes", false), ("1", false), ("", false)] {
            assert_eq!(closed(&map(&[("stream-closed", value)])), expected, "{value}");
        }
        assert!(!closed(&HeaderMap::new()));
    }

    #[test]
    fn producer_headers_come_together_and_are_plain_numbers() {
        let check = |id, epoch, seq| {
            let fields = [("producer-id", id), ("producer-epoch", epoch), ("producer-seq", seq)];
            producer(&map(&fields)).map(|producer| producer.map(|p| (p.epoch, p.seq))).map_err(|p| p.code())
        };
        assert_eq!(check("p", "0", "12"), Ok(Some((0, 12))));
        assert_eq!(check("p", "9007199254740991", "0"), Ok(Some((9_007_199_254_740_991, 0))));
        for number in ["", "-1", "+1", "01", "1.0", "1e3", "0x1", " 1", "9007199254740992", "99999999999999999999"] {
            assert_eq!(check("p", number, "0"), Err(ErrorCode::HeaderInvalid), "{number}");
            assert_eq!(check("p", "0", number), Err(ErrorCode::HeaderInvalid), "{number}");
        }
        assert_eq!(check("", "0", "0"), Err(ErrorCode::HeaderInvalid));
        assert!(HeaderValue::from_bytes(b"\0ds:5").is_err(), "who writes wakes is no client");
        assert!(producer(&HeaderMap::new()).expect("none is fine").is_none());
        assert!(producer(&map(&[("producer-id", "p"), ("producer-epoch", "0")])).is_err());
        assert!(producer(&map(&[("producer-seq", "0")])).is_err());
    }

    #[test]
    fn if_match_names_offsets_or_whatever_is_there() {
        let check = |value| if_match(&map(&[("if-match", value)])).map_err(|problem| problem.code());
        let tails = |positions: &[u64]| {
            let tail = |&position| Offset { position, lineage: Lineage::of(Incarnation(7)) };
            Ok(Some(IfMatch::Tails(positions.iter().map(tail).collect())))
        };
        assert_eq!(check("\"00000000000000000012-00000007\""), tails(&[12]));
        assert_eq!(check("\"00000000000000000012-00000007\" , \"00000000000000000013-00000007\""), tails(&[12, 13]));
        assert_eq!(check("*"), Ok(Some(IfMatch::Exists)));
        for value in ["\"\"", "\"-1\"", "\"a:0:4\"", "W/\"00000000000000000012-00000007\""] {
            assert_eq!(check(value), tails(&[]), "{value} is never the tail");
        }
        for value in ["", "\"", "now", "00000000000000000012-00000007", "\"a\",", "\"a\", *"] {
            assert_eq!(check(value), Err(ErrorCode::HeaderInvalid), "{value}");
        }
        assert_eq!(if_match(&HeaderMap::new()).map_err(|problem| problem.code()), Ok(None));
        let none = |value| if_match(&map(&[("if-none-match", value)])).map_err(|problem| problem.code());
        assert_eq!((none("*"), none("\"a\"")), (tails(&[]), Err(ErrorCode::HeaderInvalid)));
    }

    #[test]
    fn what_few_requests_have_is_noticed() {
        for name in ["stream-seq", "producer-id", "if-match", "if-none-match", "content-encoding"] {
            assert!(has_rare(&map(&[("host", "h"), (name, "x")])), "{name}");
        }
        assert!(!has_rare(&map(&[("host", "h"), ("content-type", "x"), ("content-length", "1"), ("accept", "*/*")])));
    }

    #[test]
    fn a_field_has_one_value_unless_it_is_a_list() {
        let twice = |name: &'static str| {
            let mut headers = map(&[("host", "h"), (name, "1")]);
            headers.append(name, HeaderValue::from_static("2"));
            check_single(&headers).is_err()
        };
        for name in ["host", "content-type", "stream-closed", "stream-seq", "producer-epoch", "last-event-id"] {
            assert!(twice(name), "{name}");
        }
        for name in ["if-match", "accept", "cookie", "x-forwarded-for"] {
            assert!(!twice(name), "{name}");
        }
    }

    #[test]
    fn a_coded_body_is_refused() {
        let check = |value| check_coding(&map(&[("content-encoding", value)])).is_ok();
        assert_eq!((check("identity"), check(""), check("Identity")), (true, true, true));
        assert_eq!((check("gzip"), check("rot13"), check("identity, br")), (false, false, false));
    }

    #[test]
    fn a_ttl_is_a_plain_number_of_seconds() {
        let check = |value| expiry(&map(&[("stream-ttl", value)])).map_err(|problem| problem.code());
        assert_eq!(check("3600"), Ok(Some(Expiry::Idle { ttl_s: 3600 })));
        assert_eq!(check("0"), Ok(Some(Expiry::Idle { ttl_s: 0 })));
        for value in ["", "-1", "+60", "00060", "60.5", "1e3", "abc"] {
            assert_eq!(check(value), Err(ErrorCode::HeaderInvalid), "{value}");
        }
    }

    #[test]
    fn an_expiry_time_is_rfc_3339() {
        let check = |value| expiry(&map(&[("stream-expires-at", value)])).map_err(|problem| problem.code());
        assert_eq!(check("1970-01-01T00:00:01.5Z"), Ok(Some(Expiry::At { at_ms: 1500 })));
        assert_eq!(check("1970-01-01t01:00:01+01:00"), Ok(Some(Expiry::At { at_ms: 1000 })));
        assert_eq!(check("1969-01-01T00:00:00Z"), Ok(Some(Expiry::At { at_ms: 0 })));
        assert_eq!(check("0000-01-01T00:00:00+23:59"), Ok(Some(Expiry::At { at_ms: 0 })));
        assert_eq!(check("1970-01-01T00:00:01.500000000000000Z"), Ok(Some(Expiry::At { at_ms: 1500 })));
        let last_ms = Timestamp::MAX.as_millisecond() as u64;
        for never in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999Z", "9999-12-31T00:00:00-12:00"] {
            assert_eq!(check(never), Ok(Some(Expiry::At { at_ms: last_ms })), "{never}");
        }
        assert_eq!(check("9999-12-30T00:00:00Z"), Ok(Some(Expiry::At { at_ms: 253_402_128_000_000 })));
        for value in [
            "not-a-timestamp",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31 12:00:00Z",
            "2026-02-30T12:00:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+01",
            "2026-01-31T12:00:00Z[UTC]",
            "2026-01-31T12:00:00.1.2Z",
            "2026-01-31T12:00:00+01:60",
            "9999-13-31T23:59:59Z",
        ] {
            assert_eq!(check(value), Err(ErrorCode::HeaderInvalid), "{value}");
        }
        assert!(expiry(&map(&[("stream-ttl", "1"), ("stream-expires-at", "2026-01-31T12:00:00Z")])).is_err());
        assert_eq!(expiry(&HeaderMap::new()).map_err(|problem| problem.code()), Ok(None));
    }

    #[test]
    fn an_empty_content_type_is_none() {
        assert_eq!(content_type(&map(&[("content-type", "")])).map_err(|p| p.code()), Ok(None));
        assert_eq!(
            content_type(&map(&[("content-type", "Text/Plain")])).map_err(|p| p.code()),
            Ok(Some("Text/Plain".into()))
        );
    }
}
