//! This node in its cluster: how it meets the others, whom it lets in, and what becomes of their connections.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use weir_cluster::tls::{Pem, TlsError};
use weir_cluster::{
    Acceptor, ClusterId, DiskId, Endpoint, Hello, Identity, LinkConfig, NodeId, Secret, Security, Tcp, Tls,
};
use weir_shard::{Entropy, Nodes, Shard, Topology};

use crate::cluster_config::{ClusterConfig, ClusterConfigError};
use crate::config::SECRET_VARIABLE;
use crate::node::{Node, Peers};
use crate::shard_thread::Request;

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

/// The other nodes, and how this one meets them. This one has a number, and its cluster another in the cold tier, if it has one: who
/// has another bucket belongs to another cluster. `random` draws what nobody is to guess, `met` are those that it knows, and `noted` is
/// called with all of them when there is one more.
///
/// # Errors
/// [`ClusterError`].
pub(crate) fn nodes(
    config: &ClusterConfig,
    (id, store): (NodeId, Option<u64>),
    node: &Node,
    random: impl Entropy,
    met: Peers,
    noted: impl Fn(&Peers) + Send + Sync + 'static,
) -> Result<Nodes, ClusterError> {
    let (addresses, life) = (config.peers()?, random.u64());
    let identity = Identity { cluster: cluster_id(&config.id, store), node: id, disk: DiskId(node.disk()) };
    let endpoint = Endpoint {
        identity,
        security: security(config)?,
        network: Arc::new(Tcp),
        entropy: Arc::new(move || random.u64()),
        admission: admission(addresses.keys().copied().collect(), met, noted),
        config: LinkConfig::default(),
    };
    Ok(Nodes { endpoint, addresses, life })
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

/// Lets in the nodes that are configured, each with the disk that it had when it came first.
fn admission(
    known: BTreeSet<NodeId>,
    met: Peers,
    noted: impl Fn(&Peers) + Send + Sync + 'static,
) -> Arc<dyn weir_cluster::Admission> {
    let disks = Mutex::new(met);
    Arc::new(move |hello: &Hello| {
        let Identity { node, disk, .. } = hello.identity;
        if !known.contains(&node) {
            return Err(format!("node {node} is not one of the cluster's nodes, as cluster.peers has them here"));
        }
        let mut disks = disks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match disks.get(&node) {
            Some(before) => *before,
            None => {
                disks.insert(node, disk);
                noted(&disks);
                disk
            }
        };
        match before == disk {
            true => Ok(()),
            false => Err(format!(
                "node {node} had disk {before} before, and has disk {disk} now: a node that has lost its logs comes again under a new number"
            )),
        }
    })
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
    use weir_cluster::Lane;
    use weir_types::ShardId;

    use super::*;

    #[test]
    fn who_is_not_named_or_has_another_disk_is_not_let_in() {
        let node = |number| NodeId::new(number).expect("not 0");
        let (noted, notes) = std::sync::mpsc::channel();
        let noted = move |peers: &Peers| noted.send(peers.clone()).expect("somebody listens");
        let admission = admission([node(2), node(4)].into(), [(node(4), DiskId(1))].into(), noted);
        let admit = |number, disk| {
            let identity = Identity { cluster: cluster_id("c1", None), node: node(number), disk: DiskId(disk) };
            admission.admit(&Hello { identity, meant: node(1), lane: Lane::Mail(ShardId(0)) })
        };
        assert!(admit(3, 1).expect_err("nobody knows it").contains("node 3 is not one"));
        admit(2, 7).expect("it is known");
        assert!(admit(2, 8).expect_err("another disk").contains("had disk"));
        admit(2, 7).expect("the one that it had");
        admit(4, 2).expect_err("it was met in an earlier life");
        let notes: Vec<Peers> = notes.try_iter().collect();
        assert_eq!(notes, [[(node(2), DiskId(7)), (node(4), DiskId(1))].into()]);
        assert_ne!(cluster_id("c1", None), cluster_id("c2", None));
        assert_ne!(cluster_id("c1", None), cluster_id("c1", Some(0)));
        assert_ne!(cluster_id("c1", Some(1)), cluster_id("c1", Some(0)));
    }
}
