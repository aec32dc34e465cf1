//! `[cluster]`: which node of which cluster this is, and how it meets the others.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weir_cluster::NodeId;
use weir_stream::{ADDRESS_BYTES_MAX, NODES_MAX};

use crate::address::ListenAddress;

/// The longest name of a cluster, in bytes.
const ID_BYTES_MAX: usize = 64;

/// Why `[cluster]` is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterConfigError {
    /// A value that cannot be used.
    #[error("{key} = {value:?} cannot be used: {reason}")]
    Invalid {
        /// Section and key.
        key: &'static str,
        /// The value.
        value: String,
        /// Why.
        reason: String,
    },
    /// An address that others can reach, where anybody would be taken for a node.
    #[error(
        "cluster.listen = {0} can be reached from other machines, and nobody who connects there has to show who he is: \
         set cluster.secret_file, or the certificates, or say --insecure if this is meant"
    )]
    NotLoopback(ListenAddress),
    /// A new node without others.
    #[error(
        "the data directory is empty, so this would be a new node of a cluster, and of which is not said: name the nodes that form \
         it with it (--peer), or one of a cluster that is to take it in (--join); a node that is alone and has a data directory \
         becomes the first of a cluster by --cluster-id"
    )]
    NewAlone,
    /// A new node without a number.
    #[error("a new node of a cluster has a number that no other has had: set cluster.node_id")]
    NoNumber,
    /// What several nodes do not do yet.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClusterConfig {
    /// This node's number in its cluster; 0 for a node that is alone.
    pub(crate) node_id: u32,
    /// What the cluster is called.
    pub(crate) id: String,
    /// Where other nodes connect.
    pub(crate) listen: ListenAddress,
    /// Where the other nodes reach this one, as `host:port`; empty for what it listens on.
    pub(crate) advertise: String,
    /// The nodes that form the cluster together, as `2=host:port`, separated by commas; with or without this one.
    pub(crate) peers: String,
    /// A node of the cluster that this one waits to be taken into, as `host:port`.
    pub(crate) join: String,
    /// A file with the secret that all nodes have; empty for none.
    pub(crate) secret_file: PathBuf,
    /// The certificates of those who sign for the nodes, PEM; empty for no TLS.
    pub(crate) tls_ca_file: PathBuf,
    /// This node's certificate, PEM.
    pub(crate) tls_certificate_file: PathBuf,
    /// Its key, PEM.
    pub(crate) tls_key_file: PathBuf,
}

impl Default for ClusterConfig {
    fn default() -> ClusterConfig {
        ClusterConfig {
            node_id: 0,
            id: String::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4439)).into(),
            advertise: String::new(),
            peers: String::new(),
            join: String::new(),
            secret_file: PathBuf::new(),
            tls_ca_file: PathBuf::new(),
            tls_certificate_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
        }
    }
}

impl ClusterConfig {
    /// Whether this is a node of a cluster.
    pub(crate) fn is_member(&self) -> bool {
        self.node_id != 0 || !self.id.is_empty()
    }

    /// Where the other nodes reach this one; empty where nobody has said so and it listens on all addresses.
    pub(crate) fn own_address(&self) -> String {
        let advertise = self.advertise.trim();
        if !advertise.is_empty() {
            return advertise.to_string();
        }
        let named = self.node().and_then(|own| self.named().ok()?.remove(&own));
        named.unwrap_or_else(|| {
            let socket = self.listen.socket();
            let is_everywhere = socket.ip().is_unspecified();
            if is_everywhere { String::new() } else { format!("{}:{}", self.listen.host(), socket.port()) }
        })
    }

    /// This node's number; none for a node that is alone, or has it from when it was that.
    pub(crate) fn node(&self) -> Option<NodeId> {
        NodeId::new(self.node_id.into())
    }

