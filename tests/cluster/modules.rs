//! Modules in a cluster: uploaded to one node, bound through another, and at work wherever streams are led.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir_testkit::{Client, Connection, Request, Response, guest, wait_until};

use crate::nodes::{Cluster, again};

/// How long anything may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Streams: enough that each node leads some, if the groups are led by several.
const STREAMS: usize = 6;

/// A cluster whose nodes wait for slow compilations.
fn form() -> Cluster {
    let wait = [("WEIR_MODULES_UPLOAD_WAIT_MS", "120000"), ("WEIR_MODULES_COMPILE_TIMEOUT_MS", "120000")];
    Cluster::form([0, 1, 2], &wait)
}

fn upload(client: &mut Client, name: &str, guest_name: &str) -> Response {
    again(client, || Request::put(&format!("/demo/-/modules/{name}")).body("application/wasm", guest(guest_name)))
}

fn bind(client: &mut Client, name: &str, module: &str, role: &str) -> Response {
    let binding = json!({ "streams": "**", "module": module, "role": role }).to_string();
    again(client, || Request::put(&format!("/demo/-/bindings/{name}")).body("application/json", binding.clone()))
}

fn stream(number: usize) -> String {
    format!("/demo/s{number}")
}

/// Appends as a producer of its own, so that what may have been done is not done twice.
fn post(client: &mut Client, stream: &str, body: &Value) -> Response {
    static PRODUCERS: AtomicU64 = AtomicU64::new(0);
    let producer = PRODUCERS.fetch_add(1, Ordering::Relaxed);
    let write = || {
        let request = Request::post(stream).body("application/json", body.to_string());
        request.header("Producer-Id", producer).header("Producer-Epoch", 0).header("Producer-Seq", 0)
    };
    let mut written = again(client, write);
    // A node was killed while it was asked.
    while written.status == 504 {
        written = again(client, write);
    }
    written
}

fn view(client: &mut Client, stream: &str) -> Value {
    again(client, || Request::get(&format!("{stream}?summary=totals"))).expect(200).json()
}

/// The files of modules' bytes that a node has.
fn files(cluster: &Cluster, node: usize) -> Vec<String> {
    let folder = cluster.setups[node].data_dir().join("modules");
    let names = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().expect("a name")).collect();
    names.retain(|name| name.ends_with(".wasm"));
    names.sort();
    names
}

/// Writes one good record to every stream through each of these nodes, and has each refuse a bad one.
fn write_and_refuse(cluster: &Cluster, nodes: &[usize]) {
    for &node in nodes {
        let mut client = cluster.client(node);
        for number in 0..STREAMS {
            let written = post(&mut client, &stream(number), &json!({ "qty": node + 1 }));
            assert!([200, 204].contains(&written.status), "{written:?}");
            let refused = post(&mut client, &stream(number), &json!({ "qty": 0 })).expect(422);
            assert_eq!(refused.code(), "record_rejected", "through node {node}");
        }
    }
}

#[test]
fn modules_work_wherever_streams_are_led_and_outlive_every_node() {
    let mut cluster = form();
    assert_eq!(upload(&mut cluster.client(0), "check", "rejects_bad").expect(201).json()["status"], "ready");
    let _ = bind(&mut cluster.client(1), "check", "check", "validator").expect(201);
    let _ = bind(&mut cluster.client(2), "totals", "builtin:stats", "summary").expect(201);
    for number in 0..STREAMS {
        let create = || Request::put(&stream(number)).header("Content-Type", "application/json");
        let _ = again(&mut cluster.client(number % 3), create).expect(201);
    }
    write_and_refuse(&cluster, &[0, 1, 2]);
    let expected = view(&mut cluster.client(0), &stream(0));
    assert_eq!((&expected["count"], &expected["fields"]["qty"]["max"]), (&json!(3), &json!(3.0)));
    for node in 0..3 {
        for number in 0..STREAMS {
            let node_view = view(&mut cluster.client(node), &stream(number));
            assert_eq!(node_view["fields"], expected["fields"], "through node {node}");
        }
    }
    // Every node gets the bytes, also the one that was not needed for the upload.
    wait_until("every node has the module", PATIENCE, || {
        (0..3).all(|node| files(&cluster, node) == files(&cluster, 0))
    });

    let mut count = 3;
    for node in 0..3 {
        cluster.kill(node);
        let others = [(node + 1) % 3, (node + 2) % 3];
        write_and_refuse(&cluster, &others);
        count += 2;
        for other in others {
            assert_eq!(view(&mut cluster.client(other), &stream(1))["count"], count, "without node {node}");
        }
        let name = format!("late-{node}");
        assert_eq!(upload(&mut cluster.client(others[0]), &name, "accepts_all").expect(201).json()["status"], "ready");
        let _ = bind(&mut cluster.client(others[1]), &name, &name, "validator").expect(201);
        write_and_refuse(&cluster, &others);
        count += 2;
        if node == 2 {
            // What it has lost is fetched again.
            fs::remove_dir_all(cluster.setups[node].data_dir().join("modules")).expect("it is there");
        }
        cluster.restart(node);
        write_and_refuse(&cluster, &[node]);
        count += 1;
    }
    wait_until("the node has the modules again", PATIENCE, || files(&cluster, 2) == files(&cluster, 0));
    for number in 0..STREAMS {
        assert_eq!(view(&mut cluster.client(2), &stream(number))["count"], count);
    }
}

/// A node that has just begun knows of no module: what it has applied is as old as its last snapshot, until somebody leads.
#[test]
fn a_module_outlives_a_restart_of_all_nodes_with_one_of_them_alone_for_a_while() {
    let mut cluster = form();
    let _ = upload(&mut cluster.client(0), "check", "rejects_bad").expect(201);
    let _ = bind(&mut cluster.client(1), "check", "check", "validator").expect(201);
    for number in 0..STREAMS {
        let create = || Request::put(&stream(number)).header("Content-Type", "application/json");
        let _ = again(&mut cluster.client(number % 3), create).expect(201);
    }
    wait_until("every node has the module", PATIENCE, || {
        !files(&cluster, 0).is_empty() && (0..3).all(|node| files(&cluster, node) == files(&cluster, 0))
    });
    let before = files(&cluster, 0);
    (0..3).for_each(|node| cluster.kill(node));
    cluster.servers[0] = Some(cluster.setups[0].spawn());
    let admin = cluster.server(0).admin();
    wait_until("it is open, and nobody leads", PATIENCE, || {
        let ready = Connection::open(admin).and_then(|mut admin| admin.send(&Request::get("/readyz")));
        ready.is_ok_and(|ready| ready.status == 503 && ready.text().contains("leader"))
    });
    // It looks twice a second what is to be kept.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(files(&cluster, 0), before);
    cluster.start(&[1, 2]);
    write_and_refuse(&cluster, &[0, 1, 2]);
    assert!((0..3).all(|node| files(&cluster, node) == before));
}

#[test]
fn an_upload_needs_most_nodes() {
    let mut cluster = form();
    assert_eq!(upload(&mut cluster.client(0), "one", "accepts_all").expect(201).json()["status"], "ready");
    cluster.kill(1);
    cluster.kill(2);
    let begun = Instant::now();
    let request = Request::put("/demo/-/modules/two").body("application/wasm", guest("rejects_bad"));
    let refused = cluster.client(0).send(request);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    assert!(begun.elapsed() < PATIENCE);
}
