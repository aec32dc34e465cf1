//! What pages of other origins may do, and what stored bytes may do in this one.

use std::collections::BTreeSet;

use serde_json::Value;
use weir_testkit::{Request, Response};

use crate::{append, create, in_memory};

fn allowed(response: &Response) -> Option<&str> {
    response.header("access-control-allow-origin")
}

#[test]
fn pages_may_use_streams_and_not_what_operators_do() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/demo/s");
    let from_a_page = |request: Request| request.header("Origin", "https://page.example");
    assert_eq!(allowed(&client.send(from_a_page(Request::get("/demo/s")))), Some("*"));
    let preflight = |target: &str| {
        let asked = Request::new("OPTIONS", target).header("Access-Control-Request-Method", "PUT");
        from_a_page(asked)
    };
    assert_eq!(allowed(&client.send(preflight("/demo/s")).expect(204)), Some("*"));
    for target in ["/demo/-/modules/m", "/demo/-/bindings/b", "/demo/-/streams", "/-/buckets", "/demo"] {
        assert_eq!(allowed(&client.send(preflight(target)).expect(204)), None, "{target}");
        assert_eq!(allowed(&client.send(from_a_page(Request::get(target)))), None, "{target}");
    }
}

#[test]
fn pages_may_read_every_field_that_the_description_has() {
    // Any page may read the first; what the others say is not for it.
    let others = ["Cache-Control", "Accept-Encoding", "Allow", "X-Accel-Buffering"];
    let description: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).expect("JSON");
    let described = description["components"]["headers"].as_object().expect("fields").keys();
    let described = described.map(|name| name.split('.').next().unwrap_or(name));
    let described: BTreeSet<&str> = described.filter(|name| !others.contains(name)).collect();
    let server = in_memory().start();
    let answer = server.client().send(Request::get("/demo/s").header("Origin", "https://page.example")).expect(404);
    let exposed = answer.header("access-control-expose-headers").expect("a list");
    assert_eq!(exposed.split(", ").collect::<BTreeSet<_>>(), described);
}

#[test]
fn an_origin_that_is_named_may_do_what_operators_do() {
    let server = in_memory().env("WEIR_HTTP_CORS_ORIGINS", "https://console.example").start();
    let mut client = server.client();
    let response = client.send(Request::get("/demo/-/modules").header("Origin", "https://console.example"));
    assert_eq!(allowed(&response), Some("https://console.example"));
}

#[test]
fn requests_by_another_name_are_refused() {
    let server = in_memory().env("WEIR_HTTP_HOSTS", "weir.example, other.example").start();
    let port = server.address().port();
    let mut statuses = Vec::new();
    for host in ["localhost", "127.0.0.1", "[::1]", "weir.example", "OTHER.example", "evil.example"] {
        let mut connection = server.connect();
        let request = Request::put(&format!("/hosts/{}", statuses.len())).header("Connection", "close");
        connection.write(&request.to_bytes(&format!("{host}:{port}"))).expect("the request is written");
        let response = connection.read_response(false).expect("an answer");
        if response.status == 421 {
            assert_eq!(response.code(), "host_unknown");
            assert!(response.text().contains("http.hosts"), "{response:?}");
        }
        statuses.push(response.status);
    }
    assert_eq!(statuses, [201, 201, 201, 201, 201, 421]);
}

#[test]
fn stored_bytes_are_never_a_page_of_this_origin() {
    let server = in_memory().start();
    let mut client = server.client();
    let types = [
        ("text/html; charset=utf-8", true),
        ("image/svg+xml", true),
        ("text/plain", false),
        ("application/json", false),
    ];
    for (number, (content_type, is_saved)) in types.into_iter().enumerate() {
        let target = format!("/demo/{number}");
        let _ = client.send(Request::put(&target).header("Content-Type", content_type)).expect(201);
        let page = client.send(Request::get(&target)).expect(200);
        assert_eq!(page.header("content-security-policy"), Some("sandbox; default-src 'none'"));
        assert_eq!(page.header("content-disposition"), is_saved.then_some("attachment"), "{content_type}");
    }
}

