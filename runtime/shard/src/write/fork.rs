//! Forks: creates of streams that begin with what another one holds. See `weir_stream::fork`.
//!
//! 1. The source's group keeps what the fork is going to inherit: it is *pinned*. The pin says until when the fork may come.
//! 2. The fork's group creates it, under the life that the pin names.
//!
//! If the second step is refused, the pin is released at once. If its outcome is unknown, or this process ends between the two, the
//! source's leader asks the fork's group when the pin's time is over ([`crate::upkeep`]).

use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;
use weir_stream::{
    Command, EncodedFork, Facts, Fork, ForkPoint, Group, KeyRef, NewFork, Records, Refusal, Reply, Split,
};
use weir_types::{Incarnation, Offset, ReadFrom, Role, StreamKey};

use crate::core::{Core, Shard};
use crate::in_flight::InFlight;
use crate::message::{
    Answer, CreateCondition, ForkRequest, InheritedRequest, PinRequest, Pinned, Request, Response, ShardError,
};
use crate::write::append::{STALE_RETRIES_MAX, is_large, records};
use crate::write::job::{Judged, LocalGroup};
use crate::write::validations::{Case, Validators};

/// Bytes and records of what is inherited that a validator is shown at a time.
const JUDGED_BYTES: usize = 256 << 10;
const JUDGED_RECORDS: usize = 4096;

impl Shard {
    /// Creates a stream that begins with what another one holds. The flag says whether it was there already, with the same
    /// configuration.
    ///
    /// # Errors
    /// As for a create; of the source: [`Refusal::NotFound`], [`Refusal::NameHeld`], [`Refusal::ContentTypeMismatch`],
    /// [`Refusal::ForkSubOffset`], [`Refusal::ForkAncestors`], and what reading at the offset says;
    /// [`ShardError::ForkNotJudged`].
    pub async fn fork(&self, key: StreamKey, mut request: ForkRequest) -> Result<(Facts, bool), ShardError> {
        let _counted = self.counted_here(&key, &mut request.body);
        match self.ask(Request::Fork(key, Box::new(request))).await? {
            Answer::Created { facts, existed } => Ok((facts, existed)),
            _ => unreachable!("a fork is answered with the stream"),
        }
    }
}

/// A fork on its way, pinned at its source.
struct Coming {
    key: StreamKey,
    incarnation: Incarnation,
    pinned: Pinned,
    until_ms: u64,
}

impl Core {
    pub(crate) async fn fork(self: &Rc<Self>, key: StreamKey, mut request: ForkRequest) -> Response {
        let mut counted = self.count_body(&mut request.body)?;
        let group = self.local_group(&key);
        let deadline = group.deadline();
        if let Some(refusal) = self.storage_refusal(&group, request.body.len()) {
            return Err(refusal);
        }
        if let Some(found) = self.find_fork(&group, &key, &request)? {
            return Ok(Answer::Created { facts: found, existed: true });
        }
        let incarnation = self.draw_incarnation();
        // Two rounds, at the source and here, may each take as long as a write may.
        let until_ms = group.now_ms() + 3 * self.config.write_deadline.as_millis() as u64;
        let source = request.source.clone();
        let pin = PinRequest {
            fork: key.clone(),
            fork_incarnation: incarnation,
            from: request.from,
            sub_offset: request.sub_offset,
            content_type: request.content_type.clone(),
            until_ms,
        };
        let pinned = match self.request(Request::Pin(source.clone(), Box::new(pin))).await {
            Ok(Answer::Pinned(pinned)) => *pinned,
            Ok(_) => unreachable!("a pin is answered with what is pinned"),
            // Should it be pinned after all, the source finds that there is no fork.
            Err(ShardError::Unknown) => return Err(ShardError::Unavailable),
            Err(error) => return Err(error),
        };
        let source_incarnation = pinned.source.incarnation;
        let coming = Coming { key, incarnation, pinned, until_ms };
        let created = self.create_fork(&group, &coming, &mut request, deadline, &mut counted).await;
        // Of an outcome that nobody knows, the source learns later.
        let is_kept = matches!(created, Ok((_, false)) | Err(ShardError::Unknown));
        if !is_kept {
            let (key, fork) = (source, incarnation);
            let unpin = Request::Unpin { key, incarnation: source_incarnation, fork, keeps_pin: false };
            if let Err(error) = self.request(unpin).await {
                tracing::debug!(%error, "what a fork did not need is released later");
            }
        }
        created.map(|(facts, existed)| Answer::Created { facts, existed })
    }

