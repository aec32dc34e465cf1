//! What becomes of a running server: its metrics, and conditions that take a while to hold.

use std::thread;
use std::time::{Duration, Instant};

use crate::http::{Client, Request};
use crate::server::Server;

/// The sum of a metric's samples over all its labels.
#[track_caller]
pub fn metric(server: &Server, name: &str) -> f64 {
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
/// With `what` when it does not within that time.
#[track_caller]
pub fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen within {within:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
