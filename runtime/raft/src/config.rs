//! openraft's type parameters, and the timings that suit real networks.

use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use openraft::alias::LogIdOf;
use openraft::{Config, LogId, SnapshotPolicy};
use send_wrapper::SendWrapper;
use weir_storage::{Claim, EntryId, EntryPlace, FRAME_HEADER_BYTES, Ticket};
use weir_stream::Outcome;

use crate::runtime::Seeded;

/// When a node that is not there, or a snapshot that has not arrived, is tried again: it may be what lacks to a majority.
const BACKOFF: &str = "100ms ...500ms";

/// Room that was promised for a batch on this thread, shared by its clones.
pub(crate) type Promised = SendWrapper<Rc<Ticket>>;

/// A batch of commands as openraft carries it: a whole log frame, so that the log can fill its header in place and write
/// these very bytes.
#[derive(Clone)]
pub(crate) enum Batch {
    /// In memory.
    Loaded {
        /// Header space, then the batch, then padding.
        frame: Bytes,
        /// Bytes of the batch.
        body_bytes: usize,
        /// What it may be written into.
        claim: Claim,
        /// The room that was promised for it, until it is written.
        ticket: Option<Promised>,
    },
    /// In the log and not read yet: openraft looks at many entries of which it needs only the ids.
    Stored(EntryPlace),
}

impl Batch {
    /// The batch alone, which is in memory.
    pub(crate) fn body(&self) -> Bytes {
        let (frame, body_bytes) = self.loaded();
        frame.slice(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body_bytes)
    }

    /// The frame and the bytes of its body.
    pub(crate) fn loaded(&self) -> (&Bytes, usize) {
        match self {
            Batch::Loaded { frame, body_bytes, .. } => {
                assert!(frame.len() >= FRAME_HEADER_BYTES + body_bytes, "the body is in the frame");
                (frame, *body_bytes)
            }
            Batch::Stored(place) => unreachable!("what is applied or sent was read first, {place:?} was not"),
        }
    }

    fn body_bytes(&self) -> usize {
        match self {
            Batch::Loaded { body_bytes, .. } => *body_bytes,
            Batch::Stored(place) => place.body_bytes(),
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.body_bytes())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What apply answers to one batch: an outcome per command. Empty for entries that are not ours.
#[derive(Debug, Default)]
pub(crate) struct Outcomes(pub(crate) Vec<Outcome>);

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Batch,
        R = Outcomes,
        LeaderId = openraft::vote::leader_id_std::LeaderId<u64, u64>,
        Node = openraft::EmptyNode,
        AsyncRuntime = Seeded,
);

/// An entry as openraft names it.
pub(crate) fn log_id(id: EntryId) -> LogIdOf<TypeConfig> {
    LogId::new_term_index(id.term, id.index)
}

/// An entry as the log names it.
pub(crate) fn entry_id(id: &LogIdOf<TypeConfig>) -> EntryId {
    EntryId { index: id.index, term: **id.committed_leader_id() }
}

/// The settings of every group, of which this node may be the only voter or not.
///
/// openraft campaigns after its lease and a random timeout, so elections take about twice what the timeouts say.
/// Snapshots are never taken by openraft's own policy: we trigger them ourselves.
pub(crate) fn raft_config(has_peers: bool) -> Config {
    Config {
        cluster_name: "weir".to_string(),
        heartbeat_interval: 200,
        heartbeat_min_interval: Some(150),
        election_timeout_min: 500,
        election_timeout_max: 750,
        enable_pre_vote: Some(true),
        backoff: BACKOFF.to_string(),
        // The only voter need not ask anyone whether it still leads. It begins without writing anything, so that a full
        // log can be opened any number of times. Among several, one that was restored might read what is stale.
        enable_leader_restore: Some(!has_peers),
        snapshot_policy: SnapshotPolicy::Never,
        // The log is also where streams' bytes are: it goes only as far as we say.
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openraft_accepts_the_timings() {
        raft_config(true).validate().expect("valid timings");
    }
}
