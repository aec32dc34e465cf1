//! Query parameters. Unknown ones are ignored; a known one is given at most once.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use weir_types::ReadFrom;

use crate::error::{ErrorCode, Problem};

/// How a read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Live {
    /// With what is there.
    No,
    /// With the next data.
    LongPoll,
    /// After a while; data is sent as it comes.
    Sse,
}

/// A read's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadQuery {
    /// `offset`.
    pub(crate) from: ReadFrom,
    /// `live`.
    pub(crate) live: Live,
    /// `cursor`; one that is no number is not ours and ignored.
    pub(crate) cursor: Option<u64>,
}

impl ReadQuery {
    /// Reads a request's query, as sent.
    pub(crate) fn parse(query: Option<&str>) -> Result<ReadQuery, Problem> {
        let (mut from, mut live, mut cursor) = (None, None, None);
        for (key, value) in pairs(query) {
            match key {
                "offset" => {
                    let value = ReadFrom::parse(&value)
                        .map_err(|error| Problem::new(ErrorCode::OffsetMalformed, error.to_string()))?;
                    once(key, &mut from, value)?;
                }
                "live" => {
                    let value = match &*value {
                        "long-poll" => Live::LongPoll,
                        "sse" => Live::Sse,
                        _ => return Err(invalid("'live' is 'long-poll' or 'sse'")),
                    };
                    once(key, &mut live, value)?;
                }
                "cursor" => cursor = value.parse().ok(),
                _ => {}
            }
        }
        if live.is_some() && from.is_none() {
            return Err(invalid("a live read needs an 'offset'"));
        }
        Ok(ReadQuery { from: from.unwrap_or(ReadFrom::Start), live: live.unwrap_or(Live::No), cursor })
    }
}

/// Longest listing that can be asked for, in streams.
const LIST_LIMIT_MAX: usize = 1000;

/// A listing's parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListQuery {
    /// What the names begin with.
    pub(crate) prefix: String,
    /// The last name of the page before.
    pub(crate) after: Option<String>,
    /// Names on the page, 1 to [`LIST_LIMIT_MAX`].
    pub(crate) limit: usize,
}

impl ListQuery {
    /// Reads a request's query, as sent.
    pub(crate) fn parse(query: Option<&str>) -> Result<ListQuery, Problem> {
        let (mut prefix, mut after, mut limit) = (None, None, None);
        for (key, value) in pairs(query) {
            match key {
                "prefix" => once(key, &mut prefix, value.into_owned())?,
                "after" => once(key, &mut after, value.into_owned())?,
                "limit" => {
                    let value = value.parse().ok().filter(|limit| (1..=LIST_LIMIT_MAX).contains(limit));
                    once(key, &mut limit, value.ok_or_else(|| invalid("'limit' is a number from 1 to 1000"))?)?;
                }
                _ => {}
            }
        }
        Ok(ListQuery { prefix: prefix.unwrap_or_default(), after, limit: limit.unwrap_or(100) })
    }
}

fn once<T>(key: &str, slot: &mut Option<T>, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Problem::new(ErrorCode::QueryInvalid, format!("'{key}' is given twice"))),
    }
}

fn invalid(detail: &'static str) -> Problem {
    Problem::new(ErrorCode::QueryInvalid, detail)
}

/// The parameters in order, values decoded. What is not UTF-8 is made so with replacement characters, which no known
/// value contains.
fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = match value.contains(['%', '+']) {
            false => Cow::Borrowed(value),
            true => {
                let spaced = value.replace('+', " ");
                Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
            }
        };
        (key, value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> &'static str {
        result.expect_err("a refusal").code().as_str()
    }

    #[test]
    fn a_read_begins_where_its_query_says() {
        let read = |query| ReadQuery::parse(query).map(|query| (query.from, query.live)).expect("a valid query");
        assert_eq!(read(None), (ReadFrom::Start, Live::No));
        assert_eq!(read(Some("")), (ReadFrom::Start, Live::No));
        assert_eq!(read(Some("foo=bar&offset=now&baz")), (ReadFrom::Now, Live::No));
        assert_eq!(read(Some("offset=%2D1&live=sse")), (ReadFrom::Start, Live::Sse));
        assert_eq!(read(Some("live=long-poll&offset=-1")), (ReadFrom::Start, Live::LongPoll));
    }

    #[test]
    fn malformed_reads_are_refused() {
        for query in ["offset=", "offset", "offset=0,1", "offset=0%201", "offset=a&offset=b", "offset=now%0A"] {
            assert_eq!(code(ReadQuery::parse(Some(query))), "offset_malformed", "{query}");
        }
        for query in ["offset=-1&offset=-1", "live=sse", "live=long-poll", "offset=-1&live=", "offset=-1&live=true"] {
            assert_eq!(code(ReadQuery::parse(Some(query))), "query_invalid", "{query}");
        }
    }

    #[test]
    fn a_foreign_cursor_is_ignored() {
        let cursor = |query| ReadQuery::parse(Some(query)).expect("a valid query").cursor;
        assert_eq!(cursor("offset=-1&live=sse&cursor=12"), Some(12));
        assert_eq!(cursor("offset=-1&live=sse&cursor=abc"), None);
    }

    #[test]
    fn a_listing_has_defaults_and_limits() {
        let list = ListQuery::parse(Some("prefix=a%2Fb+c&after=x&limit=1000")).expect("a valid query");
        assert_eq!(list, ListQuery { prefix: "a/b c".to_string(), after: Some("x".to_string()), limit: 1000 });
        assert_eq!(ListQuery::parse(None).expect("a valid query").limit, 100);
        for query in ["limit=0", "limit=1001", "limit=x", "limit=", "limit=1&limit=1"] {
            assert_eq!(code(ListQuery::parse(Some(query))), "query_invalid", "{query}");
        }
    }
}
