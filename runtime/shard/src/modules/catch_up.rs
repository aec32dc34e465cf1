//! Bringing a fold up to its stream's tail.
//!
//! Records go to the guest in slices of some milliseconds: one that takes longer makes the next ones smaller, so that other
//! guests of the lane have their turns. From time to time the state is kept as a snapshot; a fold whose instance has ended,
//! by its own fault or a neighbour's, goes on from there.
//!
//! When a slice ends the module, its records are *suspects*, and nothing more: memory and time are shared with other folds. The
//! hunt ([`Hunt`]) takes them to an instance of the fold's own, from a snapshot, and halves them until one is left that fails
//! alone in a fresh instance. That is where the fold *stops*, and it is served up to there. If all of them pass, they were
//! innocent, and the fold stays in the instance of its own.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weir_stream::{Binding, Refusal};
use weir_types::StreamKey;
use weir_types::limits::PAGE_BYTES_MAX;
use weir_wasm::{Caller, FoldId, GuestBatch, GuestError, InstanceKey, Snapshot, TrapReason};

use crate::budget;
use crate::core::Core;
use crate::message::{Answer, FoldStateRequest, RecordBatch, Request, Response, ShardError};
use crate::modules::folds::{Fold, Held, Kept, Recipe, SLICE_RECORDS_MAX, State, Stop, is_lost};

/// Stored bytes that a fold takes at once.
const SLICE_BYTES: usize = 1 << 20;
/// The largest state that a fork's fold is given: what a page may have.
const STATE_BYTES_MAX: usize = PAGE_BYTES_MAX;
/// What a slice may take of the lane before the next ones are smaller.
const SLICE_CPU_MAX: Duration = Duration::from_millis(5);
/// How often one catching-up begins anew.
const RESTARTS_MAX: usize = 8;
/// After this time a fold that has stopped is tried again: another day there may be more memory, or time.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// A fold on its way, and all that it needs.
struct CatchUp<'a> {
    fold: &'a mut Fold,
    shard: &'a Rc<Core>,
    key: &'a StreamKey,
    instance: InstanceKey,
    caller: Caller,
    epoch: u64,
    /// CPU time of this catching-up.
    folded: Duration,
    /// Whether an ancestor's fold was asked for its state.
    has_asked: bool,
}

/// How an attempt to go on has ended, if not at the tail.
enum Ended {
    /// It may be tried again.
    Lost(GuestError),
    /// It cannot be answered now.
    Refused(ShardError),
}

impl Fold {
    /// Takes all records up to the position `tail`, or up to the one that ends the module.
    ///
    /// # Errors
    /// [`ShardError::ModuleTrapped`] when the module ends again and again, and not for one record;
    /// [`ShardError::ModuleNotReady`], [`ShardError::ModuleSuspended`]; what reading the stream says.
    pub(crate) async fn catch_up(
        &mut self,
        shard: &Rc<Core>,
        key: &StreamKey,
        binding: &Binding,
        tail: u64,
    ) -> Result<(), ShardError> {
        let is_outdated = |stop: &Stop| stop.epoch != binding.epoch || stop.since.elapsed() >= RETRY_AFTER;
        if self.stop.as_ref().is_some_and(is_outdated) {
            self.stop = None;
        }
        let config = binding.config.clone();
        let mut catch_up = CatchUp {
            fold: self,
            shard,
            key,
            instance: InstanceKey { bucket: key.bucket().into(), digest: binding.digest, config },
            caller: Caller { binding: (*binding.name).into(), stream: key.name().into() },
            epoch: binding.epoch,
            folded: Duration::ZERO,
            has_asked: false,
        };
        let mut last = GuestError::FoldLost;
        for _ in 0..RESTARTS_MAX {
            catch_up.fold.begin_at(shard.head(key)?.earliest.position);
            match catch_up.run(tail).await {
                Ok(()) => return Ok(()),
                Err(Ended::Refused(error)) => return Err(error),
                Err(Ended::Lost(error)) => last = error,
            }
        }
        tracing::warn!(stream = %key, binding = &*binding.name, error = %last, "a summary cannot be computed");
        Err(last.into())
    }
}