    /// The other nodes, and where they are. They are read when the configuration is checked.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub(crate) fn peers(&self) -> Result<BTreeMap<NodeId, String>, ClusterConfigError> {
        let mut peers = self.named()?;
        peers.retain(|node, _| Some(*node) != self.node());
        Ok(peers)
    }

    /// The nodes that `peers` names, of which this may be one, so that all can have the same list.
    fn named(&self) -> Result<BTreeMap<NodeId, String>, ClusterConfigError> {
        let invalid = |reason: &str| {
            let (value, reason) = (self.peers.clone(), reason.to_string());
            ClusterConfigError::Invalid { key: "cluster.peers", value, reason }
        };
        let mut peers = BTreeMap::new();
        for peer in self.peers.split(',').map(str::trim).filter(|peer| !peer.is_empty()) {
            let (node, address) = peer.split_once('=').ok_or_else(|| invalid("each is written as 2=host:port"))?;
            let number = node.trim().parse::<u32>().ok().and_then(|number| NodeId::new(number.into()));
            let number = number.ok_or_else(|| invalid("a node has a number from 1 on"))?;
            if !is_address(address) {
                return Err(invalid("each has a host and a port, as in 2=host:4439"));
            }
            if peers.insert(number, address.trim().to_string()).is_some() {
                return Err(invalid("a node is named twice"));
            }
        }
        if peers.len() >= NODES_MAX {
            return Err(invalid(&format!("a cluster has at most {NODES_MAX} nodes")));
        }
        Ok(peers)
    }

    /// Whether nodes show each other certificates.
    pub(crate) fn has_tls(&self) -> bool {
        !self.tls_ca_file.as_os_str().is_empty()
    }

    /// Checks what can be checked without looking at files. `has_secret` says whether there is one elsewhere.
    ///
    /// # Errors
    /// [`ClusterConfigError`].
    pub(crate) fn check(&self, has_secret: bool, is_insecure: bool) -> Result<(), ClusterConfigError> {
        let invalid = |key, value: &str, reason: &str| ClusterConfigError::Invalid {
            key,
            value: value.to_string(),
            reason: reason.to_string(),
        };
        let peers = self.peers()?;
        let joins = !self.join.is_empty();
        if self.node().is_none() && (joins || !peers.is_empty()) {
            let (key, value) = if joins { ("cluster.join", &self.join) } else { ("cluster.peers", &self.peers) };
            return Err(invalid(key, value, "a node that has others has a number: set cluster.node_id"));
        }
        if !self.is_member() {
            return Ok(());
        }
        let is_id = |id: &str| (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_id(&self.id) || self.id.contains(['"', '\\']) {
            let reason = "a cluster is called by 1 to 64 visible ASCII characters, and all its nodes call it the same";
            return Err(invalid("cluster.id", &self.id, reason));
        }
        if joins && !peers.is_empty() {
            let reason = "a node forms a cluster with its peers, or joins one that is there, and not both";
            return Err(invalid("cluster.join", &self.join, reason));
        }
        for (key, address) in [("cluster.join", &self.join), ("cluster.advertise", &self.advertise)] {
            if !address.is_empty() && !is_address(address.trim()) {
                return Err(invalid(key, address, "it is written as host:port"));
            }
        }
        let files = [&self.tls_ca_file, &self.tls_certificate_file, &self.tls_key_file];
        let missing = files.iter().filter(|file| file.as_os_str().is_empty()).count();
        if missing != 0 && missing != files.len() {
            let reason = "TLS needs all of tls_ca_file, tls_certificate_file and tls_key_file";
            return Err(invalid("cluster.tls_ca_file", &self.tls_ca_file.to_string_lossy(), reason));
        }
        let has_secret = has_secret || !self.secret_file.as_os_str().is_empty();
        if self.has_tls() && has_secret {
            let reason = "nodes that show each other certificates need no secret";
            return Err(invalid("cluster.secret_file", &self.secret_file.to_string_lossy(), reason));
        }
        if !self.listen.socket().ip().is_loopback() && !self.has_tls() && !has_secret && !is_insecure {
            return Err(ClusterConfigError::NotLoopback(self.listen.clone()));
        }
        Ok(())
    }
}

