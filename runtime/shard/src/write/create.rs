//! Creates: the only verb that may have to create something else first, the stream's bucket.

use std::rc::Rc;

use tokio::time::Instant;
use weir_stream::{Command, EPOCH_UNJUDGED, Facts, Group, KeyRef, Refusal, Reply, Split};
use weir_types::bugs::{self, Bug};
use weir_types::{Incarnation, StreamKey};

use crate::core::{Core, Shard};
use crate::in_flight::InFlight;
use crate::message::{Answer, CreateCondition, CreateRequest, IfMatch, Request, Response, ShardError};
use crate::write::append::{STALE_RETRIES_MAX, is_large, records};
use crate::write::job::{Judged, LocalGroup};
use crate::write::validations::{Case, Validators, validators_of};

impl Shard {
    /// Creates a stream. The flag says whether it was there already, with the same configuration.
    ///
    /// # Errors
    /// [`Refusal::ConfigConflict`] when a stream with another configuration has the name, [`Refusal::JsonInvalid`] for
    /// a body that is none; what the request's condition says; [`ShardError::BucketUnknown`] when buckets are not created automatically.
    pub async fn create(&self, key: StreamKey, mut request: CreateRequest) -> Result<(Facts, bool), ShardError> {
        if is_large(&request.body) && self.is_led_here(&key) {
            self.cut(&request.content_type, &mut request.body).await?;
        }
        let _counted = self.counted_here(&key, &mut request.body);
        match self.ask(Request::Create(key, request)).await? {
            Answer::Created { facts, existed } => Ok((facts, existed)),
            _ => unreachable!("a create is answered with the stream"),
        }
    }
}

impl Core {
    pub(crate) async fn create(self: &Rc<Self>, key: StreamKey, mut request: CreateRequest) -> Response {
        let mut counted = self.count_body(&mut request.body)?;
        let group = self.local_group(&key);
        let deadline = group.deadline();
        if let Some(refusal) = self.storage_refusal(&group, request.body.len()) {
            return Err(refusal);
        }
        if let Some(CreateCondition::Matches(if_match)) = &request.condition {
            return self.find(&group, &key, &request, if_match);
        }
        if Group::is_json(&request.content_type) {
            request.body.join();
        }
        let cut = request.body.take_cut();
        let split = Group::check_create(&request.content_type, request.body.first(), cut)?;
        // Of a large body this is counted already.
        let copies = usize::from(!is_large(&request.body));
        counted.add(split.memory_bytes() * copies)?;
        for _ in 0..STALE_RETRIES_MAX {
            // Nothing has been proposed yet, so nothing has changed when that takes too long.
            let judged = self.judge_create(&group, &key, &mut request, &split, &mut counted);
            let judged = tokio::time::timeout_at(deadline, judged).await.unwrap_or(Err(ShardError::Unavailable))?;
            assert!(judged.incarnation.0 != 0, "0 stands for no stream");
            let create = Command::Create {
                key: KeyRef::from(&key),
                incarnation: judged.incarnation,
                content_type: &request.content_type,
                expiry: request.expiry,
                closed: request.closed,
                only_new: request.condition == Some(CreateCondition::Absent),
                bindings_epoch: judged.bindings_epoch,
                fork: None,
                records: records(judged.replaced.as_ref().unwrap_or(&request.body), &judged.split),
            };
            match self.propose_create(&group, &key, &create, deadline).await? {
                Reply::Created(facts) => return Ok(Answer::Created { facts, existed: false }),
                Reply::Exists(facts) => return Ok(Answer::Created { facts, existed: true }),
                Reply::Refused(Refusal::Stale) => {}
                Reply::Refused(refusal) => return Err(refusal.into()),
                other => unreachable!("a create is not answered with {other:?}"),
            }
        }
        Err(ShardError::Unavailable)
    }

    /// A stream that has to be there already: what is asked for is only compared with it.
    fn find(&self, group: &LocalGroup, key: &StreamKey, request: &CreateRequest, if_match: &IfMatch) -> Response {
        let state = group.leading()?;
        let stream = self.live_stream(group, &state, key).map_err(|_| ShardError::Absent)?;
        let tail = stream.tail();
        if if_match.demanded(|| Some(tail)).is_some_and(|demanded| demanded != tail) {
            return Err(Refusal::TailMoved { tail }.into());
        }
        match stream.is_configured_as(&request.content_type, request.expiry, request.closed) {
            true => Ok(Answer::Created { facts: stream.facts(), existed: true }),
            false => Err(Refusal::ConfigConflict.into()),
        }
    }

    /// Has the validators that the new stream will have look at its first records. One that exists already is only asked
    /// for, and its body is not looked at; the command says so, in case the stream goes meanwhile.
    async fn judge_create(
        self: &Rc<Self>,
        group: &LocalGroup,
        key: &StreamKey,
        request: &mut CreateRequest,
        split: &Split,
        counted: &mut InFlight,
    ) -> Result<Judged, ShardError> {
        let (bindings_epoch, validators) = {
            let state = group.leading()?;
            let validators = validators_of(&state, key, &request.body);
            // It may be gone by the time that this is applied; then nobody has looked at what would be stored.
            match state.stream(key) {
                Some(_) if !validators.is_empty() => (EPOCH_UNJUDGED, Validators::new()),
                _ => (state.bindings_epoch(), validators),
            }
        };
        let incarnation = self.draw_incarnation();
        let mut judged = Judged { bindings_epoch, incarnation, split: split.clone(), replaced: None };
        // An empty JSON array is a body, but no records.
        if validators.is_empty() || matches!(split, Split::Json(messages) if messages.is_empty()) {
            return Ok(judged);
        }
        let case = Case {
            key: key.clone(),
            content_type: (*request.content_type).into(),
            is_json: Group::is_json(&request.content_type),
            next_offset: 0,
            body: request.body.whole(),
            split: split.clone(),
            validators,
        };
        counted.add(case.split.memory_bytes())?;
        judged.replace(self.judge(case).await?, counted)?;
        Ok(judged)
    }

    /// Proposes a create, once more when its bucket had to be made first.
    pub(crate) async fn propose_create(
        self: &Rc<Self>,
        group: &LocalGroup,
        key: &StreamKey,
        create: &Command<'_>,
        deadline: Instant,
    ) -> Result<Reply, ShardError> {
        let reply = group.command_until(create, deadline).await?;
        if reply != Reply::Refused(Refusal::BucketNotFound) {
            return Ok(reply);
        }
        if !self.config.buckets_auto_create {
            return Err(ShardError::BucketUnknown);
        }
        self.request(Request::BucketCreate(key.bucket().into(), None)).await?;
        group.command_until(create, deadline).await
    }

    pub(crate) fn draw_incarnation(&self) -> Incarnation {
        if bugs::has(Bug::ReusedIncarnation) {
            return Incarnation(1);
        }
        loop {
            // 0 stands for none.
            match self.entropy.u64() {
                0 => {}
                drawn => return Incarnation(drawn),
            }
        }
    }
}
