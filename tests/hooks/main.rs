//! Subscriptions through the real binary: killed at every step of a delivery, no wake is lost, none is acknowledged twice, and no cursor
//! goes back. And what is not called.

mod failover;
#[path = "../cluster/nodes.rs"]
#[expect(dead_code, reason = "the suite of clusters uses the rest")]
mod nodes;
mod receiver;

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use weir_testkit::{Client, Request, Server, Setup, wait_until};

use crate::receiver::{Answer, PATIENCE, Receiver};

const SUBSCRIPTION: &str = "/b/__ds/subscriptions/s";
const STREAM: &str = "/b/events/a";

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir")).env("WEIR_HOOKS_ALLOW", "127.0.0.1").args(&["--shards", "2"])
}

/// A server with one subscription, over its lives.
struct Run {
    setup: Setup,
    server: Option<Server>,
    receiver: Receiver,
    /// The last cursor that was seen.
    acked: String,
}

impl Run {
    fn new(receiver: Receiver) -> Run {
        let mut setup = setup();
        let server = setup.start();
        let asked = json!({
            "type": "webhook",
            "pattern": "events/*",
            "webhook": { "url": receiver.url() },
            "lease_ttl_ms": 1000,
        });
        let put = Request::put(SUBSCRIPTION).body("application/json", asked.to_string());
        let _ = server.client().send(put).expect(201);
        Run { setup, server: Some(server), receiver, acked: String::new() }
    }

    fn client(&self) -> Client {
        self.server.as_ref().expect("it runs").client()
    }

    /// Appends a record; creates the stream first if it is not there.
    fn append(&self, body: &str) -> String {
        let mut client = self.client();
        let request = match client.send(Request::head(STREAM)).status {
            404 => Request::put(STREAM),
            _ => Request::post(STREAM),
        };
        let answer = client.send(request.body("text/plain", body));
        assert!(matches!(answer.status, 201 | 204), "{}", answer.text());
        answer.next_offset().to_owned()
    }

    fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
    }

    fn start(&mut self) {
        self.server = Some(self.setup.start());
    }

    fn subscription(&mut self) -> Value {
        let subscription = self.client().send(Request::get(SUBSCRIPTION)).expect(200).json();
        let acked = subscription["streams"][0]["acked_offset"].as_str().unwrap_or_default().to_owned();
        assert!(acked >= self.acked, "a cursor goes back: {acked} after {}", self.acked);
        self.acked = acked;
        subscription
    }

    /// Waits until all is acknowledged up to `tail`.
    fn wait_acked(&mut self, tail: &str) {
        wait_until("all is acknowledged", PATIENCE, || {
            self.subscription();
            self.acked == tail
        });
    }

    /// Calls back for a wake.
    fn call_back(&self, wake: &Value, acks: &Value, done: bool) -> weir_testkit::Response {
        let said = json!({ "wake_id": wake["wake_id"], "generation": wake["generation"], "acks": acks, "done": done });
        let token = wake["callback_token"].as_str().expect("a token");
        let request =
            Request::post(&format!("{SUBSCRIPTION}/callback")).header("Authorization", format!("Bearer {token}"));
        self.client().send(request.body("application/json", said.to_string()))
    }

    /// Every wake is another one, and names the stream that has something new, from where it was acknowledged.
    fn check_wakes(&self) {
        let wakes = self.receiver.wakes();
        let generations: Vec<u64> = wakes.iter().map(|wake| wake["generation"].as_u64().expect("a number")).collect();
        assert!(generations.is_sorted_by(|before, after| before < after), "{generations:?}");
        let acked: Vec<&str> =
            wakes.iter().map(|wake| wake["streams"][0]["acked_offset"].as_str().expect("an offset")).collect();
        assert!(acked.is_sorted(), "a cursor goes back: {acked:?}");
        for wake in &wakes {
            assert_eq!(
                (&wake["streams"][0]["path"], &wake["streams"][0]["has_pending"]),
                (&json!("events/a"), &json!(true))
            );
        }
    }
}

