//! Who asks and who answers: a shard of this node or of another.

use serde::{Deserialize, Serialize};
use weir_cluster::NodeId;
use weir_types::ShardId;

/// A shard, as others name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// Of this node.
    Here(ShardId),
    /// Of another.
    Away(NodeId, Addressee),
}

/// A shard of a node, in one life of the node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Addressee {
    pub(crate) shard: ShardId,
    /// Drawn when the process began. What is meant for an earlier one is thrown away.
    pub(crate) life: u64,
}

impl Peer {
    /// The other node, if it is of one.
    pub(crate) fn node(self) -> Option<NodeId> {
        match self {
            Peer::Here(_) => None,
            Peer::Away(node, _) => Some(node),
        }
    }
}

impl From<ShardId> for Peer {
    fn from(shard: ShardId) -> Peer {
        Peer::Here(shard)
    }
}
