//! Summaries: what a client reads instead of a stream, how it waits for it and follows it.

use serde_json::{Value, json};
use weir_testkit::{Client, Events, Request};

use crate::{bind, create, in_memory, on_disk, post, summary, upload_guest};

/// A server with `totals` bound to all streams, and a stream of JSON.
#[track_caller]
fn totals(client: &mut Client) {
    let _ = client.send(bind("totals", "builtin:stats", "summary", "**")).expect(201);
    create(client, "/demo/s", "application/json");
}

#[track_caller]
fn append(client: &mut Client, body: impl ToString) -> String {
    client.send(post("/demo/s", body)).expect(204).next_offset().to_owned()
}

#[test]
fn a_summary_says_what_was_folded_and_where_to_read_on() {
    let server = in_memory().start();
    let mut client = server.client();
    totals(&mut client);
    let empty = client.send(summary("/demo/s", "totals")).expect(200);
    assert_eq!(empty.json(), json!({"count": 0, "bytes": 0, "fields": {}}));
    let tail = append(&mut client, json!([{"qty": 2}, {"qty": 4, "price": 1.5}]));
    let served = client.send(summary("/demo/s", "totals")).expect(200);
    let state = served.json();
    assert_eq!((&state["count"], &state["bytes"]), (&2.into(), &(9 + 21).into()), "records without their commas");
    assert_eq!(state["fields"]["qty"], json!({"count": 2, "min": 2.0, "max": 4.0, "mean": 3.0}));
    assert_eq!(served.next_offset(), tail);
    assert_eq!(served.header("content-type"), Some("application/json"));
    assert_eq!(served.header("cache-control"), Some("no-cache"));

    // The state and the tail are all that a client needs.
    append(&mut client, json!({"qty": 6}));
    let rest = client.send(Request::get(&format!("/demo/s?offset={}", served.next_offset()))).expect(200);
    assert_eq!(rest.text(), r#"[{"qty":6}]"#);
}

#[test]
fn every_record_has_the_time_of_its_append() {
    let server = in_memory().start();
    let mut client = server.client();
    totals(&mut client);
    append(&mut client, "1");
    let first = client.send(summary("/demo/s", "totals")).expect(200).json();
    std::thread::sleep(std::time::Duration::from_millis(5));
    append(&mut client, "2");
    let second = client.send(summary("/demo/s", "totals")).expect(200).json();
    assert_eq!(first["first_time_ms"], first["last_time_ms"]);
    assert_eq!(second["first_time_ms"], first["first_time_ms"]);
    assert!(second["last_time_ms"].as_u64() > first["last_time_ms"].as_u64(), "{first} {second}");
}

#[test]
fn an_unchanged_summary_is_not_sent_again() {
    let server = in_memory().start();
    let mut client = server.client();
    totals(&mut client);
    append(&mut client, "1");
    let etag = client.send(summary("/demo/s", "totals")).expect(200).header("etag").expect("a tag").to_owned();
    let again = |client: &mut Client, status| {
        let request = summary("/demo/s", "totals").header("If-None-Match", &etag);
        client.send(request).expect(status)
    };
    let unchanged = again(&mut client, 304);
    assert_eq!((unchanged.header("etag"), unchanged.body.len()), (Some(etag.as_str()), 0));
    append(&mut client, "2");
    let _ = again(&mut client, 200);
}

#[test]
fn a_read_waits_for_the_offset_it_asks_for() {
    let server = in_memory().env("WEIR_HTTP_LONG_POLL_TIMEOUT_MS", 300).start();
    let mut client = server.client();
    totals(&mut client);
    let tail = append(&mut client, r#"{"a":1}"#);
    let served = client.send(summary("/demo/s", &format!("totals&offset={tail}"))).expect(200);
    assert_eq!((served.next_offset(), &served.json()["count"]), (tail.as_str(), &1.into()));
    // One more record of the same size, known before it is there.
    let (position, lineage) = tail.split_once('-').expect("a token");
    let position: u64 = position.parse().expect("a number");
    let next = format!("{:020}-{lineage}", 2 * position);
    let nothing = client.send(summary("/demo/s", &format!("totals&offset={next}"))).expect(204);
    assert_eq!(nothing.next_offset(), tail, "a wait in vain says how far the summary is");
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut client = server.client();
            loop {
                let served = client.send(summary("/demo/s", &format!("totals&offset={next}")));
                if served.status == 200 {
                    return served;
                }
                let _ = served.expect(204);
            }
        });
        append(&mut client, r#"{"a":2}"#);
        waiting.join().expect("a reader")
    });
    assert_eq!((waiting.next_offset(), &waiting.json()["count"]), (next.as_str(), &2.into()));
    let gone = format!("{position:020}-00000000");
    assert_eq!(client.send(summary("/demo/s", &format!("totals&offset={gone}"))).expect(410).code(), "offset_gone");
    assert_eq!(client.send(summary("/demo/s", "totals&offset=x")).expect(400).code(), "offset_malformed");
}