fn fenced(answer: &weir_testkit::Response) -> bool {
    answer.status == 409 && answer.json()["error"]["code"] == "FENCED"
}

#[test]
fn killed_before_a_wake_is_sent() {
    let mut run = Run::new(Receiver::start(Answer::Done));
    let mut tail = String::new();
    // Some of these come to send it, some do not.
    for round in 0..6 {
        tail = run.append(&format!("{round}"));
        thread::sleep(Duration::from_millis(round * 2));
        run.kill();
        run.start();
    }
    run.wait_acked(&tail);
    run.check_wakes();
}

#[test]
fn killed_while_the_receiver_has_not_answered() {
    let mut run = Run::new(Receiver::start(Answer::Done));
    run.receiver.answer_next(Answer::Silence);
    let tail = run.append("x");
    let first = run.receiver.wake_after(0);
    run.kill();
    run.start();
    let second = run.receiver.wake_after(1);
    assert!(second["generation"].as_u64() > first["generation"].as_u64(), "it is another wake");
    assert!(
        fenced(&run.call_back(&first, &json!([{ "stream": "events/a", "offset": tail }]), true)),
        "the first is over"
    );
    run.wait_acked(&tail);
    run.check_wakes();
}

#[test]
fn killed_while_what_is_done_is_acknowledged() {
    for pause_ms in [0, 1, 2, 4, 8] {
        let mut run = Run::new(Receiver::start(Answer::Done));
        let tail = run.append("x");
        run.receiver.wake_after(0);
        thread::sleep(Duration::from_millis(pause_ms));
        run.kill();
        run.start();
        run.wait_acked(&tail);
        let more = run.append("y");
        run.wait_acked(&more);
        run.check_wakes();
    }
}

#[test]
fn killed_between_two_callbacks_it_goes_on_where_the_first_was() {
    let mut run = Run::new(Receiver::start(Answer::Accepted));
    let first_tail = run.append("x");
    let first = run.receiver.wake_after(0);
    let tail = run.append("y");
    let answer = run.call_back(&first, &json!([{ "stream": "events/a", "offset": first_tail }]), false);
    assert_eq!(answer.expect(200).json(), json!({ "ok": true, "next_wake": false }));
    run.kill();
    run.start();
    run.wait_acked(&first_tail);
    run.receiver.answer_always(Answer::Done);
    let second = run.receiver.wake_after(1);
    assert_eq!(second["streams"][0]["acked_offset"], first_tail);
    run.wait_acked(&tail);
    run.check_wakes();
}

#[test]
fn what_was_called_back_as_done_is_not_sent_again() {
    let mut run = Run::new(Receiver::start(Answer::Accepted));
    let tail = run.append("x");
    let wake = run.receiver.wake_after(0);
    let acks = json!([{ "stream": "events/a", "offset": tail }]);
    assert_eq!(run.call_back(&wake, &acks, true).expect(200).json(), json!({ "ok": true, "next_wake": false }));
    run.kill();
    run.start();
    assert!(fenced(&run.call_back(&wake, &acks, true)), "it is done once");
    // Longer than its lease was, and than it takes to say again what is pending.
    thread::sleep(Duration::from_millis(3500));
    assert_eq!(run.receiver.wakes().len(), 1);
    assert_eq!(run.subscription()["streams"][0]["acked_offset"], tail);
}

