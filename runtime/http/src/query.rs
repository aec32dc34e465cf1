//! Query parameters. Unknown ones are ignored; a known one is given at most once.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use weir_shard::{ListCursor, SummaryQuery, TrimRequest};
use weir_types::{ModuleName, Offset, ReadFrom};

use crate::error::{ErrorCode, Problem};

/// How a read ends, as `live` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadMode {
    /// With what is there.
    No,
    /// With the next data.
    LongPoll,
    /// After a while; data is sent as it comes.
    Sse,
}

/// What a `GET` of a stream asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GetQuery {
    /// Its records.
    Read(ReadQuery),
    /// A summary. Boxed, because most do not ask for one.
    Summary(Box<SummaryRead>),
}

/// A read's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadQuery {
    /// `offset`.
    pub(crate) from: ReadFrom,
    /// Whether there is no `offset`: then the address is the stream's own, and what it brings grows.
    pub(crate) is_bare: bool,
    /// `live`.
    pub(crate) live: ReadMode,
    /// `cursor`; one that is no number is not ours and ignored.
    pub(crate) cursor: Option<u64>,
    /// `lastEventId`: the `Last-Event-ID` of clients that send no header fields of their own.
    pub(crate) resumed: Option<Offset>,
}

/// The parameters of a read of a summary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SummaryRead {
    /// `summary`, `{binding}` or `{binding}/{path}`, and the parameters that are not ours.
    pub(crate) query: SummaryQuery,
    /// `offset`: wait for a summary of all records before it. A follower gets what there is.
    pub(crate) at_least: ReadFrom,
    /// `live=sse`.
    pub(crate) is_followed: bool,
    /// `cursor`, as in a read.
    pub(crate) cursor: Option<u64>,
    /// `lastEventId`, as in a read.
    pub(crate) resumed: Option<Offset>,
}

impl GetQuery {
    /// Reads a request's query, as sent.
    pub(crate) fn parse(query: Option<&str>) -> Result<GetQuery, Problem> {
        let (mut from, mut live, mut cursor, mut summary, mut resumed) = (None, None, None, None, None);
        for (key, value) in pairs(query) {
            match &*key {
                "offset" => once("offset", &mut from, read_from(&value)?)?,
                "live" => {
                    let value = match &*value {
                        "long-poll" => ReadMode::LongPoll,
                        "sse" => ReadMode::Sse,
                        _ => return Err(invalid("'live' is 'long-poll' or 'sse'")),
                    };
                    once("live", &mut live, value)?;
                }
                "cursor" => once("cursor", &mut cursor, value.parse().ok())?,
                "summary" => once("summary", &mut summary, value)?,
                key if is_last_event_id(key) => once("lastEventId", &mut resumed, last_event_id(&value)?)?,
                _ => {}
            }
        }
        let read = ReadQuery {
            from: from.unwrap_or(ReadFrom::Start),
            is_bare: from.is_none(),
            live: live.unwrap_or(ReadMode::No),
            cursor: cursor.flatten(),
            resumed: resumed.flatten(),
        };
        if let Some(summary) = summary {
            return SummaryRead::new(&summary, read, query).map(|read| GetQuery::Summary(Box::new(read)));
        }
        if live.is_some() && from.is_none() {
            return Err(invalid("a live read needs an 'offset'"));
        }
        Ok(GetQuery::Read(read))
    }
}

impl SummaryRead {
    fn new(summary: &str, read: ReadQuery, query: Option<&str>) -> Result<SummaryRead, Problem> {
        let (binding, path) = summary.split_once('/').unwrap_or((summary, ""));
        let is_followed = match read.live {
            ReadMode::No => false,
            ReadMode::Sse => true,
            ReadMode::LongPoll => return Err(invalid("a summary is read with 'offset' or followed with 'live=sse'")),
        };
        let is_ours = |key: &str| matches!(key, "offset" | "live" | "cursor" | "summary") || is_last_event_id(key);
        let params = pairs(query).filter(|(key, _)| !is_ours(key));
        let params = params.map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
        let query = SummaryQuery { binding: ModuleName::new(binding)?, path: format!("/{path}").into(), params };
        Ok(SummaryRead { query, at_least: read.from, is_followed, cursor: read.cursor, resumed: read.resumed })
    }
}

/// Stand-ins for `EventSource` differ in how they spell it.
fn is_last_event_id(key: &str) -> bool {
    matches!(key, "lastEventId" | "lastEventID" | "Last-Event-ID")
}

/// The id of the last event that a client has got, which is the offset to go on from; an empty one is none.
pub(crate) fn last_event_id(id: &str) -> Result<Option<Offset>, Problem> {
    match id {
        "" => Ok(None),
        id => Offset::parse(id).map(Some).map_err(|_| {
            Problem::new(ErrorCode::OffsetMalformed, "Last-Event-ID is the 'id' of an event that this server has sent")
        }),
    }
}

