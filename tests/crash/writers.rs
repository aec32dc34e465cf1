//! The load that is killed: writers of three kinds, each a thread with its own connection, living on over all restarts.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_testkit::history::{Attempt, Outcome};
use weir_testkit::streams::{Kind, Stream, position};
use weir_testkit::{Connection, Random, Request, Response};

/// Restarts after which a producer begins a new epoch.
const ROUNDS_PER_EPOCH: u32 = 4;

/// One writer of one stream.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) stream: usize,
    name: String,
    /// Names the next records.
    next: u64,
    random: Random,
    producer: Option<Producer>,
}

#[derive(Debug, Default)]
struct Producer {
    epoch: u64,
    seq: u64,
    rounds: u32,
    /// Sent and not yet answered: tried again until it is.
    pending: Option<(Vec<String>, Duration)>,
    /// The last one acknowledged.
    last: Option<Vec<String>>,
}

/// What a writer saw while the server lived once.
pub(crate) type Seen = Vec<Attempt>;

impl Writer {
    /// A writer whose records begin with `name`; with `is_producer` it retries what was not answered.
    pub(crate) fn new(stream: usize, name: &str, is_producer: bool) -> Writer {
        let random = Random(name.bytes().fold(17, |seed, byte| seed * 31 + u64::from(byte)));
        Writer { stream, name: name.to_owned(), next: 0, random, producer: is_producer.then(Producer::default) }
    }

    /// Appends until the connection breaks, or until `enough` appends were answered and nothing is pending.
    pub(crate) fn run(&mut self, address: SocketAddr, stream: &Stream, clock: Instant, enough: usize) -> Seen {
        let mut seen = Vec::new();
        let mut connection = match Connection::open(address) {
            Ok(connection) => connection,
            Err(_) => return seen,
        };
        let outcome = match &self.producer {
            Some(_) => self.run_producer(&mut connection, stream, clock, enough, &mut seen),
            None => self.run_plain(&mut connection, stream, clock, enough, &mut seen),
        };
        // The server was killed: that is what the test is about.
        drop(outcome);
        seen
    }

    fn run_plain(
        &mut self,
        connection: &mut Connection,
        stream: &Stream,
        clock: Instant,
        enough: usize,
        seen: &mut Seen,
    ) -> io::Result<()> {
        while seen.len() < enough {
            let records = self.records(stream.kind);
            let invoked = clock.elapsed();
            let answer = connection.send(&stream.append(&records));
            let answered = clock.elapsed();
            let outcome = match &answer {
                Ok(response) if response.status == 204 => Outcome::Acked { end: position(response.next_offset()) },
                Ok(response) => refused(response),
                Err(_) => Outcome::Unknown,
            };
            seen.push(Attempt { records, invoked, answered, outcome });
            answer?;
        }
        Ok(())
    }

    fn run_producer(
        &mut self,
        connection: &mut Connection,
        stream: &Stream,
        clock: Instant,
        enough: usize,
        seen: &mut Seen,
    ) -> io::Result<()> {
        self.begin_life(connection, stream)?;
        loop {
            let producer = self.producer.as_ref().expect("only producers come here");
            if producer.pending.is_none() {
                if seen.len() >= enough {
                    return Ok(());
                }
                let pending = (self.records(stream.kind), clock.elapsed());
                self.producer.as_mut().expect("as above").pending = Some(pending);
            }
            let producer = self.producer.as_mut().expect("as above");
            let (records, invoked) = producer.pending.clone().expect("set above");
            let response = connection.send(&producer.sign(stream.append(&records), &self.name, producer.seq))?;
            let tail = |response: &Response| position(response.next_offset());
            let outcome = match response.status {
                200 => Outcome::Acked { end: tail(&response) },
                204 => Outcome::AckedAgain { tail: tail(&response) },
                _ => {
                    // Without effect or not, the same request comes again: that is what its numbers are for.
                    let _ = refused(&response);
                    continue;
                }
            };
            assert_eq!(response.header("producer-seq"), Some(producer.seq.to_string().as_str()), "{response:?}");
            seen.push(Attempt { records: records.clone(), invoked, answered: clock.elapsed(), outcome });
            (producer.pending, producer.last) = (None, Some(records));
            producer.seq += 1;
        }
    }

    /// After a restart: the last acknowledged append must still be known, and so must the epoch.
    fn begin_life(&mut self, connection: &mut Connection, stream: &Stream) -> io::Result<()> {
        let producer = self.producer.as_mut().expect("only producers come here");
        producer.rounds += 1;
        let Some(last) = producer.last.clone() else { return Ok(()) };
        let again = producer.sign(stream.append(&last), &self.name, producer.seq - 1);
        let response = connection.send(&again)?;
        assert!(matches!(response.status, 204 | 503), "a duplicate after a restart: {response:?}");
        if producer.pending.is_none() && producer.rounds.is_multiple_of(ROUNDS_PER_EPOCH) {
            (producer.epoch, producer.seq, producer.last) = (producer.epoch + 1, 0, None);
        }
        Ok(())
    }

    /// One to three records that were never used before.
    fn records(&mut self, kind: Kind) -> Vec<String> {
        let count = 1 + self.random.below(3);
        let mut records = Vec::new();
        for _ in 0..count {
            // Mostly within one block of the log, sometimes over many.
            let padding = if self.random.below(40) == 0 { 20_000 } else { self.random.below(600) as usize };
            let name = format!("{}.{}", self.name, self.next);
            self.next += 1;
            let padding = "x".repeat(padding);
            records.push(match kind {
                Kind::Text => format!("{name} {padding}"),
                Kind::Json => format!("{{\"id\":\"{name}\",\"pad\":\"{padding}\"}}"),
            });
        }
        records
    }
}

impl Producer {
    fn sign(&self, request: Request, name: &str, seq: u64) -> Request {
        request.header("Producer-Id", name).header("Producer-Epoch", self.epoch).header("Producer-Seq", seq)
    }
}

/// What an answer that is no success means; anything but a passing trouble of the server fails the test.
fn refused(response: &Response) -> Outcome {
    match response.status {
        503 => Outcome::Refused,
        504 => Outcome::Unknown,
        _ => panic!("an append was refused: {response:?} {}", response.text()),
    }
}

/// Streams that are created, written and closed one after the other, for as long as the server lives.
#[derive(Debug, Default)]
pub(crate) struct Closer {
    next: u64,
    /// Closed for sure, with their last tail.
    pub(crate) closed: VecDeque<(String, String)>,
}

impl Closer {
    /// Closes streams until the connection breaks.
    pub(crate) fn run(&mut self, address: SocketAddr) {
        // The server was killed: that is what the test is about.
        let _ = self.close_many(address);
    }

    fn close_many(&mut self, address: SocketAddr) -> io::Result<()> {
        let mut connection = Connection::open(address)?;
        loop {
            let target = format!("/crash/closed-{}", self.next);
            self.next += 1;
            connection.send(&Request::put(&target).header("Content-Type", "text/plain"))?;
            connection.send(&Request::post(&target).body("text/plain", "first\n"))?;
            let mut close = Request::post(&target).header("Stream-Closed", "true");
            if self.next.is_multiple_of(2) {
                close = close.body("text/plain", "last\n");
            }
            let response = connection.send(&close)?;
            if response.status == 204 {
                self.closed.push_back((target, response.next_offset().to_owned()));
            }
        }
    }
}
