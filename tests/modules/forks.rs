//! What validators and summaries of a fork's path make of what it inherits.

use serde_json::json;
use weir_testkit::{Client, Request, metric};

use crate::{bind, bind_guest, create, in_memory, post, read, rejection, summary};

fn fork(target: &str, source: &str) -> Request {
    Request::put(target).header("Stream-Forked-From", source)
}

/// Two streams of another bucket, which nothing is bound to.
fn sources(client: &mut Client) {
    for (target, last) in [("/other/good", 3), ("/other/bad", 0)] {
        create(client, target, "application/json");
        let _ = client.send(post(target, json!([{"qty": 1}, {"qty": 2}]))).expect(204);
        let _ = client.send(post(target, json!([{"qty": last}]))).expect(204);
    }
}

#[test]
fn what_a_fork_inherits_is_judged_by_the_validators_of_its_path() {
    let server = in_memory().start();
    let mut client = server.client();
    bind_guest(&mut client, "rejects_bad", "validator");
    sources(&mut client);
    let refusal = client.send(fork("/demo/s", "/other/bad")).expect(422);
    assert_eq!((&*refusal.code(), &rejection(&refusal)["index"]), ("record_rejected", &json!(2)));
    let _ = client.send(Request::get("/demo/s")).expect(404);
    // What of it is inherited is good.
    let part =
        fork("/demo/part", "/other/bad").header("Stream-Fork-Offset", "-1").header("Stream-Fork-Sub-Offset", "2");
    let _ = client.send(part).expect(201);
    assert_eq!(read(&mut client, "/demo/part"), r#"[{"qty":1},{"qty":2}]"#);
    assert_eq!(
        client.send(fork("/demo/s", "/other/good").body("application/json", r#"{"qty":0}"#)).expect(422).code(),
        "record_rejected"
    );
    let _ = client.send(fork("/demo/s", "/other/good").body("application/json", r#"{"qty":4}"#)).expect(201);
    assert_eq!(read(&mut client, "/demo/s"), r#"[{"qty":1},{"qty":2},{"qty":3},{"qty":4}]"#);
    // What was refused has left nothing: the sources are gone as soon as they are deleted.
    let _ = client.send(Request::delete("/demo/part")).expect(204);
    weir_testkit::wait_until("the pin is released", std::time::Duration::from_secs(20), || {
        client.send(Request::delete("/other/bad"));
        client.send(Request::head("/other/bad")).status == 404
    });
}

#[test]
fn what_cannot_be_judged_is_not_inherited() {
    let server = in_memory().env("WEIR_LIMITS_FORK_JUDGED_BYTES_MAX", 20).start();
    let mut client = server.client();
    sources(&mut client);
    let _ = client.send(fork("/demo/unbound", "/other/good")).expect(201);
    bind_guest(&mut client, "rejects_bad", "validator");
    assert_eq!(client.send(fork("/demo/s", "/other/good")).expect(422).code(), "fork_not_judged");
    let server = in_memory().start();
    let mut client = server.client();
    bind_guest(&mut client, "replaces", "validator");
    create(&mut client, "/other/text", "application/json");
    let _ = client.send(post("/other/text", json!("small"))).expect(204);
    assert_eq!(client.send(fork("/demo/s", "/other/text")).expect(422).code(), "fork_not_judged");
}

#[test]
fn a_summary_of_a_fork_is_of_what_it_inherits_too() {
    let server = in_memory().start();
    let mut client = server.client();
    let _ = client.send(bind("totals", "builtin:stats", "summary", "**")).expect(201);
    sources(&mut client);
    let tail = client.send(fork("/demo/s", "/other/good")).expect(201).next_offset().to_owned();
    let served = client.send(summary("/demo/s", "totals")).expect(200);
    assert_eq!((&served.json()["count"], served.next_offset()), (&json!(3), tail.as_str()));
    let _ = client.send(post("/demo/s", json!([{"qty": 10}]))).expect(204);
    let _ = client.send(Request::delete("/other/good")).expect(204);
    let state = client.send(summary("/demo/s", "totals")).expect(200).json();
    assert_eq!(state["fields"]["qty"], json!({"count": 4, "min": 1.0, "max": 10.0, "mean": 4.0}));
}

#[test]
fn a_summary_of_a_fork_begins_with_what_its_source_has_folded() {
    const APPENDS: usize = 30;
    const RECORDS: usize = 1000;
    let server = in_memory().start();
    let mut client = server.client();
    let _ = client.send(bind("totals", "builtin:stats", "summary", "**")).expect(201);
    create(&mut client, "/demo/source", "application/json");
    let records: Vec<_> = (0..RECORDS).map(|qty| json!({ "qty": qty })).collect();
    let append = |client: &mut Client, target: &str| {
        client.send(post(target, json!(records))).expect(204).next_offset().to_owned()
    };
    let mut half = String::new();
    for number in 0..APPENDS {
        let tail = append(&mut client, "/demo/source");
        if number + 1 == APPENDS / 2 {
            half = tail;
        }
    }
    // Each look at it costs a few calls into the module, unless there is something to be folded.
    let folded = |client: &mut Client, target: &str| {
        let before = metric(&server, "weir_guest_calls_total");
        let count = client.send(summary(target, "totals")).expect(200).json()["count"].clone();
        (count, metric(&server, "weir_guest_calls_total") - before)
    };
    let (count, calls_of_source) = folded(&mut client, "/demo/source");
    assert_eq!(count, APPENDS * RECORDS);
    assert!(calls_of_source > 8.0, "it took {calls_of_source} calls");
    for name in 0..4 {
        let target = format!("/demo/fork-{name}");
        let _ = client.send(fork(&target, "/demo/source")).expect(201);
        append(&mut client, &target);
        let (count, calls) = folded(&mut client, &target);
        assert_eq!(count, (APPENDS + 1) * RECORDS);
        assert!(calls < calls_of_source / 2.0, "{calls} calls, and the source's took {calls_of_source}");
        let fork_of_fork = format!("{target}-again");
        let _ = client.send(fork(&fork_of_fork, &target)).expect(201);
        let (count, calls) = folded(&mut client, &fork_of_fork);
        assert_eq!(count, (APPENDS + 1) * RECORDS);
        assert!(calls < calls_of_source / 2.0, "{calls} calls, and the source's took {calls_of_source}");
    }
    // What the source has folded beyond is of no use.
    let _ = client.send(fork("/demo/half", "/demo/source").header("Stream-Fork-Offset", half)).expect(201);
    assert_eq!(folded(&mut client, "/demo/half").0, APPENDS / 2 * RECORDS);
}

/// The guest cannot read what it has written.
#[test]
fn a_state_of_the_source_that_is_refused_costs_nothing_but_time() {
    let server = in_memory().start();
    let mut client = server.client();
    bind_guest(&mut client, "forgets", "summary");
    create(&mut client, "/demo/source", "application/json");
    let _ = client.send(post("/demo/source", json!(["one", "two"]))).expect(204);
    assert_eq!(client.send(summary("/demo/source", "forgets")).expect(200).text(), "2");
    let _ = client.send(fork("/demo/fork", "/demo/source")).expect(201);
    let _ = client.send(post("/demo/fork", json!("three"))).expect(204);
    assert_eq!(client.send(summary("/demo/fork", "forgets")).expect(200).text(), "3");
}