#[test]
fn names_that_could_command_a_terminal_are_refused() {
    let server = in_memory().start();
    let mut client = server.client();
    for target in ["/demo/a%0Ab", "/demo/a%1B%5B2Jb", "/demo/a%7F", "/demo/a%C2%9Bb"] {
        let refused = client.send(Request::put(target).header("Content-Type", "text/plain")).expect(400);
        assert_eq!(refused.code(), "stream_name_invalid", "{target}");
    }
    create(&mut client, "/demo/%C2%A0");
    append(&mut client, "/demo/%C2%A0", "fine");
}

#[test]
fn a_preflight_allows_whatever_fields_are_asked_for() {
    let server = in_memory().start();
    let mut client = server.client();
    for fields in ["cache-control", "traceparent, x-request-id", "authorization,cache-control,last-event-id"] {
        let preflight = Request::new("OPTIONS", "/demo/s")
            .header("Origin", "https://page.example")
            .header("Access-Control-Request-Method", "GET")
            .header("Access-Control-Request-Headers", fields);
        let answer = client.send(preflight).expect(204);
        assert_eq!(answer.header("access-control-allow-headers"), Some(fields));
        assert_eq!(allowed(&answer), Some("*"));
    }
}

#[test]
fn several_origins_may_be_named_and_send_credentials() {
    let server = in_memory().env("WEIR_HTTP_CORS_ORIGINS", "https://a.example, https://b.example").start();
    let mut client = server.client();
    create(&mut client, "/demo/s");
    for (origin, is_named) in [("https://a.example", true), ("https://b.example", true), ("https://c.example", false)] {
        let answer = client.send(Request::get("/demo/s").header("Origin", origin)).expect(200);
        assert_eq!(allowed(&answer), is_named.then_some(origin));
        assert_eq!(answer.header("access-control-allow-credentials"), is_named.then_some("true"));
        assert_eq!(answer.header("vary"), Some("origin"), "a cache must not give one page's answer to another");
    }
    assert_eq!(allowed(&client.send(Request::get("/demo/s")).expect(200)), None);
}

#[test]
fn a_location_is_what_clients_call_the_server_by() {
    let location = |server: &weir_testkit::Server, target: &str, forwarded: bool| {
        let mut request = Request::put(target).header("Content-Type", "text/plain");
        if forwarded {
            request = request
                .header("X-Forwarded-Proto", "https")
                .header("X-Forwarded-Host", "streams.example")
                .header("X-Forwarded-Prefix", "/ds");
        }
        let created = server.client().send(request).expect(201);
        created.header("location").expect("a location").to_owned()
    };
    let proxied = in_memory().env("WEIR_HTTP_TRUSTED_PROXIES", "127.0.0.1").start();
    assert_eq!(location(&proxied, "/demo/a", true), "https://streams.example/ds/demo/a");
    assert_eq!(location(&proxied, "/made", true), "https://streams.example/ds/made");
    let plain = in_memory().start();
    assert_eq!(location(&plain, "/demo/a", true), format!("{}/demo/a", plain.url()), "anybody can say such things");
    let public = in_memory().env("WEIR_HTTP_PUBLIC_URL", "https://example.com/ds").start();
    assert_eq!(location(&public, "/demo/a", false), "https://example.com/ds/demo/a");
}

#[test]
fn what_somebody_had_to_show_a_credential_for_is_kept_for_them_alone() {
    let kept = |setup: weir_testkit::Setup, request: Request| {
        let mut setup = setup;
        let server = setup.start();
        let mut client = server.client();
        create(&mut client, "/demo/s");
        append(&mut client, "/demo/s", "x");
        client.send(request).expect(200).header("cache-control").expect("a header").to_owned()
    };
    let page = || Request::get("/demo/s?offset=-1");
    assert!(kept(in_memory(), page()).starts_with("public, max-age=60"));
    assert!(kept(in_memory(), page().header("Authorization", "Bearer x")).starts_with("private, max-age=60"));
    assert!(kept(in_memory().env("WEIR_HTTP_CACHE", "private"), page()).starts_with("private, max-age=60"));
    assert_eq!(kept(in_memory().env("WEIR_HTTP_CACHE", "no-store"), page()), "no-store");
    // Caches make a `GET` of a `HEAD` that asks for the tail.
    assert_eq!(kept(in_memory(), Request::get("/demo/s")), "no-cache");
}
