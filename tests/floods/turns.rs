//! Work that is large in one respect, while the shards' threads are watched: none of them is held for long at a stretch.
//!
//! What counts is the time that a thread computes, not the time that passes: others use the same cores while this runs.

use weir_testkit::{Client, Connection, Events, Request, Server};

use crate::{MIB, append, assert_serves, create, metric, on_disk, wait_until};

/// No turn of a shard's thread computes longer, as the metric's class says it, in seconds.
const TURN_MAX: &str = if cfg!(debug_assertions) { "0.1" } else { "0.01" };
/// Streams of a large bucket.
const STREAMS: usize = if cfg!(debug_assertions) { 4_000 } else { 100_000 };

#[test]
fn a_stream_of_tiny_appends_is_read_in_turns() {
    let mut server = on_disk(MIB).start();
    let mut client = server.client();
    create(&mut client, "/turns/tiny");
    let appends = if cfg!(debug_assertions) { 3_000 } else { 50_000 };
    pipelined(&server, appends, |_| append("/turns/tiny", "x"), 204);
    watched(&server, || {
        for _ in 0..10 {
            let page = client.send(Request::get("/turns/tiny")).expect(200);
            assert_eq!(page.body.len(), 1024, "a page has a bounded number of pieces");
        }
        assert_eq!(client.read_all("/turns/tiny").len(), appends);
    });
    assert_serves(&mut server);
}

#[test]
fn a_body_of_millions_of_messages_is_followed_in_turns() {
    let body_bytes = if cfg!(debug_assertions) { MIB } else { 16 * MIB };
    let mut server = on_disk(body_bytes).start();
    let mut client = server.client();
    let messages = body_bytes as usize / 2 - 1;
    let body = format!("[{}]", vec!["1"; messages].join(","));
    let _ = client.send(Request::put("/turns/digits").body("application/json", body)).expect(201);
    watched(&server, || {
        let request = Request::get("/turns/digits?offset=-1&live=sse");
        let (mut events, _) = Events::open(server.address(), &request).expect("is followed");
        let mut seen = 0;
        while seen < messages {
            let event = events.next_event().expect("readable").expect("goes on");
            if event.kind == "data" {
                seen += event.data.matches('1').count();
            }
        }
        assert_eq!(seen, messages);
    });
    assert_serves(&mut server);
}

#[test]
fn a_record_of_megabytes_is_followed_in_turns() {
    let bytes = if cfg!(debug_assertions) { MIB } else { 16 * MIB };
    let mut server = on_disk(bytes).start();
    let mut client = server.client();
    for (target, content_type) in [("/turns/breaks", "text/plain"), ("/turns/octets", "application/octet-stream")] {
        let record = vec![b'\n'; bytes as usize];
        let _ = client.send(Request::put(target).body(content_type, record)).expect(201);
        watched(&server, || {
            let request = Request::get(&format!("{target}?offset=-1&live=sse"));
            let (mut events, _) = Events::open(server.address(), &request).expect("is followed");
            let data = events.next_event().expect("readable").expect("an event").data;
            let seen = if content_type == "text/plain" { data.len() } else { data.len() / 4 * 3 };
            assert!(seen.abs_diff(bytes as usize) < 4, "{seen} bytes");
        });
    }
    assert_serves(&mut server);
}

#[test]
fn many_streams_end_and_are_listed_in_turns() {
    let mut server = on_disk(MIB).start();
    let mut client = server.client();
    // All at once, and not before all are there.
    let (lasting, ending) = (STREAMS, STREAMS);
    watched(&server, || {
        pipelined(&server, lasting, |n| Request::put(&format!("/turns/lasting/{n}")), 201);
        let expires = |n| Request::put(&format!("/turns/ending/{n}")).header("Stream-TTL", 2);
        pipelined(&server, ending, expires, 201);
        wait_until("the end of streams that nobody uses", || metric(&server, "weir_streams") == lasting as f64);
        let (mut names, mut after) = (0, String::new());
        loop {
            let page = Request::get(&format!("/turns/-/streams?limit=1000{after}"));
            let page = client.send(page).expect(200).json();
            names += page["streams"].as_array().expect("rows").len();
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(names, lasting);
        let none = client.send(Request::get("/turns/-/streams?prefix=nothing")).expect(200).json();
        assert!(none["streams"].as_array().expect("rows").is_empty());
    });
    assert_serves(&mut server);
}

/// Runs `work` and asserts that no turn meanwhile was too long.
#[track_caller]
fn watched(server: &Server, work: impl FnOnce()) {
    let before = long_turns(server);
    work();
    assert_eq!(long_turns(server) - before, 0, "turns longer than {TURN_MAX} s");
}

/// Turns that have computed for longer than they may.
fn long_turns(server: &Server) -> u64 {
    let text = Client::new(server.admin()).send(Request::get("/metrics")).expect(200).text();
    let sum = |suffix: &str, label: &str| -> u64 {
        let name = format!("weir_turn_computed_seconds_{suffix}{{");
        let samples = text.lines().filter(|line| line.starts_with(&name) && line.contains(label));
        samples.map(|line| line.rsplit(' ').next().expect("a value").parse::<u64>().expect("a count")).sum()
    };
    let all = sum("count", "shard=");
    assert!(all > 0, "turns are counted");
    all - sum("bucket", &format!("le=\"{TURN_MAX}\""))
}

/// Sends so many requests over one connection, many at a time.
fn pipelined(server: &Server, count: usize, request: impl Fn(usize) -> Request, status: u16) {
    let mut connection: Connection = server.connect();
    let numbers: Vec<usize> = (0..count).collect();
    for numbers in numbers.chunks(200) {
        let requests: Vec<u8> = numbers.iter().flat_map(|&n| request(n).to_bytes("localhost")).collect();
        connection.write(&requests).expect("the requests are written");
        for _ in numbers {
            let _ = connection.read_response(false).expect("an answer").expect(status);
        }
    }
}
