//! Bodies: too large, too slow, broken off, too deep.

use weir_testkit::Request;

use crate::{append, create, in_memory, read, wait_until};

const TARGET: &str = "/demo/body";
const BODY_BYTES_MAX: usize = 10_000;

#[test]
fn a_body_that_says_it_is_too_large_is_refused_before_it_comes() {
    let server = in_memory().env("WEIR_HTTP_BODY_BYTES_MAX", BODY_BYTES_MAX).start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let mut connection = server.connect();
    let head = "POST /demo/body HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 1000000000000\r\n\r\n";
    connection.write(head.as_bytes()).expect("the head is written");
    let refused = connection.read_response(false).expect("an answer without the body").expect(413);
    assert_eq!(refused.code(), "body_too_large");
    // The largest that is allowed is.
    append(&mut client, TARGET, &"x".repeat(BODY_BYTES_MAX));
    let _ = client.send(Request::post(TARGET).body("text/plain", vec![b'x'; BODY_BYTES_MAX + 1])).expect(413);
    assert_eq!(read(&mut client, TARGET).len(), BODY_BYTES_MAX);
}

#[test]
fn a_refusal_by_the_head_reaches_a_client_that_is_still_sending() {
    const BYTES: usize = 4 << 20;
    let server = in_memory().start();
    create(&mut server.client(), TARGET);
    let put = |target: &str| Request::put(target).body("text/plain", vec![b'x'; BYTES]);
    let post = |target: &str| Request::post(target).body("text/plain", vec![b'x'; BYTES]);
    for (request, code) in [
        (post(TARGET).header("Producer-Epoch", "x"), "header_invalid"),
        (put("/demo/fork").header("Stream-Forked-From", "nowhere"), "header_invalid"),
        (post("/demo/%00"), "stream_name_invalid"),
        (put("/demo/-/modules/Bad"), "module_name_invalid"),
        (put("/demo/-/nothing"), "route_not_found"),
    ] {
        let mut connection = server.connect();
        // In the time in which a server that does not listen any more would have hung up.
        for piece in request.to_bytes("localhost").chunks(BYTES / 20) {
            connection.write(piece).unwrap_or_else(|error| panic!("{code}: {error}"));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let refused = connection.read_response(false).unwrap_or_else(|error| panic!("{code}: {error}"));
        assert_eq!(refused.code(), code, "{refused:?}");
    }
}

#[test]
fn a_chunked_body_is_refused_as_soon_as_it_is_too_large() {
    let server = in_memory().env("WEIR_HTTP_BODY_BYTES_MAX", BODY_BYTES_MAX).start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let mut connection = server.connect();
    let head =
        "POST /demo/body HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.write(head.as_bytes()).expect("the head is written");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    for _ in 0..3 {
        connection.write(chunk.as_bytes()).expect("the server reads on");
    }
    // No end was sent: the server must not wait for it.
    let refused = connection.read_response(false).expect("an answer before the body's end").expect(413);
    assert_eq!(refused.code(), "body_too_large");
    assert_eq!(read(&mut client, TARGET), "");

    // A chunked body within the limit is an append like any other.
    let whole = "POST /demo/body HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\n\r\n";
    let mut connection = server.connect();
    connection.write(whole.as_bytes()).expect("the request is written");
    let _ = connection.read_response(false).expect("an answer").expect(204);
    assert_eq!(read(&mut client, TARGET), "abcdefg");
}

#[test]
fn a_body_that_stops_or_breaks_off_appends_nothing() {
    let server = in_memory().env("WEIR_HTTP_BODY_READ_TIMEOUT_MS", 300).start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let part =
        b"POST /demo/body HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhalf ";
    let mut stopped = server.connect();
    stopped.write(part).expect("a part is written");
    let refused = stopped.read_response(false).expect("an answer when nothing more comes").expect(408);
    assert_eq!(refused.code(), "body_timeout");

    let mut broken = server.connect();
    broken.write(part).expect("a part is written");
    drop(broken);
    append(&mut client, TARGET, "whole");
    assert_eq!(read(&mut client, TARGET), "whole");
}

