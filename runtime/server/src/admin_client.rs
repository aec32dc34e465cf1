//! Commands that ask a running node, through its admin listener.

use std::io::{self, BufRead, BufReader, Lines, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// How long the node may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// And how long it may be silent: it says something each second.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why the node has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// This is no address.
    #[error("{0:?} is no address of an admin listener: it is written as http://127.0.0.1:4438")]
    Address(String),
    /// It does not answer, or not to the end.
    #[error("no answer from the admin listener at {url}: is the node running?")]
    Unreachable {
        /// Where it was asked.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It refuses.
    #[error("the node refuses, with status {status}: {reason}")]
    Refused {
        /// The answer's status.
        status: String,
        /// The answer.
        reason: String,
    },
    /// The answer is none that is known.
    #[error("the node's answer makes no sense, or ends too early; perhaps it was stopped: {0:?}")]
    Answer(String),
}

/// The admin listener of a node.
pub(crate) struct AdminClient {
    url: String,
    address: SocketAddr,
}

impl AdminClient {
    /// The listener at `url`, as in `http://127.0.0.1:4438`.
    ///
    /// # Errors
    /// [`AdminError::Address`].
    pub(crate) fn new(url: &str) -> Result<AdminClient, AdminError> {
        let authority = url.strip_prefix("http://").map(|authority| authority.trim_end_matches('/'));
        let address = authority.and_then(|authority| authority.to_socket_addrs().ok()?.next());
        let address = address.ok_or_else(|| AdminError::Address(url.to_string()))?;
        Ok(AdminClient { url: url.to_string(), address })
    }

    /// The listener that a node of this machine has at `listen`.
    pub(crate) fn of(listen: SocketAddr) -> AdminClient {
        let mut address = listen;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        AdminClient { url: format!("http://{address}"), address }
    }

    /// Has the node do something, told as JSON; gives the lines that it answers with.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) fn post(&self, path: &str, body: &str) -> Result<Lines<impl BufRead + use<>>, AdminError> {
        let failed = |source| AdminError::Unreachable { url: self.url.clone(), source };
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
            stream.set_read_timeout(Some(SILENCE_MAX))?;
            stream.set_write_timeout(Some(SILENCE_MAX))?;
            // In HTTP/1.0 the body is all that comes until the connection ends.
            let head = format!(
                "POST {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                self.address,
                body.len()
            );
            stream.write_all(head.as_bytes())?;
            stream.write_all(body.as_bytes())?;
            Ok(BufReader::new(stream).lines())
        };
        let mut lines = ask().map_err(failed)?;
        let first = lines.next().unwrap_or_else(|| Ok(String::new())).map_err(failed)?;
        let status = first.split_once(' ').filter(|(version, _)| version.starts_with("HTTP/"));
        let (_, status) = status.ok_or_else(|| AdminError::Answer(first.clone()))?;
        loop {
            match lines.next().unwrap_or_else(|| Ok(String::new())).map_err(failed)? {
                line if line.is_empty() => break,
                _ => {}
            }
        }
        if status.starts_with('2') {
            return Ok(lines);
        }
        let reason: Vec<String> = lines.map_while(Result::ok).collect();
        Err(AdminError::Refused { status: status.to_string(), reason: reason.join(" ") })
    }
}
