//! Request header fields: each is parsed strictly, so that what a client meant and what is done never differ.

use http::header::{CONTENT_TYPE, IF_MATCH};
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use weir_shard::Producer;
use weir_stream::Expiry;
use weir_types::Offset;
use weir_types::limits::{CONTENT_TYPE_BYTES_MAX, PRODUCER_ID_BYTES_MAX, PRODUCER_NUMBER_MAX};

use crate::error::{ErrorCode, Problem};
use crate::headers::{
    PRODUCER_EPOCH, PRODUCER_ID, PRODUCER_SEQ, STREAM_CLOSED, STREAM_EXPIRES_AT, STREAM_SEQ, STREAM_TTL,
};

/// Whether there may be fields of the protocol: all of their names begin with `Stream-` or `Producer-`.
pub(crate) fn has_own(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| matches!(name.as_str().as_bytes()[0], b's' | b'p'))
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

/// `If-Match`: exactly one offset token as an entity tag. `*` and lists are refused: they cannot name the tail.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<Offset>, Problem> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
    match token.map(Offset::parse) {
        Some(Ok(offset)) => Ok(Some(offset)),
        _ => Err(Problem::new(ErrorCode::OffsetMalformed, "If-Match is one offset of this stream in double quotes")),
    }
}

/// `Stream-TTL` or `Stream-Expires-At` (section 5.1).
pub(crate) fn expiry(headers: &HeaderMap) -> Result<Expiry, Problem> {
    match (text(headers, &STREAM_TTL)?, text(headers, &STREAM_EXPIRES_AT)?) {
        (None, None) => Ok(Expiry::Never),
        (Some(_), Some(_)) => Err(invalid("Stream-TTL and Stream-Expires-At exclude each other")),
        (Some(ttl), None) => match number(ttl) {
            Some(ttl_s) => Ok(Expiry::Idle { ttl_s }),
            None => Err(invalid("Stream-TTL is a whole number of seconds")),
        },
        (None, Some(at)) => match timestamp(at) {
            // A time before 1970 is past like any other.
            Some(at) => Ok(Expiry::At { at_ms: u64::try_from(at.as_millisecond()).unwrap_or(0) }),
            None => Err(invalid("Stream-Expires-At is an RFC 3339 time such as 2026-01-31T12:00:00Z")),
        },
    }
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

/// An RFC 3339 date and time. The library reads more than that (spaces, time zone names), so the shape is checked too.
fn timestamp(text: &str) -> Option<Timestamp> {
    let (moment, rest) = text.split_at_checked("2026-01-31T12:00:00".len())?;
    let shape: String = moment.chars().map(|c| if c.is_ascii_digit() { '0' } else { c.to_ascii_uppercase() }).collect();
    let zone = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if zone.len() == fraction.len() {
                return None;
            }
            zone
        }
    };
    let zone_fits = match zone.as_bytes() {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()),
        _ => false,
    };
    if shape != "0000-00-00T00:00:00" || !zone_fits {
        return None;
    }
    text.parse().ok()
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(ErrorCode::HeaderInvalid, detail)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

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
        assert!(producer(&HeaderMap::new()).expect("none is fine").is_none());
        assert!(producer(&map(&[("producer-id", "p"), ("producer-epoch", "0")])).is_err());
        assert!(producer(&map(&[("producer-seq", "0")])).is_err());
    }

    #[test]
    fn if_match_is_one_quoted_token() {
        let check = |value| if_match(&map(&[("if-match", value)])).map_err(|problem| problem.code());
        let token = "00000000000000000012-00000007";
        assert_eq!(check("\"00000000000000000012-00000007\""), Ok(Some(Offset::parse(token).expect("a token"))));
        for value in ["*", "", "\"\"", "\"", "\"-1\"", "\"now\"", "00000000000000000012-00000007"] {
            assert_eq!(check(value), Err(ErrorCode::OffsetMalformed), "{value}");
        }
        assert_eq!(check("W/\"00000000000000000012-00000007\""), Err(ErrorCode::OffsetMalformed));
        assert_eq!(if_match(&HeaderMap::new()).map_err(|problem| problem.code()), Ok(None));
    }

    #[test]
    fn a_ttl_is_a_plain_number_of_seconds() {
        let check = |value| expiry(&map(&[("stream-ttl", value)])).map_err(|problem| problem.code());
        assert_eq!(check("3600"), Ok(Expiry::Idle { ttl_s: 3600 }));
        assert_eq!(check("0"), Ok(Expiry::Idle { ttl_s: 0 }));
        for value in ["", "-1", "+60", "00060", "60.5", "1e3", "abc"] {
            assert_eq!(check(value), Err(ErrorCode::HeaderInvalid), "{value}");
        }
    }

    #[test]
    fn an_expiry_time_is_rfc_3339() {
        let check = |value| expiry(&map(&[("stream-expires-at", value)])).map_err(|problem| problem.code());
        assert_eq!(check("1970-01-01T00:00:01.5Z"), Ok(Expiry::At { at_ms: 1500 }));
        assert_eq!(check("1970-01-01t01:00:01+01:00"), Ok(Expiry::At { at_ms: 1000 }));
        assert_eq!(check("1969-01-01T00:00:00Z"), Ok(Expiry::At { at_ms: 0 }));
        for value in [
            "not-a-timestamp",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31 12:00:00Z",
            "2026-02-30T12:00:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+01",
            "2026-01-31T12:00:00Z[UTC]",
        ] {
            assert_eq!(check(value), Err(ErrorCode::HeaderInvalid), "{value}");
        }
        assert!(expiry(&map(&[("stream-ttl", "1"), ("stream-expires-at", "2026-01-31T12:00:00Z")])).is_err());
        assert_eq!(expiry(&HeaderMap::new()).map_err(|problem| problem.code()), Ok(Expiry::Never));
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
