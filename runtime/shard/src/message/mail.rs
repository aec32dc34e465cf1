//! What one shard says to another.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use weir_cold::{ChunkName, Cold};
use weir_types::{Incarnation, ShardId};

use crate::message::answer::Response;
use crate::message::backup::BackupNews;
use crate::message::check::CheckNews;
use crate::message::request::Request;
use crate::message::stats::ShardStats;

/// One thing to say.
pub(crate) enum Mail {
    /// Please carry this out and answer.
    Request { origin: ShardId, call: CallId, request: Request },
    /// The answer.
    Response { owner: ShardId, call: CallId, response: Response },
    /// A stream that you watch has advanced.
    Advanced(Advance),
    /// Nobody here watches this stream any longer; `answered` is your last answer to a watch of it that I have seen.
    Unwatch { origin: ShardId, incarnation: Incarnation, answered: u64 },
    /// The client of this call of mine has left: what you do for it is of no use any more.
    Cancel { origin: ShardId, call: CallId },
    /// How are you?
    Stats(oneshot::Sender<ShardStats>),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallId {
    pub(crate) place: u32,
    pub(crate) generation: u32,
}

/// New bytes of a stream, or its close or removal, for those who watch.
#[derive(Clone)]
pub(crate) struct Advance {
    pub(crate) incarnation: Incarnation,
    /// When it was applied.
    pub(crate) at: Instant,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The bytes, by pack.
    pub(crate) payloads: SmallVec<[Bytes; 1]>,
    pub(crate) closed: bool,
    pub(crate) removed: bool,
}
