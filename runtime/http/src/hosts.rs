//! The names that the server is called by.
//!
//! A page of the web that knows a name of its own which leads to this machine could call the server as if it were of the
//! same origin. So while nobody has to say who they are, a request must name the server by an address that only this
//! machine's users have, or by a name that its operator has given.

use std::net::IpAddr;

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Version};

use crate::error::{ErrorCode, Problem};
use crate::headers::{X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO};

/// The names that are answered; `None` for any.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Option<Vec<String>>);

impl Hosts {
    /// Any name is answered.
    pub fn any() -> Hosts {
        Hosts(None)
    }

    /// Loopback and `names` are answered: host names and addresses without a port.
    pub fn only(names: Vec<String>) -> Hosts {
        Hosts(Some(names))
    }

    /// # Errors
    /// [`ErrorCode::HeaderInvalid`] for one that names no server, as HTTP/1.1 must (RFC 9112, section 3.2);
    /// [`ErrorCode::HostUnknown`] for one to another name.
    pub(crate) fn check(&self, head: &Parts) -> Result<(), Problem> {
        let host = match host_of(head) {
            None if head.version < Version::HTTP_11 => return Ok(()),
            host => host.filter(|host| Authority::try_from(*host).is_ok()),
        };
        let Some(host) = host else {
            return Err(Problem::new(
                ErrorCode::HeaderInvalid,
                "Host must be the server's name, with its port if it has one",
            ));
        };
        let Some(names) = &self.0 else { return Ok(()) };
        let name = without_port(host);
        if is_loopback(name) || names.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        let name = String::from_utf8_lossy(name);
        let detail = format!("this server does not answer to '{name}': its operator can add the name to http.hosts");
        Err(Problem::new(ErrorCode::HostUnknown, detail))
    }
}

/// What clients call the server by, scheme, name and prefix, as far as a request says it: `http://localhost:4437`, say, or
/// nothing, so that a path stands for itself. A proxy's word counts only if the proxy is trusted.
pub(crate) fn base_url(head: &Parts, is_trusted: bool) -> String {
    let said = |name: &HeaderName| {
        let value = head.headers.get(name).filter(|_| is_trusted).and_then(|value| value.to_str().ok());
        // The first proxy is the one that the client has called.
        value.map(|value| value.split(',').next().unwrap_or_default().trim()).filter(|value| !value.is_empty())
    };
    let own_host = host_of(head).and_then(|host| std::str::from_utf8(host).ok());
    let host = said(&X_FORWARDED_HOST).or(own_host).filter(|host| Authority::try_from(*host).is_ok());
    let prefix = said(&X_FORWARDED_PREFIX).map(|prefix| prefix.trim_end_matches('/'));
    let prefix = prefix.filter(|prefix| prefix.starts_with('/') && !prefix.starts_with("//")).unwrap_or_default();
    let scheme = if said(&X_FORWARDED_PROTO).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
        "https"
    } else {
        "http"
    };
    host.map_or_else(|| prefix.to_string(), |host| format!("{scheme}://{host}{prefix}"))
}

/// The proxies whose `X-Forwarded-` fields count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpAddr>);

impl Proxies {
    /// Reads addresses, separated by commas.
    ///
    /// # Errors
    /// A sentence about what is no address.
    pub fn parse(text: &str) -> Result<Proxies, String> {
        let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
        let address = |text: &str| text.parse().map_err(|_| format!("'{text}' is no IP address"));
        addresses.map(address).collect::<Result<_, _>>().map(Proxies)
    }

    /// Whether whoever is at the other end of a connection is one of them.
    pub(crate) fn is_one(&self, peer: impl FnOnce() -> Option<IpAddr>) -> bool {
        !self.0.is_empty() && peer().is_some_and(|peer| self.0.contains(&peer.to_canonical()))
    }
}

/// How a request calls the server, its port included. HTTP/2 has that in the target, HTTP/1 in a header.
pub(crate) fn host_of(head: &Parts) -> Option<&[u8]> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => head.headers.get(HOST).map(HeaderValue::as_bytes),
    }
}

fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|&byte| byte == b':') {
        // Not the colons of an address in brackets.
        Some(at) if host[at + 1..].iter().all(u8::is_ascii_digit) && !host[..at].contains(&b':') => &host[..at],
        Some(at) if host[..at].ends_with(b"]") => &host[..at],
        _ => host,
    }
}

fn is_loopback(name: &[u8]) -> bool {
    if name.eq_ignore_ascii_case(b"localhost") {
        return true;
    }
    let name = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")).unwrap_or(name);
    let address = std::str::from_utf8(name).ok().and_then(|name| name.parse::<IpAddr>().ok());
    address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_given_names_are_answered_with_any_port() {
        let hosts = Hosts::only(vec!["weir.example".to_string(), "10.0.0.5".to_string()]);
        let answers = |host: &str| {
            let (head, ()) = http::Request::get("/").header(HOST, host).body(()).expect("a request").into_parts();
            hosts.check(&head).is_ok()
        };
        for host in
            ["localhost", "LOCALHOST:4437", "127.0.0.1:1", "127.9.9.9", "[::1]:4437", "[::1]", "Weir.Example:80"]
        {
            assert!(answers(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "10.0.0.6:80", "[::2]", ""]
        {
            assert!(!answers(host), "{host}");
        }
        assert!(answers("10.0.0.5:4437"));
        let nameless = |version| {
            let (head, ()) = http::Request::get("/").version(version).body(()).expect("a request").into_parts();
            hosts.check(&head).is_ok() && Hosts::any().check(&head).is_ok()
        };
        assert_eq!((nameless(Version::HTTP_10), nameless(Version::HTTP_11)), (true, false));
        let broken = |host: &str| {
            let (head, ()) = http::Request::get("/").header(HOST, host).body(()).expect("a request").into_parts();
            Hosts::any().check(&head).is_err()
        };
        assert!(broken("") && broken("a b/c") && !broken("anything.example:1"));
    }

    #[test]
    fn a_trusted_proxy_says_how_clients_call_the_server() {
        let base = |fields: &[(&str, &str)], is_trusted| {
            let mut request = http::Request::get("/b/s").header(HOST, "inner:4437");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            base_url(&request.body(()).expect("a request").into_parts().0, is_trusted)
        };
        let all = [
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "streams.example, other"),
            ("X-Forwarded-Prefix", "/ds/"),
        ];
        assert_eq!(base(&all, true), "https://streams.example/ds");
        assert_eq!(base(&all, false), "http://inner:4437");
        assert_eq!(base(&all[..1], true), "https://inner:4437");
        let odd = [("X-Forwarded-Proto", "javascript"), ("X-Forwarded-Host", "a b"), ("X-Forwarded-Prefix", "//evil")];
        assert_eq!(base(&odd, true), "");
    }

    #[test]
    fn proxies_are_known_by_their_address() {
        let proxies = Proxies::parse("127.0.0.1, ::1").expect("addresses");
        let is_one = |peer: &str| proxies.is_one(|| peer.parse().ok());
        assert_eq!(
            (is_one("127.0.0.1"), is_one("::ffff:127.0.0.1"), is_one("::1"), is_one("10.0.0.1")),
            (true, true, true, false)
        );
        assert!(Proxies::parse("proxy.example").is_err() && Proxies::parse("").is_ok_and(|none| none.0.is_empty()));
    }
}
