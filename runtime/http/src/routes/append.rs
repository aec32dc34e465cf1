//! `POST`: append records, and perhaps close the stream with them (protocol, section 5.2).

use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use weir_shard::AppendRequest;
use weir_stream::Appended;
use weir_types::StreamKey;

use crate::error::{ErrorCode, Problem};
use crate::headers::{PRODUCER_EPOCH, PRODUCER_SEQ};
use crate::payload::Payload;
use crate::routes::close;
use crate::service::Connection;
use crate::{fields, render};

/// Appends the body.
pub(crate) async fn post(
    connection: &Connection,
    key: StreamKey,
    head: &Parts,
    body: Incoming,
) -> Result<Response<Payload>, Problem> {
    let mut request = AppendRequest {
        content_type: fields::content_type(&head.headers)?,
        if_match: fields::if_match(&head.headers)?,
        ..AppendRequest::default()
    };
    // Most appends have none of the protocol's own fields, and a glance at the names costs less than looking each up.
    if fields::has_own(&head.headers) {
        request.close = fields::closed(&head.headers);
        request.producer = fields::producer(&head.headers)?;
        request.seq = fields::seq(&head.headers)?;
    }
    request.body = connection.body(body).await?;
    if request.body.is_empty() {
        return match request.close {
            true => close::close(connection, key, request).await,
            false => Err(Problem::new(ErrorCode::BodyEmpty, "a body, or 'Stream-Closed: true', is needed")),
        };
    }
    if request.content_type.is_none() {
        return Err(Problem::new(ErrorCode::ContentTypeMissing, "a body needs a content type"));
    }
    let appended = connection.shard().append(key, request).await?;
    // The protocol tells new data from a duplicate by the status, but only to producers.
    let status = match appended.producer {
        Some(_) if !appended.duplicate => StatusCode::OK,
        _ => StatusCode::NO_CONTENT,
    };
    Ok(response(status, &appended))
}

/// The answer to an append or a close.
pub(crate) fn response(status: StatusCode, appended: &Appended) -> Response<Payload> {
    let mut headers = HeaderMap::with_capacity(12);
    render::position(&mut headers, appended.next, appended.closed);
    if let Some(producer) = appended.producer {
        headers.insert(&PRODUCER_EPOCH, producer.epoch.into());
        headers.insert(&PRODUCER_SEQ, producer.seq.into());
    }
    let mut response = render::empty(status);
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use weir_stream::ProducerState;
    use weir_types::{Incarnation, Lineage, Offset};

    use super::*;

    #[test]
    fn a_response_says_where_the_tail_is_and_what_is_accepted() {
        let next = Offset { position: 3, lineage: Lineage::of(Incarnation(1)) };
        let producer = Some(ProducerState { epoch: 2, seq: 5 });
        let appended = Appended { next, closed: true, producer, duplicate: false };
        let response = response(StatusCode::OK, &appended);
        let mut headers: Vec<_> = response.headers().iter().map(|(name, value)| (name.as_str(), value)).collect();
        headers.sort();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.to_str().expect("ASCII"))).collect();
        let token = "00000000000000000003_00000001";
        let expected =
            [("producer-epoch", "2"), ("producer-seq", "5"), ("stream-closed", "true"), ("stream-next-offset", token)];
        assert_eq!(headers, expected);
    }
}
