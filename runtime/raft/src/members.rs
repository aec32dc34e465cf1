//! Who belongs to a group, and how far each of them is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::alias::VoteOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::{AppendEntriesRequest, Precondition};
use openraft::vote::leader_id_std::LeaderId;
use openraft::{ChangeMembers, EmptyNode, Instant as _};
use weir_cluster::Lane;
use weir_storage::EntryId;

use crate::config::{TypeConfig, entry_id, log_id};
use crate::replica::Replica;
use crate::ship::Shipment;
use crate::snapshot::Taken;

/// Why a group has not the members that were asked for.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// This replica does not lead: nothing was changed.
    #[error("not the leader")]
    NotLeader,
    /// Another change is under way, or this one makes no sense: nothing was changed.
    #[error("the members cannot be changed: {reason}")]
    Refused {
        /// What stands in the way.
        reason: String,
    },
    /// The leader has changed, or this replica has stopped: it may or may not become so.
    #[error("the outcome is unknown")]
    Unknown,
}

/// Entries whose bytes are counted one by one; of what a replica lacks beyond, they are taken for the average.
const COUNTED_MAX: u64 = 4096;
/// How many snapshots are tried one after the other, each of which was of no use before it was sent.
const SETTLE_TRIES: usize = 3;

/// A group as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The leader's term.
    pub term: u64,
    /// Index of the last entry in the leader's log.
    pub last_index: u64,
    /// The nodes that vote: one set or, while they change, those of before and those that are to be.
    pub voters: Vec<BTreeSet<u64>>,
    /// The nodes that follow and vote on nothing.
    pub learners: BTreeSet<u64>,
    /// How far the others are, by node.
    pub others: BTreeMap<u64, Other>,
    /// The entry that says who belongs to the group.
    said_by: Option<EntryId>,
}

/// How far a replica is, as its leader knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Other {
    /// Entries of the leader's log that it lacks.
    pub lag_entries: u64,
    /// The bytes of these entries, about.
    pub lag_bytes: u64,
    /// How long ago it has sent what it answered last; none if it has not answered this leader.
    pub heard: Option<Duration>,
}

impl Replica {
    /// Takes a node into the group, which then gets its log, or a snapshot and what follows that, and votes on nothing. Its replica
    /// was started without founders. Returns when that is committed, before the node has anything. As all changes, it is made only if
    /// the members are still those that were `seen`.
    ///
    /// # Errors
    /// [`MemberError`] says whether it may be taken in.
    pub async fn add_learner(&self, seen: &View, node: u64) -> Result<(), MemberError> {
        assert!(node != 0, "node ids are drawn from 1 on");
        // What is not in the change stays: that is only said of voters that would no longer vote.
        self.change(seen, ChangeMembers::AddNodes(BTreeMap::from([(node, EmptyNode {})])), true).await
    }

    /// Has these nodes vote, which are all in the group, and gives up the others. Two entries are committed for that; if only the
    /// first is, both the voters of before and these decide, until somebody asks for the same again.
    ///
    /// # Errors
    /// [`MemberError`] says whether it may become so.
    pub async fn change_voters(&self, seen: &View, voters: BTreeSet<u64>) -> Result<(), MemberError> {
        self.change(seen, voters.into(), false).await
    }

    /// Gives up a node that only follows.
    ///
    /// # Errors
    /// [`MemberError`] says whether it may be given up.
    pub async fn remove_learner(&self, seen: &View, node: u64) -> Result<(), MemberError> {
        self.change(seen, ChangeMembers::RemoveNodes(BTreeSet::from([node])), false).await
    }

    /// Hears up to where a leader has committed that sends nothing to this node any more, because it does not belong to the group. The last
    /// that it was sent may be applied then, and need not stay in the log.
    pub async fn hear_committed(&self, term: u64, leader: u64, committed: u64) {
        let Some(last) = self.wal.last(self.group) else { return };
        let is_applied = last.index < self.progress.borrow().entries();
        // In place of what leaders of before have sent, this one may have something else.
        if is_applied || last.term != term || last.index > committed {
            return;
        }
        let vote = VoteOf::<TypeConfig> { leader_id: LeaderId { term, voted_for: leader }, committed: true };
        let (prev_log_id, leader_commit) = (Some(log_id(last)), Some(log_id(last)));
        let request = AppendEntriesRequest { vote, prev_log_id, entries: Vec::new(), leader_commit };
        // It has stopped otherwise.
        let _ = self.raft.append_entries(request).await;
    }

