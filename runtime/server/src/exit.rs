//! How the process ends: one exit code and one sentence on standard error per kind of failure.

use std::error::Error;
use std::io;

use weir_shard::{ShardError, ShardOpenError};
use weir_storage::WalError;
use weir_wasm::HostError;

use crate::address::ListenAddress;
use crate::admin_client::AdminError;
use crate::cluster::ClusterError;
use crate::cold::ColdError;
use crate::config::ConfigError;
use crate::node::NodeError;
use crate::recover_error::RecoverError;

/// The exit codes, and what they mean.
pub(crate) const CODES: [(u8, &str); 9] = [
    (0, "asked to stop, and everything acknowledged is flushed; or printed what was asked for"),
    (1, "anything else"),
    (2, "bad command line or configuration"),
    (3, "cannot listen"),
    (4, "the data directory is in use by another process"),
    (5, "the data directory cannot be used"),
    (6, "a write-ahead log is damaged, or a snapshot, or one is not this node's, or a part of it is missing"),
    (7, "the cold tier is not there, refuses access, or is another cluster's"),
    (8, "a command has found damage in the cold tier, or something wrong with the cluster"),
];

/// Why the process ends before it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exit {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener cannot be opened.
    #[error("cannot listen on {address}, the {listener} listener")]
    Listen {
        /// `public`, `admin` or `cluster`.
        listener: &'static str,
        /// Where.
        address: ListenAddress,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data directory is refused.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The node cannot meet the others of its cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The cold tier is refused.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// The operating system refuses something that every process may expect.
    #[error("cannot {doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A shard cannot begin, because of its WALs for the most part.
    #[error("shard {shard} cannot be opened")]
    ShardOpen {
        /// Its number.
        shard: u16,
        /// Why.
        #[source]
        source: ShardOpenError,
    },
    /// Modules cannot be run on this machine.
    #[error(transparent)]
    Engine(#[from] HostError),
    /// What `--demo` asks for cannot be set up.
    #[error("the demo cannot be set up")]
    Demo(#[source] ShardError),
    /// There is no manual page of this name.
    #[error("there is no command `weir {0}`")]
    CommandUnknown(String),
    /// Standard output takes no more.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// A running node has not done what it was asked for.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A check has found chunks that are not what was written.
    #[error("the cold tier is damaged: {chunks} chunks are not what was written")]
    ChunksDamaged {
        /// How many.
        chunks: u64,
    },
    /// A check could not read everything, and the rest is whole.
    #[error("the cold tier could not be checked: {chunks} chunks could not be read")]
    ChunksUnread {
        /// How many.
        chunks: u64,
    },
    /// Something is wrong with the cluster.
    #[error("the cluster is not well")]
    ClusterUnwell,
    /// A backup could not be made.
    #[error("the backup could not be made: {0}")]
    BackupFailed(String),
    /// There is no new node.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A log has failed, or what drives a group. In a cluster others go on with it.
    #[error(
        "a group of this node takes nothing any more, and the cluster's other nodes go on without it: start it again, or replace it"
    )]
    GroupFailed,
    /// It was asked to end a second time before it had ended.
    #[error("stopped at once, because it was asked to a second time")]
    SecondSignal,
}

impl Exit {
    /// The process's exit code, one of [`CODES`].
    pub(crate) fn code(&self) -> u8 {
        match self {
            Exit::Config(_) | Exit::Cluster(_) | Exit::CommandUnknown(_) | Exit::Admin(AdminError::Address(_)) => 2,
            Exit::Listen { .. } => 3,
            Exit::Node(error) | Exit::Cold(ColdError::Node(error)) => node_code(error),
            Exit::ShardOpen { source, .. } => shard_open_code(source),
            Exit::Cold(ColdError::Claim { .. } | ColdError::Moved { .. } | ColdError::LeftBehind { .. })
            | Exit::ChunksUnread { .. } => 7,
            Exit::Recover(error) => recover_code(error),
            Exit::ChunksDamaged { .. } | Exit::ClusterUnwell => 8,
            Exit::System { .. }
            | Exit::Engine(_)
            | Exit::Demo(_)
            | Exit::Output(_)
            | Exit::Admin(_)
            | Exit::BackupFailed(_)
            | Exit::GroupFailed
            | Exit::SecondSignal => 1,
        }
    }

