//! A group's part of a subscription: which of its streams are linked, which have something new, and up to where they were processed.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use send_wrapper::SendWrapper;
use tokio::time::timeout;
use weir_stream::subscription::{Ack, EncodedAcks, Link, Linked, Subscription};
use weir_stream::{Command, Refusal, Reply};
use weir_types::limits::SLOTS;
use weir_types::{BucketName, GroupId, Offset, StreamKey};

use crate::core::{Core, Shard};
use crate::group::SLOWER_PART;
use crate::message::{Answer, LinkedStream, LinksAsk, LinksRequest, Request, Response, ShardError};
use crate::subscriptions::desk::WakeEnd;

/// Streams that are looked at between two pauses; a slot is not divided.
const STREAMS_PER_TURN: usize = 1024;
/// Slots that are looked at between two pauses.
const SLOTS_PER_TURN: usize = 512;
/// Segments and bytes that are compared between two pauses, at most.
const STEPS_PER_TURN: usize = 64 << 10;
/// How long a group is waited for that is asked what is pending, and how many are asked at once.
const PENDING_WAIT: Duration = Duration::from_secs(1);
const GROUPS_AT_ONCE: usize = 8;

impl Core {
    /// Carries out what is asked of one of this shard's groups.
    pub(crate) async fn links(self: &Rc<Self>, group: GroupId, request: LinksRequest) -> Response {
        let LinksRequest { bucket, number, ask } = request;
        match ask {
            LinksAsk::Pending(limit, after) => {
                let group = self.group(group);
                let state = group.leading()?;
                let pending = state.pending_behind(bucket.as_str(), number, &after).take(limit);
                Ok(Answer::Links(pending.map(|linked| linked_stream(&linked)).collect()))
            }
            LinksAsk::All(limit) => self.all_links(group, &bucket, number, limit).await,
            LinksAsk::Named(names) => {
                let group = self.group(group);
                let state = group.leading()?;
                let mut found = Vec::new();
                for name in names {
                    let key = StreamKey::new(bucket.as_str(), &name).expect("names were checked when they came");
                    let stream = state.stream(&key);
                    let linked = stream.and_then(|stream| state.linked(bucket.as_str(), number, stream));
                    found.extend(linked.map(|linked| linked_stream(&linked)));
                }
                Ok(Answer::Links(found))
            }
            LinksAsk::Ack { acks, until_ms } => self.ack(group, &bucket, number, acks, until_ms).await,
            LinksAsk::Now => {
                let group = self.group(group);
                group.leading()?;
                Ok(Answer::Now(group.now_ms()))
            }
        }
    }

