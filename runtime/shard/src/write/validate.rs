//! Validators: what a write meets between the leader's look and its proposal.
//!
//! The records go to the lane, and the verdict comes back to the shard: accepted, replaced, or rejected. Only then the
//! command is encoded, with the count of bindings it was judged under, so that apply can tell if that was the last word.
//! While a stream has something at its validators, everything else for it waits behind: pipelined appends of a producer
//! stay in their order. Streams do not wait for each other.

use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::time::Instant;
use weir_stream::{Binding, Group, Split};
use weir_types::{Incarnation, StreamKey};
use weir_wasm::{AppendContext, Caller, GuestBatch, GuestError, InstanceKey, Verdict};

use crate::core::Core;
use crate::message::{Body, ShardError};
use crate::stats::add;
use crate::write::append::{LARGE_BYTES_MIN, elsewhere};
use crate::write::job::{AppendJob, Judged, LocalGroup};
use crate::write::validations::{Case, Validation, Validators, Verdicts};

/// How often those are looked at that wait behind one whose validators take long.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Core {
    /// Sends an append to its validators, or, without any, behind what its stream has there.
    pub(crate) fn begin_validation(
        self: &Rc<Self>,
        group: &Rc<LocalGroup>,
        job: AppendJob,
        judged: Judged,
        case: Option<Box<Case>>,
    ) {
        // What goes to the lane is put into its outbox now: the order is not that in which the futures are asked.
        let verdicts = case.map(|case| self.judge(*case));
        let incarnation = judged.incarnation;
        if self.guests.validations.push(Validation { group: group.clone(), job, judged, verdicts }) {
            self.spawn_request(drain(self.clone(), incarnation));
        }
    }

    /// Asks the validators one after the other; each judges what the one before it has left.
    pub(crate) fn judge(self: &Rc<Self>, case: Case) -> Verdicts {
        let Case { key, content_type, is_json, next_offset, body, split, validators } = case;
        let context = AppendContext { content_type, next_offset, timestamp_ms: self.clock.now_ms() };
        if body.len() < LARGE_BYTES_MIN {
            let records = guest_batch(body, &split, &context);
            return self.ask(&key, is_json, validators, context, records);
        }
        let core = self.clone();
        Box::pin(async move {
            let pack = move || {
                let records = guest_batch(body, &split, &context);
                (context, records)
            };
            let (context, records) = elsewhere(pack).await?;
            core.ask(&key, is_json, validators, context, records).await
        })
    }

    /// Asks the validators of `key` about records that are stored already.
    pub(crate) async fn judge_records(
        self: &Rc<Self>,
        key: &StreamKey,
        content_type: &Arc<str>,
        validators: &Validators,
        records: GuestBatch,
    ) -> Result<Option<(Body, Split)>, ShardError> {
        let (content_type, next_offset) = (content_type.clone(), records.first_offset);
        let is_json = Group::is_json(&content_type);
        let context = AppendContext { content_type, next_offset, timestamp_ms: self.clock.now_ms() };
        self.ask(key, is_json, validators.clone(), context, records).await
    }

    /// Asks the validators about `records`, the first of them at once.
    fn ask(
        self: &Rc<Self>,
        key: &StreamKey,
        is_json: bool,
        validators: Validators,
        context: AppendContext,
        records: GuestBatch,
    ) -> Verdicts {
        let stream: Arc<str> = key.name().into();
        let caller = move |binding: &Binding| Caller { binding: (*binding.name).into(), stream: stream.clone() };
        let bucket: Arc<str> = key.bucket().into();
        let instance = move |binding: &Binding| InstanceKey {
            bucket: bucket.clone(),
            digest: binding.digest,
            config: binding.config.clone(),
        };
        let count = records.ends.len() as u64;
        // Most streams have one validator, and then nothing of this is needed again.
        let mut left = (validators.len() > 1).then(|| (context.clone(), records.clone()));
        let mut asked = Some(self.guests.validate(instance(&validators[0]), caller(&validators[0]), context, records));
        let shard = self.clone();
        Box::pin(async move {
            let mut replaced = None;
            for binding in &validators {
                let verdict = match (asked.take(), &left) {
                    (Some(first), _) => first.await,
                    (None, Some((context, records))) => {
                        shard
                            .guests
                            .validate(instance(binding), caller(binding), context.clone(), records.clone())
                            .await
                    }
                    (None, None) => unreachable!("there are several"),
                };
                match verdict {
                    Ok(Verdict::Accept) => {}
                    Ok(Verdict::Replace(batch)) => {
                        if let Some((_, records)) = &mut left {
                            *records = batch.clone();
                        }
                        replaced = Some(batch);
                    }
                    Ok(Verdict::Reject { index, code, message }) => {
                        add(&shard.stats.records_rejected, 1);
                        let (code, message) = (code.into(), message.into());
                        return Err(ShardError::RecordRejected { binding: binding.name.clone(), index, code, message });
                    }
                    Err(error) => return Err(failed(binding, error)),
                }
            }
            add(&shard.stats.records_validated, count);
            let Some(records) = replaced else { return Ok(None) };
            let binding = validators.last().expect("there is one");
            let bytes_max = shard.config.body_bytes_max;
            let fits = match records.data.len() < LARGE_BYTES_MIN {
                true => replacement(records, is_json, bytes_max),
                false => elsewhere(move || replacement(records, is_json, bytes_max)).await?,
            };
            fits.map(Some).map_err(|reason| failed(binding, GuestError::Garbage(reason)))
        })
    }
}