impl Core {
    /// What an ancestor's fold has of the records of a fork from `from` on, and up to which position.
    async fn inherited_state(
        self: &Rc<Self>,
        key: &StreamKey,
        instance: &InstanceKey,
        from: u64,
    ) -> Option<(u64, Bytes)> {
        let ancestor = {
            let group = self.local_group(key);
            let state = group.leading().ok()?;
            let stream = self.live_stream(&group, &state, key).ok()?;
            stream.fork()?.ancestors.last()?.clone()
        };
        let request = FoldStateRequest {
            key: StreamKey::parse(&ancestor.key).expect("keys were checked when their request came"),
            incarnation: ancestor.incarnation,
            digest: instance.digest,
            config: (*instance.config).into(),
            range: from..ancestor.upto,
        };
        match self.request(Request::FoldState(Box::new(request))).await {
            Ok(Answer::FoldState { position, state }) => Some((position, state?)),
            // It is folded from the beginning.
            _ => None,
        }
    }

    /// Answers with the state of a fold of this shard, if it has one that fits.
    pub(crate) async fn fold_state(self: &Rc<Self>, request: FoldStateRequest) -> Response {
        let FoldStateRequest { key: _, incarnation, digest, config, range } = request;
        let recipe = Recipe { digest, config: config.into() };
        let found = self.guests.folds.state(incarnation, recipe, &range).await;
        let found = found.filter(|(_, state)| state.len() <= STATE_BYTES_MAX);
        let claimed = found.and_then(|(position, state)| {
            let claim = self.config.pages.claim(budget::with_encoded(state.len()))?;
            Some((position, budget::keep(state, claim)))
        });
        let (position, state) = claimed.map_or((0, None), |(position, state)| (position, Some(state)));
        Ok(Answer::FoldState { position, state })
    }
}

