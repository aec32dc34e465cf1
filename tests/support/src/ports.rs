//! Loopback ports for servers under test.
//!
//! They come from below the range that the kernel gives to outgoing connections (32768 and up on Linux), so that a
//! port stays free between the check here and the server's `bind`, and while a killed server is down. Two test
//! processes may still pick the same one; the loser's server says so by its exit code and is started on others.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

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
        if step + count <= PORTS && (0..count).all(|nth| can_listen(address(nth))) {
            return address(0);
        }
    }
    panic!("no free loopback port in {PORT_FIRST}..{}", PORT_FIRST + PORTS);
}

/// Whether a server can listen there.
///
/// It binds and does not listen: a process that another thread starts meanwhile has a copy of every socket until it
/// runs its own program, and a copy that listens would take connections meant for the server, and reset them.
fn can_listen(address: SocketAddr) -> bool {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
    // As servers do: connections that have ended do not keep a port from them.
    sockopt::set_socket_reuseaddr(&socket, true).expect("a socket takes it");
    bind(&socket, &address).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn nobody_answers_at_a_free_port() {
        let start_processes = || {
            for _ in 0..100 {
                assert!(Command::new("true").status().expect("it runs").success());
            }
        };
        let answers = thread::scope(|scope| {
            let processes = [scope.spawn(start_processes), scope.spawn(start_processes)];
            let mut answers = 0;
            while processes.iter().any(|starting| !starting.is_finished()) {
                answers += usize::from(TcpStream::connect(free()).is_ok());
            }
            answers
        });
        assert_eq!(answers, 0, "answers at free ports");
    }

    #[test]
    fn a_port_that_somebody_listens_at_is_not_free() {
        let listener = TcpListener::bind(free()).expect("it was free a moment ago");
        assert!(!can_listen(listener.local_addr().expect("it is bound")));
    }
}
