//! Wakes: group 0's leader begins one when something is new, has it delivered, and ends it when its lease is over.
//!
//! Whatever it does is a step in group 0 before it is said to anybody. Where it ends in between, the wake's lease ends some time, and what was
//! not processed is in the next one: so nothing is lost, and what is delivered twice has another generation.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use weir_hooks::{Delivery as Delivered, WakeRequest, WakeStream};
use weir_stream::Refusal;
use weir_stream::subscription::{Delivery, Link, Subscription, SubscriptionStep, Turn};
use weir_types::limits::WAKE_STREAMS_MAX;
use weir_types::{BucketName, GroupId, Offset, StreamKey};

use crate::core::Core;
use crate::message::{AppendRequest, Body, LinkedStream, Producer, Request, ShardError};
use crate::subscriptions::desk::{Attending, Place};

/// How long until it is looked again for what is due, at least and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// What a wake has of a stream besides its name, about.
const WAKE_STREAM_BYTES: usize = 160;
/// Buckets whose subscriptions are looked at between two pauses.
const BUCKETS_PER_TURN: usize = 16;
/// How long a wake that could not be delivered rests, at first and at most, in milliseconds; and the part by which that differs.
const RETRY_MS: (u64, u64) = (1_000, 60_000);
const JITTER_PART: u64 = 5;

/// Wakes. Runs for the life of group 0's shard; does nothing where this node does not lead it.
pub(crate) async fn run(core: Rc<Core>) {
    let group = core.group(GroupId::META);
    let (mut look_at, mut key_at) = (Instant::now(), Instant::now());
    let mut reign = None;
    loop {
        // Whether it is time or something is new: both are looked for.
        let _ = timeout_at(look_at, core.desk.filled()).await;
        look_at = Instant::now() + LOOK.1;
        if group.leading().is_err() {
            core.desk.clear();
            reign = None;
            continue;
        }
        if reign != group.reign() {
            core.find_due().await;
            reign = group.reign();
        }
        if Instant::now() >= key_at {
            key_at = Instant::now() + LOOK.1;
            core.rotate_key(group.now_ms()).await;
        }
        let now_ms = group.now_ms();
        let places = core.desk.take(now_ms);
        if let Some(next_ms) = core.desk.next_ms() {
            let wait = Duration::from_millis(next_ms.saturating_sub(now_ms));
            look_at = Instant::now() + wait.clamp(LOOK.0, LOOK.1);
        }
        for place in places {
            let Some(mut attending) = core.desk.attend(&place) else { continue };
            let core = core.clone();
            core.clone().spawn_request(async move {
                let attended = core.attend(&place, &mut attending).await;
                if let Err(error) = &attended {
                    tracing::debug!(bucket = &*place.0, subscription = place.1, %error, "a subscription waits");
                }
                core.remind(&place, attended.is_err());
            });
        }
    }
}

