//! What nodes ask each other about the members of groups, and what an operator asks of the cluster.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use weir_cluster::is_one_word;
use weir_stream::{ADDRESS_BYTES_MAX, NODES_MAX, NodeEntry, NodeState, NodeTable};
use weir_types::GroupId;

/// What a group's leader is asked about its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MembersRequest {
    /// How the group stands.
    Standing(GroupId),
    /// Hand leadership over to a node, as an operator wants it.
    Transfer { group: GroupId, node: u64 },
    /// Take a step that was decided on.
    Step(Box<GroupStep>),
    /// To group 0: what is known of the nodes.
    Nodes,
    /// To group 0: something is wanted of a node.
    Change { node: u64, change: NodeChange },
    /// To the other nodes: a group is led here.
    Hear(Box<Announcement>),
    /// To any node of group 0: whether it keeps all modules that group 0 names as of this entry.
    Keeps { index: u64 },
}

/// A step of a group, and what it was decided on: it is not taken where that is not so any more. What comes late could undo what
/// others have decided since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupStep {
    pub(crate) group: GroupId,
    /// The term of the group's leader.
    pub(crate) term: u64,
    /// See [`GroupStanding`].
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) learners: BTreeSet<u64>,
    pub(crate) change: GroupChange,
}

/// What becomes of a group with a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum GroupChange {
    /// This voter leads.
    Transfer { node: u64 },
    /// This node is taken in, and votes on nothing.
    AddLearner { node: u64 },
    /// Such a node is given up.
    RemoveLearner { node: u64 },
    /// These nodes vote, and the other voters are given up.
    Voters(BTreeSet<u64>),
}

impl GroupChange {
    fn is_sound(&self) -> bool {
        match self {
            GroupChange::Transfer { node } | GroupChange::AddLearner { node } | GroupChange::RemoveLearner { node } => {
                *node != 0
            }
            GroupChange::Voters(voters) => !voters.is_empty() && !voters.contains(&0),
        }
    }
}

/// What a group's leader tells the other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announcement {
    pub(crate) group: GroupId,
    /// The node that leads it, and since which term.
    pub(crate) leader: u64,
    pub(crate) term: u64,
    /// Up to which entry it has committed.
    pub(crate) committed: u64,
    /// Whether who is told belongs to the group.
    pub(crate) is_member: bool,
    /// Of group 0: the nodes.
    pub(crate) nodes: Option<NodeTable>,
}

/// What an operator wants of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeChange {
    /// Take it in, or find it somewhere else.
    Add {
        /// Where it is, as `host:port`.
        address: Box<str>,
    },
    /// It is to lead nothing, and to have as little as can be.
    Drain,
    /// It is to have its part again.
    Undrain,
    /// It is to go for ever.
    Remove,
}

impl MembersRequest {
    /// The group that carries it out.
    pub(crate) fn group(&self) -> GroupId {
        match self {
            MembersRequest::Standing(group) | MembersRequest::Transfer { group, .. } => *group,
            MembersRequest::Step(step) => step.group,
            MembersRequest::Nodes | MembersRequest::Change { .. } | MembersRequest::Keeps { .. } => GroupId::META,
            MembersRequest::Hear(announcement) => announcement.group,
        }
    }

