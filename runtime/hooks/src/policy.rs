//! Which addresses webhooks may call: public ones by `https`, and what the operator names.
//!
//! Whoever may make a subscription could otherwise have the server call what only the server reaches. So
//! - an address in a URL is checked when the subscription is made, in whatever way it is written;
//! - a name is resolved when it is called, and the connection goes to an address that was checked then. A name that resolves to
//!   something else a moment later is of no use;
//! - redirects are not followed. The protocol does not ask for it, and each would have to be checked as the first address is;
//! - no proxy of the environment is asked.
//!
//! Source: Durable Streams Protocol, sections 6.2 and 12.8; the IANA registries of special-purpose addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Why a URL is not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefusal {
    /// It is no URL, or none with a host.
    #[error("a webhook's address is a URL with a host, such as https://worker.example/hook")]
    Malformed,
    /// It is not encrypted.
    #[error("a webhook's address begins with https://, unless its host is in hooks.allow")]
    Plain,
    /// It has a user name or a password.
    #[error("a webhook's address has no user name and no password")]
    Credentials,
    /// Its host is not public.
    #[error("'{0}' is not a public address; the operator can add it to hooks.allow")]
    Private(String),
}

/// Why what the operator allows cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no host name, address or network such as 10.1.0.0/16")]
pub struct PolicyError(String);

/// What the operator allows besides public addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    hosts: Vec<String>,
    networks: Vec<(IpAddr, u8)>,
}

impl Policy {
    /// Reads host names, addresses and networks.
    ///
    /// # Errors
    /// [`PolicyError`] names the first that is none.
    pub fn new<'a>(allowed: impl IntoIterator<Item = &'a str>) -> Result<Policy, PolicyError> {
        let mut policy = Policy::default();
        for text in allowed {
            let error = || PolicyError(text.to_string());
            match text.split_once('/') {
                Some((address, bits)) => {
                    let address: IpAddr = address.parse().map_err(|_| error())?;
                    let bits: u8 = bits.parse().map_err(|_| error())?;
                    if bits > width(address) {
                        return Err(error());
                    }
                    policy.networks.push((address, bits));
                }
                None => match Host::parse(text).map_err(|_| error())? {
                    Host::Ipv4(address) => policy.networks.push((address.into(), width(address.into()))),
                    Host::Ipv6(address) => policy.networks.push((address.into(), width(address.into()))),
                    Host::Domain(name) => policy.hosts.push(name),
                },
            }
        }
        Ok(policy)
    }

    /// Checks the address of a webhook, as far as it can be without resolving a name.
    ///
    /// # Errors
    /// [`UrlRefusal`] says what is wrong with it.
    pub fn check(&self, url: &str) -> Result<Url, UrlRefusal> {
        let url = Url::parse(url).map_err(|_| UrlRefusal::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlRefusal::Malformed);
        }
        let host = url.host().ok_or(UrlRefusal::Malformed)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlRefusal::Credentials);
        }
        let (is_allowed, is_public) = match host {
            Host::Domain(name) => (self.allows_host(name), !is_local(name)),
            Host::Ipv4(address) => (self.allows(address.into()), is_public(address.into())),
            Host::Ipv6(address) => (self.allows(address.into()), is_public(address.into())),
        };
        if !is_allowed && !is_public {
            return Err(UrlRefusal::Private(host.to_string()));
        }
        if !is_allowed && url.scheme() != "https" {
            return Err(UrlRefusal::Plain);
        }
        Ok(url)
    }

    /// Whether what a name has resolved to may be called.
    pub(crate) fn permits(&self, name: &str, address: IpAddr) -> bool {
        self.allows_host(name) || self.allows(address) || is_public(address)
    }

    fn allows_host(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|&(network, bits)| is_within(address, network, bits))
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// Whether a name says itself that it is known here only.
fn is_local(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    // Without a dot it is whatever the machine's own domain makes of it.
    !name.contains('.') || matches!(last, "localhost" | "local" | "internal" | "localdomain" | "lan" | "home")
}

/// Whether an address is one that everybody reaches.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// What is not: the special-purpose addresses, and those for groups and for nothing yet.
const SPECIAL_V4: [(Ipv4Addr, u8); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|&(network, bits)| is_within(address.into(), network.into(), bits))
}

