//! What the HTTP surface does beyond the official suite: Weir's own addresses and verbs, its limits, its live reads, and
//! what hostile or broken clients meet.
//!
//! One file per subject; each test has a server of its own, in memory unless it is about the disk.

mod addresses;
mod bodies;
mod buckets;
mod conditional;
mod live;
mod process;
mod restart;
mod wire;

use weir_testkit::{Client, Request, Response, Server, Setup};

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

/// The sum of a metric's samples over all its labels.
#[track_caller]
pub(crate) fn metric(server: &Server, name: &str) -> f64 {
    let text = Client::new(server.admin()).send(Request::get("/metrics")).expect(200).text();
    let samples = text.lines().filter_map(|line| line.strip_prefix(name));
    let values = samples.filter(|rest| rest.starts_with([' ', '{'])).filter_map(|rest| rest.rsplit(' ').next());
    let values: Vec<f64> = values.map(|value| value.parse().expect("a number")).collect();
    assert!(!values.is_empty(), "no metric {name} in\n{text}");
    values.iter().sum()
}

/// Looks again and again until `condition` holds.
///
/// # Panics
/// With `what` when it does not within 20 s.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen within 20 s");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
