//! A replica of one group: what a shard starts, proposes to and stops.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::alias::SnapshotMetaOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::{EmptyNode, Raft, RaftMetrics};
use send_wrapper::SendWrapper;
use tokio::sync::Mutex;
use weir_storage::{Claim, FRAME_HEADER_BYTES, Room, Ticket, Wal, WalError};
use weir_stream::Outcome;
use weir_types::GroupId;
use weir_types::bugs::{self, Bug};

use crate::config::{Batch, TypeConfig, raft_config};
use crate::inbox::Inbox;
use crate::local::Local;
use crate::local::State;
use crate::log_store::LogStore;
use crate::network::Network;
use crate::peers::Peers;
use crate::progress::Progress;
use crate::role::{LEASE, Role, Seen, role_of, watch_role};
use crate::runtime::stir;
use crate::snapshot::{self, Carries, Snapshot, Taken};
use crate::state_machine::{Observer, StateMachine};

/// Steps of giving back what deleted streams named, in one turn: less than a millisecond.
const REAPED_PER_TURN: usize = 64;
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a replica that begins again gives nobody its vote: longer than [`LEASE`].
const REST: Duration = Duration::from_millis(550);
const _: () = assert!(REST.as_millis() > LEASE.as_millis());

/// How long a slow follower may keep the log from going when space is short.
const PURGED_WITHIN: Duration = Duration::from_secs(2);

/// What a replica is started with.
pub struct ReplicaOptions {
    /// This node, never 0, never used by another node before.
    pub node_id: u64,
    /// Which group.
    pub group: GroupId,
    /// The nodes that form the group if this one has nothing of it: this one and others that are started with the same. Where
    /// nobody is named, it waits until the group takes it in.
    pub founders: BTreeSet<u64>,
    /// How the group's replicas on other nodes are reached; none where there are none and never will be.
    pub peers: Option<Rc<dyn Peers>>,
    /// A random number: when elections begin follows from it.
    pub seed: u64,
}

impl ReplicaOptions {
    /// The only replica of its group.
    pub fn alone(node_id: u64, group: GroupId) -> ReplicaOptions {
        ReplicaOptions { node_id, group, founders: BTreeSet::from([node_id]), peers: None, seed: node_id }
    }
}

/// Why a replica could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its log or openraft does not go on.
    #[error("group {group} cannot be started: {reason}")]
    Stopped {
        /// Which group.
        group: GroupId,
        /// What stands in the way.
        reason: String,
    },
    /// What its snapshot should be is not there or is damaged.
    #[error("group {group} cannot be started from its snapshot")]
    Snapshot {
        /// Which group.
        group: GroupId,
        /// What is wrong with it.
        #[source]
        source: WalError,
    },
}

/// What became of a proposal without outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead, or leads without its lease: nothing was proposed.
    #[error("not the leader")]
    NotLeader,
    /// The leader changed, or the log or the state machine failed, while the batch was under way: it may or may not be
    /// committed.
    #[error("the outcome is unknown")]
    Unknown,
    /// This replica has stopped before: nothing was proposed, and nothing will be until the process is started again.
    #[error("the replica has stopped")]
    Stopped,
}

/// Waits for `future`, which may wait for the log, or until the log has no room.
async fn unless_blocked<T>(wal: &Wal, future: impl Future<Output = T>) -> Result<T, String> {
    tokio::pin!(future);
    loop {
        match tokio::time::timeout(LOOK_EVERY, &mut future).await {
            Ok(done) => return Ok(done),
            Err(_) => {
                if let Some(cause) = wal.blocked() {
                    return Err(format!("its log has no room: {cause}"));
                }
            }
        }
    }
}

/// How a replica stands in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The group's term, as far as this replica knows.
    pub term: u64,
    /// Index of the last entry in its log.
    pub last_index: u64,
    /// Index of the last entry that it has applied.
    pub applied_index: u64,
    /// Index of the entry that its last snapshot is as of; 0 when there is none.
    pub snapshot_index: u64,
    /// The size of that snapshot.
    pub snapshot_bytes: u64,
}

