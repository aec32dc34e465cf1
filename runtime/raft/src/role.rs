//! What a replica is to its group at a moment.

use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::watch;

use crate::config::TypeConfig;
use crate::local::Local;
use crate::state_machine::{Progress, StateMachine};

/// What a replica may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It follows: the node that leads, as far as it knows.
    Following {
        /// Never this node.
        leader: Option<u64>,
    },
    /// It leads in this term, and has applied an entry of it: so its state has everything that was ever acknowledged.
    Leading {
        /// The term.
        term: u64,
    },
    /// It does nothing any more until the process is started again.
    Stopped,
}

/// Follows the role of a replica until it stops.
pub(crate) fn watch_role(raft: &Raft<TypeConfig, StateMachine>, progress: Local<Progress>) -> watch::Receiver<Role> {
    let mut metrics = raft.server_metrics();
    let (sender, receiver) = watch::channel(role_of(&metrics.borrow_watched(), &progress));
    tokio::task::spawn_local(async move {
        loop {
            let term_applied = progress.borrow().term_begun.clone();
            let has_changed = tokio::select! {
                changed = metrics.changed() => changed.is_ok(),
                () = term_applied.rung() => true,
            };
            let role = if has_changed { role_of(&metrics.borrow_watched(), &progress) } else { Role::Stopped };
            sender.send_if_modified(|known| std::mem::replace(known, role) != role);
            if role == Role::Stopped {
                return;
            }
        }
    });
    receiver
}

fn role_of(metrics: &RaftServerMetrics<TypeConfig>, progress: &Local<Progress>) -> Role {
    let progress = progress.borrow();
    if progress.is_stopped {
        return Role::Stopped;
    }
    let applied_term = progress.applied.as_ref().map(|id| **id.committed_leader_id());
    let term = metrics.vote.leader_id.term;
    if metrics.state.is_leader() && applied_term == Some(term) {
        return Role::Leading { term };
    }
    Role::Following { leader: metrics.current_leader.filter(|&leader| leader != metrics.id) }
}
