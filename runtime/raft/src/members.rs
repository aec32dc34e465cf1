//! Who belongs to a group.

use std::collections::BTreeSet;

use openraft::EmptyNode;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};

use crate::config::TypeConfig;
use crate::replica::Replica;

/// Why a group has not the members that were asked for.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// This replica does not lead: nothing was changed.
    #[error("not the leader")]
    NotLeader,
    /// Another change is under way, or this one makes no sense: nothing was changed.
    #[error("the members cannot be changed: {reason}")]
    Refused {
        /// What stands in the way.
        reason: String,
    },
    /// The leader has changed, or this replica has stopped: it may or may not become so.
    #[error("the outcome is unknown")]
    Unknown,
}

impl Replica {
    /// Takes a node into the group, which then gets its log, or a snapshot and what follows that, and votes on nothing. Its replica
    /// was started without founders. Returns when that is committed, before the node has anything.
    ///
    /// # Errors
    /// [`MemberError`] says whether it may be taken in.
    pub async fn add_learner(&self, node: u64) -> Result<(), MemberError> {
        assert!(node != 0, "node ids are drawn from 1 on");
        self.raft.add_learner(node, EmptyNode {}, false).await.map(drop).map_err(|error| self.member_error(error))
    }

    /// Has these nodes vote, which are all in the group, and gives up the others. Two entries are committed for that; if only the
    /// first is, both the voters of before and these decide, until somebody asks for the same again.
    ///
    /// # Errors
    /// [`MemberError`] says whether it may become so.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), MemberError> {
        self.raft.change_membership(voters, false).await.map(drop).map_err(|error| self.member_error(error))
    }

    /// The nodes that vote, and those that only follow, as far as this replica knows.
    pub fn members(&self) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        (membership.voter_ids().collect(), membership.membership().learner_ids().collect())
    }

    fn member_error(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MemberError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MemberError::NotLeader,
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                MemberError::Refused { reason: error.to_string() }
            }
            RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
                unreachable!("a change has no precondition: {error}")
            }
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => MemberError::Unknown,
            RaftError::Fatal(error) => {
                tracing::error!(group = self.group.0, %error, "replica stopped");
                self.progress.borrow_mut().stop();
                MemberError::Unknown
            }
        }
    }
}