    async fn all_links(&self, group: GroupId, bucket: &BucketName, number: u64, limit: usize) -> Response {
        let group = self.group(group);
        let mut found = Vec::new();
        let (mut turn, mut streams_per_turn) = ((0, 0), STREAMS_PER_TURN);
        for slot in 0..SLOTS {
            if turn.0 >= streams_per_turn || turn.1 >= SLOTS_PER_TURN {
                tokio::task::yield_now().await;
                turn = (0, 0);
            }
            let state = group.leading()?;
            let steps = state.linked_steps(bucket.as_str(), number);
            streams_per_turn = (STEPS_PER_TURN / steps.max(1)).clamp(1, STREAMS_PER_TURN);
            for stream in state.slot(slot) {
                turn.0 += 1;
                if let Some(linked) = state.linked(bucket.as_str(), number, stream) {
                    found.push(linked_stream(&linked));
                }
            }
            turn.1 += 1;
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(Answer::Links(found))
    }

    /// Moves cursors. A stream that is gone, or has begun anew, has nothing that could be acknowledged, and is passed over.
    async fn ack(
        &self,
        group: GroupId,
        bucket: &BucketName,
        number: u64,
        acks: Vec<(Box<str>, Offset)>,
        until_ms: Option<u64>,
    ) -> Response {
        let group = self.group(group);
        let mut taken = Vec::new();
        {
            let state = group.leading()?;
            for (name, offset) in acks {
                let key = StreamKey::new(bucket.as_str(), &name).expect("names were checked when they came");
                let Some(stream) = state.stream(&key).filter(|stream| stream.offset(offset.position) == offset) else {
                    continue;
                };
                let linked = state.linked(bucket.as_str(), number, stream);
                if linked.is_none() || offset.position > stream.tail().position {
                    if until_ms.is_none() {
                        return Err(Refusal::OffsetInvalid.into());
                    }
                    // It was unlinked meanwhile.
                    continue;
                }
                taken.push(Ack { name, incarnation: stream.incarnation(), position: offset.position });
            }
        }
        if let Some(until_ms) = until_ms.filter(|_| !taken.is_empty()) {
            let encoded = EncodedAcks::encode(&taken);
            let command = Command::Ack { bucket: bucket.as_str(), number, until_ms, acks: EncodedAcks::of(&encoded) };
            match group.command(&command).await? {
                Reply::Done => {}
                Reply::Refused(refusal) => return Err(refusal.into()),
                other => unreachable!("an acknowledgement is not answered with {other:?}"),
            }
        }
        Ok(Answer::Done)
    }

    /// Up to `limit` streams that have something new, of all groups that can be asked: those behind where the last of these ended, by
    /// group and name, and going round. So those that nobody acknowledges keep none from its turn.
    ///
    /// # Errors
    /// When nothing is found, and some group could not be asked.
    pub(crate) async fn pending(
        self: &Rc<Self>,
        bucket: &BucketName,
        number: u64,
        limit: usize,
    ) -> Result<Vec<LinkedStream>, ShardError> {
        let from = self.desk.wake_end(number).unwrap_or((GroupId::META, Box::default()));
        let (streams, end) = self.pending_behind(bucket, number, limit, from).await?;
        self.desk.end_wake_at(number, end);
        Ok(streams)
    }

    /// As [`Core::pending`], with where it ended if there may be more.
    async fn pending_behind(
        self: &Rc<Self>,
        bucket: &BucketName,
        number: u64,
        limit: usize,
        (first, after): WakeEnd,
    ) -> Result<(Vec<LinkedStream>, Option<WakeEnd>), ShardError> {
        let wanted = Cell::new(limit);
        // The first group has its others at the end.
        let rest = self.topology.groups().skip_while(|group| *group <= first);
        let round = rest.chain(self.topology.groups().take_while(|group| *group < first));
        let round = round.chain((!after.is_empty()).then_some(first)).map(|group| (group, Box::default()));
        let round = iter::once((first, after.clone())).chain(round).enumerate();
        let asks = stream::iter(round).map(|(at, (group, behind))| {
            let (core, wanted) = (self, &wanted);
            async move {
                let ask = LinksAsk::Pending(wanted.get(), behind);
                let asked = core.ask_links(bucket, number, group, ask);
                (at, group, timeout(PENDING_WAIT, asked).await.unwrap_or(Err(ShardError::Unavailable)))
            }
        });
        let mut answers = pin!(asks.buffered(GROUPS_AT_ONCE));
        let (mut streams, mut silent, mut last) = (Vec::<LinkedStream>::new(), None, first);
        while wanted.get() > 0
            && let Some((at, group, answer)) = answers.next().await
        {
            match answer {
                Ok(mut found) => {
                    if at > 0 && group == first {
                        found.retain(|stream| stream.name <= after);
                    }
                    found.truncate(wanted.get());
                    if !found.is_empty() {
                        last = group;
                    }
                    streams.extend(found);
                }
                // It says again what it has, so that comes with another wake.
                Err(error) => silent = Some(error),
            }
            wanted.set(limit - streams.len());
        }
        match silent {
            Some(error) if streams.is_empty() => Err(error),
            _ => {
                let end = streams.last().filter(|_| wanted.get() == 0).map(|stream| (last, stream.name.clone()));
                Ok((streams, end))
            }
        }
    }

    /// Some stream that has something new. Errors as of [`Core::pending`].
    pub(crate) async fn first_pending(
        self: &Rc<Self>,
        bucket: &BucketName,
        number: u64,
    ) -> Result<Option<LinkedStream>, ShardError> {
        Ok(self.pending_behind(bucket, number, 1, (GroupId::META, Box::default())).await?.0.pop())
    }

    /// Up to `limit` streams of all groups, of which each is asked for as many as are still wanted.
    async fn all(
        self: &Rc<Self>,
        bucket: &BucketName,
        number: u64,
        limit: usize,
    ) -> Result<Vec<LinkedStream>, ShardError> {
        let mut streams = Vec::new();
        for group in self.topology.groups() {
            let ask = LinksAsk::All(limit - streams.len());
            streams.extend(self.ask_links(bucket, number, group, ask).await?);
            if streams.len() >= limit {
                break;
            }
        }
        Ok(streams)
    }

    /// A subscription's streams: up to `limit` of all groups, and all that it names, also those that are not there.
    async fn all_and_named(
        self: &Rc<Self>,
        bucket: &BucketName,
        subscription: &Subscription,
        limit: usize,
    ) -> Result<Vec<LinkedStream>, ShardError> {
        let mut streams: BTreeMap<Box<str>, LinkedStream> =
            subscription.explicit.iter().map(|name| (name.clone(), LinkedStream::absent(name))).collect();
        let number = subscription.number;
        let listed = self.all(bucket, number, limit).await?;
        streams.extend(listed.into_iter().map(|stream| (stream.name.clone(), stream)));
        // Those of its names that were not among so many.
        let mut rest = BTreeMap::<GroupId, BTreeSet<Box<str>>>::new();
        for name in streams.values().filter(|stream| stream.tail.is_none()).map(|stream| &stream.name) {
            rest.entry(self.group_of(bucket, name)).or_default().insert(name.clone());
        }
        for (group, names) in rest {
            let found = self.ask_links(bucket, number, group, LinksAsk::Named(names)).await?;
            streams.extend(found.into_iter().map(|stream| (stream.name.clone(), stream)));
        }
        Ok(streams.into_values().collect())
    }

    /// The group of a stream of a bucket.
    fn group_of(&self, bucket: &BucketName, name: &str) -> GroupId {
        let key = StreamKey::new(bucket.as_str(), name).expect("names were checked when they came");
        self.topology.group_of(key.slot())
    }

    /// Streams of one group.
    async fn ask_links(
        self: &Rc<Self>,
        bucket: &BucketName,
        number: u64,
        group: GroupId,
        ask: LinksAsk,
    ) -> Result<Vec<LinkedStream>, ShardError> {
        let request = LinksRequest { bucket: bucket.clone(), number, ask };
        match self.request(Request::Links(group, Box::new(request))).await? {
            Answer::Links(found) => Ok(found),
            _ => unreachable!("links are answered with streams"),
        }
    }

    /// Acknowledges streams of any groups before group 0's time is `until_ms`, or only tries whether that could be. A group that refuses it
    /// keeps it from no other.
    pub(crate) async fn ack_all(
        self: &Rc<Self>,
        bucket: &BucketName,
        number: u64,
        acks: &[(Box<str>, Offset)],
        until_ms: Option<u64>,
    ) -> Result<(), ShardError> {
        let mut by_group = BTreeMap::<GroupId, Vec<_>>::new();
        for (name, offset) in acks {
            by_group.entry(self.group_of(bucket, name)).or_default().push((name.clone(), *offset));
        }
        let asks = by_group.into_iter().map(|(group, acks)| async move {
            let until_ms = match until_ms {
                Some(until_ms) => {
                    let asked = timeout(PENDING_WAIT, self.time_there(bucket, number, group, until_ms));
                    Some(asked.await.unwrap_or(Err(ShardError::Unavailable))?)
                }
                None => None,
            };
            let request = LinksRequest { bucket: bucket.clone(), number, ask: LinksAsk::Ack { acks, until_ms } };
            self.request(Request::Links(group, Box::new(request))).await
        });
        let answers: Vec<Response> = stream::iter(asks).buffer_unordered(GROUPS_AT_ONCE).collect().await;
        answers.into_iter().try_for_each(|answer| answer.map(|_| ()))
    }

    /// What a group's own time is when group 0's is `at_ms`, at the earliest: the answer takes its time, and only one of the two may go slower.
    pub(crate) async fn time_there(
        self: &Rc<Self>,
        bucket: &BucketName,
        number: u64,
        group: GroupId,
        at_ms: u64,
    ) -> Result<u64, ShardError> {
        let request = LinksRequest { bucket: bucket.clone(), number, ask: LinksAsk::Now };
        match self.request(Request::Links(group, Box::new(request))).await? {
            Answer::Now(there_ms) => {
                let left_ms = at_ms.saturating_sub(self.meta_now_ms());
                Ok(there_ms.saturating_add(left_ms - left_ms / SLOWER_PART))
            }
            _ => unreachable!("a group says what its time is"),
        }
    }
}

impl Shard {
    /// Up to `limit` streams of a subscription, of all groups, and all that it names; in the order of their names.
    pub(crate) async fn all_linked(
        &self,
        bucket: &BucketName,
        subscription: &Subscription,
        limit: usize,
    ) -> Result<Vec<LinkedStream>, ShardError> {
        let core = Rc::clone(&self.0);
        SendWrapper::new(Box::pin(async move { core.all_and_named(bucket, subscription, limit).await })).await
    }
}

fn linked_stream(linked: &Linked<'_>) -> LinkedStream {
    LinkedStream {
        name: linked.name().into(),
        link: linked.link,
        incarnation: linked.stream.incarnation(),
        acked: Some(linked.stream.offset(linked.acked)),
        tail: Some(linked.stream.tail()),
    }
}

impl LinkedStream {
    /// A stream that a subscription names and that is not there.
    pub(crate) fn absent(name: &str) -> LinkedStream {
        let incarnation = weir_types::Incarnation(0);
        LinkedStream { name: name.into(), link: Link::Explicit, incarnation, acked: None, tail: None }
    }
}