/// Takes a stream's appends from their validators to their batch, in order, until none are left.
pub(crate) async fn drain(core: Rc<Core>, incarnation: Incarnation) {
    let validations = &core.guests.validations;
    while let Some(Validation { group, mut job, mut judged, verdicts }) = validations.pop(incarnation) {
        let verdict = match verdicts {
            None => Ok(None),
            Some(verdicts) => wait(&core, incarnation, verdicts, job.deadline).await,
        };
        validations.done(incarnation);
        match verdict.and_then(|replacement| judged.replace(replacement, &mut job.counted)) {
            Err(error) => core.answer_append(job, Err(error)),
            Ok(()) if validations.has_earlier(incarnation, job.arrival) => {
                // What came before it has come back meanwhile.
                let first = validations.push(Validation { group, job, judged, verdicts: None });
                assert!(!first, "there is an earlier one");
            }
            Ok(()) => {
                job.judged = Some(Box::new(judged));
                core.admit_again(&group, job);
            }
        }
    }
}

/// Waits for verdicts, but not for a lane that is too busy: nothing has been proposed, so nothing has changed. Those that wait
/// behind this one are answered in time, too.
async fn wait(
    core: &Rc<Core>,
    incarnation: Incarnation,
    mut verdicts: Verdicts,
    deadline: Instant,
) -> Result<Option<(Body, Split)>, ShardError> {
    // A timer only when there is something to wait for: behind one that was waited for, most are there.
    if let Poll::Ready(verdict) = poll_fn(|context| Poll::Ready(verdicts.as_mut().poll(context))).await {
        return verdict;
    }
    let validations = &core.guests.validations;
    loop {
        // Who came earlier than the one that is waited for, and comes again meanwhile, is due earlier.
        let next = validations.next_deadline(incarnation).map_or(deadline, |next| next.min(deadline));
        let next = next.min(Instant::now() + LOOK_EVERY);
        if let Ok(verdict) = tokio::time::timeout_at(next, verdicts.as_mut()).await {
            return verdict;
        }
        let now = Instant::now();
        for late in validations.take_late(incarnation, now) {
            core.answer_append(late, Err(ShardError::Unavailable));
        }
        if deadline <= now {
            return Err(ShardError::Unavailable);
        }
    }
}

/// Fails closed: what cannot be judged is not stored. The lane has told the log.
fn failed(binding: &Binding, error: GuestError) -> ShardError {
    let named = |sentence: &str| Arc::from(format!("{}: {sentence}", binding.name));
    match error.into() {
        ShardError::ModuleTrapped(sentence) => ShardError::ModuleTrapped(named(&sentence)),
        ShardError::ModuleTimedOut(sentence) => ShardError::ModuleTimedOut(named(&sentence)),
        ShardError::ModuleSuspended(sentence) => ShardError::ModuleSuspended(named(&sentence)),
        other => other,
    }
}

/// The records of a body as a guest takes them.
fn guest_batch(body: Bytes, split: &Split, context: &AppendContext) -> GuestBatch {
    let times = vec![context.timestamp_ms];
    let first_offset = context.next_offset;
    let range = |message: &Range<u32>| message.start as usize..message.end as usize;
    let (ends, data) = match split {
        Split::Whole => (vec![body.len() as u32], body),
        Split::Json(messages) if messages.len() == 1 => {
            (vec![messages[0].len() as u32], body.slice(range(&messages[0])))
        }
        Split::Json(messages) => {
            let mut data = BytesMut::with_capacity(body.len());
            let ends = messages.iter().map(|message| {
                data.extend_from_slice(&body[range(message)]);
                data.len() as u32
            });
            (ends.collect(), data.freeze())
        }
    };
    GuestBatch { first_offset, ends, times, data }
}

/// Checks what a validator wants stored as the request itself was checked.
fn replacement(records: GuestBatch, is_json: bool, bytes_max: usize) -> Result<(Body, Split), String> {
    let GuestBatch { ends, data, .. } = records;
    if data.len() > bytes_max {
        return Err(format!("a replacement of {} bytes, more than the {bytes_max} of a request", data.len()));
    }
    if !is_json {
        return match ends.len() {
            1 => Ok((data.into(), Split::Whole)),
            count => Err(format!("a replacement of {count} records, where an append is one")),
        };
    }
    let starts = [0].into_iter().chain(ends.iter().copied());
    let messages: SmallVec<[Range<u32>; 2]> = starts.zip(&ends).map(|(start, &end)| start..end).collect();
    for message in &messages {
        let text = &data[message.start as usize..message.end as usize];
        Group::check_message(text)
            .map_err(|refusal| format!("a replacement that the stream does not take: {refusal}"))?;
    }
    Ok((data.into(), Split::Json(messages)))
}