    /// The sentence for standard error: the failure and its causes.
    pub(crate) fn sentence(&self) -> String {
        let mut sentence = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // An error that tells its cause itself is not told twice.
            if !sentence.ends_with(&text) {
                sentence.push_str(": ");
                sentence.push_str(&text);
            }
            cause = error.source();
        }
        sentence
    }
}

/// The code of a new node that cannot be built.
fn recover_code(error: &RecoverError) -> u8 {
    match error {
        RecoverError::Place(_) => 2,
        RecoverError::NotEmpty { .. } | RecoverError::Log(_) => 5,
        RecoverError::Owned { .. } | RecoverError::NoSnapshot(_) | RecoverError::Store { .. } => 7,
        RecoverError::Snapshot { .. } | RecoverError::Chunk { .. } => 8,
    }
}

/// The code of a data directory that cannot be used.
fn node_code(error: &NodeError) -> u8 {
    match error {
        NodeError::Locked { .. } => 4,
        // What is asked for is at fault here, not the directory.
        NodeError::GroupsDiffer { .. } | NodeError::ClusterDiffers { .. } => 2,
        NodeError::Io { .. }
        | NodeError::Invalid { .. }
        | NodeError::OtherFormat { .. }
        | NodeError::OtherLevel { .. }
        | NodeError::Incomplete { .. } => 5,
        NodeError::Wal { source, .. } => wal_code(source),
    }
}

/// The code of a shard that cannot be opened: what is at fault is found among the causes.
fn shard_open_code(error: &ShardOpenError) -> u8 {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // What reading a log found may have travelled as an I/O error.
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        let wal_error = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<WalError>());
        match wal_error {
            Some(wal_error) => return wal_code(wal_error),
            None => cause = error.source(),
        }
    }
    1
}

/// The code of a log that is not what it should be.
fn wal_code(error: &WalError) -> u8 {
    match error {
        WalError::Corrupt { .. } | WalError::Foreign { .. } => 6,
        WalError::Io { .. } | WalError::Format { .. } => 5,
    }
}

#[cfg(test)]
mod tests {
    use weir_types::WalId;

    use super::*;

    #[test]
    fn damage_has_its_own_code_and_names_the_place() {
        let source = WalError::Corrupt { file: "a.seg".to_string(), position: 4096, reason: "checksum".to_string() };
        let exit = Exit::ShardOpen { shard: 1, source: ShardOpenError::Wal { wal: WalId(3), source } };
        assert_eq!(exit.code(), 6);
        let sentence = exit.sentence();
        assert!(sentence.contains("WAL 3") && sentence.contains("a.seg is damaged at byte 4096"), "{sentence}");
        let full = WalError::Io { file: String::new(), source: io::Error::from(io::ErrorKind::StorageFull) };
        let exit = Exit::ShardOpen { shard: 1, source: ShardOpenError::Wal { wal: WalId(3), source: full } };
        assert_eq!((exit.code(), exit.sentence().matches("no storage space").count()), (5, 1));
    }

    #[test]
    fn a_sentence_names_the_failure_and_its_cause() {
        let exit = Exit::Listen {
            listener: "public",
            address: "localhost:4437".parse().expect("an address"),
            source: io::Error::from(io::ErrorKind::AddrInUse),
        };
        assert_eq!(exit.code(), 3);
        assert_eq!(
            exit.sentence(),
            "cannot listen on localhost:4437 (127.0.0.1:4437), the public listener: address in use"
        );
    }

    #[test]
    fn transparent_errors_are_not_told_twice() {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let exit = Exit::from(NodeError::Io { path: "/data/lock".into(), source });
        assert_eq!(exit.code(), 5);
        assert_eq!(exit.sentence(), "cannot use /data/lock: permission denied");
    }
}