/// What is global, of that what is not, and where an address of the other kind is inside.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let is_in = |network: [u16; 8], bits| {
        let [a, b, c, d, e, f, g, h] = network;
        is_within(address.into(), Ipv6Addr::new(a, b, c, d, e, f, g, h).into(), bits)
    };
    let bits = address.to_bits();
    if is_in([0, 0, 0, 0, 0, 0xffff, 0, 0], 96) || is_in([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96) {
        // Mapped, and translated by the network.
        return is_public_v4(Ipv4Addr::from_bits(bits as u32));
    }
    if is_in([0x2002, 0, 0, 0, 0, 0, 0, 0], 16) {
        return is_public_v4(Ipv4Addr::from_bits((bits >> 80) as u32));
    }
    is_in([0x2000, 0, 0, 0, 0, 0, 0, 0], 3)
        // Protocols, among them tunnels; documentation.
        && !is_in([0x2001, 0, 0, 0, 0, 0, 0, 0], 23)
        && !is_in([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32)
        && !is_in([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> UrlRefusal {
        Policy::default().check(url).expect_err(url)
    }

    fn check_private(urls: &[&str]) {
        for url in urls {
            assert!(matches!(refused(url), UrlRefusal::Private(_)), "{url}");
        }
    }

    #[test]
    fn public_addresses_are_called_by_https_only() {
        for url in ["https://worker.example/hook?a=b", "https://1.1.1.1:8443/", "https://[2606:4700::1111]/"] {
            Policy::default().check(url).expect(url);
        }
        assert_eq!(refused("http://worker.example/hook"), UrlRefusal::Plain);
        assert_eq!(refused("https://user:secret@worker.example/"), UrlRefusal::Credentials);
        for url in ["", "worker.example", "ftp://worker.example/", "file:///etc/passwd", "https://", "unix:/a"] {
            assert_eq!(refused(url), UrlRefusal::Malformed, "{url}");
        }
    }

    #[test]
    fn loopback_is_refused_however_it_is_written() {
        check_private(&[
            "http://127.0.0.1/",
            "https://127.1/",
            "https://0x7f.0.0.1/",
            "https://2130706433/",
            "https://017700000001/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
        ]);
    }

    #[test]
    fn private_networks_are_refused() {
        check_private(&[
            "https://10.0.0.1/",
            "https://172.16.0.1/",
            "https://172.31.255.255/",
            "https://192.168.1.1/",
            "https://100.64.0.1/",
            "https://[fc00::1]/",
            "https://[fd12:3456::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[64:ff9b::10.0.0.1]/",
            "https://[64:ff9b:1::10.0.0.1]/",
            "https://[2002:a00:1::]/",
            "https://printer/",
            "https://nas.local/",
            "https://db.internal/",
        ]);
    }

    #[test]
    fn link_local_addresses_and_those_of_clouds_metadata_are_refused() {
        check_private(&[
            "http://169.254.169.254/latest/meta-data/",
            "https://169.254.0.1/",
            "https://[fe80::1]/",
            "https://[fd00:ec2::254]/",
            "https://[::ffff:169.254.169.254]/",
            "https://metadata.google.internal/",
        ]);
    }

    #[test]
    fn addresses_of_nobody_or_of_groups_are_refused() {
        check_private(&[
            "https://0.0.0.0/",
            "https://0/",
            "https://[::]/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://240.0.0.1/",
            "https://[ff02::1]/",
            "https://192.0.2.1/",
            "https://198.18.0.1/",
            "https://[2001:db8::1]/",
            "https://[2001::1]/",
            "https://[3fff::1]/",
            "https://[::127.0.0.1]/",
            "https://[100::1]/",
        ]);
    }

    #[test]
    fn what_is_allowed_by_name_is_called_and_nothing_beside() {
        let policy = Policy::new(["worker.lan", "10.1.0.0/16", "127.0.0.1", "fd00::/8"]).expect("a policy");
        for url in [
            "http://worker.lan:8080/",
            "http://WORKER.lan./",
            "http://10.1.2.3/",
            "http://127.0.0.1/",
            "https://[::ffff:10.1.2.3]/",
            "http://[fd00::7]/",
        ] {
            policy.check(url).expect(url);
        }
        for url in ["http://10.2.0.1/", "http://127.0.0.2/", "http://localhost/", "http://a.worker.lan/"] {
            policy.check(url).expect_err(url);
        }
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert!(policy.permits("worker.lan", Ipv4Addr::new(10, 9, 9, 9).into()), "its name was given");
        assert!(policy.permits("a.example", loopback) && !Policy::default().permits("a.example", loopback));
        for text in ["10.0.0.0/33", "10.0.0/8", "a b", "fd00::/129", ""] {
            assert!(Policy::new([text]).is_err(), "{text}");
        }
        assert!(is_within(loopback, Ipv4Addr::UNSPECIFIED.into(), 0), "all of them");
    }
}
