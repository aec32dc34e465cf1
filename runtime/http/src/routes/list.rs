//! `GET /{bucket}/-/streams`: the streams of a bucket, in the order of their names, page by page.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use send_wrapper::SendWrapper;
use serde::Serialize;
use weir_shard::{ListedStream, Shard};
use weir_stream::Expiry;
use weir_types::BucketName;

use crate::error::Problem;
use crate::query::ListQuery;
use crate::render;
use crate::routes::buckets::json;

/// A page of names.
#[derive(Serialize)]
struct Listing {
    streams: Vec<Row>,
    /// `after` for the next page; none on the last.
    next: Option<Box<str>>,
}

#[derive(Serialize)]
struct Row {
    name: Box<str>,
    content_type: String,
    next_offset: String,
    created: String,
    closed: bool,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

/// Lists streams.
pub(crate) async fn get(
    State(shard): State<Shard>,
    Path(bucket): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let bucket = BucketName::new(&bucket)?;
    let query = ListQuery::parse(query.as_deref())?;
    // One more than asked for tells whether there is a next page.
    let list = shard.list(bucket.as_str(), &query.prefix, query.after.as_deref(), query.limit + 1);
    let rows = SendWrapper::new(list).await?;
    Ok(json(http::StatusCode::OK, &listing(rows, query.limit)))
}

fn listing(mut rows: Vec<ListedStream>, limit: usize) -> Listing {
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|row| row.name.clone());
    Listing { streams: rows.into_iter().map(row).collect(), next }
}

fn row(stream: ListedStream) -> Row {
    let summary = stream.summary;
    let (ttl, expires_at) = match summary.expiry {
        Expiry::Never => (None, None),
        Expiry::Idle { ttl_s } => (Some(ttl_s), None),
        Expiry::At { at_ms } => (None, Some(render::time(at_ms))),
    };
    Row {
        name: stream.name,
        content_type: summary.content_type.to_string(),
        next_offset: summary.next.to_string(),
        created: render::time(summary.created_ms),
        closed: summary.closed,
        ttl,
        expires_at,
    }
}

#[cfg(test)]
mod tests {
    use weir_stream::Summary;
    use weir_types::{Incarnation, Lineage, Offset};

    use super::*;

    fn stream(name: &str, expiry: Expiry) -> ListedStream {
        let next = Offset { position: 3, lineage: Lineage::of(Incarnation(1)) };
        let content_type = "text/plain".into();
        let summary =
            Summary { incarnation: Incarnation(1), next, content_type, closed: false, expiry, created_ms: 1000 };
        ListedStream { name: name.into(), summary }
    }

    #[test]
    fn a_row_has_the_expiry_it_has() {
        let text = |expiry| serde_json::to_string(&row(stream("a", expiry))).expect("JSON");
        let common = r#"{"name":"a","content_type":"text/plain","next_offset":"00000000000000000003_00000001","created":"1970-01-01T00:00:01Z","closed":false"#;
        assert_eq!(text(Expiry::Never), format!("{common}}}"));
        assert_eq!(text(Expiry::Idle { ttl_s: 5 }), format!("{common},\"ttl\":5}}"));
        assert_eq!(text(Expiry::At { at_ms: 0 }), format!("{common},\"expires_at\":\"1970-01-01T00:00:00Z\"}}"));
    }

    #[test]
    fn next_is_there_when_there_is_more() {
        let page = |names: &[&str]| {
            let listing = listing(names.iter().map(|name| stream(name, Expiry::Never)).collect(), 2);
            (listing.streams.len(), listing.next)
        };
        assert_eq!(page(&[]), (0, None));
        assert_eq!(page(&["a", "b"]), (2, None));
        assert_eq!(page(&["a", "b", "c"]), (2, Some("b".into())));
    }
}
