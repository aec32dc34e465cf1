//! Bodies that do not say how long they are.

use std::io;
use std::thread;
use std::time::Duration;

use weir_testkit::{Connection, Request, Response, Server};

use crate::{
    CONNECTION_BYTES, Fate, MIB, Memory, SLACK_BYTES, append, assert_serves, create, fate, metric, on_disk, wait_until,
};

const TARGET: &str = "/floods/chunked";
const CHUNK_BYTES: usize = 64 << 10;
const GIB: usize = 1 << 30;
/// What the kernel holds of a connection's bytes, in both directions together.
const SOCKET_BYTES: usize = 16 << 20;

#[test]
fn a_gibibyte_in_chunks_is_refused_when_it_is_too_long() {
    let mut server = on_disk(MIB).start();
    create(&mut server.client(), TARGET);
    let memory = Memory::watch(&server);
    // A client that looks for an answer while it sends has one soon.
    let mut upload = Upload::begin(&server);
    let sent = upload.send(GIB, Answers::AreReadAtOnce);
    let refused = upload.answer().expect("an answer before the body's end").expect(413);
    assert_eq!(refused.code(), "body_too_large");
    assert!(sent < SOCKET_BYTES, "{sent} bytes were taken before the answer");
    assert!(upload.connection.ends_within(Duration::from_secs(10)), "what has to come is not waited for");

    // One that does not look is cut off, or all that it sends is thrown away.
    let mut uploads: Vec<Upload> = (0..4).map(|_| Upload::begin(&server)).collect();
    thread::scope(|scope| {
        for upload in &mut uploads {
            scope.spawn(|| upload.send(GIB, Answers::AreLeft));
        }
    });
    for upload in &mut uploads {
        assert!(upload.connection.ends_within(Duration::from_secs(10)), "a body without end is listened to");
    }
    memory.assert_grown_by_at_most(8 * MIB + SLACK_BYTES);
    assert_eq!(stored_bytes(&server), 0);
    assert_serves(&mut server);
}

#[test]
fn bodies_in_chunks_take_no_more_than_bodies_may() {
    const UPLOADS: usize = 64;
    const UPLOAD_BYTES: usize = 16 << 20;
    const IN_FLIGHT_BYTES_MAX: u64 = 32 * MIB;
    let mut server = on_disk(UPLOAD_BYTES as u64)
        .env("WEIR_LIMITS_IN_FLIGHT_BYTES_MAX", IN_FLIGHT_BYTES_MAX)
        .env("WEIR_HTTP_BODY_READ_TIMEOUT_MS", 5000)
        .start();
    create(&mut server.client(), TARGET);
    let memory = Memory::watch(&server);
    let answers: Vec<io::Result<Response>> = thread::scope(|scope| {
        let upload = || {
            let mut upload = Upload::begin(&server);
            upload.send(UPLOAD_BYTES, Answers::AreReadAtOnce);
            upload.end();
            upload.answer()
        };
        let threads: Vec<_> = (0..UPLOADS).map(|_| scope.spawn(upload)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    let mut stored = 0;
    let mut refused = 0;
    for answer in answers {
        let answer = answer.expect("an answer");
        match answer.status {
            204 => stored += 1,
            _ => {
                refused += 1;
                assert_eq!((answer.status, answer.code().as_str()), (503, "in_flight_limit"), "{answer:?}");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
            }
        }
    }
    assert!(refused > 0, "{stored} bodies of {UPLOAD_BYTES} bytes were all taken at once");
    // A body is in memory twice while it is written: as it came, and as it is written.
    memory.assert_grown_by_at_most(2 * IN_FLIGHT_BYTES_MAX + UPLOADS as u64 * CONNECTION_BYTES + 2 * SLACK_BYTES);
    assert_eq!(stored_bytes(&server), stored * UPLOAD_BYTES);
    wait_until("the end of all that was under way", || metric(&server, "weir_in_flight_bytes") == 0.0);
    let _ = server.client().send(append(TARGET, vec![b'x'; UPLOAD_BYTES])).expect(204);
    assert_serves(&mut server);
}

/// Bytes of the stream, as its offset tells: it begins with the position.
fn stored_bytes(server: &Server) -> usize {
    let head = server.client().send(Request::head(TARGET)).expect(200);
    let (position, _) = head.next_offset().split_once('-').expect("an offset has two parts");
    position.parse().expect("a position is a number")
}

/// Whether a client looks for an answer while it sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    AreReadAtOnce,
    AreLeft,
}

/// An append whose body comes in chunks.
struct Upload {
    connection: Connection,
}

impl Upload {
    fn begin(server: &Server) -> Upload {
        let mut connection = server.connect();
        let head = format!(
            "POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        connection.write(head.as_bytes()).expect("the head is written");
        Upload { connection }
    }

    /// Sends up to `bytes` in chunks until the server stops it; gives back how many were sent.
    fn send(&mut self, bytes: usize, answers: Answers) -> usize {
        let chunk = format!("{CHUNK_BYTES:x}\r\n{}\r\n", "x".repeat(CHUNK_BYTES));
        for sent in (0..bytes).step_by(CHUNK_BYTES) {
            if answers == Answers::AreReadAtOnce && fate(self.connection.socket()) != Fate::Open {
                return sent;
            }
            if self.connection.write(chunk.as_bytes()).is_err() {
                return sent;
            }
        }
        bytes
    }

    /// Sends the body's end, unless the server has ended it.
    fn end(&mut self) {
        if fate(self.connection.socket()) == Fate::Open {
            let _ = self.connection.write(b"0\r\n\r\n");
        }
    }

    fn answer(&mut self) -> io::Result<Response> {
        self.connection.read_response(false)
    }
}
