//! Apply: committed entries reach the pure state machine here, in order, and nowhere else.
//!
//! No guest code, no file and no object store is touched in apply: any error here stops the group for good.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, StoredMembership};
use send_wrapper::SendWrapper;
use tokio::sync::Mutex;
use weir_storage::{BLOCK_BYTES, FRAME_HEADER_BYTES, Wal};
use weir_stream::{Group, Outcome};
use weir_types::GroupId;

use crate::blocking::blocking;
use crate::config::{Outcomes, TypeConfig, entry_id};
use crate::local::{Local, State};
use crate::progress::Progress;
use crate::ship::Shipment;
use crate::snapshot::{Snapshot, Taken};

/// A snapshot as openraft hands it around.
pub(crate) enum SnapshotData {
    /// This replica's own, to be sent.
    Taken(SendWrapper<Shipment>),
    /// One that another node has sent.
    Received(SendWrapper<Box<Snapshot>>),
}

/// Who wants to know what becomes of the state.
pub trait Observer {
    /// The replica goes on from this state, out of a snapshot: it begins with it, or another node has sent it. Entries before it
    /// may not have been applied here.
    fn restored(&mut self, group: &Group);

    /// Batch `batch`, entry `index`, was applied with these outcomes, one per command; before the proposer is answered.
    fn applied(&mut self, index: u64, batch: &Bytes, outcomes: &[Outcome]);
}

/// openraft's view of one group's state.
pub(crate) struct StateMachine {
    group: GroupId,
    wal: SendWrapper<Wal>,
    state: State,
    observer: Local<Box<dyn Observer>>,
    /// Stopped when apply fails: openraft then stops the replica for good.
    progress: Local<Progress>,
    /// Held by whoever makes a snapshot the current one.
    turn: Arc<Mutex<()>>,
}

impl StateMachine {
    pub(crate) fn new(
        group: GroupId,
        wal: SendWrapper<Wal>,
        state: State,
        observer: Box<dyn Observer>,
        progress: Local<Progress>,
        turn: Arc<Mutex<()>>,
    ) -> StateMachine {
        let observer = Local::new(observer);
        StateMachine { group, wal, state, observer, progress, turn }
    }

    /// Makes a snapshot that was received the current one, and its state the group's.
    async fn install(&mut self, snapshot: Snapshot) -> io::Result<()> {
        // One that is being written ends soon, for it would be an older one.
        self.progress.borrow_mut().is_installing = true;
        let _turn = self.turn.lock().await;
        let (snapshots, id) = (self.wal.snapshots(), self.group);
        let promoted = blocking(&self.wal, move || snapshots.promote(id)).await;
        self.progress.borrow_mut().is_installing = false;
        promoted?;
        let Snapshot { meta, group, file } = snapshot;
        let last = meta.last_log_id.as_ref().map(entry_id).expect("a snapshot is as of an entry");
        self.wal.carry(self.group, file.carried().clone());
        self.wal.applied(self.group, last.index);
        let taken = Taken::new(meta, file, &group);
        self.observer.borrow_mut().restored(&group);
        let before = std::mem::replace(&mut *self.state.borrow_mut(), group);
        {
            let mut progress = self.progress.borrow_mut();
            progress.applied = taken.meta.last_log_id;
            progress.membership = taken.meta.last_membership.clone();
            progress.bytes = 0;
            progress.snapshot = Some(taken);
            progress.term_begun.ring();
        }
        tracing::info!(group = self.group.0, last.index, "goes on from a snapshot of another node");
        // As many small pieces of memory as it has streams: nobody waits until they are given back.
        if !self.wal.is_simulated() {
            tokio::task::spawn_blocking(move || drop(before));
        }
        Ok(())
    }

    fn current(&self) -> Option<SnapshotOf<TypeConfig, SnapshotData>> {
        let taken = self.progress.borrow().snapshot.clone()?;
        let meta = taken.meta.clone();
        let shipment = Shipment::new(self.group, taken, self.wal.clone(), self.progress.clone());
        let snapshot = SnapshotData::Taken(SendWrapper::new(shipment));
        Some(SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot })
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
        self.current().map(|snapshot| Ready(Some(snapshot)))
    }

    async fn get_snapshot_builder(&mut self) -> Ready {
        unreachable!("openraft asks whether there is one")
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let SnapshotData::Received(snapshot) = snapshot else {
            unreachable!("a replica begins with its own snapshot before openraft does")
        };
        let installed = self.install(*snapshot.take()).await;
        if let Err(error) = &installed {
            tracing::error!(group = self.group.0, %error, "a snapshot cannot be taken over: the group stops");
            self.progress.borrow_mut().stop();
        }
        installed
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        Ok(self.current())
    }
}

/// A snapshot that is durable already, until it is handed over.
pub(crate) struct Ready(Option<SnapshotOf<TypeConfig, SnapshotData>>);

impl RaftSnapshotBuilder<TypeConfig> for Ready {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        Ok(self.0.take().expect("openraft builds once"))
    }
}
