//! This node in its cluster: how it meets the others, whom it lets in, and what becomes of their connections.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_types::limits::FORMAT_LEVEL;

use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use weir_cluster::tls::{Pem, TlsError};
use weir_cluster::{
    Acceptor, ClusterId, DiskId, Endpoint, Hello, Identity, LinkConfig, List, NodeId, Roster, Secret, Security, Tcp,
    Tls, inquire,
};
use weir_shard::{Entropy, Joined, Nodes, Shard, Topology};

use crate::cluster_config::{ClusterConfig, ClusterConfigError};
use crate::cold;
use crate::config::{ColdConfig, SECRET_VARIABLE};
use crate::node::Node;
use crate::shard_thread::Request;

/// How often a node that is new asks whether it was taken in.
const JOIN_EVERY: Duration = Duration::from_secs(1);

/// Why this node cannot meet others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// What is configured cannot be used.
    #[error(transparent)]
    Config(#[from] ClusterConfigError),
    /// A file that is configured cannot be read.
    #[error("{key} = {path:?} cannot be read", path = path.display().to_string())]
    File {
        /// Section and key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The secret is none.
    #[error("the cluster's secret cannot be used: {0}")]
    Secret(#[from] weir_cluster::secret::SecretTooShort),
    /// There can be no TLS with the files.
    #[error("the cluster's certificates cannot be used")]
    Tls(#[from] TlsError),
}

/// This node of a cluster, as it meets the others; they are those that it knows, and those that are configured. The cluster has a number
/// in the cold tier, if it has one: who has another bucket belongs to another cluster. `random` draws what nobody is to guess, and
/// `noted` is called with all that are known when that changes.
///
/// # Errors
/// [`ClusterError`].
pub(crate) fn nodes(
    config: &ClusterConfig,
    store: Option<u64>,
    node: &Node,
    random: impl Entropy,
    known: List,
    noted: impl Fn(&List) + Send + Sync + 'static,
) -> Result<Nodes, ClusterError> {
    let own = NodeId::new(node.number).expect("nodes have numbers from 1 on");
    let life = random.u64();
    let roster = Roster::new(own, with_configured(known, own, config)?, noted);
    let endpoint = endpoint(config, store, node, random, roster.clone())?;
    let founders = node.cluster.as_ref().map(|cluster| cluster.founders.clone()).unwrap_or_default();
    Ok(Nodes { endpoint, roster, founders, life })
}

fn endpoint(
    config: &ClusterConfig,
    store: Option<u64>,
    node: &Node,
    random: impl Entropy,
    roster: Roster,
) -> Result<Endpoint, ClusterError> {
    let identity = Identity {
        cluster: cluster_id(&config.id, store),
        node: NodeId::new(node.number).expect("nodes have numbers from 1 on"),
        disk: DiskId(node.disk()),
    };
    Ok(Endpoint {
        identity,
        level: FORMAT_LEVEL,
        security: security(config)?,
        network: Arc::new(Tcp),
        entropy: Arc::new(move || random.u64()),
        admission: Arc::new(roster),
        config: LinkConfig::default(),
    })
}

/// The nodes that are known, and before the cluster has said who they are, those that are configured.
fn with_configured(mut known: List, own: NodeId, config: &ClusterConfig) -> Result<List, ClusterError> {
    let own_address = config.own_address();
    for (node, address) in config.peers()?.into_iter().chain([(own, own_address)]) {
        let entry = match known.epoch {
            0 => Some(known.nodes.entry(node).or_default()),
            // Where the cluster has none, this is as good.
            _ => known.nodes.get_mut(&node).filter(|entry| entry.address.is_empty()),
        };
        if let Some(entry) = entry {
            entry.address = address;
        }
    }
    Ok(known)
}

/// Asks a node of the cluster what this new one has to know, until it is answered: first somebody has to take this node in. The number
/// that the cluster has in the cold tier is asked for each time: it may be drawn while this node waits, and until then the two are of
/// different clusters.
///
/// # Errors
/// [`ClusterError`].
pub(crate) async fn join(
    config: &ClusterConfig,
    cold: &ColdConfig,
    runtime: &Handle,
    node: &Node,
    random: impl Entropy,
) -> Result<Joined, ClusterError> {
    // Whoever answers at the address belongs to the cluster: it has shown that, where there is anything to show.
    let own = NodeId::new(node.number).expect("nodes have numbers from 1 on");
    let admission = Roster::new(own, List::default(), |_| {});
    let mut endpoint = endpoint(config, None, node, random, admission)?;
    endpoint.admission = Arc::new(|_: &Hello| Ok(()));
    let address = config.join.trim();
    let (own_address, mut said) = (config.own_address(), String::new());
    tracing::info!(
        "this node waits to be taken in: on a node of the cluster, `weir cluster add {own} {}` does that",
        if own_address.is_empty() { "host:port" } else { &own_address }
    );
    loop {
        let reason = match cold::number_of(cold, &config.id, runtime).await {
            Ok(store) => {
                endpoint.identity.cluster = cluster_id(&config.id, store);
                match inquire(&endpoint, address, Joined::question()).await {
                    Ok(answer) => match Joined::read(&answer, address) {
                        Some(_) if store.is_none() && cold.s3().is_some() => format!(
                            "the cluster has no cold tier, and cold.url = {:?} is configured here: take that away, or give it to all nodes",
                            cold.url
                        ),
                        Some(joined) => return Ok(joined),
                        None => format!("{address} has answered something else than what it was asked"),
                    },
                    Err(reason) if store.is_none() && cold.s3().is_some() => format!(
                        "{reason}; no node of the cluster has used cold.url = {:?} yet: whoever does so first claims it for all",
                        cold.url
                    ),
                    Err(reason) => reason,
                }
            }
            Err(error) => {
                let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
                format!("what the cluster is known by cannot be asked for: {error}{cause}")
            }
        };
        if reason != said {
            tracing::warn!(reason, "this node is not taken in yet");
            said = reason;
        }
        tokio::time::sleep(JOIN_EVERY).await;
    }
}

/// What a cluster's name, and its number in the cold tier, stand for between nodes.
fn cluster_id(name: &str, store: Option<u64>) -> ClusterId {
    let digest = match store {
        None => Sha256::digest(name.as_bytes()),
        // No name has a line break.
        Some(number) => Sha256::digest(format!("{name}\n{number:016x}").as_bytes()),
    };
    ClusterId(u128::from_le_bytes(*digest.first_chunk().expect("a digest has 32 bytes")))
}

fn security(config: &ClusterConfig) -> Result<Security, ClusterError> {
    if config.has_tls() {
        let authorities = read("cluster.tls_ca_file", &config.tls_ca_file)?;
        let certificate = read("cluster.tls_certificate_file", &config.tls_certificate_file)?;
        let key = read("cluster.tls_key_file", &config.tls_key_file)?;
        let pem = Pem { authorities: &authorities, certificate: &certificate, key: &key };
        let clock = Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        return Ok(Security::Tls(Tls::new(pem, clock)?));
    }
    let secret = match std::env::var_os(SECRET_VARIABLE) {
        Some(secret) => secret.into_encoded_bytes(),
        None if config.secret_file.as_os_str().is_empty() => return Ok(Security::None),
        None => read("cluster.secret_file", &config.secret_file)?,
    };
    // Who writes a file ends it with a line break.
    Ok(Security::Secret(Secret::new(secret.trim_ascii())?))
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ClusterError> {
    std::fs::read(path).map_err(|source| ClusterError::File { key, path: path.to_path_buf(), source })
}

/// Takes connections of other nodes, and hands each to the shard that it is for. Runs until the process ends.
pub(crate) async fn accept(
    endpoint: Endpoint,
    listener: TcpListener,
    topology: Topology,
    shards: Vec<mpsc::UnboundedSender<Request>>,
) {
    let mut acceptor = Acceptor::new(endpoint, Box::new(listener));
    loop {
        let accepted = acceptor.next().await;
        match Shard::taker_of(topology, accepted.hello.lane) {
            // A shard that is gone has taken the process with it.
            Some(shard) => drop(shards[usize::from(shard.0)].send(Request::Node(Box::new(accepted)))),
            None => {
                let (node, lane) = (accepted.hello.identity.node.get(), accepted.hello.lane);
                tracing::warn!(node, %lane, "another node has groups that this one has not");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_cluster::Known;

    use super::*;

    #[test]
    fn what_is_configured_counts_until_the_cluster_has_said_who_there_is() {
        let node = |number| NodeId::new(number).expect("not 0");
        let config =
            ClusterConfig { node_id: 1, id: "c1".into(), peers: "2=b:1,3=c:1".into(), ..ClusterConfig::default() };
        let known = |address: &str, disk| Known { address: address.into(), disk, is_removed: false };
        let addresses = |list: List| -> Vec<(u64, String)> {
            list.nodes.into_iter().map(|(node, known)| (node.get(), known.address)).collect()
        };
        let met = List { nodes: [(node(2), known("", Some(DiskId(7))))].into(), ..List::default() };
        let configured = with_configured(met, node(1), &config).expect("they are addresses");
        assert_eq!(configured.nodes[&node(2)].disk, Some(DiskId(7)));
        let own = (1, "127.0.0.1:4439".to_string());
        assert_eq!(addresses(configured), [own.clone(), (2, "b:1".into()), (3, "c:1".into())]);
        let told = [(node(1), known("", None)), (node(2), known("b:2", None))].into();
        let told = List { epoch: 4, level: 1, nodes: told };
        let told = with_configured(told, node(1), &config).expect("they are addresses");
        assert_eq!(addresses(told), [own, (2, "b:2".into())], "node 3 is none of them any more");
        assert_ne!(cluster_id("c1", None), cluster_id("c2", None));
        assert_ne!(cluster_id("c1", None), cluster_id("c1", Some(0)));
        assert_ne!(cluster_id("c1", Some(1)), cluster_id("c1", Some(0)));
    }
}
