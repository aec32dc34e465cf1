//! What a restart keeps: everything but connections.

use weir_testkit::{Client, Request, Response};

use crate::{append, create, metric, on_disk, read, wait_until};

fn produce(client: &mut Client, epoch: u64, seq: u64, text: &str) -> Response {
    let request = Request::post("/keep/producers").header("Producer-Id", "p").header("Producer-Epoch", epoch);
    client.send(request.header("Producer-Seq", seq).body("text/plain", text))
}

#[test]
fn streams_are_what_they_were() {
    let mut setup = on_disk().args(&["--shards", "2"]);
    let server = setup.start();
    let mut client = server.client();
    create(&mut client, "/keep/plain");
    let tail = append(&mut client, "/keep/plain", "text");
    let created =
        Request::put("/keep/ttl").header("Stream-TTL", 3600).body("application/json; charset=utf-8", "[1,{\"a\":2}]");
    let _ = client.send(created).expect(201);
    let expires = Request::put("/keep/expires").header("Stream-Expires-At", "2099-01-01T00:00:00Z");
    let _ = client.send(expires).expect(201);
    create(&mut client, "/keep/closed");
    let close = Request::post("/keep/closed").header("Stream-Closed", "true").body("text/plain", "end");
    let _ = client.send(close).expect(204);
    create(&mut client, "/keep/deleted");
    let _ = client.send(Request::delete("/keep/deleted")).expect(204);
    create(&mut client, "/keep/again");
    let old = append(&mut client, "/keep/again", "old");
    let _ = client.send(Request::delete("/keep/again")).expect(204);
    create(&mut client, "/keep/again");
    let _ = client.send(Request::post("/keep/plain").header("Stream-Seq", "b").body("text/plain", "!")).expect(204);
    let _ = client.send(Request::put("/empty")).expect(201);
    let before = state(&mut client);
    server.kill();

    for ends in ["stop", "kill"] {
        restart_and_compare(&mut setup, ends, &before);
    }
    let server = setup.start();
    let mut client = server.client();
    let page = client.send(Request::get(&format!("/keep/plain?offset={tail}"))).expect(200);
    assert_eq!(page.text(), "!");
    let regression = Request::post("/keep/plain").header("Stream-Seq", "a").body("text/plain", "?");
    assert_eq!(client.send(regression).expect(409).code(), "seq_regression");
    let late = client.send(Request::post("/keep/closed").body("text/plain", "late")).expect(409);
    assert_eq!(late.header("stream-closed"), Some("true"));
    let _ = client.send(Request::get("/keep/deleted")).expect(404);
    let _ = client.send(Request::get(&format!("/keep/again?offset={old}"))).expect(410);
    let _ = client.send(Request::delete("/empty")).expect(204);
}

/// Starts the server, compares what it says, and ends it.
fn restart_and_compare(setup: &mut weir_testkit::Setup, ends: &str, before: &[String]) {
    let server = setup.start();
    assert_eq!(state(&mut server.client()), before, "after a restart that follows a {ends}");
    match ends {
        "kill" => server.kill(),
        _ => {
            let exit = server.stop();
            assert_eq!(exit.code, Some(0), "{}", exit.log);
        }
    }
}

/// All that can be seen from outside, without what changes by looking.
fn state(client: &mut Client) -> Vec<String> {
    let mut state = Vec::new();
    for name in ["plain", "ttl", "expires", "closed", "deleted", "again"] {
        let head = client.send(Request::head(&format!("/keep/{name}")));
        let mut headers: Vec<_> = head.headers.into_iter().filter(|(name, _)| name != "date").collect();
        headers.sort();
        let body = client.send(Request::get(&format!("/keep/{name}")));
        state.push(format!("{name} {} {headers:?} {:?} {}", head.status, body.header("etag"), body.text()));
    }
    for target in ["/keep", "/empty", "/keep/-/streams"] {
        state.push(client.send(Request::get(target)).expect(200).text());
    }
    state
}

#[test]
fn producers_are_remembered() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    create(&mut client, "/keep/producers");
    for seq in 0..3 {
        let _ = produce(&mut client, 0, seq, &format!("a{seq};")).expect(200);
    }
    server.kill();

    let server = setup.start();
    let mut client = server.client();
    let again = produce(&mut client, 0, 2, "a2;").expect(204);
    assert_eq!((again.header("producer-epoch"), again.header("producer-seq")), (Some("0"), Some("2")));
    let _ = produce(&mut client, 0, 1, "a1;").expect(204);
    let gap = produce(&mut client, 0, 5, "a5;").expect(409);
    assert_eq!((gap.header("producer-expected-seq"), gap.header("producer-received-seq")), (Some("3"), Some("5")));
    let _ = produce(&mut client, 1, 1, "b1;").expect(400);
    let _ = produce(&mut client, 1, 0, "b0;").expect(200);
    assert_eq!(server.stop().code, Some(0));

    let server = setup.start();
    let mut client = server.client();
    let fenced = produce(&mut client, 0, 3, "a3;").expect(403);
    assert_eq!(fenced.header("producer-epoch"), Some("1"));
    let _ = produce(&mut client, 1, 0, "b0;").expect(204);
    let _ = produce(&mut client, 1, 1, "b1;").expect(200);
    assert_eq!(read(&mut client, "/keep/producers"), "a0;a1;a2;b0;b1;");
}

#[test]
fn the_number_of_shards_may_change() {
    let setup = on_disk();
    let mut expected: Vec<(String, String)> = Vec::new();
    for (life, shards) in ["2", "1", "3", "2"].into_iter().enumerate() {
        let server = setup.clone().args(&["--shards", shards]).start();
        let mut client = server.client();
        for (target, text) in &mut expected {
            assert_eq!(read(&mut client, target), *text, "{target} with {shards} shards");
            append(&mut client, target, &format!("{life};"));
            *text += &format!("{life};");
        }
        for number in 0..10 {
            let target = format!("/keep/{life}/{number}");
            create(&mut client, &target);
            expected.push((target, String::new()));
        }
        server.kill();
    }
}

#[test]
fn a_time_to_live_goes_on() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    let _ = client.send(Request::put("/keep/short").header("Stream-TTL", 1)).expect(201);
    let _ = client.send(Request::put("/keep/long").header("Stream-TTL", 3600)).expect(201);
    server.kill();
    let server = setup.start();
    // HEAD, because a read would put its end off; and the count of streams, which says that the end is recorded.
    let mut client = server.client();
    wait_until("the end of the stream", || client.send(Request::head("/keep/short")).status == 404);
    wait_until("the record of its end", || metric(&server, "weir_streams") == 1.0);
    server.kill();
    // Gone for good, and its name is free.
    let server = setup.start();
    let mut client = server.client();
    let _ = client.send(Request::head("/keep/short")).expect(404);
    create(&mut client, "/keep/short");
    let _ = client.send(Request::head("/keep/long")).expect(200);
}
