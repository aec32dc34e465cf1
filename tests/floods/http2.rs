//! HTTP/2 frames that a client without bad intentions does not send. Written by hand: no client library sends them.
//!
//! Source: RFC 9113, sections 4.1 (frames), 6.2 to 6.10 (their kinds); RFC 7541, section 6 (header fields).

use std::io::Read;
use std::time::Duration;

use weir_testkit::{Connection, Request, Server};

use crate::readers::{read_all, with_a_long_stream};
use crate::{MIB, Memory, SLACK_BYTES, append, assert_serves, create, end_sending, on_disk, read};

const TARGET: &str = "/floods/http2";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `CANCEL`, as the payload of `RST_STREAM`.
const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// `SETTINGS_INITIAL_WINDOW_SIZE` of 0: the server may send no byte of any body.
const WINDOW_CLOSED: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// Most frames are shorter than this.
const BATCH_FRAMES: u32 = 1000;

#[test]
fn requests_that_are_taken_back_at_once() {
    flood(|stream| [get(stream, TARGET), cancel(stream)].concat(), 50_000);
}

#[test]
fn more_requests_than_may_be_open() {
    // POSTs whose bodies never come.
    flood(|stream| request(stream, 0x83, TARGET, 0), 20_000);
}

#[test]
fn a_head_without_end() {
    // A field that fills a frame: its value has 16,378 bytes.
    let field = [&[0, 1, b'x', 0x7f, 0xfb, 0x7e][..], &vec![b'a'; 16_384 - 6]].concat();
    flood(
        |stream| match stream {
            1 => frame(HEADERS, 0, 1, &head(0x82, TARGET)),
            _ => frame(CONTINUATION, 0, 1, &field),
        },
        2000,
    );
    // As many as one likes of these cost nothing to send.
    flood(
        |stream| match stream {
            1 => frame(HEADERS, 0, 1, &head(0x82, TARGET)),
            _ => frame(CONTINUATION, 0, 1, &[]),
        },
        200_000,
    );
}

#[test]
fn questions_whose_answers_are_not_read() {
    flood(|_| frame(PING, 0, 0, &[0; 8]), 500_000);
    flood(|_| frame(SETTINGS, 0, 0, &[]), 500_000);
}

#[test]
fn frames_that_say_nothing() {
    flood(|stream| if stream == 1 { request(1, 0x83, TARGET, 0) } else { frame(DATA, 0, 1, &[]) }, 200_000);
    flood(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), 200_000);
    flood(|stream| frame(0xbb, 0xff, stream, &[0xbb; 64]), 100_000);
}

#[test]
fn pages_that_no_window_lets_through_are_as_many_as_may_be() {
    const READS: u32 = 250;
    let mut server = with_a_long_stream();
    let mut client = server.client();
    read_all(&mut client);
    let memory = Memory::watch(&server);
    let mut connection = server.connect();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &WINDOW_CLOSED)].concat();
    for number in 0..READS {
        bytes.extend(get(2 * number + 1, "/floods/readers"));
    }
    connection.write(&bytes).expect("the requests are written");
    wait_for_answers(&connection, READS);
    // One connection has a share of what there is, and leaves the rest to others.
    let _ = client.send(Request::get("/floods/readers")).expect(200);
    memory.assert_grown_by_at_most(16 * MIB / 4 + SLACK_BYTES);
    // It still holds the connection: what it does not take is cut off as it is on a socket that takes nothing.
    assert!(connection.ends_within(Duration::from_secs(10)), "a connection that takes nothing is kept");
    read_all(&mut client);
    assert_serves(&mut server);
}

/// A `GET` without a body.
pub(crate) fn get(stream: u32, target: &str) -> Vec<u8> {
    request(stream, 0x82, target, END_STREAM)
}

/// Takes a request back.
pub(crate) fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL)
}

/// Reads until the heads of `count` answers have come.
fn wait_for_answers(connection: &Connection, count: u32) {
    let (mut bytes, mut answers) = (Vec::new(), 0);
    while answers < count {
        let mut scratch = [0; 65536];
        let read = connection.socket().read(&mut scratch).expect("the connection holds");
        assert!(read > 0, "the connection ended after {answers} answers");
        bytes.extend_from_slice(&scratch[..read]);
        // A frame is its length in three bytes, its kind, flags and stream in six more, and its payload.
        while let [high, middle, low, kind, _, _, _, _, _, rest @ ..] = &bytes[..] {
            let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            if rest.len() < length {
                break;
            }
            answers += u32::from(*kind == HEADERS);
            bytes.drain(..9 + length);
        }
    }
}

/// Sends what `frames` makes for each of `count` client's streams, reads nothing, and asserts that the server neither
/// grows by it nor keeps the connection nor others waiting.
fn flood(frames: impl Fn(u32) -> Vec<u8>, count: u32) {
    let mut server = on_disk(MIB).start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let memory = Memory::watch(&server);
    let mut connection = begin(&server);
    let mut appended = 0;
    for batch in 0..count / BATCH_FRAMES {
        let streams = batch * BATCH_FRAMES..(batch + 1) * BATCH_FRAMES;
        let bytes: Vec<u8> = streams.flat_map(|number| frames(2 * number + 1)).collect();
        // A server that takes no more, or has hung up, has had enough of it.
        if connection.write(&bytes).is_err() {
            break;
        }
        let _ = client.send(append(TARGET, "x")).expect(204);
        appended += 1;
    }
    end_sending(&connection);
    assert!(connection.ends_within(Duration::from_secs(10)), "the connection is kept");
    memory.assert_grown_by_at_most(SLACK_BYTES);
    assert_eq!(read(&mut client, TARGET), "x".repeat(appended));
    assert_serves(&mut server);
}

/// A connection on which HTTP/2 has begun.
pub(crate) fn begin(server: &Server) -> Connection {
    let mut connection = server.connect();
    connection.socket().set_write_timeout(Some(Duration::from_secs(2))).expect("a positive timeout");
    connection.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).expect("the preface is written");
    connection
}

/// A request without a body yet.
fn request(stream: u32, method: u8, target: &str, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &head(method, target))
}

/// A request's header fields: `method` is 0x82 for `GET` and 0x83 for `POST`, by their places in the static table.
fn head(method: u8, target: &str) -> Vec<u8> {
    assert!(target.len() < 127, "its length is one byte");
    let mut fields = vec![method, 0x86, 0x04, target.len() as u8];
    fields.extend_from_slice(target.as_bytes());
    // `:authority`, not to be remembered.
    fields.extend_from_slice(b"\x01\x09localhost");
    fields
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
