//! Floods: more of something than the server wants, from clients that mean harm or are broken. The server lives, says
//! what it can say, takes no more memory than it was given, and serves others meanwhile.
//!
//! One file per subject; each test has a server of its own, on a disk, because one in memory would grow by what is
//! appended. What a flood may take of memory is a limit of the configuration and an allowance per connection; the
//! allowances of these tests are for a debug build, whose tasks are large.

mod bodies;
mod chunked;
mod connections;
mod garbage;
mod heads;
mod http2;
mod leavers;
mod nesting;
mod readers;
mod subscribers;
mod turns;

use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
pub(crate) use weir_testkit::metric;
use weir_testkit::{Client, Connection, Request, Response, Server, Setup};

pub(crate) const MIB: u64 = 1 << 20;
/// Memory that is nobody's in particular: buffers of logs and shards, what the allocator keeps, stacks.
pub(crate) const SLACK_BYTES: u64 = 32 * MIB;
/// What each answered or stalled connection may take besides what a limit counts.
pub(crate) const CONNECTION_BYTES: u64 = 64 << 10;

/// A server on a disk, with two shards and as little memory for the log as it can do with, taking bodies of up to
/// `body_bytes_max`.
pub(crate) fn on_disk(body_bytes_max: u64) -> Setup {
    // A log entry, at most three times its body, fits a segment.
    let segment_bytes = (4 * body_bytes_max).max(4 * MIB);
    Setup::new(env!("CARGO_BIN_EXE_weir"))
        .args(&["--shards", "2"])
        .env("WEIR_HTTP_BODY_BYTES_MAX", body_bytes_max)
        .env("WEIR_WAL_SEGMENT_BYTES", segment_bytes)
        .env("WEIR_WAL_CACHE_BYTES", 4 * MIB)
}

/// Creates a text stream.
#[track_caller]
pub(crate) fn create(client: &mut Client, target: &str) -> Response {
    client.send(Request::put(target).header("Content-Type", "text/plain")).expect(201)
}

/// An append to a text stream.
pub(crate) fn append(target: &str, text: impl Into<Vec<u8>>) -> Request {
    Request::post(target).body("text/plain", text)
}

/// Reads a stream that is not longer than a page.
#[track_caller]
pub(crate) fn read(client: &mut Client, target: &str) -> String {
    client.send(Request::get(target)).expect(200).text()
}

/// Asserts that the server has not ended and does what it is for, on both of its listeners.
#[track_caller]
pub(crate) fn assert_serves(server: &mut Server) {
    assert!(server.is_running(), "the server has ended: {:?}", server.wait_exit());
    // Several streams, so that each shard is asked.
    for number in 0..8 {
        let target = format!("/floods/after-{number}");
        let mut client = server.client();
        create(&mut client, &target);
        let _ = client.send(append(&target, "still here")).expect(204);
        assert_eq!(read(&mut client, &target), "still here");
    }
    assert_eq!(metric(server, "weir_build_info"), 1.0);
    assert_eq!(metric(server, "weir_shard_up"), 2.0);
}

/// Looks again and again, for up to 30 s.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    weir_testkit::wait_until(what, Duration::from_secs(30), condition);
}

/// Lets this process, and with it the servers that it starts, open as many files as the system permits.
pub(crate) fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a soft limit may be raised up to the hard one");
}

/// A server's memory from one moment on.
pub(crate) struct Memory {
    pid: u32,
    before: u64,
}

impl Memory {
    /// Begins here: what the server takes now is not counted.
    pub(crate) fn watch(server: &Server) -> Memory {
        let pid = server.pid();
        // The kernel's own record of the peak begins again, so that none is missed between two looks.
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a child's peak may be reset");
        Memory { pid, before: server.resident_bytes() }
    }

    /// Asserts that the server has at no moment since grown by more than `bytes`.
    #[track_caller]
    pub(crate) fn assert_grown_by_at_most(&self, bytes: u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the server is running");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak_kib: u64 = peak.expect("a peak").trim().parse().expect("a number");
        let grown = (peak_kib << 10).saturating_sub(self.before);
        assert!(grown <= bytes, "grown by {} KiB, {} KiB are allowed", grown >> 10, bytes >> 10);
    }
}

/// What has become of a connection that is looked at without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing yet.
    Open,
    /// Bytes of an answer are there.
    Answered,
    /// The server has ended it.
    Ended,
}

/// Looks at a connection without waiting and without taking anything from it.
pub(crate) fn fate(socket: &TcpStream) -> Fate {
    socket.set_nonblocking(true).expect("a socket can be switched");
    let fate = match socket.peek(&mut [0]) {
        Ok(0) => Fate::Ended,
        Ok(_) => Fate::Answered,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Fate::Open,
        Err(_) => Fate::Ended,
    };
    socket.set_nonblocking(false).expect("a socket can be switched back");
    fate
}

/// Says that nothing more comes; the server may have ended the connection before.
pub(crate) fn end_sending(connection: &Connection) {
    let _ = connection.socket().shutdown(Shutdown::Write);
}

/// Random numbers that are the same in every run (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