/// Reads the parameters of a trim, as sent.
pub(crate) fn trim(query: Option<&str>) -> Result<TrimRequest, Problem> {
    let (mut before, mut force) = (None, None);
    for (key, value) in pairs(query) {
        match &*key {
            "before" => once("before", &mut before, read_from(&value)?)?,
            "force" => {
                let value = value.parse().map_err(|_| invalid("'force' is 'true' or 'false'"))?;
                once("force", &mut force, value)?;
            }
            _ => {}
        }
    }
    let before = before.ok_or_else(|| invalid("a trim needs 'before', the offset of the first record that stays"))?;
    Ok(TrimRequest { before, force: force.unwrap_or(false) })
}

fn read_from(value: &str) -> Result<ReadFrom, Problem> {
    ReadFrom::parse(value).map_err(|error| Problem::new(ErrorCode::OffsetMalformed, error.to_string()))
}

/// Names on a page of a listing, unless the request says how many.
const LIST_LIMIT: usize = 100;
/// Longest page that can be asked for, in names.
const LIST_LIMIT_MAX: usize = 1000;

/// A listing's parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListQuery {
    /// What the names begin with.
    pub(crate) prefix: String,
    /// `next` of the page before.
    pub(crate) after: Option<ListCursor>,
    /// Names on the page, 1 to [`LIST_LIMIT_MAX`].
    pub(crate) limit: usize,
}

impl ListQuery {
    /// Reads a request's query, as sent.
    pub(crate) fn parse(query: Option<&str>) -> Result<ListQuery, Problem> {
        let (mut prefix, mut after, mut limit) = (None, None, None);
        for (key, value) in pairs(query) {
            match &*key {
                "prefix" => once("prefix", &mut prefix, value.into_owned())?,
                "after" => {
                    let cursor = Some(&*value).filter(|text| text.len() == 16 && !text.starts_with('+'));
                    let cursor = cursor.and_then(|text| u64::from_str_radix(text, 16).ok()).map(ListCursor);
                    once(
                        "after",
                        &mut after,
                        cursor.ok_or_else(|| invalid("'after' must be the 'next' of the page before"))?,
                    )?;
                }
                "limit" => once("limit", &mut limit, list_limit(&value)?)?,
                _ => {}
            }
        }
        Ok(ListQuery { prefix: prefix.unwrap_or_default(), after, limit: limit.unwrap_or(LIST_LIMIT) })
    }
}

/// The parameters of a list of buckets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BucketsQuery {
    /// `next` of the page before: its last name.
    pub(crate) after: String,
    /// Names on the page, 1 to [`LIST_LIMIT_MAX`].
    pub(crate) limit: usize,
}

impl BucketsQuery {
    /// Reads a request's query, as sent.
    pub(crate) fn parse(query: Option<&str>) -> Result<BucketsQuery, Problem> {
        let (mut after, mut limit) = (None, None);
        for (key, value) in pairs(query) {
            match &*key {
                "after" => once("after", &mut after, value.into_owned())?,
                "limit" => once("limit", &mut limit, list_limit(&value)?)?,
                _ => {}
            }
        }
        Ok(BucketsQuery { after: after.unwrap_or_default(), limit: limit.unwrap_or(LIST_LIMIT) })
    }
}

fn list_limit(value: &str) -> Result<usize, Problem> {
    let limit = value.parse().ok().filter(|limit| (1..=LIST_LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| invalid("'limit' is a number from 1 to 1000"))
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

/// The parameters in order, decoded.
fn pairs(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key), decode(value))
    })
}

