//! Apply: committed entries reach the pure state machine here, in order, and nowhere else.
//!
//! No guest code, no file and no object store is touched in apply: any error here stops the group for good.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, StoredMembership};
use send_wrapper::SendWrapper;
use weir_storage::{BLOCK_BYTES, FRAME_HEADER_BYTES, Wal};
use weir_stream::{Group, Outcome};
use weir_types::{GroupId, Wakeup};

use crate::config::{Outcomes, TypeConfig};
use crate::local::Local;

/// A group's streams, shared by apply (which changes them) and the shard (which looks).
pub type State = Local<Group>;

/// What a snapshot carries between replicas: nothing yet, for there is one replica.
pub(crate) type SnapshotData = ();

/// Who wants to know what becomes of the state.
pub trait Observer {
    /// The replica begins with this state, out of a snapshot.
    fn restored(&mut self, group: &Group);

    /// Batch `batch`, entry `index`, was applied with these outcomes, one per command; before the proposer is answered.
    fn applied(&mut self, index: u64, batch: &Bytes, outcomes: &[Outcome]);
}

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
    pub(crate) snapshot: Option<SnapshotMetaOf<TypeConfig>>,
    /// Its size.
    pub(crate) snapshot_bytes: u64,
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
}

/// openraft's view of one group's state.
pub(crate) struct StateMachine {
    group: GroupId,
    wal: SendWrapper<Wal>,
    state: State,
    observer: Local<Box<dyn Observer>>,
    /// Stopped when apply fails: openraft then stops the replica for good.
    progress: Local<Progress>,
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
        StateMachine { group, wal, state, observer, progress }
    }

    async fn apply_all<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let log_id = entry.log_id();
            let applied = self.progress.borrow().applied;
            assert_eq!(log_id.index, applied.map_or(0, |last| last.index + 1), "entries are applied in order");
            assert!(
                applied.is_none_or(|last| last.committed_leader_id() <= log_id.committed_leader_id()),
                "terms rise"
            );
            let outcomes = match &entry.payload {
                EntryPayload::Blank => Outcomes::default(),
                EntryPayload::Normal(batch) => {
                    self.apply_batch(**log_id.committed_leader_id(), log_id.index, &batch.body())?
                }
                EntryPayload::Membership(membership) => {
                    let membership = StoredMembership::new(Some(log_id), membership.clone());
                    self.progress.borrow_mut().membership = membership;
                    Outcomes::default()
                }
            };
            self.progress.borrow_mut().applied = Some(log_id);
            if applied.is_none_or(|last| last.committed_leader_id() != log_id.committed_leader_id()) {
                self.progress.borrow().term_begun.ring();
            }
            self.wal.applied(self.group, log_id.index);
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    fn apply_batch(&mut self, term: u64, index: u64, batch: &Bytes) -> io::Result<Outcomes> {
        let mut outcomes = Vec::new();
        self.progress.borrow_mut().bytes += (FRAME_HEADER_BYTES + batch.len()).next_multiple_of(BLOCK_BYTES) as u64;
        let applied = self.state.borrow_mut().apply(term, index, batch, &mut outcomes);
        applied.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.observer.borrow_mut().applied(index, batch, &outcomes);
        Ok(Outcomes(outcomes))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Ready;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>), io::Error> {
        let progress = self.progress.borrow();
        Ok((progress.applied, progress.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let applied = self.apply_all(entries).await;
        if let Err(error) = &applied {
            tracing::error!(group = self.group.0, %error, "an entry cannot be applied: the group stops");
            self.progress.borrow_mut().stop();
        }
        applied
    }

    /// There is one only when a snapshot is durable: building must not fail, or openraft stops the replica.
    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Ready> {
        self.progress.borrow().snapshot.clone().map(Ready)
    }

    async fn get_snapshot_builder(&mut self) -> Ready {
        unreachable!("openraft asks whether there is one")
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        _snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a group of one voter gets no snapshots from others"))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        Ok(self
            .progress
            .borrow()
            .snapshot
            .clone()
            .map(|meta| SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: () }))
    }
}

/// A snapshot that is durable already.
pub(crate) struct Ready(SnapshotMetaOf<TypeConfig>);

impl RaftSnapshotBuilder<TypeConfig> for Ready {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        Ok(SnapshotOf::<TypeConfig, SnapshotData> { meta: self.0.clone(), snapshot: () })
    }
}
