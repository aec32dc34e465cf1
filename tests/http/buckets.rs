//! Buckets, and the list of what is in them.

use serde_json::{Value, json};
use weir_testkit::{Client, Request};

use crate::{append, create, in_memory, on_disk};

#[test]
fn a_bucket_is_created_described_and_deleted() {
    let server = in_memory().start();
    let mut client = server.client();
    assert_eq!(client.send(Request::get("/orders")).expect(404).code(), "bucket_not_found");
    let created = client.send(Request::put("/orders")).expect(201).json();
    assert_eq!(client.send(Request::put("/orders")).expect(200).json(), created);
    assert_eq!((&created["name"], &created["streams"]), (&"orders".into(), &0.into()), "{created}");

    // Over all groups: many names, so that every group has some.
    for number in 0..20 {
        create(&mut client, &format!("/orders/{number}"));
    }
    assert_eq!(client.send(Request::get("/orders")).expect(200).json()["streams"], 20);
    assert_eq!(client.send(Request::delete("/orders")).expect(409).code(), "bucket_busy");
    // A refused deletion changes nothing: the bucket takes streams as before.
    create(&mut client, "/orders/20");
    for number in 0..21 {
        let _ = client.send(Request::delete(&format!("/orders/{number}"))).expect(204);
    }
    let _ = client.send(Request::delete("/orders")).expect(204);
    let _ = client.send(Request::delete("/orders")).expect(404);
    let _ = client.send(Request::get("/orders")).expect(404);
    // The name is free again.
    let _ = client.send(Request::put("/orders")).expect(201);
}

#[test]
fn a_bucket_comes_to_be_with_its_first_stream_unless_configured_otherwise() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/implied/a");
    assert_eq!(client.send(Request::get("/implied")).expect(200).json()["streams"], 1);

    let server = in_memory().env("WEIR_BUCKETS_AUTO_CREATE", false).start();
    let mut client = server.client();
    let stream = Request::put("/explicit/a").header("Content-Type", "text/plain");
    assert_eq!(client.send(stream.clone()).expect(404).code(), "bucket_not_found");
    let _ = client.send(Request::put("/explicit")).expect(201);
    let _ = client.send(stream).expect(201);
}

#[test]
fn bucket_names_are_checked() {
    let server = in_memory().start();
    let mut client = server.client();
    for name in ["Upper", "_x", "-x", "a.b", "v1", &"b".repeat(65)] {
        let refused = client.send(Request::put(&format!("/{name}")));
        assert_eq!((refused.status, refused.code().as_str()), (400, "bucket_name_invalid"), "{name}");
    }
    let _ = client.send(Request::put(&format!("/{}", "b".repeat(64)))).expect(201);
}

#[test]
fn a_listing_is_paged_in_the_order_of_names() {
    let server = in_memory().start();
    let mut client = server.client();
    let mut names: Vec<String> = (0..25).map(|number| format!("a/{number:02}")).collect();
    names.extend(["b".to_owned(), "a".to_owned(), "a/".to_owned() + "é"]);
    for name in &names {
        create(&mut client, &format!("/list/{}", name.replace('é', "%C3%A9")));
    }
    names.sort();
    for limit in [1, 7, 28, 1000] {
        assert_eq!(all_names(&mut client, "", limit), names, "pages of {limit}");
    }
    let below: Vec<String> = names.iter().filter(|name| name.starts_with("a/")).cloned().collect();
    assert_eq!(all_names(&mut client, "a%2F", 10), below);
    assert!(all_names(&mut client, "nothing", 10).is_empty());
    for query in ["limit=0", "limit=1001", "limit=x", "after=a", "after="] {
        let _ = client.send(Request::get(&format!("/list/-/streams?{query}"))).expect(400);
    }
    let _ = client.send(Request::get("/nobucket/-/streams")).expect(404);
}

