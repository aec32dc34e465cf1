//! Buckets: group 0 decides, then every group hears of it as a command, and only then the client is answered. So apply
//! never asks another group, and creating a stream looks at its own group's copy alone.
//!
//! A deletion *fences* creates in every group, then either drops the empty bucket everywhere or takes the fences back.
//! What a crash leaves half done is taken back when the node starts: nobody was told that it was done. A change of
//! bindings is the exception: once group 0 has it, it holds, and the next start tells whom it did not reach.

use std::rc::Rc;

use weir_stream::{BucketState, BucketView, Command, Refusal, Reply};
use weir_types::{BucketName, GroupId};

use crate::core::{Core, Shard};
use crate::group::ShardOpenError;
use crate::message::{Answer, BucketChange, BucketSummary, Request, Response, ShardError};

impl Shard {
    /// Creates a bucket; the answer says whether it was there already.
    ///
    /// # Errors
    /// [`Refusal::BucketBusy`] while it is being deleted.
    pub async fn bucket_create(&self, name: BucketName) -> Result<bool, ShardError> {
        match self.call(self.meta_owner(), Request::BucketCreate(name.as_str().into())).await? {
            Answer::BucketCreated { existed } => Ok(existed),
            _ => unreachable!("a bucket's creation is answered with its age"),
        }
    }

