//! A replica of one group: what a shard starts, proposes to and stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{BasicNode, Raft};
use send_wrapper::SendWrapper;
use weir_storage::{FRAME_HEADER_BYTES, Wal};
use weir_stream::Outcome;
use weir_types::GroupId;

use crate::config::{Batch, TypeConfig, raft_config};
use crate::log_store::LogStore;
use crate::network::NoPeers;
use crate::state_machine::{Observer, State, StateMachine};

/// How long a group of one voter may take to elect itself and apply its log. Generous: it replays the whole log.
const SERVE_TIMEOUT: Duration = Duration::from_secs(600);

/// What a replica is started with.
pub struct ReplicaOptions {
    /// This node, never 0, never used by another node before.
    pub node_id: u64,
    /// Which group.
    pub group: GroupId,
}

/// Why a replica could not be started.
#[derive(Debug, thiserror::Error)]
#[error("group {group} cannot be started: {reason}")]
pub struct StartError {
    /// Which group.
    pub group: GroupId,
    /// openraft's words.
    pub reason: String,
}

/// What became of a proposal without outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead, or leads without its lease: nothing was proposed.
    #[error("not the leader")]
    NotLeader,
    /// The leader changed, or the log or the state machine failed, while the batch was under way: it may or may not be
    /// committed.
    #[error("the outcome is unknown")]
    Unknown,
}

/// One replica. Cheap to clone; lives on its shard's thread.
#[derive(Clone)]
pub struct Replica {
    group: GroupId,
    raft: Raft<TypeConfig, StateMachine>,
}

impl Replica {
    /// Starts the replica on its log, forming the group of one voter when the log is empty. Returns before the log is
    /// applied; see [`Replica::serving`].
    ///
    /// # Errors
    /// [`StartError`] when the log cannot be read.
    pub async fn start(
        options: ReplicaOptions,
        wal: Wal,
        state: State,
        observer: Box<dyn Observer>,
    ) -> Result<Replica, StartError> {
        let ReplicaOptions { node_id, group } = options;
        assert!(node_id != 0, "node ids are drawn from 1 on");
        let failed = |reason: String| StartError { group, reason };
        let config = Arc::new(raft_config().validate().map_err(|error| failed(error.to_string()))?);
        let wal = SendWrapper::new(wal);
        let log = LogStore::new(group, wal.clone());
        let state_machine = StateMachine::new(group, wal, state, observer);
        let raft =
            Raft::new(node_id, config, NoPeers, log, state_machine).await.map_err(|error| failed(error.to_string()))?;
        let initialized = raft.is_initialized().await.map_err(|error| failed(error.to_string()))?;
        if initialized {
            // The only voter need not wait for a timeout to find out that nobody else leads.
            raft.trigger().elect(false).await.map_err(|error| failed(error.to_string()))?;
        } else {
            let voters = BTreeMap::from([(node_id, BasicNode::new(""))]);
            raft.initialize(voters).await.map_err(|error| failed(error.to_string()))?;
        }
        Ok(Replica { group, raft })
    }

    /// Waits until this replica leads and has applied an entry of its own term, and with it everything acknowledged
    /// before.
    ///
    /// # Errors
    /// [`StartError`] when the replica stops instead, or takes longer than anything explains.
    pub async fn serving(&self) -> Result<(), StartError> {
        let failed = |reason: String| StartError { group: self.group, reason };
        let wait = self.raft.wait(Some(SERVE_TIMEOUT));
        let leads = wait.metrics(|metrics| metrics.state.is_leader(), "leads").await;
        leads.map_err(|error| failed(error.to_string()))?;
        // A blank entry of our own term, applied: everything before it is applied too.
        self.raft.write_blank().await.map_err(|error| failed(error.to_string()))?;
        Ok(())
    }

    /// Proposes `frame`, a sealed arena with one batch in it, and returns an outcome per command once it is committed
    /// and applied.
    ///
    /// # Errors
    /// [`ProposeError`] says whether the batch may still be committed.
    pub async fn propose(&self, frame: Bytes) -> Result<Vec<Outcome>, ProposeError> {
        assert!(frame.len() >= FRAME_HEADER_BYTES, "a frame begins with its header space");
        let body_bytes = frame.len() - FRAME_HEADER_BYTES;
        match self.raft.client_write(Batch { frame, body_bytes }).await {
            Ok(response) => Ok(response.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::NotLeader),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Err(ProposeError::Unknown),
            Err(RaftError::APIError(
                error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
            )) => unreachable!("a batch changes no membership and has no precondition: {error}"),
            Err(RaftError::Fatal(error)) => {
                tracing::error!(group = self.group.0, %error, "replica stopped");
                Err(ProposeError::Unknown)
            }
        }
    }

    /// Stops the replica. What was acknowledged is durable already.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = self.group.0, %error, "replica did not stop cleanly");
        }
    }
}
