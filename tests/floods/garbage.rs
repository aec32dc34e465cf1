//! Bytes that are no requests.

use std::time::Duration;

use crate::{MIB, Memory, Random, SLACK_BYTES, assert_serves, create, end_sending, on_disk, read};

const TARGET: &str = "/floods/garbage";
const SEED: u64 = 4437;
const CONNECTIONS: usize = 400;
/// The beginning of what a client says who takes this for HTTPS, up to where random bytes may follow.
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests that begin well, and go wrong in what follows.
const BEGINNINGS: [&[u8]; 12] = [
    b"",
    TLS_HELLO,
    HTTP2_PREFACE,
    // An empty SETTINGS frame, as HTTP/2 wants it, then no frames.
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"PRI ",
    b"GET /",
    b"GET /floods/garbage HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /floods/garbage HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /floods/garbage HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: ",
    b"POST /floods/garbage HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /floods/garbage HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
    b"\0\0\0\0",
];

#[test]
fn random_bytes_are_answered_or_hung_up_on() {
    let mut server = on_disk(MIB).env("WEIR_HTTP_HEADER_READ_TIMEOUT_MS", 1000).start();
    create(&mut server.client(), TARGET);
    let memory = Memory::watch(&server);
    let mut random = Random(SEED);
    for number in 0..CONNECTIONS {
        let beginning = BEGINNINGS[number % BEGINNINGS.len()];
        let bytes = 1 << random.below(17);
        let garbage = random.bytes(bytes);
        let mut connection = server.connect();
        // The server may hang up on it before all is written.
        let _ = connection.write(&[beginning, &garbage].concat());
        end_sending(&connection);
        let ended = connection.ends_within(Duration::from_secs(10));
        assert!(ended, "connection {number} is kept: {:?} and {bytes} bytes", String::from_utf8_lossy(beginning));
    }
    memory.assert_grown_by_at_most(SLACK_BYTES);
    assert_eq!(read(&mut server.client(), TARGET), "", "none of it was an append");
    assert_serves(&mut server);
}

#[test]
fn requests_that_can_be_read_in_two_ways_are_refused() {
    let mut server = on_disk(MIB).start();
    create(&mut server.client(), TARGET);
    let inner = "POST /floods/garbage HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nsmuggled";
    let lengths = [
        "Content-Length: -1".to_owned(),
        "Content-Length: +8".to_owned(),
        "Content-Length: 0x8".to_owned(),
        "Content-Length: 18446744073709551616".to_owned(),
        "Content-Length: 0\r\nContent-Length: 8".to_owned(),
        "Transfer-Encoding: gzip".to_owned(),
        "Transfer-Encoding: chunked, identity".to_owned(),
        format!("Content-Length : {}", inner.len()),
    ];
    for length in lengths {
        let head = format!("POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n{length}\r\n\r\n");
        let mut connection = server.connect();
        let _ = connection.write(format!("{head}{inner}").as_bytes());
        end_sending(&connection);
        if let Ok(answer) = connection.read_response(false) {
            assert!((400..500).contains(&answer.status), "{length}: {answer:?}");
        }
        assert!(connection.ends_within(Duration::from_secs(10)), "{length}: the connection is kept");
    }
    assert_eq!(read(&mut server.client(), TARGET), "", "a body was taken for a request");
    assert_serves(&mut server);
}
