//! Live reads: what an `EventSource` sees, how it resumes, and what becomes of readers that do not read.

use std::time::{Duration, Instant};

use weir_testkit::{Event, Events, Request, Server};

use crate::{append, create, in_memory, metric, on_disk, read, wait_until};

const TARGET: &str = "/demo/live";

fn follow(server: &Server, request: Request) -> Events {
    let (events, head) = Events::open(server.address(), &request).unwrap_or_else(|r| panic!("no live read: {r:?}"));
    assert_eq!(head.header("content-type"), Some("text/event-stream"), "{head:?}");
    events
}

fn sse(offset: &str) -> Request {
    Request::get(&format!("{TARGET}?offset={offset}&live=sse"))
}

#[track_caller]
fn next(events: &mut Events) -> Event {
    events.next_event().expect("the connection holds").expect("the response goes on")
}

/// The next data event; control events before it are checked and passed over.
#[track_caller]
fn next_data(events: &mut Events) -> Event {
    loop {
        let event = next(events);
        match event.kind.as_str() {
            "data" => return event,
            _ => assert_eq!(event.control()["streamNextOffset"], event.id, "{event:?}"),
        }
    }
}

#[test]
fn events_carry_the_offset_to_resume_from() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    append(&mut client, TARGET, "one");
    let mut events = follow(&server, sse("-1"));
    let first = next_data(&mut events);
    assert_eq!(first.data, "one");
    let tail = append(&mut client, TARGET, "two");
    let second = next_data(&mut events);
    assert_eq!((second.data.as_str(), second.id.as_str()), ("two", tail.as_str()));
    assert_eq!(next(&mut events).control()["upToDate"], true);
}

#[test]
fn a_browser_that_comes_again_gets_nothing_twice() {
    let server = in_memory().env("WEIR_HTTP_SSE_MAX_AGE_MS", 300).start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let (mut last_id, mut seen) = (None, String::new());
    for life in 0..4 {
        append(&mut client, TARGET, &format!("{life}a;"));
        // As an EventSource does: the same URL again, with the last id that it saw.
        let mut request = sse("-1");
        if let Some(id) = &last_id {
            request = request.header("Last-Event-ID", id);
        }
        let mut events = follow(&server, request);
        seen += &next_data(&mut events).data;
        append(&mut client, TARGET, &format!("{life}b;"));
        // The server ends the response by itself, properly, when it is old enough.
        while let Some(event) = events.next_event().expect("a proper end") {
            if event.kind == "data" {
                seen += &event.data;
            }
            last_id = Some(event.id);
        }
        append(&mut client, TARGET, &format!("{life}c;"));
    }
    // What came after the last end was not seen; everything else was, once.
    assert_eq!(seen + "3c;", read(&mut client, TARGET));
    let _ = client.send(sse("-1").header("Last-Event-ID", "nonsense")).expect(400);
}