    /// Describes a bucket.
    ///
    /// # Errors
    /// [`Refusal::BucketNotFound`] when there is none.
    pub async fn bucket(&self, name: BucketName) -> Result<BucketSummary, ShardError> {
        let mut summary = BucketSummary { created_ms: u64::MAX, streams: 0 };
        for group in self.0.topology.groups() {
            let owner = self.0.topology.owner_of(group);
            match self.call(owner, Request::BucketDescribe { group, name: name.as_str().into() }).await? {
                Answer::Bucket { streams, created_ms, .. } => {
                    summary.streams += streams;
                    summary.created_ms = summary.created_ms.min(created_ms);
                }
                _ => unreachable!("a bucket is described as such"),
            }
        }
        Ok(summary)
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// [`Refusal::BucketNotFound`] when there is none, [`Refusal::BucketBusy`] when it has streams.
    pub async fn bucket_delete(&self, name: BucketName) -> Result<(), ShardError> {
        self.call(self.meta_owner(), Request::BucketDelete(name.as_str().into())).await.map(|_| ())
    }

    /// Forms the node's slot table if it is new, checks it if it is not, and finishes what a crash left half done.
    /// Called once, on the shard that owns the meta group, when all shards serve and before any client is served.
    ///
    /// # Errors
    /// [`ShardOpenError::Form`] when the table is another one, or cannot be written.
    pub async fn form(&self) -> Result<(), ShardOpenError> {
        let failed = |error: &dyn std::fmt::Display| ShardOpenError::Form(error.to_string());
        let inner = &self.0;
        let meta = inner.group(GroupId::META);
        let formed = meta.state.borrow().meta().slots().is_some();
        if !formed {
            let reply = meta.command(&Command::MetaForm { groups: inner.topology.groups }).await;
            reply.map_err(|error| failed(&error))?;
        }
        let groups = meta.state.borrow().meta().slots().map(weir_stream::SlotTable::groups);
        if groups != Some(inner.topology.groups) {
            return Err(ShardOpenError::Form(format!(
                "it is for {groups:?} groups, the node has {}",
                inner.topology.groups
            )));
        }
        inner.reconcile_buckets().await.map_err(|error| failed(&error))?;
        inner.restore_modules().await;
        Ok(())
    }
}

impl Core {
    pub(crate) async fn bucket_create(self: &Rc<Self>, name: &str) -> Response {
        let meta = self.group(GroupId::META);
        match meta.command(&Command::MetaBucketCreate { name }).await? {
            Reply::MetaBucket { created_ms, existed } => {
                self.change_everywhere(BucketChange::Create, name, created_ms).await?;
                Ok(Answer::BucketCreated { existed })
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a bucket's creation is not answered with {other:?}"),
        }
    }

    pub(crate) async fn bucket_delete(self: &Rc<Self>, name: &str) -> Response {
        let meta = self.group(GroupId::META);
        if let Reply::Refused(refusal) = meta.command(&Command::MetaBucketDelete { name }).await? {
            return Err(refusal.into());
        }
        match self.change_everywhere(BucketChange::Fence, name, 0).await {
            Ok(0) => {
                self.change_everywhere(BucketChange::Drop, name, 0).await?;
                let _changes = self.guests.changes.lock().await;
                meta.command(&Command::MetaBucketDeleted { name }).await?;
                self.sweep_modules().await;
                Ok(Answer::Done)
            }
            Ok(_) => {
                self.keep_bucket(name).await?;
                Err(Refusal::BucketBusy.into())
            }
            Err(error) => {
                self.keep_bucket(name).await?;
                Err(error)
            }
        }
    }

    /// Takes a deletion back.
    async fn keep_bucket(self: &Rc<Self>, name: &str) -> Result<(), ShardError> {
        self.change_everywhere(BucketChange::Unfence, name, 0).await?;
        self.group(GroupId::META).command(&Command::MetaBucketKept { name }).await?;
        Ok(())
    }

    /// Carries a change to every group; returns the bucket's streams in all of them.
    async fn change_everywhere(
        self: &Rc<Self>,
        change: BucketChange,
        name: &str,
        created_ms: u64,
    ) -> Result<u64, ShardError> {
        let mut all = 0;
        for group in self.topology.groups() {
            let request = Request::BucketChange { group, change, name: name.into(), created_ms };
            match self.call(self.topology.owner_of(group), request).await? {
                Answer::Bucket { streams, .. } => all += streams,
                _ => unreachable!("a bucket's change is answered with its streams"),
            }
        }
        Ok(all)
    }

    /// Changes one group's own copy of a bucket.
    pub(crate) async fn bucket_change(
        &self,
        group: GroupId,
        change: BucketChange,
        name: &str,
        created_ms: u64,
    ) -> Response {
        let command = match change {
            BucketChange::Create => Command::BucketCreate { name, created_ms },
            BucketChange::Fence => Command::BucketFence { name },
            BucketChange::Unfence => Command::BucketUnfence { name },
            BucketChange::Drop => Command::BucketDrop { name },
        };
        match self.group(group).command(&command).await? {
            Reply::Bucket { streams } => Ok(Answer::Bucket { streams, created_ms, bindings_epoch: 0 }),
            Reply::Done => Ok(Answer::Bucket { streams: 0, created_ms, bindings_epoch: 0 }),
            // Nothing to take back where the deletion never arrived, or had gone through.
            Reply::Refused(Refusal::BucketNotFound) if change != BucketChange::Create => {
                Ok(Answer::Bucket { streams: 0, created_ms, bindings_epoch: 0 })
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a bucket's change is not answered with {other:?}"),
        }
    }

    pub(crate) fn bucket_describe(&self, group: GroupId, name: &str) -> Response {
        let group = self.group(group);
        let bucket = group.state.borrow().bucket(name);
        let bucket = bucket.ok_or(Refusal::BucketNotFound)?;
        let BucketView { streams, created_ms, bindings_epoch, .. } = bucket;
        Ok(Answer::Bucket { streams, created_ms, bindings_epoch })
    }

    async fn reconcile_buckets(self: &Rc<Self>) -> Result<(), ShardError> {
        let meta = self.group(GroupId::META);
        let buckets: Vec<_> = {
            let state = meta.state.borrow();
            let buckets = state.meta().buckets();
            buckets.map(|(name, b)| (Box::<str>::from(name), b.state, b.created_ms, b.bindings_epoch)).collect()
        };
        for (name, bucket_state, created_ms, bindings_epoch) in buckets {
            let mut complete = bucket_state == BucketState::Active;
            let mut is_bound = true;
            if !complete {
                tracing::warn!(bucket = &*name, "taking back a deletion that was not finished");
                self.keep_bucket(&name).await?;
            }
            for group in self.topology.groups() {
                let request = Request::BucketDescribe { group, name: name.clone() };
                let described = self.call(self.topology.owner_of(group), request).await;
                complete &= described.is_ok();
                is_bound &=
                    matches!(described, Ok(Answer::Bucket { bindings_epoch: told, .. }) if told == bindings_epoch);
            }
            if !complete {
                self.change_everywhere(BucketChange::Create, &name, created_ms).await?;
            }
            if !is_bound {
                self.tell_bindings(&name).await?;
            }
        }
        Ok(())
    }
}