impl CatchUp<'_> {
    /// Takes records until there are no more, or until the state is lost.
    async fn run(&mut self, tail: u64) -> Result<(), Ended> {
        loop {
            let (open, position) = self.warm().await?;
            let until = self.fold.stop.as_ref().map_or(tail, |stop| stop.at.min(tail));
            if position >= until {
                return Ok(());
            }
            let _page = self.shard.guests.pages.acquire().await;
            let read = self.read(position, until).await?;
            let Some(records) = read.records.clone() else { return Ok(()) };
            // Whoever leaves now does not hear whether the records were taken.
            self.fold.state = State::Cold;
            let held = Held::new(self.fold.lane.clone(), open);
            match self.fold.lane.fold_apply(open, records).await {
                Ok(cpu) => {
                    held.put_back(self.fold, read.end);
                    self.taken(cpu);
                    if self.fold.is_due(self.folded) {
                        self.fold.keep(open, read.end).await;
                    }
                }
                Err(error @ (GuestError::Busy | GuestError::Suspended { .. } | GuestError::NotReady)) => {
                    held.put_back(self.fold, position);
                    return Err(Ended::Refused(error.into()));
                }
                Err(error @ (GuestError::FoldLost | GuestError::Stopped)) => return Err(Ended::Lost(error)),
                Err(error) if error.is_of_node() => {
                    return Err(Ended::Lost(error));
                }
                Err(GuestError::Trapped { reason: TrapReason::TimedOut, .. }) if read.count() > 1 => {
                    // Too much at once says nothing of any record.
                    self.fold.slice_records = read.count() / 2;
                }
                Err(_) => {
                    drop(held);
                    self.hunt(position, read).await?;
                }
            }
        }
    }

    /// The fold's state on the lane: there, or made from what is kept.
    async fn warm(&mut self) -> Result<(FoldId, u64), Ended> {
        if let State::Warm { open, position } = self.fold.state {
            return Ok((open, position));
        }
        let (position, kept) = self.fold.last_kept();
        let inherited = if kept.is_none() { self.open_as_ancestor().await } else { None };
        let (open, position) = match inherited {
            Some(opened) => opened,
            None => (self.open(kept, false).await?, position),
        };
        self.fold.state = State::Warm { open, position };
        Ok((open, position))
    }

    /// A fork's fold as an ancestor's is that has taken the same records, if that can be had. It is tried once.
    async fn open_as_ancestor(&mut self) -> Option<(FoldId, u64)> {
        if std::mem::replace(&mut self.has_asked, true) {
            return None;
        }
        let (position, state) = self.shard.inherited_state(self.key, &self.instance, self.fold.from().position).await?;
        let open = self.open(Some(state), false).await.ok()?;
        Some((open, position))
    }

    async fn open(&mut self, state: Option<Bytes>, alone: bool) -> Result<FoldId, Ended> {
        let is_restored = state.is_some();
        let opened = self.fold.lane.fold_open(self.instance.clone(), self.caller.clone(), state, alone).await;
        opened.map_err(|error| match error {
            // The module does not read what it has written: from the beginning, then.
            GuestError::Refused(_) | GuestError::Trapped { .. } if is_restored => {
                self.fold.kept = None;
                Ended::Lost(error)
            }
            error if is_lost(&error) => Ended::Lost(error),
            error => Ended::Refused(error.into()),
        })
    }

    async fn read(&self, position: u64, until: u64) -> Result<RecordBatch, Ended> {
        let from = self.fold.at(position);
        let read = self.shard.read_records(self.key, from, until, SLICE_BYTES, self.fold.slice_records);
        read.await.map_err(|error| match error {
            // Just now: what is kept may be of no use any more, either.
            ShardError::Refused(Refusal::OffsetTrimmed { .. }) => Ended::Lost(GuestError::FoldLost),
            error => Ended::Refused(error),
        })
    }

    /// A slice was taken: the next is smaller if it took too long, larger if it was quick.
    fn taken(&mut self, cpu: Duration) {
        self.folded += cpu;
        if let Some(kept) = &mut self.fold.kept {
            kept.folded += cpu;
        }
        let records = self.fold.slice_records;
        if cpu > SLICE_CPU_MAX {
            self.fold.slice_records = (records / 2).max(1);
        } else if cpu < SLICE_CPU_MAX / 4 {
            self.fold.slice_records = (records * 2).min(SLICE_RECORDS_MAX);
        }
    }

    /// Finds out which of the records that begin at `position` ends the module, if one does.
    async fn hunt(&mut self, position: u64, suspects: RecordBatch) -> Result<(), Ended> {
        let mut hunt = self.begin_hunt(position, suspects).await?;
        while hunt.low < hunt.high {
            let middle = if hunt.is_single() { hunt.high } else { hunt.low + (hunt.high - hunt.low) / 2 };
            let slice = hunt.suspects.slice(hunt.low, middle);
            match self.fold.lane.fold_apply(hunt.open.id(), slice).await {
                Ok(_) => {
                    hunt.low = middle;
                    hunt.good = self.fold.lane.fold_snapshot(hunt.open.id()).await.map_err(Ended::Lost)?.0;
                }
                Err(error @ (GuestError::Busy | GuestError::Suspended { .. })) => {
                    return Err(Ended::Refused(error.into()));
                }
                Err(error @ (GuestError::FoldLost | GuestError::Stopped)) => return Err(Ended::Lost(error)),
                Err(error) if error.is_of_node() => {
                    return Err(Ended::Lost(error));
                }
                Err(error) if hunt.is_single() => return self.stop(hunt, &error).await,
                Err(_) => {
                    hunt.high = middle;
                    hunt.open = match self.open_alone(Some(hunt.good.bytes().clone())).await {
                        // The snapshot cannot be read, and neither can those before it.
                        Err(Ended::Lost(_)) if self.fold.kept.is_none() => {
                            self.open_at(hunt.suspects.position(hunt.low)).await?
                        }
                        opened => opened?,
                    };
                }
            }
        }
        // All of them pass here: it was not theirs.
        let position = hunt.suspects.position(hunt.low);
        self.fold.kept = Some(Kept::new(position, hunt.good));
        hunt.open.put_back(self.fold, position);
        Ok(())
    }

    async fn open_alone(&mut self, state: Option<Bytes>) -> Result<Held, Ended> {
        let open = self.open(state, true).await?;
        Ok(Held::new(self.fold.lane.clone(), open))
    }

    /// Brings a fold in an instance of its own to where the suspects begin.
    async fn begin_hunt(&mut self, position: u64, suspects: RecordBatch) -> Result<Hunt, Ended> {
        let open = self.open_at(position).await?;
        let good = self.fold.lane.fold_snapshot(open.id()).await.map_err(Ended::Lost)?.0;
        let high = suspects.count();
        Ok(Hunt { suspects, open, good, low: 0, high })
    }

    /// The fold of all records before `position`, in an instance of its own.
    async fn open_at(&mut self, position: u64) -> Result<Held, Ended> {
        let (mut at, kept) = self.fold.last_kept();
        let open = self.open_alone(kept).await?;
        while at < position {
            let read = self.read(at, position).await?;
            let Some(records) = read.records.clone() else { break };
            let cpu = self.fold.lane.fold_apply(open.id(), records).await.map_err(Ended::Lost)?;
            self.taken(cpu);
            at = read.end;
        }
        Ok(open)
    }

    /// The fold stops before the record that was found, and is served from there.
    async fn stop(&mut self, hunt: Hunt, error: &GuestError) -> Result<(), Ended> {
        let at = hunt.suspects.position(hunt.low);
        self.fold.kept = Some(Kept::new(at, hunt.good));
        self.fold.stop =
            Some(Stop { at, reason: Arc::from(error.to_string()), epoch: self.epoch, since: Instant::now() });
        tracing::info!(
            stream = %self.key, binding = &*self.caller.binding, position = at, %error,
            "a summary has stopped: the record there ends the module"
        );
        self.warm().await.map(|_| ())
    }
}

