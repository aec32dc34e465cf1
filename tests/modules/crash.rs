//! Killed at every step of an upload and of a bind: after the restart there is the old state or the new one, never a half,
//! and what was acknowledged holds.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use weir_testkit::{Client, Connection, Request, Server, guest};

use crate::{bind, create, on_disk, post, upload};

/// Lives of a server per test. What is done in one takes some tens of milliseconds, and death comes at any of them.
const LIVES: u32 = 24;

/// Sends requests one after the other until the connection breaks; the statuses that came.
fn send_all(server: &Server, requests: &[Request]) -> Vec<u16> {
    let Ok(mut connection) = Connection::open(server.address()) else { return Vec::new() };
    let mut statuses = Vec::new();
    for request in requests {
        match connection.send(request) {
            Ok(response) => statuses.push(response.status),
            Err(_) => break,
        }
    }
    statuses
}

/// Sends `requests`, kills the server after `after`, and gives back the statuses that came before.
fn die(server: Server, requests: &[Request], after: Duration) -> Vec<u16> {
    thread::scope(|scope| {
        let sending = scope.spawn(|| send_all(&server, requests));
        // The moment of death is the point here: no state is waited for.
        thread::sleep(after);
        server.signal(Signal::KILL);
        sending.join().expect("a client")
    })
}

/// When to die in life `n`, spread over the time that the work takes.
fn moment(n: u32, whole: Duration) -> Duration {
    whole * n / LIVES
}

/// How long `requests` take when nobody dies.
fn undisturbed(server: &Server, requests: &[Request]) -> Duration {
    let begun = Instant::now();
    let statuses = send_all(server, requests);
    assert_eq!(statuses.len(), requests.len(), "{statuses:?}");
    begun.elapsed()
}

fn list(client: &mut Client, what: &str) -> Vec<Value> {
    let response = client.send(Request::get(&format!("/demo/-/{what}"))).expect(200);
    response.json()[what].as_array().expect("a list").clone()
}

#[test]
fn an_upload_is_there_or_not() {
    let mut setup = on_disk();
    let server = setup.start();
    let names = |life: u32| [format!("a-{life}"), format!("r-{life}")];
    let requests = |life: u32| {
        let [a, r] = names(life).map(|name| format!("/demo/-/modules/{name}"));
        vec![
            upload(&a, guest("accepts_all")),
            upload(&r, guest("rejects_bad")),
            Request::delete(&a),
            Request::delete(&r),
        ]
    };
    let whole = undisturbed(&server, &requests(LIVES));
    let mut server = Some(server);
    for life in 0..LIVES {
        let statuses = die(server.take().unwrap_or_else(|| setup.start()), &requests(life), moment(life, whole));
        let restarted = setup.start();
        let mut client = restarted.client();
        if statuses.is_empty() && client.send(Request::get("/demo")).status == 404 {
            server = Some(restarted);
            continue;
        }
        let [a, r] = names(life).map(|name| list(&mut client, "modules").iter().any(|m| m["name"] == name.as_str()));
        // Each answer says what is there; the one that did not come may have been carried out or not.
        match statuses.as_slice() {
            [] => assert!(!r, "{life}"),
            [201] => assert!(a, "{life}"),
            [201, 201] => assert!(r, "{life}"),
            [201, 201, 204] => assert!(!a, "{life}"),
            [201, 201, 204, 204] => assert!(!a && !r, "{life}"),
            other => panic!("{life}: {other:?}"),
        }
        // What is there can be used, or is on its way to it; and can be removed.
        let deadline = Instant::now() + Duration::from_secs(30);
        while list(&mut client, "modules").iter().any(|module| module["status"] != "ready") {
            assert!(Instant::now() < deadline, "{life}: {:?}", list(&mut client, "modules"));
            thread::sleep(Duration::from_millis(5));
        }
        for module in list(&mut client, "modules") {
            let name = module["name"].as_str().expect("a name");
            let _ = client.send(bind("v", name, "validator", "nothing")).expect(201);
            let _ = client.send(Request::delete("/demo/-/bindings/v")).expect(204);
            let _ = client.send(Request::delete(&format!("/demo/-/modules/{name}"))).expect(204);
        }
        let folder = std::fs::read_dir(setup.data_dir().join("modules")).expect("the folder is there");
        let left = folder.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let left: Vec<String> = left.collect();
        assert_eq!(left, ["cache.key"], "{life}: nothing that nobody names is kept");
        server = Some(restarted);
    }
}

