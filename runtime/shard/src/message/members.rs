//! What nodes ask each other about the members of groups, and what an operator asks of the cluster.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use weir_types::GroupId;

/// What a group's leader is asked about its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MembersRequest {
    /// How the group stands.
    Standing(GroupId),
    /// Hand leadership over to a node.
    Transfer { group: GroupId, node: u64 },
}

impl MembersRequest {
    /// The group that carries it out.
    pub(crate) fn group(&self) -> GroupId {
        match self {
            MembersRequest::Standing(group) | MembersRequest::Transfer { group, .. } => *group,
        }
    }

    /// Whether it changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        match self {
            MembersRequest::Standing(_) => true,
            MembersRequest::Transfer { .. } => false,
        }
    }

    /// Whether an answer is one to this request.
    pub(crate) fn is_answered_by(&self, answer: &MembersAnswer) -> bool {
        match (self, answer) {
            (MembersRequest::Standing(group), MembersAnswer::Standing(standing)) => standing.group == group.0,
            (MembersRequest::Standing(_), _) => false,
            (MembersRequest::Transfer { .. }, answer) => {
                matches!(answer, MembersAnswer::Done | MembersAnswer::Refused(_))
            }
        }
    }
}

/// What that is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MembersAnswer {
    Standing(Box<GroupStanding>),
    Done,
    /// Nothing was changed, for this reason.
    Refused(Box<str>),
}

/// How a group stands, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStanding {
    /// Which group.
    pub group: u16,
    /// The node that leads it.
    pub leader: u64,
    /// The leader's term.
    pub term: u64,
    /// Index of the last entry in the leader's log.
    pub last_index: u64,
    /// The nodes that vote: one set or, while they change, those of before and those that are to be.
    pub voters: Vec<BTreeSet<u64>>,
    /// The nodes that follow and vote on nothing.
    pub learners: BTreeSet<u64>,
    /// How far the others are, in the order of their numbers.
    pub others: Vec<Following>,
}

impl GroupStanding {
    /// All nodes that vote, now or when a change has ended.
    pub fn all_voters(&self) -> BTreeSet<u64> {
        self.voters.iter().flatten().copied().collect()
    }

    /// How far another node is.
    pub fn other(&self, node: u64) -> Option<&Following> {
        self.others.iter().find(|other| other.node == node)
    }
}

/// How far a node follows, as the leader knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Following {
    /// Which node.
    pub node: u64,
    /// Entries that it lacks.
    pub lag_entries: u64,
    /// Their bytes, about.
    pub lag_bytes: u64,
    /// How long ago it has said something, in milliseconds; none if it has said nothing to this leader.
    pub heard_ms: Option<u64>,
}

/// A node, as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its number.
    pub node: u64,
    /// Where other nodes reach it; empty where the node that was asked does not know its own.
    pub address: Box<str>,
    /// How long ago a leader has heard of it, in milliseconds; none where none has.
    pub heard_ms: Option<u64>,
}

/// A group as it could be asked: its leader's answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GroupStatus {
    /// It has a leader, which says this.
    Led(Box<GroupStanding>),
    /// It has none that answers.
    Leaderless {
        /// Which group.
        group: u16,
        /// Why.
        reason: Box<str>,
    },
}

impl GroupStatus {
    /// What its leader says, if it has one.
    pub fn standing(&self) -> Option<&GroupStanding> {
        match self {
            GroupStatus::Led(standing) => Some(standing),
            GroupStatus::Leaderless { .. } => None,
        }
    }
}

/// The cluster, as one of its nodes finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The node that was asked.
    pub asked: u64,
    /// The nodes, by number.
    pub nodes: Vec<NodeStatus>,
    /// The groups, by number.
    pub groups: Vec<GroupStatus>,
}

/// What an operator asks a node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum ClusterOrder {
    /// How is it?
    Status,
    /// Have another node lead a group.
    Transfer {
        /// The group.
        group: u16,
        /// The node, which votes in it.
        node: u64,
    },
}

/// What that is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterReport {
    /// How it is.
    Status(Box<ClusterStatus>),
    /// It is done, or will be.
    Done(Box<str>),
    /// It is not done, for this reason.
    Refused(Box<str>),
}
