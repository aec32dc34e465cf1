//! Requests whose heads come very slowly, or are very long.

use std::thread;
use std::time::{Duration, Instant};

use weir_testkit::{Connection, Request};

use crate::{
    CONNECTION_BYTES, Fate, MIB, Memory, SLACK_BYTES, append, assert_serves, create, fate, on_disk, read, wait_until,
};

const TARGET: &str = "/floods/heads";
const SLOW: usize = 200;

#[test]
fn a_head_that_comes_byte_by_byte_is_given_up() {
    let mut server = on_disk(MIB).env("WEIR_HTTP_HEADER_READ_TIMEOUT_MS", 1000).start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let memory = Memory::watch(&server);
    let mut slow: Vec<Connection> = (0..SLOW).map(|_| server.connect()).collect();
    let endless = b"POST /floods/heads HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".iter().chain([b'a'].iter().cycle());
    let deadline = Instant::now() + Duration::from_secs(30);
    for (round, byte) in endless.enumerate() {
        // A write may meet an end that is under way; the next look sees it.
        slow.iter_mut().for_each(|connection| drop(connection.write(&[*byte])));
        slow.retain_mut(|connection| match fate(connection.socket()) {
            Fate::Open => true,
            Fate::Answered => {
                let _ = connection.read_response(false).expect("a whole answer").expect(408);
                false
            }
            Fate::Ended => false,
        });
        let text = client.send(append(TARGET, "x")).expect(204);
        assert!(text.header("stream-next-offset").is_some(), "{text:?}");
        assert_eq!(read(&mut client, TARGET).len(), round + 1, "others are served meanwhile");
        if slow.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{} of {SLOW} slow heads are still waited for", slow.len());
        // The pace of the flood: slower than this it would be less of one.
        thread::sleep(Duration::from_millis(20));
    }
    memory.assert_grown_by_at_most(SLOW as u64 * CONNECTION_BYTES + SLACK_BYTES);
    assert_serves(&mut server);
}

#[test]
fn a_head_of_a_megabyte_is_refused() {
    let mut server = on_disk(MIB).start();
    let memory = Memory::watch(&server);
    let filler = "x".repeat(MIB as usize);
    let heads = [
        format!("GET /floods/{filler} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("{filler} /floods/heads HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET /floods/heads HTTP/1.1\r\nHost: localhost\r\nX-Long: {filler}\r\n\r\n"),
        format!("GET /floods/heads HTTP/1.1\r\nHost: localhost\r\n{filler}: long\r\n\r\n"),
        format!("GET /floods/heads HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-Many: x\r\n".repeat(100_000)),
        // Without an end.
        format!("GET /floods/heads HTTP/1.1\r\nHost: localhost\r\n{}", "X-Many: x\r\n".repeat(100_000)),
        format!("GET /floods/{filler}"),
    ];
    for head in &heads {
        let begin = &head[..40];
        for _ in 0..20 {
            let mut connection = server.connect();
            let written = connection.write(head.as_bytes());
            match connection.read_response(false) {
                Ok(answer) => assert!(matches!(answer.status, 400 | 414 | 431), "{begin}: {answer:?}"),
                // It was told, but the rest of the head that nobody read made the end a reset.
                Err(error) => {
                    assert!(error.kind() != std::io::ErrorKind::WouldBlock, "{begin} ({written:?}): {error}");
                }
            }
            assert!(connection.ends_within(Duration::from_secs(10)), "{begin}: the connection is kept");
        }
    }
    memory.assert_grown_by_at_most(SLACK_BYTES);
    wait_until("an answer to another", || server.client().send(Request::get("/floods/other")).status == 404);
    assert_serves(&mut server);
}
