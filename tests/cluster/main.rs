//! Three nodes as one: every node serves every request, whoever leads, and a node that dies is missed by nobody.

mod forks;
mod grown;
mod modules;
mod nodes;
mod operated;
mod operations;
#[path = "../crash/steps.rs"]
#[expect(dead_code, reason = "the suite of crashes uses the rest")]
mod steps;
mod tier;

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weir_testkit::{Client, Events, Request, Setup, metric, ports, wait_until};

use crate::nodes::{Cluster, again, append};

/// Records that are written while a leader dies.
const RECORDS: usize = 400;
/// How soon leaders are even when all nodes of a new cluster are there: far sooner than in one that has been used.
const EVEN_WITHIN: Duration = Duration::from_secs(20);
/// How long a write may be missing while leadership moves. An election takes less than two seconds; the machine is busy.
const OUTAGE_MAX: Duration = Duration::from_secs(15);

/// Whoever votes first leads most. A leader that is moved forgets which streams were read, so they would end late.
#[test]
fn the_nodes_of_a_new_cluster_lead_evenly_at_once_though_one_comes_later() {
    let mut cluster = Cluster::new(&[]);
    cluster.start(&[1, 0]);
    let leads = |cluster: &Cluster, node| metric(cluster.server(node), "weir_group_leading");
    wait_until("both lead", EVEN_WITHIN, || (0..2).all(|node| leads(&cluster, node) > 0.0));
    thread::sleep(Duration::from_secs(3));
    cluster.start(&[2]);
    wait_until("each leads one", EVEN_WITHIN, || (0..3).all(|node| leads(&cluster, node) == 1.0));
}

#[test]
fn every_node_serves_every_request() {
    let cluster = Cluster::form([2, 0, 1], &[("WEIR_CLUSTER_SECRET", "what only its nodes know")]);
    for node in 0..3 {
        let mut client = cluster.client(node);
        for name in 0..4 {
            let create = || Request::put(&format!("/b/s{node}{name}")).header("Content-Type", "text/plain");
            let _ = again(&mut client, create).expect(201);
        }
    }
    for node in 0..3 {
        let mut client = cluster.client(node);
        for name in 0..4 {
            let _ = append(&mut client, &format!("/b/s{}{name}", (node + 1) % 3), &format!("<{node}>")).expect(204);
            let _ = append(&mut client, &format!("/b/s{node}{name}"), &format!("<{node}>")).expect(204);
        }
    }
    for node in 0..3 {
        let mut client = cluster.client(node);
        for (owner, name) in (0..3).flat_map(|owner| (0..4).map(move |name| (owner, name))) {
            let stream = format!("/b/s{owner}{name}");
            let mut text = String::from_utf8(client.read_all(&stream)).expect("text");
            let head = client.send(Request::head(&stream)).expect(200);
            assert!(head.next_offset().starts_with("00000000000000000006-"), "{head:?}");
            let second = format!("<{}>", (owner + 2) % 3);
            text = text.replacen(&second, "", 1).replacen(&format!("<{owner}>"), "", 1);
            assert_eq!(text, "", "{stream} through node {node}");
        }
        let listed = client.send(Request::get("/b/-/streams")).expect(200).json();
        assert_eq!(listed["streams"].as_array().expect("a list").len(), 12);
        let _ = client.send(Request::get("/b/none")).expect(404);
        let _ = client.send(Request::delete(&format!("/b/s{node}0"))).expect(204);
        let _ = client.send(Request::head(&format!("/b/s{node}0"))).expect(404);
        // Created again, through another node than it is led by, perhaps.
        let _ = client
            .send(Request::put(&format!("/b/s{node}0")).body("text/plain", format!("<{node}><{}>", (node + 2) % 3)))
            .expect(201);
    }
}

#[test]
fn a_large_body_and_a_large_page_go_through_a_follower() {
    let cluster = Cluster::form([0, 1, 2], &[]);
    let numbers: Vec<String> = (0..400_000).map(|number| number.to_string()).collect();
    let json = format!("[{}]", numbers.join(","));
    for node in 0..3 {
        let mut client = cluster.client(node);
        let stream = format!("/b/json-{node}");
        let _ = again(&mut client, || Request::put(&stream).header("Content-Type", "application/json")).expect(201);
    }
    for node in 0..3 {
        let stream = format!("/b/json-{}", (node + 1) % 3);
        let mut client = cluster.client(node);
        let _ = client.send(Request::post(&stream).body("application/json", json.clone())).expect(204);
        let _ = client.send(Request::post(&stream).body("application/json", "[1,")).expect(400);
        let mut reader = cluster.client((node + 2) % 3);
        let text = String::from_utf8(reader.read_all(&stream)).expect("text").replace("][", ",");
        assert_eq!(text, json);
    }
}