/// How far a replica is that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stage {
    is_leader: bool,
    /// Whether the last entry applied is of the leader's own term: everything before it is committed then.
    is_current: bool,
    /// Number of entries applied, and in the log.
    applied: u64,
    logged: u64,
}

impl Stage {
    fn of(metrics: &RaftMetrics<TypeConfig>, progress: &Local<Progress>) -> Stage {
        let applied = metrics.last_applied.as_ref();
        Stage {
            is_leader: metrics.state.is_leader(),
            is_current: applied.is_some_and(|id| **id.committed_leader_id() == metrics.current_term),
            applied: progress.borrow().entries(),
            logged: metrics.last_log_index.map_or(0, |index| index + 1),
        }
    }

    fn is_serving(self) -> bool {
        self.is_leader && self.is_current && self.applied >= self.logged
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stage { is_leader, applied, logged, .. } = self;
        let role = if *is_leader { "it leads" } else { "it waits to lead" };
        write!(f, "{role} and has applied {applied} of {logged} entries")
    }
}

/// One replica. Cheap to clone; lives on its shard's thread.
#[derive(Clone)]
pub struct Replica {
    pub(crate) group: GroupId,
    pub(crate) raft: Raft<TypeConfig, StateMachine>,
    pub(crate) network: Network,
    pub(crate) wal: SendWrapper<Wal>,
    pub(crate) state: State,
    pub(crate) progress: Local<Progress>,
    pub(crate) seen: Local<Seen>,
    /// Until when it gives nobody its vote: before it was started, it may have promised that to a leader, for as long as that one
    /// answers alone.
    rests_until: Option<tokio::time::Instant>,
    /// The last entry that the log was to give up, while it has not, and since when.
    purge_wanted: Local<Option<(u64, tokio::time::Instant)>>,
    /// Held by whoever makes a snapshot the current one.
    turn: Arc<Mutex<()>>,
    /// What has come of a snapshot of another node.
    pub(crate) inbox: Local<Inbox>,
}

