//! A connection's socket, ended when its client stalls.
//!
//! A shard serves very many sockets; a client that keeps one and does nothing must not keep it forever, and the ones
//! that behave must not pay for that. So nothing here runs per request:
//!
//! - *Reading*: one timer per connection ticks every half `header_read_timeout`, looked at only when there is nothing
//!   to read. A request's head that is still incomplete after three ticks ends the connection, and so do
//!   [`IDLE_TICKS_MAX`] ticks without a byte. A running request is not the reader's business: its body has its own
//!   timeout, and its response may take as long as it takes.
//! - *Writing*: a client that has kept the server waiting for `write_timeout` altogether, and has meanwhile taken less than
//!   [`paced_bytes_min`], loses its connection. A timer exists only while the socket takes nothing. In HTTP/2 the socket may
//!   take everything while the client's windows take nothing: there, bytes that are ready are *owed* until they are sent,
//!   and what counts is the time in which something is owed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::activity::{Activity, paced_bytes_min};
use crate::alarm::Alarm;

/// Ticks of an incomplete head: more than two whole ones, so at least the configured timeout.
const HEAD_TICKS_MAX: u32 = 3;
/// Ticks without a request: 80 s with the default timeout, which is longer than clients keep connections.
const IDLE_TICKS_MAX: u32 = 16;
/// A write of several parts that are no larger together is made one part: the kernel takes longer over a list of parts than
/// copying them takes.
const TOGETHER_BYTES_MAX: usize = 1 << 10;
/// What a live reader's socket may hold that is not sent, in bytes. The kernel would take megabytes for a reader that
/// takes nothing, and the server would go on to feed it.
#[cfg(target_os = "linux")]
const LIVE_UNSENT_BYTES: u32 = 16 << 10;

/// How long a client may stall.
#[derive(Clone, Copy)]
pub(crate) struct Stalls {
    /// Half of what a request's head may take.
    pub(crate) tick: Duration,
    /// For all writes that wait, unless enough is taken meanwhile.
    pub(crate) write: Duration,
}

/// The socket, with the bytes that were read to tell the protocol.
pub(crate) struct Io {
    stream: TcpStream,
    prefix: Bytes,
    activity: Rc<Activity>,
    stalls: Stalls,
    ticker: Option<Alarm>,
    ticks: Ticks,
    blocked: Blocked,
    /// The last bytes that the socket took since a live read began: the end of its response's head.
    head_end: Option<[u8; 4]>,
}

#[derive(Default)]
struct Ticks {
    head: u32,
    idle: u32,
    begun_before: u64,
    /// Ticks one after the other at which something was owed, and what was sent in them.
    owing: u32,
    owing_sent_bytes: usize,
    /// Bytes that the socket took since the last tick.
    sent_bytes: usize,
}

/// How the socket takes what is written.
#[derive(Default)]
struct Blocked {
    /// Since when it takes nothing, and until when that is waited for.
    since: Option<(Instant, Alarm)>,
    /// How long it was waited for before, and what it has taken in that time and since.
    waited: Duration,
    taken_bytes: usize,
}

impl Io {
    /// Reads `prefix` first, then `stream`.
    pub(crate) fn new(stream: TcpStream, prefix: Bytes, activity: Rc<Activity>, stalls: Stalls) -> Io {
        let (ticks, blocked) = (Ticks::default(), Blocked::default());
        Io { stream, prefix, activity, stalls, ticker: None, ticks, blocked, head_end: None }
    }

    fn note_read(&self) {
        if self.activity.running.get() == 0 {
            self.activity.head_begun.set(true);
        }
    }

    /// Nothing to read: looks at the ticker.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tick = self.stalls.tick;
        let ticker = self.ticker.get_or_insert_with(|| Alarm::after(tick));
        while ticker.poll(cx).is_ready() {
            ticker.reset(Instant::now() + tick);
            if self.ticks.count(&self.activity, self.stalls) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        Poll::Pending
    }

