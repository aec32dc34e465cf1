//! What the HTTP surface does beyond the official suite: Weir's own addresses and verbs, its limits, its live reads, and
//! what hostile or broken clients meet.
//!
//! One file per subject; each test has a server of its own, in memory unless it is about the disk.

mod addresses;
mod bodies;
mod buckets;
mod commands;
mod conditional;
mod forks;
mod live;
mod live_equals_history;
mod metrics;
mod origins;
mod placement;
mod process;
mod restart;
mod trim;
mod wire;

use std::time::Duration;

pub(crate) use weir_testkit::metric;
use weir_testkit::{Client, Request, Response, Setup};

/// A server in memory with two shards, so that half of all requests cross from one to the other.
pub(crate) fn in_memory() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory", "--shards", "2"])
}

/// A server on disk, with small segments so that it starts at once.
pub(crate) fn on_disk() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir"))
        .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 20)
        .env("WEIR_WAL_SEGMENT_BYTES", 4 << 20)
}

/// Creates a text stream.
#[track_caller]
pub(crate) fn create(client: &mut Client, target: &str) -> Response {
    client.send(Request::put(target).header("Content-Type", "text/plain")).expect(201)
}

/// Appends to a text stream and gives back the new tail.
#[track_caller]
pub(crate) fn append(client: &mut Client, target: &str, text: &str) -> String {
    client.send(Request::post(target).body("text/plain", text)).expect(204).next_offset().to_owned()
}

/// Reads a stream from its beginning.
#[track_caller]
pub(crate) fn read(client: &mut Client, target: &str) -> String {
    client.send(Request::get(target)).expect(200).text()
}

/// Looks again and again, for up to 20 s.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    weir_testkit::wait_until(what, Duration::from_secs(20), condition);
}
