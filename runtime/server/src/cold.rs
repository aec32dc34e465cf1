//! The cold tier as the node has it: which store, whether it is this node's, and the threads that it runs on.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use weir_cold::claim::{self, ClaimError, Member, claim, claim_for_cluster};
use weir_cold::{ChunkName, ChunkStore, ClaimedStore, Cold, LocalStore, MovedStore, S3Store, StoreError};

use crate::config::ColdConfig;
use crate::node::{DataDir, Node, NodeError};

/// Files that are read or written at a time.
const THREADS_MAX: usize = 4;
/// How long somebody else who takes the same bucket at the same time may need from his look at it until he has put his name
/// there.
const RACE: Duration = Duration::from_secs(1);

/// Why the cold tier that is configured cannot be this node's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ColdError {
    /// It is not there, refuses, or is another cluster's.
    #[error("cold.url = {url:?}{endpoint} cannot be used")]
    Claim {
        /// What is configured.
        url: String,
        /// `, cold.endpoint = ...` where one is.
        endpoint: String,
        /// Why.
        #[source]
        source: ClaimError,
    },
    /// The node's chunks are in another bucket.
    #[error(
        "cold.url = {configured:?} cannot be used: this node's old bytes are in {known:?}, set cold.url back to that"
    )]
    Moved {
        /// What is configured.
        configured: String,
        /// Where they are.
        known: String,
    },
    /// Old bytes that no other node reaches.
    #[error(
        "this node has {chunks} chunks in its own folder, which other nodes cannot read: start it alone, with this cold.url, until \
         they have moved"
    )]
    LeftBehind {
        /// How many.
        chunks: usize,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// The threads of the cold tier, beside the shards. They end with this.
pub(crate) struct ColdRuntime(Option<Runtime>);

impl ColdRuntime {
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start() -> io::Result<ColdRuntime> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).max_blocking_threads(THREADS_MAX).thread_name("cold").enable_all();
        Ok(ColdRuntime(Some(runtime.build()?)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is there until it is dropped").handle()
    }
}

impl Drop for ColdRuntime {
    fn drop(&mut self) {
        // What is read or put now is of no use to anybody any more.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The number that a cluster has in the bucket that is configured; `None` where none is, or nobody has claimed it for the cluster.
///
/// # Errors
/// [`ColdError`] when the bucket does not answer.
pub(crate) async fn number_of(config: &ColdConfig, cluster: &str, runtime: &Handle) -> Result<Option<u64>, ColdError> {
    let Some(location) = config.s3() else { return Ok(None) };
    let cluster = cluster.to_string();
    let asking = async move { claim::number_of(&S3Store::new(&location)?, &cluster).await };
    let number = runtime.spawn(asking).await;
    let number = number.unwrap_or_else(|_| Err(StoreError::Failed("it has ended".to_string())));
    number.map_err(|source| failed(config, source.into()))
}

/// Whether nothing keeps a node that was alone from becoming one of several: that is looked at before anything of it is written down.
///
/// # Errors
/// [`ColdError::LeftBehind`], or the folder cannot be read.
pub(crate) async fn check_folder(data_dir: &DataDir) -> Result<(), ColdError> {
    let local = LocalStore::new(data_dir.cold_dir()?).map_err(|error| data_dir.cold_failed(error))?;
    match chunks_in(&local, data_dir).await?.len() {
        0 => Ok(()),
        chunks => Err(ColdError::LeftBehind { chunks }),
    }
}

/// The chunks in the node's own folder.
async fn chunks_in(local: &LocalStore, data_dir: &DataDir) -> Result<BTreeSet<ChunkName>, ColdError> {
    let objects = local.list().await.map_err(|error| data_dir.cold_failed(io::Error::other(error)))?;
    Ok(objects.iter().filter_map(|(name, _)| ChunkName::parse(name)).collect())
}

/// That the store that is configured cannot be used.
fn failed(config: &ColdConfig, source: ClaimError) -> ColdError {
    let endpoint = match config.endpoint.as_str() {
        "" => String::new(),
        endpoint => format!(", cold.endpoint = {endpoint:?}"),
    };
    ColdError::Claim { url: config.url.clone(), endpoint, source }
}

/// The cold tier of the node, if it has one. In a cluster of several that is a bucket, which is claimed for all of its nodes; `drawn` is
/// the number that the cluster gets there if this node is the first.
///
/// # Errors
/// [`ColdError`] when it cannot be this node's.
pub(crate) async fn open(
    data_dir: Option<&DataDir>,
    node: &Node,
    config: &ColdConfig,
    runtime: &Handle,
    drawn: u64,
) -> Result<Option<Cold>, ColdError> {
    let Some(data_dir) = data_dir else { return Ok(None) };
    // A slash at the end makes no other bucket or prefix of it.
    let known = data_dir.cold_url()?.map(|url| url.trim_end_matches('/').to_string());
    let url = config.url.trim_end_matches('/');
    let was_ours = known.as_deref() == Some(url);
    if let Some(known) = known.filter(|known| ColdConfig::is_s3(known) && known != url) {
        return Err(ColdError::Moved { configured: config.url.clone(), known });
    }
    let location = config.s3();
    match (&node.cluster, &location) {
        _ if !config.is_on() => return Ok(None),
        (Some(_), None) => {
            tracing::warn!(
                config.url,
                "a folder is no cold tier for several nodes: all bytes stay in the logs, and when these are full, writes are \
                 refused; set cold.url to a bucket that all nodes reach, or to \"off\""
            );
            return Ok(None);
        }
        (Some(_), Some(_)) | (None, _) => {}
    }
    let local = LocalStore::new(data_dir.cold_dir()?).map_err(|error| data_dir.cold_failed(error))?;
    let (store, race): (Arc<dyn ChunkStore>, _) = match &location {
        // Nobody else is in the data directory. It may be another one by now, where a file system is not mounted.
        None => (Arc::new(local.clone()), Duration::ZERO),
        Some(location) => (Arc::new(S3Store::new(location).map_err(|error| failed(config, error.into()))?), RACE),
    };
    let number = data_dir.cold_number()?.filter(|_| was_ours);
    let cluster = node.cluster.as_ref().map(|cluster| cluster.id.clone());
    let claimed = {
        let (store, cluster, node_id) = (store.clone(), cluster.clone(), node.id);
        let (number_of_node, disk) = (node.number, node.disk());
        let claiming = async move {
            match cluster {
                None => claim(&*store, node_id, was_ours, race).await.map(|()| None),
                Some(cluster) => {
                    let member = Member { cluster: &cluster, node: number_of_node, disk, alone: node_id };
                    claim_for_cluster(&*store, member, number, drawn, race).await.map(Some)
                }
            }
        };
        runtime.spawn(claiming).await
    };
    let (mut store, number) =
        match claimed.unwrap_or_else(|_| Err(StoreError::Failed("it has ended".to_string()).into())) {
            Ok(found) => {
                if let Some(found) = found.filter(|_| number.is_none()) {
                    data_dir.set_cold_number(found)?;
                }
                if !was_ours {
                    data_dir.set_cold_url(url)?;
                }
                (store, found)
            }
            // It goes away now and then. What is in the log is there all the same.
            Err(ClaimError::Store(StoreError::Failed(reason)))
                if was_ours && location.is_some() && cluster.is_some() == number.is_some() =>
            {
                tracing::error!(
                    config.url,
                    reason,
                    "the cold tier does not answer: old bytes cannot be read until it does"
                );
                let claimed = match number.zip(cluster.as_ref()) {
                    None => ClaimedStore::new(store, node.id),
                    Some((number, cluster)) => ClaimedStore::of_cluster(store, number, cluster),
                };
                (Arc::new(claimed) as Arc<dyn ChunkStore>, number)
            }
            Err(error) => return Err(failed(config, error)),
        };
    let left_behind = if location.is_some() { chunks_in(&local, data_dir).await? } else { BTreeSet::new() };
    if node.cluster.is_some() && !left_behind.is_empty() {
        return Err(ColdError::LeftBehind { chunks: left_behind.len() });
    }
    if !left_behind.is_empty() {
        store = Arc::new(MovedStore { old: local, new: store });
    }
    let cold = Cold::new(store, config.cache_bytes, runtime.clone(), left_behind);
    let cold = if location.is_some() { cold.keeping_snapshots() } else { cold };
    Ok(Some(match number {
        None => cold,
        Some(number) => cold.owned_by(number),
    }))
}
