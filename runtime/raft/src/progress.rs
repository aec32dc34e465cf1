//! How far a replica is.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use openraft::alias::{LogIdOf, StoredMembershipOf};
use tokio::time::Instant;
use weir_types::Wakeup;

use crate::config::TypeConfig;
use crate::snapshot::Taken;

/// How long the log waits for a snapshot that is sent, from one of its parts to the next.
const HELD_FOR: Duration = Duration::from_secs(5);
/// How long it waits at most.
pub(crate) const HELD_MAX: Duration = Duration::from_secs(30);

/// How far apply and snapshots are, as the replica looks at it. openraft says so only when it has applied all that it was
/// given.
#[derive(Default)]
pub(crate) struct Progress {
    /// The last entry applied.
    pub(crate) applied: Option<LogIdOf<TypeConfig>>,
    pub(crate) membership: StoredMembershipOf<TypeConfig>,
    /// What the batches that were applied since the last snapshot was begun take in the log, in bytes.
    pub(crate) bytes: u64,
    /// The last snapshot that is durable.
    pub(crate) snapshot: Option<Taken>,
    /// Whether a snapshot of another node takes its place now.
    pub(crate) is_installing: bool,
    /// Whether a peer waits for a snapshot, and the log no longer has what goes with the last one.
    pub(crate) is_wanted: bool,
    /// The nodes that a snapshot is being sent to: they need nothing of the log.
    pub(crate) sending_to: BTreeSet<u64>,
    /// Since when and until when the log keeps what goes with the last snapshot.
    pub(crate) held: Option<(Instant, Instant)>,
    /// When a leader has last sent something that was taken, were it only a heartbeat. Taken is what the disk has.
    pub(crate) heard: Option<Instant>,
    /// Whether the replica has stopped for good.
    pub(crate) is_stopped: bool,
    /// Rung when the first entry of a term was applied, or the replica has stopped.
    pub(crate) term_begun: Rc<Wakeup>,
}

impl Progress {
    /// The replica has stopped for good.
    pub(crate) fn stop(&mut self) {
        self.is_stopped = true;
        self.term_begun.ring();
    }

    /// How many entries were applied.
    pub(crate) fn entries(&self) -> u64 {
        self.applied.map_or(0, |last| last.index + 1)
    }

    /// The log keeps what goes with the last snapshot for a little longer. A peer that is too slow does not keep it forever.
    pub(crate) fn hold(&mut self) {
        let now = Instant::now();
        let since = self.held.filter(|(_, until)| now < *until).map_or(now, |(since, _)| since);
        self.held = Some((since, (now + HELD_FOR).min(since + HELD_MAX)));
    }

    /// Nobody is sent what goes with the last snapshot any more.
    pub(crate) fn release(&mut self) {
        self.held = None;
    }

    /// The first entry that the log has to keep for a peer.
    pub(crate) fn held_from(&self) -> Option<u64> {
        self.held.filter(|(_, until)| Instant::now() < *until)?;
        self.snapshot.as_ref()?.hot.first().copied()
    }
}
