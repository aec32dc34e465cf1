//! Request bodies: read whole, within a size, at some pace and without long pauses.
//!
//! A body is handed on in the pieces in which it came (almost every append in one), so that the log's copy is the only
//! one; except for very small pieces, which are copied together.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use send_wrapper::SendWrapper;
use tokio::time::{Instant, timeout_at};
use weir_shard::Shard;

use crate::activity::{Activity, paced_bytes_min};
use crate::error::{ErrorCode, Problem};
use crate::wakes::Wakes;

/// Pieces below this are put together: each keeps the whole buffer that it was read into, of 8 KiB or more, and only its
/// own bytes are counted.
const PIECE_BYTES_MIN: usize = 4 << 10;
/// Bytes of small pieces that are put together at most.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// How long the rest of a refused body is read for, so that the client gets to read the refusal.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// What a body may be.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Its bytes.
    pub(crate) bytes_max: usize,
    /// How long it may pause.
    pub(crate) timeout: Duration,
    /// How many bytes of it may come more slowly than [`paced_bytes_min`] says.
    pub(crate) slow_bytes_max: usize,
}

/// Reads `body` to its end, its memory counted among the shard's requests under way and in its connection's share of them.
/// Of one that is refused, what is still to come is its caller's to [discard].
///
/// # Errors
/// As for [`read`]; [`ErrorCode::InFlightLimit`].
pub(crate) async fn take<B>(
    body: &mut B,
    shard: &Shard,
    activity: &Rc<Activity>,
    bounds: Bounds,
) -> Result<weir_shard::Body, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut counted = None;
    let claim = |bytes| {
        let (in_flight, incoming) = counted.get_or_insert_with(|| (shard.in_flight(), activity.begin_body()));
        if !incoming.grow(bytes, shard.in_flight_share()) {
            let detail = "the other requests of this connection already use all the memory that one connection may use";
            return Err(Problem::new(ErrorCode::InFlightLimit, detail));
        }
        Ok(in_flight.grow(bytes)?)
    };
    let mut whole = read(body, activity.wakes.get(), bounds, claim).await?;
    if let Some((in_flight, _)) = counted {
        whole.keep(in_flight);
    }
    Ok(whole)
}