#[test]
fn there_are_as_many_live_readers_as_may_be() {
    const READERS: usize = 4;
    let server = in_memory().env("WEIR_LIMITS_SUBSCRIBERS_MAX", READERS).start();
    create(&mut server.client(), TARGET);
    let mut events = Vec::new();
    // Each shard has its share.
    let refused = loop {
        match Events::open(server.address(), &sse("-1")) {
            Ok((opened, _)) => events.push(opened),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(metric(&server, "weir_limits_met_total"), 1.0, "and no other limit");
    assert!(
        refused.header("retry-after").is_some() && (1..=READERS).contains(&events.len()),
        "{} readers",
        events.len()
    );
    drop(events);
    wait_until("a place", || Events::open(server.address(), &sse("-1")).is_ok());
}

#[test]
fn a_closed_stream_ends_its_readers_and_keeps_browsers_away() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let mut events = follow(&server, sse("-1"));
    assert_eq!(next(&mut events).control()["upToDate"], true);
    let close = Request::post(TARGET).header("Stream-Closed", "true").body("text/plain", "last");
    let tail = client.send(close).expect(204).next_offset().to_owned();
    assert_eq!(next_data(&mut events).data, "last");
    let control = next(&mut events);
    assert_eq!((&control.control()["streamClosed"], control.id.as_str()), (&true.into(), tail.as_str()));
    assert_eq!(events.next_event().expect("a proper end"), None);
    // 204 is the only answer after which an EventSource does not come again.
    let _ = client.send(sse("-1").header("Last-Event-ID", &tail)).expect(204);
}

#[test]
fn silence_is_kept_alive_with_comments() {
    let server = in_memory().env("WEIR_HTTP_SSE_KEEP_ALIVE_MS", 50).env("WEIR_HTTP_SSE_MAX_AGE_MS", 1000).start();
    create(&mut server.client(), TARGET);
    let mut events = follow(&server, sse("now"));
    while events.next_event().expect("a proper end").is_some() {}
    assert!(events.comments >= 3, "{} comments in a second of silence", events.comments);
}

#[test]
fn a_live_response_is_its_connections_last() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    append(&mut client, TARGET, "one");
    let mut connection = server.connect();
    // All at once: an answer that waits to be sent, the live read, and what is none of its business.
    let requests = [Request::get(TARGET), sse("-1"), Request::delete(TARGET)];
    let bytes: Vec<u8> = requests.iter().flat_map(|request| request.to_bytes("localhost")).collect();
    connection.write(&bytes).expect("the requests are written");
    assert_eq!(connection.read_response(false).expect("an answer").expect(200).text(), "one");
    let head = connection.read_head().expect("a head").expect(200);
    assert_eq!((head.header("connection"), head.header("transfer-encoding")), (Some("close"), Some("chunked")));
    assert_eq!(connection.read_chunk().expect("a chunk").as_deref(), Some(&b"retry:250\n\n"[..]));
    let caught_up = connection.read_chunk().expect("a chunk").expect("the response goes on");
    assert!(String::from_utf8_lossy(&caught_up).contains("\ndata:one\n"), "{caught_up:?}");
    connection.write(&vec![b'x'; 100_000]).expect("what a client sends meanwhile is dropped");
    let _ = client.send(Request::post(TARGET).header("Stream-Closed", "true")).expect(204);
    let closed = connection.read_chunk().expect("a chunk").expect("a last event");
    assert!(String::from_utf8_lossy(&closed).contains("streamClosed"), "{closed:?}");
    assert_eq!(connection.read_chunk().expect("the end of the chunks"), None);
    assert!(connection.ends_within(Duration::from_secs(5)));
    assert_eq!(read(&mut client, TARGET), "one");
}

#[test]
fn readers_without_chunks_see_the_same() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    append(&mut client, TARGET, "one");
    let _ = client.send(Request::post(TARGET).header("Stream-Closed", "true")).expect(204);
    let (mut chunked, _) = Events::open(server.address(), &sse("-1")).expect("a live read");
    let mut old = server.connect();
    let request = String::from_utf8(sse("-1").to_bytes("localhost")).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    old.write(request.as_bytes()).expect("the request is written");
    let answer = old.read_response(false).expect("an answer").expect(200);
    assert_eq!(answer.header("transfer-encoding"), None);
    let mut inside = Vec::new();
    while let Some(chunk) = chunked.connection().read_chunk().expect("a proper end") {
        inside.extend(chunk);
    }
    assert_eq!(answer.text(), String::from_utf8_lossy(&inside));
    assert!(answer.text().contains("\ndata:one\n"), "{answer:?}");
}

#[test]
fn readers_that_leave_are_forgotten() {
    let server = in_memory().start();
    create(&mut server.client(), TARGET);
    let mut readers: Vec<Events> = (0..50).map(|_| follow(&server, sse("now"))).collect();
    readers.iter_mut().for_each(|reader| assert_eq!(next(reader).kind, "control"));
    assert_eq!(metric(&server, "weir_subscribers"), 50.0);
    drop(readers);
    wait_until("the end of all live reads", || metric(&server, "weir_subscribers") == 0.0);
}

#[test]
fn a_deleted_stream_ends_its_readers() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let mut events = follow(&server, sse("now"));
    assert_eq!(next(&mut events).kind, "control");
    let _ = client.send(Request::delete(TARGET)).expect(204);
    assert_eq!(events.next_event().expect("a proper end"), None);
}

