//! What validators let into a stream, in every way in which something gets into one.

use serde_json::json;
use weir_testkit::{Request, guest};

use crate::{bind, bind_guest, create, in_memory, post, read, rejection, upload, upload_guest};

#[test]
fn a_rejected_append_stores_nothing_and_says_which_record() {
    let server = in_memory().start();
    let mut client = server.client();
    bind_guest(&mut client, "rejects_bad", "validator");
    create(&mut client, "/demo/s", "application/json");
    let _ = client.send(post("/demo/s", json!([{"qty": 1}, {"qty": 2}]))).expect(204);
    let refusal = client.send(post("/demo/s", json!([{"qty": 3}, {"qty": 0}, {"qty": 4}]))).expect(422);
    assert_eq!(refusal.code(), "record_rejected");
    let expected = json!({
        "binding": "rejects-bad", "index": 1, "code": "qty", "message": "the quantity must be positive, got 0",
    });
    assert_eq!(rejection(&refusal), expected);
    assert_eq!(rejection(&client.send(post("/demo/s", json!({"sku": 1}))).expect(422))["code"], "json");
    assert_eq!(read(&mut client, "/demo/s"), r#"[{"qty":1},{"qty":2}]"#);
}

#[test]
fn whatever_writes_is_validated() {
    let server = in_memory().start();
    let mut client = server.client();
    bind_guest(&mut client, "rejects_bad", "validator");
    let put = |body: &str| Request::put("/demo/s").body("application/json", body);
    assert_eq!(client.send(put(r#"{"qty":0}"#)).expect(422).code(), "record_rejected");
    let _ = client.send(Request::get("/demo/s")).expect(404);
    let _ = client.send(put(r#"[{"qty":1}]"#)).expect(201);
    let _ = client.send(put(r#"{"qty":0}"#)).expect(200);
    let close = |body: &str| post("/demo/s", body).header("Stream-Closed", "true");
    assert_eq!(client.send(close(r#"{"qty":-1}"#)).expect(422).code(), "record_rejected");
    let _ = client.send(post("/demo/s", r#"{"qty":2}"#)).expect(204);
    let _ = client.send(close(r#"{"qty":3}"#)).expect(204);
    assert_eq!(read(&mut client, "/demo/s"), r#"[{"qty":1},{"qty":2},{"qty":3}]"#);
    // Nothing to validate.
    let _ = client.send(Request::put("/demo/t").body("application/json", "[]")).expect(201);
    let _ = client.send(Request::post("/demo/t").header("Stream-Closed", "true")).expect(204);
}

#[test]
fn a_create_that_a_delete_overtakes_is_validated() {
    let server = in_memory().start();
    let mut client = server.client();
    bind_guest(&mut client, "rejects_bad", "validator");
    let (mut deleter, mut creator) = (server.client(), server.client());
    for round in 0..100 {
        create(&mut client, "/demo/s", "application/json");
        let both = std::sync::Barrier::new(2);
        let created = std::thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                let _ = deleter.send(Request::delete("/demo/s")).expect(204);
            });
            both.wait();
            creator.send(Request::put("/demo/s").body("application/json", r#"{"qty":0}"#)).status
        });
        assert!([200, 404, 409, 422].contains(&created), "round {round}: {created}");
        let _ = client.send(Request::get("/demo/s")).expect(404);
    }
}

#[test]
fn a_replacement_is_what_is_stored() {
    let server = in_memory().start();
    let mut client = server.client();
    bind_guest(&mut client, "replaces", "validator");
    create(&mut client, "/demo/json", "application/json");
    let _ = client.send(post("/demo/json", r#"["a",["b",  "c"], {"d":1}]"#)).expect(204);
    let _ = client.send(post("/demo/json", r#""E""#)).expect(204);
    assert_eq!(read(&mut client, "/demo/json"), r#"["A",["B",  "C"],{"D":1},"E"]"#);
    create(&mut client, "/demo/text", "text/plain");
    let _ = client.send(Request::post("/demo/text").body("text/plain", "hello, ")).expect(204);
    let _ = client.send(Request::post("/demo/text").body("text/plain", "WORLD")).expect(204);
    assert_eq!(read(&mut client, "/demo/text"), "HELLO, WORLD");
    let _ = client.send(Request::put("/demo/new").body("text/plain", "first")).expect(201);
    assert_eq!(read(&mut client, "/demo/new"), "FIRST");
    // `true` in upper case is no JSON, and a stream in JSON mode takes nothing else.
    assert_eq!(client.send(post("/demo/json", "true")).expect(500).code(), "module_trapped");
}

#[test]
fn validators_are_asked_in_the_order_of_their_names_each_after_the_other() {
    let server = in_memory().start();
    let mut client = server.client();
    let _ = client.send(upload("/demo/-/modules/replaces", guest("replaces"))).expect(201);
    let schema = json!({
        "streams": "**", "module": "builtin:json-schema", "role": "validator", "config": {"pattern": "^[A-Z]+$"},
    });
    let put =
        |name: &str| Request::put(&format!("/demo/-/bindings/{name}")).body("application/json", schema.to_string());
    let _ = client.send(bind("b-upper", "replaces", "validator", "**")).expect(201);
    let _ = client.send(put("c-schema")).expect(201);
    create(&mut client, "/demo/s", "application/json");
    let _ = client.send(post("/demo/s", r#""abc""#)).expect(204);
    let _ = client.send(put("a-schema")).expect(201);
    let refusal = client.send(post("/demo/s", r#""abc""#)).expect(422);
    assert_eq!(rejection(&refusal)["binding"], "a-schema");
    assert_eq!(read(&mut client, "/demo/s"), r#"["ABC"]"#);
}

#[test]
fn only_the_streams_that_a_pattern_is_for_are_validated() {
    let server = in_memory().start();
    let mut client = server.client();
    let _ = upload_guest(&mut client, "rejects_bad");
    let _ = client.send(bind("v", "rejects-bad", "validator", "orders/*")).expect(201);
    for (name, status) in [("orders/1", 422), ("orders/1/x", 204), ("orders", 204), ("other/1", 204)] {
        let target = format!("/demo/{name}");
        create(&mut client, &target, "application/json");
        let _ = client.send(post(&target, json!({"qty": 0}))).expect(status);
    }
    create(&mut client, "/elsewhere/orders/1", "application/json");
    let _ = client.send(post("/elsewhere/orders/1", json!({"qty": 0}))).expect(204);
    let _ = client.send(Request::delete("/demo/-/bindings/v")).expect(204);
    let _ = client.send(post("/demo/orders/1", json!({"qty": 0}))).expect(204);
}

#[test]
fn a_retry_is_answered_without_asking_again_and_a_producer_stays_in_order() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, "/demo/s", "application/json");
    let send = |seq: u64, qty: i64| {
        post("/demo/s", json!({ "qty": qty }))
            .header("Producer-Id", "p")
            .header("Producer-Epoch", 0)
            .header("Producer-Seq", seq)
    };
    // Accepted before there was a validator.
    let _ = client.send(send(0, 0)).expect(200);
    bind_guest(&mut client, "rejects_bad", "validator");
    let _ = client.send(send(0, 0)).expect(204);
    assert_eq!(client.send(send(1, 0)).expect(422).code(), "record_rejected");
    let _ = client.send(send(1, 1)).expect(200);

    // Pipelined over one connection, and thus at the validator at the same time.
    let mut connection = server.connect();
    let host = server.address().to_string();
    let requests: Vec<u8> = (2..200).flat_map(|seq| send(seq, seq as i64).to_bytes(&host)).collect();
    connection.write(&requests).expect("the requests are written");
    for seq in 2..200 {
        let answer = connection.read_response(false).expect("an answer");
        assert_eq!(answer.status, 200, "{seq}: {answer:?}");
    }
    let messages: Vec<serde_json::Value> = serde_json::from_str(&read(&mut client, "/demo/s")).expect("JSON");
    let quantities: Vec<i64> = messages.iter().map(|message| message["qty"].as_i64().expect("a number")).collect();
    assert_eq!(quantities, (0..200).collect::<Vec<_>>());
}

#[test]
fn a_large_body_in_many_pieces_is_validated_whole() {
    let server = in_memory().start();
    let mut client = server.client();
    bind_guest(&mut client, "replaces", "validator");
    create(&mut client, "/demo/s", "application/octet-stream");
    let body: Vec<u8> = (0..1_000_000u32).map(|n| b'a' + (n % 26) as u8).collect();
    let _ = client.send(Request::post("/demo/s").body("application/octet-stream", body.clone())).expect(204);
    let stored = client.send(Request::get("/demo/s")).expect(200).body;
    assert!(stored == body.to_ascii_uppercase(), "{} bytes of {}", stored.len(), body.len());
    // As JSON it is cut, packed and looked at again on other threads.
    create(&mut client, "/demo/json", "application/json");
    let messages: Vec<String> = (0..40_000).map(|n| format!("\"message {n}\"")).collect();
    let _ = client.send(post("/demo/json", format!("[{}]", messages.join(", ")))).expect(204);
    let stored = client.read_all("/demo/json");
    assert!(stored == format!("[{}]", messages.join(",").to_uppercase()).into_bytes(), "{} bytes", stored.len());
}
