//! Streams under the server's root, and the heads of requests to them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;

use weir_testkit::{Connection, Request};

use crate::load::{Load, Wire};
use crate::servers::Target;

/// Connections that set streams up, one request in flight on each.
const SETUP_CONNECTIONS: usize = 64;

/// How often a stream's creation may be sent to another node.
const REDIRECTS_MAX: usize = 4;

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
    let paths = names(target, count);
    let heads: Vec<Vec<u8>> = paths.iter().map(|path| head(target, "PUT", path, content_type, 0)).collect();
    setup_load(target)?.send_all(heads.iter().map(|head| Wire { head, body: &[] }))?;
    Ok(paths)
}

/// As [`create`], of a server whose nodes may send clients to each other (`307`). Also says where each stream's node listens.
///
/// # Errors
/// As [`create`].
pub(crate) fn create_at_homes(
    target: &Target,
    count: usize,
    content_type: &str,
) -> Result<(Vec<String>, Vec<SocketAddr>), String> {
    let paths = names(target, count);
    let part = |paths: &[String]| -> Result<Vec<SocketAddr>, String> {
        let mut connections = BTreeMap::new();
        paths.iter().map(|path| create_at_home(target.address, path, content_type, &mut connections)).collect()
    };
    let homes = thread::scope(|scope| {
        let parts = paths.chunks(count.div_ceil(SETUP_CONNECTIONS));
        let parts: Vec<_> = parts.map(|paths| scope.spawn(move || part(paths))).collect();
        let homes = parts.into_iter().map(|part| part.join().map_err(|_| "a stream's creation panicked")?);
        homes.collect::<Result<Vec<_>, String>>()
    })?;
    Ok((paths, homes.concat()))
}

/// Creates one stream where its server wants it, and says where.
fn create_at_home(
    asked: SocketAddr,
    path: &str,
    content_type: &str,
    connections: &mut BTreeMap<SocketAddr, Connection>,
) -> Result<SocketAddr, String> {
    let mut home = asked;
    for _ in 0..REDIRECTS_MAX {
        let connection = match connections.entry(home) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                place.insert(Connection::open(home).map_err(|e| format!("cannot connect to {home}: {e}"))?)
            }
        };
        let request = Request::put(path).header("Content-Type", content_type);
        let response = connection.send(&request).map_err(|e| format!("PUT {path}: {e}"))?;
        match response.status {
            200..300 => return Ok(home),
            307 | 308 => {
                let location = response.header("location").and_then(|url| url.strip_prefix("http://"));
                let host = location.and_then(|rest| rest.split('/').next()).unwrap_or_default();
                let address = host.to_socket_addrs().ok().and_then(|mut all| all.next());
                home = address.ok_or_else(|| format!("PUT {path}: it was sent to nowhere: {response:?}"))?;
            }
            _ => return Err(format!("PUT {path} gave {} {}", response.status, response.text())),
        }
    }
    Err(format!("PUT {path} is sent from one node to the next"))
}

/// Names of their own, 16 bytes each, as paths.
fn names(target: &Target, count: usize) -> Vec<String> {
    let nanoseconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos());
    let run = (nanoseconds >> 10) as u32;
    (0..count).map(|i| format!("{}/{run:08x}{i:08}", target.root)).collect()
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