#[test]
fn an_acknowledged_binding_holds_and_any_other_is_whole_or_not_there() {
    let mut setup = on_disk();
    let mut server = setup.start();
    let mut client = server.client();
    let _ = client.send(upload("/demo/-/modules/checks", guest("rejects_bad"))).expect(201);
    // Over all groups: many streams, so that each has some.
    let streams: Vec<String> = (0..16).map(|n| format!("/demo/s{n}")).collect();
    for stream in &streams {
        create(&mut client, stream, "application/json");
    }
    let bad = json!({"qty": 0});
    let whole = undisturbed(&server, &[bind("v", "checks", "validator", "**"), Request::delete("/demo/-/bindings/v")]);
    for life in 0..LIVES {
        let mut requests = vec![bind("v", "checks", "validator", "**")];
        requests.extend(streams.iter().map(|stream| post(stream, &bad)));
        requests.push(Request::delete("/demo/-/bindings/v"));
        let statuses = die(server, &requests, moment(life, whole * 2));
        server = setup.start();
        let mut client = server.client();
        let bound = !list(&mut client, "bindings").is_empty();
        let acknowledged = statuses.first() == Some(&201);
        let removed = statuses.len() == requests.len();
        assert!(statuses.iter().skip(1).take(streams.len()).all(|&status| status == 422), "{life}: {statuses:?}");
        if acknowledged && statuses.len() <= streams.len() {
            assert!(bound, "{life}: an acknowledged binding holds: {statuses:?}");
        }
        if removed {
            assert!(!bound, "{life}: and so does its removal");
        }
        // The same for every stream, whichever group it is in.
        for stream in &streams {
            let status = client.send(post(stream, &bad)).status;
            assert_eq!(status, if bound { 422 } else { 204 }, "{life}: {stream}");
        }
        if bound {
            let _ = client.send(Request::delete("/demo/-/bindings/v")).expect(204);
        }
    }
}

#[test]
fn no_append_slips_past_a_binding_that_was_acknowledged() {
    let mut setup = on_disk();
    let mut server = setup.start();
    let mut client = server.client();
    let _ = client.send(upload("/demo/-/modules/checks", guest("rejects_bad"))).expect(201);
    create(&mut client, "/demo/s", "application/json");
    for life in 0..8u32 {
        // Bad records from several connections all the time; at some moment the bind is answered, and from then on none
        // of those that begin may be stored.
        let address = server.address();
        let (bound_at, accepted) = thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(move || {
                        let Ok(mut connection) = Connection::open(address) else { return Vec::new() };
                        let mut accepted = Vec::new();
                        loop {
                            let begun = Instant::now();
                            match connection.send(&post("/demo/s", json!({"qty": 0}))) {
                                Ok(response) if response.status == 204 => accepted.push(begun),
                                Ok(response) => assert_eq!(response.status, 422, "{response:?}"),
                                Err(_) => return accepted,
                            }
                        }
                    })
                })
                .collect();
            let _ = client.send(bind("v", "checks", "validator", "**")).expect(201);
            let bound_at = Instant::now();
            thread::sleep(Duration::from_millis(u64::from(10 * life)));
            server.signal(Signal::KILL);
            (bound_at, writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect::<Vec<_>>())
        });
        assert!(accepted.iter().all(|begun| *begun < bound_at), "{life}: stored although it was bound");
        server.kill();
        server = setup.start();
        client = server.client();
        assert_eq!(client.send(post("/demo/s", json!({"qty": 0}))).expect(422).code(), "record_rejected");
        let _ = client.send(Request::delete("/demo/-/bindings/v")).expect(204);
    }
}
