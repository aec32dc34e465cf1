//! Receiving a snapshot from the leader, and taking it over.
//!
//! Nothing of it matters before all is there, durable, and was read: until then it is a file that nobody asks for, and that goes when
//! the log is opened. Then openraft removes what it contradicts, and `install_snapshot` makes it the current one with one
//! rename; what of the log lies before it goes after that. A power cut at any of these steps leaves the old state or the new one.

use std::io;
use std::time::Duration;

use openraft::alias::{SnapshotOf, VoteOf};
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::AppendEntriesRequest;
use send_wrapper::SendWrapper;
use tokio::time::{Instant, sleep};

use crate::blocking::blocking;
use crate::config::{TypeConfig, log_id};
use crate::inbox::{Inbox, Open, Task, Which};
use crate::parcel::{Parcel, Receipt};
use crate::replica::Replica;
use crate::snapshot::Snapshot;
use crate::state_machine::SnapshotData;

#[cfg(test)]
mod tests;

/// For how long the next parcel is waited for.
const AWAITED_FOR: Duration = Duration::from_secs(10);

impl Replica {
    /// Takes a part of a snapshot, and says what is to come next. What is under way is done to its end also when nobody waits for
    /// the answer.
    pub(crate) async fn receive(&self, parcel: Parcel) -> Receipt {
        let known = self.raft.metrics().borrow_watched().vote;
        if known > parcel.vote {
            return Receipt::Vote(known);
        }
        let which = (parcel.vote, parcel.last);
        let is_needed = self.standing().applied_index < parcel.last.index || self.state.borrow().applied().is_none();
        let task = match is_needed {
            true => self.inbox.borrow_mut().take(which, parcel.before, parcel.parts.is_empty()),
            false => Task::Answer(Receipt::Vote(parcel.vote)),
        };
        if let Task::Answer(receipt) = task {
            return receipt;
        }
        let replica = self.clone();
        let put = tokio::task::spawn_local(async move { replica.put(which, task, parcel).await });
        put.await.unwrap_or(Receipt::BeginAgain)
    }

    async fn put(self, which: Which, task: Task, parcel: Parcel) -> Receipt {
        let sum = parcel.sum;
        match self.written(which, task, parcel).await {
            Ok(open) if sum.is_none() => {
                *self.inbox.borrow_mut() = Inbox::Open(open);
                Receipt::GoOn
            }
            Ok(open) if sum == Some(open.sum) && open.begun.is_empty() => {
                *self.inbox.borrow_mut() = Inbox::Whole(which);
                tokio::task::spawn_local(self.take_over(which, open));
                Receipt::Wait
            }
            Ok(open) => {
                *self.inbox.borrow_mut() = Inbox::Empty;
                tracing::warn!(group = self.group.0, has = ?open.sum, sent = ?sum, "a snapshot did not arrive as it was sent");
                Receipt::BeginAgain
            }
            Err(error) => {
                *self.inbox.borrow_mut() = Inbox::Empty;
                tracing::warn!(group = self.group.0, %error, "a snapshot cannot be received: it is sent again");
                Receipt::BeginAgain
            }
        }
    }

    /// Writes the parcel's parts.
    async fn written(&self, which: Which, task: Task, parcel: Parcel) -> io::Result<Open> {
        let (snapshots, group) = (self.wal.snapshots(), self.group);
        let is_begun = matches!(task, Task::Begin);
        let write = move || {
            let mut open = match task {
                Task::GoOn(open) => open,
                Task::Begin | Task::Answer(_) => {
                    let writer = snapshots.begin_received(group, which.1)?;
                    let (sum, begun) = Default::default();
                    Open { which, writer, sum, begun, touched: Instant::now() }
                }
            };
            open.add(&parcel.parts)?;
            Ok(open)
        };
        let mut open = blocking(&self.wal, write).await?;
        open.touched = Instant::now();
        if is_begun {
            tokio::task::spawn_local(self.clone().watch_inbox(which));
        }
        Ok(open)
    }

    /// Gives up what has come of a snapshot when nothing follows.
    async fn watch_inbox(self, which: Which) {
        loop {
            sleep(AWAITED_FOR / 2).await;
            let mut inbox = self.inbox.borrow_mut();
            match &*inbox {
                Inbox::Open(open) if open.which == which => {
                    if open.touched.elapsed() > AWAITED_FOR {
                        *inbox = Inbox::Empty;
                        return;
                    }
                }
                Inbox::Writing(writing) if *writing == which => {}
                _ => return,
            }
        }
    }

    /// Makes the snapshot durable, reads it, and has openraft take it over.
    async fn take_over(self, which: Which, open: Open) {
        let taken = self.installed(which, open).await;
        if let Err(error) = &taken {
            tracing::warn!(group = self.group.0, %error, "a snapshot of another node is of no use");
        }
        if self.snapshot_index() < Some(which.1.index) {
            let (snapshots, group) = (self.wal.snapshots(), self.group);
            if let Err(error) = blocking(&self.wal, move || snapshots.forget_received(group)).await {
                tracing::warn!(group = self.group.0, %error, "a snapshot that is of no use cannot be removed");
            }
        }
        *self.inbox.borrow_mut() = Inbox::Done(which, taken.ok());
    }

    async fn installed(&self, which: Which, open: Open) -> io::Result<VoteOf<TypeConfig>> {
        let (snapshots, group) = (self.wal.snapshots(), self.group);
        let read = move || {
            open.writer.finish()?;
            Ok(Snapshot::receive(snapshots.received(group)?)?)
        };
        let snapshot = blocking(&self.wal, read).await?;
        self.remove_conflict(which).await?;
        let meta = snapshot.meta.clone();
        let snapshot = SnapshotData::Received(SendWrapper::new(Box::new(snapshot)));
        let snapshot = SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot };
        let response = self.raft.install_full_snapshot(which.0, snapshot).await.map_err(io::Error::other)?;
        Ok(response.vote)
    }

    /// Has openraft remove what another leader has put in the place of the snapshot's entry, and all behind that. By itself it would
    /// remove what it does not know to be committed, also memberships before that entry that are.
    async fn remove_conflict(&self, (vote, last): Which) -> io::Result<()> {
        if self.wal.entry(self.group, last.index).is_none_or(|entry| entry.id == last) {
            return Ok(());
        }
        let request =
            AppendEntriesRequest { vote, prev_log_id: Some(log_id(last)), entries: Vec::new(), leader_commit: None };
        self.raft.append_entries(request).await.map(drop).map_err(io::Error::other)
    }
}
