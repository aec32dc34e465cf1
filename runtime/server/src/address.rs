//! Addresses to listen on, as people write them: `127.0.0.1:4437`, `[::1]:4437`, `localhost:4437`, or `:4437` for all
//! interfaces. A host name is resolved when it is read, once: what was checked is what is listened on.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no address to listen on.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no address to listen on: {reason}")]
pub(crate) struct AddressError {
    text: String,
    reason: String,
}

/// An address to listen on, and how it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ListenAddress {
    text: String,
    socket: SocketAddr,
}

impl ListenAddress {
    /// What to listen on.
    pub(crate) fn socket(&self) -> SocketAddr {
        self.socket
    }

    /// The host as it was written, with the brackets of an IPv6 address; empty for all interfaces.
    pub(crate) fn host(&self) -> &str {
        self.text.rsplit_once(':').map_or("", |(host, _)| host)
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(socket: SocketAddr) -> ListenAddress {
        ListenAddress { text: socket.to_string(), socket }
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    /// Reads an address, and resolves its host if that is a name: to a loopback address if it has one, and rather to IPv4.
    fn from_str(text: &str) -> Result<ListenAddress, AddressError> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(socket.into());
        }
        let invalid = |reason: String| AddressError { text: text.to_string(), reason };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| {
            invalid("it must have a port, as localhost:4437 has, or :4437 for all interfaces".to_string())
        })?;
        if host.contains(':') {
            return Err(invalid("an IPv6 address is written in brackets, as in [::1]:4437".to_string()));
        }
        let port = port.parse().map_err(|_| invalid(format!("the port {port:?} is no number from 0 to 65535")))?;
        let socket = if host.is_empty() {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
        } else {
            let resolved = (host, port)
                .to_socket_addrs()
                .map_err(|error| invalid(format!("the host {host:?} cannot be resolved: {error}")))?;
            resolved
                .min_by_key(|address| (!address.ip().is_loopback(), address.is_ipv6()))
                .ok_or_else(|| invalid(format!("the host {host:?} has no address")))?
        };
        Ok(ListenAddress { text: text.to_string(), socket })
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<ListenAddress, AddressError> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> String {
        address.text
    }
}

/// For people: as it was written, and what that is if it does not say so itself.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenAddress { text, socket } = self;
        if *text == socket.to_string() { f.write_str(text) } else { write!(f, "{text} ({socket})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_numbers_a_name_or_all_interfaces() {
        for (text, socket, host, shown) in [
            ("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1", "127.0.0.1:1"),
            ("[::1]:1", "[::1]:1", "[::1]", "[::1]:1"),
            ("localhost:4437", "127.0.0.1:4437", "localhost", "localhost:4437 (127.0.0.1:4437)"),
            (":4437", "0.0.0.0:4437", "", ":4437 (0.0.0.0:4437)"),
        ] {
            let address: ListenAddress = text.parse().expect("an address");
            assert_eq!((address.socket().to_string().as_str(), address.host()), (socket, host));
            assert_eq!((address.to_string().as_str(), String::from(address).as_str()), (shown, text));
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_reason() {
        for (text, reason) in [
            ("4437", "must have a port"),
            ("localhost", "must have a port"),
            ("", "must have a port"),
            ("::1:4437", "in brackets"),
            ("localhost:", "the port \"\""),
            ("localhost:http", "the port \"http\""),
            (":70000", "the port \"70000\""),
            ("no host:1", "the host \"no host\" cannot be resolved"),
        ] {
            let refused = text.parse::<ListenAddress>().expect_err(text).to_string();
            assert!(refused.starts_with(&format!("{text:?} is no address")) && refused.contains(reason), "{refused}");
        }
    }
}
