//! Request bodies: read whole, within a size and without long pauses.
//!
//! A body is handed on in the pieces in which it came (almost every append in one), so that the log's copy is the only
//! one; except for very small pieces, which are copied together.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use weir_shard::Shard;

use crate::error::{ErrorCode, Problem};

/// Pieces below this are put together: each keeps the whole buffer that it was read into, of 8 KiB or more, and only its
/// own bytes are counted.
const PIECE_BYTES_MIN: usize = 4 << 10;
/// Bytes of small pieces that are put together at most.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// How long the rest of a refused body is read for, so that the client gets to read the refusal.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads `body` to its end, its memory counted among the shard's requests under way. Of one that is refused, what is still
/// to come is discarded.
///
/// # Errors
/// As for [`read`].
pub(crate) async fn take<B>(
    mut body: B,
    shard: &Shard,
    bytes_max: usize,
    timeout: Duration,
) -> Result<weir_shard::Body, Problem>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    let mut in_flight = None;
    let claim = |bytes| Ok(in_flight.get_or_insert_with(|| shard.in_flight()).grow(bytes)?);
    let taken = read(&mut body, bytes_max, timeout, claim).await;
    if taken.is_err() {
        discard(body);
    }
    taken
}

/// Reads `body` to its end; `claim` is asked for the memory of every piece after which there is more to wait for.
///
/// # Errors
/// [`ErrorCode::BodyTooLarge`] as soon as it is longer than `bytes_max`, or says that it will be;
/// [`ErrorCode::BodyTimeout`] when nothing arrives for `timeout`; [`ErrorCode::BodyUnreadable`] when it breaks off;
/// whatever `claim` says.
async fn read<B>(
    body: &mut B,
    bytes_max: usize,
    timeout: Duration,
    mut claim: impl FnMut(usize) -> Result<(), Problem>,
) -> Result<weir_shard::Body, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    let mut whole = weir_shard::Body::default();
    let mut small = BytesMut::new();
    while !body.is_end_stream() {
        let Some(piece) = next(body, timeout).await? else { break };
        if whole.len() + small.len() + piece.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        if !body.is_end_stream() {
            claim(piece.len())?;
        }
        // The first piece of almost every append is all of it.
        if piece.len() >= PIECE_BYTES_MIN || (whole.is_empty() && body.is_end_stream()) {
            whole.push(small.split().freeze());
            whole.push(piece);
        } else {
            small.extend_from_slice(&piece);
        }
        if small.len() >= SMALL_BYTES_MAX {
            whole.push(small.split().freeze());
        }
    }
    whole.push(small.freeze());
    Ok(whole)
}

/// Reads on for a moment and drops what comes: a client that is still sending when the connection is closed under it
/// sees a reset instead of the response.
pub(crate) fn discard<B>(mut body: B)
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    if body.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(tokio::time::timeout(DISCARD_TIMEOUT, async move {
        while let Some(Ok(_)) = body.frame().await {}
    }));
}

/// The next piece; trailers are skipped.
async fn next<B>(body: &mut B, timeout: Duration) -> Result<Option<Bytes>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    loop {
        // A timer only when there is something to wait for: most bodies have arrived with their head.
        let frame = match poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
            Poll::Ready(frame) => frame,
            Poll::Pending => tokio::time::timeout(timeout, body.frame())
                .await
                .map_err(|_| Problem::new(ErrorCode::BodyTimeout, "the body paused for too long"))?,
        };
        match frame.transpose().map(|frame| frame.map(Frame::into_data)) {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(piece))) => return Ok(Some(piece)),
            Ok(Some(Err(_trailers))) => {}
            Err(_) => return Err(Problem::new(ErrorCode::BodyUnreadable, "the body broke off or is malformed")),
        }
    }
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(ErrorCode::BodyTooLarge, format!("a body has at most {bytes_max} bytes"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http_body_util::{Full, StreamBody};

    use super::*;

    /// Reads a body without a known length that arrives in these pieces, at most 8 bytes.
    async fn check(pieces: &'static [&'static str]) -> Result<Bytes, &'static str> {
        let frames =
            stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let read = read(&mut StreamBody::new(frames), 8, Duration::from_secs(1), |_| Ok(())).await;
        read.map(|body| Bytes::from(body.pieces().concat())).map_err(|problem| problem.code().as_str())
    }

    #[tokio::test]
    async fn a_body_is_read_whole_up_to_its_limit() {
        assert_eq!(check(&[]).await, Ok(Bytes::new()));
        assert_eq!(check(&["abc"]).await, Ok(Bytes::from("abc")));
        assert_eq!(check(&["abc", "", "defgh"]).await, Ok(Bytes::from("abcdefgh")));
        assert_eq!(check(&["abcdefghi"]).await, Err("body_too_large"));
        assert_eq!(check(&["abcd", "efgh", "i"]).await, Err("body_too_large"));
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_before_it_is_read() {
        let mut body = Full::new(Bytes::from_static(b"123456789"));
        let refusal = read(&mut body, 8, Duration::from_secs(1), |_| Ok(())).await.expect_err("too large");
        assert_eq!(refusal.code(), ErrorCode::BodyTooLarge);
        assert!(!body.is_end_stream(), "nothing was read");
    }

    #[tokio::test]
    async fn a_body_that_pauses_is_given_up() {
        let frames = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let mut body = StreamBody::new(frames);
        let refusal = read(&mut body, 8, Duration::ZERO, |_| Ok(())).await.expect_err("nothing ever comes");
        assert_eq!(refusal.code(), ErrorCode::BodyTimeout);
    }

    #[tokio::test]
    async fn a_body_in_pieces_needs_memory_and_a_whole_one_does_not() {
        let full = || Err(Problem::new(ErrorCode::InFlightLimit, "none is left"));
        let mut whole = Full::new(Bytes::from_static(b"1234"));
        read(&mut whole, 8, Duration::from_secs(1), |_| full()).await.expect("it is here already");
        let pieces = stream::iter(["12", "34"]).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        let refusal = read(&mut StreamBody::new(pieces), 8, Duration::from_secs(1), |_| full()).await;
        assert_eq!(refusal.expect_err("there is more to come").code(), ErrorCode::InFlightLimit);
    }
}