#[test]
fn line_breaks_cannot_forge_events() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let forged =
        "a\n\nevent: control\ndata: {\"streamNextOffset\":\"forged\"}\n\n\r\rid: x\r\n\r\nevent: control\rdata: {}\r\r";
    append(&mut client, TARGET, forged);
    let mut events = follow(&server, sse("-1"));
    let data = next(&mut events);
    assert_eq!(data.kind, "data");
    assert_eq!(data.data, forged.replace("\r\n", "\n").replace('\r', "\n"));
    assert_eq!(next(&mut events).control()["streamNextOffset"], data.id);
    // The bytes themselves are as they were written.
    assert_eq!(read(&mut client, TARGET), forged);
}

#[test]
fn many_readers_see_the_same_and_a_late_one_all() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let mut readers: Vec<Events> = (0..40).map(|_| follow(&server, sse("-1"))).collect();
    for number in 0..50 {
        append(&mut client, TARGET, &format!("{number};"));
    }
    readers.push(follow(&server, sse("-1")));
    let expected: String = (0..50).map(|number| format!("{number};")).collect();
    for reader in &mut readers {
        let mut seen = String::new();
        while seen.len() < expected.len() {
            seen += &next_data(reader).data;
        }
        assert_eq!(seen, expected);
    }
    drop(readers);
    wait_until("the end of all subscriptions", || metric(&server, "weir_subscribers") == 0.0);
}

#[test]
fn readers_that_do_not_read_are_cut_and_take_no_memory() {
    const READERS: usize = 20;
    const APPENDS: usize = 600;
    const APPEND_BYTES: usize = 100_000;
    let server = on_disk()
        .args(&["--shards", "1"])
        .env("WEIR_HTTP_WRITE_TIMEOUT_MS", 1000)
        .env("WEIR_WAL_CACHE_BYTES", 4 << 20)
        .start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let text = "x".repeat(APPEND_BYTES);
    // What appends alone take is there before the readers come.
    (0..100).for_each(|_| drop(append(&mut client, TARGET, &text)));
    let before = server.resident_bytes();
    let mut stuck: Vec<Events> = (0..READERS).map(|_| follow(&server, sse("now"))).collect();
    let mut lively = follow(&server, sse("now"));
    assert_eq!(next(&mut lively).kind, "control");
    for _ in 0..APPENDS {
        append(&mut client, TARGET, &text);
        assert_eq!(next_data(&mut lively).data.len(), APPEND_BYTES);
    }
    let grown = server.resident_bytes().saturating_sub(before);
    // Each of them would have had 60 MB to come; the events themselves are shared.
    let bound = 64 << 20;
    assert!(grown < bound, "{READERS} readers that do not read took {grown} bytes");
    wait_until("the end of all stuck readers", || metric(&server, "weir_subscribers") <= 1.0);
    for reader in &mut stuck {
        assert!(reader.connection().ends_within(Duration::from_secs(5)), "a stuck reader's connection is cut");
    }
    append(&mut client, TARGET, "still live");
    assert_eq!(next_data(&mut lively).data, "still live");
}

