//! Guests that misbehave: what they do is an error of their own stream, and of no other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};
use weir_testkit::{Client, Events, Request, Server};

use crate::{bind, create, in_memory, post, read, read_messages, summary, upload_guest};

/// Streams that nothing is bound to, written to while something else goes wrong.
const NEIGHBOURS: usize = 4;
/// Appends to each of them, lest the log in memory be full before the trouble is over.
const APPENDS_MAX: usize = 2_000;

/// A server whose instances have so little memory that it is gone before their fuel is.
fn start() -> Server {
    in_memory().env("WEIR_MODULES_MEMORY_BYTES_MAX", 8 << 20).start()
}

/// Appends to streams without bindings from as many connections, while `trouble` goes on; every append is there then.
fn beside(server: &Server, trouble: impl FnOnce()) {
    let targets: Vec<String> = (0..NEIGHBOURS).map(|n| format!("/demo/neighbour-{n}")).collect();
    for target in &targets {
        create(&mut server.client(), target, "application/json");
    }
    let done = AtomicBool::new(false);
    let appended: Vec<usize> = thread::scope(|scope| {
        let writers: Vec<_> = targets
            .iter()
            .map(|target| {
                scope.spawn(|| {
                    let mut client = server.client();
                    let mut appended = 0;
                    while appended == 0 || (appended < APPENDS_MAX && !done.load(Relaxed)) {
                        let _ = client.send(post(target, appended)).expect(204);
                        appended += 1;
                    }
                    appended
                })
            })
            .collect();
        trouble();
        done.store(true, Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });
    for (target, appended) in targets.iter().zip(appended) {
        let stored: Vec<usize> = read_messages(&mut server.client(), target);
        assert_eq!(stored, (0..appended).collect::<Vec<_>>(), "{target}");
    }
}

#[test]
fn a_validator_that_fails_refuses_its_own_streams_and_no_others() {
    for (name, words) in [
        ("never_returns", "out of fuel"),
        ("eats_memory", "out of memory"),
        ("returns_garbage", "does not fit the contract"),
    ] {
        let server = start();
        let mut client = server.client();
        let _ = upload_guest(&mut client, name);
        let module = name.replace('_', "-");
        let _ = client.send(bind("bad", &module, "validator", "bad/**")).expect(201);
        create(&mut client, "/demo/bad/1", "application/json");
        beside(&server, || {
            for _ in 0..5 {
                let failure = client.send(post("/demo/bad/1", 1)).expect(500);
                assert_eq!(failure.code(), "module_trapped");
                assert!(failure.text().contains(words), "{words}: {}", failure.text());
            }
        });
        assert_eq!(read(&mut client, "/demo/bad/1"), "[]", "{name}");
        // A close alone has no records to ask about.
        let _ = client.send(Request::post("/demo/bad/1").header("Stream-Closed", "true")).expect(204);
    }
}

#[test]
fn after_a_trap_the_next_append_meets_a_fresh_instance() {
    let server = start();
    let mut client = server.client();
    let _ = upload_guest(&mut client, "traps_on_third_record");
    let _ = client.send(bind("t", "traps-on-third-record", "validator", "**")).expect(201);
    create(&mut client, "/demo/s", "application/json");
    for round in 0..3 {
        let _ = client.send(post("/demo/s", json!(["a", "b"]))).expect(204);
        let failure = client.send(post("/demo/s", "\"c\"")).expect(500);
        assert!(failure.text().contains("this is the third record"), "{round}: {}", failure.text());
    }
    assert_eq!(read(&mut client, "/demo/s"), r#"["a","b","a","b","a","b"]"#);
}

#[test]
fn a_summary_that_fails_is_served_up_to_the_record_and_says_so() {
    for (name, taken, words) in [
        ("traps_on_third_record", 2, "this is the third record"),
        ("never_returns", 0, "out of fuel"),
        ("eats_memory", 0, "out of memory"),
    ] {
        let server = start();
        let mut client = server.client();
        let _ = upload_guest(&mut client, name);
        let module = name.replace('_', "-");
        let _ = client.send(bind("sum", &module, "summary", "s/**")).expect(201);
        create(&mut client, "/demo/s/1", "application/json");
        let mut offsets = vec![client.send(Request::head("/demo/s/1")).expect(200).next_offset().to_owned()];
        for n in 0..5 {
            offsets.push(client.send(post("/demo/s/1", n)).expect(204).next_offset().to_owned());
        }
        beside(&server, || {
            for _ in 0..2 {
                let served = client.send(summary("/demo/s/1", "sum")).expect(200);
                assert_eq!(served.next_offset(), offsets[taken], "{name}: the last good state");
                assert_eq!(served.header("stream-summary-failed"), Some(offsets[taken].as_str()));
                let error = served.header("stream-summary-error").expect("a reason");
                assert!(error.contains(words), "{words}: {error}");
            }
        });
        // Who follows it hears why it does not go on.
        let (mut events, _) =
            Events::open(server.address(), &summary("/demo/s/1", "sum&live=sse")).expect("an event stream");
        let kinds: Vec<_> = (0..3).map(|_| events.next_event().expect("it holds").expect("an event")).collect();
        assert_eq!(kinds.iter().map(|event| &*event.kind).collect::<Vec<_>>(), ["summary", "control", "failed"]);
        let document: Value = serde_json::from_str(&kinds[2].data).expect("JSON");
        assert_eq!(document["code"], "summary_failed");
        assert!(document["detail"].as_str().expect("a sentence").contains(words), "{words}: {document}");
        let beyond = client.send(summary("/demo/s/1", &format!("sum&offset={}", offsets[5]))).expect(500);
        assert_eq!(beyond.code(), "summary_failed");
        assert!(beyond.text().contains(&offsets[taken]), "{}", beyond.text());
        // The stream itself goes on.
        let _ = client.send(post("/demo/s/1", 5)).expect(204);
        assert_eq!(read(&mut client, "/demo/s/1"), "[0,1,2,3,4,5]");
    }
}

#[test]
fn a_validator_that_fails_again_and_again_is_suspended_and_others_go_on() {
    let server = in_memory().start();
    let mut client = server.client();
    let _ = upload_guest(&mut client, "never_returns");
    let _ = client.send(bind("bad", "never-returns", "validator", "bad/**")).expect(201);
    create(&mut client, "/demo/bad/1", "application/json");
    let _ = upload_guest(&mut client, "accepts_all");
    let _ = client.send(bind("good", "accepts-all", "validator", "good/**")).expect(201);
    create(&mut client, "/demo/good/1", "application/json");
    let done = AtomicBool::new(false);
    let codes = thread::scope(|scope| {
        let hostile = scope.spawn(|| {
            let (mut client, mut codes) = (server.client(), BTreeSet::new());
            while !(done.load(Relaxed) && codes.contains("module_suspended")) {
                codes.insert(client.send(post("/demo/bad/1", 1)).code());
            }
            codes
        });
        for n in 0..200 {
            let _ = client.send(post("/demo/good/1", n)).expect(204);
        }
        done.store(true, Relaxed);
        hostile.join().expect("a client")
    });
    assert!(codes.contains("module_trapped"), "{codes:?}");
    assert_eq!(read_messages::<usize>(&mut client, "/demo/good/1"), (0..200).collect::<Vec<_>>());
    assert!(weir_testkit::metric(&server, "weir_guest_suspensions_total") >= 1.0);
    assert_eq!(read(&mut client, "/demo/bad/1"), "[]");
}

#[test]
fn calls_that_wait_for_a_busy_module_are_as_many_as_may_be() {
    const CLIENTS: usize = 24;
    let server = in_memory().env("WEIR_MODULES_CALLS_WAITING_MAX", 2).start();
    let mut client = server.client();
    let _ = upload_guest(&mut client, "never_returns");
    let _ = client.send(bind("bad", "never-returns", "validator", "bad/**")).expect(201);
    // Streams of their own, so that none waits behind another's.
    (0..CLIENTS).for_each(|n| create(&mut client, &format!("/demo/bad/{n}"), "application/json"));
    let codes: Vec<String> = thread::scope(|scope| {
        let send = |n| server.client().send(post(&format!("/demo/bad/{n}"), 1)).code();
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || send(n))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let answers = |code: &str| codes.iter().filter(|answer| *answer == code).count();
    assert!(answers("module_calls_limit") > 0, "{codes:?}");
    assert_eq!(
        answers("module_calls_limit") + answers("module_trapped") + answers("module_suspended"),
        CLIENTS,
        "{codes:?}"
    );
}

#[test]
fn folds_beside_one_that_fails_are_right_all_the_same() {
    let server = start();
    let mut client = server.client();
    let _ = upload_guest(&mut client, "traps_on_third_record");
    let _ = client.send(bind("count", "traps-on-third-record", "summary", "**")).expect(201);
    for n in 0..8 {
        let target = format!("/demo/s{n}");
        create(&mut client, &target, "application/json");
        let records: Vec<usize> = (0..n % 4).collect();
        if !records.is_empty() {
            let _ = client.send(post(&target, json!(records))).expect(204);
        }
    }
    for _ in 0..3 {
        for n in 0..8 {
            let served = client.send(summary(&format!("/demo/s{n}"), "count")).expect(200);
            assert_eq!(served.json()["count"], (n % 4).min(2), "s{n}");
            assert_eq!(served.header("stream-summary-failed").is_some(), n % 4 == 3, "s{n}");
        }
    }
}

#[test]
fn a_summary_that_does_not_read_its_snapshots_is_folded_anew() {
    let server = start();
    let mut client = server.client();
    let _ = upload_guest(&mut client, "forgets");
    let _ = client.send(bind("count", "forgets", "summary", "**")).expect(201);
    let burn = json!(vec!["burn"; 30_000]);
    for target in ["/demo/whole", "/demo/bad"] {
        create(&mut client, target, "application/json");
    }
    let _ = client.send(post("/demo/whole", burn)).expect(204);
    let count = |client: &mut Client| client.send(summary("/demo/whole", "count")).expect(200).text();
    assert_eq!(count(&mut client), "30000");
    // A record there ends the instance that both are in. What is left of the other fold is its snapshot.
    let _ = client.send(post("/demo/bad", json!(["x", "trap", "x"]))).expect(204);
    let bad = client.send(summary("/demo/bad", "count")).expect(200);
    assert!(bad.header("stream-summary-failed").is_some() && bad.text() == "1", "{bad:?}");
    assert_eq!(count(&mut client), "30000");
}

#[test]
fn a_query_that_fails_is_an_error_of_its_own() {
    let server = start();
    let mut client = server.client();
    for name in ["never_returns", "eats_memory", "returns_garbage"] {
        let _ = upload_guest(&mut client, name);
        let module = name.replace('_', "-");
        let _ = client.send(bind(&module, &module, "summary", "**")).expect(201);
    }
    create(&mut client, "/demo/s", "application/json");
    for query in ["never-returns/spin", "eats-memory/eat", "returns-garbage/header", "returns-garbage"] {
        assert_eq!(client.send(summary("/demo/s", query)).expect(500).code(), "module_trapped", "{query}");
    }
    for query in ["never-returns", "eats-memory", "returns-garbage/body"] {
        let _ = client.send(summary("/demo/s", query)).expect(200);
    }
}