#[test]
fn a_follower_sees_the_state_now_and_after_every_change_until_the_close() {
    let server = in_memory().start();
    let mut client = server.client();
    totals(&mut client);
    append(&mut client, "1");
    let (mut events, head) =
        Events::open(server.address(), &summary("/demo/s", "totals&live=sse")).expect("an event stream");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let mut next = |count: u64, tail: Option<&str>| {
        // Changes that come fast may be seen as one.
        loop {
            let event = events.next_event().expect("the connection holds").expect("an event");
            assert_eq!(event.kind, "summary");
            let state: Value = serde_json::from_str(&event.data).expect("JSON");
            let control = events.next_event().expect("the connection holds").expect("an event").control();
            assert_eq!(control["streamNextOffset"], event.id.as_str());
            if state["count"] == count {
                assert!(tail.is_none_or(|tail| event.id == tail), "{tail:?} {event:?}");
                return control;
            }
            assert!(state["count"].as_u64() < Some(count), "{event:?}");
        }
    };
    next(1, None);
    for count in 2..20 {
        let tail = append(&mut client, count);
        next(count, Some(&tail));
    }
    let _ = client.send(Request::post("/demo/s").header("Stream-Closed", "true")).expect(204);
    let control = next(19, None);
    assert_eq!(control["streamClosed"], true, "{control}");
    assert_eq!(events.next_event().expect("a proper end"), None);
    let closed = client.send(summary("/demo/s", "totals")).expect(200);
    assert_eq!(closed.header("stream-closed"), Some("true"));
}

#[test]
fn what_is_not_there_is_not_found() {
    let server = in_memory().start();
    let mut client = server.client();
    totals(&mut client);
    assert_eq!(client.send(summary("/demo/s", "other")).expect(404).code(), "binding_not_found");
    assert_eq!(client.send(summary("/demo/none", "totals")).expect(404).code(), "stream_not_found");
    assert_eq!(client.send(summary("/demo/s", "TOTALS")).expect(400).code(), "module_name_invalid");
    assert_eq!(client.send(summary("/demo/s", "totals&live=long-poll")).expect(400).code(), "query_invalid");
    upload_guest(&mut client, "rejects_bad");
    let _ = client.send(bind("v", "rejects-bad", "validator", "**")).expect(201);
    assert_eq!(client.send(summary("/demo/s", "v")).expect(404).code(), "binding_not_found");
    let _ = client.send(Request::delete("/demo/-/bindings/totals")).expect(204);
    assert_eq!(client.send(summary("/demo/s", "totals")).expect(404).code(), "binding_not_found");
}

#[test]
fn a_stream_that_is_deleted_and_created_again_is_folded_anew() {
    let server = in_memory().start();
    let mut client = server.client();
    totals(&mut client);
    append(&mut client, "[1,2,3]");
    assert_eq!(client.send(summary("/demo/s", "totals")).expect(200).json()["count"], 3);
    let _ = client.send(Request::delete("/demo/s")).expect(204);
    let _ = client.send(summary("/demo/s", "totals")).expect(404);
    create(&mut client, "/demo/s", "text/plain");
    let _ = client.send(Request::post("/demo/s").body("text/plain", "hello")).expect(204);
    let state = client.send(summary("/demo/s", "totals")).expect(200).json();
    assert_eq!((&state["count"], &state["bytes"]), (&1.into(), &5.into()));
}