#[test]
fn a_long_poll_is_answered_by_the_append_that_it_waits_for() {
    let server = in_memory().start();
    let mut client = server.client();
    let tail = create(&mut client, TARGET).next_offset().to_owned();
    let mut waiting = server.connect();
    let request = Request::get(&format!("{TARGET}?offset={tail}&live=long-poll"));
    waiting.write(&request.to_bytes("localhost")).expect("the request is written");
    wait_until("the long-poll", || metric(&server, "weir_subscribers") == 1.0);
    append(&mut client, TARGET, "news");
    let begun = Instant::now();
    let answer = waiting.read_response(false).expect("an answer").expect(200);
    assert_eq!(answer.text(), "news");
    // Woken, not timed out: the timeout is 20 s.
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn abandoned_long_polls_are_forgotten() {
    let server = in_memory().start();
    let tail = create(&mut server.client(), TARGET).next_offset().to_owned();
    let request = Request::get(&format!("{TARGET}?offset={tail}&live=long-poll")).to_bytes("localhost");
    let mut polls: Vec<_> = (0..200).map(|_| server.connect()).collect();
    polls.iter_mut().for_each(|poll| poll.write(&request).expect("the request is written"));
    wait_until("200 long-polls", || metric(&server, "weir_subscribers") == 200.0);
    drop(polls);
    wait_until("the end of all long-polls", || metric(&server, "weir_subscribers") == 0.0);
}

#[test]
fn a_browser_comes_again_at_once_and_is_told_so_first() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let response = client.send(Request::put("/demo/ended").header("Stream-Closed", "true")).expect(201);
    assert_eq!(response.header("stream-closed"), Some("true"));
    let ended = client.send(Request::get("/demo/ended?offset=-1&live=sse")).expect(200).text();
    assert!(ended.starts_with("retry:250\n\nid:"), "{ended}");
}

#[test]
fn the_last_event_is_named_in_the_query_by_clients_that_send_no_fields() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let seen = append(&mut client, TARGET, "seen");
    append(&mut client, TARGET, "new");
    for key in ["lastEventId", "lastEventID", "Last-Event-ID"] {
        let mut events = follow(&server, Request::get(&format!("{TARGET}?offset=-1&live=sse&{key}={seen}")));
        assert_eq!(next_data(&mut events).data, "new", "{key}");
    }
    // The field is what the browser itself has seen last.
    let request = Request::get(&format!("{TARGET}?offset=-1&live=sse&lastEventId=")).header("Last-Event-ID", &seen);
    assert_eq!(next_data(&mut follow(&server, request)).data, "new");
    let _ = client.send(Request::get(&format!("{TARGET}?offset=-1&live=sse&lastEventId=-1"))).expect(400);
}

#[test]
fn an_offset_within_a_record_is_refused_before_anything_is_sent() {
    let server = in_memory().start();
    let mut client = server.client();
    for content_type in ["text/plain", "application/octet-stream"] {
        let target = format!("/demo/within-{}", content_type.len());
        let _ = client.send(Request::put(&target).body(content_type, "hello")).expect(201);
        let tail = client.send(Request::get(&target)).expect(200).next_offset().to_owned();
        let within = format!("{:020}{}", 2, &tail[20..]);
        for live in ["", "&live=long-poll", "&live=sse"] {
            let refused = client.send(Request::get(&format!("{target}?offset={within}{live}"))).expect(400);
            assert_eq!(refused.json()["code"], "offset_invalid", "{live}");
        }
        let request = Request::get(&format!("{target}?offset=-1&live=sse")).header("Last-Event-ID", &within);
        assert_eq!(client.send(request).expect(400).json()["code"], "offset_invalid");
    }
}

#[test]
fn a_stream_lives_as_long_as_somebody_follows_it_and_its_time_after_that() {
    let server = in_memory().start();
    let mut client = server.client();
    for target in ["/demo/followed", "/demo/polled"] {
        let _ =
            client.send(Request::put(target).header("Content-Type", "text/plain").header("Stream-TTL", 1)).expect(201);
    }
    let mut events = follow(&server, Request::get("/demo/followed?offset=-1&live=sse"));
    // By the server's own timer, which is longer than the stream's time.
    let polled = client.send(Request::get("/demo/polled?offset=now&live=long-poll"));
    assert!(polled.status == 204 || polled.status == 200, "{polled:?}");
    let _ = client.send(Request::head("/demo/followed")).expect(200);
    append(&mut client, "/demo/followed", "still there");
    assert_eq!(next_data(&mut events).data, "still there");
    std::thread::sleep(Duration::from_millis(1500));
    drop(events);
    std::thread::sleep(Duration::from_millis(500));
    let mut is_gone =
        || client.send(Request::get("/demo/-/streams?prefix=followed")).json()["streams"] == serde_json::json!([]);
    assert!(!is_gone(), "its time begins when the reader leaves");
    wait_until("the end of a stream that nobody follows", is_gone);
}