/// Reads `body` to its end; `claim` is asked for the memory of every piece after which there is more to wait for. What the last
/// piece wakes is forgotten by `wakes`.
///
/// # Errors
/// [`ErrorCode::BodyTooLarge`] as soon as it is longer than it may be, or says that it will be;
/// [`ErrorCode::BodyTimeout`] when it pauses or comes too slowly; [`ErrorCode::BodyUnreadable`] when it breaks off;
/// whatever `claim` says.
async fn read<B>(
    body: &mut B,
    wakes: Option<&Wakes>,
    bounds: Bounds,
    mut claim: impl FnMut(usize) -> Result<(), Problem>,
) -> Result<weir_shard::Body, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let bytes_max = bounds.bytes_max;
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    let mut pace = Pace { bounds, window: None };
    let mut whole = weir_shard::Body::default();
    let mut small = BytesMut::new();
    while !body.is_end_stream() {
        let Some(piece) = next(body, wakes, &mut pace, whole.len() + small.len()).await? else { break };
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

/// A body that comes back when whoever it was given to drops it: handlers of a router take it whole.
pub(crate) struct Lent {
    body: Option<Incoming>,
    back: SendWrapper<Rc<Cell<Option<Incoming>>>>,
}

impl Lent {
    /// Lends `body`; in the second part is what has come back.
    pub(crate) fn new(body: Incoming) -> (Lent, Rc<Cell<Option<Incoming>>>) {
        let back = Rc::new(Cell::new(None));
        (Lent { body: Some(body), back: SendWrapper::new(back.clone()) }, back)
    }

    fn body(&self) -> &Incoming {
        self.body.as_ref().expect("it is lent until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.back.set(self.body.take());
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(self.body.as_mut().expect("it is lent until it is dropped")).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
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

/// How fast a body comes.
struct Pace {
    bounds: Bounds,
    /// Until when it is measured, and how much of the body was there before.
    window: Option<(Instant, usize)>,
}

impl Pace {
    /// Waits for the next frame of a body of which `taken` bytes are there.
    async fn wait<B>(&mut self, body: &mut B, taken: usize) -> Result<Option<Result<Frame<Bytes>, B::Error>>, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let timeout = self.bounds.timeout;
        let pause_end = Instant::now() + timeout;
        loop {
            let window_end = self.window_end(taken).unwrap_or(pause_end);
            if let Ok(frame) = timeout_at(window_end.min(pause_end), body.frame()).await {
                return Ok(frame);
            }
            let slow = "the body came at less than 4 KiB per second; send it faster, or less at once";
            let detail = match Instant::now() < pause_end {
                true if self.window_end(taken).is_some_and(|end| end > Instant::now()) => continue,
                true => slow,
                false => "the body paused for too long",
            };
            return Err(Problem::new(ErrorCode::BodyTimeout, detail));
        }
    }

    /// Until when so much more must have come as the pace demands, if anything must: of a window that was kept, the next.
    fn window_end(&mut self, taken: usize) -> Option<Instant> {
        let Bounds { timeout, slow_bytes_max, .. } = self.bounds;
        if taken < slow_bytes_max {
            return None;
        }
        let now = Instant::now();
        let window = self.window.get_or_insert((now + timeout, taken));
        if now >= window.0 && taken - window.1 >= paced_bytes_min(timeout) {
            *window = (now + timeout, taken);
        }
        Some(window.0)
    }
}

/// The next piece; trailers are skipped.
async fn next<B>(body: &mut B, wakes: Option<&Wakes>, pace: &mut Pace, taken: usize) -> Result<Option<Bytes>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    loop {
        // A timer only when there is something to wait for: most bodies have arrived with their head.
        let polled = poll_fn(|cx| {
            let mut poll = || (Pin::new(&mut *body).poll_frame(cx), body.is_end_stream());
            Poll::Ready(match wakes {
                Some(wakes) => wakes.forget(poll),
                None => poll().0,
            })
        });
        let frame = match polled.await {
            Poll::Ready(frame) => frame,
            Poll::Pending => pace.wait(body, taken).await?,
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

    const BOUNDS: Bounds = Bounds { bytes_max: 8, timeout: Duration::from_secs(1), slow_bytes_max: 8 };

    /// Reads a body without a known length that arrives in these pieces, at most 8 bytes.
    async fn check(pieces: &'static [&'static str]) -> Result<Bytes, &'static str> {
        let frames =
            stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let read = read(&mut StreamBody::new(frames), None, BOUNDS, |_| Ok(())).await;
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
        let refusal = read(&mut body, None, BOUNDS, |_| Ok(())).await.expect_err("too large");
        assert_eq!(refusal.code(), ErrorCode::BodyTooLarge);
        assert!(!body.is_end_stream(), "nothing was read");
    }

    #[tokio::test]
    async fn a_body_that_pauses_is_given_up() {
        let frames = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let mut body = StreamBody::new(frames);
        let refusal = read(&mut body, None, Bounds { timeout: Duration::ZERO, ..BOUNDS }, |_| Ok(()))
            .await
            .expect_err("nothing ever comes");
        assert_eq!(refusal.code(), ErrorCode::BodyTimeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_comes_at_a_pace_once_it_is_large() {
        // Pieces of so many bytes, one every tenth of a second, for a minute.
        let check = async |piece_bytes: usize, slow_bytes_max| {
            let pieces = stream::iter(0..600).then(move |_| async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; piece_bytes])))
            });
            let bounds = Bounds { bytes_max: 1 << 20, timeout: Duration::from_secs(5), slow_bytes_max };
            let begun = Instant::now();
            let read = read(&mut StreamBody::new(Box::pin(pieces)), None, bounds, |_| Ok(())).await;
            (read.map(|body| body.len()).map_err(|problem| problem.code()), begun.elapsed().as_secs())
        };
        assert_eq!(check(420, 0).await, (Ok(252_000), 60));
        assert_eq!(check(400, 0).await, (Err(ErrorCode::BodyTimeout), 5));
        assert_eq!(check(100, 64 << 10).await, (Ok(60_000), 60), "a small one takes its time");
        assert_eq!(check(400, 64 << 10).await, (Err(ErrorCode::BodyTimeout), 21), "16 s, and then five");
    }

    #[tokio::test]
    async fn a_body_in_pieces_needs_memory_and_a_whole_one_does_not() {
        let full = || Err(Problem::new(ErrorCode::InFlightLimit, "none is left"));
        let mut whole = Full::new(Bytes::from_static(b"1234"));
        read(&mut whole, None, BOUNDS, |_| full()).await.expect("it is here already");
        let pieces = stream::iter(["12", "34"]).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        let refusal = read(&mut StreamBody::new(pieces), None, BOUNDS, |_| full()).await;
        assert_eq!(refusal.expect_err("there is more to come").code(), ErrorCode::InFlightLimit);
    }
}
