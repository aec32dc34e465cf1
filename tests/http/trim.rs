//! Trimming: what it answers, what is seen of it, and who may do it.

use weir_testkit::{Client, Events, Request, Response};

use crate::{append, create, in_memory, on_disk, read};

const TARGET: &str = "/demo/a/s";

fn trim(client: &mut Client, query: &str) -> Response {
    client.send(Request::post(&format!("/demo/-/trim/a/s?{query}")))
}

/// Where the response says that the stream begins.
fn earliest(response: &Response) -> Option<&str> {
    response.header("stream-earliest-offset")
}

/// A stream of `one`, `two` and `three`, and the offset before each and after all.
fn three(client: &mut Client) -> [String; 4] {
    let start = create(client, TARGET).next_offset().to_owned();
    let [one, two, three] = ["one", "two", "three"].map(|text| append(client, TARGET, text));
    [start, one, two, three]
}

/// The same token, so many bytes later.
fn plus(offset: &str, bytes: u64) -> String {
    let (position, lineage) = offset.split_once('-').expect("a token");
    format!("{:020}-{lineage}", position.parse::<u64>().expect("a number") + bytes)
}

#[test]
fn a_trim_says_where_the_stream_begins_now_and_so_do_reads() {
    let server = in_memory().start();
    let mut client = server.client();
    let [start, one, two, tail] = three(&mut client);
    for target in [TARGET, "/demo/a/s?offset=-1"] {
        assert_eq!(earliest(&client.send(Request::get(target)).expect(200)), None);
    }
    let both = |response: &Response| (earliest(response).map(str::to_owned), response.next_offset().to_owned());
    // What begins there anyway; and once more what is trimmed already.
    for (before, begins) in [("-1", &start), (start.as_str(), &start), (&one, &one), (&one, &one), (&start, &one)] {
        let trimmed = trim(&mut client, &format!("before={before}")).expect(204);
        assert_eq!(both(&trimmed), (Some(begins.clone()), tail.clone()), "{before}");
        assert_eq!((trimmed.header("cache-control"), trimmed.body.len()), (Some("no-store"), 0));
    }
    let read_all = client.send(Request::get("/demo/a/s?offset=-1")).expect(200);
    assert_eq!((read_all.text().as_str(), earliest(&read_all)), ("twothree", Some(one.as_str())));
    let head = client.send(Request::head(TARGET)).expect(200);
    assert_eq!(both(&head), (Some(one.clone()), tail.clone()));
    let found = client.send(Request::put(TARGET).header("Content-Type", "text/plain")).expect(200);
    assert_eq!(earliest(&found), Some(one.as_str()));
    let page = client.send(Request::get(&format!("/demo/a/s?offset={two}"))).expect(200);
    assert_eq!((page.text().as_str(), earliest(&page)), ("three", Some(one.as_str())));
    let listed = client.send(Request::get("/demo/-/streams")).expect(200).json();
    assert_eq!(listed["streams"][0]["earliest_offset"], one.as_str());
    // A closed stream, and all of it; what is trimmed is gone, and the stream is there.
    let _ = client.send(Request::post(TARGET).header("Stream-Closed", "true")).expect(204);
    let trimmed = trim(&mut client, "before=now").expect(204);
    assert_eq!((both(&trimmed), trimmed.header("stream-closed")), ((Some(tail.clone()), tail.clone()), Some("true")));
    let empty = client.send(Request::get(TARGET)).expect(200);
    assert_eq!(
        (empty.text().as_str(), earliest(&empty), empty.header("stream-closed")),
        ("", Some(tail.as_str()), Some("true"))
    );
}

#[test]
fn reads_before_what_is_retained_are_told_where_it_begins() {
    let server = in_memory().start();
    let mut client = server.client();
    let [start, one, two, _] = three(&mut client);
    let (mut events, _) =
        Events::open(server.address(), &Request::get("/demo/a/s?offset=now&live=sse")).expect("opens");
    let control = events.next_event().expect("the connection holds").expect("an event").control();
    assert_eq!(control["upToDate"], true);
    let _ = trim(&mut client, &format!("before={two}")).expect(204);
    for offset in [start.clone(), one.clone(), plus(&start, 1)] {
        for live in ["", "&live=long-poll", "&live=sse"] {
            let refused = client.send(Request::get(&format!("/demo/a/s?offset={offset}{live}"))).expect(410);
            assert_eq!((refused.code().as_str(), earliest(&refused)), ("offset_trimmed", Some(two.as_str())), "{live}");
        }
    }
    let resumed = Request::get("/demo/a/s?offset=-1&live=sse").header("Last-Event-ID", &one);
    assert_eq!(client.send(resumed).expect(410).code(), "offset_trimmed");
    // Whoever is at the tail, or begins with what there is, goes on.
    append(&mut client, TARGET, "four");
    assert_eq!(events.next_event().expect("the connection holds").expect("an event").data, "four");
    let (mut events, head) =
        Events::open(server.address(), &Request::get("/demo/a/s?offset=-1&live=sse")).expect("an event stream");
    assert_eq!(earliest(&head), Some(two.as_str()));
    assert_eq!(events.next_event().expect("the connection holds").expect("an event").data, "threefour");
    let polled = client.send(Request::get("/demo/a/s?offset=-1&live=long-poll")).expect(200);
    assert_eq!((polled.text().as_str(), earliest(&polled)), ("threefour", Some(two.as_str())));
}

