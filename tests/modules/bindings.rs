//! Bindings: what can be bound to which streams, and what is said of it.

use serde_json::json;
use weir_testkit::Request;

use crate::{bind, create, in_memory, on_disk, post, upload_guest};

#[test]
fn a_binding_is_made_described_changed_and_removed() {
    let server = in_memory().start();
    let mut client = server.client();
    let module = upload_guest(&mut client, "rejects_bad");
    let made = client.send(bind("checked", "rejects-bad", "validator", "orders/**")).expect(201).json();
    let expected = json!({
        "name": "checked", "streams": "orders/**", "module": "rejects-bad", "digest": module["digest"],
        "role": "validator", "config": null, "epoch": 2,
    });
    assert_eq!(made, expected);
    assert_eq!(client.send(bind("checked", "rejects-bad", "validator", "orders/**")).expect(200).json(), expected);
    assert_eq!(client.send(Request::get("/demo/-/bindings/checked")).expect(200).json(), expected);
    let changed = client.send(bind("checked", "rejects-bad", "validator", "orders/*")).expect(200).json();
    assert_eq!((&changed["streams"], &changed["epoch"]), (&"orders/*".into(), &3.into()));
    let list = client.send(Request::get("/demo/-/bindings")).expect(200).json();
    assert_eq!(list["bindings"], json!([changed]));
    let _ = client.send(Request::delete("/demo/-/bindings/checked")).expect(204);
    assert_eq!(client.send(Request::delete("/demo/-/bindings/checked")).expect(404).code(), "binding_not_found");
    assert_eq!(client.send(Request::get("/demo/-/bindings/checked")).expect(404).code(), "binding_not_found");
}

#[test]
fn what_cannot_be_bound_is_refused_with_a_sentence() {
    let server = in_memory().start();
    let mut client = server.client();
    let _ = upload_guest(&mut client, "rejects_bad");
    let mut refused = |body: &str, status: u16, code: &str, words: &str| {
        let request = Request::put("/demo/-/bindings/b").body("application/json", body);
        let refusal = client.send(request).expect(status);
        assert_eq!(refusal.code(), code, "{body}");
        assert!(refusal.text().contains(words), "{words} is not in: {}", refusal.text());
    };
    refused("", 422, "binding_invalid", "");
    refused("[]", 422, "binding_invalid", "");
    refused(r#"{"module":"rejects-bad","role":"validator"}"#, 422, "binding_invalid", "streams");
    refused(r#"{"streams":"a//b","module":"rejects-bad","role":"validator"}"#, 422, "binding_invalid", "segment");
    refused(r#"{"streams":"**","module":"rejects-bad","role":"judge"}"#, 422, "binding_invalid", "judge");
    refused(
        r#"{"streams":"**","module":"rejects-bad","role":"validator","on_error":"skip"}"#,
        422,
        "binding_invalid",
        "on_error",
    );
    refused(r#"{"streams":"**","module":"rejects-bad","role":"summary"}"#, 422, "binding_invalid", "no summary");
    refused(
        r#"{"streams":"**","module":"rejects-bad","role":"validator","config":{"a":1}}"#,
        422,
        "binding_invalid",
        "refuses its configuration",
    );
    refused(r#"{"streams":"**","module":"nothing","role":"validator"}"#, 404, "module_not_found", "");
    refused(r#"{"streams":"**","module":"builtin:nothing","role":"validator"}"#, 404, "module_not_found", "");
    refused(
        r#"{"streams":"**","module":"builtin:json-schema","role":"validator"}"#,
        422,
        "binding_invalid",
        "JSON Schema",
    );
    let list = client.send(Request::get("/demo/-/bindings")).expect(200).json();
    assert_eq!(list["bindings"], json!([]), "nothing of it is kept");
}

#[test]
fn a_bucket_has_so_many_bindings_and_no_more() {
    let server = in_memory().start();
    let mut client = server.client();
    for number in 0..32 {
        let _ = client.send(bind(&format!("b{number}"), "builtin:stats", "summary", "**")).expect(201);
    }
    assert_eq!(client.send(bind("more", "builtin:stats", "summary", "**")).expect(429).code(), "binding_limit");
    let _ = client.send(bind("b0", "builtin:stats", "summary", "a/**")).expect(200);
}

#[test]
fn modules_and_bindings_survive_a_restart() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    let _ = upload_guest(&mut client, "rejects_bad");
    let _ = client.send(bind("checked", "rejects-bad", "validator", "orders/**")).expect(201);
    let _ = client.send(bind("totals", "builtin:stats", "summary", "orders/**")).expect(201);
    create(&mut client, "/demo/orders/1", "application/json");
    let _ = client.send(post("/demo/orders/1", json!({"qty": 1}))).expect(204);
    let before =
        ["/demo/-/modules", "/demo/-/bindings"].map(|target| client.send(Request::get(target)).expect(200).json());
    let summary = client.send(Request::get("/demo/orders/1?summary=totals")).expect(200);
    server.kill();

    let server = setup.start();
    let mut client = server.client();
    let after =
        ["/demo/-/modules", "/demo/-/bindings"].map(|target| client.send(Request::get(target)).expect(200).json());
    assert_eq!(before, after);
    assert_eq!(client.send(post("/demo/orders/1", json!({"qty": 0}))).expect(422).code(), "record_rejected");
    let again = client.send(Request::get("/demo/orders/1?summary=totals")).expect(200);
    assert_eq!((again.text(), again.next_offset()), (summary.text(), summary.next_offset()));
}