    /// Prepares the socket for a live reader, when one has begun.
    fn set_live(&mut self) {
        if self.activity.live_begun.take() {
            self.head_end = Some([0; 4]);
            // Without it the reader is fed longer than it should be, and nothing else.
            #[cfg(target_os = "linux")]
            let _ = socket2::SockRef::from(&self.stream).set_tcp_notsent_lowat(LIVE_UNSENT_BYTES);
        }
    }

    /// Whether the head of the live response was taken whole, and nothing after it.
    pub(crate) fn has_head(&self) -> bool {
        self.head_end == Some(*b"\r\n\r\n")
    }

    /// Notes the end of what the socket took of `bytes`.
    fn note_taken(&mut self, bytes: &[u8]) {
        if let Some(end) = &mut self.head_end {
            let last = &bytes[bytes.len().saturating_sub(end.len())..];
            end.rotate_left(last.len());
            let kept = end.len() - last.len();
            end[kept..].copy_from_slice(last);
        }
    }

    /// What the socket has said to a write.
    fn note_write(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                self.activity.is_blocked.set(!self.activity.is_http2);
                self.poll_blocked(cx)
            }
            Poll::Ready(written) => {
                self.activity.is_blocked.set(false);
                let bytes = *written.as_ref().unwrap_or(&0);
                self.blocked.note_taken(bytes, self.stalls);
                self.ticks.sent_bytes += bytes;
                Poll::Ready(written)
            }
        }
    }

    /// Nothing could be written: waits for the socket, but not too long.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let left = self.stalls.write.saturating_sub(self.blocked.waited);
        let (_, alarm) = self.blocked.since.get_or_insert_with(|| (Instant::now(), Alarm::after(left)));
        alarm.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Blocked {
    /// The socket has taken so many bytes.
    fn note_taken(&mut self, bytes: usize, stalls: Stalls) {
        if let Some((since, _)) = self.since.take() {
            self.waited += since.elapsed();
        }
        if self.waited == Duration::ZERO {
            return;
        }
        self.taken_bytes += bytes;
        if self.taken_bytes >= paced_bytes_min(stalls.write) {
            *self = Blocked::default();
        }
    }
}