#[test]
fn whoever_calls_back_during_the_call_keeps_its_wake_when_the_call_ends() {
    let mut run = Run::new(Receiver::start(Answer::Done));
    run.receiver.answer_next(Answer::Silence);
    let tail = run.append("x");
    let wake = run.receiver.wake_after(0);
    // The call is given up after a lease; each of these begins another one.
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(400));
        let answer = run.call_back(&wake, &json!([]), false);
        assert_eq!(answer.expect(200).json(), json!({ "ok": true, "next_wake": false }));
        assert_eq!(run.subscription()["status"], "active");
    }
    let acks = json!([{ "stream": "events/a", "offset": tail }]);
    assert_eq!(run.call_back(&wake, &acks, true).expect(200).json(), json!({ "ok": true, "next_wake": false }));
    assert_eq!(run.receiver.wakes().len(), 1, "it was woken once");
    run.wait_acked(&tail);
}

#[test]
fn webhooks_of_a_bucket_that_hang_do_not_keep_others_from_being_called() {
    let mut setup = setup().env("WEIR_HOOKS_CALLS_MAX", "4");
    let server = setup.start();
    let mut client = server.client();
    let (hanging, answering) = (Receiver::start(Answer::Silence), Receiver::start(Answer::Done));
    let mut put = |bucket: &str, id: &str, receiver: &Receiver| {
        let webhook = json!({ "url": receiver.url() });
        let asked = json!({ "type": "webhook", "pattern": "**", "webhook": webhook, "lease_ttl_ms": 30_000 });
        let put = Request::put(&format!("/{bucket}/__ds/subscriptions/{id}"));
        let _ = client.send(put.body("application/json", asked.to_string())).expect(201);
    };
    (0..8).for_each(|n| put("a", &format!("s-{n}"), &hanging));
    put("b", "s", &answering);
    let write = |bucket: &str| {
        let request = Request::put(&format!("/{bucket}/events")).body("text/plain", "x");
        server.client().send(request).expect(201).next_offset().to_owned()
    };
    write("a");
    wait_until("half of all calls hang", PATIENCE, || hanging.wakes().len() == 2);
    let tail = write("b");
    wait_until("another bucket is served", PATIENCE, || {
        let subscription = server.client().send(Request::get("/b/__ds/subscriptions/s")).expect(200).json();
        subscription["streams"][0]["acked_offset"] == tail
    });
    assert_eq!(hanging.wakes().len(), 2, "the others wait");
}

#[test]
fn killed_while_it_waits_for_the_next_attempt() {
    let receiver = Receiver::start(Answer::Status(500, String::new()));
    let mut run = Run::new(receiver);
    let tail = run.append("x");
    wait_until("two attempts have failed", PATIENCE, || run.receiver.wakes().len() >= 2);
    wait_until("it says so", PATIENCE, || run.subscription()["status"] == "failed");
    run.kill();
    run.start();
    assert_eq!(run.subscription()["status"], "failed", "what was tried is remembered");
    run.receiver.answer_always(Answer::Done);
    run.wait_acked(&tail);
    wait_until("it says so", PATIENCE, || run.subscription()["status"] == "active");
    run.check_wakes();
}

