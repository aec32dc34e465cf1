//! Streams under the server's root, and the heads of requests to them.

use crate::load::{Load, Wire};
use crate::servers::Target;

/// Connections that set streams up, one request in flight on each.
const SETUP_CONNECTIONS: usize = 64;

/// Connections for requests that are not measured.
///
/// # Errors
/// A sentence when the server cannot be connected to.
pub(crate) fn setup_load(target: &Target) -> Result<Load, String> {
    Load::open(target, SETUP_CONNECTIONS)
}

/// Creates `count` streams with names of their own, 16 bytes each, and gives back their paths.
///
/// # Errors
/// A sentence with the response that was no success.
pub(crate) fn create(target: &Target, count: usize, content_type: &str) -> Result<Vec<String>, String> {
    let nanoseconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos());
    let run = (nanoseconds >> 10) as u32;
    let paths: Vec<String> = (0..count).map(|i| format!("{}/{run:08x}{i:08}", target.root)).collect();
    let heads: Vec<Vec<u8>> = paths.iter().map(|path| head(target, "PUT", path, content_type, 0)).collect();
    setup_load(target)?.send_all(heads.iter().map(|head| Wire { head, body: &[] }))?;
    Ok(paths)
}

/// Heads of appends of `bytes` to each of `paths`.
pub(crate) fn append_heads(target: &Target, paths: &[String], bytes: usize) -> Vec<Vec<u8>> {
    paths.iter().map(|path| head(target, "POST", path, "application/octet-stream", bytes)).collect()
}

/// The head of a read, where `target_path` has path and query.
pub(crate) fn get_head(target: &Target, target_path: &str) -> Vec<u8> {
    format!("GET {target_path} HTTP/1.1\r\nHost: {}\r\n\r\n", target.address).into_bytes()
}

/// Bytes to append: neither zeros nor a short period, so that a server which compresses gains nothing.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn head(target: &Target, method: &str, path: &str, content_type: &str, bytes: usize) -> Vec<u8> {
    let host = target.address;
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\nContent-Length: {bytes}\r\n\r\n"
    )
    .into_bytes()
}
