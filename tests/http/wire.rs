//! The wire: protocols, pipelines, and clients that are slow, hostile or mad.

use std::process::Command;
use std::time::Duration;

use weir_testkit::{Connection, Request};

use crate::{append, create, in_memory, read};

const TARGET: &str = "/demo/wire";

#[test]
fn http2_with_prior_knowledge_is_spoken() {
    let server = in_memory().start();
    let url = format!("{}{TARGET}", server.url());
    let curl = |args: &[&str]| {
        let run =
            Command::new("curl").args(["--silent", "--show-error", "--http2-prior-knowledge"]).args(args).output();
        let run = run.unwrap_or_else(|e| panic!("curl is needed to speak HTTP/2: {e}"));
        assert!(run.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8_lossy(&run.stdout).into_owned()
    };
    let code = ["--output", "/dev/null", "--write-out", "%{http_version} %{http_code}"];
    let status = |args: &[&str]| curl(&[&code[..], args].concat());
    assert_eq!(status(&["--request", "PUT", "--header", "Content-Type: text/plain", &url]), "2 201");
    let large = "x".repeat(300_000);
    assert_eq!(status(&["--header", "Content-Type: text/plain", "--data-binary", "small", &url]), "2 204");
    let body = file_with(&large);
    let data = format!("@{}", body.path().display());
    assert_eq!(status(&["--header", "Content-Type: text/plain", "--data-binary", &data, &url]), "2 204");
    assert_eq!(curl(&[&url]), format!("small{large}"));
    assert_eq!(status(&["--head", &url]), "2 200");
    assert_eq!(status(&[&format!("{}/demo/none", server.url())]), "2 404");
    // A live read over HTTP/2 ends with its stream.
    assert_eq!(status(&["--request", "POST", "--header", "Stream-Closed: true", &url]), "2 204");
    let events = curl(&["--no-buffer", &format!("{url}?offset=-1&live=sse")]);
    assert!(events.contains("streamClosed"), "{events:.200}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = in_memory().start();
    create(&mut server.client(), TARGET);
    let mut connection = server.connect();
    let mut bytes = Vec::new();
    for number in 0..100 {
        bytes.extend(Request::post(TARGET).body("text/plain", format!("{number};")).to_bytes("localhost"));
    }
    bytes.extend(Request::head(TARGET).to_bytes("localhost"));
    bytes.extend(Request::get(TARGET).to_bytes("localhost"));
    connection.write(&bytes).expect("all requests are written");
    let mut tails = Vec::new();
    for _ in 0..100 {
        let answer = connection.read_response(false).expect("an answer").expect(204);
        tails.push(answer.next_offset().to_owned());
    }
    assert!(tails.is_sorted(), "{tails:?}");
    let head = connection.read_response(true).expect("an answer").expect(200);
    assert_eq!(head.next_offset(), tails[99]);
    let all: String = (0..100).map(|number| format!("{number};")).collect();
    assert_eq!(connection.read_response(false).expect("an answer").expect(200).text(), all);
}

#[test]
fn a_head_that_comes_byte_by_byte_is_cut_off() {
    let server = in_memory().env("WEIR_HTTP_HEADER_READ_TIMEOUT_MS", 400).start();
    create(&mut server.client(), TARGET);
    let slow = server.connect();
    let mut writer = slow.socket().try_clone().expect("a second handle");
    let dripping = std::thread::spawn(move || {
        use std::io::Write as _;
        let head = format!("GET {TARGET} HTTP/1.1\r\nHost: localhost\r\nX-Slow: {}", "y".repeat(4000));
        // Each byte is progress; only all of them together would be a head.
        head.bytes()
            .take_while(|byte| {
                std::thread::sleep(Duration::from_millis(20));
                writer.write_all(&[*byte]).is_ok()
            })
            .count()
    });
    let mut slow = slow;
    assert!(slow.ends_within(Duration::from_secs(10)), "the server waits for a head that never ends");
    assert!(dripping.join().expect("the dripping") < 1000);
    // Others are served meanwhile, and a connection that says nothing at all is not kept forever either.
    assert_eq!(read(&mut server.client(), TARGET), "");
    assert!(server.connect().ends_within(Duration::from_secs(10)), "a connection that says nothing is kept");
}

#[test]
fn random_bytes_hurt_nobody() {
    let mut server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    append(&mut client, TARGET, "safe");
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let beginnings: [&[u8]; 6] = [
        b"",
        b"GET ",
        b"POST /demo/wire HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        b"GET /\0 HTTP/1.1\r\n\r\n",
    ];
    for round in 0..300 {
        let mut bytes = beginnings[round % beginnings.len()].to_vec();
        bytes.extend((0..(round * 13) % 3000).map(|_| byte()));
        let mut connection = server.connect();
        // The server may have hung up already.
        let _ = connection.write(&bytes);
    }
    assert!(server.is_running());
    assert_eq!(read(&mut client, TARGET), "safe");
}

#[test]
fn a_request_of_two_lengths_is_one_request_at_most() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let smuggled = "0\r\n\r\nPOST /demo/wire HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nsmuggled";
    let lengths = [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked", smuggled.len()),
        "Content-Length: 5\r\nContent-Length: 6".to_owned(),
        "Content-Length: 5, 6".to_owned(),
        "Content-Length: +5".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
        "Transfer-Encoding: chunked, identity".to_owned(),
        "Transfer-Encoding : chunked".to_owned(),
    ];
    for length in lengths {
        let mut connection = server.connect();
        let head = format!(
            "POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n{length}\r\n\r\n{smuggled}"
        );
        connection.write(head.as_bytes()).expect("the request is written");
        let answer = connection.read_response(false);
        assert!(answer.as_ref().is_ok_and(|answer| answer.status == 400), "{length}: {answer:?}");
        assert!(connection.ends_within(Duration::from_secs(10)), "{length}: the connection goes on");
    }
    assert_eq!(read(&mut client, TARGET), "");
}

#[test]
fn heads_have_a_limit() {
    let server = in_memory().start();
    create(&mut server.client(), TARGET);
    for head in [
        format!("GET {TARGET}?x={} HTTP/1.1\r\nHost: localhost\r\n\r\n", "y".repeat(200_000)),
        format!("GET {TARGET} HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "y".repeat(200_000)),
        format!("GET {TARGET} HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(2000)),
    ] {
        let mut connection = server.connect();
        // The server may answer, and hang up, before it was all written.
        let _ = connection.write(head.as_bytes());
        if let Ok(answer) = connection.read_response(false) {
            assert!(matches!(answer.status, 400 | 414 | 431), "{answer:?}");
        }
        assert!(connection.ends_within(Duration::from_secs(10)), "the connection goes on");
    }
    assert_eq!(read(&mut server.client(), TARGET), "");
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let server = in_memory().env("WEIR_HTTP_CONNECTIONS_MAX", 4).start();
    let mut kept: Vec<Connection> = (0..4).map(|_| server.connect()).collect();
    for connection in &mut kept {
        let _ = connection.send(&Request::get("/demo/none")).expect("an answer").expect(404);
    }
    let refused = server.connect().send(&Request::get("/demo/none")).expect("an answer").expect(503);
    assert_eq!((refused.code().as_str(), refused.header("connection")), ("unavailable", Some("close")));
    assert!(refused.header("retry-after").is_some());
    kept.pop();
    crate::wait_until("room for a connection", || {
        server.connect().send(&Request::get("/demo/none")).is_ok_and(|answer| answer.status == 404)
    });
}

#[test]
fn a_connection_is_closed_when_the_client_asks() {
    let server = in_memory().start();
    let mut connection = server.connect();
    let request = Request::get("/demo/none").header("Connection", "close");
    let _ = connection.send(&request).expect("an answer").expect(404);
    assert!(connection.ends_within(Duration::from_secs(5)));
    let mut old = server.connect();
    old.write(b"GET /demo/none HTTP/1.0\r\n\r\n").expect("the request is written");
    let _ = old.read_response(false).expect("an answer").expect(404);
    assert!(old.ends_within(Duration::from_secs(5)));
}

fn file_with(content: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), content).expect("the file can be written");
    file
}

#[test]
fn a_request_is_clear_about_whom_it_calls_and_what_it_means() {
    let server = in_memory().start();
    create(&mut server.client(), "/demo/s");
    let status = |head: &str| {
        let mut connection = server.connect();
        connection.write(format!("{head}Connection: close\r\n\r\n").as_bytes()).expect("the request is written");
        connection.read_response(false).expect("an answer").status
    };
    assert_eq!(status("GET /demo/s HTTP/1.1\r\n"), 400);
    assert_eq!(status("GET /demo/s HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n"), 400);
    assert_eq!(status("GET /demo/s HTTP/1.1\r\nHost: a b/c\r\n"), 400);
    assert_eq!(status("GET /demo/s HTTP/1.1\r\nHost:\r\n"), 400);
    assert_eq!(status("GET /demo/s HTTP/1.1\r\nHost: localhost\r\n"), 200);
    assert_eq!(status("GET /demo/s HTTP/1.0\r\n"), 200);
    let post = |fields: &str| format!("POST /demo/s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{fields}");
    assert_eq!(status(&post("Stream-Closed: false\r\nStream-Closed: true\r\n")), 400);
    assert_eq!(status(&post("Content-Type: text/plain\r\nContent-Type: text/html\r\nStream-Closed: true\r\n")), 400);
    assert_eq!(status(&post("Stream-Closed: true\r\n")), 204);
}
