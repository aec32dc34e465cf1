//! Killed under load and started again: what was acknowledged is there, once, in order, at its offset; what was not is
//! there whole or not at all. And damage on disk: a torn end is cut off, anything else is found and never served, and
//! so is what is missing or not this node's. And killed at each step of what takes several.
//!
//! A killed process loses nothing that the kernel already had: that acknowledged bytes are on the disk itself is
//! weir-storage's to show, with its faulty disk.

mod damage;
mod forks;
mod mixups;
mod steps;
mod trims;
mod writers;

use std::time::{Duration, Instant};
use std::{fs, thread};

use weir_testkit::history::{History, Outcome, Read};
use weir_testkit::streams::{Kind, Stream};
use weir_testkit::{Random, Request, Server, Setup};

use crate::trims::{Reborn, Trimmer};
use crate::writers::{Closer, Writer};

/// How often it is killed, if `WEIR_TEST_KILLS` does not say.
const KILLS: usize = 20;

/// A share of unknown outcomes beyond which a run proves little.
const UNKNOWN_MAX: f64 = 0.3;

#[test]
fn killed_under_load_with_one_shard() {
    Run::new("1").kill_and_check();
}

#[test]
fn killed_under_load_with_two_shards() {
    Run::new("2").kill_and_check();
}

/// A server on small segments, so that a run goes through many of them.
pub(crate) fn setup(shards: &str) -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir"))
        .args(&["--shards", shards])
        .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 17)
        .env("WEIR_WAL_SEGMENT_BYTES", 2 << 20)
}

/// Everything that lives longer than the server does.
struct Run {
    setup: Setup,
    clock: Instant,
    streams: Vec<Stream>,
    histories: Vec<History>,
    writers: Vec<Writer>,
    closer: Closer,
    trimmer: Trimmer,
    reborn: Reborn,
    kills: usize,
    /// Where the reader and the follower of each stream are.
    read_to: Vec<String>,
    followed_to: Vec<String>,
}