    /// Whether it changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        match self {
            MembersRequest::Standing(_)
            | MembersRequest::Nodes
            | MembersRequest::Hear(_)
            | MembersRequest::Keeps { .. } => true,
            MembersRequest::Transfer { .. } | MembersRequest::Step(_) | MembersRequest::Change { .. } => false,
        }
    }

    /// Whether an answer is one to this request.
    pub(crate) fn is_answered_by(&self, answer: &MembersAnswer) -> bool {
        match (self, answer) {
            (MembersRequest::Standing(group), MembersAnswer::Standing(standing)) => standing.group == group.0,
            (MembersRequest::Standing(_), _) => false,
            (MembersRequest::Nodes, answer) => matches!(answer, MembersAnswer::Nodes(_)),
            (_, answer) => matches!(answer, MembersAnswer::Done | MembersAnswer::Refused(_)),
        }
    }

    /// Whether this node would ask it: nodes have numbers from 1 on.
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            MembersRequest::Standing(_) | MembersRequest::Nodes | MembersRequest::Keeps { .. } => true,
            MembersRequest::Transfer { node, .. } => *node != 0,
            MembersRequest::Step(step) => step.change.is_sound(),
            MembersRequest::Change { node, change } => {
                // One that makes no sense is refused with a sentence.
                let is_short = |address: &str| address.len() <= ADDRESS_BYTES_MAX;
                *node != 0 && !matches!(change, NodeChange::Add { address } if !is_short(address))
            }
            MembersRequest::Hear(announcement) => {
                let Announcement { leader, nodes, .. } = &**announcement;
                *leader != 0 && nodes.as_ref().is_none_or(is_table)
            }
        }
    }
}

/// Whether a node can write these nodes down, a line each.
fn is_table(table: &NodeTable) -> bool {
    let is_known = |entry: &NodeEntry| entry.address.len() <= ADDRESS_BYTES_MAX && is_one_word(&entry.address);
    table.nodes.len() <= NODES_MAX && !table.nodes.contains_key(&0) && table.nodes.values().all(is_known)
}

/// What that is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MembersAnswer {
    Standing(Box<GroupStanding>),
    Nodes(Box<NodesView>),
    Done,
    /// Nothing was changed, for this reason.
    Refused(Box<str>),
}

impl MembersAnswer {
    /// Whether some node would answer this: who is to vote somewhere is decided on it.
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            MembersAnswer::Standing(standing) => {
                let GroupStanding { leader, voters, learners, others, .. } = &**standing;
                let is_set = |set: &BTreeSet<u64>| !set.is_empty() && !set.contains(&0);
                let are_others = others.iter().all(|other| other.node != 0);
                *leader != 0
                    && (1..=2).contains(&voters.len())
                    && voters.iter().all(is_set)
                    && !learners.contains(&0)
                    && are_others
            }
            MembersAnswer::Nodes(view) => is_table(&view.table),
            MembersAnswer::Done | MembersAnswer::Refused(_) => true,
        }
    }
}

/// What the leader of group 0 knows of the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodesView {
    pub(crate) table: NodeTable,
    /// How long ago each node was heard, in milliseconds; without those that were not.
    pub(crate) heard_ms: Vec<(u64, u64)>,
    /// The format level that each node knows; without those that its leader has not met.
    pub(crate) levels: Vec<(u64, u16)>,
    /// What cannot be done now, in sentences.
    pub(crate) waits: Vec<Box<str>>,
    /// Whether every group has the voters that it should have, and nobody else, and a new cluster's nodes lead as evenly as they can.
    pub(crate) is_settled: bool,
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

    /// A step that is decided on what this says.
    pub(crate) fn step(&self, change: GroupChange) -> GroupStep {
        let GroupStanding { term, voters, learners, .. } = self.clone();
        GroupStep { group: GroupId(self.group), term, voters, learners, change }
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
    /// What is wanted of it.
    pub state: NodeState,
    /// What it keeps its logs on, once it was met: 32 hexadecimal digits.
    pub disk: Option<Box<str>>,
    /// How long ago a leader has heard of it, in milliseconds; none where none has.
    pub heard_ms: Option<u64>,
    /// The format level that its version knows, once it was met.
    pub level: Option<u16>,
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
    /// The format level that the cluster is at: no node may know a lower one.
    pub level: u16,
    /// What cannot be done now that is wanted, and why, in sentences.
    pub waits: Vec<Box<str>>,
    /// Whether every group has the voters that it should have, and nobody else, and a new cluster's nodes lead as evenly as they can; none
    /// where nobody knows.
    pub is_settled: Option<bool>,
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
    /// Something is wanted of a node.
    Change {
        /// Which.
        node: u64,
        /// What.
        change: NodeChange,
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
