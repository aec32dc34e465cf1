//! The load: one thread, kept-open connections, one request in flight on each.
//!
//! The thread shares its machine with the server, so it does little: a request's bytes are prepared beforehand, a
//! response is looked at only as far as to find its end, and latencies go to a histogram in place.
//! The loop is closed: a connection sends its next request when the last is answered, so a stalled server is asked less
//! and latencies say nothing about what an open arrival rate would see.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::histogram::Histogram;
use crate::poll::Poll;
use crate::response::Response;
use crate::servers::{self, Target};

const SCRATCH_BYTES: usize = 256 << 10;
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// What one run of the load saw.
#[derive(Debug)]
pub(crate) struct Measured {
    /// From the first request to the last response.
    pub(crate) elapsed: Duration,
    /// Latencies of all requests, each answered with success.
    pub(crate) latencies: Histogram,
    /// Bytes of the responses' bodies.
    pub(crate) body_bytes: u64,
}

/// A request as it goes on the wire: a head, and a body that may be shared with other requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire<'a> {
    /// The head, with the empty line at its end.
    pub(crate) head: &'a [u8],
    /// The body.
    pub(crate) body: &'a [u8],
}

/// Open connections to one server, idle between runs.
pub(crate) struct Load {
    poll: Poll,
    clients: Vec<Client>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Client {
    socket: TcpStream,
    response: Response,
}

/// A request that is not answered.
struct Flight<'a> {
    wire: Wire<'a>,
    sent_bytes: usize,
    sent_at: Instant,
}

impl Load {
    /// Opens `connections` to `target`.
    ///
    /// # Errors
    /// A sentence when the server cannot be connected to.
    pub(crate) fn open(target: &Target, connections: usize) -> Result<Load, String> {
        Load::open_at(vec![target.address; connections])
    }

    /// Opens a connection to each of `addresses`.
    ///
    /// # Errors
    /// As [`Load::open`].
    pub(crate) fn open_at(addresses: Vec<SocketAddr>) -> Result<Load, String> {
        let poll = Poll::new()?;
        let mut clients = Vec::new();
        for (token, address) in addresses.into_iter().enumerate() {
            let socket = servers::connect(address, None)?;
            poll.add(&socket, token)?;
            clients.push(Client { socket, response: Response::new() });
        }
        Ok(Load { poll, clients, scratch: vec![0; SCRATCH_BYTES] })
    }

    /// Asks `next` for a request of every connection, given as its number and the time, again whenever one is answered,
    /// until it has none; then waits for the last responses.
    ///
    /// # Errors
    /// A sentence: a connection broke, a response was no success, or none came for a minute.
    pub(crate) fn run<'a>(
        &mut self,
        mut next: impl FnMut(usize, Instant) -> Option<Wire<'a>>,
    ) -> Result<Measured, String> {
        let begun = Instant::now();
        let (mut latencies, mut body_bytes) = (Histogram::new(), 0);
        let mut flights: Vec<Option<Flight<'a>>> = Vec::new();
        for (i, client) in self.clients.iter_mut().enumerate() {
            let mut flight = next(i, begun).map(|wire| Flight::new(wire, begun));
            flight.as_mut().map_or(Ok(()), |flight| flight.send(&mut client.socket))?;
            flights.push(flight);
        }
        let mut in_flight = flights.iter().flatten().count();
        while in_flight > 0 {
            let mut is_stalled = true;
            for i in self.poll.wait(STALLED_AFTER)? {
                is_stalled = false;
                let client = &mut self.clients[i];
                let Some(flight) = &mut flights[i] else { continue };
                flight.send(&mut client.socket)?;
                if !client.receive(&mut self.scratch, &mut body_bytes)? {
                    continue;
                }
                let now = Instant::now();
                latencies.record((now - flight.sent_at).as_nanos() as u64);
                match next(i, now) {
                    Some(wire) => {
                        *flight = Flight::new(wire, now);
                        flight.send(&mut client.socket)?;
                    }
                    None => {
                        flights[i] = None;
                        in_flight -= 1;
                    }
                }
            }
            if is_stalled {
                return Err(format!("no answer for {STALLED_AFTER:?}"));
            }
        }
        Ok(Measured { elapsed: begun.elapsed(), latencies, body_bytes })
    }

    /// Sends every one of `wires` once.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub(crate) fn send_all<'a>(&mut self, wires: impl IntoIterator<Item = Wire<'a>>) -> Result<Measured, String> {
        let mut wires = wires.into_iter();
        self.run(|_, _| wires.next())
    }
}

impl<'a> Flight<'a> {
    fn new(wire: Wire<'a>, now: Instant) -> Flight<'a> {
        Flight { wire, sent_bytes: 0, sent_at: now }
    }

    /// Sends what the socket takes of what is left.
    fn send(&mut self, socket: &mut TcpStream) -> Result<(), String> {
        let Wire { head, body } = self.wire;
        while self.sent_bytes < head.len() + body.len() {
            let head_left = &head[self.sent_bytes.min(head.len())..];
            let body_left = &body[self.sent_bytes.saturating_sub(head.len())..];
            match socket.write_vectored(&[IoSlice::new(head_left), IoSlice::new(body_left)]) {
                Ok(bytes) => self.sent_bytes += bytes,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("a request could not be sent: {e}")),
            }
        }
        Ok(())
    }
}

impl Client {
    /// Reads what has arrived: true when that completes the response.
    fn receive(&mut self, scratch: &mut [u8], body_bytes: &mut u64) -> Result<bool, String> {
        loop {
            let bytes = match self.socket.read(scratch) {
                Ok(0) => return Err("the server closed a connection".to_owned()),
                Ok(bytes) => bytes,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(format!("a connection broke: {e}")),
            };
            if self.response.feed(&scratch[..bytes], |part| *body_bytes += part.len() as u64)? {
                return Ok(true);
            }
            if bytes < scratch.len() {
                return Ok(false);
            }
        }
    }
}