impl Run {
    fn new(shards: &str) -> Run {
        let kinds = [("plain-0", Kind::Text), ("plain-1", Kind::Text), ("producers-0", Kind::Text)];
        let kinds = kinds.into_iter().chain([("json-0", Kind::Json), ("json-1", Kind::Json)]);
        let streams: Vec<Stream> =
            kinds.map(|(name, kind)| Stream { target: format!("/crash/{name}"), kind }).collect();
        let writer = |stream: usize, number: usize, is_producer| {
            Writer::new(stream, &format!("s{stream}w{number}"), is_producer)
        };
        let writers = vec![
            writer(0, 0, false),
            writer(0, 1, false),
            writer(1, 0, false),
            writer(1, 1, true),
            writer(2, 0, true),
            writer(2, 1, true),
            writer(3, 0, false),
            writer(3, 1, false),
            writer(4, 0, true),
            writer(4, 1, false),
        ];
        let offsets = vec!["-1".to_owned(); streams.len()];
        Run {
            // Bytes go to the cold tier as soon as somebody looks, so that many a kill falls into that.
            setup: setup(shards).env("WEIR_COLD_FLUSH_AGE_MS", 1),
            clock: Instant::now(),
            histories: vec![History::default(); streams.len()],
            streams,
            writers,
            closer: Closer::default(),
            trimmer: Trimmer::default(),
            reborn: Reborn::default(),
            kills: std::env::var("WEIR_TEST_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number")),
            read_to: offsets.clone(),
            followed_to: offsets,
        }
    }

    fn kill_and_check(mut self) {
        let server = self.setup.start();
        for stream in &self.streams {
            let _ = server.client().send(stream.create()).expect(201);
        }
        let mut random = Random(self.kills as u64);
        let mut server = Some(server);
        for round in 0..self.kills {
            let life = server.take().unwrap_or_else(|| self.setup.start());
            self.live(life, round, Duration::from_millis(50 + random.below(400)));
        }
        let server = self.setup.start();
        self.finish(&server);
        self.check(&server);
        assert_eq!(server.stop().code, Some(0));
    }

    /// One life of the server: all writers and readers at work, then `kill -9`.
    fn live(&mut self, server: Server, round: usize, length: Duration) {
        let (address, clock, streams) = (server.address(), self.clock, &self.streams);
        let followed = round % streams.len();
        let (followed_to, read_to, closer) = (&self.followed_to[followed], &mut self.read_to, &mut self.closer);
        let (trimmer, reborn) = (&mut self.trimmer, &mut self.reborn);
        if round > 0 {
            trimmer.check(&mut server.connect());
            reborn.check(&mut server.connect());
        }
        let (seen, reads, (live, last)) = thread::scope(|scope| {
            let writing: Vec<_> = self
                .writers
                .iter_mut()
                .map(|writer| {
                    scope.spawn(|| (writer.stream, writer.run(address, &streams[writer.stream], clock, usize::MAX)))
                })
                .collect();
            let reading = scope.spawn(|| read_all_in_turn(&server, streams, read_to));
            let following = scope.spawn(|| streams[followed].follow(address, followed_to));
            scope.spawn(|| closer.run(address));
            scope.spawn(|| trimmer.run(address));
            scope.spawn(|| reborn.run(address));
            // The moment of death is the point here: no state is waited for.
            thread::sleep(length);
            server.signal(rustix::process::Signal::KILL);
            let seen: Vec<_> = writing.into_iter().map(|writer| writer.join().expect("a writer")).collect();
            (seen, reading.join().expect("the reader"), following.join().expect("the follower"))
        });
        server.kill();
        for (stream, attempts) in seen {
            self.histories[stream].attempts.extend(attempts);
        }
        for (stream, read) in reads {
            self.histories[stream].reads.push(read);
        }
        self.histories[followed].reads.push(live);
        self.followed_to[followed] = last;
    }

    /// Lets every producer have its last answer.
    fn finish(&mut self, server: &Server) {
        for writer in &mut self.writers {
            let seen = writer.run(server.address(), &self.streams[writer.stream], self.clock, 1);
            assert!(!seen.is_empty(), "the server takes appends after its last restart");
            self.histories[writer.stream].attempts.extend(seen);
        }
    }

    fn check(&mut self, server: &Server) {
        let mut connection = server.connect();
        for (stream, history) in self.streams.iter().zip(&self.histories) {
            let stored = stream.all(&mut connection);
            if let Err(violation) = history.check(&stored) {
                panic!("{}: {violation}", stream.target);
            }
            let unknown = history.attempts.iter().filter(|a| a.outcome == Outcome::Unknown).count();
            let share = unknown as f64 / history.attempts.len() as f64;
            println!(
                "{}: {} appends, {unknown} unknown, {} records, {} reads",
                stream.target,
                history.attempts.len(),
                stored.len(),
                history.reads.len()
            );
            assert!(share < UNKNOWN_MAX, "{}: {unknown} of {} unknown", stream.target, history.attempts.len());
            assert!(history.reads.iter().any(|read| !read.records.is_empty()), "{} was read", stream.target);
        }
        let chunks = fs::read_dir(self.setup.data_dir().join("cold")).expect("the cold tier has a folder").count();
        println!("{chunks} chunks");
        assert!(chunks > self.kills / 5, "bytes went to the cold tier between the kills");
        assert!(self.trimmer.trimmed > 0, "records were trimmed");
        self.trimmer.check(&mut connection);
        self.reborn.check(&mut connection);
        assert!(!self.closer.closed.is_empty(), "some stream was closed");
        for (target, tail) in &self.closer.closed {
            let head = connection.send(&Request::head(target)).expect("the server is running").expect(200);
            assert_eq!((head.header("stream-closed"), head.next_offset()), (Some("true"), tail.as_str()), "{target}");
            let late = Request::post(target).body("text/plain", "late\n");
            let late = connection.send(&late).expect("the server is running").expect(409);
            assert_eq!((late.header("stream-closed"), late.next_offset()), (Some("true"), tail.as_str()), "{target}");
        }
    }
}

/// Reads on in every stream in turn until the connection breaks; now and then from the beginning.
fn read_all_in_turn(server: &Server, streams: &[Stream], read_to: &mut [String]) -> Vec<(usize, Read)> {
    let mut reads = Vec::new();
    let Ok(mut connection) = weir_testkit::Connection::open(server.address()) else { return reads };
    for turn in 0.. {
        let stream = turn % streams.len();
        let from_start = turn % 50 == 49;
        let offset = if from_start { "-1" } else { read_to[stream].as_str() };
        let Ok((read, next, _)) = streams[stream].page(&mut connection, offset) else { break };
        if !from_start {
            read_to[stream] = next;
        }
        reads.push((stream, read));
    }
    reads
}
