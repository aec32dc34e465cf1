//! `GET /{bucket}/-/streams`: the streams of a bucket, page by page.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use send_wrapper::SendWrapper;
use serde::Serialize;
use weir_shard::{ListCursor, ListedStream, Listing, Shard};
use weir_stream::Expiry;
use weir_types::BucketName;
use weir_types::limits::NAME_BYTES_MAX;

use crate::error::Problem;
use crate::query::ListQuery;
use crate::render;
use crate::routes::buckets::json;

/// A page of streams.
#[derive(Serialize)]
struct Rows {
    streams: Vec<Row>,
    /// `after` for the next page; none on the last. The page before the last may be short, or empty.
    next: Option<String>,
}

#[derive(Serialize)]
struct Row {
    name: Box<str>,
    content_type: String,
    /// Where it begins, if it was trimmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    earliest_offset: Option<String>,
    next_offset: String,
    created: String,
    closed: bool,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

/// What a row takes while a page is put together, in bytes: a name, and its place in the page.
const ROW_BYTES: usize = NAME_BYTES_MAX + 256;

/// Lists streams.
pub(crate) async fn get(
    State(shard): State<Shard>,
    Path(bucket): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let bucket = BucketName::new(&bucket)?;
    let query = ListQuery::parse(query.as_deref())?;
    // What is put together for it before there is a body.
    let _claim = shard.claim_read(query.limit * ROW_BYTES)?;
    let list = shard.list(bucket.as_str(), &query.prefix, query.after, query.limit);
    let listing = SendWrapper::new(list).await?;
    Ok(json(http::StatusCode::OK, &rows(listing)))
}

fn rows(listing: Listing) -> Rows {
    let next = listing.next.map(|ListCursor(hash)| format!("{hash:016x}"));
    Rows { streams: listing.streams.into_iter().map(row).collect(), next }
}

fn row(stream: ListedStream) -> Row {
    let facts = stream.facts;
    let (ttl, expires_at) = match facts.expiry {
        Expiry::Never => (None, None),
        Expiry::Idle { ttl_s } => (Some(ttl_s), None),
        Expiry::At { at_ms } => (None, Some(render::time(at_ms))),
    };
    Row {
        name: stream.name,
        content_type: facts.content_type.to_string(),
        earliest_offset: (facts.earliest.position > 0).then(|| facts.earliest.to_string()),
        next_offset: facts.next.to_string(),
        created: render::time(facts.created_ms),
        closed: facts.closed,
        ttl,
        expires_at,
    }
}

#[cfg(test)]
mod tests {
    use weir_stream::Facts;
    use weir_types::{Incarnation, Lineage, Lineages};

    use super::*;

    fn stream(name: &str, expiry: Expiry) -> ListedStream {
        let (incarnation, content_type) = (Incarnation(1), "text/plain".into());
        let lineages = Lineages::new(None, Lineage::of(incarnation));
        let (earliest, next) = (lineages.offset(0), lineages.offset(3));
        let facts =
            Facts { incarnation, earliest, next, lineages, content_type, closed: false, expiry, created_ms: 1000 };
        ListedStream { name: name.into(), facts }
    }

    #[test]
    fn a_row_has_the_expiry_it_has() {
        let text = |expiry| serde_json::to_string(&row(stream("a", expiry))).expect("JSON");
        let common = r#"{"name":"a","content_type":"text/plain","next_offset":"00000000000000000003-00000001","created":"1970-01-01T00:00:01Z","closed":false"#;
        assert_eq!(text(Expiry::Never), format!("{common}}}"));
        assert_eq!(text(Expiry::Idle { ttl_s: 5 }), format!("{common},\"ttl\":5}}"));
        assert_eq!(text(Expiry::At { at_ms: 0 }), format!("{common},\"expires_at\":\"1970-01-01T00:00:00Z\"}}"));
    }

    #[test]
    fn next_is_what_the_query_takes_as_after() {
        let streams = vec![stream("a", Expiry::Never)];
        let page = rows(Listing { streams, next: Some(ListCursor(0xabc)) });
        let next = page.next.expect("there is more");
        let query = crate::query::ListQuery::parse(Some(&format!("after={next}"))).expect("a valid query");
        assert_eq!((page.streams.len(), query.after), (1, Some(ListCursor(0xabc))));
        assert_eq!(rows(Listing { streams: Vec::new(), next: None }).next, None);
    }
}