    /// Whether its log has what leaders before `term` have sent, and it does not know to be committed: another entry may be in its
    /// place.
    pub fn has_old_tail(&self, term: u64) -> bool {
        let entries = self.progress.borrow().entries();
        let last = self.wal.last(self.group).filter(|last| last.term < term && last.index >= entries);
        last.is_some() && self.standing().term <= term
    }

    /// Has a node that does not belong to the group go on from a snapshot as of an entry of `term`, in which this replica leads. If the
    /// node has an [old tail](Replica::has_old_tail), it has nothing of this term: so that takes the place of its whole log. One as
    /// of an entry before could leave a part of it. Where there is none yet, one is wanted. Does nothing while one is being sent there.
    pub async fn settle(&self, node: u64, term: u64) {
        let is_of_term = |taken: &Taken| taken.meta.last_log_id.as_ref().is_some_and(|id| entry_id(id).term == term);
        if self.progress.borrow().sending_to.contains(&node) {
            return;
        }
        for _ in 0..SETTLE_TRIES {
            let Some(taken) = self.progress.borrow().snapshot.clone().filter(is_of_term) else {
                self.progress.borrow_mut().is_wanted = true;
                return;
            };
            let own = self.raft.metrics().borrow_watched().id;
            let vote = VoteOf::<TypeConfig> { leader_id: LeaderId { term, voted_for: own }, committed: true };
            let shipment = Shipment::new(self.group, taken, self.wal.clone(), self.progress.clone());
            let lane = Lane::Data(self.group);
            let Err(error) = shipment.send(node, vote, |message| self.network.call(node, lane, message)).await else {
                return;
            };
            tracing::debug!(group = self.group.0, node, %error, "a snapshot has not arrived");
            if !error.is_of_snapshot() {
                return;
            }
        }
    }

    async fn change(
        &self,
        seen: &View,
        change: ChangeMembers<u64, EmptyNode>,
        keeps_others: bool,
    ) -> Result<(), MemberError> {
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: seen.said_by.map(log_id) };
        let changed = self.raft.change_membership_if(change, keeps_others, [unchanged]).await;
        changed.map(drop).map_err(|error| self.member_error(error))
    }

    /// The group as this replica sees it, if it leads.
    pub fn view(&self) -> Option<View> {
        if !self.is_leading() {
            return None;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let last_index = metrics.last_log_index.unwrap_or(0);
        let nodes = membership.nodes().map(|(node, _)| *node).filter(|node| *node != metrics.id);
        let others = nodes.map(|node| {
            let matching = metrics.replication.as_ref().and_then(|matching| matching.get(&node).copied().flatten());
            let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&node).copied().flatten());
            let first_lacked = matching.map_or(0, |id| id.index + 1);
            let lag_entries = (last_index + 1).saturating_sub(first_lacked);
            let lag_bytes = self.bytes_from(first_lacked, last_index);
            (node, Other { lag_entries, lag_bytes, heard: heard.map(|heard| heard.elapsed()) })
        });
        Some(View {
            term: metrics.current_term,
            last_index,
            voters: membership.get_joint_config().clone(),
            learners: membership.learner_ids().collect(),
            others: others.collect(),
            said_by: metrics.membership_config.log_id().as_ref().map(entry_id),
        })
    }

    /// What the log takes from one entry to another, in bytes; what it has given up counts as much as the rest.
    fn bytes_from(&self, first: u64, last: u64) -> u64 {
        let there = first.max(self.wal.first_index(self.group))..last + 1;
        let counted = there.clone().take(COUNTED_MAX as usize).filter_map(|index| self.wal.entry(self.group, index));
        let (count, bytes) =
            counted.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.body_bytes() as u64));
        let lacked = (last + 1).saturating_sub(first);
        if count == 0 || count == lacked {
            bytes
        } else {
            u128::from(bytes).saturating_mul(lacked.into()).div_ceil(count.into()) as u64
        }
    }

    /// The nodes that vote, and those that only follow, as far as this replica knows.
    pub fn members(&self) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        (membership.voter_ids().collect(), membership.membership().learner_ids().collect())
    }

    fn member_error(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MemberError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MemberError::NotLeader,
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                MemberError::Refused { reason: error.to_string() }
            }
            // Somebody else has changed them, perhaps when half of this change was committed.
            RaftError::APIError(ClientWriteError::PreconditionFailed(_) | ClientWriteError::LogEntryDiscarded(_)) => {
                MemberError::Unknown
            }
            RaftError::Fatal(error) => {
                tracing::error!(group = self.group.0, %error, "replica stopped");
                self.progress.borrow_mut().stop();
                MemberError::Unknown
            }
        }
    }
}
