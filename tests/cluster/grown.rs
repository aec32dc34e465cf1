//! Nodes that come and go, while somebody writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_testkit::{Client, Request, wait_until};

use crate::nodes::{Cluster, again, append};
use crate::operated::{status, weir_cluster};

/// How long it may take until every group is where it is to be, on a machine that is busy.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// How long a write may be missing, on such a machine. Three seconds are promised; the test prints what it was.
const OUTAGE_MAX: Duration = Duration::from_secs(15);
const STREAMS: usize = 6;

/// Waits until the cluster has these nodes, and every group has three of them, or all.
pub(crate) fn wait_settled(cluster: &Cluster, asked: usize, nodes: &[u64]) -> Value {
    let mut last = Value::Null;
    let is_settled = |status: &Value| {
        let there: Vec<u64> = status["nodes"]
            .as_array()
            .map_or(Vec::new(), |nodes| nodes.iter().filter_map(|n| n["node"].as_u64()).collect());
        status["is_settled"] == true && there == nodes
    };
    let begun = Instant::now();
    while !is_settled(&last) {
        assert!(begun.elapsed() < SETTLED_WITHIN, "it does not come to rest: {last:#}");
        last = status(cluster, asked);
        thread::sleep(Duration::from_millis(50));
    }
    for group in last["groups"].as_array().expect("groups") {
        let voters = group["voters"].as_array().expect("voters");
        assert_eq!((voters.len(), voters[0].as_array().map(Vec::len)), (1, Some(nodes.len().min(3))), "{group}");
    }
    last
}

pub(crate) fn ordered(cluster: &Cluster, asked: usize, args: &[&str]) {
    let ran = weir_cluster(cluster, asked, args);
    assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.err);
}

fn stream(number: usize) -> String {
    format!("/b/s{number}")
}

/// Writes to one stream until it is told to stop; says how many records it has, and how long the longest took.
fn write(mut client: Client, number: usize, is_over: &AtomicBool) -> (usize, Duration) {
    let (mut records, mut longest) = (0, Duration::ZERO);
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let request = || {
            let request = Request::post(&stream(number)).body("text/plain", record(records));
            request.header("Producer-Id", "p").header("Producer-Epoch", 0).header("Producer-Seq", records)
        };
        loop {
            let response = again(&mut client, request);
            match response.status {
                200 | 204 => break,
                504 => {}
                _ => panic!("{response:?}"),
            }
        }
        longest = longest.max(begun.elapsed());
        records += 1;
        thread::sleep(Duration::from_millis(5));
    }
    (records, longest)
}

fn record(number: usize) -> String {
    format!("<{number}>")
}

fn check(cluster: &Cluster, node: usize, number: usize, records: usize) {
    let expected: String = (0..records).map(record).collect();
    let read = cluster.client(node).read_all(&stream(number));
    assert!(String::from_utf8(read).expect("text") == expected, "stream {number} through node {}", node + 1);
}

#[test]
fn three_nodes_grow_to_five_and_shrink_to_three_while_they_are_written_to() {
    let mut cluster = Cluster::form([0, 1, 2], &[]);
    for number in 0..STREAMS {
        let create = || Request::put(&stream(number)).header("Content-Type", "text/plain");
        let _ = again(&mut cluster.client(0), create).expect(201);
    }
    wait_settled(&cluster, 0, &[1, 2, 3]);
    let is_over = Arc::new(AtomicBool::new(false));
    // Through the node that stays.
    let writers: Vec<_> = (0..STREAMS)
        .map(|number| {
            let (client, is_over) = (cluster.client(2), is_over.clone());
            thread::spawn(move || write(client, number, &is_over))
        })
        .collect();
    let begun = Instant::now();
    cluster.join(4, 0, |cluster, address| ordered(cluster, 1, &["add", "4", address]));
    cluster.join(5, 1, |cluster, address| ordered(cluster, 0, &["add", "5", address]));
    let grown = wait_settled(&cluster, 3, &[1, 2, 3, 4, 5]);
    let used = |node: u64| {
        let groups = grown["groups"].as_array().expect("groups").iter();
        groups.filter(|group| group["voters"][0].as_array().is_some_and(|set| set.contains(&node.into()))).count()
    };
    assert!((1..=5).all(|node| (1..=2).contains(&used(node))), "{grown:#}");
    println!("three grew to five in {:?}", begun.elapsed());

    // One dies and is replaced by those that have come; another leaves in peace.
    let begun = Instant::now();
    cluster.kill(0);
    ordered(&cluster, 4, &["remove", "1"]);
    wait_settled(&cluster, 2, &[2, 3, 4, 5]);
    ordered(&cluster, 3, &["drain", "2"]);
    ordered(&cluster, 3, &["remove", "2"]);
    wait_settled(&cluster, 2, &[3, 4, 5]);
    println!("five shrank to three in {:?}", begun.elapsed());
    is_over.store(true, Ordering::Relaxed);
    let mut longest = Duration::ZERO;
    for (number, writer) in writers.into_iter().enumerate() {
        let (records, outage) = writer.join().expect("it has written");
        longest = longest.max(outage);
        for node in [2, 3, 4] {
            check(&cluster, node, number, records);
        }
    }
    println!("the longest write took {longest:?}");
    assert!(longest < OUTAGE_MAX, "{longest:?}");

    // Who was removed is told, and is not let in again.
    wait_until("node 2 knows that it was removed", SETTLED_WITHIN, || {
        let said = Client::new(cluster.server(1).admin()).send(Request::get("/readyz"));
        said.status == 503 && said.text().contains("was removed from the cluster")
    });
    // How long that takes to be said depends on who asks whom first, and how busy the machine is.
    let late = cluster.setups[0].spawn();
    wait_until("node 1 is refused", SETTLED_WITHIN, || {
        cluster.setups[0].log().contains("node 1 was removed from the cluster for ever")
    });
    wait_until("it says so", SETTLED_WITHIN, || {
        let said = Client::new(late.admin()).send(Request::get("/readyz"));
        said.status == 503 && said.text().contains("another node refuses this one: node 1 was removed from the cluster")
    });
    drop(late);
    // Its number does not come back with an empty disk either.
    let refused = weir_cluster(&cluster, 2, &["add", "1", "127.0.0.1:9"]);
    assert!(refused.code == Some(1) && refused.err.contains("node 1: it was removed for ever"), "{}", refused.err);
}

