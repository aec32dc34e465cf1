//! What a replica is to its group at a moment.

use std::rc::Rc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use openraft::{Instant as _, Raft, TokioInstant};
use weir_types::bugs::{self, Bug};
use weir_types::{GroupId, Wakeup};

use crate::config::TypeConfig;
use crate::local::Local;
use crate::progress::Progress;
use crate::state_machine::StateMachine;

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

/// For how long a leader may answer alone behind the moment at which enough others have heard of it: less than the time for which
/// they elect nobody else, because clocks are not equally fast.
pub(crate) const LEASE: Duration = Duration::from_millis(500);

/// A replica's role as it was seen last, and who waits for the next one.
pub(crate) struct Seen {
    role: Role,
    /// When those who have answered heard of this leader, as far as that matters.
    quorum_acked: Option<TokioInstant>,
    has_peers: bool,
    /// Whether it alone votes: nobody else can lead then, also not while others begin to vote, for that takes its own vote.
    is_sole_voter: bool,
    /// Whether it votes. One that was removed leads on for a moment, and then has another elected whatever leases there are.
    is_voter: bool,
    /// The term that it has begun to hand over: others may lead from then on, and it never leads in it again.
    given_up: Option<u64>,
    pub(crate) news: Rc<Wakeup>,
}

impl Seen {
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Whether it leads, and nobody else can. The only replica of a group has all that there is, also when it has stopped.
    pub(crate) fn is_leading(&self) -> bool {
        match self.role {
            Role::Leading { term } if self.given_up == Some(term) => bugs::has(Bug::StaleAfterTransfer),
            Role::Leading { .. } if bugs::has(Bug::UncheckedLease) => true,
            Role::Leading { .. } if self.has_peers && !self.is_sole_voter => {
                self.is_voter && self.quorum_acked.is_some_and(|acked| acked.elapsed() < LEASE)
            }
            Role::Leading { .. } => true,
            Role::Following { .. } => false,
            Role::Stopped => !self.has_peers,
        }
    }

    /// It leads no longer in this term, whatever openraft says.
    pub(crate) fn give_up(&mut self, term: u64) {
        self.given_up = Some(term);
    }

    /// The replica is in another role now, perhaps.
    pub(crate) fn update(&mut self, role: Role) {
        if std::mem::replace(&mut self.role, role) != role {
            self.news.ring();
        }
    }
}

/// Follows the role of a replica until it stops.
pub(crate) fn watch_role(
    group: GroupId,
    raft: &Raft<TypeConfig, StateMachine>,
    progress: Local<Progress>,
    has_peers: bool,
) -> Local<Seen> {
    let (mut servers, mut acked) = (raft.server_metrics(), raft.data_metrics());
    let role = role_of(&servers.borrow_watched(), &progress);
    let (is_voter, is_sole_voter) = votes(&servers.borrow_watched());
    let news = Rc::default();
    let seen = Local::new(Seen { role, quorum_acked: None, has_peers, is_sole_voter, is_voter, given_up: None, news });
    let watched = seen.clone();
    tokio::task::spawn_local(async move {
        let term_begun = progress.borrow().term_begun.clone();
        loop {
            let is_running = tokio::select! {
                biased;
                changed = servers.changed() => changed.is_ok(),
                () = term_begun.rung() => true,
                changed = acked.changed(), if has_peers => changed.is_ok(),
            };
            let role = if is_running { role_of(&servers.borrow_watched(), &progress) } else { Role::Stopped };
            let (is_voter, is_sole_voter) = votes(&servers.borrow_watched());
            let quorum_acked = acked.borrow_watched().last_quorum_acked.map(|acked| *acked);
            let mut seen = watched.borrow_mut();
            (seen.quorum_acked, seen.is_voter, seen.is_sole_voter) = (quorum_acked, is_voter, is_sole_voter);
            seen.update(role);
            if role == Role::Stopped {
                tracing::info!(group = group.0, "the replica has stopped: it answers nothing any more");
                return;
            }
        }
    });
    seen
}

/// Whether this node votes, and whether the group has no other voter, as far as its log says.
fn votes(metrics: &RaftServerMetrics<TypeConfig>) -> (bool, bool) {
    let membership = metrics.membership_config.membership();
    let is_voter = membership.voter_ids().any(|voter| voter == metrics.id);
    (is_voter, membership.get_joint_config().len() == 1 && membership.voter_ids().eq([metrics.id]))
}

pub(crate) fn role_of(metrics: &RaftServerMetrics<TypeConfig>, progress: &Local<Progress>) -> Role {
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
