//! One connection, HTTP/1.1 or h2c, from its first byte to its last.
//!
//! An HTTP/2 client with prior knowledge begins with `PRI * HTTP/2.0`; no HTTP/1 method does, so the first bytes tell.
//! HTTP/1 is served by hyper's plain connection, but for live responses ([`crate::live`]). The head's timeout is [`Io`]'s
//! and not hyper's, which would arm a timer for every request.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use weir_types::{ShardId, StreamKey};

use crate::activity::Activity;
use crate::context::Context;
use crate::io::{Io, Stalls};
use crate::live::Handover;
use crate::path::{self, Target};
use crate::service::Service;
use crate::wakes::Wakes;

/// What an HTTP/2 connection begins with; four bytes are enough to tell.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_TELLING: usize = 4;
/// What an HTTP/2 client may send ahead of being read, per stream and per connection, and what is buffered of a response
/// that it does not take.
const HTTP2_WINDOW_BYTES: u32 = 256 << 10;
const HTTP2_SEND_BYTES_MAX: usize = 64 << 10;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How much of a first request is looked at to see where it belongs.
const FIRST_LINE_BYTES: usize = 512;

/// Serves one connection until it ends, or until the server shuts down: then no new request is taken, running ones
/// are finished, and live reads end. Runs on the service's shard, as a local task.
///
/// A connection that begins with a write to another shard's stream is likely to go on so. `may_move` is asked then; if it says
/// yes, nothing has been read, and the connection is given back, to be served there.
pub async fn serve_connection(
    service: Service,
    stream: TcpStream,
    may_move: impl FnOnce(ShardId) -> bool,
) -> Option<TcpStream> {
    // Fails only on a socket that is gone already.
    let _ = stream.set_nodelay(true);
    let shared = service.shared().clone();
    let head_timeout = shared.config.header_read_timeout;
    let write_timeout = shared.config.write_timeout;
    let shard = &shared.shard;
    let first = async {
        let elsewhere =
            first_stream(&stream).await?.map(|key| shard.owner_of(&key)).filter(|owner| *owner != shard.id());
        if elsewhere.is_some_and(may_move) {
            return Ok(None);
        }
        first_bytes(&stream).await.map(Some)
    };
    let first = tokio::select! {
        biased;
        () = shared.stop.stopped() => return None,
        first = tokio::time::timeout(head_timeout, first) => first,
    };
    let (protocol, first) = match first {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None)) => return Some(stream),
        Ok(Err(_)) | Err(_) => return None,
    };

    let activity = Rc::new(Activity::new(protocol == Protocol::Http2));
    let stalls = Stalls { tick: head_timeout / 2, write: write_timeout };
    let context = Context::new(shared, activity.clone(), || stream.peer_addr().ok().map(|peer| peer.ip()));
    let (context, io) = (Rc::new(context), Io::new(stream, first, activity, stalls));
    let ended = match protocol {
        Protocol::Http1 => serve_http1(service, context, io).await,
        // Boxed, because it is the larger one by far, and the rarer.
        Protocol::Http2 => Box::pin(serve_http2(service, context, io)).await,
    };
    if let Err(error) = ended {
        // Clients leave, stall and speak nonsense: nothing that an operator must see.
        tracing::debug!(error, "a connection ended early");
    }
    None
}

type Ended = Result<(), Box<dyn Error>>;

async fn serve_http1(service: Service, context: Rc<Context>, io: Io) -> Ended {
    let mut builder = http1::Builder::new();
    // Not `pipeline_flush`: it buffers a body without bound while the client reads slowly, and drops what is buffered when
    // a connection ends with bytes unread.
    builder.header_read_timeout(None).max_buf_size(context.config().head_bytes_max);
    let (mut stopped, mut is_stopping) = (context.stopped(), false);
    let (activity, handover) = (context.activity().clone(), Handover::default());
    let respond = service_fn({
        let handover = handover.clone();
        move |request: Request<Incoming>| {
            // HTTP/1.0 has no chunks to send events in.
            let handover = (request.version() == Version::HTTP_11).then(|| handover.clone());
            service.clone().respond(context.clone(), request, handover)
        }
    });
    // Boxed, so that a live response gives its memory back.
    let mut served = Box::new(builder.serve_connection(TokioIo::new(io), respond));
    let live = poll_fn(|cx| {
        let wakes = activity.wakes.get_or_init(|| Wakes::of(cx.waker()));
        if !is_stopping && Pin::new(&mut stopped).poll(cx).is_ready() {
            is_stopping = true;
            Pin::new(&mut *served).graceful_shutdown();
        }
        let ended = wakes.poll(|cx| Pin::new(&mut *served).poll(cx)).map_ok(|()| None);
        // Only when the head was taken whole: what hyper still has of it would be lost.
        if ended.is_pending() && !activity.is_blocked() {
            return handover.take().map_or(Poll::Pending, |live| Poll::Ready(Ok(Some(live))));
        }
        ended
    });
    if let Some(live) = live.await? {
        let io = served.into_parts().io.into_inner();
        // hyper promises a whole head only when its connection has ended. That it is written is read off its source, which is
        // why its version is pinned; should it ever not be, the client gets no half of a response.
        if !io.has_head() {
            tracing::error!("the head of a live response was not written whole");
            return Err("the head of a live response was not written whole".into());
        }
        live.send(io).await?;
    }
    Ok(())
}

