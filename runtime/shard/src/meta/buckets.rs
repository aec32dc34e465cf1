//! Buckets: group 0 decides, then every group is told of the bucket as it is now, and only then the client is answered. So
//! apply never asks another group, and creating a stream looks at its own group's copy alone.
//!
//! A deletion *fences* creates in every group, then either drops the empty bucket everywhere or opens it again. What fails
//! half way is left to the reconciler ([`super::reconcile`]), which also runs when the node starts.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use weir_stream::subscription::EncodedWatches;
use weir_stream::{Binding, BucketState, BucketStep, BucketView, Command, Refusal, Reply, Retention};
use weir_types::{BucketName, GroupId};

use crate::core::{Core, Shard};
use crate::message::{Answer, BucketNews, BucketSummary, Request, Response, ShardError};

/// How often a bucket's news is numbered anew for a group that has heard of something later.
const RENEWALS_MAX: usize = 3;

impl Shard {
    /// Creates a bucket; the answer says whether it was there already. In either case it keeps what `retention` says from now
    /// on, if that is given.
    ///
    /// # Errors
    /// [`Refusal::BucketBusy`] while it is being deleted.
    pub async fn bucket_create(&self, name: BucketName, retention: Option<Retention>) -> Result<bool, ShardError> {
        match self.ask(Request::BucketCreate(name.as_str().into(), retention)).await? {
            Answer::BucketCreated { existed } => Ok(existed),
            _ => unreachable!("a bucket's creation is answered with its age"),
        }
    }

    /// Up to `limit` buckets behind `after`, in the order of names: their names, and when each was created, in milliseconds
    /// since 1970.
    ///
    /// # Errors
    /// When the shard of group 0 cannot be asked.
    pub async fn buckets(&self, after: &str, limit: usize) -> Result<Vec<(Box<str>, u64)>, ShardError> {
        match self.ask(Request::Buckets { after: after.into(), limit }).await? {
            Answer::Buckets(buckets) => Ok(buckets),
            _ => unreachable!("a list of buckets is asked for"),
        }
    }

