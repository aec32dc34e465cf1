//! Clients of the cluster, each a thread that asks one node after the other: writers with and without producer headers, readers,
//! followers, and some who only ask where a stream ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weir_testkit::history::{Attempt, Outcome, Read, Tail};
use weir_testkit::streams::{Stream, position};
use weir_testkit::{Connection, Events, Random, Request, Response};

/// How long a client waits for an answer, or for a connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it waits before it asks again, or for more.
const PAUSE: Duration = Duration::from_millis(20);
/// Requests to one node until the next one is asked.
const REQUESTS_PER_NODE: u64 = 40;

/// What all clients share.
pub(crate) struct Load {
    pub(crate) clock: Instant,
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) is_over: AtomicBool,
    /// When an append to each stream was acknowledged last, in milliseconds on the clock.
    pub(crate) acked_ms: Vec<AtomicU64>,
}

impl Load {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn note_acked(&self, stream: usize) {
        self.acked_ms[stream].store(self.clock.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// A connection to some node.
    fn connect(&self, random: &mut Random) -> Option<Connection> {
        let node = self.nodes[random.below(self.nodes.len() as u64) as usize];
        let connection = Connection::open_within(node, PATIENCE).ok();
        if connection.is_none() {
            thread::sleep(PAUSE);
        }
        connection
    }

    /// Appends and does nothing about what is not acknowledged.
    pub(crate) fn write(&self, at: usize, stream: &Stream, name: &str, mut random: Random) -> Vec<Attempt> {
        let mut seen = Vec::new();
        while !self.is_over() {
            let Some(mut connection) = self.connect(&mut random) else { continue };
            for _ in 0..1 + random.below(REQUESTS_PER_NODE) {
                let records = vec![record(name, seen.len(), &mut random)];
                let invoked = self.clock.elapsed();
                let answer = connection.send(&stream.append(&records));
                let answered = self.clock.elapsed();
                let outcome = match &answer {
                    Ok(response) if response.status == 204 => Outcome::Acked { end: position(response.next_offset()) },
                    Ok(response) => refused(response),
                    Err(_) => Outcome::Unknown,
                };
                seen.push(Attempt { records, invoked, answered, outcome });
                match outcome {
                    Outcome::Acked { .. } => self.note_acked(at),
                    _ => {
                        thread::sleep(PAUSE);
                        break;
                    }
                }
                if self.is_over() {
                    break;
                }
                thread::sleep(Duration::from_millis(random.below(8)));
            }
        }
        seen
    }

    /// Appends as a producer, which sends again what was not acknowledged, to whichever node.
    pub(crate) fn produce(&self, at: usize, stream: &Stream, name: &str, mut random: Random) -> Vec<Attempt> {
        let mut seen: Vec<Attempt> = Vec::new();
        let mut pending: Option<(Vec<String>, Duration)> = None;
        while !self.is_over() || pending.is_some() {
            let Some(mut connection) = self.connect(&mut random) else { continue };
            for _ in 0..1 + random.below(REQUESTS_PER_NODE) {
                let new = || (vec![record(name, seen.len(), &mut random)], self.clock.elapsed());
                let (records, invoked) = pending.get_or_insert_with(new).clone();
                let request = stream.append(&records).header("Producer-Id", name).header("Producer-Epoch", 0);
                let Ok(response) = connection.send(&request.header("Producer-Seq", seen.len())) else { break };
                let tail = || position(response.next_offset());
                let outcome = match response.status {
                    200 => Outcome::Acked { end: tail() },
                    204 => Outcome::AckedAgain { tail: tail() },
                    _ => {
                        let _ = refused(&response);
                        thread::sleep(PAUSE);
                        break;
                    }
                };
                self.note_acked(at);
                seen.push(Attempt { records, invoked, answered: self.clock.elapsed(), outcome });
                pending = None;
                if self.is_over() {
                    break;
                }
                thread::sleep(Duration::from_millis(random.below(8)));
            }
        }
        seen
    }

    /// Reads on and on, and asks where the stream ends.
    pub(crate) fn read(&self, stream: &Stream, mut random: Random) -> (Vec<Read>, Vec<Tail>) {
        let (mut reads, mut tails, mut offset) = (Vec::new(), Vec::new(), "-1".to_owned());
        while !self.is_over() {
            let Some(mut connection) = self.connect(&mut random) else { continue };
            for _ in 0..1 + random.below(REQUESTS_PER_NODE) {
                let invoked = self.clock.elapsed();
                let Ok(head) = connection.send(&Request::head(&stream.target)) else { break };
                if head.status != 200 {
                    let _ = refused(&head);
                    thread::sleep(PAUSE);
                    break;
                }
                tails.push(Tail { invoked, end: position(head.next_offset()) });
                let page = Request::get(&format!("{}?offset={offset}", stream.target));
                let Ok(page) = connection.send(&page) else { break };
                if page.status != 200 {
                    let _ = refused(&page);
                    break;
                }
                let next = page.next_offset().to_owned();
                reads.push(Read {
                    start: position(&offset),
                    end: position(&next),
                    records: stream.records(&page.text()),
                });
                offset = next;
                thread::sleep(PAUSE);
            }
        }
        (reads, tails)
    }

    /// Follows the stream until it is gone, from node to node.
    pub(crate) fn follow(&self, stream: &Stream, mut random: Random) -> Vec<Read> {
        let (mut reads, mut last) = (Vec::new(), "-1".to_owned());
        loop {
            let node = self.nodes[random.below(self.nodes.len() as u64) as usize];
            let request = Request::get(&format!("{}?offset={last}&live=sse", stream.target));
            let mut events = match Events::open_if_alive(node, &request) {
                Ok(Ok((events, _))) => events,
                Ok(Err(response)) if response.status == 404 => return reads,
                Ok(Err(response)) => {
                    let _ = refused(&response);
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(_) => {
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let mut read = Read { start: position(&last), end: position(&last), records: Vec::new() };
            while let Ok(Some(event)) = events.next_event() {
                assert!(event.id >= last || last == "-1", "a live read went back from {last} to {}", event.id);
                if event.kind == "data" {
                    read.records.extend(stream.records(&event.data));
                }
                read.end = position(&event.id);
                last = event.id;
            }
            reads.push(read);
        }
    }
}

/// A record that was never used before.
fn record(name: &str, number: usize, random: &mut Random) -> String {
    let padding = if random.below(100) == 0 { 20_000 } else { random.below(400) as usize };
    format!("{name}.{number} {}", "x".repeat(padding))
}

/// What an answer that is no success means; anything but a passing trouble of the server fails the test.
fn refused(response: &Response) -> Outcome {
    match response.status {
        503 | 507 => Outcome::Refused,
        504 => Outcome::Unknown,
        _ => panic!("this is no passing trouble: {response:?} {}", response.text()),
    }
}