impl Replica {
    /// Starts the replica on its snapshot and its log, or forms the group with its founders when there is neither. Blocks while
    /// it reads the snapshot, and returns before the log is applied; see [`Replica::serving`]. `state` is to be an empty one.
    ///
    /// # Errors
    /// [`StartError`] when the snapshot or the log cannot be read.
    pub async fn start(
        options: ReplicaOptions,
        wal: Wal,
        state: State,
        mut observer: Box<dyn Observer>,
    ) -> Result<Replica, StartError> {
        let ReplicaOptions { node_id, group, founders, peers, seed } = options;
        assert!(node_id != 0, "node ids are drawn from 1 on");
        assert!(founders.is_empty() || founders.contains(&node_id), "who forms a group is one of its founders");
        let has_peers = peers.is_some();
        stir(seed);
        let failed = |reason: String| StartError::Stopped { group, reason };
        let config = Arc::new(raft_config(has_peers).validate().map_err(|error| failed(error.to_string()))?);
        let wal = SendWrapper::new(wal);
        let log = LogStore::new(group, wal.clone());
        let progress = Local::new(Progress::default());
        let snapshot = Snapshot::load(&wal, group).map_err(|source| StartError::Snapshot { group, source })?;
        if let Some(Snapshot { meta, group: restored, file }) = snapshot {
            wal.carry(group, file.carried().clone());
            observer.restored(&restored);
            *progress.borrow_mut() = Progress {
                applied: meta.last_log_id,
                membership: meta.last_membership.clone(),
                snapshot: Some(Taken::new(meta, file, &restored)),
                ..Progress::default()
            };
            *state.borrow_mut() = restored;
        }
        let turn = Arc::new(Mutex::new(()));
        let state_machine =
            StateMachine::new(group, wal.clone(), state.clone(), observer, progress.clone(), turn.clone());
        let network = Network::new(group, peers);
        let raft = Raft::new(node_id, config, network.clone(), log, state_machine).await;
        let raft = raft.map_err(|error| failed(error.to_string()))?;
        let initialized = raft.is_initialized().await.map_err(|error| failed(error.to_string()))?;
        if initialized {
            let membership = raft.metrics().borrow_watched().membership_config.clone();
            if !has_peers && membership.voter_ids().all(|voter| voter != node_id) {
                return Err(failed(format!("node {node_id:016x} is none of its voters: the log is another node's")));
            }
            // Where leadership was not restored: the only voter need not wait for a timeout to find out that nobody leads.
            if membership.voter_ids().eq([node_id]) {
                let elected = unless_blocked(&wal, raft.trigger().elect(false)).await.map_err(failed)?;
                elected.map_err(|error| failed(error.to_string()))?;
            }
        } else if !founders.is_empty() {
            let voters: BTreeMap<_, _> = founders.into_iter().map(|founder| (founder, EmptyNode {})).collect();
            match unless_blocked(&wal, raft.initialize(voters)).await.map_err(failed)? {
                // Another founder was faster, and has told this one.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        let rests_until = (has_peers && initialized).then(|| tokio::time::Instant::now() + REST);
        let seen = watch_role(group, &raft, progress.clone(), has_peers);
        Ok(Replica {
            group,
            raft,
            network,
            wal,
            state,
            progress,
            seen,
            rests_until,
            purge_wanted: Local::new(None),
            turn,
            inbox: Local::new(Inbox::default()),
        })
    }

    /// Waits until this replica leads and has applied all that its log holds, and with it everything acknowledged before.
    ///
    /// # Errors
    /// [`StartError`] when the replica stops instead, when its log has no room for what it must write, or when no entry was
    /// applied for `stall_max`; it says what is waited for.
    pub async fn serving(&self, stall_max: Duration) -> Result<(), StartError> {
        let failed = |reason: String| StartError::Stopped { group: self.group, reason };
        let mut metrics = self.raft.metrics();
        let mut stage = Stage::of(&metrics.borrow_watched(), &self.progress);
        let mut since = Instant::now();
        while !stage.is_serving() {
            // Metrics change all the time without the group coming any further, so a look now and then is as good.
            drop(tokio::time::timeout(LOOK_EVERY, metrics.changed()).await);
            let stopped = metrics.borrow_watched().running_state.as_ref().err().map(ToString::to_string);
            if let Some(stopped) = stopped {
                return Err(failed(format!("it has stopped: {stopped}")));
            }
            let now = Stage::of(&metrics.borrow_watched(), &self.progress);
            // A segment that is being made is waited for however slow the disk is.
            if now != stage || matches!(self.wal.room(0), Room::Preparing) {
                (stage, since) = (now, Instant::now());
            } else if since.elapsed() > LOOK_EVERY
                && let Some(cause) = self.wal.blocked()
            {
                return Err(failed(format!("{stage}, and its log has no room to go on: {cause}")));
            } else if since.elapsed() > stall_max {
                return Err(failed(format!("{stage}, and nothing has changed for {} s", stall_max.as_secs())));
            }
        }
        let role = role_of(&self.raft.server_metrics().borrow_watched(), &self.progress);
        self.seen.borrow_mut().update(role);
        Ok(())
    }

    /// When a leader was heard last, were it only that it is there; not before the first time.
    pub fn heard(&self) -> Option<tokio::time::Instant> {
        self.progress.borrow().heard
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Standing {
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.as_ref().map_or(0, |id| id.index),
            snapshot_index: self.snapshot_index().unwrap_or(0),
            snapshot_bytes: self.snapshot_bytes(),
        }
    }

    /// Whether it gives nobody its vote yet.
    pub(crate) fn is_resting(&self) -> bool {
        self.rests_until.is_some_and(|until| tokio::time::Instant::now() < until)
    }

    /// Whether this replica has stopped for good: apply has failed, or openraft has.
    pub fn is_stopped(&self) -> bool {
        self.progress.borrow().is_stopped
    }

    /// Proposes `frame`, a sealed arena with one batch in it for which `ticket` promises room, and returns an outcome per
    /// command once it is committed and applied.
    ///
    /// # Errors
    /// [`ProposeError`] says whether the batch may still be committed.
    pub async fn propose(&self, frame: Bytes, ticket: Ticket) -> Result<Vec<Outcome>, ProposeError> {
        assert!(frame.len() >= FRAME_HEADER_BYTES, "a frame begins with its header space");
        assert!(frame.len() <= ticket.frame_bytes_max(), "room is promised for all of the frame");
        let body_bytes = frame.len() - FRAME_HEADER_BYTES;
        if self.is_stopped() {
            return Err(ProposeError::Stopped);
        }
        let batch = Batch::Loaded { frame, body_bytes, claim: Claim::Reserve, ticket: None };
        if bugs::has(Bug::AckBeforeMajority) && matches!(self.role(), Role::Leading { .. }) {
            let raft = self.raft.clone();
            tokio::task::spawn_local(async move { raft.client_write(batch).await });
            return Ok(Vec::new());
        }
        let written = self.raft.client_write(batch).await;
        // It is in the log by now, or will never be.
        drop(ticket);
        match written {
            Ok(response) => Ok(response.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::NotLeader),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Err(ProposeError::Unknown),
            Err(RaftError::APIError(
                error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
            )) => unreachable!("a batch changes no membership and has no precondition: {error}"),
            Err(RaftError::Fatal(error)) => {
                tracing::error!(group = self.group.0, %error, "replica stopped");
                self.progress.borrow_mut().stop();
                Err(ProposeError::Unknown)
            }
        }
    }

    /// What a restart would have to apply: bytes of the log.
    pub fn bytes_since_snapshot(&self) -> u64 {
        self.progress.borrow().bytes
    }

    /// The size of the last snapshot; 0 when there is none.
    pub fn snapshot_bytes(&self) -> u64 {
        self.progress.borrow().snapshot.as_ref().map_or(0, |taken| taken.file.bytes())
    }

    /// The entry that the last snapshot is as of.
    pub fn snapshot_index(&self) -> Option<u64> {
        let progress = self.progress.borrow();
        progress.snapshot.as_ref().and_then(|taken| taken.meta.last_log_id).map(|last| last.index)
    }

    /// Whether a peer waits for a newer snapshot than the last: it lacks what the log has given up, and the log no longer has all
    /// that goes with that one, or that is much, and may be less when bytes are moved to the cold tier before. The log then keeps what
    /// goes with the next one until it is sent.
    pub fn wants_snapshot(&self) -> bool {
        self.progress.borrow().is_wanted
    }

    /// Writes a snapshot of the state as it is now, while entries go on being applied. When this returns it is durable, and
    /// the log up to it may be [purged](Replica::purge). One at a time.
    ///
    /// # Errors
    /// Whatever the disk says: the snapshot before is still good, and the log complete. [`io::ErrorKind::Interrupted`] when that of
    /// another node has come.
    pub async fn take_snapshot(&self) -> io::Result<()> {
        self.write_snapshot(Carries::Rest).await
    }

    /// As [`Replica::take_snapshot`], with all that the state needs of the log: so the log may go, whatever streams name. For a
    /// group whose bytes nobody moves to the cold tier any more.
    ///
    /// # Errors
    /// As above.
    pub async fn take_carrying_snapshot(&self) -> io::Result<()> {
        self.write_snapshot(Carries::All).await
    }

    async fn write_snapshot(&self, carries: Carries) -> io::Result<()> {
        // Or freezing takes long.
        self.reap().await;
        if self.progress.borrow().applied.is_none() {
            return Ok(());
        }
        // Batches come behind the first entry. Where there are none, what elections have put into the log may go, too.
        self.state.borrow_mut().begin();
        let index = {
            let _turn = self.turn.lock().await;
            let (meta, bytes, is_wanted) = {
                let progress = self.progress.borrow();
                let membership = progress.membership.clone();
                let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: progress.applied, last_membership: membership };
                (meta, progress.bytes, progress.is_wanted)
            };
            let is_over = || self.progress.borrow().is_installing;
            let mut taken = snapshot::write(&self.wal, self.group, &self.state, meta, carries, is_over).await?;
            taken.is_light |= is_wanted;
            let index = taken.meta.last_log_id.map(|last| last.index);
            let mut progress = self.progress.borrow_mut();
            progress.bytes -= bytes;
            progress.snapshot = Some(taken);
            if is_wanted {
                // Until whoever has waited for it looks.
                progress.hold();
            }
            progress.is_wanted &= !is_wanted;
            index
        };
        self.raft.trigger().snapshot().await.map_err(io::Error::other)?;
        let is_known = |metrics: &RaftMetrics<TypeConfig>| metrics.snapshot.as_ref().map(|id| id.index) >= index;
        let known = self.raft.wait(None).metrics(is_known, "the snapshot is known").await;
        known.map(drop).map_err(io::Error::other)
    }

    /// Gives back what deleted and trimmed streams named, a little at a time.
    pub async fn reap(&self) {
        while self.state.borrow_mut().reap(REAPED_PER_TURN) {
            tokio::task::yield_now().await;
        }
    }

    /// The last entry that no read needs of the log, nor any before it; `None` when the first is needed.
    pub fn purgeable(&self) -> Option<u64> {
        // What was named when a snapshot was taken that carries entries, up to the last of these, is carried. And what the log has given
        // up, a state names only until it has applied what is behind its snapshot.
        let carried = self.wal.carried(self.group).and_then(|carried| carried.last());
        let from = carried.map_or(0, |last| last + 1).max(self.wal.first_index(self.group));
        let named = self.state.borrow().hot_indices_from(from).next().filter(|_| !bugs::has(Bug::PurgeBeyondFloor));
        // The state does not know of what elections and changes of members have put there.
        named.unwrap_or(self.progress.borrow().entries()).checked_sub(1)
    }

    /// Whether it needs its log for what it has applied: for bytes, or to apply it again.
    pub fn needs_log(&self) -> bool {
        let applied = self.progress.borrow().entries().checked_sub(1);
        self.purgeable().min(self.snapshot_index()) < applied
    }

    /// Gives up the log up to `upto`, or up to the last snapshot if that is before, or to what goes with one that is being sent.
    /// Returns before that has happened.
    pub async fn purge(&self, upto: u64) {
        let held_from = self.progress.borrow().held_from();
        let Some(upto) = held_from.map_or(Some(upto), |held| Some(upto.min(held.checked_sub(1)?))) else { return };
        if let Err(error) = self.raft.trigger().purge_log(upto).await {
            tracing::warn!(group = self.group.0, %error, "the log cannot be purged");
        }
        self.free(upto);
    }

    /// openraft keeps what a follower is about to be sent, however slowly it takes that. When space is short, such followers are
    /// not waited for: their links fail, the log goes, and they are sent a snapshot instead.
    fn free(&self, upto: u64) {
        let purged = self.wal.purged(self.group).map_or(0, |purged| purged.index);
        let mut wanted = self.purge_wanted.borrow_mut();
        match *wanted {
            Some((index, since)) if purged < index => {
                if since.elapsed() < PURGED_WITHIN || !self.wal.is_space_short() {
                    return;
                }
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                for (&node, matching) in metrics.replication.iter().flatten() {
                    let is_sent_snapshot = self.progress.borrow().sending_to.contains(&node);
                    if !is_sent_snapshot && matching.as_ref().map(|matching| matching.index) < Some(index) {
                        self.network.fail(node, "it holds on to a log that is short of space");
                    }
                }
                *wanted = None;
            }
            _ => *wanted = Some((upto, tokio::time::Instant::now())),
        }
    }

    /// Stops the replica, or leaves it alone if it waits for room in its log. What was acknowledged is durable already.
    pub async fn shutdown(&self) {
        *self.inbox.borrow_mut() = Inbox::Empty;
        let stopped = unless_blocked(&self.wal, self.raft.shutdown()).await;
        if let Err(error) = stopped.and_then(|stopped| stopped.map_err(|error| error.to_string())) {
            tracing::warn!(group = self.group.0, %error, "replica did not stop cleanly");
        }
    }
}