#[test]
fn a_node_that_is_alone_becomes_the_first_of_three_and_is_alone_again() {
    let mut records = 3;
    let create = || Request::put(&stream(0)).body("text/plain", record(0));
    let mut cluster = Cluster::of_one(&[], |alone| {
        let mut client = alone.client();
        let _ = client.send(create()).expect(201);
        let _ = append(&mut client, &stream(0), &record(1)).expect(204);
    });
    let mut write = |cluster: &Cluster, node: usize| {
        let request = || {
            let request = Request::post(&stream(0)).body("text/plain", record(records));
            request.header("Producer-Id", "p").header("Producer-Epoch", 0).header("Producer-Seq", records - 3)
        };
        let mut response = again(&mut cluster.client(node), request);
        if response.status == 504 {
            // What was under way when a node has died may have been done: it is sent once more.
            response = again(&mut cluster.client(node), request);
        }
        assert!([200, 204].contains(&response.status), "{response:?}");
        records += 1;
        records
    };
    let _ = append(&mut cluster.client(0), &stream(0), &record(2)).expect(204);
    wait_settled(&cluster, 0, &[1]);

    // A node that nobody has asked for waits, and both sides say why.
    let mut early = cluster.newcomer(2, 0);
    let starting = thread::spawn(move || (early.start(), early));
    let why = "node 2 is not one of the cluster's nodes";
    wait_until("it is refused", SETTLED_WITHIN, || {
        cluster.setups[0].log().contains(why) && cluster.setups[1].log().contains(why)
    });
    let said = Client::new(cluster.setups[1].admin()).send(Request::get("/readyz")).expect(503).text();
    assert!(said.contains("waits to be taken into its cluster"), "{said}");
    let address = cluster.addresses[1].to_string();
    ordered(&cluster, 0, &["add", "2", &address]);
    let (server, setup) = starting.join().expect("it is ready");
    (cluster.servers[1], cluster.setups[1]) = (Some(server), setup);
    cluster.join(3, 1, |cluster, address| ordered(cluster, 1, &["add", "3", address]));
    wait_settled(&cluster, 2, &[1, 2, 3]);
    write(&cluster, 2);
    cluster.kill(0);
    write(&cluster, 1);
    cluster.restart(0);
    write(&cluster, 0);

    // A node that has lost its disk is refused under its number.
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.setups[1].data_dir()).expect("its disk is lost");
    let wiped = cluster.setups[1].spawn();
    wait_until("it is refused", SETTLED_WITHIN, || cluster.setups[1].log().contains("node 2 had disk"));
    drop(wiped);

    // Dead as it is, it is removed; then the others leave one after the other.
    ordered(&cluster, 2, &["remove", "2"]);
    wait_settled(&cluster, 0, &[1, 3]);
    write(&cluster, 2);
    ordered(&cluster, 0, &["remove", "3"]);
    wait_settled(&cluster, 0, &[1]);
    let gone = cluster.servers[2].take().expect("it runs");
    drop(gone.stop());
    let records = write(&cluster, 0);
    check(&cluster, 0, 0, records);
    let last = weir_cluster(&cluster, 0, &["remove", "1"]);
    assert!(last.code == Some(1) && last.err.contains("the last node"), "{}", last.err);
}
