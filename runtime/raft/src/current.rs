//! Whether what a replica has is all that was acknowledged, and who leads.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Instant as _, RaftMetrics};
use tokio::time::{Instant, timeout_at};

use crate::config::TypeConfig;
use crate::replica::Replica;
use crate::role::{LEASE, Role};
use crate::wire;

/// A node that leadership goes to has answered within this time.
const TRANSFER_HEARD_WITHIN: Duration = Duration::from_millis(400);
/// How long it is waited for what it lacks.
const TRANSFER_MATCHED_WITHIN: Duration = Duration::from_millis(200);

/// How long a replica waits until it has applied what it was told to.
const APPLIED_WITHIN: Duration = Duration::from_secs(5);

/// This replica cannot know now what was acknowledged, or who can lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica cannot reach enough of its group")]
pub struct NotCurrent;

impl Replica {
    /// What it is to its group now. A leader that has lost the others does not know it at once.
    pub fn role(&self) -> Role {
        self.seen.borrow().role()
    }

    /// Whether it leads, and nobody else can: its state has everything that was ever acknowledged. The only replica of a group goes
    /// on being the one that knows when it takes nothing any more.
    pub fn is_leading(&self) -> bool {
        self.seen.borrow().is_leading()
    }

    /// Resolves when its role has changed since this was called last, and perhaps at other times. For one task.
    pub async fn role_changed(&self) {
        let news = self.seen.borrow().news.clone();
        news.rung().await;
    }

    /// Waits until this replica has applied everything that any replica had acknowledged when this was called: what is read of its
    /// state then is not stale. A leader asks nobody while others have heard of it lately; others ask it.
    ///
    /// # Errors
    /// [`NotCurrent`] when it cannot be known what was acknowledged.
    pub async fn catch_up(&self) -> Result<(), NotCurrent> {
        let index = match self.read_index().await {
            Some(index) => index,
            None => {
                let Role::Following { leader: Some(leader) } = self.role() else { return Err(NotCurrent) };
                let call = self.network.ask(leader, wire::read_index_request());
                let answer = call.await.map_err(|_| NotCurrent)?;
                wire::decode_read_index(answer.head).ok().flatten().ok_or(NotCurrent)?
            }
        };
        let wait = self.raft.wait(Some(APPLIED_WITHIN));
        let applied = wait.applied_index_at_least(Some(index), "what was acknowledged is applied").await;
        applied.map(drop).map_err(|_| NotCurrent)
    }

    /// The last entry that may have been acknowledged, if this replica leads.
    pub(crate) async fn read_index(&self) -> Option<u64> {
        if !matches!(self.role(), Role::Leading { .. }) {
            return None;
        }
        let linearizer = self.raft.get_read_linearizer(LinearizerOption::new(Some(LEASE), true)).await.ok()?;
        Some(linearizer.read_log_id().index())
    }

    /// Has `node` lead, which is a voter that has what the log has when this is called, or soon; of what is proposed meanwhile it is
    /// sent the rest before it asks for votes. Returns before it leads; this replica leads no longer then.
    ///
    /// # Errors
    /// [`NotCurrent`] when this replica does not lead, or the node has not answered lately or lacks entries: while leadership moves
    /// nobody leads, and a node that is not there would make that long.
    pub async fn transfer(&self, node: u64) -> Result<(), NotCurrent> {
        let mut metrics = self.raft.metrics();
        let last_index = metrics.borrow_watched().last_log_index;
        let until = Instant::now() + TRANSFER_MATCHED_WITHIN;
        let term = loop {
            match handover(&metrics.borrow_watched(), node, last_index) {
                Handover::Refused => return Err(NotCurrent),
                Handover::Now { term } => break term,
                Handover::Soon => {}
            }
            let changed = timeout_at(until, metrics.changed()).await;
            changed.map_err(|_| NotCurrent)?.map_err(|_| NotCurrent)?;
        };
        // Followers are told to elect another although this one's lease lasts.
        self.seen.borrow_mut().give_up(term);
        tracing::info!(group = self.group.0, term, node, "leadership is handed over");
        self.raft.trigger().transfer_leader(node).await.map_err(|_| NotCurrent)
    }
}

/// Whether leadership can go to a node.
enum Handover {
    /// It is no voter, or is not near, or this replica does not lead.
    Refused,
    /// It lacks entries.
    Soon,
    Now {
        term: u64,
    },
}

fn handover(metrics: &RaftMetrics<TypeConfig>, node: u64, last_index: Option<u64>) -> Handover {
    let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&node).copied().flatten());
    let is_near = heard.is_some_and(|heard| heard.elapsed() < TRANSFER_HEARD_WITHIN);
    let is_voter = metrics.membership_config.voter_ids().any(|voter| voter == node) && node != metrics.id;
    if !(is_near && is_voter && metrics.state.is_leader()) {
        return Handover::Refused;
    }
    let matching = metrics.replication.as_ref().and_then(|matching| matching.get(&node).copied().flatten());
    if matching.map(|id| id.index) >= last_index {
        Handover::Now { term: metrics.current_term }
    } else {
        Handover::Soon
    }
}