#[test]
fn a_tail_through_a_follower_goes_on_when_its_leader_dies() {
    let mut cluster = Cluster::form([1, 2, 0], &[]);
    let stream = "/b/tail";
    let _ = again(&mut cluster.client(0), || Request::put(stream).header("Content-Type", "text/plain")).expect(201);
    let leader = cluster.leader_of(stream);
    let [reading, writing] = [(leader + 1) % 3, (leader + 2) % 3];
    let start = cluster.client(reading).send(Request::head(stream)).expect(200).next_offset().to_string();

    let address = cluster.server(reading).address();
    let (mut events, _) =
        Events::open(address, &Request::get(&format!("{stream}?offset={start}&live=sse"))).expect("events");
    let reader = thread::spawn({
        let stream = stream.to_string();
        move || {
            let (mut text, mut responses, mut last) = (String::new(), 1, start);
            loop {
                match events.next_event() {
                    Ok(Some(event)) if event.kind == "control" => {
                        last = event.control()["streamNextOffset"].as_str().expect("an offset").to_string();
                        if text.ends_with(&record(RECORDS - 1)) {
                            return (text, responses);
                        }
                    }
                    Ok(Some(event)) => text.push_str(&event.data),
                    // As every client does.
                    Ok(None) | Err(_) => {
                        responses += 1;
                        let request = Request::get(&format!("{stream}?offset={last}&live=sse"));
                        events = Events::open(address, &request).expect("events").0;
                    }
                }
            }
        }
    });
    let mut client = cluster.client(writing);
    let mut outage = Duration::ZERO;
    let mut unknown = 0;
    for number in 0..RECORDS {
        if number == RECORDS / 2 {
            cluster.kill(leader);
        }
        let begun = Instant::now();
        let request = || {
            let request = Request::post(stream).body("text/plain", record(number));
            request.header("Producer-Id", "p").header("Producer-Epoch", 0).header("Producer-Seq", number)
        };
        // A write whose outcome nobody knows is sent again: its producer's number says that it is the same.
        loop {
            let response = again(&mut client, request);
            match response.status {
                204 | 200 => break,
                504 => unknown += 1,
                _ => panic!("{response:?}"),
            }
        }
        outage = outage.max(begun.elapsed());
    }
    let (text, responses) = reader.join().expect("it has read everything");
    let expected: String = (0..RECORDS).map(record).collect();
    assert_eq!(text, expected, "no gap, no duplicate");
    println!("the longest write took {outage:?}, {unknown} had to be sent again, the tail took {responses} responses");
    assert!(outage < OUTAGE_MAX, "{outage:?}");

    cluster.restart(leader);
    cluster.wait_caught_up(leader, writing);
    let read = cluster.client(leader).read_all(stream);
    assert!(String::from_utf8(read).expect("text").ends_with(&expected));
    let _ = append(&mut cluster.client(leader), stream, "the end").expect(204);
}

fn record(number: usize) -> String {
    format!("<{number}>")
}

/// A leader that hangs does not know that it is none any more. Who reads a stream through it must not miss what others have written.
#[test]
fn a_leader_that_hangs_is_replaced_and_its_readers_miss_nothing() {
    let cluster = Cluster::form([0, 1, 2], &[]);
    let stream = "/b/hung";
    let _ = again(&mut cluster.client(0), || Request::put(stream).header("Content-Type", "text/plain")).expect(201);
    let leader = cluster.leader_of(stream);
    let start = cluster.client(leader).send(Request::head(stream)).expect(200).next_offset().to_string();
    let tail = Request::get(&format!("{stream}?offset={start}&live=sse"));
    let (mut events, _) = Events::open(cluster.server(leader).address(), &tail).expect("events");
    let mut client = cluster.client((leader + 1) % 3);
    let (mut expected, mut unknown) = (String::new(), None);
    for number in 0..30 {
        match number {
            10 => cluster.server(leader).signal(Signal::STOP),
            20 => cluster.server(leader).signal(Signal::CONT),
            _ => {}
        }
        let response = append(&mut client, stream, &record(number));
        match response.status {
            204 => expected.push_str(&record(number)),
            // The leader was asked when it stopped, and may have done it.
            504 if unknown.is_none() && (10..20).contains(&number) => unknown = Some(record(number)),
            _ => panic!("{number}: {response:?}"),
        }
    }
    let mut text = String::new();
    while !text.ends_with(&record(29)) {
        let event = events.next_event().expect("the response goes on").expect("it has not ended");
        if event.kind == "data" {
            text.push_str(&event.data);
        }
    }
    let acknowledged = unknown.map_or_else(|| text.clone(), |unknown| text.replacen(&unknown, "", 1));
    assert_eq!(acknowledged, expected, "no gap, no duplicate");
    let stored = cluster.client((leader + 2) % 3).read_all(stream);
    assert!(String::from_utf8(stored).expect("text").ends_with(&text), "what was read is what is stored");
}

