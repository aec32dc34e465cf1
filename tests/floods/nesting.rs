//! JSON as deep as a body is long, which is refused and costs neither stack nor memory.

use weir_testkit::{Request, Response, Server};

use crate::{MIB, Memory, SLACK_BYTES, assert_serves, on_disk};

const TARGET: &str = "/floods/nesting";
const BODY_BYTES: usize = 16 * MIB as usize;
const DEPTH: usize = 100_000;
/// The body itself, the log's copy and what the log makes of it.
const COPIES: u64 = 8;

#[test]
fn json_as_deep_as_it_is_long_is_refused() {
    let (mut server, memory) = json_server();
    let deepest = BODY_BYTES / 2;
    let padding = "x".repeat(BODY_BYTES - 2 * DEPTH - 2);
    let objects = BODY_BYTES / 6 - 1;
    let bodies = [
        format!("{}\"{padding}\"{}", "[".repeat(DEPTH), "]".repeat(DEPTH)),
        format!("{}{}", "[".repeat(deepest), "]".repeat(deepest)),
        format!("{}1{}", "{\"a\":".repeat(objects), "}".repeat(objects)),
        format!("{}1{}", "[{\"a\":".repeat(objects / 2), "}]".repeat(objects / 2)),
    ];
    for body in bodies {
        assert!(body.len() <= BODY_BYTES);
        let refused = post(&server, body).expect(400);
        assert_eq!(refused.code(), "json_invalid");
        assert!(refused.text().contains("deeper than 128 levels"), "{}", refused.text());
    }
    memory.assert_grown_by_at_most(COPIES * BODY_BYTES as u64 + SLACK_BYTES);
    assert_serves(&mut server);
}

#[test]
fn json_that_does_not_come_up_again_is_none() {
    let (mut server, memory) = json_server();
    let half = BODY_BYTES / 2;
    let bodies = [
        "[".repeat(BODY_BYTES),
        "]".repeat(BODY_BYTES),
        "{\"a\":".repeat(BODY_BYTES / 5),
        format!("{}{}", "[".repeat(half), "]".repeat(half - 1)),
        format!("{}{}", "[".repeat(half), "}".repeat(half)),
        format!("{}{}", "[".repeat(half - 1), "]".repeat(half)),
        format!("{}\"{}", "[".repeat(DEPTH), "x".repeat(BODY_BYTES - DEPTH - 1)),
        format!("{}{}", "[{\"a\":".repeat(BODY_BYTES / 8), "]}".repeat(BODY_BYTES / 8)),
    ];
    for body in bodies {
        let begin_and_end = format!("{}…{}", &body[..8], &body[body.len() - 8..]);
        let refused = post(&server, body);
        assert_eq!((refused.status, refused.code().as_str()), (400, "json_invalid"), "{begin_and_end}");
    }
    memory.assert_grown_by_at_most(COPIES * BODY_BYTES as u64 + SLACK_BYTES);
    assert_serves(&mut server);
}

fn json_server() -> (Server, Memory) {
    let server = on_disk(BODY_BYTES as u64).start();
    let _ = server.client().send(Request::put(TARGET).header("Content-Type", "application/json")).expect(201);
    let memory = Memory::watch(&server);
    (server, memory)
}

fn post(server: &Server, body: String) -> Response {
    server.client().send(Request::post(TARGET).body("application/json", body))
}
