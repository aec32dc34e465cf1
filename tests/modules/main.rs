//! Modules through the real binary: what is uploaded and refused, what validators let in, what summaries say, what
//! misbehaving guests can and cannot do, and what a crash leaves of an upload or a bind.
//!
//! The guests are in `guests/`; `weir-wasm` has its own tests of what happens to one call.

mod bindings;
mod contained;
mod crash;
mod forks;
mod history;
mod summaries;
mod uploads;
mod validators;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weir_testkit::{Client, Request, Response, Setup};

/// A server in memory with two shards, so that half of all requests cross from one to the other.
pub(crate) fn in_memory() -> Setup {
    patient(Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory", "--shards", "2"]))
}

/// A server on disk, with small segments so that it starts at once.
pub(crate) fn on_disk() -> Setup {
    patient(Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--shards", "2"]))
        .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 20)
        .env("WEIR_WAL_SEGMENT_BYTES", 4 << 20)
}

/// A debug build compiles slowly, and other tests run beside it: unless it is about that, a test waits.
fn patient(setup: Setup) -> Setup {
    setup.env("WEIR_MODULES_UPLOAD_WAIT_MS", 120_000).env("WEIR_MODULES_COMPILE_TIMEOUT_MS", 120_000)
}

/// `curl -T`.
pub(crate) fn upload(target: &str, wasm: impl Into<Vec<u8>>) -> Request {
    Request::put(target).body("application/wasm", wasm)
}

/// Uploads a guest of `guests/` into bucket `demo` under its own name.
#[track_caller]
pub(crate) fn upload_guest(client: &mut Client, name: &str) -> Value {
    let target = format!("/demo/-/modules/{}", name.replace('_', "-"));
    client.send(upload(&target, weir_testkit::guest(name))).expect(201).json()
}

/// A request that binds in bucket `demo`.
pub(crate) fn bind(name: &str, module: &str, role: &str, streams: &str) -> Request {
    let binding = json!({ "streams": streams, "module": module, "role": role });
    Request::put(&format!("/demo/-/bindings/{name}")).body("application/json", binding.to_string())
}

/// Uploads a guest and binds it to all streams of bucket `demo`, under its own name.
#[track_caller]
pub(crate) fn bind_guest(client: &mut Client, name: &str, role: &str) {
    upload_guest(client, name);
    let name = name.replace('_', "-");
    let _ = client.send(bind(&name, &name, role, "**")).expect(201);
}

/// Creates a stream of this type.
#[track_caller]
pub(crate) fn create(client: &mut Client, target: &str, content_type: &str) {
    let _ = client.send(Request::put(target).header("Content-Type", content_type)).expect(201);
}

/// A request that appends JSON.
pub(crate) fn post(target: &str, body: impl ToString) -> Request {
    Request::post(target).body("application/json", body.to_string())
}

/// A request that reads a summary.
pub(crate) fn summary(target: &str, query: &str) -> Request {
    Request::get(&format!("{target}?summary={query}"))
}

/// A stream's JSON messages.
#[track_caller]
pub(crate) fn read(client: &mut Client, target: &str) -> String {
    client.send(Request::get(target)).expect(200).text()
}

/// All messages of a stream, page by page.
pub(crate) fn read_messages<T: DeserializeOwned>(client: &mut Client, target: &str) -> Vec<T> {
    let (mut messages, mut offset) = (Vec::new(), "-1".to_owned());
    loop {
        let page = client.send(Request::get(&format!("{target}?offset={offset}"))).expect(200);
        messages.extend(serde_json::from_slice::<Vec<T>>(&page.body).expect("JSON"));
        if page.header("stream-up-to-date").is_some() {
            return messages;
        }
        offset = page.next_offset().to_owned();
    }
}

/// `rejection` of a problem document.
pub(crate) fn rejection(response: &Response) -> Value {
    response.json()["rejection"].clone()
}