impl Ticks {
    /// Counts one tick; whether it was one too many.
    fn count(&mut self, activity: &Activity, stalls: Stalls) -> bool {
        let sent_bytes = std::mem::take(&mut self.sent_bytes);
        match activity.owed.get() {
            0 => (self.owing, self.owing_sent_bytes) = (0, 0),
            _ => (self.owing, self.owing_sent_bytes) = (self.owing + 1, self.owing_sent_bytes + sent_bytes),
        }
        // The first of them may come at once.
        if self.owing > 1 && stalls.tick * (self.owing - 1) >= stalls.write {
            if self.owing_sent_bytes < paced_bytes_min(stalls.write) {
                return true;
            }
            (self.owing, self.owing_sent_bytes) = (1, 0);
        }
        let begun = activity.begun.get();
        if activity.running.get() > 0 || begun != self.begun_before {
            (self.head, self.idle, self.begun_before) = (0, 0, begun);
        }
        if activity.running.get() > 0 {
            return false;
        }
        if !activity.head_begun.get() {
            self.idle += 1;
        } else if !activity.is_http2 {
            self.head += 1;
        } else {
            // In HTTP/2, bytes without a request may be a ping's answer.
            activity.head_begun.set(false);
            self.idle = 0;
        }
        self.head >= HEAD_TICKS_MAX || self.idle >= IDLE_TICKS_MAX
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let taken = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..taken]);
            self.prefix.advance(taken);
            self.note_read();
            return Poll::Ready(Ok(()));
        }
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.poll_idle(cx),
            ready => {
                self.note_read();
                ready
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.set_live();
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.note_taken(&buf[..*bytes]);
        }
        self.note_write(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [whole] = bufs {
            return self.poll_write(cx, whole);
        }
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        if bytes > TOGETHER_BYTES_MAX {
            self.set_live();
            let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
            if let Poll::Ready(Ok(bytes)) = &written {
                let mut left = *bytes;
                for buf in bufs {
                    let taken = left.min(buf.len());
                    self.note_taken(&buf[..taken]);
                    left -= taken;
                }
            }
            return self.note_write(written, cx);
        }
        let mut together = [0; TOGETHER_BYTES_MAX];
        let mut end = 0;
        for buf in bufs {
            together[end..end + buf.len()].copy_from_slice(buf);
            end += buf.len();
        }
        self.poll_write(cx, &together[..end])
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activity::OWED_BYTES_MIN;

    const BYTES_PER_S_MIN: usize = 4 << 10;

    /// The tick at which a connection ends, if it does within 100; `each` is what happens before every tick.
    fn ended_at(is_http2: bool, mut each: impl FnMut(&Rc<Activity>, &mut Ticks)) -> Option<u32> {
        let (activity, mut ticks) = (Rc::new(Activity::new(is_http2)), Ticks::default());
        let stalls = Stalls { tick: Duration::from_secs(5), write: Duration::from_secs(30) };
        (1..=100).find(|_| {
            each(&activity, &mut ticks);
            ticks.count(&activity, stalls)
        })
    }

    #[test]
    fn an_incomplete_head_ends_the_connection() {
        assert_eq!(ended_at(false, |activity, _| activity.head_begun.set(true)), Some(HEAD_TICKS_MAX));
    }

    #[test]
    fn an_idle_connection_ends_later() {
        assert_eq!(ended_at(false, |_, _| {}), Some(IDLE_TICKS_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_little_is_not_waited_for_again_and_again() {
        let stalls = Stalls { tick: Duration::from_secs(5), write: Duration::from_secs(30) };
        // How often the socket lets us wait for ten seconds and then takes so much, until there is no time left.
        let waits = async |bytes| {
            let mut blocked = Blocked::default();
            for wait in 1..100 {
                blocked.since = Some((Instant::now(), Alarm::after(Duration::ZERO)));
                tokio::time::advance(Duration::from_secs(10)).await;
                blocked.note_taken(bytes, stalls);
                if blocked.waited >= stalls.write {
                    return Some(wait);
                }
            }
            None
        };
        assert_eq!(waits(10 * BYTES_PER_S_MIN).await, None);
        assert_eq!(waits(9 * BYTES_PER_S_MIN).await, Some(3));
        let mut fast = Blocked::default();
        (0..10).for_each(|_| fast.note_taken(1, stalls));
        assert_eq!(fast.taken_bytes, 0, "who is not waited for is not watched");
    }

    #[test]
    fn requests_keep_a_connection() {
        assert_eq!(ended_at(false, |activity, _| drop(activity.begin())), None);
        let mut running = None;
        assert_eq!(ended_at(false, |activity, _| running = running.take().or_else(|| Some(activity.begin()))), None);
    }

    #[test]
    fn pings_keep_a_connection_of_the_other_protocol() {
        assert_eq!(ended_at(true, |activity, _| activity.head_begun.set(true)), None);
        assert_eq!(ended_at(true, |_, _| {}), Some(IDLE_TICKS_MAX));
    }

    #[test]
    fn a_client_that_opens_no_window_is_not_waited_for() {
        let page = Bytes::from(vec![0; OWED_BYTES_MIN]);
        let mut held = Vec::new();
        let mut owing = |activity: &Rc<Activity>| {
            held.push(activity.begin());
            activity.owe(page.clone())
        };
        let mut owed = Vec::new();
        assert_eq!(ended_at(true, |activity, _| owed.push(owing(activity))), Some(7), "30 s, and the first tick");
        let mut slowly = |bytes| {
            let mut owed = Vec::new();
            ended_at(true, |activity, ticks| {
                owed.push(owing(activity));
                ticks.sent_bytes += bytes;
            })
        };
        assert_eq!(slowly(5 * BYTES_PER_S_MIN), None);
        assert_eq!(slowly(4 * BYTES_PER_S_MIN), Some(7));
        assert_eq!(ended_at(true, |activity, _| drop(owing(activity))), None, "what is sent is not owed");
        let mut owed = Vec::new();
        assert_eq!(
            ended_at(false, |activity, _| owed.push(owing(activity))),
            None,
            "HTTP/1 has the socket's own timer"
        );
    }
}