#[test]
fn a_listing_says_what_a_head_would() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/list/plain");
    let tail = append(&mut client, "/list/plain", "four");
    let _ = client.send(Request::put("/list/ttl").header("Stream-TTL", 60).body("application/json", "[1]")).expect(201);
    let _ = client.send(Request::put("/list/closed").header("Stream-Closed", "true")).expect(201);
    let expires = Request::put("/list/expires").header("Stream-Expires-At", "2099-01-01T00:00:00Z");
    let _ = client.send(expires).expect(201);
    let listing = client.send(Request::get("/list/-/streams")).expect(200).json();
    let row = |name: &str| {
        let rows = listing["streams"].as_array().expect("rows");
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name} in {listing}")).clone()
    };
    let plain = row("plain");
    assert_eq!((&plain["content_type"], &plain["next_offset"]), (&"text/plain".into(), &tail.into()), "{plain}");
    assert_eq!((&plain["closed"], &plain["ttl"]), (&false.into(), &Value::Null), "{plain}");
    assert!(plain["created"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{plain}");
    assert_eq!((&row("ttl")["ttl"], &row("ttl")["content_type"]), (&60.into(), &"application/json".into()));
    assert_eq!(row("closed")["closed"], true);
    assert_eq!(row("expires")["expires_at"], "2099-01-01T00:00:00Z");
    // Deleted streams are not listed.
    let _ = client.send(Request::delete("/list/closed")).expect(204);
    assert_eq!(all_names(&mut client, "", 100), ["expires", "plain", "ttl"]);
}

/// All names with `prefix` (encoded), page by page.
fn all_names(client: &mut Client, prefix: &str, limit: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = Request::get(&format!("/list/-/streams?prefix={prefix}&limit={limit}{after}"));
        let page = client.send(page).expect(200).json();
        let rows = page["streams"].as_array().expect("rows");
        assert!(rows.len() <= limit, "{page}");
        names.extend(rows.iter().map(|row| row["name"].as_str().expect("a name").to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    names.sort();
    names
}

#[test]
fn buckets_are_listed_page_by_page() {
    let server = in_memory().start();
    let mut client = server.client();
    for name in ["b", "a", "c", "d-e"] {
        let _ = client.send(Request::put(&format!("/{name}"))).expect(201);
    }
    let _ = client.send(Request::delete("/c")).expect(204);
    let mut page = |query: &str| {
        let page = client.send(Request::get(&format!("/-/buckets{query}"))).expect(200).json();
        let names = page["buckets"].as_array().expect("rows").iter().map(|row| {
            assert!(row["created"].as_str().is_some_and(|at| at.ends_with('Z')), "{row}");
            row["name"].as_str().expect("a name").to_owned()
        });
        (names.collect::<Vec<_>>().join(" "), page["next"].clone())
    };
    assert_eq!(page(""), ("a b d-e".into(), Value::Null));
    assert_eq!(page("?limit=2"), ("a b".into(), "b".into()));
    assert_eq!(page("?limit=2&after=b"), ("d-e".into(), Value::Null));
    assert_eq!(page("?after=z"), (String::new(), Value::Null));
    let _ = client.send(Request::get("/-/buckets?limit=0")).expect(400);
}

#[test]
fn a_bucket_says_how_much_it_keeps_and_keeps_that_over_a_restart() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    let put = |body: &str| Request::put("/kept").body("application/json", body);
    let both = json!({"age_s": 3600, "bytes": 1000});
    let created = client.send(put(r#"{"retention":{"age_s":3600,"bytes":1000}}"#)).expect(201).json();
    assert_eq!(created["retention"], both);
    // What is not said stays as it is.
    for request in [Request::put("/kept"), put("{}"), Request::get("/kept")] {
        assert_eq!(client.send(request).expect(200).json()["retention"], both);
    }
    for body in ["[]", r#"{"retention":7}"#, r#"{"retention":{"age_s":0}}"#, r#"{"keep":{}}"#] {
        assert_eq!(client.send(put(body)).expect(422).code(), "bucket_invalid", "{body}");
    }
    assert_eq!(client.send(put(r#"{"retention":{"bytes":7}}"#)).expect(200).json()["retention"], json!({"bytes": 7}));
    server.kill();
    let server = setup.start();
    let mut client = server.client();
    assert_eq!(client.send(Request::get("/kept")).expect(200).json()["retention"], json!({"bytes": 7}));
    let unlimited = client.send(put(r#"{"retention":null}"#)).expect(200).json();
    assert_eq!(unlimited.get("retention"), None);
}