#[test]
fn deeply_nested_json_is_refused_and_costs_the_server_nothing() {
    let mut server = in_memory().start();
    let mut client = server.client();
    let json = |body: &str| Request::post("/demo/json").body("application/json", body);
    let _ = client.send(Request::put("/demo/json").header("Content-Type", "application/json")).expect(201);
    let mut messages = Vec::new();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        // With the array around all messages it is as deep as common parsers take.
        let _ = client.send(json(&format!("[{}]", nested(127)))).expect(204);
        messages.push(nested(127));
        for depth in [128, 100_000] {
            let refused = client.send(json(&format!("[{}]", nested(depth)))).expect(400);
            assert_eq!(refused.code(), "json_invalid");
        }
        assert_eq!(client.send(json(&open.repeat(100_000))).expect(400).code(), "json_invalid", "{open} without end");
    }
    let _ = client.send(json(r#""\ud800""#)).expect(400);
    assert!(read(&mut client, "/demo/json") == format!("[{}]", messages.join(",")), "kept as it was written");
    assert!(server.is_running());
}

#[test]
fn json_messages_are_kept_as_they_were_written() {
    let server = in_memory().start();
    let mut client = server.client();
    let _ = client.send(Request::put("/demo/json").header("Content-Type", "application/json")).expect(201);
    let messages =
        ["1.0", "1e400", "-0", "\"\\u0041\\ud83d\\ude00\"", "{\"b\":1,\"a\":2,\"b\":3}", "{ \"x\" : [ ] }", "null"];
    let body = format!(" [ {} ] ", messages.join(" , "));
    let _ = client.send(Request::post("/demo/json").body("application/json", body)).expect(204);
    assert_eq!(read(&mut client, "/demo/json"), format!("[{}]", messages.join(",")));
    for wrong in ["[1,]", "[1 2]", "{\"a\":}", "\u{feff}[1]", "[1]x", "nul", "[\"\u{1}\"]", "01", "[]"] {
        assert_eq!(client.send(Request::post("/demo/json").body("application/json", wrong)).status, 400, "{wrong:?}");
    }
    let invalid_utf8 = Request::post("/demo/json").body("application/json", vec![b'"', 0xff, b'"']);
    let _ = client.send(invalid_utf8).expect(400);
}

#[test]
fn the_smallest_messages_are_as_many_as_fit() {
    let mut server = in_memory().start();
    let mut client = server.client();
    let _ = client.send(Request::put("/demo/json").header("Content-Type", "application/json")).expect(201);
    // 2 MiB is the largest body in memory.
    let body = format!("[{}1]", "1,".repeat((1 << 20) - 2));
    let _ = client.send(Request::post("/demo/json").body("application/json", body.clone())).expect(204);
    assert_eq!(read(&mut client, "/demo/json").len(), body.len());
    assert!(server.is_running());
}

#[test]
fn a_client_that_expects_to_be_asked_is_asked() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let mut connection = server.connect();
    let head = "POST /demo/body HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    connection.write(head.as_bytes()).expect("the head is written");
    assert_eq!(connection.read_head().expect("an interim answer").status, 100);
    connection.write(b"ok").expect("the body is written");
    let _ = connection.read_response(false).expect("an answer").expect(204);
    assert_eq!(read(&mut client, TARGET), "ok");
}

#[test]
fn uploads_that_are_abandoned_leave_nothing_behind() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let before = crate::metric(&server, "weir_connections_open");
    let part =
        b"POST /demo/body HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\nhalf ";
    let mut uploads: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for upload in &mut uploads {
        upload.write(part).expect("a part is written");
    }
    drop(uploads);
    wait_until("the end of all abandoned connections", || crate::metric(&server, "weir_connections_open") <= before);
    assert_eq!(crate::metric(&server, "weir_in_flight_bytes"), 0.0);
    assert_eq!(read(&mut client, TARGET), "");
}

#[test]
fn a_compressed_body_is_refused_and_not_stored() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/demo/plain");
    let requests = [
        Request::post("/demo/plain").body("text/plain", "x"),
        Request::put("/demo/new").body("text/plain", "x"),
        Request::put("/demo/-/modules/m").body("application/wasm", "x"),
    ];
    for request in requests {
        for coding in ["gzip", "rot13", "identity, br"] {
            let refused = client.send(request.clone().header("Content-Encoding", coding)).expect(415);
            assert_eq!(refused.code(), "content_encoding_unsupported");
            assert_eq!(refused.header("accept-encoding"), Some("identity"));
        }
    }
    let coded = "POST /demo/plain HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: gzip, chunked\r\n\r\n\
                 1\r\nx\r\n0\r\n\r\n";
    let mut connection = server.connect();
    connection.write(coded.as_bytes()).expect("the request is written");
    assert_eq!(connection.read_response(false).expect("an answer").status, 501);
    let plain = Request::post("/demo/plain").header("Content-Encoding", "identity").body("text/plain", "x");
    let _ = client.send(plain).expect(204);
    assert_eq!((read(&mut client, "/demo/plain").as_str(), client.send(Request::get("/demo/new")).status), ("x", 404));
}

#[test]
fn a_refusal_says_what_to_send_instead() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/demo/text");
    let form = Request::post("/demo/text").body("application/x-www-form-urlencoded", "hello");
    let detail = client.send(form).expect(409).json()["detail"].as_str().expect("a sentence").to_owned();
    for part in ["application/x-www-form-urlencoded", "-H 'Content-Type: text/plain'"] {
        assert!(detail.contains(part), "{detail}");
    }
    let sequenced = |seq: &str| Request::post("/demo/text").header("Stream-Seq", seq).body("text/plain", "x");
    let _ = client.send(sequenced("2")).expect(204);
    let refused = client.send(sequenced("1")).expect(409);
    assert!(refused.text().contains("Sequence conflict"), "official clients look for it: {}", refused.text());
}