#[test]
fn folds_beyond_the_limit_go_and_come_back() {
    let server = in_memory().env("WEIR_MODULES_FOLDS_MAX", 4).start();
    let mut client = server.client();
    let _ = client.send(bind("totals", "builtin:stats", "summary", "**")).expect(201);
    for n in 0..20 {
        create(&mut client, &format!("/demo/s{n}"), "application/json");
        let _ = client.send(post(&format!("/demo/s{n}"), json!(vec![n; n + 1]))).expect(204);
    }
    for _ in 0..2 {
        for n in 0..20 {
            let state = client.send(summary(&format!("/demo/s{n}"), "totals")).expect(200).json();
            assert_eq!(state["count"], n + 1);
        }
    }
    let metrics = Client::new(server.admin()).send(Request::get("/metrics")).expect(200).text();
    let folds: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("weir_guest_folds{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(folds <= 4.0, "{folds} folds");
}

#[test]
fn what_a_summary_is_of_is_trimmed_only_by_force_and_it_says_where_it_begins() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    totals(&mut client);
    append(&mut client, "[1,2]");
    let before = append(&mut client, "[3,4,5]");
    append(&mut client, "[6,7]");
    let state = |client: &mut Client| {
        let served = client.send(summary("/demo/s", "totals")).expect(200);
        let etag = served.header("etag").expect("a tag").to_owned();
        (served.json()["count"].as_u64(), served.header("stream-summary-from").map(str::to_owned), etag)
    };
    let whole = state(&mut client);
    assert_eq!((whole.0, &whole.1), (Some(7), &None));
    let trim = |force| Request::post(&format!("/demo/-/trim/s?before={before}{force}"));
    assert_eq!(client.send(trim("")).expect(409).code(), "trim_summarized");
    let _ = client.send(trim("&force=false")).expect(409);
    assert_eq!(client.send(Request::get("/demo/s")).expect(200).text(), "[1,2,3,4,5,6,7]");
    let _ = client.send(trim("&force=true")).expect(204);
    // There is nothing more to trim, so nothing to refuse.
    let _ = client.send(trim("")).expect(204);
    assert_eq!(client.send(Request::get("/demo/s")).expect(200).text(), "[6,7]");
    assert_eq!(state(&mut client), whole, "it has taken the records before they went");
    append(&mut client, "8");
    assert_eq!(state(&mut client).0, Some(8));
    server.kill();
    let server = setup.start();
    let mut client = server.client();
    let rest = state(&mut client);
    assert_eq!((rest.0, rest.1.as_ref()), (Some(3), Some(&before)), "of what is retained");
    assert_ne!(rest.2, whole.2);
    let (_, head) = Events::open(server.address(), &summary("/demo/s", "totals&live=sse")).expect("an event stream");
    assert_eq!(head.header("stream-summary-from"), Some(before.as_str()));
    // One that is behind what was trimmed begins anew.
    append(&mut client, "[9,10]");
    let before = append(&mut client, "11");
    let _ = client.send(Request::post("/demo/-/trim/s?before=now&force=true")).expect(204);
    append(&mut client, "12");
    assert_eq!(state(&mut client).0, Some(1));
    assert_eq!(state(&mut client).1, Some(before));
}

#[test]
fn a_stream_with_a_summary_is_kept_whole_whatever_its_bucket_keeps() {
    let server = in_memory().env("WEIR_COLD_FLUSH_AGE_MS", 1000).start();
    let mut client = server.client();
    let _ = client.send(Request::put("/demo").body("application/json", r#"{"retention":{"bytes":1}}"#)).expect(201);
    let _ = client.send(bind("totals", "builtin:stats", "summary", "kept/**")).expect(201);
    let targets = |folder: &str| (0..8).map(|n| format!("/demo/{folder}/{n}")).collect::<Vec<_>>();
    for target in targets("kept").iter().chain(&targets("passing")) {
        create(&mut client, target, "text/plain");
        for text in ["one", "two", "three"] {
            let _ = client.send(Request::post(target).body("text/plain", text)).expect(204);
        }
    }
    for target in targets("passing") {
        weir_testkit::wait_until("the others are trimmed", std::time::Duration::from_secs(20), || {
            client.send(Request::get(&target)).expect(200).text() == "three"
        });
    }
    for target in targets("kept") {
        assert_eq!(client.send(Request::get(&target)).expect(200).text(), "onetwothree");
    }
}
