//! An append on its way through its group.

use tokio::time::Instant;
use weir_stream::Split;
use weir_types::{Incarnation, StreamKey};

use crate::group::{Group, Job};
use crate::in_flight::InFlight;
use crate::message::{AppendRequest, Body, CallId, Peer, ShardError};

/// A group that this shard owns.
pub(crate) type LocalGroup = Group<AppendJob>;

/// An append, kept whole until it is answered.
pub(crate) struct AppendJob {
    pub(crate) key: StreamKey,
    pub(crate) request: AppendRequest,
    pub(crate) origin: Peer,
    pub(crate) call: CallId,
    pub(crate) arrival: u64,
    /// When it is answered at the latest, wherever it waits.
    pub(crate) deadline: Instant,
    pub(crate) stale_retries: u8,
    /// What the stream's validators have left of it; looked at before it is proposed, because it may be out of date.
    pub(crate) judged: Option<Box<Judged>>,
    pub(crate) counted: InFlight,
}

impl Job for AppendJob {
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn arrival(&self) -> u64 {
        self.arrival
    }
}

/// Records as they are to be stored: what came in, or what a validator has put in its place.
#[derive(Debug)]
pub(crate) struct Judged {
    /// Under which bindings of the group.
    pub(crate) bindings_epoch: u64,
    /// For which life of the stream.
    pub(crate) incarnation: Incarnation,
    pub(crate) split: Split,
    /// `None` where the body is stored as it came.
    pub(crate) replaced: Option<Body>,
}

impl Judged {
    /// Puts in place what the validators want stored instead, if they do. Its memory is counted, too.
    ///
    /// # Errors
    /// [`ShardError::Limit`] when there is none.
    pub(crate) fn replace(
        &mut self,
        replacement: Option<(Body, Split)>,
        counted: &mut InFlight,
    ) -> Result<(), ShardError> {
        if let Some((body, split)) = replacement {
            counted.add(body.len() + split.memory_bytes())?;
            self.replaced = Some(body);
            self.split = split;
        }
        Ok(())
    }
}