/// A key or value, decoded. What is not UTF-8 is made so with replacement characters, which no known value contains.
fn decode(text: &str) -> Cow<'_, str> {
    match text.contains(['%', '+']) {
        false => Cow::Borrowed(text),
        true => {
            let spaced = text.replace('+', " ");
            Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> &'static str {
        result.expect_err("a refusal").code().as_str()
    }

    fn read(query: Option<&str>) -> ReadQuery {
        match GetQuery::parse(query).expect("a valid query") {
            GetQuery::Read(read) => read,
            GetQuery::Summary(summary) => panic!("{summary:?}"),
        }
    }

    /// `binding path [params] offset followed|once`, or the code of the refusal.
    fn check_summary(query: &str) -> String {
        let read = match GetQuery::parse(Some(query)) {
            Ok(GetQuery::Summary(read)) => read,
            Ok(GetQuery::Read(read)) => panic!("{read:?}"),
            Err(problem) => return problem.code().as_str().to_string(),
        };
        let params: Vec<_> = read.query.params.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let at_least = match read.at_least {
            ReadFrom::Start => "-1".to_string(),
            ReadFrom::Now => "now".to_string(),
            ReadFrom::At(offset) => offset.position.to_string(),
        };
        let how = if read.is_followed { "followed" } else { "once" };
        format!("{} {} [{}] {at_least} {how}", read.query.binding, read.query.path, params.join(","))
    }

    #[test]
    fn a_read_begins_where_its_query_says() {
        let read = |query| (read(query).from, read(query).live);
        assert_eq!(read(None), (ReadFrom::Start, ReadMode::No));
        assert_eq!(read(Some("")), (ReadFrom::Start, ReadMode::No));
        assert_eq!(read(Some("foo=bar&offset=now&baz")), (ReadFrom::Now, ReadMode::No));
        assert_eq!(read(Some("offset=%2D1&live=sse")), (ReadFrom::Start, ReadMode::Sse));
        assert_eq!(read(Some("%6Fffset=now&l%69ve=sse")), (ReadFrom::Now, ReadMode::Sse));
        assert_eq!(read(Some("live=long-poll&offset=-1")), (ReadFrom::Start, ReadMode::LongPoll));
    }

    #[test]
    fn malformed_reads_are_refused() {
        for query in ["offset=", "offset", "offset=0,1", "offset=0%201", "offset=a&offset=b", "offset=now%0A"] {
            assert_eq!(code(GetQuery::parse(Some(query))), "offset_malformed", "{query}");
        }
        for query in [
            "offset=-1&offset=-1",
            "live=sse",
            "live=long-poll",
            "offset=-1&live=",
            "offset=-1&live=true",
            "cursor=1&cursor=2",
            "offset=-1&%6Fffset=-1",
        ] {
            assert_eq!(code(GetQuery::parse(Some(query))), "query_invalid", "{query}");
        }
    }

    #[test]
    fn a_summary_is_asked_by_binding_and_path_with_what_is_not_ours() {
        assert_eq!(check_summary("summary=totals"), "totals / [] -1 once");
        assert_eq!(check_summary("summary=totals/"), "totals / [] -1 once");
        assert_eq!(check_summary("summary=totals/top/5"), "totals /top/5 [] -1 once");
        assert_eq!(check_summary("summary=totals%2Ftop+5"), "totals /top 5 [] -1 once");
        assert_eq!(check_summary("b=2&summary=totals&a%20b=%3D1&b=&c&cursor=3"), "totals / [b=2,a b==1,b=,c=] -1 once");
        assert_eq!(check_summary("summary=totals&offset=now"), "totals / [] now once");
        assert_eq!(check_summary("summary=totals&offset=00000000000000000012-00000007"), "totals / [] 12 once");
        assert_eq!(check_summary("live=sse&summary=totals"), "totals / [] -1 followed");
    }

    #[test]
    fn malformed_reads_of_summaries_are_refused() {
        assert_eq!(check_summary("summary="), "module_name_invalid");
        assert_eq!(check_summary("summary=/top"), "module_name_invalid");
        assert_eq!(check_summary("summary=Totals"), "module_name_invalid");
        assert_eq!(check_summary("summary=a&summary=a"), "query_invalid");
        assert_eq!(check_summary("summary=a&live=long-poll&offset=-1"), "query_invalid");
        assert_eq!(check_summary("summary=a&offset=x"), "offset_malformed");
    }

    #[test]
    fn the_last_event_is_named_in_the_query_too() {
        let offset = Offset::parse("00000000000000000012-00000007").expect("a token");
        for key in ["lastEventId", "lastEventID", "Last-Event-ID"] {
            let query = format!("offset=-1&live=sse&{key}={offset}");
            assert_eq!(read(Some(&query)).resumed, Some(offset), "{key}");
            assert_eq!(check_summary(&format!("summary=a&live=sse&{key}={offset}")), "a / [] -1 followed");
            assert_eq!(code(GetQuery::parse(Some(&format!("offset=-1&{key}=-1")))), "offset_malformed", "{key}");
        }
        assert_eq!(read(Some("offset=-1&live=sse&lastEventId=")).resumed, None);
    }

    #[test]
    fn a_trim_says_before_what() {
        let trim = |query| trim(Some(query)).map(|request| (request.before, request.force));
        let offset = Offset::parse("00000000000000000012-00000007").expect("a token");
        assert_eq!(trim("before=00000000000000000012-00000007&x").expect("valid"), (ReadFrom::At(offset), false));
        assert_eq!(trim("force=true&before=now").expect("valid"), (ReadFrom::Now, true));
        assert_eq!(trim("force=false&before=-1").expect("valid"), (ReadFrom::Start, false));
        for query in ["", "force=true", "before=now&force=1", "before=now&before=now", "before=now&force="] {
            assert_eq!(code(trim(query)), "query_invalid", "{query}");
        }
        assert_eq!(code(trim("before=12")), "offset_malformed");
    }

    #[test]
    fn a_foreign_cursor_is_ignored() {
        let cursor = |query| read(Some(query)).cursor;
        assert_eq!(cursor("offset=-1&live=sse&cursor=12"), Some(12));
        assert_eq!(cursor("offset=-1&live=sse&cursor=abc"), None);
    }

    #[test]
    fn a_listing_has_defaults_and_limits() {
        let list = ListQuery::parse(Some("prefix=a%2Fb+c&after=00000000000000ff&limit=1000")).expect("a valid query");
        assert_eq!(list, ListQuery { prefix: "a/b c".to_string(), after: Some(ListCursor(255)), limit: 1000 });
        assert_eq!(ListQuery::parse(None).expect("a valid query").limit, 100);
        for query in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=",
            "limit=1&limit=1",
            "after=",
            "after=name",
            "after=+000000000000001",
        ] {
            assert_eq!(code(ListQuery::parse(Some(query))), "query_invalid", "{query}");
        }
    }
}
