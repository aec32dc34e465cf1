//! Bodies that stop in the middle.

use std::thread;
use std::time::Duration;

use weir_testkit::{Client, Connection, Server};

use crate::{
    CONNECTION_BYTES, Fate, MIB, Memory, SLACK_BYTES, append, assert_serves, create, fate, metric, on_disk, read,
    wait_until,
};

const TARGET: &str = "/floods/bodies";
const STALLED: usize = 500;
const THREADS: usize = 20;
const IN_FLIGHT_BYTES_MAX: u64 = 32 * MIB;
/// Bodies are counted by their bytes; what they were read into may be larger.
const COPIES: u64 = 2;

#[test]
fn a_body_that_stops_is_given_up() {
    let mut server = on_disk(MIB).env("WEIR_HTTP_BODY_READ_TIMEOUT_MS", 500).start();
    create(&mut server.client(), TARGET);
    let mut stalled = half_a_body(&server);
    let refused = stalled.read_response(false).expect("an answer when nothing more comes").expect(408);
    assert_eq!(refused.code(), "body_timeout");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(stalled.ends_within(Duration::from_secs(10)), "the connection is of no use any more");
    assert_eq!(read(&mut server.client(), TARGET), "");
    assert_serves(&mut server);
}

#[test]
fn a_body_that_drips_is_given_up_once_it_is_large() {
    let mut server = on_disk(MIB).env("WEIR_HTTP_BODY_READ_TIMEOUT_MS", 500).start();
    create(&mut server.client(), TARGET);
    let drip = |connection: &mut Connection, bytes: usize| {
        connection.write(&vec![b'x'; bytes]).expect("it is listened to");
        // Less than 4 KiB per second, and no long pause.
        let drips = (0..30).take_while(|_| {
            thread::sleep(Duration::from_millis(100));
            fate(connection.socket()) == Fate::Open && connection.write(b"x").is_ok()
        });
        drips.count()
    };
    let mut large = announced(&server);
    assert!(drip(&mut large, MIB as usize / 2) < 15, "it goes on for as long as it likes");
    let refused = large.read_response(false).expect("an answer").expect(408);
    assert_eq!(refused.code(), "body_timeout");
    let mut small = announced(&server);
    assert_eq!(drip(&mut small, 1000), 30, "who writes little may think meanwhile");
    drop(small);
    assert_serves(&mut server);
}

#[test]
fn bodies_that_stop_take_no_more_than_bodies_may() {
    let mut server = on_disk(MIB)
        .env("WEIR_HTTP_BODY_READ_TIMEOUT_MS", 3000)
        .env("WEIR_LIMITS_IN_FLIGHT_BYTES_MAX", IN_FLIGHT_BYTES_MAX)
        .start();
    let mut client = server.client();
    create(&mut client, TARGET);
    // What one large append takes is there before the flood.
    let _ = client.send(append("/floods/other", vec![b'x'; MIB as usize]));
    let memory = Memory::watch(&server);
    let stalled: Vec<Connection> = thread::scope(|scope| {
        let some = || (0..STALLED / THREADS).map(|_| half_a_body(&server)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(some)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no thread panics")).collect()
    });
    // Others may be told to come again, but need not wait for the end of the flood.
    (0..20).for_each(|_| append_at_last(&mut client));
    for mut connection in stalled {
        let refused = connection.read_response(false).expect("an answer when nothing more comes");
        match refused.code().as_str() {
            "body_timeout" => assert_eq!(refused.status, 408),
            _ => assert_eq!((refused.status, refused.code().as_str()), (503, "in_flight_limit"), "{refused:?}"),
        }
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
    }
    memory.assert_grown_by_at_most(COPIES * IN_FLIGHT_BYTES_MAX + STALLED as u64 * CONNECTION_BYTES + SLACK_BYTES);
    wait_until("the end of all that was under way", || metric(&server, "weir_in_flight_bytes") == 0.0);
    assert_eq!(read(&mut client, TARGET), "x".repeat(20));
    assert_serves(&mut server);
}

#[test]
fn bodies_in_small_pieces_take_no_more_than_bodies_may() {
    const DRIPPING: usize = 200;
    const BYTES_PER_BODY: usize = IN_FLIGHT_BYTES_MAX as usize / DRIPPING * 9 / 10;
    /// Large enough to be kept as it came, small enough to be only a part of what it was read into.
    const PIECE_BYTES: usize = 1100;
    let mut server = on_disk(MIB).env("WEIR_LIMITS_IN_FLIGHT_BYTES_MAX", IN_FLIGHT_BYTES_MAX).start();
    create(&mut server.client(), TARGET);
    let memory = Memory::watch(&server);
    let mut dripping: Vec<Connection> = (0..DRIPPING).map(|_| announced(&server)).collect();
    // Not more than may be under way, so that none is refused.
    for _ in 0..BYTES_PER_BODY / PIECE_BYTES {
        dripping.iter_mut().for_each(|connection| connection.write(&[b'x'; PIECE_BYTES]).expect("it is listened to"));
        // The pace of the flood: pieces that come together are read together.
        thread::sleep(Duration::from_millis(20));
    }
    memory.assert_grown_by_at_most(COPIES * IN_FLIGHT_BYTES_MAX + DRIPPING as u64 * CONNECTION_BYTES + SLACK_BYTES);
    drop(dripping);
    wait_until("the end of all that was under way", || metric(&server, "weir_in_flight_bytes") == 0.0);
    assert_eq!(read(&mut server.client(), TARGET), "");
    assert_serves(&mut server);
}

/// A connection with half of an append of a mebibyte on it.
fn half_a_body(server: &Server) -> Connection {
    let mut connection = announced(server);
    // A server that has refused it already need not take this.
    let _ = connection.write(&vec![b'x'; MIB as usize / 2]);
    connection
}

/// A connection with the head of an append of a mebibyte on it.
fn announced(server: &Server) -> Connection {
    let mut connection = server.connect();
    let head = format!(
        "POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {MIB}\r\nConnection: close\r\n\r\n"
    );
    connection.write(head.as_bytes()).expect("the head is written");
    connection
}

/// Appends one byte, again when told to come again.
fn append_at_last(client: &mut Client) {
    wait_until("an append", || {
        let answer = client.send(append(TARGET, "x"));
        assert!(answer.status == 204 || answer.header("retry-after").is_some(), "{answer:?}");
        answer.status == 204
    });
}
