//! Forks, where the official suite does not look.

use weir_testkit::Request;

use crate::{append, create, in_memory, on_disk, read, wait_until};

fn fork(target: &str, source: &str) -> Request {
    Request::put(target).header("Stream-Forked-From", source)
}

#[test]
fn an_offset_of_the_source_is_one_of_the_fork_and_their_tags_differ() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/demo/source");
    let one = append(&mut client, "/demo/source", "one");
    let made = client.send(fork("/branches/fork", "/demo/source")).expect(201);
    assert_eq!((made.next_offset(), made.header("content-type")), (one.as_str(), Some("text/plain")));
    assert!(made.header("location").is_some_and(|url| url.ends_with("/branches/fork")), "{made:?}");
    let [source_tail, fork_tail] = ["/demo/source", "/branches/fork"]
        .map(|target| append(&mut client, target, if target == "/demo/source" { "two" } else { "2wo" }));
    assert_eq!(source_tail[..20], fork_tail[..20], "the branches count alike");
    assert_ne!(source_tail, fork_tail, "but no offset stands for other bytes");
    let _ = client.send(Request::get(&format!("/branches/fork?offset={source_tail}"))).expect(410);
    let [source, fork] = ["/demo/source", "/branches/fork"]
        .map(|target| client.send(Request::get(&format!("{target}?offset={one}"))).expect(200));
    assert_eq!((source.text(), fork.text()), ("two".to_owned(), "2wo".to_owned()));
    let tag = source.header("etag").expect("a tag");
    assert_ne!(Some(tag), fork.header("etag"));
    let known = Request::get(&format!("/branches/fork?offset={one}")).header("If-None-Match", tag);
    let _ = client.send(known).expect(200);
}

#[test]
fn an_offset_of_an_earlier_fork_of_the_same_name_and_source_is_gone() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/demo/source");
    let anchor = append(&mut client, "/demo/source", "both ");
    let _ = client.send(fork("/demo/fork", "/demo/source")).expect(201);
    let earlier = append(&mut client, "/demo/fork", "first");
    let _ = client.send(Request::delete("/demo/fork")).expect(204);
    let _ = client.send(fork("/demo/fork", "/demo/source")).expect(201);
    append(&mut client, "/demo/fork", "other");
    for live in ["", "&live=sse", "&live=long-poll"] {
        let refused = client.send(Request::get(&format!("/demo/fork?offset={earlier}{live}"))).expect(410);
        assert_eq!(refused.code(), "offset_gone", "{live}");
    }
    let matched = Request::post("/demo/fork").body("text/plain", "late").header("If-Match", format!("\"{earlier}\""));
    let _ = client.send(matched).expect(412);
    let inherited = client.send(Request::get(&format!("/demo/fork?offset={anchor}"))).expect(200);
    assert_eq!(inherited.text(), "other", "what is inherited is the same in both");
}

#[test]
fn what_a_request_for_a_fork_may_not_say_is_refused_and_leaves_nothing() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/demo/source");
    append(&mut client, "/demo/source", "one");
    let at = |offset: &str| fork("/demo/fork", "/demo/source").header("Stream-Fork-Offset", offset);
    let other = append(&mut client, "/demo/source", "two").replace(|c: char| c.is_ascii_lowercase(), "0");
    for (request, status, code) in [
        (fork("/demo/fork", "demo/source"), 400, "header_invalid"),
        (fork("/demo/fork", "/demo"), 400, "header_invalid"),
        (fork("/demo/fork", "/demo/source?offset=-1"), 400, "header_invalid"),
        (fork("/demo/fork", "/demo//source"), 400, "stream_name_invalid"),
        (fork("/demo/fork", "/demo/none"), 404, "stream_not_found"),
        (Request::put("/demo/fork").header("Stream-Fork-Offset", "-1"), 400, "header_invalid"),
        (at("nonsense"), 400, "offset_malformed"),
        (at(&format!("{:020}{}", 1, &other[20..])), 410, "offset_gone"),
        (at("-1").header("Stream-Fork-Sub-Offset", "4"), 400, "fork_sub_offset_invalid"),
        (at("-1").header("Content-Type", "text/html"), 409, "content_type_mismatch"),
        (at("-1").header("If-Match", "*"), 412, "stream_absent"),
        (fork("/demo/source", "/demo/source"), 409, "config_conflict"),
    ] {
        let refused = client.send(request).expect(status);
        assert_eq!(refused.code(), code, "{refused:?}");
        let _ = client.send(Request::head("/demo/fork")).expect(404);
    }
    let _ = client.send(at("-1").header("If-None-Match", "*")).expect(201);
    let _ = client.send(at("-1").header("If-None-Match", "*")).expect(412);
    let _ = client.send(at("-1")).expect(200);
    // A stream that is asked for without a source is none of these.
    let plain = Request::put("/demo/fork").header("Content-Type", "text/plain");
    assert_eq!(client.send(plain).expect(409).code(), "config_conflict");
    let _ = client.send(Request::delete("/demo/fork")).expect(204);
    wait_until("no pin is left", || {
        client.send(Request::delete("/demo/source"));
        client.send(Request::head("/demo/source")).status == 404
    });
}

#[test]
fn a_gone_source_is_in_its_bucket_and_in_no_list_and_survives_a_restart() {
    let mut setup = on_disk();
    let mut server = setup.start();
    create(&mut server.client(), "/demo/source");
    append(&mut server.client(), "/demo/source", "kept ");
    let _ = server.client().send(fork("/branches/fork", "/demo/source")).expect(201);
    let _ = server.client().send(Request::delete("/demo/source")).expect(204);
    for _ in 0..2 {
        let mut client = server.client();
        let listed = client.send(Request::get("/demo/-/streams")).expect(200).json();
        assert_eq!(listed["streams"], serde_json::json!([]));
        assert_eq!(client.send(Request::delete("/demo")).expect(409).code(), "bucket_busy");
        for request in [
            Request::get("/demo/source"),
            Request::delete("/demo/source"),
            Request::get("/demo/source?offset=now&live=sse"),
            Request::post("/demo/source").body("text/plain", "x"),
            Request::post("/demo/-/trim/source?before=now"),
        ] {
            assert_eq!(client.send(request).expect(410).code(), "stream_gone");
        }
        assert_eq!(client.send(Request::put("/demo/source")).expect(409).code(), "stream_name_held");
        assert_eq!(client.send(fork("/branches/other", "/demo/source")).expect(409).code(), "stream_name_held");
        assert_eq!(read(&mut client, "/branches/fork"), "kept ");
        drop(client);
        drop(server);
        server = setup.start();
    }
    let mut client = server.client();
    let _ = client.send(Request::delete("/branches/fork")).expect(204);
    wait_until("the source goes with its last fork", || client.send(Request::head("/demo/source")).status == 404);
    let _ = client.send(Request::delete("/demo")).expect(204);
}
