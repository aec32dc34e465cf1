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
    free_row(1)
}

/// The first of `count` such addresses, whose ports follow one another.
pub fn free_row(count: u32) -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS {
        let step = start.wrapping_add(TAKEN.fetch_add(count, Ordering::Relaxed)) % PORTS;
        let address = |nth| SocketAddr::from((Ipv4Addr::LOCALHOST, (PORT_FIRST + step + nth) as u16));
        if step + count <= PORTS && (0..count).all(|nth| TcpListener::bind(address(nth)).is_ok()) {
            return address(0);
        }
    }
    panic!("no free loopback port in {PORT_FIRST}..{}", PORT_FIRST + PORTS);
}