    /// The fork, if it is there as it is asked for.
    fn find_fork(
        &self,
        group: &LocalGroup,
        key: &StreamKey,
        request: &ForkRequest,
    ) -> Result<Option<Facts>, ShardError> {
        let state = group.leading()?;
        let stream = match self.live_stream(group, &state, key) {
            Ok(stream) => stream,
            Err(ShardError::Refused(Refusal::SoftDeleted)) => return Err(Refusal::NameHeld.into()),
            Err(ShardError::Refused(Refusal::NotFound)) => {
                return match &request.condition {
                    Some(CreateCondition::Matches(_)) => Err(ShardError::Absent),
                    _ => Ok(None),
                };
            }
            Err(error) => return Err(error),
        };
        let tail = stream.tail();
        match &request.condition {
            Some(CreateCondition::Absent) => return Err(Refusal::Exists { tail }.into()),
            Some(CreateCondition::Matches(if_match))
                if if_match.demanded(|| Some(tail)).is_some_and(|demanded| demanded != tail) =>
            {
                return Err(Refusal::TailMoved { tail }.into());
            }
            _ => {}
        }
        let at = (request.source.as_str(), request.from, request.sub_offset);
        match stream.is_forked_as(at, request.content_type.as_deref(), request.expiry, request.closed) {
            true => Ok(Some(stream.facts())),
            false => Err(Refusal::ConfigConflict.into()),
        }
    }

    /// The second step: creates the fork. The flag says whether it was there already.
    async fn create_fork(
        self: &Rc<Self>,
        group: &LocalGroup,
        coming: &Coming,
        request: &mut ForkRequest,
        deadline: Instant,
        counted: &mut InFlight,
    ) -> Result<(Facts, bool), ShardError> {
        let Coming { key, incarnation, pinned, until_ms } = coming;
        let content_type = pinned.source.content_type.clone();
        counted.add(pinned.prefix.len())?;
        if Group::is_json(&content_type) {
            if is_large(&request.body) {
                // Only now it is known that it is JSON.
                Shard(send_wrapper::SendWrapper::new(self.clone())).cut(&content_type, &mut request.body).await?;
            }
            request.body.join();
        }
        let cut = request.body.take_cut();
        let split = Group::check_create(&content_type, request.body.first(), cut)?;
        counted.add(split.memory_bytes())?;
        let encoded = new_fork(request, pinned, *until_ms).encode();
        for _ in 0..STALE_RETRIES_MAX {
            let judged = self.judge_fork(group, coming, request, &split, counted);
            let judged = tokio::time::timeout_at(deadline, judged).await.unwrap_or(Err(ShardError::Unavailable))?;
            let body = judged.replaced.as_ref().unwrap_or(&request.body);
            let create = Command::Create {
                key: KeyRef::from(key),
                incarnation: *incarnation,
                content_type: &content_type,
                expiry: request.expiry.unwrap_or(pinned.source.expiry),
                closed: request.closed,
                only_new: request.condition == Some(CreateCondition::Absent),
                bindings_epoch: judged.bindings_epoch,
                fork: Some(EncodedFork::of(&encoded)),
                records: match pinned.prefix.is_empty() {
                    true => records(body, &judged.split),
                    false => Records::prefixed(&pinned.prefix, body.pieces()),
                },
            };
            match self.propose_create(group, key, &create, deadline).await? {
                Reply::Created(facts) => return Ok((facts, false)),
                Reply::Exists(facts) => return Ok((facts, true)),
                Reply::Refused(Refusal::Stale) => {}
                Reply::Refused(Refusal::ForkLate) => return Err(ShardError::Unavailable),
                Reply::Refused(refusal) => return Err(refusal.into()),
                other => unreachable!("a create is not answered with {other:?}"),
            }
        }
        Err(ShardError::Unavailable)
    }