#[test]
fn what_cannot_be_trimmed_is_refused() {
    let server = in_memory().start();
    let mut client = server.client();
    let [start, one, _, tail] = three(&mut client);
    let (inside, beyond) = (plus(&one, 1), plus(&tail, 1));
    let other_life = format!("{}00000000", &one[..21]);
    let cases = [
        ("", 400, "query_invalid"),
        ("before=", 400, "offset_malformed"),
        ("before=3", 400, "offset_malformed"),
        (&format!("before={one}&before={one}"), 400, "query_invalid"),
        (&format!("before={one}&force=yes"), 400, "query_invalid"),
        (&format!("before={inside}"), 400, "offset_invalid"),
        (&format!("before={beyond}"), 400, "offset_invalid"),
        (&format!("before={other_life}"), 410, "offset_gone"),
    ];
    for (query, status, code) in cases {
        assert_eq!(trim(&mut client, query).expect(status).code(), code, "{query}");
    }
    let targets = [
        ("/demo/-/trim/none?before=now", 404, "stream_not_found"),
        ("/none/-/trim/s?before=now", 404, "stream_not_found"),
        ("/demo/-/trim/a/../s?before=now", 400, "stream_name_invalid"),
        ("/demo/-/trim/a%2Fs?before=now", 400, "path_malformed"),
        ("/Demo/-/trim/a/s?before=now", 400, "bucket_name_invalid"),
        ("/demo/-/trim?before=now", 404, "route_not_found"),
    ];
    for (target, status, code) in targets {
        assert_eq!(client.send(Request::post(target)).expect(status).code(), code, "{target}");
    }
    for method in ["GET", "PUT", "DELETE"] {
        let refused = client.send(Request::new(method, "/demo/-/trim/a/s?before=now")).expect(405);
        assert_eq!(
            (refused.code().as_str(), refused.header("allow")),
            ("method_not_allowed", Some("POST")),
            "{method}"
        );
    }
    assert_eq!(read(&mut client, TARGET), "onetwothree");
    // Another life begins at its own beginning.
    let _ = trim(&mut client, "before=now").expect(204);
    let _ = client.send(Request::delete(TARGET)).expect(204);
    let again = create(&mut client, TARGET);
    assert_eq!(earliest(&again), None);
    append(&mut client, TARGET, "again");
    assert_eq!(read(&mut client, TARGET), "again");
    assert_eq!(trim(&mut client, &format!("before={start}")).expect(410).code(), "offset_gone");
}

#[test]
fn pages_of_other_origins_see_where_a_stream_begins_and_trim_nothing() {
    let server = in_memory().start();
    let mut client = server.client();
    let [_, one, ..] = three(&mut client);
    let page = |request: Request| request.header("Origin", "https://page.example");
    let trimmed = client.send(page(Request::post(&format!("/demo/-/trim/a/s?before={one}"))));
    assert_eq!(trimmed.header("access-control-allow-origin"), None, "a page may not do what operators do");
    let read = client.send(page(Request::get(TARGET))).expect(200);
    let exposed = read.header("access-control-expose-headers").expect("what a page may see");
    assert!(exposed.contains("Stream-Earliest-Offset") && exposed.contains("Stream-Summary-From"), "{exposed}");
}

#[test]
fn what_was_trimmed_stays_so_after_a_restart() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    let [start, one, ..] = three(&mut client);
    let _ = trim(&mut client, &format!("before={one}")).expect(204);
    server.kill();
    let server = setup.start();
    let mut client = server.client();
    assert_eq!(read(&mut client, TARGET), "twothree");
    let refused = client.send(Request::get(&format!("/demo/a/s?offset={start}"))).expect(410);
    assert_eq!(earliest(&refused), Some(one.as_str()));
}