    /// Describes a bucket.
    ///
    /// # Errors
    /// [`Refusal::BucketNotFound`] when there is none.
    pub async fn bucket(&self, name: BucketName) -> Result<BucketSummary, ShardError> {
        let mut summary = BucketSummary { created_ms: u64::MAX, streams: 0, retention: Retention::default() };
        for group in self.0.topology.groups() {
            match self.ask(Request::BucketDescribe { group, name: name.as_str().into() }).await? {
                Answer::Bucket(BucketView { streams, created_ms, retention, .. }) => {
                    summary.streams += streams;
                    summary.retention = retention;
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
        self.ask(Request::BucketDelete(name.as_str().into())).await.map(|_| ())
    }
}

/// An error of what follows a change that is committed: the whole has not ended, and it is not known to have done nothing.
fn decided(error: ShardError) -> ShardError {
    match error {
        ShardError::Unavailable => ShardError::Unknown,
        error => error,
    }
}

impl Core {
    pub(crate) fn buckets(&self, after: &str, limit: usize) -> Answer {
        let meta = self.meta();
        let behind = meta.buckets_after(after).filter(|(_, bucket)| bucket.state != BucketState::Dropped);
        Answer::Buckets(behind.take(limit).map(|(name, bucket)| (name.into(), bucket.created_ms)).collect())
    }

    pub(crate) async fn bucket_create(self: &Rc<Self>, name: &str, retention: Option<Retention>) -> Response {
        match self.meta_step(name, BucketStep::Create).await? {
            Reply::MetaBucket { existed, .. } => {
                if let Some(retention) = retention {
                    let change = Command::MetaRetention { bucket: name, retention };
                    self.meta_change(&change).await.map_err(decided)?;
                }
                self.settle_or_leave(name).await?;
                Ok(Answer::BucketCreated { existed })
            }
            other => unreachable!("a bucket's creation is not answered with {other:?}"),
        }
    }

    pub(crate) async fn bucket_delete(self: &Rc<Self>, name: &str) -> Response {
        self.meta_step(name, BucketStep::Delete).await?;
        let fenced = self.settle(name).await;
        let finished = match fenced {
            Ok(0) => match self.meta_step(name, BucketStep::Drop).await {
                // It is decided: whoever is told that nothing was done asks again, and finds it gone.
                Ok(_) => self.finish(name).await.map(|()| Answer::Done).map_err(decided),
                Err(error) => Err(error),
            },
            Ok(_) => self.finish(name).await.and(Err(Refusal::BucketBusy.into())),
            Err(error) => Err(error),
        };
        if finished.is_err() {
            // Taken back if it was not decided, else carried through.
            self.unsettled.add(name);
        }
        finished
    }

    /// Brings a bucket to rest: a deletion that is not decided is taken back, one that is decided is carried through, and
    /// every group is told.
    pub(crate) async fn finish(self: &Rc<Self>, name: &str) -> Result<(), ShardError> {
        let state = self.meta().bucket(name).map(|bucket| bucket.state);
        match state {
            None => return Ok(()),
            Some(BucketState::Active) => {}
            Some(BucketState::Deleting) => drop(self.meta_step(name, BucketStep::Keep).await?),
            Some(BucketState::Dropped) => {
                self.settle(name).await?;
                let _changes = self.guests.changes.lock().await;
                self.meta_step(name, BucketStep::Forget).await?;
                self.unsettled.forget_told(name);
                self.sweep_modules().await;
                return Ok(());
            }
        }
        self.settle(name).await.map(|_| ())
    }

    /// As [`Core::settle`], unless every group is known to have heard of the bucket's last change: then nobody is asked, for one may not
    /// answer. What fails is left to the reconciler.
    ///
    /// # Errors
    /// [`ShardError::Unknown`] in its place: group 0 has decided, and every group will hear of it.
    pub(crate) async fn settle_or_leave(self: &Rc<Self>, name: &str) -> Result<(), ShardError> {
        let epoch = self.meta().bucket(name).map(|bucket| bucket.epoch);
        if epoch.is_some_and(|epoch| self.unsettled.is_told(name, epoch)) {
            return Ok(());
        }
        self.settle(name).await.map(|_| ()).map_err(|error| {
            tracing::warn!(bucket = name, %error, "a change of a bucket has not reached every group yet");
            self.unsettled.add(name);
            ShardError::Unknown
        })
    }

    /// Tells every group of a change of one subscription. Whoever has not heard of the change before it is told of the whole bucket.
    ///
    /// # Errors
    /// As [`Core::settle_or_leave`].
    pub(crate) async fn settle_watch(
        self: &Rc<Self>,
        name: &str,
        number: u64,
        told: Option<(u64, u64)>,
    ) -> Result<(), ShardError> {
        // Also where nothing has changed: not everyone may have heard of it.
        let Some(news) = told.and_then(|told| self.watch_news(name, number, told)) else {
            return self.settle_or_leave(name).await;
        };
        match self.tell_everyone(&Arc::new(news)).await {
            Ok(_) => Ok(()),
            Err(_) => self.settle_or_leave(name).await,
        }
    }

    /// Tells every group of a bucket as group 0 has it; returns the bucket's streams in all of them.
    async fn settle(self: &Rc<Self>, name: &str) -> Result<u64, ShardError> {
        for _ in 0..RENEWALS_MAX {
            let Some(news) = self.news(name) else { return Ok(0) };
            match self.tell_everyone(&Arc::new(news)).await {
                Err(ShardError::Refused(Refusal::Stale)) => drop(self.meta_step(name, BucketStep::Renew).await?),
                told => return told,
            }
        }
        Err(ShardError::Unavailable)
    }

    async fn tell_everyone(self: &Rc<Self>, news: &Arc<BucketNews>) -> Result<u64, ShardError> {
        let mut streams = 0;
        for group in self.topology.groups() {
            let request = Request::BucketTell { group, news: news.clone() };
            match self.request(request).await? {
                Answer::BucketStreams(own) => streams += own,
                _ => unreachable!("a bucket's news is answered with its streams"),
            }
        }
        self.unsettled.note_told(&news.name, news.epoch);
        Ok(streams)
    }

    /// The bucket as group 0 has it.
    fn news(&self, name: &str) -> Option<BucketNews> {
        let meta = self.meta();
        let bucket = meta.bucket(name)?;
        assert!(bucket.epoch > 0, "a bucket comes to be by a change");
        let encode = || Bytes::from(Binding::encode(bucket.bindings.values().map(|binding| &**binding)));
        Some(BucketNews {
            name: name.into(),
            epoch: bucket.epoch,
            created_ms: bucket.created_ms,
            fenced: bucket.state == BucketState::Deleting,
            retention: bucket.retention,
            bindings: (bucket.state != BucketState::Dropped).then(encode),
            watches: EncodedWatches::encode(bucket.subscriptions.values()),
            only: None,
        })
    }

    /// Of the bucket, the subscription of this number as group 0 has it now, as news of the change `told` says, which is of it.
    fn watch_news(&self, name: &str, number: u64, (after, epoch): (u64, u64)) -> Option<BucketNews> {
        let meta = self.meta();
        let bucket = meta.bucket(name)?;
        let subscription = bucket.subscriptions.values().find(|subscription| subscription.number == number);
        Some(BucketNews {
            name: name.into(),
            epoch,
            created_ms: bucket.created_ms,
            fenced: false,
            retention: bucket.retention,
            bindings: None,
            watches: EncodedWatches::encode(subscription.into_iter()),
            only: Some((after, number)),
        })
    }

    /// Takes a bucket's next step in group 0.
    async fn meta_step(&self, name: &str, step: BucketStep) -> Result<Reply, ShardError> {
        self.meta_change(&Command::MetaBucket { name, step }).await
    }

    async fn meta_change(&self, command: &Command<'_>) -> Result<Reply, ShardError> {
        match self.group(GroupId::META).command(command).await? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    }

    /// Replaces one group's own copy of a bucket. What it has heard already is in its log, and is not written there again.
    pub(crate) async fn bucket_tell(&self, group: GroupId, news: &BucketNews) -> Response {
        let group = self.group(group);
        let own = group.leading().ok().and_then(|state| state.bucket(&news.name));
        let streams = match own.filter(|own| own.epoch == news.epoch) {
            Some(own) => own.streams,
            None => {
                let command = Command::Bucket { name: &news.name, epoch: news.epoch, told: news.told() };
                match group.command(&command).await? {
                    Reply::Bucket { streams } => streams,
                    Reply::Refused(refusal) => return Err(refusal.into()),
                    other => unreachable!("a bucket's news is not answered with {other:?}"),
                }
            }
        };
        self.guests.retain_instances(&news.name, news.told());
        Ok(Answer::BucketStreams(streams))
    }

    pub(crate) fn bucket_describe(&self, group: GroupId, name: &str) -> Response {
        let bucket = self.group(group).leading()?.bucket(name);
        Ok(Answer::Bucket(bucket.ok_or(Refusal::BucketNotFound)?))
    }
}