    /// Has the validators of the fork's path look at all that it is going to have.
    async fn judge_fork(
        self: &Rc<Self>,
        group: &LocalGroup,
        coming: &Coming,
        request: &mut ForkRequest,
        split: &Split,
        counted: &mut InFlight,
    ) -> Result<Judged, ShardError> {
        let Coming { key, incarnation, pinned, .. } = coming;
        let (bindings_epoch, validators): (u64, Validators) = {
            let state = group.leading()?;
            (state.bindings_epoch(), state.bindings(key, Role::Validator).cloned().collect())
        };
        let mut judged = Judged { bindings_epoch, incarnation: *incarnation, split: split.clone(), replaced: None };
        if validators.is_empty() {
            return Ok(judged);
        }
        self.judge_inherited(coming, &validators).await?;
        let content_type = &pinned.source.content_type;
        let case = |body: Bytes, split: &Split, next_offset| Case {
            key: key.clone(),
            content_type: content_type.clone(),
            is_json: Group::is_json(content_type),
            next_offset,
            body,
            split: split.clone(),
            validators: validators.clone(),
        };
        if !pinned.prefix.is_empty() {
            let verdict = self.judge(case(pinned.prefix.clone(), &Split::Whole, pinned.begin)).await?;
            self.check_unchanged(verdict.is_some())?;
        }
        // An empty JSON array is a body, but no records.
        if !request.body.is_empty() && !matches!(split, Split::Json(messages) if messages.is_empty()) {
            let next_offset = pinned.begin + pinned.prefix.len() as u64;
            let verdict = self.judge(case(request.body.whole(), split, next_offset)).await?;
            judged.replace(verdict, counted)?;
        }
        Ok(judged)
    }

    /// Has validators look at what a fork inherits, in pages.
    async fn judge_inherited(self: &Rc<Self>, coming: &Coming, validators: &Validators) -> Result<(), ShardError> {
        let Pinned { source, begin, ancestors, .. } = &coming.pinned;
        let (base, bytes_max) = (source.earliest.position, self.config.fork_judged_bytes_max as u64);
        if begin - base > bytes_max {
            return Err(ShardError::ForkNotJudged(
                format!(
                    "a validator would have to judge {} bytes that the fork inherits, more than limits.fork_judged_bytes_max: {bytes_max}",
                    begin - base
                )
                .into(),
            ));
        }
        let mut position = base;
        let mut seen = 0;
        for ancestor in ancestors {
            while position < ancestor.upto {
                let rest = InheritedRequest::of(ancestor, position..ancestor.upto, JUDGED_BYTES);
                let batch = self.read_inherited_records(rest, JUDGED_RECORDS).await?;
                let (Some(records), end) = (batch.records, batch.end) else {
                    return Err(ShardError::Unavailable);
                };
                let count = records.ends.len() as u32;
                let verdict = self.judge_records(&coming.key, &source.content_type, validators, records).await;
                let verdict = verdict.map_err(|error| match error {
                    ShardError::RecordRejected { binding, index, code, message } => {
                        ShardError::RecordRejected { binding, index: index + seen, code, message }
                    }
                    other => other,
                })?;
                self.check_unchanged(verdict.is_some())?;
                (position, seen) = (end, seen + count);
            }
        }
        Ok(())
    }

    /// What is inherited is what it is.
    fn check_unchanged(&self, is_replaced: bool) -> Result<(), ShardError> {
        match is_replaced {
            true => {
                Err(ShardError::ForkNotJudged("a validator would have other records than the fork inherits".into()))
            }
            false => Ok(()),
        }
    }
}

fn new_fork(request: &ForkRequest, pinned: &Pinned, until_ms: u64) -> NewFork {
    let Facts { incarnation, earliest: Offset { position: base, .. }, ref lineages, .. } = pinned.source;
    let fork = Fork {
        source: request.source.as_str().into(),
        source_incarnation: incarnation,
        point: match request.from {
            ReadFrom::Now => ForkPoint::Tail,
            ReadFrom::Start => ForkPoint::Start,
            ReadFrom::At(_) => ForkPoint::At,
        },
        anchor: pinned.anchor,
        sub_offset: request.sub_offset,
        inherits_expiry: request.expiry.is_none(),
        begin: pinned.begin,
        ancestors: pinned.ancestors.clone(),
        lineages: lineages.inherited_by(base, pinned.begin),
    };
    NewFork { fork, base, until_ms }
}
