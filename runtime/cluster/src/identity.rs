//! Who nodes are, and what a connection between two of them is for.

use std::fmt;
use std::num::NonZeroU64;

use weir_types::{GroupId, ShardId};

/// A node of a cluster, by number: never 0, and never given again to another disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The node with a number; none for 0.
    pub fn new(number: u64) -> Option<NodeId> {
        NonZeroU64::new(number).map(NodeId)
    }

    /// Its number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cluster: drawn at random when it is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a node keeps its logs on: drawn at random when it is formed. A node that lost it has forgotten what it promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskId(pub u128);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its number in that cluster.
    pub node: NodeId,
    /// What it keeps its logs on.
    pub disk: DiskId,
}

/// What a connection is for. Each lane to a node has a connection of its own, so that a large message on one does not
/// delay a small one on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// What a group's replicas have to say at once: votes, heartbeats, questions for the read index, transfers.
    Control(GroupId),
    /// A group's entries and pieces of its snapshots.
    Data(GroupId),
    /// What a shard of the node that called has to say to the other node.
    Mail(ShardId),
    /// What a node that is new has to know before it begins: it does not know whom it asks.
    Join,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lane::Control(group) => write!(f, "control of group {group}"),
            Lane::Data(group) => write!(f, "data of group {group}"),
            Lane::Mail(shard) => write!(f, "mail of shard {shard}"),
            Lane::Join => f.write_str("questions of a node that is new"),
        }
    }
}

/// What a node says about itself before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it is.
    pub identity: Identity,
    /// The node that it takes the other for; none where it does not know that, on [`Lane::Join`].
    pub meant: Option<NodeId>,
    /// What the connection is for.
    pub lane: Lane,
    /// The format level that its version knows.
    pub level: u16,
}

/// Says whether a node is known.
pub trait Admission: Send + Sync {
    /// Asked on both sides of every connection, when all else is right and the node has shown that it belongs to the
    /// cluster (where there is anything to show it with). A refusal's sentence is sent to the node and logged by both.
    ///
    /// Nothing else says which nodes there are, and which of them may have which lanes. And a node must be refused here whose disk is another than it was: it has lost what it promised, and its vote with it.
    ///
    /// # Errors
    /// Why it is refused, in one sentence that names the node, for instance `node 3 had disk … before`.
    fn admit(&self, hello: &Hello) -> Result<(), String>;

    /// Called when a node that was connected to has refused this one, with its sentence: whoever it is, it may not have shown yet that it
    /// belongs to the cluster.
    fn refused(&self, by: NodeId, sentence: &str) {
        let _ = (by, sentence);
    }
}

impl<F: Fn(&Hello) -> Result<(), String> + Send + Sync> Admission for F {
    fn admit(&self, hello: &Hello) -> Result<(), String> {
        self(hello)
    }
}
