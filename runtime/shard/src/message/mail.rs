//! What one shard says to another.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use weir_cluster::NodeId;
use weir_cold::{ChunkName, Cold};
use weir_types::{GroupId, Incarnation, ShardId};

use crate::message::answer::Response;
use crate::message::apart;
use crate::message::backup::BackupNews;
use crate::message::check::CheckNews;
use crate::message::members::{ClusterOrder, ClusterReport};
use crate::message::peer::Peer;
use crate::message::request::Request;
use crate::message::stats::ShardStats;

/// One thing to say.
pub(crate) enum Mail {
    /// Please carry this out and answer.
    Request { origin: Peer, call: CallId, request: Request },
    /// The answer.
    Response { owner: Peer, call: CallId, response: Response },
    /// A stream of mine that you watch has advanced.
    Advanced { owner: Peer, advance: Advance },
    /// I tell you nothing more of this stream that you watch, and it has not ended: ask again who does.
    Ended { owner: Peer, incarnation: Incarnation },
    /// Nobody here watches this stream any longer; `answered` is your last answer to a watch of it that I have seen.
    Unwatch { origin: Peer, incarnation: Incarnation, answered: u64 },
    /// The client of this call of mine has left: what you do for it is of no use any more.
    Cancel { origin: Peer, call: CallId },
    /// What this shard of another node had to say may be lost: nothing of it is to be waited for, nor is it waiting.
    Lost(NodeId, ShardId),
    /// Who belongs to the cluster has changed: look again.
    Nodes,
    /// This group is led there now, as far as its replica here knows.
    Led { group: GroupId, lead: Lead },
    /// How are you?
    Stats(oneshot::Sender<ShardStats>),
    /// Please do this for an operator.
    Order(ClusterOrder, oneshot::Sender<ClusterReport>),
    /// Please verify your chunks, for as long as somebody listens.
    ColdCheck { repairs: bool, news: mpsc::Sender<CheckNews>, turn: Arc<OwnedSemaphorePermit> },
    /// Please copy all you have to another tier, where these chunks are already, for as long as somebody listens.
    Backup {
        to: Cold,
        there: Arc<BTreeMap<ChunkName, u64>>,
        news: mpsc::Sender<BackupNews>,
        turn: Arc<OwnedSemaphorePermit>,
    },
}

/// Names a call to whoever answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct CallId {
    pub(crate) place: u32,
    pub(crate) generation: u32,
}

/// Where a group is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    /// By this node's replica.
    Here,
    /// By that of another node.
    Away(NodeId),
    /// Nobody knows.
    Nowhere,
}

impl Lead {
    /// The other node that leads, if one does.
    pub(crate) fn away(self) -> Option<NodeId> {
        match self {
            Lead::Away(node) => Some(node),
            Lead::Here | Lead::Nowhere => None,
        }
    }
}

/// New bytes of a stream, or its close or removal, for those who watch.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Advance {
    pub(crate) incarnation: Incarnation,
    /// When it was applied; from another node, when it came.
    #[serde(skip, default = "Instant::now")]
    pub(crate) at: Instant,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The bytes, by pack.
    #[serde(with = "apart::several")]
    pub(crate) payloads: SmallVec<[Bytes; 1]>,
    pub(crate) closed: bool,
    pub(crate) removed: bool,
}
