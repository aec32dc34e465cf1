//! A cluster of three: any node is asked, and when the one ends that delivers, another goes on.

use std::time::Duration;

use serde_json::{Value, json};
use weir_testkit::{Client, Request, Response, wait_until};

use crate::nodes::Cluster;
use crate::receiver::{Answer, PATIENCE, Receiver};

const SUBSCRIPTION: &str = "/b/__ds/subscriptions/s";

/// Asks a node until it can say.
fn ask(client: &mut Client, request: &Request) -> Response {
    let mut answer = None;
    wait_until("it is answered", PATIENCE, || {
        let said = client.send(request.clone());
        let is_said = !matches!(said.status, 503 | 504);
        answer = Some(said);
        is_said
    });
    answer.expect("it was answered")
}

fn json_body(request: Request, body: &Value) -> Request {
    request.body("application/json", body.to_string())
}

#[test]
fn when_the_node_is_killed_that_delivers_another_goes_on() {
    let mut cluster = Cluster::form([0, 1, 2], &[("WEIR_HOOKS_ALLOW", "127.0.0.1")]);
    let receiver = Receiver::start(Answer::Accepted);
    let asked = json!({
        "type": "webhook",
        "pattern": "events/*",
        "webhook": { "url": receiver.url() },
        "lease_ttl_ms": 2000,
    });
    let put = json_body(Request::put(SUBSCRIPTION), &asked);
    assert_eq!(ask(&mut cluster.server(0).client(), &put).status, 201);
    assert_eq!(ask(&mut cluster.server(1).client(), &put).status, 200, "any node knows it");
    let keys = |cluster: &Cluster, node: usize| {
        ask(&mut cluster.server(node).client(), &Request::get("/b/__ds/jwks.json")).expect(200).text()
    };
    assert_eq!(keys(&cluster, 0), keys(&cluster, 2));
    let mut tails = Vec::new();
    for n in 0..6 {
        let create = Request::put(&format!("/b/events/{n}")).body("text/plain", "x");
        tails.push(ask(&mut cluster.server(n % 3).client(), &create).expect(201).next_offset().to_owned());
    }
    receiver.wake_after(0);
    // Whoever it is that delivers, one of these is it.
    for node in 0..2 {
        cluster.servers[node].take().expect("it runs").kill();
        let before = receiver.wakes().len();
        let last = receiver.wakes()[before - 1].clone();
        // What was not acknowledged comes again, from another node if need be.
        let next = receiver.wake_after(before);
        assert!(next["generation"].as_u64() > last["generation"].as_u64(), "it is another wake");
        let setup = &mut cluster.setups[node];
        cluster.servers[node] = Some(setup.start());
    }
    receiver.answer_always(Answer::Done);
    let mut acked: Vec<String> = Vec::new();
    wait_until("all is acknowledged", 2 * PATIENCE, || {
        let now = ask(&mut cluster.server(2).client(), &Request::get(SUBSCRIPTION)).expect(200).json();
        let offset = |stream: &Value| stream["acked_offset"].as_str().expect("an offset").to_owned();
        let now: Vec<String> = now["streams"].as_array().expect("a list").iter().map(offset).collect();
        assert!(acked.iter().zip(&now).all(|(before, now)| before <= now), "a cursor goes back");
        acked = now;
        acked == tails
    });
    let generations: Vec<u64> = receiver.wakes().iter().filter_map(|wake| wake["generation"].as_u64()).collect();
    assert!(generations.is_sorted_by(|before, after| before < after), "{generations:?}");
    let woken = receiver.wakes().len();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(receiver.wakes().len(), woken, "what is done is not sent again");
}