#[test]
fn killed_while_wakes_are_written_to_a_stream_each_is_there_once() {
    let mut setup = setup();
    let mut server = Some(setup.start());
    let client = |server: &Option<Server>| server.as_ref().expect("it runs").client();
    let json_body = |request: Request, body: &Value| request.body("application/json", body.to_string());
    let _ = client(&server).send(json_body(Request::put("/b/wake/pool"), &json!([]))).expect(201);
    let asked = json!({ "type": "pull-wake", "pattern": "**", "wake_stream": "wake/pool", "lease_ttl_ms": 1000 });
    let _ = client(&server).send(json_body(Request::put(SUBSCRIPTION), &asked)).expect(201);
    let mut claimed_before = 0;
    for round in 0..4u64 {
        let create = Request::put(&format!("/b/events/{round}")).body("text/plain", "x");
        let tail = client(&server).send(create).expect(201).next_offset().to_owned();
        thread::sleep(Duration::from_millis(round * 3));
        server.take().expect("it runs").kill();
        server = Some(setup.start());
        let mut claim = None;
        wait_until("it can be claimed", PATIENCE, || {
            let asked = json_body(Request::post(&format!("{SUBSCRIPTION}/claim")), &json!({ "worker": "w" }));
            let answer = client(&server).send(asked);
            claim = (answer.status == 200).then(|| answer.json());
            claim.is_some()
        });
        let claim = claim.expect("it is claimed");
        let generation = claim["generation"].as_u64().expect("a number");
        assert!(generation > claimed_before, "every wake has another generation");
        claimed_before = generation;
        assert_eq!(claim["streams"][0]["path"], format!("events/{round}"));
        let said = json!({
            "wake_id": claim["wake_id"],
            "generation": generation,
            "acks": [{ "stream": format!("events/{round}"), "offset": tail }],
            "done": true,
        });
        let token = format!("Bearer {}", claim["token"].as_str().expect("a token"));
        let ack = Request::post(&format!("{SUBSCRIPTION}/ack")).header("Authorization", token);
        let answer = client(&server).send(json_body(ack, &said)).expect(200).json();
        assert_eq!(answer, json!({ "ok": true, "next_wake": false }));
    }
    let events: Value = client(&server).send(Request::get("/b/wake/pool")).expect(200).json();
    let generations: Vec<u64> = events
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["generation"].as_u64().expect("a number"))
        .collect();
    assert!(generations.is_sorted_by(|before, after| before < after), "each is there once: {generations:?}");
}

#[test]
fn a_webhook_that_redirects_has_failed_and_nobody_else_is_called() {
    let other = Receiver::start(Answer::Done);
    let receiver = Receiver::start(Answer::Status(307, other.url()));
    let mut run = Run::new(receiver);
    run.append("x");
    wait_until("it has failed", PATIENCE, || run.subscription()["status"] == "failed");
    assert!(other.wakes().is_empty());
}

#[test]
fn what_is_not_public_is_not_called_unless_it_is_allowed() {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]);
    let server = setup.start();
    let mut client = server.client();
    for url in [
        "http://127.0.0.1/",
        "https://2130706433/",
        "https://localhost/",
        "https://10.0.0.1/",
        "https://192.168.0.1/",
        "https://169.254.169.254/latest/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "http://worker.example/",
        "https://user@worker.example/",
        "file:///etc/passwd",
    ] {
        let asked = json!({ "type": "webhook", "pattern": "**", "webhook": { "url": url } });
        let put = Request::put(SUBSCRIPTION).body("application/json", asked.to_string());
        let refused = client.send(put).expect(400).json();
        assert_eq!(refused["error"]["code"], "WEBHOOK_URL_REJECTED", "{url}");
        assert_eq!(refused["code"], "webhook_url_rejected");
    }
    let asked = json!({ "type": "webhook", "pattern": "**", "webhook": { "url": "https://worker.example/" } });
    let _ = client.send(Request::put(SUBSCRIPTION).body("application/json", asked.to_string())).expect(201);
}

#[test]
fn a_token_is_of_its_subscription_and_nobody_guesses_it() {
    let run = Run::new(Receiver::start(Answer::Accepted));
    let tail = run.append("x");
    let wake = run.receiver.wake_after(0);
    let acks = json!([{ "stream": "events/a", "offset": tail }]);
    let said = json!({ "wake_id": wake["wake_id"], "generation": wake["generation"], "acks": acks, "done": true });
    for token in ["", "Bearer", "Bearer x", "Basic x"] {
        let request = Request::post(&format!("{SUBSCRIPTION}/callback")).header("Authorization", token);
        let refused = run.client().send(request.body("application/json", said.to_string())).expect(401);
        assert_eq!(refused.json()["error"]["code"], "TOKEN_INVALID");
    }
    let _ = run.client().send(Request::delete(SUBSCRIPTION)).expect(204);
    assert_eq!(run.call_back(&wake, &acks, true).status, 404, "it is gone");
    let _ = run.client().send(Request::get(SUBSCRIPTION)).expect(404);
}
