//! Apply: committed entries reach the pure state machine here, in order, and nowhere else.
//!
//! No guest code, no file and no object store is touched in apply: any error here stops the group for good.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, StoredMembership};
use send_wrapper::SendWrapper;
use weir_storage::Wal;
use weir_stream::{Group, Outcome};
use weir_types::GroupId;

use crate::config::{Outcomes, TypeConfig};
use crate::local::Local;

/// A group's streams, shared by apply (which changes them) and the shard (which looks).
pub type State = Local<Group>;

/// What a snapshot carries between replicas. There are none yet: a log is never purged before the cold tier exists.
pub(crate) type SnapshotData = Bytes;

/// Who wants to know what apply did, before the proposer is answered.
pub trait Observer {
    /// Batch `batch`, entry `index`, was applied with these outcomes, one per command.
    fn applied(&mut self, index: u64, batch: &Bytes, outcomes: &[Outcome]);
}

/// How far apply is, as the replica looks at it. openraft says so only when it has applied all that it was given.
#[derive(Default)]
pub(crate) struct Progress {
    /// Entries applied.
    pub(crate) applied: u64,
    /// Whether the replica has stopped for good.
    pub(crate) is_stopped: bool,
}

/// openraft's view of one group's state.
pub(crate) struct StateMachine {
    group: GroupId,
    wal: SendWrapper<Wal>,
    state: State,
    observer: Local<Box<dyn Observer>>,
    /// Stopped when apply fails: openraft then stops the replica for good.
    progress: Local<Progress>,
    applied: Option<LogIdOf<TypeConfig>>,
    membership: StoredMembershipOf<TypeConfig>,
}

impl StateMachine {
    pub(crate) fn new(
        group: GroupId,
        wal: SendWrapper<Wal>,
        state: State,
        observer: Box<dyn Observer>,
        progress: Local<Progress>,
    ) -> StateMachine {
        let observer = Local::new(observer);
        StateMachine { group, wal, state, observer, progress, applied: None, membership: StoredMembership::default() }
    }

    async fn apply_all<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let log_id = entry.log_id();
            assert_eq!(log_id.index, self.applied.map_or(0, |last| last.index + 1), "entries are applied in order");
            assert!(
                self.applied.is_none_or(|last| last.committed_leader_id() <= log_id.committed_leader_id()),
                "terms rise"
            );
            let outcomes = match &entry.payload {
                EntryPayload::Blank => Outcomes::default(),
                EntryPayload::Normal(batch) => {
                    self.apply_batch(**log_id.committed_leader_id(), log_id.index, &batch.body())?
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(log_id), membership.clone());
                    Outcomes::default()
                }
            };
            self.applied = Some(log_id);
            self.progress.borrow_mut().applied = log_id.index + 1;
            self.wal.applied(self.group, log_id.index);
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    fn apply_batch(&mut self, term: u64, index: u64, batch: &Bytes) -> io::Result<Outcomes> {
        let mut outcomes = Vec::new();
        let applied = self.state.borrow_mut().apply(term, index, batch, &mut outcomes);
        applied.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.observer.borrow_mut().applied(index, batch, &outcomes);
        Ok(Outcomes(outcomes))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let applied = self.apply_all(entries).await;
        if let Err(error) = &applied {
            tracing::error!(group = self.group.0, %error, "an entry cannot be applied: the group stops");
            self.progress.borrow_mut().is_stopped = true;
        }
        applied
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshots> {
        None
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        _snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        Ok(None)
    }
}

/// Builds nothing: see [`SnapshotData`].
pub(crate) struct NoSnapshots;

impl RaftSnapshotBuilder<TypeConfig> for NoSnapshots {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        Err(no_snapshots())
    }
}

fn no_snapshots() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a group's log is complete, so it has no snapshots")
}