async fn serve_http2(service: Service, context: Rc<Context>, io: Io) -> Ended {
    let config = context.config();
    let mut builder = http2::Builder::new(LocalTasks);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .max_concurrent_streams(config.streams_per_connection_max)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_SEND_BYTES_MAX)
        .max_header_list_size(u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX));
    let stopped = context.stopped();
    let respond = service_fn(move |request| service.clone().respond(context.clone(), request, None));
    let mut served = pin!(builder.serve_connection(TokioIo::new(io), respond));
    tokio::select! {
        biased;
        ended = served.as_mut() => ended?,
        () = stopped => {
            served.as_mut().graceful_shutdown();
            served.await?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// The stream that the first request is to write to, if its first bytes say so. They are left where they are.
async fn first_stream(stream: &TcpStream) -> io::Result<Option<StreamKey>> {
    let mut buffer = [0; FIRST_LINE_BYTES];
    let peeked = stream.peek(&mut buffer).await?;
    Ok(written_by(&buffer[..peeked]))
}

/// The stream that the request which begins so is to write to.
fn written_by(first: &[u8]) -> Option<StreamKey> {
    let target = first.strip_prefix(b"POST ").or_else(|| first.strip_prefix(b"PUT "))?;
    let end = target.iter().position(|byte| matches!(byte, b' ' | b'?'))?;
    match path::parse(str::from_utf8(&target[..end]).ok()?) {
        Ok(Target::Stream(key)) => Some(key),
        Ok(Target::Ds(..) | Target::Other) | Err(_) => None,
    }
}

/// Reads until it is clear which protocol is spoken; what was read is part of it.
async fn first_bytes(stream: &TcpStream) -> io::Result<(Protocol, Bytes)> {
    let mut buffer = [0; PREFACE.len()];
    let mut filled = 0;
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if let Some(protocol) = tell(&buffer[..filled]) {
            return Ok((protocol, Bytes::copy_from_slice(&buffer[..filled])));
        }
    }
}

/// The protocol that begins with these bytes, if they tell.
fn tell(first: &[u8]) -> Option<Protocol> {
    let telling = &first[..first.len().min(PREFACE_TELLING)];
    match PREFACE.starts_with(telling) {
        false => Some(Protocol::Http1),
        true if telling.len() == PREFACE_TELLING => Some(Protocol::Http2),
        true => None,
    }
}

/// Runs HTTP/2's tasks where the connection runs.
#[derive(Clone, Copy)]
struct LocalTasks;

impl<F> hyper::rt::Executor<F> for LocalTasks
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_write_names_its_stream() {
        let check = |first: &str, expected: Option<&str>| {
            assert_eq!(written_by(first.as_bytes()).map(|key| key.to_string()).as_deref(), expected, "{first}");
        };
        check("POST /shop/orders HTTP/1.1\r\nHost: a\r\n", Some("shop/orders"));
        check("PUT /shop/orders?x=1 HTTP/1.1\r\n", Some("shop/orders"));
        check("POST /v1/stream/a%20b HTTP/1.1", Some("default/a b"));
        for other in
            ["GET /shop/orders HTTP/1.1", "POST /shop/ord", "POST /shop/-/x HTTP/1.1", "POST * ", "POST \u{e4} ", ""]
        {
            check(other, None);
        }
    }

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        for method in ["G", "PO", "PU", "PROPFIND /", "PRIVATE", "\x16\x03\x01", "\r\n"] {
            assert_eq!(tell(method.as_bytes()), Some(Protocol::Http1), "{method}");
        }
        for part in ["", "P", "PR", "PRI"] {
            assert_eq!(tell(part.as_bytes()), None, "{part}");
        }
        assert_eq!(tell(PREFACE), Some(Protocol::Http2));
        assert_eq!(tell(b"PRI "), Some(Protocol::Http2));
    }
}