/// A search for the record that ends the module: those before `low` are innocent, the one at fault is before `high`.
struct Hunt {
    suspects: RecordBatch,
    /// The fold, alone in its instance, of all records before `low`.
    open: Held,
    /// Its state there.
    good: Snapshot,
    low: usize,
    high: usize,
}

impl Hunt {
    fn is_single(&self) -> bool {
        self.high - self.low == 1
    }
}

impl RecordBatch {
    /// How many records there are.
    fn count(&self) -> usize {
        self.records.as_ref().map_or(0, |records| records.ends.len())
    }

    /// The position before record `index`, or after the last.
    fn position(&self, index: usize) -> u64 {
        let Some(records) = &self.records else { return self.end };
        let bytes = index.checked_sub(1).map_or(0, |last| records.ends[last]);
        records.first_offset + u64::from(bytes) + (index * self.separator_bytes) as u64
    }

    /// Some of the records.
    fn slice(&self, from: usize, until: usize) -> GuestBatch {
        let records = self.records.as_ref().expect("there are suspects");
        let begin = from.checked_sub(1).map_or(0, |last| records.ends[last]);
        let ends: Vec<u32> = records.ends[from..until].iter().map(|end| end - begin).collect();
        let times = match records.times.len() {
            1 => records.times.clone(),
            _ => records.times[from..until].to_vec(),
        };
        let data = records.data.slice(begin as usize..records.ends[until - 1] as usize);
        GuestBatch { first_offset: self.position(from), ends, times, data }
    }
}
