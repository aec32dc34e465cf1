//! Appends and closes: the leader's check, the command, the answer. See ARCHITECTURE.md, "Life of one append".

use std::rc::Rc;

use tokio::time::Instant;
use weir_stream::{Appended, Command, Group, KeyRef, Look, ProducerRef, Records, Refusal, Reply, Split, Stream};
use weir_types::StreamKey;

use crate::core::{Core, Shard};
use crate::in_flight::InFlight;
use crate::message::{Answer, AppendRequest, Body, CallId, Peer, Request, Response, ShardError};
use crate::stats::add;
use crate::write::job::{AppendJob, Judged, LocalGroup};
use crate::write::validations::{Case, validators_of};

/// How often a write is checked again because its stream was deleted and created again under it, or bindings changed.
pub(crate) const STALE_RETRIES_MAX: u8 = 3;
const _: () = assert!(STALE_RETRIES_MAX > 0, "bindings change, and writes are to go on");

impl Shard {
    /// Appends records to a stream, closes it, or both at once.
    ///
    /// # Errors
    /// [`ShardError`] says what was met, and whether the outcome is known.
    pub async fn append(&self, key: StreamKey, mut request: AppendRequest) -> Result<Appended, ShardError> {
        let is_cut_here = is_large(&request.body) && self.is_led_here(&key);
        if let Some(content_type) = request.content_type.as_deref().filter(|_| is_cut_here) {
            Box::pin(self.cut(content_type, &mut request.body)).await?;
        }
        let _counted = self.counted_here(&key, &mut request.body);
        match self.ask(Request::Append(key, request)).await? {
            Answer::Appended(appended) => Ok(appended),
            _ => unreachable!("an append is answered with its effect"),
        }
    }
}

/// Bodies from this size on are cut on another thread: a megabyte of JSON takes milliseconds.
pub(crate) const LARGE_BYTES_MIN: usize = 256 << 10;

/// Whether a body, if it is JSON, takes long to look at.
pub(crate) fn is_large(body: &Body) -> bool {
    body.len() >= LARGE_BYTES_MIN
}

impl Shard {
    /// Cuts a large body into messages, where a stream of this type would have it cut, on another thread.
    pub(crate) async fn cut(&self, content_type: &str, body: &mut Body) -> Result<(), ShardError> {
        if !Group::is_json(content_type) {
            return Ok(());
        }
        let mut counted = body.take_counted().unwrap_or_else(|| self.in_flight());
        let mut whole = std::mem::take(body);
        // Putting megabytes together takes as long as looking at them.
        let measure = move || {
            let cut_bytes = Split::json_bytes_max(&whole.whole());
            (whole, cut_bytes)
        };
        let (joined, cut_bytes) = elsewhere(measure).await?;
        *body = joined;
        counted.grow(cut_bytes)?;
        let bytes = body.whole();
        body.set_cut(elsewhere(move || Split::json(&bytes)).await?);
        counted.shrink(cut_bytes);
        body.keep(counted);
        Ok(())
    }

    /// What is counted of a body that goes to a stream of another shard, which counts it for itself: until that has answered,
    /// it is in the mail.
    pub(crate) fn counted_here(&self, key: &StreamKey, body: &mut Body) -> Option<InFlight> {
        if self.owner_of(key) == self.0.id { None } else { body.take_counted() }
    }
}

/// Does `work` on another thread.
pub(crate) async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ShardError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ShardError::Unavailable)
}

impl Core {
    /// Takes an append in and puts it into its group's batch, or answers it at once.
    pub(crate) fn begin_append(
        self: &Rc<Self>,
        origin: Peer,
        call: CallId,
        key: StreamKey,
        mut request: AppendRequest,
    ) {
        let counted = match self.count_body(&mut request.body) {
            Ok(counted) => counted,
            Err(error) => return self.respond(origin, call, Err(error)),
        };
        let group = self.local_group(&key);
        let (arrival, deadline) = (group.arrive(), group.deadline());
        let job = AppendJob { key, request, origin, call, arrival, deadline, stale_retries: 0, judged: None, counted };
        self.admit_in_turn(&group, job);
    }

    /// Admits an append, behind those that wait already.
    pub(crate) fn admit_in_turn(self: &Rc<Self>, group: &Rc<LocalGroup>, job: AppendJob) {
        if group.has_backlog() { group.push_backlog(job) } else { self.admit_append(group, job) }
    }

    /// Checks an append against the applied state and encodes it into the open batch, or sends it to its validators.
    fn admit_append(self: &Rc<Self>, group: &Rc<LocalGroup>, mut job: AppendJob) {
        if let Some(refusal) = self.storage_refusal(group, job.request.body.len()) {
            return self.answer_append(job, Err(refusal));
        }
        if let Some(judged) = job.judged.take()
            && self.is_current(group, &job.key, &judged)
        {
            return self.propose_append(group, job, *judged);
        }
        if self.expired_group(&job.key).is_some() {
            return self.answer_expired(group, job);
        }
        let (judged, case) = match self.look(group, &mut job) {
            Ok(Looked::Propose(judged, case)) => (judged, case),
            Ok(Looked::Answer(appended)) => return self.acknowledge(job, appended, Instant::now()),
            Err(error) => return self.answer_append(job, Err(error)),
        };
        // Of a large body this is counted already.
        let copies = usize::from(!is_large(&job.request.body)) + usize::from(case.is_some());
        if let Err(error) = job.counted.add(judged.split.memory_bytes() * copies) {
            return self.answer_append(job, Err(error));
        }
        if case.is_some() || self.guests.validations.has(judged.incarnation) {
            return self.begin_validation(group, job, judged, case);
        }
        self.propose_append(group, job, judged);
    }

