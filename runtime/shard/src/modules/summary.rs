//! Summaries: what a fold says of a stream, read once or followed.
//!
//! Nothing is folded before somebody asks. Who asks brings the fold up to the tail and then asks it; both happen on the
//! stream's own shard, off the append path, and guests run on its lane.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use weir_stream::Refusal;
use weir_types::{ReadFrom, Role, StreamKey};
use weir_wasm::GuestError;

use crate::budget;
use crate::core::{Core, Shard};
use crate::live::subscription::{Change, Subscription};
use crate::message::{Answer, Limit, Request, Response, ShardError, SummaryQuery, SummaryView, SummaryWait};
use crate::modules::folds::Recipe;

/// A follower gets at most one view in this time.
const VIEWS_INTERVAL: Duration = Duration::from_millis(100);

/// A reader that follows a summary. Dropping it is how a client leaves.
pub struct SummaryFollower {
    shard: Shard,
    key: StreamKey,
    query: SummaryQuery,
    subscription: Subscription,
    /// The first view, and then nothing: the next ones are asked for.
    first: Option<SummaryView>,
    /// When the last view was asked for.
    asked: Instant,
    ended: bool,
}

impl Shard {
    /// Reads a summary that is of at least the records before `at_least`; nothing but how far it is when the stream does
    /// not get there within `timeout`.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] and [`Refusal::BindingNotFound`]; [`Refusal::OffsetGone`]; [`ShardError::SummaryFailed`] when
    /// the fold ends before the offset; [`ShardError::SummaryRefused`] in the module's own words;
    /// [`ShardError::ModuleTrapped`], [`ShardError::ModuleNotReady`].
    pub async fn summary(
        &self,
        key: StreamKey,
        query: SummaryQuery,
        at_least: ReadFrom,
        timeout: Duration,
    ) -> Result<SummaryWait, ShardError> {
        let view = self.view(&key, &query).await?;
        let position = match at_least {
            ReadFrom::At(offset) if view.lineages.offset(offset.position) != offset => {
                return Err(Refusal::OffsetGone.into());
            }
            ReadFrom::At(offset) => offset.position,
            ReadFrom::Start | ReadFrom::Now => 0,
        };
        if view.next.position >= position {
            return Ok(SummaryWait::View(view));
        }
        let (mut next, mut closed) = (view.next, view.closed);
        let waiting = async {
            let mut follower = self.follow_view(key, query, view).await?;
            while let Some(view) = follower.next().await {
                let view = view?;
                if view.next.position >= position {
                    return Ok(Some(view));
                }
                if let Some(reason) = view.failed {
                    return Err(ShardError::SummaryFailed { at: view.next, reason });
                }
                (next, closed) = (view.next, view.closed);
            }
            Ok(None)
        };
        let view = tokio::time::timeout(timeout, waiting).await.unwrap_or(Ok(None))?;
        Ok(view.map_or(SummaryWait::Nothing { next, closed }, SummaryWait::View))
    }

    /// Follows a summary: its state now, and after every change that the reader keeps up with.
    ///
    /// # Errors
    /// As for [`Shard::summary`].
    pub async fn follow_summary(&self, key: StreamKey, query: SummaryQuery) -> Result<SummaryFollower, ShardError> {
        let view = self.view(&key, &query).await?;
        self.follow_view(key, query, view).await
    }

    async fn follow_view(
        &self,
        key: StreamKey,
        query: SummaryQuery,
        first: SummaryView,
    ) -> Result<SummaryFollower, ShardError> {
        let subscription = self.subscribe(key.clone(), ReadFrom::At(first.next)).await?;
        let shard = self.clone();
        Ok(SummaryFollower { shard, key, query, subscription, first: Some(first), asked: Instant::now(), ended: false })
    }

    async fn view(&self, key: &StreamKey, query: &SummaryQuery) -> Result<SummaryView, ShardError> {
        let request = Request::Summary { key: key.clone(), query: Box::new(query.clone()) };
        match self.ask(request).await? {
            Answer::View(view) => Ok(*view),
            _ => unreachable!("a summary is answered with a view"),
        }
    }
}

impl SummaryFollower {
    /// The next view; waits for it. `None` is the end: after the last view of a closed stream or a failed fold, after an
    /// error, and when the stream is gone.
    ///
    /// # Errors
    /// As for [`Shard::summary`], when the fold cannot be asked any more.
    pub async fn next(&mut self) -> Option<Result<SummaryView, ShardError>> {
        if self.ended {
            return None;
        }
        let view = match self.first.take() {
            Some(view) => view,
            None => {
                match self.subscription.changed().await {
                    Change::Bytes | Change::Closed => {}
                    Change::Removed => {
                        self.ended = true;
                        return None;
                    }
                    Change::Failed(error) => {
                        self.ended = true;
                        return Some(Err(error));
                    }
                }
                // What changes meanwhile is one change.
                tokio::time::sleep_until(self.asked + VIEWS_INTERVAL).await;
                self.asked = Instant::now();
                match self.shard.view(&self.key, &self.query).await {
                    Ok(view) => view,
                    Err(error) => {
                        self.ended = true;
                        return Some(Err(error));
                    }
                }
            }
        };
        self.subscription.skip_to(view.next.position);
        self.ended = view.closed || view.failed.is_some();
        Some(Ok(view))
    }
}

impl Core {
    /// Brings the fold that is asked for up to the stream's tail, and asks it.
    pub(crate) async fn summarize(self: &Rc<Self>, key: &StreamKey, query: &SummaryQuery) -> Response {
        let arrived = Instant::now();
        let (binding, incarnation, lineages) = {
            let group = self.local_group(key);
            let state = group.leading()?;
            let stream = self.live_stream(&group, &state, key)?;
            let mut bound = state.bindings(key, Role::Summary);
            let binding = bound.find(|binding| *binding.name == *query.binding.as_str()).cloned();
            (binding.ok_or(Refusal::BindingNotFound)?, stream.incarnation(), stream.lineages())
        };
        let recipe = Recipe { digest: binding.digest, config: binding.config.clone() };
        let mut fold = self.guests.folds.lock(incarnation, lineages, recipe).await;
        // Whoever had the fold before may have taken long: the stream is looked at again.
        let tail = self.head(key)?;
        if tail.incarnation != incarnation {
            return Err(Refusal::NotFound.into());
        }
        fold.catch_up(self, key, &binding, tail.next.position).await?;
        let view = match fold.ask(query).await {
            // Its instance went between the two, for another fold's sake.
            Err(GuestError::FoldLost) => {
                fold.catch_up(self, key, &binding, tail.next.position).await?;
                fold.ask(query).await
            }
            asked => asked,
        };
        let view = view.map_err(|error| match error {
            GuestError::Refused(sentence) => ShardError::SummaryRefused(sentence.into()),
            other => other.into(),
        })?;
        let claim =
            self.config.pages.claim(budget::with_encoded(view.body.len())).ok_or(ShardError::Limit(Limit::Reads))?;
        self.stats.summary_times.count_time(arrived.elapsed());
        Ok(Answer::View(Box::new(SummaryView {
            incarnation,
            epoch: binding.epoch,
            from: fold.from(),
            next: fold.next(),
            lineages: tail.lineages,
            content_type: view.content_type.into(),
            body: budget::keep(view.body, claim),
            closed: tail.closed && fold.next() == tail.next,
            failed: fold.failed(),
        })))
    }
}
