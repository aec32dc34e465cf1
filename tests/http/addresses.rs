//! Which addresses are streams, and which are the same stream.

use weir_testkit::Request;

use crate::{append, create, in_memory, read};

#[test]
fn all_forms_of_an_address_are_one_stream() {
    let server = in_memory().start();
    let mut client = server.client();
    let forms = ["/v1/stream/forms/a", "/v1/streams/forms/a", "/default/forms/a", "/v1/stream/forms/%61"];
    create(&mut client, forms[0]);
    for (number, form) in forms.iter().enumerate() {
        append(&mut client, form, &number.to_string());
        assert_eq!(client.send(Request::put(form).header("Content-Type", "text/plain")).status, 200, "{form}");
    }
    for form in forms {
        assert_eq!(read(&mut client, form), "0123", "{form}");
    }
    // Another bucket, another stream.
    assert_eq!(client.send(Request::get("/other/forms/a")).status, 404);
}

#[test]
fn a_location_leads_back_to_the_stream() {
    let server = in_memory().start();
    let mut client = server.client();
    let created = create(&mut client, "/demo/orders/7");
    assert_eq!(created.header("location"), Some(format!("{}/demo/orders/7", server.url()).as_str()));
}

#[test]
fn names_may_hold_dots_and_other_scripts() {
    let server = in_memory().start();
    let mut client = server.client();
    for target in
        ["/demo/doc/.updates", "/demo/a..b", "/demo/...", "/demo/%E6%97%A5%E6%9C%AC", "/demo/a%20b", "/demo/x/-"]
    {
        create(&mut client, target);
        append(&mut client, target, target);
        assert_eq!(read(&mut client, target), target);
    }
}

#[test]
fn what_is_no_address_is_refused() {
    let server = in_memory().start();
    let mut client = server.client();
    let long = format!("/demo/{}", "n".repeat(1025));
    let cases = [
        ("/demo/a%2Fb", 400, "path_malformed"),
        ("/demo%2Fa", 400, "path_malformed"),
        ("/demo/a%", 400, "path_malformed"),
        ("/demo/%ff", 400, "path_malformed"),
        ("/demo/a%00", 400, "stream_name_invalid"),
        ("/demo/a/../b", 400, "stream_name_invalid"),
        ("/demo/%2e%2e/b", 400, "stream_name_invalid"),
        ("/demo/a//b", 400, "stream_name_invalid"),
        (long.as_str(), 400, "stream_name_invalid"),
        ("/Demo/a", 400, "bucket_name_invalid"),
        ("/demo/-/other", 404, "route_not_found"),
        ("/demo/__ds/x", 404, "route_not_found"),
        ("/v1/stream/__ds/subscriptions/x", 400, "subscription_invalid"),
        ("/v1/stream/__ds/subscriptions", 404, "route_not_found"),
        ("/-/nothing", 404, "route_not_found"),
        ("/v1/other/x", 404, "route_not_found"),
        ("/", 405, "method_not_allowed"),
    ];
    for (target, status, code) in cases {
        let refused = client.send(Request::put(target).header("Content-Type", "text/plain"));
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{target}");
    }
    // An encoded form of a reserved segment is as reserved as the plain one.
    for target in ["/demo/%5F%5Fds/x", "/demo/%2D/streams/x"] {
        assert_eq!(client.send(Request::put(target).header("Content-Type", "text/plain")).status, 404, "{target}");
    }
}

#[test]
fn a_method_that_an_address_does_not_have_is_named_in_allow() {
    let server = in_memory().start();
    let mut client = server.client();
    for (method, target) in
        [("PATCH", "/demo/a"), ("TRACE", "/demo/a"), ("POST", "/demo"), ("DELETE", "/demo/-/streams")]
    {
        let refused = client.send(Request::new(method, target)).expect(405);
        let allow = refused.header("allow").unwrap_or_else(|| panic!("no Allow: {refused:?}"));
        assert!(allow.contains("GET"), "{method} {target}: {allow}");
        assert_eq!(refused.code(), "method_not_allowed");
    }
}

#[test]
fn every_answer_is_safe_for_browsers_and_says_what_went_wrong() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/demo/a");
    let requests = [
        (Request::get("/demo/a"), 200),
        (Request::get("/demo/none"), 404),
        (Request::get("/"), 200),
        (Request::get("/.well-known/nothing"), 404),
        (Request::get("/demo/a?offset=nonsense"), 400),
        (Request::post("/demo/a").body("application/json", "1"), 409),
        (Request::put("/demo/f").header("Stream-Forked-From", "/demo/none"), 404),
        (Request::new("OPTIONS", "/demo/a").header("Origin", "https://example.org"), 204),
    ];
    for (request, status) in requests {
        let answer = client.send(request).expect(status);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
        assert!(answer.header("cross-origin-resource-policy").is_some(), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{answer:?}");
        if status >= 400 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
            let document = answer.json();
            assert_eq!(document["status"], status, "{document}");
            for member in ["type", "title", "detail", "code"] {
                assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {document}");
            }
        }
    }
}

#[test]
fn a_server_says_what_it_is_and_whether_it_serves() {
    let server = in_memory().start();
    let mut client = server.client();
    let about = client.send(Request::get("/")).expect(200);
    assert_eq!(about.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(about.text().starts_with("Weir ") && about.text().ends_with('\n'), "{}", about.text());
    assert_eq!(client.send(Request::get("/-/health")).expect(200).text(), "ok\n");
    let well_known =
        ["/favicon.ico", "/robots.txt", "/openapi.json", "/llms.txt", "/.well-known/security.txt", "/.well-known/a/b"];
    for target in well_known {
        assert_eq!(client.send(Request::get(target)).expect(404).code(), "route_not_found", "{target}");
    }
    // What a terminal shows ends with a line.
    assert!(client.send(Request::get("/demo/none")).text().ends_with("}\n"));
}
