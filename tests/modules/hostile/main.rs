//! Hostile modules against the real binary: the server lives, refuses with a sentence, keeps nothing, and ends when it is asked
//! to.
//!
//! - [`bombs`]: uploads that make a parser or compiler take all time, memory or stack; `encode` writes them.
//! - [`flips`]: a real module with bits flipped, and parts of it.
//! - [`gone`]: what becomes of an inspection whose client, or whose server, has gone.
//! - [`guests`]: modules that are compiled and bound, and misbehave where they are called.

mod bombs;
mod encode;
mod flips;
mod gone;
mod guests;

use std::fs;

use weir_testkit::{Client, Request, Response, Setup};

pub(crate) const MODULE: &str = "/hostile/-/modules/m";

/// A server on disk, with small segments so that it starts at once.
pub(crate) fn on_disk() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir"))
        .args(&["--shards", "2"])
        .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 20)
        .env("WEIR_WAL_SEGMENT_BYTES", 4 << 20)
        // A debug build compiles slowly.
        .env("WEIR_MODULES_UPLOAD_WAIT_MS", 60_000)
}

/// `curl -T`.
pub(crate) fn upload(target: &str, wasm: &[u8]) -> Request {
    Request::put(target).body("application/wasm", wasm)
}

/// The files of the modules folder that are modules or their code.
pub(crate) fn kept(setup: &Setup) -> Vec<String> {
    let folder = fs::read_dir(setup.data_dir().join("modules")).expect("the folder is there");
    let names = folder.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with("wasm")).collect()
}

/// A stream works.
#[track_caller]
pub(crate) fn is_well(client: &mut Client) {
    let _ = client.send(Request::put("/healthy/s").header("Content-Type", "text/plain"));
    let _ = client.send(Request::post("/healthy/s").body("text/plain", "a")).expect(204);
}

/// The sentence of a refusal.
#[track_caller]
pub(crate) fn sentence(refusal: &Response) -> String {
    assert_eq!((refusal.status, refusal.code().as_str()), (422, "module_invalid"), "{refusal:?}");
    let sentence = refusal.json()["detail"].as_str().expect("a sentence").to_owned();
    assert!(!sentence.is_empty() && !sentence.chars().any(char::is_control), "{sentence:?}");
    sentence
}
