//! What pages of other origins may do, and what stored bytes may do in this one.

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
fn an_origin_that_is_named_may_do_what_operators_do() {
    let server = in_memory().env("WEIR_HTTP_CORS_ORIGIN", "https://console.example").start();
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
