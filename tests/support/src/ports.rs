//! Loopback ports for servers under test.
//!
//! They come from below the range that the kernel gives to outgoing connections (32768 and up on Linux), so that a
//! port stays free between the check here and the server's `bind`, and while a killed server is down. Two test
//! processes may still pick the same one; the loser's server says so by its exit code and is started on others.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const PORT_FIRST: u32 = 12_000;
const PORTS: u32 = 20_000;

/// A loopback address with a port that was free a moment ago, another one at each call.
pub fn free() -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS {
        let step = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + start.wrapping_add(step) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free loopback port in {PORT_FIRST}..{}", PORT_FIRST + PORTS);
}