#[test]
fn a_long_poll_through_a_follower_is_woken_and_times_out() {
    let cluster = Cluster::form([0, 1, 2], &[]);
    let stream = "/b/poll";
    let _ = again(&mut cluster.client(0), || Request::put(stream).header("Content-Type", "text/plain")).expect(201);
    let leader = cluster.leader_of(stream);
    for node in 0..3 {
        let tail = cluster.client(node).send(Request::head(stream)).expect(200).next_offset().to_string();
        let mut poller = cluster.client(node);
        let poll = Request::get(&format!("{stream}?offset={tail}&live=long-poll"));
        let polling = thread::spawn(move || poller.send(poll));
        thread::sleep(Duration::from_millis(200));
        let _ = append(&mut cluster.client(leader), stream, "woken").expect(204);
        assert_eq!(polling.join().expect("it is answered").expect(200).text(), "woken", "through node {node}");
    }
}

#[test]
fn a_node_that_is_stopped_hands_over_and_comes_back() {
    let mut cluster = Cluster::form([0, 1, 2], &[]);
    let stream = "/b/rolled";
    let _ = again(&mut cluster.client(0), || Request::put(stream).header("Content-Type", "text/plain")).expect(201);
    let mut expected = String::new();
    for node in 0..3 {
        let stopped = cluster.servers[node].take().expect("it runs");
        let stopping = thread::spawn(move || stopped.stop());
        let mut client = cluster.client((node + 1) % 3);
        for number in 0..20 {
            let write = || {
                let request = Request::post(stream).body("text/plain", record(number));
                request.header("Producer-Id", node).header("Producer-Epoch", 0).header("Producer-Seq", number)
            };
            let mut written = again(&mut client, write);
            if written.status == 504 {
                // What was under way when a node has ended may have been done: it is sent once more.
                written = again(&mut client, write);
            }
            assert!([200, 204].contains(&written.status), "{written:?}");
            expected.push_str(&record(number));
        }
        assert_eq!(stopping.join().expect("it ends").code, Some(0));
        cluster.restart(node);
    }
    for node in 0..3 {
        assert_eq!(String::from_utf8(cluster.client(node).read_all(stream)).expect("text"), expected);
    }
}

#[test]
fn without_a_majority_nothing_is_acknowledged_and_writes_say_so() {
    let mut cluster = Cluster::form([0, 1, 2], &[]);
    let stream = "/b/alone";
    let _ = again(&mut cluster.client(0), || Request::put(stream).header("Content-Type", "text/plain")).expect(201);
    cluster.kill(1);
    cluster.kill(2);
    let refused = cluster.client(0).send(Request::post(stream).body("text/plain", "lost?"));
    assert!([503, 504].contains(&refused.status), "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let read = cluster.client(0).send(Request::get(stream));
    assert_eq!((read.status, read.header("retry-after")), (503, Some("1")), "what may be stale is not read");
    // It follows two groups whose leaders it does not hear, and nobody else says that they lead no longer.
    wait_until("it says that it knows no leader", OUTAGE_MAX, || {
        let said = Client::new(cluster.server(0).admin()).send(Request::get("/readyz"));
        said.status == 503 && (0..3).all(|group| said.text().contains(&format!("group {group} has no leader")))
    });
    let restarting = [1, 2].map(|node| {
        let mut setup = cluster.setups[node].clone();
        (node, thread::spawn(move || setup.start()))
    });
    for (node, starting) in restarting {
        cluster.servers[node] = Some(starting.join().expect("it is ready"));
    }
    let _ = append(&mut cluster.client(0), stream, "found").expect(204);
    assert!(String::from_utf8(cluster.client(2).read_all(stream)).expect("text").ends_with("found"));
}

#[test]
fn a_node_is_what_it_was_formed_as() {
    let own = ports::free().to_string();
    let setup = |args: &[&str]| Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--cluster-listen", &own]).args(args);
    let exit = setup(&["--node-id", "1", "--peer", "2=127.0.0.1:1"]).run();
    assert!(exit.code == Some(2) && exit.log.contains("cluster.id"), "{exit:?}");
    let exit = setup(&["--peer", "2=127.0.0.1:1"]).run();
    assert!(exit.code == Some(2) && exit.log.contains("set cluster.node_id"), "{exit:?}");
    let member = ["--node-id", "1", "--cluster-id", "c", "--peer", "2=127.0.0.1:1"];
    let exit = setup(&["--in-memory"]).args(&member).run();
    assert!(exit.code == Some(2) && exit.log.contains("data directories"), "{exit:?}");
    let exit = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--cluster-listen", "0.0.0.0:0"]).args(&member).run();
    assert!(exit.code == Some(2) && exit.log.contains("cluster.listen = 0.0.0.0:0 can be reached"), "{exit:?}");

    let mut alone = Setup::new(env!("CARGO_BIN_EXE_weir"));
    drop(alone.start().stop());
    let exit = alone.args(&["--cluster-listen", &own]).args(&member).run();
    assert!(exit.code == Some(2) && exit.log.contains("belongs to a node that is alone"), "{exit:?}");
}