    /// Answers an append whose stream's time is over, once that is durable.
    fn answer_expired(self: &Rc<Self>, group: &Rc<LocalGroup>, job: AppendJob) {
        let (core, group) = (self.clone(), group.clone());
        self.spawn_request(async move {
            let expired = core.expire(&group, &job.key).await;
            core.answer_append(job, Err(expired.err().unwrap_or(Refusal::NotFound.into())));
        });
    }

    /// Whether what was judged would be judged alike now.
    fn is_current(&self, group: &LocalGroup, key: &StreamKey, judged: &Judged) -> bool {
        let Ok(state) = group.leading() else { return false };
        state.bindings_epoch() == judged.bindings_epoch
            && state.stream(key).is_some_and(|stream| stream.incarnation() == judged.incarnation)
    }

    /// The leader's early look at an append, and what its validators have to see, if it has any.
    fn look(&self, group: &LocalGroup, job: &mut AppendJob) -> Result<Looked, ShardError> {
        let state = group.leading()?;
        let stream = state.stream(&job.key);
        if job.request.body.pieces().len() > 1 && stream.is_some_and(Stream::is_json) {
            job.request.body.join();
        }
        if let Some(stream) = stream {
            self.touch(stream.incarnation(), stream.expiry());
        }
        let AppendJob { key, request, .. } = &mut *job;
        let cut = request.body.take_cut();
        let content_type = request.content_type.as_deref();
        let look =
            state.check_append(key, content_type, request.close, producer(request), request.body.first(), cut)?;
        let (incarnation, split) = match look {
            Look::Propose { incarnation, split } => (incarnation, split),
            Look::Answer(appended) => return Ok(Looked::Answer(appended)),
        };
        let validators = validators_of(&state, key, &request.body);
        let case = match (validators.is_empty(), stream) {
            (false, Some(stream)) => Some(Box::new(Case {
                key: key.clone(),
                content_type: stream.content_type().clone(),
                is_json: stream.is_json(),
                next_offset: stream.tail().position,
                body: request.body.whole(),
                split: split.clone(),
                validators,
            })),
            _ => None,
        };
        let bindings_epoch = state.bindings_epoch();
        Ok(Looked::Propose(Judged { bindings_epoch, incarnation, split, replaced: None }, case))
    }

    fn propose_append(&self, group: &Rc<LocalGroup>, mut job: AppendJob, judged: Judged) {
        let AppendRequest { close, seq, if_match, body, .. } = &job.request;
        let tail = || group.applied().stream(&job.key).map(Stream::tail);
        let command = Command::Append {
            key: KeyRef::from(&job.key),
            incarnation: judged.incarnation,
            close: *close,
            producer: producer(&job.request),
            seq: seq.as_deref(),
            if_match: if_match.as_ref().and_then(|if_match| if_match.demanded(tail)),
            bindings_epoch: judged.bindings_epoch,
            records: records(judged.replaced.as_ref().unwrap_or(body), &judged.split),
        };
        if group.encode(&command, judged.bindings_epoch) {
            // Should it turn out stale, a large body need not be cut again.
            if is_large(body) && judged.replaced.is_none() {
                job.request.body.set_cut(Ok(judged.split));
            }
            return group.wait(job, judged.bindings_epoch);
        }
        job.judged = Some(Box::new(judged));
        group.push_backlog(job);
    }

    /// Answers an append, at `now`, with what apply replied; one that was checked against an earlier stream is checked again.
    pub(crate) fn finish_append(
        self: &Rc<Self>,
        group: &Rc<LocalGroup>,
        mut job: AppendJob,
        reply: Reply,
        now: Instant,
    ) {
        match reply {
            Reply::Appended(appended) => self.acknowledge(job, appended, now),
            Reply::Refused(Refusal::Stale) if job.stale_retries < STALE_RETRIES_MAX => {
                job.stale_retries += 1;
                assert!(job.judged.is_none(), "what was proposed is judged anew");
                // Behind what came before it and had no room, before what came after it.
                group.push_backlog(job);
            }
            Reply::Refused(Refusal::Stale) => self.answer_append(job, Err(ShardError::Unavailable)),
            Reply::Refused(refusal) => self.answer_append(job, Err(refusal.into())),
            other => unreachable!("an append is not answered with {other:?}"),
        }
    }

    fn acknowledge(&self, job: AppendJob, appended: Appended, now: Instant) {
        // It came when it had all of its time left.
        let left = job.deadline.saturating_duration_since(now);
        self.stats.append_times.count_time(self.config.write_deadline.saturating_sub(left));
        self.answer_append(job, Ok(Answer::Appended(appended)));
    }

    /// Ends an append: every path leads here exactly once.
    pub(crate) fn answer_append(&self, job: AppendJob, response: Response) {
        match &response {
            Ok(_) => self.stats.count_append(job.request.body.len()),
            Err(_) => add(&self.stats.appends_refused, 1),
        }
        self.respond(job.origin, job.call, response);
    }
}

/// What the early look has found.
enum Looked {
    /// The request was applied before.
    Answer(Appended),
    /// It can be proposed once its validators have seen it; without any, at once.
    Propose(Judged, Option<Box<Case>>),
}

/// The records of a body: JSON has been joined to be parsed, everything else is one record in pieces.
pub(crate) fn records<'a>(body: &'a Body, split: &'a Split) -> Records<'a> {
    match split {
        Split::Whole => Records::pieces(body.pieces()),
        Split::Json(_) => Records::new(body.first(), split),
    }
}

fn producer(request: &AppendRequest) -> Option<ProducerRef<'_>> {
    request.producer.as_ref().map(|p| ProducerRef { id: &p.id, epoch: p.epoch, seq: p.seq })
}
