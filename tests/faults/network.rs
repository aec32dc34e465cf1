//! Three hosts and a router between them, each a network namespace. What the router does not pass on is lost in silence, as behind a
//! broken switch.
//!
//! All of it is within namespaces of the test's own process ([`enter`]), and gone when that ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Hosts.
pub(crate) const HOSTS: usize = 3;
/// Where the router's filter is.
const TABLE: &str = "faults";
const CHAIN: &str = "between";
/// Says that a process has entered.
const ENTERED: &str = "WEIR_FAULTS_ENTERED";

/// Has this process begin again in namespaces of its own, in which it may do everything, unless it is there already.
pub(crate) fn enter() {
    if std::env::var_os(ENTERED).is_some() {
        return;
    }
    let program = std::env::current_exe().expect("a program");
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "--",
    ]);
    let error = command.arg(program).args(std::env::args_os().skip(1)).env(ENTERED, "1").exec();
    panic!("unshare (of util-linux) cannot be run: {error}");
}

/// The hosts and what lies between them.
#[derive(Debug)]
pub(crate) struct Network;

impl Network {
    /// Connects the hosts.
    pub(crate) fn new() -> Network {
        // Here namespaces get their names.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        run("ip", &["link", "set", "lo", "up"]);
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the router is our own");
        for host in 0..HOSTS {
            let (name, port, near, far) = (name(host), format!("port{host}"), near(host), ip(host));
            run("ip", &["netns", "add", &name]);
            run("ip", &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name]);
            run("ip", &["addr", "add", &format!("{near}/24"), "dev", &port]);
            run("ip", &["link", "set", &port, "up"]);
            run("ip", &["-n", &name, "addr", "add", &format!("{far}/24"), "dev", "eth0"]);
            run("ip", &["-n", &name, "link", "set", "eth0", "up"]);
            run("ip", &["-n", &name, "link", "set", "lo", "up"]);
            run("ip", &["-n", &name, "route", "add", "default", "via", &near.to_string()]);
        }
        run("nft", &["add", "table", "ip", TABLE]);
        run("nft", &["add", "chain", "ip", TABLE, CHAIN, "{ type filter hook forward priority 0; }"]);
        Network
    }

    /// What runs a program on a host.
    pub(crate) fn runner(host: usize) -> [String; 3] {
        ["nsenter".to_owned(), format!("--net=/run/netns/{}", name(host)), "--".to_owned()]
    }

    /// Loses whatever `from` sends to `to`, from now on.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.rule("add", from, to);
    }

    /// Ends a [cut](Network::cut).
    pub(crate) fn mend(&self, from: usize, to: usize) {
        self.rule("del", from, to);
    }

    /// Loses so many of 100 packets between hosts, each by chance; none for 0.
    pub(crate) fn lose(&self, percent: u64) {
        run("nft", &["flush", "chain", "ip", TABLE, CHAIN]);
        if percent > 0 {
            let below = percent.to_string();
            run("nft", &["add", "rule", "ip", TABLE, CHAIN, "numgen", "random", "mod", "100", "<", &below, "drop"]);
        }
    }

    fn rule(&self, verb: &str, from: usize, to: usize) {
        run("ip", &["rule", verb, "from", &ip(from).to_string(), "to", &ip(to).to_string(), "blackhole"]);
    }
}

/// Where a host is reached on a port.
pub(crate) fn address(host: usize, port: u16) -> SocketAddr {
    SocketAddr::new(ip(host), port)
}

fn ip(host: usize) -> IpAddr {
    Ipv4Addr::new(10, 9, host as u8, 2).into()
}

/// The router, as a host sees it. Every host reaches it at each of its addresses.
pub(crate) fn near(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, host as u8, 1)
}

fn name(host: usize) -> String {
    format!("host{host}")
}

/// Runs a command that must do what it is asked for.
pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program} cannot be run: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
