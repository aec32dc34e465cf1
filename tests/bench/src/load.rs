//! The load: one thread, epoll, kept-open connections, one append in flight on each.
//!
//! The thread shares its machine with the server, so it does little: a request's bytes are prepared once per
//! connection, a response is looked at only as far as to find its end, and latencies go to a histogram in place.
//! The loop is closed: a connection sends its next append when the last is answered, so a stalled server is asked less
//! and latencies say nothing about what an open arrival rate would see.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use crate::histogram::Histogram;
use crate::servers::Target;

const EVENTS_MAX: usize = 256;
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// What one run of the load saw.
#[derive(Debug)]
pub(crate) struct Measured {
    /// From the first request to the last response.
    pub(crate) elapsed: Duration,
    /// Latencies of all appends, each acknowledged.
    pub(crate) latencies: Histogram,
}

/// Open connections to one server, idle between runs.
#[derive(Debug)]
pub(crate) struct Load {
    name: String,
    epoll: rustix::fd::OwnedFd,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    socket: TcpStream,
    request: Vec<u8>,
    sent_at: Instant,
    /// A response's bytes so far; empty when the last one is complete.
    partial: Vec<u8>,
}

impl Load {
    /// Opens `connections` to `target`; connection *i* appends `bytes` random-looking bytes to stream *i*.
    ///
    /// # Errors
    /// A sentence when the server cannot be connected to.
    pub(crate) fn open(target: &Target, streams: &[String], connections: usize, bytes: usize) -> Result<Load, String> {
        let failed = |e: io::Error| format!("{}: {e}", target.name);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let mut clients = Vec::new();
        for i in 0..connections {
            let socket = TcpStream::connect(target.address).map_err(failed)?;
            socket.set_nodelay(true).map_err(failed)?;
            let data = epoll::EventData::new_u64(i as u64);
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN).map_err(|e| failed(e.into()))?;
            let request = request(target, &streams[i % streams.len()], bytes);
            clients.push(Client { socket, request, sent_at: Instant::now(), partial: Vec::new() });
        }
        Ok(Load { name: target.name.clone(), epoll, clients })
    }

    /// Appends for `duration`, then waits for the last responses.
    ///
    /// # Errors
    /// A sentence: a connection broke, a response was no success, or none came for 30 s.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<Measured, String> {
        let mut latencies = Histogram::new();
        let begun = Instant::now();
        let until = begun + duration;
        for client in &mut self.clients {
            client.send(begun).map_err(|e| format!("{}: {e}", self.name))?;
        }
        let mut in_flight = self.clients.len();
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let stalled = rustix::event::Timespec::try_from(STALLED_AFTER).expect("a small duration");
        while in_flight > 0 {
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&stalled))
                .map_err(|e| format!("epoll: {e}"))?;
            if events.is_empty() {
                return Err(format!("{} has not answered for {STALLED_AFTER:?}", self.name));
            }
            for event in events.drain(..) {
                let client = &mut self.clients[event.data.u64() as usize];
                let answered = client.receive().map_err(|e| format!("{}: {e}", self.name))?;
                if !answered {
                    continue;
                }
                let now = Instant::now();
                latencies.record((now - client.sent_at).as_nanos() as u64);
                if now < until {
                    client.send(now).map_err(|e| format!("{}: {e}", self.name))?;
                } else {
                    in_flight -= 1;
                }
            }
        }
        Ok(Measured { elapsed: begun.elapsed(), latencies })
    }
}

impl Client {
    /// The socket blocks, which matters only for a request larger than its send buffer.
    fn send(&mut self, now: Instant) -> io::Result<()> {
        self.sent_at = now;
        self.socket.write_all(&self.request)
    }

    /// Reads what has arrived: true when that completes the response.
    fn receive(&mut self) -> io::Result<bool> {
        let mut scratch = [0; 4096];
        let bytes = self.socket.read(&mut scratch)?;
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed a connection"));
        }
        if self.partial.is_empty() && is_complete(&scratch[..bytes])? {
            return Ok(true);
        }
        self.partial.extend_from_slice(&scratch[..bytes]);
        let complete = is_complete(&self.partial)?;
        if complete {
            self.partial.clear();
        }
        Ok(complete)
    }
}

/// Whether `response` is a whole successful response.
fn is_complete(response: &[u8]) -> io::Result<bool> {
    let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(false);
    };
    let head = &response[..end];
    if head.get(9) != Some(&b'2') {
        let text = String::from_utf8_lossy(response).into_owned();
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an append was refused: {text}")));
    }
    if head.get(9..12) == Some(b"204") {
        return Ok(true);
    }
    let lower = head.to_ascii_lowercase();
    let name = b"\r\ncontent-length:";
    let length = lower.windows(name.len()).position(|window| window == name).and_then(|at| {
        let value = lower[at + name.len()..].split(|&byte| byte == b'\r').next()?;
        std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok()
    });
    Ok(response.len() >= end + 4 + length.unwrap_or(0))
}

fn request(target: &Target, path: &str, bytes: usize) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n\r\n",
        target.address
    );
    let mut request = head.into_bytes();
    // Neither zeros nor a short period, so that a server which compresses gains nothing.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        request.push((state >> 56) as u8);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_complete_when_their_body_is() {
        assert!(is_complete(b"HTTP/1.1 204 No Content\r\na: b\r\n\r\n").unwrap());
        assert!(!is_complete(b"HTTP/1.1 204 No Content\r\na: b\r\n").unwrap());
        assert!(!is_complete(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx").unwrap());
        assert!(is_complete(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxy").unwrap());
        assert!(is_complete(b"HTTP/1.1 503 Busy\r\n\r\n").is_err());
    }
}
