//! Followers: many live reads on one thread. What they receive is looked through for markers and dropped.
//!
//! A live read that the server ends (an event stream has a longest age, a long poll a timeout) goes on from the last
//! offset it was told, so nothing is missed.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::marker::Scanner;
use crate::poll::Poll;
use crate::response::Response;
use crate::servers::{self, Target};
use crate::streams::get_head;

const SCRATCH_BYTES: usize = 256 << 10;
/// Connections that are opened before the first of them has its answer: fewer than a listener's queue holds.
const OPENED_AT_ONCE: usize = 100;
/// The receive buffer of a stalled follower: what the kernel holds for it is not held by the server.
const STALLED_BUFFER_BYTES: usize = 4096;
const OPENED_WITHIN: Duration = Duration::from_secs(60);
/// As much of a body's end as holds the last control event of an event stream.
const TAIL_BYTES: usize = 256;

/// How to follow a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Live {
    /// One response without end, from the tail on.
    Sse,
    /// The same over a socket that takes little, for a follower that is going to read its head and nothing more.
    Stalled,
    /// One response after the other, from the beginning on: the stream is new, and nothing says when such a read waits.
    LongPoll,
}

/// Followers of streams of one server.
pub(crate) struct Followers<'a> {
    target: &'a Target,
    live: Live,
    poll: Poll,
    followers: Vec<Follower>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Follower {
    socket: TcpStream,
    path: String,
    response: Response,
    scanner: Scanner,
    /// The end of an event stream so far.
    tail: Vec<u8>,
}

impl<'a> Followers<'a> {
    /// Opens `count` followers; number *i* follows stream *i* modulo the number of `paths`. Those of event streams have
    /// their response's head when this returns.
    ///
    /// # Errors
    /// A sentence: the server cannot be connected to, refuses a request, or does not answer within a minute.
    pub(crate) fn open(
        target: &'a Target,
        live: Live,
        paths: &[String],
        count: usize,
    ) -> Result<Followers<'a>, String> {
        let (poll, scratch) = (Poll::new()?, vec![0; SCRATCH_BYTES]);
        let mut opened = Followers { target, live, poll, followers: Vec::new(), scratch };
        let offset = if live == Live::LongPoll { "-1" } else { "now" };
        while opened.followers.len() < count {
            let begin = opened.followers.len();
            for i in begin..count.min(begin + OPENED_AT_ONCE) {
                let path = paths[i % paths.len()].clone();
                let (response, scanner) = (Response::new(), Scanner::default());
                let receive_buffer = (live == Live::Stalled).then_some(STALLED_BUFFER_BYTES);
                let socket = servers::connect(target.address, receive_buffer)?;
                opened.poll.add(&socket, i)?;
                opened.followers.push(Follower { socket, path, response, scanner, tail: Vec::new() });
                opened.ask(i, offset, None)?;
            }
            let deadline = Instant::now() + OPENED_WITHIN;
            while live != Live::LongPoll && !opened.followers[begin..].iter().all(|f| f.response.has_head()) {
                opened.receive(Duration::from_millis(100), |_| {})?;
                if Instant::now() > deadline {
                    return Err(format!("no head of a live read within {OPENED_WITHIN:?}"));
                }
            }
        }
        Ok(opened)
    }

    /// Takes what arrives, waiting for it up to `timeout`, and gives the time in every marker to `found`.
    ///
    /// # Errors
    /// A sentence: a connection broke, or a request was refused.
    pub(crate) fn receive(&mut self, timeout: Duration, mut found: impl FnMut(u64)) -> Result<(), String> {
        let ready: Vec<usize> = self.poll.wait(timeout)?.collect();
        for i in ready {
            loop {
                let follower = &mut self.followers[i];
                let bytes = match follower.socket.read(&mut self.scratch) {
                    Ok(bytes) => bytes,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => return Err(format!("a live read broke: {e}")),
                };
                if bytes == 0 {
                    // An orderly end was seen before, and the follower had a new connection since.
                    return Err("the server closed a live read in the middle".to_owned());
                }
                let is_complete = follower.take(&self.scratch[..bytes], self.live, &mut found)?;
                if is_complete {
                    self.go_on(i)?;
                }
                if bytes < self.scratch.len() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Asks for what follows a response that is complete.
    fn go_on(&mut self, i: usize) -> Result<(), String> {
        let follower = &self.followers[i];
        let (offset, cursor) = match self.live {
            Live::LongPoll => (follower.response.header("stream-next-offset").map(str::to_owned), "stream-cursor"),
            Live::Sse | Live::Stalled => (last_offset(&follower.tail), "no header"),
        };
        let offset = offset.ok_or("a live read ended without saying where")?;
        let cursor = follower.response.header(cursor).map(str::to_owned);
        let closes = follower.response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if closes || self.live != Live::LongPoll {
            let socket = servers::connect(self.target.address, None)?;
            self.poll.add(&socket, i)?;
            self.followers[i].socket = socket;
        }
        self.ask(i, &offset, cursor.as_deref())
    }

    fn ask(&mut self, i: usize, offset: &str, cursor: Option<&str>) -> Result<(), String> {
        let follower = &mut self.followers[i];
        let live = if self.live == Live::LongPoll { "long-poll" } else { "sse" };
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let request = get_head(self.target, &format!("{}?offset={offset}&live={live}{cursor}", follower.path));
        // So few bytes always fit into the empty buffer of a socket.
        follower.socket.write_all(&request).map_err(|e| format!("a live read could not be sent: {e}"))
    }
}

impl Drop for Followers<'_> {
    fn drop(&mut self) {
        for follower in &self.followers {
            // A reset in place of an orderly end leaves no port in TIME_WAIT, of which a run would use up all.
            let _ = sockopt::set_socket_linger(&follower.socket, Some(Duration::ZERO));
        }
    }
}

impl Follower {
    /// Looks through what has arrived; true when that completes the response.
    fn take(&mut self, bytes: &[u8], live: Live, found: &mut impl FnMut(u64)) -> Result<bool, String> {
        let Follower { response, scanner, tail, .. } = self;
        response.feed(bytes, |part| {
            scanner.scan(part, &mut *found);
            if live != Live::LongPoll {
                let part = &part[part.len().saturating_sub(TAIL_BYTES)..];
                tail.drain(..(tail.len() + part.len()).saturating_sub(TAIL_BYTES));
                tail.extend_from_slice(part);
            }
        })
    }
}

/// The offset in the last control event of an event stream.
fn last_offset(tail: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(tail);
    let (_, rest) = text.rsplit_once("\"streamNextOffset\":\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stream_goes_on_where_its_last_control_event_says() {
        let tail = r#"data:{"streamNextOffset":"1"}  event: control data:{"streamNextOffset":"0_2","upToDate":true}"#;
        assert_eq!(last_offset(tail.as_bytes()).as_deref(), Some("0_2"));
        assert_eq!(last_offset(b"event: data\ndata:x\n\n"), None);
    }
}
