//! Readers of old data that ask for much and do not read it, or read it slowly.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use weir_testkit::{Client, Connection, Request, Response, Server};

use crate::leavers::connect;
use crate::{
    CONNECTION_BYTES, Fate, MIB, Memory, SLACK_BYTES, append, assert_serves, create, fate, metric, on_disk,
    raise_open_files_limit, wait_until,
};

const TARGET: &str = "/floods/readers";
/// A stream of nothing but line breaks.
const BREAKS: &str = "/floods/breaks";
/// Streams with long names, besides.
const NAMES: usize = 1000;
const NAME_BYTES: usize = 1000;
const READERS: usize = 200;
const RECORDS: usize = 280;
const RECORD_BYTES: usize = 60_000;
const READ_BYTES_MAX: u64 = 16 * MIB;

#[test]
fn pages_that_nobody_takes_are_as_many_as_may_be() {
    // Many at once, because the kernel alone takes the first ones, which are small while memory is short.
    flood(&Request::get(TARGET), 12);
}

#[test]
fn history_that_nobody_takes_is_as_much_as_may_be() {
    flood(&Request::get(&format!("{TARGET}?offset=-1&live=sse")), 1);
}

#[test]
fn line_breaks_are_counted_as_what_they_become() {
    // Each becomes six bytes of an event.
    flood(&Request::get(&format!("{BREAKS}?offset=-1&live=sse")), 1);
}

#[test]
fn listings_that_nobody_takes_are_as_many_as_may_be() {
    flood(&Request::get("/floods/-/streams?limit=1000"), 12);
}

#[test]
fn slow_readers_leave_room_for_others() {
    const SLOW: usize = 8;
    const BYTES_PER_TURN: usize = 3 << 10;
    let mut server = with_a_long_stream();
    let mut client = server.client();
    // More than twice what may be read at a time, if pages were as large as ever.
    let requests = Request::get(TARGET).to_bytes("localhost").repeat(4);
    let mut slow: Vec<Connection> = (0..SLOW).map(|_| server.connect()).collect();
    for connection in &mut slow {
        connection.write(&requests).expect("the requests are written");
        assert_eq!(connection.read_head().expect("an answer").status, 200);
    }
    for _ in 0..50 {
        for connection in &slow {
            let mut scratch = [0; BYTES_PER_TURN];
            connection.socket().read_exact(&mut scratch).expect("it is not too slow");
        }
        let page = client.send(Request::get(TARGET)).expect(200);
        assert!(page.body.starts_with(record(0).as_bytes()), "another beginning");
        std::thread::sleep(Duration::from_millis(50));
    }
    read_all(&mut client);
    drop(slow);
    assert_serves(&mut server);
}

#[test]
fn a_page_that_is_taken_slowly_is_taken_whole() {
    // More than sockets hold, of records that are put together in one buffer.
    const PAGE_BYTES: usize = 4 << 20;
    const RECORD_BYTES: usize = 4 << 10;
    // Who asks for nothing is let go after 1.6 s.
    let server = on_disk(MIB).env("WEIR_HTTP_HEADER_READ_TIMEOUT_MS", 200).start();
    let mut client = server.client();
    create(&mut client, TARGET);
    for _ in 0..PAGE_BYTES / RECORD_BYTES {
        let _ = client.send(append(TARGET, "x".repeat(RECORD_BYTES))).expect(204);
    }
    let mut socket = connect(&server);
    socket.write_all(&Request::get(TARGET).to_bytes("localhost")).expect("it is sent");
    let (begun, mut taken, mut body_at) = (Instant::now(), Vec::new(), None);
    while body_at.is_none_or(|at| taken.len() < at + PAGE_BYTES) {
        let is_slow = begun.elapsed() < Duration::from_secs(4);
        let mut scratch = vec![0; if is_slow { 5000 } else { 1 << 20 }];
        let count = socket.read(&mut scratch).expect("it is not cut off");
        assert!(count > 0, "it ended after {} bytes, {:?}", taken.len(), begun.elapsed());
        taken.extend_from_slice(&scratch[..count]);
        body_at = body_at.or_else(|| taken.windows(4).position(|end| end == b"\r\n\r\n").map(|end| end + 4));
        if is_slow {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    assert!(begun.elapsed() > Duration::from_secs(4), "it was slow");
    assert!(taken[body_at.expect("a head")..].iter().all(|byte| *byte == b'x'));
}

/// Has many clients send `request` `times` times each and read no more than the head of the first answer.
fn flood(request: &Request, times: usize) {
    raise_open_files_limit();
    let mut server = with_a_long_stream();
    let mut client = server.client();
    read_all(&mut client);
    let memory = Memory::watch(&server);
    let requests = request.to_bytes("localhost").repeat(times);
    let mut stalled: Vec<Connection> = Vec::new();
    for _ in 0..READERS {
        let mut connection = server.connect();
        connection.write(&requests).expect("the requests are written");
        let head = connection.read_head().expect("an answer");
        match head.status {
            200 => stalled.push(connection),
            _ => assert_refused(&head),
        }
        // Others are in no better place, and in no worse one.
        let answer = client.send(Request::get(TARGET));
        match answer.status {
            200 => assert!(answer.body.starts_with(record(0).as_bytes()), "another beginning"),
            _ => {
                assert_refused(&answer);
                assert_eq!(answer.code(), "read_limit");
            }
        }
    }
    assert!(!stalled.is_empty(), "nobody is served");
    drop(client);
    wait_until("the end of all that do not read", || metric(&server, "weir_connections_open") == 0.0);
    for connection in &mut stalled {
        assert_ne!(fate(connection.socket()), Fate::Open);
        assert!(connection.ends_within(Duration::from_secs(10)), "a stalled connection is kept");
    }
    memory.assert_grown_by_at_most(READ_BYTES_MAX + READERS as u64 * CONNECTION_BYTES + SLACK_BYTES);
    read_all(&mut server.client());
    assert_serves(&mut server);
}

/// A server with a stream of 16 MiB at `TARGET`, and a limit of as much for all that is being read.
pub(crate) fn with_a_long_stream() -> Server {
    let server = on_disk(MIB)
        .env("WEIR_HTTP_WRITE_TIMEOUT_MS", 2000)
        // An idle connection ends after eight times as long: what the kernel has taken for a client is sent.
        .env("WEIR_HTTP_HEADER_READ_TIMEOUT_MS", 2000)
        .env("WEIR_LIMITS_READ_BYTES_MAX", READ_BYTES_MAX)
        .start();
    let mut client = server.client();
    create(&mut client, TARGET);
    create(&mut client, BREAKS);
    for number in 0..RECORDS {
        let _ = client.send(append(TARGET, record(number))).expect(204);
        let _ = client.send(append(BREAKS, "\n".repeat(RECORD_BYTES))).expect(204);
    }
    for number in 0..NAMES {
        create(&mut client, &format!("/floods/{number:0NAME_BYTES$}"));
    }
    server
}

/// Asserts that this is what a reader beyond the limit is told.
#[track_caller]
pub(crate) fn assert_refused(answer: &Response) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

/// Reads the whole stream and asserts that it is as it was written.
#[track_caller]
pub(crate) fn read_all(client: &mut Client) {
    let bytes = client.read_all(TARGET);
    assert_eq!(bytes.len(), RECORDS * RECORD_BYTES);
    for (number, stored) in bytes.chunks(RECORD_BYTES).enumerate() {
        assert!(stored == record(number).as_bytes(), "record {number} is another one");
    }
}

/// Record `number`, its own and of a fixed length.
fn record(number: usize) -> String {
    format!("{number:0RECORD_BYTES$}")
}