impl Core {
    /// Notes when subscriptions are to be looked at, of all that group 0 has: what another leader has noted was in its memory.
    async fn find_due(&self) {
        let mut after = Box::<str>::default();
        loop {
            {
                let (meta, now_ms) = (self.meta(), self.meta_now_ms());
                let mut last = None;
                for (bucket, kept) in meta.buckets_after(&after).take(BUCKETS_PER_TURN) {
                    for subscription in kept.subscriptions.values() {
                        if let Some(at_ms) = due_ms(subscription, now_ms) {
                            self.desk.remind(&(bucket.into(), subscription.number), at_ms);
                        }
                    }
                    last = Some(bucket.into());
                }
                let Some(last) = last else { return };
                after = last;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Notes when a subscription is to be looked at again, if that is known; later if it cannot be done now.
    pub(crate) fn remind(&self, place: &Place, has_failed: bool) {
        let (meta, now_ms) = (self.meta(), self.meta_now_ms());
        let Some(bucket) = meta.bucket(&place.0) else { return };
        let found = bucket.subscriptions.values().find(|subscription| subscription.number == place.1);
        if let Some(at_ms) = found.and_then(|found| due_ms(found, now_ms)) {
            let soonest_ms = if has_failed { now_ms + LOOK.1.as_millis() as u64 } else { 0 };
            self.desk.remind(place, at_ms.max(soonest_ms));
        }
    }

    /// Does what is to be done for a subscription.
    async fn attend(self: &Rc<Self>, place: &Place, attending: &mut Attending) -> Result<(), ShardError> {
        let number = place.1;
        let Ok(bucket) = BucketName::new(&place.0) else { return Ok(()) };
        let turn = self.desk.turn(number).await;
        self.group(GroupId::META).leading()?;
        let Some((id, subscription)) = self.subscription_of(&bucket, number) else { return Ok(()) };
        let now_ms = self.meta_now_ms();
        if let (Some(wake), Some(under_way)) = (&subscription.wake, subscription.turn()) {
            if wake.lease_until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
                self.end_wake(&bucket, &id, under_way).await?;
            } else if !wake.is_delivered && wake.lease_until_ms.is_none() && subscription.next_attempt_ms <= now_ms {
                self.announce(&bucket, &id, &subscription, under_way).await?;
            }
            return Ok(());
        }
        if subscription.next_attempt_ms > now_ms {
            return Ok(());
        }
        match &subscription.config.delivery {
            Delivery::PullWake { .. } => {
                if self.first_pending(&bucket, number).await?.is_none() {
                    return Ok(());
                }
                let under_way = self.begin_wake(&bucket, &id, number, None).await?;
                self.announce(&bucket, &id, &subscription, under_way).await
            }
            Delivery::Webhook { url } => {
                drop(turn);
                self.call_webhook(number, &bucket, url, attending).await
            }
        }
    }

    /// Wakes a webhook when it is its turn to be called, and notes what has become of that. What is pending is asked for then, and its
    /// lease begins then: only the call itself takes of that.
    async fn call_webhook(
        self: &Rc<Self>,
        number: u64,
        bucket: &BucketName,
        url: &str,
        attending: &mut Attending,
    ) -> Result<(), ShardError> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        // Where too many wait, it comes with what is said again.
        let Some(call) = hooks.begin(bucket.as_str(), url).await else { return Ok(()) };
        let turn = self.desk.turn(number).await;
        self.group(GroupId::META).leading()?;
        let Some((id, subscription)) = self.subscription_of(bucket, number) else { return Ok(()) };
        let streams = self.pending(bucket, number, WAKE_STREAMS_MAX).await?;
        if streams.is_empty() {
            return Ok(());
        }
        let under_way = self.begin_wake(bucket, &id, number, None).await?;
        let request = self.wake_request(url, &id, &subscription, under_way, &streams)?;
        // Each is kept to be acknowledged, told of, and encoded.
        attending.count(streams.iter().map(|stream| 3 * (stream.name.len() + WAKE_STREAM_BYTES)).sum());
        // Whoever is called may call back before it answers.
        drop(turn);
        let delivered = hooks.deliver(call, request).await;
        let _turn = self.desk.turn(number).await;
        self.delivered(bucket, &id, number, under_way, delivered, &streams).await
    }

    /// Notes what has become of a webhook's call.
    async fn delivered(
        self: &Rc<Self>,
        bucket: &BucketName,
        id: &str,
        number: u64,
        under_way: Turn,
        delivered: Delivered,
        streams: &[LinkedStream],
    ) -> Result<(), ShardError> {
        let Some((_, subscription)) = self.subscription_of(bucket, number) else { return Ok(()) };
        if subscription.turn() != Some(under_way) {
            // It was acknowledged by callback, or deleted.
            return Ok(());
        }
        match delivered {
            Delivered::Done => {
                let acks: Vec<(Box<str>, Offset)> =
                    streams.iter().filter_map(|stream| Some((stream.name.clone(), stream.tail?))).collect();
                self.extend(bucket, id, under_way, &acks).await?;
                self.end_wake(bucket, id, under_way).await.map(|_| ())
            }
            Delivered::Accepted => {
                self.subscription_step(bucket, id, SubscriptionStep::Delivered(under_way)).await.map(|_| ())
            }
            Delivered::Failed(reason) => {
                tracing::info!(bucket = bucket.as_str(), id, reason, "a webhook could not be called");
                self.failed(bucket, id, &subscription, under_way).await
            }
        }
    }

    /// Writes a wake to its stream. Its generation is the epoch of a producer, so that it is there once, however often it is written.
    async fn announce(
        self: &Rc<Self>,
        bucket: &BucketName,
        id: &str,
        subscription: &Subscription,
        under_way: Turn,
    ) -> Result<(), ShardError> {
        let Some(wake_stream) = subscription.wake_stream() else { return Ok(()) };
        // It is told of one as a hint: whoever claims asks again.
        let first = self.first_pending(bucket, under_way.number).await.ok().flatten();
        let event = serde_json::json!({
            "type": "wake",
            "subscription_id": id,
            "stream": first.map(|stream| stream.name.to_string()),
            "generation": under_way.generation,
            "ts": self.clock.now_ms(),
        });
        let key = StreamKey::new(bucket.as_str(), wake_stream).expect("names were checked when they came");
        let producer = Producer { id: wake_producer(under_way.number), epoch: under_way.generation, seq: 0 };
        let append = AppendRequest {
            content_type: Some("application/json".into()),
            producer: Some(producer),
            body: Body::from(Bytes::from(event.to_string())),
            ..AppendRequest::default()
        };
        match self.request(Request::Append(key, append)).await {
            Ok(_) => self.subscription_step(bucket, id, SubscriptionStep::Delivered(under_way)).await.map(|_| ()),
            Err(error) => {
                tracing::info!(bucket = bucket.as_str(), id, %error, "a wake could not be written to its stream");
                self.failed(bucket, id, subscription, under_way).await?;
                if matches!(error, ShardError::Refused(Refusal::ProducerFenced { .. })) {
                    // Somebody has written with a higher epoch. This generation is never announced: the next one may be.
                    self.subscription_step(bucket, id, SubscriptionStep::End(under_way)).await?;
                }
                Ok(())
            }
        }
    }

    /// A wake could not be delivered: when it is tried again is group 0's to remember.
    async fn failed(
        &self,
        bucket: &BucketName,
        id: &str,
        subscription: &Subscription,
        turn: Turn,
    ) -> Result<(), ShardError> {
        let retry_ms = retry_ms(subscription.failures, self.entropy.u64());
        self.subscription_step(bucket, id, SubscriptionStep::Failed { turn, retry_ms }).await.map(|_| ())
    }

    fn wake_request(
        &self,
        url: &str,
        id: &str,
        subscription: &Subscription,
        under_way: Turn,
        streams: &[LinkedStream],
    ) -> Result<WakeRequest, ShardError> {
        let stream = |stream: &LinkedStream| WakeStream {
            path: stream.name.to_string(),
            link_type: link_type(stream.link),
            acked_offset: stream.acked.map(|offset| offset.to_string()).unwrap_or_default(),
            tail_offset: stream.tail.map(|offset| offset.to_string()).unwrap_or_default(),
            has_pending: stream.has_pending(),
        };
        Ok(WakeRequest {
            url: url.to_string(),
            seed: self.signing_seed().ok_or(ShardError::Unavailable)?,
            time_s: self.clock.now_ms() / 1000,
            // Whoever answers later than its lease ends is fenced.
            timeout: Duration::from_millis(subscription.config.lease_ms),
            subscription_id: id.to_string(),
            wake_id: wake_id(under_way.wake),
            generation: under_way.generation,
            streams: streams.iter().map(stream).collect(),
            callback_url: format!("{}/__ds/subscriptions/{id}/callback", subscription.root),
            callback_token: self.token(under_way)?.into(),
        })
    }

    /// A subscription by its number, and its id.
    fn subscription_of(&self, bucket: &BucketName, number: u64) -> Option<(Box<str>, Subscription)> {
        let meta = self.meta();
        let mut all = meta.bucket(bucket.as_str())?.subscriptions.iter();
        let (id, found) = all.find(|(_, subscription)| subscription.number == number)?;
        Some((id.clone(), found.clone()))
    }

    /// Makes another key when the newest is too old.
    async fn rotate_key(&self, now_ms: u64) {
        let age_ms = self.config.hook_key_age.as_millis() as u64;
        let newest_ms = self.meta().newest_key_ms();
        let is_old = newest_ms > 0 && newest_ms.saturating_add(age_ms) <= now_ms;
        if is_old && let Err(error) = self.make_hook_key(newest_ms).await {
            tracing::warn!(%error, "the key that webhooks are signed with could not be replaced");
        }
    }
}

/// When a subscription is to be looked at again, if nothing new comes. One that has been tried again, and had nothing left, is not.
fn due_ms(subscription: &Subscription, now_ms: u64) -> Option<u64> {
    match &subscription.wake {
        None => Some(subscription.next_attempt_ms).filter(|at_ms| now_ms < *at_ms),
        Some(wake) => match wake.lease_until_ms {
            Some(until_ms) => Some(until_ms),
            None => (!wake.is_delivered).then_some(subscription.next_attempt_ms),
        },
    }
}

/// How long a wake rests that could not be delivered `failures` times before: twice as long each time, and a fifth more or less.
fn retry_ms(failures: u32, random: u64) -> u64 {
    let base = RETRY_MS.0.saturating_mul(1 << failures.min(16)).min(RETRY_MS.1);
    let jitter = base / JITTER_PART;
    base - jitter + random % (2 * jitter + 1)
}

/// The producer that writes a subscription's wakes. No client is it, and nobody else's epoch fences them: no header has such a byte.
pub(crate) fn wake_producer(number: u64) -> Box<str> {
    format!("\0ds:{number}").into()
}

/// A wake's own number as clients see it.
pub fn wake_id(wake: u64) -> String {
    format!("w_{wake:016x}")
}

/// The number that a client names; none for what [`wake_id`] never says.
pub fn parse_wake_id(wake_id: &str) -> Option<u64> {
    wake_id.strip_prefix("w_").and_then(|digits| u64::from_str_radix(digits, 16).ok())
}

fn link_type(link: Link) -> &'static str {
    match link {
        Link::Explicit => "explicit",
        Link::Glob => "glob",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_further_and_further_apart_up_to_a_minute() {
        let range = |failures| (retry_ms(failures, 0), retry_ms(failures, retry_ms(failures, 0) * 2));
        for (failures, base) in [(0, 1_000), (1, 2_000), (3, 8_000), (6, 60_000), (40, 60_000), (u32::MAX, 60_000)] {
            let waits: Vec<u64> = (0..100).map(|n| retry_ms(failures, n * 7919)).collect();
            assert!(waits.iter().all(|wait| (base * 4 / 5..=base * 6 / 5).contains(wait)), "{failures}: {waits:?}");
        }
        assert_eq!(range(0).0, 800);
    }
}