/// Whether this is the address of a node, perhaps behind spaces.
fn is_address(address: &str) -> bool {
    weir_cluster::is_address(address.trim_start()) && address.len() <= ADDRESS_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(peers: &str) -> ClusterConfig {
        ClusterConfig { node_id: 1, id: "c1".to_string(), peers: peers.to_string(), ..ClusterConfig::default() }
    }

    fn refusal(config: &ClusterConfig) -> String {
        config.check(false, false).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_node_is_alone_or_has_a_number_a_cluster_and_others() {
        ClusterConfig::default().check(false, false).expect("a node that is alone");
        cluster("2=a:1, 3=b:2,").check(false, false).expect("a node of three");
        let alone = ClusterConfig { node_id: 0, ..cluster("2=a:1") };
        assert!(refusal(&alone).contains("set cluster.node_id"));
        assert!(refusal(&ClusterConfig { id: String::new(), ..cluster("2=a:1") }).contains("cluster.id"));
        cluster("").check(false, false).expect("a node that was formed says who the others are");
        let joining = ClusterConfig { join: "a:1".into(), ..cluster("") };
        joining.check(false, false).expect("a node that waits to be taken in");
        assert!(refusal(&ClusterConfig { peers: "2=a:1".into(), ..joining.clone() }).contains("and not both"));
        assert!(refusal(&ClusterConfig { node_id: 0, ..joining.clone() }).contains("set cluster.node_id"));
        assert!(refusal(&ClusterConfig { join: "a".into(), ..joining }).contains("host:port"));
        assert_eq!(cluster("").own_address(), "127.0.0.1:4439");
        for (peers, reason) in [
            ("2", "2=host:port"),
            ("0=a:1", "from 1 on"),
            ("x=a:1", "from 1 on"),
            ("2=a:1,2=b:1", "named twice"),
            ("2=a", "a host and a port"),
            ("2=:1", "a host and a port"),
            ("2=a:0", "a host and a port"),
            ("2=a\nb:1", "a host and a port"),
            (&format!("2={}:1", "a".repeat(ADDRESS_BYTES_MAX)), "a host and a port"),
        ] {
            assert!(refusal(&cluster(peers)).contains(reason), "{peers}");
        }
    }

    #[test]
    fn all_nodes_may_have_the_same_list_and_it_says_where_this_one_is() {
        let everywhere = ClusterConfig { listen: ":4439".parse().expect("an address"), ..cluster("1=a:1,2=b:2") };
        everywhere.check(true, false).expect("it may name this node");
        assert_eq!(everywhere.peers().expect("a list"), BTreeMap::from([(NodeId::new(2).expect("2"), "b:2".into())]));
        assert_eq!(everywhere.own_address(), "a:1");
        assert_eq!(ClusterConfig { advertise: "c:3".into(), ..everywhere.clone() }.own_address(), "c:3");
        assert_eq!(ClusterConfig { peers: "2=b:2".into(), ..everywhere }.own_address(), "");
    }

    #[test]
    fn nobody_is_believed_from_elsewhere_without_a_secret_or_a_certificate() {
        let public = ClusterConfig { listen: ":4439".parse().expect("an address"), ..cluster("2=a:1") };
        assert!(refusal(&public).contains("cluster.listen = :4439"));
        public.check(true, false).expect("there is a secret");
        public.check(false, true).expect("it is meant");
        let file = || PathBuf::from("f");
        let half = ClusterConfig { tls_ca_file: file(), ..public.clone() };
        assert!(refusal(&half).contains("TLS needs all"));
        let whole = ClusterConfig { tls_certificate_file: file(), tls_key_file: file(), ..half };
        whole.check(false, false).expect("there are certificates");
        assert!(whole.check(true, false).expect_err("both").to_string().contains("need no secret"));
    }
}
