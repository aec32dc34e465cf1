//! Appends and closes: the leader's check, the command, the answer. See ARCHITECTURE.md, "Life of one append".

use std::rc::Rc;

use weir_stream::{Appended, Command, KeyRef, Look, ProducerRef, Records, Refusal, Reply, Split, Stream};
use weir_types::{ShardId, StreamKey};

use crate::api::{AppendRequest, Body, ShardError};
use crate::calls::CallId;
use crate::group::{LocalGroup, Waiter};
use crate::mailbox::{Answer, Request, Response};
use crate::shard::{InFlight, Inner, Shard};

/// How often an append is checked again because its stream was deleted and created again under it.
const STALE_RETRIES_MAX: u8 = 3;

impl Shard {
    /// Appends records to a stream, closes it, or both at once.
    ///
    /// # Errors
    /// [`ShardError`] says what was met, and whether the outcome is known.
    pub async fn append(&self, key: StreamKey, request: AppendRequest) -> Result<Appended, ShardError> {
        match self.call(self.owner_of(&key), Request::Append(key, request)).await? {
            Answer::Appended(appended) => Ok(appended),
            _ => unreachable!("an append is answered with its effect"),
        }
    }
}

/// An append on its way through its group.
pub(crate) struct AppendJob {
    key: StreamKey,
    request: AppendRequest,
    origin: ShardId,
    call: CallId,
    stale_retries: u8,
    _counted: InFlight,
}

impl Inner {
    /// Takes an append in and puts it into its group's batch, or answers it at once.
    pub(crate) fn begin_append(self: &Rc<Self>, origin: ShardId, call: CallId, key: StreamKey, request: AppendRequest) {
        let counted = match self.count_in_flight(request.body.len()) {
            Ok(counted) => counted,
            Err(error) => return self.respond(origin, call, Err(error)),
        };
        let group = self.local_group(&key);
        let job = AppendJob { key, request, origin, call, stale_retries: 0, _counted: counted };
        if group.has_backlog() {
            return group.push_backlog(job);
        }
        self.admit_append(&group, job);
    }

    /// Checks an append against the applied state and encodes it into the open batch.
    pub(crate) fn admit_append(self: &Rc<Self>, group: &Rc<LocalGroup>, mut job: AppendJob) {
        if let Some(refusal) = self.storage_refusal(group, job.request.body.len()) {
            return self.answer_append(job, Err(refusal));
        }
        let look = {
            let state = group.state.borrow();
            if job.request.body.pieces().len() > 1 && state.stream(&job.key).is_some_and(Stream::is_json) {
                job.request.body.join();
            }
            match state.stream(&job.key) {
                Some(stream) if self.is_expired(group, stream) => Err(Refusal::NotFound),
                found => {
                    found.into_iter().for_each(|stream| self.touch(stream));
                    let request = &job.request;
                    let content_type = request.content_type.as_deref();
                    state.check_append(&job.key, content_type, request.close, producer(request), request.body.first())
                }
            }
        };
        let (incarnation, split) = match look {
            Ok(Look::Propose { incarnation, split }) => (incarnation, split),
            Ok(Look::Answer(appended)) => return self.answer_append(job, Ok(Answer::Appended(appended))),
            Err(refusal) => return self.answer_append(job, Err(refusal.into())),
        };
        let AppendRequest { close, seq, if_match, body, .. } = &job.request;
        let command = Command::Append {
            key: KeyRef::from(&job.key),
            incarnation,
            close: *close,
            producer: producer(&job.request),
            seq: seq.as_deref(),
            if_match: *if_match,
            records: records(body, &split),
        };
        if group.encode(&command) { group.wait(Waiter::Append(job)) } else { group.push_backlog(job) }
    }

    /// Answers an append with what apply replied; one that was checked against an earlier stream is checked again.
    pub(crate) fn finish_append(self: &Rc<Self>, group: &Rc<LocalGroup>, mut job: AppendJob, reply: Reply) {
        match reply {
            Reply::Appended(appended) => self.answer_append(job, Ok(Answer::Appended(appended))),
            Reply::Refused(Refusal::Stale) if job.stale_retries < STALE_RETRIES_MAX => {
                job.stale_retries += 1;
                self.admit_append(group, job);
            }
            Reply::Refused(Refusal::Stale) => self.answer_append(job, Err(ShardError::Unavailable)),
            Reply::Refused(refusal) => self.answer_append(job, Err(refusal.into())),
            other => unreachable!("an append is not answered with {other:?}"),
        }
    }

    /// Ends an append: every path leads here exactly once.
    pub(crate) fn answer_append(&self, job: AppendJob, response: Response) {
        match &response {
            Ok(_) => self.stats.count_append(job.request.body.len()),
            Err(_) => self.stats.appends_refused.set(self.stats.appends_refused.get() + 1),
        }
        self.respond(job.origin, job.call, response);
    }
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
